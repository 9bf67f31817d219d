//! The services as their user, or invoker: C-ECHO, C-STORE and C-FIND (PS3.7 section 9.1), N-CREATE, N-SET, N-ACTION and
//! N-EVENT-REPORT (section 10.1). Owns what each command holds and the bounds of what comes back; never decodes a data
//! set, and never takes a status other than success for an error.

use std::io::Read;
use std::time::Instant;

use super::Requestor;
use crate::command::{CommandSet, HAS_DATA_SET, NO_DATA_SET, element, field};
use crate::error::AssociationError;
use crate::negotiation::{NegotiatedContext, printable};
use crate::status::Status;
use crate::uids;

/// The longest data set of an N-service's response that is kept. The attribute list of a performed procedure step with
/// 10,000 images stays under it.
pub const RESPONSE_DATA_SET_BYTES_MAX: usize = 2 << 20;

/// The peer's answer to a C-STORE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreResponse {
    /// Whether it took the instance.
    pub status: Status,
    /// Error Comment (0000,0902), made printable.
    pub error_comment: Option<String>,
}

/// The peer's answer to an N-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NResponse {
    /// Whether it did what was asked.
    pub status: Status,
    /// Error Comment (0000,0902), made printable.
    pub error_comment: Option<String>,
    /// Affected SOP Instance UID; of an N-CREATE that left the choice to the peer, its choice.
    pub sop_instance_uid: Option<String>,
    /// Attribute list, action reply or event reply, in the transfer syntax of
    /// [`transfer_syntax_of`](Requestor::transfer_syntax_of); empty if there was none, or one of more than
    /// [`RESPONSE_DATA_SET_BYTES_MAX`].
    pub data_set: Vec<u8>,
}

/// How much of a C-FIND's answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindLimits {
    /// Matches.
    pub matches_max: usize,
    /// Bytes of all matches together.
    pub bytes_max: usize,
}

/// The peer's answer to a C-FIND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindResponse {
    /// The final status: [`Status::CANCEL`], or success from a peer that was faster, when `truncated`.
    pub status: Status,
    /// Error Comment (0000,0902) of the final response, made printable.
    pub error_comment: Option<String>,
    /// The identifiers, in the order and with the bytes of the peer.
    pub matches: Vec<Vec<u8>>,
    /// There was more, or it took longer, than allowed: we cancelled the query.
    pub truncated: bool,
}

