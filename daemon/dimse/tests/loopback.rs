//! Both roles against each other over loopback.

mod common;

use std::io::{self, Read};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::{CONTEXTS, LIMIT_BYTES, Scp, data_set, impatient};
use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, accept};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, ContextTable, Rejection, Status, uids};

const CT: &str = uids::CT_IMAGE_STORAGE;
const EXPLICIT: &str = uids::EXPLICIT_VR_LITTLE_ENDIAN;

fn ae(title: &str) -> AeTitle {
    AeTitle::new(title).expect("a valid title")
}

fn connect(scp: &Scp) -> Requestor {
    Requestor::connect(scp.address, &ae("CT1"), &ae("TRIAGE"), CONTEXTS, &RequestorConfig::default())
        .expect("accepted")
}

#[test]
fn echo_and_store() {
    // Lengths around the boundaries of the 16 KiB PDUs: the PDV header takes 6 bytes.
    let lengths = [0, 1, 2, 16_377, 16_378, 16_379, 32_756, 100_000, 1 << 20];
    let scp = Scp::start(1, AcceptorConfig { max_pdu_length: 16 * 1024, ..AcceptorConfig::default() });
    let mut scu = connect(&scp);
    assert_eq!(scu.echo().expect("answered"), Status::SUCCESS);
    let mut sent = Vec::new();
    for (i, length) in lengths.into_iter().enumerate() {
        let bytes: Vec<u8> = (0..length).map(|b| (b * 7 + i) as u8).collect();
        let uid = format!("2.25.{i}");
        let response = scu.store(CT, &uid, EXPLICIT, bytes.as_slice(), length as u64).expect("answered");
        assert_eq!(response.status, Status::SUCCESS);
        assert_eq!(response.error_comment, None);
        sent.push((uid, bytes));
    }
    assert_eq!(scu.echo().expect("answered"), Status::SUCCESS);
    scu.release().expect("released in order");
    let (log, result) = scp.finish().pop().expect("one association");
    result.expect("ended in order");
    // dicom-rs repeats the first message id; ours must follow the request.
    assert_eq!(log.echoes, [1, 2 + lengths.len() as u16]);
    let got: Vec<_> = log.stores.into_iter().map(|(r, bytes)| (r.sop_instance_uid, bytes)).collect();
    assert!(got == sent, "the data sets differ");
}

#[test]
fn acceptor_prefers_its_own_transfer_syntax() {
    let scp = Scp::start(1, AcceptorConfig::default());
    let theirs: ContextTable<'_> = &[
        (CT, &[uids::IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT]),
        (CT, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
        (CT, &[uids::JPEG2000_LOSSLESS]),
        (uids::MR_IMAGE_STORAGE, &[EXPLICIT]),
    ];
    let mut scu =
        Requestor::connect(scp.address, &ae("CT1"), &ae("TRIAGE"), theirs, &RequestorConfig::default())
            .expect("accepted");
    let chosen: Vec<_> = scu.contexts().iter().map(|c| (c.id, c.transfer_syntax.as_str())).collect();
    assert_eq!(chosen, [(1, EXPLICIT), (3, uids::IMPLICIT_VR_LITTLE_ENDIAN)]);
    assert!(scu.accepts(CT, EXPLICIT) && !scu.accepts(uids::MR_IMAGE_STORAGE, EXPLICIT));

    // A store without a context costs nothing but itself.
    let error =
        scu.store(uids::MR_IMAGE_STORAGE, "1.2", EXPLICIT, &[0u8; 2][..], 2).expect_err("not accepted");
    assert!(matches!(error, AssociationError::NoContext { .. }) && !error.retryable(), "{error}");
    assert!(scu.store(CT, "1.2", EXPLICIT, &[0u8; 2][..], 2).expect("still usable").status.is_success());
    scu.release().expect("released in order");
    let (log, result) = scp.finish().pop().expect("one association");
    result.expect("ended in order");
    assert_eq!(log.stores[0].0.context.transfer_syntax, EXPLICIT);
    assert_eq!(log.peer_implementation.as_deref(), Some("TRIAGED_0_1"));
}

#[test]
fn over_limit_is_answered_and_survived() {
    let scp = Scp::start(1, AcceptorConfig::default());
    let mut scu = connect(&scp);
    for (length, want) in [
        (LIMIT_BYTES, Status::SUCCESS),
        (LIMIT_BYTES + 1, Status::OUT_OF_RESOURCES),
        (3 * LIMIT_BYTES, Status::OUT_OF_RESOURCES),
        (10, Status::SUCCESS),
    ] {
        let response = scu.store(CT, "2.25.1", EXPLICIT, io::repeat(7), length).expect("answered");
        assert_eq!(response.status, want, "{length} bytes");
        assert_eq!(response.error_comment.as_deref(), (!want.is_success()).then_some("instance too large"));
    }
    scu.release().expect("released in order");
    let (log, result) = scp.finish().pop().expect("one association");
    result.expect("ended in order");
    assert_eq!((log.stores.len(), log.over_limit), (2, 2));
}

/// A sink on a disk with room for 100 bytes.
struct FullDisk(usize);

