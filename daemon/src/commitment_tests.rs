//! What is committed, and how it is told.
use super::*;
use dimse::acceptor::{AcceptorConfig, Message, NAnswer, NOperation, accept};
use std::net::TcpListener;
use std::sync::mpsc;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

fn reference(class: &str, instance: &str) -> Reference {
    Reference { sop_class_uid: class.into(), sop_instance_uid: instance.into() }
}

fn set(bytes: &[u8]) -> DataSet<'_> {
    DataSet::new(bytes, IMPLICIT_VR_LITTLE_ENDIAN).unwrap()
}

fn action(transaction: Option<&str>, instances: usize) -> Vec<u8> {
    let mut set = Writer::default();
    if let Some(transaction) = transaction {
        set = set.uid(tags::TRANSACTION_UID, transaction);
    }
    let item = |i| {
        Writer::default()
            .uid(tags::REFERENCED_SOP_CLASS_UID, CT)
            .uid(tags::REFERENCED_SOP_INSTANCE_UID, &format!("1.{i}"))
    };
    set.sequence(tags::REFERENCED_SOP_SEQUENCE, (1..=instances).map(item)).finish()
}

#[test]
fn a_request_is_read_and_what_is_wrong_has_its_status() {
    let request = Request::read(&set(&action(Some("1.2.3"), 2))).unwrap();
    assert_eq!(request.transaction_uid, "1.2.3");
    assert_eq!(request.instances, [reference(CT, "1.1"), reference(CT, "1.2")]);
    let cases = [
        (action(None, 1), 0x0115),
        (action(Some(""), 1), 0x0115),
        (action(Some("1.2.3"), 0), 0x0115),
        (action(Some("1.2.3"), REFERENCES_MAX + 1), 0x0213),
        (vec![8, 0, 0x95], 0x0110),
    ];
    for (bytes, status) in cases {
        let error = Request::read(&set(&bytes)).unwrap_err();
        assert_eq!(error.status(), Status(status), "{error}");
    }
}

#[test]
fn what_is_here_is_committed_and_the_rest_fails_with_its_reason() {
    let request = Request {
        transaction_uid: "1.2.3".into(),
        instances: vec![reference(CT, "1.1"), reference(CT, "1.2"), reference(CT, "1.3")],
    };
    let all: HashMap<&str, String> = ["1.1", "1.2", "1.3"].map(|uid| (uid, CT.to_owned())).into();
    let (event, bytes) = report(&request, &all);
    assert_eq!(event, ALL_COMMITTED);
    let read = Report::read(&set(&bytes)).unwrap();
    assert_eq!((read.committed.len(), read.failed.len()), (3, 0));
    assert_eq!(set(&bytes).value(tags::FAILED_SOP_SEQUENCE).unwrap(), None);

    let some = [("1.1", CT.to_owned()), ("1.3", "1.2.840.10008.5.1.4.1.1.7".to_owned())].into();
    let (event, bytes) = report(&request, &some);
    assert_eq!(event, FAILURES_EXIST);
    let want = Report {
        transaction_uid: "1.2.3".into(),
        committed: vec!["1.1".into()],
        failed: vec![("1.2".into(), 0x0112), ("1.3".into(), 0x0119)],
    };
    assert_eq!(Report::read(&set(&bytes)).unwrap(), want);
    assert_eq!(set(&report(&request, &HashMap::new()).1).value(tags::REFERENCED_SOP_SEQUENCE).unwrap(), None);
}

#[test]
fn attempts_last_a_day() {
    let all_ms: i64 = (0..COMMITMENT_ATTEMPTS_MAX).map(backoff_ms).sum();
    assert!((24..26).contains(&(all_ms / 3_600_000)), "{all_ms}");
    assert_eq!((backoff_ms(0), backoff_ms(99)), (2_000, DELIVERY_PAUSE_MAX_MS));
}

