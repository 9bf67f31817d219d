//! The requesting role: connects and negotiates, with TLS if asked to; its services are in the module below. Owns
//! message ids and the choice of the context; never re-encodes a data set, never retries.

mod services;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AssociationRQ, Pdu, UserVariableItem, write_pdu};

pub use self::services::{FindLimits, FindResponse, NResponse, RESPONSE_DATA_SET_BYTES_MAX, StoreResponse};
use crate::ae::AeTitle;
use crate::channel::{Channel, Received, Timeouts};
use crate::command::{CommandSet, NO_DATA_SET, element, field};
use crate::error::AssociationError;
use crate::negotiation::{
    self, APPLICATION_CONTEXT, ContextTable, Implementation, MAX_PDU_LENGTH_BYTES, NegotiatedContext,
    PROTOCOL_VERSION, RoleSelection,
};
use crate::status::Status;
use crate::transport::{self, TlsClient};
use crate::wire::{ASSOCIATE_BYTES_MAX, Patience, Wire, pdu_type};

/// Bounds and deadlines of requested associations.
#[derive(Debug, Clone)]
pub struct RequestorConfig {
    /// For the connection, all addresses of the name together; the look-up of the name has the system's own limits.
    pub connect_timeout: Duration,
    /// For the TLS handshake, then from the A-ASSOCIATE-RQ to its answer, and for the release.
    pub association_timeout: Duration,
    /// From the end of a request to its response: the peer may have to write it to a slow disk. For C-FIND, how long
    /// matches are taken, and then how long the peer may take to end it after our C-CANCEL.
    pub response_timeout: Duration,
    /// For each PDU that we write.
    pub write_timeout: Duration,
    /// The longest P-DATA-TF that we take, in bytes.
    pub max_pdu_length: u32,
    /// Who we say that we are.
    pub implementation: Implementation,
    /// TLS on the connection; `None` is plain TCP.
    pub tls: Option<TlsClient>,
    /// Roles to propose (PS3.7 section D.3.3.4), for classes where we are not, or not only, user; see
    /// [`Requestor::roles`] for the answer.
    pub roles: Vec<RoleSelection>,
}

impl Default for RequestorConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            association_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            max_pdu_length: MAX_PDU_LENGTH_BYTES,
            implementation: Implementation::default(),
            tls: None,
            roles: Vec::new(),
        }
    }
}

