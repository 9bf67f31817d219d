//! The rows of procedure steps: what scanners told of their work, so that a restart between two messages loses nothing.
use super::{Database, DatabaseError, is_damaged, json};
use crate::limits::{PROCEDURE_STEPS_MAX, REFERENCES_MAX, STEPS_PER_STUDY_MAX};
use crate::procedure_steps::{Change, NewStep, Step, StepState};
use log::error;
use rusqlite::{Row, Transaction, params};
use study::{SopInstanceUid, StudyUid};

/// A row for each study of a step; usually one.
pub(super) const TABLE: &str = "
CREATE TABLE procedure_steps (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    sop_instance_uid TEXT NOT NULL,
    study_uid        TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('in progress', 'completed', 'discontinued')),
    -- JSON: the SOP Instance UIDs that it lists.
    instances        TEXT NOT NULL,
    UNIQUE (sop_instance_uid, study_uid)
);
CREATE INDEX procedure_steps_of_study ON procedure_steps (study_uid);
";

/// What became of a new step or a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepChange {
    /// It was made; these are the studies of the step.
    Made(Vec<StudyUid>),
    /// A step has this UID already.
    Exists,
    /// There is no such step.
    Unknown,
    /// The step has ended: it may no longer be changed.
    Ended,
    /// A study would have more than [`STEPS_PER_STUDY_MAX`] steps, or they would list more than [`REFERENCES_MAX`]
    /// instances.
    TooMany,
}

impl Database {
    /// Keeps a new step, unless its UID is known or it is one too many. The oldest beyond [`PROCEDURE_STEPS_MAX`] go.
    pub fn create_step(&self, uid: &str, step: &NewStep) -> Result<StepChange, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let known: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM procedure_steps WHERE sop_instance_uid = ?1)",
            [uid],
            |row| row.get(0),
        )?;
        if known {
            return Ok(StepChange::Exists);
        }
        for study in &step.studies {
            if !is_room(&transaction, study, uid, step.instances.len())? {
                return Ok(StepChange::TooMany);
            }
            transaction.execute(
                "INSERT INTO procedure_steps (sop_instance_uid, study_uid, state, instances)
                 VALUES (?1, ?2, 'in progress', ?3)",
                params![uid, study.as_str(), json(&step.instances)?],
            )?;
        }
        transaction.execute(
            "DELETE FROM procedure_steps WHERE id <= (SELECT MAX(id) FROM procedure_steps) - ?1",
            [PROCEDURE_STEPS_MAX],
        )?;
        transaction.commit()?;
        Ok(StepChange::Made(step.studies.clone()))
    }

    /// Changes a step that has not ended.
    pub fn change_step(&self, uid: &str, change: &Change) -> Result<StepChange, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let rows: Vec<(StudyUid, bool)> = transaction
            .prepare(
                "SELECT study_uid, state <> 'in progress' FROM procedure_steps WHERE sop_instance_uid = ?1",
            )?
            .query_map([uid], |row| Ok((study(row, 0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            return Ok(StepChange::Unknown);
        }
        if rows.iter().any(|(_, ended)| *ended) {
            return Ok(StepChange::Ended);
        }
        if let Some(state) = change.state {
            transaction.execute(
                "UPDATE procedure_steps SET state = ?2 WHERE sop_instance_uid = ?1",
                params![uid, name(state)],
            )?;
        }
        // A list does not say which of several studies an instance belongs to.
        if let Some(instances) = &change.instances
            && let [(study, _)] = &rows[..]
        {
            if !is_room(&transaction, study, uid, instances.len())? {
                return Ok(StepChange::TooMany);
            }
            transaction.execute(
                "UPDATE procedure_steps SET instances = ?2 WHERE sop_instance_uid = ?1",
                params![uid, json(instances)?],
            )?;
        }
        transaction.commit()?;
        Ok(StepChange::Made(rows.into_iter().map(|(study, _)| study).collect()))
    }

    /// All steps of a study. None if the row of one is damaged: without it the others say too much, and a study whose
    /// scanner tells nothing is received all the same.
    pub fn steps_of(&self, study: &StudyUid) -> Result<Vec<Step>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT state, instances FROM procedure_steps WHERE study_uid = ?1 ORDER BY id LIMIT ?2",
        )?;
        let rows = statement.query_map(params![study.as_str(), STEPS_PER_STUDY_MAX], |row| {
            Ok(Step { state: state(row, 0)?, instances: instances(row, 1)? })
        })?;
        match rows.collect() {
            Err(damage) if is_damaged(&damage) => {
                error!(
                    "study {study}: what its scanner told of it can't be read and does not count: {damage}"
                );
                Ok(Vec::new())
            }
            steps => Ok(steps?),
        }
    }
}

