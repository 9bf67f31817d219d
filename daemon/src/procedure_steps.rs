//! Modality Performed Procedure Steps (PS3.4 section F.7): what a scanner tells of its own work.
//!
//! Owns the reading of N-CREATE and N-SET, and what is kept of them: the studies, the state, and the instances that were
//! made. Pure. Everything else in a step is accepted and not kept: the box is no RIS. It never judges an image.
//!
//! ```text
//! N-CREATE ──▶ in progress ──N-SET──▶ completed | discontinued: no further N-SET
//! ```
use crate::dataset::{DataSet, DataSetError};
use crate::limits::{REFERENCES_MAX, STEP_ITEMS_MAX};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dimse::Status;
use study::{SopInstanceUid, StudyUid, UidError};

/// Performed Procedure Step Status (0040,0252).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// The scanner is at it.
    InProgress,
    /// It has done all of it.
    Completed,
    /// It stopped before the end, and makes no more of it.
    Discontinued,
}

/// What is kept of a step, for one of its studies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its state.
    pub state: StepState,
    /// The instances that it lists as made (0040,0340), (0040,0220); many scanners list none.
    pub instances: Vec<SopInstanceUid>,
}

/// A new step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStep {
    /// The studies that it is a part of: usually one.
    pub studies: Vec<StudyUid>,
    /// What it lists so far.
    pub instances: Vec<SopInstanceUid>,
}

/// What an N-SET changes; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The state.
    pub state: Option<StepState>,
    /// The instances.
    pub instances: Option<Vec<SopInstanceUid>>,
}

