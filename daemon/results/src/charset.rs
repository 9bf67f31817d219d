//! Text of any Specific Character Set (0008,0005) as Unicode (PS3.3 section C.12.1.1.2, PS3.5 section 6.1).
//!
//! Owns which set is active at which byte: the code extensions of ISO 2022. The tables of the sets are those of
//! `encoding_rs`. It never fails and never guesses a language: bytes without a meaning become U+FFFD, one or two of them
//! each. The text is at most three times as long as the bytes in UTF-8.
//!
//! ```text
//! first value of (0008,0005) --> initial G0, G1 --escape sequence--> other G0 or G1
//!                                     ^------ delimiter, control ---------'
//! ```
use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6,
    ISO_8859_7, ISO_8859_8, ISO_8859_15,
};

const UNKNOWN: char = char::REPLACEMENT_CHARACTER;
const ESCAPE: u8 = 0x1b;

/// What the bytes 0x21 to 0x7e mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Low {
    Ascii,
    /// JIS X 0201 Roman.
    Romaji,
    /// JIS X 0208, two bytes a character.
    Kanji,
    /// JIS X 0212, two bytes a character.
    SupplementaryKanji,
}

/// What the bytes 0xa0 to 0xff mean.
#[derive(Debug, Clone, Copy, PartialEq)]
enum High {
    None,
    /// ISO 8859-1.
    Latin1,
    /// ISO 8859-9: Latin-1 but for six letters.
    Turkish,
    /// TIS 620.
    Thai,
    /// JIS X 0201 Katakana.
    Katakana,
    /// A part of ISO 8859, one byte a character.
    Single(&'static Encoding),
    /// KS X 1001 or GB 2312, two bytes a character.
    Double(&'static Encoding),
}

/// A set that an escape sequence or a value of Specific Character Set names.
#[derive(Debug, Clone, Copy)]
enum Set {
    G0(Low),
    G1(High),
}

/// Escape sequences (PS3.3 tables C.12-3 and C.12-4), the number in the defined term `ISO 2022 IR …`, what they name.
/// `ESC ( B` and `ESC ( J` go with several.
const ESCAPES: &[(&[u8], &str, Set)] = &[
    (b"(B", "6", Set::G0(Low::Ascii)),
    (b"-A", "100", Set::G1(High::Latin1)),
    (b"-B", "101", Set::G1(High::Single(ISO_8859_2))),
    (b"-C", "109", Set::G1(High::Single(ISO_8859_3))),
    (b"-D", "110", Set::G1(High::Single(ISO_8859_4))),
    (b"-L", "144", Set::G1(High::Single(ISO_8859_5))),
    (b"-G", "127", Set::G1(High::Single(ISO_8859_6))),
    (b"-F", "126", Set::G1(High::Single(ISO_8859_7))),
    (b"-H", "138", Set::G1(High::Single(ISO_8859_8))),
    (b"-M", "148", Set::G1(High::Turkish)),
    (b"-b", "203", Set::G1(High::Single(ISO_8859_15))),
    (b"-T", "166", Set::G1(High::Thai)),
    (b")I", "13", Set::G1(High::Katakana)),
    (b"(J", "14", Set::G0(Low::Romaji)),
    (b"$B", "87", Set::G0(Low::Kanji)),
    (b"$(D", "159", Set::G0(Low::SupplementaryKanji)),
    (b"$)C", "149", Set::G1(High::Double(EUC_KR))),
    (b"$)A", "58", Set::G1(High::Double(GBK))),
];

/// A value of any VR that is subject to Specific Character Set, but for PN. `specific_character_set` is the value of
/// (0008,0005) with its backslashes. Values stay separated by `\`, padding stays.
pub fn decode(bytes: &[u8], specific_character_set: &str) -> String {
    decode_until(bytes, specific_character_set, b"\\")
}

/// A person's name: `^` and `=`, too, bring the initial character set back (PS3.5 section 6.1.2.5.3).
pub fn decode_name(bytes: &[u8], specific_character_set: &str) -> String {
    decode_until(bytes, specific_character_set, b"\\^=")
}

fn decode_until(bytes: &[u8], specific_character_set: &str, delimiters: &[u8]) -> String {
    let terms: Vec<String> = specific_character_set.split('\\').map(number).collect();
    // PS3.3 section C.12.1.1.2: these three stand alone and know no code extensions.
    match terms[0].as_str() {
        "192" => return String::from_utf8_lossy(bytes).into_owned(),
        "GB18030" => return GB18030.decode_without_bom_handling(bytes).0.into_owned(),
        "GBK" => return GBK.decode_without_bom_handling(bytes).0.into_owned(),
        _ => {}
    }
    let initial = initial(&terms);
    let mut decoder = Decoder { initial, active: initial, text: String::with_capacity(bytes.len()) };
    decoder.run(bytes, delimiters);
    decoder.text
}

/// What tells the defined terms apart: `ISO_IR 100` and `ISO 2022 IR 100` name one set, and senders write the spaces,
/// hyphens and underscores as they like.
fn number(term: &str) -> String {
    let plain: String =
        term.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    let number = plain.strip_prefix("ISO2022IR").or_else(|| plain.strip_prefix("ISOIR"));
    number.unwrap_or(&plain).to_owned()
}

/// The sets that are active before any escape sequence: those of the first term. Without an own G1 that of the only
/// further term which has one: senders forget the escape sequence, and their bytes can mean nothing else.
fn initial(terms: &[String]) -> (Low, High) {
    let high = |term: &String| {
        ESCAPES.iter().find_map(|(_, number, set)| match set {
            Set::G1(high) if number == term => Some(*high),
            _ => None,
        })
    };
    // JIS X 0201 has both halves (PS3.3 table C.12-2).
    let low = if terms[0] == "13" { Low::Romaji } else { Low::Ascii };
    let mut further = terms.iter().skip(1).filter_map(high);
    let only = match (further.next(), further.next()) {
        (Some(only), None) => only,
        _ => High::None,
    };
    (low, high(&terms[0]).unwrap_or(only))
}

struct Decoder {
    initial: (Low, High),
    active: (Low, High),
    text: String,
}

impl Decoder {
    fn run(&mut self, mut rest: &[u8], delimiters: &[u8]) {
        while let Some(&byte) = rest.first() {
            let taken = match byte {
                ESCAPE => self.escape(&rest[1..]),
                // A control, TAB, LF, FF and CR among them.
                0..=0x1f | 0x7f => {
                    self.active = self.initial;
                    self.text.push(char::from(byte));
                    1
                }
                b' ' => {
                    self.text.push(' ');
                    1
                }
                // C1 controls are in none of the sets.
                0x80..=0x9f => {
                    self.text.push(UNKNOWN);
                    1
                }
                0xa0.. => self.high(rest),
                _ => self.low(rest, delimiters),
            };
            rest = &rest[taken..];
        }
    }

    /// After the escape character. Sequences that were not announced are followed, too: each names one set only.
    fn escape(&mut self, rest: &[u8]) -> usize {
        let Some((sequence, _, set)) = ESCAPES.iter().find(|(sequence, ..)| rest.starts_with(sequence))
        else {
            self.text.push(UNKNOWN);
            return 1;
        };
        match set {
            Set::G0(low) => self.active.0 = *low,
            Set::G1(high) => self.active.1 = *high,
        }
        1 + sequence.len()
    }

    fn low(&mut self, rest: &[u8], delimiters: &[u8]) -> usize {
        let byte = rest[0];
        match self.active.0 {
            // Their bytes may look like delimiters. A sender returns to one byte a character before a true one.
            Low::Kanji => return self.pair(EUC_JP, &[], rest, 0x21..=0x7e),
            Low::SupplementaryKanji => return self.pair(EUC_JP, &[0x8f], rest, 0x21..=0x7e),
            // The Yen sign has the code of the backslash; in the values that are decoded here it separates them.
            Low::Romaji if byte == 0x7e => self.text.push('\u{203e}'),
            Low::Romaji | Low::Ascii => self.text.push(char::from(byte)),
        }
        if delimiters.contains(&byte) {
            self.active = self.initial;
        }
        1
    }

    fn high(&mut self, rest: &[u8]) -> usize {
        let byte = rest[0];
        let code = u32::from(byte);
        let character = match self.active.1 {
            High::None => None,
            High::Latin1 => Some(char::from(byte)),
            High::Turkish => Some(turkish(byte)),
            High::Thai => match byte {
                0xa0 => Some('\u{a0}'),
                0xa1..=0xda | 0xdf..=0xfb => char::from_u32(0xe00 + code - 0xa0),
                _ => None,
            },
            High::Katakana => match byte {
                0xa1..=0xdf => char::from_u32(0xff61 + code - 0xa1),
                _ => None,
            },
            High::Single(table) => character(table, &[byte]),
            High::Double(table) => return self.pair(table, &[], rest, 0xa1..=0xfe),
        };
        self.text.push(character.unwrap_or(UNKNOWN));
        1
    }

    /// One character of two bytes, both within `codes`; `prefix` is what the table wants before them.
    fn pair(
        &mut self,
        table: &'static Encoding,
        prefix: &[u8],
        rest: &[u8],
        codes: std::ops::RangeInclusive<u8>,
    ) -> usize {
        let (Some(first), Some(second)) = (rest.first(), rest.get(1).filter(|b| codes.contains(b))) else {
            self.text.push(UNKNOWN);
            return 1;
        };
        // The tables know the sets in their high halves.
        let bytes = [prefix, &[first | 0x80, second | 0x80]].concat();
        self.text.push(character(table, &bytes).unwrap_or(UNKNOWN));
        2
    }
}

/// The one character that `bytes` are.
fn character(table: &'static Encoding, bytes: &[u8]) -> Option<char> {
    let text = table.decode_without_bom_handling_and_without_replacement(bytes)?;
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// ISO 8859-9, where it is not ISO 8859-1. (What the web calls by its name has more in the C1 range.)
pub(crate) fn turkish(byte: u8) -> char {
    match byte {
        0xd0 => 'Ğ',
        0xdd => 'İ',
        0xde => 'Ş',
        0xf0 => 'ğ',
        0xfd => 'ı',
        0xfe => 'ş',
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests;
