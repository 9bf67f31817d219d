//! The evaluation's work: studies through the networks, each method on each, results kept as they come.
//!
//! ```text
//! open, decode, 2 mm grid, lung net ──▶ one method after the other ──▶ score against the truth, keep
//!        (study n + 1)                        (study n)                     (study n - 1)
//! ```
//! The three stages overlap, and the first two use all threads: while the last slices of one study leave a core idle, the next study takes it.
//! At most one study waits between two stages, so at most four are in memory: prepared slices of three, masks of two.

use super::dataset::{Dataset, Image, Study, hex};
use super::lungs::Lungs;
use super::score::{self, Masks, Scored};
use super::table::Weights;
use super::volume::Volume;
use crate::{pipeline, version};
use engine::{Analysis, AnalysisError, Analyzer, Method, Pixels, PreparedSlice, SourceSlice, SpacingMm};
use log::warn;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// To be raised with each change of what a result holds or means: a build may not know its commit, or have changes on top of it.
const SCORING: &str = "3";

/// A method with one set of weights.
pub struct Run {
    /// The method.
    pub method: Method,
    /// Which of the weight sets; `None` for those of the zoo.
    pub weights: Option<String>,
    /// It, loaded.
    pub analyzer: Arc<Analyzer>,
}

impl Run {
    /// Its name in files and tables.
    pub fn name(&self) -> String {
        match &self.weights {
            Some(weights) => format!("{}@{weights}", self.method),
            None => self.method.to_string(),
        }
    }

    /// What the tables say of its weights.
    pub fn weights(&self) -> Weights {
        let zoo = self.analyzer.zoo();
        Weights {
            set: self.weights.clone(),
            version: zoo.card().version.clone(),
            model: zoo.card().sha256.model.clone(),
            head: zoo.card().sha256.head.clone(),
            lungs: zoo.lungs.sha256.model.clone(),
            engine: self.analyzer.engines().first().name().to_owned(),
        }
    }

    /// What a result is of: the cards hold the digests of the networks; builds and engines may differ in the last digits.
    fn key(&self, study: &Study) -> String {
        let zoo = self.analyzer.zoo();
        let mut hasher = Sha256::new();
        let engine = self.analyzer.engines().first();
        let (card, lungs) = (zoo.card().text.as_str(), zoo.lungs.text.as_str());
        let (version, commit) = (version::VERSION, version::COMMIT);
        let parts = [SCORING, self.method.name(), card, lungs, version, commit, engine.name(), &study.id];
        for part in parts.into_iter().chain([study.fingerprint().as_str()]) {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hex(&hasher.finalize()[..16])
    }
}

/// Results by run and study, in their orders.
pub type Results = Vec<Vec<Scored>>;

/// How the work goes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed {
    /// Studies that went through the networks now, not earlier.
    pub studies: usize,
    /// Answers about them, over all methods.
    pub answers: usize,
    /// Time that they took.
    pub seconds: f64,
}

/// A study whose lungs are known.
struct Prepared {
    study: usize,
    slices: Vec<PreparedSlice>,
    shape: [usize; 3],
    spacing: SpacingMm,
    /// Whether the appliance's gate judges its lungs: it is of DICOM, as on the appliance.
    gated: bool,
    left_out: Option<String>,
    /// From the first slice, reading included.
    seconds: f64,
}

/// What one run says of a study.
struct Answer {
    run: usize,
    study: usize,
    shape: [usize; 3],
    analysed: Result<(Box<Analysis>, f64), String>,
    left_out: Option<String>,
    /// Whether the image itself could not be read.
    unread: bool,
}

