use super::*;
use crate::testing::{
    JAPANESE, case, findings, identity, not_evaluated, outcome, python, series, source, text, value,
};

fn verdicts() -> [(study::Outcome, &'static str, &'static str); 3] {
    [
        (outcome(Verdict::Flagged(findings())), "HIGH", "Read chest CT: FLAGGED"),
        (not_evaluated(), "MEDIUM", "Read chest CT: NOT EVALUATED"),
        (outcome(Verdict::NotFlagged(findings())), "LOW", "Read chest CT: NOT FLAGGED"),
    ]
}

#[test]
fn the_priority_follows_the_verdict() {
    let (source, identity) = (source(), identity());
    for (outcome, priority, label) in verdicts() {
        let item = build(&case(&source, None, &outcome, &identity), Some("PACS"));
        assert_eq!(text(&item.data_set, 0x0074, 0x1200), priority);
        assert_eq!(text(&item.data_set, 0x0074, 0x1204), label);
        assert!(text(&item.data_set, 0x0040, 0x0400).starts_with("NOT FOR DIAGNOSTIC USE"));
        // The name keeps its bytes, beside the set that they are written in.
        assert!(value(&item.data_set, Tag(0x0010, 0x0010)).unwrap().starts_with(JAPANESE));
        assert_eq!(text(&item.data_set, 0x0008, 0x0005), "\\ISO 2022 IR 87");
        assert_eq!(item, build(&case(&source, None, &outcome, &identity), Some("PACS")));
    }
}

/// pydicom reads the item, and finds what PS3.4 table CC.2.5-3 demands of an SCU's N-CREATE.
#[test]
fn every_attribute_of_the_table_is_there() {
    let script = r#"
import sys, io
from pydicom import dcmread
from pydicom.filereader import read_dataset

with open(sys.argv[1], "rb") as file:
    item = read_dataset(file, is_implicit_VR=False, is_little_endian=True)
type_1 = """ScheduledProcedureStepPriority ProcedureStepLabel ScheduledProcedureStepStartDateTime InputReadinessState
    ProcedureStepState SpecificCharacterSet PatientID StudyInstanceUID""".split()
type_2 = """TransactionUID WorklistLabel ScheduledProcessingParametersSequence ScheduledStationNameCodeSequence
    ScheduledStationClassCodeSequence ScheduledStationGeographicLocationCodeSequence ScheduledWorkitemCodeSequence
    CommentsOnTheScheduledProcedureStep InputInformationSequence ReferencedRequestSequence
    ProcedureStepProgressInformationSequence UnifiedProcedureStepPerformedProcedureSequence PatientName IssuerOfPatientID
    PatientBirthDate PatientSex OtherPatientIDsSequence IssuerOfPatientIDQualifiersSequence AdmissionID
    IssuerOfAdmissionIDSequence AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence""".split()
for keyword in type_1:
    assert item[keyword].value, keyword
for keyword in type_2:
    assert keyword in item, keyword
EMPTY = ["TransactionUID", "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"]
for keyword in EMPTY:
    assert not item[keyword].value, keyword
assert "SOPInstanceUID" not in item and "SOPClassUID" not in item
assert item.ProcedureStepState == "SCHEDULED" and item.ScheduledProcedureStepPriority == "HIGH"
assert item.ScheduledProcedureStepStartDateTime == "20261123070509" and item.InputReadinessState == "READY"
assert item.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
[inputs] = item.InputInformationSequence
assert inputs.TypeOfInstances == "DICOM" and inputs.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
assert inputs.StudyInstanceUID == item.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.1"
assert inputs.SeriesInstanceUID == "1.2.826.0.1.3680043.8.498.2"
assert [str(i.ReferencedSOPInstanceUID).rsplit(".", 1)[1] for i in inputs.ReferencedSOPSequence] == ["1", "2", "3"]
assert {str(i.ReferencedSOPClassUID) for i in inputs.ReferencedSOPSequence} == {"1.2.840.10008.5.1.4.1.1.2"}
[request] = item.ReferencedRequestSequence
assert request.StudyInstanceUID == item.StudyInstanceUID
for keyword in """AccessionNumber IssuerOfAccessionNumberSequence OrderPlacerIdentifierSequence
    OrderFillerIdentifierSequence RequestedProcedureID RequestedProcedureDescription
    RequestedProcedureCodeSequence""".split():
    assert keyword in request, keyword
item.decode()
assert str(item.PatientName) == "Yamada^Tarou=山田^太郎", str(item.PatientName)
print("complete")
"#;
    let (source, identity, series) = (source(), identity(), series(3, 8, 8));
    let outcome = outcome(Verdict::Flagged(findings()));
    let item = build(&case(&source, Some(&series), &outcome, &identity), Some("PACS"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &item.data_set).unwrap();
    if let Some(said) = python("pydicom", script, &[file.path()]) {
        assert_eq!(said.trim(), "complete");
    }
}

#[test]
fn no_image_is_named_that_nobody_can_fetch() {
    let (source, identity, series) = (source(), identity(), series(3, 8, 8));
    let outcome = not_evaluated();
    for (series, archive) in [(Some(&series), None), (None, Some("PACS"))] {
        let item = build(&case(&source, series, &outcome, &identity), archive);
        assert_eq!(value(&item.data_set, Tag(0x0040, 0x4021)), Some(&[][..]));
        assert_eq!(text(&item.data_set, 0x0020, 0x000d), "1.2.826.0.1.3680043.8.498.1");
    }
}
