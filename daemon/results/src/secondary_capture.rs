//! Pictures as Secondary Capture Images (PS3.3 section A.8.1) in the study that they belong to, in series of our own:
//! one of the coronal picture, one of axial slices. The source series is never touched.
//!
//! No picture says how large a pixel is: consoles would offer to measure on what is not for diagnosis. The source
//! images, to which each refers, do.
use crate::case::{self, Case, DicomResult, Kind, LO_MAX, ST_MAX, ascii};
use crate::dataset::DataSet;
use crate::picture::Picture;
use crate::references::{put_referenced_series, source_image};
use crate::source::{SourceImage, Tag};
use study::{Outcome, Verdict};

/// Secondary Capture Image Storage.
pub const SOP_CLASS_UID: &str = "1.2.840.10008.5.1.4.1.1.7";
/// What the UIDs of the coronal picture and its series are derived from.
const NAME: &str = "secondary capture";
/// What the UIDs of the slices and their series are derived from.
const SLICES_NAME: &str = "slices";
/// Between the instance numbers of one revision's slices and the next's: more than anybody sends.
const NUMBERS_A_REVISION: u32 = 1000;

/// What tells the two kinds apart.
struct Content<'a> {
    /// Far above the numbers that scanners give, so that the series comes last in a list.
    series_number: &'static str,
    series_description: &'static str,
    /// Third value of Image Type.
    image_type: &'static str,
    instance_number: u32,
    /// Patient Orientation: where the rows and the columns run to. A page of text has none.
    orientation: &'static str,
    /// What the picture was made from.
    sources: &'a [SourceImage],
}

/// Builds the Secondary Capture of the coronal `picture`. The revision becomes the instance number.
pub fn build(case: &Case<'_>, picture: &Picture) -> DicomResult {
    let drawn = case.outcome.findings().is_some();
    let content = Content {
        series_number: "9001",
        series_description: "Triage NOT FOR DIAGNOSTIC USE",
        image_type: "OTHER",
        instance_number: case.revision,
        orientation: if drawn { "L\\F" } else { "" },
        // A notice is made from no image.
        sources: case.series.filter(|_| drawn).map_or(&[], |series| &series.images),
    };
    let set = data_set(case, &case.series_uid(NAME), &content, picture);
    case::finish(Kind::Picture, SOP_CLASS_UID, case.instance_uid(NAME), case.series_uid(NAME), set)
}

/// Builds the Secondary Capture of the `picture` of one axial slice, `image` of the case's series. `number` counts the
/// slices of a revision from 1, head to feet; in the instance number the later revisions follow the earlier.
pub fn slice(case: &Case<'_>, picture: &Picture, image: &SourceImage, number: u32) -> DicomResult {
    let series_uid = case.series_uid(SLICES_NAME);
    let content = Content {
        series_number: "9002",
        series_description: "Triage slices NOT FOR DIAGNOSTIC USE",
        image_type: "AXIAL",
        instance_number: case
            .revision
            .saturating_sub(1)
            .saturating_mul(NUMBERS_A_REVISION)
            .saturating_add(number),
        orientation: "L\\P",
        sources: std::slice::from_ref(image),
    };
    let set = data_set(case, &series_uid, &content, picture);
    let uid = case.instance_uid(&format!("{SLICES_NAME} {}", image.sop_instance_uid));
    case::finish(Kind::Slices, SOP_CLASS_UID, uid, series_uid, set)
}

fn data_set(case: &Case<'_>, series_uid: &str, content: &Content<'_>, picture: &Picture) -> DataSet {
    let mut set = case.data_set(series_uid);
    put_series_and_equipment(&mut set, case, content);
    put_image(&mut set, case, content, picture);
    put_pixels(&mut set, picture);
    if let Some(series) = case.series.filter(|_| !content.sources.is_empty()) {
        let sources = content.sources.iter().map(|image| source_image(image, false));
        set.put_sequence(Tag(0x0008, 0x2112), sources); // Source Image Sequence
        put_referenced_series(&mut set, series, content.sources);
    }
    set
}

