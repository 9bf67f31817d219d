//! Limits, power failures and hostile files.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{Status, uids};
use e2e::daemon::{AE_TITLE, Daemon, Settings};
use e2e::hostile::bombs;
use e2e::peers::{Process, Storescp, dcmtk, free_port, have, run, storescu};
use e2e::slices::{self, Object, SLICES, phantom, renamed, scout, text};
use e2e::wait_for;
use serde_json::json;
use std::io::Read;
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the daemon may take while the networks are loaded and a hostile file is received.
const PEAK_MIB_MAX: u64 = 400;

#[test]
fn a_connection_that_never_speaks_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { association_request_timeout_s: 1.0, ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // An A-ABORT may come first (PS3.8 section 9.2.3, AA-2 only closes); then the end.
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(900), "closed after {:?}", start.elapsed());
    assert!(said.is_empty() || said[0] == 7, "{said:?}");
}

#[test]
fn an_association_that_falls_silent_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { idle_timeout_s: 1.0, ..Settings::default() });
    let mut scu = associate(&daemon);
    for _ in 0..3 {
        // Longer in all than the silence that is allowed.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(scu.echo().unwrap(), Status::SUCCESS);
    }
    let start = Instant::now();
    wait_for("the abort", || daemon.log().contains("ended after 0 instances").then_some(()));
    assert!(start.elapsed() >= Duration::from_millis(700), "aborted after {:?}", start.elapsed());
    scu.echo().unwrap_err();
}

