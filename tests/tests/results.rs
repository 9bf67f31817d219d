//! What the peers of a hospital receive of an outcome, as other software reads it: archive, console, radiology
//! information system, worklist manager.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use dicom_object::open_file;
use e2e::daemon::{Daemon, Settings};
use e2e::orthanc::Orthanc;
use e2e::peers::{Collector, Storescp, free_port, have, have_python, run, run_ok, script, storescu};
use e2e::slices::{self, SLICES, header, phantom, renamed, text};
use e2e::tables;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a study's results are, in the order of their making.
const ALL: [&str; 4] = ["picture", "slices", "report", "segmentation"];
const EVALUATED: &str = "2.25.1000";
const NOT_EVALUATED: &str = "2.25.1001";

#[test]
fn every_peer_gets_its_results_and_other_software_reads_them() {
    if !have(&["storescu", "storescp", Orthanc::PROGRAM, "dciodvfy", "dsrdump"])
        || !have_python("pydicom, pynetdicom, highdicom, hl7")
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let ris = Collector::start("mllp.py", &dir.path().join("ris"), &[]);
    let worklist = Collector::start("ups.py", &dir.path().join("worklist"), &[]);
    let archive = free_port();
    let settings = Settings {
        tables: [
            tables::dicom("ORTHANC", archive, &ALL),
            tables::dicom("CONSOLE", console.port, &ALL),
            tables::hl7("ris", ris.port)
                + "receiving_application = \"RIS\"\nreceiving_facility = \"HOSPITAL\"\n",
            tables::ups("WORKLIST", worklist.port),
        ]
        .concat(),
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    let orthanc = Orthanc::start(dir.path(), archive, &daemon);
    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    let whole = renamed(&phantom, EVALUATED, "2.25.1000.1");
    let few = renamed(&phantom[..3], NOT_EVALUATED, "2.25.1001.1");
    for (name, slices) in [("whole", &whole), ("few", &few)] {
        storescu(&daemon, &[], &slices::write(slices, &dir.path().join(name)));
    }
    let outcomes = [EVALUATED, NOT_EVALUATED].map(|study| daemon.outcome(study));
    assert_eq!(outcomes[0]["outcome"], "flagged", "{}", outcomes[0]);
    assert_eq!(outcomes[1]["outcome"], "not_evaluated", "{}", outcomes[1]);
    daemon.wait_delivered();
    assert!(
        daemon.outbox().iter().all(|d| d.state == "delivered" && d.attempts == 1),
        "{:?}",
        daemon.outbox()
    );

    for (study, source, outcome) in [(EVALUATED, &whole, &outcomes[0]), (NOT_EVALUATED, &few, &outcomes[1])] {
        let received = received(&console, study);
        same_in_archive(&orthanc, study, &received);
        received.iter().for_each(|(_, path)| valid(path, &source[0]));
        objects_say(&received, source, outcome);
        message_says(&daemon, &ris.received(), study, outcome);
        step_says(&worklist.received(), study, outcome);
    }
    no_lesion_is_outlined(
        &dir.path().join("outlined"),
        &received(&console, EVALUATED),
        &dir.path().join("whole"),
    );
}

/// The kind of each object that the console has of a study, and its file.
fn received(console: &Storescp, study: &str) -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    for (_, path) in console.received() {
        let header = header(&path);
        if text(&header, tags::STUDY_INSTANCE_UID) != study {
            continue;
        }
        let kind = match text(&header, tags::SERIES_NUMBER).as_str() {
            "9001" => "picture",
            "9002" => "slices",
            "9003" => "report",
            "9004" => "segmentation",
            other => panic!("{}: series {other}", path.display()),
        };
        found.push((kind, path));
    }
    found.sort();
    found
}

fn of_kind<'a>(received: &'a [(&str, PathBuf)], kind: &str) -> Vec<&'a Path> {
    received.iter().filter(|(k, _)| *k == kind).map(|(_, path)| path.as_path()).collect()
}

