//! The worklist item of an outcome: a Unified Procedure Step, pushed by N-CREATE (PS3.4 section CC.2.5), that asks for
//! the study to be read with a priority. It orders no list: the worklist manager does, which knows what else waits.
use crate::case::{Case, LO_MAX, ascii};
use crate::dataset::DataSet;
use crate::source::{SOURCE_TAGS, SourceSeries, Tag};
use study::{Findings, Priority, Verdict};

/// Unified Procedure Step - Push (PS3.4 section CC.3): the SOP class of the N-CREATE.
pub const UPS_PUSH: &str = "1.2.840.10008.5.1.4.34.6.1";

/// Longest LT value that we write (PS3.5 section 6.2 allows 10240).
const COMMENT_MAX: usize = 1024;

/// What an N-CREATE of the UPS Push SOP class carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItem {
    /// Affected SOP Instance UID: one a study, source series, method, model version, station and revision.
    pub sop_instance_uid: String,
    /// The attribute list, Explicit VR Little Endian.
    pub data_set: Vec<u8>,
}

/// Builds the item. `archive` is the AE title from which the images can be retrieved; without one the item names the
/// study, but no images, since each reference must say where they are (PS3.3 table 10-3b).
pub fn build(case: &Case<'_>, archive: Option<&str>) -> WorkItem {
    let mut set = DataSet::default();
    put_patient(case, &mut set);
    put_schedule(case, &mut set);
    let input = archive.and_then(|archive| Some(input(case, case.series?, archive)));
    set.put_sequence(Tag(0x0040, 0x4021), input); // Input Information Sequence
    set.put_sequence(Tag(0x0040, 0xa370), [request(case)]); // Referenced Request Sequence
    // Type 2 of table CC.2.5-3, of which we know nothing or which must be empty in a new item.
    set.put(Tag(0x0008, 0x1195), b"UI", ""); // Transaction UID
    set.put_sequence(Tag(0x0074, 0x1002), []); // Procedure Step Progress Information Sequence
    set.put_sequence(Tag(0x0074, 0x1216), []); // Unified Procedure Step Performed Procedure Sequence
    WorkItem { sop_instance_uid: case.instance_uid("ups"), data_set: set.write() }
}

/// The values of Scheduled Procedure Step Priority (0074,1200).
pub(crate) fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "HIGH",
        Priority::Medium => "MEDIUM",
        Priority::Low => "LOW",
    }
}

/// Patient Demographic and Visit modules (PS3.3 sections C.2.3 and C.3.2 to C.3.4).
fn put_patient(case: &Case<'_>, set: &mut DataSet) {
    let repeated =
        SOURCE_TAGS.iter().filter(|s| s.repeated && (s.tag.0 == 0x0010 || s.tag == Tag(0x0008, 0x0005)));
    for wanted in repeated {
        match case.source.get(wanted.tag) {
            Some(bytes) => set.put(wanted.tag, &wanted.vr, bytes),
            None if wanted.required || wanted.tag == Tag(0x0010, 0x0021) => {
                set.put(wanted.tag, &wanted.vr, "")
            }
            None => {}
        }
    }
    set.put(Tag(0x0008, 0x1080), b"LO", ""); // Admitting Diagnoses Description
    set.put_sequence(Tag(0x0008, 0x1084), []); // Admitting Diagnoses Code Sequence
    set.put_sequence(Tag(0x0010, 0x1002), []); // Other Patient IDs Sequence
    set.put_sequence(Tag(0x0010, 0x0024), []); // Issuer of Patient ID Qualifiers Sequence
    set.put(Tag(0x0038, 0x0010), b"LO", ""); // Admission ID
    set.put_sequence(Tag(0x0038, 0x0014), []); // Issuer of Admission ID Sequence
}

