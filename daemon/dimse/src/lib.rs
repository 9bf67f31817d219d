//! DICOM message services (C-ECHO, C-STORE) in both roles, on blocking TCP streams.
//!
//! Owns: the association (PS3.8) as acceptor and requestor, with its deadlines and bounds; the DIMSE messages on it
//! (PS3.7); the head of a Part 10 file. Never: opens files, listens, spawns threads, decides who may associate,
//! decodes a data set, or keeps one in memory. PDUs of the negotiation are encoded and decoded by `dicom-ul`;
//! everything after it is ours, so that a data set goes from the socket to the caller's sink with one copy.
//!
//! # Acceptor (service class provider)
//! ```no_run
//! use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, NAnswer, accept};
//! use dimse::{AssociationError, Rejection, Status, uids};
//!
//! # fn serve(stream: std::net::TcpStream) -> Result<(), AssociationError> {
//! // Our order of preference decides, not the peer's.
//! let contexts: &[(&str, &[&str])] = &[
//!     (uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
//!     (uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN]),
//! ];
//! let mut association = accept(stream, &AcceptorConfig::default(), contexts, |request| {
//!     if request.called.as_str() == "TRIAGE" { Ok(()) } else { Err(Rejection::CALLED_AE_NOT_RECOGNIZED) }
//! })?;
//! while let Some(message) = association.next()? {
//!     match message {
//!         Message::Echo(echo) => association.respond_echo(&echo, Status::SUCCESS)?,
//!         Message::Store(store) => {
//!             let mut sink = Vec::new(); // a file, after `dimse::write_file_head`
//!             match association.read_data_set(&mut sink, 64 << 20)? {
//!                 DataSetEnd::Complete { .. } => association.respond_store(&store, Status::SUCCESS, None)?,
//!                 DataSetEnd::OverLimit { .. } => {
//!                     association.respond_store(&store, Status::OUT_OF_RESOURCES, Some("instance too large"))?
//!                 }
//!                 DataSetEnd::SinkFailed { .. } => {
//!                     association.respond_store(&store, Status::OUT_OF_RESOURCES, Some("disk"))?
//!                 }
//!             }
//!         }
//!         Message::Normalized(request) => {
//!             association.respond_normalized(&request, Status::UNRECOGNIZED_OPERATION, NAnswer::default())?
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Requestor (service class user)
//! ```no_run
//! use dimse::requestor::{Requestor, RequestorConfig};
//! use dimse::{AeTitle, uids};
//!
//! # fn send(data_set: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let contexts: &[(&str, &[&str])] = &[(uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN])];
//! let (us, them) = ("TRIAGE".parse::<AeTitle>()?, "PACS".parse::<AeTitle>()?);
//! let mut association = Requestor::connect("pacs:104", &us, &them, contexts, &RequestorConfig::default())?;
//! let answer = association.store(
//!     uids::CT_IMAGE_STORAGE,
//!     "1.2.3",
//!     uids::EXPLICIT_VR_LITTLE_ENDIAN,
//!     data_set,
//!     data_set.len() as u64,
//! )?;
//! println!("{}", answer.status);
//! association.release()?;
//! # Ok(())
//! # }
//! ```
//!
pub mod acceptor;
mod ae;
mod channel;
pub mod command;
mod error;
mod file_head;
mod negotiation;
pub mod requestor;
mod status;
mod transport;
mod wire;

pub use ae::{AeTitle, AeTitleError};
pub use error::{AssociationError, Rejection};
pub use file_head::{FileHead, write_file_head};
pub use negotiation::{
    APPLICATION_CONTEXT, ContextTable, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Implementation,
    MAX_PDU_LENGTH_BYTES, NegotiatedContext, RoleSelection,
};
pub use status::Status;
pub use transport::TlsClient;

/// Unique identifiers of SOP classes and transfer syntaxes (PS3.6 annex A), by name.
pub use dicom_dictionary_std::uids;
/// The TLS implementation, whose configurations [`TlsClient`] and [`acceptor::accept_tls`] take.
pub use rustls;
