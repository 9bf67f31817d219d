//! How urgent a study is, as the modality worklist says (PS3.4 annex K): it orders our own queue, nothing else.
//!
//! Owns the queries, on a thread of its own: the intake and the evaluator never wait for it, and no answer means routine.
//! It reads the worklist and never writes to it. The patient's identifiers go out as they came in, with their character
//! set.
use crate::config::{Worklist, seconds};
use crate::dataset::{DataSet, DataSetError, Writer};
use crate::instance::Instance;
use crate::limits::{self, QUEUE_WAIT_MAX};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dimse::requestor::{FindLimits, Requestor, RequestorConfig};
use dimse::uids::{IMPLICIT_VR_LITTLE_ENDIAN, MODALITY_WORKLIST_INFORMATION_MODEL_FIND};
use dimse::{AeTitle, AssociationError, Status, TlsClient};
use log::{info, warn};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use study::StudyUid;

/// Requested Procedure Priority (0040,1003), most urgent first (PS3.3 table C.4-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// STAT.
    Stat,
    /// HIGH.
    High,
    /// ROUTINE, and whatever nobody has said anything of.
    #[default]
    Routine,
    /// MEDIUM.
    Medium,
    /// LOW.
    Low,
}

impl Urgency {
    fn parse(value: &str) -> Option<Self> {
        match value {
            "STAT" => Some(Self::Stat),
            "HIGH" => Some(Self::High),
            "ROUTINE" => Some(Self::Routine),
            "MEDIUM" => Some(Self::Medium),
            "LOW" => Some(Self::Low),
            _ => None,
        }
    }
}

/// What the worklist is asked about a study.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    study: StudyUid,
    accession_number: Vec<u8>,
    patient_id: Vec<u8>,
    character_set: Vec<u8>,
}

/// What is known of the studies that wait or are received.
type Known = HashMap<StudyUid, About>;

/// What is known of a study.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    urgency: Urgency,
    /// Whether the worklist was asked, or is about to be.
    asked: bool,
    /// Receptions of the study that have not begun their evaluation: a late slice begins another one while the first
    /// waits.
    receptions: u32,
}

/// How urgent the studies are that wait or are received. Cheap to clone.
#[derive(Clone, Default)]
pub struct Urgencies {
    known: Arc<Mutex<Known>>,
    questions: Option<SyncSender<Question>>,
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
enum WorklistError {
    #[error(transparent)]
    Association(#[from] AssociationError),
    /// Not with the worklist's comment: it may name the patient.
    #[error("the query ended with {status}")]
    Refused { status: Status },
}

impl Urgencies {
    /// With somebody to ask: the receiver is for [`answer`].
    pub fn asking() -> (Self, Questions) {
        let (questions, asked) = sync_channel(limits::WORKLIST_QUESTIONS_MAX);
        let urgencies = Self { known: Arc::default(), questions: Some(questions) };
        let known = Arc::clone(&urgencies.known);
        (urgencies, Questions { asked, known })
    }

