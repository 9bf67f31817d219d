//! Delivery over MLLP (HL7 v2 transport specification, release 1): one connection, one message, one acknowledgement.
//!
//! Owns the connection, its deadlines and bounds, and what the acknowledgement means. It builds no message and decides
//! nothing about the next attempt. The receiver's answer counts only if it names our message.
//!
//! ```text
//! connect -> [TLS] -> VT message FS CR -> VT acknowledgement FS CR -> close
//! ```
use super::policy::Failure;
use dimse::rustls::pki_types::ServerName;
use dimse::rustls::{self, ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Begins a block.
const VT: u8 = 0x0b;
/// Ends a block, with [`CR`].
const FS: u8 = 0x1c;
const CR: u8 = 0x0d;
/// Longest acknowledgement that is read: an MSH, an MSA and some ERR segments have a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest reason that is kept, in characters.
const REASON_MAX: usize = 300;

/// How long the receiver may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the connection and TLS.
    pub connect: Duration,
    /// For the message to be taken and the whole of the acknowledgement to come.
    pub answer: Duration,
}

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum MllpError {
    /// No connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// One side does not trust the other, or they have no cipher in common.
    #[error("TLS with {address}: {reason}")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// No acknowledgement in time.
    #[error("no acknowledgement within {waited_s:.0} s")]
    Silent {
        /// The time it had.
        waited_s: f64,
    },
    /// The connection ended before the acknowledgement.
    #[error("the connection was closed before the acknowledgement")]
    Closed,
    /// The connection failed otherwise.
    #[error("the connection failed before the acknowledgement: {0}")]
    Io(#[source] io::Error),
    /// What came is no acknowledgement.
    #[error("the answer is no acknowledgement: {what}")]
    Garbage {
        /// What is wrong with it.
        what: String,
    },
    /// It acknowledges another message.
    #[error("the acknowledgement is of message {received:?}, not of {sent:?}")]
    OtherMessage {
        /// MSH-10 of ours.
        sent: String,
        /// MSA-2.
        received: String,
    },
    /// The receiver said no.
    #[error("{code}: {reason}")]
    Refused {
        /// MSA-1.
        code: String,
        /// Condition of HL7 table 0357, if there is one.
        condition: Option<u16>,
        /// What it said, printable.
        reason: String,
    },
}

impl From<MllpError> for Failure {
    fn from(error: MllpError) -> Self {
        let text = error.to_string();
        match error {
            MllpError::Connect { .. } | MllpError::Tls { .. } => Self::Unreachable(text),
            // Table 0357: the record is locked.
            MllpError::Refused { condition: Some(206), .. } => Self::Busy(text),
            MllpError::Refused { code, condition, .. } => {
                // Table 0357: 100 to 103 find fault with the message, 200 to 203 with its type, event, processing id and
                // version. The others (an unknown or a duplicate key, an internal error) may turn. Without a condition a
                // rejection is about what the receiver supports (HL7 v2.5.1 section 2.9.2.2).
                let permanent = match condition {
                    Some(condition) => matches!(condition, 100..=103 | 200..=203),
                    None => code.ends_with('R'),
                };
                Self::Refused { reason: text, permanent }
            }
            MllpError::Silent { .. }
            | MllpError::Closed
            | MllpError::Io(_)
            | MllpError::Garbage { .. }
            | MllpError::OtherMessage { .. } => Self::Broken(text),
        }
    }
}

/// Sends `message`, whose MSH-10 is `control_id`, to `address` (`host:port`) and waits until it is accepted: AA, or CA of
/// the enhanced mode.
///
/// # Errors
/// [`MllpError`], which says whether the message could have been taken: after everything but `Connect`, `Tls` and
/// `Refused` the receiver may have it. It is sent again under the same control id.
pub fn exchange(
    address: &str,
    tls: Option<&Arc<ClientConfig>>,
    message: &[u8],
    control_id: &str,
    timeouts: Timeouts,
) -> Result<(), MllpError> {
    let mut socket = connect(address, timeouts.connect)?;
    let Some(config) = tls else {
        socket.deadline = Instant::now() + timeouts.answer;
        return converse(&mut socket, address, message, control_id, timeouts.answer);
    };
    let refused = |reason: String| MllpError::Tls { address: address.to_owned(), reason };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| refused(format!("{host} is no name that a certificate could bear")))?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(|error| refused(error.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| refused(error.to_string()))?;
    }
    socket.deadline = Instant::now() + timeouts.answer;
    let mut stream = StreamOwned::new(connection, socket);
    let result = converse(&mut stream, address, message, control_id, timeouts.answer);
    stream.conn.send_close_notify();
    // Best effort: the answer is there, or none will come.
    let _ = stream.flush();
    result
}

/// A socket all of whose reads and writes end at the deadline, however slowly the bytes come.
struct Socket {
    stream: TcpStream,
    deadline: Instant,
}

