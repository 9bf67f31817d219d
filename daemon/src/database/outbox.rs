//! The rows of the outbox: what is due for a destination, and what became of it.
//!
//! ```text
//! waiting ──accepted──▶ delivered
//!    │ ▲ └──accepted, commitment awaited──▶ stored ──committed──▶ delivered
//!    │ └──────────── not committed ───────────┘ │
//!    ├──refused, or broke the connection, too often──▶ parked
//!    ├──a later revision was accepted, or space ran short──▶ dropped
//!    └──an operator──▶ dropped        parked, dropped ──an operator──▶ waiting
//! ```
use super::{Database, DatabaseError, Kind, Packed, is_damaged, json};
use crate::limits;
use crate::outbox::policy::{Failure, Fate, History};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, Transaction, params};

/// SQLite does not see that what waits is open: the condition of the index must be there, word for word.
macro_rules! open {
    () => {
        "o.state IN ('waiting', 'stored')"
    };
}

/// No result of the same kind of an earlier revision of the study waits for the same destination: revision 2 must not
/// arrive before revision 1. What has failed by itself, or is parked, holds up nothing.
macro_rules! no_earlier_revision {
    () => {
        "NOT EXISTS (
    SELECT 1 FROM results earlier JOIN outbox e ON e.result_id = earlier.id
    WHERE earlier.study_id = r.study_id AND earlier.revision < r.revision AND e.destination = o.destination
        AND e.state = 'waiting' AND e.kind = o.kind AND e.failures = 0)"
    };
}

/// A result of the same kind of a later revision of the study was accepted by the same destination: this one, of the
/// row `o`, is out of date there.
pub(super) const SUPERSEDED: &str = "EXISTS (
    SELECT 1 FROM results mine JOIN results later ON later.study_id = mine.study_id AND later.revision > mine.revision
        JOIN outbox l ON l.result_id = later.id
    WHERE mine.id = o.result_id AND l.destination = o.destination AND l.kind = o.kind
        AND l.state IN ('stored', 'delivered'))";

const DUE: &str = concat!(
    "SELECT o.id, s.study_uid, o.kind, r.sop_class_uid, r.sop_instance_uid, r.transfer_syntax_uid, o.failures,
         o.refusals, o.broken, o.failing_since_ms, o.suspect
     FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
     WHERE o.destination = ?1 AND o.state = 'waiting' AND ",
    open!(),
    " AND (o.next_attempt_ms <= ?2 OR o.next_attempt_ms > ?2 + ?3)
      AND o.kind NOT IN (SELECT value FROM json_each(?5)) AND ",
    no_earlier_revision!(),
    " ORDER BY o.suspect OR o.broken, o.rank, o.result_id LIMIT ?4"
);

const NEXT_WAITING: &str = concat!(
    "SELECT o.next_attempt_ms FROM outbox o JOIN results r ON r.id = o.result_id
     WHERE o.destination = ?1 AND o.state = 'waiting' AND ",
    open!(),
    " AND ",
    no_earlier_revision!(),
    " ORDER BY o.next_attempt_ms LIMIT 1"
);

const NEXT_STORED: &str = concat!(
    "SELECT o.next_attempt_ms FROM outbox o WHERE o.destination = ?1 AND o.state = 'stored' AND ",
    open!(),
    " ORDER BY o.next_attempt_ms LIMIT 1"
);

const COUNTS: &str = concat!(
    "SELECT (SELECT COUNT(*) FROM outbox o WHERE o.destination = ?1 AND o.state = 'waiting' AND ",
    open!(),
    "), (SELECT COUNT(*) FROM outbox o WHERE o.destination = ?1 AND o.state = 'stored' AND ",
    open!(),
    "), (SELECT COUNT(*) FROM outbox o WHERE o.destination = ?1 AND o.state = 'parked')"
);

/// The destination is alive: what else waits for it is due now, but for what it refused.
const ALIVE: &str = concat!(
    "UPDATE outbox AS o SET next_attempt_ms = ?2
     WHERE o.destination = ?1 AND o.state = 'waiting' AND ",
    open!(),
    " AND o.next_attempt_ms > ?2 AND o.refusals = 0"
);