/// A scanner that answers one report with `status` and hands over what it was told.
fn scanner(status: Status) -> (String, std::thread::JoinHandle<(String, u16, Report)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let config = AcceptorConfig {
            grant_scp: vec![STORAGE_COMMITMENT_PUSH_MODEL.to_owned()],
            ..AcceptorConfig::default()
        };
        let contexts: &[(&str, &[&str])] = &[(STORAGE_COMMITMENT_PUSH_MODEL, &[IMPLICIT_VR_LITTLE_ENDIAN])];
        let mut association = accept(stream, &config, contexts, |_| Ok(())).unwrap();
        let Some(Message::Normalized(request)) = association.next().unwrap() else { panic!("no report") };
        let NOperation::EventReport { event_type_id } = request.operation else { panic!("{request:?}") };
        let mut bytes = Vec::new();
        association.read_data_set(&mut bytes, 1 << 20).unwrap();
        association.respond_normalized(&request, status, NAnswer::default()).unwrap();
        assert!(association.next().unwrap().is_none(), "released");
        let calling = association.request().calling.to_string();
        (calling, event_type_id, Report::read(&set(&bytes)).unwrap())
    });
    (address, thread)
}

fn reporter(dir: &std::path::Path, address: &str) -> Reporter {
    Reporter {
        database: Arc::new(Database::open(&dir.join("db")).unwrap()),
        spool: Arc::new(Spool::open(&dir.join("spool"), 0).unwrap()),
        scanner: Scanner { ae_title: "CT1".into(), address: address.into(), tls: false },
        tls: None,
    }
}

#[test]
fn a_report_goes_to_the_scanner_on_a_new_association_and_once() {
    for (status, taken) in
        [(Status::SUCCESS, true), (Status::NO_SUCH_SOP_INSTANCE, true), (Status::PROCESSING_FAILURE, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (address, scanner) = scanner(status);
        let reporter = reporter(dir.path(), &address);
        let request = Request { transaction_uid: "1.2.3".into(), instances: vec![reference(CT, "1.1")] };
        // Long ago: what is not here does not come any more.
        reporter.database.request_commitment("CT1", "ALIAS", &request, 1).unwrap();
        let (wake, woken) = mpsc::channel();
        drop(wake);
        reporter.run(&woken).unwrap();
        let (calling, event, told) = scanner.join().unwrap();
        assert_eq!((calling.as_str(), event), ("ALIAS", FAILURES_EXIST));
        assert_eq!(told.failed, [("1.1".to_owned(), 0x0112)]);
        let waits = reporter.database.next_report_ms("CT1").unwrap();
        assert_eq!(waits.is_none(), taken, "{status}: a refusal that may pass is tried again");
    }
}

#[test]
fn an_instance_that_is_missing_is_waited_for_and_a_scanner_that_is_off_too() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens on port 1.
    let reporter = reporter(dir.path(), "127.0.0.1:1");
    let request = Request { transaction_uid: "1.2.3".into(), instances: vec![reference(CT, "1.1")] };
    let attend = |requested_ms: i64| {
        reporter.database.request_commitment("CT1", "T", &request, requested_ms).unwrap();
        let due = reporter.database.due_report("CT1", now_ms()).unwrap().unwrap();
        let before = now_ms();
        reporter.attend(&due).unwrap();
        (reporter.database.next_report_ms("CT1").unwrap().unwrap() - before, before)
    };
    let (pause, before) = attend(now_ms() - 100);
    assert!((MISSING_PAUSE_MS..BACKOFF_FIRST_MS).contains(&pause), "{pause}");
    assert_eq!(reporter.database.due_report("CT1", before + pause).unwrap().unwrap().attempts, 0);
    let (pause, before) = attend(now_ms() - MISSING_WAIT_MS - 1);
    assert!(pause >= BACKOFF_FIRST_MS, "{pause}");
    assert_eq!(reporter.database.due_report("CT1", before + pause).unwrap().unwrap().attempts, 1);
}