/// An association of our own with the daemon, for what no other sender does.
fn associate(daemon: &Daemon) -> Requestor {
    let contexts: dimse::ContextTable<'_> = &[
        (uids::VERIFICATION, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
        (uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
    ];
    let (calling, called) = ("CT1".parse().unwrap(), AE_TITLE.parse().unwrap());
    let address = format!("127.0.0.1:{}", daemon.port);
    Requestor::connect(address.as_str(), &calling, &called, contexts, &RequestorConfig::default()).unwrap()
}

#[test]
fn one_association_too_many_is_told_to_come_back() {
    if !have(&["echoscu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { associations_max: 1, ..Settings::default() });
    let mut endless = dcmtk("echoscu", &daemon);
    endless.args(["--repeat", "100000000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let holder = Process(endless.spawn().unwrap());
    wait_for("the first association", || daemon.log().contains("association 1 from CT1").then_some(()));
    let (ok, said) = run(&mut dcmtk("echoscu", &daemon));
    assert!(!ok && said.contains("Transient") && said.contains("Temporary Congestion"), "{said}");
    drop(holder);
    wait_for("room", || run(&mut dcmtk("echoscu", &daemon)).0.then_some(()));
}

#[test]
fn silent_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { associations_max: 1, ..Settings::default() });
    let _silent: Vec<_> = (0..5).map(|_| TcpStream::connect(("127.0.0.1", daemon.port)).unwrap()).collect();
    assert_eq!(associate(&daemon).echo().unwrap(), Status::SUCCESS);
}

#[test]
fn a_sender_that_streams_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings::default());
    let mut scu = associate(&daemon);
    let [_, (uid, bytes, _), _] = bombs();
    let stored = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (class, syntax) = (uids::CT_IMAGE_STORAGE, uids::EXPLICIT_VR_LITTLE_ENDIAN);
            // Until the daemon is gone.
            while scu.store(class, uid, syntax, bytes.as_slice(), bytes.len() as u64).is_ok() {
                stored.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_for("some instances", || (stored.load(Ordering::Relaxed) > 3).then_some(()));
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_full_disk_is_said_so() {
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { min_free_mib: 1 << 40, ..Settings::default() });
    let slices = phantom(&dir.path().join("phantom"), "0,0");
    let two = slices::write(&slices[..2], &dir.path().join("two"));
    let (_, said) = run(dcmtk("storescu", &daemon).args(["-v", "--no-halt", "+sd"]).arg(&two));
    assert_eq!(said.matches("Refused: OutOfResources").count(), 2, "{said}");
    assert_eq!((daemon.filed(), daemon.state(&text(&slices[0], tags::STUDY_INSTANCE_UID))), (0, None));
}

/// Responses to C-STORE that said success, in what `storescu -v` said.
fn acknowledged(said: &str) -> usize {
    said.matches("Received Store Response (Success)").count()
}

/// Localizers that accompany the slices.
const SCOUTS: usize = 100;

#[test]
fn power_fails_while_receiving() {
    if !have(&["storescu"]) {
        return;
    }
    const STUDY: &str = "2.25.700";
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { quiet_long_s: 1.0, ..Settings::default() };
    let mut slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.700.1");
    // Enough instances for the plug to be pulled before the last one, however fast the machine is.
    let scouts: Vec<Object> = (0..SCOUTS).map(|i| scout(&slices[0], i)).collect();
    slices.extend(scouts);
    let folder = slices::write(&slices, &dir.path().join("study"));
    let daemon = Daemon::start(dir.path(), &settings);
    let mut sender = dcmtk("storescu", &daemon);
    sender
        .args(["-v", "+sd"])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let sender = sender.spawn().unwrap();
    wait_for("some instances", || (daemon.filed() >= 3).then_some(()));
    daemon.kill();
    let said = sender.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let kept = acknowledged(&said);
    assert!((3..SLICES + SCOUTS).contains(&kept), "{kept}: {said}");

    let daemon = Daemon::start(dir.path(), &settings);
    assert!(daemon.filed() >= kept, "{} of {kept}", daemon.filed());
    // What was acknowledged has its outcome, though the rest never comes …
    daemon.wait_done(STUDY);
    let revisions = daemon.outcomes(STUDY).len();
    assert_eq!(revisions, 1);
    // … and when it comes, the study is judged as a whole.
    storescu(&daemon, &[], &folder);
    wait_for("the whole study", || (daemon.outcomes(STUDY).len() > revisions).then_some(()));
    daemon.wait_done(STUDY);
    let outcomes = daemon.outcomes(STUDY);
    let last = outcomes.last().unwrap();
    assert_eq!(last["outcome"], "flagged", "{last}");
    assert_eq!(last["timings_ms"]["slices"], json!(SLICES as f64));
    assert_eq!(daemon.filed(), SLICES + SCOUTS);
}

#[test]
fn power_fails_while_waiting_evaluating_and_delivering() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    const STUDY: &str = "2.25.710";
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let settings =
        Settings { destinations: vec![("CONSOLE", port)], quiet_short_s: 2.0, ..Settings::default() };
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.710.1");
    let folder = slices::write(&slices, &dir.path().join("study"));

    let daemon = Daemon::start(dir.path(), &settings);
    storescu(&daemon, &[], &folder);
    assert_eq!(daemon.state(STUDY).as_deref(), Some("receiving"));
    daemon.kill();

    let daemon = Daemon::start(dir.path(), &settings);
    wait_for("the evaluation", || (daemon.state(STUDY).as_deref() != Some("receiving")).then_some(()));
    daemon.kill();

    // The console is not there yet.
    let daemon = Daemon::start(dir.path(), &settings);
    let outcome = daemon.outcome(STUDY);
    assert_eq!(outcome["outcome"], "flagged", "{outcome}");
    assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64));
    let results = daemon.results(STUDY);
    wait_for("an attempt", || daemon.log().contains("CONSOLE: not reached").then_some(()));
    assert_eq!((results.len(), daemon.waiting()), (1, 1));
    daemon.kill();

    let console = Storescp::start(&dir.path().join("console"), port);
    let daemon = Daemon::start(dir.path(), &settings);
    daemon.wait_delivered();
    assert_eq!(daemon.results(STUDY), results, "the result is sent as it was made before the failure");
    let received: Vec<String> = console.received().into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(received, results);
    assert_eq!(daemon.outcomes(STUDY).len(), 1);
}

#[test]
fn a_memory_bomb_costs_an_answer_not_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { quiet_long_s: 0.5, ..Settings::default() });
    let before_mib = daemon.peak_mib();
    for (uid, bytes, good) in bombs() {
        let mut scu = associate(&daemon);
        let (class, syntax) = (uids::CT_IMAGE_STORAGE, uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let answer = scu.store(class, uid, syntax, bytes.as_slice(), bytes.len() as u64).unwrap();
        let want = if good { Status::SUCCESS } else { Status::CANNOT_UNDERSTAND };
        assert_eq!(answer.status, want, "{uid}: {:?}", answer.error_comment);
        assert_eq!(scu.echo().unwrap(), Status::SUCCESS, "{uid}");
        scu.release().unwrap();
        if good {
            assert_eq!(daemon.outcome(uid)["outcome"], "not_evaluated");
        }
    }
    let peak_mib = daemon.peak_mib();
    assert!(peak_mib <= before_mib + 50 && peak_mib <= PEAK_MIB_MAX, "{before_mib} MiB, then {peak_mib} MiB");
}