/// The archive has what the console has, in one study of one patient.
fn same_in_archive(orthanc: &Orthanc, study: &str, received: &[(&str, PathBuf)]) {
    assert_eq!(orthanc.find("Study", study).len(), 1);
    let instances = orthanc.find("Instance", study);
    assert_eq!(instances.len(), received.len(), "{study}");
    let temporary = tempfile::tempdir().unwrap();
    for instance in instances {
        let id = instance["ID"].as_str().unwrap();
        let file = temporary.path().join(id);
        fs::write(&file, orthanc.bytes("GET", &format!("/instances/{id}/file"), "")).unwrap();
        let stored = open_file(&file).unwrap().into_inner();
        let uid = text(&stored, tags::SOP_INSTANCE_UID);
        let same = received.iter().any(|(_, path)| open_file(path).unwrap().into_inner() == stored);
        assert!(same, "{uid} of {study} is another one in Orthanc");
    }
}

/// Valid, and in the study and of the patient of its source.
fn valid(path: &Path, source: &slices::Object) {
    let (_, said) = run(Command::new("dciodvfy").arg(path));
    assert!(!said.contains("Error"), "{}: {said}", path.display());
    let header = header(path);
    for tag in [tags::PATIENT_ID, tags::PATIENT_NAME, tags::STUDY_INSTANCE_UID, tags::STUDY_DATE] {
        assert_eq!(text(&header, tag), text(source, tag), "{}", path.display());
    }
    assert_ne!(text(&header, tags::SERIES_INSTANCE_UID), text(source, tags::SERIES_INSTANCE_UID));
}

/// What the report calls the identification score, and the share of the more affected lung.
const SCORE: &str = "Triage/Identification score (demonstration, no accuracy claimed)";
const WORSE_FRACTION: &str = "Triage/Lesion volume as percent of volume of the more affected lung";
/// Said of the score in every result.
const CAVEAT: &str = "does not tell COVID-19 from other pneumonia";

