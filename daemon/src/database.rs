//! The appliance's memory: studies and their outcomes, results and their delivery. SQLite, WAL, `synchronous=FULL`.
//!
//! Owns the schema and every statement. It never holds images: they are in the spool. An outcome, its results and
//! the rows of the outbox are written in one transaction, so that after a power failure a study is either still to
//! be evaluated or has all of its results waiting for delivery.
//!
//! ```text
//! studies.state:  receiving ──complete──▶ evaluating ──outcome──▶ done
//!                     ▲                        │                    │
//!                     └────── a late slice ────┴────────────────────┘
//! ```
use crate::limits;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use study::{Outcome, StudyUid};

/// Version of the schema, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE studies (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    study_uid   TEXT NOT NULL UNIQUE,
    state       TEXT NOT NULL CHECK (state IN ('receiving', 'evaluating', 'done')),
    arrived_ms  INTEGER NOT NULL,
    done_ms     INTEGER,
    -- 0: the images are there; 1: they were deleted; 2: they were, and others came later.
    images_deleted INTEGER NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    -- Counts the receptions: an evaluation that began before the last one does not finish the study.
    reception   INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE outcomes (
    study_id    INTEGER NOT NULL REFERENCES studies (id),
    revision    INTEGER NOT NULL,
    outcome     TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (study_id, revision)
);
CREATE TABLE results (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    study_id            INTEGER NOT NULL REFERENCES studies (id),
    revision            INTEGER NOT NULL,
    sop_class_uid       TEXT NOT NULL,
    sop_instance_uid    TEXT NOT NULL UNIQUE,
    transfer_syntax_uid TEXT NOT NULL,
    data_set            BLOB NOT NULL
);
CREATE TABLE outbox (
    result_id       INTEGER NOT NULL REFERENCES results (id),
    destination     TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('waiting', 'delivered')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_ms INTEGER NOT NULL,
    last_error      TEXT,
    delivered_ms    INTEGER,
    PRIMARY KEY (result_id, destination)
);
CREATE INDEX outbox_waiting ON outbox (destination, next_attempt_ms) WHERE state = 'waiting';
";

/// Added to databases of the same schema that were made without it.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS results_of_study ON results (study_id)";

/// No earlier result of the study waits for the same destination: revision 2 must not arrive before revision 1.
const FIRST_OF_ITS_STUDY: &str = "NOT EXISTS (
    SELECT 1 FROM results earlier JOIN outbox e ON e.result_id = earlier.id
    WHERE earlier.study_id = r.study_id AND earlier.id < r.id AND e.destination = o.destination AND e.state = 'waiting')";

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite said so.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file was written by a newer version.
    #[error(
        "the database has schema {found}, this version knows {SCHEMA_VERSION}; it was written by a newer version of triaged"
    )]
    Newer {
        /// The schema's version found.
        found: i64,
    },
}

/// The key of a study on this box; also the name of its folder in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StudyKey(pub i64);

/// Which reception of a study an evaluation covers: each late slice begins another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// The study.
    pub key: StudyKey,
    number: i64,
}

/// A result as it will be sent: the same bytes at every attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// SOP Class UID.
    pub sop_class_uid: String,
    /// SOP Instance UID.
    pub sop_instance_uid: String,
    /// Transfer Syntax UID of the data set.
    pub transfer_syntax_uid: String,
    /// The data set, encoded, without the file's head.
    pub data_set: Vec<u8>,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Row of the result.
    pub result_id: i64,
    /// The study it belongs to.
    pub study_uid: String,
    /// Attempts so far.
    pub attempts: u32,
    /// What is sent.
    pub result: ResultRow,
}

/// A handle to the database; every thread shares one.
pub struct Database {
    connection: Mutex<Connection>,
}

