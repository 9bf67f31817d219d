//! What the screen shows: a row a study for the list, the pictures of its last outcome, and who acknowledged which alert.
//!
//! The row is written in the transactions that write what it shows, so that list and results never say different things.
use super::{Database, DatabaseError, Packed, StudyKey, json};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use study::{Outcome, Policy, Priority, Verdict};

/// Tables of the screen.
pub(super) const TABLES: &str = "
CREATE TABLE listing (
    study_id        INTEGER PRIMARY KEY REFERENCES studies (id),
    arrived_ms      INTEGER NOT NULL,
    patient_name    TEXT NOT NULL DEFAULT '',
    patient_id      TEXT NOT NULL DEFAULT '',
    birth_date      TEXT NOT NULL DEFAULT '',
    accession       TEXT NOT NULL DEFAULT '',
    description     TEXT NOT NULL DEFAULT '',
    -- Of the last outcome; NULL: there is none yet.
    revision        INTEGER,
    outcome         TEXT,
    outcome_ms      INTEGER,
    -- The place in the triage order: see `Rank`.
    rank            INTEGER NOT NULL DEFAULT 3,
    severity        REAL NOT NULL DEFAULT 0,
    -- The revision whose flag nobody has acknowledged, and since when somebody should: whatever later revisions say. NULL: there is none.
    alert_revision  INTEGER,
    alert_ms        INTEGER,
    escalated_ms    INTEGER,
    -- Of the last flag that was acknowledged.
    acknowledged_ms INTEGER,
    acknowledged_by TEXT
);
CREATE INDEX listing_by_arrival ON listing (arrived_ms);
CREATE INDEX listing_alerts ON listing (alert_ms) WHERE alert_revision IS NOT NULL;
CREATE INDEX studies_open ON studies (id) WHERE state <> 'done';
CREATE INDEX outcomes_by_time ON outcomes (at_ms);
CREATE INDEX outbox_accepted ON outbox (destination, accepted_ms);
INSERT INTO listing (study_id, arrived_ms) SELECT id, arrived_ms FROM studies;
UPDATE listing SET (revision, outcome, outcome_ms) =
    (SELECT o.revision, o.outcome, o.at_ms FROM outcomes o JOIN studies s ON s.id = o.study_id
     WHERE o.study_id = listing.study_id
     -- What was found before the images were deleted stands against too little that came later.
     ORDER BY s.images_deleted = 2 AND json_extract(o.outcome, '$.outcome') = 'not_evaluated', o.revision DESC LIMIT 1);
-- What was flagged before there was a screen was told to others, and alerts nobody now.
UPDATE listing SET
    rank = CASE json_extract(outcome, '$.outcome') WHEN 'flagged' THEN 1 WHEN 'not_evaluated' THEN 2
        WHEN 'not_flagged' THEN 4 ELSE 3 END,
    severity = COALESCE(json_extract(outcome, '$.severity.max'), 0),
    acknowledged_ms = outcome_ms,
    acknowledged_by = ''
    WHERE outcome IS NOT NULL;
CREATE TABLE acknowledgements (
    study_id    INTEGER NOT NULL REFERENCES studies (id),
    revision    INTEGER NOT NULL,
    by          TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,
    after_ms    INTEGER NOT NULL,
    PRIMARY KEY (study_id, revision)
);
CREATE TABLE views (
    study_id        INTEGER PRIMARY KEY REFERENCES studies (id),
    picture         BLOB NOT NULL,
    -- SOP Instance UIDs, head to feet.
    slices          TEXT NOT NULL,
    -- One bit a voxel, packed; NULL: outlines are not allowed.
    lesions         BLOB,
    lesions_bytes   INTEGER
);
";

/// The place in the triage order, first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Flagged, and at or above the operating point.
    Identified = 0,
    /// Flagged for its severity.
    Flagged = 1,
    /// Triage has no answer.
    NotEvaluated = 2,
    /// Not flagged. Before it come, as 3, those that have no outcome yet.
    NotFlagged = 4,
}

impl Rank {
    /// Of an outcome: as [`study::policy::triage_order`] has it.
    pub fn of(outcome: &Outcome, policy: &Policy) -> Self {
        match (outcome.priority(), outcome.findings()) {
            (Priority::High, Some(findings)) if policy.identifies(findings) => Self::Identified,
            (Priority::High, _) => Self::Flagged,
            (Priority::Medium, _) => Self::NotEvaluated,
            (Priority::Low, _) => Self::NotFlagged,
        }
    }
}

