//! Studies, their receptions and their outcomes.
use super::{Database, DatabaseError, Deliverable, Reception, StudyKey, View, json, listing};
use rusqlite::{OptionalExtension, Params, Row, Transaction, params};
use study::{Outcome, StudyUid};

/// Studies without an outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Not complete yet, or between a late slice and its evaluation.
    pub receiving: usize,
    /// Complete: evaluated, or waiting for it.
    pub evaluating: usize,
}

impl UnderWay {
    /// Whether there is none.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl std::fmt::Display for UnderWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "studies being received: {}, being evaluated: {}", self.receiving, self.evaluating)
    }
}

impl Database {
    /// The study's key, made if it is new; its state becomes `receiving`, so that it is evaluated (again).
    pub fn receive(&self, study: &StudyUid, now_ms: i64) -> Result<StudyKey, DatabaseError> {
        let id = self.change_and_read(
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
            "DELETE FROM listing WHERE study_id = ?1 AND outcome IS NULL AND EXISTS (
                 SELECT 1 FROM studies WHERE id = ?1 AND reception = 1)",
            [key.0],
        )?;
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
        self.change_and_read(
            "UPDATE studies SET state = 'evaluating' WHERE id = ?1 RETURNING reception",
            [key.0],
            |row| row.get(0).map(|number| Reception { key, number }),
        )
    }

    /// Counts an evaluation that begins, and returns how many have begun since the last slice.
    pub fn begin_attempt(&self, key: StudyKey) -> Result<u32, DatabaseError> {
        self.change_and_read(
            "UPDATE studies SET attempts = attempts + 1 WHERE id = ?1 RETURNING attempts",
            [key.0],
            |row| row.get(0),
        )
    }

    /// The revision that the next outcome of a study will have, from 1.
    pub fn next_revision(&self, key: StudyKey) -> Result<u32, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT 1 + COALESCE(MAX(revision), 0) FROM outcomes WHERE study_id = ?1",
            [key.0],
            |row| row.get(0),
        )?)
    }

    /// Writes an outcome with its results, their deliveries and what the screen shows, in one transaction. Without `view` the screen goes on
    /// showing the outcome before it. The study is done, unless a
    /// late slice has begun another reception, whether that is still under way or already being evaluated.
    pub fn finish(
        &self,
        reception: Reception,
        revision: u32,
        outcome: &Outcome,
        deliverables: &[Deliverable],
        view: Option<&View>,
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
        if let Some(view) = view {
            listing::show(&transaction, key, revision, (outcome, &text), view, now_ms)?;
        }
        for deliverable in deliverables {
            queue(&transaction, key, revision, deliverable, now_ms)?;
        }
        transaction.execute(
            "UPDATE studies SET state = 'done', done_ms = ?2 WHERE id = ?1 AND state = 'evaluating' AND reception = ?3",
            params![key.0, now_ms, reception.number],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// The name of this installation, drawn with the database.
    pub fn installation(&self) -> Result<String, DatabaseError> {
        Ok(self.lock().query_row("SELECT id FROM installation", [], |row| row.get(0))?)
    }

    /// How many outcomes of each kind there were.
    pub fn outcome_counts(&self) -> Result<Vec<(String, usize)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT json_extract(outcome, '$.outcome') AS kind, COUNT(*) FROM outcomes GROUP BY kind ORDER BY kind",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many studies have no outcome yet, by what is done with them.
    pub fn under_way(&self) -> Result<UnderWay, DatabaseError> {
        let sql =
            "SELECT COUNT(*) FILTER (WHERE state = 'receiving'), COUNT(*) FILTER (WHERE state = 'evaluating')
            FROM studies WHERE state <> 'done'";
        let count = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|count| count as usize);
        Ok(self.lock().query_row(sql, [], |row| {
            Ok(UnderWay { receiving: count(row, 0)?, evaluating: count(row, 1)? })
        })?)
    }

    /// Studies that have no outcome for all of their slices: what a restart goes on with.
    pub fn unfinished(&self) -> Result<Vec<StudyKey>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT id FROM studies WHERE state <> 'done' ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get(0).map(StudyKey))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Finished studies whose images may go: done before `done_before_ms`, no result on its way to one
    /// of `destinations`; oldest first. What is parked is whole in the database and holds no images: an operator may
    /// look at it in a month.
    pub fn expendable(
        &self,
        done_before_ms: i64,
        destinations: &[String],
    ) -> Result<Vec<StudyKey>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT id FROM studies s WHERE state = 'done' AND images_deleted <> 1 AND done_ms < ?1 AND NOT EXISTS (
                 SELECT 1 FROM outbox o JOIN results r ON r.id = o.result_id
                 WHERE r.study_id = s.id AND o.state IN ('waiting', 'stored')
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
}

impl Database {
    /// Runs a statement with RETURNING. On its own it would be committed when it is reset, after its row was read, and
    /// rusqlite swallows the error of that: a study would be acknowledged that is not on the disk.
    fn change_and_read<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let value = transaction.query_row(sql, params, read)?;
        transaction.commit()?;
        Ok(value)
    }
}

/// Writes a result and a row of the outbox for each of its destinations.
fn queue(
    transaction: &Transaction<'_>,
    key: StudyKey,
    revision: u32,
    deliverable: &Deliverable,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let row = &deliverable.row;
    let id: i64 = transaction.query_row(
        "INSERT INTO results (study_id, revision, sop_class_uid, sop_instance_uid, transfer_syntax_uid, data_set,
             unpacked_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id",
        params![
            key.0,
            revision,
            row.sop_class_uid,
            row.sop_instance_uid,
            row.transfer_syntax_uid,
            row.data_set.bytes,
            row.data_set.unpacked_bytes
        ],
        |row| row.get(0),
    )?;
    for destination in &deliverable.destinations {
        transaction.execute(
            "INSERT INTO outbox (result_id, destination, kind, state, rank, queued_ms, next_attempt_ms)
             VALUES (?1, ?2, ?3, 'waiting', ?4, ?5, ?5)",
            params![id, destination, row.kind, row.kind as i64, now_ms],
        )?;
    }
    Ok(())
}
