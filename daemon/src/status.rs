//! What a command beside the daemon tells the box's page: a small JSON file that is replaced whole.
//!
//! `{"state": "waiting", "since": "2026-11-23T16:28:35Z", "lines": ["…"]}`; `since` is when the state began. The page shows what is there and
//! never waits for it.
use crate::files;
use chrono::{SecondsFormat, Utc};
use log::warn;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is told of a stick that came while another one was worked on, whose word is the first file's.
pub const OTHER_STICK: &str = "other-stick.json";
/// The files of the commands that tell, and what people call it.
pub const TOLD: [(&str, &str); 5] = [
    ("stick.json", "Stick"),
    (OTHER_STICK, "Another stick"),
    ("site.json", "Settings"),
    ("provision.json", "Engines"),
    ("doctor.json", "Health"),
];
/// Bytes of a file that the page reads.
const BYTES_MAX: u64 = 64 << 10;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// One word.
    pub state: String,
    /// When the state began, RFC 3339 in UTC.
    pub since: String,
    /// For people.
    pub lines: Vec<String>,
}

impl Status {
    /// What a file says; `None` if there is none, or none that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(BYTES_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// When a file in a folder changed last, milliseconds since 1970; 0 if there is none.
pub fn newest_ms(dir: &Path) -> i64 {
    let changed = |entry: std::fs::DirEntry| {
        let at = entry.metadata().and_then(|meta| meta.modified()).ok()?;
        i64::try_from(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
    };
    std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(changed).max().unwrap_or(0)
}

/// Tells; without a file, nobody.
pub struct Teller {
    path: Option<PathBuf>,
    last: Option<Status>,
}

impl Teller {
    /// Tells in `path`.
    pub fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), last: None }
    }

    /// Tells. What can't be told is warned of and holds up nothing.
    pub fn tell(&mut self, state: &str, lines: &[String]) {
        let Some(path) = &self.path else { return };
        let begun = self.last.as_ref().filter(|last| last.state == state).map(|last| last.since.clone());
        let since = begun.unwrap_or_else(|| Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true));
        let status = Status { state: state.to_owned(), since, lines: lines.to_vec() };
        let told = serde_json::to_vec(&status)
            .map_err(anyhow::Error::from)
            .and_then(|json| files::write(path, &json, 0o644));
        if let Err(error) = told {
            warn!("the box's page is not told: {error:#}");
        }
        self.last = Some(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status/stick.json");
        assert_eq!(Status::read(&path), None);
        let mut teller = Teller::new(Some(&path));
        teller.tell("waiting", &["15 s".into()]);
        let first = Status::read(&path).unwrap();
        teller.last.as_mut().unwrap().since = "2020-01-01T00:00:00Z".into();
        teller.tell("waiting", &["14 s".into()]);
        let second = Status::read(&path).unwrap();
        assert_eq!((second.since.as_str(), second.lines[0].as_str()), ("2020-01-01T00:00:00Z", "14 s"));
        teller.tell("done", &[]);
        assert_eq!(Status::read(&path).unwrap().state, "done");
        assert!(first.since.ends_with('Z') && first.since.len() == 20);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Status::read(&path), None);
    }
}
