//! DICOM associations (PS3.8) and message services (PS3.7) in both roles, over TCP or TLS, on blocking streams.
//!
//! Owns: the association as acceptor and requestor, with its deadlines and bounds; the DIMSE messages on it; the head of
//! a Part 10 file. Never: opens files, listens, spawns threads, decides who may associate, decodes a data set, or keeps
//! one that is stored in memory. PDUs of the negotiation are encoded and decoded by `dicom-ul`, TLS is `rustls`;
//! everything else is ours, so that a data set goes from the socket to the caller's sink with one copy.
//!
//! | service | as requestor | as acceptor |
//! |---|---|---|
//! | C-ECHO | [`echo`](requestor::Requestor::echo) | [`Message::Echo`](acceptor::Message::Echo) |
//! | C-STORE | [`store`](requestor::Requestor::store), from any reader | [`Message::Store`](acceptor::Message::Store), into any sink |
//! | C-FIND | [`find`](requestor::Requestor::find), with C-CANCEL over a limit | refused |
//! | C-GET, C-MOVE | – | refused |
//! | N-CREATE | [`create`](requestor::Requestor::create) | [`Message::Normalized`](acceptor::Message::Normalized) |
//! | N-SET | [`set`](requestor::Requestor::set) | [`Message::Normalized`](acceptor::Message::Normalized) |
//! | N-ACTION | [`action`](requestor::Requestor::action) | [`Message::Normalized`](acceptor::Message::Normalized) |
//! | N-EVENT-REPORT | [`event_report`](requestor::Requestor::event_report) | [`Message::Normalized`](acceptor::Message::Normalized) |
//! | N-GET, N-DELETE | – | [`Message::Normalized`](acceptor::Message::Normalized) |
//!
//! [`conformance::SERVICES`] is this table as data. One operation at a time in each direction: no asynchronous window, no
//! extended negotiation, no user identity. Role selection (PS3.7 section D.3.3.4) turns an association around:
//! [`requestor::RequestorConfig::roles`] proposes, [`acceptor::AcceptorConfig::grant_scp`] grants.
//!
//! What holds in both roles, with and without TLS:
//! - every wait has a deadline, for a whole PDU and a whole message: a peer that drips is cut off like a silent one;
//! - nothing is allocated for a length that was not checked, and what is kept in memory has a limit;
//! - a peer that breaks the protocol is sent an A-ABORT with the reason, and the error says what it did;
//! - a status other than success is an answer and no error.
//!
//! # Acceptor (service class provider)
//! ```no_run
//! use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, NAnswer, NOperation, accept};
//! use dimse::{AssociationError, Rejection, Status, uids};
//!
//! # fn serve(stream: std::net::TcpStream) -> Result<(), AssociationError> {
//! // Our order of preference decides, not the peer's.
//! let contexts: &[(&str, &[&str])] = &[
//!     (uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
//!     (uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN]),
//!     (uids::MODALITY_PERFORMED_PROCEDURE_STEP, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
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
//!             let mut attributes = Vec::new(); // encoded in `request.context.transfer_syntax`
//!             let end = association.read_data_set(&mut attributes, 1 << 20)?;
//!             let status = match (request.operation, end) {
//!                 (NOperation::Create | NOperation::Set, DataSetEnd::Complete { .. }) => Status::SUCCESS,
//!                 (NOperation::Create | NOperation::Set, _) => Status::RESOURCE_LIMITATION,
//!                 _ => Status::UNRECOGNIZED_OPERATION,
//!             };
//!             association.respond_normalized(&request, status, NAnswer::default())?;
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Requestor (service class user)
//! ```no_run
//! use dimse::requestor::{FindLimits, Requestor, RequestorConfig};
//! use dimse::{AeTitle, uids};
//!
//! # fn send(data_set: &[u8], query: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let contexts: &[(&str, &[&str])] = &[
//!     (uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
//!     (uids::MODALITY_WORKLIST_INFORMATION_MODEL_FIND, &[uids::EXPLICIT_VR_LITTLE_ENDIAN]),
//! ];
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
//! let limits = FindLimits { matches_max: 100, bytes_max: 1 << 20 };
//! let found = association.find(uids::MODALITY_WORKLIST_INFORMATION_MODEL_FIND, query, limits)?;
//! println!("{} matches, all of them: {}", found.matches.len(), !found.truncated);
//! association.release()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Storage commitment: who reports is provider on an association of its own
//! ```no_run
//! use dimse::requestor::{Requestor, RequestorConfig};
//! use dimse::{AeTitle, RoleSelection, uids};
//!
//! # fn report(us: &AeTitle, scanner: &AeTitle, committed: &[u8]) -> Result<(), dimse::AssociationError> {
//! let class = uids::STORAGE_COMMITMENT_PUSH_MODEL;
//! let role = RoleSelection { sop_class_uid: class.to_owned(), scu: false, scp: true };
//! let config = RequestorConfig { roles: vec![role], ..RequestorConfig::default() };
//! let contexts: &[(&str, &[&str])] = &[(class, &[uids::EXPLICIT_VR_LITTLE_ENDIAN])];
//! let mut association = Requestor::connect("ct1:104", us, scanner, contexts, &config)?;
//! // Event 1: all instances are safe (PS3.4 section J.3.3).
//! let answer = association.event_report(class, uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE, 1, committed)?;
//! println!("{}", answer.status);
//! association.release()?;
//! # Ok(())
//! # }
//! ```
//! While a [`Requestor`](requestor::Requestor) waits for a response, requests of the peer are refused with 0x0110, and
//! after its A-RELEASE-RQ they are ignored: a report has to come on an association that the peer opens.
//!
//! # TLS, with certificates from both sides (PS3.15 section B.12)
//! ```no_run
//! use std::sync::Arc;
//!
//! use dimse::requestor::RequestorConfig;
//! use dimse::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
//! use dimse::rustls::{ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier};
//! use dimse::{TlsClient, acceptor};
//!
//! # fn tls(stream: std::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
//! let mut roots = RootCertStore::empty();
//! roots.add(CertificateDer::from_pem_file("authority.pem")?)?;
//! let roots = Arc::new(roots);
//! let certificate = vec![CertificateDer::from_pem_file("triage.pem")?];
//! let key = PrivateKeyDer::from_pem_file("triage.key")?;
//!
//! let client = ClientConfig::builder()
//!     .with_root_certificates(Arc::clone(&roots))
//!     .with_client_auth_cert(certificate.clone(), key.clone_key())?;
//! let tls = TlsClient { config: Arc::new(client), server_name: None };
//! let config = RequestorConfig { tls: Some(tls), ..RequestorConfig::default() };
//! # drop(config);
//!
//! let clients = WebPkiClientVerifier::builder(roots).build()?;
//! let server = ServerConfig::builder()
//!     .with_client_cert_verifier(clients)
//!     .with_single_cert(certificate, key)?;
//! # let (acceptor_config, contexts) = (acceptor::AcceptorConfig::default(), &[]);
//! let association = acceptor::accept_tls(stream, &Arc::new(server), &acceptor_config, contexts, |_| Ok(()))?;
//! # drop(association);
//! # Ok(())
//! # }
//! ```

pub mod acceptor;
mod ae;
mod channel;
pub mod command;
pub mod conformance;
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
