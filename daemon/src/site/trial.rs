//! New settings are on trial until the self-test has passed with them once: settings that are signed and parse may still leave a box out of service.
//!
//! Owns the files beside `site.toml`, and their order, which bears a power cut at any instant. It never restarts the box: its callers do.
//!
//! ```text
//! stick ──▶ on trial, start 1, 2, 3 ──self-test passed──▶ settled
//!                  └── a fourth start ──▶ those before (or none, where there were none), once; these are kept as refused
//! ```
//! | file | holds |
//! |---|---|
//! | `site.toml` | what is in force |
//! | `site.toml.previous` | what was in force before; absent: nothing |
//! | `site.toml.refused` | what the box went back from; until others are taken |
//! | `trial` | the SHA-256 of what is on trial, and its starts. Of other settings than those in force: left over, and void |
use crate::files;
use anyhow::Context;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use stick::Sha256;

/// Starts that new settings have to pass the self-test: as many as a Jetson gives a new version.
pub const STARTS_MAX: u32 = 3;

/// New settings, written and synced beside those in force.
pub struct New {
    site: PathBuf,
    pending: files::Pending,
    mark: files::Pending,
    old: Option<files::Pending>,
}

/// What a start means for the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// There are none, or the self-test has passed with them.
    Settled,
    /// Start of this number with settings on trial.
    OnTrial(u32),
    /// The box went back from those on trial, now.
    WentBack,
}

/// Writes new settings beside those in force.
///
/// # Errors
/// A file can't be read or written; nothing was changed.
pub fn prepare(site: &Path, text: &str) -> anyhow::Result<New> {
    let old = read(site)?.map(|old| files::prepare(&previous(site), old.as_bytes(), 0o600)).transpose()?;
    Ok(New {
        site: site.to_owned(),
        pending: files::prepare(site, text.as_bytes(), 0o600)?,
        mark: files::prepare(&mark(site), line(text, 0).as_bytes(), 0o600)?,
        old,
    })
}

impl New {
    /// Puts them in force, on trial.
    ///
    /// # Errors
    /// The system's; what was in force is so still.
    pub fn commit(self) -> anyhow::Result<()> {
        match self.old {
            Some(old) => old.commit()?,
            None => remove(&previous(&self.site))?,
        }
        // Before the settings: they must not be in force without it.
        self.mark.commit()?;
        self.pending.commit()?;
        // They are in force, whatever becomes of those.
        if let Err(error) = remove(&refused(&self.site)) {
            log::warn!("{error:#}");
        }
        Ok(())
    }
}

/// Counts a start of the box, and goes back where the settings have had theirs.
///
/// # Errors
/// A file can't be read or written. The settings in force are whole.
pub fn begin(site: &Path) -> anyhow::Result<Start> {
    let mark = mark(site);
    let Some(told) = read(&mark)? else { return Ok(Start::Settled) };
    let text = read(site)?;
    let starts = text.as_deref().and_then(|text| starts(&told, text));
    match (text, starts) {
        (Some(text), Some(starts)) if starts < STARTS_MAX => {
            files::write(&mark, line(&text, starts + 1).as_bytes(), 0o600)?;
            Ok(Start::OnTrial(starts + 1))
        }
        (Some(text), Some(_)) => {
            files::write(&refused(site), text.as_bytes(), 0o600)?;
            match read(&previous(site))? {
                Some(old) => files::write(site, old.as_bytes(), 0o600)?,
                None => remove(site)?,
            }
            // The last: cut off before it, the next start does the rest, or finds the mark void.
            remove(&mark)?;
            Ok(Start::WentBack)
        }
        _ => remove(&mark).map(|()| Start::Settled),
    }
}

/// The self-test has passed: whether what was on trial is settled now. Settings that a stick brought since the start have not had it yet.
///
/// # Errors
/// A file can't be read or deleted.
pub fn passed(site: &Path) -> anyhow::Result<bool> {
    let mark = mark(site);
    let (Some(told), Some(text)) = (read(&mark)?, read(site)?) else { return Ok(false) };
    match starts(&told, &text) {
        Some(1..) => remove(&mark).map(|()| true),
        _ => Ok(false),
    }
}

/// The settings that the box went back from, as they were signed.
///
/// # Errors
/// The file can't be read.
pub fn refused_text(site: &Path) -> anyhow::Result<Option<String>> {
    read(&refused(site))
}

fn previous(site: &Path) -> PathBuf {
    site.with_extension("toml.previous")
}