/// What failed by itself did so while others get through; it soon shows whether that was chance.
const OTHERS_GET_THROUGH: &str = "UPDATE outbox AS o SET broken = broken + 1, suspect = 0
     WHERE o.destination = ?1 AND o.suspect AND o.state = 'waiting'";

const PUT_OFF: &str = concat!(
    "UPDATE outbox AS o SET attempts = attempts + (next_attempt_ms <= ?4), last_error = ?3,
         first_failure_ms = COALESCE(first_failure_ms, ?4), next_attempt_ms = ?2
     WHERE o.destination = ?1 AND ",
    open!(),
    " AND o.transaction_uid IS NULL AND (o.next_attempt_ms < ?2 OR o.next_attempt_ms > ?4 + ?5)
      AND (o.queued_ms <= ?6 OR o.queued_ms > ?4) AND (?7 IS NULL OR o.kind = ?7)"
);

pub(super) const UNCOMMITTED: &str = concat!(
    "SELECT o.id, s.study_uid, o.kind, r.sop_class_uid, r.sop_instance_uid, r.transfer_syntax_uid, o.failures,
         o.refusals, o.broken, o.failing_since_ms, o.suspect, o.transaction_uid IS NOT NULL
     FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
     WHERE o.destination = ?1 AND o.state = 'stored' AND ",
    open!(),
    " AND (o.next_attempt_ms <= ?2 OR o.next_attempt_ms > ?2 + ?3) ORDER BY o.id LIMIT ?4"
);

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
    /// Attempts that failed and said something about this very result.
    pub failures: u32,
    /// How often the destination said no to it.
    pub refusals: u32,
    /// How often the connection broke on it, or there was no room for it, while others were accepted.
    pub broken: u32,
    /// When the first of the failures was.
    pub failing_since_ms: Option<i64>,
    /// Whether the last attempt broke off, or found no room, and nothing was accepted since.
    pub suspect: bool,
}

impl Delivery {
    /// What the policy judges by.
    pub fn history(&self, now_ms: i64) -> History {
        let failing_ms = self.failing_since_ms.map_or(0, |since| now_ms - since);
        History { failures: self.failures, refusals: self.refusals, broken: self.broken, failing_ms }
    }

    /// From the columns of [`DUE`].
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            study_uid: row.get(1)?,
            kind: row.get(2)?,
            sop_class_uid: row.get(3)?,
            sop_instance_uid: row.get(4)?,
            transfer_syntax_uid: row.get(5)?,
            failures: row.get(6)?,
            refusals: row.get(7)?,
            broken: row.get(8)?,
            failing_since_ms: row.get(9)?,
            suspect: row.get(10)?,
        })
    }
}

/// The bytes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Here they are.
    Bytes(Vec<u8>),
    /// The delivery does not wait any more: an operator dropped it, or a later revision was accepted.
    Gone,
    /// They can't be read, and why.
    Damaged(String),
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

/// What is kept for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub destination: String,
    /// Results that it is still to get, or an operator to judge.
    pub results: u32,
    /// Their size as they are kept.
    pub bytes: i64,
    /// When the oldest was queued, in milliseconds since 1970.
    pub since_ms: i64,
}

impl Database {
    /// The deliveries for a destination that are due, but for these kinds, in the order in which they are sent: what failed
    /// by itself last, because nothing may get through after it; what decides before what illustrates; first come,
    /// first served. A row that can't be read is parked.
    pub fn due(
        &self,
        destination: &str,
        now_ms: i64,
        max: usize,
        except: &[Kind],
    ) -> Result<Vec<Delivery>, DatabaseError> {
        let all = params![destination, now_ms, FAR_MS, max as i64, json(except)?];
        readable(&self.lock(), DUE, all, now_ms, Delivery::read)
    }

