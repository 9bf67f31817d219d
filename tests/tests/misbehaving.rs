//! Destinations that misbehave. Whatever one does, nothing is lost, nothing goes out under another UID or with other
//! bytes, and no other destination waits for it.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::{Daemon, Settings};
use e2e::misbehaving::Misbehaving;
use e2e::misbehaving::Protocol::{self, Dicom, Hl7, Ups};
use e2e::peers::{have, have_python, storescu};
use e2e::slices::{self, Object, phantom, renamed};
use e2e::wait_for;
use std::path::Path;
use std::time::{Duration, Instant};

/// Three slices as a study of their own: too few for the networks, so that no time is spent in them.
fn send_few(daemon: &Daemon, phantom: &[Object], dir: &Path, study: &str) {
    let slices = renamed(&phantom[..3], study, &format!("{study}.1"));
    storescu(daemon, &[], &slices::write(&slices, &dir.join(study)));
    daemon.outcome(study);
}

fn settings(peers: &Misbehaving) -> Settings {
    Settings { quiet_long_s: 0.3, tables: peers.tables.clone(), ..Settings::default() }
}

fn state(daemon: &Daemon, name: &str) -> String {
    daemon.outbox_of(name).remove(0).state
}

fn wait_state(daemon: &Daemon, name: &str, want: &str) {
    wait_for(&format!("{name} to be {want}"), || (state(daemon, name) == want).then_some(()));
}

/// A destination, what it does at first, and after how many attempts its result is parked; 0: never, it is tried again.
type Case = (&'static str, Protocol, &'static str, u32);

/// Those that say something at once.
const CASES: &[Case] = &[
    // PS3.8 section 9.3.4: the called AE title is not known; there is congestion.
    ("RJ-PERMANENT", Dicom, "reject-permanent", 0),
    ("RJ-TRANSIENT", Dicom, "reject-transient", 0),
    ("NO-CONTEXT", Dicom, "no-context", 3),
    // PS3.4 table B.2-1: out of resources, cannot understand; PS3.7 annex C: SOP class not supported.
    ("A700", Dicom, "a700", 0),
    ("C000", Dicom, "c000", 5),
    ("0122", Dicom, "0122", 3),
    ("GARBAGE", Dicom, "garbage", 0),
    ("NOISE", Dicom, "noise", 0),
    ("DROP", Dicom, "drop", 0),
    ("UPS-C000", Ups, "c000", 5),
    ("UPS-DROP", Ups, "drop", 0),
    ("ae", Hl7, "ae", 5),
    ("ar", Hl7, "ar", 3),
    ("wrong-control-id", Hl7, "wrong-control-id", 0),
    ("noise", Hl7, "noise", 0),
    ("close", Hl7, "close", 0),
];

