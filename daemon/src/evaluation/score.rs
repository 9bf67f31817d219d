//! From a study's answer to what the metrics take: its Dice against each rater, its severity and the raters'.
//!
//! As the paper's script: severities of masks are taken in the data set's lung mask where there is one, and averaged over raters; Dice scores
//! are, too. The result is small, and is what is kept on disk.

use super::dataset::{Study, Truth, json};
use super::volume;
use super::{dataset, metrics};
use anyhow::{Context, bail};
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
}

impl Scored {
    /// A study without an answer.
    pub fn broken(why: impl Into<String>) -> Self {
        Self { problem: Some(why.into()), ..Self::default() }
    }

    /// What identification is scored by: the probability, else the severity (paper, section 2.5).
    pub fn identification(&self) -> Option<f64> {
        self.probability.or(self.severity)
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

    /// Compares an analysis.
    ///
    /// # Errors
    /// No lungs to take a severity in.
    pub fn score(&self, analysis: &Analysis, threads: usize) -> anyhow::Result<Scored> {
        let probability = analysis.probability.map(f64::from);
        let labels = &analysis.labels.voxels;
        let own_lungs = || labels.iter().map(|label| label & LabelVolume::LUNGS != 0).collect();
        let lungs = self.lungs.clone().unwrap_or_else(own_lungs);
        let lesions = analysis
            .lesions
            .is_some()
            .then(|| -> Vec<bool> { labels.iter().map(|label| label & LabelVolume::LESION != 0).collect() });
        self.compare(probability, &lungs, lesions, threads)
    }

    fn compare(
        &self,
        probability: Option<f64>,
        lungs: &[bool],
        lesions: Option<Vec<bool>>,
        threads: usize,
    ) -> anyhow::Result<Scored> {
        let severity = |lesions: &[bool]| {
            let fractions = LabelVolume::of_masks(self.shape, lungs, lesions).fractions(threads);
            fractions.map(study::severity::severity).context("the lung mask is empty")
        };
        let of_raters = self.raters.iter().map(|mask| severity(mask)).collect::<Result<Vec<_>, _>>()?;
        let dice = lesions
            .as_ref()
            .map(|found| self.raters.iter().map(|mask| metrics::dice(mask, found)).collect::<Vec<_>>());
        let mean = |values: &[f64]| metrics::mean_std(values).ok().map(|(mean, _)| mean);
        Ok(Scored {
            probability,
            severity: lesions.as_deref().map(severity).transpose()?,
            true_severity: mean(&of_raters),
            dice: dice.and_then(|dice| mean(&dice)),
            seconds: None,
            problem: None,
        })
    }
}

/// Scores a prediction of somebody else's model: `<id>/covid_proba.json` and `<id>/lesions_mask.npy`, either of which may be missing.
///
/// # Errors
/// Neither is there, one can't be read, or the data set has no lung mask to take a severity in.
pub fn prediction(dir: &Path, study: &Study, threads: usize) -> anyhow::Result<Scored> {
    let folder = dir.join(&study.id);
    let (proba, mask) = (folder.join("covid_proba.json"), folder.join("lesions_mask.npy"));
    if !proba.is_file() && !mask.is_file() {
        bail!("{} has neither covid_proba.json nor lesions_mask.npy", folder.display());
    }
    let probability: Option<f64> = if proba.is_file() { Some(json(&proba)?) } else { None };
    if probability.is_some_and(|p| !p.is_finite()) {
        bail!("{}: no finite number", proba.display());
    }
    if !mask.is_file() {
        return Ok(Scored { probability, ..Scored::default() });
    }
    let shape = volume::shape(&mask)?;
    let masks = Masks::read(&study.truth, shape)?;
    let lungs = masks.lungs.clone().context("the data set has no lung mask of this study")?;
    masks.compare(probability, &lungs, Some(volume::mask(&mask, shape)?), threads)
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
    super::write(path, serde_json::to_string_pretty(&kept)?.as_bytes())
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Method, weights, study and version that it is of.
    key: String,
    #[serde(flatten)]
    scored: Scored,
}
