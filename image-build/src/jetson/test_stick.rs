//! The stick of `jetson-test`: one bundle, signed.
//!
//! Owns: nothing; the formats are the crate `stick`'s. Never does: make a field engineer's stick; `cargo xtask image stick` does.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::Digest as _;

use super::{Board, execute};

/// `dir/stick`, a FAT image.
pub fn image(board: &Board, bundle: &Path, keys: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("triaged-{NEXT}.raucb");
    let content = fs::read(bundle)?;
    let digest: String = sha2::Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "version = \"{NEXT}\"\ncommit = \"unknown\"\n\n[[file]]\nboard = \"{board}\"\npath = \"{board}/{name}\"\nbytes = {}\nsha256 = \"{digest}\"\n",
        content.len(),
        board = board.name,
    );
    stick::Manifest::parse(&text).context("the stick's manifest")?;
    let secret = fs::read_to_string(keys.join("update.key"))?;
    let secret = minisign::SecretKeyBox::from_string(&secret)?.into_unencrypted_secret_key()?;
    let signature = minisign::sign(None, &secret, Cursor::new(&text), Some("a test"), None)?;

    let image = dir.join("stick");
    fs::File::create(&image)?.set_len(96 << 20)?;
    execute("mkfs.vfat", "dosfstools", ["-n".as_ref(), stick::LABEL.as_ref(), image.as_os_str()])?;
    let tree = dir.join("triaged");
    let update = dir.join(stick::UPDATE_DIR);
    fs::create_dir_all(update.join(&board.name))?;
    fs::copy(bundle, update.join(&board.name).join(&name))?;
    fs::write(dir.join(stick::MANIFEST), &text)?;
    fs::write(dir.join(format!("{}{}", stick::MANIFEST, stick::SIGNATURE_SUFFIX)), signature.to_string())?;
    execute(
        "mcopy",
        "mtools",
        ["-s".as_ref(), "-i".as_ref(), image.as_os_str(), tree.as_os_str(), "::/".as_ref()],
    )?;
    Ok(image)
}

/// Newer than any version of ours.
pub const NEXT: &str = "99.0.0";
