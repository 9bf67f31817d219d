//! The rows of users and their sessions. A password is here as its hash only, a session's token too.
use super::{Database, DatabaseError};
use crate::access::{Role, User};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A removed user's sessions go with them.
pub(super) const TABLES: &str = "
CREATE TABLE users (
    -- What names are compared by.
    key      TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    role     TEXT NOT NULL CHECK (role IN ('technician', 'engineer')),
    -- Argon2id, as a PHC string.
    password TEXT NOT NULL
);
CREATE TABLE sessions (
    -- SHA-256 of the token.
    digest   BLOB PRIMARY KEY,
    user_key TEXT NOT NULL REFERENCES users (key) ON DELETE CASCADE,
    begun_ms INTEGER NOT NULL,
    seen_ms  INTEGER NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_key, seen_ms);
";

/// Version 5: the setup codes of sites that have made an engineer or were there when the first one was made, as the lines that the box keeps.
/// The row `unknown`, until there are users: an older program may make the first one, and does not write down by which code.
pub(super) const SETUP_CODES: &str = "
CREATE TABLE setup_codes (code TEXT PRIMARY KEY);
INSERT INTO setup_codes VALUES ('unknown');
";

/// By whose leave a user is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// An engineer's, or of somebody at the box itself.
    User,
    /// Of whoever knows the code, which makes the first user only.
    FirstCode,
    /// Of whoever knows this new code of the site's, which makes one engineer.
    NewCode(String),
}

