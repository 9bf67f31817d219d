//! The schema, as the steps that made it: a new database takes all of them, an older one those that it lacks.
//!
//! Owns the tables and the way from one version to the next, in one transaction: after a power failure the file has
//! either version, whole. It never touches what a row says beyond what the new tables need.
//!
//! An update of the box may be rolled back, and the older daemon must then work on the newer database. So each step says the oldest version of
//! this program that still may, and the database keeps it ([`COMPATIBILITY`]); that program leaves the schema as it is, and nobody ever goes
//! down. A step that keeps the oldest version may only add tables, add columns that are NULL or have a default, and add indices, in a time and
//! room that don't grow with the rows; whoever reads what it added must bear that rows of the older program lack it. A step that does anything
//! else names itself.
use super::{DatabaseError, audit, commitments, listing, procedure_steps, users};
use rusqlite::Connection;

/// Step `n` leads from version `n` to version `n + 1`; SQLite's `user_version` says how many were taken.
const STEPS: &[Step] = &[
    Step { sql: &[FIRST], oldest: 1 },
    Step { sql: &[OUTBOX, INSTALLATION, procedure_steps::TABLE, commitments::TABLE], oldest: 2 },
    Step { sql: &[listing::TABLES, users::TABLES, audit::TABLE], oldest: 3 },
    // Programs before this one refuse whatever is newer than they are.
    Step { sql: &[COMPATIBILITY], oldest: 4 },
    Step { sql: &[users::SETUP_CODES, audit::RESEND], oldest: 4 },
];

/// One version to the next.
struct Step {
    sql: &'static [&'static str],
    /// The oldest version of this program that can work on what the step leaves.
    oldest: i64,
}

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

/// Version 4: the oldest version of this program that may work on the database.
const COMPATIBILITY: &str = "
CREATE TABLE compatibility (oldest INTEGER NOT NULL);
INSERT INTO compatibility VALUES (4);
";

/// The version that this program reads and writes.
pub const VERSION: i64 = STEPS.len() as i64;

/// The version of an open database; 0 for a new file.
pub fn version(connection: &Connection) -> Result<i64, DatabaseError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Whether this program may work on a database of version `found` as it is.
///
/// # Errors
/// [`DatabaseError::Older`], [`DatabaseError::Newer`].
pub fn check(connection: &Connection) -> Result<(), DatabaseError> {
    let found = version(connection)?;
    if found < VERSION {
        return Err(DatabaseError::Older { found });
    }
    // Of this version, or a newer program's, which says who else may.
    let oldest = if found == VERSION { VERSION } else { oldest(connection)?.unwrap_or(found) };
    if oldest <= VERSION { Ok(()) } else { Err(DatabaseError::Newer { found, oldest }) }
}

/// Brings a database to [`VERSION`]; a newer one that this program may work on is left as it is.
pub fn bring_up(connection: &mut Connection) -> Result<(), DatabaseError> {
    bring_up_by(connection, STEPS)
}

fn bring_up_by(connection: &mut Connection, steps: &[Step]) -> Result<(), DatabaseError> {
    let found = version(connection)?;
    let to = steps.len() as i64;
    let missing = usize::try_from(found).ok().and_then(|n| steps.get(n..)).unwrap_or_default();
    let Some(needed) = missing.iter().map(|step| step.oldest).max() else {
        check(connection)?;
        if found > to {
            log::warn!(
                "the database has schema {found}, this version knows {to}: it works on it as it is, as after a rollback"
            );
        }
        return Ok(());
    };
    let transaction = connection.transaction()?;
    for sql in missing.iter().flat_map(|step| step.sql) {
        transaction.execute_batch(sql)?;
    }
    // A step that shuts older versions out does so for good, whatever comes after it.
    if let Some(recorded) = oldest(&transaction)? {
        transaction.execute("UPDATE compatibility SET oldest = ?1", [recorded.max(needed)])?;
    }
    transaction.pragma_update(None, "user_version", to)?;
    transaction.commit()?;
    if found > 0 {
        log::info!("the database was brought from schema {found} to {to}");
    }
    Ok(())
}