/// Report and segmentation say what the outcome says, to highdicom and dcmqi.
fn objects_say(received: &[(&str, PathBuf)], source: &[slices::Object], outcome: &Value) {
    let evaluated = outcome["outcome"] != "not_evaluated";
    let (reports, segmentations) = (of_kind(received, "report"), of_kind(received, "segmentation"));
    assert_eq!((reports.len(), of_kind(received, "picture").len()), (1, 1));
    assert_eq!(segmentations.len(), usize::from(evaluated));
    assert_eq!(of_kind(received, "slices").is_empty(), !evaluated);
    let dump = run_ok(Command::new("dsrdump").arg(reports[0]));
    assert!(dump.contains("Imaging Measurement Report"), "{dump}");
    let said = run_ok(script("read_results.py").arg(reports[0]).args(&segmentations));
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let values = &said["report"]["values"];
    if !evaluated {
        assert_eq!(values["Triage/Triage outcome"], json!(["SCT 373121007"]), "{values}");
        let comments = values["Triage/Comment"].to_string();
        assert!(comments.contains(outcome["reason"].as_str().unwrap()), "{comments}");
        assert_eq!(values["Triage/Priority"], Value::Null);
        return;
    }
    assert_eq!(values["Triage/Triage outcome"], json!(["99TRIAGED flagged"]), "{values}");
    assert!(values["Triage/Comment"].to_string().contains(CAVEAT), "{values}");
    assert_eq!(values["Triage/Priority"], json!(["RADLEX RID49481"]));
    let fraction = "Lesion volume as percent of lung volume";
    let numbers = [
        (SCORE, &outcome["probability"], 1.0, "1"),
        (WORSE_FRACTION, &outcome["severity"]["max"], 100.0, "%"),
        (&format!("Lesions of the left lung/{fraction}"), &outcome["severity"]["left"], 100.0, "%"),
        (&format!("Lesions of the right lung/{fraction}"), &outcome["severity"]["right"], 100.0, "%"),
        ("Right lung/Volume", &outcome["lung_volume_ml"]["right"], 1.0, "ml"),
        ("Left lung/Volume", &outcome["lung_volume_ml"]["left"], 1.0, "ml"),
        ("Lesions of the right lung/Volume", &outcome["lesion_volume_ml"]["right"], 1.0, "ml"),
        ("Lesions of the left lung/Volume", &outcome["lesion_volume_ml"]["left"], 1.0, "ml"),
    ];
    for (name, want, factor, unit) in numbers {
        assert_eq!(values[name][0][1], *unit, "{name}: {values}");
        // One decimal, of the score two, and never 0 for a little nor 1 for a high score.
        let (said, want) = (values[name][0][0].as_f64().unwrap(), want.as_f64().unwrap() * factor);
        let (digits, want) = if unit == "1" { (100.0, want.clamp(0.01, 0.99)) } else { (10.0, want) };
        assert!((said - want).abs() <= 0.5 / digits + 1e-6, "{name}: {said}, not {want}");
        assert_eq!((said * digits).round() / digits, said, "{name}");
    }
    // The answer, and for each lung its volume and its lesions.
    assert_eq!(said["report"]["dcmqi_groups"], 5);
    let mut uids: Vec<String> = source.iter().map(|o| text(o, tags::SOP_INSTANCE_UID)).collect();
    uids.sort();
    let sorted = |value: &Value| {
        let mut uids: Vec<String> = serde_json::from_value(value.clone()).unwrap();
        uids.sort();
        uids
    };
    assert_eq!(sorted(&said["report"]["evidence"]), uids);
    let segmentation = &said["segmentation"];
    // Slices without any lung have no frame, and the volume begins and ends with one that has.
    let [slices, rows, columns] = serde_json::from_value(segmentation["shape"].clone()).unwrap();
    assert!(
        (10..=SLICES).contains(&slices) && (rows, columns) == (256, 256),
        "{slices} × {rows} × {columns}"
    );
    assert_eq!(sorted(&segmentation["sources"]), uids);
    let segments = &segmentation["segments"];
    near("right lung", &segments["Right lung"]["ml"], outcome["lung_volume_ml"]["right"].as_f64().unwrap());
    near("left lung", &segments["Left lung"]["ml"], outcome["lung_volume_ml"]["left"].as_f64().unwrap());
    let lesions = &outcome["lesion_volume_ml"];
    let both = lesions["left"].as_f64().unwrap() + lesions["right"].as_f64().unwrap();
    near("lesions", &segments["Lesions"]["ml"], both);
}

fn near(what: &str, value: &Value, want: f64) {
    let value = value.as_f64().unwrap_or_else(|| panic!("{what}: {value}"));
    assert!((value - want).abs() <= 2e-4 * want.abs() + 1e-9, "{what}: {value}, not {want}");
}

/// The message, by field numbers.
fn message_says(daemon: &Daemon, messages: &[Value], study: &str, outcome: &Value) {
    let segments = |message: &Value, name: &str| -> Vec<Value> {
        message.as_array().unwrap().iter().filter(|s| s[0] == name).cloned().collect()
    };
    let about = |message: &&Value| segments(message, "OBX").iter().any(|obx| obx[5] == study);
    let found: Vec<&Value> = messages.iter().filter(about).collect();
    assert_eq!(found.len(), 1, "{study}: {messages:?}");
    let message = found[0];
    let [msh, pid, obr] = ["MSH", "PID", "OBR"].map(|name| segments(message, name).remove(0));
    let header = [(5, "RIS"), (6, "HOSPITAL"), (9, "ORU^R01^ORU_R01"), (12, "2.5.1"), (18, "UNICODE UTF-8")];
    for (field, want) in header {
        assert_eq!(msh[field], want, "MSH-{field}: {msh}");
    }
    assert!(daemon.outbox_of("ris").iter().any(|d| d.kind == "hl7" && msh[10] == *d.uid), "{msh}");
    assert_eq!(pid[3], "PHANTOM-3^^^^PI", "{pid}");
    assert_eq!(pid[5], "PHANTOM^CHEST^^^^^L^A", "{pid}");
    assert_eq!((&obr[25], &obr[24]), (&json!("P"), &json!("CT")), "{obr}");
    let observations = segments(message, "OBX");
    // OBX-11 is the last that these segments must have.
    assert!(observations.iter().all(|obx| obx[11] == "P"), "{observations:?}");
    let abnormal = observations.iter().filter(|obx| obx[8] == "AA").count();
    let (word, flags) = match outcome["outcome"].as_str().unwrap() {
        "flagged" => ("FLAGGED", 1),
        _ => ("NOT EVALUATED", 0),
    };
    assert_eq!(abnormal, flags, "{observations:?}");
    assert!(observations[0][5].as_str().unwrap().contains(word), "{}", observations[0]);
    if let Some(reason) = outcome["reason"].as_str() {
        assert!(observations.iter().any(|obx| obx[5] == reason), "{observations:?}");
    }
}

