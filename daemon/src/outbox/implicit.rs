//! From Explicit to Implicit VR Little Endian, for peers that take nothing else (PS3.5 section A.1: every peer must).
//!
//! Owns the change of the encoding. It decodes no value: names in any character set pass as they are. It takes what this
//! box writes: defined lengths, and nothing compressed.

/// Items within items, at most: a TID 1500 report has ten levels.
const DEPTH_MAX: usize = 32;

/// Why a data set can't be written implicitly.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImplicitError {
    /// It ends too early, or an element is longer than what holds it.
    #[error("the data set ends within the element at byte {at}")]
    Short {
        /// Where the element begins, in what holds it.
        at: usize,
    },
    /// An element of undefined length.
    #[error("element ({group:04X},{element:04X}) has no defined length")]
    Undefined {
        /// Its group.
        group: u16,
        /// Its number in the group.
        element: u16,
    },
    /// Something else than an item in a sequence, or too many levels of them.
    #[error("a sequence is no list of items, or has more than {DEPTH_MAX} levels")]
    Sequence,
}

/// The same data set in Implicit VR Little Endian.
///
/// # Errors
/// [`ImplicitError`]: this box did not write it.
pub fn from_explicit(data_set: &[u8]) -> Result<Vec<u8>, ImplicitError> {
    let mut out = Vec::with_capacity(data_set.len());
    elements(data_set, &mut out, DEPTH_MAX)?;
    Ok(out)
}

fn elements(bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), ImplicitError> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let short = ImplicitError::Short { at };
        let head: &[u8; 8] = rest.first_chunk().ok_or(ImplicitError::Short { at })?;
        let (tag, vr) = (&head[..4], &head[4..6]);
        // PS3.5 section 7.1.2: these have two reserved bytes and a length of 32 bits.
        let long = matches!(
            vr,
            b"OB"
                | b"OD"
                | b"OF"
                | b"OL"
                | b"OV"
                | b"OW"
                | b"SQ"
                | b"SV"
                | b"UC"
                | b"UN"
                | b"UR"
                | b"UT"
                | b"UV"
        );
        let (start, length) = if long {
            let Some(length) = rest.get(8..12).and_then(|b| b.first_chunk()) else { return Err(short) };
            (12, u32::from_le_bytes(*length))
        } else {
            (8, u32::from(u16::from_le_bytes([head[6], head[7]])))
        };
        if length == u32::MAX {
            let word = |i: usize| u16::from_le_bytes([tag[i], tag[i + 1]]);
            return Err(ImplicitError::Undefined { group: word(0), element: word(2) });
        }
        let end = start + length as usize;
        let value = rest.get(start..end).ok_or(short)?;
        out.extend(tag);
        with_length(out, |out| {
            if vr == b"SQ" {
                return items(value, out, depth);
            }
            out.extend(value);
            Ok(())
        })?;
        at += end;
    }
    Ok(())
}

fn items(bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), ImplicitError> {
    let depth = depth.checked_sub(1).ok_or(ImplicitError::Sequence)?;
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // PS3.5 section 7.5: Item (FFFE,E000).
        if head[..4] != [0xfe, 0xff, 0x00, 0xe0] || length > behind.len() {
            return Err(ImplicitError::Sequence);
        }
        let (item, behind) = behind.split_at(length);
        out.extend(&head[..4]);
        with_length(out, |out| elements(item, out, depth))?;
        rest = behind;
    }
    if rest.is_empty() { Ok(()) } else { Err(ImplicitError::Sequence) }
}

/// Writes a value after its length of 32 bits, which is known only afterwards.
fn with_length(
    out: &mut Vec<u8>,
    value: impl FnOnce(&mut Vec<u8>) -> Result<(), ImplicitError>,
) -> Result<(), ImplicitError> {
    let at = out.len();
    out.extend([0; 4]);
    value(out)?;
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(tag: &[u8; 4], vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        [tag, vr.as_slice(), &(value.len() as u16).to_le_bytes(), value].concat()
    }

    fn long(tag: &[u8; 4], vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        [tag, vr.as_slice(), &[0, 0], &(value.len() as u32).to_le_bytes(), value].concat()
    }

    fn implicit(tag: &[u8; 4], value: &[u8]) -> Vec<u8> {
        [tag, (value.len() as u32).to_le_bytes().as_slice(), value].concat()
    }

    const CHARACTER_SET: &[u8; 4] = b"\x08\0\x05\0";
    const NAME: &[u8; 4] = b"\x10\0\x10\0";
    const CONTENT: &[u8; 4] = b"\x40\0\x30\xa7";
    const CODES: &[u8; 4] = b"\x40\0\x43\xa0";
    const CODE: &[u8; 4] = b"\x08\0\0\x01";
    const PIXELS: &[u8; 4] = b"\xe0\x7f\x10\0";
    const ITEM: &[u8; 4] = b"\xfe\xff\0\xe0";

    #[test]
    fn values_pass_and_lengths_of_sequences_follow() {
        let name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B";
        let explicit = [
            short(CHARACTER_SET, b"CS", b"\\ISO 2022 IR 87"),
            short(NAME, b"PN", name),
            long(
                CONTENT,
                b"SQ",
                &[
                    implicit(ITEM, &long(CODES, b"SQ", &implicit(ITEM, &short(CODE, b"SH", b"mm")))),
                    implicit(ITEM, b""),
                ]
                .concat(),
            ),
            long(PIXELS, b"OB", &[1, 2, 3, 4]),
        ]
        .concat();
        let want = [
            implicit(CHARACTER_SET, b"\\ISO 2022 IR 87"),
            implicit(NAME, name),
            implicit(
                CONTENT,
                &[
                    implicit(ITEM, &implicit(CODES, &implicit(ITEM, &implicit(CODE, b"mm")))),
                    implicit(ITEM, b""),
                ]
                .concat(),
            ),
            implicit(PIXELS, &[1, 2, 3, 4]),
        ]
        .concat();
        assert_eq!(from_explicit(&explicit).unwrap(), want);
        assert_eq!(from_explicit(b"").unwrap(), b"");
    }

    #[test]
    fn what_this_box_does_not_write_is_an_error() {
        let undefined = [CONTENT, b"SQ\0\0".as_slice(), &[0xff; 4]].concat();
        let mut deep = short(CODE, b"SH", b"mm");
        for _ in 0..=DEPTH_MAX {
            deep = long(CODES, b"SQ", &implicit(ITEM, &deep));
        }
        let cases = [
            (undefined, ImplicitError::Undefined { group: 0x0040, element: 0xa730 }),
            (long(CONTENT, b"SQ", &short(CODE, b"SH", b"mm")), ImplicitError::Sequence),
            (long(CONTENT, b"SQ", b"\xfe\xff\0\xe0\x09\0\0\0"), ImplicitError::Sequence),
            (deep, ImplicitError::Sequence),
            (b"\x10\0\x10\0PN\x08\0short".to_vec(), ImplicitError::Short { at: 0 }),
            (b"\x10\0\x10\0PN".to_vec(), ImplicitError::Short { at: 0 }),
            (b"\x10\0\x10\0OB\0\0\x01".to_vec(), ImplicitError::Short { at: 0 }),
        ];
        for (bytes, want) in cases {
            assert_eq!(from_explicit(&bytes).unwrap_err(), want);
        }
    }
}