impl Socket {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// To the first of the host's addresses that answers.
fn connect(address: &str, timeout: Duration) -> Result<Socket, MllpError> {
    let deadline = Instant::now() + timeout;
    let failed = |source| MllpError::Connect { address: address.to_owned(), source };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(failed)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(ErrorKind::TimedOut.into()));
        }
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => {
                // The message is written at once; nothing is gained by waiting for more.
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(Socket { stream, deadline });
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// The message out, the acknowledgement in.
fn converse(
    stream: &mut (impl Read + Write),
    address: &str,
    message: &[u8],
    control_id: &str,
    timeout: Duration,
) -> Result<(), MllpError> {
    let failed = |error: io::Error| {
        // TLS 1.3: that the receiver refuses our certificate is heard only now.
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return MllpError::Tls { address: address.to_owned(), reason: error.to_string() };
        }
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                MllpError::Silent { waited_s: timeout.as_secs_f64() }
            }
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::WriteZero => MllpError::Closed,
            _ => MllpError::Io(error),
        }
    };
    let mut block = Vec::with_capacity(message.len() + 3);
    block.push(VT);
    block.extend(message);
    block.extend([FS, CR]);
    // A receiver may refuse before it has read all, and close. Its answer counts, or what became of the reading: that
    // fails at least as soon as the writing did.
    let _ = stream.write_all(&block).and_then(|()| stream.flush());
    let answer = read_block(stream).map_err(|error| match error {
        ReadError::Garbage(what) => MllpError::Garbage { what },
        ReadError::Io(error) => failed(error),
    })?;
    judge(&answer, control_id)
}

enum ReadError {
    Io(io::Error),
    Garbage(String),
}

/// One block without its framing. White space before it is left from an earlier one.
fn read_block(stream: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = match stream.read(&mut chunk) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(ReadError::Io(error)),
        };
        if n == 0 {
            return Err(ReadError::Io(ErrorKind::UnexpectedEof.into()));
        }
        let known = bytes.len();
        bytes.extend(&chunk[..n]);
        // It takes VT for no white space.
        let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
        let Some(start) = start else { continue };
        if bytes[start] != VT {
            return Err(ReadError::Garbage(format!("it begins with {}", printable(&bytes[start..]))));
        }
        if let Some(end) = bytes[known..].iter().position(|byte| *byte == FS) {
            return Ok(bytes[start + 1..known + end].to_vec());
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(ReadError::Garbage(format!("it has no end within {ANSWER_BYTES_MAX} bytes")));
        }
    }
}

/// What the acknowledgement says about our message.
fn judge(answer: &[u8], control_id: &str) -> Result<(), MllpError> {
    let garbage = |what: String| MllpError::Garbage { what };
    let text = String::from_utf8_lossy(answer);
    let mut segments = text.split(['\r', '\n']).filter(|segment| !segment.is_empty());
    let head = segments.next().filter(|head| head.starts_with("MSH"));
    let mut separators = head.unwrap_or_default().chars().skip(3);
    let (Some(field), Some(component)) = (separators.next(), separators.next()) else {
        return Err(garbage(format!("it begins with {}", printable(answer))));
    };
    let segments: Vec<Vec<&str>> = segments.map(|segment| segment.split(field).collect()).collect();
    let Some(msa) = segments.iter().find(|segment| segment[0] == "MSA") else {
        return Err(garbage("it has no MSA segment".to_owned()));
    };
    let at = |segment: &[&str], number: usize| segment.get(number).map_or("", |f| f.trim()).to_owned();
    let received = at(msa, 2);
    if received != control_id {
        let received = printable(received.as_bytes());
        return Err(MllpError::OtherMessage { sent: control_id.to_owned(), received });
    }
    let code = at(msa, 1);
    match code.as_str() {
        "AA" | "CA" => return Ok(()),
        "AE" | "CE" | "AR" | "CR" => {}
        _ => return Err(garbage(format!("MSA-1 is {}", printable(code.as_bytes())))),
    }
    // HL7 v2.5.1 section 2.15.5: ERR-3 the condition, ERR-7 and ERR-8 for people. Before it MSA-3 and MSA-6 held them.
    let errors: Vec<&Vec<&str>> = segments.iter().filter(|segment| segment[0] == "ERR").collect();
    let conditions = errors.iter().map(|error| at(error, 3)).chain([at(msa, 6)]);
    let condition = conditions.into_iter().find_map(|f| f.split(component).next()?.trim().parse().ok());
    let said =
        [at(msa, 3)].into_iter().chain(errors.iter().flat_map(|error| [3, 7, 8].map(|n| at(error, n))));
    let mut reasons: Vec<String> = Vec::new();
    for reason in said.map(|text| printable(text.as_bytes())) {
        if !reason.is_empty() && !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let reason = if reasons.is_empty() { "no reason given".to_owned() } else { reasons.join("; ") };
    Err(MllpError::Refused { code, condition, reason: reason.chars().take(REASON_MAX).collect() })
}

/// A peer's text for logs and screens: one line, bounded.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(4 * REASON_MAX)];
    let legal = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(bytes).chars().map(legal).take(REASON_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
#[path = "mllp_tests.rs"]
mod tests;
