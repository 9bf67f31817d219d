//! The daemon as the image runs it: its watchdog, its health check, what it tells those who help, and which version it is.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_core::VR;
use dicom_dictionary_std::tags;
use e2e::daemon::{Daemon, Settings, triaged};
use e2e::peers::{free_port, have, run, run_ok, storescu};
use e2e::slices::{self, phantom, renamed};
use e2e::{tables, wait_for};
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The service manager's ear.
struct Manager {
    socket: UnixDatagram,
    path: String,
    begun: Instant,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self { socket, path, begun: Instant::now() }
    }

    fn environment(&self, watchdog_usec: &'static str) -> [(&str, &str); 2] {
        [("NOTIFY_SOCKET", &self.path), ("WATCHDOG_USEC", watchdog_usec)]
    }

    /// What is said within a time, and when.
    fn hear(&self, time: Duration) -> Vec<(Duration, String)> {
        let until = Instant::now() + time;
        let mut heard = Vec::new();
        while Instant::now() < until {
            let mut bytes = [0; 4096];
            if let Ok(count) = self.socket.recv(&mut bytes) {
                let said = String::from_utf8_lossy(&bytes[..count]).trim().to_owned();
                heard.push((self.begun.elapsed(), said));
            }
        }
        heard
    }

    fn wait_for(&self, word: &str) -> String {
        wait_for(word, || {
            self.hear(Duration::from_millis(200))
                .into_iter()
                .map(|(_, said)| said)
                .find(|said| said.contains(word))
        })
    }
}

fn dogs(heard: &[(Duration, String)]) -> usize {
    heard.iter().filter(|(_, said)| said.lines().any(|line| line == "WATCHDOG=1")).count()
}

#[test]
fn the_service_manager_hears_when_it_is_ready_what_it_does_and_when_it_stops() {
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::new(dir.path());
    let daemon = Daemon::start_in(dir.path(), &Settings::default(), &manager.environment("1500000"));
    manager.wait_for("READY=1");
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), "2.25.1901", "2.25.1901.1");
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    manager.wait_for("STATUS=studies: 1 received");
    // The watchdog goes on while it evaluates.
    let heard = manager.hear(Duration::from_secs(5));
    assert!(dogs(&heard) >= 4, "{heard:?}");
    assert_eq!(daemon.outcome("2.25.1901")["outcome"], "flagged");
    let heard = [heard, manager.hear(Duration::from_secs(2))].concat();
    let last = heard.iter().rev().find(|(_, said)| said.starts_with("STATUS=")).unwrap();
    assert_eq!(last.1, "STATUS=studies: 0 received, 0 waiting, 0 analysed now");
    assert!(daemon.stop().success());
    assert!(manager.hear(Duration::from_millis(500)).iter().any(|(_, said)| said.contains("STOPPING=1")));
}

/// A disk that does not answer: a pipe in the place of a spooled file, at whose opening the assembler waits for ever.
#[test]
fn a_wedged_thread_ends_the_watchdog_although_the_rest_turns() {
    if !have(&["storescu", "echoscu", "mkfifo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let quiet = Settings { quiet_short_s: 600.0, quiet_long_s: 600.0, ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &quiet);
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20")[..4], "2.25.1902", "2.25.1902.1");
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    wait_for("the slices", || (daemon.filed() == 4).then_some(()));
    daemon.kill();
    let study =
        fs::read_dir(dir.path().join("storage/spool/studies")).unwrap().next().unwrap().unwrap().path();
    let file = fs::read_dir(study).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());

    let manager = Manager::new(dir.path());
    let daemon = Daemon::start_in(dir.path(), &quiet, &manager.environment("1500000"));
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("STATUS=stuck: assembler");
    let heard = manager.hear(Duration::from_secs(4));
    assert_eq!(dogs(&heard), 0, "{heard:?}");
    // All the while a bare timer would tick, and the scanner be answered.
    run_ok(Command::new("echoscu").args(["-aec", "TRIAGED", "127.0.0.1", &daemon.port.to_string()]));
    assert!(daemon.log().contains("the thread assembler has not turned for"), "{}", daemon.log());
    // The disk answers: so does the watchdog.
    drop(fs::OpenOptions::new().write(true).open(&file).unwrap());
    manager.wait_for("WATCHDOG=1");
    assert!(daemon.log().contains("the thread assembler turns again"));
}

/// `triaged doctor --json`: whether it exited with success, and its report.
fn doctor(config: &Path) -> (bool, Value) {
    let output = triaged(&["doctor", "--json", "--config"]).arg(config).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), report)
}

