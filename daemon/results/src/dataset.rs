//! Writes a data set in Explicit VR Little Endian and wraps it as a Part-10 file. It interprets no value.
use crate::source::Tag;

/// Explicit VR Little Endian (PS3.5 section A.2).
pub const EXPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
/// Identifies this implementation in every file and association that it writes (PS3.7 section D.3.3.2).
const IMPLEMENTATION_CLASS_UID: &str = "2.25.302444526110858691514879724493734709067";

/// The elements of a data set, in any order; written in ascending order of their tags.
#[derive(Debug, Default)]
pub struct DataSet {
    elements: Vec<(Tag, [u8; 2], Vec<u8>)>,
}

impl DataSet {
    /// Adds an element, padded to even length as its VR demands (PS3.5 section 6.2).
    ///
    /// A value too long for a 16-bit length is left out: an element that lies about its length would make the
    /// whole object unreadable. Only what a peer sent can be that long.
    pub fn put(&mut self, tag: Tag, vr: &[u8; 2], value: impl Into<Vec<u8>>) {
        let mut value = value.into();
        if value.len() % 2 == 1 {
            value.push(if matches!(vr, b"UI" | b"OB") { 0 } else { b' ' });
        }
        if has_long_length(vr) || value.len() <= usize::from(u16::MAX) {
            self.elements.push((tag, *vr, value));
        }
    }

    /// Adds an unsigned 16-bit value (VR US).
    pub fn put_u16(&mut self, tag: Tag, value: u16) {
        self.put(tag, b"US", value.to_le_bytes());
    }

    /// Adds a sequence of items, each with its length (PS3.5 section 7.5).
    pub fn put_sequence(&mut self, tag: Tag, items: impl IntoIterator<Item = DataSet>) {
        let mut value = Vec::new();
        for item in items {
            let item = item.write();
            value.extend([0xfe, 0xff, 0x00, 0xe0]); // Item (FFFE,E000)
            value.extend((item.len() as u32).to_le_bytes());
            value.extend(item);
        }
        self.put(tag, b"SQ", value);
    }

    /// The bytes of the data set.
    pub fn write(mut self) -> Vec<u8> {
        self.elements.sort_by_key(|(tag, ..)| *tag);
        let mut bytes = Vec::with_capacity(self.elements.iter().map(|(.., value)| value.len() + 12).sum());
        for (Tag(group, element), vr, value) in self.elements {
            bytes.extend(group.to_le_bytes());
            bytes.extend(element.to_le_bytes());
            bytes.extend(vr);
            if has_long_length(&vr) {
                bytes.extend([0, 0]);
                bytes.extend((value.len() as u32).to_le_bytes());
            } else {
                bytes.extend((value.len() as u16).to_le_bytes());
            }
            bytes.extend(value);
        }
        bytes
    }
}

/// PS3.5 section 7.1.2: these VRs have two reserved bytes and a 32-bit length. Only those written here.
fn has_long_length(vr: &[u8; 2]) -> bool {
    matches!(vr, b"OB" | b"OW" | b"SQ" | b"UC" | b"UN" | b"UR" | b"UT")
}

/// Preamble, prefix and file meta information (PS3.10 section 7.1): what precedes the data set in a file.
pub fn file_head(sop_class_uid: &str, sop_instance_uid: &str) -> Vec<u8> {
    let mut meta = DataSet::default();
    meta.put(Tag(0x0002, 0x0001), b"OB", [0, 1]);
    meta.put(Tag(0x0002, 0x0002), b"UI", sop_class_uid);
    meta.put(Tag(0x0002, 0x0003), b"UI", sop_instance_uid);
    meta.put(Tag(0x0002, 0x0010), b"UI", EXPLICIT_LITTLE_ENDIAN);
    meta.put(Tag(0x0002, 0x0012), b"UI", IMPLEMENTATION_CLASS_UID);
    meta.put(Tag(0x0002, 0x0013), b"SH", "TRIAGED");
    let meta = meta.write();
    let mut length = DataSet::default();
    length.put(Tag(0x0002, 0x0000), b"UL", (meta.len() as u32).to_le_bytes());
    let mut head = vec![0; 128];
    head.extend(b"DICM");
    head.extend(length.write());
    head.extend(meta);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_sorted_padded_and_have_the_right_length_field() {
        let mut set = DataSet::default();
        set.put(Tag(0x7fe0, 0x0010), b"OB", [1, 2, 3]);
        set.put(Tag(0x0010, 0x0010), b"PN", "A^B");
        set.put(Tag(0x0008, 0x0018), b"UI", "1.2");
        set.put_u16(Tag(0x0028, 0x0010), 513);
        let want: &[u8] = b"\x08\0\x18\0UI\x04\x001.2\0\x10\0\x10\0PN\x04\0A^B \x28\0\x10\0US\x02\0\x01\x02\
            \xe0\x7f\x10\0OB\0\0\x04\0\0\0\x01\x02\x03\0";
        assert_eq!(set.write(), want);
    }

    #[test]
    fn items_have_their_lengths() {
        let mut item = DataSet::default();
        item.put(Tag(0x0008, 0x0100), b"SH", "mm");
        let mut set = DataSet::default();
        set.put_sequence(Tag(0x0040, 0x08ea), [item, DataSet::default()]);
        let want: &[u8] = b"\x40\0\xea\x08SQ\0\0\x1a\0\0\0\xfe\xff\0\xe0\x0a\0\0\0\x08\0\0\x01SH\x02\0mm\
            \xfe\xff\0\xe0\0\0\0\0";
        assert_eq!(set.write(), want);
    }

    #[test]
    fn a_value_too_long_for_its_length_field_is_left_out() {
        let mut set = DataSet::default();
        set.put(Tag(0x0010, 0x0010), b"PN", vec![b'A'; 65_535]);
        set.put(Tag(0x0010, 0x0020), b"LO", vec![b'A'; 65_534]);
        assert_eq!(set.write().len(), 8 + 65_534);
    }
}
