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
            Self::Unreadable(_) => (Status::CANNOT_UNDERSTAND, "data set could not be read"),
            Self::OtherInstance { .. } => {
                (Status::DATASET_MISMATCH, "SOP Instance UID differs from the command")
            }
        }
    }
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
        let instance = Instance::read(part.path())?;
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
        let study = instance.header.study.clone();
        let uid = instance.header.instance.clone();
        let Some((key, count)) = self.admit(&study, sealed, uid.as_str())? else {
            return self.repeated(&study, uid.as_str(), id);
        };
        let filed = if count < limits::INSTANCES_PER_STUDY_MAX {
            self.spool.file(sealed, key, uid.as_str()).map_err(StoreError::from)
        } else {
            self.spool.discard(sealed).map_err(StoreError::from).and(Err(StoreError::TooManyInstances))
        };
        let path = match filed {
            Ok(Filed::New(path)) => path,
            Ok(Filed::Replaced(path)) => {
                warn!("instance {uid} came again with other content; the newer one counts");
                path
            }
            Ok(Filed::Duplicate) => {
                self.taken(&study);
                return self.repeated(&study, uid.as_str(), id);
            }
            Err(error) => {
                self.taken(&study);
                return Err(error);
            }
        };
        if let Some(receiving) = self.receiving().get_mut(&study) {
            receiving.instances += 1;
        }
        let instance = Arc::new(Instance { path, ..instance });
        self.events.send(Event::Arrived { association: id, key, instance }).map_err(|_| StoreError::Stopped)
    }

    /// The key of an instance's study and how many it has, with the instance counted as on its way, and the study as
    /// being received in the database *before* the instance is moved to it: if the power fails in between, the study is
    /// still due. `None`, and nothing changes, for an instance that a study has which is not being received now.
    fn admit(
        &self,
        study: &StudyUid,
        sealed: &Path,
        uid: &str,
    ) -> Result<Option<(StudyKey, usize)>, StoreError> {
        let begin = |receiving: &mut Receiving| {
            receiving.in_flight += 1;
            (receiving.key, receiving.instances)
        };
        if let Some(receiving) = self.receiving().get_mut(study) {
            return Ok(Some(begin(receiving)));
        }
        if let Some(key) = self.database.key(study)?
            && self.spool.drop_duplicate(sealed, key, uid)?
        {
            return Ok(None);
        }
        // Under the lock, so that no evaluation begins between the two.
        let mut receiving = self.receiving();
        let known = match receiving.entry(study.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let key = self.database.receive(study, now_ms())?;
                let instances = self.spool.instances(key)?.len();
                vacant.insert(Receiving { key, instances, in_flight: 0 })
            }
        };
        Ok(Some(begin(known)))
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
                // It was not acknowledged.
                Ok(Err(error @ StoreError::TooManyInstances)) => {
                    warn!("{} not filed: {error}", path.display())
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => warn!("recovered instance can't be read and stays where it is: {error}"),
            }
        }
        Ok(())
    }
}
