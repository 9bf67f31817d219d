//! The schema, as the steps that made it: a new database takes all of them, an older one those that it lacks.
//!
//! Owns the tables and the way from one version to the next, in one transaction: after a power failure the file has
//! either version, whole. It never touches what a row says beyond what the new tables need.
use super::{DatabaseError, audit, commitments, listing, procedure_steps, users};
use rusqlite::Connection;

/// Step `n` leads from version `n` to version `n + 1`; SQLite's `user_version` says how many were taken.
const STEPS: &[&[&str]] = &[
    &[FIRST],
    &[OUTBOX, INSTALLATION, procedure_steps::TABLE, commitments::TABLE],
    &[listing::TABLES, users::TABLES, audit::TABLE],
];

/// Version 1.
const FIRST: &str = "
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
CREATE INDEX IF NOT EXISTS results_of_study ON results (study_id);
";

/// Version 2: several kinds of results, and what becomes of one that a destination does not take. The kind is a column
/// of the outbox, because in `results` SQLite would have to walk through the data set before it to reach it.
const OUTBOX: &str = "
-- Of a data set that is packed; NULL: it is not.
ALTER TABLE results ADD COLUMN unpacked_bytes INTEGER;
CREATE TABLE outbox_2 (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    result_id       INTEGER NOT NULL REFERENCES results (id),
    destination     TEXT NOT NULL,
    kind            TEXT NOT NULL
        CHECK (kind IN ('picture', 'slices', 'report', 'segmentation', 'hl7', 'ups')),
    state           TEXT NOT NULL CHECK (state IN ('waiting', 'stored', 'delivered', 'parked', 'dropped')),
    -- The order among what is due for a destination: what decides goes before what illustrates.
    rank            INTEGER NOT NULL,
    queued_ms       INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    -- How often the destination said no to this very result.
    refusals        INTEGER NOT NULL DEFAULT 0,
    -- How often the connection broke on it, or there was no room for it, and another result was accepted afterwards;
    -- whether that happened since then.
    broken          INTEGER NOT NULL DEFAULT 0,
    suspect         INTEGER NOT NULL DEFAULT 0,
    -- Attempts that failed and said something about this very result, and when the first of them was.
    failures        INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER,
    first_failure_ms INTEGER,
    -- waiting: when it is sent; stored: when the commitment is asked for (again).
    next_attempt_ms INTEGER NOT NULL,
    last_error      TEXT,
    accepted_ms     INTEGER,
    delivered_ms    INTEGER,
    parked_ms       INTEGER,
    -- stored: of the commitment that was asked for.
    transaction_uid TEXT,
    UNIQUE (result_id, destination)
);
INSERT INTO outbox_2 (result_id, destination, kind, state, rank, queued_ms, attempts, next_attempt_ms, last_error,
        accepted_ms, delivered_ms)
    SELECT o.result_id, o.destination, 'picture', o.state, 3,
        COALESCE((SELECT u.at_ms FROM outcomes u WHERE u.study_id = r.study_id AND u.revision = r.revision),
            o.next_attempt_ms),
        o.attempts, o.next_attempt_ms, o.last_error, o.delivered_ms, o.delivered_ms
    FROM outbox o JOIN results r ON r.id = o.result_id ORDER BY o.result_id, o.destination;
DROP TABLE outbox;
ALTER TABLE outbox_2 RENAME TO outbox;
CREATE INDEX outbox_open ON outbox (destination, state, next_attempt_ms) WHERE state IN ('waiting', 'stored');
CREATE INDEX outbox_parked ON outbox (destination) WHERE state = 'parked';
CREATE INDEX outbox_suspect ON outbox (destination) WHERE suspect;
CREATE INDEX outbox_transaction ON outbox (transaction_uid) WHERE transaction_uid IS NOT NULL;
-- Databases of version 1 may be older than this index.
CREATE INDEX IF NOT EXISTS results_of_study ON results (study_id);
";

/// The name of this installation, drawn once: part of the UIDs of its results.
const INSTALLATION: &str = "
CREATE TABLE installation (id TEXT NOT NULL);
INSERT INTO installation VALUES (lower(hex(randomblob(16))));
";

/// The version that this program reads and writes.
pub const VERSION: i64 = STEPS.len() as i64;

