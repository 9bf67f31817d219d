//! Storage commitment that we ask for: which results of ours a peer has accepted and not yet committed to keep.
//!
//! The other direction, scanners that ask us, is not here.
use super::outbox::{Delivery, SUPERSEDED, UNCOMMITTED, readable};
use super::{Database, DatabaseError, json};
use crate::limits;
use crate::outbox::policy::{self, Failure, History};
use rusqlite::{OptionalExtension, Transaction, params};

/// A result that was accepted and whose commitment is to be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncommitted {
    /// The row.
    pub delivery: Delivery,
    /// Whether it was asked for, and no answer came in time.
    pub unanswered: bool,
}

/// What an answer was about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answered {
    /// Results that are delivered now.
    pub kept: usize,
    /// Results that it does not keep.
    pub lost: usize,
}

impl Database {
    /// What a destination has accepted, and is to be asked about now, oldest first.
    pub fn uncommitted(
        &self,
        destination: &str,
        now_ms: i64,
        max: usize,
    ) -> Result<Vec<Uncommitted>, DatabaseError> {
        let far_ms = 2 * limits::COMMITMENT_WAIT_MS;
        let all = params![destination, now_ms, far_ms, max as i64];
        readable(&self.lock(), UNCOMMITTED, all, now_ms, |row| {
            Ok(Uncommitted { delivery: Delivery::read(row)?, unanswered: row.get(11)? })
        })
    }

    /// Notes the transaction under which these are asked for, before it is sent: the answer may come before the
    /// response to the question. Without an answer they are asked for again later.
    pub fn asking(&self, ids: &[i64], transaction_uid: &str, now_ms: i64) -> Result<(), DatabaseError> {
        self.lock().execute(
            "UPDATE outbox SET transaction_uid = ?2, next_attempt_ms = ?3
             WHERE state = 'stored' AND id IN (SELECT value FROM json_each(?1))",
            params![json(ids)?, transaction_uid, now_ms + limits::COMMITMENT_WAIT_MS],
        )?;
        Ok(())
    }

    /// A destination is not asked for commitments any more: what it accepted is delivered. How many.
    pub fn settle_stored(&self, destination: &str, now_ms: i64) -> Result<usize, DatabaseError> {
        Ok(self.lock().execute(
            "UPDATE outbox SET state = 'delivered', delivered_ms = ?2, transaction_uid = NULL
             WHERE destination = ?1 AND state = 'stored'",
            params![destination, now_ms],
        )?)
    }

    /// What a peer, which goes by these names among the destinations, answered about a transaction. What it keeps is
    /// delivered, even if it was asked again meanwhile: slow archives answer the first question. What it does not keep
    /// is asked for again for some minutes, then sent again; only the open question counts. `None`: nothing of it was
    /// asked.
    pub fn committed(
        &self,
        destinations: &[String],
        transaction_uid: &str,
        committed: &[String],
        failed: &[(String, u16)],
        now_ms: i64,
    ) -> Result<Option<Answered>, DatabaseError> {
        let destinations = json(destinations)?;
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let mut answered = Answered::default();
        for uid in committed {
            answered.kept += transaction.execute(
                "UPDATE outbox SET state = 'delivered', delivered_ms = ?3, last_error = NULL, transaction_uid = NULL
                 WHERE destination IN (SELECT value FROM json_each(?1)) AND accepted_ms IS NOT NULL
                     AND state IN ('waiting', 'stored', 'parked')
                     AND result_id = (SELECT id FROM results WHERE sop_instance_uid = ?2)",
                params![destinations, uid, now_ms],
            )?;
        }
        for (uid, reason) in failed {
            let found = transaction
                .query_row(
                    "SELECT o.id, o.accepted_ms FROM outbox o JOIN results r ON r.id = o.result_id
                     WHERE o.transaction_uid = ?1 AND r.sop_instance_uid = ?2 AND o.state = 'stored'
                         AND o.destination IN (SELECT value FROM json_each(?3))",
                    params![transaction_uid, uid, destinations],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let Some((id, accepted_ms)) = found else { continue };
            not_kept(&transaction, id, accepted_ms, uid, *reason, now_ms)?;
            answered.lost += 1;
        }
        transaction.commit()?;
        Ok((answered != Answered::default()).then_some(answered))
    }
}

/// A result that was accepted, and is not kept for the reason of PS3.3 section C.14.1.1.
fn not_kept(
    transaction: &Transaction<'_>,
    id: i64,
    accepted_ms: i64,
    uid: &str,
    reason: u16,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let reason = format!("accepted, but not kept: failure reason 0x{reason:04X} of its storage commitment");
    if let Some(pause_ms) = policy::ask_again_ms(now_ms - accepted_ms) {
        transaction.execute(
            "UPDATE outbox SET transaction_uid = NULL, next_attempt_ms = ?2, last_error = ?3 WHERE id = ?1",
            params![id, now_ms + pause_ms, reason],
        )?;
        return Ok(());
    }
    let superseded = transaction.execute(
        &format!(
            "UPDATE outbox AS o SET state = 'dropped', transaction_uid = NULL,
                 last_error = 'a later revision was accepted; before: ' || ?2
             WHERE o.id = ?1 AND {SUPERSEDED}"
        ),
        params![id, reason],
    )?;
    if superseded == 0 {
        transaction.execute("UPDATE outbox SET state = 'waiting' WHERE id = ?1", [id])?;
        let history = transaction.query_row(
            "SELECT failures, refusals, broken, COALESCE(?2 - failing_since_ms, 0) FROM outbox WHERE id = ?1",
            params![id, now_ms],
            |row| {
                let (failures, refusals, broken) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(History { failures, refusals, broken, failing_ms: row.get(3)? })
            },
        )?;
        let failure = Failure::Refused { reason: reason.into(), permanent: false };
        let fate = policy::fate(&failure, history, uid);
        super::outbox::fail(transaction, id, &failure, fate, now_ms)?;
    }
    Ok(())
}
