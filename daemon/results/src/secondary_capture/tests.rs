use super::*;
use crate::picture::render;
use crate::picture::tests::{findings, outcome};
use crate::projection::tests::chest;
use crate::source::RawElement;
use std::path::Path;
use std::process::Command;
use study::{NotEvaluated, StudyUid};

const WHEN: DateTime = DateTime { year: 2026, month: 11, day: 23, hour: 7, minute: 5, second: 9 };
/// ISO 2022 IR 87: a Japanese name as a scanner sends it (PS3.5 section H.3.1).
const JAPANESE: &[u8] = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B";

fn identity() -> Identity {
    Identity {
        manufacturer: "triaged project".into(),
        model: "triaged".into(),
        software_version: "0.1.0".into(),
        station: "CT1-TRIAGE".into(),
    }
}

fn source() -> SourceStudy {
    let element = |group, number, bytes: &[u8]| RawElement { tag: Tag(group, number), bytes: bytes.to_vec() };
    SourceStudy::new([
        element(0x0008, 0x0005, b"\\ISO 2022 IR 87 "),
        element(0x0008, 0x0020, b"20261123"),
        element(0x0010, 0x0010, JAPANESE),
        element(0x0010, 0x0020, b"12345678"),
        element(0x0010, 0x0040, b"M "),
        element(0x0010, 0x1010, b"067Y"),
    ])
}

fn not_evaluated() -> Outcome {
    outcome(Verdict::NotEvaluated(NotEvaluated::GantryTilt { tilt_deg: 5.0 }))
}

fn built(outcome: &Outcome, revision: u32) -> (SecondaryCapture, Picture) {
    let picture = render(outcome, Some(&chest(60, 100)));
    (build(&source(), outcome, &picture, &identity(), WHEN, revision), picture)
}

/// The value of an element of an explicit little endian data set.
fn value(mut bytes: &[u8], tag: Tag) -> Option<&[u8]> {
    while bytes.len() >= 8 {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (start, length) = match &bytes[4..6] {
            b"OB" => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
            _ => (8, usize::from(word(6))),
        };
        if Tag(word(0), word(2)) == tag {
            return Some(&bytes[start..start + length]);
        }
        bytes = &bytes[start + length..];
    }
    None
}

fn text(bytes: &[u8], group: u16, element: u16) -> String {
    let value = value(bytes, Tag(group, element)).unwrap_or_else(|| panic!("({group:04x},{element:04x})"));
    String::from_utf8(value.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
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
        let sc = build(&source(), outcome, &picture, identity, WHEN, revision);
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
    let sc = build(&SourceStudy::default(), &flagged, &picture, &long, WHEN, 1);
    assert_eq!(text(sc.data_set(), 0x0008, 0x0070), "?".repeat(64));
    assert_eq!(text(sc.data_set(), 0x0008, 0x1010), "a".repeat(16));
}

/// Writes the files of a flagged and an unevaluated study into `folder`, with the pixels that they must hold.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Picture)> {
    [("flagged", outcome(Verdict::Flagged(findings()))), ("not-evaluated", not_evaluated())]
        .into_iter()
        .map(|(name, outcome)| {
            let (sc, picture) = built(&outcome, 1);
            let path = folder.join(format!("{name}.dcm"));
            std::fs::write(&path, &sc.bytes).unwrap();
            (path, picture)
        })
        .collect()
}

#[test]
fn dciodvfy_finds_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, _) in files(folder.path()) {
        let Ok(output) = Command::new("dciodvfy").arg(&path).output() else {
            println!("skipped: no dciodvfy");
            return;
        };
        let report = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        println!("{report}");
        assert!(report.contains("SCImage"), "it did not recognise the object: {report}");
        assert!(!report.contains("Error"), "{report}");
    }
}

#[test]
fn pydicom_reads_the_same_pixels_and_the_name() {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".into());
    let works = Command::new(&python).args(["-c", "import pydicom, numpy"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: no pydicom (python3 or $TRIAGED_PYTHON)");
        return;
    }
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
        let output = Command::new(&python).arg("-c").arg(script).arg(&path).arg(&pixels).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
