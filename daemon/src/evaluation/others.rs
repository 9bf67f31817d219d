//! Other people's predictions: `DIR/ID/covid_proba.json` and `DIR/ID/lesions_mask.npy`, scored as a method's answers are.
//!
//! Owns: what of such a folder is refused, and its scores. It never changes the folder.

use super::dataset::{Dataset, Study, json};
use super::lungs::Lungs;
use super::run::guarded;
use super::score::{Masks, Scored};
use super::volume;
use anyhow::bail;
use engine::Method;
use std::path::{Path, PathBuf};

/// A folder of predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Others {
    /// What tables call it.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
}

impl Others {
    /// Refuses what would leave an empty line in the place of a good one.
    ///
    /// # Errors
    /// A name that two have, or that a method has; a folder that isn't there, or answers for no study of the data set.
    pub fn check(all: &[Self], dataset: &Dataset) -> anyhow::Result<()> {
        for (index, Self { name, dir }) in all.iter().enumerate() {
            if all[..index].iter().any(|other| other.name == *name) {
                bail!("two --predictions are named {name:?}");
            }
            let method = name.split_once('@').map_or(name.as_str(), |(method, _)| method);
            if Method::ALL.iter().any(|ours| ours.name() == method) {
                bail!("--predictions {name}: that is the name of a method; take another");
            }
            if !dir.is_dir() {
                bail!("--predictions {name}: {} is no folder", dir.display());
            }
            let answers = |study: &Study| files(dir, study).iter().any(|path| path.is_file());
            if !dataset.studies.iter().any(answers) {
                bail!(
                    "--predictions {name}: {} has neither ID/covid_proba.json nor ID/lesions_mask.npy of any study of the data set",
                    dir.display()
                );
            }
        }
        Ok(())
    }

    /// Scores the predictions for each study; `progress` is called with its name. What is wrong with one becomes its result.
    pub fn evaluate(
        &self,
        dataset: &Dataset,
        lungs: &Lungs,
        threads: usize,
        progress: &dyn Fn(&str),
    ) -> Vec<Scored> {
        let score = |study: &Study| {
            let scored = match &study.group {
                Ok(_) => guarded(|| prediction(&self.dir, study, &|shape| lungs.of(study, shape), threads)),
                Err(why) => Err(why.clone()),
            };
            progress(&study.id);
            scored.unwrap_or_else(Scored::broken)
        };
        dataset.studies.iter().map(score).collect()
    }
}

/// Where a prediction of a study lies: probability and mask.
fn files(dir: &Path, study: &Study) -> [PathBuf; 2] {
    ["covid_proba.json", "lesions_mask.npy"].map(|name| dir.join(&study.id).join(name))
}

/// Scores a prediction, of which probability or mask may be missing; `lungs` gives those of a study of which the data set has none.
fn prediction(
    dir: &Path,
    study: &Study,
    lungs: &dyn Fn([usize; 3]) -> anyhow::Result<Vec<bool>>,
    threads: usize,
) -> anyhow::Result<Scored> {
    let [proba, mask] = files(dir, study);
    if !proba.is_file() && !mask.is_file() {
        bail!("{} has neither covid_proba.json nor lesions_mask.npy", dir.join(&study.id).display());
    }
    let probability: Option<f64> = if proba.is_file() { Some(json(&proba)?) } else { None };
    if probability.is_some_and(|p| !p.is_finite()) {
        bail!("{}: no finite number", proba.display());
    }
    if !mask.is_file() {
        return Ok(Scored { probability, ..Scored::default() });
    }
    let shape = volume::shape(&mask)?;
    let found = volume::binary_mask(&mask, shape)?;
    let mut masks = Masks::read(&study.truth, shape)?;
    let why = if masks.has_lungs() { Ok(()) } else { lungs(shape).map(|found| masks.set_lungs(found)) };
    let compared = masks.compare(Some(&found), threads);
    let (severity, note) = match (masks.severity(&found, threads), why) {
        (Ok(severity), _) => (Some(severity), compared.note.clone()),
        (Err(_), Err(why)) => (None, Some(format!("severity not measured: {why:#}"))),
        (Err(why), Ok(())) => (None, Some(format!("severity not measured: {why}"))),
    };
    Ok(Scored { probability, severity, note, ..compared })
}

#[cfg(test)]
#[path = "others_tests.rs"]
mod tests;
