//! What a conformance statement (PS3.2) says of this crate, as data. Owns no behaviour; a test holds the table against
//! the acceptor. Timeouts and lengths are in the defaults of the configurations, statuses in [`Status`](crate::Status).

use crate::command::field;

/// A message service (PS3.7) and in which roles it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// As the standard writes it.
    pub name: &'static str,
    /// Command Field of its request (PS3.7 table E.1-1).
    pub command_field: u16,
    /// Whether a [`Requestor`](crate::requestor::Requestor) invokes it.
    pub invoked: bool,
    /// Whether an [`AcceptedAssociation`](crate::acceptor::AcceptedAssociation) hands it over; otherwise it is answered
    /// with 0x0211, "unrecognized operation", or, as C-CANCEL, not at all.
    pub performed: bool,
}

/// Every service of PS3.7.
pub const SERVICES: &[Service] = &[
    service("C-ECHO", field::ECHO_RQ, true, true),
    service("C-STORE", field::STORE_RQ, true, true),
    service("C-FIND", field::FIND_RQ, true, false),
    service("C-GET", field::GET_RQ, false, false),
    service("C-MOVE", field::MOVE_RQ, false, false),
    service("C-CANCEL", field::CANCEL_RQ, true, false),
    service("N-EVENT-REPORT", field::N_EVENT_REPORT_RQ, true, true),
    service("N-GET", field::N_GET_RQ, false, true),
    service("N-SET", field::N_SET_RQ, true, true),
    service("N-ACTION", field::N_ACTION_RQ, true, true),
    service("N-CREATE", field::N_CREATE_RQ, true, true),
    service("N-DELETE", field::N_DELETE_RQ, false, true),
];

const fn service(name: &'static str, command_field: u16, invoked: bool, performed: bool) -> Service {
    Service { name, command_field, invoked, performed }
}