/// Whether a study may have the step `uid` with so many instances, beside its other steps.
fn is_room(
    transaction: &Transaction<'_>,
    study: &StudyUid,
    uid: &str,
    instances: usize,
) -> Result<bool, rusqlite::Error> {
    let (steps, listed): (u32, u32) = transaction.query_row(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN json_valid(instances) THEN json_array_length(instances) END), 0)
         FROM procedure_steps WHERE study_uid = ?1 AND sop_instance_uid <> ?2",
        [study.as_str(), uid],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(steps < STEPS_PER_STUDY_MAX && listed as usize + instances <= REFERENCES_MAX)
}

fn name(state: StepState) -> &'static str {
    match state {
        StepState::InProgress => "in progress",
        StepState::Completed => "completed",
        StepState::Discontinued => "discontinued",
    }
}

fn state(row: &Row<'_>, column: usize) -> Result<StepState, rusqlite::Error> {
    Ok(match row.get::<_, String>(column)?.as_str() {
        "completed" => StepState::Completed,
        "discontinued" => StepState::Discontinued,
        // The table has no fourth.
        _ => StepState::InProgress,
    })
}

fn study(row: &Row<'_>, column: usize) -> Result<StudyUid, rusqlite::Error> {
    StudyUid::new(&row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

fn instances(row: &Row<'_>, column: usize) -> Result<Vec<SopInstanceUid>, rusqlite::Error> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(list: &[&str]) -> Vec<SopInstanceUid> {
        list.iter().map(|uid| SopInstanceUid::new(uid).unwrap()).collect()
    }

    fn studies(list: &[&str]) -> Vec<StudyUid> {
        list.iter().map(|uid| StudyUid::new(uid).unwrap()).collect()
    }

    const DONE: Change = Change { state: Some(StepState::Completed), instances: None };

    #[test]
    fn a_step_lives_through_a_restart_and_ends_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let new = NewStep { studies: studies(&["1.2"]), instances: uids(&["1.2.1"]) };
        {
            let database = Database::open(&path).unwrap();
            assert_eq!(database.create_step("1.9", &new).unwrap(), StepChange::Made(new.studies.clone()));
            assert_eq!(database.create_step("1.9", &new).unwrap(), StepChange::Exists);
            assert_eq!(database.change_step("1.8", &DONE).unwrap(), StepChange::Unknown);
        }
        let database = Database::open(&path).unwrap();
        let study = &new.studies[0];
        let want = Step { state: StepState::InProgress, instances: new.instances.clone() };
        assert_eq!(database.steps_of(study).unwrap(), [want]);
        let list = Change { state: None, instances: Some(uids(&["1.2.1", "1.2.2"])) };
        assert_eq!(database.change_step("1.9", &list).unwrap(), StepChange::Made(new.studies.clone()));
        assert_eq!(database.change_step("1.9", &DONE).unwrap(), StepChange::Made(new.studies.clone()));
        assert_eq!(database.change_step("1.9", &DONE).unwrap(), StepChange::Ended);
        let want = Step { state: StepState::Completed, instances: uids(&["1.2.1", "1.2.2"]) };
        assert_eq!(database.steps_of(study).unwrap(), [want]);
        assert_eq!(database.steps_of(&studies(&["1.3"])[0]).unwrap(), []);
    }

    #[test]
    fn a_step_of_two_studies_ends_in_both_and_lists_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let new = NewStep { studies: studies(&["1.2", "1.3"]), instances: Vec::new() };
        database.create_step("1.9", &new).unwrap();
        let end = Change { state: Some(StepState::Discontinued), instances: Some(uids(&["1.2.1"])) };
        assert_eq!(database.change_step("1.9", &end).unwrap(), StepChange::Made(new.studies.clone()));
        for study in &new.studies {
            let want = Step { state: StepState::Discontinued, instances: Vec::new() };
            assert_eq!(database.steps_of(study).unwrap(), [want]);
        }
    }

    #[test]
    fn a_study_has_no_more_steps_and_listed_instances_than_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let of = |list: Vec<SopInstanceUid>| NewStep { studies: studies(&["1.2"]), instances: list };
        let made = StepChange::Made(studies(&["1.2"]));
        let many: Vec<_> = (0..REFERENCES_MAX).map(|i| uids(&[&format!("1.2.{i}")]).remove(0)).collect();
        assert_eq!(database.create_step("1.9.0", &of(many[1..].to_vec())).unwrap(), made);
        assert_eq!(database.create_step("1.9.1", &of(many[..2].to_vec())).unwrap(), StepChange::TooMany);
        let list = |list: &[SopInstanceUid]| Change { state: None, instances: Some(list.to_vec()) };
        assert_eq!(database.create_step("1.9.1", &of(Vec::new())).unwrap(), made);
        assert_eq!(database.change_step("1.9.1", &list(&many[..1])).unwrap(), made);
        let both = Change { state: Some(StepState::Completed), instances: Some(many[..2].to_vec()) };
        assert_eq!(database.change_step("1.9.1", &both).unwrap(), StepChange::TooMany);
        let states = |s: &Step| (s.state, s.instances.len());
        let kept: Vec<_> =
            database.steps_of(&of(Vec::new()).studies[0]).unwrap().iter().map(states).collect();
        let open = StepState::InProgress;
        assert_eq!(kept, [(open, REFERENCES_MAX - 1), (open, 1)], "nothing of it was changed");
        assert_eq!(database.change_step("1.9.0", &list(&[])).unwrap(), made, "its own list makes room");
        for i in 2..STEPS_PER_STUDY_MAX {
            assert_eq!(database.create_step(&format!("1.9.{i}"), &of(Vec::new())).unwrap(), made);
        }
        assert_eq!(database.create_step("1.8", &of(Vec::new())).unwrap(), StepChange::TooMany);
        let other = NewStep { studies: studies(&["1.3", "1.2"]), instances: Vec::new() };
        assert_eq!(database.create_step("1.8", &other).unwrap(), StepChange::TooMany);
        assert_eq!(database.steps_of(&other.studies[0]).unwrap(), [], "all or nothing");
    }

    #[test]
    fn a_damaged_row_tells_nothing_and_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let new = NewStep { studies: studies(&["1.2"]), instances: uids(&["1.2.1"]) };
        for damage in ["instances = '[\"1.2.'", "instances = X'FF00'", "instances = '[7]'"] {
            database.lock().execute("DELETE FROM procedure_steps", []).unwrap();
            database.create_step("1.9", &new).unwrap();
            database.create_step("1.8", &new).unwrap();
            let damage = format!("UPDATE procedure_steps SET {damage} WHERE sop_instance_uid = '1.9'");
            database.lock().execute(&damage, []).unwrap();
            assert_eq!(database.steps_of(&new.studies[0]).unwrap(), [], "{damage}");
            let more = NewStep { instances: Vec::new(), ..new.clone() };
            assert_eq!(database.create_step("1.7", &more).unwrap(), StepChange::Made(new.studies.clone()));
            assert_eq!(database.change_step("1.9", &DONE).unwrap(), StepChange::Made(new.studies.clone()));
        }
    }
}
