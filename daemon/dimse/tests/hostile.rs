//! The acceptor against peers that break the protocol, drip or keep silent: bytes by hand.

mod common;

use std::time::{Duration, Instant};

use common::raw::{COMMAND, LAST, Peer, encode, p_data, pdu};
use common::{Scp, impatient, patient};
use dicom_ul::pdu::{AssociationRQ, PresentationContextProposed, UserVariableItem};
use dimse::command::{CommandSet, NO_DATA_SET, element, field};
use dimse::{AssociationError, Status, uids};

const CT_CONTEXT: u8 = 1;
const ECHO_CONTEXT: u8 = 3;

fn request() -> AssociationRQ {
    let context = |id, abstract_syntax: &str, transfer_syntaxes: &[&str]| PresentationContextProposed {
        id,
        abstract_syntax: abstract_syntax.to_owned(),
        transfer_syntaxes: transfer_syntaxes.iter().map(|uid| (*uid).to_owned()).collect(),
    };
    AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "HOSTILE".to_owned(),
        called_ae_title: "TRIAGE".to_owned(),
        application_context_name: "1.2.840.10008.3.1.1.1".to_owned(),
        presentation_contexts: vec![
            context(CT_CONTEXT, uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
            context(ECHO_CONTEXT, uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
            context(5, "1.2.3.4", &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
            context(7, uids::CT_IMAGE_STORAGE, &["1.2.3.4"]),
        ],
        user_variables: vec![UserVariableItem::MaxLength(0)],
    }
}

fn echo(message_id: u16) -> Vec<u8> {
    CommandSet::default()
        .with_uid(element::AFFECTED_SOP_CLASS_UID, uids::VERIFICATION)
        .with_u16(element::COMMAND_FIELD, field::ECHO_RQ)
        .with_u16(element::MESSAGE_ID, message_id)
        .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
        .encode()
}

fn store(message_id: u16) -> Vec<u8> {
    CommandSet::default()
        .with_uid(element::AFFECTED_SOP_CLASS_UID, uids::CT_IMAGE_STORAGE)
        .with_u16(element::COMMAND_FIELD, field::STORE_RQ)
        .with_u16(element::MESSAGE_ID, message_id)
        .with_u16(element::DATA_SET_TYPE, 1)
        .with_uid(element::AFFECTED_SOP_INSTANCE_UID, "2.25.7")
        .encode()
}

fn connect(scp: &Scp) -> Peer {
    Peer::connect(scp.address)
}

fn associate(scp: &Scp) -> Peer {
    let mut peer = connect(scp);
    peer.send(&encode(request()));
    assert_eq!(peer.read().expect("answered").0, 2, "A-ASSOCIATE-AC");
    peer
}

fn one_error(scp: Scp) -> AssociationError {
    scp.finish().pop().expect("one association").1.expect_err("the association failed")
}

#[test]
fn contexts_are_answered_one_by_one() {
    let scp = Scp::start(1, patient());
    let mut peer = connect(&scp);
    peer.send(&encode(request()));
    let (pdu_type, body) = peer.read().expect("answered");
    assert_eq!(pdu_type, 2);
    // Presentation context items: type 21H, then id and, two bytes on, the result (PS3.8 section 9.3.3.2).
    let results: Vec<_> = [CT_CONTEXT, ECHO_CONTEXT, 5, 7]
        .into_iter()
        .map(|id| {
            let at = body.windows(6).position(|w| w[0] == 0x21 && w[4] == id).expect("an item for each");
            body[at + 6]
        })
        .collect();
    assert_eq!(results, [0, 0, 3, 4]);
    peer.release();
    assert!(scp.finish()[0].1.is_ok());
}

#[test]
fn protocol_rejections() {
    type Edit = fn(&mut AssociationRQ);
    let cases: [(Edit, [u8; 4]); 3] = [
        (|rq| rq.protocol_version = 2, [0, 1, 2, 2]),
        (|rq| rq.application_context_name = "1.2.3".to_owned(), [0, 1, 1, 2]),
        (|rq| rq.calling_ae_title = "A\\B".to_owned(), [0, 1, 1, 3]),
    ];
    for (edit, want) in cases {
        let scp = Scp::start(1, patient());
        let mut rq = request();
        edit(&mut rq);
        let mut peer = connect(&scp);
        peer.send(&encode(rq));
        assert_eq!(peer.read().expect("answered"), (3, want.to_vec()));
        drop(peer);
        assert!(matches!(one_error(scp), AssociationError::Refused { .. }));
    }
    // Blank titles, which the encoder refuses to write: called at 4..20, calling at 20..36 of the variable field.
    for (field, want) in [(4, [0, 1, 1, 7]), (20, [0, 1, 1, 3])] {
        let scp = Scp::start(1, patient());
        let mut bytes = encode(request());
        bytes[6 + field..6 + field + 16].fill(b' ');
        let mut peer = connect(&scp);
        peer.send(&bytes);
        assert_eq!(peer.read().expect("answered"), (3, want.to_vec()));
        drop(peer);
        assert!(matches!(one_error(scp), AssociationError::Refused { .. }));
    }
}

#[test]
fn before_the_association() {
    let even = {
        let mut rq = request();
        rq.presentation_contexts[0].id = 2;
        encode(rq)
    };
    let truncated = {
        let bytes = encode(request());
        pdu(1, &bytes[6..bytes.len() - 3])
    };
    // What is sent, and whether an A-ABORT comes back.
    let cases: [(&str, Vec<u8>); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a PDU of 4 GiB", vec![1, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("data first", p_data(&[(1, COMMAND | LAST, &echo(1))])),
        ("release first", pdu(5, &[0; 4])),
        ("even context id", even),
        ("truncated item", truncated),
        ("empty request", pdu(1, &[])),
    ];
    for (name, bytes) in cases {
        let scp = Scp::start(1, patient());
        let mut peer = connect(&scp);
        peer.send(&bytes);
        assert_eq!(peer.read().map(|(pdu_type, _)| pdu_type), Some(7), "{name}: A-ABORT");
        drop(peer);
        let error = one_error(scp);
        assert!(
            matches!(error, AssociationError::Protocol { .. } | AssociationError::PduTooLong { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn silence_and_dripping_end_at_the_deadline() {
    // Before the association: nothing, or a byte of the request every 50 ms.
    for drip in [false, true] {
        let scp = Scp::start(1, impatient());
        let mut peer = connect(&scp);
        let began = Instant::now();
        if drip {
            for byte in encode(request()).chunks(1) {
                if began.elapsed() > Duration::from_secs(6) || !peer.send(byte) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        assert!(peer.read().is_none(), "closed without a word");
        let error = one_error(scp);
        assert!(
            matches!(error, AssociationError::Timeout { waited_ms: 290..=4000, .. }),
            "drip {drip}: {error}"
        );
    }
}

#[test]
fn dripping_inside_a_message_ends_at_the_deadline() {
    // One P-DATA-TF, a byte at a time: the PDU's deadline. Whole PDUs of one byte: the message's.
    let one = p_data(&[(CT_CONTEXT, 0, &[0; 1000])]);
    let many: Vec<u8> = (0..1000).flat_map(|_| p_data(&[(CT_CONTEXT, 0, &[0])])).collect();
    for (name, bytes, step, limit_ms) in [("bytes", one, 1, 300), ("fragments", many, 13, 900)] {
        let scp = Scp::start(1, impatient());
        let mut peer = associate(&scp);
        peer.send(&p_data(&[(CT_CONTEXT, COMMAND | LAST, &store(1))]));
        let began = Instant::now();
        for part in bytes.chunks(step) {
            if began.elapsed() > Duration::from_secs(6) || !peer.send(part) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let error = one_error(scp);
        assert!(matches!(error, AssociationError::Timeout { .. }), "{name}: {error}");
        // The acceptor lingers for a second at most, for the peer to read its A-ABORT.
        let took_ms = began.elapsed().as_millis();
        assert!((limit_ms..limit_ms + 4_000).contains(&took_ms), "{name}: {took_ms} ms");
    }
}

#[test]
fn fragments_in_every_shape() {
    let scp = Scp::start(1, patient());
    let mut peer = associate(&scp);
    // Command and data set in one PDU, the command in two fragments.
    let command = store(1);
    let (head, tail) = command.split_at(11);
    peer.send(&p_data(&[
        (CT_CONTEXT, COMMAND, head),
        (CT_CONTEXT, COMMAND | LAST, tail),
        (CT_CONTEXT, 0, b"ab"),
        (CT_CONTEXT, LAST, b"cd"),
    ]));
    peer.assert_response(field::STORE_RQ, 1, Status::SUCCESS);
    // A PDU a fragment, with an empty last one; all in one segment, followed by the next message.
    let mut bytes = p_data(&[(CT_CONTEXT, COMMAND, &store(2)[..20])]);
    bytes.extend(p_data(&[(CT_CONTEXT, COMMAND | LAST, &store(2)[20..]), (CT_CONTEXT, 0, b"ef")]));
    bytes.extend(p_data(&[(CT_CONTEXT, LAST, b"")]));
    bytes.extend(p_data(&[(ECHO_CONTEXT, COMMAND | LAST, &echo(3))]));
    peer.send(&bytes);
    peer.assert_response(field::STORE_RQ, 2, Status::SUCCESS);
    peer.assert_response(field::ECHO_RQ, 3, Status::SUCCESS);
    peer.release();
    let (log, result) = scp.finish().pop().expect("one association");
    result.expect("ended in order");
    let stored: Vec<_> = log.stores.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    assert_eq!(stored, [&b"abcd"[..], b"ef"]);
}

#[test]
fn unknown_operations_are_answered() {
    const FIND_RQ: u16 = 0x0020;
    const N_GET_RQ: u16 = 0x0110;
    let scp = Scp::start(1, patient());
    let mut peer = associate(&scp);
    let command = |operation, data_set_type| {
        CommandSet::default()
            .with_u16(element::COMMAND_FIELD, operation)
            .with_u16(element::MESSAGE_ID, 9)
            .with_u16(element::DATA_SET_TYPE, data_set_type)
            .encode()
    };
    peer.send(&p_data(&[
        (CT_CONTEXT, COMMAND | LAST, &command(FIND_RQ, 1)),
        (CT_CONTEXT, LAST, b"identifier"),
    ]));
    peer.assert_response(FIND_RQ, 9, Status::UNRECOGNIZED_OPERATION);
    peer.send(&p_data(&[(CT_CONTEXT, COMMAND | LAST, &command(N_GET_RQ, NO_DATA_SET))]));
    peer.assert_response(N_GET_RQ, 9, Status::MISSING_ATTRIBUTE);
    // A store without identifiers, then one without a data set; a cancel, which has no answer.
    peer.send(&p_data(&[
        (CT_CONTEXT, COMMAND | LAST, &command(field::STORE_RQ, 1)),
        (CT_CONTEXT, LAST, b"x"),
    ]));
    peer.assert_response(field::STORE_RQ, 9, Status::MISSING_ATTRIBUTE);
    peer.send(&p_data(&[(CT_CONTEXT, COMMAND | LAST, &command(field::CANCEL_RQ, NO_DATA_SET))]));
    peer.send(&p_data(&[(ECHO_CONTEXT, COMMAND | LAST, &echo(0xFFFF))]));
    peer.assert_response(field::ECHO_RQ, 0xFFFF, Status::SUCCESS);
    peer.release();
    let (log, result) = scp.finish().pop().expect("one association");
    result.expect("ended in order");
    assert!(log.stores.is_empty());
}

#[test]
fn violations_on_the_association_are_aborted() {
    let begun = || p_data(&[(CT_CONTEXT, COMMAND | LAST, &store(1)), (CT_CONTEXT, 0, b"ab")]);
    let after = |mut first: Vec<u8>, then: Vec<u8>| {
        first.extend(then);
        first
    };
    let response =
        CommandSet::default().with_u16(element::COMMAND_FIELD, field::STORE_RQ | field::RESPONSE).encode();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("over the maximum length", pdu(4, &vec![0; 16 * 1024 + 100])),
        ("a length of 4 GiB", vec![4, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("no PDV", p_data(&[])),
        ("a PDV beyond its PDU", pdu(4, &[0, 0, 1, 0, 1, 3, 0])),
        ("a second request", encode(request())),
        ("an unknown PDU", pdu(9, &[0; 4])),
        ("a context that was refused", p_data(&[(5, COMMAND | LAST, &echo(1))])),
        ("data without a command", p_data(&[(CT_CONTEXT, LAST, b"ab")])),
        ("garbage as a command", p_data(&[(CT_CONTEXT, COMMAND | LAST, &[0xFF; 40])])),
        ("no command field", p_data(&[(CT_CONTEXT, COMMAND | LAST, &[])])),
        ("a response to nothing", p_data(&[(CT_CONTEXT, COMMAND | LAST, &response)])),
        ("a command without an end", p_data(&[(CT_CONTEXT, COMMAND, &[0; 9_000])]).repeat(2)),
        ("a command inside a data set", after(begun(), p_data(&[(CT_CONTEXT, COMMAND | LAST, &echo(2))]))),
        ("another context inside a data set", after(begun(), p_data(&[(ECHO_CONTEXT, LAST, b"cd")]))),
        ("a release inside a data set", after(begun(), pdu(5, &[0; 4]))),
    ];
    for (name, bytes) in cases {
        let scp = Scp::start(1, patient());
        let mut peer = associate(&scp);
        peer.send(&bytes);
        assert_eq!(peer.read().map(|(pdu_type, _)| pdu_type), Some(7), "{name}: A-ABORT");
        drop(peer);
        let (log, result) = scp.finish().pop().expect("one association");
        let error = result.expect_err(name);
        assert!(
            matches!(error, AssociationError::Protocol { .. } | AssociationError::PduTooLong { .. }),
            "{name}: {error}"
        );
        assert!(log.stores.is_empty(), "{name}: half an instance was taken");
    }
}

#[test]
fn aborted_and_cut_inside_a_data_set() {
    for abort in [true, false] {
        let scp = Scp::start(1, patient());
        let mut peer = associate(&scp);
        peer.send(&p_data(&[(CT_CONTEXT, COMMAND | LAST, &store(1)), (CT_CONTEXT, 0, b"ab")]));
        if abort {
            peer.send(&pdu(7, &[0, 0, 2, 1]));
        }
        drop(peer);
        let (log, result) = scp.finish().pop().expect("one association");
        match result.expect_err("no release") {
            AssociationError::Aborted { source_code: 2, reason_code: 1 } if abort => {}
            AssociationError::Closed { .. } if !abort => {}
            other => panic!("abort {abort}: {other}"),
        }
        assert!(log.stores.is_empty());
    }
}
