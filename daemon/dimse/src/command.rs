//! Command sets (PS3.7 section 6.3, annex E): tiny data sets of group 0000 in implicit VR little endian. Owns their
//! parsing and encoding; never sees a data set. Parsing accepts any bytes and never panics.

use std::fmt;

/// More than any command set needs (C-MOVE with long titles stays under 1 KiB); over it the association is aborted.
pub const COMMAND_SET_BYTES_MAX: usize = 16 * 1024;

/// Data Set Type (0000,0800): no data set follows. Any other value says that one does (PS3.7 section E.1).
pub const NO_DATA_SET: u16 = 0x0101;

/// Data Set Type of our commands with a data set: anything but [`NO_DATA_SET`].
pub(crate) const HAS_DATA_SET: u16 = 0x0001;

/// Element numbers of group 0000 (PS3.7 table E.1-1).
pub mod element {
    /// Affected SOP Class UID.
    pub const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
    /// Requested SOP Class UID.
    pub const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
    /// Command Field.
    pub const COMMAND_FIELD: u16 = 0x0100;
    /// Message ID.
    pub const MESSAGE_ID: u16 = 0x0110;
    /// Message ID Being Responded To.
    pub const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
    /// Priority.
    pub const PRIORITY: u16 = 0x0700;
    /// Command Data Set Type.
    pub const DATA_SET_TYPE: u16 = 0x0800;
    /// Status.
    pub const STATUS: u16 = 0x0900;
    /// Error Comment.
    pub const ERROR_COMMENT: u16 = 0x0902;
    /// Affected SOP Instance UID.
    pub const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
    /// Requested SOP Instance UID.
    pub const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
    /// Event Type ID.
    pub const EVENT_TYPE_ID: u16 = 0x1002;
    /// Action Type ID.
    pub const ACTION_TYPE_ID: u16 = 0x1008;
    /// Move Originator Application Entity Title.
    pub const MOVE_ORIGINATOR_AE_TITLE: u16 = 0x1030;
    /// Move Originator Message ID.
    pub const MOVE_ORIGINATOR_MESSAGE_ID: u16 = 0x1031;
}

/// Values of Command Field (PS3.7 table E.1-1); a response has bit 15 set.
pub mod field {
    /// C-STORE-RQ.
    pub const STORE_RQ: u16 = 0x0001;
    /// C-GET-RQ.
    pub const GET_RQ: u16 = 0x0010;
    /// C-FIND-RQ.
    pub const FIND_RQ: u16 = 0x0020;
    /// C-MOVE-RQ.
    pub const MOVE_RQ: u16 = 0x0021;
    /// C-ECHO-RQ.
    pub const ECHO_RQ: u16 = 0x0030;
    /// N-EVENT-REPORT-RQ.
    pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
    /// N-GET-RQ.
    pub const N_GET_RQ: u16 = 0x0110;
    /// N-SET-RQ.
    pub const N_SET_RQ: u16 = 0x0120;
    /// N-ACTION-RQ.
    pub const N_ACTION_RQ: u16 = 0x0130;
    /// N-CREATE-RQ.
    pub const N_CREATE_RQ: u16 = 0x0140;
    /// N-DELETE-RQ.
    pub const N_DELETE_RQ: u16 = 0x0150;
    /// C-CANCEL-RQ, which has no response.
    pub const CANCEL_RQ: u16 = 0x0FFF;
    /// Set in every response.
    pub const RESPONSE: u16 = 0x8000;
}

/// A command set: elements of group 0000 by number.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CommandSet {
    /// Ascending by element number, group length left out.
    elements: Vec<(u16, Vec<u8>)>,
}

/// Why bytes are no command set.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CommandError {
    /// An element's header or value runs past the end.
    #[error("command set ends inside the element at byte {at}")]
    Truncated {
        /// Where the element starts.
        at: usize,
    },
    /// Only group 0000 is allowed.
    #[error("command set holds group {group:04X}")]
    Group {
        /// The group found.
        group: u16,
    },
    /// A required element is missing or has a wrong length.
    #[error("command set lacks (0000,{element:04X})")]
    Missing {
        /// The element's number.
        element: u16,
    },
}