/// An established association that we requested. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Requestor {
    channel: Channel,
    contexts: Vec<NegotiatedContext>,
    roles: Vec<RoleSelection>,
    association_timeout: Duration,
    response_timeout: Duration,
    last_message_id: u16,
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
        let tls =
            config.tls.as_ref().map(|tls| transport::tls_client(tls, &address.to_string())).transpose()?;
        let stream = connect_any(&address, config.connect_timeout)
            .map_err(|source| AssociationError::Connect { address: address.to_string(), source })?;
        let mut wire = Wire::new(stream, config.write_timeout)?;
        if let Some(tls) = tls {
            wire.start_tls(tls, config.association_timeout)?;
        }
        let rq = AssociationRQ {
            protocol_version: PROTOCOL_VERSION,
            calling_ae_title: calling.to_string(),
            called_ae_title: called.to_string(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: proposed,
            user_variables: negotiation::user_information(
                config.max_pdu_length,
                &config.implementation,
                &config.roles,
            ),
        };
        let (contexts, answer) =
            negotiate(&mut wire, rq, config.association_timeout).inspect_err(|error| {
                wire.abort_for(error);
            })?;
        let peer_max = negotiation::max_pdu_length(&answer);
        let timeouts = Timeouts { pdu: config.response_timeout, message: config.response_timeout };
        Ok(Self {
            channel: Channel::new(wire, timeouts, config.max_pdu_length, peer_max),
            contexts,
            roles: negotiation::accepted_roles(&config.roles, &answer),
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

    /// The roles that the peer answered, of those that we proposed; for a class without an answer we are user only.
    #[must_use]
    pub fn roles(&self) -> &[RoleSelection] {
        &self.roles
    }

    /// In which transfer syntax [`find`](Self::find) and the N-services send and receive data sets of
    /// `abstract_syntax`; `None` when the peer did not accept it.
    #[must_use]
    pub fn transfer_syntax_of(&self, abstract_syntax: &str) -> Option<&str> {
        self.context_of(abstract_syntax).map(|context| context.transfer_syntax.as_str())
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
                // PS3.8 table 9-10, state 7: the peer may still send, an N-EVENT-REPORT for instance, until it reads our
                // request. Without an answer it has to come again on another association.
                Received::Command { context_id, command } => {
                    if command.has_data_set() {
                        self.channel.drain(context_id)?;
                    }
                }
            }
        }
    }

    fn context_of(&self, abstract_syntax: &str) -> Option<&NegotiatedContext> {
        self.contexts.iter().find(|context| context.abstract_syntax == abstract_syntax)
    }

    /// The next message id, which is never 0.
    fn next_message_id(&mut self) -> u16 {
        self.last_message_id = self.last_message_id.checked_add(1).unwrap_or(1);
        self.last_message_id
    }

    /// The response to a request of ours, whose data set, if it has one, is still to be read. It must begin by
    /// `start_by`.
    fn response(
        &mut self,
        operation: u16,
        context_id: u8,
        message_id: u16,
        start_by: Instant,
    ) -> Result<(CommandSet, Status), AssociationError> {
        let malformed = |e: crate::command::CommandError| AssociationError::protocol(e.to_string());
        loop {
            let (context, command) = match self.channel.read_command(start_by)? {
                Received::Command { context_id, command } => (context_id, command),
                _ => return Err(AssociationError::protocol("release instead of a response")),
            };
            let got = command.u16(element::COMMAND_FIELD).map_err(malformed)?;
            if got & field::RESPONSE == 0 {
                self.refuse(context, got, &command)?;
                continue;
            }
            let to = command.u16(element::MESSAGE_ID_RESPONDED_TO).map_err(malformed)?;
            if got != operation | field::RESPONSE || to != message_id || context != context_id {
                let what = format!(
                    "response {got:#06X} to message {to} in context {context}, expected {:#06X} to {message_id} in \
                     {context_id}",
                    operation | field::RESPONSE
                );
                return Err(AssociationError::protocol(what));
            }
            let status = Status(command.u16(element::STATUS).map_err(malformed)?);
            return Ok((command, status));
        }
    }

    /// Answers a request of the peer, whose requestor we are not: it may come again on an association of its own, as
    /// an N-EVENT-REPORT of storage commitment does (PS3.4 section J.3.3).
    fn refuse(
        &mut self,
        context_id: u8,
        operation: u16,
        command: &CommandSet,
    ) -> Result<(), AssociationError> {
        if command.has_data_set() {
            self.channel.drain(context_id)?;
        }
        if operation == field::CANCEL_RQ {
            return Ok(());
        }
        let message_id = command.u16(element::MESSAGE_ID);
        let message_id = message_id.map_err(|e| AssociationError::protocol(e.to_string()))?;
        let response = CommandSet::default()
            .with_u16(element::COMMAND_FIELD, operation | field::RESPONSE)
            .with_u16(element::MESSAGE_ID_RESPONDED_TO, message_id)
            .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
            .with_u16(element::STATUS, Status::PROCESSING_FAILURE.0);
        self.channel.send_command(context_id, &response)
    }

    /// Tells the peer about an error that it can still hear.
    fn settle<T>(&mut self, result: Result<T, AssociationError>) -> Result<T, AssociationError> {
        if let Err(error) = &result {
            self.channel.wire.abort_for(error);
        }
        result
    }
}

/// The accepted contexts and the peer's user information.
fn negotiate(
    wire: &mut Wire,
    rq: AssociationRQ,
    timeout: Duration,
) -> Result<(Vec<NegotiatedContext>, Vec<UserVariableItem>), AssociationError> {
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
            Ok((contexts, ac.user_variables))
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