/// The step, to pynetdicom.
fn step_says(steps: &[Value], study: &str, outcome: &Value) {
    let found: Vec<&Value> = steps.iter().filter(|step| step["study"] == study).collect();
    assert_eq!(found.len(), 1, "{study}: {steps:?}");
    let (priority, words) = match outcome["outcome"].as_str().unwrap() {
        "flagged" => ("HIGH", "FLAGGED"),
        _ => ("MEDIUM", outcome["reason"].as_str().unwrap()),
    };
    assert_eq!(found[0]["priority"], priority);
    assert_eq!((&found[0]["state"], &found[0]["transaction"]), (&json!("SCHEDULED"), &json!("")));
    assert_eq!((&found[0]["patient_id"], &found[0]["name"]), (&json!("PHANTOM-3"), &json!("PHANTOM^CHEST")));
    assert!(found[0]["comment"].as_str().unwrap().contains(words), "{}", found[0]);
}

/// By default no slice has an outline; with `results.lesion_outlines` the same slices do.
fn no_lesion_is_outlined(dir: &Path, plain: &[(&str, PathBuf)], study: &Path) {
    fs::create_dir(dir).unwrap();
    let console = Storescp::start(&dir.join("console"), free_port());
    let settings = Settings {
        tables: tables::dicom("CONSOLE", console.port, &["picture", "slices"])
            + "[results]\nlesion_outlines = true\nslices = 2\n",
        ..Settings::default()
    };
    let daemon = Daemon::start(dir, &settings);
    storescu(&daemon, &[], study);
    daemon.wait_done(EVALUATED);
    daemon.wait_delivered();
    let outlined = received(&console, EVALUATED);
    assert_eq!(outlined.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["picture", "slices", "slices"]);
    let plain = of_kind(plain, "slices");
    assert!((3..=6).contains(&plain.len()), "{plain:?}");
    let counts: Vec<usize> = plain.iter().map(|path| coloured(path)).collect();
    assert!(counts.iter().all(|count| *count == 0), "{counts:?}");
    for path in of_kind(&outlined, "slices") {
        assert!(coloured(path) > 100, "{}: {}", path.display(), coloured(path));
    }
}

/// Pixels of a picture, between its lines of text and letters, that are no grey.
fn coloured(path: &Path) -> usize {
    let object = open_file(path).unwrap().into_inner();
    let size = |tag| object.element(tag).unwrap().to_int::<usize>().unwrap();
    let (rows, columns) = (size(tags::ROWS), size(tags::COLUMNS));
    let pixels = object.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap();
    assert_eq!(pixels.len(), (rows * columns * 3).next_multiple_of(2), "{}", path.display());
    let image = 120 * columns..(rows - 90) * columns;
    let spread = |pixel: &[u8]| pixel.iter().max().unwrap() - pixel.iter().min().unwrap();
    pixels.chunks_exact(3).take(image.end).skip(image.start).filter(|pixel| spread(pixel) > 48).count()
}
