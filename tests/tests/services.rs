//! What scanners, archives and worklists ask of the daemon and are asked by it, beside images: procedure steps, storage
//! commitment in both roles, priorities.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_core::VR;
use dicom_dictionary_std::tags;
use e2e::daemon::{Daemon, Settings};
use e2e::orthanc::Orthanc;
use e2e::peers::{Process, free_port, have, have_python, python, run_ok, script, storescu};
use e2e::slices::{self, Object, phantom, phantom_of, renamed, set};
use e2e::{tables, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// No study is complete for the time that has passed.
const NEVER_S: f64 = 600.0;

fn patient() -> Settings {
    Settings { quiet_short_s: NEVER_S, quiet_long_s: NEVER_S, ..Settings::default() }
}

/// Three slices as a study of their own: too few for the networks, so that no time is spent in them.
fn few(phantom: &[Object], dir: &Path, study: &str) -> PathBuf {
    slices::write(&renamed(&phantom[..3], study, &format!("{study}.1")), &dir.join(study))
}

/// The status of an N-CREATE.
fn create(daemon: &Daemon, step: &str, folder: &Path) -> String {
    let port = daemon.port.to_string();
    run_ok(script("mpps.py").args([&port, "create", step]).arg(folder)).trim().to_owned()
}

/// The status of an N-SET.
fn end(daemon: &Daemon, step: &str, state: &str, folder: &Path) -> String {
    let port = daemon.port.to_string();
    run_ok(script("mpps.py").args([&port, "set", step, state]).arg(folder)).trim().to_owned()
}

/// Nothing happens to a study for longer than it would take.
fn assert_still_receiving(daemon: &Daemon, study: &str) {
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.state(study).as_deref(), Some("receiving"));
}

