//! Storage commitment (PS3.4 annex J): scanners ask us whether we have their images; archives tell us that they have our
//! results.
//!
//! Owns the data sets of both, what is committed, and the reports to the scanners: a thread for each `[[scanner]]`, so
//! that one that is switched off delays no other. A request is in the database before it is acknowledged; its report
//! goes out on an association of its own, and is tried again for a day.
//!
//! **What our commitment means.** An instance is committed when it is filed and synced: it survives a power failure. The
//! box is no archive: it lets go of images after `storage.keep_days`, earlier when space runs short, and answers no
//! query and no retrieval. A scanner that deletes its images on our word alone loses them. It commits so that scanners
//! that insist on an answer go on; the archive's commitment is the one to delete by.
use crate::config::Scanner;
use crate::database::{Database, DueReport};
use crate::dataset::{DataSet, DataSetError, Writer};
use crate::intake::now_ms;
use crate::intake::spool::{Spool, SpoolError};
use crate::limits::{COMMITMENT_ATTEMPTS_MAX, DELIVERY_PAUSE_MAX_MS, REFERENCES_MAX};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::uids::{
    IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
};
use dimse::{AeTitle, RoleSelection, Status, TlsClient};
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use study::{SopInstanceUid, UidError};

/// N-ACTION: request storage commitment (PS3.4 table J.3-1).
pub const REQUEST_ACTION: u16 = 1;
/// N-EVENT-REPORT: all instances are committed (PS3.4 table J.3-2).
const ALL_COMMITTED: u16 = 1;
/// N-EVENT-REPORT: some are not.
const FAILURES_EXIST: u16 = 2;

/// The event types that there are.
pub const EVENTS: [u16; 2] = [ALL_COMMITTED, FAILURES_EXIST];

/// How long a report waits for instances that are not there: a scanner may ask while they are on their way.
const MISSING_WAIT_MS: i64 = 5_000;
/// How often it looks.
const MISSING_PAUSE_MS: i64 = 500;
/// The pause after the first attempt that failed; each further one is twice as long.
const BACKOFF_FIRST_MS: i64 = 2_000;

/// An instance that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// SOP Class UID.
    pub sop_class_uid: String,
    /// SOP Instance UID.
    pub sop_instance_uid: String,
}

/// A scanner's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Transaction UID, chosen by the scanner.
    pub transaction_uid: String,
    /// What it asks about.
    pub instances: Vec<Reference>,
}

/// An archive's answer to a request of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Transaction UID of our request.
    pub transaction_uid: String,
    /// SOP Instance UIDs that it keeps.
    pub committed: Vec<String>,
    /// SOP Instance UIDs that it does not keep, with its reasons (PS3.3 section C.14.1.1).
    pub failed: Vec<(String, u16)>,
}

/// Why a request or a report can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The data set can't be read.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    /// An element is missing.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// An identifier that can't be one.
    #[error("{name}: {why}")]
    Identifier {
        /// Of which element.
        name: &'static str,
        /// Why.
        why: UidError,
    },
}

impl MessageError {
    /// The status of the answer (PS3.7 sections 10.1.1.1.8 and 10.1.4.1.10).
    pub fn status(&self) -> Status {
        match self {
            Self::DataSet(DataSetError::TooManyItems { .. }) => Status::RESOURCE_LIMITATION,
            Self::DataSet(_) => Status::PROCESSING_FAILURE,
            Self::Missing { .. } | Self::Identifier { .. } => Status::INVALID_ARGUMENT_VALUE,
        }
    }
}

impl Request {
    /// Reads the action information of an N-ACTION.
    pub fn read(set: &DataSet<'_>) -> Result<Self, MessageError> {
        let transaction_uid = uid(set, tags::TRANSACTION_UID, "Transaction UID")?;
        let instances: Vec<Reference> = set
            .items(tags::REFERENCED_SOP_SEQUENCE, REFERENCES_MAX)?
            .iter()
            .map(|item| {
                Ok(Reference {
                    sop_class_uid: uid(item, tags::REFERENCED_SOP_CLASS_UID, "Referenced SOP Class UID")?,
                    sop_instance_uid: instance(item)?,
                })
            })
            .collect::<Result<_, MessageError>>()?;
        if instances.is_empty() {
            return Err(MessageError::Missing { name: "Referenced SOP Sequence" });
        }
        Ok(Self { transaction_uid, instances })
    }
}

