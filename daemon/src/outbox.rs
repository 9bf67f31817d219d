//! The outbox: every result to every destination, at least once, the same bytes at every attempt.
//!
//! Owns one thread a destination, so that a dead one never delays another, and the connections to them. What is to be
//! delivered lies in the database; a restart goes on where it stopped. What a failure means is in [`policy`]. It never
//! changes a result, and gives one up only as parked, where an operator sees it, or when a later revision of it has
//! arrived. What a peer says in its own words may name patients: it goes into the database, never into the log.
mod dicom;
mod implicit;
mod mllp;
pub mod policy;

use crate::config::Destination;
use crate::database::{Counts, Database, DatabaseError, Delivery, Kind, Payload, Uncommitted};
use crate::intake::now_ms;
use crate::limits::{BATCH_MAX, DELIVERY_PAUSE_MAX_MS};
use anyhow::bail;
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

/// Results of a kind in a row for which a peer has no room, after which the others of it are not even tried.
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

/// Delivers to one destination until `wake` is closed. Anything received on `wake` makes it look at once. `turn` is called at each round and
/// before each result.
pub fn deliver(
    database: &Database,
    destination: &Destination,
    sender: &Sender,
    wake: &Receiver<()>,
    delivered: &dyn Fn(String),
    turn: &dyn Fn(),
) -> anyhow::Result<()> {
    let line = Line::new(destination, sender)?;
    let mut courier = Courier {
        database,
        destination,
        line: &line,
        wake,
        delivered,
        turn,
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
        if destination.tls() && tls.is_none() {
            bail!("{}: TLS is wanted, and there is no [tls] identity", destination.name());
        }
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
                match mllp::exchange(address, *tls, &bytes, id, HL7_TIMEOUTS) {
                    // Table 0357, 205: duplicate key. It had arrived, and the answer was lost.
                    Err(mllp::MllpError::Refused { condition: Some(205), .. })
                        if delivery.suspect || delivery.broken > 0 =>
                    {
                        Ok(())
                    }
                    result => Ok(result?),
                }
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

/// A kind of results for which a peer has no room now.
struct Full {
    kind: Kind,
    failure: Failure,
    /// When the connection was opened on which it said so.
    opened_ms: i64,
}

/// The thread of one destination.
struct Courier<'a> {
    database: &'a Database,
    destination: &'a Destination,
    line: &'a Line,
    wake: &'a Receiver<()>,
    delivered: &'a dyn Fn(String),
    /// Hears that the thread turns.
    turn: &'a dyn Fn(),
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
        let mut full: Vec<Full> = Vec::new();
        loop {
            (self.turn)();
            if self.is_stopping() {
                return Ok(false);
            }
            let except: Vec<Kind> = full.iter().map(|full| full.kind).collect();
            let due = self.database.due(self.name(), (self.clock)(), BATCH_MAX, &except)?;
            if due.is_empty() {
                break;
            }
            self.send(&due, &mut full)?;
        }
        for Full { kind, failure, opened_ms } in full {
            self.put_off(&failure, Some(kind), opened_ms)?;
        }
        if self.asks_for_commitment() {
            self.ask_for_commitment()?;
        }
        Ok(true)
    }

    /// Sends deliveries over one connection, until it breaks; each answer is recorded at once. A kind for which there is
    /// no room joins `full`, and the others go on.
    fn send(&mut self, due: &[Delivery], full: &mut Vec<Full>) -> Result<(), DatabaseError> {
        let opened_ms = (self.clock)();
        let mut connection = match self.line.open(due) {
            Ok(connection) => connection,
            Err(failure) => return self.put_off(&failure, None, opened_ms),
        };
        let mut busy: Option<(Kind, u32)> = None;
        for delivery in due {
            (self.turn)();
            if self.is_stopping() {
                break;
            }
            let kind = delivery.kind;
            if full.iter().any(|full| full.kind == kind) {
                continue;
            }
            let bytes = match self.database.payload(delivery.id)? {
                Payload::Bytes(bytes) => bytes,
                Payload::Gone => continue,
                Payload::Damaged(why) => {
                    self.failed(delivery, &Failure::Damaged(why.into()))?;
                    continue;
                }
            };
            let Err(failure) = connection.send(delivery, bytes) else {
                busy = None;
                self.answered();
                self.accepted(delivery)?;
                continue;
            };
            if let Failure::Unreachable(_) = failure {
                return self.put_off(&failure, None, opened_ms);
            }
            self.failed(delivery, &failure)?;
            match failure {
                Failure::Refused { .. } | Failure::Damaged(_) => {
                    busy = None;
                    self.answered();
                }
                Failure::Busy(_) => {
                    let in_a_row = busy.filter(|(last, _)| *last == kind).map_or(1, |(_, n)| n + 1);
                    busy = Some((kind, in_a_row));
                    if in_a_row == BUSY_MAX {
                        full.push(Full { kind, failure, opened_ms });
                    }
                }
                Failure::Broken(_) | Failure::Unreachable(_) => return self.broken(&failure, opened_ms),
            }
        }
        connection.close(self.name());
        Ok(())
    }

    /// A connection broke: maybe by what was under way, and then the others get through on the next one. If that one
    /// breaks, too, it is the peer.
    fn broken(&mut self, failure: &Failure, opened_ms: i64) -> Result<(), DatabaseError> {
        if self.failures == 0 {
            self.failures = 1;
            return Ok(());
        }
        self.put_off(failure, None, opened_ms)
    }

    /// The peer is there and judges results.
    fn answered(&mut self) {
        (self.failures, self.away_until_ms) = (0, 0);
    }

    /// The peer is away, or has no room for a kind, and all of it waits for it to the same time. A new result is tried at
    /// once all the same, also one that came while the attempt was hanging; that it fails says nothing new and does not
    /// lengthen the pause.
    fn put_off(
        &mut self,
        failure: &Failure,
        kind: Option<Kind>,
        opened_ms: i64,
    ) -> Result<(), DatabaseError> {
        let now_ms = (self.clock)();
        let away_ms = self.away_until_ms.saturating_sub(now_ms);
        // A clock that jumped back must not leave it away for longer than the longest pause.
        if !(1..=DELIVERY_PAUSE_MAX_MS * 3 / 2).contains(&away_ms) {
            self.away_until_ms = now_ms + policy::backoff_ms(self.failures, self.name());
            self.failures = self.failures.saturating_add(1);
        }
        let until_ms = self.away_until_ms;
        self.database.put_off(self.name(), kind, until_ms, &failure.to_string(), opened_ms, now_ms)?;
        let what = kind.map_or(String::new(), |kind| format!("no {kind} now: "));
        let counts = self.database.counts(self.name())?;
        let pause_s = (until_ms - now_ms) as f64 / 1e3;
        warn!("{}: {what}{}; again in {pause_s:.0} s; {}", self.name(), failure.for_log(), words(counts));
        Ok(())
    }

    fn accepted(&self, delivery: &Delivery) -> Result<(), DatabaseError> {
        let superseded = self.database.accepted(delivery.id, self.asks_for_commitment(), (self.clock)())?;
        let Delivery { kind, study_uid, sop_instance_uid, .. } = delivery;
        info!("{kind} {sop_instance_uid} of study {study_uid} accepted by {}", self.name());
        if superseded > 0 {
            warn!(
                "{}: {superseded} earlier results ({kind}) of study {study_uid}, which had failed, are dropped: sent now \
                 they would pass for the latest",
                self.name()
            );
        }
        (self.delivered)(self.name().to_owned());
        Ok(())
    }

    fn failed(&self, delivery: &Delivery, failure: &Failure) -> Result<(), DatabaseError> {
        let Delivery { id, kind, study_uid, sop_instance_uid, .. } = delivery;
        let now_ms = (self.clock)();
        let fate = policy::fate(failure, delivery.history(now_ms), sop_instance_uid);
        self.database.failed(*id, failure, fate, now_ms)?;
        let failure = failure.for_log();
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
            let reason = "no answer to a request for storage commitment; does it know our address?".into();
            self.failed(&row.delivery, &Failure::Refused { reason, permanent: false })?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let opened_ms = (self.clock)();
        let mut association =
            match dicom::Association::open(peer, std::iter::once(uids::STORAGE_COMMITMENT_PUSH_MODEL)) {
                Ok(association) => association,
                Err(failure) => return self.put_off(&failure, None, opened_ms),
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
