//! The analysis of a study: from prepared slices to probability, masks and severity.
//!
//! Owns: the order of the steps after the last slice. Never does: DICOM, the gate, the decision to flag.
//!
//! ```text
//! lung box ─▶ crop ─▶ multitask net ─┬─▶ pyramid ─▶ identification probability
//!                                    └─▶ lesion probability ─▶ pasted back ─▶ lesion mask ┐
//! lung probability ─▶ pasted back ─▶ lung mask ─▶ left, right ────────────────────────────┴─▶ volumes, severity
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kernels::Paste;
use study::Sides;
use study::lungs::fit_split;
use study::severity::fractions;

use crate::backend::{Backend, Choice, EngineError, Plane};
use crate::labels::{LabelVolume, parallel};
use crate::limits::{THREADS_MAX, VOXELS_MAX};
use crate::prepare::PreparedSlice;
use crate::zoo::Zoo;

/// Why a study has no analysis.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// No voxel reaches the lung threshold, or too few to survive on the source grid.
    #[error("no lungs found: {voxels} voxels of {slices} slices reach a lung probability of {threshold}")]
    NoLungs {
        /// Lung voxels on the networks' grid.
        voxels: usize,
        /// Slices of the study.
        slices: usize,
        /// The model card's threshold.
        threshold: f32,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Distances between voxels of the source series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpacingMm {
    /// Between slices.
    pub slice: f64,
    /// Between rows.
    pub row: f64,
    /// Between columns.
    pub column: f64,
}

/// A box of voxels on the networks' grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Box3 {
    /// Slices, head to feet.
    pub slices: Range<usize>,
    /// Rows.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Sum over slices of resampling; on arrival, on several threads.
    pub resample_ms: f64,
    /// Sum over slices of the lung net; on arrival, on several threads.
    pub lungs_ms: f64,
    /// Multitask net, pyramid, head and lesion mask, after the last slice.
    pub multitask_ms: f64,
    /// Lung mask on the source grid, after the last slice.
    pub paste_ms: f64,
    /// Left and right lung and volumes, after the last slice.
    pub split_ms: f64,
    /// All of the work after the last slice.
    pub finish_ms: f64,
}

/// What the networks say about a study.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// Identification probability.
    pub probability: f32,
    /// Masks on the source grid.
    pub labels: LabelVolume,
    /// Volume of each lung.
    pub lung_volume_ml: Sides<f64>,
    /// Volume of the lesions inside each lung.
    pub lesion_volume_ml: Sides<f64>,
    /// Lesion fraction of each lung, 0 to 1.
    pub severity: Sides<f64>,
    /// Bounding box of the lungs on the networks' grid.
    pub lung_box: Box3,
    /// Size of the networks' grid: slices, rows, columns.
    pub grid: [usize; 3],
    /// Where the time went.
    pub timings: Timings,
}

/// Progress of [`Analyzer::finish`]: slices done, slices in all. Called from several threads.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// The analysis with its models loaded; share it in an `Arc`.
pub struct Analyzer {
    zoo: Zoo,
    backend: Box<dyn Backend>,
    threads: usize,
}