fn put_series_and_equipment(set: &mut DataSet, case: &Case<'_>, content: &Content<'_>) {
    let identity = case.identity;
    set.put(Tag(0x0008, 0x0060), b"CS", "OT"); // Modality
    set.put(Tag(0x0008, 0x0064), b"CS", "WSD"); // Conversion Type
    set.put(Tag(0x0008, 0x103e), b"LO", content.series_description);
    set.put(Tag(0x0018, 0x0015), b"CS", "CHEST"); // Body Part Examined
    set.put(Tag(0x0018, 0x1016), b"LO", ascii(&identity.manufacturer, LO_MAX));
    set.put(Tag(0x0018, 0x1018), b"LO", ascii(&identity.model, LO_MAX));
    set.put(Tag(0x0018, 0x1019), b"LO", ascii(&identity.software_version, LO_MAX));
    set.put(Tag(0x0020, 0x0011), b"IS", content.series_number);
}

fn put_image(set: &mut DataSet, case: &Case<'_>, content: &Content<'_>, picture: &Picture) {
    let (outcome, when) = (case.outcome, case.when);
    set.put(Tag(0x0008, 0x0008), b"CS", format!("DERIVED\\SECONDARY\\{}", content.image_type));
    set.put(Tag(0x0008, 0x2111), b"ST", ascii(&derivation(outcome, picture), ST_MAX));
    set.put(Tag(0x0018, 0x1012), b"DA", when.da()); // Date of Secondary Capture
    set.put(Tag(0x0018, 0x1014), b"TM", when.tm()); // Time of Secondary Capture
    set.put(Tag(0x0020, 0x0013), b"IS", content.instance_number.to_string());
    set.put(Tag(0x0020, 0x0020), b"CS", content.orientation);
    set.put(Tag(0x0020, 0x4000), b"LT", ascii(&comment(outcome), ST_MAX));
}

fn put_pixels(set: &mut DataSet, picture: &Picture) {
    set.put_u16(Tag(0x0028, 0x0002), 3); // Samples per Pixel
    set.put(Tag(0x0028, 0x0004), b"CS", "RGB"); // Photometric Interpretation
    set.put_u16(Tag(0x0028, 0x0006), 0); // Planar Configuration: R, G, B of a pixel side by side
    set.put_u16(Tag(0x0028, 0x0010), picture.height as u16); // Rows
    set.put_u16(Tag(0x0028, 0x0011), picture.width as u16); // Columns
    set.put_u16(Tag(0x0028, 0x0100), 8); // Bits Allocated
    set.put_u16(Tag(0x0028, 0x0101), 8); // Bits Stored
    set.put_u16(Tag(0x0028, 0x0102), 7); // High Bit
    set.put_u16(Tag(0x0028, 0x0103), 0); // Pixel Representation: unsigned
    // Burned In Annotation: NO, for it asks whether the pixels identify the patient (PS3.3 section C.7.6.1).
    set.put(Tag(0x0028, 0x0301), b"CS", "NO");
    set.put(Tag(0x0028, 0x2110), b"CS", "00"); // Lossy Image Compression: never
    set.put(Tag(0x7fe0, 0x0010), b"OB", picture.rgb.as_slice());
}

fn derivation(outcome: &Outcome, picture: &Picture) -> String {
    let series = outcome.series_uid.as_ref().map_or("no series", |uid| uid.as_str());
    let shows = picture.shows;
    match outcome.findings() {
        Some(f) => format!(
            "{shows}; from {series} by {}, version {}. Not for diagnostic use.",
            f.method, f.model_version
        ),
        None => format!("{shows} ({series}). Not for diagnostic use."),
    }
}

fn comment(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Flagged(f) => format!("FLAGGED, {}. Not for diagnostic use.", f.category()),
        Verdict::NotFlagged(f) => format!("NOT FLAGGED, {}. Not for diagnostic use.", f.category()),
        Verdict::NotEvaluated(reason) => format!("NOT EVALUATED: {reason}. Not for diagnostic use."),
    }
}

#[cfg(test)]
mod tests;
