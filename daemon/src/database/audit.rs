//! The rows of the audit trail: who did what, kept for years, and whether the site's collector has them.
use super::{Database, DatabaseError, is_damaged, json};
use crate::audit::{Action, Event, Outcome, Subject, Who};
use log::error;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, params};

/// A row is never changed but for `waiting`.
pub(super) const TABLE: &str = "
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    event      TEXT NOT NULL
        CHECK (event IN ('start', 'stop', 'login', 'logout', 'view_list', 'view', 'acknowledge', 'change_user')),
    -- NULL: nobody was logged in.
    user       TEXT,
    -- Address; NULL: at the box itself.
    peer       TEXT,
    study_uid  TEXT,
    patient_id TEXT,
    -- change_user: whose account.
    account    TEXT,
    outcome    TEXT NOT NULL CHECK (outcome IN ('success', 'minor', 'serious')),
    text       TEXT NOT NULL,
    -- 1: the collector is still to get it.
    waiting    INTEGER NOT NULL
);
CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_waiting ON audit (id) WHERE waiting;
";

/// Version 5: an engineer has parked results sent again. The rows stay where they are: there may be millions, and a full disk must not condemn an
/// update. SQLite can't change a CHECK, so such a row is a `change_user` whose account is the destination, which is what an older program
/// takes it for.
pub(super) const RESEND: &str = "
-- 1: results were sent again, to the destination that account names. NULL: not this.
ALTER TABLE audit ADD COLUMN resend INTEGER;
";
/// How such a row is kept.
const KEPT_AS: &str = "change_user";

impl ToSql for Outcome {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for Outcome {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        let all = [Self::Success, Self::Minor, Self::Serious];
        all.into_iter().find(|outcome| outcome.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

impl Database {
    /// Keeps an event; `waiting`: a collector is to get it.
    pub fn record_audit(&self, event: &Event, waiting: bool) -> Result<(), DatabaseError> {
        let (subject, account) = match &event.action {
            Action::View(subject) | Action::Acknowledge(subject) => (Some(subject), None),
            Action::ChangeUser { name } => (None, Some(name)),
            Action::Resend { destination } => (None, Some(destination)),
            Action::Start | Action::Stop | Action::Login | Action::Logout | Action::ViewList => (None, None),
        };
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "INSERT INTO audit (at_ms, event, user, peer, study_uid, patient_id, account, outcome, text, waiting, resend)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        let resend = matches!(event.action, Action::Resend { .. });
        statement.execute(params![
            event.at_ms,
            if resend { KEPT_AS } else { event.action.name() },
            event.who.user,
            event.who.peer.map(|peer| peer.to_string()),
            subject.map(|subject| &subject.study_uid),
            subject.and_then(|subject| subject.patient_id.as_ref()),
            account,
            event.outcome,
            event.text,
            waiting,
            resend.then_some(1),
        ])?;
        Ok(())
    }

    /// What the collector is still to get, oldest first. A row that can't be read stays, and is sent to nobody.
    pub fn unsent_audit(&self, max: usize) -> Result<Vec<(i64, Event)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT id, at_ms, event, user, peer, study_uid, patient_id, account, outcome, text, resend FROM audit
             WHERE waiting ORDER BY id LIMIT ?1",
        )?;
        let rows = statement.query_map([max as i64], |row| Ok((row.get(0)?, event(row))))?;
        let rows: Vec<(i64, Result<Event, rusqlite::Error>)> = rows.collect::<Result<_, _>>()?;
        let mut unsent = Vec::new();
        for (id, event) in rows {
            match event {
                Err(damage) if is_damaged(&damage) => {
                    error!("row {id} of the audit trail can't be read and is sent to nobody: {damage}");
                    connection.execute("UPDATE audit SET waiting = 0 WHERE id = ?1", [id])?;
                }
                event => unsent.push((id, event?)),
            }
        }
        Ok(unsent)
    }

    /// The collector has these.
    pub fn sent_audit(&self, ids: &[i64]) -> Result<(), DatabaseError> {
        self.lock().execute(
            "UPDATE audit SET waiting = 0 WHERE waiting AND id IN (SELECT value FROM json_each(?1))",
            [json(ids)?],
        )?;
        Ok(())
    }

    /// Deletes what happened before a time, and the oldest beyond `max` rows; how many rows, and how many of them the
    /// collector never got.
    pub fn prune_audit(&self, before_ms: i64, max: i64) -> Result<(usize, usize), DatabaseError> {
        let connection = self.lock();
        // Ids only ever grow: the difference bounds the number of rows from above. What the collector has not got stays, however old its time
        // reads: a clock that jumped must not delete it. Some at a time: others wait for the database.
        let which = "id IN (SELECT id FROM audit WHERE at_ms < ?1 AND NOT waiting
            OR id <= (SELECT COALESCE(MAX(id), 0) FROM audit) - ?2 LIMIT 5000)";
        let unsent = connection.query_row(
            &format!("SELECT COUNT(*) FROM audit WHERE waiting AND ({which})"),
            params![before_ms, max],
            |row| row.get(0),
        )?;
        let deleted =
            connection.execute(&format!("DELETE FROM audit WHERE {which}"), params![before_ms, max])?;
        Ok((deleted, unsent))
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let name: String = row.get(2)?;
    let damaged = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
    };
    let subject =
        || -> rusqlite::Result<Subject> { Ok(Subject { study_uid: row.get(5)?, patient_id: row.get(6)? }) };
    let action = match name.as_str() {
        "start" => Action::Start,
        "stop" => Action::Stop,
        "login" => Action::Login,
        "logout" => Action::Logout,
        "view_list" => Action::ViewList,
        "view" => Action::View(subject()?),
        "acknowledge" => Action::Acknowledge(subject()?),
        KEPT_AS if row.get::<_, Option<i64>>(10)?.is_some() => Action::Resend { destination: row.get(7)? },
        "change_user" => Action::ChangeUser { name: row.get(7)? },
        _ => return Err(damaged(2, "no event that this version knows")),
    };
    let peer: Option<String> = row.get(4)?;
    let peer = peer.map(|peer| peer.parse().map_err(|_| damaged(4, "no address"))).transpose()?;
    Ok(Event {
        at_ms: row.get(1)?,
        who: Who { user: row.get(3)?, peer },
        action,
        outcome: row.get(8)?,
        text: row.get(9)?,
    })
}
