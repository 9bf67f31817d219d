//! A field engineer's stick: one FAT file system with a signed update, a signed site, or both.
//!
//! Owns: writing it. Never does: define its form; that is the crate `stick`, which the box reads it with.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use stick::{
    Board, LABEL, MANIFEST, Manifest, SIGNATURE_SUFFIX, SITE, Site, UPDATE_DIR, UpdateFile, Variant,
};

use super::keys::Keys;
use super::place::{output, sha256};
use super::tools;

/// Beside the files: tables, and room for the field engineer's own.
const ROOM_BYTES: u64 = 48 << 20;

/// The file of a set that says for which variant it is; it goes into the manifest, not onto the stick. A set without it is plain.
pub const VARIANT: &str = "variant";

/// What goes onto a stick.
#[derive(Debug, Default)]
pub struct Contents<'a> {
    /// Version and commit, when there is an update.
    pub update: Option<(&'a str, &'a str)>,
    /// Folders with each board's files.
    pub sets: Vec<(Board, PathBuf)>,
    /// A `site.toml`.
    pub site: Option<&'a Path>,
    /// Whether boxes with a newer version may take it.
    pub allow_older: bool,
}

/// Writes the stick's image. What the box would refuse for its form is refused here.
pub fn write(contents: &Contents<'_>, keys: &Keys, work: &Path, out: &Path) -> anyhow::Result<()> {
    ensure!(
        contents.update.is_some() || contents.site.is_some(),
        "neither an update nor a site: the stick would be empty"
    );
    let folder = tempfile::Builder::new().prefix("stick-").tempdir_in(work)?;
    let root = folder.path();
    if let Some((version, commit)) = contents.update {
        let manifest = manifest(contents, version, commit, root)?;
        put_signed(root, MANIFEST, &manifest.to_text()?, keys, "update")?;
    }
    if let Some(site) = contents.site {
        let text = std::fs::read_to_string(site).with_context(|| site.display().to_string())?;
        Site::parse(&text).with_context(|| site.display().to_string())?;
        put_signed(root, SITE, &text, keys, "site")?;
    }
    // The tools see `work`, and not where `out` may be.
    let made = root.join("stick.img");
    fat(root, &made)?;
    std::fs::copy(&made, out).with_context(|| out.display().to_string())?;
    Ok(())
}

/// Copies the boards' files and lists them.
fn manifest(contents: &Contents<'_>, version: &str, commit: &str, root: &Path) -> anyhow::Result<Manifest> {
    let mut files = Vec::new();
    for (board, set) in &contents.sets {
        let variant = variant(set)?;
        let name_of_folder = board.folder(variant);
        let folder = root.join(UPDATE_DIR).join(&name_of_folder);
        std::fs::create_dir_all(&folder)?;
        let mut names: Vec<_> = std::fs::read_dir(set)
            .with_context(|| set.display().to_string())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        names.sort();
        for name in names.into_iter().filter(|name| name != VARIANT) {
            let from = set.join(&name);
            std::fs::copy(&from, folder.join(&name)).with_context(|| from.display().to_string())?;
            files.push(UpdateFile {
                board: *board,
                variant,
                path: format!("{name_of_folder}/{}", name.to_string_lossy()),
                bytes: from.metadata()?.len(),
                sha256: stick::Sha256::try_from(sha256(&from)?).map_err(anyhow::Error::msg)?,
            });
        }
    }
    let version = version.parse().with_context(|| format!("version {version}"))?;
    Ok(Manifest { version, commit: commit.to_owned(), allow_older: contents.allow_older, files })
}

/// Which variant a set is for.
fn variant(set: &Path) -> anyhow::Result<Variant> {
    let path = set.join(VARIANT);
    if !path.exists() {
        return Ok(Variant::Plain);
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

fn put_signed(root: &Path, name: &str, text: &str, keys: &Keys, key: &str) -> anyhow::Result<()> {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    std::fs::write(&path, text)?;
    std::fs::write(root.join(format!("{name}{SIGNATURE_SUFFIX}")), keys.sign(key, text.as_bytes())?)?;
    Ok(())
}

/// One FAT32 file system without a partition table, as `dd` puts it onto a stick.
fn fat(root: &Path, out: &Path) -> anyhow::Result<()> {
    let bytes = size(root)? + ROOM_BYTES;
    let file = std::fs::File::create(out).with_context(|| out.display().to_string())?;
    // Whole MiB, and enough clusters that it is FAT32.
    file.set_len((bytes + bytes / 64).next_multiple_of(1 << 20).max(64 << 20))?;
    output(tools::command("mkfs.vfat")?.args(["-F", "32", "-n", LABEL]).arg(out))?;
    output(
        tools::command("mcopy")?.args(["-s", "-Q", "-m", "-i"]).arg(out).arg(root.join("triaged")).arg("::/"),
    )?;
    Ok(())
}

fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A set of one file, and what it says of its variant.
    fn set(dir: &Path, name: &str, said: Option<&str>) -> PathBuf {
        let set = dir.join(name);
        std::fs::create_dir(&set).unwrap();
        std::fs::write(set.join("triaged_1.2.0.efi"), name).unwrap();
        if let Some(said) = said {
            std::fs::write(set.join(VARIANT), said).unwrap();
        }
        set
    }

    #[test]
    fn a_set_goes_into_the_manifest_as_the_variant_that_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let sets = [("plain", Some("plain\n")), ("nvidia", Some("nvidia\n")), ("jetson", None)];
        let [plain, nvidia, jetson] = sets.map(|(name, said)| set(dir.path(), name, said));
        let sets = vec![(Board::X86_64, plain), (Board::X86_64, nvidia), (Board::JetsonOrin, jetson)];
        let contents = Contents { sets, ..Contents::default() };
        let root = dir.path().join("stick");
        let manifest = manifest(&contents, "1.2.0", "0123abc", &root).unwrap();
        manifest.to_text().unwrap();
        let folders = ["x86-64", "x86-64-nvidia", "jetson-orin"];
        let paths: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, folders.map(|folder| format!("{folder}/triaged_1.2.0.efi")));
        let variants: Vec<Variant> = manifest.files.iter().map(|file| file.variant).collect();
        assert_eq!(variants, [Variant::Plain, Variant::Nvidia, Variant::Plain]);
        for (folder, from) in folders.iter().zip(["plain", "nvidia", "jetson"]) {
            let file = root.join(UPDATE_DIR).join(folder).join("triaged_1.2.0.efi");
            assert_eq!(std::fs::read_to_string(file).unwrap(), from);
            assert!(!root.join(UPDATE_DIR).join(folder).join(VARIANT).exists());
        }

        let odd = set(dir.path(), "odd", Some("cuda\n"));
        let contents = Contents { sets: vec![(Board::X86_64, odd)], ..Contents::default() };
        let error = super::manifest(&contents, "1.2.0", "0123abc", &dir.path().join("other")).unwrap_err();
        assert!(format!("{error:#}").contains("\"cuda\" is no variant"), "{error:#}");
    }

    #[test]
    fn the_image_with_nvidias_parts_says_so_to_its_updates() {
        let said = include_str!("../../x86-64/nvidia/usr/lib/triaged/variant");
        assert_eq!(said.parse(), Ok(Variant::Nvidia));
    }
}