fn states(report: &Value) -> BTreeMap<String, String> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            (check["name"].as_str().unwrap().to_owned(), check["state"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn the_doctor_passes_a_good_box_whose_pacs_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let tables = tables::dicom("PACS", free_port(), &["picture"]) + &tables::hl7("ris", free_port());
    let daemon = Daemon::start(dir.path(), &Settings { plain_port: port, tables, ..Settings::default() });
    let fixed = dir.path().join("triaged.toml");
    let begun = Instant::now();
    let (passed, report) = doctor(&fixed);
    let took = begun.elapsed();
    assert!(passed, "{report:#}");
    let states = states(&report);
    for name in
        ["configuration", "storage", "space", "database", "models", "engine", "gpu", "phantom", "self"]
    {
        assert_eq!(states[name], "ok", "{name}: {report:#}");
    }
    for name in ["PACS", "ris"] {
        assert_eq!(states[name], "warning", "{name}: {report:#}");
    }
    println!("doctor took {took:?}");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));

    // For people and for the box's page.
    let status = dir.path().join("status/doctor.json");
    let said = run_ok(triaged(&["doctor", "--config"]).arg(&fixed).arg("--status").arg(&status));
    assert!(said.contains("This box is well; ") && said.contains("phantom        ok"), "{said}");
    let told: Value = serde_json::from_slice(&fs::read(&status).unwrap()).unwrap();
    assert_eq!(told["state"], "well");
    assert!(told["lines"].to_string().contains("PACS"), "{told}");
    // Nothing of it is left.
    assert!(
        fs::read_dir(dir.path().join("storage"))
            .unwrap()
            .flatten()
            .all(|e| !e.file_name().to_string_lossy().starts_with("doctor"))
    );

    // A daemon that does not answer fails the box.
    daemon.kill();
    let (passed, report) = doctor(&fixed);
    assert!(!passed && states_of(&report, "self") == "failed", "{report:#}");
}

fn states_of(report: &Value, name: &str) -> String {
    states(report)[name].clone()
}

#[test]
fn the_doctor_fails_a_box_with_a_broken_model_or_database() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings::default());
    assert!(daemon.stop().success());
    let config = dir.path().join("triaged.toml");
    // A model with a flipped bit.
    let zoo = dir.path().join("zoo");
    let from = e2e::daemon::workspace().join("models/zoo");
    run_ok(Command::new("cp").arg("-r").arg(from).arg(&zoo));
    let model = zoo.join("lungs/model.onnx");
    let mut bytes = fs::read(&model).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&model, bytes).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[engine]\nzoo = {zoo:?}\n")).unwrap();
    fs::write(dir.path().join("storage/triaged.db"), b"this is no database, whatever its name says").unwrap();
    let (passed, report) = doctor(&config);
    assert!(!passed, "{report:#}");
    assert_eq!(
        (states_of(&report, "models"), states_of(&report, "database")),
        ("failed".into(), "failed".into()),
        "{report:#}"
    );
    fs::write(&config, text.replace("[policy]", "[polcy]")).unwrap();
    let (passed, report) = doctor(&config);
    assert!(!passed && report["checks"].as_array().unwrap().len() == 1, "{report:#}");
}

#[test]
fn the_version_names_commit_and_models() {
    let said = run_ok(&mut triaged(&["--version"]));
    let mut lines = said.lines();
    assert!(
        lines.next().unwrap().starts_with(&format!("triaged {} (commit ", env!("CARGO_PKG_VERSION"))),
        "{said}"
    );
    assert!(lines.any(|line| line.starts_with("model lungs ")), "{said}");
    assert!(!run(&mut triaged(&[])).0);
}

/// What a patient is called, and where.
const PATIENT: &[(dicom_core::Tag, VR, &str)] = &[
    (tags::PATIENT_NAME, VR::PN, "Featherstonehaugh^Zebedee"),
    (tags::PATIENT_ID, VR::LO, "PAT-778899"),
    (tags::PATIENT_BIRTH_DATE, VR::DA, "19410517"),
    (tags::ACCESSION_NUMBER, VR::SH, "ACC-445566"),
];
const FORMS: &[&str] = &[
    "featherstonehaugh",
    "zebedee",
    "778899",
    "19410517",
    "1941-05-17",
    "17.05.1941",
    "445566",
    "2.25.1903",
];

