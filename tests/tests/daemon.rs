//! The way from a sender to the console: association rules, transfer syntaxes, and other people's software on both ends.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use e2e::daemon::{AE_TITLE, Daemon, Settings, workspace};
use e2e::orthanc::Orthanc;
use e2e::peers::{self, Storescp, dcmtk, free_port, have, have_python, run, run_ok, storescu};
use e2e::slices::{self, SLICES, files, header, phantom, renamed, text};
use e2e::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn an_echo_is_answered_to_those_who_may_associate() {
    if !have(&["echoscu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { callers: &["CT1"], ..Settings::default() });
    run_ok(&mut dcmtk("echoscu", &daemon));
    let refused = [
        ("CT1", "ELSE", "Called AE Title Not Recognized"),
        ("CT2", AE_TITLE, "Calling AE Title Not Recognized"),
    ];
    for (calling, called, words) in refused {
        let port = daemon.port.to_string();
        let (ok, said) =
            run(Command::new("echoscu").args(["-aet", calling, "-aec", called, "127.0.0.1", &port]));
        assert!(!ok && said.contains(words), "{calling} to {called}: {said}");
    }
    assert!(daemon.stop().success());
}

/// A transfer syntax: its name, the program that converts a file to it, and the one that sends.
type Syntax = (&'static str, &'static [&'static str], &'static str, &'static [&'static str]);

const SYNTAXES: &[Syntax] = &[
    ("explicit little endian", &[], "storescu", &["-xe"]),
    ("implicit little endian", &[], "storescu", &["-xi"]),
    ("RLE", &["dcmcrle"], "storescu", &["-xr"]),
    ("JPEG lossless SV1", &["dcmcjpeg", "+e1"], "storescu", &["-xs"]),
    ("JPEG lossless", &["dcmcjpeg", "+el", "+sv", "4"], "dcmsend", &["-dn"]),
    ("JPEG-LS lossless", &["dcmcjpls", "+el"], "storescu", &["-xt"]),
    ("JPEG 2000 lossless", &["gdcmconv", "--j2k"], "storescu", &["-xv"]),
];

#[test]
fn every_transfer_syntax_gives_the_same_flag_at_console_and_pacs() {
    if !have(&["storescu", "dcmsend", "storescp"]) {
        return;
    }
    let converts = |syntax: &&Syntax| syntax.1.first().is_none_or(|program| have(&[program]));
    let syntaxes: Vec<&Syntax> = SYNTAXES.iter().filter(converts).collect();
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let pacs = Storescp::start(&dir.path().join("pacs"), free_port());
    let destinations = vec![("CONSOLE", console.port), ("PACS", pacs.port)];
    let daemon = Daemon::start(dir.path(), &Settings { destinations, ..Settings::default() });
    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    for (i, (_, convert, sender, options)) in syntaxes.iter().enumerate() {
        let study = syntax_study(i);
        let raw = slices::write(&renamed(&phantom, &study, &format!("{study}.1")), &dir.path().join(&study));
        let folder = match convert {
            [] => raw,
            [program, arguments @ ..] => converted(&raw, program, arguments),
        };
        run_ok(dcmtk(sender, &daemon).args(*options).arg("+sd").arg(&folder));
    }
    let outcomes: Vec<Value> = (0..syntaxes.len()).map(|i| daemon.outcome(&syntax_study(i))).collect();
    for ((name, ..), outcome) in syntaxes.iter().zip(&outcomes) {
        assert_eq!(outcome["outcome"], "flagged", "{name}: {outcome}");
        assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64), "{name}");
        for key in ["severity", "probability", "category", "lung_volume_ml", "lesion_volume_ml", "priority"] {
            assert_eq!(outcome[key], outcomes[0][key], "{key} of {name}");
        }
    }
    daemon.wait_delivered();
    for peer in [&console, &pacs] {
        let received = peer.received();
        let mut made: Vec<String> =
            (0..syntaxes.len()).flat_map(|i| daemon.results(&syntax_study(i))).collect();
        made.sort();
        assert_eq!(received.iter().map(|(uid, _)| uid.clone()).collect::<Vec<_>>(), made);
    }
    for (_, path) in console.received() {
        check_capture(&path, &phantom[0]);
    }
    assert!(daemon.stop().success());
}

/// The study that is sent in the i-th transfer syntax.
fn syntax_study(i: usize) -> String {
    format!("2.25.{}", 100 + i)
}

