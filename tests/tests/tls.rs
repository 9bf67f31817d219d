//! TLS with mutual authentication, both ways, for DICOM and HL7, against DCMTK and Python.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use e2e::certificates::{Authority, Identity};
use e2e::daemon::{AE_TITLE, Daemon, Settings};
use e2e::peers::{Collector, Storescp, free_port, have, have_python, run, run_ok};
use e2e::slices::{self, header, phantom, renamed, text};
use e2e::{tables, wait_for};
use std::path::Path;
use std::process::Command;

const STUDY: &str = "2.25.1701";

/// DCMTK's options for TLS as `who`, who trusts `authority`.
fn options<'a>(who: &'a Identity, authority: &'a Authority) -> Vec<&'a str> {
    let path = |path: &'a Path| path.to_str().unwrap();
    vec!["+tls", path(&who.key), path(&who.certificate), "+cf", path(&authority.certificate)]
}

/// DCMTK's sender, with options for TLS.
fn sender(port: u16, tls: &[&str], folder: &Path) -> Command {
    let mut command = Command::new("storescu");
    command
        .args(tls)
        .args(["-aet", "CT1", "-aec", AE_TITLE, "127.0.0.1", &port.to_string(), "+sd"])
        .arg(folder);
    command
}

#[test]
fn everything_can_go_over_tls_and_nothing_else_gets_in() {
    if !have(&["storescu", "storescp"]) || !have_python("hl7") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(&dir.path().join("ours"));
    let others = Authority::new(&dir.path().join("others"));
    let [scanner, pacs, ris] = ["scanner", "pacs", "ris"].map(|name| ours.issue(name));
    let stranger = others.issue("stranger");
    let console = free_port();
    let console = Storescp::start_with(&dir.path().join("console"), console, &options(&pacs, &ours));
    let trusts_none = free_port();
    let foreign = options(&stranger, &others);
    let foreign = Storescp::start_with(&dir.path().join("foreign"), trusts_none, &foreign);
    let files = [ris.certificate.as_path(), &ris.key, &ours.certificate];
    let messages = Collector::start("mllp.py", &dir.path().join("messages"), &files);
    let port = free_port();
    let settings = Settings {
        plain: false,
        tls_port: Some(port),
        quiet_long_s: 0.5,
        tables: [
            ours.table(),
            tables::dicom("CONSOLE", console.port, &["picture", "report"]) + "tls = true\n",
            tables::dicom("FOREIGN", foreign.port, &["picture"]) + "tls = true\n",
            tables::hl7("ris", messages.port) + "tls = true\n",
        ]
        .concat(),
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    assert_eq!(daemon.port, port, "it listens with TLS alone");
    let phantom = renamed(&phantom(&dir.path().join("phantom"), "0,0")[..3], STUDY, "2.25.1701.1");
    let folder = slices::write(&phantom, &dir.path().join("study"));

    // Without TLS; with a certificate of another authority; without one.
    let certificate = ours.certificate.to_str().unwrap();
    let foreign_tls =
        ["+tls", stranger.key.to_str().unwrap(), stranger.certificate.to_str().unwrap(), "+cf", certificate];
    let refused: [(&str, &[&str]); 3] =
        [("plain", &[]), ("foreign", &foreign_tls), ("anonymous", &["+tla", "+cf", certificate])];
    for (who, tls) in refused {
        let lines = daemon.log().lines().count();
        let (ok, said) = run(&mut sender(port, tls, &folder));
        assert!(!ok, "{who} got in: {said}");
        let in_log =
            || daemon.log().lines().skip(lines).any(|l| l.contains("WARN") && l.contains("127.0.0.1"));
        wait_for(&format!("the refusal of {who} in the log"), || in_log().then_some(()));
    }
    assert_eq!((daemon.filed(), daemon.state(STUDY)), (0, None));

    run_ok(&mut sender(port, &options(&scanner, &ours), &folder));
    daemon.outcome(STUDY);
    wait_for("the deliveries", || (daemon.waiting() == 1).then_some(()));
    let received = console.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|(_, path)| text(&header(path), tags::STUDY_INSTANCE_UID) == STUDY));
    assert_eq!(messages.received().len(), 1);
    // Whom we don't trust gets nothing, and it is said why.
    let row = daemon.outbox_of("FOREIGN").remove(0);
    wait_for("an attempt", || (daemon.outbox_of("FOREIGN")[0].attempts > 0).then_some(()));
    assert_eq!((row.state.as_str(), foreign.received().len()), ("waiting", 0));
    let error = daemon.outbox_of("FOREIGN").remove(0).error;
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    assert!(daemon.stop().success());
}

#[test]
fn with_and_without_tls_side_by_side() {
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(&dir.path().join("ours"));
    let scanner = ours.issue("scanner");
    let port = free_port();
    let settings =
        Settings { tls_port: Some(port), quiet_long_s: 0.5, tables: ours.table(), ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "0,0");
    let senders: [(&str, u16, &[&str]); 2] =
        [("2.25.1711", port, &options(&scanner, &ours)), ("2.25.1712", daemon.port, &[])];
    for (study, port, tls) in senders {
        let slices = renamed(&phantom[..3], study, &format!("{study}.1"));
        run_ok(&mut sender(port, tls, &slices::write(&slices, &dir.path().join(study))));
        daemon.outcome(study);
    }
    assert!(daemon.stop().success());
}