/// Unified Procedure Step Scheduled Procedure Information module (PS3.3 section C.30.2), and the state.
fn put_schedule(case: &Case<'_>, set: &mut DataSet) {
    let outcome = case.outcome;
    let (label, comment) = match &outcome.verdict {
        Verdict::Flagged(findings) => ("FLAGGED", numbers(findings)),
        Verdict::NotFlagged(findings) => ("NOT FLAGGED", numbers(findings)),
        Verdict::NotEvaluated(reason) => ("NOT EVALUATED", reason.to_string()),
    };
    let comment = format!("NOT FOR DIAGNOSTIC USE. {label}: {comment}");
    set.put(Tag(0x0074, 0x1000), b"CS", "SCHEDULED"); // Procedure Step State
    set.put(Tag(0x0074, 0x1200), b"CS", priority(outcome.priority())); // Scheduled Procedure Step Priority
    set.put(Tag(0x0074, 0x1204), b"LO", format!("Read chest CT: {label}")); // Procedure Step Label
    set.put(Tag(0x0074, 0x1202), b"LO", ascii(&case.identity.model, LO_MAX)); // Worklist Label
    set.put(Tag(0x0040, 0x0400), b"LT", ascii(&comment, COMMENT_MAX)); // Comments on the Scheduled Procedure Step
    set.put(Tag(0x0040, 0x4005), b"DT", case.when.da() + &case.when.tm()); // Scheduled Procedure Step Start DateTime
    // The study was complete before it was evaluated.
    set.put(Tag(0x0040, 0x4041), b"CS", "READY"); // Input Readiness State
    set.put(Tag(0x0020, 0x000d), b"UI", outcome.study_uid.as_str());
    // PS3.16 CID 9231.
    set.put_sequence(Tag(0x0040, 0x4018), [code("110005", "DCM", "Interpretation")]); // Scheduled Workitem Code
    set.put_sequence(Tag(0x0074, 0x1210), []); // Scheduled Processing Parameters Sequence
    set.put_sequence(Tag(0x0040, 0x4025), []); // Scheduled Station Name Code Sequence
    set.put_sequence(Tag(0x0040, 0x4026), []); // Scheduled Station Class Code Sequence
    set.put_sequence(Tag(0x0040, 0x4027), []); // Scheduled Station Geographic Location Code Sequence
}

fn numbers(findings: &Findings) -> String {
    format!(
        "{}, affected share of the lungs: right {:.1} %, left {:.1} %; probability {:.2}",
        findings.category(),
        findings.severity.right * 100.0,
        findings.severity.left * 100.0,
        findings.probability
    )
}

fn code(value: &str, scheme: &str, meaning: &str) -> DataSet {
    let mut item = DataSet::default();
    item.put(Tag(0x0008, 0x0100), b"SH", value);
    item.put(Tag(0x0008, 0x0102), b"SH", scheme);
    item.put(Tag(0x0008, 0x0104), b"LO", meaning);
    item
}

/// Referenced Instances and Access macro (PS3.3 table 10-3b).
fn input(case: &Case<'_>, series: &SourceSeries, archive: &str) -> DataSet {
    let mut retrieval = DataSet::default();
    retrieval.put(Tag(0x0008, 0x0054), b"AE", archive);
    let images = series.images.iter().map(|image| {
        let mut item = DataSet::default();
        item.put(Tag(0x0008, 0x1150), b"UI", image.sop_class_uid.as_str());
        item.put(Tag(0x0008, 0x1155), b"UI", image.sop_instance_uid.as_str());
        item
    });
    let mut item = DataSet::default();
    item.put(Tag(0x0040, 0xe020), b"CS", "DICOM"); // Type of Instances
    item.put(Tag(0x0020, 0x000d), b"UI", case.outcome.study_uid.as_str());
    item.put(Tag(0x0020, 0x000e), b"UI", series.series_uid.as_str());
    item.put_sequence(Tag(0x0008, 0x1199), images); // Referenced SOP Sequence
    item.put_sequence(Tag(0x0040, 0xe021), [retrieval]); // DICOM Retrieval Sequence
    item
}

/// What was ordered: an item of the Referenced Request Sequence.
fn request(case: &Case<'_>) -> DataSet {
    let mut item = DataSet::default();
    item.put(Tag(0x0020, 0x000d), b"UI", case.outcome.study_uid.as_str());
    let known: [(u16, u16, &[u8; 2]); 5] = [
        (0x0008, 0x0050, b"SH"), // Accession Number
        (0x0032, 0x1060, b"LO"), // Requested Procedure Description
        (0x0040, 0x1001, b"SH"), // Requested Procedure ID
        (0x0040, 0x2016, b"LO"), // Placer Order Number / Imaging Service Request
        (0x0040, 0x2017, b"LO"), // Filler Order Number / Imaging Service Request
    ];
    for (group, element, vr) in known {
        let tag = Tag(group, element);
        item.put(tag, vr, case.source.get(tag).unwrap_or_default());
    }
    item.put_sequence(Tag(0x0008, 0x0051), []); // Issuer of Accession Number Sequence
    item.put_sequence(Tag(0x0032, 0x1064), []); // Requested Procedure Code Sequence
    item.put_sequence(Tag(0x0040, 0x0026), []); // Order Placer Identifier Sequence
    item.put_sequence(Tag(0x0040, 0x0027), []); // Order Filler Identifier Sequence
    item
}

#[cfg(test)]
mod tests;
