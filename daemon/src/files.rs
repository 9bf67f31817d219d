//! Files that are whole or not there: written beside, synced, renamed.
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file that is written and synced, and takes its place at [`Pending::commit`]; nothing is left of it otherwise.
pub struct Pending {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Renames it into place, and syncs the folder.
    ///
    /// # Errors
    /// The system's; the place then holds what it held.
    pub fn commit(self) -> anyhow::Result<()> {
        let Self { file, path } = self;
        file.persist(&path).with_context(|| format!("cannot put {} in place", path.display()))?;
        sync_dir(path.parent().unwrap_or(Path::new(".")))
    }
}

/// Writes and syncs a file beside `path`, whose folder is made if need be.
///
/// # Errors
/// Names the path and the system's reason.
pub fn prepare(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<Pending> {
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).with_context(what)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).with_context(what)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.as_file().sync_all())
        .with_context(what)?;
    Ok(Pending { file, path: path.to_owned() })
}

/// Writes a file: afterwards it is whole, on the disk; a power failure leaves the old one or the new one.
///
/// # Errors
/// Names the path and the system's reason.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    prepare(path, bytes, mode)?.commit()
}

/// The names in a folder are on the disk.
///
/// # Errors
/// Names the folder and the system's reason.
pub fn sync_dir(dir: &Path) -> anyhow::Result<()> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot sync {}", dir.display()))
}

/// Free bytes of the file system that holds a folder, for whoever is not root.
///
/// # Errors
/// Names the folder and the system's reason.
pub fn free_bytes(dir: &Path) -> anyhow::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(dir)
        .with_context(|| format!("cannot see how full {} is", dir.display()))?;
    Ok((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        write(&path, b"old", 0o600).unwrap();
        drop(prepare(&path, b"new", 0o644).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        write(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
