//! What a study ends as: flagged, not flagged, or not evaluated with its reason. Silence is never an answer.
use crate::gate::NotEvaluated;
use crate::ids::{SeriesUid, StudyUid};
use crate::lungs::Sides;
use crate::policy::Priority;
use crate::severity::{self, Category};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// One of the three answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The findings reach the policy's thresholds.
    Flagged(Findings),
    /// They do not. This is no statement that the study is normal.
    NotFlagged(Findings),
    /// The study could not be evaluated, for this reason.
    NotEvaluated(NotEvaluated),
}

/// The lesions inside the lungs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lesions {
    /// Lesion fraction of each lung, 0 to 1.
    pub fraction: Sides<f64>,
    /// Volume of the lesions in each lung.
    pub volume_ml: Sides<f64>,
}

/// What the networks measured in one series. A method measures the lesions, or gives a probability, or both (paper, section 2.3).
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// Identification probability, 0 to 1; `None` where the method identifies by severity.
    pub probability: Option<f32>,
    /// The lesions; `None` where the method finds none, which does not say that there are none.
    pub lesions: Option<Lesions>,
    /// Volume of each lung.
    pub lung_volume_ml: Sides<f64>,
    /// The method's name, as its model card has it.
    pub method: String,
    /// The backend that ran it.
    pub engine: String,
    /// The version in the model card.
    pub model_version: String,
}

impl Findings {
    /// The larger of the two lungs' lesion fractions; `None` where the method doesn't measure it.
    pub fn severity(&self) -> Option<f64> {
        self.lesions.map(|lesions| severity::severity(lesions.fraction))
    }

    /// Its category.
    pub fn category(&self) -> Option<Category> {
        self.severity().map(Category::of)
    }
}

/// The end of one study (one revision of it).
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The study, as received.
    pub study_uid: StudyUid,
    /// The series that was evaluated, or the one that came closest.
    pub series_uid: Option<SeriesUid>,
    /// The answer.
    pub verdict: Verdict,
    /// Milliseconds by stage.
    pub timings_ms: BTreeMap<String, f64>,
}

impl Outcome {
    /// What was measured; `None` when the study was not evaluated.
    pub fn findings(&self) -> Option<&Findings> {
        match &self.verdict {
            Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => Some(findings),
            Verdict::NotEvaluated(_) => None,
        }
    }

    /// The priority that is sent to worklists.
    pub fn priority(&self) -> Priority {
        Priority::of(&self.verdict)
    }
}

/// The line that `analyze --json` prints; every key is always present.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Severity {
            left: f64,
            right: f64,
            max: f64,
        }
        #[derive(Serialize)]
        struct Line<'a> {
            study_uid: &'a StudyUid,
            series_uid: &'a Option<SeriesUid>,
            outcome: &'static str,
            reason: Option<String>,
            priority: Priority,
            probability: Option<f32>,
            severity: Option<Severity>,
            category: Option<Category>,
            lung_volume_ml: Option<Sides<f64>>,
            lesion_volume_ml: Option<Sides<f64>>,
            method: Option<&'a str>,
            engine: Option<&'a str>,
            model_version: Option<&'a str>,
            timings_ms: &'a BTreeMap<String, f64>,
        }
        let (outcome, reason) = match &self.verdict {
            Verdict::Flagged(_) => ("flagged", None),
            Verdict::NotFlagged(_) => ("not_flagged", None),
            Verdict::NotEvaluated(reason) => ("not_evaluated", Some(reason.to_string())),
        };
        let f = self.findings();
        Line {
            study_uid: &self.study_uid,
            series_uid: &self.series_uid,
            outcome,
            reason,
            priority: self.priority(),
            probability: f.and_then(|f| f.probability),
            severity: f.and_then(|f| f.lesions).map(|lesions| Severity {
                left: lesions.fraction.left,
                right: lesions.fraction.right,
                max: severity::severity(lesions.fraction),
            }),
            category: f.and_then(Findings::category),
            lung_volume_ml: f.map(|f| f.lung_volume_ml),
            lesion_volume_ml: f.and_then(|f| f.lesions).map(|lesions| lesions.volume_ml),
            method: f.map(|f| f.method.as_str()),
            engine: f.map(|f| f.engine.as_str()),
            model_version: f.map(|f| f.model_version.as_str()),
            timings_ms: &self.timings_ms,
        }
        .serialize(serializer)
    }
}
