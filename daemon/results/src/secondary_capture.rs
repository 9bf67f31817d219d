//! A picture as a Secondary Capture Image (PS3.3 section A.8.1) in the study that it belongs to, in a series of
//! our own. The source series is never touched.
use crate::case::{self, Case, DicomResult, Kind, LO_MAX, ST_MAX, ascii};
use crate::dataset::DataSet;
use crate::picture::Picture;
use crate::source::Tag;
use study::{Outcome, Verdict};

/// Secondary Capture Image Storage.
pub const SOP_CLASS_UID: &str = "1.2.840.10008.5.1.4.1.1.7";
/// Far above the numbers that scanners give, so that the series comes last in a list.
const SERIES_NUMBER: &str = "9001";
const SERIES_DESCRIPTION: &str = "Triage NOT FOR DIAGNOSTIC USE";
/// What its UIDs are derived from.
const NAME: &str = "secondary capture";

/// Builds the Secondary Capture of `picture`. The revision becomes the instance number.
pub fn build(case: &Case<'_>, picture: &Picture) -> DicomResult {
    let series_uid = case.series_uid(NAME);
    let mut set = case.data_set(&series_uid);
    put_series_and_equipment(&mut set, case);
    put_image(&mut set, case, picture);
    case::finish(Kind::Picture, SOP_CLASS_UID, case.instance_uid(NAME), series_uid, set)
}

fn put_series_and_equipment(set: &mut DataSet, case: &Case<'_>) {
    let identity = case.identity;
    set.put(Tag(0x0008, 0x0060), b"CS", "OT"); // Modality
    set.put(Tag(0x0008, 0x0064), b"CS", "WSD"); // Conversion Type
    set.put(Tag(0x0008, 0x103e), b"LO", SERIES_DESCRIPTION);
    set.put(Tag(0x0018, 0x0015), b"CS", "CHEST"); // Body Part Examined
    set.put(Tag(0x0018, 0x1016), b"LO", ascii(&identity.manufacturer, LO_MAX));
    set.put(Tag(0x0018, 0x1018), b"LO", ascii(&identity.model, LO_MAX));
    set.put(Tag(0x0018, 0x1019), b"LO", ascii(&identity.software_version, LO_MAX));
    set.put(Tag(0x0020, 0x0011), b"IS", SERIES_NUMBER);
}

fn put_image(set: &mut DataSet, case: &Case<'_>, picture: &Picture) {
    let (outcome, when) = (case.outcome, case.when);
    set.put(Tag(0x0008, 0x0008), b"CS", "DERIVED\\SECONDARY\\OTHER"); // Image Type
    set.put(Tag(0x0008, 0x2111), b"ST", ascii(&derivation(outcome), ST_MAX));
    set.put(Tag(0x0018, 0x1012), b"DA", when.da()); // Date of Secondary Capture
    set.put(Tag(0x0018, 0x1014), b"TM", when.tm()); // Time of Secondary Capture
    set.put(Tag(0x0020, 0x0013), b"IS", case.revision.to_string()); // Instance Number
    // Patient Orientation: rows run to the patient's left, columns to the feet. A page of text has none.
    let orientation = if outcome.findings().is_some() { "L\\F" } else { "" };
    set.put(Tag(0x0020, 0x0020), b"CS", orientation);
    set.put(Tag(0x0020, 0x4000), b"LT", ascii(&comment(outcome), ST_MAX));
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

fn derivation(outcome: &Outcome) -> String {
    let series = outcome.series_uid.as_ref().map_or("no series", |uid| uid.as_str());
    match outcome.findings() {
        Some(f) => format!(
            "Coronal mean projection of {series} with the affected share of the lung along the ray in colour; \
             {}, version {}. Not for diagnostic use.",
            f.method, f.model_version
        ),
        None => format!("Notice that the study was not evaluated ({series}). Not for diagnostic use."),
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
