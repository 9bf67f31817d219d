//! The accepting role: negotiation, then C-ECHO and C-STORE as a provider (PS3.7 sections 9.1.1 and 9.1.5). Owns the
//! answers that the protocol dictates; never decides whether an instance is wanted, nor where it goes.
//!
//! ```text
//! accept ──► Idle ──next──► Message::Echo  ──respond_echo──► Idle
//!             │ └──next──► Message::Store ──read_data_set──► answered by respond_store ──► Idle
//!             └──next──► None (released)       any Err: the peer was told if it could be; drop the association
//! ```

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AssociationAC, AssociationRQ, Pdu, UserVariableItem, read_pdu, write_pdu};
use log::debug;

use crate::ae::AeTitle;
use crate::channel::{Channel, Received, Timeouts};
use crate::command::{CommandSet, NO_DATA_SET, element, field};
use crate::error::{AssociationError, Rejection};
use crate::negotiation::{
    self, APPLICATION_CONTEXT, ContextTable, Implementation, NegotiatedContext, PROTOCOL_VERSION,
};
use crate::status::Status;
use crate::wire::{ASSOCIATE_BYTES_MAX, PDU_HEADER_BYTES, Patience, Wire, pdu_type};

/// PS3.5 section 9.1: a UID is at most 64 characters.
const UID_LENGTH_MAX: usize = 64;
/// PS3.7 section C.4: Error Comment is an LO.
const ERROR_COMMENT_LENGTH_MAX: usize = 64;

/// Bounds and deadlines of accepted associations.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// The longest P-DATA-TF that we take, in bytes; also the size of the one receive buffer.
    pub max_pdu_length: u32,
    /// From the connection to the last byte of the A-ASSOCIATE-RQ (ARTIM).
    pub artim_timeout: Duration,
    /// Between two messages.
    pub idle_timeout: Duration,
    /// From the first byte of a PDU to its last, and between the PDUs of one message.
    pub pdu_timeout: Duration,
    /// From the first byte of a message to its last, the caller's sink included.
    pub message_timeout: Duration,
    /// For each of our answers.
    pub write_timeout: Duration,
    /// Who we say that we are.
    pub implementation: Implementation,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self {
            max_pdu_length: 128 * 1024,
            artim_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            pdu_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(30),
            implementation: Implementation::default(),
        }
    }
}

/// Who asks for an association.
#[derive(Debug, Clone)]
pub struct AssociationRequest {
    /// The peer's address.
    pub peer: SocketAddr,
    /// Calling AE title.
    pub calling: AeTitle,
    /// Called AE title.
    pub called: AeTitle,
    /// Implementation Class UID, as sent.
    pub implementation_class_uid: Option<String>,
    /// Implementation Version Name, as sent.
    pub implementation_version_name: Option<String>,
}

/// An established association that we accepted. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct AcceptedAssociation {
    request: AssociationRequest,
    contexts: Vec<NegotiatedContext>,
    channel: Channel,
    idle_timeout: Duration,
    /// Context of a data set that was announced and not yet read to its end.
    data_set_due: Option<u8>,
    released: bool,
}

/// A request from the peer.
#[derive(Debug, Clone)]
pub enum Message {
    /// C-ECHO-RQ: answer with [`AcceptedAssociation::respond_echo`].
    Echo(EchoRequest),
    /// C-STORE-RQ: [`AcceptedAssociation::read_data_set`], then [`AcceptedAssociation::respond_store`].
    Store(StoreRequest),
}

/// A C-ECHO-RQ.
#[derive(Debug, Clone)]
pub struct EchoRequest {
    /// Message ID, repeated in the response.
    pub message_id: u16,
    /// Where it came.
    pub context: NegotiatedContext,
}

/// A C-STORE-RQ.
#[derive(Debug, Clone)]
pub struct StoreRequest {
    /// Message ID, repeated in the response.
    pub message_id: u16,
    /// Where it came: abstract and transfer syntax. The standard wants its abstract syntax to equal `sop_class_uid`;
    /// not every peer does.
    pub context: NegotiatedContext,
    /// Affected SOP Class UID: 1 to 64 graphic ASCII characters.
    pub sop_class_uid: String,
    /// Affected SOP Instance UID: 1 to 64 graphic ASCII characters. Not necessarily a UID, and never a path.
    pub sop_instance_uid: String,
    /// Priority: 0 medium, 1 high, 2 low.
    pub priority: u16,
    /// The AE title whose C-MOVE caused this, as sent.
    pub move_originator: Option<String>,
}

