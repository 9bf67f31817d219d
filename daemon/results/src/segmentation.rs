//! Lungs and lesions as a Segmentation (PS3.3 section A.51): binary, on the grid of the source series, one frame for
//! each slice and segment that is not empty.
//!
//! It owns the object's attributes; the frames and their bits are `frames`'. It resamples nothing: a bit is a voxel
//! of the source. The lesions are those inside the lungs, so that their volume is the one that is reported.
mod frames;

use crate::case::{self, Case, DicomResult, Kind, LO_MAX, ascii};
use crate::code::{Code, LEFT, LESION, LUNG, RIGHT, dcm, sct};
use crate::dataset::DataSet;
use crate::masks::Masks;
use crate::references::put_referenced_series;
use crate::source::{SourceSeries, Tag};
use crate::uid;
use crate::words;
use frames::Frames;
use study::Findings;

/// Segmentation Storage.
pub const SOP_CLASS_UID: &str = "1.2.840.10008.5.1.4.1.1.66.4";
const SERIES_NUMBER: &str = "9004";
const SERIES_DESCRIPTION: &str = "Triage segmentation NOT FOR DIAGNOSTIC USE";
/// What its UIDs are derived from.
const NAME: &str = "segmentation";

/// The labels of the segments, in the order of their numbers, from 1. All three, whether or not anything is in them: an
/// empty segment says that nothing was found. Of a method that measures no lesions, the lungs alone.
pub const SEGMENTS: [&str; 3] = [TABLE[0].label, TABLE[1].label, TABLE[2].label];

/// A segment; its number is its place in [`SEGMENTS`].
struct Segment {
    label: &'static str,
    description: &'static str,
    category: Code,
    property: Code,
    /// Right or left, of the property.
    side: Option<Code>,
    /// Where it is found, when the property does not say so.
    region: Option<Code>,
    /// A colour for viewers: CIELab, 16 bits each (PS3.3 section C.10.7.1.1).
    cielab: [u16; 3],
}

const ANATOMY: Code = sct("91723000", "Anatomical Structure");
/// PS3.16 CID 7150. Not "finding": the network marks a changed structure, and names no disease.
const ABNORMAL: Code = sct("49755003", "Morphologically Abnormal Structure");
/// PS3.16 CID 7162.
const ARTIFICIAL_INTELLIGENCE: Code = dcm("123110", "Artificial Intelligence");

const TABLE: [Segment; 3] = [
    Segment {
        label: "Right lung",
        description: "The patient's right lung, lesions included. Not for diagnostic use.",
        category: ANATOMY,
        property: LUNG,
        side: Some(RIGHT),
        region: None,
        cielab: [40357, 32484, 22959],
    },
    Segment {
        label: "Left lung",
        description: "The patient's left lung, lesions included. Not for diagnostic use.",
        category: ANATOMY,
        property: LUNG,
        side: Some(LEFT),
        region: None,
        cielab: [46297, 22989, 33726],
    },
    Segment {
        label: "Lesions",
        description: "Ground-glass opacity and consolidation inside the lungs, as the network saw them. \
            Not for diagnostic use.",
        category: ABNORMAL,
        property: LESION,
        side: None,
        region: Some(LUNG),
        cielab: [33098, 51832, 46786],
    },
];

/// Builds the segmentation: segment 1 the right lung, 2 the left lung, 3 the lesions inside them. They overlap. The
/// revision becomes the instance number.
///
/// `None` where nothing is segmented or there is nothing that it could lie on: no series, no findings, all labels
/// empty, or not one label for each voxel of the series; also where the pixels would exceed the 4 GiB that an element
/// can hold.
pub fn build(case: &Case<'_>, masks: &Masks<'_>) -> Option<DicomResult> {
    let (series, findings) = (case.series?, case.outcome.findings()?);
    let frames = Frames::of(series, masks)?;
    let series_uid = case.series_uid(NAME);
    let mut set = case.data_set(&series_uid);
    put_series_and_equipment(&mut set, case, series);
    put_image(&mut set, series, frames.count(), findings);
    if let Some(words) = words::replaces(case.revision) {
        set.put(Tag(0x0020, 0x4000), b"LT", words); // Image Comments
    }
    set.put_sequence(
        Tag(0x0062, 0x0002), // Segment Sequence
        segments(findings).iter().enumerate().map(|(i, segment)| segment.item(i as u16 + 1, findings)),
    );
    put_referenced_series(&mut set, series, &series.images);
    frames.put_groups(&mut set, series, &case.instance_uid("segmentation dimensions"));
    let mut object =
        case::finish(Kind::Segmentation, SOP_CLASS_UID, case.instance_uid(NAME), series_uid, set);
    // The pixels are the last element, and packed where they stay: they may be tens of megabytes.
    frames.append_pixel_data(series, masks, &mut object.bytes);
    Some(object)
}

/// Without lesions that were looked for there is no segment of them: an empty one would say that there are none.
fn segments(findings: &Findings) -> &'static [Segment] {
    if findings.lesions.is_some() { &TABLE } else { &TABLE[..2] }
}

