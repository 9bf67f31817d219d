//! The analysis of a study: from prepared slices to probability, masks and severity.
//!
//! Owns: the order of the steps after the last slice. Never does: DICOM, the gate, the decision to flag.
//!
//! ```text
//! lung box ─▶ crop ─▶ the method ────┬─▶ pyramid ─▶ identification probability
//!                                    └─▶ lesion probability ─▶ pasted back ─▶ lesion mask ┐
//! lung probability ─▶ pasted back ─▶ lung mask ─▶ left, right ────────────────────────────┴─▶ volumes, severity
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kernels::Paste;
use log::info;
use study::lungs::fit_split;
use study::severity::fractions;
use study::{Lesions, Sides};

use crate::backend::{EngineError, Plane};
use crate::choice::Setup;
use crate::engines::Engines;
use crate::job::{CropJob, Progress};
use crate::labels::LabelVolume;
use crate::limits::{THREADS_MAX, VOXELS_MAX};
use crate::methods::{Ran, Runner};
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
    /// The method's networks, pyramid, head and lesion mask, after the last slice.
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
    /// Identification probability; `None` where the method identifies by severity.
    pub probability: Option<f32>,
    /// Masks on the source grid.
    pub labels: LabelVolume,
    /// Volume of each lung.
    pub lung_volume_ml: Sides<f64>,
    /// The lesions inside the lungs; `None` where the method finds none.
    pub lesions: Option<Lesions>,
    /// Bounding box of the lungs on the networks' grid.
    pub lung_box: Box3,
    /// Size of the networks' grid: slices, rows, columns.
    pub grid: [usize; 3],
    /// The engine that finished the study, and those that failed before it: `cpu (cuda failed)`. A method that the fastest engine doesn't run
    /// says who did the lungs: `cpu (lungs by cuda)`.
    pub engine: String,
    /// Where the time went.
    pub timings: Timings,
}

/// The analysis with its models loaded; share it in an `Arc`.
pub struct Analyzer {
    zoo: Zoo,
    engines: Engines,
    /// A method that no engine runs by itself.
    runner: Option<Runner>,
    threads: usize,
}

impl Analyzer {
    /// Loads the zoo's networks into the engines of a setup, whose threads also bound those of [`Analyzer::finish`].
    ///
    /// # Errors
    /// As [`Setup::open`].
    pub fn new(zoo: Zoo, setup: &Setup) -> Result<Self, EngineError> {
        let engines = setup.open(&zoo)?;
        let runner = Runner::load(&zoo, setup.threads)?;
        if runner.is_some() && engines.first().name() != "cpu" {
            info!("method {} runs on the processor; {} does the lungs", zoo.method(), engines.first().name());
        }
        Ok(Self { zoo, engines, runner, threads: setup.threads.clamp(1, THREADS_MAX) })
    }

    /// The default method on given engines.
    pub fn with_engines(zoo: Zoo, engines: Engines, threads: usize) -> Self {
        Self { zoo, engines, runner: None, threads: threads.clamp(1, THREADS_MAX) }
    }

    /// The model cards.
    pub fn zoo(&self) -> &Zoo {
        &self.zoo
    }

