//! PDUs on a stream (PS3.8 section 9.3). Owns the one receive buffer, and the deadlines: every wait has one, for a
//! whole PDU and not for a byte, so that a peer that drips is cut off like one that keeps silent. Never allocates for a
//! length that it has not checked. Never interprets a command.

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustls::Connection;

use crate::error::{AssociationError, Rejection};
use crate::transport::{Attempt, LINGER, Transport};

/// PDU types (PS3.8 section 9.3.1).
pub(crate) mod pdu_type {
    pub(crate) const ASSOCIATE_RQ: u8 = 1;
    pub(crate) const ASSOCIATE_AC: u8 = 2;
    pub(crate) const ASSOCIATE_RJ: u8 = 3;
    pub(crate) const P_DATA: u8 = 4;
    pub(crate) const RELEASE_RQ: u8 = 5;
    pub(crate) const RELEASE_RP: u8 = 6;
    pub(crate) const ABORT: u8 = 7;
}

/// PDU type, reserved byte, length.
pub(crate) const PDU_HEADER_BYTES: usize = 6;
/// PDV length, presentation context id, message control header.
pub(crate) const PDV_HEADER_BYTES: usize = 6;
/// 128 contexts of 30 transfer syntaxes of 68 bytes are 261 KB; user information adds at most 64 KiB, which leaves room.
pub(crate) const ASSOCIATE_BYTES_MAX: usize = 512 * 1024;
/// Peers that count the headers into the length that we announced are off by these.
const PDU_SLACK_BYTES: usize = 2 * (PDU_HEADER_BYTES + PDV_HEADER_BYTES);
/// Deadlines of one PDU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// When its first byte must be here.
    pub(crate) start_by: Instant,
    /// From its first byte to its last.
    pub(crate) pdu_timeout: Duration,
    /// When its last byte must be here, whatever the others say.
    pub(crate) end_by: Instant,
    /// For the error.
    pub(crate) during: &'static str,
}

/// A fragment of a message (PS3.8 annex E) in the receive buffer.
#[derive(Debug, Clone)]
pub(crate) struct Pdv {
    pub(crate) context_id: u8,
    pub(crate) is_command: bool,
    pub(crate) is_last: bool,
    /// For [`Wire::bytes`], until the next read.
    pub(crate) range: Range<usize>,
}

/// What came on an established association.
#[derive(Debug)]
pub(crate) enum Incoming {
    Pdv(Pdv),
    ReleaseRequest,
    ReleaseReply,
}

/// A stream with its receive buffer.
#[derive(Debug)]
pub(crate) struct Wire {
    transport: Transport,
    peer: SocketAddr,
    /// Only grows, up to the largest PDU seen; the current PDU's variable field is `..body_len`.
    body: Vec<u8>,
    body_len: usize,
    /// Next PDV of the current P-DATA-TF.
    cursor: usize,
    write_timeout: Duration,
}

