//! From a study's answer to what the metrics take: its Dice against each rater, its severity and the raters'.
//!
//! A method's severity is the appliance's own, in the lungs that it found itself, of the best series. Of a DICOM study, lungs that the
//! appliance would refuse as incomplete are refused here, too; but the appliance then tries the next series, and this does not. The raters'
//! severity is taken in the data set's lungs, and so is that of other people's masks; of a study without, in those that the lung net found,
//! as in the paper. Severities and Dice scores are averaged over raters. The result is small, and is what is kept on disk.

use super::dataset::Truth;
use super::volume;
use super::{dataset, metrics};
use crate::files;
use engine::{Analysis, LabelVolume};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a method says of a study, and how it compares to the truth.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Identification probability, where the method gives one.
    pub probability: Option<f64>,
    /// Severity, 0 to 1, where the method measures it.
    pub severity: Option<f64>,
    /// Severity of the raters' masks.
    pub true_severity: Option<f64>,
    /// Mean Dice score over the raters.
    pub dice: Option<f64>,
    /// Time from the first slice to the answer, the lungs included, reading left out.
    pub seconds: Option<f64>,
    /// Why there is no answer.
    pub problem: Option<String>,
    /// What of the answer could not be measured, and why.
    #[serde(default)]
    pub note: Option<String>,
    /// Whether the image itself could not be read: no method can answer.
    #[serde(skip)]
    pub unread: bool,
}

/// What the studies of a run are identified by: one for all of them, since the two can't be ranked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The identification probability.
    Probability,
    /// The severity, where a method gives no probability (paper, section 2.5).
    Severity,
}

impl By {
    /// The probability if any study of the run has one.
    pub fn of<'a>(results: impl IntoIterator<Item = &'a Scored>) -> Self {
        match results.into_iter().any(|scored| scored.probability.is_some()) {
            true => Self::Probability,
            false => Self::Severity,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probability => "probability",
            Self::Severity => "severity",
        }
    }
}

impl Scored {
    /// A study without an answer.
    pub fn broken(why: impl Into<String>) -> Self {
        Self { problem: Some(why.into()), ..Self::default() }
    }

    /// What identification is scored by; `None` where the study has no answer of that kind.
    pub fn identification(&self, by: By) -> Option<f64> {
        match by {
            By::Probability => self.probability,
            By::Severity => self.severity,
        }
    }
}

/// The masks of a study, read.
pub struct Masks {
    shape: [usize; 3],
    lungs: Option<Vec<bool>>,
    raters: Vec<Vec<bool>>,
}

impl Masks {
    /// Reads the truth of a study of `shape` (slices, rows, columns).
    ///
    /// # Errors
    /// A mask that can't be read or has another size.
    pub fn read(truth: &Truth, shape: [usize; 3]) -> anyhow::Result<Self> {
        if let Some(path) = &truth.labels {
            let labels = volume::labels(path, shape)?;
            let bit = |bits: u8| labels.iter().map(|label| label & bits != 0).collect();
            return Ok(Self {
                shape,
                lungs: Some(bit(LabelVolume::LUNGS)),
                raters: vec![bit(LabelVolume::LESION)],
            });
        }
        let lungs = truth.lungs.as_ref().map(|path| volume::mask(path, shape)).transpose()?;
        let raters = truth.lesions.values().map(|path| volume::mask(path, shape));
        Ok(Self { shape, lungs, raters: raters.collect::<Result<_, _>>()? })
    }

    /// Whether the data set has lungs, or they were set.
    pub fn has_lungs(&self) -> bool {
        self.lungs.is_some()
    }

    /// Lungs in the place of those that the data set doesn't have.
    pub fn set_lungs(&mut self, lungs: Vec<bool>) {
        self.lungs = Some(lungs);
    }

    /// Compares an analysis.
    pub fn score(&self, analysis: &Analysis, threads: usize) -> Scored {
        let labels = &analysis.labels.voxels;
        let lesion = |label: &u8| label & LabelVolume::LESION != 0;
        let found: Option<Vec<bool>> = analysis.lesions.map(|_| labels.iter().map(lesion).collect());
        Scored {
            probability: analysis.probability.map(f64::from),
            severity: analysis.lesions.map(|lesions| study::severity::severity(lesions.fraction)),
            ..self.compare(found.as_deref(), threads)
        }
    }

    /// The raters' severity, and Dice scores against them.
    pub fn compare(&self, found: Option<&[bool]>, threads: usize) -> Scored {
        let severities = self.raters.iter().map(|mask| self.severity(mask, threads));
        let (true_severity, note) = match severities.collect::<Result<Vec<_>, _>>() {
            Ok(severities) => (mean(&severities), None),
            Err(why) => (None, Some(format!("true severity not measured: {why}"))),
        };
        let dice = found.and_then(|found| {
            mean(&self.raters.iter().map(|mask| metrics::dice(mask, found)).collect::<Vec<_>>())
        });
        Scored { true_severity, dice, note, ..Scored::default() }
    }

    /// The severity of a mask in these lungs, or why there is none.
    pub fn severity(&self, lesions: &[bool], threads: usize) -> Result<f64, &'static str> {
        let lungs = self.lungs.as_ref().ok_or("the data set has no lung mask of this study")?;
        let fractions = LabelVolume::of_masks(self.shape, lungs, lesions).fractions(threads);
        fractions.map(study::severity::severity).ok_or("its lung mask is empty")
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    metrics::mean_std(values).ok().map(|(mean, _)| mean)
}

/// Reads a result that was kept, if it is of this key.
pub fn kept(path: &Path, key: &str) -> Option<Scored> {
    let kept: Kept = dataset::json(path).ok()?;
    (kept.key == key && kept.scored.problem.is_none()).then_some(kept.scored)
}

/// Keeps a result: whole, or not at all.
///
/// # Errors
/// The system's.
pub fn keep(path: &Path, key: &str, scored: &Scored) -> anyhow::Result<()> {
    let kept = Kept { key: key.to_owned(), scored: scored.clone() };
    files::write(path, serde_json::to_string_pretty(&kept)?.as_bytes(), 0o644)
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Method, weights, study and version that it is of.
    key: String,
    #[serde(flatten)]
    scored: Scored,
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