/// How the reception of a data set ended. In each case the association goes on.
#[derive(Debug)]
pub enum DataSetEnd {
    /// All of it went into the sink.
    Complete {
        /// Its length.
        length_bytes: u64,
    },
    /// It was longer than the limit: the sink has at most that much of it, the rest was read and dropped.
    OverLimit {
        /// The limit.
        limit_bytes: u64,
    },
    /// The sink failed: the rest was read and dropped.
    SinkFailed {
        /// The sink's error.
        error: io::Error,
    },
}

/// Negotiates an association on a fresh connection.
///
/// `policy` decides on the AE titles and on our load, after the protocol itself was checked; `contexts` lists what we
/// support, each with its transfer syntaxes in **our** order of preference. On every error the peer was told, where it
/// could be, and the connection is closed.
pub fn accept(
    stream: TcpStream,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<AcceptedAssociation, AssociationError> {
    let mut wire = Wire::new(stream, config.write_timeout)?;
    let negotiated = negotiate(&mut wire, config, contexts, policy);
    let (request, contexts, peer_max) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(error) => {
            // PS3.8 table 9-10, AA-2: on ARTIM's expiry the connection is closed without an abort.
            if !matches!(error, AssociationError::Timeout { .. }) {
                wire.abort_for(&error);
            }
            return Err(error);
        }
    };
    let timeouts = Timeouts { pdu: config.pdu_timeout, message: config.message_timeout };
    let channel = Channel::new(wire, timeouts, config.max_pdu_length, peer_max);
    let idle_timeout = config.idle_timeout;
    Ok(AcceptedAssociation { request, contexts, channel, idle_timeout, data_set_due: None, released: false })
}

type Negotiated = (AssociationRequest, Vec<NegotiatedContext>, u32);

fn negotiate(
    wire: &mut Wire,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<Negotiated, AssociationError> {
    let rq = read_request(wire, config.artim_timeout)?;
    let (request, results, accepted) = match judge(wire.peer(), &rq, contexts, policy) {
        Ok(verdict) => verdict?,
        Err(rejection) => {
            let Rejection { result, source, reason } = rejection;
            wire.write_short(
                pdu_type::ASSOCIATE_RJ,
                [0, result, source, reason],
                "rejecting the association",
            )?;
            wire.close();
            let (calling, called) = (rq.calling_ae_title, rq.called_ae_title);
            return Err(AssociationError::Refused { calling, called, rejection });
        }
    };
    let peer_max = negotiation::max_pdu_length(&rq.user_variables);
    let ac = Pdu::AssociationAC(AssociationAC {
        protocol_version: PROTOCOL_VERSION,
        // PS3.8 section 9.3.3: the titles are sent back as they came.
        calling_ae_title: rq.calling_ae_title,
        called_ae_title: rq.called_ae_title,
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables: negotiation::user_information(config.max_pdu_length, &config.implementation),
    });
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &ac).map_err(|e| AssociationError::protocol(format!("A-ASSOCIATE-AC: {e}")))?;
    wire.write(&bytes, "accepting the association")?;
    Ok((request, accepted, peer_max))
}

fn read_request(wire: &mut Wire, artim_timeout: Duration) -> Result<AssociationRQ, AssociationError> {
    let end_by = Instant::now() + artim_timeout;
    let patience = Patience {
        start_by: end_by,
        pdu_timeout: artim_timeout,
        end_by,
        during: "waiting for an association request",
    };
    match wire.read_pdu(patience, ASSOCIATE_BYTES_MAX)? {
        pdu_type::ASSOCIATE_RQ => {}
        pdu_type::ABORT => return Err(wire.aborted()),
        other => {
            return Err(AssociationError::protocol(format!(
                "PDU of type {other:#04X} before an association"
            )));
        }
    }
    match parse_associate(pdu_type::ASSOCIATE_RQ, wire.body())? {
        Pdu::AssociationRQ(rq) => Ok(rq),
        _ => Err(AssociationError::protocol("not an A-ASSOCIATE-RQ")),
    }
}

