//! The rows of storage commitment requests that scanners made of us: each waits until its report was taken.
use super::{Database, DatabaseError, is_damaged, json};
use crate::commitment::{Reference, Request};
use crate::limits;
use log::error;
use rusqlite::{OptionalExtension, Row, params};

/// A row goes when its report was taken or given up.
pub(super) const TABLE: &str = "
CREATE TABLE commitments (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    -- AE titles: who asked, and whom.
    calling         TEXT NOT NULL,
    called          TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    -- JSON: the SOP class and instance UIDs.
    instances       TEXT NOT NULL,
    requested_ms    INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_ms INTEGER NOT NULL,
    last_error      TEXT,
    UNIQUE (calling, transaction_uid)
);
";

/// A report that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueReport {
    /// Its row.
    pub id: i64,
    /// Under which AE title the scanner knows us.
    pub called: String,
    /// What it asked for.
    pub request: Request,
    /// When it asked.
    pub requested_ms: i64,
    /// Attempts so far.
    pub attempts: u32,
}

impl Database {
    /// Keeps a request, so that its report is sent whatever happens; `false`, and nothing is kept, if
    /// [`limits::COMMITMENTS_MAX`] wait. A request that is made again counts as a new one.
    pub fn request_commitment(
        &self,
        calling: &str,
        called: &str,
        request: &Request,
        now_ms: i64,
    ) -> Result<bool, DatabaseError> {
        let connection = self.lock();
        let changed = connection.execute(
            "INSERT INTO commitments (calling, called, transaction_uid, instances, requested_ms, next_attempt_ms)
             SELECT ?1, ?2, ?3, ?4, ?5, ?5 WHERE (SELECT COUNT(*) FROM commitments) < ?6
             ON CONFLICT (calling, transaction_uid) DO UPDATE
             SET called = excluded.called, instances = excluded.instances, requested_ms = excluded.requested_ms,
                 attempts = 0, next_attempt_ms = excluded.next_attempt_ms, last_error = NULL",
            params![
                calling,
                called,
                request.transaction_uid,
                json(&request.instances)?,
                now_ms,
                limits::COMMITMENTS_MAX
            ],
        )?;
        Ok(changed == 1)
    }

    /// The report for a scanner that has been due for longest. A time further ahead than any pause was written while the
    /// clock was wrong: such a report is due, too. A row that is damaged goes, aloud: the scanner misses its report and
    /// may ask again, and the others have theirs.
    pub fn due_report(&self, calling: &str, now_ms: i64) -> Result<Option<DueReport>, DatabaseError> {
        let connection = self.lock();
        loop {
            let row = connection
                .query_row(
                    "SELECT id, called, transaction_uid, instances, requested_ms, attempts FROM commitments
                     WHERE calling = ?1 AND (next_attempt_ms <= ?2 OR next_attempt_ms > ?2 + ?3)
                     ORDER BY next_attempt_ms, id LIMIT 1",
                    params![calling, now_ms, limits::DELIVERY_PAUSE_MAX_MS * 3 / 2],
                    |row| Ok((row.get(0)?, due(row))),
                )
                .optional()?;
            match row {
                None => return Ok(None),
                Some((id, Err(damage))) if is_damaged(&damage) => {
                    error!(
                        "a storage commitment request of {calling} can't be read and is given up: {damage}"
                    );
                    let id: i64 = id;
                    connection.execute("DELETE FROM commitments WHERE id = ?1", [id])?;
                }
                Some((_, due)) => return Ok(Some(due?)),
            }
        }
    }

