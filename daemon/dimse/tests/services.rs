//! The N-services in both roles against each other, and the requestor against a provider by hand: what is in every
//! command, C-FIND with its limits, and what may come when nobody asked.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::element as data_element;
use common::raw::{Peer, Script, message, pdu, response};
use dimse::acceptor::{
    AcceptedAssociation, AcceptorConfig, DataSetEnd, Message, NAnswer, NOperation, NRequest, accept,
};
use dimse::command::{CommandSet, NO_DATA_SET, element, field};
use dimse::conformance::SERVICES;
use dimse::requestor::{FindLimits, RESPONSE_DATA_SET_BYTES_MAX, Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, ContextTable, RoleSelection, Status, uids};

const MPPS: &str = uids::MODALITY_PERFORMED_PROCEDURE_STEP;
const COMMITMENT: &str = uids::STORAGE_COMMITMENT_PUSH_MODEL;
const WORKLIST: &str = uids::MODALITY_WORKLIST_INFORMATION_MODEL_FIND;
const EXPLICIT: &[&str] = &[uids::EXPLICIT_VR_LITTLE_ENDIAN];
const CONTEXTS: ContextTable<'static> = &[(MPPS, EXPLICIT), (COMMITMENT, EXPLICIT), (WORKLIST, EXPLICIT)];

fn connect(address: SocketAddr, config: &RequestorConfig) -> Requestor {
    let (us, them) = ("TRIAGE".parse::<AeTitle>().expect("valid"), "PACS".parse().expect("valid"));
    Requestor::connect(address, &us, &them, CONTEXTS, config).expect("accepted")
}

fn impatient() -> RequestorConfig {
    RequestorConfig {
        association_timeout: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        ..RequestorConfig::default()
    }
}

/// A performer that leaves each request, with its data set read, to `answer`.
fn performer<T: Send + 'static>(
    config: AcceptorConfig,
    mut answer: impl FnMut(&mut AcceptedAssociation, &NRequest, &[u8]) -> Result<T, AssociationError>
    + Send
    + 'static,
) -> (SocketAddr, JoinHandle<Result<Vec<T>, AssociationError>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut association = accept(stream, &config, CONTEXTS, |_| Ok(()))?;
        let mut answers = Vec::new();
        while let Some(message) = association.next()? {
            let Message::Normalized(request) = message else { panic!("{message:?}") };
            let mut bytes = Vec::new();
            match association.read_data_set(&mut bytes, 1 << 20)? {
                DataSetEnd::Complete { length_bytes } => assert_eq!(length_bytes, bytes.len() as u64),
                other => panic!("{other:?}"),
            }
            answers.push(answer(&mut association, &request, &bytes)?);
        }
        Ok(answers)
    });
    (address, thread)
}