impl Analyzer {
    /// Loads the zoo's networks into the chosen engine. `threads` bounds the threads of [`Analyzer::finish`] and of the engine.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub fn new(zoo: Zoo, choice: Choice, threads: usize) -> Result<Self, EngineError> {
        let threads = threads.clamp(1, THREADS_MAX);
        let backend = choice.open(&zoo, threads)?;
        Ok(Self::with_backend(zoo, backend, threads))
    }

    /// The analysis on a given engine.
    pub fn with_backend(zoo: Zoo, backend: Box<dyn Backend>, threads: usize) -> Self {
        Self { zoo, backend, threads: threads.clamp(1, THREADS_MAX) }
    }

    /// The model cards.
    pub fn zoo(&self) -> &Zoo {
        &self.zoo
    }

    /// The engine.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Finishes a study whose slices, head to feet, are all prepared.
    ///
    /// # Errors
    /// [`AnalysisError::NoLungs`]; [`AnalysisError::Engine`] when slices differ in size or the engine fails.
    pub fn finish(
        &self,
        slices: &[PreparedSlice],
        spacing: SpacingMm,
        progress: Progress<'_>,
    ) -> Result<Analysis, AnalysisError> {
        let start = Instant::now();
        let mut timings = Timings {
            resample_ms: slices.iter().map(|slice| slice.resample_ms).sum(),
            lungs_ms: slices.iter().map(|slice| slice.lungs_ms).sum(),
            ..Timings::default()
        };
        let (shape, grid) = shapes(slices)?;
        let threshold = self.zoo.lungs.thresholds.probability;
        let (lung_box, voxels) = lung_box(slices, threshold);
        let no_lungs = || AnalysisError::NoLungs { voxels, slices: slices.len(), threshold };
        let lung_box = lung_box.ok_or_else(no_lungs)?;
        let crop = Crop { slices, lung_box: &lung_box };
        let paste = Paste::new(&lung_box.rows, &lung_box.columns, [grid[1], grid[2]], [shape[1], shape[2]]);
        let mut labels = LabelVolume::new(shape);

        let step = Instant::now();
        let probability = self.lesions(&crop, &paste, &mut labels, progress)?;
        timings.multitask_ms = ms(step);

        let step = Instant::now();
        self.lungs(&crop, &paste, &mut labels);
        timings.paste_ms = ms(step);

        let step = Instant::now();
        let model = fit_split(&labels.fit_points(self.threads)).ok_or_else(no_lungs)?;
        let counts = labels.split(&model, self.threads);
        timings.split_ms = ms(step);

        // 1 ml = 1000 mm³.
        let voxel_ml = spacing.slice * spacing.row * spacing.column / 1000.0;
        let severity = fractions(counts.lesion.map(|v| v as f64), counts.lung.map(|v| v as f64));
        timings.finish_ms = ms(start);
        Ok(Analysis {
            probability,
            labels,
            lung_volume_ml: counts.lung.map(|voxels| voxels as f64 * voxel_ml),
            lesion_volume_ml: counts.lesion.map(|voxels| voxels as f64 * voxel_ml),
            severity,
            lung_box,
            grid,
            timings,
        })
    }

    /// Runs the multitask net on the crop, pastes each slice's lesions as they come, returns the identification probability.
    fn lesions(
        &self,
        crop: &Crop<'_>,
        paste: &Paste,
        labels: &mut LabelVolume,
        progress: Progress<'_>,
    ) -> Result<f32, EngineError> {
        let threshold = self.zoo.multitask.thresholds.probability;
        let columns = crop.lung_box.columns.len();
        let planes: Vec<Plane<'_>> = crop.planes(|slice| &slice.plane).collect();
        let targets = slice_targets(labels, &crop.lung_box.slices);
        let done = AtomicUsize::new(0);
        progress(0, planes.len());
        self.backend.multitask(&planes, &|index, lesions| {
            let mut target = targets[index].lock().unwrap_or_else(PoisonError::into_inner);
            mark(paste, lesions, columns, threshold, LabelVolume::LESION, &mut target);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, planes.len());
        })
    }

    /// Pastes the lung mask; either lung is marked as the right one until they are split.
    fn lungs(&self, crop: &Crop<'_>, paste: &Paste, labels: &mut LabelVolume) {
        let threshold = self.zoo.lungs.thresholds.probability;
        let planes: Vec<&[f32]> = crop.windows(|slice| &slice.lungs).collect();
        let targets = slice_targets(labels, &crop.lung_box.slices);
        parallel(self.threads, 0..planes.len(), |index| {
            let mut target = targets[index].lock().unwrap_or_else(PoisonError::into_inner);
            mark(paste, planes[index], crop.stride(), threshold, LabelVolume::RIGHT_LUNG, &mut target);
        });
    }
}