/// The files of a folder, converted by a DCMTK program.
fn converted(folder: &Path, program: &str, arguments: &[&str]) -> PathBuf {
    let to = folder.join(program);
    fs::create_dir(&to).unwrap();
    for file in files(folder) {
        run_ok(Command::new(program).args(arguments).arg(&file).arg(to.join(file.file_name().unwrap())));
    }
    to
}

const READ_CAPTURE: &str = "
import sys
from pydicom import dcmread
d = dcmread(sys.argv[1])
p = d.pixel_array
assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
assert p.shape[:2] == (d.Rows, d.Columns) and p.max() > p.min()
print(d.BurnedInAnnotation, d.ConversionType)
";

/// A Secondary Capture that consoles and archives can file: in the study of the source, valid, readable.
fn check_capture(path: &Path, source: &slices::Object) {
    let capture = header(path);
    assert_eq!(text(&capture, tags::SOP_CLASS_UID), "1.2.840.10008.5.1.4.1.1.7");
    assert_eq!(text(&capture, tags::PATIENT_ID), text(source, tags::PATIENT_ID));
    let (study, series) =
        (text(&capture, tags::STUDY_INSTANCE_UID), text(&capture, tags::SERIES_INSTANCE_UID));
    assert!(study.starts_with("2.25.") && series != format!("{study}.1"), "{study} {series}");
    if have(&["dciodvfy"]) {
        let (_, said) = run(Command::new("dciodvfy").arg(path));
        assert!(said.contains("SCImage") && !said.contains("Error"), "{said}");
    }
    if have_python("pydicom, numpy") {
        let said = run_ok(peers::python().args(["-c", READ_CAPTURE]).arg(path));
        // Burned In Annotation tells of text that identifies the patient: there is none (PS3.3 section C.7.6.1).
        assert!(said.starts_with("NO WSD"), "{said}");
    }
}