    /// A reception of a study began with this instance: asks how urgent it is, unless it was asked.
    pub fn ask(&self, instance: &Instance) {
        let Some(questions) = &self.questions else { return };
        let study = &instance.header.study;
        let mut known = self.known();
        let about = known.entry(study.clone()).or_default();
        about.receptions += 1;
        if about.asked {
            return;
        }
        let Some(question) = Question::about(instance) else { return };
        match questions.try_send(question) {
            Ok(()) => about.asked = true,
            Err(TrySendError::Full(_)) => {
                warn!(
                    "study {study}: {} studies wait for the worklist; routine",
                    limits::WORKLIST_QUESTIONS_MAX
                );
            }
            // The daemon stops.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// How urgent a study is that has waited for so long, as far as it is known now. After [`QUEUE_WAIT_MAX`] it is as
    /// urgent as can be: those that are more urgent by the worklist must not keep it waiting for ever.
    pub fn of(&self, study: &StudyUid, waited: Duration) -> Urgency {
        if waited >= QUEUE_WAIT_MAX {
            return Urgency::Stat;
        }
        self.known().get(study).map(|about| about.urgency).unwrap_or_default()
    }

    /// A reception's evaluation begins: its urgency is of no interest any more.
    pub fn forget(&self, study: &StudyUid) {
        let mut known = self.known();
        let Some(about) = known.get_mut(study) else { return };
        about.receptions -= 1;
        if about.receptions == 0 {
            known.remove(study);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // Each change is one step.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The questions that wait, and where the answers go.
pub struct Questions {
    asked: Receiver<Question>,
    known: Arc<Mutex<Known>>,
}

/// Asks the worklist one question after the other, until every [`Urgencies`] is gone.
pub fn answer(
    questions: &Questions,
    worklist: &Worklist,
    calling: &AeTitle,
    tls: Option<&TlsClient>,
) -> anyhow::Result<()> {
    let called: AeTitle = worklist.ae_title.parse()?;
    while let Ok(question) = questions.asked.recv() {
        let study = &question.study;
        // It was faster than the worklist.
        if !lock(&questions.known).contains_key(study) {
            continue;
        }
        match query(&question, worklist, calling, &called, tls) {
            Ok(Some(urgency)) => {
                info!("study {study}: {urgency:?}, says the worklist");
                if let Some(known) = lock(&questions.known).get_mut(study) {
                    known.urgency = urgency;
                }
            }
            Ok(None) => info!("study {study}: the worklist has nothing of it; routine"),
            Err(error) => warn!("study {study}: the worklist was asked in vain: {error}; routine"),
        }
    }
    Ok(())
}

fn query(
    question: &Question,
    worklist: &Worklist,
    calling: &AeTitle,
    called: &AeTitle,
    tls: Option<&TlsClient>,
) -> Result<Option<Urgency>, WorklistError> {
    let timeout = seconds(worklist.timeout_s);
    let config = RequestorConfig {
        connect_timeout: timeout,
        association_timeout: timeout,
        response_timeout: timeout,
        write_timeout: timeout,
        tls: tls.cloned(),
        ..RequestorConfig::default()
    };
    let class = MODALITY_WORKLIST_INFORMATION_MODEL_FIND;
    let contexts: &[(&str, &[&str])] = &[(class, &[IMPLICIT_VR_LITTLE_ENDIAN])];
    let mut association = Requestor::connect(worklist.address.as_str(), calling, called, contexts, &config)?;
    let limits =
        FindLimits { matches_max: limits::WORKLIST_MATCHES_MAX, bytes_max: limits::WORKLIST_BYTES_MAX };
    let response = association.find(class, &question.identifier(), limits)?;
    // The answer counts, however the association ends.
    if let Err(error) = association.release() {
        info!("worklist: release: {error}");
    }
    if response.status.is_failure() && !response.truncated {
        return Err(WorklistError::Refused { status: response.status });
    }
    Ok(question.pick(&response.matches))
}

impl Question {
    /// `None` where nothing is there to ask by.
    fn about(instance: &Instance) -> Option<Self> {
        let value = |tag: Tag| {
            let element = instance.source.iter().find(|e| e.tag == tag);
            element.map(|e| trimmed(&e.value).to_vec()).unwrap_or_default()
        };
        let question = Self {
            study: instance.header.study.clone(),
            accession_number: value(tags::ACCESSION_NUMBER),
            patient_id: value(tags::PATIENT_ID),
            character_set: value(tags::SPECIFIC_CHARACTER_SET),
        };
        (!question.accession_number.is_empty() || !question.patient_id.is_empty()).then_some(question)
    }

    /// The keys of the query, in implicit VR little endian (PS3.4 table K.6-1): by accession number where there is one,
    /// else by patient. The scheduled step, which must be there, is of no interest.
    fn identifier(&self) -> Vec<u8> {
        let any = |set: Writer, tag: Tag| set.text(tag, "");
        let by_patient = self.accession_number.is_empty();
        let step =
            [tags::MODALITY, tags::SCHEDULED_STATION_AE_TITLE, tags::SCHEDULED_PROCEDURE_STEP_START_DATE];
        let mut set = Writer::default();
        if !self.character_set.is_empty() {
            set = set.text(tags::SPECIFIC_CHARACTER_SET, &self.character_set);
        }
        set.text(tags::ACCESSION_NUMBER, &self.accession_number)
            .text(tags::PATIENT_ID, if by_patient { &self.patient_id[..] } else { b"" })
            .uid(tags::STUDY_INSTANCE_UID, "")
            .sequence(
                tags::SCHEDULED_PROCEDURE_STEP_SEQUENCE,
                [step.into_iter().fold(Writer::default(), any)],
            )
            .text(tags::REQUESTED_PROCEDURE_ID, "")
            .text(tags::REQUESTED_PROCEDURE_PRIORITY, "")
            .finish()
    }

    /// The most urgent item of the study; of its order, where no item names the study. An item that can't be read, or
    /// belongs to neither, is none: a patient may wait for an urgent and a routine study.
    fn pick(&self, matches: &[Vec<u8>]) -> Option<Urgency> {
        let items: Vec<Item> = matches.iter().filter_map(|bytes| Item::read(bytes).ok()).collect();
        let of_study = |item: &&Item| item.study == self.study.as_str();
        let of_order = |item: &&Item| {
            !self.accession_number.is_empty() && item.accession_number == self.accession_number
        };
        let most = |urgencies: &mut dyn Iterator<Item = &Item>| urgencies.map(|item| item.urgency).min();
        most(&mut items.iter().filter(of_study)).or_else(|| most(&mut items.iter().filter(of_order)))
    }
}

/// What is read of a worklist item.
struct Item {
    study: String,
    accession_number: Vec<u8>,
    urgency: Urgency,
}

impl Item {
    fn read(bytes: &[u8]) -> Result<Self, DataSetError> {
        let set = DataSet::new(bytes, IMPLICIT_VR_LITTLE_ENDIAN)?;
        let priority = set.text(tags::REQUESTED_PROCEDURE_PRIORITY)?.unwrap_or_default();
        Ok(Self {
            study: set.text(tags::STUDY_INSTANCE_UID)?.unwrap_or_default(),
            accession_number: trimmed(set.value(tags::ACCESSION_NUMBER)?.unwrap_or_default()).to_vec(),
            urgency: Urgency::parse(&priority).unwrap_or_default(),
        })
    }
}

/// Without leading and trailing spaces, which mean nothing (PS3.5 section 6.2: LO, SH), and padding.
fn trimmed(value: &[u8]) -> &[u8] {
    let is_padding = |b: &u8| matches!(b, b' ' | 0);
    let start = value.iter().position(|b| !is_padding(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_padding(b)).map_or(start, |i| i + 1);
    &value[start..end]
}

#[cfg(test)]
#[path = "worklist_tests.rs"]
mod tests;
