//! What a result repeats of the study that it belongs to: patient and study attributes, as raw bytes.
//!
//! DICOM results never decode them: names in ISO 2022 or any other character set survive, because the bytes travel
//! together with the Specific Character Set that they came with. Only what is no DICOM asks for [`SourceStudy::text`].
use crate::charset;

/// Group and element number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u16, pub u16);

/// An attribute that is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTag {
    /// Its tag.
    pub tag: Tag,
    /// Its VR in the dictionary (PS3.6): the one written, whatever the sender's file said.
    pub vr: [u8; 2],
    /// Whether it is of type 2 in our object: written empty when the source has none.
    pub required: bool,
    /// Whether our DICOM objects repeat it. What isn't belongs to the order: HL7 messages and worklist items name it.
    pub repeated: bool,
    /// Longest value that is repeated, in bytes; longer ones are left out. Above what the standard allows, for
    /// senders that exceed it, but bounded.
    pub length_max: usize,
}

const fn required(group: u16, element: u16, vr: [u8; 2]) -> SourceTag {
    SourceTag { tag: Tag(group, element), vr, required: true, repeated: true, length_max: LENGTH_MAX }
}

const fn optional(group: u16, element: u16, vr: [u8; 2]) -> SourceTag {
    SourceTag { tag: Tag(group, element), vr, required: false, repeated: true, length_max: LENGTH_MAX }
}

const fn order(group: u16, element: u16, vr: [u8; 2]) -> SourceTag {
    SourceTag { repeated: false, ..optional(group, element, vr) }
}

/// Three component groups of a person's name in a multi-byte character set, with escapes, fit several times.
const LENGTH_MAX: usize = 1024;

/// What a receiver files a result by: the Patient and General Study modules (PS3.3 sections C.7.1.1, C.7.2.1,
/// C.7.2.2); and what the order is called. Of the order a conformant CT image has Requested Procedure ID and Description,
/// in the first item of the Request Attributes Sequence (0040,0275) of its General Series module (section C.7.3.1), from
/// where the caller takes them; at its top level they are a scanner's own addition, and second choice. Placer and filler
/// order number are in no module of a CT image: only scanners that add them at the top level give them.
///
/// All are text, so that their bytes are the same in every byte order. Study Instance UID is not among them: it comes
/// from the outcome.
pub const SOURCE_TAGS: &[SourceTag] = &[
    optional(0x0008, 0x0005, *b"CS"), // Specific Character Set
    required(0x0008, 0x0020, *b"DA"), // Study Date
    required(0x0008, 0x0030, *b"TM"), // Study Time
    required(0x0008, 0x0050, *b"SH"), // Accession Number
    required(0x0008, 0x0090, *b"PN"), // Referring Physician's Name
    optional(0x0008, 0x1030, *b"LO"), // Study Description
    required(0x0010, 0x0010, *b"PN"), // Patient's Name
    required(0x0010, 0x0020, *b"LO"), // Patient ID
    optional(0x0010, 0x0021, *b"LO"), // Issuer of Patient ID
    required(0x0010, 0x0030, *b"DA"), // Patient's Birth Date
    required(0x0010, 0x0040, *b"CS"), // Patient's Sex
    optional(0x0010, 0x1010, *b"AS"), // Patient's Age
    optional(0x0010, 0x1020, *b"DS"), // Patient's Size
    optional(0x0010, 0x1030, *b"DS"), // Patient's Weight
    required(0x0020, 0x0010, *b"SH"), // Study ID
    order(0x0032, 0x1060, *b"LO"),    // Requested Procedure Description
    order(0x0040, 0x1001, *b"SH"),    // Requested Procedure ID
    order(0x0040, 0x2016, *b"LO"),    // Placer Order Number / Imaging Service Request
    order(0x0040, 0x2017, *b"LO"),    // Filler Order Number / Imaging Service Request
];

/// The value of one attribute as its file has it, padding included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawElement {
    /// Which attribute.
    pub tag: Tag,
    /// Its value field.
    pub bytes: Vec<u8>,
}

/// The attributes of a study that its results repeat. Taken from one instance of the study.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStudy {
    elements: Vec<RawElement>,
}