    /// The time of a scanner's next report, if any waits.
    pub fn next_report_ms(&self, calling: &str) -> Result<Option<i64>, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT MIN(next_attempt_ms) FROM commitments WHERE calling = ?1",
            [calling],
            |row| row.get(0),
        )?)
    }

    /// Puts a report off: after a failed attempt, or (`error` is `None`) because an instance may still come.
    pub fn put_off_report(
        &self,
        id: i64,
        next_attempt_ms: i64,
        error: Option<&str>,
    ) -> Result<(), DatabaseError> {
        self.lock().execute(
            "UPDATE commitments SET next_attempt_ms = ?2, attempts = attempts + (?3 IS NOT NULL),
                 last_error = COALESCE(?3, last_error) WHERE id = ?1",
            params![id, next_attempt_ms, error],
        )?;
        Ok(())
    }

    /// A report was taken, or is given up. `requested_ms` tells whether the request was made again meanwhile: that one is
    /// answered, too.
    pub fn end_report(&self, report: &DueReport) -> Result<(), DatabaseError> {
        self.lock().execute(
            "DELETE FROM commitments WHERE id = ?1 AND requested_ms = ?2",
            params![report.id, report.requested_ms],
        )?;
        Ok(())
    }

    /// The AE titles of those for whom reports wait.
    pub fn awaiting_reports(&self) -> Result<Vec<(String, u32)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT calling, COUNT(*) FROM commitments GROUP BY calling ORDER BY calling")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn due(row: &Row<'_>) -> Result<DueReport, rusqlite::Error> {
    let instances: Vec<Reference> = serde_json::from_str(&row.get::<_, String>(3)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(DueReport {
        id: row.get(0)?,
        called: row.get(1)?,
        request: Request { transaction_uid: row.get(2)?, instances },
        requested_ms: row.get(4)?,
        attempts: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(transaction: &str, instances: &[&str]) -> Request {
        let instances = instances
            .iter()
            .map(|uid| Reference {
                sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
                sop_instance_uid: (*uid).into(),
            })
            .collect();
        Request { transaction_uid: transaction.into(), instances }
    }

    #[test]
    fn a_request_waits_through_a_restart_until_its_report_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let asked = request("1.5", &["1.1", "1.2"]);
        assert!(Database::open(&path).unwrap().request_commitment("CT1", "T", &asked, 100).unwrap());
        let database = Database::open(&path).unwrap();
        assert_eq!(database.due_report("CT2", 100).unwrap(), None);
        assert_eq!(database.due_report("CT1", 99).unwrap(), None);
        let due = database.due_report("CT1", 100).unwrap().unwrap();
        assert_eq!((due.called.as_str(), due.attempts, &due.request), ("T", 0, &asked));
        database.put_off_report(due.id, 200, None).unwrap();
        database.put_off_report(due.id, 300, Some("nobody there")).unwrap();
        assert_eq!(database.next_report_ms("CT1").unwrap(), Some(300));
        assert_eq!(database.awaiting_reports().unwrap(), [("CT1".to_owned(), 1)]);
        let due = database.due_report("CT1", 300).unwrap().unwrap();
        assert_eq!(due.attempts, 1);
        database.end_report(&due).unwrap();
        assert_eq!(database.next_report_ms("CT1").unwrap(), None);
    }

    #[test]
    fn a_request_made_again_is_answered_again_and_a_time_far_ahead_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        database.request_commitment("CT1", "T", &request("1.5", &["1.1"]), 100).unwrap();
        let first = database.due_report("CT1", 100).unwrap().unwrap();
        database.request_commitment("CT1", "T", &request("1.5", &["1.1", "1.2"]), 110).unwrap();
        database.end_report(&first).unwrap();
        let again = database.due_report("CT1", 110).unwrap().unwrap();
        assert_eq!(again.request.instances.len(), 2);
        database.put_off_report(again.id, 10_000_000_000, Some("the clock was wrong")).unwrap();
        assert!(database.due_report("CT1", 120).unwrap().is_some());
    }

    #[test]
    fn a_damaged_request_goes_and_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        for (i, damage) in
            ["instances = '[{'", "instances = X'FF'", "called = X'FF'", "attempts = -1"].iter().enumerate()
        {
            database.request_commitment("CT1", "T", &request("1.5", &["1.1"]), 100).unwrap();
            let damage = format!("UPDATE commitments SET {damage} WHERE transaction_uid = '1.5'");
            database.lock().execute(&damage, []).unwrap();
            let whole = request(&format!("1.6.{i}"), &["1.1"]);
            database.request_commitment("CT1", "T", &whole, 110).unwrap();
            let due = database.due_report("CT1", 110).unwrap().unwrap();
            assert_eq!(due.request, whole, "{damage}");
            database.end_report(&due).unwrap();
            assert_eq!(database.due_report("CT1", 110).unwrap(), None, "{damage}");
        }
    }

    #[test]
    fn no_more_than_the_most_wait() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        database.lock().execute_batch("PRAGMA synchronous = OFF").unwrap();
        for i in 0..limits::COMMITMENTS_MAX {
            assert!(database.request_commitment("CT1", "T", &request(&format!("1.{i}"), &["1"]), 1).unwrap());
        }
        assert!(!database.request_commitment("CT1", "T", &request("2.1", &["1"]), 1).unwrap());
        // One that is made again takes no place of its own.
        let again = database.request_commitment("CT1", "T", &request("1.1", &["1"]), 1).unwrap();
        let waiting = database.awaiting_reports().unwrap();
        assert_eq!((again, waiting), (false, vec![("CT1".to_owned(), limits::COMMITMENTS_MAX)]));
    }
}
