//! What the tests of this crate share: a provider that keeps what it gets, and small data sets.
#![allow(dead_code)] // each test binary uses its part

pub mod certificates;
pub mod peers;
pub mod raw;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dimse::acceptor::{
    AcceptedAssociation, AcceptorConfig, DataSetEnd, Message, NAnswer, StoreRequest, accept, accept_tls,
};
use dimse::rustls::ServerConfig;
use dimse::{AssociationError, ContextTable, FileHead, Implementation, Rejection, Status, uids};

/// What [`Scp`] supports: explicit preferred over implicit, whatever the peer prefers.
pub const CONTEXTS: ContextTable<'static> = &[
    (uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
    (uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN]),
];

/// The data set limit of [`Scp`].
pub const LIMIT_BYTES: u64 = 4 << 20;

/// What one association brought.
#[derive(Debug, Default)]
pub struct Log {
    pub echoes: Vec<u16>,
    pub stores: Vec<(StoreRequest, Vec<u8>)>,
    pub over_limit: usize,
    pub peer_implementation: Option<String>,
}

/// A provider for `count` associations, one after the other, on a port of its own.
pub struct Scp {
    pub address: SocketAddr,
    thread: JoinHandle<Vec<(Log, Result<(), AssociationError>)>>,
}

impl Scp {
    pub fn start(count: usize, config: AcceptorConfig) -> Self {
        Self::start_with(count, config, None)
    }

    /// With TLS if there is a configuration for it.
    pub fn start_with(count: usize, config: AcceptorConfig, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let thread = thread::spawn(move || {
            (0..count)
                .map(|_| {
                    let (stream, _) = listener.accept().expect("a connection");
                    let mut log = Log::default();
                    let association = match &tls {
                        Some(tls) => accept_tls(stream, tls, &config, CONTEXTS, policy),
                        None => accept(stream, &config, CONTEXTS, policy),
                    };
                    let result = association.and_then(|a| serve(a, &mut log));
                    (log, result)
                })
                .collect()
        });
        Self { address, thread }
    }

    /// Waits for all associations to end.
    pub fn finish(self) -> Vec<(Log, Result<(), AssociationError>)> {
        self.thread.join().expect("the provider does not panic")
    }
}

/// Refuses by the called title, so that a test can ask for each refusal.
pub fn policy(request: &dimse::acceptor::AssociationRequest) -> Result<(), Rejection> {
    assert!(request.peer.ip().is_loopback());
    match request.called.as_str() {
        _ if request.calling.as_str() == "STRANGER" => Err(Rejection::CALLING_AE_NOT_RECOGNIZED),
        "ANYSCP" | "TRIAGE" => Ok(()),
        "BUSY" => Err(Rejection::TEMPORARY_CONGESTION),
        "FULL" => Err(Rejection::LOCAL_LIMIT_EXCEEDED),
        _ => Err(Rejection::CALLED_AE_NOT_RECOGNIZED),
    }
}

fn serve(mut association: AcceptedAssociation, log: &mut Log) -> Result<(), AssociationError> {
    log.peer_implementation = association.request().implementation_version_name.clone();
    while let Some(message) = association.next()? {
        match message {
            Message::Echo(echo) => {
                log.echoes.push(echo.message_id);
                association.respond_echo(&echo, Status::SUCCESS)?;
            }
            Message::Store(store) => {
                let mut bytes = Vec::new();
                match association.read_data_set(&mut bytes, LIMIT_BYTES)? {
                    DataSetEnd::Complete { length_bytes } => {
                        assert_eq!(length_bytes, bytes.len() as u64);
                        association.respond_store(&store, Status::SUCCESS, None)?;
                        log.stores.push((store, bytes));
                    }
                    DataSetEnd::OverLimit { limit_bytes } => {
                        assert!(bytes.len() as u64 <= limit_bytes);
                        log.over_limit += 1;
                        association.respond_store(
                            &store,
                            Status::OUT_OF_RESOURCES,
                            Some("instance too large"),
                        )?;
                    }
                    DataSetEnd::SinkFailed { error } => panic!("a Vec takes all: {error}"),
                }
            }
            Message::Normalized(request) => association.respond_normalized(
                &request,
                Status::UNRECOGNIZED_OPERATION,
                NAnswer::default(),
            )?,
        }
    }
    Ok(())
}

/// PDUs short enough for a test to exceed.
pub fn patient() -> AcceptorConfig {
    AcceptorConfig { max_pdu_length: 16 * 1024, ..AcceptorConfig::default() }
}

/// Deadlines short enough for a test to wait for.
pub fn impatient() -> AcceptorConfig {
    AcceptorConfig {
        artim_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        pdu_timeout: Duration::from_millis(300),
        message_timeout: Duration::from_millis(900),
        ..patient()
    }
}

/// A CT data set in explicit VR little endian with `pixel_bytes` (even) of pixel data; enough for a provider to file it.
pub fn data_set(sop_instance_uid: &str, pixel_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pixel_bytes + 256);
    put_uid(&mut bytes, [8, 0, 0x16, 0], uids::CT_IMAGE_STORAGE);
    put_uid(&mut bytes, [8, 0, 0x18, 0], sop_instance_uid);
    put_uid(&mut bytes, [0x20, 0, 0x0D, 0], "2.25.1");
    put_uid(&mut bytes, [0x20, 0, 0x0E, 0], "2.25.2");
    bytes.extend_from_slice(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]);
    bytes.extend_from_slice(&(pixel_bytes as u32).to_le_bytes());
    bytes.extend((0..pixel_bytes).map(|i| ((i * 31) >> 3) as u8));
    bytes
}

fn put_uid(bytes: &mut Vec<u8>, tag: [u8; 4], uid: &str) {
    bytes.extend_from_slice(&tag);
    bytes.extend_from_slice(b"UI");
    bytes.extend_from_slice(&(uid.len().next_multiple_of(2) as u16).to_le_bytes());
    bytes.extend_from_slice(uid.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(2), 0);
}

/// The data set of [`data_set`] as a Part 10 file.
pub fn file(sop_instance_uid: &str, pixel_bytes: usize) -> Vec<u8> {
    let implementation = Implementation::default();
    let head = FileHead {
        sop_class_uid: uids::CT_IMAGE_STORAGE,
        sop_instance_uid,
        transfer_syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
        sending_ae_title: Some("CT1"),
        receiving_ae_title: None,
        implementation: &implementation,
    };
    let mut bytes = Vec::new();
    dimse::write_file_head(&mut bytes, &head).expect("a Vec takes all");
    bytes.extend_from_slice(&data_set(sop_instance_uid, pixel_bytes));
    bytes
}

/// An element in explicit VR little endian; `value` has a short length field and is padded with a space, a UID with NUL.
pub fn element(tag: (u16, u16), vr: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&tag.0.to_le_bytes());
    bytes.extend_from_slice(&tag.1.to_le_bytes());
    bytes.extend_from_slice(vr.as_bytes());
    bytes.extend_from_slice(&(value.len().next_multiple_of(2) as u16).to_le_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(2), if vr == "UI" { 0 } else { b' ' });
    bytes
}
