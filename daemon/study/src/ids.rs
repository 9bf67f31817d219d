//! Identifiers as peers send them.
//!
//! Real archives hold UIDs that are no UIDs (UUIDs with dashes, leading zeros). They are evaluated and echoed as
//! received; only what could not be echoed or stored safely is refused. An identifier never becomes a path.
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest identifier that is accepted: twice the standard's 64 characters (PS3.5 section 9.1), for the
/// non-conforming ones that archives hold.
pub const UID_LENGTH_MAX: usize = 128;

/// Why an identifier was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    /// Nothing is left after the padding is removed.
    #[error("the UID is empty")]
    Empty,
    /// Longer than [`UID_LENGTH_MAX`].
    #[error("the UID has {length} characters, more than {UID_LENGTH_MAX}")]
    TooLong {
        /// Characters received.
        length: usize,
    },
    /// A control character, a backslash (the value separator) or a character outside ASCII.
    #[error("the UID {uid:?} holds a character that cannot be echoed")]
    Unprintable {
        /// The identifier as received.
        uid: String,
    },
}

fn parse(text: &str) -> Result<String, UidError> {
    // PS3.5 section 9.1: padded with one NUL; many senders pad with a space instead.
    let uid = text.trim_matches(['\0', ' ']);
    if uid.is_empty() {
        return Err(UidError::Empty);
    }
    if uid.len() > UID_LENGTH_MAX {
        return Err(UidError::TooLong { length: uid.len() });
    }
    if uid.chars().any(|c| !c.is_ascii_graphic() || c == '\\') {
        return Err(UidError::Unprintable { uid: uid.to_owned() });
    }
    Ok(uid.to_owned())
}

/// Whether `uid` is a UID in the standard's sense: PS3.5 section 9.1, at most 64 characters, numeric components
/// without leading zeros.
pub fn is_standard_uid(uid: &str) -> bool {
    uid.len() <= 64
        && uid.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_digit())
                && (part.len() == 1 || !part.starts_with('0'))
        })
}

macro_rules! uid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Removes the padding and keeps the rest as received.
            ///
            /// # Errors
            /// [`UidError`] when it is empty, too long, or can't be echoed.
            pub fn new(text: &str) -> Result<Self, UidError> {
                parse(text).map(Self)
            }

            /// The identifier as received, without padding.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = UidError;
            fn try_from(text: String) -> Result<Self, UidError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(uid: $name) -> String {
                uid.0
            }
        }
    };
}

uid_type!(
    /// Study Instance UID (0020,000D).
    StudyUid
);
uid_type!(
    /// Series Instance UID (0020,000E).
    SeriesUid
);
uid_type!(
    /// SOP Instance UID (0008,0018).
    SopInstanceUid
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_as_archives_hold_them() {
        let long = "1".repeat(UID_LENGTH_MAX + 1);
        let cases: &[(&str, Option<&str>)] = &[
            ("1.2.840.1\0", Some("1.2.840.1")),
            ("1.2.840.1 ", Some("1.2.840.1")),
            ("98C14734-ASSH", Some("98C14734-ASSH")),
            ("0f8fad5b-d9cb-469f-a165-70867728950e", Some("0f8fad5b-d9cb-469f-a165-70867728950e")),
            ("../../etc/passwd", Some("../../etc/passwd")),
            ("", None),
            (" \0", None),
            ("1.2\\1.3", None),
            ("1.2\n3", None),
            ("1.2.é", None),
            (&long, None),
        ];
        for (text, want) in cases {
            let got = StudyUid::new(text).ok();
            assert_eq!(got.as_ref().map(StudyUid::as_str), *want, "{text:?}");
        }
    }

    #[test]
    fn the_standards_uids() {
        let cases =
            [("1.2.840.10008.1.1", true), ("1.02.3", false), ("1..2", false), ("a-b", false), ("", false)];
        for (uid, want) in cases {
            assert_eq!(is_standard_uid(uid), want, "{uid}");
        }
        assert!(!is_standard_uid(&"1".repeat(65)));
    }
}
