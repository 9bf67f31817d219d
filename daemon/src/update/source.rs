//! Reading the stick, which is hostile until its signatures say otherwise: no link is followed, nothing but plain files is read.
use anyhow::{Context, bail};
use nix::dir::Dir;
use nix::fcntl::{OFlag, PosixFadviseAdvice, openat, posix_fadvise};
use nix::sys::stat::{Mode, major, minor};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a stick's files come from. Paths are relative, their parts plain names.
pub trait Source {
    /// Opens a plain file; `None` if there is nothing of that name.
    fn open(&self, path: &str) -> anyhow::Result<Option<Box<dyn Read>>>;
    /// The names in a folder; none if there is no such folder.
    fn names(&self, dir: &str) -> anyhow::Result<Vec<String>>;

    /// Whether the device is still plugged in, as far as can be told without reading.
    fn is_there(&self) -> bool {
        true
    }

    /// A small text, whole; `None` if there is no such file.
    fn text(&self, path: &str) -> anyhow::Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(stick::TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| unreadable(path))?;
        if bytes.len() as u64 > stick::TEXT_BYTES_MAX {
            bail!("{path} on the stick is longer than {} bytes: make the stick again", stick::TEXT_BYTES_MAX);
        }
        String::from_utf8(bytes)
            .map(Some)
            .with_context(|| format!("{path} on the stick is no text: make the stick again"))
    }
}

/// What is said of a file that can't be read to its end.
pub fn unreadable(path: &str) -> String {
    format!(
        "cannot read {path} on the stick: it was pulled or is broken; plug it in again, or make another one"
    )
}

/// A folder: where the stick is mounted.
pub struct Folder {
    path: PathBuf,
    /// What the kernel shows of its block device for as long as it is plugged in; `None` for what is no block device.
    device: Option<PathBuf>,
}

impl Folder {
    /// The folder of this path.
    pub fn at(path: &Path) -> Self {
        let number = std::fs::metadata(path).map(|meta| meta.dev()).unwrap_or_default();
        let device = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
        Self { path: path.to_owned(), device: Some(device).filter(|device| device.exists()) }
    }

    /// Opens step by step, so that no part of the path can be a link that leads elsewhere.
    fn step_by_step(&self, path: &str, last: OFlag) -> anyhow::Result<Option<OwnedFd>> {
        let folder = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut at = nix::fcntl::open(&self.path, folder, Mode::empty())
            .with_context(|| self.path.display().to_string())?;
        let parts: Vec<&str> = path.split('/').collect();
        for (index, part) in parts.iter().enumerate() {
            if matches!(*part, "" | "." | "..") {
                bail!("{path:?} is no path on a stick");
            }
            let flags = if index + 1 < parts.len() { folder } else { last };
            // NONBLOCK: a pipe of that name must not hold us up.
            at = match openat(
                &at,
                *part,
                flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
                Mode::empty(),
            ) {
                Ok(next) => next,
                Err(nix::errno::Errno::ENOENT) => return Ok(None),
                Err(nix::errno::Errno::ELOOP | nix::errno::Errno::ENOTDIR) => {
                    bail!("{path} on the stick is a link, or not what it should be: make the stick again")
                }
                Err(error) => return Err(error).with_context(|| unreadable(path)),
            };
        }
        Ok(Some(at))
    }
}

impl Source for Folder {
    fn is_there(&self) -> bool {
        self.device.as_ref().is_none_or(|device| device.exists())
    }

    fn open(&self, path: &str) -> anyhow::Result<Option<Box<dyn Read>>> {
        let Some(fd) = self.step_by_step(path, OFlag::O_RDONLY)? else { return Ok(None) };
        let file = File::from(fd);
        if !file.metadata().with_context(|| unreadable(path))?.is_file() {
            bail!("{path} on the stick is no plain file: make the stick again");
        }
        // From the stick, not from memory: a stick that was pulled would still be read from there. Some file systems have no such memory.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(Some(Box::new(file)))
    }

    fn names(&self, dir: &str) -> anyhow::Result<Vec<String>> {
        let Some(fd) = self.step_by_step(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd).with_context(|| unreadable(dir))?.iter() {
            let entry = entry.map_err(std::io::Error::from).with_context(|| unreadable(dir))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }
}

/// Whether an error of reading means that there is nothing there.
pub fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}