    /// The engines.
    pub fn engines(&self) -> &Engines {
        &self.engines
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
        let (lung_box, voxels) = lung_box(slices);
        let no_lungs = || AnalysisError::NoLungs { voxels, slices: slices.len(), threshold };
        let lung_box = lung_box.ok_or_else(no_lungs)?;
        let crop = Crop { slices, lung_box: &lung_box };
        let paste = Paste::new(&lung_box.rows, &lung_box.columns, [grid[1], grid[2]], [shape[1], shape[2]]);
        let mut labels = LabelVolume::new(shape);

        let (planes, lungs) = (crop.planes(|slice| &slice.plane), crop.planes(|slice| &slice.lungs));
        let own = self.runner.as_ref().and_then(Runner::lesion_threshold);
        let job = CropJob {
            planes: &planes,
            lungs: &lungs,
            paste: &paste,
            lung_threshold: threshold,
            lesion_threshold: own.unwrap_or(self.zoo.card().thresholds.probability),
            threads: self.threads,
        };
        let (ran, engine) = self.run(&job, labels.slices_mut(&lung_box.slices), progress)?;
        (timings.multitask_ms, timings.paste_ms) = (ran.method_ms, ran.paste_ms);

        let step = Instant::now();
        let model = fit_split(&labels.fit_points(self.threads)).ok_or_else(no_lungs)?;
        let counts = labels.split(&model, self.threads);
        timings.split_ms = ms(step);

        // 1 ml = 1000 mm³.
        let voxel_ml = spacing.slice * spacing.row * spacing.column / 1000.0;
        let lesions = self.zoo.method().measures_severity().then(|| Lesions {
            volume_ml: counts.lesion.map(|voxels| voxels as f64 * voxel_ml),
            fraction: fractions(counts.lesion.map(|v| v as f64), counts.lung.map(|v| v as f64)),
        });
        timings.finish_ms = ms(start);
        Ok(Analysis {
            probability: ran.probability,
            labels,
            lung_volume_ml: counts.lung.map(|voxels| voxels as f64 * voxel_ml),
            lesions,
            lung_box,
            grid,
            engine,
            timings,
        })
    }
}

impl Analyzer {
    /// The method on the lung box: by the fastest engine, or by the processor where engines don't have it.
    fn run(
        &self,
        job: &CropJob<'_>,
        labels: &mut [u8],
        progress: Progress<'_>,
    ) -> Result<(Ran, String), EngineError> {
        if let Some(runner) = &self.runner {
            let ran = runner.crop(job, labels, progress)?;
            let lungs = self.engines.first().name();
            let by = if lungs == "cpu" { "cpu".to_owned() } else { format!("cpu (lungs by {lungs})") };
            return Ok((ran, by));
        }
        let mut attempts = 0;
        let (cropped, engine) = self.engines.run(|engine| {
            if attempts > 0 {
                // What the engine before marked may be wrong.
                labels.fill(0);
            }
            attempts += 1;
            engine.crop(job, labels, progress)
        })?;
        let ran = Ran {
            probability: Some(cropped.probability),
            method_ms: cropped.multitask_ms,
            paste_ms: cropped.paste_ms,
        };
        Ok((ran, engine))
    }
}

/// The slices of a study inside the lung box.
struct Crop<'a> {
    slices: &'a [PreparedSlice],
    lung_box: &'a Box3,
}

impl<'a> Crop<'a> {
    /// The box's part of a field of its slices.
    fn planes(&self, field: impl Fn(&'a PreparedSlice) -> &'a Arc<[f32]>) -> Vec<Plane<'a>> {
        let (rows, columns, stride) =
            (self.lung_box.rows.len(), self.lung_box.columns.len(), self.slices[0].grid[1]);
        let first = self.lung_box.rows.start * stride + self.lung_box.columns.start;
        let plane = |slice| Plane::new(&field(slice)[first..], rows, columns, stride);
        self.slices[self.lung_box.slices.clone()].iter().map(plane).collect()
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

/// Bounding box of the lungs, and how many voxels they have.
fn lung_box(slices: &[PreparedSlice]) -> (Option<Box3>, usize) {
    let merge = |a: &Range<usize>, b: &Range<usize>| a.start.min(b.start)..a.end.max(b.end);
    let (mut found, mut voxels): (Option<Box3>, usize) = (None, 0);
    for (s, slice) in slices.iter().enumerate() {
        let Some(this) = &slice.lung_box else { continue };
        voxels += this.voxels;
        found = Some(match found {
            None => Box3 { slices: s..s + 1, rows: this.rows.clone(), columns: this.columns.clone() },
            Some(old) => Box3 {
                slices: old.slices.start..s + 1,
                rows: merge(&old.rows, &this.rows),
                columns: merge(&old.columns, &this.columns),
            },
        });
    }
    (found, voxels)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
