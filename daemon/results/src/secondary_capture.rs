//! A picture as a Secondary Capture Image (PS3.3 section A.8.1) in the study that it belongs to, in a series of
//! our own. The source series is never touched.
use crate::dataset::{self, DataSet};
use crate::picture::Picture;
use crate::source::{SOURCE_TAGS, SourceStudy, Tag};
use crate::time::DateTime;
use crate::uid;
use study::{Outcome, Verdict};

/// Secondary Capture Image Storage.
pub const SOP_CLASS_UID: &str = "1.2.840.10008.5.1.4.1.1.7";
/// Far above the numbers that scanners give, so that the series comes last in a list.
const SERIES_NUMBER: &str = "9001";
const SERIES_DESCRIPTION: &str = "Triage NOT FOR DIAGNOSTIC USE";
/// Longest LO value (PS3.5 section 6.2).
const LO_MAX: usize = 64;
/// Longest SH value.
const SH_MAX: usize = 16;
/// Longest ST value.
const ST_MAX: usize = 1024;

/// Who made the result: the appliance, as its configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Manufacturer (0008,0070).
    pub manufacturer: String,
    /// Manufacturer's Model Name (0008,1090).
    pub model: String,
    /// Software Versions (0018,1020).
    pub software_version: String,
    /// Station Name (0008,1010). Part of the UIDs: two appliances must not share any.
    pub station: String,
}

/// A Secondary Capture, ready to be stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondaryCapture {
    /// [`SOP_CLASS_UID`].
    pub sop_class_uid: &'static str,
    /// Its SOP Instance UID: one a study, source series, method, model version, station and revision.
    pub sop_instance_uid: String,
    /// The UID of its series: one a study and station, so that revisions lie side by side.
    pub series_uid: String,
    /// Explicit VR Little Endian.
    pub transfer_syntax_uid: &'static str,
    /// The Part-10 file.
    pub bytes: Vec<u8>,
    /// Where in `bytes` the bare data set begins that a C-STORE carries.
    pub data_set_offset: usize,
}

impl SecondaryCapture {
    /// The bare data set, as a C-STORE request carries it.
    pub fn data_set(&self) -> &[u8] {
        &self.bytes[self.data_set_offset..]
    }
}

/// Builds the Secondary Capture of `picture`.
///
/// `when` is the moment of the outcome, not of the sending: with the same arguments every byte is the same, so a
/// receiver that got it twice has it once. `revision` counts the outcomes of a study from 1 (a late slice reopens
/// it) and becomes the instance number.
pub fn build(
    source: &SourceStudy,
    outcome: &Outcome,
    picture: &Picture,
    identity: &Identity,
    when: DateTime,
    revision: u32,
) -> SecondaryCapture {
    let (sop_instance_uid, series_uid) = uids(outcome, identity, revision);
    let mut set = DataSet::default();
    put_source(&mut set, source, outcome);
    put_series_and_equipment(&mut set, &series_uid, identity);
    put_image(&mut set, outcome, picture, when, revision);
    set.put(Tag(0x0008, 0x0016), b"UI", SOP_CLASS_UID);
    set.put(Tag(0x0008, 0x0018), b"UI", sop_instance_uid.as_str());
    let mut bytes = dataset::file_head(SOP_CLASS_UID, &sop_instance_uid);
    let data_set_offset = bytes.len();
    bytes.extend(set.write());
    SecondaryCapture {
        sop_class_uid: SOP_CLASS_UID,
        sop_instance_uid,
        series_uid,
        transfer_syntax_uid: dataset::EXPLICIT_LITTLE_ENDIAN,
        bytes,
        data_set_offset,
    }
}

/// SOP Instance UID and Series Instance UID.
fn uids(outcome: &Outcome, identity: &Identity, revision: u32) -> (String, String) {
    let study = outcome.study_uid.as_str();
    let station = identity.station.as_str();
    let source_series = outcome.series_uid.as_ref().map_or("", |uid| uid.as_str());
    let (method, version) =
        outcome.findings().map_or(("", ""), |f| (f.method.as_str(), f.model_version.as_str()));
    let revision = revision.to_string();
    let kind = "secondary capture";
    let instance =
        uid::derive(&[kind, "instance", study, source_series, version, method, station, &revision]);
    (instance, uid::derive(&[kind, "series", study, station]))
}

