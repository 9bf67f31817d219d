//! A walk over the bytes of a DICOM file: copies the few top-level elements that are wanted and what the first item of the
//! Request Attributes Sequence says of the order, finds the pixels, and skips the rest.
//!
//! It never allocates more than the wanted elements (each at most [`VALUE_BYTES_MAX`], each once) and a stack of
//! [`DEPTH_MAX`](crate::dataset::element::DEPTH_MAX) levels, and never recurses: dicom-rs 0.10.1 took 1.78 GB and
//! 7.4 s for a file of 0.5 MB that holds an undefined-length UN element, which is why this exists. Values are not
//! decoded here.
use super::error::Problem;
use crate::dataset::element::{
    Encoding, Header, ITEM, SEQUENCE_END, UNDEFINED, defined, header, inner, item, skip_nested, word,
};
use dicom_core::{Tag, VR};

/// PS3.10 section 7.1: the preamble, before the magic `DICM`.
pub(super) const PREAMBLE_BYTES: usize = 128;
/// Wanted values are identifiers, numbers, codes and names: LO has 64 characters, PN three times 64 (PS3.5 section
/// 6.2), some with several values. Longer ones count as absent, so that 1000 hostile slices hold at most 200 MB.
pub(super) const VALUE_BYTES_MAX: usize = 4096;
/// Fragments of encapsulated pixels that are noted: a slice has one, or a few.
pub(super) const FRAGMENTS_MAX: usize = 1024;

const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);
const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
const MEDIA_STORAGE_CLASS: Tag = Tag(0x0002, 0x0002);
const SPECIFIC_CHARACTER_SET: Tag = Tag(0x0008, 0x0005);
/// Request Attributes Sequence, of the General Series module (PS3.3 section C.7.3.1).
const REQUEST_ATTRIBUTES: Tag = Tag(0x0040, 0x0275);
/// What an image says of its order, in an item of that sequence and, if it conforms, nowhere else: Requested Procedure
/// Description and Requested Procedure ID.
const REQUESTED: [Tag; 2] = [Tag(0x0032, 0x1060), Tag(0x0040, 0x1001)];

pub(super) const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
pub(super) const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

/// An element as the file holds it, little endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawElement {
    /// Its tag.
    pub tag: Tag,
    /// Its value representation, as the file states it; from the dictionary in implicit VR.
    pub vr: VR,
    /// The value with its padding.
    pub value: Vec<u8>,
}

/// Where the pixels of a file are; offsets from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PixelLocation {
    /// The file holds none.
    Absent,
    /// Uncompressed.
    Native { offset: usize, length: usize },
    /// Compressed: (offset, length) of each fragment, without the basic offset table.
    Encapsulated { fragments: Vec<(usize, usize)> },
    /// The file is broken before the end of its pixels.
    Damaged { what: String },
}

/// What a walk found.
#[derive(Debug)]
pub(super) struct Scan {
    /// Transfer syntax from the file meta information, or the guess for a bare data set.
    pub transfer_syntax: String,
    /// The wanted elements, in the order of the file; those of the order last.
    pub elements: Vec<RawElement>,
    /// The pixels.
    pub location: PixelLocation,
}

impl Scan {
    /// The value of a wanted element.
    pub fn get(&self, tag: Tag) -> Option<&RawElement> {
        self.elements.iter().find(|e| e.tag == tag)
    }
}

/// How a file starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// With a preamble: the meta information follows it.
    Part10,
    /// With the meta information.
    Meta,
    /// With the data set itself.
    Bare,
}

