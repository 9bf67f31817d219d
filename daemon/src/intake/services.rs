//! What scanners tell of their work and ask of us, and what archives answer: procedure steps and storage commitment.
//!
//! Owns the answers. Each is given after the database has what it acknowledges; a message that can't be used is refused
//! with its reason, and changes nothing. It never decides when a study is complete: it tells the assembler.
use super::spool::SpoolError;
use super::{Event, Intake, lock, now_ms};
use crate::commitment::{self, MessageError, Report, Request};
use crate::database::{DatabaseError, StepChange};
use crate::dataset::{DataSet, DataSetError};
use crate::limits;
use crate::procedure_steps::{self, StepError};
use dimse::acceptor::{AcceptedAssociation, DataSetEnd, NAnswer, NOperation, NRequest};
use dimse::uids::{
    MODALITY_PERFORMED_PROCEDURE_STEP, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
};
use dimse::{AssociationError, Status};
use log::{info, warn};
use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use study::{SopInstanceUid, StudyUid};

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Commitment(#[from] MessageError),
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("more than {} bytes", limits::SERVICE_DATA_SET_BYTES_MAX)]
    TooLong,
    #[error("the SOP class has no such operation")]
    Operation,
    #[error("not a SOP class of ours")]
    Class,
    #[error("SOP Instance UID is missing")]
    NoInstance,
    #[error("no such SOP instance")]
    UnknownInstance,
    #[error("the procedure step exists")]
    StepExists,
    // PS3.4 table F.7.2-2 has these words.
    #[error("Performed Procedure Step Object may no longer be updated")]
    StepEnded,
    #[error("too many procedure steps or instances for one study")]
    TooManySteps,
    #[error("calling AE title is none of dicom.callers")]
    NotAuthorized,
    #[error("no such action type")]
    ActionType,
    #[error("no such event type")]
    EventType,
    #[error("no address to report to: AE title is no [[scanner]] here")]
    NoScanner,
    #[error("too many storage commitment requests wait")]
    TooManyWait,
}

impl Refusal {
    fn status(&self) -> Status {
        match self {
            Self::Step(error) => error.status(),
            Self::Commitment(error) => error.status(),
            Self::DataSet(_) | Self::Database(_) | Self::NoScanner | Self::StepEnded => {
                Status::PROCESSING_FAILURE
            }
            Self::TooLong | Self::TooManyWait | Self::TooManySteps | Self::Spool(_) => {
                Status::RESOURCE_LIMITATION
            }
            Self::Operation => Status::UNRECOGNIZED_OPERATION,
            Self::Class => Status::NO_SUCH_SOP_CLASS,
            Self::NoInstance => Status::MISSING_ATTRIBUTE,
            Self::UnknownInstance => Status::NO_SUCH_SOP_INSTANCE,
            Self::StepExists => Status::DUPLICATE_SOP_INSTANCE,
            Self::NotAuthorized => Status::NOT_AUTHORIZED,
            Self::ActionType => Status::NO_SUCH_ACTION_TYPE,
            Self::EventType => Status::NO_SUCH_EVENT_TYPE,
        }
    }

