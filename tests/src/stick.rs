//! A box in a folder, and sticks for it: what the tests of `triaged site` and `triaged stick` share.
use crate::daemon::triaged;
use minisign::KeyPair;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use stick::{Board, Manifest, SIGNATURE_SUFFIX, Sha256, UpdateFile, Variant, Version};
use tempfile::TempDir;

/// What the box runs.
pub const RUNNING: Version = Version::new(1, 0, 0);

/// A site that every box takes.
pub const SITE: &str = r#"
[site]
name = "St Elsewhere"
serial = 3
[network]
address = "10.0.0.9/24"
gateway = "10.0.0.1"
[time]
servers = ["10.0.0.3"]
[setup]
code = "ABCD-EFGH-2345-6789"
[triaged.dicom]
ae_title = "TRIAGED"
callers = ["CT1"]
[triaged.policy]
mode = "both"
operating_point = 0.5
severity_min = 0.05
"#;

/// A box.
pub struct TestBox {
    dir: TempDir,
    /// Its own update key.
    pub update_key: KeyPair,
    /// Its own site key.
    pub site_key: KeyPair,
}

impl Default for TestBox {
    /// An x86-64 box with [`RUNNING`], no site, and an installer that writes down its call.
    fn default() -> Self {
        let key = || KeyPair::generate_unencrypted_keypair().unwrap();
        let test_box = Self { dir: tempfile::tempdir().unwrap(), update_key: key(), site_key: key() };
        let put = |path: &str, text: &str| test_box.put(path, text.as_bytes());
        put("usr/lib/triaged/board", "x86-64\n");
        put("usr/lib/os-release", &format!("ID=debian\nIMAGE_ID=triaged\nIMAGE_VERSION={RUNNING}\n"));
        put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        put("usr/share/triaged/keys/update.pub", &test_box.update_key.pk.to_box().unwrap().to_string());
        put("usr/share/triaged/keys/site.pub", &test_box.site_key.pk.to_box().unwrap().to_string());
        test_box.installer("cp -r \"$1\" ROOT/installed && echo \"$2\" >ROOT/installed-version");
        test_box
    }
}

impl TestBox {
    /// Its root.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A file of it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes a file.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Gives it an installer: a shell script, in which ROOT is the box's root.
    pub fn installer(&self, script: &str) {
        let path = "usr/lib/triaged/install-update";
        let script = script.replace("ROOT", &self.root().display().to_string());
        self.put(path, format!("#!/bin/sh\nset -e\n{script}\n").as_bytes());
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `triaged stick` for a stick in a folder.
    pub fn stick_command(&self, mount: &Path, wait_s: u32) -> Command {
        let mut command = triaged(&["stick", "--wait-s", &wait_s.to_string()]);
        command.arg("--mount").arg(mount).arg("--root").arg(self.root());
        command
    }

    /// Plugs a stick in: the exit code, and all that was said.
    pub fn plug(&self, mount: &Path) -> (i32, String) {
        let output = self.stick_command(mount, 0).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// `triaged site`: whether it succeeded, and all that was said.
    pub fn boot(&self) -> (bool, String) {
        self.site(&[])
    }

    /// The same with arguments.
    pub fn site(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = triaged(&["site", "--root"]);
        command
            .arg(self.root())
            .arg("--site")
            .arg(self.path("var/lib/triaged-site/site.toml"))
            .args(arguments);
        crate::peers::run(&mut command)
    }

    /// What the box's page shows of a command.
    pub fn told(&self, of: &str) -> serde_json::Value {
        let path = self.path(&format!("run/triaged/status/{of}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Every file of it and what it holds, but for what only tells.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = tree(self.root());
        all.retain(|path, _| {
            !path.starts_with(self.path("run/triaged/status")) && !path.ends_with("stick.lock")
        });
        all
    }
}

/// Every file below a folder and what it holds.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

/// A signature in minisign's form.
pub fn sign(key: &KeyPair, bytes: &[u8]) -> String {
    minisign::sign(Some(&key.pk), &key.sk, Cursor::new(bytes), None, None).unwrap().to_string()
}

/// A stick in a folder.
pub struct Stick {
    /// Its root.
    pub dir: TempDir,
}

impl Default for Stick {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
}

impl Stick {
    /// A file of it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Writes a text and its signature.
    pub fn put_signed(&self, path: &str, text: &str, key: &KeyPair) {
        self.put(path, text.as_bytes());
        self.put(&format!("{path}{SIGNATURE_SUFFIX}"), sign(key, text.as_bytes()).as_bytes());
    }

    /// An update of two files for a board; `change` may spoil the manifest before it is signed.
    pub fn update(&self, board: Board, version: &str, key: &KeyPair, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = Manifest {
            version: version.parse().unwrap(),
            commit: "0123abc".into(),
            allow_older: false,
            files: self.set(board, Variant::Plain).to_vec(),
        };
        change(&mut manifest);
        // Not by `to_text`, which refuses what tests must be able to write.
        let text = toml::to_string(&manifest).unwrap();
        self.put_signed(stick::MANIFEST, &text, key);
    }

    /// The two files of a set, for a manifest.
    pub fn set(&self, board: Board, variant: Variant) -> [UpdateFile; 2] {
        [("a.efi", vec![1u8; 300_000]), ("b.root", vec![2u8; 3_000_000])].map(|(name, bytes)| {
            let path = format!("{}/{name}", board.folder(variant));
            self.put(&format!("{}/{path}", stick::UPDATE_DIR), &bytes);
            UpdateFile { board, variant, path, bytes: bytes.len() as u64, sha256: Sha256::of(&bytes) }
        })
    }

    /// The site's settings.
    pub fn site(&self, text: &str, key: &KeyPair) {
        self.put_signed(stick::SITE, text, key);
    }
}
