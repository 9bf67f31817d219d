//! The outbox: every result to every destination, at least once, the same bytes at every attempt.
//!
//! Owns one thread a destination, so that a dead one never delays another, and the connections to them. What is to be
//! delivered lies in the database; a restart goes on where it stopped. What a failure means is in [`policy`]. It never
//! changes a result, and gives one up only as parked, where an operator sees it.
mod dicom;
mod implicit;
mod mllp;
pub mod policy;

use crate::config::Destination;
use crate::database::{Counts, Database, DatabaseError, Delivery, Uncommitted};
use crate::intake::now_ms;
use crate::limits::{BATCH_MAX, DELIVERY_PAUSE_MAX_MS};
use dimse::requestor::RequestorConfig;
use dimse::rustls::ClientConfig;
use dimse::{AeTitle, TlsClient, uids};
use log::{info, warn};
use policy::{Failure, Fate};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

/// How often each thread looks into the database: an operator's `triaged outbox` and a storage commitment that failed
/// write there without a word to it.
const LOOK_MS: i64 = 5_000;

/// The least pause, whatever the times in the database say.
const PAUSE_LEAST_MS: i64 = 20;

/// Results in a row for which a peer has no room, after which the others are not even tried.
const BUSY_MAX: u32 = 2;

/// As for DICOM: the receiver may have to write the message to a slow disk.
const HL7_TIMEOUTS: mllp::Timeouts =
    mllp::Timeouts { connect: Duration::from_secs(10), answer: Duration::from_secs(60) };

/// Who we are to our destinations.
#[derive(Clone)]
pub struct Sender {
    /// Our AE title.
    pub calling: AeTitle,
    /// Our side of TLS; there when a destination wants it.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Delivers to one destination until `wake` is closed. Anything received on `wake` makes it look at once.
pub fn deliver(
    database: &Database,
    destination: &Destination,
    sender: &Sender,
    wake: &Receiver<()>,
    delivered: &dyn Fn(String),
) -> anyhow::Result<()> {
    let line = Line::new(destination, sender)?;
    let mut courier = Courier {
        database,
        destination,
        line: &line,
        wake,
        delivered,
        clock: &now_ms,
        failures: 0,
        away_until_ms: 0,
    };
    courier.greet()?;
    while courier.round()? {
        let next = database.next_due_ms(destination.name())?;
        // Never long, so that a clock that jumps back puts nothing off.
        let pause_ms = next.map_or(LOOK_MS, |at| (at - now_ms()).clamp(PAUSE_LEAST_MS, LOOK_MS));
        if let Err(RecvTimeoutError::Disconnected) = wake.recv_timeout(Duration::from_millis(pause_ms as u64))
        {
            break;
        }
    }
    Ok(())
}

/// The protocol of a destination, ready to be spoken.
enum Line {
    Dicom { peer: Box<dicom::Peer>, commitment: bool },
    Hl7 { address: String, tls: Option<Arc<ClientConfig>> },
}

/// A connection to a destination.
enum Connection<'a> {
    Dicom(Box<dicom::Association>),
    /// A connection a message: interface engines expect no more.
    Hl7 {
        address: &'a str,
        tls: Option<&'a Arc<ClientConfig>>,
    },
}

impl Line {
    fn new(destination: &Destination, sender: &Sender) -> anyhow::Result<Self> {
        let tls = sender.tls.as_ref().filter(|_| destination.tls());
        let peer = |ae_title: &str| -> anyhow::Result<Box<dicom::Peer>> {
            let tls = tls.map(|config| TlsClient { config: Arc::clone(config), server_name: None });
            Ok(Box::new(dicom::Peer {
                address: destination.address().to_owned(),
                called: ae_title.parse()?,
                calling: sender.calling.clone(),
                config: RequestorConfig { tls, ..RequestorConfig::default() },
            }))
        };
        Ok(match destination {
            Destination::Dicom(d) => {
                Self::Dicom { peer: peer(&d.ae_title)?, commitment: d.storage_commitment }
            }
            Destination::Ups(d) => Self::Dicom { peer: peer(&d.ae_title)?, commitment: false },
            Destination::Hl7(d) => Self::Hl7 { address: d.address.clone(), tls: tls.cloned() },
        })
    }

    fn open(&self, due: &[Delivery]) -> Result<Connection<'_>, Failure> {
        match self {
            Self::Dicom { peer, .. } => {
                let classes = due.iter().map(|delivery| delivery.sop_class_uid.as_str());
                dicom::Association::open(peer, classes).map(|a| Connection::Dicom(Box::new(a)))
            }
            Self::Hl7 { address, tls } => Ok(Connection::Hl7 { address, tls: tls.as_ref() }),
        }
    }
}