/// Tells DICOM from other files by their first bytes.
pub(super) fn recognise(bytes: &[u8]) -> Result<Start, Problem> {
    if bytes.get(PREAMBLE_BYTES..PREAMBLE_BYTES + 4) == Some(b"DICM") {
        return Ok(Start::Part10);
    }
    let magics: [(&[u8], &str); 9] = [
        (b"%PDF", "a PDF"),
        (b"PK\x03\x04", "a ZIP archive; unpack it first"),
        (b"\x1f\x8b", "a gzip archive; unpack it first"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"GIF8", "a GIF picture"),
        (b"NRRD", "an NRRD volume"),
        (b"RIFF", "a film or a sound"),
        (b"\x7fELF", "a program"),
    ];
    if bytes.is_empty() {
        return Err(Problem::NotDicom { looks_like: "an empty file" });
    }
    if let Some((_, looks_like)) = magics.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(Problem::NotDicom { looks_like });
    }
    // A bare data set starts with a low element of group 2 or 8.
    match (word(bytes, 0), word(bytes, 2)) {
        (Some(0x0002), Some(0x0000..=0x0016)) => return Ok(Start::Meta),
        (Some(0x0008), Some(0x0000..=0x0018)) => return Ok(Start::Bare),
        (Some(0x0800), Some(element)) if element.swap_bytes() <= 0x0018 => return Err(big_endian()),
        _ => {}
    }
    let head = &bytes[..bytes.len().min(256)];
    let text = head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..=0xff));
    Err(Problem::NotDicom { looks_like: if text { "a text" } else { "unknown data" } })
}

/// Walks over a whole file.
///
/// # Errors
/// When it is no DICOM, or its data set can't be walked at all. A data set that breaks off is no error:
/// [`Scan::location`] tells.
pub(super) fn scan(bytes: &[u8], wanted: &[Tag]) -> Result<Scan, Problem> {
    let (mut at, bare) = match recognise(bytes)? {
        Start::Part10 => (PREAMBLE_BYTES + 4, false),
        Start::Meta => (0, false),
        Start::Bare => (0, true),
    };
    let mut transfer_syntax = String::new();
    // PS3.10 section 7.1: the meta information is group 0002, in explicit VR little endian.
    while !bare && word(bytes, at) == Some(0x0002) {
        let element = header(bytes, at, Encoding::Explicit).map_err(|what| Problem::Broken { what })?;
        let value = defined(bytes, &element).map_err(|what| Problem::Broken { what })?;
        let text = || String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
        if element.tag == TRANSFER_SYNTAX && value.len() <= VALUE_BYTES_MAX {
            transfer_syntax = text();
        }
        // PS3.3 annex F: Media Storage Directory Storage.
        if element.tag == MEDIA_STORAGE_CLASS && value.len() <= 64 && text() == "1.2.840.10008.1.3.10" {
            return Err(Problem::Directory);
        }
        at = element.value + value.len();
    }
    if transfer_syntax.is_empty() {
        let letters = bytes.get(at + 4..at + 6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase));
        transfer_syntax = if letters { EXPLICIT_LITTLE } else { IMPLICIT_LITTLE }.to_owned();
    }
    let encoding = match transfer_syntax.as_str() {
        IMPLICIT_LITTLE => Encoding::Implicit,
        "1.2.840.10008.1.2.2" => return Err(big_endian()),
        "1.2.840.10008.1.2.1.99" | "1.2.840.10008.1.2.4.95" | "1.2.840.10008.1.2.4.205" => {
            return Err(Problem::DataSetEncoding { uid: transfer_syntax, name: "deflated" });
        }
        // PS3.5 section A.4: all compressed ones are explicit VR little endian.
        _ => Encoding::Explicit,
    };
    let (mut elements, mut request) = (Vec::new(), None);
    let location = walk(bytes, at, encoding, wanted, &mut elements, &mut request)
        .unwrap_or_else(|what| PixelLocation::Damaged { what });
    put_request(&mut elements, request.unwrap_or_default(), wanted);
    Ok(Scan { transfer_syntax, elements, location })
}

fn big_endian() -> Problem {
    Problem::DataSetEncoding { uid: "1.2.840.10008.1.2.2".to_owned(), name: "explicit VR big endian" }
}

/// Walks over the top level up to the pixels; the error says where the data set broke off.
fn walk(
    bytes: &[u8],
    mut at: usize,
    encoding: Encoding,
    wanted: &[Tag],
    elements: &mut Vec<RawElement>,
    request: &mut Option<Vec<RawElement>>,
) -> Result<PixelLocation, String> {
    while at < bytes.len() {
        // Some writers pad the file with zeros.
        if bytes[at..].len() < 8 && bytes[at..].iter().all(|b| *b == 0) {
            break;
        }
        let element = header(bytes, at, encoding)?;
        if element.tag == PIXEL_DATA {
            return pixels(bytes, &element);
        }
        let end = end(bytes, &element, encoding)?;
        let value = &bytes[element.value..end];
        if element.tag == REQUEST_ATTRIBUTES {
            request.get_or_insert_with(|| first_item(value, inner(element.vr, encoding)));
        } else if element.length != UNDEFINED && wanted.contains(&element.tag) {
            keep(elements, &element, value);
        }
        at = end;
    }
    Ok(PixelLocation::Absent)
}

