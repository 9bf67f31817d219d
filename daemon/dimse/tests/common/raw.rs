//! A peer by hand: PDUs in bytes, as either role.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResult,
    PresentationContextResultReason, UserVariableItem, read_pdu, write_pdu,
};
use dimse::command::{CommandSet, NO_DATA_SET, element, field};
use dimse::{ContextTable, Status};

/// Bits of the message control header (PS3.8 section E.2).
pub const COMMAND: u8 = 1;
pub const LAST: u8 = 2;

/// An A-ASSOCIATE-RQ in bytes.
pub fn encode(rq: AssociationRQ) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(rq)).expect("encodable");
    bytes
}

/// A P-DATA-TF of the given (context, control header, data).
pub fn p_data(pdvs: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (context_id, control, data) in pdvs {
        body.extend_from_slice(&(data.len() as u32 + 2).to_be_bytes());
        body.extend_from_slice(&[*context_id, *control]);
        body.extend_from_slice(data);
    }
    pdu(4, &body)
}

/// A PDU with its header.
pub fn pdu(pdu_type: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![pdu_type, 0];
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The other end of a connection.
pub struct Peer(pub TcpStream);

impl Peer {
    /// As the requestor of an association that is not asked for yet.
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("listening"))
    }

    /// As the requestor of an association that has a context for each row, numbered 1, 3, 5, …
    pub fn associate(address: SocketAddr, contexts: ContextTable<'_>) -> Self {
        let presentation_contexts = (1..)
            .step_by(2)
            .zip(contexts)
            .map(|(id, (abstract_syntax, transfer_syntaxes))| PresentationContextProposed {
                id,
                abstract_syntax: (*abstract_syntax).to_owned(),
                transfer_syntaxes: transfer_syntaxes.iter().map(|uid| (*uid).to_owned()).collect(),
            })
            .collect();
        let mut peer = Self::connect(address);
        peer.send(&encode(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "HOSTILE".to_owned(),
            called_ae_title: "TRIAGE".to_owned(),
            application_context_name: dimse::APPLICATION_CONTEXT.to_owned(),
            presentation_contexts,
            user_variables: vec![UserVariableItem::MaxLength(0)],
        }));
        assert_eq!(peer.read().expect("answered").0, 2, "A-ASSOCIATE-AC");
        peer
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
        stream.set_nodelay(true).expect("settable");
        Self(stream)
    }

    /// May fail: the other side may be gone already, which is what some tests want.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// The next PDU, or `None` when the connection ended.
    pub fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 6];
        self.0.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }

    /// The command set of the next P-DATA-TF.
    pub fn response(&mut self) -> CommandSet {
        let (pdu_type, body) = self.read().expect("answered");
        assert_eq!(pdu_type, 4);
        CommandSet::parse(&body[6..]).expect("a command set")
    }

    pub fn assert_response(&mut self, operation: u16, message_id: u16, status: Status) -> CommandSet {
        let response = self.response();
        assert_eq!(response.u16(element::COMMAND_FIELD), Ok(operation | field::RESPONSE));
        assert_eq!(response.u16(element::MESSAGE_ID_RESPONDED_TO), Ok(message_id));
        assert_eq!(response.u16(element::STATUS).map(Status), Ok(status));
        response
    }

    pub fn release(mut self) {
        self.send(&pdu(5, &[0; 4]));
        assert_eq!(self.read().expect("answered"), (6, vec![0; 4]), "A-RELEASE-RP");
    }

    /// As the acceptor: takes every context, in its first transfer syntax.
    fn accept(stream: TcpStream) -> Self {
        let mut peer = Self::new(stream);
        let (pdu_type, body) = peer.read().expect("a request");
        let rq = match read_pdu(pdu(pdu_type, &body).as_slice(), 1 << 20, true) {
            Ok(Some(Pdu::AssociationRQ(rq))) => rq,
            other => panic!("{other:?}"),
        };
        let accepted = |context: &PresentationContextProposed| PresentationContextResult {
            id: context.id,
            reason: PresentationContextResultReason::Acceptance,
            transfer_syntax: context.transfer_syntaxes[0].clone(),
        };
        let ac = Pdu::AssociationAC(AssociationAC {
            protocol_version: 1,
            presentation_contexts: rq.presentation_contexts.iter().map(accepted).collect(),
            calling_ae_title: rq.calling_ae_title,
            called_ae_title: rq.called_ae_title,
            application_context_name: rq.application_context_name,
            user_variables: vec![UserVariableItem::MaxLength(16 * 1024)],
        });
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &ac).expect("encodable");
        peer.send(&bytes);
        peer
    }

    /// The next request: its context and command, and its data set if it announces one.
    pub fn request(&mut self) -> (u8, CommandSet, Vec<u8>) {
        let (mut context_id, mut command, mut data) = (0, Vec::new(), Vec::new());
        let (mut command_ended, mut ended) = (false, false);
        while !ended {
            let (pdu_type, body) = self.read().expect("a request");
            assert_eq!(pdu_type, 4);
            let mut rest = body.as_slice();
            while let Some((header, tail)) = rest.split_first_chunk::<6>() {
                let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize - 2;
                context_id = header[4];
                let is_command = header[5] & COMMAND != 0;
                let target = if is_command { &mut command } else { &mut data };
                target.extend_from_slice(&tail[..length]);
                rest = &tail[length..];
                if header[5] & LAST != 0 {
                    command_ended |= is_command;
                    ended =
                        !is_command || !CommandSet::parse(&command).expect("a command set").has_data_set();
                }
            }
        }
        assert!(command_ended);
        (context_id, CommandSet::parse(&command).expect("a command set"), data)
    }
}

/// A response as bytes, with the Data Set Type that `has_data_set` wants.
pub fn response(operation: u16, message_id: u16, status: Status, has_data_set: bool) -> CommandSet {
    CommandSet::default()
        .with_u16(element::COMMAND_FIELD, operation | field::RESPONSE)
        .with_u16(element::MESSAGE_ID_RESPONDED_TO, message_id)
        .with_u16(element::DATA_SET_TYPE, if has_data_set { 1 } else { NO_DATA_SET })
        .with_u16(element::STATUS, status.0)
}

/// A message of one P-DATA-TF.
pub fn message(context_id: u8, command: &CommandSet, data: Option<&[u8]>) -> Vec<u8> {
    let command = command.encode();
    let mut pdvs: Vec<(u8, u8, &[u8])> = vec![(context_id, COMMAND | LAST, &command)];
    pdvs.extend(data.map(|data| (context_id, LAST, data)));
    p_data(&pdvs)
}

/// A provider of one association that follows a script.
pub struct Script<T> {
    pub address: SocketAddr,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Script<T> {
    pub fn start(script: impl FnOnce(&mut Peer) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            script(&mut Peer::accept(stream))
        });
        Self { address, thread }
    }

    pub fn finish(self) -> T {
        self.thread.join().expect("the script was followed")
    }
}