impl Connection<'_> {
    fn send(&mut self, delivery: &Delivery, bytes: Vec<u8>) -> Result<(), Failure> {
        match self {
            Self::Dicom(association) => association.send(delivery, bytes),
            Self::Hl7 { address, tls } => {
                let id = &delivery.sop_instance_uid;
                Ok(mllp::exchange(address, *tls, &bytes, id, HL7_TIMEOUTS)?)
            }
        }
    }

    fn close(self, destination: &str) {
        match self {
            Self::Dicom(association) => association.close(destination),
            Self::Hl7 { .. } => {}
        }
    }
}

/// The thread of one destination.
struct Courier<'a> {
    database: &'a Database,
    destination: &'a Destination,
    line: &'a Line,
    wake: &'a Receiver<()>,
    delivered: &'a dyn Fn(String),
    /// The time, in milliseconds since 1970.
    clock: &'a dyn Fn() -> i64,
    /// Connections in a row that failed without an answer, or were answered with no room.
    failures: u32,
    /// When a peer that was away is tried again; in the past where none is.
    away_until_ms: i64,
}

impl Courier<'_> {
    fn name(&self) -> &str {
        self.destination.name()
    }

    /// Says what is left from before the start.
    fn greet(&self) -> Result<(), DatabaseError> {
        if !self.asks_for_commitment() {
            let settled = self.database.settle_stored(self.name(), (self.clock)())?;
            if settled > 0 {
                info!(
                    "{}: {settled} results count as delivered: no commitment is asked for any more",
                    self.name()
                );
            }
        }
        let counts = self.database.counts(self.name())?;
        if counts != Counts::default() {
            info!("{}: {}", self.name(), words(counts));
        }
        Ok(())
    }

    fn asks_for_commitment(&self) -> bool {
        matches!(self.line, Line::Dicom { commitment: true, .. })
    }

    /// Whether the appliance stops; what waits is sent after the next start.
    fn is_stopping(&self) -> bool {
        matches!(self.wake.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Sends all that is due, then asks for commitments; `false` when the appliance stops.
    fn round(&mut self) -> Result<bool, DatabaseError> {
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            let due = self.database.due(self.name(), (self.clock)(), BATCH_MAX)?;
            if due.is_empty() {
                break;
            }
            self.send(&due)?;
        }
        if self.asks_for_commitment() {
            self.ask_for_commitment()?;
        }
        Ok(true)
    }

    /// Sends deliveries over one connection, until it breaks; each answer is recorded at once.
    fn send(&mut self, due: &[Delivery]) -> Result<(), DatabaseError> {
        let mut connection = match self.line.open(due) {
            Ok(connection) => connection,
            Err(failure) => return self.put_off_all(&failure),
        };
        let mut busy = 0;
        for delivery in due {
            if self.is_stopping() {
                break;
            }
            let Some(bytes) = self.database.payload(delivery.id)? else { continue };
            let Err(failure) = connection.send(delivery, bytes) else {
                busy = 0;
                self.answered();
                self.accepted(delivery)?;
                continue;
            };
            if let Failure::Unreachable(_) = failure {
                return self.put_off_all(&failure);
            }
            self.failed(delivery, &failure)?;
            match failure {
                Failure::Refused { .. } => {
                    busy = 0;
                    self.answered();
                }
                Failure::Busy(_) => {
                    busy += 1;
                    if busy == BUSY_MAX {
                        self.put_off_all(&failure)?;
                        break;
                    }
                }
                Failure::Broken(_) | Failure::Unreachable(_) => return self.broken(&failure),
            }
        }
        connection.close(self.name());
        Ok(())
    }

    /// A connection broke: maybe by what was under way, and then the others get through on the next one. If that one
    /// breaks, too, it is the peer.
    fn broken(&mut self, failure: &Failure) -> Result<(), DatabaseError> {
        if self.failures == 0 {
            self.failures = 1;
            return Ok(());
        }
        self.put_off_all(failure)
    }

    /// The peer is there and judges results.
    fn answered(&mut self) {
        (self.failures, self.away_until_ms) = (0, 0);
    }

    /// The peer is away, and everything waits for it to the same time. A new result is tried at once all the same; that
    /// it fails says nothing new and does not lengthen the pause.
    fn put_off_all(&mut self, failure: &Failure) -> Result<(), DatabaseError> {
        let now_ms = (self.clock)();
        let away_ms = self.away_until_ms.saturating_sub(now_ms);
        // A clock that jumped back must not leave it away for longer than the longest pause.
        if !(1..=DELIVERY_PAUSE_MAX_MS * 3 / 2).contains(&away_ms) {
            self.away_until_ms = now_ms + policy::backoff_ms(self.failures, self.name());
            self.failures = self.failures.saturating_add(1);
        }
        self.database.unreachable(self.name(), self.away_until_ms, &failure.to_string(), now_ms)?;
        let counts = self.database.counts(self.name())?;
        let pause_s = (self.away_until_ms - now_ms) as f64 / 1e3;
        warn!("{}: {failure}; again in {pause_s:.0} s; {}", self.name(), words(counts));
        Ok(())
    }

    fn accepted(&self, delivery: &Delivery) -> Result<(), DatabaseError> {
        self.database.accepted(delivery.id, self.asks_for_commitment(), (self.clock)())?;
        let Delivery { kind, study_uid, sop_instance_uid, .. } = delivery;
        info!("{kind} {sop_instance_uid} of study {study_uid} accepted by {}", self.name());
        (self.delivered)(self.name().to_owned());
        Ok(())
    }

    fn failed(&self, delivery: &Delivery, failure: &Failure) -> Result<(), DatabaseError> {
        let Delivery { id, kind, study_uid, sop_instance_uid, .. } = delivery;
        let fate = policy::fate(failure, delivery.history(), sop_instance_uid);
        self.database.failed(*id, failure, fate, (self.clock)())?;
        let what = format!("{kind} {sop_instance_uid} of study {study_uid} to {}: {failure}", self.name());
        match fate {
            Fate::Again { pause_ms } => warn!("{what}; again in {:.0} s", pause_ms as f64 / 1e3),
            Fate::Parked => warn!(
                "{what}; parked as {id} of the outbox until `triaged outbox retry` or `drop`; {}",
                words(self.database.counts(self.name())?)
            ),
        }
        Ok(())
    }

    /// Asks the destination to commit to keep what it has accepted.
    fn ask_for_commitment(&mut self) -> Result<(), DatabaseError> {
        let Line::Dicom { peer, .. } = self.line else { return Ok(()) };
        let rows = self.database.uncommitted(self.name(), (self.clock)(), BATCH_MAX)?;
        let (unanswered, rows): (Vec<Uncommitted>, Vec<_>) = rows.into_iter().partition(|row| row.unanswered);
        for row in unanswered {
            let reason =
                "no answer to a request for storage commitment; does it know our address?".to_owned();
            self.failed(&row.delivery, &Failure::Refused { reason, permanent: false })?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut association =
            match dicom::Association::open(peer, std::iter::once(uids::STORAGE_COMMITMENT_PUSH_MODEL)) {
                Ok(association) => association,
                Err(failure) => return self.put_off_all(&failure),
            };
        let now_ms = (self.clock)();
        let transaction = transaction_uid(peer, &rows, now_ms);
        let ids: Vec<i64> = rows.iter().map(|row| row.delivery.id).collect();
        self.database.asking(&ids, &transaction, now_ms)?;
        let instances: Vec<(&str, &str)> = rows
            .iter()
            .map(|row| (row.delivery.sop_class_uid.as_str(), row.delivery.sop_instance_uid.as_str()))
            .collect();
        match association.ask_for_commitment(&transaction, &instances) {
            Ok(()) => {
                info!("{}: asked for storage commitment of {} results", self.name(), ids.len());
                association.close(self.name());
            }
            Err(failure) => {
                let failure = failure.about("storage commitment");
                for row in &rows {
                    self.failed(&row.delivery, &failure)?;
                }
            }
        }
        Ok(())
    }
}

/// A UID that no other request has: of these results, at this time.
fn transaction_uid(peer: &dicom::Peer, rows: &[Uncommitted], now_ms: i64) -> String {
    let now = now_ms.to_string();
    let mut parts = vec!["transaction", peer.calling.as_str(), peer.called.as_str(), &peer.address, &now];
    parts.extend(rows.iter().map(|row| row.delivery.sop_instance_uid.as_str()));
    results::uid::derive(&parts)
}

fn words(counts: Counts) -> String {
    let Counts { waiting, stored, parked } = counts;
    format!("{waiting} waiting, {stored} stored and not yet committed, {parked} parked")
}

#[cfg(test)]
mod tests;
