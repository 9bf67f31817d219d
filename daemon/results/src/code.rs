//! Coded entries (PS3.3 section 8): value, scheme, meaning; and the codes that several results share.
use crate::dataset::DataSet;
use crate::source::Tag;

/// The coding scheme of our own codes, in DICOM and HL7. PS3.16 section 8.2: private designators begin with 99.
pub const PRIVATE_SCHEME: &str = "99TRIAGED";

/// A coded entry (PS3.3 section 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Code Value, at most 16 characters.
    pub value: &'static str,
    /// Coding Scheme Designator.
    pub scheme: &'static str,
    /// Code Meaning, at most 64 characters.
    pub meaning: &'static str,
}

/// PS3.16 annex D.
pub(crate) const fn dcm(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "DCM", meaning }
}

/// SNOMED CT.
pub(crate) const fn sct(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "SCT", meaning }
}

pub(crate) const fn ucum(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "UCUM", meaning }
}

pub(crate) const fn private(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: PRIVATE_SCHEME, meaning }
}

pub(crate) const LUNG: Code = sct("39607008", "Lung");
/// PS3.16 CID 7159. No narrower code is true: ground-glass opacity and consolidation are marked alike.
pub(crate) const LESION: Code = sct("52988006", "Lesion");
pub(crate) const RIGHT: Code = sct("24028007", "Right");
pub(crate) const LEFT: Code = sct("7771000", "Left");

impl Code {
    /// The item of a code sequence.
    pub(crate) fn item(self) -> DataSet {
        let mut item = DataSet::default();
        item.put(Tag(0x0008, 0x0100), b"SH", self.value); // Code Value
        item.put(Tag(0x0008, 0x0102), b"SH", self.scheme); // Coding Scheme Designator
        item.put(Tag(0x0008, 0x0104), b"LO", self.meaning); // Code Meaning
        item
    }
}