impl Report {
    /// Reads the event information of an N-EVENT-REPORT.
    pub fn read(set: &DataSet<'_>) -> Result<Self, MessageError> {
        let transaction_uid = uid(set, tags::TRANSACTION_UID, "Transaction UID")?;
        let committed = set.items(tags::REFERENCED_SOP_SEQUENCE, REFERENCES_MAX)?;
        let failed = set.items(tags::FAILED_SOP_SEQUENCE, REFERENCES_MAX)?;
        let reason = |item: &DataSet<'_>| -> Result<(String, u16), MessageError> {
            let reason = item.u16(tags::FAILURE_REASON)?;
            Ok((instance(item)?, reason.unwrap_or(Status::PROCESSING_FAILURE.0)))
        };
        Ok(Self {
            transaction_uid,
            committed: committed.iter().map(instance).collect::<Result<_, _>>()?,
            failed: failed.iter().map(reason).collect::<Result<_, _>>()?,
        })
    }
}

fn instance(item: &DataSet<'_>) -> Result<String, MessageError> {
    uid(item, tags::REFERENCED_SOP_INSTANCE_UID, "Referenced SOP Instance UID")
}

/// A UID by the rules of [`study::ids`]: what peers send is echoed as received, if it can be.
fn uid(set: &DataSet<'_>, tag: Tag, name: &'static str) -> Result<String, MessageError> {
    let text = set.text(tag)?.ok_or(MessageError::Missing { name })?;
    let uid = SopInstanceUid::new(&text).map_err(|why| MessageError::Identifier { name, why })?;
    Ok(uid.as_str().to_owned())
}

/// Why an instance is not committed; `None` if it is. `filed` has the SOP classes of what is here.
fn failure(reference: &Reference, filed: &HashMap<&str, String>) -> Option<Status> {
    match filed.get(reference.sop_instance_uid.as_str()) {
        None => Some(Status::NO_SUCH_SOP_INSTANCE),
        Some(class) if *class != reference.sop_class_uid => Some(Status::CLASS_INSTANCE_CONFLICT),
        Some(_) => None,
    }
}

/// The event type and the event information, in implicit VR little endian (PS3.4 table J.3-2).
fn report(request: &Request, filed: &HashMap<&str, String>) -> (u16, Vec<u8>) {
    let item = |reference: &Reference| {
        Writer::default()
            .uid(tags::REFERENCED_SOP_CLASS_UID, &reference.sop_class_uid)
            .uid(tags::REFERENCED_SOP_INSTANCE_UID, &reference.sop_instance_uid)
    };
    let (mut committed, mut failed) = (Vec::new(), Vec::new());
    for reference in &request.instances {
        match failure(reference, filed) {
            None => committed.push(item(reference)),
            Some(reason) => failed.push(item(reference).u16(tags::FAILURE_REASON, reason.0)),
        }
    }
    let event = if failed.is_empty() { ALL_COMMITTED } else { FAILURES_EXIST };
    let mut set = Writer::default().uid(tags::TRANSACTION_UID, &request.transaction_uid);
    // Either sequence is there only if it has items.
    if !failed.is_empty() {
        set = set.sequence(tags::FAILED_SOP_SEQUENCE, failed);
    }
    if !committed.is_empty() {
        set = set.sequence(tags::REFERENCED_SOP_SEQUENCE, committed);
    }
    (event, set.finish())
}

/// Reports to one scanner.
pub struct Reporter {
    /// What waits.
    pub database: Arc<Database>,
    /// What is here.
    pub spool: Arc<Spool>,
    /// Whom it is told.
    pub scanner: Scanner,
    /// TLS, if the scanner wants it.
    pub tls: Option<TlsClient>,
}