/// Whose study it is, as its images say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Patient's Name, as DICOM writes it (`Family^Given`).
    pub patient_name: String,
    /// Patient ID.
    pub patient_id: String,
    /// Patient's Birth Date.
    pub birth_date: String,
    /// Accession Number.
    pub accession: String,
    /// Study Description.
    pub description: String,
}

/// What the screen shows of an outcome beside its numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The place in the triage order.
    pub rank: Option<Rank>,
    /// Whether a flag is an alert: where there is a screen.
    pub alerts: bool,
    /// The coronal picture, a PNG file.
    pub picture: Vec<u8>,
    /// SOP Instance UIDs of the evaluated series, head to feet.
    pub slices: Vec<String>,
    /// Lesions of those slices, one bit a voxel, slice by slice, row by row, the first pixel in the lowest bit; each row starts a byte.
    pub lesions: Option<Packed>,
}

/// A row of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The study.
    pub key: StudyKey,
    /// Its UID.
    pub study_uid: String,
    /// Whose.
    pub subject: Subject,
    /// When its first instance arrived, in milliseconds since 1970.
    pub arrived_ms: i64,
    /// `receiving`, `evaluating` or `done`.
    pub state: String,
    /// Which outcome; `None`: there is none yet.
    pub revision: Option<u32>,
    /// The line of `analyze --json`.
    pub outcome: Option<String>,
    /// When it was written.
    pub outcome_ms: Option<i64>,
    /// Whether its last outcome is flagged.
    pub flagged: bool,
    /// The revision whose flag nobody has acknowledged; the last outcome may be another one.
    pub alert: Option<u32>,
    /// Who acknowledged the alert, and when; the name is empty where it was flagged before there was a screen.
    pub acknowledged: Option<(String, i64)>,
    /// When nobody had acknowledged it for too long.
    pub escalated_ms: Option<i64>,
}

impl Listed {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let rank: i64 = row.get("rank")?;
        let acknowledged_ms: Option<i64> = row.get("acknowledged_ms")?;
        let by: Option<String> = row.get("acknowledged_by")?;
        Ok(Self {
            key: StudyKey(row.get("study_id")?),
            study_uid: row.get("study_uid")?,
            subject: Subject {
                patient_name: row.get("patient_name")?,
                patient_id: row.get("patient_id")?,
                birth_date: row.get("birth_date")?,
                accession: row.get("accession")?,
                description: row.get("description")?,
            },
            arrived_ms: row.get("arrived_ms")?,
            state: row.get("state")?,
            revision: row.get("revision")?,
            outcome: row.get("outcome")?,
            outcome_ms: row.get("outcome_ms")?,
            flagged: rank <= Rank::Flagged as i64,
            alert: row.get("alert_revision")?,
            acknowledged: acknowledged_ms.map(|at_ms| (by.unwrap_or_default(), at_ms)),
            escalated_ms: row.get("escalated_ms")?,
        })
    }
}

/// Which studies a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Those that arrived from this time on; and whatever is open or alerts, and the last few, however their time reads: it was taken from a
    /// clock that may have been wrong.
    Since(i64),
    /// Those that arrived between two times.
    Between(i64, i64),
}

impl Period {
    fn parts(self) -> (&'static str, i64, i64) {
        match self {
            Self::Since(from) => (SINCE, from, i64::MAX),
            Self::Between(from, to) => (BETWEEN, from, to),
        }
    }
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The most urgent first: see [`Rank`]; then by severity, then by arrival.
    Triage,
    /// The latest first.
    Arrival,
}

/// Studies that are listed however their time reads.
const LAST_ONES: i64 = 20;

const COLUMNS: &str = "l.*, s.study_uid, s.state";

/// The studies of a list, from their indexes. `?1`, `?2`: from and to; `?3`: however many.
const SINCE: &str = "listing l JOIN studies s ON s.id = l.study_id WHERE l.study_id IN (
        SELECT study_id FROM listing WHERE arrived_ms >= ?1 AND arrived_ms < ?2
        UNION SELECT id FROM studies WHERE state <> 'done'
        UNION SELECT study_id FROM listing WHERE alert_revision IS NOT NULL
        UNION SELECT study_id FROM listing WHERE study_id > (SELECT MAX(study_id) FROM listing) - ?3)";
const BETWEEN: &str = "listing l JOIN studies s ON s.id = l.study_id WHERE l.arrived_ms >= ?1 AND l.arrived_ms < ?2 AND ?3 = ?3";

