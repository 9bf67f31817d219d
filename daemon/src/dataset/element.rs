//! The elements of an encoded data set, one by one: headers, items, and where a nested one ends.
//!
//! Owns PS3.5 section 7 in little endian. It allocates a stack of [`DEPTH_MAX`] levels and never recurses, takes no
//! memory for a length that is only announced, and decodes no value.
use dicom_core::{Tag, VR};

/// Nested sequences and items, one level each. Real CT headers nest four sequences deep.
pub(crate) const DEPTH_MAX: usize = 64;

/// Begins an item (PS3.5 section 7.5).
pub(crate) const ITEM: Tag = Tag(0xFFFE, 0xE000);
/// Ends an item of undefined length.
pub(crate) const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
/// Ends a sequence of undefined length.
pub(crate) const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);
/// The length of what ends with a delimiter.
pub(crate) const UNDEFINED: u32 = u32::MAX;

/// How elements are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Implicit VR little endian: the dictionary has the VR.
    Implicit,
    /// Explicit VR little endian.
    Explicit,
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Sequence(Encoding),
    Item(Encoding),
}

/// The header of an element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub tag: Tag,
    pub vr: VR,
    pub length: u32,
    /// Where the value starts.
    pub value: usize,
}

/// Skips an element of undefined length; returns where the next one starts.
pub(crate) fn skip_nested(bytes: &[u8], element: &Header, encoding: Encoding) -> Result<usize, String> {
    skip(bytes, element.value, Level::Sequence(inner(element.vr, encoding)), element.tag)
}

/// Skips the content of an item of undefined length; returns where its delimiter starts, and where that ends.
pub(crate) fn skip_item(bytes: &[u8], at: usize, encoding: Encoding) -> Result<(usize, usize), String> {
    let end = skip(bytes, at, Level::Item(encoding), ITEM)?;
    // The delimiter that `skip` has just read has eight bytes.
    Ok((end - 8, end))
}

/// How the items of an element are encoded. PS3.5 section 6.2.2 note 2: an UN element is implicit VR little endian inside.
pub(crate) fn inner(vr: VR, outer: Encoding) -> Encoding {
    if vr == VR::UN { Encoding::Implicit } else { outer }
}

/// Walks on until `first` is closed. `whole` is what is skipped, for messages.
fn skip(bytes: &[u8], mut at: usize, first: Level, whole: Tag) -> Result<usize, String> {
    let mut levels = vec![first];
    while let Some(level) = levels.last().copied() {
        if levels.len() > DEPTH_MAX {
            return Err(format!("{whole} is nested more than {DEPTH_MAX} levels deep"));
        }
        match level {
            Level::Sequence(encoding) => {
                let item = item(bytes, at)?;
                at = item.value;
                match (item.tag, item.length) {
                    (SEQUENCE_END, _) => {
                        levels.pop();
                    }
                    (ITEM, UNDEFINED) => levels.push(Level::Item(encoding)),
                    (ITEM, _) => at += defined(bytes, &item)?.len(),
                    (tag, _) => return Err(format!("{tag} stands between the items of {whole}")),
                }
            }
            Level::Item(encoding) => {
                if tag_at(bytes, at) == Some(ITEM_END) {
                    at = item(bytes, at)?.value;
                    levels.pop();
                    continue;
                }
                let child = header(bytes, at, encoding)?;
                at = child.value;
                if child.length == UNDEFINED {
                    levels.push(Level::Sequence(inner(child.vr, encoding)));
                } else {
                    at += defined(bytes, &child)?.len();
                }
            }
        }
    }
    Ok(at)
}

/// PS3.5 section 7.1: tag, in explicit VR the VR, and the length.
pub(crate) fn header(bytes: &[u8], at: usize, encoding: Encoding) -> Result<Header, String> {
    let ends = || format!("the data ends after {} bytes, inside an element's header", bytes.len());
    let tag = tag_at(bytes, at).ok_or_else(ends)?;
    if tag.group() == 0xFFFE {
        return Err(format!("{tag} stands where an element is expected, at byte {at}"));
    }
    if encoding == Encoding::Implicit {
        let length = double_word(bytes, at + 4).ok_or_else(ends)?;
        return Ok(Header { tag, vr: dictionary_vr(tag), length, value: at + 8 });
    }
    let letters = [*bytes.get(at + 4).ok_or_else(ends)?, *bytes.get(at + 5).ok_or_else(ends)?];
    if !letters.iter().all(u8::is_ascii_uppercase) {
        return Err(format!("{tag} has no value representation, at byte {at}"));
    }
    let vr = VR::from_binary(letters);
    let short = match vr {
        Some(
            VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV,
        ) => false,
        Some(_) => true,
        // PS3.5 section 6.2: value representations to come have a length of 32 bits.
        None => false,
    };
    let vr = vr.unwrap_or(VR::UN);
    if short {
        let length = u32::from(word(bytes, at + 6).ok_or_else(ends)?);
        Ok(Header { tag, vr, length, value: at + 8 })
    } else {
        let length = double_word(bytes, at + 8).ok_or_else(ends)?;
        Ok(Header { tag, vr, length, value: at + 12 })
    }
}

/// PS3.5 section 7.5: an item or delimiter has no value representation in any encoding.
pub(crate) fn item(bytes: &[u8], at: usize) -> Result<Header, String> {
    let ends = || format!("the data ends after {} bytes, inside a sequence", bytes.len());
    let tag = tag_at(bytes, at).ok_or_else(ends)?;
    let length = double_word(bytes, at + 4).ok_or_else(ends)?;
    Ok(Header { tag, vr: VR::UN, length, value: at + 8 })
}

/// The value of an element of defined length.
pub(crate) fn defined<'a>(bytes: &'a [u8], element: &Header) -> Result<&'a [u8], String> {
    let Header { tag, length, value, .. } = *element;
    if length == UNDEFINED {
        return Err(format!("{tag} has no length"));
    }
    let left = bytes.get(value..).unwrap_or_default();
    left.get(..length as usize)
        .ok_or_else(|| format!("{tag} announces {length} bytes, the data ends after {}", left.len()))
}

fn dictionary_vr(tag: Tag) -> VR {
    use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
    let entry = dicom_dictionary_std::StandardDataDictionary.by_tag(tag);
    entry.map_or(VR::UN, |e| e.vr().relaxed())
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn double_word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn tag_at(bytes: &[u8], at: usize) -> Option<Tag> {
    Some(Tag(word(bytes, at)?, word(bytes, at + 2)?))
}