#[test]
fn a_procedure_step_that_ends_completes_the_study() {
    if !have(&["storescu"]) || !have_python("pydicom, pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &patient());
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let [after, before, part, given_up, restarted] =
        [1, 2, 3, 4, 5].map(|i| (format!("2.25.120{i}"), format!("2.25.120{i}.9")));

    // Images, then the end of the step.
    let folder = few(&phantom, dir.path(), &after.0);
    assert_eq!(create(&daemon, &after.1, &folder), "0000");
    storescu(&daemon, &[], &folder);
    assert_still_receiving(&daemon, &after.0);
    assert_eq!(end(&daemon, &after.1, "COMPLETED", &folder), "0000");
    daemon.outcome(&after.0);
    // PS3.4 section F.7.2.2: a step that has ended is not changed any more; one that nobody created can't be; nor can one be
    // created twice.
    assert_eq!(end(&daemon, &after.1, "DISCONTINUED", &folder), "0110");
    assert_eq!(end(&daemon, "2.25.1299", "COMPLETED", &folder), "0112");
    assert_eq!(create(&daemon, &after.1, &folder), "0111");

    // The end of the step, then images.
    let folder = few(&phantom, dir.path(), &before.0);
    assert_eq!(create(&daemon, &before.1, &folder), "0000");
    assert_eq!(end(&daemon, &before.1, "COMPLETED", &folder), "0000");
    storescu(&daemon, &[], &folder);
    daemon.outcome(&before.0);

    // The end of the step while a part of the images is there.
    let folder = few(&phantom, dir.path(), &part.0);
    let first = dir.path().join("first");
    fs::create_dir(&first).unwrap();
    fs::copy(folder.join("0000.dcm"), first.join("0000.dcm")).unwrap();
    assert_eq!(create(&daemon, &part.1, &folder), "0000");
    storescu(&daemon, &[], &first);
    assert_eq!(end(&daemon, &part.1, "COMPLETED", &folder), "0000");
    assert_still_receiving(&daemon, &part.0);
    storescu(&daemon, &[], &folder);
    assert!(daemon.outcome(&part.0)["reason"].as_str().unwrap().contains("3 slices"));

    // A scan that was given up: what there is, is judged.
    let folder = few(&phantom, dir.path(), &given_up.0);
    assert_eq!(create(&daemon, &given_up.1, &folder), "0000");
    storescu(&daemon, &[], &folder);
    assert_eq!(end(&daemon, &given_up.1, "DISCONTINUED", &folder), "0000");
    assert_eq!(daemon.outcome(&given_up.0)["outcome"], "not_evaluated");

    // Power fails between the two.
    let folder = few(&phantom, dir.path(), &restarted.0);
    assert_eq!(create(&daemon, &restarted.1, &folder), "0000");
    storescu(&daemon, &[], &folder);
    daemon.kill();
    let daemon = Daemon::start(dir.path(), &patient());
    assert_eq!(end(&daemon, &restarted.1, "COMPLETED", &folder), "0000");
    daemon.outcome(&restarted.0);
}

/// A storage commitment request of `title`; what it was answered, and the report if there is to be one.
fn commitment(
    daemon: &Daemon,
    (title, port): (&str, u16),
    delay_s: &str,
    transaction: &str,
    folder: &Path,
    unknown: &[&str],
) -> (String, Value) {
    let mut command = script("commitment.py");
    command.args([&daemon.port.to_string(), &port.to_string(), title, delay_s, transaction]);
    let said = run_ok(command.arg(folder).args(unknown));
    let mut lines = said.lines();
    let status = lines.next().unwrap().to_owned();
    (status, lines.next().map_or(Value::Null, |line| serde_json::from_str(line).unwrap()))
}

#[test]
fn a_scanner_is_told_what_is_kept() {
    if !have(&["storescu"]) || !have_python("pydicom, pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let settings = Settings { tables: tables::scanner("CT1", port), ..patient() };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let study = "2.25.1301";
    // Enough to be whole: a request that covers half a series completes nothing.
    let slices = renamed(&phantom[..8], study, &format!("{study}.1"));
    let folder = slices::write(&slices, &dir.path().join(study));
    storescu(&daemon, &[], &folder);
    let kept: Vec<String> = (0..8).map(|i| format!("{study}.1.{i}")).collect();

    let (status, report) = commitment(&daemon, ("CT1", port), "0", "2.25.1302", &folder, &[]);
    assert_eq!(status, "0000");
    let want = json!({ "type": 1, "transaction": "2.25.1302", "committed": kept, "failed": [] });
    assert_eq!(report, want);
    // A scanner that asks to be relieved of its images has sent them: nothing is waited for.
    daemon.outcome(study);

    // 0x0112, No such object instance (PS3.3 section C.14.1.1). The scanner is off at first.
    let (status, report) = commitment(&daemon, ("CT1", port), "3", "2.25.1303", &folder, &["2.25.1304"]);
    assert_eq!(status, "0000");
    let want = json!({ "type": 2, "transaction": "2.25.1303", "committed": kept, "failed": [["2.25.1304", 0x0112]] });
    assert_eq!(report, want);
    assert!(daemon.log().contains("CT1"), "the attempts in vain are in the log");

    // Who is no [[scanner]] can't be called back: that is said at once.
    let (status, report) = commitment(&daemon, ("CT2", free_port()), "0", "2.25.1305", &folder, &[]);
    assert_ne!(status, "0000");
    assert_eq!(report, Value::Null);
}

#[test]
fn a_report_is_owed_over_a_power_failure() {
    if !have(&["storescu"]) || !have_python("pydicom, pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let settings = Settings { tables: tables::scanner("CT1", port), ..patient() };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let folder = few(&phantom, dir.path(), "2.25.1311");
    storescu(&daemon, &[], &folder);
    let mut scanner = script("commitment.py");
    scanner.args([&daemon.port.to_string(), &port.to_string(), "CT1", "4", "2.25.1312"]).arg(&folder);
    let scanner = scanner.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    // The request is answered when it is on the disk.
    wait_for("the request", || daemon.commitments().eq(&["2.25.1312"]).then_some(()));
    daemon.kill();
    let daemon = Daemon::start(dir.path(), &settings);
    let said = scanner.wait_with_output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("2.25.1312"), "{said}");
    wait_for("the end of the debt", || daemon.commitments().is_empty().then_some(()));
}

#[test]
fn orthanc_asks_for_commitment_and_gives_it() {
    if !have(&["storescu", Orthanc::PROGRAM]) {
        return;
    }
    const STUDY: &str = "2.25.1321";
    let dir = tempfile::tempdir().unwrap();
    let archive = free_port();
    let settings = Settings {
        quiet_long_s: 1.0,
        tables: tables::scanner("ORTHANC", archive)
            + &tables::dicom("ORTHANC", archive, &["picture", "report"])
            + "storage_commitment = true\n",
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let folder = few(&phantom, dir.path(), STUDY);
    storescu(&daemon, &[], &folder);
    daemon.wait_done(STUDY);
    // It is not there yet.
    wait_for("an attempt", || daemon.outbox().iter().any(|d| d.attempts > 0).then_some(()));
    let orthanc = Orthanc::start(dir.path(), archive, &daemon);
    daemon.wait_delivered();
    let states: Vec<_> = daemon.outbox().into_iter().map(|d| (d.kind, d.state)).collect();
    assert_eq!(
        states,
        [("report", "delivered"), ("picture", "delivered")].map(|(k, s)| (k.into(), s.into()))
    );
    assert_eq!(orthanc.find("Instance", STUDY).len(), 2);
    assert!(daemon.log().contains("ommit"), "commitments are in the log");

    let instances: Vec<Value> = (0..3)
        .map(|i| json!({ "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": format!("{STUDY}.1.{i}") }))
        .collect();
    let ask = |instances: &[Value]| {
        let request = json!({ "DicomInstances": instances, "Timeout": 10 }).to_string();
        let asked = orthanc.rest("POST", "/modalities/triaged/storage-commitment", &request);
        let path = asked["Path"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
        wait_for("the report", || {
            let state = orthanc.rest("GET", &path, "");
            (state["Status"] != "Pending").then_some(state)
        })
    };
    let report = ask(&instances);
    assert_eq!(report["Status"], "Success", "{report}");
    let unknown = json!({ "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "2.25.1322" });
    let report = ask(&[instances[0].clone(), unknown]);
    assert_eq!(report["Status"], "Failure", "{report}");
    assert_eq!(report["Failures"][0]["SOPInstanceUID"], "2.25.1322", "{report}");
}

/// Writes a worklist item. FOLDER NAME STUDY PATIENT PRIORITY
const WORKLIST_ITEM: &str = "
import sys
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
folder, name, study, patient, priority = sys.argv[1:]
step = Dataset()
step.Modality, step.ScheduledStationAETitle = 'CT', 'CT1'
step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = '20200401', '120000'
step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepDescription = '', 'CT'
step.ScheduledProcedureStepID, step.ScheduledStationName, step.ScheduledProcedureStepLocation = '1', 'CT1', ''
item = Dataset()
item.SpecificCharacterSet = 'ISO_IR 100'
item.AccessionNumber, item.ReferringPhysicianName, item.PatientName = name, '', 'PHANTOM^CHEST'
item.PatientID, item.PatientBirthDate, item.PatientSex = patient, '', 'O'
item.StudyInstanceUID, item.RequestedProcedureDescription = study, 'CT'
item.ScheduledProcedureStepSequence = [step]
item.RequestedProcedureID, item.RequestedProcedurePriority = '1', priority
item.file_meta = FileMetaDataset()
item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
item.file_meta.MediaStorageSOPClassUID, item.file_meta.MediaStorageSOPInstanceUID = '1.2.276.0.7230010.3.1.0.1', study
item.save_as(f'{folder}/{name}.wl', enforce_file_format=True)
";

#[test]
fn the_worklist_says_which_of_two_that_wait_comes_first() {
    if !have(&["storescu", "wlmscpfs"]) || !have_python("pydicom") {
        return;
    }
    const BUSY: &str = "2.25.1331";
    const ROUTINE: &str = "2.25.1332";
    const STAT: &str = "2.25.1333";
    let dir = tempfile::tempdir().unwrap();
    let worklist = dir.path().join("worklists/WORKLIST");
    fs::create_dir_all(&worklist).unwrap();
    fs::write(worklist.join("lockfile"), "").unwrap();
    for (name, study, priority) in
        [("ACC1", BUSY, "ROUTINE"), ("ACC2", ROUTINE, "LOW"), ("ACC3", STAT, "STAT")]
    {
        let mut command = python();
        command.args(["-c", WORKLIST_ITEM]).arg(&worklist).args([name, study, "PHANTOM-3", priority]);
        run_ok(&mut command);
    }
    let port = free_port();
    let mut command = Command::new("wlmscpfs");
    command.arg("-dfp").arg(dir.path().join("worklists")).arg(port.to_string());
    let _worklist = Process::listening(&mut command, port);
    let settings = Settings {
        quiet_short_s: 0.1,
        quiet_long_s: 0.2,
        tables: tables::worklist("WORKLIST", port),
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    // Many slices, so that the evaluator is busy until the others wait.
    let phantom = phantom_of(64, &dir.path().join("phantom"), "40,20");
    let accession = |slices: &[Object], study: &str, number: &str| {
        let mut slices = renamed(slices, study, &format!("{study}.1"));
        slices.iter_mut().for_each(|slice| set(slice, tags::ACCESSION_NUMBER, VR::SH, number));
        slices::write(&slices, &dir.path().join(study))
    };
    storescu(&daemon, &[], &accession(&phantom, BUSY, "ACC1"));
    wait_for("the evaluation", || (daemon.state(BUSY).as_deref() == Some("evaluating")).then_some(()));
    for (study, number) in [(ROUTINE, "ACC2"), (STAT, "ACC3")] {
        // Too few for the networks.
        storescu(&daemon, &[], &accession(&phantom[..3], study, number));
    }
    let waiting = |study| daemon.state(study).as_deref() == Some("evaluating");
    wait_for("both to wait", || (waiting(ROUTINE) && waiting(STAT)).then_some(()));
    assert!(waiting(BUSY), "the first study must be evaluated until both wait");
    for study in [BUSY, ROUTINE, STAT] {
        daemon.wait_done(study);
    }
    assert_eq!(daemon.order(), [BUSY, STAT, ROUTINE]);
}
