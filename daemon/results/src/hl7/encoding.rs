//! Segments, the escape sequences inside of fields, and the character sets of messages (HL7 v2.5.1 section 2.7). What
//! is escaped here can't end a component, a field or a segment, whatever a peer sent.
use crate::charset::turkish;
use encoding_rs::{
    Encoding, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6, ISO_8859_7, ISO_8859_8,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The character set of a message (MSH-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CharacterSet {
    /// `UNICODE UTF-8`.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// `8859/1`: western Europe.
    #[serde(rename = "iso-8859-1")]
    Iso8859_1,
    /// `8859/2`: central Europe.
    #[serde(rename = "iso-8859-2")]
    Iso8859_2,
    /// `8859/3`: southern Europe.
    #[serde(rename = "iso-8859-3")]
    Iso8859_3,
    /// `8859/4`: northern Europe.
    #[serde(rename = "iso-8859-4")]
    Iso8859_4,
    /// `8859/5`: Cyrillic.
    #[serde(rename = "iso-8859-5")]
    Iso8859_5,
    /// `8859/6`: Arabic.
    #[serde(rename = "iso-8859-6")]
    Iso8859_6,
    /// `8859/7`: Greek.
    #[serde(rename = "iso-8859-7")]
    Iso8859_7,
    /// `8859/8`: Hebrew.
    #[serde(rename = "iso-8859-8")]
    Iso8859_8,
    /// `8859/9`: Turkish.
    #[serde(rename = "iso-8859-9")]
    Iso8859_9,
}

impl CharacterSet {
    /// Its name in HL7 table 0211.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UNICODE UTF-8",
            Self::Iso8859_1 => "8859/1",
            Self::Iso8859_2 => "8859/2",
            Self::Iso8859_3 => "8859/3",
            Self::Iso8859_4 => "8859/4",
            Self::Iso8859_5 => "8859/5",
            Self::Iso8859_6 => "8859/6",
            Self::Iso8859_7 => "8859/7",
            Self::Iso8859_8 => "8859/8",
            Self::Iso8859_9 => "8859/9",
        }
    }

    /// The bytes of `text`; `None` if it has a character that the set hasn't.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Utf8 => Some(text.as_bytes().to_vec()),
            Self::Iso8859_1 => text.chars().map(|c| u8::try_from(c).ok()).collect(),
            Self::Iso8859_2 => encode(ISO_8859_2, text),
            Self::Iso8859_3 => encode(ISO_8859_3, text),
            Self::Iso8859_4 => encode(ISO_8859_4, text),
            Self::Iso8859_5 => encode(ISO_8859_5, text),
            Self::Iso8859_6 => encode(ISO_8859_6, text),
            Self::Iso8859_7 => encode(ISO_8859_7, text),
            Self::Iso8859_8 => encode(ISO_8859_8, text),
            Self::Iso8859_9 => text.chars().map(|c| (0..=u8::MAX).find(|byte| turkish(*byte) == c)).collect(),
        }
    }
}

fn encode(table: &'static Encoding, text: &str) -> Option<Vec<u8>> {
    let (bytes, _, unmappable) = table.encode(text);
    (!unmappable).then(|| bytes.into_owned())
}

/// Escapes for one character set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder {
    pub(super) character_set: CharacterSet,
}

impl Encoder {
    /// `text` as a part of a field. Delimiters and controls become escape sequences; two quotation marks alone, which
    /// would mean "delete what you have", nothing.
    pub(super) fn escape(&self, text: &str) -> String {
        if text == "\"\"" {
            return String::new();
        }
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '|' => escaped.push_str("\\F\\"),
                '^' => escaped.push_str("\\S\\"),
                '&' => escaped.push_str("\\T\\"),
                '~' => escaped.push_str("\\R\\"),
                '\\' => escaped.push_str("\\E\\"),
                // U+2028 and U+2029 end lines for many readers.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    match self.character_set.encode(&c.to_string()) {
                        Some(bytes) => {
                            let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
                            escaped.push_str(&format!("\\X{hex}\\"));
                        }
                        // The message can't be written in this set.
                        None => escaped.push(c),
                    }
                }
                c => escaped.push(c),
            }
        }
        escaped
    }
}

/// A segment; its fields bear the numbers that HL7 gives them.
#[derive(Debug)]
pub(super) struct Segment {
    name: &'static str,
    fields: BTreeMap<usize, String>,
}

impl Segment {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, fields: BTreeMap::new() }
    }

    /// Sets field `number`, escaped already where it holds text.
    pub(super) fn put(mut self, number: usize, field: impl Into<String>) -> Self {
        let field = field.into();
        if !field.is_empty() {
            self.fields.insert(number, field);
        }
        self
    }

    /// The segment with its CR.
    pub(super) fn write(&self) -> String {
        // MSH-1 is the separator itself.
        let first = if self.name == "MSH" { 2 } else { 1 };
        let last = self.fields.keys().next_back().copied().unwrap_or_default();
        let mut text = self.name.to_owned();
        for number in first..=last {
            text.push('|');
            text.push_str(self.fields.get(&number).map_or("", String::as_str));
        }
        text.push('\r');
        text
    }
}
