//! HL7 v2.5.1 messages to radiology information systems.
use serde::{Deserialize, Serialize};

/// The character set of a message (MSH-18, HL7 table 0211).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CharacterSet {
    /// `UNICODE UTF-8`.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
}