fn put_series_and_equipment(set: &mut DataSet, case: &Case<'_>, series: &SourceSeries) {
    set.put(Tag(0x0008, 0x0060), b"CS", "SEG"); // Modality
    set.put(Tag(0x0008, 0x103e), b"LO", SERIES_DESCRIPTION);
    set.put(Tag(0x0018, 0x0015), b"CS", "CHEST"); // Body Part Examined
    set.put(Tag(0x0020, 0x0011), b"IS", SERIES_NUMBER);
    set.put(Tag(0x0020, 0x0013), b"IS", case.revision.to_string()); // Instance Number
    // A source without a frame of reference gets one of its own, always the same.
    let frame_of_reference = series.frame_of_reference_uid.clone();
    let frame_of_reference =
        frame_of_reference.unwrap_or_else(|| uid::derive(&["frame of reference", &series.series_uid]));
    set.put(Tag(0x0020, 0x0052), b"UI", frame_of_reference);
    set.put(Tag(0x0020, 0x1040), b"LO", ""); // Position Reference Indicator
}

fn put_image(set: &mut DataSet, series: &SourceSeries, frames: usize, findings: &Findings) {
    let measured = if findings.lesions.is_some() { "Lungs and lesions" } else { "Lungs" };
    set.put(Tag(0x0008, 0x0008), b"CS", "DERIVED\\PRIMARY"); // Image Type
    set.put_u16(Tag(0x0028, 0x0002), 1); // Samples per Pixel
    set.put(Tag(0x0028, 0x0004), b"CS", "MONOCHROME2"); // Photometric Interpretation
    set.put(Tag(0x0028, 0x0008), b"IS", frames.to_string()); // Number of Frames
    set.put_u16(Tag(0x0028, 0x0010), series.rows as u16);
    set.put_u16(Tag(0x0028, 0x0011), series.columns as u16);
    set.put_u16(Tag(0x0028, 0x0100), 1); // Bits Allocated
    set.put_u16(Tag(0x0028, 0x0101), 1); // Bits Stored
    set.put_u16(Tag(0x0028, 0x0102), 0); // High Bit
    set.put_u16(Tag(0x0028, 0x0103), 0); // Pixel Representation: unsigned
    set.put(Tag(0x0028, 0x2110), b"CS", "00"); // Lossy Image Compression: never
    set.put(Tag(0x0062, 0x0001), b"CS", "BINARY"); // Segmentation Type
    set.put(Tag(0x0062, 0x0013), b"CS", "YES"); // Segments Overlap: lesions lie in the lungs
    set.put(Tag(0x0070, 0x0080), b"CS", "TRIAGE"); // Content Label
    set.put(Tag(0x0070, 0x0081), b"LO", format!("{measured}. Not for diagnostic use.")); // Content Description
    set.put(Tag(0x0070, 0x0084), b"PN", ""); // Content Creator's Name: nobody
}

impl Segment {
    fn item(&self, number: u16, findings: &Findings) -> DataSet {
        let (name, version) = (ascii(&findings.method, LO_MAX), ascii(&findings.model_version, LO_MAX));
        let mut algorithm = DataSet::default();
        algorithm.put_sequence(Tag(0x0066, 0x002f), [ARTIFICIAL_INTELLIGENCE.item()]); // Algorithm Family
        algorithm.put(Tag(0x0066, 0x0031), b"LO", version); // Algorithm Version
        algorithm.put(Tag(0x0066, 0x0036), b"LO", name.as_str()); // Algorithm Name
        let mut property = self.property.item();
        if let Some(side) = self.side {
            property.put_sequence(Tag(0x0062, 0x0011), [side.item()]); // Segmented Property Type Modifier
        }
        let mut item = DataSet::default();
        if let Some(region) = self.region {
            item.put_sequence(Tag(0x0008, 0x2218), [region.item()]); // Anatomic Region
        }
        item.put_sequence(Tag(0x0062, 0x0003), [self.category.item()]); // Segmented Property Category
        item.put_u16(Tag(0x0062, 0x0004), number); // Segment Number
        item.put(Tag(0x0062, 0x0005), b"LO", self.label); // Segment Label
        item.put(Tag(0x0062, 0x0006), b"ST", self.description); // Segment Description
        item.put_sequence(Tag(0x0062, 0x0007), [algorithm]); // Segmentation Algorithm Identification
        item.put(Tag(0x0062, 0x0008), b"CS", "AUTOMATIC"); // Segment Algorithm Type
        item.put(Tag(0x0062, 0x0009), b"LO", name); // Segment Algorithm Name
        let colour: Vec<u8> = self.cielab.iter().flat_map(|v| v.to_le_bytes()).collect();
        item.put(Tag(0x0062, 0x000d), b"US", colour); // Recommended Display CIELab Value
        item.put_sequence(Tag(0x0062, 0x000f), [property]); // Segmented Property Type
        item
    }
}

#[cfg(test)]
mod tests;
