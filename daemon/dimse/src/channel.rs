//! Messages on an established association (PS3.7 section 6.2, PS3.8 annex E), the same for both roles. Owns the
//! assembly of command sets and the fragmentation of data sets; never looks at what a command asks for.

use std::io::{self, Read};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::command::{COMMAND_SET_BYTES_MAX, CommandSet};
use crate::error::AssociationError;
use crate::wire::{Incoming, PDV_HEADER_BYTES, Patience, Wire, pdu_type};

/// We never send longer PDUs, even to peers without a limit: above this nothing gets faster.
const SEND_PDU_BYTES_MAX: usize = 128 * 1024;
/// The smallest length that leaves room for a PDV header and some bytes; a peer that asks for less gets this.
const SEND_PDU_BYTES_MIN: usize = 64;

/// How long we wait on an established association.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From the first byte of a PDU to its last, and between the PDUs of one message.
    pub(crate) pdu: Duration,
    /// From the first byte of a message to its last.
    pub(crate) message: Duration,
}

/// What [`Channel::read_command`] found.
pub(crate) enum Received {
    Command { context_id: u8, command: CommandSet },
    ReleaseRequest,
    ReleaseReply,
}

/// A wire that speaks in messages.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) wire: Wire,
    timeouts: Timeouts,
    receive_max: usize,
    send_max: usize,
    /// End of the message that is being received.
    message_end: Instant,
    out: Vec<u8>,
}

impl Channel {
    /// `peer_max` as negotiated: 0 is no limit.
    pub(crate) fn new(wire: Wire, timeouts: Timeouts, receive_max: u32, peer_max: u32) -> Self {
        let peer_max = if peer_max == 0 { SEND_PDU_BYTES_MAX } else { peer_max as usize };
        let send_max = peer_max.clamp(SEND_PDU_BYTES_MIN, SEND_PDU_BYTES_MAX);
        let receive_max = receive_max as usize;
        Self { wire, timeouts, receive_max, send_max, message_end: Instant::now(), out: Vec::new() }
    }

    /// Reads the next command set, or the release; its first byte must come before `start_by`.
    pub(crate) fn read_command(&mut self, start_by: Instant) -> Result<Received, AssociationError> {
        let mut bytes = Vec::new();
        let mut context = None;
        loop {
            let patience = match context {
                None => Patience {
                    start_by,
                    pdu_timeout: self.timeouts.pdu,
                    end_by: start_by + self.timeouts.pdu,
                    during: "waiting for a command",
                },
                Some(_) => self.inside("receiving a command"),
            };
            let pdv = match self.wire.next(patience, self.receive_max)? {
                Incoming::Pdv(pdv) => pdv,
                Incoming::ReleaseRequest if context.is_none() => return Ok(Received::ReleaseRequest),
                Incoming::ReleaseReply if context.is_none() => return Ok(Received::ReleaseReply),
                _ => return Err(AssociationError::protocol("release inside a command")),
            };
            if context.is_none() {
                self.message_end = Instant::now() + self.timeouts.message;
            }
            if !pdv.is_command || *context.get_or_insert(pdv.context_id) != pdv.context_id {
                let what = format!("fragment of context {} where a command was expected", pdv.context_id);
                return Err(AssociationError::protocol(what));
            }
            if bytes.len() + pdv.range.len() > COMMAND_SET_BYTES_MAX {
                return Err(AssociationError::protocol(format!(
                    "command set exceeds {COMMAND_SET_BYTES_MAX} bytes"
                )));
            }
            bytes.extend_from_slice(self.wire.bytes(pdv.range));
            if pdv.is_last {
                let command =
                    CommandSet::parse(&bytes).map_err(|e| AssociationError::protocol(e.to_string()))?;
                return Ok(Received::Command { context_id: pdv.context_id, command });
            }
        }
    }

