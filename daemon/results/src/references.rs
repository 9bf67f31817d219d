//! Coded concepts and references to the source images, as the images and segmentations of ours carry them.
use crate::dataset::DataSet;
use crate::source::{SourceImage, SourceSeries, Tag};

/// A coded concept (PS3.3 section 8.8): value, scheme, meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code(pub &'static str, pub &'static str, pub &'static str);

/// PS3.16 CID 7202.
const SOURCE_IMAGE: Code = Code("121322", "DCM", "Source image for image processing operation");

impl Code {
    /// The item of a code sequence.
    pub fn item(self) -> DataSet {
        let mut item = DataSet::default();
        item.put(Tag(0x0008, 0x0100), b"SH", self.0); // Code Value
        item.put(Tag(0x0008, 0x0102), b"SH", self.1); // Coding Scheme Designator
        item.put(Tag(0x0008, 0x0104), b"LO", self.2); // Code Meaning
        item
    }
}

/// An item of any sequence that references instances.
pub(crate) fn instance(image: &SourceImage) -> DataSet {
    let mut item = DataSet::default();
    item.put(Tag(0x0008, 0x1150), b"UI", image.sop_class_uid.as_str()); // Referenced SOP Class UID
    item.put(Tag(0x0008, 0x1155), b"UI", image.sop_instance_uid.as_str()); // Referenced SOP Instance UID
    item
}

/// An item of the Source Image Sequence (0008,2112). `same_pixels`: the derived pixels lie where the source's lie
/// (PS3.3 section C.7.6.16.2.6, Spatial Locations Preserved).
pub(crate) fn source_image(image: &SourceImage, same_pixels: bool) -> DataSet {
    let mut item = instance(image);
    item.put(Tag(0x0028, 0x135a), b"CS", if same_pixels { "YES" } else { "NO" });
    item.put_sequence(Tag(0x0040, 0xa170), [SOURCE_IMAGE.item()]); // Purpose of Reference Code Sequence
    item
}

/// Puts the Referenced Series Sequence (0008,1115) of the Common Instance Reference module (PS3.3 section C.12.2).
pub(crate) fn put_referenced_series<'a>(
    set: &mut DataSet,
    series: &SourceSeries,
    images: impl IntoIterator<Item = &'a SourceImage>,
) {
    let mut item = DataSet::default();
    item.put_sequence(Tag(0x0008, 0x114a), images.into_iter().map(instance)); // Referenced Instance Sequence
    item.put(Tag(0x0020, 0x000e), b"UI", series.series_uid.as_str());
    set.put_sequence(Tag(0x0008, 0x1115), [item]);
}