#[test]
fn every_service_in_both_roles() {
    let reply = data_element((0x0008, 0x1190), "UR", "reply").repeat(10_000);
    let replied = reply.clone();
    let (address, performer) = performer(AcceptorConfig::default(), move |association, request, bytes| {
        let answer = match request.operation {
            // The choice of the name is ours.
            NOperation::Create if request.sop_instance_uid.is_none() => {
                NAnswer { sop_instance_uid: Some("2.25.77"), ..NAnswer::default() }
            }
            NOperation::Set => NAnswer { error_comment: Some("no such step"), ..NAnswer::default() },
            NOperation::Action { .. } => NAnswer { data_set: Some(&replied), ..NAnswer::default() },
            _ => NAnswer::default(),
        };
        let refused = request.operation == NOperation::Set;
        let status = if refused { Status::NO_SUCH_SOP_INSTANCE } else { Status::SUCCESS };
        association.respond_normalized(request, status, answer)?;
        Ok((
            request.operation,
            request.sop_class_uid.clone(),
            request.sop_instance_uid.clone(),
            request.has_data_set,
            bytes.to_vec(),
        ))
    });
    let mut scu = connect(address, &RequestorConfig::default());
    assert_eq!(scu.transfer_syntax_of(MPPS), Some(EXPLICIT[0]));
    assert_eq!(scu.transfer_syntax_of(uids::VERIFICATION), None);
    // Many PDUs.
    let long = data_element((0x0040, 0x0254), "LO", "CHEST").repeat(40_000);

    let created = scu.create(MPPS, Some("2.25.1"), &long).expect("answered");
    assert_eq!((created.status, created.sop_instance_uid.as_deref()), (Status::SUCCESS, Some("2.25.1")));
    assert!(created.data_set.is_empty() && created.error_comment.is_none());
    let named = scu.create(MPPS, None, b"").expect("answered");
    assert_eq!(named.sop_instance_uid.as_deref(), Some("2.25.77"));
    let set = scu.set(MPPS, "2.25.9", b"ab").expect("answered");
    assert_eq!(set.status, Status::NO_SUCH_SOP_INSTANCE);
    assert_eq!(set.error_comment.as_deref(), Some("no such step"));
    let acted = scu.action(COMMITMENT, "2.25.2", 1, b"cd").expect("answered");
    assert!(acted.data_set == reply, "the reply differs");
    let reported = scu.event_report(COMMITMENT, "2.25.2", 2, b"ef").expect("answered");
    assert_eq!((reported.status, reported.sop_instance_uid.as_deref()), (Status::SUCCESS, Some("2.25.2")));

    // Without a context it costs nothing but itself.
    let error = scu.create(uids::VERIFICATION, None, b"").expect_err("not accepted");
    assert!(matches!(error, AssociationError::NoContext { .. }), "{error}");
    assert!(scu.event_report(COMMITMENT, "2.25.2", 1, b"").expect("still usable").status.is_success());
    scu.release().expect("released in order");

    let row = |operation, class: &str, uid: Option<&str>, bytes: &[u8]| {
        (operation, class.to_owned(), uid.map(str::to_owned), !bytes.is_empty(), bytes.to_vec())
    };
    let event = |event_type_id| NOperation::EventReport { event_type_id };
    let want = [
        row(NOperation::Create, MPPS, Some("2.25.1"), &long),
        row(NOperation::Create, MPPS, None, b""),
        row(NOperation::Set, MPPS, Some("2.25.9"), b"ab"),
        row(NOperation::Action { action_type_id: 1 }, COMMITMENT, Some("2.25.2"), b"cd"),
        row(event(2), COMMITMENT, Some("2.25.2"), b"ef"),
        row(event(1), COMMITMENT, Some("2.25.2"), b""),
    ];
    let got = performer.join().expect("no panic").expect("ended in order");
    assert!(got == want, "{:?}", got.iter().map(|r| (&r.0, &r.1, &r.2, r.4.len())).collect::<Vec<_>>());
}

#[test]
fn responses_hold_what_the_standard_wants() {
    // Operation, names of the request, its further elements, and what the response must repeat.
    let affected = [element::AFFECTED_SOP_CLASS_UID, element::AFFECTED_SOP_INSTANCE_UID];
    let requested = [element::REQUESTED_SOP_CLASS_UID, element::REQUESTED_SOP_INSTANCE_UID];
    let cases = [
        (field::N_CREATE_RQ, affected, None),
        (field::N_SET_RQ, requested, None),
        (field::N_GET_RQ, requested, None),
        (field::N_DELETE_RQ, requested, None),
        (field::N_ACTION_RQ, requested, Some(element::ACTION_TYPE_ID)),
        (field::N_EVENT_REPORT_RQ, affected, Some(element::EVENT_TYPE_ID)),
    ];
    let (address, performer) = performer(AcceptorConfig::default(), |association, request, _| {
        // A second look finds nothing, harmlessly.
        let again = association.read_data_set(&mut Vec::new(), 1)?;
        assert_eq!(matches!(again, DataSetEnd::SinkFailed { .. }), request.has_data_set, "{again:?}");
        association.respond_normalized(request, Status::SUCCESS, NAnswer::default())
    });
    let mut peer = Peer::associate(address, CONTEXTS);
    for (message_id, (operation, [class, instance], type_id)) in (7..).zip(cases) {
        let has_data_set = message_id % 2 == 0;
        let mut command = CommandSet::default()
            .with_uid(class, MPPS)
            .with_uid(instance, "2.25.5")
            .with_u16(element::COMMAND_FIELD, operation)
            .with_u16(element::MESSAGE_ID, message_id)
            .with_u16(element::DATA_SET_TYPE, if has_data_set { 0 } else { NO_DATA_SET });
        if let Some(number) = type_id {
            command = command.with_u16(number, 3);
        }
        peer.send(&message(1, &command, has_data_set.then_some(b"ab")));
        let response = peer.assert_response(operation, message_id, Status::SUCCESS);
        assert_eq!(response.text(element::AFFECTED_SOP_CLASS_UID).as_deref(), Some(MPPS));
        assert_eq!(response.text(element::AFFECTED_SOP_INSTANCE_UID).as_deref(), Some("2.25.5"));
        assert_eq!(response.text(element::REQUESTED_SOP_CLASS_UID), None);
        for number in [element::ACTION_TYPE_ID, element::EVENT_TYPE_ID] {
            assert_eq!(response.u16(number).ok(), (type_id == Some(number)).then_some(3), "{operation:#06X}");
        }
        assert!(!response.has_data_set());
    }
    // Malformed: answered without the performer.
    let command = CommandSet::default()
        .with_u16(element::COMMAND_FIELD, field::N_SET_RQ)
        .with_u16(element::MESSAGE_ID, 99)
        .with_u16(element::DATA_SET_TYPE, 1);
    peer.send(&message(1, &command, Some(b"ab")));
    peer.assert_response(field::N_SET_RQ, 99, Status::MISSING_ATTRIBUTE);
    peer.release();
    assert_eq!(performer.join().expect("no panic").expect("ended in order").len(), cases.len());
}

