//! Sticks that are pulled at any byte; the other cases are in `tests/tests/stick.rs`, with the real command.
use super::*;
use crate::layout::Layout;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use stick::{Board, Manifest, Sha256, UpdateFile, Variant, Version};

/// A stick in memory that gives so many bytes, and is gone then.
struct Pulled<'a> {
    files: &'a BTreeMap<String, Vec<u8>>,
    left: Cell<usize>,
}

struct Bytes<'a> {
    bytes: Vec<u8>,
    at: usize,
    left: &'a Cell<usize>,
}

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(0);
        }
        let count = rest.len().min(out.len()).min(self.left.get());
        if count == 0 {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32));
        }
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}

impl Source for Pulled<'_> {
    fn open(&self, path: &str) -> anyhow::Result<Option<Box<dyn Read>>> {
        let Some(bytes) = self.files.get(path) else { return Ok(None) };
        let mut reader = Bytes { bytes: bytes.clone(), at: 0, left: &self.left };
        // Read here: a reader in a box must not borrow.
        let mut whole = Vec::new();
        let end = reader.read_to_end(&mut whole);
        Ok(Some(Box::new(io::Cursor::new(whole).chain(End(end.err().and_then(|e| e.raw_os_error()))))))
    }

    fn names(&self, dir: &str) -> anyhow::Result<Vec<String>> {
        let prefix = format!("{dir}/");
        Ok(self.files.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect())
    }
}

/// The end of a file, or of the stick.
struct End(Option<i32>);

impl Read for End {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.map_or(Ok(0), |code| Err(io::Error::from_raw_os_error(code)))
    }
}

fn stick_for(key: &minisign::KeyPair) -> BTreeMap<String, Vec<u8>> {
    let sign = |text: &[u8]| {
        minisign::sign(Some(&key.pk), &key.sk, io::Cursor::new(text), None, None)
            .unwrap()
            .to_string()
            .into_bytes()
    };
    let contents: [(&str, Vec<u8>); 2] = [("a.efi", vec![7; 300]), ("b.root", vec![8; 500])];
    let file = |(name, bytes): &(&str, Vec<u8>)| UpdateFile {
        board: Board::X86_64,
        variant: Variant::Plain,
        path: format!("x86-64/{name}"),
        bytes: bytes.len() as u64,
        sha256: Sha256::of(bytes),
    };
    let manifest = Manifest {
        version: Version::new(2, 0, 0),
        commit: "abc".into(),
        allow_older: false,
        files: contents.iter().map(file).collect(),
    };
    let manifest = manifest.to_text().unwrap().into_bytes();
    let site = b"[site]\nname = \"s\"\nserial = 1\n[triaged.dicom]\nae_title = \"T\"\ncallers = [\"*\"]\n[triaged.policy]\nmode = \"both\"\noperating_point = 0.5\nseverity_min = 0.1\n".to_vec();
    let mut files = BTreeMap::from([
        (format!("{}.minisig", stick::MANIFEST), sign(&manifest)),
        (stick::MANIFEST.to_owned(), manifest),
        (format!("{}.minisig", stick::SITE), sign(&site)),
        (stick::SITE.to_owned(), site),
    ]);
    for (name, bytes) in contents {
        files.insert(format!("{}/x86-64/{name}", stick::UPDATE_DIR), bytes);
    }
    files
}

/// Every file below a folder and what it holds.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(tree(&path))
        } else {
            all.extend([(path.clone(), std::fs::read(&path).unwrap())])
        }
    }
    all
}

#[test]
fn a_stick_that_is_pulled_at_any_byte_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (state, installed) = (dir.path().join("lib"), dir.path().join("installed"));
    let installer = dir.path().join("install-update");
    std::fs::write(&installer, format!("#!/bin/sh\nls $1 > {}; echo $2 >> {0}\n", installed.display()))
        .unwrap();
    std::fs::set_permissions(&installer, std::fs::Permissions::from_mode(0o755)).unwrap();
    let key = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let public = key.pk.to_box().unwrap().to_string();
    let files = stick_for(&key);
    let facts = Facts {
        board: Board::X86_64,
        variant: Variant::Plain,
        version: Version::new(1, 0, 0),
        update_key: public.clone(),
        site_key: public,
        names: vec!["b".into()],
        site: None,
        refused_site: None,
        tried: None,
        layout: Layout::at(Path::new("/")),
    };
    // The settings of a stick with both come later: they have a stick of their own here.
    let settings: BTreeMap<_, _> = files
        .iter()
        .filter(|(path, _)| path.starts_with(stick::SITE))
        .map(|(p, b)| (p.clone(), b.clone()))
        .collect();
    let turn = |files: &BTreeMap<String, Vec<u8>>, left: usize| {
        let source = Pulled { files, left: Cell::new(left) };
        let turn = Turn {
            source: &source,
            facts: &facts,
            state_dir: &state,
            installer: &installer,
            wait: Duration::ZERO,
            patience: Duration::ZERO,
        };
        (turn.take(&mut Teller::new(None)), source.left.get())
    };
    let bytes = |files: &BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
    for (files, left) in
        [&files, &settings].into_iter().flat_map(|files| (0..bytes(files)).map(move |left| (files, left)))
    {
        let (ended, _) = turn(files, left);
        let error = format!("{:#}", ended.unwrap_err());
        assert!(error.contains("pulled or is broken"), "after {left} bytes: {error}");
        assert!(
            !installed.exists() && tree(&state).is_empty(),
            "after {left} bytes: {:?}",
            tree(&state).keys()
        );
    }
    let (ended, left) = turn(&files, bytes(&files));
    assert_eq!((ended.unwrap(), left), (Ended::Restart, 0), "each byte is read once");
    assert_eq!(std::fs::read_to_string(&installed).unwrap(), "a.efi\nb.root\n2.0.0\n");
    let kept = || tree(&state).into_keys().collect::<Vec<_>>();
    assert_eq!(kept(), [layout::tried(&state)]);
    let (ended, left) = turn(&settings, bytes(&settings));
    assert_eq!((ended.unwrap(), left), (Ended::Restart, 0), "each byte is read once");
    let site = layout::site_toml(&state);
    assert_eq!(kept(), [site.clone(), site.with_file_name("trial"), layout::tried(&state)]);
}
