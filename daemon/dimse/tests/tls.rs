//! TLS in both roles, with mutual authentication: against each other, against DCMTK, and against peers that hang, drip
//! or send something else.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::certificates::{Authority, Identity, client, server};
use common::peers::{assert_ok, dcmtk, free_port, run, start};
use common::{CONTEXTS, Scp, data_set, file, impatient, patient};
use dimse::acceptor::{AcceptorConfig, accept_tls};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::rustls::{self, ClientConnection, ServerConfig};
use dimse::{AeTitle, AssociationError, Status, TlsClient, uids};

const CT: &str = uids::CT_IMAGE_STORAGE;
const EXPLICIT: &str = uids::EXPLICIT_VR_LITTLE_ENDIAN;

/// One authority, a certificate of it for this machine, and another authority with one of its own.
struct Site {
    authority: Authority,
    ours: Identity,
    stranger: Authority,
    strange: Identity,
}

impl Site {
    fn new() -> Self {
        let (authority, stranger) = (Authority::new("hospital"), Authority::new("elsewhere"));
        let (ours, strange) = (authority.certify("127.0.0.1"), stranger.certify("127.0.0.1"));
        Self { authority, ours, stranger, strange }
    }

    fn client(&self) -> TlsClient {
        client(&self.authority, Some(&self.ours))
    }

    fn server(&self) -> Arc<ServerConfig> {
        server(&self.authority, &self.ours)
    }

    fn scp(&self, count: usize, config: AcceptorConfig) -> Scp {
        Scp::start_with(count, config, Some(self.server()))
    }
}

fn connect(address: SocketAddr, tls: Option<TlsClient>) -> Result<Requestor, AssociationError> {
    let (us, them) = ("CT1".parse::<AeTitle>().expect("valid"), "ANYSCP".parse().expect("valid"));
    let config = RequestorConfig {
        tls,
        association_timeout: Duration::from_secs(3),
        response_timeout: Duration::from_secs(10),
        ..RequestorConfig::default()
    };
    Requestor::connect(address, &us, &them, CONTEXTS, &config)
}

#[test]
fn both_roles() {
    let site = Site::new();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13], rustls::ALL_VERSIONS] {
        let scp = site.scp(1, patient());
        let mut tls = site.client();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(site.authority.certificate.der().clone()).expect("a root");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(site.ours.key.serialize_der().into());
        let config = rustls::ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![site.ours.certificate.der().clone()], key)
            .expect("a pair");
        tls.config = Arc::new(config);
        let mut scu = connect(scp.address, Some(tls)).expect("accepted");
        assert_eq!(scu.echo().expect("answered"), Status::SUCCESS);
        // Around the length of a record (16 KiB), and of our PDUs.
        let lengths = [0, 1, 16_383, 16_384, 16_385, 1 << 20];
        for (i, length) in lengths.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|b| (b * 7 + i) as u8).collect();
            let answer = scu
                .store(CT, &format!("2.25.{i}"), EXPLICIT, bytes.as_slice(), length as u64)
                .expect("answered");
            assert_eq!(answer.status, Status::SUCCESS);
        }
        scu.release().expect("released in order");
        let (log, result) = scp.finish().pop().expect("one association");
        result.expect("ended in order");
        assert_eq!(log.echoes, [1]);
        for (i, ((_, bytes), length)) in log.stores.iter().zip(lengths).enumerate() {
            assert!(bytes.iter().enumerate().all(|(b, byte)| *byte == (b * 7 + i) as u8));
            assert_eq!(bytes.len(), length);
        }
        assert_eq!(log.stores.len(), lengths.len());
    }
}