#[test]
fn the_table_of_services_is_what_the_acceptor_does() {
    // Without any UIDs: what we have is told from what we don't have by the reason.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let acceptor = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut association = accept(stream, &AcceptorConfig::default(), CONTEXTS, |_| Ok(()))?;
        while let Some(message) = association.next()? {
            match message {
                Message::Echo(echo) => association.respond_echo(&echo, Status::SUCCESS)?,
                other => panic!("{other:?}"),
            }
        }
        Ok::<_, AssociationError>(())
    });
    let mut peer = Peer::associate(address, CONTEXTS);
    for (message_id, service) in (1..).zip(SERVICES) {
        let command = CommandSet::default()
            .with_u16(element::COMMAND_FIELD, service.command_field)
            .with_u16(element::MESSAGE_ID, message_id)
            .with_u16(element::DATA_SET_TYPE, NO_DATA_SET);
        peer.send(&message(1, &command, None));
        if service.command_field == field::CANCEL_RQ {
            assert!(!service.performed);
            continue;
        }
        let response = peer.response();
        assert_eq!(response.u16(element::MESSAGE_ID_RESPONDED_TO), Ok(message_id));
        let status = response.u16(element::STATUS).map(Status).expect("present");
        assert_eq!(status != Status::UNRECOGNIZED_OPERATION, service.performed, "{}: {status}", service.name);
    }
    peer.release();
    acceptor.join().expect("no panic").expect("ended in order");
}

#[test]
fn roles_are_selected() {
    let role = |uid: &str| RoleSelection { sop_class_uid: uid.to_owned(), scu: false, scp: true };
    for (grant, want) in [(vec![COMMITMENT.to_owned()], vec![role(COMMITMENT)]), (vec![], vec![])] {
        let config = AcceptorConfig { grant_scp: grant, ..AcceptorConfig::default() };
        let (address, performer) = performer(config, |association, request, _| {
            association.respond_normalized(request, Status::SUCCESS, NAnswer::default())
        });
        let config =
            RequestorConfig { roles: vec![role(COMMITMENT), role(MPPS)], ..RequestorConfig::default() };
        let mut scp = connect(address, &config);
        assert_eq!(scp.roles(), want);
        // Handed over in either case.
        assert_eq!(
            scp.event_report(COMMITMENT, "2.25.2", 1, b"ab").expect("answered").status,
            Status::SUCCESS
        );
        scp.release().expect("released in order");
        performer.join().expect("no panic").expect("ended in order");
    }
}

#[test]
fn long_replies_are_dropped_and_survived() {
    let (address, performer) = performer(AcceptorConfig::default(), |association, request, _| {
        let extra = usize::from(request.operation == NOperation::Action { action_type_id: 2 });
        let reply = vec![7; RESPONSE_DATA_SET_BYTES_MAX + extra];
        let answer = NAnswer { data_set: Some(&reply), ..NAnswer::default() };
        association.respond_normalized(request, Status::SUCCESS, answer)
    });
    let mut scu = connect(address, &RequestorConfig::default());
    for (action_type_id, length) in
        [(1, RESPONSE_DATA_SET_BYTES_MAX), (2, 0), (1, RESPONSE_DATA_SET_BYTES_MAX)]
    {
        let acted = scu.action(COMMITMENT, "2.25.2", action_type_id, b"").expect("answered");
        assert_eq!((acted.status, acted.data_set.len()), (Status::SUCCESS, length));
    }
    scu.release().expect("released in order");
    performer.join().expect("no panic").expect("ended in order");
}

