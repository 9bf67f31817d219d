//! What a requestor may ask for, parsed and valid. Never touches the wire.

use std::io;

use crate::command::{CommandSet, element, field};
use crate::negotiation::{NegotiatedContext, printable};
use crate::status::Status;

/// PS3.5 section 9.1: a UID is at most 64 characters.
const UID_LENGTH_MAX: usize = 64;

/// A request from the peer.
#[derive(Debug, Clone)]
pub enum Message {
    /// C-ECHO-RQ: answer with [`respond_echo`](super::AcceptedAssociation::respond_echo).
    Echo(EchoRequest),
    /// C-STORE-RQ: [`read_data_set`](super::AcceptedAssociation::read_data_set), then [`respond_store`](super::AcceptedAssociation::respond_store).
    Store(StoreRequest),
    /// An N-service: [`read_data_set`](super::AcceptedAssociation::read_data_set) if it has one, then
    /// [`respond_normalized`](super::AcceptedAssociation::respond_normalized).
    Normalized(NRequest),
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
    /// The AE title whose C-MOVE caused this, made printable.
    pub move_originator: Option<String>,
}

/// The N-services (PS3.7 section 10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NOperation {
    /// N-EVENT-REPORT-RQ: the peer, as provider, tells of an event.
    EventReport {
        /// Event Type ID, as the SOP class defines it.
        event_type_id: u16,
    },
    /// N-GET-RQ.
    Get,
    /// N-SET-RQ.
    Set,
    /// N-ACTION-RQ.
    Action {
        /// Action Type ID, as the SOP class defines it.
        action_type_id: u16,
    },
    /// N-CREATE-RQ.
    Create,
    /// N-DELETE-RQ.
    Delete,
}

impl NOperation {
    /// Command Field of its request (PS3.7 table E.1-1).
    pub(super) fn command_field(self) -> u16 {
        match self {
            Self::EventReport { .. } => field::N_EVENT_REPORT_RQ,
            Self::Get => field::N_GET_RQ,
            Self::Set => field::N_SET_RQ,
            Self::Action { .. } => field::N_ACTION_RQ,
            Self::Create => field::N_CREATE_RQ,
            Self::Delete => field::N_DELETE_RQ,
        }
    }
}

/// A request of an N-service.
#[derive(Debug, Clone)]
pub struct NRequest {
    /// Which service.
    pub operation: NOperation,
    /// Message ID, repeated in the response.
    pub message_id: u16,
    /// Where it came: abstract and transfer syntax. The abstract syntax may differ from `sop_class_uid`, rightly so in
    /// Unified Procedure Step (PS3.4 section CC.3.1) and meta SOP classes.
    pub context: NegotiatedContext,
    /// Affected SOP Class UID of N-CREATE and N-EVENT-REPORT, Requested SOP Class UID of the others: 1 to 64 graphic
    /// ASCII characters.
    pub sop_class_uid: String,
    /// The SOP Instance UID, likewise; `None` only in an N-CREATE that leaves the choice to us.
    pub sop_instance_uid: Option<String>,
    /// Whether [`read_data_set`](super::AcceptedAssociation::read_data_set) has something to read.
    pub has_data_set: bool,
}

/// What the answer to an [`NRequest`] may hold beside its status.
#[derive(Debug, Clone, Copy, Default)]
pub struct NAnswer<'a> {
    /// Affected SOP Instance UID; by default the request's. A successful N-CREATE without one needs one here.
    pub sop_instance_uid: Option<&'a str>,
    /// Attribute list, action reply or event reply, encoded in the transfer syntax of the request's context.
    pub data_set: Option<&'a [u8]>,
    /// Error Comment; cut to 64 characters and reduced to what an LO may hold.
    pub error_comment: Option<&'a str>,
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

pub(super) fn to_store_request(
    message_id: u16,
    context: NegotiatedContext,
    command: &CommandSet,
) -> Result<StoreRequest, Status> {
    let identifier = |number| identifier(command.text(number), Status::INVALID_SOP_INSTANCE);
    let sop_class_uid = identifier(element::AFFECTED_SOP_CLASS_UID)?.ok_or(Status::MISSING_ATTRIBUTE)?;
    let sop_instance_uid =
        identifier(element::AFFECTED_SOP_INSTANCE_UID)?.ok_or(Status::MISSING_ATTRIBUTE)?;
    if !command.has_data_set() {
        return Err(Status::CANNOT_UNDERSTAND);
    }
    let priority = command.u16(element::PRIORITY).unwrap_or(0);
    let move_originator = command.text(element::MOVE_ORIGINATOR_AE_TITLE).map(|title| printable(&title));
    Ok(StoreRequest { message_id, context, sop_class_uid, sop_instance_uid, priority, move_originator })
}

