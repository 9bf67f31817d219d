//! What a requestor may ask for, parsed and valid. Never touches the wire.

use std::io;

use crate::command::{CommandSet, element};
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
    let move_originator = command.text(element::MOVE_ORIGINATOR_AE_TITLE).map(|title| printable(&title));
    Ok(StoreRequest { message_id, context, sop_class_uid, sop_instance_uid, priority, move_originator })
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
}
