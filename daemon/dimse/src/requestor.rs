//! The requesting role: connects, then C-ECHO and C-STORE as a user (PS3.7 sections 9.1.1 and 9.1.5). Owns message ids
//! and the choice of the context; never re-encodes a data set, never retries.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AssociationRQ, Pdu, write_pdu};

use crate::ae::AeTitle;
use crate::channel::{Channel, Received, Timeouts};
use crate::command::{CommandSet, NO_DATA_SET, element, field};
use crate::error::AssociationError;
use crate::negotiation::{
    self, APPLICATION_CONTEXT, ContextTable, Implementation, NegotiatedContext, PROTOCOL_VERSION, printable,
};
use crate::status::Status;
use crate::uids;
use crate::wire::{ASSOCIATE_BYTES_MAX, Patience, Wire, pdu_type};

/// Data Set Type of a command with a data set: anything but [`NO_DATA_SET`].
const HAS_DATA_SET: u16 = 0x0001;

/// Bounds and deadlines of requested associations.
#[derive(Debug, Clone)]
pub struct RequestorConfig {
    /// For the connection, all addresses of the name together; the look-up of the name has the system's own limits.
    pub connect_timeout: Duration,
    /// From the A-ASSOCIATE-RQ to its answer, and for the release.
    pub association_timeout: Duration,
    /// From the end of a request to its response: the peer may have to write it to a slow disk.
    pub response_timeout: Duration,
    /// For each PDU that we write.
    pub write_timeout: Duration,
    /// The longest P-DATA-TF that we take, in bytes.
    pub max_pdu_length: u32,
    /// Who we say that we are.
    pub implementation: Implementation,
}

impl Default for RequestorConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            association_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            max_pdu_length: 128 * 1024,
            implementation: Implementation::default(),
        }
    }
}

/// An established association that we requested. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Requestor {
    channel: Channel,
    contexts: Vec<NegotiatedContext>,
    association_timeout: Duration,
    response_timeout: Duration,
    last_message_id: u16,
}

/// The peer's answer to a C-STORE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreResponse {
    /// Whether it took the instance.
    pub status: Status,
    /// Error Comment (0000,0902), made printable.
    pub error_comment: Option<String>,
}