impl Wire {
    /// Takes the stream over and turns Nagle off: small responses must not wait for acknowledgements.
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration) -> Result<Self, AssociationError> {
        let io = |source| AssociationError::Io { during: "setting the connection up", source };
        let peer = stream.peer_addr().map_err(io)?;
        stream.set_nonblocking(false).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let transport = Transport::new(stream);
        Ok(Self { transport, peer, body: Vec::new(), body_len: 0, cursor: 0, write_timeout })
    }

    /// Shakes hands within `timeout`; on an error the connection is closed, after our alert if there is one.
    pub(crate) fn start_tls(
        &mut self,
        connection: Connection,
        timeout: Duration,
    ) -> Result<(), AssociationError> {
        let began = Instant::now();
        let attempt = Attempt { deadline: began + timeout, began, during: "shaking hands for TLS" };
        let result = self.transport.start_tls(connection, attempt);
        if let Err(AssociationError::Tls { .. }) = &result {
            self.transport.close();
        }
        result
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.transport.stream()
    }

    /// Reads one PDU and returns its type; its variable field is [`Wire::body`].
    pub(crate) fn read_pdu(&mut self, patience: Patience, length_max: usize) -> Result<u8, AssociationError> {
        self.cursor = 0;
        self.body_len = 0;
        let began = Instant::now();
        let Patience { start_by, pdu_timeout, end_by, during } = patience;
        let mut header = [0; PDU_HEADER_BYTES];
        let start = Attempt { deadline: start_by.min(end_by), began, during };
        let got = self.transport.read_some(&mut header, start)?;
        let whole = Attempt { deadline: end_by.min(Instant::now() + pdu_timeout), began, during };
        self.transport.read_exact(&mut header[got..], whole)?;
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
        let limit = length_max.saturating_add(PDU_SLACK_BYTES);
        if length > limit {
            return Err(AssociationError::PduTooLong {
                length_bytes: length as u64,
                limit_bytes: limit as u64,
            });
        }
        if self.body.len() < length {
            self.body.resize(length, 0);
        }
        self.transport.read_exact(&mut self.body[..length], whole)?;
        self.body_len = length;
        // Nothing of it is a PDV until `next` says so.
        self.cursor = length;
        Ok(header[0])
    }

    /// The variable field of the PDU read last.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body[..self.body_len]
    }

    /// The bytes of a [`Pdv`].
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.body[range]
    }

    /// The next fragment of the current P-DATA-TF, or of the next one; A-ABORT comes as an error.
    pub(crate) fn next(
        &mut self,
        patience: Patience,
        length_max: usize,
    ) -> Result<Incoming, AssociationError> {
        if self.cursor == self.body_len {
            match self.read_pdu(patience, length_max)? {
                pdu_type::P_DATA if self.body_len > 0 => self.cursor = 0,
                pdu_type::P_DATA => return Err(AssociationError::protocol("P-DATA-TF without a value")),
                pdu_type::RELEASE_RQ => return Ok(Incoming::ReleaseRequest),
                pdu_type::RELEASE_RP => return Ok(Incoming::ReleaseReply),
                pdu_type::ABORT => return Err(self.aborted()),
                other => {
                    return Err(AssociationError::protocol(format!("unexpected PDU of type {other:#04X}")));
                }
            }
        }
        let (pdv, end) = parse_pdv(&self.body[..self.body_len], self.cursor)?;
        self.cursor = end;
        Ok(Incoming::Pdv(pdv))
    }

    /// The A-ABORT just read, as an error (PS3.8 table 9-26).
    pub(crate) fn aborted(&self) -> AssociationError {
        let code = |at: usize| self.body().get(at).copied().unwrap_or(0);
        AssociationError::Aborted { source_code: code(2), reason_code: code(3) }
    }

    /// The A-ASSOCIATE-RJ just read (PS3.8 table 9-21).
    pub(crate) fn rejection(&self) -> Rejection {
        let code = |at: usize| self.body().get(at).copied().unwrap_or(0);
        Rejection::new(code(1), code(2), code(3))
    }

    /// Writes all of `bytes` before the write timeout.
    pub(crate) fn write(&mut self, bytes: &[u8], during: &'static str) -> Result<(), AssociationError> {
        let began = Instant::now();
        self.transport.write_all(bytes, Attempt { deadline: began + self.write_timeout, began, during })
    }

    /// Sends a PDU whose variable field is four bytes: release, rejection, abort (PS3.8 sections 9.3.4 to 9.3.8).
    pub(crate) fn write_short(
        &mut self,
        pdu_type: u8,
        field: [u8; 4],
        during: &'static str,
    ) -> Result<(), AssociationError> {
        let mut pdu = [0; PDU_HEADER_BYTES + 4];
        pdu[0] = pdu_type;
        pdu[5] = 4;
        pdu[PDU_HEADER_BYTES..].copy_from_slice(&field);
        self.write(&pdu, during)
    }

    /// Tells the peer, when it can still hear, why `error` ends the association; then closes.
    pub(crate) fn abort_for(&mut self, error: &AssociationError) {
        // PS3.8 table 9-26: source 2 is the service-provider; reasons 0 not specified, 2 unexpected PDU, 6 invalid value.
        let field = match error {
            AssociationError::Timeout { .. } => [0, 0, 2, 0],
            AssociationError::Protocol { .. } => [0, 0, 2, 2],
            AssociationError::PduTooLong { .. } => [0, 0, 2, 6],
            AssociationError::Source { .. } | AssociationError::NoContext { .. } => [0; 4],
            // Nothing can be said any more, but the alert that was sent should arrive.
            AssociationError::Tls { .. } => return self.close(),
            _ => return,
        };
        self.abort(field);
    }

    /// Sends A-ABORT, best effort, and closes.
    pub(crate) fn abort(&mut self, field: [u8; 4]) {
        self.write_timeout = self.write_timeout.min(LINGER);
        if self.write_short(pdu_type::ABORT, field, "aborting").is_ok() {
            self.close();
        }
    }

    /// Ends our side, and waits a little for the peer to end its own.
    pub(crate) fn close(&mut self) {
        self.transport.close();
    }
}

/// The PDV at `at` of a P-DATA-TF's variable field, and where it ends (PS3.8 section 9.3.5.1 and annex E.2).
fn parse_pdv(body: &[u8], at: usize) -> Result<(Pdv, usize), AssociationError> {
    let Some((header, rest)) = body.get(at..).and_then(|rest| rest.split_first_chunk::<PDV_HEADER_BYTES>())
    else {
        return Err(AssociationError::protocol(format!("P-DATA-TF ends inside the PDV at byte {at}")));
    };
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    // The length counts the context id and the message control header.
    let Some(data) = length.checked_sub(2).filter(|data| *data <= rest.len()) else {
        return Err(AssociationError::protocol(format!(
            "PDV length {length} with {} bytes left",
            rest.len()
        )));
    };
    let start = at + PDV_HEADER_BYTES;
    let (context_id, control) = (header[4], header[5]);
    let pdv = Pdv {
        context_id,
        is_command: control & 1 != 0,
        is_last: control & 2 != 0,
        range: start..start + data,
    };
    Ok((pdv, start + data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pdvs() {
        let two = [0, 0, 0, 3, 1, 3, 9, 0, 0, 0, 2, 5, 2];
        let (first, end) = parse_pdv(&two, 0).expect("first");
        assert!(
            first.is_command && first.is_last && first.context_id == 1 && first.range == (6..7) && end == 7
        );
        let (second, end) = parse_pdv(&two, end).expect("second");
        assert!(!second.is_command && second.is_last && second.context_id == 5 && second.range.is_empty());
        assert_eq!(end, two.len());
    }

    #[test]
    fn malformed_pdvs() {
        let cases: [&[u8]; 5] = [
            &[0],
            &[0, 0, 0, 2, 1],
            &[0, 0, 0, 1, 1, 0],
            &[0, 0, 0, 4, 1, 0, 7],
            &[0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 7],
        ];
        for bytes in cases {
            assert!(parse_pdv(bytes, 0).is_err(), "{bytes:02X?}");
        }
    }
}