#[test]
fn authentication_is_mutual() {
    let site = Site::new();
    let elsewhere = TlsClient { server_name: Some("pacs.example".to_owned()), ..site.client() };
    let clients = [
        ("no certificate", client(&site.authority, None), true),
        ("a stranger's certificate", client(&site.authority, Some(&site.strange)), true),
        ("trusts somebody else", client(&site.stranger, Some(&site.ours)), false),
        ("looks for somebody else", elsewhere, false),
    ];
    for (name, tls, by_server) in clients {
        let scp = site.scp(1, patient());
        let began = Instant::now();
        let error = connect(scp.address, Some(tls)).expect_err(name);
        assert!(!error.retryable(), "{name}: {error}");
        let alert = matches!(error, AssociationError::Tls { source: rustls::Error::AlertReceived(_), .. });
        assert!(matches!(error, AssociationError::Tls { .. }) && alert == by_server, "{name}: {error}");
        let (log, result) = scp.finish().pop().expect("one connection");
        let error = result.expect_err(name);
        assert!(matches!(error, AssociationError::Tls { .. }), "{name}: {error}");
        assert!(log.echoes.is_empty() && began.elapsed() < Duration::from_secs(3), "{name}");
    }
    // A name that can be in no certificate fails before anything is sent; TLS is not optional for either side.
    let tls = TlsClient { server_name: Some("not a name".to_owned()), ..site.client() };
    let error = connect(free_port(), Some(tls)).expect_err("no name");
    assert!(matches!(error, AssociationError::ServerName { .. }), "{error}");
    let scp = site.scp(1, patient());
    assert!(connect(scp.address, None).is_err(), "plain to TLS");
    assert!(matches!(scp.finish()[0].1, Err(AssociationError::Tls { .. })));
    let scp = Scp::start(1, patient());
    let error = connect(scp.address, Some(site.client())).expect_err("TLS to plain");
    assert!(matches!(error, AssociationError::Tls { .. }), "{error}");
    assert!(matches!(
        scp.finish()[0].1,
        Err(AssociationError::Protocol { .. } | AssociationError::PduTooLong { .. })
    ));
}

/// What a client says first.
fn client_hello(site: &Site) -> Vec<u8> {
    let name = "127.0.0.1".try_into().expect("an address");
    let mut connection = ClientConnection::new(site.client().config, name).expect("valid");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a Vec takes all");
    bytes
}

#[test]
fn handshakes_that_are_none_end_at_the_deadline() {
    let site = Site::new();
    let hello = client_hello(&site);
    let mut truncated = hello.clone();
    truncated.truncate(hello.len() / 2);
    // Alerts that nobody has to authenticate, and change-cipher-spec records, for ever.
    let alerts = [21, 3, 3, 0, 2, 1, 0].repeat(1000);
    let change_cipher = [20, 3, 3, 0, 1, 1].repeat(1000);
    let cases = [
        ("silence", Vec::new()),
        ("half a hello", truncated),
        ("a hello, then silence", hello.clone()),
        ("goodbyes", alerts),
        ("cipher changes", change_cipher),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a record of 64 KiB", [&[22, 3, 3, 0xFF, 0xFF][..], &[1; 70_000]].concat()),
        ("an A-ASSOCIATE-RQ", [&[1, 0, 0, 0, 0, 200][..], &[0; 200]].concat()),
    ];
    for (name, bytes) in cases {
        let scp = site.scp(1, impatient());
        let mut peer = TcpStream::connect(scp.address).expect("listening");
        peer.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
        let began = Instant::now();
        // The acceptor may be gone half-way.
        let _ = peer.write_all(&bytes);
        let _ = peer.read_to_end(&mut Vec::new());
        let took = began.elapsed();
        drop(peer);
        let error = scp.finish().pop().expect("one connection").1.expect_err(name);
        match name {
            "silence" | "half a hello" | "a hello, then silence" => {
                assert!(matches!(error, AssociationError::Timeout { .. }), "{name}: {error}");
            }
            _ => assert!(matches!(error, AssociationError::Tls { .. }), "{name}: {error}"),
        }
        // ARTIM of 0.3 s, and a second in which the alert may be read.
        assert!(took < Duration::from_secs(3), "{name}: {took:?}");
    }
}

