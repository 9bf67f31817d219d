//! The accepting role: negotiation, then C-ECHO and C-STORE (PS3.7 sections 9.1.5 and 9.1.1) and the N-services
//! (section 10.1) as their performer. Owns the answers that the protocol dictates; never decides whether an instance is
//! wanted, nor where it goes, nor what an N-service means.
//!
//! ```text
//! accept ──► Idle ──next──► Message::Echo       ──respond_echo────────────────────────► Idle
//!             │ ├──next──► Message::Store      ──read_data_set──► respond_store ──────► Idle
//!             │ ├──next──► Message::Normalized ──read_data_set──► respond_normalized ─► Idle
//!             │ └──next──► None (released)
//!             └ any Err: the peer was told if it could be; drop the association
//! ```

mod message;
mod negotiate;

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use log::debug;

pub use self::message::{DataSetEnd, EchoRequest, Message, NAnswer, NOperation, NRequest, StoreRequest};
pub use self::negotiate::{AssociationRequest, accept, accept_tls};
use crate::channel::{Channel, Received};
use crate::command::{CommandSet, HAS_DATA_SET, NO_DATA_SET, element, field};
use crate::error::AssociationError;
use crate::negotiation::{Implementation, MAX_PDU_LENGTH_BYTES, NegotiatedContext, printable};
use crate::status::Status;
use crate::wire::pdu_type;

/// Bounds and deadlines of accepted associations.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// The longest P-DATA-TF that we take, in bytes; also the size of the one receive buffer.
    pub max_pdu_length: u32,
    /// From the connection to the last byte of the A-ASSOCIATE-RQ, the TLS handshake included (ARTIM).
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
    /// SOP classes of which the requestor may be provider (SCP) if it asks to be, by role selection: Storage Commitment
    /// Push Model, when a PACS opens an association to report. A class must be among the contexts, too. Requests are
    /// handed over whether their sender asked for the role or not.
    pub grant_scp: Vec<String>,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self {
            max_pdu_length: MAX_PDU_LENGTH_BYTES,
            artim_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            pdu_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(30),
            implementation: Implementation::default(),
            grant_scp: Vec::new(),
        }
    }
}

/// An established association that we accepted. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct AcceptedAssociation {
    request: AssociationRequest,
    contexts: Vec<NegotiatedContext>,
    channel: Channel,
    idle_timeout: Duration,
    data_set: DataSet,
    released: bool,
}

/// The data set of the message handed over last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DataSet {
    /// It has none.
    None,
    /// Announced in this context, and not yet read to its end.
    Due(u8),
    /// Read, or dropped.
    Taken,
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
    /// A data set that was not read is dropped. Answered here, and not handed over (PS3.7 annex C): operations that we
    /// don't have with 0x0211 (C-FIND, C-GET, C-MOVE); requests without a UID that they need with 0x0120, with an
    /// ill-formed one with 0x0117 or 0x0118, without their event or action type with 0x0115; stores without a data set
    /// with 0xC000. C-CANCEL is ignored (we have nothing pending).
    #[allow(clippy::should_implement_trait)] // fallible: an Iterator would invite to go on after an error
    pub fn next(&mut self) -> Result<Option<Message>, AssociationError> {
        let result = self.try_next();
        self.settle(result)
    }

    /// Streams the data set of the [`StoreRequest`] or [`NRequest`] just returned into `sink`, as it was sent: a fragment
    /// a call.
    ///
    /// At most `limit_bytes` go to the sink. A request without a data set is complete with 0 bytes; a second call for
    /// the same request is [`DataSetEnd::SinkFailed`]. Errors end the association.
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
            response = response.with_text(element::ERROR_COMMENT, &printable(comment));
        }
        self.send(request.context.id, &response)
    }

    /// Answers an N-service, with the fields that its response has (PS3.7 section 10.3).
    pub fn respond_normalized(
        &mut self,
        request: &NRequest,
        status: Status,
        answer: NAnswer<'_>,
    ) -> Result<(), AssociationError> {
        let operation = request.operation;
        let mut response = response(operation.command_field(), request.message_id, status)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, &request.sop_class_uid);
        if let Some(uid) = answer.sop_instance_uid.or(request.sop_instance_uid.as_deref()) {
            response = response.with_uid(element::AFFECTED_SOP_INSTANCE_UID, uid);
        }
        match operation {
            NOperation::EventReport { event_type_id } => {
                response = response.with_u16(element::EVENT_TYPE_ID, event_type_id);
            }
            NOperation::Action { action_type_id } => {
                response = response.with_u16(element::ACTION_TYPE_ID, action_type_id);
            }
            NOperation::Get | NOperation::Set | NOperation::Create | NOperation::Delete => {}
        }
        if let Some(comment) = answer.error_comment {
            response = response.with_text(element::ERROR_COMMENT, &printable(comment));
        }
        let Some(data_set) = answer.data_set else { return self.send(request.context.id, &response) };
        let response = response.with_u16(element::DATA_SET_TYPE, HAS_DATA_SET);
        let context_id = request.context.id;
        let result = self.drop_data_set().and_then(|()| {
            self.channel.send_with_data(context_id, &response, data_set, data_set.len() as u64)
        });
        self.settle(result)
    }

    /// Ends the association with an A-ABORT.
    pub fn abort(mut self) {
        self.channel.wire.abort([0; 4]);
    }

    fn try_next(&mut self) -> Result<Option<Message>, AssociationError> {
        while !self.released {
            self.drop_data_set()?;
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
        self.data_set = if command.has_data_set() { DataSet::Due(context_id) } else { DataSet::None };
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
            field::STORE_RQ => match message::to_store_request(message_id, context, command) {
                Ok(request) => return Ok(Some(Message::Store(request))),
                Err(status) => status,
            },
            _ => match message::to_normalized_request(operation, message_id, context, command) {
                Ok(request) => return Ok(Some(Message::Normalized(request))),
                Err(status) => status,
            },
        };
        debug!("{}: operation {operation:#06X} answered with {refusal}", self.request.peer);
        self.drop_data_set()?;
        self.channel.send_command(context_id, &response(operation, message_id, refusal))?;
        Ok(None)
    }

    fn try_read_data_set(
        &mut self,
        sink: &mut dyn Write,
        limit_bytes: u64,
    ) -> Result<DataSetEnd, AssociationError> {
        let context_id = match self.data_set {
            DataSet::Due(context_id) => context_id,
            DataSet::None => return Ok(DataSetEnd::Complete { length_bytes: 0 }),
            DataSet::Taken => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "the data set was read before");
                return Ok(DataSetEnd::SinkFailed { error });
            }
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
                self.data_set = DataSet::Taken;
                return Ok(end);
            }
        }
    }

    fn send(&mut self, context_id: u8, response: &CommandSet) -> Result<(), AssociationError> {
        let result = self.drop_data_set().and_then(|()| self.channel.send_command(context_id, response));
        self.settle(result)
    }

    /// Takes a data set that nobody wants off the wire. PS3.7 section 9.3: a response follows its whole request.
    fn drop_data_set(&mut self) -> Result<(), AssociationError> {
        if let DataSet::Due(context_id) = self.data_set {
            self.channel.drain(context_id)?;
            self.data_set = DataSet::Taken;
        }
        Ok(())
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
