use super::*;
use dimse::rustls::crypto::ring;
use dimse::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use dimse::rustls::server::WebPkiClientVerifier;
use dimse::rustls::{RootCertStore, ServerConfig, ServerConnection};
use rcgen::{CertificateParams, Issuer, KeyPair};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

const MESSAGE: &[u8] =
    b"MSH|^~\\&|triaged|CT1|RIS|H|20261123070509||ORU^R01^ORU_R01|CONTROL-1|P|2.5.1\rPID|1\r";
const ID: &str = "CONTROL-1";
const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// A receiver for one connection: reads a whole block, then does `then`.
fn receiver(then: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let block = block(&mut stream);
        then(&mut stream);
        block
    });
    (address, thread)
}

fn block(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(&[FS, CR]) && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        bytes.extend(byte);
    }
    bytes
}

/// What follows from this answer.
fn answered(answer: &[u8]) -> Result<(), Failure> {
    let answer = answer.to_vec();
    // The client may have closed already, after the first bytes.
    let (address, thread) = receiver(move |stream| drop(stream.write_all(&answer)));
    let result = exchange(&address, None, MESSAGE, ID, PATIENT);
    let mut framed = vec![VT];
    framed.extend(MESSAGE);
    framed.extend([FS, CR]);
    assert_eq!(thread.join().unwrap(), framed);
    result.map_err(Failure::from)
}

fn framed(text: &str) -> Vec<u8> {
    format!("\x0b{text}\x1c\r").into_bytes()
}

const HEAD: &str = "MSH|^~\\&|RIS|H|triaged|CT1|20261123||ACK^R01^ACK|1|P|2.5.1\r";

#[test]
fn an_acceptance_is_one() {
    for answer in [
        framed(&format!("{HEAD}MSA|AA|{ID}\r")),
        framed(&format!("{HEAD}MSA|CA|{ID}|thank you\r")),
        framed(&format!("{HEAD}MSA|AA|{ID}").replace('\r', "\r\n")),
        // Left over from an earlier block; and without the CR at the end.
        format!("\r\n\x0b{HEAD}MSA|AA|{ID}\r\x1c").into_bytes(),
        // Separators of its own.
        framed(&format!("MSH#*~\\&#RIS\rSFT#1\rMSA#AA#{ID} \r")),
    ] {
        assert_eq!(answered(&answer), Ok(()), "{}", answer.escape_ascii());
    }
}

#[test]
fn a_no_is_told_with_its_reason() {
    let refused = |reason: &str, permanent| Failure::Refused { reason: reason.to_owned(), permanent };
    let cases = [
        (format!("MSA|AE|{ID}"), refused("AE: no reason given", false)),
        (format!("MSA|AR|{ID}|not today"), refused("AR: not today", true)),
        (format!("MSA|CR|{ID}"), refused("CR: no reason given", true)),
        (
            format!("MSA|AE|{ID}|x\rERR|||101^Required field missing^HL70357|E||||PID-3 is empty"),
            refused("AE: x; 101^Required field missing^HL70357; PID-3 is empty", true),
        ),
        (
            format!("MSA|AR|{ID}\rERR|||207^Application internal error"),
            refused("AR: 207^Application internal error", false),
        ),
        (format!("MSA|AE|{ID}|||||204^Unknown key"), refused("AE: no reason given", false)),
        (format!("MSA|AE|{ID}|two\x07\tlines\u{85}"), refused("AE: two  lines", false)),
        (format!("MSA|AE|{ID}||||206^locked"), Failure::Busy("AE: no reason given".to_owned())),
    ];
    for (msa, want) in cases {
        assert_eq!(answered(&framed(&format!("{HEAD}{msa}\r"))), Err(want), "{msa}");
    }
    let long = framed(&format!("{HEAD}MSA|AE|{ID}|{}\r", "é".repeat(5_000)));
    let Err(Failure::Refused { reason, .. }) = answered(&long) else { panic!() };
    assert_eq!(reason.chars().count(), REASON_MAX + "AE: ".len());
}

