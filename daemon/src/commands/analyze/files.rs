//! The files under some folders, and folder names that are safe whatever a peer called its study.
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Characters of an identifier that a folder's name shows: enough to recognise it.
const NAME_LENGTH_MAX: usize = 48;

/// Every file under the folders, at any depth, in the order of their paths. Links are followed; a folder that is met
/// again, by a link or because it was named twice, is passed over, so that loops end.
///
/// # Errors
/// A folder that doesn't exist or can't be read. Folders inside it that can't be read are named on stderr.
pub fn under(dirs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for dir in dirs {
        let meta = std::fs::metadata(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        if meta.is_file() {
            files.push(dir.clone());
            continue;
        }
        if !meta.is_dir() {
            bail!("{} is neither a folder nor a file", dir.display());
        }
        let mut waiting = vec![dir.clone()];
        while let Some(folder) = waiting.pop() {
            if let Err(error) = list(&folder, &mut seen, &mut waiting, &mut files) {
                if &folder == dir {
                    return Err(error).with_context(|| format!("cannot read {}", dir.display()));
                }
                eprintln!("warning: {}: {error}", folder.display());
            }
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn list(
    folder: &Path,
    seen: &mut HashSet<(u64, u64)>,
    waiting: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    let meta = std::fs::metadata(folder)?;
    if !seen.insert((meta.dev(), meta.ino())) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // A link whose target is gone is no file to analyse; pipes and devices would block.
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => waiting.push(path),
            Ok(meta) if meta.is_file() => files.push(path),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// A folder name for an identifier: its harmless characters, and a hash that keeps two identifiers apart.
pub fn folder_name(identifier: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    let shown: String = identifier.chars().take(NAME_LENGTH_MAX).map(harmless).collect();
    let hash = Sha256::digest(identifier.as_bytes());
    let hash: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("study-{shown}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_the_folder() {
        for uid in ["1.2.840.1", "../../etc/passwd", "/", "..", "a\\b", &"9".repeat(128), "é"] {
            let name = folder_name(uid);
            assert!(name.starts_with("study-") && name.len() <= 64, "{name}");
            assert_eq!(Path::new(&name).components().count(), 1, "{name}");
            assert!(name.is_ascii() && !name.contains(['/', '\\']), "{name}");
        }
        assert_ne!(folder_name("a/b"), folder_name("a\\b"));
        assert_eq!(folder_name("1.2"), folder_name("1.2"));
    }

    #[test]
    fn loops_end_and_every_file_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("2"), "").unwrap();
        std::fs::write(dir.path().join("a/1"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), deep.join("loop")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/target", deep.join("dangling")).unwrap();
        let top = dir.path().to_owned();
        let found = under(&[top.clone(), top.clone(), top.join("a/1")]).unwrap();
        assert_eq!(found, [top.join("a/1"), top.join("a/b/c/2")]);
        let error = under(&[top.join("none")]).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
