//! The update's files, from the stick to the box: hashed while they are copied, so that what was judged is what is installed.
use super::plan::{Plan, Update};
use super::source::{Source, unreadable};
use crate::files;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use stick::UpdateFile;

/// Bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// What must be free beside the files, for what the daemon receives meanwhile.
const SPARE_BYTES: u64 = 64 << 20;

/// Removes everything in the folder of incoming files: what an earlier turn left when the power failed.
pub fn empty(incoming: &Path) -> anyhow::Result<()> {
    let what = || format!("cannot empty {}", incoming.display());
    for entry in std::fs::read_dir(incoming).with_context(what)? {
        let entry = entry.with_context(what)?;
        let is_dir = entry.file_type().with_context(what)?.is_dir();
        let path = entry.path();
        if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.with_context(what)?;
    }
    Ok(())
}

/// Whether the files fit.
///
/// # Errors
/// Says how much is missing.
pub fn room(plan: &Plan, incoming: &Path) -> anyhow::Result<()> {
    let files = plan.update.iter().flat_map(|update| &update.files);
    let needed = files.map(|file| file.bytes).sum::<u64>() + SPARE_BYTES;
    let free = files::free_bytes(incoming)?;
    if free < needed {
        bail!(
            "the disk is too full: {} MiB are free, {} MiB are needed. Old images are deleted by themselves after storage.keep_days; lower it with a site stick, or wait",
            free >> 20,
            needed >> 20
        );
    }
    Ok(())
}

/// Copies and verifies all files; `tell` hears how many per cent are done.
///
/// # Errors
/// A file that is not there, not as signed, or can't be read or written; nothing was installed.
pub fn all(
    source: &dyn Source,
    update: &Update,
    incoming: &Path,
    tell: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let total = update.files.iter().map(|file| file.bytes).sum::<u64>().max(1);
    let (mut done, mut told) = (0, None);
    for file in &update.files {
        one(source, file, incoming, &mut |bytes| {
            done += bytes;
            let percent = 100 * done / total;
            if told != Some(percent) {
                told = Some(percent);
                tell(percent);
            }
        })?;
    }
    files::sync_dir(incoming)
}

fn one(
    source: &dyn Source,
    file: &UpdateFile,
    incoming: &Path,
    copied: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let path = format!("{}/{}", stick::UPDATE_DIR, file.path);
    let Some(mut from) = source.open(&path)? else {
        bail!("{path} is not on the stick, and its manifest names it: make the stick again");
    };
    let to = incoming.join(file.name());
    let unwritable = || format!("cannot write {}: is the disk full?", to.display());
    let mut out = File::create_new(&to).with_context(unwritable)?;
    let (mut hash, mut length, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
    loop {
        let count = from.read(&mut chunk).with_context(|| unreadable(&path))?;
        if count == 0 {
            break;
        }
        length += count as u64;
        if length > file.bytes {
            bail!(
                "{path} on the stick is longer than the {} bytes that were signed: make the stick again",
                file.bytes
            );
        }
        hash.update(&chunk[..count]);
        out.write_all(&chunk[..count]).with_context(unwritable)?;
        copied(count as u64);
    }
    if length < file.bytes {
        bail!("{path} on the stick is cut short: {length} bytes of {}; make the stick again", file.bytes);
    }
    let hash: [u8; 32] = hash.finalize().into();
    if stick::Sha256(hash) != file.sha256 {
        bail!("{path} on the stick is not what was signed (its SHA-256 differs): make the stick again");
    }
    out.sync_all().with_context(unwritable)
}
