use super::*;
use crate::case::Identity;
use crate::testing::{
    JAPANESE, case, findings, identity, not_evaluated, outcome, python, series, skip, source,
    text as value_of, value, verify, write,
};
use crate::{RawElement, SourceStudy, words};
use std::path::PathBuf;
use std::process::Command;
use study::{Lesions, NotEvaluated, Outcome, Sides, Verdict};

const SLICES: usize = 12;

fn built(outcome: &Outcome, series: Option<&SourceSeries>) -> DicomResult {
    build(&case(&source(), series, outcome, &identity()))
}

/// One outcome of every kind, with and without a source series.
fn documents() -> Vec<(&'static str, DicomResult)> {
    let chest = series(SLICES, 512, 384);
    let none_of_the_left = study::Findings {
        probability: Some(f32::NAN),
        lesions: Some(Lesions {
            fraction: Sides { left: 0.0, right: 0.25 },
            volume_ml: Sides { left: 0.0, right: f64::INFINITY },
        }),
        lung_volume_ml: Sides { left: 0.0, right: 2315.0 },
        ..findings()
    };
    vec![
        ("flagged", built(&outcome(Verdict::Flagged(findings())), Some(&chest))),
        ("not-flagged", built(&outcome(Verdict::NotFlagged(findings())), Some(&chest))),
        ("no-number", built(&outcome(Verdict::NotFlagged(none_of_the_left)), None)),
        (
            "no-severity",
            built(
                &outcome(Verdict::NotFlagged(study::Findings { lesions: None, ..findings() })),
                Some(&chest),
            ),
        ),
        (
            "no-probability",
            built(
                &outcome(Verdict::NotFlagged(study::Findings { probability: None, ..findings() })),
                Some(&chest),
            ),
        ),
        ("not-evaluated", built(&not_evaluated(), Some(&chest))),
        ("no-series", built(&not_evaluated(), None)),
    ]
}