/// An N-EVENT-REPORT-RQ of storage commitment.
fn event(message_id: u16) -> Vec<u8> {
    let command = CommandSet::default()
        .with_uid(element::AFFECTED_SOP_CLASS_UID, COMMITMENT)
        .with_uid(element::AFFECTED_SOP_INSTANCE_UID, uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE)
        .with_u16(element::COMMAND_FIELD, field::N_EVENT_REPORT_RQ)
        .with_u16(element::MESSAGE_ID, message_id)
        .with_u16(element::EVENT_TYPE_ID, 1)
        .with_u16(element::DATA_SET_TYPE, 1);
    message(3, &command, Some(b"committed"))
}

#[test]
fn events_where_no_provider_listens() {
    let script = Script::start(|peer| {
        let (context, command, data) = peer.request();
        assert_eq!((context, data.as_slice()), (3, &b"ab"[..]));
        // Before the response: refused, so that it comes again, and the response counts all the same.
        peer.send(&event(41));
        peer.assert_response(field::N_EVENT_REPORT_RQ, 41, Status::PROCESSING_FAILURE);
        let message_id = command.u16(element::MESSAGE_ID).expect("present");
        peer.send(&message(3, &response(field::N_ACTION_RQ, message_id, Status::SUCCESS, false), None));
        // After the release was asked for: ignored.
        assert_eq!(peer.read().expect("a release").0, 5);
        peer.send(&event(42));
        peer.send(&pdu(6, &[0; 4]));
        assert_eq!(peer.read(), None, "closed without another word");
    });
    let mut scu = connect(script.address, &RequestorConfig::default());
    assert!(scu.action(COMMITMENT, "2.25.2", 1, b"ab").expect("answered").status.is_success());
    scu.release().expect("released in order");
    script.finish();
}

fn pending(message_id: u16, identifier: &[u8]) -> Vec<u8> {
    message(5, &response(field::FIND_RQ, message_id, Status::PENDING, true), Some(identifier))
}

#[test]
fn find_collects_up_to_its_limits() {
    let limits = |matches_max, bytes_max| FindLimits { matches_max, bytes_max };
    // Limits, matches of 4 bytes sent, and how many of them are to be had.
    let cases = [
        (limits(10, 100), 0, 0),
        (limits(10, 100), 3, 3),
        (limits(3, 100), 3, 3),
        (limits(3, 100), 4, 3),
        (limits(10, 12), 3, 3),
        (limits(10, 11), 3, 2),
        (limits(0, 100), 1, 0),
    ];
    for (limits, sent, kept) in cases {
        let script = Script::start(move |peer| {
            let (context, command, data) = peer.request();
            assert_eq!((context, data.as_slice()), (5, &b"identifier"[..]));
            assert_eq!(command.u16(element::COMMAND_FIELD), Ok(field::FIND_RQ));
            assert_eq!(command.text(element::AFFECTED_SOP_CLASS_UID).as_deref(), Some(WORKLIST));
            assert_eq!(command.u16(element::PRIORITY), Ok(0));
            let id = command.u16(element::MESSAGE_ID).expect("present");
            for i in 0..sent {
                peer.send(&pending(id, format!("{i:04}").as_bytes()));
            }
            let mut status = Status::SUCCESS;
            if kept < sent {
                let (context, command, _) = peer.request();
                assert_eq!(context, 5);
                assert_eq!(command.u16(element::COMMAND_FIELD), Ok(field::CANCEL_RQ));
                assert_eq!(command.u16(element::MESSAGE_ID_RESPONDED_TO), Ok(id));
                assert!(!command.has_data_set());
                // What was on its way already.
                peer.send(&pending(id, &[0; 5000]));
                status = Status::CANCEL;
            }
            let end = response(field::FIND_RQ, id, status, false).with_text(element::ERROR_COMMENT, "done");
            peer.send(&message(5, &end, None));
            assert_eq!(peer.read().expect("a release").0, 5);
            peer.send(&pdu(6, &[0; 4]));
        });
        let mut scu = connect(script.address, &RequestorConfig::default());
        let found = scu.find(WORKLIST, b"identifier", limits).expect("answered");
        let want: Vec<Vec<u8>> = (0..kept).map(|i| format!("{i:04}").into_bytes()).collect();
        assert_eq!(found.matches, want, "{limits:?} {sent}");
        assert_eq!(found.truncated, kept < sent, "{limits:?} {sent}");
        assert_eq!(found.status, if kept < sent { Status::CANCEL } else { Status::SUCCESS });
        assert_eq!(found.error_comment.as_deref(), Some("done"));
        scu.release().expect("released in order");
        script.finish();
    }
}

