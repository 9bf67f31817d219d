//! The outbox over power failures and absences: every result once for its receiver, under the same UIDs, the same bytes.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::{Daemon, Settings};
use e2e::misbehaving::Misbehaving;
use e2e::misbehaving::Protocol::{Dicom, Hl7, Ups};
use e2e::peers::{Storescp, free_port, have, have_python, storescu};
use e2e::slices::{self, phantom, renamed};
use e2e::{tables, wait_for};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn power_fails_between_the_deliveries_of_a_studys_results() {
    const STUDY: &str = "2.25.1501";
    if !have(&["storescu", "storescp"]) || !have_python("pynetdicom") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Each gets what is sent, and the daemon never hears of it: the worst moment for the power to fail.
    let names = [("PACS", Dicom), ("RIS", Hl7), ("WORKLIST", Ups)];
    let peers =
        names.map(|(name, protocol)| (name, protocol, if protocol == Hl7 { "close" } else { "drop" }));
    let peers = Misbehaving::start(&dir.path().join("peers"), &peers);
    let (up, down) = (free_port(), free_port());
    let console = Storescp::start(&dir.path().join("console"), up);
    let all = ["picture", "slices", "report", "segmentation"];
    let settings = Settings {
        tables: peers.tables.replace("results = [\"picture\"]", &format!("results = {all:?}"))
            + &tables::dicom("CONSOLE", console.port, &all)
            + &tables::dicom("ABSENT", down, &all),
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.1501.1");
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    daemon.wait_done(STUDY);
    let results = digests(&daemon);
    assert!(results.len() >= 4 + 2, "{results:?}");
    // In the middle of the deliveries to the one that listens, or after the first attempts at the others.
    wait_for("some deliveries", || (!console.received().is_empty()).then_some(()));
    daemon.kill();
    for attempt in 0..2 {
        let daemon = Daemon::start(dir.path(), &settings);
        wait_for("an attempt at each", || {
            let attempts = |name: &str| peers.arrivals(name).len() > attempt;
            names.iter().all(|(name, _)| attempts(name)).then_some(())
        });
        assert!(digests(&daemon) == results, "the results are those of before");
        daemon.kill();
    }
    for (name, _) in names {
        peers.behave(name, "ok");
    }
    let absent = Storescp::start(&dir.path().join("absent"), down);
    let daemon = Daemon::start(dir.path(), &settings);
    daemon.wait_delivered();
    let left: Vec<_> = daemon.outbox().into_iter().filter(|d| d.state != "delivered").collect();
    assert_eq!(left, []);
    assert!(digests(&daemon) == results, "the results are those of before");
    assert_eq!(daemon.outcomes(STUDY).len(), 1);
    for (name, _) in names {
        peers.assert_unchanged(&daemon, name);
        let arrivals = peers.arrivals(name);
        let accepted: Vec<_> = arrivals.iter().filter(|a| a.acknowledged).map(|a| a.uid.clone()).collect();
        let made: Vec<_> = daemon.outbox_of(name).into_iter().map(|d| d.uid).collect();
        assert!(arrivals.len() > accepted.len(), "{name}: nothing came twice");
        assert_eq!(sorted(accepted), sorted(made), "{name}: each is accepted once, of {arrivals:?}");
    }
    for (name, peer) in [("CONSOLE", &console), ("ABSENT", &absent)] {
        let received: Vec<_> = peer.received().into_iter().map(|(uid, _)| uid).collect();
        let made: Vec<_> = daemon.outbox_of(name).into_iter().map(|d| d.uid).collect();
        assert_eq!(sorted(received), sorted(made), "{name}");
        for (uid, path) in peer.received() {
            same_bytes(&path, &daemon.result_bytes(&uid));
        }
    }
}

fn sorted(mut uids: Vec<String>) -> Vec<String> {
    uids.sort();
    uids
}

/// Every result and its length and bytes.
fn digests(daemon: &Daemon) -> BTreeMap<String, Vec<u8>> {
    daemon.outbox().into_iter().map(|d| (d.uid.clone(), daemon.result_bytes(&d.uid))).collect()
}

/// A file that was received ends with the data set, byte by byte.
fn same_bytes(path: &Path, data_set: &[u8]) {
    let file = std::fs::read(path).unwrap();
    assert!(file.ends_with(data_set), "{} is not what was sent", path.display());
}

/// Studies that come while a destination is away.
const STUDIES: usize = 25;
/// What the rows of its results may cost in memory.
const ABSENCE_MIB_MAX: u64 = 30;

#[test]
fn a_peer_that_is_away_costs_rows_and_no_memory() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let tables = tables::dicom("AWAY", port, &["picture", "report"]);
    let settings = Settings { quiet_long_s: 0.3, tables, ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let send = |range: std::ops::Range<usize>| {
        for i in range {
            let study = format!("2.25.{}", 1600 + i);
            let slices = renamed(&phantom[..3], &study, &format!("{study}.1"));
            storescu(&daemon, &[], &slices::write(&slices, &dir.path().join(&study)));
            daemon.wait_done(&study);
        }
    };
    // The first ones bring the process to its usual size.
    send(0..5);
    let before_mib = daemon.peak_mib();
    send(5..STUDIES);
    let outbox = daemon.outbox();
    assert_eq!(outbox.len(), 2 * STUDIES);
    assert!(outbox.iter().all(|d| d.state == "waiting"), "{outbox:?}");
    // One that is away is asked now and then, not once a result.
    assert!(outbox.iter().all(|d| d.attempts <= 8), "{outbox:?}");
    assert!(
        daemon.peak_mib() <= before_mib + ABSENCE_MIB_MAX,
        "{before_mib} MiB, then {}",
        daemon.peak_mib()
    );
    let made: Vec<_> = outbox.into_iter().map(|d| d.uid).collect();
    let peer = Storescp::start(&dir.path().join("away"), port);
    daemon.wait_delivered();
    let received: Vec<_> = peer.received().into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(sorted(received), sorted(made));
}