impl Requestor {
    /// C-ECHO; needs a context of [`uids::VERIFICATION`].
    pub fn echo(&mut self) -> Result<Status, AssociationError> {
        let context_id = self.context_id_of(uids::VERIFICATION)?;
        let message_id = self.next_message_id();
        let command = request(field::ECHO_RQ, message_id, NO_DATA_SET)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, uids::VERIFICATION);
        let result = self.channel.send_command(context_id, &command);
        let result = result.and_then(|()| self.only_response(field::ECHO_RQ, context_id, message_id));
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
        let message_id = self.next_message_id();
        let command = request(field::STORE_RQ, message_id, HAS_DATA_SET)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, sop_class_uid)
            .with_u16(element::PRIORITY, 0)
            .with_uid(element::AFFECTED_SOP_INSTANCE_UID, sop_instance_uid);
        let result = self.channel.send_with_data(context_id, &command, data_set, length_bytes);
        let result = result.and_then(|()| self.only_response(field::STORE_RQ, context_id, message_id));
        let NResponse { status, error_comment, .. } = self.settle(result)?;
        Ok(StoreResponse { status, error_comment })
    }

    /// C-FIND: sends `identifier`, in the transfer syntax of [`transfer_syntax_of`](Self::transfer_syntax_of), and
    /// collects the matches.
    ///
    /// Over a limit, or after the response timeout, it sends a C-CANCEL-RQ, drops what still comes, and waits once more
    /// that long for the final response. Errors as in [`store`](Self::store).
    pub fn find(
        &mut self,
        sop_class_uid: &str,
        identifier: &[u8],
        limits: FindLimits,
    ) -> Result<FindResponse, AssociationError> {
        let context_id = self.context_id_of(sop_class_uid)?;
        let message_id = self.next_message_id();
        let command = request(field::FIND_RQ, message_id, HAS_DATA_SET)
            .with_uid(element::AFFECTED_SOP_CLASS_UID, sop_class_uid)
            .with_u16(element::PRIORITY, 0);
        let result = self.channel.send_with_data(context_id, &command, identifier, identifier.len() as u64);
        let result = result.and_then(|()| self.matches(context_id, message_id, limits));
        self.settle(result)
    }

    /// N-CREATE: without `sop_instance_uid` the peer chooses one. An empty `data_set` is sent as none; otherwise it is
    /// in the transfer syntax of [`transfer_syntax_of`](Self::transfer_syntax_of). Errors as in [`store`](Self::store).
    pub fn create(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: Option<&str>,
        data_set: &[u8],
    ) -> Result<NResponse, AssociationError> {
        let mut command = CommandSet::default().with_uid(element::AFFECTED_SOP_CLASS_UID, sop_class_uid);
        if let Some(uid) = sop_instance_uid {
            command = command.with_uid(element::AFFECTED_SOP_INSTANCE_UID, uid);
        }
        self.normalized(field::N_CREATE_RQ, sop_class_uid, command, data_set)
    }

    /// N-SET: `data_set` and errors as in [`create`](Self::create).
    pub fn set(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        data_set: &[u8],
    ) -> Result<NResponse, AssociationError> {
        let command = requested(sop_class_uid, sop_instance_uid);
        self.normalized(field::N_SET_RQ, sop_class_uid, command, data_set)
    }

    /// N-ACTION: `data_set` and errors as in [`create`](Self::create).
    pub fn action(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        action_type_id: u16,
        data_set: &[u8],
    ) -> Result<NResponse, AssociationError> {
        let command =
            requested(sop_class_uid, sop_instance_uid).with_u16(element::ACTION_TYPE_ID, action_type_id);
        self.normalized(field::N_ACTION_RQ, sop_class_uid, command, data_set)
    }

    /// N-EVENT-REPORT, as the provider of the SOP class: propose that role in
    /// [`RequestorConfig::roles`](super::RequestorConfig::roles). `data_set` and errors as in [`create`](Self::create).
    pub fn event_report(
        &mut self,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        event_type_id: u16,
        data_set: &[u8],
    ) -> Result<NResponse, AssociationError> {
        let command = CommandSet::default()
            .with_uid(element::AFFECTED_SOP_CLASS_UID, sop_class_uid)
            .with_uid(element::AFFECTED_SOP_INSTANCE_UID, sop_instance_uid)
            .with_u16(element::EVENT_TYPE_ID, event_type_id);
        self.normalized(field::N_EVENT_REPORT_RQ, sop_class_uid, command, data_set)
    }

    /// Sends `command`, which lacks only what all commands have, and waits for the response.
    fn normalized(
        &mut self,
        operation: u16,
        sop_class_uid: &str,
        command: CommandSet,
        data_set: &[u8],
    ) -> Result<NResponse, AssociationError> {
        let context_id = self.context_id_of(sop_class_uid)?;
        let message_id = self.next_message_id();
        let command =
            command.with_u16(element::COMMAND_FIELD, operation).with_u16(element::MESSAGE_ID, message_id);
        let result = if data_set.is_empty() {
            self.channel.send_command(context_id, &command.with_u16(element::DATA_SET_TYPE, NO_DATA_SET))
        } else {
            let command = command.with_u16(element::DATA_SET_TYPE, HAS_DATA_SET);
            self.channel.send_with_data(context_id, &command, data_set, data_set.len() as u64)
        };
        let result = result.and_then(|()| self.only_response(operation, context_id, message_id));
        self.settle(result)
    }

    fn context_id_of(&self, abstract_syntax: &str) -> Result<u8, AssociationError> {
        self.context_of(abstract_syntax).map(|context| context.id).ok_or_else(|| {
            AssociationError::NoContext {
                abstract_syntax: abstract_syntax.to_owned(),
                transfer_syntax: "any transfer syntax".to_owned(),
            }
        })
    }

    /// The response of an operation that has one.
    fn only_response(
        &mut self,
        operation: u16,
        context_id: u8,
        message_id: u16,
    ) -> Result<NResponse, AssociationError> {
        let start_by = Instant::now() + self.response_timeout;
        let (command, status) = self.response(operation, context_id, message_id, start_by)?;
        let mut data_set = Vec::new();
        if command.has_data_set() {
            let kept = self.channel.read_bounded(context_id, RESPONSE_DATA_SET_BYTES_MAX)?;
            data_set = kept.unwrap_or_default();
        }
        Ok(NResponse {
            status,
            error_comment: error_comment(&command),
            sop_instance_uid: command.text(element::AFFECTED_SOP_INSTANCE_UID).map(|uid| printable(&uid)),
            data_set,
        })
    }

    /// The responses to a C-FIND, up to the final one.
    fn matches(
        &mut self,
        context_id: u8,
        message_id: u16,
        limits: FindLimits,
    ) -> Result<FindResponse, AssociationError> {
        let mut matches = Vec::new();
        let mut bytes_left = limits.bytes_max;
        let until = Instant::now() + self.response_timeout;
        let mut cancelled_until = None;
        loop {
            let start_by = cancelled_until.unwrap_or_else(|| Instant::now() + self.response_timeout);
            let (command, status) = self.response(field::FIND_RQ, context_id, message_id, start_by)?;
            let room = if matches.len() < limits.matches_max { bytes_left } else { 0 };
            let mut identifier = None;
            let mut fits = true;
            if command.has_data_set() {
                identifier = self.channel.read_bounded(context_id, room)?;
                fits = identifier.is_some() && matches.len() < limits.matches_max;
            }
            if !status.is_pending() {
                let error_comment = error_comment(&command);
                let truncated = cancelled_until.is_some();
                return Ok(FindResponse { status, error_comment, matches, truncated });
            }
            if cancelled_until.is_some() {
                continue;
            }
            if let Some(identifier) = identifier.filter(|_| fits) {
                bytes_left -= identifier.len();
                matches.push(identifier);
            }
            if !fits || Instant::now() > until {
                let cancel = CommandSet::default()
                    .with_u16(element::COMMAND_FIELD, field::CANCEL_RQ)
                    .with_u16(element::MESSAGE_ID_RESPONDED_TO, message_id)
                    .with_u16(element::DATA_SET_TYPE, NO_DATA_SET);
                self.channel.send_command(context_id, &cancel)?;
                cancelled_until = Some(Instant::now() + self.response_timeout);
            }
        }
    }
}

/// What all requests have (PS3.7 section 9.3).
fn request(operation: u16, message_id: u16, data_set_type: u16) -> CommandSet {
    CommandSet::default()
        .with_u16(element::COMMAND_FIELD, operation)
        .with_u16(element::MESSAGE_ID, message_id)
        .with_u16(element::DATA_SET_TYPE, data_set_type)
}

/// The names of an instance that is there already (PS3.7 section 10.3).
fn requested(sop_class_uid: &str, sop_instance_uid: &str) -> CommandSet {
    CommandSet::default()
        .with_uid(element::REQUESTED_SOP_CLASS_UID, sop_class_uid)
        .with_uid(element::REQUESTED_SOP_INSTANCE_UID, sop_instance_uid)
}

fn error_comment(command: &CommandSet) -> Option<String> {
    command.text(element::ERROR_COMMENT).map(|text| printable(&text))
}
