//! Filing: from a received data set to its study's folder, the database and the assembler.
//!
//! Owns the order of these steps, on which promise 3 rests: sealed and synced, then due in the database, then moved to
//! its study, then acknowledged. A power failure between any two leaves an instance that was acknowledged in a study
//! that is due.
use super::assembler::AssociationId;
use super::spool::{self, Filed, SpoolError};
use super::{Event, Intake, Receiving, now_ms};
use crate::database::{DatabaseError, StudyKey};
use crate::instance::{self, Instance};
use crate::limits;
use dimse::Status;
use log::{info, warn};
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;
use study::StudyUid;
use study::series::ImageKind;

/// Why an instance was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Unreadable(#[from] instance::InstanceError),
    #[error("the data set holds SOP Instance UID {found}, the command {announced}")]
    OtherInstance { found: String, announced: String },
    #[error("the study has {} instances already", limits::INSTANCES_PER_STUDY_MAX)]
    TooManyInstances,
    #[error("{held} instances wait for their evaluation, the most is {}", limits::INSTANCES_HELD_MAX)]
    TooManyHeld { held: usize },
    #[error("the sender is none of dicom.callers")]
    NotAuthorized,
    #[error("the assembler has stopped")]
    Stopped,
}

impl StoreError {
    /// The status of the C-STORE response (PS3.4 table B.2-1) and a comment that does not name a path.
    pub(super) fn status(&self) -> (Status, &'static str) {
        match self {
            Self::Spool(SpoolError::Full { .. }) => (Status::OUT_OF_RESOURCES, "disk nearly full"),
            Self::Spool(_) | Self::Database(_) | Self::Stopped => {
                (Status::OUT_OF_RESOURCES, "could not be stored")
            }
            Self::TooManyInstances => (Status::OUT_OF_RESOURCES, "too many instances in the study"),
            Self::TooManyHeld { .. } => (Status::OUT_OF_RESOURCES, "too many instances wait for evaluation"),
            Self::NotAuthorized => (Status::NOT_AUTHORIZED, "calling AE title is none of dicom.callers"),
            Self::Unreadable(_) => (Status::CANNOT_UNDERSTAND, "data set could not be read"),
            Self::OtherInstance { .. } => {
                (Status::DATASET_MISMATCH, "SOP Instance UID differs from the command")
            }
        }
    }
}

/// What is to become of an instance.
enum Admitted {
    /// It belongs to a study that is being received.
    Receiving(StudyKey),
    /// Its study has it.
    There,
    /// Its study is complete, and it is no slice: a dose report, a localizer. It is kept with the others, and the
    /// outcome stands.
    Beside(StudyKey),
}

impl Intake {
    /// Seals a received part, files it under its study and tells the assembler.
    pub(super) fn keep(
        &self,
        part: spool::Part,
        announced: &str,
        id: AssociationId,
    ) -> Result<(), StoreError> {
        // Read before it is sealed: what can't be read is refused, and leaves nothing behind.
        let instance = Instance::parse(part.path(), part.bytes())?;
        if instance.header.instance.as_str() != announced {
            return Err(StoreError::OtherInstance {
                found: instance.header.instance.to_string(),
                announced: announced.to_owned(),
            });
        }
        let sealed = part.seal()?;
        self.file(&sealed, instance, Some(id))
    }

    /// Files a sealed instance under its study; used for what a power failure left unfiled, too. What is refused
    /// leaves nothing behind, so that a restart does not find it.
    fn file(&self, sealed: &Path, instance: Instance, id: Option<AssociationId>) -> Result<(), StoreError> {
        let result = self.try_file(sealed, instance, id);
        // After a restart it may have been acknowledged: it stays, unless its study is full.
        let refused = match &result {
            Ok(()) | Err(StoreError::Stopped) => false,
            Err(StoreError::TooManyInstances) => true,
            Err(_) => id.is_some(),
        };
        if refused && let Err(error) = self.spool.discard(sealed) {
            warn!("what was refused stays in the spool: {error}");
        }
        result
    }

