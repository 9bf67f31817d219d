//! The byte stream below the PDUs: TCP, or TLS on it (PS3.15 section B). Owns the socket and its deadlines: every read
//! and write has one, for the whole of what is asked for and not for a byte. Plain bytes go between the socket and the
//! caller's buffers without a copy. Never decides whom to trust: that is in the TLS configuration.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::error::AssociationError;

/// How long we wait, after our last word, for the peer to read it and close (ARTIM of PS3.8 section 9.1.5, state 13). A
/// close with unread input would reset the connection and could take our last bytes with it.
pub(crate) const LINGER: Duration = Duration::from_millis(1000);

/// What one read from the socket may bring to TLS: some four records (RFC 8446 section 5.1: 16 KiB each).
const RECORDS_BYTES: usize = 64 * 1024;

/// TLS for associations that we request.
#[derive(Clone)]
pub struct TlsClient {
    /// Whom we trust, and with which certificate we answer for ourselves.
    pub config: Arc<ClientConfig>,
    /// What the peer's certificate must be for; by default the host in the address.
    pub server_name: Option<String>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration holds keys.
        f.debug_struct("TlsClient").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// A connected socket, with TLS once [`Transport::start_tls`] was called.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    connection: Connection,
    /// Records off the socket, `start..end` not yet taken by `connection`.
    records: Vec<u8>,
    start: usize,
    end: usize,
}

/// One read or write: until when, since when, and for what; the latter two for the error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) deadline: Instant,
    pub(crate) began: Instant,
    pub(crate) during: &'static str,
}

impl Attempt {
    /// What is left until the deadline, which is not nothing.
    fn left(self) -> Result<Duration, AssociationError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AssociationError::timeout(self.during, self.began.elapsed()));
        }
        Ok(left)
    }

    fn io(self, source: io::Error) -> AssociationError {
        AssociationError::Io { during: self.during, source }
    }

    /// The outcome of one call to the socket: `None` to try again, within the deadline.
    fn outcome(self, result: io::Result<usize>) -> Result<Option<usize>, AssociationError> {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
        match result {
            Ok(0) => Err(AssociationError::Closed { during: self.during }),
            Ok(n) => Ok(Some(n)),
            Err(e) if matches!(e.kind(), WouldBlock | TimedOut | Interrupted) => Ok(None),
            Err(e) if matches!(e.kind(), ConnectionReset | ConnectionAborted | BrokenPipe) => {
                Err(AssociationError::Closed { during: self.during })
            }
            Err(e) => Err(self.io(e)),
        }
    }
}

/// Our end of TLS as the acceptor.
pub(crate) fn tls_server(config: &Arc<ServerConfig>) -> Result<Connection, AssociationError> {
    let tls = |source| AssociationError::Tls { during: "setting TLS up", source };
    Ok(Connection::Server(ServerConnection::new(Arc::clone(config)).map_err(tls)?))
}

/// Our end of TLS as the requestor of an association with `address` (`host:port`).
pub(crate) fn tls_client(tls: &TlsClient, address: &str) -> Result<Connection, AssociationError> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = tls.server_name.as_deref().unwrap_or(host.trim_start_matches('[').trim_end_matches(']'));
    let server_name = rustls::pki_types::ServerName::try_from(name.to_owned())
        .map_err(|_| AssociationError::ServerName { name: name.to_owned() })?;
    let failed = |source| AssociationError::Tls { during: "setting TLS up", source };
    Ok(Connection::Client(ClientConnection::new(Arc::clone(&tls.config), server_name).map_err(failed)?))
}

impl Transport {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Shakes hands before the deadline. On an error the peer got our alert, if there was one to send.
    pub(crate) fn start_tls(
        &mut self,
        connection: Connection,
        attempt: Attempt,
    ) -> Result<(), AssociationError> {
        let mut tls = Box::new(Tls { connection, records: vec![0; RECORDS_BYTES], start: 0, end: 0 });
        let shaken = loop {
            if let Err(error) = tls.flush(&mut self.stream, attempt) {
                break Err(error);
            }
            if !tls.connection.is_handshaking() {
                break Ok(());
            }
            if let Err(error) = tls.receive(&mut self.stream, attempt) {
                break Err(error);
            }
        };
        self.tls = Some(tls);
        shaken
    }