impl CommandSet {
    /// Parses implicit VR little endian. Group length is not trusted, only skipped; of repeated elements the first counts.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        let mut set = Self::default();
        let mut at = 0;
        while at < bytes.len() {
            let truncated = CommandError::Truncated { at };
            let Some((header, rest)) = bytes[at..].split_first_chunk::<8>() else { return Err(truncated) };
            let group = u16::from_le_bytes([header[0], header[1]]);
            let number = u16::from_le_bytes([header[2], header[3]]);
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            if group != 0 {
                return Err(CommandError::Group { group });
            }
            let Some(value) = rest.get(..length) else { return Err(truncated) };
            if number != 0 && set.get(number).is_none() {
                set.put(number, value.to_vec());
            }
            at += header.len() + length;
        }
        Ok(set)
    }

    /// Encodes with the group length first (PS3.7 section 6.3.1).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body: usize = self.elements.iter().map(|(_, value)| 8 + value.len()).sum();
        let mut bytes = Vec::with_capacity(12 + body);
        put_element(&mut bytes, 0, &(body as u32).to_le_bytes());
        for (number, value) in &self.elements {
            put_element(&mut bytes, *number, value);
        }
        bytes
    }

    /// Sets an unsigned short (US).
    #[must_use]
    pub fn with_u16(mut self, number: u16, value: u16) -> Self {
        self.put(number, value.to_le_bytes().to_vec());
        self
    }

    /// Sets a UID, padded with NUL to even length (PS3.5 section 9.1).
    #[must_use]
    pub fn with_uid(self, number: u16, uid: &str) -> Self {
        self.with_padded(number, uid, 0)
    }

    /// Sets a text (AE, LO), padded with a space to even length (PS3.5 section 6.2).
    #[must_use]
    pub fn with_text(self, number: u16, text: &str) -> Self {
        self.with_padded(number, text, b' ')
    }

    /// An unsigned short, or what is missing.
    pub fn u16(&self, number: u16) -> Result<u16, CommandError> {
        match self.get(number) {
            Some([low, high]) => Ok(u16::from_le_bytes([*low, *high])),
            _ => Err(CommandError::Missing { element: number }),
        }
    }

    /// A text without its padding; `None` when absent or blank. Bytes outside of ASCII are replaced.
    #[must_use]
    pub fn text(&self, number: u16) -> Option<String> {
        let text = String::from_utf8_lossy(self.get(number)?);
        let text = text.trim_matches(['\0', ' ']);
        if text.is_empty() { None } else { Some(text.to_owned()) }
    }

    /// Whether a data set follows; a command without the element has none.
    #[must_use]
    pub fn has_data_set(&self) -> bool {
        self.u16(element::DATA_SET_TYPE).is_ok_and(|kind| kind != NO_DATA_SET)
    }

    fn get(&self, number: u16) -> Option<&[u8]> {
        let index = self.elements.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(&self.elements[index].1)
    }

    fn put(&mut self, number: u16, value: Vec<u8>) {
        match self.elements.binary_search_by_key(&number, |(n, _)| *n) {
            Ok(index) => self.elements[index].1 = value,
            Err(index) => self.elements.insert(index, (number, value)),
        }
    }

    fn with_padded(mut self, number: u16, text: &str, pad: u8) -> Self {
        let mut value = text.as_bytes().to_vec();
        if !value.len().is_multiple_of(2) {
            value.push(pad);
        }
        self.put(number, value);
        self
    }
}

impl fmt::Debug for CommandSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (number, value) in &self.elements {
            map.entry(&format_args!("(0000,{number:04X})"), &value.escape_ascii().to_string());
        }
        map.finish()
    }
}

fn put_element(bytes: &mut Vec<u8>, number: u16, value: &[u8]) {
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::element::*;
    use super::*;

    fn store() -> CommandSet {
        CommandSet::default()
            .with_uid(AFFECTED_SOP_INSTANCE_UID, "1.2.3")
            .with_u16(COMMAND_FIELD, field::STORE_RQ)
            .with_uid(AFFECTED_SOP_CLASS_UID, "1.2")
            .with_u16(MESSAGE_ID, 7)
            .with_text(MOVE_ORIGINATOR_AE_TITLE, "PACS")
            .with_u16(DATA_SET_TYPE, 1)
    }

    #[test]
    fn round_trip() {
        let bytes = store().encode();
        // PS3.7 section 6.3: group length first, then ascending.
        assert_eq!(bytes[..8], [0, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes")) as usize, bytes.len() - 12);
        assert!(bytes.len().is_multiple_of(2));
        let parsed = CommandSet::parse(&bytes).expect("valid");
        assert_eq!(parsed, store());
        assert_eq!(parsed.text(AFFECTED_SOP_INSTANCE_UID).as_deref(), Some("1.2.3"));
        assert_eq!(parsed.text(AFFECTED_SOP_CLASS_UID).as_deref(), Some("1.2"));
        assert_eq!(parsed.u16(MESSAGE_ID), Ok(7));
        assert_eq!(parsed.u16(STATUS), Err(CommandError::Missing { element: STATUS }));
        assert!(parsed.has_data_set());
        assert!(!parsed.with_u16(DATA_SET_TYPE, NO_DATA_SET).has_data_set());
    }

    #[test]
    fn rejects() {
        let cases: [(&[u8], CommandError); 5] = [
            (&[0], CommandError::Truncated { at: 0 }),
            (&[0, 0, 2, 0, 2, 0, 0, 0, b'1'], CommandError::Truncated { at: 0 }),
            (&[0, 0, 2, 0, 0xFF, 0xFF, 0xFF, 0xFF, b'1'], CommandError::Truncated { at: 0 }),
            (&[0, 0, 2, 0, 0, 0, 0, 0, 8, 0], CommandError::Truncated { at: 8 }),
            (&[8, 0, 0x16, 0, 0, 0, 0, 0], CommandError::Group { group: 8 }),
        ];
        for (bytes, want) in cases {
            assert_eq!(CommandSet::parse(bytes).expect_err("malformed"), want, "{bytes:02X?}");
        }
        let short = CommandSet::parse(&[0, 0, 0, 1, 1, 0, 0, 0, 1]).expect("well formed");
        assert!(short.u16(COMMAND_FIELD).is_err(), "a US of one byte");
    }

    #[test]
    fn random_bytes_never_panic() {
        // A small generator (splitmix64) keeps the failure reproducible.
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z ^ (z >> 27)
        };
        let valid = store().encode();
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                valid.clone()
            } else {
                (0..next() % 64).map(|_| (next() % 4) as u8).collect()
            };
            for _ in 0..next() % 4 {
                if !bytes.is_empty() {
                    let at = (next() % bytes.len() as u64) as usize;
                    bytes[at] = next() as u8;
                }
            }
            bytes.truncate((next() % (bytes.len() as u64 + 1)) as usize);
            if let Ok(set) = CommandSet::parse(&bytes) {
                assert_eq!(CommandSet::parse(&set.encode()).expect("what we wrote"), set);
                let _ = (set.text(AFFECTED_SOP_CLASS_UID), set.u16(COMMAND_FIELD), format!("{set:?}"));
            }
        }
    }
}