/// Evaluates what is not kept in `folder` yet; `progress` is called with the study's name after each result.
///
/// # Errors
/// A result that can't be kept. What is wrong with a study becomes its result.
pub fn evaluate(
    dataset: &Dataset,
    runs: &[Run],
    folder: &Path,
    threads: usize,
    progress: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<(Results, Speed)> {
    let path =
        |run: &Run, study: &Study| -> PathBuf { folder.join(run.name()).join(&study.id).join("result.json") };
    // The lung net is the zoo's for all methods: the lungs that one of them found are those of all.
    let lungs = Lungs::new(folder, None, threads);
    let read = |study: &Study, shape, analyzer: &Analyzer, analysis: &Analysis| -> anyhow::Result<Masks> {
        let mut masks = Masks::read(&study.truth, shape)?;
        if !masks.has_lungs() {
            masks.set_lungs(lungs.keep(study, analyzer, analysis)?.1);
        }
        Ok(masks)
    };
    let mut results: Results = vec![vec![Scored::default(); dataset.studies.len()]; runs.len()];
    let mut missing: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut keys = HashMap::new();
    for (s, study) in dataset.studies.iter().enumerate() {
        for (r, run) in runs.iter().enumerate() {
            let key = run.key(study);
            match (&study.group, score::kept(&path(run, study), &key)) {
                (Err(why), _) => results[r][s] = Scored::broken(why),
                (_, Some(kept)) => results[r][s] = kept,
                _ => {
                    missing.entry(s).or_default().push(r);
                    keys.insert((r, s), key);
                    continue;
                }
            }
            progress(&study.id);
        }
    }
    let start = Instant::now();
    let mut todo: Vec<usize> = missing.keys().copied().collect();
    todo.sort_unstable();
    let (to_methods, prepared) = sync_channel::<Result<Prepared, (usize, String)>>(1);
    let (to_scores, answers) = sync_channel::<Answer>(1);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let todo = &todo;
        scope.spawn(move || {
            let Some(first) = runs.first() else { return };
            for &study in todo {
                let made = guarded(|| prepare(study, &dataset.studies[study], &first.analyzer, threads));
                if to_methods.send(made.map_err(|why| (study, why))).is_err() {
                    return;
                }
            }
        });
        let missing = &missing;
        scope.spawn(move || {
            for prepared in prepared {
                let study = match &prepared {
                    Ok(prepared) => prepared.study,
                    Err((study, _)) => *study,
                };
                for &run in &missing[&study] {
                    let answer = answer(run, &runs[run], prepared.as_ref());
                    if to_scores.send(answer).is_err() {
                        return;
                    }
                }
            }
        });
        // The truth of a study is read once for all methods.
        let mut masks: Option<(usize, Result<Masks, String>)> = None;
        for Answer { run, study, shape, analysed, left_out, unread } in answers {
            let of = &dataset.studies[study];
            let scored = analysed.and_then(|(analysis, seconds)| {
                if masks.as_ref().is_none_or(|(known, _)| *known != study) {
                    masks = Some((study, guarded(|| read(of, shape, &runs[run].analyzer, &analysis))));
                }
                let masks = masks.as_ref().map(|(_, masks)| masks.as_ref()).expect("read above");
                let masks = masks.map_err(Clone::clone)?;
                let scored = guarded(|| Ok(masks.score(&analysis, threads)))?;
                let notes: Vec<String> = left_out.into_iter().chain(scored.note).collect();
                let note = (!notes.is_empty()).then(|| notes.join("; "));
                Ok(Scored { seconds: Some(seconds), note, ..scored })
            });
            let scored = scored.unwrap_or_else(|why| {
                warn!("study {}: {}: {why}", of.id, runs[run].name());
                Scored { unread, ..Scored::broken(why) }
            });
            score::keep(&path(&runs[run], of), &keys[&(run, study)], &scored)?;
            results[run][study] = scored;
            progress(&of.id);
        }
        Ok(())
    })?;
    let answered =
        |study: usize| missing[&study].iter().filter(|run| results[**run][study].problem.is_none()).count();
    let answers: Vec<usize> = todo.iter().map(|study| answered(*study)).filter(|count| *count > 0).collect();
    let speed = Speed {
        studies: answers.len(),
        answers: answers.iter().sum(),
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((results, speed))
}

/// A broken study costs itself, a panic in a decoder or an engine included.
pub fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| format!("{error:#}")),
        Err(_) => Err("a fault of this program: it panicked; see the log".to_owned()),
    }
}

/// What a method says of a study, from its image.
///
/// # Errors
/// An image that can't be read; [`AnalysisError`].
pub fn analyse(study: &Study, analyzer: &Analyzer, threads: usize) -> anyhow::Result<Analysis> {
    let prepared = prepare(0, study, analyzer, threads)?;
    Ok(analyzer.finish(&prepared.slices, prepared.spacing, &|_, _| ())?)
}

/// Decodes a study and runs the lung net, slice by slice on all threads: a decoded slice is forgotten at once.
fn prepare(index: usize, study: &Study, analyzer: &Analyzer, threads: usize) -> anyhow::Result<Prepared> {
    let volume = Volume::open(&study.image, &analyzer.zoo().card().input.range(), threads)?;
    let start = Instant::now();
    let [slices, rows, columns] = volume.shape;
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let done: Mutex<Vec<Option<PreparedSlice>>> = Mutex::new(vec![None; slices]);
    let (row_spacing_mm, column_spacing_mm) = (volume.spacing.row, volume.spacing.column);
    let work = |slice: usize| -> anyhow::Result<PreparedSlice> {
        let hu = volume.slice(slice)?;
        let pixels = Pixels::Hu(&hu);
        Ok(analyzer.prepare(SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels })?)
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(slices).max(1) {
            scope.spawn(|| {
                loop {
                    let slice = next.fetch_add(1, Ordering::Relaxed);
                    if slice >= slices {
                        return;
                    }
                    match work(slice) {
                        Ok(made) => done.lock().unwrap_or_else(PoisonError::into_inner)[slice] = Some(made),
                        Err(error) => {
                            next.store(slices, Ordering::Relaxed);
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                                Some(error.context(format!("slice {slice}")));
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let slices = done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect();
    Ok(Prepared {
        study: index,
        slices,
        shape: volume.shape,
        spacing: volume.spacing,
        gated: matches!(study.image, Image::Dicom(_)),
        left_out: volume.left_out,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn answer(number: usize, run: &Run, prepared: Result<&Prepared, &(usize, String)>) -> Answer {
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err((study, why)) => {
            return Answer {
                run: number,
                study: *study,
                shape: [0; 3],
                analysed: Err(why.clone()),
                left_out: None,
                unread: true,
            };
        }
    };
    let start = Instant::now();
    let analysed = guarded(|| {
        let refused = |why: &dyn std::fmt::Display| anyhow::anyhow!("not evaluated: {why}");
        let analysis = match run.analyzer.finish(&prepared.slices, prepared.spacing, &|_, _| ()) {
            Err(error @ AnalysisError::NoLungs { .. }) => return Err(refused(&error)),
            other => other?,
        };
        if prepared.gated {
            pipeline::judge_lungs(&analysis, prepared.spacing).map_err(|why| refused(&why))?;
        }
        Ok(analysis)
    });
    let seconds = prepared.seconds + start.elapsed().as_secs_f64();
    let analysed = analysed.map(|analysis| (Box::new(analysis), seconds));
    let left_out = prepared.left_out.clone();
    Answer { run: number, study: prepared.study, shape: prepared.shape, analysed, left_out, unread: false }
}
