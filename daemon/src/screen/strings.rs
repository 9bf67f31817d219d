//! The words of the screen, in one file, so that a site can translate them.
//!
//! English is compiled in. A site's file overrides key by key; a key that isn't known is refused at the start, so that a spelling mistake is
//! found by the engineer and not by nobody.
use anyhow::{Context, bail};
use std::collections::HashMap;
use std::path::Path;

const ENGLISH: &str = include_str!("assets/strings.toml");
/// Bytes of a site's file.
const BYTES_MAX: u64 = 256 << 10;

/// The words.
pub struct Strings(HashMap<String, String>);

impl Strings {
    /// English, and over it what a site's file says.
    ///
    /// # Errors
    /// The file can't be read, is no TOML of strings, or has a key that isn't known.
    pub fn load(site: Option<&Path>) -> anyhow::Result<Self> {
        let mut words: HashMap<String, String> = toml::from_str(ENGLISH).context("the screen's own words")?;
        if let Some(path) = site {
            let which = || format!("screen.strings {}", path.display());
            if std::fs::metadata(path).with_context(which)?.len() > BYTES_MAX {
                bail!("{}: more than {BYTES_MAX} bytes", which());
            }
            let text = std::fs::read_to_string(path).with_context(which)?;
            let site: HashMap<String, String> = toml::from_str(&text).with_context(which)?;
            for (key, value) in site {
                let Some(word) = words.get_mut(&key) else { bail!("{}: {key} is no known key", which()) };
                *word = value;
            }
        }
        Ok(Self(words))
    }

    /// The words of a key.
    ///
    /// # Panics
    /// When the key isn't in English: a test looks at every key that the sources name.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("the screen has no words for {key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each `t("key")` of the sources beside this file.
    #[test]
    fn every_key_that_is_used_has_words_and_every_word_is_used() {
        let strings = Strings::load(None).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/screen");
        let sources: String = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "rs") && !path.ends_with("strings.rs"))
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        for used in sources.split("t(\"").skip(1) {
            strings.get(used.split('"').next().unwrap());
        }
        let unused: Vec<_> =
            strings.0.keys().filter(|key| !sources.contains(&format!("\"{key}\""))).collect();
        assert_eq!(unused, Vec::<&String>::new());
    }

    #[test]
    fn a_sites_file_overrides_and_a_wrong_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("de.toml");
        std::fs::write(&path, "state_flagged = \"AUFFÄLLIG\"").unwrap();
        let german = Strings::load(Some(&path)).unwrap();
        assert_eq!((german.get("state_flagged"), german.get("page")), ("AUFFÄLLIG", "Page"));
        std::fs::write(&path, "state_flaged = \"x\"").unwrap();
        let error = Strings::load(Some(&path)).err().unwrap().to_string();
        assert!(error.contains("state_flaged is no known key"), "{error}");
    }
}
