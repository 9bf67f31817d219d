//! What ends an association, and whether trying again may help. Owns the words; never logs.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why an association did not come about or ended early.
#[derive(Debug, thiserror::Error)]
pub enum AssociationError {
    /// The name did not resolve, or no address of it took the connection in time.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// What was asked for.
        address: String,
        /// The last address's error.
        source: io::Error,
    },
    /// The connection failed.
    #[error("connection failed while {during}: {source}")]
    Io {
        /// What we were doing.
        during: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// TLS failed: a certificate that one side does not trust, no cipher in common, or bytes that are no TLS.
    #[error("TLS failed while {during}: {source}")]
    Tls {
        /// What we were doing.
        during: &'static str,
        /// What rustls found wrong, or the alert that the peer sent.
        source: rustls::Error,
    },
    /// The peer's name is neither a DNS name nor an IP address: its certificate can't be checked. Nothing was sent.
    #[error("{name:?} is no name that a certificate could be for")]
    ServerName {
        /// The name, configured or taken from the address.
        name: String,
    },
    /// The peer kept silent, or dripped, beyond a deadline.
    #[error("no end after {waited_ms} ms while {during}")]
    Timeout {
        /// What we were doing.
        during: &'static str,
        /// How long we waited in all.
        waited_ms: u128,
    },
    /// The peer closed the connection without a word.
    #[error("peer closed the connection while {during}")]
    Closed {
        /// What we were doing.
        during: &'static str,
    },
    /// The peer sent A-ABORT.
    #[error("peer aborted the association (source {source_code}, reason {reason_code})")]
    Aborted {
        /// PS3.8 table 9-26: 0 service-user, 2 service-provider.
        source_code: u8,
        /// PS3.8 table 9-26, significant with source 2.
        reason_code: u8,
    },
    /// The peer broke the protocol; it was sent an A-ABORT.
    #[error("protocol error: {what}")]
    Protocol {
        /// What was wrong, with the value.
        what: String,
    },
    /// A PDU longer than allowed was announced; nothing was allocated for it and the peer was sent an A-ABORT.
    #[error("PDU of {length_bytes} bytes exceeds {limit_bytes} bytes")]
    PduTooLong {
        /// As announced by the peer.
        length_bytes: u64,
        /// What we take.
        limit_bytes: u64,
    },
    /// We refused the peer.
    #[error("refused the association of {calling:?} to {called:?}: {rejection}")]
    Refused {
        /// Calling AE title as received.
        calling: String,
        /// Called AE title as received.
        called: String,
        /// What the peer was told.
        rejection: Rejection,
    },
    /// The peer refused us.
    #[error("peer rejected the association: {0}")]
    Rejected(Rejection),
    /// No accepted presentation context fits.
    #[error("peer accepted no presentation context for {abstract_syntax} in {transfer_syntax}")]
    NoContext {
        /// SOP class.
        abstract_syntax: String,
        /// Transfer syntax of the data set at hand.
        transfer_syntax: String,
    },
    /// The data set to send could not be read to its announced end; the association was aborted.
    #[error("data set to send ended after {sent_bytes} of {length_bytes} bytes: {source}")]
    Source {
        /// How much was read.
        sent_bytes: u64,
        /// How much was announced.
        length_bytes: u64,
        /// The reader's error.
        source: io::Error,
    },
}

impl AssociationError {
    /// Whether the same attempt may succeed later without anybody changing a configuration.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Io { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Aborted { .. } => true,
            Self::Rejected(rejection) | Self::Refused { rejection, .. } => rejection.transient(),
            // A certificate does not become trusted by waiting.
            Self::Tls { .. }
            | Self::ServerName { .. }
            | Self::Protocol { .. }
            | Self::PduTooLong { .. }
            | Self::NoContext { .. }
            | Self::Source { .. } => false,
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    pub(crate) fn timeout(during: &'static str, waited: Duration) -> Self {
        Self::Timeout { during, waited_ms: waited.as_millis() }
    }
}

/// Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// 1 permanent, 2 transient.
    pub(crate) result: u8,
    /// 1 service-user, 2 service-provider (ACSE), 3 service-provider (presentation).
    pub(crate) source: u8,
    /// Its meaning depends on the source.
    pub(crate) reason: u8,
}

impl Rejection {
    /// Permanent, service-user: no reason given.
    pub const NO_REASON: Self = Self::new(1, 1, 1);
    /// Permanent, service-user: the application context is not DICOM's.
    pub const APPLICATION_CONTEXT_NOT_SUPPORTED: Self = Self::new(1, 1, 2);
    /// Permanent, service-user: we do not know who calls.
    pub const CALLING_AE_NOT_RECOGNIZED: Self = Self::new(1, 1, 3);
    /// Permanent, service-user: we are not who is called.
    pub const CALLED_AE_NOT_RECOGNIZED: Self = Self::new(1, 1, 7);
    /// Permanent, service-provider: bit 0 of the protocol version is not set.
    pub const PROTOCOL_VERSION_NOT_SUPPORTED: Self = Self::new(1, 2, 2);
    /// Transient, service-provider: busy, try again.
    pub const TEMPORARY_CONGESTION: Self = Self::new(2, 3, 1);
    /// Transient, service-provider: as many associations as we allow.
    pub const LOCAL_LIMIT_EXCEEDED: Self = Self::new(2, 3, 2);

    pub(crate) const fn new(result: u8, source: u8, reason: u8) -> Self {
        Self { result, source, reason }
    }

    /// Whether the peer asks to try again later.
    #[must_use]
    pub fn transient(self) -> bool {
        self.result == 2
    }

    fn words(self) -> &'static str {
        match (self.source, self.reason) {
            (1 | 2, 1) => "no reason given",
            (1, 2) => "application context name not supported",
            (1, 3) => "calling AE title not recognized",
            (1, 7) => "called AE title not recognized",
            (2, 2) => "protocol version not supported",
            (3, 1) => "temporary congestion",
            (3, 2) => "local limit exceeded",
            _ => "reserved reason",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.transient() { "transient" } else { "permanent" };
        let source = match self.source {
            1 => "service-user",
            2 => "service-provider (ACSE)",
            3 => "service-provider (presentation)",
            _ => "unknown source",
        };
        write!(f, "{} ({result}, {source}, reason {})", self.words(), self.reason)
    }
}