/// The slices of a study inside the lung box.
struct Crop<'a> {
    slices: &'a [PreparedSlice],
    lung_box: &'a Box3,
}

impl<'a> Crop<'a> {
    fn stride(&self) -> usize {
        self.slices[0].grid[1]
    }

    /// For each slice of the box, the values from the box's first voxel on.
    fn windows(
        &self,
        field: impl Fn(&'a PreparedSlice) -> &'a Arc<[f32]>,
    ) -> impl Iterator<Item = &'a [f32]> {
        let first = self.lung_box.rows.start * self.stride() + self.lung_box.columns.start;
        self.slices[self.lung_box.slices.clone()].iter().map(move |slice| &field(slice)[first..])
    }

    fn planes(&self, field: impl Fn(&'a PreparedSlice) -> &'a Arc<[f32]>) -> impl Iterator<Item = Plane<'a>> {
        let (rows, columns, stride) = (self.lung_box.rows.len(), self.lung_box.columns.len(), self.stride());
        self.windows(field).map(move |values| Plane::new(values, rows, columns, stride))
    }
}

/// Source and grid shape (slices, rows, columns), the same for all slices.
fn shapes(slices: &[PreparedSlice]) -> Result<([usize; 3], [usize; 3]), EngineError> {
    let first =
        slices.first().ok_or(EngineError::Bounds { what: "slices", value: 0, min: 1, max: VOXELS_MAX })?;
    if let Some(slice) = slices.iter().position(|slice| slice.sizes() != first.sizes()) {
        let (got, expected) = (slices[slice].sizes(), first.sizes());
        return Err(EngineError::MixedSizes { slice, got, expected });
    }
    let voxels = first.source[0] * first.source[1] * slices.len();
    if voxels > VOXELS_MAX {
        return Err(EngineError::Bounds { what: "voxels", value: voxels, min: 1, max: VOXELS_MAX });
    }
    let with = |[rows, columns]: [usize; 2]| [slices.len(), rows, columns];
    Ok((with(first.source), with(first.grid)))
}

/// Bounding box of the voxels at or above `threshold`, and how many there are.
fn lung_box(slices: &[PreparedSlice], threshold: f32) -> (Option<Box3>, usize) {
    let (mut found, mut voxels): (Option<Box3>, usize) = (None, 0);
    for (s, slice) in slices.iter().enumerate() {
        for (r, row) in slice.lungs.chunks_exact(slice.grid[1]).enumerate() {
            let Some(first) = row.iter().position(|p| *p >= threshold) else { continue };
            let last = row.iter().rposition(|p| *p >= threshold).expect("the row has a first such voxel");
            voxels += row[first..=last].iter().filter(|p| **p >= threshold).count();
            let merge = |a: &Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
            let (slices, rows, columns) = (s..s + 1, r..r + 1, first..last + 1);
            found = Some(match found {
                None => Box3 { slices, rows, columns },
                Some(old) => Box3 {
                    slices: merge(&old.slices, slices),
                    rows: merge(&old.rows, rows),
                    columns: merge(&old.columns, columns),
                },
            });
        }
    }
    (found, voxels)
}

/// One lock a slice of the box, so that several threads may mark different slices.
fn slice_targets<'a>(labels: &'a mut LabelVolume, slices: &Range<usize>) -> Vec<Mutex<&'a mut [u8]>> {
    let size = labels.shape[1] * labels.shape[2];
    labels.voxels[slices.start * size..slices.end * size].chunks_exact_mut(size).map(Mutex::new).collect()
}

/// Sets `bit` where the pasted probability reaches `threshold`.
fn mark(paste: &Paste, crop: &[f32], stride: usize, threshold: f32, bit: u8, target: &mut [u8]) {
    paste.each_row(crop, stride, |offset, values| {
        for (label, value) in target[offset..][..values.len()].iter_mut().zip(values) {
            *label |= if *value >= threshold { bit } else { 0 };
        }
    });
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