/// The status that an operation other than an N-service gets is "unrecognized operation".
pub(super) fn to_normalized_request(
    operation: u16,
    message_id: u16,
    context: NegotiatedContext,
    command: &CommandSet,
) -> Result<NRequest, Status> {
    let type_id = |number| command.u16(number).map_err(|_| Status::INVALID_ARGUMENT_VALUE);
    let operation = match operation {
        field::N_EVENT_REPORT_RQ => {
            NOperation::EventReport { event_type_id: type_id(element::EVENT_TYPE_ID)? }
        }
        field::N_GET_RQ => NOperation::Get,
        field::N_SET_RQ => NOperation::Set,
        field::N_ACTION_RQ => NOperation::Action { action_type_id: type_id(element::ACTION_TYPE_ID)? },
        field::N_CREATE_RQ => NOperation::Create,
        field::N_DELETE_RQ => NOperation::Delete,
        _ => return Err(Status::UNRECOGNIZED_OPERATION),
    };
    // PS3.7 section 10.3: what is there already is "requested", what comes into being or speaks for itself "affected".
    let (class, instance) = match operation {
        NOperation::Create | NOperation::EventReport { .. } => {
            (element::AFFECTED_SOP_CLASS_UID, element::AFFECTED_SOP_INSTANCE_UID)
        }
        NOperation::Get | NOperation::Set | NOperation::Action { .. } | NOperation::Delete => {
            (element::REQUESTED_SOP_CLASS_UID, element::REQUESTED_SOP_INSTANCE_UID)
        }
    };
    let sop_class_uid =
        identifier(command.text(class), Status::NO_SUCH_SOP_CLASS)?.ok_or(Status::MISSING_ATTRIBUTE)?;
    let sop_instance_uid = identifier(command.text(instance), Status::INVALID_SOP_INSTANCE)?;
    if sop_instance_uid.is_none() && operation != NOperation::Create {
        return Err(Status::MISSING_ATTRIBUTE);
    }
    let has_data_set = command.has_data_set();
    Ok(NRequest { operation, message_id, context, sop_class_uid, sop_instance_uid, has_data_set })
}

/// `text` if it can be handled as an identifier: not a UID for certain, as peers are, but nothing to trip over.
fn identifier(text: Option<String>, otherwise: Status) -> Result<Option<String>, Status> {
    let valid = |text: &String| text.len() <= UID_LENGTH_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if text.as_ref().is_none_or(valid) { Ok(text) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NO_DATA_SET;

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
    fn normalized_requests() {
        use element::*;
        let context =
            NegotiatedContext { id: 1, abstract_syntax: "1.2".to_owned(), transfer_syntax: "1.3".to_owned() };
        let affected = |class: &str, instance: &str| {
            CommandSet::default()
                .with_uid(AFFECTED_SOP_CLASS_UID, class)
                .with_uid(AFFECTED_SOP_INSTANCE_UID, instance)
        };
        let requested = |class: &str, instance: &str| {
            CommandSet::default()
                .with_uid(REQUESTED_SOP_CLASS_UID, class)
                .with_uid(REQUESTED_SOP_INSTANCE_UID, instance)
        };
        let long = "1".repeat(65);
        let action = NOperation::Action { action_type_id: 1 };
        let event = NOperation::EventReport { event_type_id: 2 };
        let cases = [
            (field::N_CREATE_RQ, affected("1.2", "1.2.3"), Ok((NOperation::Create, Some("1.2.3")))),
            (field::N_CREATE_RQ, affected("1.2", ""), Ok((NOperation::Create, None))),
            (field::N_CREATE_RQ, affected("", "1.2.3"), Err(Status::MISSING_ATTRIBUTE)),
            (field::N_CREATE_RQ, affected(&long, "1.2.3"), Err(Status::NO_SUCH_SOP_CLASS)),
            (field::N_CREATE_RQ, affected("1.2", "1\n2"), Err(Status::INVALID_SOP_INSTANCE)),
            (field::N_SET_RQ, requested("1.2", "1.2.3"), Ok((NOperation::Set, Some("1.2.3")))),
            (field::N_SET_RQ, requested("1.2", ""), Err(Status::MISSING_ATTRIBUTE)),
            (field::N_SET_RQ, affected("1.2", "1.2.3"), Err(Status::MISSING_ATTRIBUTE)),
            (field::N_GET_RQ, requested("1.2", "1.2.3"), Ok((NOperation::Get, Some("1.2.3")))),
            (field::N_DELETE_RQ, requested("1.2", "1.2.3"), Ok((NOperation::Delete, Some("1.2.3")))),
            (
                field::N_ACTION_RQ,
                requested("1.2", "1.2.3").with_u16(ACTION_TYPE_ID, 1),
                Ok((action, Some("1.2.3"))),
            ),
            (field::N_ACTION_RQ, requested("1.2", "1.2.3"), Err(Status::INVALID_ARGUMENT_VALUE)),
            (
                field::N_EVENT_REPORT_RQ,
                affected("1.2", "1.2.3").with_u16(EVENT_TYPE_ID, 2),
                Ok((event, Some("1.2.3"))),
            ),
            (field::N_EVENT_REPORT_RQ, affected("1.2", "1.2.3"), Err(Status::INVALID_ARGUMENT_VALUE)),
            (field::FIND_RQ, affected("1.2", ""), Err(Status::UNRECOGNIZED_OPERATION)),
        ];
        for (operation, command, want) in cases {
            let got = to_normalized_request(operation, 7, context.clone(), &command);
            let got = got.map(|r| {
                assert_eq!((r.message_id, r.sop_class_uid.as_str(), r.has_data_set), (7, "1.2", false));
                assert_eq!(r.operation.command_field(), operation);
                (r.operation, r.sop_instance_uid)
            });
            let want = want.map(|(operation, uid)| (operation, uid.map(str::to_owned)));
            assert_eq!(got, want, "{operation:#06X} {command:?}");
        }
    }
}