/// Why a step or a change is refused.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The data set can't be read.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    /// An element that must be there is not.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// An element that must have a value has none.
    #[error("{name} has no value")]
    Empty {
        /// Its name.
        name: &'static str,
    },
    /// Not a value that it may have here.
    #[error("Performed Procedure Step Status {state:?} may not stand here")]
    State {
        /// The value, as far as a code string goes.
        state: String,
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

impl StepError {
    /// The status of the answer (PS3.7 section 10.1.5.1.6, PS3.4 section F.7.2).
    pub fn status(&self) -> Status {
        match self {
            Self::DataSet(DataSetError::TooManyItems { .. }) => Status::RESOURCE_LIMITATION,
            Self::DataSet(_) => Status::PROCESSING_FAILURE,
            Self::Missing { .. } => Status::MISSING_ATTRIBUTE,
            Self::Empty { .. } => Status::MISSING_ATTRIBUTE_VALUE,
            Self::State { .. } | Self::Identifier { .. } => Status::INVALID_ATTRIBUTE_VALUE,
        }
    }
}

impl StepState {
    fn parse(value: &str) -> Option<Self> {
        match value {
            "IN PROGRESS" => Some(Self::InProgress),
            "COMPLETED" => Some(Self::Completed),
            "DISCONTINUED" => Some(Self::Discontinued),
            _ => None,
        }
    }
}

/// PS3.5 section 6.2: a code string has at most 16 characters. What is longer is anything that a peer may send, and goes
/// no further.
fn no_state(value: &str) -> StepError {
    StepError::State { state: value.chars().take(16).collect() }
}

/// Reads the data set of an N-CREATE.
///
/// # Errors
/// [`StepError`]: what PS3.4 section F.7.2.1.1 demands and we need is not there. The rest is not checked: a scanner that
/// leaves out the name of a room has still scanned.
pub fn create(set: &DataSet<'_>) -> Result<NewStep, StepError> {
    const STATUS: &str = "Performed Procedure Step Status";
    match set.text(tags::PERFORMED_PROCEDURE_STEP_STATUS)?.as_deref() {
        None => return Err(StepError::Missing { name: STATUS }),
        Some("") => return Err(StepError::Empty { name: STATUS }),
        // PS3.4 section F.7.2.1.2: a step is created in progress.
        Some("IN PROGRESS") => {}
        Some(other) => return Err(no_state(other)),
    }
    let scheduled = set.items(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, STEP_ITEMS_MAX)?;
    if scheduled.is_empty() {
        return Err(StepError::Missing { name: "Scheduled Step Attributes Sequence" });
    }
    let mut studies = Vec::new();
    for item in scheduled {
        let name = "Study Instance UID";
        let text = item.text(tags::STUDY_INSTANCE_UID)?.ok_or(StepError::Missing { name })?;
        let study = StudyUid::new(&text).map_err(|why| match why {
            UidError::Empty => StepError::Empty { name },
            why => StepError::Identifier { name, why },
        })?;
        if !studies.contains(&study) {
            studies.push(study);
        }
    }
    let instances = instances(set)?.unwrap_or_default();
    // A list does not say which of several studies an instance belongs to.
    let instances = if studies.len() == 1 { instances } else { Vec::new() };
    Ok(NewStep { studies, instances })
}

/// Reads the data set of an N-SET.
///
/// # Errors
/// [`StepError`]: it can't be read, or has a state that is none.
pub fn change(set: &DataSet<'_>) -> Result<Change, StepError> {
    let state = match set.text(tags::PERFORMED_PROCEDURE_STEP_STATUS)? {
        None => None,
        Some(value) if value.is_empty() => {
            return Err(StepError::Empty { name: "Performed Procedure Step Status" });
        }
        Some(value) => Some(StepState::parse(&value).ok_or_else(|| no_state(&value))?),
    };
    Ok(Change { state, instances: instances(set)? })
}

/// The instances of all series (PS3.3 section C.4.14); `None` without the sequence.
fn instances(set: &DataSet<'_>) -> Result<Option<Vec<SopInstanceUid>>, StepError> {
    let series = set.items(tags::PERFORMED_SERIES_SEQUENCE, STEP_ITEMS_MAX)?;
    if series.is_empty() && set.value(tags::PERFORMED_SERIES_SEQUENCE)?.is_none() {
        return Ok(None);
    }
    let mut instances = Vec::new();
    for series in series {
        for list in
            [tags::REFERENCED_IMAGE_SEQUENCE, tags::REFERENCED_NON_IMAGE_COMPOSITE_SOP_INSTANCE_SEQUENCE]
        {
            let left = REFERENCES_MAX - instances.len();
            for reference in series.items(list, left)? {
                instances.push(reference_uid(&reference, tags::REFERENCED_SOP_INSTANCE_UID)?);
            }
        }
    }
    Ok(Some(instances))
}

fn reference_uid(item: &DataSet<'_>, tag: Tag) -> Result<SopInstanceUid, StepError> {
    let name = "Referenced SOP Instance UID";
    let text = item.text(tag)?.ok_or(StepError::Missing { name })?;
    SopInstanceUid::new(&text).map_err(|why| match why {
        UidError::Empty => StepError::Empty { name },
        why => StepError::Identifier { name, why },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Writer;
    use dimse::uids::IMPLICIT_VR_LITTLE_ENDIAN;

    fn scheduled(study: &str) -> Writer {
        Writer::default().uid(tags::STUDY_INSTANCE_UID, study)
    }

    fn series(instances: &[&str]) -> Writer {
        let references = instances.iter().map(|uid| {
            Writer::default()
                .uid(tags::REFERENCED_SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.2")
                .uid(tags::REFERENCED_SOP_INSTANCE_UID, uid)
        });
        Writer::default()
            .uid(tags::SERIES_INSTANCE_UID, "1.9")
            .sequence(tags::REFERENCED_IMAGE_SEQUENCE, references)
    }

    fn step(status: Option<&str>, studies: &[&str]) -> Vec<u8> {
        let mut set = Writer::default();
        if let Some(status) = status {
            set = set.text(tags::PERFORMED_PROCEDURE_STEP_STATUS, status);
        }
        set.sequence(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, studies.iter().map(|s| scheduled(s)))
            .sequence(tags::PERFORMED_SERIES_SEQUENCE, [series(&["1.1", "1.2"]), series(&["1.3"])])
            .finish()
    }

    fn set(bytes: &[u8]) -> DataSet<'_> {
        DataSet::new(bytes, IMPLICIT_VR_LITTLE_ENDIAN).unwrap()
    }

    #[test]
    fn a_step_has_its_studies_and_instances() {
        let new = create(&set(&step(Some("IN PROGRESS"), &["1.5"]))).unwrap();
        assert_eq!(new.studies, [StudyUid::new("1.5").unwrap()]);
        assert_eq!(new.instances.iter().map(|i| i.as_str()).collect::<Vec<_>>(), ["1.1", "1.2", "1.3"]);
        let two = create(&set(&step(Some("IN PROGRESS"), &["1.5", "1.6", "1.5"]))).unwrap();
        assert_eq!((two.studies.len(), two.instances.len()), (2, 0), "whose they are is not said");
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let both = change(&set(&step(Some("COMPLETED"), &[]))).unwrap();
        assert_eq!((both.state, both.instances.unwrap().len()), (Some(StepState::Completed), 3));
        let state = Writer::default().text(tags::PERFORMED_PROCEDURE_STEP_STATUS, "DISCONTINUED").finish();
        let state = change(&set(&state)).unwrap();
        assert_eq!(state, Change { state: Some(StepState::Discontinued), instances: None });
        let none = Writer::default().sequence(tags::PERFORMED_SERIES_SEQUENCE, []).finish();
        assert_eq!(change(&set(&none)).unwrap(), Change { state: None, instances: Some(Vec::new()) });
    }

    #[test]
    fn what_is_wrong_has_its_status() {
        let many: Vec<String> = (0..REFERENCES_MAX + 1).map(|i| format!("1.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let too_many = Writer::default()
            .text(tags::PERFORMED_PROCEDURE_STEP_STATUS, "IN PROGRESS")
            .sequence(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, [scheduled("1.5")])
            .sequence(tags::PERFORMED_SERIES_SEQUENCE, [series(&many)])
            .finish();
        let cases = [
            (step(None, &["1.5"]), 0x0120),
            (step(Some(""), &["1.5"]), 0x0121),
            (step(Some("COMPLETED"), &["1.5"]), 0x0106),
            (step(Some("IN PROGRESS"), &[]), 0x0120),
            (step(Some("IN PROGRESS"), &[""]), 0x0121),
            (step(Some("IN PROGRESS"), &["1 2"]), 0x0106),
            (too_many, 0x0213),
            (vec![0x40], 0x0110),
        ];
        for (bytes, status) in cases {
            let error = create(&set(&bytes)).unwrap_err();
            assert_eq!(error.status(), Status(status), "{error}");
        }
        let long = "DONE ".repeat(1000);
        for error in [
            create(&set(&step(Some(&long), &["1.5"]))).unwrap_err(),
            change(&set(&step(Some(&long), &[]))).unwrap_err(),
        ] {
            assert!(error.to_string().len() < 100, "{error}");
        }
        for (status, want) in [("DONE", 0x0106), ("", 0x0121)] {
            assert_eq!(change(&set(&step(Some(status), &[]))).unwrap_err().status(), Status(want));
        }
    }
}
