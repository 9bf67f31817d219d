//! The rows of the outbox: what is due for a destination, and what became of it.
//!
//! ```text
//! waiting ──accepted──▶ delivered
//!    │ ▲ └──accepted, commitment awaited──▶ stored ──committed──▶ delivered
//!    │ └──────────── not committed ───────────┘ │
//!    ├──refused, or broke the connection, too often──▶ parked
//!    └──an operator──▶ dropped        parked, dropped ──an operator──▶ waiting
//! ```
use super::{Database, DatabaseError, Kind, Packed, json};
use crate::limits;
use crate::outbox::policy::{Failure, Fate, History};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// No result of an earlier revision of the study waits for the same destination: revision 2 must not arrive before
/// revision 1. What is parked holds up nothing.
const NO_EARLIER_REVISION: &str = "NOT EXISTS (
    SELECT 1 FROM results earlier JOIN outbox e ON e.result_id = earlier.id
    WHERE earlier.study_id = r.study_id AND earlier.revision < r.revision AND e.destination = o.destination
        AND e.state = 'waiting')";

/// A time further ahead was written while the clock was wrong: no pause is as long.
pub(super) const FAR_MS: i64 = limits::DELIVERY_PAUSE_MAX_MS * 3 / 2;

/// A delivery that is due, without its data set: see [`Database::payload`].
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its row in the outbox.
    pub id: i64,
    /// The study it belongs to.
    pub study_uid: String,
    /// What it is.
    pub kind: Kind,
    /// SOP Class UID; empty for HL7.
    pub sop_class_uid: String,
    /// SOP Instance UID; for HL7 the message control id (MSH-10).
    pub sop_instance_uid: String,
    /// Transfer Syntax UID of the data set; empty for HL7.
    pub transfer_syntax_uid: String,
    /// Attempts so far.
    pub attempts: u32,
    /// How often the destination said no to it.
    pub refusals: u32,
    /// How often the connection broke on it while others were accepted.
    pub broken: u32,
}

impl Delivery {
    /// What the policy judges by.
    pub fn history(&self) -> History {
        History { attempts: self.attempts, refusals: self.refusals, broken: self.broken }
    }

    pub(super) const COLUMNS: &str = "o.id, s.study_uid, o.kind, r.sop_class_uid, r.sop_instance_uid, \
        r.transfer_syntax_uid, o.attempts, o.refusals, o.broken";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            study_uid: row.get(1)?,
            kind: row.get(2)?,
            sop_class_uid: row.get(3)?,
            sop_instance_uid: row.get(4)?,
            transfer_syntax_uid: row.get(5)?,
            attempts: row.get(6)?,
            refusals: row.get(7)?,
            broken: row.get(8)?,
        })
    }
}

/// How many results of a destination are in a state that is not an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be sent.
    pub waiting: u32,
    /// Accepted, their commitment awaited.
    pub stored: u32,
    /// Given up, until an operator decides.
    pub parked: u32,
}