/// Decodes an association PDU, whose header was taken off, by `dicom-ul`.
pub(crate) fn parse_associate(pdu_type: u8, body: &[u8]) -> Result<Pdu, AssociationError> {
    let mut pdu = Vec::with_capacity(PDU_HEADER_BYTES + body.len());
    pdu.extend_from_slice(&[pdu_type, 0]);
    pdu.extend_from_slice(&(body.len() as u32).to_be_bytes()); // bounded by the wire
    pdu.extend_from_slice(body);
    match read_pdu(pdu.as_slice(), ASSOCIATE_BYTES_MAX as u32 * 2, true) {
        Ok(Some(pdu)) => Ok(pdu),
        Ok(None) => Err(AssociationError::protocol("association PDU ends inside an item")),
        Err(e) => Err(AssociationError::protocol(format!("association PDU: {e}"))),
    }
}

type Verdict = (AssociationRequest, Vec<dicom_ul::pdu::PresentationContextResult>, Vec<NegotiatedContext>);

/// The checks of PS3.8 section 9.3.4, in the order of table 9-21: the protocol first, then the policy.
fn judge(
    peer: SocketAddr,
    rq: &AssociationRQ,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<Result<Verdict, AssociationError>, Rejection> {
    // PS3.8 section 9.3.2: only bit 0 is tested.
    if rq.protocol_version & PROTOCOL_VERSION == 0 {
        return Err(Rejection::PROTOCOL_VERSION_NOT_SUPPORTED);
    }
    if negotiation::trim_uid(&rq.application_context_name) != APPLICATION_CONTEXT {
        return Err(Rejection::APPLICATION_CONTEXT_NOT_SUPPORTED);
    }
    // A title that is none can't be on anybody's list.
    let calling = AeTitle::new(&rq.calling_ae_title).map_err(|_| Rejection::CALLING_AE_NOT_RECOGNIZED)?;
    let called = AeTitle::new(&rq.called_ae_title).map_err(|_| Rejection::CALLED_AE_NOT_RECOGNIZED)?;
    let implementation_class_uid = rq.user_variables.iter().find_map(|v| match v {
        UserVariableItem::ImplementationClassUID(uid) => Some(negotiation::trim_uid(uid).to_owned()),
        _ => None,
    });
    let implementation_version_name = rq.user_variables.iter().find_map(|v| match v {
        UserVariableItem::ImplementationVersionName(name) => Some(name.clone()),
        _ => None,
    });
    let request =
        AssociationRequest { peer, calling, called, implementation_class_uid, implementation_version_name };
    policy(&request)?;
    Ok(negotiation::choose(&rq.presentation_contexts, contexts)
        .map(|(results, accepted)| (request, results, accepted)))
}

impl AcceptedAssociation {
    /// Who asked for it.
    #[must_use]
    pub fn request(&self) -> &AssociationRequest {
        &self.request
    }

    /// What was agreed on; may be empty.
    #[must_use]
    pub fn contexts(&self) -> &[NegotiatedContext] {
        &self.contexts
    }

    /// A handle on the connection, for another thread that wants to end it by `shutdown`.
    pub fn stream_handle(&self) -> io::Result<TcpStream> {
        self.channel.wire.stream().try_clone()
    }

    /// The next request, or `None` once the peer released the association.
    ///
    /// A data set that was not read is dropped. C-CANCEL is ignored (we have nothing pending), operations that we don't
    /// have are answered with 0x0211, stores without valid identifiers with 0x0120 or 0x0117, without a data set with 0xC000.
    #[allow(clippy::should_implement_trait)] // fallible: an Iterator would invite to go on after an error
    pub fn next(&mut self) -> Result<Option<Message>, AssociationError> {
        let result = self.try_next();
        self.settle(result)
    }

    /// Streams the data set of the [`StoreRequest`] just returned into `sink`, as it was sent: a fragment a call.
    ///
    /// At most `limit_bytes` go to the sink. Errors end the association.
    pub fn read_data_set(
        &mut self,
        sink: &mut dyn Write,
        limit_bytes: u64,
    ) -> Result<DataSetEnd, AssociationError> {
        let result = self.try_read_data_set(sink, limit_bytes);
        self.settle(result)
    }

    /// Answers a C-ECHO.
    pub fn respond_echo(&mut self, request: &EchoRequest, status: Status) -> Result<(), AssociationError> {
        let response = response(field::ECHO_RQ, request.message_id, status)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, &request.context.abstract_syntax);
        self.send(request.context.id, &response)
    }

    /// Answers a C-STORE. The comment is cut to 64 characters and reduced to what an LO may hold.
    pub fn respond_store(
        &mut self,
        request: &StoreRequest,
        status: Status,
        error_comment: Option<&str>,
    ) -> Result<(), AssociationError> {
        let mut response = response(field::STORE_RQ, request.message_id, status)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, &request.sop_class_uid)
            .with_uid(element::AFFECTED_SOP_INSTANCE_UID, &request.sop_instance_uid);
        if let Some(comment) = error_comment {
            response = response.with_text(element::ERROR_COMMENT, &to_error_comment(comment));
        }
        self.send(request.context.id, &response)
    }

    /// Ends the association with an A-ABORT.
    pub fn abort(mut self) {
        self.channel.wire.abort([0; 4]);
    }

    fn try_next(&mut self) -> Result<Option<Message>, AssociationError> {
        while !self.released {
            if let Some(context_id) = self.data_set_due {
                self.channel.drain(context_id)?;
                self.data_set_due = None;
            }
            match self.channel.read_command(Instant::now() + self.idle_timeout)? {
                Received::Command { context_id, command } => {
                    if let Some(message) = self.dispatch(context_id, &command)? {
                        return Ok(Some(message));
                    }
                }
                Received::ReleaseRequest => {
                    self.released = true;
                    self.channel.wire.write_short(pdu_type::RELEASE_RP, [0; 4], "releasing")?;
                    self.channel.wire.close();
                }
                Received::ReleaseReply => {
                    return Err(AssociationError::protocol("A-RELEASE-RP without a request"));
                }
            }
        }
        Ok(None)
    }

    /// Turns a command into a message, or answers it here and returns `None`.
    fn dispatch(
        &mut self,
        context_id: u8,
        command: &CommandSet,
    ) -> Result<Option<Message>, AssociationError> {
        let malformed = |e: crate::command::CommandError| AssociationError::protocol(e.to_string());
        let Some(context) = self.contexts.iter().find(|context| context.id == context_id).cloned() else {
            return Err(AssociationError::protocol(format!(
                "command on context {context_id}, which was not accepted"
            )));
        };
        if command.has_data_set() {
            self.data_set_due = Some(context_id);
        }
        let operation = command.u16(element::COMMAND_FIELD).map_err(malformed)?;
        if operation == field::CANCEL_RQ {
            return Ok(None);
        }
        if operation & field::RESPONSE != 0 {
            return Err(AssociationError::protocol(format!(
                "response {operation:#06X} to no request of ours"
            )));
        }
        let message_id = command.u16(element::MESSAGE_ID).map_err(malformed)?;
        let refusal = match operation {
            field::ECHO_RQ => return Ok(Some(Message::Echo(EchoRequest { message_id, context }))),
            field::STORE_RQ => match to_store_request(message_id, context, command) {
                Ok(request) => return Ok(Some(Message::Store(request))),
                Err(status) => status,
            },
            _ => Status::UNRECOGNIZED_OPERATION,
        };
        debug!("{}: operation {operation:#06X} answered with {refusal}", self.request.peer);
        if let Some(context_id) = self.data_set_due.take() {
            self.channel.drain(context_id)?;
        }
        self.channel.send_command(context_id, &response(operation, message_id, refusal))?;
        Ok(None)
    }

    fn try_read_data_set(
        &mut self,
        sink: &mut dyn Write,
        limit_bytes: u64,
    ) -> Result<DataSetEnd, AssociationError> {
        let Some(context_id) = self.data_set_due else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "no data set is due");
            return Ok(DataSetEnd::SinkFailed { error });
        };
        let mut end = DataSetEnd::Complete { length_bytes: 0 };
        loop {
            let (range, is_last) = self.channel.read_fragment(context_id)?;
            if let DataSetEnd::Complete { length_bytes } = &mut end {
                *length_bytes += range.len() as u64;
                if *length_bytes > limit_bytes {
                    end = DataSetEnd::OverLimit { limit_bytes };
                } else if let Err(error) = sink.write_all(self.channel.wire.bytes(range)) {
                    end = DataSetEnd::SinkFailed { error };
                }
            }
            if is_last {
                self.data_set_due = None;
                return Ok(end);
            }
        }
    }

    fn send(&mut self, context_id: u8, response: &CommandSet) -> Result<(), AssociationError> {
        // PS3.7 section 9.3: a response follows its whole request.
        let result = match self.data_set_due {
            Some(due) => self.channel.drain(due),
            None => Ok(()),
        };
        self.data_set_due = None;
        let result = result.and_then(|()| self.channel.send_command(context_id, response));
        self.settle(result)
    }

    /// Tells the peer about an error that it can still hear.
    fn settle<T>(&mut self, result: Result<T, AssociationError>) -> Result<T, AssociationError> {
        if let Err(error) = &result {
            self.channel.wire.abort_for(error);
        }
        result
    }
}