impl ToSql for Role {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for Role {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        let roles = [Self::Technician, Self::Engineer];
        roles.into_iter().find(|role| role.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

/// What became of a new user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Added.
    Yes {
        /// Whether the setup code is void now.
        code_is_void: bool,
    },
    /// There is one of this name.
    Exists,
    /// There is a user already, and only the first one was to be added; or the code was used.
    Void,
    /// The first one must be an engineer.
    NoEngineer,
    /// Enough.
    TooMany,
}

/// What became of the wish to remove a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// Gone.
    Yes {
        /// The name as it was written.
        name: String,
    },
    /// There is none of this name.
    Unknown,
    /// There would be no engineer left.
    LastEngineer,
}

impl Database {
    /// Whether there is any.
    pub fn has_users(&self) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))?)
    }

    /// All of them, by name.
    pub fn users(&self) -> Result<Vec<User>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT name, role FROM users ORDER BY key")?;
        let users = statement.query_map([], user)?.collect::<Result<_, _>>()?;
        Ok(users)
    }

    /// A user, and the hash of their password.
    pub fn password_of(&self, key: &str) -> Result<Option<(User, String)>, DatabaseError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT name, role, password FROM users WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| Ok((user(row)?, row.get(2)?))).optional()?)
    }

    /// Whether a site's setup code has made an engineer, or was there when the first one was made.
    pub fn setup_code_was_used(&self, code: &str) -> Result<bool, DatabaseError> {
        Ok(self.lock().query_row(
            "SELECT EXISTS (SELECT 1 FROM setup_codes WHERE code = ?1)",
            [code],
            |row| row.get(0),
        )?)
    }

    /// The site's setup code of a box that had users before it kept codes counts as used.
    pub fn settle_setup_codes(&self, code: Option<&str>) -> Result<(), DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if transaction.execute("DELETE FROM setup_codes WHERE code = 'unknown'", [])? > 0 {
            void(&transaction, code)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Adds a user; `code` is that of the site, which the first user makes void.
    pub fn add_user(
        &self,
        key: &str,
        user: &User,
        password: &str,
        by: &By,
        code: Option<&str>,
        max: u32,
    ) -> Result<Added, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let (count, exists): (u32, bool) = transaction.query_row(
            "SELECT COUNT(*), COALESCE(MAX(key = ?1), 0) FROM users",
            [key],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let first = count == 0;
        let is_void = match by {
            By::User => false,
            By::FirstCode => !first,
            By::NewCode(code) => transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM setup_codes WHERE code = ?1)",
                [code],
                |row| row.get(0),
            )?,
        };
        if is_void {
            return Ok(Added::Void);
        }
        if exists {
            return Ok(Added::Exists);
        }
        if first && user.role != Role::Engineer {
            return Ok(Added::NoEngineer);
        }
        if count >= max {
            return Ok(Added::TooMany);
        }
        transaction.execute(
            "INSERT INTO users (key, name, role, password) VALUES (?1, ?2, ?3, ?4)",
            params![key, user.name, user.role, password],
        )?;
        let voided = match by {
            By::NewCode(code) => Some(code.as_str()),
            By::User | By::FirstCode => code.filter(|_| first),
        };
        void(&transaction, voided)?;
        if first {
            transaction.execute("DELETE FROM setup_codes WHERE code = 'unknown'", [])?;
        }
        transaction.commit()?;
        Ok(Added::Yes { code_is_void: first || voided.is_some() })
    }

    /// Changes the hash of a password and ends the sessions; the user's name as it was written, or `None` if there is none.
    pub fn set_password(&self, key: &str, password: &str) -> Result<Option<String>, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let name = transaction
            .query_row(
                "UPDATE users SET password = ?2 WHERE key = ?1 RETURNING name",
                params![key, password],
                |row| row.get(0),
            )
            .optional()?;
        transaction.execute("DELETE FROM sessions WHERE user_key = ?1", [key])?;
        transaction.commit()?;
        Ok(name)
    }

    /// Removes a user, unless no engineer would be left.
    pub fn remove_user(&self, key: &str) -> Result<Removed, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let removed = transaction
            .query_row("DELETE FROM users WHERE key = ?1 RETURNING name", [key], |row| row.get(0))
            .optional()?;
        let Some(name) = removed else { return Ok(Removed::Unknown) };
        let engineers: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM users WHERE role = 'engineer')",
            [],
            |row| row.get(0),
        )?;
        if !engineers {
            return Ok(Removed::LastEngineer);
        }
        transaction.commit()?;
        Ok(Removed::Yes { name })
    }

    /// Begins a session of the user whose password has this hash; `false` if it has another one by now. Sessions that
    /// `began` or were last `seen` at these times, or ahead of now, are over and go; of the user's at most `max` stay.
    pub fn begin_session(
        &self,
        digest: &[u8; 32],
        key: &str,
        password: &str,
        now_ms: i64,
        (began_ms, seen_ms): (i64, i64),
        max: u32,
    ) -> Result<bool, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "DELETE FROM sessions WHERE begun_ms <= ?1 OR seen_ms <= ?2 OR begun_ms > ?3 OR seen_ms > ?3",
            params![began_ms, seen_ms, now_ms],
        )?;
        transaction.execute(
            "DELETE FROM sessions WHERE digest IN (SELECT digest FROM sessions WHERE user_key = ?1
                 ORDER BY seen_ms DESC, digest LIMIT -1 OFFSET ?2)",
            params![key, max.saturating_sub(1)],
        )?;
        let begun = transaction.execute(
            "INSERT INTO sessions (digest, user_key, begun_ms, seen_ms)
             SELECT ?1, key, ?4, ?4 FROM users WHERE key = ?2 AND password = ?3",
            params![digest, key, password, now_ms],
        )?;
        transaction.commit()?;
        Ok(begun == 1)
    }

    /// Whose session it is, when it began, and when it was last used.
    pub fn session(&self, digest: &[u8; 32]) -> Result<Option<(User, i64, i64)>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT u.name, u.role, s.begun_ms, s.seen_ms FROM sessions s JOIN users u ON u.key = s.user_key
             WHERE s.digest = ?1",
        )?;
        Ok(statement.query_row([digest], |row| Ok((user(row)?, row.get(2)?, row.get(3)?))).optional()?)
    }

    /// When any session was last used.
    pub fn newest_session_ms(&self) -> Result<Option<i64>, DatabaseError> {
        Ok(self.lock().query_row("SELECT MAX(seen_ms) FROM sessions", [], |row| row.get(0))?)
    }

    /// Notes that a session was used.
    pub fn saw_session(&self, digest: &[u8; 32], now_ms: i64) -> Result<(), DatabaseError> {
        self.lock().execute("UPDATE sessions SET seen_ms = ?2 WHERE digest = ?1", params![digest, now_ms])?;
        Ok(())
    }

    /// Ends a session; whose it was.
    pub fn end_session(&self, digest: &[u8; 32]) -> Result<Option<String>, DatabaseError> {
        Ok(self
            .lock()
            .query_row(
                "DELETE FROM sessions WHERE digest = ?1
                 RETURNING (SELECT name FROM users WHERE users.key = user_key)",
                [digest],
                |row| row.get(0),
            )
            .optional()?)
    }
}

fn void(connection: &Connection, code: Option<&str>) -> rusqlite::Result<usize> {
    let Some(code) = code else { return Ok(0) };
    connection.execute("INSERT OR IGNORE INTO setup_codes (code) VALUES (?1)", [code])
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User { name: row.get(0)?, role: row.get(1)? })
}