impl Database {
    /// Notes whose study is being received.
    pub fn list(&self, key: StudyKey, subject: &Subject) -> Result<(), DatabaseError> {
        let Subject { patient_name, patient_id, birth_date, accession, description } = subject;
        self.lock().execute(
            "INSERT INTO listing (study_id, arrived_ms, patient_name, patient_id, birth_date, accession, description)
             SELECT id, arrived_ms, ?2, ?3, ?4, ?5, ?6 FROM studies WHERE id = ?1
             ON CONFLICT (study_id) DO UPDATE SET patient_name = ?2, patient_id = ?3, birth_date = ?4, accession = ?5,
                 description = ?6",
            params![key.0, patient_name, patient_id, birth_date, accession, description],
        )?;
        Ok(())
    }

    /// A page of the list.
    pub fn listed(
        &self,
        period: Period,
        order: Order,
        first: usize,
        count: usize,
    ) -> Result<Vec<Listed>, DatabaseError> {
        let order = match order {
            // A study that is received again may lose its place, and must not sink meanwhile; nor may one whose flag nobody has seen.
            Order::Triage => {
                "CASE WHEN l.alert_revision IS NOT NULL THEN MIN(l.rank, 1)
                      WHEN s.state <> 'done' THEN MIN(l.rank, 3) ELSE l.rank END, l.severity DESC, l.study_id"
            }
            Order::Arrival => "l.study_id DESC",
        };
        let (chosen, from, to) = period.parts();
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM {chosen} ORDER BY {order} LIMIT ?4 OFFSET ?5"))?;
        let rows =
            statement.query_map(params![from, to, LAST_ONES, count as i64, first as i64], Listed::read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many studies a list has.
    pub fn listed_count(&self, period: Period) -> Result<usize, DatabaseError> {
        let (chosen, from, to) = period.parts();
        let sql = format!("SELECT COUNT(*) FROM {chosen}");
        let count: i64 = self.lock().query_row(&sql, params![from, to, LAST_ONES], |row| row.get(0))?;
        Ok(count as usize)
    }

    /// One study.
    pub fn listed_one(&self, key: StudyKey) -> Result<Option<Listed>, DatabaseError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM listing l JOIN studies s ON s.id = l.study_id WHERE l.study_id = ?1"
        );
        Ok(self.lock().query_row(&sql, [key.0], Listed::read).optional()?)
    }

