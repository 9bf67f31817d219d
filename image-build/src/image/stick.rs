//! A field engineer's stick: one FAT file system with a signed update, a signed site, or both.
//!
//! Owns: writing it. Never does: define its form; that is the crate `stick`, which the box reads it with.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use stick::{Board, LABEL, MANIFEST, Manifest, SIGNATURE_SUFFIX, SITE, Site, UPDATE_DIR, UpdateFile};

use super::keys::Keys;
use super::place::{output, sha256};
use super::tools;

/// Beside the files: tables, and room for the field engineer's own.
const ROOM_BYTES: u64 = 48 << 20;

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
        let folder = root.join(UPDATE_DIR).join(board.to_string());
        std::fs::create_dir_all(&folder)?;
        let mut names: Vec<_> = std::fs::read_dir(set)
            .with_context(|| set.display().to_string())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        names.sort();
        for name in names {
            let from = set.join(&name);
            std::fs::copy(&from, folder.join(&name)).with_context(|| from.display().to_string())?;
            files.push(UpdateFile {
                board: *board,
                path: format!("{board}/{}", name.to_string_lossy()),
                bytes: from.metadata()?.len(),
                sha256: stick::Sha256::try_from(sha256(&from)?).map_err(anyhow::Error::msg)?,
            });
        }
    }
    let version = version.parse().with_context(|| format!("version {version}"))?;
    Ok(Manifest { version, commit: commit.to_owned(), allow_older: contents.allow_older, files })
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