#[test]
fn dripping_a_handshake_ends_at_the_deadline() {
    let site = Site::new();
    let scp = site.scp(1, impatient());
    let mut peer = TcpStream::connect(scp.address).expect("listening");
    let began = Instant::now();
    for byte in client_hello(&site) {
        if began.elapsed() > Duration::from_secs(6) || peer.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = scp.finish().pop().expect("one connection").1.expect_err("no end");
    assert!(matches!(error, AssociationError::Timeout { waited_ms: 290..=4000, .. }), "{error}");
}

#[test]
fn servers_that_are_none() {
    let site = Site::new();
    for (name, answer) in [("silence", &b""[..]), ("garbage", &[0x55; 300]), ("hang-up", b"")] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            if name == "hang-up" {
                return;
            }
            stream.write_all(answer).expect("sent");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let began = Instant::now();
        let error = connect(address, Some(site.client())).expect_err(name);
        match name {
            "silence" => assert!(matches!(error, AssociationError::Timeout { .. }), "{error}"),
            "garbage" => assert!(matches!(error, AssociationError::Tls { .. }), "{error}"),
            _ => assert!(matches!(error, AssociationError::Closed { .. }), "{error}"),
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{name}: {:?}", began.elapsed());
        server.join().expect("no panic");
    }
}

/// A TLS client by hand.
fn tls_stream(site: &Site, address: SocketAddr) -> rustls::StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).expect("listening");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
    let name = "127.0.0.1".try_into().expect("an address");
    rustls::StreamOwned::new(ClientConnection::new(site.client().config, name).expect("valid"), stream)
}

#[test]
fn deadlines_hold_inside_tls() {
    let site = Site::new();
    // The handshake, then nothing; then a byte of a PDU, each in a record of its own, now and then; then a goodbye.
    for case in ["silence", "dripping", "close_notify"] {
        let scp = site.scp(1, impatient());
        let mut peer = tls_stream(&site, scp.address);
        peer.flush().expect("the handshake");
        let began = Instant::now();
        match case {
            "dripping" => {
                for byte in [1, 0, 0, 0, 0, 200].into_iter().chain([0; 194]) {
                    if began.elapsed() > Duration::from_secs(6) || peer.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            "close_notify" => {
                peer.conn.send_close_notify();
                peer.flush().expect("sent");
            }
            _ => {}
        }
        let _ = peer.read_to_end(&mut Vec::new());
        assert!(began.elapsed() < Duration::from_secs(4), "{case}: {:?}", began.elapsed());
        let error = scp.finish().pop().expect("one connection").1.expect_err(case);
        match case {
            "close_notify" => assert!(matches!(error, AssociationError::Closed { .. }), "{case}: {error}"),
            _ => assert!(matches!(error, AssociationError::Timeout { .. }), "{case}: {error}"),
        }
    }
}

#[test]
fn protocol_errors_are_told_through_tls() {
    let site = Site::new();
    let scp = site.scp(1, patient());
    let mut peer = tls_stream(&site, scp.address);
    peer.write_all(&[9, 0, 0, 0, 0, 4, 0, 0, 0, 0]).expect("sent");
    let mut answer = Vec::new();
    // Ends in order, by a close_notify: rustls would report anything else.
    peer.read_to_end(&mut answer).expect("closed in order");
    assert_eq!(answer, [7, 0, 0, 0, 0, 4, 0, 0, 2, 2], "A-ABORT");
    assert!(matches!(scp.finish()[0].1, Err(AssociationError::Protocol { .. })));
}

#[test]
fn stream_handle_ends_the_association() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tls = site.server();
    let acceptor = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut association = accept_tls(stream, &tls, &patient(), CONTEXTS, |_| Ok(())).expect("accepted");
        let handle = association.stream_handle().expect("a descriptor");
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            handle.shutdown(std::net::Shutdown::Both)
        });
        let began = Instant::now();
        let error = association.next().expect_err("ended");
        assert!(matches!(error, AssociationError::Closed { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
        other.join().expect("no panic").expect("shut down");
    });
    let scu = connect(address, Some(site.client())).expect("accepted");
    acceptor.join().expect("no panic");
    drop(scu);
}

