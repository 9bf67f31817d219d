//! What the tests of all results share: a source, a case, a reader of data sets, and the peers that check objects.
use crate::case::{Case, DicomResult, Identity};
use crate::source::{RawElement, SourceImage, SourceSeries, SourceStudy, Tag};
use crate::time::DateTime;
use std::path::{Path, PathBuf};
use std::process::Command;
use study::{NotEvaluated, Outcome, Verdict};

pub(crate) use crate::picture::tests::{findings, outcome};

pub(crate) const WHEN: DateTime = DateTime { year: 2026, month: 11, day: 23, hour: 7, minute: 5, second: 9 };
/// ISO 2022 IR 87: a Japanese name as a scanner sends it (PS3.5 section H.3.1).
pub(crate) const JAPANESE: &[u8] = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B";

pub(crate) fn identity() -> Identity {
    Identity {
        manufacturer: "triaged project".into(),
        model: "triaged".into(),
        software_version: "0.1.0".into(),
        station: "CT1-TRIAGE".into(),
        installation: "4d6c1f0e9b7a58230c1de4f7a6b59832".into(),
    }
}

pub(crate) fn source() -> SourceStudy {
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

/// A series of `slices` slices of `rows` × `columns`, head first, 2.5 mm apart.
pub(crate) fn series(slices: usize, rows: usize, columns: usize) -> SourceSeries {
    let image = |k: usize| SourceImage {
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
        sop_instance_uid: format!("1.2.826.0.1.3680043.8.498.3.{}", k + 1),
        position_mm: [-180.0, -170.5, 300.25 - 2.5 * k as f64],
        thickness_mm: Some(2.5),
        instance_number: Some(k as u32 + 1),
    };
    SourceSeries {
        series_uid: "1.2.826.0.1.3680043.8.498.2".into(),
        frame_of_reference_uid: Some("1.2.826.0.1.3680043.8.498.4".into()),
        rows,
        columns,
        pixel_spacing_mm: [0.75, 0.7],
        slice_spacing_mm: 2.5,
        orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        images: (0..slices).map(image).collect(),
    }
}

/// Revision 1 of an outcome.
pub(crate) fn case<'a>(
    source: &'a SourceStudy,
    series: Option<&'a SourceSeries>,
    outcome: &'a Outcome,
    identity: &'a Identity,
) -> Case<'a> {
    Case { source, series, outcome, identity, when: WHEN, revision: 1 }
}

pub(crate) fn not_evaluated() -> Outcome {
    outcome(Verdict::NotEvaluated(NotEvaluated::GantryTilt { tilt_deg: 5.0 }))
}

/// The value of an element of an explicit little endian data set.
pub(crate) fn value(mut bytes: &[u8], tag: Tag) -> Option<&[u8]> {
    while bytes.len() >= 8 {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (start, length) = match &bytes[4..6] {
            b"OB" | b"OW" | b"SQ" | b"UC" | b"UN" | b"UR" | b"UT" => {
                (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize)
            }
            _ => (8, usize::from(word(6))),
        };
        if Tag(word(0), word(2)) == tag {
            return Some(&bytes[start..start + length]);
        }
        bytes = &bytes[start + length..];
    }
    None
}

pub(crate) fn text(bytes: &[u8], group: u16, element: u16) -> String {
    let value = value(bytes, Tag(group, element)).unwrap_or_else(|| panic!("({group:04x},{element:04x})"));
    String::from_utf8(value.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
}

/// Writes an object as `name.dcm`.
pub(crate) fn write(folder: &Path, name: &str, object: &DicomResult) -> PathBuf {
    let path = folder.join(format!("{name}.dcm"));
    std::fs::write(&path, &object.bytes).unwrap();
    path
}

/// Says that a peer is missing; a failure where `TRIAGED_REQUIRE_PEERS=1`.
pub(crate) fn skip(what: &str) {
    assert!(
        std::env::var("TRIAGED_REQUIRE_PEERS").as_deref() != Ok("1"),
        "no {what}, and TRIAGED_REQUIRE_PEERS=1"
    );
    println!("skipped: no {what}");
}

/// dciodvfy must recognise the file as `module` and find no error in it.
pub(crate) fn verify(path: &Path, module: &str) {
    let Ok(output) = Command::new("dciodvfy").arg(path).output() else { return skip("dciodvfy") };
    let report = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    println!("{report}");
    assert!(report.contains(module), "it did not recognise the object: {report}");
    assert!(!report.contains("Error"), "{report}");
}

/// Runs a Python script that imports `modules`; `None`, said aloud, where they are missing. It must succeed.
pub(crate) fn python(modules: &str, script: &str, arguments: &[&Path]) -> Option<String> {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".into());
    let works = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip(&format!("Python with {modules}"));
        return None;
    }
    let output = Command::new(&python).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