#[test]
fn orthanc_sends_a_study_and_files_its_result() {
    if !have(&["storescu", Orthanc::PROGRAM]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dicom = free_port();
    // Waits for Orthanc, which must know the daemon's port before it starts.
    let settings =
        Settings { callers: &["ORTHANC"], destinations: vec![("ORTHANC", dicom)], ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let orthanc = Orthanc::start(dir.path(), dicom, &daemon);

    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    let study = text(&phantom[0], tags::STUDY_INSTANCE_UID);
    let mut upload = Command::new("storescu");
    upload.args(["-aec", "ORTHANC", "127.0.0.1", &dicom.to_string(), "+sd"]).arg(dir.path().join("phantom"));
    run_ok(&mut upload);
    let id = orthanc.find("Study", &study)[0]["ID"].clone();
    let stored = orthanc.rest("POST", "/modalities/triaged/store", &json!([id]).to_string());
    assert_eq!(stored["FailedInstancesCount"], 0, "{stored}");

    assert_eq!(daemon.outcome(&study)["outcome"], "flagged");
    daemon.wait_delivered();
    let instances = orthanc.find("Instance", &study);
    let uids = instances.iter().map(|i| i["MainDicomTags"]["SOPInstanceUID"].as_str().unwrap());
    let results = daemon.results(&study);
    assert_eq!(uids.clone().count(), SLICES + 1, "{instances:?}");
    assert_eq!(uids.filter(|uid| results.iter().any(|result| result == uid)).count(), 1);
    assert_eq!(
        orthanc.find("Study", &study).len(),
        1,
        "the result is filed under the same patient and study"
    );
}

/// Sends `argv[2:]`, folders, over three associations at once, each of which carries every third slice of every study.
const INTERLEAVE: &str = "
import sys
import time
from pathlib import Path
from threading import Thread
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage
studies = [sorted(Path(p).glob('*.dcm')) for p in sys.argv[2:]]
order = [path for together in zip(*studies) for path in together]
answers = []
def send(share):
    ae = AE(ae_title='CT1')
    ae.add_requested_context(CTImageStorage)
    association = ae.associate('127.0.0.1', int(sys.argv[1]), ae_title='TRIAGED')
    assert association.is_established
    for path in share:
        # pynetdicom's reader thread must have paused again before the next request: where it has not, it takes the answer
        # for a request of ours and drops it, and the sender waits for it in vain.
        time.sleep(0.02)
        answers.append(association.send_c_store(dcmread(path)).Status)
    association.release()
slices = [order[i:i + len(studies)] for i in range(0, len(order), len(studies))]
threads = [Thread(target=send, args=([p for s in slices[k::3] for p in s],)) for k in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
assert answers == [0] * len(order), answers
";

#[test]
fn interleaved_studies_on_several_associations_get_their_own_outcomes() {
    if !have_python("pydicom, pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings::default());
    let studies: Vec<(PathBuf, String)> = ["60,20", "0,0"]
        .iter()
        .map(|lesions| {
            let folder = dir.path().join(lesions);
            let uid = text(&phantom(&folder, lesions)[0], tags::STUDY_INSTANCE_UID);
            (folder, uid)
        })
        .collect();
    let folders = studies.iter().map(|(folder, _)| folder);
    run_ok(peers::python().args(["-c", INTERLEAVE, &daemon.port.to_string()]).args(folders));
    let outcomes: Vec<Value> = studies.iter().map(|(_, uid)| daemon.outcome(uid)).collect();
    for outcome in &outcomes {
        assert_ne!(outcome["outcome"], "not_evaluated", "{outcome}");
        assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64), "{outcome}");
    }
    assert_eq!(outcomes[0]["outcome"], "flagged", "{}", outcomes[0]);
    // Slices of one study in the other would bring the two together.
    let severity = |i: usize| outcomes[i]["severity"]["max"].as_f64().unwrap();
    assert!(severity(0) > severity(1) + 0.15, "{} and {}", severity(0), severity(1));
}

/// Every third slice of a real series, in order of position: a third of the networks' time.
fn thinned(folder: &Path, to: &Path) -> (PathBuf, String) {
    let mut slices: Vec<(String, f64, PathBuf)> = Vec::new();
    let mut study = String::new();
    for path in files(folder) {
        let header = header(&path);
        study = text(&header, tags::STUDY_INSTANCE_UID);
        let position = header.element(tags::IMAGE_POSITION_PATIENT).unwrap().to_multi_float64().unwrap();
        slices.push((text(&header, tags::SERIES_INSTANCE_UID), position[2], path));
    }
    slices.sort_by(|a, b| (&a.0, a.1).partial_cmp(&(&b.0, b.1)).unwrap());
    let step = if slices.len() > 100 { 3 } else { 1 };
    fs::create_dir_all(to).unwrap();
    for (i, (_, _, path)) in slices.iter().step_by(step).enumerate() {
        fs::copy(path, to.join(format!("{i:04}.dcm"))).unwrap();
    }
    (to.to_owned(), study)
}

#[test]
fn real_studies_end_in_an_outcome() {
    let data =
        std::env::var_os("TRIAGED_DATA").map_or_else(|| workspace().join("../shared/data"), PathBuf::from);
    let data = data.join("ct");
    if !data.is_dir() {
        // Not a peer: the data may not be everywhere, so this is no failure in CI either.
        println!("skipped: no real CT at {}", data.display());
        return;
    }
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings::default());
    let names = ["covid-p001", "normal-001", "pneumonia-cap001", "two-kernels-a0002"];
    let studies = names.map(|name| {
        let (folder, study) = thinned(&data.join(name), &dir.path().join(name));
        // These were compressed by the scanner, but for the last one.
        storescu(&daemon, &["-xs"], &folder);
        study
    });
    let outcomes = studies.map(|study| daemon.outcome(&study));
    for (name, outcome) in names.iter().zip(&outcomes) {
        println!("{name}: {outcome}");
        assert_ne!(outcome["outcome"], "not_evaluated", "{name}: {outcome}");
    }
    assert_eq!(outcomes[0]["outcome"], "flagged", "{}", outcomes[0]);
    assert_eq!(outcomes[1]["outcome"], "not_flagged", "{}", outcomes[1]);
    let soft = files(&dir.path().join(names[3]))
        .iter()
        .map(|path| header(path))
        .find(|header| text(header, tags::CONVOLUTION_KERNEL) == "B40f");
    assert_eq!(outcomes[3]["series_uid"], json!(text(&soft.unwrap(), tags::SERIES_INSTANCE_UID)));
}

#[test]
fn an_unknown_destination_delays_no_other() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let destinations = vec![("NOBODY", free_port()), ("CONSOLE", console.port)];
    let daemon = Daemon::start(dir.path(), &Settings { destinations, ..Settings::default() });
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    // Fewer than the networks take: no time is spent in them.
    let study = text(&phantom[0], tags::STUDY_INSTANCE_UID);
    storescu(&daemon, &[], &slices::write(&phantom[..3], &dir.path().join("three")));
    assert_eq!(daemon.outcome(&study)["outcome"], "not_evaluated");
    wait_for("the delivery to the one that listens", || (daemon.waiting() == 1).then_some(()));
    assert_eq!(console.received().len(), 1);
    assert!(daemon.log().contains("NOBODY: not reached"));
}