#[test]
fn find_without_an_end_is_left() {
    // Matches in a row; and answers that are none, slowly. Each goes on for ever, whatever we say.
    for identifier in [Some(&b"0123"[..]), None] {
        let script = Script::start(move |peer| {
            let (_, command, _) = peer.request();
            let id = command.u16(element::MESSAGE_ID).expect("present");
            let command = response(field::FIND_RQ, id, Status::PENDING, identifier.is_some());
            while peer.send(&message(5, &command, identifier)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let mut scu = connect(script.address, &impatient());
        let began = Instant::now();
        let limits = FindLimits { matches_max: 5, bytes_max: 1000 };
        let error = scu.find(WORKLIST, b"identifier", limits).expect_err("no end");
        assert!(matches!(error, AssociationError::Timeout { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        drop(scu);
        script.finish();
    }
}

#[test]
fn providers_that_break_the_protocol() {
    type Misbehave = fn(&mut Peer, u16);
    type Check = fn(&AssociationError) -> bool;
    let protocol: Check = |e| matches!(e, AssociationError::Protocol { .. });
    let timeout: Check = |e| matches!(e, AssociationError::Timeout { .. });
    let cases: [(&str, Misbehave, Check); 13] = [
        ("another message", |p, id| send(p, &action_response(id + 1, false), None), protocol),
        (
            "another operation",
            |p, id| send(p, &response(field::N_SET_RQ, id, Status::SUCCESS, false), None),
            protocol,
        ),
        ("another context", |p, id| _ = p.send(&message(1, &action_response(id, false), None)), protocol),
        ("no status", |p, id| send(p, &without_status(id), None), protocol),
        ("garbage", |p, _| _ = p.send(&common::raw::p_data(&[(3, 3, &[0xFF; 40])])), protocol),
        ("data without a command", |p, _| _ = p.send(&common::raw::p_data(&[(3, 2, b"ab")])), protocol),
        ("release", |p, _| _ = p.send(&pdu(5, &[0; 4])), protocol),
        ("release reply", |p, _| _ = p.send(&pdu(6, &[0; 4])), protocol),
        (
            "PDU of 4 GiB",
            |p, _| _ = p.send(&[4, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
            |e| matches!(e, AssociationError::PduTooLong { .. }),
        ),
        (
            "abort",
            |p, _| _ = p.send(&pdu(7, &[0, 0, 0, 0])),
            |e| matches!(e, AssociationError::Aborted { .. }),
        ),
        (
            "hang-up",
            |p, _| _ = p.0.shutdown(std::net::Shutdown::Both),
            |e| matches!(e, AssociationError::Closed { .. }),
        ),
        ("silence", |_, _| {}, timeout),
        ("data set without an end", endless_data_set, timeout),
    ];
    for (name, misbehave, check) in cases {
        let script = Script::start(move |peer| {
            let (_, command, _) = peer.request();
            misbehave(peer, command.u16(element::MESSAGE_ID).expect("present"));
            // Until the requestor is gone.
            while peer.read().is_some() {}
        });
        let mut scu = connect(script.address, &impatient());
        let began = Instant::now();
        let error = scu.action(COMMITMENT, "2.25.2", 1, b"ab").expect_err(name);
        assert!(check(&error), "{name}: {error}");
        assert!(began.elapsed() < Duration::from_secs(4), "{name}: {:?}", began.elapsed());
        drop(scu);
        script.finish();
    }
}

fn action_response(message_id: u16, has_data_set: bool) -> CommandSet {
    response(field::N_ACTION_RQ, message_id, Status::SUCCESS, has_data_set)
}

fn without_status(message_id: u16) -> CommandSet {
    CommandSet::default()
        .with_u16(element::COMMAND_FIELD, field::N_ACTION_RQ | field::RESPONSE)
        .with_u16(element::MESSAGE_ID_RESPONDED_TO, message_id)
        .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
}

fn send(peer: &mut Peer, command: &CommandSet, data: Option<&[u8]>) {
    peer.send(&message(3, command, data));
}

fn endless_data_set(peer: &mut Peer, message_id: u16) {
    let command = action_response(message_id, true).encode();
    peer.send(&common::raw::p_data(&[(3, 3, &command)]));
    while peer.send(&common::raw::p_data(&[(3, 0, b"ab")])) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