impl io::Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 + bytes.len() > 100 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn failing_sink_and_unread_data_set() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let provider = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut association = accept(stream, &AcceptorConfig::default(), CONTEXTS, |_| Ok(()))?;
        let mut stores = 0;
        while let Some(message) = association.next()? {
            let Message::Store(store) = message else { panic!("only stores are sent") };
            stores += 1;
            match stores {
                1 => match association.read_data_set(&mut FullDisk(0), u64::MAX)? {
                    DataSetEnd::SinkFailed { error } => {
                        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        association.respond_store(
                            &store,
                            Status::OUT_OF_RESOURCES,
                            Some(&"disk full ".repeat(20)),
                        )?;
                    }
                    other => panic!("{other:?}"),
                },
                // Answered without a look at the data set, which must still be taken off the wire.
                _ => association.respond_store(&store, Status::CANNOT_UNDERSTAND, None)?,
            }
        }
        Ok::<_, AssociationError>(stores)
    });
    let mut scu =
        Requestor::connect(address, &ae("CT1"), &ae("TRIAGE"), CONTEXTS, &RequestorConfig::default())
            .expect("accepted");
    let bytes = data_set("2.25.1", 500_000);
    let mut store =
        || scu.store(CT, "2.25.1", EXPLICIT, bytes.as_slice(), bytes.len() as u64).expect("answered");
    let full = store();
    assert_eq!(full.status, Status::OUT_OF_RESOURCES);
    assert!(full.status.is_retryable());
    // PS3.7 section C.4: at most 64 characters; the trailing space is padding.
    assert_eq!(full.error_comment.map(|c| c.len()), Some("disk full ".repeat(7)[..64].trim_end().len()));
    assert_eq!(store().status, Status::CANNOT_UNDERSTAND);
    assert_eq!(store().status, Status::CANNOT_UNDERSTAND);
    scu.release().expect("released in order");
    assert_eq!(provider.join().expect("no panic").expect("ended in order"), 3);
}

/// A file that turns out to be shorter, or unreadable, half-way.
struct Failing(usize, bool);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return if self.1 { Err(io::Error::other("bad sector")) } else { Ok(0) };
        }
        let n = buffer.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }
}

#[test]
fn source_that_ends_early_aborts() {
    for unreadable in [false, true] {
        let scp = Scp::start(1, AcceptorConfig::default());
        let mut scu = connect(&scp);
        let error =
            scu.store(CT, "2.25.1", EXPLICIT, Failing(300_000, unreadable), 500_000).expect_err("too short");
        assert!(matches!(error, AssociationError::Source { length_bytes: 500_000, .. }), "{error}");
        let (log, result) = scp.finish().pop().expect("one association");
        assert!(matches!(result, Err(AssociationError::Aborted { source_code: 0, .. })), "{result:?}");
        assert!(log.stores.is_empty(), "half an instance was taken");
    }
}

#[test]
fn requestor_aborts() {
    let scp = Scp::start(1, AcceptorConfig::default());
    connect(&scp).abort();
    let (_, result) = scp.finish().pop().expect("one association");
    assert!(matches!(result, Err(AssociationError::Aborted { source_code: 0, .. })), "{result:?}");
}

#[test]
fn rejections() {
    let cases = [
        ("CT1", "WRONG", Rejection::CALLED_AE_NOT_RECOGNIZED, false),
        ("STRANGER", "TRIAGE", Rejection::CALLING_AE_NOT_RECOGNIZED, false),
        ("CT1", "BUSY", Rejection::TEMPORARY_CONGESTION, true),
        ("CT1", "FULL", Rejection::LOCAL_LIMIT_EXCEEDED, true),
    ];
    let scp = Scp::start(cases.len(), AcceptorConfig::default());
    for (calling, called, want, retryable) in cases {
        let error =
            Requestor::connect(scp.address, &ae(calling), &ae(called), CONTEXTS, &RequestorConfig::default())
                .expect_err("refused");
        match &error {
            AssociationError::Rejected(got) => assert_eq!(*got, want),
            other => panic!("{other}"),
        }
        assert_eq!(error.retryable(), retryable, "{error}");
    }
    for ((_, result), (calling, called, want, _)) in scp.finish().into_iter().zip(cases) {
        match result {
            Err(AssociationError::Refused { calling: a, called: b, rejection }) => {
                assert_eq!((a.as_str(), b.as_str(), rejection), (calling, called, want));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config =
        RequestorConfig { association_timeout: Duration::from_millis(200), ..RequestorConfig::default() };
    // Connects, by the backlog, but is never answered.
    let began = Instant::now();
    let error = Requestor::connect(address, &ae("A"), &ae("B"), CONTEXTS, &config).expect_err("silence");
    assert!(matches!(error, AssociationError::Timeout { .. }) && error.retryable(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(listener);
    let error = Requestor::connect(address, &ae("A"), &ae("B"), CONTEXTS, &config).expect_err("refused");
    assert!(matches!(error, AssociationError::Connect { .. }) && error.retryable(), "{error}");
}

#[test]
fn idle_requestor_is_cut_off() {
    let scp = Scp::start(1, impatient());
    let mut scu = connect(&scp);
    std::thread::sleep(Duration::from_millis(700));
    let error = scu.echo().expect_err("aborted meanwhile");
    assert!(
        matches!(error, AssociationError::Aborted { source_code: 2, .. } | AssociationError::Closed { .. }),
        "{error}"
    );
    let (_, result) = scp.finish().pop().expect("one association");
    assert!(matches!(result, Err(AssociationError::Timeout { .. })), "{result:?}");
}
