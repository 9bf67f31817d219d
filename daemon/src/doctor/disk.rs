//! Storage, database and clock.
use super::Seen;
use crate::config::Storage;
use crate::database::Database;
use crate::files;
use crate::layout::Layout;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the database is looked through: a large one takes minutes.
const DATABASE_PATIENCE: Duration = Duration::from_secs(5);
/// No clock that is right is before the year in which this was written, nor after the end of its certificates.
const YEAR_LEAST: i32 = 2026;
const YEAR_MOST: i32 = 2100;

/// The folder is there, takes a file, and keeps it.
pub fn writable(dir: &Path) -> Seen {
    let failed = |error: std::io::Error| {
        format!("{}: {error}; is the data partition mounted, and whose is it?", dir.display())
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let path = dir.join("doctor.tmp");
    let written =
        files::write(&path, b"written by triaged doctor\n", 0o600).map_err(|error| format!("{error:#}"));
    // It may not be there.
    let _ = std::fs::remove_file(&path);
    match written {
        // A full disk is the check of the room's to tell: going back to another version would not empty it.
        Err(why) if is_full(dir) => Ok(format!("{why}: no room is left")),
        written => written.map(|()| format!("{} takes files and syncs them", dir.display())),
    }
}

fn is_full(dir: &Path) -> bool {
    files::free_bytes(dir).is_ok_and(|free| free < 1 << 20)
}

/// Room for more images.
pub fn space(storage: &Storage) -> Seen {
    let free_mib = files::free_bytes(&storage.dir).map_err(|error| format!("{error:#}"))? >> 20;
    let least = storage.min_free_mib;
    if free_mib < least {
        return Err(format!(
            "{free_mib} MiB free, less than storage.min_free_mib {least}: images are refused; mend the destinations for which results wait (the box's page names them) or lower storage.keep_days"
        ));
    }
    Ok(format!("{free_mib} MiB free, at least {least} are kept"))
}

/// The database can be opened by this version and has no fault that is found soon.
pub fn database(path: &Path) -> Seen {
    if !path.exists() {
        return Ok("there is none yet: the daemon makes it at its first start".to_owned());
    }
    let database = Database::open_beside_the_daemon(path).map_err(|error| error.to_string())?;
    match database.faults(DATABASE_PATIENCE).map_err(|error| error.to_string())? {
        Some(faults) if faults.is_empty() => Ok("no fault".to_owned()),
        Some(faults) => Err(format!("{}: keep the disk and call for help", faults.join("; "))),
        None => Ok(format!("no fault in the first {} s of looking", DATABASE_PATIENCE.as_secs())),
    }
}

/// The year can be, and somebody set the clock.
pub fn clock() -> Seen {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sane(now, Layout::at(Path::new("/")).time_synchronized().exists())
}

fn sane(now: Duration, synchronized: bool) -> Seen {
    let at = chrono::DateTime::from_timestamp(now.as_secs() as i64, 0).unwrap_or_default();
    let year = at.format("%Y").to_string().parse().unwrap_or(0);
    let text = at.format("%Y-%m-%d %H:%M:%S UTC");
    if !(YEAR_LEAST..YEAR_MOST).contains(&year) {
        return Err(format!(
            "it is {text}: the clock is wrong; name a time server in site.toml, or replace the battery"
        ));
    }
    match synchronized {
        true => Ok(format!("{text}, from a time server")),
        false => Err(format!(
            "{text}, from no time server that systemd-timesyncd knows: results may carry a wrong time"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_set_is_noticed() {
        let year = |years: u64| Duration::from_secs(years * 31_557_600);
        assert!(sane(Duration::ZERO, true).unwrap_err().contains("1970"));
        assert!(sane(year(55), true).unwrap_err().contains("the clock is wrong"));
        assert!(sane(year(57), false).unwrap_err().contains("no time server"));
        assert!(sane(year(57), true).is_ok());
        assert!(sane(year(131), true).is_err());
    }

    #[test]
    fn a_folder_that_takes_nothing_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(writable(&dir.path().join("new/folder")).is_ok());
        assert_eq!(std::fs::read_dir(dir.path().join("new/folder")).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(writable(&file).unwrap_err().contains("data partition"));
    }

    #[test]
    fn a_damaged_database_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("triaged.db");
        assert!(database(&path).unwrap().contains("none yet"));
        drop(Database::open(&path).unwrap());
        assert_eq!(database(&path).unwrap(), "no fault");
        let mut bytes = std::fs::read(&path).unwrap();
        // Every page but the first, which says what it is.
        bytes[4096..].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
        assert!(database(&path).is_err());
    }
}