fn refused(site: &Path) -> PathBuf {
    site.with_extension("toml.refused")
}

fn mark(site: &Path) -> PathBuf {
    site.with_file_name("trial")
}

fn line(text: &str, starts: u32) -> String {
    format!("{} {starts}\n", Sha256::of(text.as_bytes()))
}

/// How many starts the settings have had; `None` if the mark is another one's.
fn starts(mark: &str, text: &str) -> Option<u32> {
    let (hash, starts) = mark.trim().split_once(' ')?;
    (hash == Sha256::of(text.as_bytes()).to_string()).then(|| starts.parse().ok()).flatten()
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => files::sync_dir(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot delete {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn site(&self) -> PathBuf {
            self.0.path().join("site.toml")
        }

        fn take(&self, text: &str) {
            prepare(&self.site(), text).unwrap().commit().unwrap();
        }

        fn starts(&self, count: u32) -> Vec<Start> {
            (0..count).map(|_| begin(&self.site()).unwrap()).collect()
        }

        /// Name and text of every file, but for those that hold nothing else than the mark.
        fn files(&self) -> Vec<(String, String)> {
            let mut all: Vec<_> = std::fs::read_dir(self.0.path())
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|e| (e.file_name().into_string().unwrap(), std::fs::read_to_string(e.path()).unwrap()))
                .collect();
            all.sort();
            all
        }
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    #[test]
    fn settings_that_never_pass_give_way_to_those_before_once() {
        let folder = Folder::new();
        std::fs::write(folder.site(), "old").unwrap();
        assert_eq!(folder.starts(2), [Start::Settled; 2], "what was there before is not on trial");
        folder.take("new");
        let want = [Start::OnTrial(1), Start::OnTrial(2), Start::OnTrial(3), Start::WentBack, Start::Settled];
        assert_eq!(folder.starts(5), want);
        assert_eq!(
            folder.files(),
            named(&[("site.toml", "old"), ("site.toml.previous", "old"), ("site.toml.refused", "new")])
        );
        folder.take("newer");
        assert_eq!(refused_text(&folder.site()).unwrap(), None);
    }

    #[test]
    fn settings_that_pass_stay_and_are_what_the_next_ones_go_back_to() {
        let folder = Folder::new();
        folder.take("first");
        assert!(!passed(&folder.site()).unwrap(), "the self-test was of the start before them");
        assert_eq!(folder.starts(2), [Start::OnTrial(1), Start::OnTrial(2)]);
        assert!(passed(&folder.site()).unwrap() && !passed(&folder.site()).unwrap());
        assert_eq!(folder.starts(9), [Start::Settled; 9]);
        folder.take("second");
        folder.starts(4);
        assert_eq!(read(&folder.site()).unwrap().as_deref(), Some("first"));
    }

    #[test]
    fn the_first_settings_give_way_to_none() {
        let folder = Folder::new();
        // Of a box that went back to none before.
        std::fs::write(folder.0.path().join("site.toml.previous"), "older").unwrap();
        folder.take("first");
        assert_eq!(folder.starts(4).last(), Some(&Start::WentBack));
        assert_eq!(folder.files(), named(&[("site.toml.refused", "first")]));
    }

    #[test]
    fn a_power_cut_leaves_what_was_in_force_or_goes_on() {
        let folder = Folder::new();
        std::fs::write(folder.site(), "old").unwrap();
        // Cut off before the new settings took their place: their mark is void.
        std::fs::write(mark(&folder.site()), line("new", 0)).unwrap();
        assert_eq!(folder.starts(1), [Start::Settled]);
        assert_eq!(folder.files(), named(&[("site.toml", "old")]));
        for damaged in ["", "\n", "x y", &line("old", 1).replace(' ', "")] {
            std::fs::write(mark(&folder.site()), damaged).unwrap();
            assert_eq!(folder.starts(1), [Start::Settled], "{damaged:?}");
        }
        // Cut off while it went back: before and after the old ones took their place.
        folder.take("new");
        folder.starts(3);
        std::fs::write(folder.0.path().join("site.toml.refused"), "new").unwrap();
        assert_eq!(folder.starts(2), [Start::WentBack, Start::Settled]);
        std::fs::write(mark(&folder.site()), line("new", 3)).unwrap();
        assert_eq!(folder.starts(1), [Start::Settled]);
        assert_eq!(read(&folder.site()).unwrap().as_deref(), Some("old"));
    }
}