fn holds(document: &DicomResult, text: &str) -> bool {
    document.bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_header_is_an_unverified_report_of_the_same_study() {
    let report = built(&outcome(Verdict::Flagged(findings())), Some(&series(2, 8, 8)));
    let set = report.data_set();
    assert_eq!(value(set, Tag(0x0010, 0x0010)).unwrap()[..JAPANESE.len()], *JAPANESE);
    for (group, element, want) in [
        (0x0008, 0x0005, "\\ISO 2022 IR 87"),
        (0x0008, 0x0016, SOP_CLASS_UID),
        (0x0008, 0x0060, "SR"),
        (0x0008, 0x103e, "Triage report NOT FOR DIAGNOSTIC USE"),
        (0x0020, 0x000d, "1.2.826.0.1.3680043.8.498.1"),
        (0x0020, 0x000e, &report.series_uid),
        (0x0020, 0x0011, "9003"),
        (0x0020, 0x0013, "1"),
        (0x0040, 0xa040, "CONTAINER"),
        (0x0040, 0xa491, "COMPLETE"),
        (0x0040, 0xa493, "UNVERIFIED"),
        (0x0040, 0xa496, "PRELIMINARY"),
    ] {
        assert_eq!(value_of(set, group, element), want, "({group:04x},{element:04x})");
    }
}

#[test]
fn the_same_facts_give_the_same_bytes_and_another_revision_another_instance() {
    let (source, identity, chest) = (source(), identity(), series(3, 8, 8));
    let flagged = outcome(Verdict::Flagged(findings()));
    let case = case(&source, Some(&chest), &flagged, &identity);
    let first = build(&case);
    assert_eq!(first, build(&case));
    let second = build(&Case { revision: 2, ..case });
    assert_ne!(first.sop_instance_uid, second.sop_instance_uid);
    assert_eq!(first.series_uid, second.series_uid);
    assert_ne!(first.series_uid, case.series_uid("secondary capture"));
}

#[test]
fn the_answer_is_in_codes_and_words() {
    for (name, document) in documents() {
        let words: &[&str] = match name {
            "flagged" => &["RID49481", "FLAGGED: read this study first. Reading priority HIGH."],
            "not-flagged" | "no-number" => {
                &["not-flagged", "this does not say normal. Reading priority LOW."]
            }
            "no-severity" => &["not-flagged", "Severity not measured by this method"],
            "no-probability" => &["not-flagged", "identified by severity alone."],
            _ => &[
                "373121007",
                "gantry-tilt",
                "no answer for this study. Reading priority MEDIUM.",
                "Reason: gantry tilt of 5.0 deg;",
            ],
        };
        assert!(words.iter().all(|text| holds(&document, text)), "{name}");
        assert!(holds(&document, words::WARNING) && holds(&document, words::MACHINE), "{name}");
        assert!(!holds(&document, "REVISION"), "{name}");
        let answered = !matches!(name, "not-evaluated" | "no-series" | "no-probability");
        // Of lesions that nobody looked for, no group says anything.
        let lesions = ["flagged", "not-flagged", "no-number", "no-probability"].contains(&name);
        assert_eq!(holds(&document, "Lesions of the right lung"), lesions, "{name}");
        assert_eq!(holds(&document, words::CAVEAT), answered, "{name}");
        assert_eq!(holds(&document, words::SCORE), answered, "{name}");
        // A category of CID 7035 for what is flagged, and for nothing else.
        assert_eq!(holds(&document, "RADLEX"), name == "flagged", "{name}");
    }
}

#[test]
fn what_is_a_bound_and_what_is_replaced_is_in_words() {
    let slight = study::Findings {
        probability: Some(0.9999),
        lesions: Some(Lesions {
            fraction: Sides { left: 0.0, right: 0.0002 },
            ..findings().lesions.unwrap()
        }),
        lung_volume_ml: Sides { left: 0.0, right: 2315.0 },
        ..findings()
    };
    let (source, identity, outcome) = (source(), identity(), outcome(Verdict::Flagged(slight)));
    let report = build(&Case { revision: 4, ..case(&source, None, &outcome, &identity) });
    for words in [
        "REVISION 4 - REPLACES EARLIER RESULTS.",
        "affected share of the lungs: right <0.1 %, left no lung; identification score >0.99.",
    ] {
        assert!(holds(&report, words), "{words}");
    }
}

#[test]
fn every_reason_is_coded_and_said() {
    let reasons = [
        NotEvaluated::NoCt,
        NotEvaluated::NoLungs { volume_ml: 3.0 },
        NotEvaluated::Engine { what: "Ü\\".repeat(3000) },
        NotEvaluated::Unreadable { what: String::new() },
    ];
    for reason in reasons {
        let code = code::reason(&reason);
        assert!(PRIVATE_CODES.contains(&code), "{code:?}");
        let words = crate::case::ascii(format!("Reason: {reason}").trim(), 500);
        let report = built(&outcome(Verdict::NotEvaluated(reason)), None);
        assert!(
            holds(&report, code.value) && holds(&report, code.meaning) && holds(&report, &words),
            "{words}"
        );
    }
}

#[test]
fn blank_names_leave_no_empty_items() {
    let blank = Identity {
        manufacturer: String::new(),
        model: " ".into(),
        software_version: String::new(),
        station: String::new(),
        installation: String::new(),
    };
    let report = build(&case(&SourceStudy::default(), None, &not_evaluated(), &blank));
    let folder = tempfile::tempdir().unwrap();
    verify(&write(folder.path(), "blank", &report), "ComprehensiveSR");
}

#[test]
fn dciodvfy_finds_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in documents() {
        verify(&write(folder.path(), name, &document), "ComprehensiveSR");
    }
}

#[test]
fn dsrdump_has_nothing_to_say_against_it() {
    // In ASCII: Debian's DCMTK warns of ISO 2022 in any document.
    let tag = Tag(0x0010, 0x0010);
    let plain = SourceStudy::new([RawElement { tag, bytes: b"Doe^Jane".to_vec() }]);
    let (identity, chest) = (identity(), series(SLICES, 512, 384));
    let folder = tempfile::tempdir().unwrap();
    for (name, outcome, series, want) in [
        ("flagged", outcome(Verdict::Flagged(findings())), Some(&chest), "(RID49481,RADLEX,"),
        ("not-evaluated", not_evaluated(), None, "(373121007,SCT,\"Not Evaluated\")"),
    ] {
        let path = write(folder.path(), name, &build(&case(&plain, series, &outcome, &identity)));
        let Ok(output) = Command::new("dsrdump").arg("+Pl").arg(&path).output() else {
            return skip("dsrdump");
        };
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.trim().is_empty(), "{err}");
        assert!(out.contains(want) && out.contains("NOT FOR DIAGNOSTIC USE"), "{out}");
        assert_eq!(out.matches("IMAGE:").count(), series.map_or(0, |s| s.images.len()), "{out}");
    }
}

