//! Application entity titles (PS3.5 table 6.2-1, VR AE). Owns their validation; never compares by anything but the
//! trimmed text.

use std::fmt;
use std::str::FromStr;

/// PS3.5 table 6.2-1: an AE is at most 16 bytes.
const AE_TITLE_LENGTH_MAX: usize = 16;

/// A valid application entity title: 1 to 16 characters of the default repertoire, spaces around it removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AeTitle(String);

/// Why a text is no AE title.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum AeTitleError {
    /// Nothing but spaces: PS3.8 section 9.3.2 reserves that for "no name specified".
    #[error("AE title is blank")]
    Blank,
    /// Longer than 16 characters.
    #[error("AE title {text:?} has {length} characters, at most {AE_TITLE_LENGTH_MAX} are allowed")]
    TooLong {
        /// The title, trimmed.
        text: String,
        /// Its length in characters.
        length: usize,
    },
    /// A control character, a backslash or something outside of ASCII.
    #[error("AE title {text:?} contains {character:?}, which is not allowed")]
    Character {
        /// The title, trimmed.
        text: String,
        /// The first offender.
        character: char,
    },
}

impl AeTitle {
    /// Validates `text`; leading and trailing spaces are not significant (PS3.5 table 6.2-1).
    pub fn new(text: &str) -> Result<Self, AeTitleError> {
        // Some peers pad with NUL, as if it were a UID.
        let text = text.trim_matches([' ', '\0']);
        if text.is_empty() {
            return Err(AeTitleError::Blank);
        }
        if let Some(character) = text.chars().find(|c| !(' '..='~').contains(c) || *c == '\\') {
            return Err(AeTitleError::Character { text: text.to_owned(), character });
        }
        if text.len() > AE_TITLE_LENGTH_MAX {
            return Err(AeTitleError::TooLong { text: text.to_owned(), length: text.len() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The title without padding.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AeTitle {
    type Err = AeTitleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for AeTitle {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        let good = [
            ("TRIAGE", "TRIAGE"),
            ("  CT 1 ", "CT 1"),
            ("A234567890123456  ", "A234567890123456"),
            ("A\0\0", "A"),
        ];
        for (text, want) in good {
            assert_eq!(AeTitle::new(text).expect(text).as_str(), want);
        }
        for bad in ["", "   ", "\0", "A2345678901234567", "A\\B", "A\nB", "Ä", "A\u{7f}"] {
            assert!(AeTitle::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