#[test]
fn what_is_no_acknowledgement_is_none() {
    let endless = [&[VT][..], &[b'A'; ANSWER_BYTES_MAX + 5_000]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "it begins with HTTP/1.1"),
        (framed("hello\r"), "it begins with hello"),
        (framed(""), "it begins with"),
        (framed("MSH|"), "it begins with MSH|"),
        (framed(HEAD), "no MSA"),
        (framed(&format!("{HEAD}MSA\r")), "is of message \"\""),
        (framed(&format!("{HEAD}MSA|AA|CONTROL-2\r")), "is of message \"CONTROL-2\""),
        (framed(&format!("{HEAD}MSA|OK|{ID}\r")), "MSA-1 is OK"),
        (endless, "no end within 65536 bytes"),
        (vec![], "closed before"),
        (format!("\x0b{HEAD}MSA|AA|{ID}\r").into_bytes(), "closed before"),
        (b"\r\r".to_vec(), "closed before"),
        (vec![0xff; 10], "it begins with"),
    ];
    for (answer, want) in cases {
        let shown = answer[..answer.len().min(80)].escape_ascii().to_string();
        match answered(&answer) {
            Err(Failure::Broken(text)) => assert!(text.contains(want), "{shown}: {text}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[test]
fn silence_and_slowness_end_at_the_deadline() {
    let impatient = Timeouts { answer: Duration::from_millis(300), ..PATIENT };
    let slow = |stream: &mut TcpStream| {
        while stream.write_all(b"\r").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Waits until the client is gone.
    let silent = |stream: &mut TcpStream| drop(stream.read(&mut [0]));
    for (address, thread) in [receiver(silent), receiver(slow)] {
        let began = Instant::now();
        let error = exchange(&address, None, MESSAGE, ID, impatient).unwrap_err();
        assert!(matches!(error, MllpError::Silent { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(matches!(Failure::from(error), Failure::Broken(_)));
        thread.join().unwrap();
    }
}

#[test]
fn a_receiver_that_reads_nothing_is_broken_and_none_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || drop(listener.accept()));
    // More than the buffers between us hold.
    let error = exchange(&address, None, &vec![b'A'; 32 << 20], ID, PATIENT).unwrap_err();
    assert!(matches!(error, MllpError::Closed), "{error}");
    thread.join().unwrap();
    for address in [address.as_str(), "no host.invalid:2575", "127.0.0.1"] {
        let failure = Failure::from(exchange(address, None, MESSAGE, ID, PATIENT).unwrap_err());
        assert!(matches!(failure, Failure::Unreachable(_)), "{address} {failure:?}");
    }
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    roots: Arc<RootCertStore>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { params, key, roots: Arc::new(roots) }
    }

    fn identity(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// We, with a certificate of this authority, trusting `peer`.
    fn client(&self, peer: &Authority) -> Arc<ClientConfig> {
        let (chain, key) = self.identity("box");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(
            builder
                .with_root_certificates(Arc::clone(&peer.roots))
                .with_client_auth_cert(chain, key)
                .unwrap(),
        )
    }

    /// A receiver with a certificate for `name` that trusts this authority only and accepts one message.
    fn server(&self, name: &str) -> (String, JoinHandle<Vec<u8>>) {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider))
                .build();
        let (chain, key) = self.identity(name);
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config =
            builder.with_client_cert_verifier(verifier.unwrap()).with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            let block = block(&mut stream);
            if !block.is_empty() {
                stream.write_all(&framed(&format!("{HEAD}MSA|AA|{ID}\r"))).unwrap();
            }
            // Waits until the client is gone, so that what we said arrives.
            drop(stream.sock.read(&mut [0; 100]));
            block
        });
        (address, thread)
    }
}

#[test]
fn tls_is_mutual() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (address, thread) = ours.server("127.0.0.1");
    exchange(&address, Some(&ours.client(&ours)), MESSAGE, ID, PATIENT).unwrap();
    assert!(thread.join().unwrap().ends_with(b"PID|1\r\x1c\r"));
    let cases = [
        (ours.server("127.0.0.1"), ours.client(&theirs), "a receiver that we don't trust"),
        (ours.server("other.example"), ours.client(&ours), "a certificate for another name"),
        (ours.server("127.0.0.1"), theirs.client(&ours), "a receiver that doesn't trust us"),
        (receiver(|stream| drop(stream.write_all(b"plain"))), ours.client(&ours), "no TLS there"),
    ];
    for ((address, thread), client, what) in cases {
        let error = exchange(
            &address,
            Some(&client),
            MESSAGE,
            ID,
            Timeouts { connect: Duration::from_secs(2), ..PATIENT },
        );
        let error = error.unwrap_err();
        assert!(matches!(error, MllpError::Tls { .. }), "{what}: {error}");
        assert!(matches!(Failure::from(error), Failure::Unreachable(_)), "{what}");
        assert!(!thread.join().unwrap().ends_with(b"PID|1\r\x1c\r"), "{what}");
    }
}

/// python-hl7's own MLLP server takes the message and its acknowledgement is understood.
#[test]
fn a_peer_takes_it() {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import hl7.mllp"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("TRIAGED_REQUIRE_PEERS").as_deref() != Ok("1"), "no Python with hl7");
        println!("skipped: no Python with hl7");
        return;
    }
    let script = r#"
import asyncio, hl7.mllp

async def main():
    done = asyncio.Event()
    async def serve(reader, writer):
        message = await reader.readmessage()
        print(message.segment("MSH")[10], flush=True)
        writer.writemessage(message.create_ack("AE" if "BAD" in str(message) else "AA"))
        await writer.drain()
        writer.close()
        if "BAD" in str(message):
            done.set()
    server = await hl7.mllp.start_hl7_server(serve, "127.0.0.1", 0, encoding="utf-8")
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.wait_for(done.wait(), 30)

asyncio.run(main())
"#;
    let mut server = Command::new(&python).args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let address = format!("127.0.0.1:{}", lines.next().unwrap().unwrap());
    exchange(&address, None, MESSAGE, ID, PATIENT).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), ID);
    let bad = [MESSAGE, b"NTE|1|L|BAD\r"].concat();
    let error = exchange(&address, None, &bad, ID, PATIENT).unwrap_err();
    assert!(matches!(&error, MllpError::Refused { code, .. } if code == "AE"), "{error}");
    assert!(server.wait().unwrap().success());
}
