use super::*;
use crate::case::Identity;
use crate::picture::render;
use crate::projection::tests::chest;
use crate::source::SourceStudy;
use crate::testing::{
    JAPANESE, case, findings, identity, not_evaluated, outcome, python, source, text, value, verify, write,
};
use std::path::Path;
use study::StudyUid;

fn built(outcome: &Outcome, revision: u32) -> (DicomResult, Picture) {
    let picture = render(outcome, Some(&chest(60, 100)));
    let (source, identity) = (source(), identity());
    (build(&Case { revision, ..case(&source, None, outcome, &identity) }, &picture), picture)
}

#[test]
fn the_study_is_repeated_byte_by_byte_and_the_rest_is_ours() {
    let mut outcome = outcome(Verdict::Flagged(findings()));
    outcome.study_uid = StudyUid::new("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap();
    let (sc, picture) = built(&outcome, 3);
    let set = sc.data_set();
    assert_eq!(value(set, Tag(0x0010, 0x0010)).unwrap()[..JAPANESE.len()], *JAPANESE);
    for (group, element, want) in [
        (0x0008, 0x0005, "\\ISO 2022 IR 87"),
        (0x0008, 0x0016, SOP_CLASS_UID),
        (0x0008, 0x0018, &sc.sop_instance_uid),
        (0x0008, 0x0023, "20261123"),
        (0x0008, 0x0033, "070509"),
        (0x0008, 0x0050, ""),
        (0x0008, 0x103e, "Triage NOT FOR DIAGNOSTIC USE"),
        (0x0010, 0x0020, "12345678"),
        (0x0010, 0x0030, ""),
        (0x0010, 0x1010, "067Y"),
        (0x0020, 0x000d, "0f8fad5b-d9cb-469f-a165-70867728950e"),
        (0x0020, 0x000e, &sc.series_uid),
        (0x0020, 0x0013, "3"),
        (0x0020, 0x0020, "L\\F"),
        (0x0020, 0x4000, "FLAGGED, CT-3. Not for diagnostic use."),
    ] {
        assert_eq!(text(set, group, element), want, "({group:04x},{element:04x})");
    }
    assert!(value(set, Tag(0x7fe0, 0x0010)).unwrap() == picture.rgb);
    assert_eq!(value(set, Tag(0x0010, 0x1020)), None, "an absent optional attribute stays absent");
}

#[test]
fn not_evaluated_says_why_in_ascii() {
    let (sc, _) = built(&not_evaluated(), 1);
    let comment = text(sc.data_set(), 0x0020, 0x4000);
    assert!(comment.starts_with("NOT EVALUATED: gantry tilt of 5.0 deg; at most"), "{comment}");
    assert_eq!(text(sc.data_set(), 0x0020, 0x0020), "");
}

#[test]
fn the_same_facts_give_the_same_bytes_and_other_facts_another_uid() {
    let flagged = outcome(Verdict::Flagged(findings()));
    let (first, picture) = built(&flagged, 1);
    assert_eq!(first, built(&flagged, 1).0);
    let mut uids = vec![first.sop_instance_uid.clone()];
    let mut other = |outcome: &Outcome, identity: &Identity, revision, same_series: bool| {
        let sc = build(&Case { revision, ..case(&source(), None, outcome, identity) }, &picture);
        assert!(!uids.contains(&sc.sop_instance_uid));
        assert_eq!(sc.series_uid == first.series_uid, same_series);
        uids.push(sc.sop_instance_uid);
    };
    let mut findings = findings();
    findings.model_version = "2".into();
    let mut study = flagged.clone();
    study.study_uid = StudyUid::new("1.2.3").unwrap();
    let mut series = flagged.clone();
    series.series_uid = None;
    let station = Identity { station: "CT2-TRIAGE".into(), ..identity() };
    other(&flagged, &identity(), 2, true);
    other(&outcome(Verdict::Flagged(findings)), &identity(), 1, true);
    other(&not_evaluated(), &identity(), 1, true);
    other(&series, &identity(), 1, true);
    other(&study, &identity(), 1, false);
    other(&flagged, &station, 1, false);
    // A later sending is the same object, even if what was measured is printed anew.
    assert_eq!(first.sop_instance_uid, built(&flagged, 1).0.sop_instance_uid);
}

#[test]
fn our_own_text_fits_every_character_set_and_its_vr() {
    let long = Identity { manufacturer: "Ü\\".repeat(50), station: "a".repeat(40), ..identity() };
    let flagged = outcome(Verdict::Flagged(findings()));
    let picture = render(&flagged, None);
    let sc = build(&case(&SourceStudy::default(), None, &flagged, &long), &picture);
    assert_eq!(text(sc.data_set(), 0x0008, 0x0070), "?".repeat(64));
    assert_eq!(text(sc.data_set(), 0x0008, 0x1010), "a".repeat(16));
}

/// Writes the files of a flagged and an unevaluated study into `folder`, with the pixels that they must hold.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Picture)> {
    [("flagged", outcome(Verdict::Flagged(findings()))), ("not-evaluated", not_evaluated())]
        .into_iter()
        .map(|(name, outcome)| {
            let (sc, picture) = built(&outcome, 1);
            (write(folder, name, &sc), picture)
        })
        .collect()
}

#[test]
fn dciodvfy_finds_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, _) in files(folder.path()) {
        verify(&path, "SCImage");
    }
}

#[test]
fn pydicom_reads_the_same_pixels_and_the_name() {
    let script = "import sys, pydicom\n\
        d = pydicom.dcmread(sys.argv[1])\n\
        assert d.pixel_array.shape == (d.Rows, d.Columns, 3), d.pixel_array.shape\n\
        assert d.pixel_array.tobytes() == open(sys.argv[2], 'rb').read()\n\
        assert d.PatientName.ideographic == '\\u5c71\\u7530^\\u592a\\u90ce', d.PatientName\n\
        assert d.BurnedInAnnotation == 'NO' and d.ConversionType == 'WSD'\n";
    let folder = tempfile::tempdir().unwrap();
    for (path, picture) in files(folder.path()) {
        let pixels = path.with_extension("rgb");
        std::fs::write(&pixels, &picture.rgb).unwrap();
        python("pydicom, numpy", script, &[&path, &pixels]);
    }
}