impl Reporter {
    /// Reports until `wake` is closed. Anything received on it makes it look at once.
    pub fn run(&self, wake: &Receiver<()>) -> anyhow::Result<()> {
        let scanner = self.scanner.ae_title.as_str();
        loop {
            while let Some(due) = self.database.due_report(scanner, now_ms())? {
                self.attend(&due)?;
                if !matches!(wake.try_recv(), Ok(()) | Err(std::sync::mpsc::TryRecvError::Empty)) {
                    return Ok(());
                }
            }
            let next = self.database.next_report_ms(scanner)?;
            // A clock that jumps back must not put a report off by more than the longest pause.
            let pause_ms =
                next.map_or(DELIVERY_PAUSE_MAX_MS, |at| (at - now_ms()).clamp(0, DELIVERY_PAUSE_MAX_MS));
            match wake.recv_timeout(Duration::from_millis(pause_ms as u64)) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// One attempt at a report.
    fn attend(&self, due: &DueReport) -> anyhow::Result<()> {
        let (request, scanner) = (&due.request, self.scanner.ae_title.as_str());
        let transaction = &request.transaction_uid;
        let filed = self.spool.filed(request.instances.iter().map(|r| r.sop_instance_uid.as_str()));
        let missing = filed
            .as_ref()
            .map_or(0, |filed| request.instances.len() - filed.len().min(request.instances.len()));
        // Not less than nothing: the clock may have been put back.
        let waited_ms = (now_ms() - due.requested_ms).max(0);
        if missing > 0 && due.attempts == 0 && waited_ms < MISSING_WAIT_MS {
            self.database.put_off_report(due.id, now_ms() + MISSING_PAUSE_MS, None)?;
            return Ok(());
        }
        match filed.map_err(Failed::Spool).and_then(|filed| self.send(due, &filed)) {
            Ok(failures) => {
                let instances = request.instances.len();
                info!(
                    "storage commitment {transaction}: {scanner} was told of {instances} instances, {failures} not committed"
                );
                Ok(self.database.end_report(due)?)
            }
            Err(error) if error.is_final() || due.attempts + 1 >= COMMITMENT_ATTEMPTS_MAX => {
                warn!(
                    "storage commitment {transaction}: given up after {} attempts, {scanner} never took the report: {error}",
                    due.attempts + 1
                );
                Ok(self.database.end_report(due)?)
            }
            Err(error) => {
                let pause_ms = backoff_ms(due.attempts);
                warn!(
                    "storage commitment {transaction}: {scanner} did not take the report: {error}; again in {} s",
                    pause_ms / 1000
                );
                Ok(self.database.put_off_report(due.id, now_ms() + pause_ms, Some(&error.to_string()))?)
            }
        }
    }

    /// Sends a report on a new association; returns how many instances were not committed.
    fn send(&self, due: &DueReport, filed: &HashMap<&str, String>) -> Result<usize, Failed> {
        let parse = |title: &str| title.parse::<AeTitle>().map_err(|e| Failed::Peer(e.to_string()));
        let (us, them) = (parse(&due.called)?, parse(&self.scanner.ae_title)?);
        // PS3.4 section J.3.3: on an association of its own, the provider proposes its role.
        let role =
            RoleSelection { sop_class_uid: STORAGE_COMMITMENT_PUSH_MODEL.to_owned(), scu: false, scp: true };
        let config =
            RequestorConfig { tls: self.tls.clone(), roles: vec![role], ..RequestorConfig::default() };
        let contexts: &[(&str, &[&str])] = &[(STORAGE_COMMITMENT_PUSH_MODEL, &[IMPLICIT_VR_LITTLE_ENDIAN])];
        let broken = |error: dimse::AssociationError| Failed::Peer(error.to_string());
        let mut association =
            Requestor::connect(self.scanner.address.as_str(), &us, &them, contexts, &config)
                .map_err(broken)?;
        let (event, set) = report(&due.request, filed);
        let answer = association
            .event_report(STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE, event, &set)
            .map_err(broken)?;
        // The answer counts, however the association ends.
        if let Err(error) = association.release() {
            info!("{}: release: {error}", self.scanner.ae_title);
        }
        if answer.status.is_failure() {
            return Err(Failed::Refused { status: answer.status });
        }
        Ok(due.request.instances.iter().filter(|r| failure(r, filed).is_some()).count())
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Spool(SpoolError),
    #[error("{0}")]
    Peer(String),
    /// Not with the scanner's comment: it may name the patient.
    #[error("it answered {status}")]
    Refused { status: Status },
}

impl Failed {
    /// The scanner has heard it and does not want it: a transaction that it does not know, say. It will not change its
    /// mind.
    fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status } if !status.is_retryable())
    }
}

fn backoff_ms(attempts: u32) -> i64 {
    BACKOFF_FIRST_MS.saturating_mul(1 << attempts.min(16)).min(DELIVERY_PAUSE_MAX_MS)
}

#[cfg(test)]
#[path = "commitment_tests.rs"]
mod tests;