/// The version of an open database; 0 for a new file.
pub fn version(connection: &Connection) -> Result<i64, DatabaseError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Brings a database to [`VERSION`].
pub fn bring_up(connection: &mut Connection) -> Result<(), DatabaseError> {
    let found = version(connection)?;
    let missing =
        usize::try_from(found).ok().and_then(|n| STEPS.get(n..)).ok_or(DatabaseError::Newer { found })?;
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in missing.iter().copied().flatten() {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    if found > 0 {
        log::info!("the database was brought from schema {found} to {VERSION}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, Kind, Payload};
    use rusqlite::params;
    use std::path::Path;

    /// A database as version 1 of this program left it: a result that is delivered here and waits there.
    fn version_1(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(FIRST).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
            .execute_batch(
                "INSERT INTO studies (study_uid, state, arrived_ms, done_ms) VALUES ('1.2.3', 'done', 1, 10);
                 INSERT INTO outcomes VALUES (1, 1, '{\"outcome\":\"not_evaluated\"}', 10);",
            )
            .unwrap();
        let result =
            "INSERT INTO results (study_id, revision, sop_class_uid, sop_instance_uid, transfer_syntax_uid,
            data_set) VALUES (1, 1, '1.2.840.10008.5.1.4.1.1.7', ?1, '1.2.840.10008.1.2.1', ?2)";
        connection.execute(result, params!["1.9", [1u8, 2, 3]]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO outbox VALUES (1, 'console', 'delivered', 1, 10, NULL, 20);
                 INSERT INTO outbox VALUES (1, 'pacs', 'waiting', 4, 500, 'nobody there', NULL);",
            )
            .unwrap();
        connection
    }

    fn state(path: &Path) -> Vec<(String, String)> {
        let connection = Connection::open(path).unwrap();
        let mut statement =
            connection.prepare("SELECT destination, state FROM outbox ORDER BY destination").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn what_waited_in_version_1_is_delivered_under_its_uid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        drop(version_1(&path));
        for _ in 0..2 {
            let database = Database::open(&path).unwrap();
            assert_eq!(database.due("pacs", 499, 10, &[]).unwrap(), []);
            assert_eq!(database.due("console", 1000, 10, &[]).unwrap(), []);
            let due = database.due("pacs", 500, 10, &[]).unwrap();
            assert_eq!((due.len(), due[0].failures, due[0].kind), (1, 0, Kind::Picture));
            assert_eq!(due[0].sop_instance_uid, "1.9");
            assert_eq!(database.payload(due[0].id).unwrap(), Payload::Bytes(vec![1, 2, 3]));
        }
        let database = Database::open(&path).unwrap();
        let due = database.due("pacs", 500, 10, &[]).unwrap();
        database.accepted(due[0].id, false, 600).unwrap();
        assert_eq!(database.next_due_ms("pacs").unwrap(), None);
        assert!(database.is_result("1.9").unwrap());
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = version_1(&path);
        // The rename, near the end, finds no table to rename to: everything before it is undone.
        connection.execute_batch("CREATE TABLE outbox_transaction (x)").unwrap();
        assert!(Database::open(&path).is_err());
        assert_eq!(version(&connection).unwrap(), 1);
        let want = [("console".into(), "delivered".into()), ("pacs".into(), "waiting".into())];
        assert_eq!(state(&path), want);
        connection.execute_batch("DROP TABLE outbox_transaction").unwrap();
        assert_eq!(Database::open(&path).unwrap().due("pacs", 500, 10, &[]).unwrap().len(), 1);
        assert_eq!(state(&path), want);
    }

    #[test]
    fn a_power_cut_while_it_is_brought_up_leaves_the_version_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut connection = version_1(&path);
        let transaction = connection.transaction().unwrap();
        transaction.execute_batch(OUTBOX).unwrap();
        transaction.pragma_update(None, "user_version", 2).unwrap();
        // What the disk has at that instant, all of it written out, but for the commit.
        let after = dir.path().join("after");
        transaction.cache_flush().unwrap();
        for suffix in ["", "-wal"] {
            std::fs::copy(format!("{}{suffix}", path.display()), format!("{}{suffix}", after.display()))
                .unwrap();
        }
        assert_eq!(version(&Connection::open(&after).unwrap()).unwrap(), 1);
        assert_eq!(
            Database::open(&after).unwrap().due("pacs", 500, 10, &[]).unwrap()[0].sop_instance_uid,
            "1.9"
        );
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(Database::open(&path).err().unwrap().to_string().contains("schema 99"));
    }
}
