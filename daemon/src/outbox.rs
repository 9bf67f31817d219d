//! The outbox: every result to every destination, at least once, the same bytes at every attempt.
//!
//! Owns one thread a destination, so that a dead one never delays another, and the times of the attempts. What is to
//! be delivered lies in the database; a restart goes on where it stopped. It never gives up and never changes a result.
use crate::config::DicomDestination;
use crate::database::{Database, Delivery};
use crate::intake::now_ms;
use crate::limits::DELIVERY_PAUSE_MAX_MS;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError};
use log::{info, warn};
use sha2::{Digest, Sha256};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The first pause after a failure; each further one is twice as long.
const BACKOFF_FIRST_MS: i64 = 2_000;

/// A delivery that was accepted.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Name of the destination.
    pub destination: String,
    /// Study of the result.
    pub study_uid: String,
}

/// Delivers to one destination until `wake` is closed. Anything received on `wake` makes it look at once.
pub fn deliver(
    database: &Database,
    destination: &DicomDestination,
    calling: &AeTitle,
    wake: &Receiver<()>,
    delivered: &dyn Fn(Delivered),
) -> anyhow::Result<()> {
    let called: AeTitle = destination.ae_title.parse()?;
    loop {
        while let Some(due) = database.due(&destination.name, now_ms())? {
            let sop = &due.result.sop_instance_uid;
            match send(&due, destination, calling, &called) {
                Ok(()) => {
                    database.delivered(due.result_id, &destination.name, now_ms())?;
                    info!("result {sop} of study {} accepted by {}", due.study_uid, destination.name);
                    delivered(Delivered { destination: destination.name.clone(), study_uid: due.study_uid });
                }
                Err(error) => {
                    let pause_ms = backoff_ms(due.attempts, sop);
                    warn!(
                        "result {sop} of study {} not accepted by {}: {error}; again in {:.0} s",
                        due.study_uid,
                        destination.name,
                        pause_ms as f64 / 1e3
                    );
                    database.put_off(due.result_id, &destination.name, now_ms() + pause_ms, &error)?;
                }
            }
        }
        let next = database.next_due_ms(&destination.name)?;
        // A clock that jumps back must not put a result off by more than the longest pause.
        let pause_ms =
            next.map_or(DELIVERY_PAUSE_MAX_MS, |at| (at - now_ms()).clamp(0, DELIVERY_PAUSE_MAX_MS));
        match wake.recv_timeout(Duration::from_millis(pause_ms as u64)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// The pause after an attempt that failed: doubling, capped, and spread by a quarter either way so that results that
/// failed together don't come back together. The spread follows from the UID, so that tests can repeat it.
fn backoff_ms(attempts: u32, sop_instance_uid: &str) -> i64 {
    let pause = BACKOFF_FIRST_MS.saturating_mul(1 << attempts.min(16)).min(DELIVERY_PAUSE_MAX_MS);
    let digest = Sha256::digest(format!("{sop_instance_uid} {attempts}"));
    let spread = i64::from(digest[0]) - 128;
    pause + pause * spread / 512
}

/// One attempt: a C-STORE on its own association.
fn send(
    due: &Delivery,
    destination: &DicomDestination,
    calling: &AeTitle,
    called: &AeTitle,
) -> Result<(), String> {
    let result = &due.result;
    let syntaxes = [result.transfer_syntax_uid.as_str()];
    let contexts = [(result.sop_class_uid.as_str(), syntaxes.as_slice())];
    let connect = || -> Result<Requestor, AssociationError> {
        Requestor::connect(&destination.address, calling, called, &contexts, &RequestorConfig::default())
    };
    let mut association = connect().map_err(|e| e.to_string())?;
    let answer = association
        .store(
            &result.sop_class_uid,
            &result.sop_instance_uid,
            &result.transfer_syntax_uid,
            result.data_set.as_slice(),
            result.data_set.len() as u64,
        )
        .map_err(|e| e.to_string())?;
    // The answer counts, however the association ends.
    if let Err(error) = association.release() {
        info!("{}: release: {error}", destination.name);
    }
    if answer.status.is_success() || answer.status.is_warning() {
        Ok(())
    } else {
        Err(format!("{} {}", answer.status, answer.error_comment.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        for attempts in 0..40 {
            let plain = (BACKOFF_FIRST_MS << attempts.min(16)).min(DELIVERY_PAUSE_MAX_MS);
            let pause = backoff_ms(attempts, "1.2.3");
            assert!((plain - plain / 4..=plain + plain / 4).contains(&pause), "{attempts}: {pause}");
        }
        assert_ne!(backoff_ms(3, "1.2.3"), backoff_ms(3, "1.2.4"));
    }
}