#[test]
fn what_is_refused_is_parked_and_all_else_tried_again() {
    const STUDY: &str = "2.25.1401";
    if !have(&["storescu"]) || !have_python("pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let well = [("WELL", Dicom, "ok"), ("well", Hl7, "ok")];
    let ill = CASES.iter().map(|(name, protocol, does, _)| (*name, *protocol, *does));
    let peers =
        Misbehaving::start(&dir.path().join("peers"), &well.into_iter().chain(ill).collect::<Vec<_>>());
    let daemon = Daemon::start(dir.path(), &settings(&peers));
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    send_few(&daemon, &phantom, dir.path(), STUDY);
    let start = Instant::now();
    for (name, ..) in well {
        wait_state(&daemon, name, "delivered");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "the others held them up for {:?}", start.elapsed());

    let (parked, tried): (Vec<&Case>, Vec<&Case>) = CASES.iter().partition(|(.., attempts)| *attempts > 0);
    for (name, ..) in &tried {
        wait_for(&format!("attempts at {name}"), || {
            let delivery = daemon.outbox_of(name).remove(0);
            assert_eq!(delivery.state, "waiting", "{delivery:?}");
            (delivery.attempts >= 2 && !delivery.error.is_empty()).then_some(())
        });
        // One says, as the standard asks for, that it has the step: it had, and the answer was lost.
        peers.behave(name, if *name == "UPS-DROP" { "0111" } else { "ok" });
    }
    for (name, .., attempts) in &parked {
        wait_state(&daemon, name, "parked");
        let delivery = daemon.outbox_of(name).remove(0);
        assert_eq!(delivery.attempts, *attempts, "{delivery:?}");
        assert!(!delivery.error.is_empty(), "{name}");
    }
    for (name, ..) in &tried {
        wait_state(&daemon, name, "delivered");
    }
    an_operator_sorts_out(&daemon, &peers, &parked);
    for (name, ..) in CASES {
        peers.assert_unchanged(&daemon, name);
        let acknowledged = peers.arrivals(name).iter().filter(|arrival| arrival.acknowledged).count();
        let want = usize::from(state(&daemon, name) == "delivered");
        assert_eq!(acknowledged, want, "{name}: {:?}", peers.arrivals(name));
    }
}

/// What is parked is listed with its reason, dropped and sent again, while the daemon runs.
fn an_operator_sorts_out(daemon: &Daemon, peers: &Misbehaving, parked: &[&Case]) {
    let list = daemon.outbox_command(&["list"]);
    for (name, ..) in parked {
        let delivery = daemon.outbox_of(name).remove(0);
        let line = list.lines().find(|line| line.split_whitespace().any(|word| word == *name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{list}"));
        assert!(line.contains("parked"), "{line}");
        assert!(line.contains("2.25.1401") && line.contains(&delivery.error), "{line}");
    }
    assert!(!list.contains("PHANTOM"), "the list names a patient:\n{list}");
    let line = list.lines().find(|line| line.split_whitespace().any(|word| word == "ae")).unwrap();
    daemon.outbox_command(&["drop", line.split_whitespace().next().unwrap()]);
    wait_state(daemon, "ae", "dropped");
    for (name, ..) in parked.iter().filter(|(name, ..)| *name != "ae") {
        peers.behave(name, "ok");
        daemon.outbox_command(&["retry", "--destination", name]);
    }
    for (name, ..) in parked.iter().filter(|(name, ..)| *name != "ae") {
        wait_state(daemon, name, "delivered");
    }
    assert_eq!(state(daemon, "ae"), "dropped");
}

#[test]
fn peers_that_fall_silent_hold_up_nobody() {
    const STUDY: &str = "2.25.1411";
    if !have(&["storescu"]) || !have_python("pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let silent = [("SILENT", Dicom, "silent"), ("HANG", Dicom, "hang"), ("silent", Hl7, "silent")];
    let well = [("WELL", Dicom, "ok"), ("UPS-WELL", Ups, "ok"), ("well", Hl7, "ok")];
    let peers = Misbehaving::start(&dir.path().join("peers"), &[silent, well].concat());
    let daemon = Daemon::start(dir.path(), &settings(&peers));
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    send_few(&daemon, &phantom, dir.path(), STUDY);
    let start = Instant::now();
    for (name, ..) in well {
        wait_state(&daemon, name, "delivered");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "the others held them up for {:?}", start.elapsed());
    // Each has its deadline …
    for (name, ..) in silent {
        wait_for(&format!("the deadline of {name}"), || {
            (daemon.outbox_of(name)[0].attempts > 0).then_some(())
        });
        peers.behave(name, "ok");
    }
    // … and another attempt.
    for (name, ..) in silent {
        wait_state(&daemon, name, "delivered");
        peers.assert_unchanged(&daemon, name);
    }
    assert_eq!(peers.arrivals("HANG").len(), 2);
}

#[test]
fn a_result_that_breaks_its_peer_again_and_again_is_parked_as_poison() {
    const POISON: &str = "2.25.1421";
    if !have(&["storescu"]) || !have_python("pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let peers = Misbehaving::start(&dir.path().join("peers"), &[("PACS", Dicom, "poison")]);
    let daemon = Daemon::start(dir.path(), &settings(&peers));
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    send_few(&daemon, &phantom, dir.path(), POISON);
    let poison = daemon.outbox_of("PACS").remove(0).uid;
    wait_for("the first break", || (daemon.outbox_of("PACS")[0].attempts > 0).then_some(()));
    let parked = (0..20).find(|i| {
        let study = format!("2.25.143{i}");
        send_few(&daemon, &phantom, dir.path(), &study);
        // The others get through.
        wait_for("the delivery of another", || {
            let rows = daemon.outbox_of("PACS");
            rows.iter().all(|row| row.uid == poison || row.state == "delivered").then_some(())
        });
        // Whatever gets through makes the peer known to be alive: the poison is tried again at once.
        std::thread::sleep(Duration::from_millis(300));
        daemon.outbox_of("PACS")[0].state == "parked"
    });
    let row = daemon.outbox_of("PACS").remove(0);
    assert!(parked.is_some_and(|studies| studies >= 7), "{row:?} after {parked:?}");
    assert!(row.attempts >= 8, "{row:?}");
    peers.assert_unchanged(&daemon, "PACS");
}