/// The measurements and coded evaluations of an outcome: group, side, name, then value and unit or code.
fn expected(name: &str) -> Vec<&'static str> {
    match name {
        "flagged" => vec![
            "Triage|Bilateral|lesion-fract-max|61.8|%",
            "Triage|Bilateral|probability|0.87|1",
            "Triage|Bilateral|outcome|flagged",
            "Triage|Bilateral|260870009|RID49481",
            "Triage|Bilateral|ct-category|CT-3",
            "Right lung|Right|118565006|2315.0|ml",
            "Lesions of the right lung|Right|118565006|1430.7|ml",
            "Lesions of the right lung|Right|lesion-fraction|61.8|%",
            "Left lung|Left|118565006|2021.4|ml",
            "Lesions of the left lung|Left|118565006|691.3|ml",
            "Lesions of the left lung|Left|lesion-fraction|34.2|%",
        ],
        "not-flagged" => {
            let mut lines = expected("flagged");
            lines[2] = "Triage|Bilateral|outcome|not-flagged";
            lines.remove(3);
            lines
        }
        "no-number" => vec![
            "Triage|Bilateral|lesion-fract-max|25.0|%",
            "Triage|Bilateral|probability|114000",
            "Triage|Bilateral|outcome|not-flagged",
            "Triage|Bilateral|ct-category|CT-1",
            "Right lung|Right|118565006|2315.0|ml",
            "Lesions of the right lung|Right|lesion-fraction|25.0|%",
            "Lesions of the right lung|Right|118565006|114000",
            "Left lung|Left|118565006|0.0|ml",
            "Lesions of the left lung|Left|118565006|0.0|ml",
            "Lesions of the left lung|Left|lesion-fraction|114003",
        ],
        // What a method does not measure has no line, rather than a number.
        "no-severity" => {
            let is_of_lesions = |line: &&str| !(line.contains("lesion") || line.contains("ct-category"));
            expected("not-flagged")
                .into_iter()
                .filter(|line| is_of_lesions(&line.to_lowercase().as_str()))
                .collect()
        }
        "no-probability" => {
            expected("not-flagged").into_iter().filter(|line| !line.contains("probability")).collect()
        }
        "not-evaluated" | "no-series" => vec!["Triage||outcome|373121007", "Triage||reason|gantry-tilt"],
        name => panic!("no document {name}"),
    }
}

#[test]
fn highdicom_reads_the_same_numbers() {
    let script = "import sys, highdicom\n\
        report = highdicom.sr.srread(sys.argv[1])\n\
        assert report.PatientName.ideographic == '\\u5c71\\u7530^\\u592a\\u90ce', report.PatientName\n\
        observer, = report.content.get_observer_contexts()\n\
        assert observer.observer_identifying_attributes.name == 'CT1-TRIAGE'\n\
        for group in report.content.get_image_measurement_groups():\n\
        \x20   side = ''.join(site.laterality.meaning for site in group.finding_sites)\n\
        \x20   head = f'{group.tracking_identifier}|{side}'\n\
        \x20   for m in group.get_measurements():\n\
        \x20       print(f'{head}|{m.name.value}|{m.value}|{m.unit.value}')\n\
        \x20   for e in group.get_qualitative_evaluations():\n\
        \x20       print(f'{head}|{e.name.value}|{e.value.value}')\n";
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in documents() {
        let path = write(folder.path(), name, &document);
        if let Some(lines) = python("highdicom", script, &[&path]) {
            assert_eq!(lines.lines().collect::<Vec<_>>(), expected(name), "{name}");
        }
    }
}

#[test]
fn dcmqi_reads_the_same_numbers() {
    let script = "import json, sys\n\
        for group in json.load(open(sys.argv[1]))['Measurements']:\n\
        \x20   side = group.get('Laterality', {}).get('CodeMeaning', '')\n\
        \x20   assert group['measurementAlgorithmIdentification']['AlgorithmName']\n\
        \x20   head = group['TrackingIdentifier'] + '|' + side\n\
        \x20   for m in group['measurementItems']:\n\
        \x20       value, unit = m['value'], m['units']['CodeValue']\n\
        \x20       print(head, m['quantity']['CodeValue'], value, unit, sep='|')\n\
        \x20   for e in group.get('qualitativeEvaluations', []):\n\
        \x20       if isinstance(e['conceptValue'], dict):\n\
        \x20           print(head, e['conceptCode']['CodeValue'], e['conceptValue']['CodeValue'], sep='|')\n";
    // Beside the Python that its package is for, else wherever the shell finds it.
    let beside = std::env::var("TRIAGED_PYTHON").map(|p| PathBuf::from(p).with_file_name("tid1500reader"));
    let reader = beside.ok().filter(|path| path.exists()).unwrap_or_else(|| "tid1500reader".into());
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in documents() {
        let path = write(folder.path(), name, &document);
        let json = path.with_extension("json");
        let mut run = Command::new(&reader);
        run.arg("--inputDICOM").arg(&path).arg("--outputMetadata").arg(&json);
        let Ok(output) = run.output() else { return skip("tid1500reader") };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if let Some(lines) = python("json", script, &[&json]) {
            assert_eq!(lines.lines().collect::<Vec<_>>(), expected(name), "{name}");
        }
    }
}