fn response(operation: u16, message_id: u16, status: Status) -> CommandSet {
    CommandSet::default()
        .with_u16(element::COMMAND_FIELD, operation | field::RESPONSE)
        .with_u16(element::MESSAGE_ID_RESPONDED_TO, message_id)
        .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
        .with_u16(element::STATUS, status.0)
}

fn to_store_request(
    message_id: u16,
    context: NegotiatedContext,
    command: &CommandSet,
) -> Result<StoreRequest, Status> {
    let identifier = |number| {
        let text = command.text(number).ok_or(Status::MISSING_ATTRIBUTE)?;
        let valid = text.len() <= UID_LENGTH_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(text) } else { Err(Status::INVALID_SOP_INSTANCE) }
    };
    let sop_class_uid = identifier(element::AFFECTED_SOP_CLASS_UID)?;
    let sop_instance_uid = identifier(element::AFFECTED_SOP_INSTANCE_UID)?;
    if !command.has_data_set() {
        return Err(Status::CANNOT_UNDERSTAND);
    }
    let priority = command.u16(element::PRIORITY).unwrap_or(0);
    let move_originator = command.text(element::MOVE_ORIGINATOR_AE_TITLE);
    Ok(StoreRequest { message_id, context, sop_class_uid, sop_instance_uid, priority, move_originator })
}