    fn try_file(
        &self,
        sealed: &Path,
        instance: Instance,
        id: Option<AssociationId>,
    ) -> Result<(), StoreError> {
        let study = instance.header.study.clone();
        let uid = instance.header.instance.clone();
        // An archive that forwards what is new in a study sends us our own results. They must not reopen it: each
        // revision would bring the next.
        if instance.header.kind == ImageKind::Other && self.database.is_result(uid.as_str())? {
            info!("instance {uid} is a result of ours that came back; it is not kept");
            return Ok(self.spool.discard(sealed)?);
        }
        let key = match self.admit(&instance, sealed)? {
            Admitted::Receiving(key) => key,
            Admitted::There => return self.repeated(&study, uid.as_str(), id),
            Admitted::Beside(key) => {
                self.spool.file(sealed, key, uid.as_str())?;
                info!(
                    "instance {uid} came after its study was complete and is no slice: it is kept, no more"
                );
                return Ok(self.database.has_files(key)?);
            }
        };
        let path = match self.spool.file(sealed, key, uid.as_str()) {
            Ok(Filed::New(path)) => path,
            Ok(Filed::Replaced(path)) => {
                warn!("instance {uid} came again with other content; the newer one counts");
                path
            }
            Ok(Filed::Duplicate) => {
                self.unchanged(key, &study)?;
                return self.repeated(&study, uid.as_str(), id);
            }
            Err(error) => {
                self.unchanged(key, &study)?;
                return Err(error.into());
            }
        };
        if let Some(receiving) = self.receiving().get_mut(&study) {
            receiving.instances += 1;
        }
        let instance = Arc::new(Instance { path, ..instance });
        self.events.send(Event::Arrived { association: id, key, instance }).map_err(|_| StoreError::Stopped)
    }

    /// What is to become of an instance. If it is to be evaluated, it is counted as on its way, and its study is
    /// being received in the database *before* the instance is moved to it: if the power fails in between, the study
    /// is still due. Nothing changes otherwise.
    fn admit(&self, instance: &Instance, sealed: &Path) -> Result<Admitted, StoreError> {
        let (study, uid) = (&instance.header.study, instance.header.instance.as_str());
        let begin = |receiving: &mut Receiving| {
            if receiving.instances >= limits::INSTANCES_PER_STUDY_MAX {
                return Err(StoreError::TooManyInstances);
            }
            receiving.in_flight += 1;
            Ok(Admitted::Receiving(receiving.key))
        };
        if let Some(receiving) = self.receiving().get_mut(study) {
            return begin(receiving);
        }
        let known = self.database.known(study)?;
        if let Some((key, complete)) = known {
            if self.spool.drop_duplicate(sealed, key, uid)? {
                return Ok(Admitted::There);
            }
            if self.spool.instances(key)?.len() >= limits::INSTANCES_PER_STUDY_MAX {
                return Err(StoreError::TooManyInstances);
            }
            let slice = !matches!(instance.header.kind, ImageKind::Other | ImageKind::LocalizerOrDerived);
            if complete && !slice {
                return Ok(Admitted::Beside(key));
            }
        }
        // Under the lock, so that no evaluation begins between the two.
        let mut receiving = self.receiving();
        let known = match receiving.entry(study.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let key = self.database.receive(study, now_ms())?;
                // Counted before, too: an error must not come after the study was made due.
                let instances = self.spool.instances(key).map_or(0, |paths| paths.len());
                vacant.insert(Receiving { key, instances, in_flight: 0 })
            }
        };
        begin(known)
    }

    /// Tells that a study was made due for an instance that was not filed after all: what it has is to be evaluated.
    fn unchanged(&self, key: StudyKey, study: &StudyUid) -> Result<(), StoreError> {
        self.events.send(Event::Unchanged { key, study: study.clone() }).map_err(|_| StoreError::Stopped)
    }

    /// Tells that an instance was there already.
    fn repeated(&self, study: &StudyUid, uid: &str, id: Option<AssociationId>) -> Result<(), StoreError> {
        info!("instance {uid} was there already");
        let Some(association) = id else { return Ok(()) };
        let event = Event::Repeated { association, study: study.clone() };
        self.events.send(event).map_err(|_| StoreError::Stopped)
    }

    /// Files what was acknowledged but not filed when the power failed.
    pub fn recover(&self) -> anyhow::Result<()> {
        for path in self.spool.recover()? {
            match Instance::read(&path).map(|instance| self.file(&path, instance, None)) {
                Ok(Ok(())) => {}
                // One file must not keep the daemon from starting. A study that is full did not acknowledge it.
                Ok(Err(error @ (StoreError::TooManyInstances | StoreError::Spool(_)))) => {
                    warn!("{} not filed: {error}", path.display())
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => warn!("recovered instance can't be read and stays where it is: {error}"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "filing_tests.rs"]
mod tests;