fn put_source(set: &mut DataSet, source: &SourceStudy, outcome: &Outcome) {
    for wanted in SOURCE_TAGS {
        match source.get(wanted.tag) {
            Some(bytes) => set.put(wanted.tag, &wanted.vr, bytes),
            None if wanted.required => set.put(wanted.tag, &wanted.vr, ""),
            None => {}
        }
    }
    // As received, even if it is no UID in the standard's sense: any other would be another study.
    set.put(Tag(0x0020, 0x000d), b"UI", outcome.study_uid.as_str());
}

fn put_series_and_equipment(set: &mut DataSet, series_uid: &str, identity: &Identity) {
    set.put(Tag(0x0008, 0x0060), b"CS", "OT"); // Modality
    set.put(Tag(0x0008, 0x0064), b"CS", "WSD"); // Conversion Type
    set.put(Tag(0x0008, 0x0070), b"LO", ascii(&identity.manufacturer, LO_MAX));
    set.put(Tag(0x0008, 0x1010), b"SH", ascii(&identity.station, SH_MAX));
    set.put(Tag(0x0008, 0x103e), b"LO", SERIES_DESCRIPTION);
    set.put(Tag(0x0008, 0x1090), b"LO", ascii(&identity.model, LO_MAX));
    set.put(Tag(0x0018, 0x0015), b"CS", "CHEST"); // Body Part Examined
    set.put(Tag(0x0018, 0x1016), b"LO", ascii(&identity.manufacturer, LO_MAX));
    set.put(Tag(0x0018, 0x1018), b"LO", ascii(&identity.model, LO_MAX));
    set.put(Tag(0x0018, 0x1019), b"LO", ascii(&identity.software_version, LO_MAX));
    set.put(Tag(0x0018, 0x1020), b"LO", ascii(&identity.software_version, LO_MAX));
    set.put(Tag(0x0020, 0x000e), b"UI", series_uid);
    set.put(Tag(0x0020, 0x0011), b"IS", SERIES_NUMBER);
}

fn put_image(set: &mut DataSet, outcome: &Outcome, picture: &Picture, when: DateTime, revision: u32) {
    set.put(Tag(0x0008, 0x0008), b"CS", "DERIVED\\SECONDARY\\OTHER"); // Image Type
    // No Timezone Offset: it would also be applied to the study's own date and time, which are the scanner's.
    set.put(Tag(0x0008, 0x0012), b"DA", when.da()); // Instance Creation Date
    set.put(Tag(0x0008, 0x0013), b"TM", when.tm()); // Instance Creation Time
    set.put(Tag(0x0008, 0x0023), b"DA", when.da()); // Content Date
    set.put(Tag(0x0008, 0x0033), b"TM", when.tm()); // Content Time
    set.put(Tag(0x0008, 0x2111), b"ST", ascii(&derivation(outcome), ST_MAX));
    set.put(Tag(0x0018, 0x1012), b"DA", when.da()); // Date of Secondary Capture
    set.put(Tag(0x0018, 0x1014), b"TM", when.tm()); // Time of Secondary Capture
    set.put(Tag(0x0020, 0x0013), b"IS", revision.to_string()); // Instance Number
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

/// Our own text beside the source's character set: printable ASCII is the same in all of them (PS3.3 section
/// C.12.1.1.2), except for the backslash, which separates values.
fn ascii(text: &str, length_max: usize) -> String {
    let plain = text.replace('°', " deg").replace('±', "+/-");
    let legal = |c: char| if (c.is_ascii_graphic() && c != '\\') || c == ' ' { c } else { '?' };
    plain.chars().map(legal).take(length_max).collect()
}

#[cfg(test)]
mod tests;