    /// The alerts that nobody has acknowledged, the most urgent first; at most `count`.
    pub fn alerts(&self, count: usize) -> Result<Vec<Listed>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM listing l JOIN studies s ON s.id = l.study_id
             WHERE l.alert_revision IS NOT NULL ORDER BY l.rank, l.severity DESC, l.study_id LIMIT ?1"
        ))?;
        let rows = statement.query_map([count as i64], Listed::read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many alerts nobody has acknowledged, and how many of them for too long.
    pub fn alert_counts(&self) -> Result<(u32, u32), DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT COUNT(*), COUNT(escalated_ms) FROM listing WHERE alert_revision IS NOT NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    /// Notes who acknowledged the alert of a revision; `false` if it is none any more: somebody was faster, or a later revision is flagged, too.
    pub fn acknowledge(
        &self,
        key: StudyKey,
        revision: u32,
        by: &str,
        now_ms: i64,
    ) -> Result<bool, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let changed = transaction.execute(
            "INSERT INTO acknowledgements (study_id, revision, by, at_ms, after_ms)
             SELECT study_id, alert_revision, ?3, ?4, ?4 - alert_ms FROM listing
             WHERE study_id = ?1 AND alert_revision = ?2",
            params![key.0, revision, by, now_ms],
        )?;
        transaction.execute(
            "UPDATE listing SET acknowledged_ms = ?4, acknowledged_by = ?3, alert_revision = NULL, alert_ms = NULL,
                 escalated_ms = NULL WHERE study_id = ?1 AND alert_revision = ?2",
            params![key.0, revision, by, now_ms],
        )?;
        transaction.commit()?;
        Ok(changed == 1)
    }

    /// Who acknowledged which revision of a study, and when.
    pub fn acknowledgements(&self, key: StudyKey) -> Result<Vec<(u32, String, i64)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT revision, by, at_ms FROM acknowledgements WHERE study_id = ?1 ORDER BY revision",
        )?;
        let rows = statement.query_map([key.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Marks the alerts that were there before `before_ms`, and that nobody has acknowledged, as escalated; returns them. One from the future
    /// is escalated, too: the clock was wrong, and nobody knows for how long it has waited.
    pub fn escalate(&self, before_ms: i64, now_ms: i64) -> Result<Vec<(StudyKey, String)>, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let due = {
            let mut statement = transaction.prepare_cached(
                "UPDATE listing SET escalated_ms = ?2
                 WHERE alert_revision IS NOT NULL AND escalated_ms IS NULL
                     AND (alert_ms <= ?1 OR alert_ms > ?2 + 60000)
                 RETURNING study_id, (SELECT study_uid FROM studies WHERE id = study_id)",
            )?;
            let rows =
                statement.query_map([before_ms, now_ms], |row| Ok((StudyKey(row.get(0)?), row.get(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        transaction.commit()?;
        Ok(due)
    }

    /// The coronal picture of a study.
    pub fn picture(&self, key: StudyKey) -> Result<Option<Vec<u8>>, DatabaseError> {
        let sql = "SELECT picture FROM views WHERE study_id = ?1";
        Ok(self.lock().query_row(sql, [key.0], |row| row.get(0)).optional()?)
    }

    /// SOP Instance UIDs of the evaluated series, head to feet; empty where there is none.
    pub fn view_slices(&self, key: StudyKey) -> Result<Vec<String>, DatabaseError> {
        let sql = "SELECT slices FROM views WHERE study_id = ?1";
        let slices: Option<String> = self.lock().query_row(sql, [key.0], |row| row.get(0)).optional()?;
        Ok(slices.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// The lesions of the evaluated series, as in [`View::lesions`].
    pub fn view_lesions(&self, key: StudyKey) -> Result<Option<Vec<u8>>, DatabaseError> {
        let sql = "SELECT lesions, lesions_bytes FROM views WHERE study_id = ?1 AND lesions IS NOT NULL";
        let unpacked = self.lock().query_row(sql, [key.0], |row| {
            Packed { bytes: row.get(0)?, unpacked_bytes: row.get(1)? }.unpack()
        });
        Ok(unpacked.optional()?)
    }

    /// Deletes the pictures of studies that were done before `done_before_ms`, and whose they were; not of an alert that waits.
    pub fn delete_views(&self, done_before_ms: i64) -> Result<(), DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let old = "study_id IN (SELECT id FROM studies WHERE state = 'done' AND done_ms < ?1)
            AND study_id NOT IN (SELECT study_id FROM listing WHERE alert_revision IS NOT NULL)";
        transaction.execute(&format!("DELETE FROM views WHERE {old}"), [done_before_ms])?;
        transaction.execute(
            &format!(
                "UPDATE listing SET patient_name = '', patient_id = '', birth_date = '', accession = '', description = ''
                 WHERE (patient_name <> '' OR patient_id <> '' OR accession <> '') AND {old}"
            ),
            [done_before_ms],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Times from the last slice to the outcome of the studies that had theirs since `since_ms`, in milliseconds.
    pub fn latencies_ms(&self, since_ms: i64) -> Result<Vec<f64>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT json_extract(outcome, '$.timings_ms.last_slice_to_outcome') AS ms FROM outcomes
             WHERE at_ms >= ?1 AND ms IS NOT NULL",
        )?;
        let rows = statement.query_map([since_ms], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Writes what the list and the study's page show of an outcome.
pub(super) fn show(
    transaction: &Transaction<'_>,
    key: StudyKey,
    revision: u32,
    (outcome, text): (&Outcome, &str),
    view: &View,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let rank = view.rank.unwrap_or(match outcome.verdict {
        Verdict::Flagged(_) => Rank::Flagged,
        Verdict::NotEvaluated(_) => Rank::NotEvaluated,
        Verdict::NotFlagged(_) => Rank::NotFlagged,
    });
    let severity = outcome.findings().and_then(study::Findings::severity).unwrap_or(0.0);
    transaction.execute(
        "INSERT INTO listing (study_id, arrived_ms) SELECT id, arrived_ms FROM studies WHERE id = ?1
         ON CONFLICT DO NOTHING",
        [key.0],
    )?;
    transaction.execute(
        "UPDATE listing SET revision = ?2, outcome = ?3, outcome_ms = ?4, rank = ?5, severity = ?6 WHERE study_id = ?1",
        params![key.0, revision, text, now_ms, rank as i64, severity],
    )?;
    if rank <= Rank::Flagged && view.alerts {
        // An alert that nobody has acknowledged goes on; its time stays.
        transaction.execute(
            "UPDATE listing SET alert_revision = ?2, alert_ms = COALESCE(alert_ms, ?3), acknowledged_ms = NULL,
                 acknowledged_by = NULL WHERE study_id = ?1",
            params![key.0, revision, now_ms],
        )?;
    }
    let (lesions, lesions_bytes) =
        view.lesions.as_ref().map_or((None, None), |l| (Some(&l.bytes), l.unpacked_bytes));
    transaction.execute(
        "INSERT OR REPLACE INTO views (study_id, picture, slices, lesions, lesions_bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![key.0, view.picture, json(&view.slices)?, lesions, lesions_bytes],
    )?;
    Ok(())
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