    /// Reads at least one byte.
    pub(crate) fn read_some(
        &mut self,
        buffer: &mut [u8],
        attempt: Attempt,
    ) -> Result<usize, AssociationError> {
        match &mut self.tls {
            None => read_socket(&mut self.stream, buffer, attempt),
            Some(tls) => tls.read_some(&mut self.stream, buffer, attempt),
        }
    }

    pub(crate) fn read_exact(
        &mut self,
        mut buffer: &mut [u8],
        attempt: Attempt,
    ) -> Result<(), AssociationError> {
        while !buffer.is_empty() {
            let n = self.read_some(buffer, attempt)?;
            buffer = &mut buffer[n..];
        }
        Ok(())
    }

    pub(crate) fn write_all(&mut self, mut bytes: &[u8], attempt: Attempt) -> Result<(), AssociationError> {
        if let Some(tls) = &mut self.tls {
            return tls.write_all(&mut self.stream, bytes, attempt);
        }
        while !bytes.is_empty() {
            let n = write_socket(&mut self.stream, attempt, |stream| stream.write(bytes))?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Ends our side, and waits a little for the peer to end its own.
    pub(crate) fn close(&mut self) {
        let began = Instant::now();
        let attempt = Attempt { deadline: began + LINGER, began, during: "closing" };
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
            // Best effort: who is gone needs no goodbye.
            let _ = tls.flush(&mut self.stream, attempt);
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut scrap = [0; 4096];
        while read_socket(&mut self.stream, &mut scrap, attempt).is_ok() {}
    }
}

impl Tls {
    fn read_some(
        &mut self,
        stream: &mut TcpStream,
        buffer: &mut [u8],
        attempt: Attempt,
    ) -> Result<usize, AssociationError> {
        loop {
            match self.connection.reader().read(buffer) {
                // Nothing is there: the peer's next records.
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.receive(stream, attempt)?,
                // 0 is a close_notify.
                other => {
                    if let Some(n) = attempt.outcome(other)? {
                        return Ok(n);
                    }
                }
            }
        }
    }

    /// Takes what the socket has, as far as it makes whole records, and sends what TLS itself answers.
    fn receive(&mut self, stream: &mut TcpStream, attempt: Attempt) -> Result<(), AssociationError> {
        if self.start == self.end {
            self.end = read_socket(stream, &mut self.records, attempt)?;
            self.start = 0;
        }
        let mut records = &self.records[self.start..self.end];
        let taken = self.connection.read_tls(&mut records).map_err(|e| attempt.io(e))?;
        if taken == 0 {
            // After a close_notify it takes nothing more: without this, bytes that follow one would be offered for ever.
            return Err(AssociationError::Closed { during: attempt.during });
        }
        self.start += taken;
        match self.connection.process_new_packets() {
            Ok(_) => self.flush(stream, attempt),
            Err(source) => {
                let deadline = attempt.deadline.min(Instant::now() + LINGER);
                // Best effort: the alert that says why.
                let _ = self.flush(stream, Attempt { deadline, ..attempt });
                Err(AssociationError::Tls { during: attempt.during, source })
            }
        }
    }

    fn write_all(
        &mut self,
        stream: &mut TcpStream,
        mut bytes: &[u8],
        attempt: Attempt,
    ) -> Result<(), AssociationError> {
        while !bytes.is_empty() {
            // As much as TLS buffers at once; it is empty again after each flush.
            let result = self.connection.writer().write(bytes);
            let n = attempt.outcome(result)?.unwrap_or(0);
            bytes = &bytes[n..];
            self.flush(stream, attempt)?;
        }
        Ok(())
    }

    fn flush(&mut self, stream: &mut TcpStream, attempt: Attempt) -> Result<(), AssociationError> {
        while self.connection.wants_write() {
            write_socket(stream, attempt, |stream| self.connection.write_tls(stream))?;
        }
        Ok(())
    }
}

fn read_socket(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    attempt: Attempt,
) -> Result<usize, AssociationError> {
    loop {
        stream.set_read_timeout(Some(attempt.left()?)).map_err(|e| attempt.io(e))?;
        if let Some(n) = attempt.outcome(stream.read(buffer))? {
            return Ok(n);
        }
    }
}

fn write_socket(
    stream: &mut TcpStream,
    attempt: Attempt,
    mut write: impl FnMut(&mut TcpStream) -> io::Result<usize>,
) -> Result<usize, AssociationError> {
    loop {
        stream.set_write_timeout(Some(attempt.left()?)).map_err(|e| attempt.io(e))?;
        if let Some(n) = attempt.outcome(write(stream))? {
            return Ok(n);
        }
    }
}
