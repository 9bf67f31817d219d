//! Whom the worklist is asked about, and which of its answers counts.
use super::*;
use crate::instance::testing::{SMALL, slice, write};
use dicom_core::{DataElement, VR};

fn instance(accession: &str, patient: &str) -> Instance {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slice.dcm");
    let mut object = slice(SMALL, "1.2.3.4");
    object.put(DataElement::new(tags::ACCESSION_NUMBER, VR::SH, accession));
    object.put(DataElement::new(tags::PATIENT_ID, VR::LO, patient));
    write(object, "1.2.840.10008.1.2.1", &path);
    Instance::read(&path).unwrap()
}

fn item(study: &str, accession: &str, priority: &str) -> Vec<u8> {
    Writer::default()
        .text(tags::ACCESSION_NUMBER, accession)
        .uid(tags::STUDY_INSTANCE_UID, study)
        .text(tags::REQUESTED_PROCEDURE_PRIORITY, priority)
        .finish()
}

#[test]
fn the_question_goes_by_order_else_by_patient() {
    let text = |bytes: &[u8], tag| DataSet::new(bytes, IMPLICIT_VR_LITTLE_ENDIAN).unwrap().text(tag).unwrap();
    let by_order = Question::about(&instance("A7 ", "P1")).unwrap().identifier();
    assert_eq!(text(&by_order, tags::ACCESSION_NUMBER).as_deref(), Some("A7"));
    assert_eq!(text(&by_order, tags::PATIENT_ID).as_deref(), Some(""), "asked for, not matched by");
    let by_patient = Question::about(&instance("", "P1")).unwrap().identifier();
    assert_eq!(text(&by_patient, tags::PATIENT_ID).as_deref(), Some("P1"));
    assert_eq!(text(&by_patient, tags::REQUESTED_PROCEDURE_PRIORITY).as_deref(), Some(""));
    assert_eq!(Question::about(&instance("", "")), None);
}

#[test]
fn identifiers_go_out_as_they_came() {
    let question = Question {
        study: StudyUid::new("1.2.3").unwrap(),
        accession_number: Vec::new(),
        patient_id: vec![0xD0, 0x98, 0xFF],
        character_set: b"ISO_IR 144".to_vec(),
    };
    let bytes = question.identifier();
    let set = DataSet::new(&bytes, IMPLICIT_VR_LITTLE_ENDIAN).unwrap();
    assert_eq!(set.value(tags::PATIENT_ID).unwrap().unwrap(), b"\xD0\x98\xFF ");
    assert_eq!(set.text(tags::SPECIFIC_CHARACTER_SET).unwrap().as_deref(), Some("ISO_IR 144"));
}

#[test]
fn the_item_of_the_study_counts_before_that_of_the_order() {
    let question = Question::about(&instance("A7", "P1")).unwrap();
    let cases: &[(&[Vec<u8>], Option<Urgency>)] = &[
        (&[], None),
        (&[item("9.9", "A8", "STAT")], None),
        (&[item("9.9", "A7", "HIGH")], Some(Urgency::High)),
        (&[item("9.9", "A7 ", "STAT"), item("1.2.3", "A8", "LOW")], Some(Urgency::Low)),
        (&[item("1.2.3", "A7", "LOW"), item("1.2.3", "A7", "STAT")], Some(Urgency::Stat)),
        (&[item("1.2.3", "A7", "URGENT")], Some(Urgency::Routine)),
        (&[vec![1, 2, 3], item("1.2.3", "A7", "MEDIUM")], Some(Urgency::Medium)),
    ];
    for (matches, want) in cases {
        assert_eq!(question.pick(matches), *want, "{matches:?}");
    }
    let by_patient = Question::about(&instance("", "P1")).unwrap();
    assert_eq!(by_patient.pick(&[item("9.9", "", "STAT")]), None, "another study of the patient");
    assert_eq!(by_patient.pick(&[item("1.2.3", "", "STAT")]), Some(Urgency::Stat));
}

#[test]
fn a_study_is_asked_about_once_and_routine_until_the_answer() {
    let (urgencies, questions) = Urgencies::asking();
    let instance = instance("A7", "P1");
    let study = &instance.header.study;
    let urgency = || urgencies.of(study, Duration::ZERO);
    urgencies.ask(&instance);
    assert_eq!(questions.asked.try_iter().count(), 1);
    assert_eq!(urgency(), Urgency::Routine);
    lock(&questions.known).get_mut(study).unwrap().urgency = Urgency::Stat;
    // A late slice: the study is complete and waits, and it is received once more.
    urgencies.ask(&instance);
    assert_eq!((urgency(), questions.asked.try_iter().count()), (Urgency::Stat, 0));
    urgencies.forget(study);
    assert_eq!(urgency(), Urgency::Stat, "the second revision waits");
    urgencies.forget(study);
    assert_eq!((urgency(), urgencies.known().len()), (Urgency::Routine, 0));
}

#[test]
fn a_study_that_has_waited_for_long_is_as_urgent_as_any() {
    let (urgencies, questions) = Urgencies::asking();
    let instance = instance("A7", "P1");
    let study = &instance.header.study;
    urgencies.ask(&instance);
    lock(&questions.known).get_mut(study).unwrap().urgency = Urgency::Low;
    assert_eq!(urgencies.of(study, QUEUE_WAIT_MAX - Duration::from_millis(1)), Urgency::Low);
    assert_eq!(urgencies.of(study, QUEUE_WAIT_MAX), Urgency::Stat);
}

#[test]
fn a_study_without_identifiers_is_asked_about_when_a_slice_has_them() {
    let (urgencies, questions) = Urgencies::asking();
    let (without, with) = (instance("", ""), instance("A7", "P1"));
    urgencies.ask(&without);
    assert_eq!(questions.asked.try_iter().count(), 0);
    urgencies.ask(&with);
    urgencies.forget(&with.header.study);
    assert_eq!((questions.asked.try_iter().count(), urgencies.known().len()), (1, 1));
}

#[test]
fn a_worklist_that_is_off_means_routine() {
    let (urgencies, questions) = Urgencies::asking();
    let instance = instance("A7", "P1");
    urgencies.ask(&instance);
    let known = urgencies.clone();
    drop(urgencies);
    let study = instance.header.study.clone();
    let worklist =
        Worklist { ae_title: "RIS".into(), address: "127.0.0.1:1".into(), tls: false, timeout_s: 0.5 };
    let asking = std::thread::spawn(move || answer(&questions, &worklist, &"T".parse().unwrap(), None));
    drop(known.questions);
    asking.join().unwrap().unwrap();
    assert_eq!(known.known.lock().unwrap()[&study].urgency, Urgency::Routine);
}