    /// What the peer is told: the log has the database's own words.
    fn comment(&self) -> String {
        match self {
            Self::Spool(SpoolError::Full { .. }) => "disk nearly full".to_owned(),
            Self::Database(_) | Self::Spool(_) => "could not be stored".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Who hears of it after the answer.
enum Then {
    Nothing,
    /// The thread that reports to this scanner, and the assembler: it asked about these.
    Report(String, BTreeSet<SopInstanceUid>),
    /// The threads that deliver to these destinations.
    Deliver(Vec<String>),
}

impl Intake {
    /// Takes a message of an N-service and answers it. Errors end the association.
    pub(super) fn normalized(
        &self,
        association: &mut AcceptedAssociation,
        request: &NRequest,
    ) -> Result<(), AssociationError> {
        let mut bytes = Vec::new();
        let mut complete = true;
        if request.has_data_set {
            let end = association.read_data_set(&mut bytes, limits::SERVICE_DATA_SET_BYTES_MAX)?;
            complete = matches!(end, DataSetEnd::Complete { .. });
        }
        let (calling, called) = (association.request().calling.clone(), association.request().called.clone());
        let done = if complete {
            DataSet::new(&bytes, &request.context.transfer_syntax)
                .map_err(Refusal::from)
                .and_then(|set| self.perform(request, &set, calling.as_str(), called.as_str()))
        } else {
            Err(Refusal::TooLong)
        };
        match done {
            Ok(then) => {
                let answered = association.respond_normalized(request, Status::SUCCESS, NAnswer::default());
                // Whether the peer heard the answer or not: the database has it.
                self.wake(then);
                answered
            }
            Err(refusal) => {
                warn!("{:?} of {} by {calling} refused: {refusal}", request.operation, request.sop_class_uid);
                let comment = refusal.comment();
                let answer = NAnswer { error_comment: Some(&comment), ..NAnswer::default() };
                association.respond_normalized(request, refusal.status(), answer)
            }
        }
    }

    /// Tells whoever is to know of it. Whoever has stopped finds it in the database after the next start.
    fn wake(&self, then: Then) {
        let (threads, names) = match &then {
            Then::Nothing => return,
            Then::Report(scanner, _) => (&self.reporters, std::slice::from_ref(scanner)),
            Then::Deliver(destinations) => (&self.deliverers, destinations.as_slice()),
        };
        for name in names {
            let wake = lock(threads).get(name).cloned();
            if let Some(wake) = wake {
                let _ = wake.send(());
            }
        }
        if let Then::Report(_, instances) = then {
            let (taken, until_taken) = channel();
            self.tell(Event::CommitmentRequested { instances, taken });
            // Nothing is ever sent: it ends when the assembler drops its end.
            let _ = until_taken.recv();
        }
    }

    fn perform(
        &self,
        request: &NRequest,
        set: &DataSet<'_>,
        calling: &str,
        called: &str,
    ) -> Result<Then, Refusal> {
        if !matches!(request.operation, NOperation::EventReport { .. }) && !self.is_caller(calling) {
            return Err(Refusal::NotAuthorized);
        }
        let instance = request.sop_instance_uid.as_deref();
        match (request.sop_class_uid.as_str(), request.operation) {
            (MODALITY_PERFORMED_PROCEDURE_STEP, NOperation::Create) => {
                self.create_step(instance.ok_or(Refusal::NoInstance)?, set)
            }
            (MODALITY_PERFORMED_PROCEDURE_STEP, NOperation::Set) => {
                self.change_step(instance.ok_or(Refusal::NoInstance)?, set)
            }
            (STORAGE_COMMITMENT_PUSH_MODEL, NOperation::Action { action_type_id }) => {
                well_known(instance)?;
                if action_type_id != commitment::REQUEST_ACTION {
                    return Err(Refusal::ActionType);
                }
                self.request_commitment(set, calling, called)
            }
            (STORAGE_COMMITMENT_PUSH_MODEL, NOperation::EventReport { event_type_id }) => {
                well_known(instance)?;
                if !commitment::EVENTS.contains(&event_type_id) {
                    return Err(Refusal::EventType);
                }
                self.commitment_answered(set, calling)
            }
            (MODALITY_PERFORMED_PROCEDURE_STEP | STORAGE_COMMITMENT_PUSH_MODEL, _) => Err(Refusal::Operation),
            _ => Err(Refusal::Class),
        }
    }

    fn create_step(&self, uid: &str, set: &DataSet<'_>) -> Result<Then, Refusal> {
        let step = procedure_steps::create(set)?;
        // What a scanner tells takes space, too.
        self.spool.room()?;
        for study in studies(self.database.create_step(uid, &step)?)? {
            info!("study {study}: procedure step {uid} is in progress");
            self.tell(Event::StepChanged { study });
        }
        Ok(Then::Nothing)
    }

    fn change_step(&self, uid: &str, set: &DataSet<'_>) -> Result<Then, Refusal> {
        let change = procedure_steps::change(set)?;
        self.spool.room()?;
        for study in studies(self.database.change_step(uid, &change)?)? {
            let listed = change.instances.as_ref().map_or(0, Vec::len);
            info!(
                "study {study}: procedure step {uid} changed: {:?}, {listed} instances listed",
                change.state
            );
            self.tell(Event::StepChanged { study });
        }
        Ok(Then::Nothing)
    }

    fn request_commitment(&self, set: &DataSet<'_>, calling: &str, called: &str) -> Result<Then, Refusal> {
        let request = Request::read(set)?;
        if !self.config.scanners.iter().any(|scanner| scanner.ae_title == calling) {
            return Err(Refusal::NoScanner);
        }
        self.spool.room()?;
        if !self.database.request_commitment(calling, called, &request, now_ms())? {
            return Err(Refusal::TooManyWait);
        }
        let count = request.instances.len();
        info!("storage commitment {}: {calling} asks about {count} instances", request.transaction_uid);
        let uid = |r: &commitment::Reference| SopInstanceUid::new(&r.sop_instance_uid).ok();
        let instances = request.instances.iter().filter_map(uid).collect();
        Ok(Then::Report(calling.to_owned(), instances))
    }

    fn commitment_answered(&self, set: &DataSet<'_>, calling: &str) -> Result<Then, Refusal> {
        let Report { transaction_uid, committed, failed } = Report::read(set)?;
        let destination = self.database.committed(&transaction_uid, &committed, &failed, now_ms())?;
        let (kept, lost) = (committed.len(), failed.len());
        info!(
            "storage commitment {transaction_uid}: {calling} keeps {kept} of our results, {lost} it does not"
        );
        // An answer to what is not asked any more is taken all the same: the archive need not say it again.
        Ok(destination.map_or(Then::Nothing, |d| Then::Deliver(vec![d])))
    }

    /// An assembler that has stopped needs no news: the database has everything for the next start.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// The studies of a step that was made or changed.
fn studies(change: StepChange) -> Result<Vec<StudyUid>, Refusal> {
    match change {
        StepChange::Made(studies) => Ok(studies),
        StepChange::Exists => Err(Refusal::StepExists),
        StepChange::Unknown => Err(Refusal::UnknownInstance),
        StepChange::Ended => Err(Refusal::StepEnded),
        StepChange::TooMany => Err(Refusal::TooManySteps),
    }
}

/// PS3.4 section J.3.2: there is one SOP instance.
fn well_known(instance: Option<&str>) -> Result<(), Refusal> {
    if instance == Some(STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE) {
        Ok(())
    } else {
        Err(Refusal::UnknownInstance)
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