    /// The bytes of a delivery that still waits.
    pub fn payload(&self, id: i64) -> Result<Payload, DatabaseError> {
        let bytes = self.lock().query_row(
            "SELECT r.data_set, r.unpacked_bytes FROM outbox o JOIN results r ON r.id = o.result_id
             WHERE o.id = ?1 AND o.state = 'waiting'",
            [id],
            |row| Packed { bytes: row.get(0)?, unpacked_bytes: row.get(1)? }.unpack(),
        );
        match bytes.optional() {
            Ok(Some(bytes)) => Ok(Payload::Bytes(bytes)),
            Ok(None) => Ok(Payload::Gone),
            // Where more than this one's pages is broken, the next statement says so.
            Err(error)
                if is_damaged(&error) || error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) =>
            {
                Ok(Payload::Damaged(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Marks a delivery as accepted by its destination; with `commit`, its commitment is still awaited. The destination
    /// is alive: see [`ALIVE`] and [`OTHERS_GET_THROUGH`]. Returns how many results of earlier revisions, which had
    /// failed by themselves, are dropped: sent now they would pass for the latest.
    pub fn accepted(&self, id: i64, commit: bool, now_ms: i64) -> Result<usize, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let (destination, result): (String, i64) = transaction.query_row(
            "UPDATE outbox SET state = iif(?2, 'stored', 'delivered'), attempts = attempts + 1, accepted_ms = ?3,
                 delivered_ms = iif(?2, NULL, ?3), last_error = NULL, suspect = 0, next_attempt_ms = ?3,
                 transaction_uid = NULL
             WHERE id = ?1 RETURNING destination, result_id",
            params![id, commit, now_ms],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let superseded = supersede(&transaction, &destination, result)?;
        transaction.execute(ALIVE, params![destination, now_ms])?;
        transaction.execute(OTHERS_GET_THROUGH, [destination])?;
        transaction.commit()?;
        Ok(superseded)
    }

    /// Notes that a delivery, or asking for its commitment, failed, and what the policy made of it.
    pub fn failed(&self, id: i64, failure: &Failure, fate: Fate, now_ms: i64) -> Result<(), DatabaseError> {
        fail(&self.lock(), id, failure, fate, now_ms)
    }

    /// Puts everything of a destination that can't be reached, or everything of a kind for which it has no room, off to
    /// the same time: one attempt, not one a result. Not what was queued after `opened_ms`, when the attempt began: it
    /// has not been tried, and a peer may hang for minutes.
    pub fn put_off(
        &self,
        destination: &str,
        kind: Option<Kind>,
        next_attempt_ms: i64,
        error: &str,
        opened_ms: i64,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.lock().execute(
            PUT_OFF,
            params![destination, next_attempt_ms, error, now_ms, FAR_MS, opened_ms, kind],
        )?;
        Ok(())
    }

    /// The time of a destination's next delivery, or question for a commitment, if there is any.
    pub fn next_due_ms(&self, destination: &str) -> Result<Option<i64>, DatabaseError> {
        let connection = self.lock();
        let next = |sql| connection.query_row(sql, [destination], |row| row.get(0)).optional();
        let (waiting, stored): (Option<i64>, Option<i64>) = (next(NEXT_WAITING)?, next(NEXT_STORED)?);
        Ok(waiting.into_iter().chain(stored).min())
    }

    /// How many results of a destination wait, are stored there, or are parked.
    pub fn counts(&self, destination: &str) -> Result<Counts, DatabaseError> {
        Ok(self.lock().query_row(COUNTS, [destination], |row| {
            Ok(Counts { waiting: row.get(0)?, stored: row.get(1)?, parked: row.get(2)? })
        })?)
    }

    /// How many bytes of results are kept for each destination that is still to get them, and since when, the most first.
    pub fn kept_for(&self) -> Result<Vec<Kept>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT o.destination, COUNT(*), SUM(length(r.data_set)), MIN(o.queued_ms)
             FROM (SELECT destination, result_id, queued_ms FROM outbox INDEXED BY outbox_open
                   WHERE state IN ('waiting', 'stored')
                   UNION ALL SELECT destination, result_id, queued_ms FROM outbox INDEXED BY outbox_parked
                   WHERE state = 'parked') o
                 JOIN results r ON r.id = o.result_id
             GROUP BY o.destination ORDER BY 3 DESC",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Kept {
                destination: row.get(0)?,
                results: row.get(1)?,
                bytes: row.get(2)?,
                since_ms: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Drops what illustrates (pictures, slices, segmentations) and waits or is parked for a destination, oldest first,
    /// until `bytes` are let go or none is left; how many. Their bytes go at once, where no other destination is to
    /// get them. What decides (messages, work items, reports) stays.
    pub fn shed(&self, destination: &str, bytes: i64) -> Result<usize, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let oldest: Vec<(i64, i64)> = transaction
            .prepare(
                "SELECT o.id, length(r.data_set) FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE o.destination = ?1 AND o.state IN ('waiting', 'parked')
                     AND o.kind IN ('picture', 'slices', 'segmentation') ORDER BY o.id",
            )?
            .query_map([destination], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let (mut left, mut dropped) = (bytes, 0);
        for (id, length) in oldest {
            if left <= 0 {
                break;
            }
            transaction.execute(
                "UPDATE outbox SET state = 'dropped', transaction_uid = NULL,
                     last_error = 'too much waited for this destination; before: ' || COALESCE(last_error, 'not sent')
                 WHERE id = ?1",
                [id],
            )?;
            transaction.execute(
                "UPDATE results SET data_set = zeroblob(0)
                 WHERE id = (SELECT result_id FROM outbox WHERE id = ?1) AND NOT EXISTS (
                     SELECT 1 FROM outbox o WHERE o.result_id = results.id
                         AND o.state IN ('waiting', 'stored', 'parked'))",
                [id],
            )?;
            (left, dropped) = (left - length, dropped + 1);
        }
        transaction.commit()?;
        Ok(dropped)
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

/// What a statement finds of the outbox, its first column the row's number. One row that can't be read must not end the
/// process, at every start again: it is parked with the reason.
pub(super) fn readable<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    now_ms: i64,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, DatabaseError> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(value) => found.push(value),
            Err(error) if is_damaged(&error) => damaged.push((row.get(0)?, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    drop(rows);
    for (id, error) in damaged {
        log::error!("row {id} of the outbox can't be read and is parked: {error}");
        fail(connection, id, &Failure::Damaged(error.into()), Fate::Parked, now_ms)?;
    }
    Ok(found)
}

/// Drops what waits of earlier revisions and of the same kind as `result`, which `destination` has accepted; how many.
/// Only what had failed by itself can still wait.
fn supersede(transaction: &Transaction<'_>, destination: &str, result: i64) -> Result<usize, DatabaseError> {
    Ok(transaction.execute(
        &format!(
            "UPDATE outbox AS o SET state = 'dropped',
                 last_error = 'a later revision was accepted; before: ' || COALESCE(last_error, 'not sent')
             WHERE o.destination = ?1 AND o.state = 'waiting' AND o.result_id IN (
                 SELECT earlier.id FROM results mine JOIN results earlier ON earlier.study_id = mine.study_id
                 WHERE mine.id = ?2) AND {SUPERSEDED}"
        ),
        params![destination, result],
    )?)
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
        "UPDATE outbox SET attempts = attempts + 1, failures = failures + 1, refusals = refusals + ?2,
             suspect = suspect OR ?3, first_failure_ms = COALESCE(first_failure_ms, ?4),
             failing_since_ms = COALESCE(failing_since_ms, ?4), last_error = ?5, next_attempt_ms = ?6,
             state = iif(?7, 'parked', state), parked_ms = iif(?7, ?4, NULL), transaction_uid = NULL
         WHERE id = ?1 AND state IN ('waiting', 'stored')",
        params![
            id,
            matches!(failure, Failure::Refused { .. }),
            matches!(failure, Failure::Broken(_) | Failure::Busy(_)),
            now_ms,
            failure.to_string(),
            next_ms,
            parked
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_of_the_daily_work_walks_through_what_was_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let connection = database.lock();
        let all = [DUE, NEXT_WAITING, NEXT_STORED, COUNTS, ALIVE, OTHERS_GET_THROUGH, PUT_OFF, UNCOMMITTED];
        for sql in all {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut rows = statement.raw_query();
            let mut plan: Vec<String> = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                plan.push(row.get(3).unwrap());
            }
            assert!(plan.iter().any(|step| step.starts_with("SEARCH o USING")), "{plan:?}");
            assert!(!plan.iter().any(|step| step == "SCAN o"), "{sql}: {plan:?}");
            assert!(!plan.iter().any(|step| step.contains("(destination=?) ") && step.contains("autoindex")));
        }
    }
}