impl Requestor {
    /// Connects to `address` (`"host:port"`, or anything that resolves) and negotiates: a context for each row of
    /// `contexts`, of which there may be 128. For a choice of transfer syntaxes on our side, give the SOP class one row
    /// for each; in one row, the peer chooses.
    pub fn connect(
        address: impl ToSocketAddrs + std::fmt::Display,
        calling: &AeTitle,
        called: &AeTitle,
        contexts: ContextTable<'_>,
        config: &RequestorConfig,
    ) -> Result<Self, AssociationError> {
        let proposed = negotiation::propose(contexts)?;
        let stream = connect_any(&address, config.connect_timeout)
            .map_err(|source| AssociationError::Connect { address: address.to_string(), source })?;
        let mut wire = Wire::new(stream, config.write_timeout)?;
        let rq = AssociationRQ {
            protocol_version: PROTOCOL_VERSION,
            calling_ae_title: calling.to_string(),
            called_ae_title: called.to_string(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: proposed,
            user_variables: negotiation::user_information(config.max_pdu_length, &config.implementation),
        };
        let (contexts, peer_max) =
            negotiate(&mut wire, rq, config.association_timeout).inspect_err(|error| {
                wire.abort_for(error);
            })?;
        let timeouts = Timeouts { pdu: config.response_timeout, message: config.response_timeout };
        Ok(Self {
            channel: Channel::new(wire, timeouts, config.max_pdu_length, peer_max),
            contexts,
            association_timeout: config.association_timeout,
            response_timeout: config.response_timeout,
            last_message_id: 0,
        })
    }

    /// What the peer accepted; may be empty.
    #[must_use]
    pub fn contexts(&self) -> &[NegotiatedContext] {
        &self.contexts
    }

    /// Whether the peer takes `abstract_syntax` in `transfer_syntax`.
    #[must_use]
    pub fn accepts(&self, abstract_syntax: &str, transfer_syntax: &str) -> bool {
        self.contexts
            .iter()
            .any(|c| c.abstract_syntax == abstract_syntax && c.transfer_syntax == transfer_syntax)
    }

    /// C-ECHO; needs a context of [`uids::VERIFICATION`].
    pub fn echo(&mut self) -> Result<Status, AssociationError> {
        let context = self.contexts.iter().find(|context| context.abstract_syntax == uids::VERIFICATION);
        let Some(context_id) = context.map(|context| context.id) else {
            return Err(AssociationError::NoContext {
                abstract_syntax: uids::VERIFICATION.to_owned(),
                transfer_syntax: "any".to_owned(),
            });
        };
        let (message_id, command) = self.request(field::ECHO_RQ, uids::VERIFICATION, NO_DATA_SET);
        let result = self.channel.send_command(context_id, &command);
        let result = result.and_then(|()| self.response(field::ECHO_RQ, message_id));
        Ok(self.settle(result)?.status)
    }

    /// C-STORE: streams `length_bytes` from `data_set`, which is encoded in `transfer_syntax`, file meta left out.
    ///
    /// An answer other than success is no error: see [`Status::is_retryable`]. [`AssociationError::NoContext`] leaves
    /// the association usable, every other error ends it.
    pub fn store(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        transfer_syntax: &str,
        data_set: impl Read,
        length_bytes: u64,
    ) -> Result<StoreResponse, AssociationError> {
        let fits = |c: &&NegotiatedContext| {
            c.abstract_syntax == sop_class_uid && c.transfer_syntax == transfer_syntax
        };
        let Some(context_id) = self.contexts.iter().find(fits).map(|context| context.id) else {
            return Err(AssociationError::NoContext {
                abstract_syntax: sop_class_uid.to_owned(),
                transfer_syntax: transfer_syntax.to_owned(),
            });
        };
        let (message_id, command) = self.request(field::STORE_RQ, sop_class_uid, HAS_DATA_SET);
        let command = command
            .with_u16(element::PRIORITY, 0)
            .with_uid(element::AFFECTED_SOP_INSTANCE_UID, sop_instance_uid);
        let result = self.channel.send_with_data(context_id, &command, data_set, length_bytes);
        let result = result.and_then(|()| self.response(field::STORE_RQ, message_id));
        self.settle(result)
    }

    /// Releases the association in order.
    pub fn release(mut self) -> Result<(), AssociationError> {
        let result = self.try_release();
        self.settle(result)
    }

    /// Ends the association with an A-ABORT.
    pub fn abort(mut self) {
        self.channel.wire.abort([0; 4]);
    }

    fn try_release(&mut self) -> Result<(), AssociationError> {
        self.channel.wire.write_short(pdu_type::RELEASE_RQ, [0; 4], "releasing")?;
        let deadline = Instant::now() + self.association_timeout;
        loop {
            match self.channel.read_command(deadline)? {
                Received::ReleaseReply => {
                    self.channel.wire.close();
                    return Ok(());
                }
                // PS3.8 section 7.2.2.7, collision: the requestor answers first.
                Received::ReleaseRequest => {
                    self.channel.wire.write_short(pdu_type::RELEASE_RP, [0; 4], "releasing")?;
                }
                // We asked for nothing that could be answered now.
                Received::Command { .. } => {
                    return Err(AssociationError::protocol("command after our release request"));
                }
            }
        }
    }

    /// A request of ours with the next message id, which is never 0.
    fn request(&mut self, operation: u16, sop_class_uid: &str, data_set_type: u16) -> (u16, CommandSet) {
        self.last_message_id = self.last_message_id.checked_add(1).unwrap_or(1);
        let command = CommandSet::default()
            .with_uid(element::AFFECTED_SOP_CLASS_UID, sop_class_uid)
            .with_u16(element::COMMAND_FIELD, operation)
            .with_u16(element::MESSAGE_ID, self.last_message_id)
            .with_u16(element::DATA_SET_TYPE, data_set_type);
        (self.last_message_id, command)
    }

    fn response(&mut self, operation: u16, message_id: u16) -> Result<StoreResponse, AssociationError> {
        let (context_id, command) = match self.channel.read_command(Instant::now() + self.response_timeout)? {
            Received::Command { context_id, command } => (context_id, command),
            _ => return Err(AssociationError::protocol("release instead of a response")),
        };
        if command.has_data_set() {
            self.channel.drain(context_id)?;
        }
        let malformed = |e: crate::command::CommandError| AssociationError::protocol(e.to_string());
        let got = command.u16(element::COMMAND_FIELD).map_err(malformed)?;
        let to = command.u16(element::MESSAGE_ID_RESPONDED_TO).map_err(malformed)?;
        if got != operation | field::RESPONSE || to != message_id {
            let what = format!(
                "response {got:#06X} to message {to}, expected {:#06X} to {message_id}",
                operation | field::RESPONSE
            );
            return Err(AssociationError::protocol(what));
        }
        let status = Status(command.u16(element::STATUS).map_err(malformed)?);
        Ok(StoreResponse {
            status,
            error_comment: command.text(element::ERROR_COMMENT).map(|text| printable(&text)),
        })
    }

    /// Tells the peer about an error that it can still hear.
    fn settle<T>(&mut self, result: Result<T, AssociationError>) -> Result<T, AssociationError> {
        if let Err(error) = &result {
            self.channel.wire.abort_for(error);
        }
        result
    }
}

fn negotiate(
    wire: &mut Wire,
    rq: AssociationRQ,
    timeout: Duration,
) -> Result<(Vec<NegotiatedContext>, u32), AssociationError> {
    let proposed = rq.presentation_contexts.clone();
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(rq))
        .map_err(|e| AssociationError::protocol(format!("A-ASSOCIATE-RQ: {e}")))?;
    wire.write(&bytes, "requesting the association")?;
    let end_by = Instant::now() + timeout;
    let patience =
        Patience { start_by: end_by, pdu_timeout: timeout, end_by, during: "waiting for the association" };
    match wire.read_pdu(patience, ASSOCIATE_BYTES_MAX)? {
        pdu_type::ASSOCIATE_AC => {}
        pdu_type::ASSOCIATE_RJ => return Err(AssociationError::Rejected(wire.rejection())),
        pdu_type::ABORT => return Err(wire.aborted()),
        other => {
            return Err(AssociationError::protocol(format!("PDU of type {other:#04X} for an association")));
        }
    }
    match negotiation::parse_associate(pdu_type::ASSOCIATE_AC, wire.body())? {
        Pdu::AssociationAC(ac) => {
            let contexts = negotiation::accepted(&proposed, &ac.presentation_contexts);
            Ok((contexts, negotiation::max_pdu_length(&ac.user_variables)))
        }
        _ => Err(AssociationError::protocol("not an A-ASSOCIATE-AC")),
    }
}

/// Tries each address that the name resolves to, all within `timeout`.
fn connect_any(address: impl ToSocketAddrs, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match connect_by(&address, deadline) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn connect_by(address: &SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    TcpStream::connect_timeout(address, left)
}