/// The files that DCMTK wants: our key and certificate, the stranger's, and the authority.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(site: &Site) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text);
        write("authority.pem", site.authority.certificate.pem())?;
        for (name, identity) in [("ours", &site.ours), ("strange", &site.strange)] {
            write(&format!("{name}.key"), identity.key.serialize_pem())?;
            write(&format!("{name}.pem"), identity.certificate.pem())?;
        }
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().expect("a plain path").to_owned()
    }

    /// DCMTK's options for TLS as `name`.
    fn options(&self, name: &str) -> Vec<String> {
        let (key, certificate) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.pem")));
        vec!["+tls".to_owned(), key, certificate, "+cf".to_owned(), self.path("authority.pem")]
    }
}

#[test]
fn dcmtk_stores() {
    if !dcmtk("storescu") {
        return;
    }
    let site = Site::new();
    let files = Files::new(&site).expect("written");
    let instance = files.path("0.dcm");
    fs::write(&instance, file("2.25.30", 524_288)).expect("written");
    let anonymous = vec!["+tla".to_owned(), "+cf".to_owned(), files.path("authority.pem")];
    let cases = [
        ("ours", files.options("ours"), true),
        ("a stranger", files.options("strange"), false),
        ("nobody", anonymous, false),
        ("plain", Vec::new(), false),
    ];
    for (name, options, accepted) in cases {
        let scp = site.scp(1, AcceptorConfig { artim_timeout: Duration::from_secs(3), ..patient() });
        let port = scp.address.port().to_string();
        let mut arguments: Vec<&str> = options.iter().map(String::as_str).collect();
        arguments.extend(["-aet", "CT1", "-aec", "TRIAGE", "127.0.0.1", &port, &instance]);
        let output = run("storescu", &arguments);
        let (log, result) = scp.finish().pop().expect("one connection");
        if accepted {
            assert_ok(&output);
            result.expect("ended in order");
            assert!(log.stores[0].1 == data_set("2.25.30", 524_288), "the data sets differ");
        } else {
            assert!(!output.status.success() && log.stores.is_empty(), "{name} was let in");
            assert!(matches!(result, Err(AssociationError::Tls { .. })), "{name}: {result:?}");
        }
    }
}

#[test]
fn dcmtk_receives() {
    if !dcmtk("storescp") {
        return;
    }
    let site = Site::new();
    let files = Files::new(&site).expect("written");
    let folder = tempfile::tempdir().expect("a folder");
    let address = free_port();
    let _scp = start(
        Command::new("storescp")
            .args(files.options("ours"))
            .arg("-od")
            .arg(folder.path())
            .arg(address.port().to_string()),
        address,
    );
    let mut scu = connect(address, Some(site.client())).expect("accepted");
    assert_eq!(scu.echo().expect("answered"), Status::SUCCESS);
    let bytes = data_set("2.25.1", 524_288);
    let answer = scu.store(CT, "2.25.1", EXPLICIT, bytes.as_slice(), bytes.len() as u64).expect("answered");
    assert_eq!(answer.status, Status::SUCCESS);
    scu.release().expect("released in order");
    let stored = fs::read_dir(folder.path()).expect("readable").next().expect("a file").expect("an entry");
    assert!(fs::read(stored.path()).expect("readable").ends_with(&bytes[bytes.len() - 524_288..]));
    let refused = [
        ("no certificate", client(&site.authority, None)),
        ("a stranger's certificate", client(&site.authority, Some(&site.strange))),
        ("trusts somebody else", client(&site.stranger, Some(&site.ours))),
    ];
    for (name, tls) in refused {
        let error = connect(address, Some(tls)).expect_err(name);
        // storescp may reset the connection before its alert is read.
        assert!(
            matches!(error, AssociationError::Tls { .. } | AssociationError::Closed { .. }),
            "{name}: {error}"
        );
    }
    assert!(connect(address, None).is_err(), "plain to TLS");
}
