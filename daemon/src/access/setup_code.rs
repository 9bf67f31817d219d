//! The code that sets a new box up, in a file that its owner alone can read.
use super::AccessError;
use crate::database::Database;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use subtle::ConstantTimeEq;

/// What people don't confuse: no I, O, 0, 1. 32 of them, five bits each.
const ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
/// 80 bits.
const CHARACTERS: usize = 16;
const GROUP: usize = 4;
/// What the file begins with where the site chose the code: only its hash is on the box.
const HASHED: &str = "sha256:";

/// What a setup code is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The first user of the box.
    First,
    /// A further engineer: the site brought a new code.
    Another,
}

/// What the file holds for a code that the site chose, of which only the hash is known.
pub fn line(hash: &stick::Sha256) -> String {
    format!("{HASHED}{hash}\n")
}

/// The setup code that is kept at a path, and what it is good for; `None` if for nothing.
pub fn of_now(database: &Database, path: &Path) -> Result<Option<(Setup, String)>, AccessError> {
    let Some(code) = read(path)? else { return Ok(None) };
    if !database.has_users()? {
        return Ok(Some((Setup::First, code)));
    }
    let is_new = is_sites(&code) && !database.setup_code_was_used(&code)?;
    Ok(is_new.then_some((Setup::Another, code)))
}

/// Whether a line is of a code that the site chose. Only such a one makes a further engineer: what the box drew for its first user is void with them.
pub fn is_sites(code: &str) -> bool {
    code.starts_with(HASHED)
}

/// Removes the file where it has a code of the site's, which doesn't say it any more.
pub fn remove_sites(path: &Path) -> Result<(), AccessError> {
    if read(path)?.is_some_and(|code| is_sites(&code)) {
        remove(path).map_err(|source| AccessError::SetupCodeFile { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// The code in the file, or the line of its hash; `None` if there is no file, or neither in it.
pub fn read(path: &Path) -> Result<Option<String>, AccessError> {
    let failed = |source| AccessError::SetupCodeFile { path: path.to_owned(), source };
    let mut text = String::new();
    match fs::File::open(path).and_then(|file| file.take(128).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    }
    let code = text.trim();
    if let Some(hash) = code.strip_prefix(HASHED) {
        let legal = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        return Ok(legal.then(|| code.to_owned()));
    }
    let legal = plain(code).len() == CHARACTERS && plain(code).iter().all(|byte| ALPHABET.contains(byte));
    Ok(legal.then(|| code.to_owned()))
}

/// The code in the file, which is made if need be: whole, on the disk, and for its owner alone (mode 0600).
pub fn read_or_draw(path: &Path) -> Result<String, AccessError> {
    if let Some(code) = read(path)? {
        return Ok(code);
    }
    let failed = |source| AccessError::SetupCodeFile { path: path.to_owned(), source };
    let code = draw()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    writeln!(file, "{code}").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(code)
}

/// Removes the file, if there is one.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether somebody typed the code, in whatever case and with whatever between the groups; in constant time.
pub fn matches(code: &str, given: &str) -> bool {
    if let Some(hash) = code.strip_prefix(HASHED) {
        let given: String = Sha256::digest(plain(given)).iter().map(|byte| format!("{byte:02x}")).collect();
        return given.as_bytes().ct_eq(hash.to_ascii_lowercase().as_bytes()).into();
    }
    plain(code).ct_eq(&plain(given)).into()
}

/// Four groups of four.
fn draw() -> Result<String, AccessError> {
    let mut bytes = [0; CHARACTERS];
    getrandom::fill(&mut bytes)?;
    let characters: Vec<char> =
        bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let groups: Vec<String> = characters.chunks(GROUP).map(|group| group.iter().collect()).collect();
    Ok(groups.join("-"))
}

fn plain(code: &str) -> Vec<u8> {
    code.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_code_is_drawn_once_and_its_owner_alone_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("setup-code");
        assert_eq!(read(&path).unwrap(), None);
        let code = read_or_draw(&path).unwrap();
        assert_eq!(code.split('-').map(str::len).collect::<Vec<_>>(), [4; 4], "{code}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_draw(&path).unwrap(), code);
        assert_eq!(read(&path).unwrap().as_ref(), Some(&code));
        for broken in [&b""[..], b"ABCD", b"ABCD-EFGH-JKLM-NPQ0\n", &[0xff; 16], &[b'A'; 100]] {
            fs::write(&path, broken).unwrap();
            assert_eq!(read(&path).unwrap(), None, "{broken:?}");
            assert_ne!(read_or_draw(&path).unwrap(), code);
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        let nowhere = dir.path().join("no folder/setup-code");
        assert!(read_or_draw(&nowhere).unwrap_err().to_string().contains("no folder/setup-code"));
    }

    #[test]
    fn of_a_sites_code_the_box_has_the_hash_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("setup-code");
        let hash = stick::setup_code_sha256("abcd-efgh-2345-6789").unwrap();
        fs::write(&path, line(&hash)).unwrap();
        let code = read_or_draw(&path).unwrap();
        assert!(!code.contains("ABCD"));
        assert!(
            matches(&code, "ABCD efgh 2345-6789")
                && !matches(&code, "ABCDEFGH23456788")
                && !matches(&code, &code)
        );
        remove_sites(&path).unwrap();
        assert!(!path.exists());
        let drawn = read_or_draw(&path).unwrap();
        remove_sites(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Some(drawn), "the box's own stays");
        fs::write(&path, "sha256:00\n").unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_code_is_typed_as_people_type() {
        for (given, want) in [
            ("ABCD-EFGH-2345-6789", true),
            (" abcd efgh 2345 6789\n", true),
            ("abcdefgh23456789", true),
            ("ABCD-EFGH-2345-678", false),
            ("ABCD-EFGH-2345-67892", false),
            ("ABCD-EFGH-2345-6788", false),
            ("", false),
        ] {
            assert_eq!(matches("ABCD-EFGH-2345-6789", given), want, "{given}");
        }
    }
}
