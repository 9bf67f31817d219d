//! What helps whoever is asked for help: versions, health, configuration, counts and logs, in one file that may leave the hospital.
//!
//! Owns what goes in, and that no patient does: UIDs become pseudonyms that hold inside one bundle, and whatever the database knows of
//! patients is cut out of every text. No image, no result, no row of a patient, no secret goes in at all. It sends nothing.
mod scrub;

pub use scrub::Scrubber;

use crate::config::Config;
use crate::database::Database;
use crate::layout::Layout;
use crate::status::TOLD;
use crate::{doctor, version};
use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of one log at the most: its end counts.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// What can be asked of the box, and the file that it goes into.
const ASKED: &[(&str, &[&str])] = &[
    ("journal.txt", &["journalctl", "--no-pager", "--output=short-iso", "--lines=50000", "--unit=triaged*"]),
    (
        "kernel.txt",
        &["journalctl", "--no-pager", "--output=short-iso", "--lines=2000", "--dmesg", "--priority=warning"],
    ),
    ("units.txt", &["systemctl", "--no-pager", "status", "triaged*"]),
    ("disks.txt", &["df", "-h"]),
];
/// What can be read of the box.
const READ: &[&str] = &[
    "/usr/lib/os-release",
    "/usr/lib/triaged/board",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/cmdline",
    // Network ports and addresses, as the daemon's sandbox lets it see them: no program may ask the kernel for them there (netlink).
    "/proc/self/net/dev",
    "/proc/self/net/fib_trie",
    "/proc/self/net/if_inet6",
];
const README: &str = "A support bundle of triaged.

No patient's name, ID, date of birth, accession number or UID is in it: UIDs are replaced by pseudonyms (uid-…) that are the same within this bundle
and mean nothing outside of it; what the box's database knows of patients is replaced by [patient]. Images, results and secrets are not in it.
Addresses and AE titles of the hospital's systems are: whoever gets this file learns them.
";

/// What to look at.
pub struct Sources<'a> {
    /// The daemon's configuration, or why there is none.
    pub config: Result<&'a Config, String>,
    /// Its file, if the box is to be examined now; the daemon itself does not open its engines twice.
    pub examine: Option<&'a Path>,
    /// The site's settings.
    pub site: &'a Path,
    /// Further logs.
    pub logs: &'a [PathBuf],
    /// Texts that are at hand: name and contents.
    pub texts: Vec<(String, String)>,
}

/// The bundle, as `.tar.gz`, and what could not be had.
///
/// # Errors
/// The database can't be read: without it nobody knows what must be cut out, and the logs would betray it.
pub fn bundle(sources: &Sources<'_>) -> anyhow::Result<(Vec<u8>, Vec<String>)> {
    let mut missing = Vec::new();
    let config = &sources.config;
    let mut scrubber = Scrubber::new()?;
    let mut counts = None;
    match &config {
        Ok(config) => {
            let path = config.storage.dir.join("triaged.db");
            if path.exists() {
                let database = Database::open_beside_the_daemon(&path).with_context(|| {
                    format!(
                        "{}: what it knows of patients can't be cut out; run this as the daemon's user",
                        path.display()
                    )
                })?;
                scrubber.cut(&database.patients_words()?);
                counts = Some(database.counted()?);
            } else {
                missing.push(format!("{}: there is no database yet", path.display()));
            }
        }
        Err(error) => missing.push(format!("{error:#}")),
    }
    let zoo = config
        .as_ref()
        .ok()
        .and_then(|config| config.engine.zoo.clone())
        .unwrap_or_else(engine::default_zoo_dir);
    let mut entries = vec![
        ("README.txt".to_owned(), README.to_owned()),
        ("version.txt".to_owned(), version::describe(&zoo)),
    ];
    if let Some(file) = sources.examine {
        let report = doctor::examine(file, &mut |_| {});
        entries.push(("doctor.json".to_owned(), serde_json::to_string_pretty(&report)?));
    }
    if let Ok(config) = config {
        entries.push(("triaged.toml".to_owned(), toml::to_string(config)?));
    }
    entries.extend(sources.texts.iter().cloned());
    entries.extend(counts.map(|counts| ("database.txt".to_owned(), counts)));
    match site(sources.site) {
        Ok(text) => entries.push(("site.toml".to_owned(), text)),
        Err(error) => missing.push(format!("{}: {error:#}", sources.site.display())),
    }
    for (name, command) in ASKED {
        match ask(command) {
            Ok(text) => entries.push(((*name).to_owned(), text)),
            Err(error) => missing.push(format!("{}: {error}", command.join(" "))),
        }
    }
    let layout = Layout::at(Path::new("/"));
    let told = TOLD.map(|(file, _)| layout.status_dir().join(file));
    let read = READ.iter().map(PathBuf::from).chain(told).chain([layout.refused_site()]);
    for (path, folder) in
        read.map(|path| (path, "files")).chain(sources.logs.iter().cloned().map(|path| (path, "logs")))
    {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match tail(&path) {
            Ok(text) => entries.push((format!("{folder}/{name}"), text)),
            Err(error) => missing.push(format!("{}: {error}", path.display())),
        }
    }
    entries.push(("missing.txt".to_owned(), missing.join("\n") + "\n"));
    Ok((pack(&entries, &scrubber)?, missing))
}

/// The site's settings without what is secret.
fn site(path: &Path) -> anyhow::Result<String> {
    crate::site::without_secrets(&std::fs::read_to_string(path)?)
}

fn ask(command: &[&str]) -> std::io::Result<String> {
    let output =
        Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The end of a text.
fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > LOG_BYTES_MAX {
        file.seek(SeekFrom::Start(length - LOG_BYTES_MAX))?;
    }
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pack(entries: &[(String, String)], scrubber: &Scrubber) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in entries {
        let text = scrubber.scrub(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, format!("triaged-support/{name}"), text.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}
