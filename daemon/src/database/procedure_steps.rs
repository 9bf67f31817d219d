//! The rows of procedure steps: what scanners told of their work, so that a restart between two messages loses nothing.
use super::{Database, DatabaseError, json};
use crate::limits;
use crate::procedure_steps::{Change, NewStep, Step, StepState};
use rusqlite::{Row, params};
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

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepChange {
    /// It was made; these are the studies of the step.
    Made(Vec<StudyUid>),
    /// There is no such step.
    Unknown,
    /// The step has ended: it may no longer be changed.
    Ended,
}

impl Database {
    /// Keeps a new step; `false`, and nothing is kept, if its UID is known. The oldest beyond
    /// [`limits::PROCEDURE_STEPS_MAX`] go.
    pub fn create_step(&self, uid: &str, step: &NewStep) -> Result<bool, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let known: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM procedure_steps WHERE sop_instance_uid = ?1)",
            [uid],
            |row| row.get(0),
        )?;
        if known {
            return Ok(false);
        }
        for study in &step.studies {
            transaction.execute(
                "INSERT INTO procedure_steps (sop_instance_uid, study_uid, state, instances)
                 VALUES (?1, ?2, 'in progress', ?3)",
                params![uid, study.as_str(), json(&step.instances)?],
            )?;
        }
        transaction.execute(
            "DELETE FROM procedure_steps WHERE id <= (SELECT MAX(id) FROM procedure_steps) - ?1",
            [limits::PROCEDURE_STEPS_MAX],
        )?;
        transaction.commit()?;
        Ok(true)
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
            && rows.len() == 1
        {
            transaction.execute(
                "UPDATE procedure_steps SET instances = ?2 WHERE sop_instance_uid = ?1",
                params![uid, json(instances)?],
            )?;
        }
        transaction.commit()?;
        Ok(StepChange::Made(rows.into_iter().map(|(study, _)| study).collect()))
    }

    /// All steps of a study.
    pub fn steps_of(&self, study: &StudyUid) -> Result<Vec<Step>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT state, instances FROM procedure_steps WHERE study_uid = ?1 ORDER BY id",
        )?;
        let rows = statement.query_map([study.as_str()], |row| {
            Ok(Step { state: state(row, 0)?, instances: instances(row, 1)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
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
            assert!(database.create_step("1.9", &new).unwrap());
            assert!(!database.create_step("1.9", &new).unwrap(), "it is there");
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
}
