//! Storage commitment that we ask for: which results of ours a peer has accepted and not yet committed to keep.
//!
//! The other direction, scanners that ask us, is not here.
use super::outbox::Delivery;
use super::{Database, DatabaseError, json};
use crate::limits;
use crate::outbox::policy::{self, Failure};
use rusqlite::{OptionalExtension, params};

/// A result that was accepted and whose commitment is to be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncommitted {
    /// The row.
    pub delivery: Delivery,
    /// Whether it was asked for, and no answer came in time.
    pub unanswered: bool,
}

impl Database {
    /// What a destination has accepted, and is to be asked about now, oldest first.
    pub fn uncommitted(
        &self,
        destination: &str,
        now_ms: i64,
        max: usize,
    ) -> Result<Vec<Uncommitted>, DatabaseError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {}, o.transaction_uid IS NOT NULL
             FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
             WHERE o.destination = ?1 AND o.state = 'stored'
                 AND (o.next_attempt_ms <= ?2 OR o.next_attempt_ms > ?2 + ?3)
             ORDER BY o.id LIMIT ?4",
            Delivery::COLUMNS
        ))?;
        let far_ms = 2 * limits::COMMITMENT_WAIT_MS;
        let rows = statement.query_map(params![destination, now_ms, far_ms, max as i64], |row| {
            Ok(Uncommitted { delivery: Delivery::read(row)?, unanswered: row.get(9)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
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

    /// What a peer answered about a transaction of ours, by SOP instance: what it keeps is delivered; what it does not
    /// is sent again, or parked, as if it had been refused. Returns the destination; `None`: no such transaction is
    /// open, because it was answered before or asked for again.
    pub fn committed(
        &self,
        transaction_uid: &str,
        committed: &[String],
        failed: &[(String, u16)],
        now_ms: i64,
    ) -> Result<Option<String>, DatabaseError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let destination: Option<String> = transaction
            .query_row(
                "SELECT destination FROM outbox WHERE transaction_uid = ?1",
                [transaction_uid],
                |row| row.get(0),
            )
            .optional()?;
        let find = format!(
            "SELECT {} FROM outbox o JOIN results r ON r.id = o.result_id JOIN studies s ON s.id = r.study_id
             WHERE o.transaction_uid = ?1 AND r.sop_instance_uid = ?2 AND o.state = 'stored'",
            Delivery::COLUMNS
        );
        for uid in committed {
            transaction.execute(
                "UPDATE outbox SET state = 'delivered', delivered_ms = ?3, last_error = NULL, transaction_uid = NULL
                 WHERE transaction_uid = ?1 AND state = 'stored'
                     AND result_id = (SELECT id FROM results WHERE sop_instance_uid = ?2)",
                params![transaction_uid, uid, now_ms],
            )?;
        }
        for (uid, reason) in failed {
            let found =
                transaction.query_row(&find, params![transaction_uid, uid], Delivery::read).optional()?;
            let Some(delivery) = found else { continue };
            let reason =
                format!("accepted, but not kept: failure reason 0x{reason:04X} of its storage commitment");
            let failure = Failure::Refused { reason, permanent: false };
            let fate = policy::fate(&failure, delivery.history(), uid);
            // What it does not keep has to be sent again.
            transaction.execute("UPDATE outbox SET state = 'waiting' WHERE id = ?1", [delivery.id])?;
            super::outbox::fail(&transaction, delivery.id, &failure, fate, now_ms)?;
        }
        transaction.commit()?;
        Ok(destination)
    }
}
