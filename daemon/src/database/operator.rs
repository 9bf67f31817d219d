//! What an operator sees of the outbox and may do to it, from another process while the daemon runs.
use super::outbox::SUPERSEDED;
use super::{Database, DatabaseError, Kind, StudyKey};
use rusqlite::{OptionalExtension, ToSql, params};

/// A row of the outbox, for people. It names no patient.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// Where it goes.
    pub destination: String,
    /// What it is.
    pub kind: Kind,
    /// The study it belongs to.
    pub study_uid: String,
    /// Which outcome of the study.
    pub revision: u32,
    /// SOP Instance UID; for HL7 the message control id.
    pub sop_instance_uid: String,
    /// `waiting`, `stored`, `delivered`, `parked` or `dropped`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// How often the destination said no to it.
    pub refusals: u32,
    /// When it was made, in milliseconds since 1970.
    pub queued_ms: i64,
    /// When it failed first.
    pub first_failure_ms: Option<i64>,
    /// When it is tried next: waiting and stored ones only.
    pub next_attempt_ms: Option<i64>,
    /// When it was delivered.
    pub delivered_ms: Option<i64>,
    /// Why it is not delivered.
    pub last_error: Option<String>,
}

/// Which rows an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// This one.
    Row(i64),
    /// All of a destination that has no end yet.
    Destination(String),
    /// All that is parked for a destination.
    ParkedFor(String),
    /// What is parked, for all destinations.
    Parked,
}

impl Selection {
    /// The row's number, or the destination's name; neither: what is parked.
    fn parts(&self) -> (Option<i64>, Option<&str>) {
        match self {
            Self::Row(id) => (Some(*id), None),
            Self::Destination(name) | Self::ParkedFor(name) => (None, Some(name)),
            Self::Parked => (None, None),
        }
    }
}

impl Database {
    /// The outbox: what has no end yet, or with `all` every row that is remembered; oldest first.
    pub fn entries(&self, all: bool) -> Result<Vec<Entry>, DatabaseError> {
        let chosen = "?1 OR o.state IN ('waiting', 'stored', 'parked')";
        self.entries_where(chosen, all)
    }

    /// What was or is to be sent of a study, oldest first.
    pub fn entries_of(&self, key: StudyKey) -> Result<Vec<Entry>, DatabaseError> {
        self.entries_where("r.study_id = ?1", key.0)
    }

    fn entries_where(&self, chosen: &str, value: impl ToSql) -> Result<Vec<Entry>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT o.id, o.destination, o.kind, s.study_uid, r.revision, r.sop_instance_uid, o.state, o.attempts,
                 o.refusals, o.queued_ms, o.first_failure_ms,
                 iif(o.state IN ('waiting', 'stored'), o.next_attempt_ms, NULL), o.delivered_ms, o.last_error
             FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
             WHERE {chosen} ORDER BY o.id"
        ))?;
        let rows = statement.query_map([value], |row| {
            Ok(Entry {
                id: row.get(0)?,
                destination: row.get(1)?,
                kind: row.get(2)?,
                study_uid: row.get(3)?,
                revision: row.get(4)?,
                sop_instance_uid: row.get(5)?,
                state: row.get(6)?,
                attempts: row.get(7)?,
                refusals: row.get(8)?,
                queued_ms: row.get(9)?,
                first_failure_ms: row.get(10)?,
                next_attempt_ms: row.get(11)?,
                delivered_ms: row.get(12)?,
                last_error: row.get(13)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When a destination accepted something last, and its last error that stands.
    pub fn last_of(&self, destination: &str) -> Result<(Option<i64>, Option<String>), DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT (SELECT MAX(accepted_ms) FROM outbox WHERE destination = ?1),
                 (SELECT last_error FROM outbox WHERE destination = ?1 AND state IN ('waiting', 'stored', 'parked')
                      AND last_error IS NOT NULL ORDER BY id DESC LIMIT 1)",
            [destination],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    /// Makes rows due now, with a clean record; how many. Not what is delivered, nor what is no longer kept, nor what the
    /// destination has of a later revision: see [`Database::is_superseded`].
    pub fn retry(&self, selection: &Selection, now_ms: i64) -> Result<usize, DatabaseError> {
        let (id, destination) = selection.parts();
        Ok(self.lock().execute(
            &format!(
                "UPDATE outbox AS o SET state = 'waiting', failures = 0, failing_since_ms = NULL, refusals = 0, broken = 0,
                     suspect = 0, next_attempt_ms = ?3, parked_ms = NULL
                 WHERE CASE WHEN ?1 IS NOT NULL THEN id = ?1 AND state IN ('waiting', 'parked', 'dropped')
                            WHEN ?2 IS NOT NULL THEN destination = ?2 AND (state = 'parked' OR state = 'waiting' AND NOT ?4)
                            ELSE state = 'parked' END
                     AND EXISTS (SELECT 1 FROM results r WHERE r.id = result_id AND length(r.data_set) > 0)
                     AND NOT {SUPERSEDED}"
            ),
            params![id, destination, now_ms, matches!(selection, Selection::ParkedFor(_))],
        )?)
    }

    /// Whether the destination of a row has accepted a later revision of it: sent after that it would pass for the latest.
    pub fn is_superseded(&self, id: i64) -> Result<bool, DatabaseError> {
        Ok(self
            .lock()
            .query_row(&format!("SELECT {SUPERSEDED} FROM outbox o WHERE o.id = ?1"), [id], |row| row.get(0))
            .optional()?
            .unwrap_or(false))
    }

    /// How many parked rows [`Database::retry`] leaves because a later revision was accepted.
    pub fn parked_and_superseded(&self, destination: Option<&str>) -> Result<u32, DatabaseError> {
        Ok(self.lock().query_row(
            &format!(
                "SELECT COUNT(*) FROM outbox o
                 WHERE o.state = 'parked' AND (?1 IS NULL OR o.destination = ?1) AND {SUPERSEDED}"
            ),
            [destination],
            |row| row.get(0),
        )?)
    }

    /// Gives rows up for good, unless they are delivered; how many.
    pub fn drop_rows(&self, selection: &Selection) -> Result<usize, DatabaseError> {
        let (id, destination) = selection.parts();
        Ok(self.lock().execute(
            "UPDATE outbox SET state = 'dropped', transaction_uid = NULL
             WHERE CASE WHEN ?1 IS NOT NULL THEN id = ?1 AND state IN ('waiting', 'stored', 'parked')
                        WHEN ?2 IS NOT NULL THEN destination = ?2 AND state IN ('waiting', 'stored', 'parked')
                        ELSE state = 'parked' END",
            params![id, destination],
        )?)
    }

    /// The state of a row, and whether its bytes are still kept.
    pub fn row_state(&self, id: i64) -> Result<Option<(String, bool)>, DatabaseError> {
        Ok(self
            .lock()
            .query_row(
                "SELECT o.state, length(r.data_set) > 0 FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE o.id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?)
    }
}
