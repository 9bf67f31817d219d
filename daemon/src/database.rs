//! The appliance's memory: studies and their outcomes, results and their delivery, users, the audit trail. SQLite, WAL,
//! `synchronous=FULL`.
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
mod audit;
mod commitment_requests;
mod commitments;
mod kind;
mod listing;
mod operator;
mod outbox;
mod packed;
mod procedure_steps;
mod schema;
mod studies;
mod support;
mod users;

pub use commitment_requests::{Answered, Uncommitted};
pub use commitments::DueReport;
pub use kind::Kind;
pub use listing::{Listed, Order, Period, Rank, Subject, View};
pub use operator::{Entry, Selection};
pub use outbox::{Counts, Delivery, Kept, Payload};
pub use packed::Packed;
pub use procedure_steps::StepChange;
pub use studies::UnderWay;
pub use users::{Added, By, Removed};

use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a statement waits for another process: `triaged outbox` writes for milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite said so.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file was written by a newer version, and this one would spoil it.
    #[error(
        "the database has schema {found}, which needs a triaged that knows {oldest} or newer; this one knows {}: start the newer version again",
        schema::VERSION
    )]
    Newer {
        /// The schema's version found.
        found: i64,
        /// The oldest version that may work on it.
        oldest: i64,
    },
    /// The file was written by an older version, and only the daemon may bring it up.
    #[error(
        "the database has schema {found}, this version knows {}; start this version's daemon once, it brings it up",
        schema::VERSION
    )]
    Older {
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
    /// What it is.
    pub kind: Kind,
    /// SOP Class UID; empty for HL7.
    pub sop_class_uid: String,
    /// SOP Instance UID; for HL7 the message control id (MSH-10). One a result, over all studies.
    pub sop_instance_uid: String,
    /// Transfer Syntax UID of the data set; empty for HL7.
    pub transfer_syntax_uid: String,
    /// The data set, encoded, without the file's head; for HL7 the message.
    pub data_set: Packed,
}

/// A result and who gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Deliverable {
    /// The result.
    pub row: ResultRow,
    /// Names of destinations.
    pub destinations: Vec<String>,
}

/// A handle to the database; every thread shares one.
pub struct Database {
    connection: Mutex<Connection>,
}

impl Database {
    /// Opens or creates the file, and brings an older one up.
    ///
    /// # Errors
    /// [`DatabaseError`]: not a database, no space, or written by a newer version.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let mut connection = Connection::open(path)?;
        prepare(&mut connection)?;
        schema::bring_up(&mut connection)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Opens a file that the daemon made, and may have open.
    ///
    /// # Errors
    /// [`DatabaseError`]: not there, not a database, or of another version.
    pub fn open_beside_the_daemon(path: &Path) -> Result<Self, DatabaseError> {
        let flags = rusqlite::OpenFlags::default() & !rusqlite::OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = Connection::open_with_flags(path, flags)?;
        prepare(&mut connection)?;
        schema::check(&connection)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// What SQLite finds wrong with the file; `None` if `patience` ended before it was through and nothing was found till then. No other statement
    /// gets its turn meanwhile.
    pub fn faults(&self, patience: Duration) -> Result<Option<Vec<String>>, DatabaseError> {
        let connection = self.lock();
        let interrupt = connection.get_interrupt_handle();
        let (done, waits) = std::sync::mpsc::channel::<()>();
        let looked = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = waits.recv_timeout(patience) {
                    interrupt.interrupt();
                }
            });
            let mut statement = connection.prepare("PRAGMA quick_check(5)")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>();
            drop(done);
            rows
        });
        match looked {
            Ok(lines) => Ok(Some(lines.into_iter().filter(|line| line != "ok").collect())),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread leaves no half transaction: SQLite rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(connection: &mut Connection) -> Result<(), DatabaseError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A transaction that read before another process wrote could not write any more.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Promise 3: what was acknowledged survives a power failure.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// Whether what stands in one row can't be read, while the database works.
fn is_damaged(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    )
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, DatabaseError> {
    Ok(serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?)
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