impl Database {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// [`DatabaseError`]: not a database, no space, or written by a newer version.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Promise 3: what was acknowledged survives a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            0 => {
                let transaction = connection.transaction()?;
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                transaction.commit()?;
            }
            SCHEMA_VERSION => {}
            found => return Err(DatabaseError::Newer { found }),
        }
        connection.execute(INDEX, [])?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread leaves no half transaction: SQLite rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The study's key, made if it is new; its state becomes `receiving`, so that it is evaluated (again).
    pub fn receive(&self, study: &StudyUid, now_ms: i64) -> Result<StudyKey, DatabaseError> {
        let connection = self.lock();
        let id = connection.query_row(
            "INSERT INTO studies (study_uid, state, arrived_ms) VALUES (?1, 'receiving', ?2)
             ON CONFLICT (study_uid) DO UPDATE
             SET state = 'receiving', images_deleted = 2 * (images_deleted > 0), attempts = 0,
                 reception = reception + 1 RETURNING id",
            params![study.as_str(), now_ms],
            |row| row.get(0),
        )?;
        Ok(StudyKey(id))
    }

    /// The key of a known study, and whether its slices are complete: it has an outcome, or is being evaluated.
    pub fn known(&self, study: &StudyUid) -> Result<Option<(StudyKey, bool)>, DatabaseError> {
        Ok(self
            .lock()
            .query_row(
                "SELECT id, state <> 'receiving' FROM studies WHERE study_uid = ?1",
                [study.as_str()],
                |row| Ok((StudyKey(row.get(0)?), row.get(1)?)),
            )
            .optional()?)
    }

    /// Whether an instance is a result of ours that somebody sends back.
    pub fn is_result(&self, sop_instance_uid: &str) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM results WHERE sop_instance_uid = ?1)",
            [sop_instance_uid],
            |row| row.get(0),
        )?)
    }

    /// Whether an earlier evaluation holds against one that finds too little: the images that it saw were deleted since.
    pub fn earlier_evaluation_stands(&self, key: StudyKey) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT images_deleted = 2 AND EXISTS (
                 SELECT 1 FROM outcomes
                 WHERE study_id = id AND json_extract(outcome, '$.outcome') <> 'not_evaluated')
             FROM studies WHERE id = ?1",
            [key.0],
            |row| row.get(0),
        )?)
    }

    /// A study that was made due has no instance to evaluate: it is as it was before.
    pub fn nothing_came(&self, key: StudyKey) -> Result<(), DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            // Received once: an evaluation of an earlier reception may still be under way.
            "DELETE FROM studies WHERE id = ?1 AND reception = 1
                 AND NOT EXISTS (SELECT 1 FROM outcomes WHERE study_id = ?1)",
            [key.0],
        )?;
        transaction.execute(
            "UPDATE studies SET state = 'done' WHERE id = ?1 AND state = 'receiving'
                 AND EXISTS (SELECT 1 FROM outcomes WHERE study_id = ?1)",
            [key.0],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Marks a complete study as being evaluated, and tells the reception that this finishes.
    pub fn evaluate(&self, key: StudyKey) -> Result<Reception, DatabaseError> {
        Ok(self.lock().query_row(
            "UPDATE studies SET state = 'evaluating' WHERE id = ?1 RETURNING reception",
            [key.0],
            |row| row.get(0).map(|number| Reception { key, number }),
        )?)
    }

    /// Counts an evaluation that begins, and returns how many have begun since the last slice.
    pub fn begin_attempt(&self, key: StudyKey) -> Result<u32, DatabaseError> {
        Ok(self.lock().query_row(
            "UPDATE studies SET attempts = attempts + 1 WHERE id = ?1 RETURNING attempts",
            [key.0],
            |row| row.get(0),
        )?)
    }

    /// The revision that the next outcome of a study will have, from 1.
    pub fn next_revision(&self, key: StudyKey) -> Result<u32, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT 1 + COALESCE(MAX(revision), 0) FROM outcomes WHERE study_id = ?1",
            [key.0],
            |row| row.get(0),
        )?)
    }

    /// Writes an outcome with its results and their deliveries, in one transaction. The study is done, unless a
    /// late slice has begun another reception, whether that is still under way or already being evaluated.
    pub fn finish(
        &self,
        reception: Reception,
        revision: u32,
        outcome: &Outcome,
        results: &[ResultRow],
        destinations: &[String],
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        let text = json(outcome)?;
        let key = reception.key;
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO outcomes (study_id, revision, outcome, at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![key.0, revision, text, now_ms],
        )?;
        for result in results {
            let id: i64 = transaction.query_row(
                "INSERT INTO results (study_id, revision, sop_class_uid, sop_instance_uid, transfer_syntax_uid, data_set)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
                params![
                    key.0,
                    revision,
                    result.sop_class_uid,
                    result.sop_instance_uid,
                    result.transfer_syntax_uid,
                    result.data_set
                ],
                |row| row.get(0),
            )?;
            for destination in destinations {
                transaction.execute(
                    "INSERT INTO outbox (result_id, destination, state, next_attempt_ms) VALUES (?1, ?2, 'waiting', ?3)",
                    params![id, destination, now_ms],
                )?;
            }
        }
        transaction.execute(
            "UPDATE studies SET state = 'done', done_ms = ?2 WHERE id = ?1 AND state = 'evaluating' AND reception = ?3",
            params![key.0, now_ms, reception.number],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Studies that have no outcome for all of their slices: what a restart goes on with.
    pub fn unfinished(&self) -> Result<Vec<StudyKey>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT id FROM studies WHERE state <> 'done' ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get(0).map(StudyKey))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The delivery for a destination that has been due for longest. A time further ahead than any pause was written
    /// while the clock was wrong: such a delivery is due, too.
    pub fn due(&self, destination: &str, now_ms: i64) -> Result<Option<Delivery>, DatabaseError> {
        Ok(self
            .lock()
            .query_row(
                &format!(
                    "SELECT r.id, s.study_uid, o.attempts, r.sop_class_uid, r.sop_instance_uid, r.transfer_syntax_uid, r.data_set
                     FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
                     WHERE o.destination = ?1 AND o.state = 'waiting'
                         AND (o.next_attempt_ms <= ?2 OR o.next_attempt_ms > ?2 + ?3) AND {FIRST_OF_ITS_STUDY}
                     ORDER BY o.next_attempt_ms, r.id LIMIT 1"
                ),
                params![destination, now_ms, limits::DELIVERY_PAUSE_MAX_MS * 3 / 2],
                |row| {
                    Ok(Delivery {
                        result_id: row.get(0)?,
                        study_uid: row.get(1)?,
                        attempts: row.get(2)?,
                        result: ResultRow {
                            sop_class_uid: row.get(3)?,
                            sop_instance_uid: row.get(4)?,
                            transfer_syntax_uid: row.get(5)?,
                            data_set: row.get(6)?,
                        },
                    })
                },
            )
            .optional()?)
    }

    /// Marks a delivery as accepted by its destination. The destination is alive: what else waits for it is due now.
    pub fn delivered(&self, result_id: i64, destination: &str, now_ms: i64) -> Result<(), DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "UPDATE outbox SET state = 'delivered', attempts = attempts + 1, delivered_ms = ?3, last_error = NULL
             WHERE result_id = ?1 AND destination = ?2",
            params![result_id, destination, now_ms],
        )?;
        transaction.execute(
            "UPDATE outbox SET next_attempt_ms = ?2
             WHERE destination = ?1 AND state = 'waiting' AND next_attempt_ms > ?2",
            params![destination, now_ms],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Puts a delivery that failed off to a later time.
    pub fn put_off(
        &self,
        result_id: i64,
        destination: &str,
        next_attempt_ms: i64,
        error: &str,
    ) -> Result<(), DatabaseError> {
        self.lock().execute(
            "UPDATE outbox SET attempts = attempts + 1, next_attempt_ms = ?3, last_error = ?4
             WHERE result_id = ?1 AND destination = ?2",
            params![result_id, destination, next_attempt_ms, error],
        )?;
        Ok(())
    }

    /// The time of a destination's next delivery, if any waits.
    pub fn next_due_ms(&self, destination: &str) -> Result<Option<i64>, DatabaseError> {
        Ok(self.lock().query_row(
            &format!(
                "SELECT MIN(o.next_attempt_ms) FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE o.destination = ?1 AND o.state = 'waiting' AND {FIRST_OF_ITS_STUDY}"
            ),
            [destination],
            |row| row.get(0),
        )?)
    }

    /// Destinations other than these for which results wait, and how many.
    pub fn waiting_for_others(&self, destinations: &[String]) -> Result<Vec<(String, u32)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT destination, COUNT(*) FROM outbox
             WHERE state = 'waiting' AND destination NOT IN (SELECT value FROM json_each(?1))
             GROUP BY destination ORDER BY destination",
        )?;
        let rows = statement.query_map([json(destinations)?], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Finished studies whose images may go: done before `done_before_ms`, no result waiting for one of
    /// `destinations`; oldest first.
    pub fn expendable(
        &self,
        done_before_ms: i64,
        destinations: &[String],
    ) -> Result<Vec<StudyKey>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT id FROM studies s WHERE state = 'done' AND images_deleted <> 1 AND done_ms < ?1 AND NOT EXISTS (
                 SELECT 1 FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE r.study_id = s.id AND o.state = 'waiting'
                     AND o.destination IN (SELECT value FROM json_each(?2)))
             ORDER BY done_ms",
        )?;
        let rows = statement
            .query_map(params![done_before_ms, json(destinations)?], |row| row.get(0).map(StudyKey))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a study's images were deleted; `false` if it is being received again, and they must stay.
    pub fn claim_images(&self, key: StudyKey) -> Result<bool, DatabaseError> {
        let changed = self
            .lock()
            .execute("UPDATE studies SET images_deleted = 1 WHERE id = ?1 AND state = 'done'", [key.0])?;
        Ok(changed == 1)
    }

    /// Notes that a finished study has a file again, if its images had been deleted.
    pub fn has_files(&self, key: StudyKey) -> Result<(), DatabaseError> {
        self.lock()
            .execute("UPDATE studies SET images_deleted = 2 WHERE id = ?1 AND images_deleted = 1", [key.0])?;
        Ok(())
    }

    /// Whether a study's images were deleted and none came since.
    pub fn images_are_deleted(&self, key: StudyKey) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM studies WHERE id = ?1 AND images_deleted = 1)",
            [key.0],
            |row| row.get(0),
        )?)
    }

    /// Empties results made before `made_before_ms` that every destination has accepted; how many. Their rows stay, so
    /// that they are known when somebody sends them back.
    pub fn empty_results(&self, made_before_ms: i64) -> Result<usize, DatabaseError> {
        Ok(self.lock().execute(
            "UPDATE results SET data_set = zeroblob(0) WHERE length(data_set) > 0
                 AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.result_id = results.id AND o.state = 'waiting')
                 AND EXISTS (SELECT 1 FROM outcomes u WHERE u.study_id = results.study_id
                     AND u.revision = results.revision AND u.at_ms < ?1)",
            [made_before_ms],
        )?)
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, DatabaseError> {
    Ok(serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?)
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