/// Where an element ends.
fn end(bytes: &[u8], element: &Header, encoding: Encoding) -> Result<usize, String> {
    match element.length {
        UNDEFINED => skip_nested(bytes, element, encoding),
        _ => defined(bytes, element).map(|value| element.value + value.len()),
    }
}

/// Copies an element, once and never a long one.
fn keep(elements: &mut Vec<RawElement>, element: &Header, value: &[u8]) {
    let known = elements.iter().any(|e| e.tag == element.tag);
    if !known && value.len() <= VALUE_BYTES_MAX {
        elements.push(RawElement { tag: element.tag, vr: element.vr, value: value.to_vec() });
    }
}

/// What the first item of a sequence says of the order, with the character set that it says it in. `sequence` is its
/// value; where that breaks off so does the copying: the file itself goes on behind it.
fn first_item(sequence: &[u8], encoding: Encoding) -> Vec<RawElement> {
    let mut elements = Vec::new();
    let Some(first) = item(sequence, 0).ok().filter(|first| first.tag == ITEM) else { return elements };
    let length = if first.length == UNDEFINED { usize::MAX } else { first.length as usize };
    let content = &sequence[first.value..first.value.saturating_add(length).min(sequence.len())];
    let mut at = 0;
    // The delimiter of an item is no element: there the headers end.
    while let Ok(element) = header(content, at, encoding) {
        let Ok(end) = end(content, &element, encoding) else { break };
        let wanted = REQUESTED.contains(&element.tag) || element.tag == SPECIFIC_CHARACTER_SET;
        if wanted && element.length != UNDEFINED {
            keep(&mut elements, &element, &content[element.value..end]);
        }
        at = end;
    }
    elements
}

/// Puts what the sequence says in the place of what the top level says.
fn put_request(elements: &mut Vec<RawElement>, request: Vec<RawElement>, wanted: &[Tag]) {
    let set = |elements: &[RawElement]| {
        elements.iter().find(|e| e.tag == SPECIFIC_CHARACTER_SET).map(|e| e.value.clone())
    };
    // PS3.3 section C.12.1.1.2: an item may have a set of its own. Its text can't stand beside another, but for ASCII.
    let same_set = set(&request).is_none_or(|own| Some(own) == set(elements));
    for element in request {
        let empty = element.value.iter().all(|b| matches!(b, b' ' | b'\0'));
        let legible = same_set || element.value.iter().all(|b| matches!(b, b' '..=b'~' | b'\0'));
        if REQUESTED.contains(&element.tag) && wanted.contains(&element.tag) && !empty && legible {
            elements.retain(|e| e.tag != element.tag);
            elements.push(element);
        }
    }
}

fn pixels(bytes: &[u8], element: &Header) -> Result<PixelLocation, String> {
    if element.length != UNDEFINED {
        let value = defined(bytes, element)?;
        return Ok(PixelLocation::Native { offset: element.value, length: value.len() });
    }
    // PS3.5 section A.4: the first item is the basic offset table, the others are fragments.
    let mut fragments = Vec::new();
    let mut at = element.value;
    let mut first = true;
    loop {
        let item = item(bytes, at)?;
        match item.tag {
            SEQUENCE_END => return Ok(PixelLocation::Encapsulated { fragments }),
            ITEM => {
                let value = defined(bytes, &item)?;
                // A file of several frames is refused by its header, so the first fragments are enough.
                if !first && fragments.len() < FRAGMENTS_MAX {
                    fragments.push((item.value, value.len()));
                }
                first = false;
                at = item.value + value.len();
            }
            tag => return Err(format!("{tag} stands among the fragments of the pixel data")),
        }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
pub(super) mod tests;