impl Database {
    /// The deliveries for a destination that are due, in the order in which they are sent: what broke a connection last,
    /// because nothing may get through after it; what decides before what illustrates; first come, first served.
    pub fn due(&self, destination: &str, now_ms: i64, max: usize) -> Result<Vec<Delivery>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {} FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
             WHERE o.destination = ?1 AND o.state = 'waiting'
                 AND (o.next_attempt_ms <= ?2 OR o.next_attempt_ms > ?2 + ?3) AND {NO_EARLIER_REVISION}
             ORDER BY o.suspect OR o.broken, o.rank, o.result_id LIMIT ?4",
            Delivery::COLUMNS
        ))?;
        let rows = statement.query_map(params![destination, now_ms, FAR_MS, max as i64], Delivery::read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The bytes of a delivery that still waits; `None` when an operator has dropped it since.
    pub fn payload(&self, id: i64) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self
            .lock()
            .query_row(
                "SELECT r.data_set, r.unpacked_bytes FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE o.id = ?1 AND o.state = 'waiting'",
                [id],
                |row| Packed { bytes: row.get(0)?, unpacked_bytes: row.get(1)? }.unpack(),
            )
            .optional()?)
    }

    /// Marks a delivery as accepted by its destination; with `commit`, its commitment is still awaited.
    ///
    /// The destination is alive: what else waits for it is due now, but for what it refused. What broke a connection did
    /// so while others get through; it soon shows whether that was chance.
    pub fn accepted(&self, id: i64, commit: bool, now_ms: i64) -> Result<(), DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let destination: String = transaction.query_row(
            "UPDATE outbox SET state = iif(?2, 'stored', 'delivered'), attempts = attempts + 1, accepted_ms = ?3,
                 delivered_ms = iif(?2, NULL, ?3), last_error = NULL, suspect = 0, next_attempt_ms = ?3,
                 transaction_uid = NULL
             WHERE id = ?1 RETURNING destination",
            params![id, commit, now_ms],
            |row| row.get(0),
        )?;
        transaction.execute(
            "UPDATE outbox SET next_attempt_ms = ?2
             WHERE destination = ?1 AND state = 'waiting' AND next_attempt_ms > ?2 AND refusals = 0",
            params![destination, now_ms],
        )?;
        transaction.execute(
            "UPDATE outbox SET broken = broken + 1, suspect = 0
             WHERE destination = ?1 AND state = 'waiting' AND suspect",
            [destination],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Notes that a delivery, or asking for its commitment, failed, and what the policy made of it.
    pub fn failed(&self, id: i64, failure: &Failure, fate: Fate, now_ms: i64) -> Result<(), DatabaseError> {
        fail(&self.lock(), id, failure, fate, now_ms)
    }

    /// Puts everything of a destination that can't be reached off to the same time: one attempt, not one a result.
    pub fn unreachable(
        &self,
        destination: &str,
        next_attempt_ms: i64,
        error: &str,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.lock().execute(
            "UPDATE outbox SET attempts = attempts + (next_attempt_ms <= ?4), last_error = ?3,
                 first_failure_ms = COALESCE(first_failure_ms, ?4), next_attempt_ms = ?2
             WHERE destination = ?1 AND state IN ('waiting', 'stored') AND transaction_uid IS NULL
                 AND (next_attempt_ms < ?2 OR next_attempt_ms > ?4 + ?5)",
            params![destination, next_attempt_ms, error, now_ms, FAR_MS],
        )?;
        Ok(())
    }

    /// The time of a destination's next delivery, or question for a commitment, if there is any.
    pub fn next_due_ms(&self, destination: &str) -> Result<Option<i64>, DatabaseError> {
        Ok(self.lock().query_row(
            &format!(
                "SELECT MIN(o.next_attempt_ms) FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE o.destination = ?1
                     AND (o.state = 'stored' OR o.state = 'waiting' AND {NO_EARLIER_REVISION})"
            ),
            [destination],
            |row| row.get(0),
        )?)
    }

    /// How many results of a destination wait, are stored there, or are parked.
    pub fn counts(&self, destination: &str) -> Result<Counts, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT COALESCE(SUM(state = 'waiting'), 0), COALESCE(SUM(state = 'stored'), 0),
                 COALESCE(SUM(state = 'parked'), 0)
             FROM outbox WHERE destination = ?1 AND state IN ('waiting', 'stored', 'parked')",
            [destination],
            |row| Ok(Counts { waiting: row.get(0)?, stored: row.get(1)?, parked: row.get(2)? }),
        )?)
    }

    /// Destinations other than these whose results have no end yet, and how many.
    pub fn waiting_for_others(&self, destinations: &[String]) -> Result<Vec<(String, u32)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT destination, COUNT(*) FROM outbox
             WHERE state IN ('waiting', 'stored', 'parked')
                 AND destination NOT IN (SELECT value FROM json_each(?1))
             GROUP BY destination ORDER BY destination",
        )?;
        let rows = statement.query_map([json(destinations)?], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether an instance is a result of ours that somebody sends back.
    pub fn is_result(&self, sop_instance_uid: &str) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM results WHERE sop_instance_uid = ?1)",
            [sop_instance_uid],
            |row| row.get(0),
        )?)
    }

    /// Empties results made before `made_before_ms` that no destination will get any more; how many. What is parked
    /// keeps its bytes until an operator has decided. The rows stay, so that a result is known when it comes back.
    pub fn empty_results(&self, made_before_ms: i64) -> Result<usize, DatabaseError> {
        Ok(self.lock().execute(
            "UPDATE results SET data_set = zeroblob(0) WHERE length(data_set) > 0
                 AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.result_id = results.id
                     AND o.state IN ('waiting', 'stored', 'parked'))
                 AND EXISTS (SELECT 1 FROM outcomes u WHERE u.study_id = results.study_id
                     AND u.revision = results.revision AND u.at_ms < ?1)",
            [made_before_ms],
        )?)
    }
}

/// [`Database::failed`], within a transaction or without.
pub(super) fn fail(
    connection: &Connection,
    id: i64,
    failure: &Failure,
    fate: Fate,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let (parked, next_ms) = match fate {
        Fate::Again { pause_ms } => (false, now_ms + pause_ms),
        Fate::Parked => (true, now_ms),
    };
    connection.execute(
        "UPDATE outbox SET attempts = attempts + 1, refusals = refusals + ?2, suspect = suspect OR ?3,
             first_failure_ms = COALESCE(first_failure_ms, ?4), last_error = ?5, next_attempt_ms = ?6,
             state = iif(?7, 'parked', state), parked_ms = iif(?7, ?4, NULL), transaction_uid = NULL
         WHERE id = ?1 AND state IN ('waiting', 'stored')",
        params![
            id,
            matches!(failure, Failure::Refused { .. }),
            matches!(failure, Failure::Broken(_)),
            now_ms,
            failure.to_string(),
            next_ms,
            parked
        ],
    )?;
    Ok(())
}