/// The oldest version of this program that may work on the database; `None` if it does not say.
fn oldest(connection: &Connection) -> Result<Option<i64>, DatabaseError> {
    let says = "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'compatibility'";
    if connection.query_row(says, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    Ok(connection.query_row("SELECT MAX(oldest) FROM compatibility", [], |row| row.get(0))?)
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

    /// What a later version might add, as the rule has it, or not.
    fn a_later_step(oldest: i64) -> Step {
        let sql = &["ALTER TABLE studies ADD COLUMN ward TEXT; CREATE TABLE wards (name TEXT NOT NULL);
            CREATE INDEX studies_of_ward ON studies (ward);"];
        Step { sql, oldest }
    }

    fn brought_up_by_a_later_version(path: &Path, oldest: i64) -> Connection {
        drop(Database::open(path).unwrap());
        let mut later: Vec<Step> =
            STEPS.iter().map(|step| Step { sql: step.sql, oldest: step.oldest }).collect();
        later.push(a_later_step(oldest));
        let mut connection = Connection::open(path).unwrap();
        bring_up_by(&mut connection, &later).unwrap();
        assert_eq!(version(&connection).unwrap(), VERSION + 1);
        connection
    }

    #[test]
    fn after_a_rollback_this_version_works_on_a_newer_database_that_allows_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let later = brought_up_by_a_later_version(&path, VERSION);
        later.execute("INSERT INTO wards VALUES ('4b')", []).unwrap();
        let study = study::StudyUid::new("1.2.3").unwrap();
        for _ in 0..2 {
            let database = Database::open(&path).unwrap();
            let key = database.receive(&study, 5).unwrap();
            database.evaluate(key).unwrap();
            assert!(Database::open_beside_the_daemon(&path).is_ok());
        }
        // Nobody went down, and the later version finds what both wrote.
        assert_eq!(version(&later).unwrap(), VERSION + 1);
        let rows = "SELECT (SELECT COUNT(*) FROM studies WHERE ward IS NULL), (SELECT name FROM wards)";
        let found: (i64, String) = later.query_row(rows, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(found, (1, "4b".to_owned()));
    }

    #[test]
    fn a_newer_database_that_does_not_allow_it_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let later = brought_up_by_a_later_version(&path, VERSION + 1);
        for opened in [Database::open(&path), Database::open_beside_the_daemon(&path)] {
            let error = opened.err().unwrap().to_string();
            let want = format!(
                "schema {}, which needs a triaged that knows {0} or newer; this one knows {VERSION}",
                VERSION + 1
            );
            assert!(error.contains(&want), "{error}");
        }
        assert_eq!(version(&later).unwrap(), VERSION + 1);
        // Nor does an additive step after it let this version in again, in one go or in two.
        let steps = || STEPS.iter().map(|step| Step { sql: step.sql, oldest: step.oldest });
        let mut all: Vec<Step> = steps().chain([a_later_step(VERSION + 1)]).collect();
        all.push(Step { sql: &["ALTER TABLE wards ADD COLUMN floor TEXT;"], oldest: VERSION });
        let at_once = dir.path().join("at once");
        drop(Database::open(&at_once).unwrap());
        for path in [&path, &at_once] {
            bring_up_by(&mut Connection::open(path).unwrap(), &all).unwrap();
            assert!(Database::open(path).err().unwrap().to_string().contains("needs a triaged"));
        }
    }

    #[test]
    fn a_database_of_version_3_learns_who_may_work_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(dir.path().join("db")).unwrap();
        bring_up_by(&mut connection, &STEPS[..3]).unwrap();
        assert_eq!(oldest(&connection).unwrap(), None);
        bring_up(&mut connection).unwrap();
        assert_eq!((version(&connection).unwrap(), oldest(&connection).unwrap()), (VERSION, Some(4)));
    }

    #[test]
    fn the_audit_trail_keeps_its_rows_and_numbers_and_version_4_goes_on_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(dir.path().join("db")).unwrap();
        bring_up_by(&mut connection, &STEPS[..4]).unwrap();
        let login =
            "INSERT INTO audit (at_ms, event, outcome, text, waiting) VALUES (1, 'login', 'success', 'x', 1)";
        connection
            .execute_batch(&format!("{login}; {login}; {login}; DELETE FROM audit WHERE id > 1"))
            .unwrap();
        connection.execute("INSERT INTO users VALUES ('ada', 'Ada', 'engineer', 'x')", []).unwrap();
        bring_up(&mut connection).unwrap();
        // An older program's.
        connection.execute(login, []).unwrap();
        let rows = |sql: &str| -> String { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(rows("SELECT group_concat(id || event, ' ') FROM audit"), "1login 4login");
        assert_eq!(rows("SELECT group_concat(code) FROM setup_codes"), "unknown");
    }
}