#[test]
fn a_support_bundle_names_no_patient_in_any_form() {
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { destinations: vec![("PACS", free_port())], ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let mut slices =
        renamed(&phantom(&dir.path().join("phantom"), "40,20"), "2.25.1903123456", "2.25.1903123456.1");
    for slice in &mut slices {
        PATIENT.iter().for_each(|(tag, vr, value)| slices::set(slice, *tag, *vr, value));
    }
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    daemon.wait_done("2.25.1903123456");
    // A log worse than ours: another program's, say.
    let log = dir.path().join("triaged.log");
    assert!(daemon.log().contains("2.25.1903123456"));
    let worse = "PN Featherstonehaugh^Zebedee ({\"id\":\"PAT-778899\"}) born 1941-05-17, 17.05.1941 or 19410517; ZEBEDEE FEATHERSTONEHAUGH; ACC-445566; study 2.25.1903123456\nCT1 at 10.0.0.5:104\n";
    let other = dir.path().join("other.log");
    fs::write(&other, worse).unwrap();
    let site = dir.path().join("site.toml");
    fs::write(&site, "[site]\nname = \"s\"\nserial = 1\n[setup]\ncode = \"ABCD-EFGH-2345-6789\"\n[certificates]\ncertificate = \"-----BEGIN C\"\nkey = \"-----BEGIN TOPSECRET\"\nauthorities = \"-----BEGIN A\"\n").unwrap();
    let out = dir.path().join("support.tar.gz");
    let mut command = triaged(&["support-bundle", "--config"]);
    command
        .arg(dir.path().join("triaged.toml"))
        .arg("--site")
        .arg(&site)
        .arg("--log")
        .arg(&log)
        .arg("--log")
        .arg(&other)
        .arg(&out);
    run_ok(&mut command);
    let files = unpacked(&fs::read(&out).unwrap());
    let all = files.values().cloned().collect::<Vec<_>>().join("\n");
    for form in FORMS.iter().chain(&["TOPSECRET", "ABCD-EFGH"]) {
        assert!(
            !all.to_lowercase().contains(&form.to_lowercase()),
            "{form} is in {:?}",
            files
                .iter()
                .filter(|(_, t)| t.to_lowercase().contains(&form.to_lowercase()))
                .map(|(n, _)| n)
                .collect::<Vec<_>>()
        );
    }
    // And still it helps: who, what, where, how often.
    assert!(
        files["logs/triaged.log"].contains("study uid-")
            && files["logs/triaged.log"].contains(": complete with"),
        "{}",
        files["logs/triaged.log"]
    );
    assert!(
        files["logs/other.log"].contains("CT1 at 10.0.0.5:104")
            && files["logs/other.log"].contains("[patient]")
    );
    assert!(
        files["database.txt"].contains("done: 1")
            && files["database.txt"].contains("PACS picture waiting: 1"),
        "{}",
        files["database.txt"]
    );
    assert!(
        files["triaged.toml"].contains("ae_title = \"PACS\"") && files["version.txt"].starts_with("triaged ")
    );
    assert!(files["doctor.json"].contains("\"phantom\"") && files["site.toml"].contains("serial = 1"));
}

/// The files of a bundle, by their names in it.
fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().strip_prefix("triaged-support").unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

/// A request to the screen, with a cookie or without: the head and the body.
fn request(port: u16, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes[end + 4..].to_vec())
}

fn get(port: u16, path: &str, cookie: &str) -> (String, Vec<u8>) {
    request(
        port,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        ),
    )
}

#[test]
fn the_boxs_page_shows_stick_and_health_and_gives_engineers_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let status = dir.path().join("status");
    fs::create_dir(&status).unwrap();
    let settings = Settings { tables: "[screen]\nlisten = \"127.0.0.1:0\"\n".into(), ..Settings::default() };
    let variables = [("TRIAGED_STATUS_DIR", status.to_str().unwrap())];
    let mut daemon = Daemon::start_in(dir.path(), &settings, &variables);
    let port = daemon.screen_port();
    let page = |path: &str| String::from_utf8(get(port, path, "").1).unwrap();
    assert!(page("/box").contains("commit") && !page("/box").contains("Stick"));
    fs::write(status.join("stick.json"), r#"{"state":"waiting","since":"2026-11-23T16:28:35Z","lines":["Update from version 1.0.0 to 1.1.0 <b>"]}"#).unwrap();
    fs::write(status.join("doctor.json"), r#"{"state":"not well","since":"","lines":["phantom: wrong"]}"#)
        .unwrap();
    let body = page("/part/box");
    for words in [
        "Stick",
        "waiting",
        "Update from version 1.0.0 to 1.1.0 &lt;b&gt;",
        "Health",
        "not well",
        "phantom: wrong",
    ] {
        assert!(body.contains(words), "{words}: {body}");
    }
    // Nobody but an engineer gets the bundle.
    assert!(get(port, "/box/support-bundle", "").0.contains("303"), "a login is asked for");
    let mut child = triaged(&["users", "--config"])
        .arg(dir.path().join("triaged.toml"))
        .args(["add", "Chief", "--role", "engineer"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    assert!(child.wait().unwrap().success());
    let form = "name=Chief&password=correct+horse+battery";
    let (head, _) = request(
        port,
        &format!(
            "POST /login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        ),
    );
    let cookie = head.lines().find_map(|line| {
        line.to_lowercase()
            .starts_with("set-cookie:")
            .then(|| line[11..].split(';').next().unwrap().trim().to_owned())
    });
    let cookie = cookie.unwrap_or_else(|| panic!("{head}"));
    let (head, bundle) = get(port, "/box/support-bundle", &cookie);
    assert!(head.contains("200 OK") && head.to_lowercase().contains("application/gzip"), "{head}");
    let files = unpacked(&bundle);
    assert!(
        files["version.txt"].starts_with("triaged ") && files.contains_key("database.txt"),
        "{:?}",
        files.keys()
    );
}