    /// The next fragment of the data set that belongs to the command just read, and whether it is the last.
    pub(crate) fn read_fragment(&mut self, context_id: u8) -> Result<(Range<usize>, bool), AssociationError> {
        match self.wire.next(self.inside("receiving a data set"), self.receive_max)? {
            Incoming::Pdv(pdv) if !pdv.is_command && pdv.context_id == context_id => {
                Ok((pdv.range, pdv.is_last))
            }
            Incoming::Pdv(pdv) => {
                let kind = if pdv.is_command { "command" } else { "data set" };
                let what = format!(
                    "{kind} fragment of context {} inside a data set of {context_id}",
                    pdv.context_id
                );
                Err(AssociationError::protocol(what))
            }
            _ => Err(AssociationError::protocol("release inside a data set")),
        }
    }

    /// Reads the data set that follows and forgets it.
    pub(crate) fn drain(&mut self, context_id: u8) -> Result<(), AssociationError> {
        while !self.read_fragment(context_id)?.1 {}
        Ok(())
    }

    /// Reads the data set that follows into memory; `None`, and it is forgotten, when it exceeds `limit_bytes`.
    pub(crate) fn read_bounded(
        &mut self,
        context_id: u8,
        limit_bytes: usize,
    ) -> Result<Option<Vec<u8>>, AssociationError> {
        let mut bytes = Some(Vec::new());
        loop {
            let (range, is_last) = self.read_fragment(context_id)?;
            bytes = bytes.filter(|bytes| bytes.len() + range.len() <= limit_bytes);
            if let Some(bytes) = &mut bytes {
                bytes.extend_from_slice(self.wire.bytes(range));
            }
            if is_last {
                return Ok(bytes);
            }
        }
    }

    /// Sends a command that no data set follows.
    pub(crate) fn send_command(
        &mut self,
        context_id: u8,
        command: &CommandSet,
    ) -> Result<(), AssociationError> {
        self.out.clear();
        self.put_command(context_id, command);
        self.wire.write(&self.out, "sending a command")
    }

    /// Sends a command and its data set, `length_bytes` from `source`, in PDUs as long as the peer takes.
    pub(crate) fn send_with_data(
        &mut self,
        context_id: u8,
        command: &CommandSet,
        mut source: impl Read,
        length_bytes: u64,
    ) -> Result<(), AssociationError> {
        self.out.clear();
        // Goes out with the first fragment, in one packet.
        self.put_command(context_id, command);
        let mut sent_bytes = 0;
        loop {
            let left = length_bytes - sent_bytes;
            let fragment = left.min((self.send_max - PDV_HEADER_BYTES) as u64);
            put_pdv_header(&mut self.out, context_id, false, fragment == left, fragment as usize);
            let got = (&mut source).take(fragment).read_to_end(&mut self.out);
            let source = match got {
                Ok(n) if n as u64 == fragment => None,
                Ok(_) => Some(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(e) => Some(e),
            };
            if let Some(source) = source {
                return Err(AssociationError::Source { sent_bytes, length_bytes, source });
            }
            self.wire.write(&self.out, "sending a data set")?;
            self.out.clear();
            sent_bytes += fragment;
            if fragment == left {
                return Ok(());
            }
        }
    }

    /// Deadlines inside a message.
    fn inside(&self, during: &'static str) -> Patience {
        let pdu_timeout = self.timeouts.pdu;
        Patience { start_by: Instant::now() + pdu_timeout, pdu_timeout, end_by: self.message_end, during }
    }

    fn put_command(&mut self, context_id: u8, command: &CommandSet) {
        let bytes = command.encode();
        let mut chunks = bytes.chunks(self.send_max - PDV_HEADER_BYTES).peekable();
        while let Some(chunk) = chunks.next() {
            put_pdv_header(&mut self.out, context_id, true, chunks.peek().is_none(), chunk.len());
            self.out.extend_from_slice(chunk);
        }
    }
}

/// The headers of a P-DATA-TF with one PDV of `length` bytes (PS3.8 section 9.3.5).
fn put_pdv_header(out: &mut Vec<u8>, context_id: u8, is_command: bool, is_last: bool, length: usize) {
    let length = length as u32; // at most SEND_PDU_BYTES_MAX
    out.extend_from_slice(&[pdu_type::P_DATA, 0]);
    out.extend_from_slice(&(length + PDV_HEADER_BYTES as u32).to_be_bytes());
    out.extend_from_slice(&(length + 2).to_be_bytes());
    out.extend_from_slice(&[context_id, u8::from(is_command) | u8::from(is_last) << 1]);
}
