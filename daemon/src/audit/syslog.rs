//! Syslog as PS3.15 sections A.6 and A.7 want it for audit messages: RFC 5424 over TLS (RFC 5425), TCP (RFC 6587, octet
//! counting) or UDP (RFC 5426).
//!
//! Syslog has no acknowledgement. Over TCP and TLS a batch has a connection of its own, which is closed in order: a
//! receiver that read the end of it has read all before it. Over UDP a message that left counts as received.
use crate::config::{SyslogAddress, SyslogTransport};
use chrono::{DateTime, SecondsFormat};
use dimse::rustls::pki_types::ServerName;
use dimse::rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection, or a write, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a receiver may take to close its end. Some never do.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// One message: header, byte order mark, text. `host` is what RFC 5424 section 6.2.4 wants, or `-`.
pub fn line(at_ms: i64, notable: bool, host: &str, process_id: u32, text: &str) -> String {
    // PS3.15 section A.6: facility 10, security; severity 5, normal but significant, or 4, warning.
    let priority = 10 * 8 + if notable { 4 } else { 5 };
    let at = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    // RFC 5424 section 6.4: text in UTF-8 begins with a byte order mark. The message ID is of PS3.15 section A.6.
    format!("<{priority}>1 {at} {host} triaged {process_id} DICOM+RFC3881 - \u{feff}{text}")
}

/// The machine's name as RFC 5424 section 6.2.4 lets it be.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let legal: String = name.chars().filter(char::is_ascii_graphic).take(255).collect();
    if legal.is_empty() { "-".to_owned() } else { legal }
}

/// Sends messages to a receiver; all of them arrived when this returns well, as far as syslog lets one know.
///
/// # Errors
/// Some may have arrived, and none may be taken for it.
pub fn send(to: &SyslogAddress, tls: Option<&Arc<ClientConfig>>, messages: &[String]) -> io::Result<()> {
    match to.transport {
        SyslogTransport::Udp => send_datagrams(&to.address, messages),
        SyslogTransport::Tcp => {
            let mut stream = connect(&to.address)?;
            stream.write_all(&framed(messages))?;
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(CLOSE_PATIENCE))?;
            await_end(&mut stream)
        }
        SyslogTransport::Tls => {
            let config = tls.ok_or_else(|| io::Error::other("there is no [tls] to speak it with"))?;
            let host = to.address.rsplit_once(':').map_or(to.address.as_str(), |(host, _)| host);
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|_| io::Error::other(format!("{host} is no name that a certificate could bear")))?;
            let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, connect(&to.address)?);
            stream.write_all(&framed(messages))?;
            stream.conn.send_close_notify();
            stream.flush()?;
            stream.sock.shutdown(Shutdown::Write)?;
            stream.sock.set_read_timeout(Some(CLOSE_PATIENCE))?;
            await_end(&mut stream)
        }
    }
}

/// RFC 6587 section 3.4.1, RFC 5425 section 4.3: each message after its length in bytes.
fn framed(messages: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend(format!("{} ", message.len()).bytes());
        bytes.extend(message.bytes());
    }
    bytes
}

fn send_datagrams(address: &str, messages: &[String]) -> io::Result<()> {
    let to = address.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // That nobody listens is heard at the next send, if at all.
    socket.connect(to)?;
    messages.iter().try_for_each(|message| socket.send(message.as_bytes()).map(drop))
}

/// To the first of the host's addresses that answers.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, PATIENCE) {
            Ok(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until the receiver closes its end: then it has read ours. One that keeps it open, and sends no error before the
/// read times out, is believed, too.
fn await_end(stream: &mut impl Read) -> io::Result<()> {
    let mut ignored = [0; 256];
    for _ in 0..64 {
        match stream.read(&mut ignored) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // TLS without close_notify: the connection ended, if not as it should.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::WouldBlock | ErrorKind::TimedOut
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the receiver answers, and syslog has no answers"))
}