impl SourceStudy {
    /// Keeps of `elements` those that [`SOURCE_TAGS`] names and whose length is within its bound; of two with the
    /// same tag the first. So the caller may pass a whole header.
    pub fn new(elements: impl IntoIterator<Item = RawElement>) -> Self {
        let mut kept: Vec<RawElement> = Vec::new();
        for element in elements {
            let wanted =
                SOURCE_TAGS.iter().any(|s| s.tag == element.tag && element.bytes.len() <= s.length_max);
            if wanted && kept.iter().all(|k| k.tag != element.tag) {
                kept.push(element);
            }
        }
        kept.sort_by_key(|e| e.tag);
        Self { elements: kept }
    }

    /// The elements that were kept, by tag: what a caller has to store to build the same result again.
    pub fn elements(&self) -> &[RawElement] {
        &self.elements
    }

    /// The value of one of [`SOURCE_TAGS`] as text, without padding (PS3.5 section 6.2): what its Specific Character
    /// Set makes of it ([`charset`]). Empty where there is none.
    pub fn text(&self, tag: Tag) -> String {
        let set = String::from_utf8_lossy(self.get(Tag(0x0008, 0x0005)).unwrap_or_default());
        let bytes = self.get(tag).unwrap_or_default();
        let name = SOURCE_TAGS.iter().any(|s| s.tag == tag && s.vr == *b"PN");
        let text = if name { charset::decode_name(bytes, &set) } else { charset::decode(bytes, &set) };
        text.trim_matches(['\0', ' ']).to_owned()
    }

    /// The value field of an attribute.
    pub fn get(&self, tag: Tag) -> Option<&[u8]> {
        self.elements.iter().find(|e| e.tag == tag).map(|e| e.bytes.as_slice())
    }
}

/// The series that was evaluated: what reports refer to and segmentations lie on.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSeries {
    /// Series Instance UID, as received.
    pub series_uid: String,
    /// Frame of Reference UID (0020,0052); `None` where the source has none.
    pub frame_of_reference_uid: Option<String>,
    /// Rows of each slice.
    pub rows: usize,
    /// Columns of each slice.
    pub columns: usize,
    /// Distance between rows and between columns (0028,0030), in millimetres.
    pub pixel_spacing_mm: [f64; 2],
    /// Distance between slices, in millimetres, positive.
    pub slice_spacing_mm: f64,
    /// Image Orientation (Patient) (0020,0037).
    pub orientation: [f64; 6],
    /// The slices, head to feet: index 0 is the first slice of every mask.
    pub images: Vec<SourceImage>,
}

/// One slice of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceImage {
    /// SOP Class UID, as received.
    pub sop_class_uid: String,
    /// SOP Instance UID, as received.
    pub sop_instance_uid: String,
    /// Image Position (Patient) (0020,0032), in millimetres.
    pub position_mm: [f64; 3],
    /// Slice Thickness (0018,0050), in millimetres, where the source has it.
    pub thickness_mm: Option<f64>,
    /// Instance Number (0020,0013), where the source has a sensible one.
    pub instance_number: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_bounded_and_first_are_kept() {
        let element =
            |group, number, bytes: &[u8]| RawElement { tag: Tag(group, number), bytes: bytes.to_vec() };
        let study = SourceStudy::new([
            element(0x0010, 0x0020, b"ID"),
            element(0x0010, 0x0020, b"OTHER"),
            element(0x0010, 0x0010, &[b'A'; LENGTH_MAX + 1]),
            element(0x7fe0, 0x0010, b"pixels"),
            element(0x0008, 0x0050, b"ACC"),
        ]);
        assert_eq!(study.elements(), [element(0x0008, 0x0050, b"ACC"), element(0x0010, 0x0020, b"ID")]);
        assert_eq!(study.get(Tag(0x0010, 0x0020)), Some(b"ID".as_slice()));
        assert_eq!(study.get(Tag(0x0010, 0x0010)), None);
    }

    #[test]
    fn text_is_decoded_and_unpadded() {
        let element =
            |group, number, bytes: &[u8]| RawElement { tag: Tag(group, number), bytes: bytes.to_vec() };
        let study = SourceStudy::new([
            element(0x0008, 0x0005, b"ISO_IR 144"),
            element(0x0010, 0x0010, b"\xbb\xee\xda^\xdc "),
            element(0x0010, 0x0020, b" 17\0"),
        ]);
        assert_eq!(study.text(Tag(0x0010, 0x0010)), "Люк^м");
        assert_eq!(study.text(Tag(0x0010, 0x0020)), "17");
        assert_eq!(study.text(Tag(0x0008, 0x0050)), "");
    }

    #[test]
    fn the_list_is_sorted_and_without_duplicates() {
        assert!(SOURCE_TAGS.windows(2).all(|w| w[0].tag < w[1].tag));
    }
}