/// What an LO of the default repertoire may hold (PS3.5 table 6.2-1): printable ASCII without a backslash.
fn to_error_comment(text: &str) -> String {
    let printable = |c: char| if (' '..='~').contains(&c) && c != '\\' { c } else { '?' };
    text.chars().map(printable).take(ERROR_COMMENT_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_comments() {
        assert_eq!(to_error_comment("disk full: /a\\b\n"), "disk full: /a?b?");
        assert_eq!(to_error_comment(&"x".repeat(100)).len(), 64);
        assert_eq!(to_error_comment(&"ä".repeat(100)), "?".repeat(64));
    }

    #[test]
    fn store_requests() {
        let context =
            NegotiatedContext { id: 1, abstract_syntax: "1.2".to_owned(), transfer_syntax: "1.3".to_owned() };
        let command = |class: &str, instance: &str, kind: u16| {
            CommandSet::default()
                .with_uid(element::AFFECTED_SOP_CLASS_UID, class)
                .with_uid(element::AFFECTED_SOP_INSTANCE_UID, instance)
                .with_u16(element::DATA_SET_TYPE, kind)
        };
        let long = "1".repeat(65);
        let uuid = "0a1b2c3d-0000-4000-8000-00aabbccddee";
        let cases = [
            ("1.2", "1.2.3", 1, Ok("1.2.3")),
            ("1.2", uuid, 0, Ok(uuid)),
            ("", "1.2.3", 1, Err(Status::MISSING_ATTRIBUTE)),
            ("1.2", "", 1, Err(Status::MISSING_ATTRIBUTE)),
            ("1.2", &long, 1, Err(Status::INVALID_SOP_INSTANCE)),
            ("1.2", "1.2\n3", 1, Err(Status::INVALID_SOP_INSTANCE)),
            ("1.2", "1.2.ä", 1, Err(Status::INVALID_SOP_INSTANCE)),
            ("1.2", "1.2.3", NO_DATA_SET, Err(Status::CANNOT_UNDERSTAND)),
        ];
        for (class, instance, kind, want) in cases {
            let got = to_store_request(1, context.clone(), &command(class, instance, kind));
            assert_eq!(got.map(|r| r.sop_instance_uid), want.map(str::to_owned), "{class} {instance} {kind}");
        }
    }

    #[test]
    fn garbage_is_no_association() {
        let mut state = 7u32;
        for length in 0..2_000usize {
            let body: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Small values make plausible item types and lengths.
                    if state >> 31 == 0 {
                        (state >> 24) as u8 & 0x7
                    } else {
                        [0x10, 0x20, 0x30, 0x40, 0x50][state as usize % 5]
                    }
                })
                .collect();
            let _ = parse_associate(pdu_type::ASSOCIATE_RQ, &body);
            let _ = parse_associate(pdu_type::ASSOCIATE_AC, &body);
        }
    }
}
