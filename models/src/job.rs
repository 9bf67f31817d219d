//! What the analysis asks of an engine, and the processor's way of doing it.
//!
//! Owns: one slice on arrival, one crop after the last slice. Never does: run a network itself; an engine that keeps slices on a device of its own
//! does either job there, any other one is asked for its networks only.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kernels::{Paste, Stored, Zoom, window};

use crate::backend::{Backend, Emit, EngineError, Plane};
use crate::labels::{LabelVolume, parallel};

/// The pixels of a source slice, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Pixels<'a> {
    /// Hounsfield units.
    Hu(&'a [f32]),
    /// As they are stored.
    Stored {
        /// Pixel cells.
        cells: &'a [u16],
        /// What they mean.
        stored: &'a Stored,
    },
}

impl Pixels<'_> {
    /// Number of pixels.
    pub fn len(&self) -> usize {
        match self {
            Self::Hu(values) => values.len(),
            Self::Stored { cells, .. } => cells.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first pixel that is no finite number; of stored ones only the extremes are looked at, since the rescale is linear.
    pub(crate) fn not_finite(&self) -> Option<usize> {
        match self {
            Self::Hu(values) => values.iter().position(|hu| !hu.is_finite()),
            Self::Stored { stored, .. } => {
                let extremes =
                    [stored.extend(0), stored.extend(u32::MAX), stored.extend(1 << (stored.bits - 1))];
                let hu = |value: i32| (f64::from(value) * stored.slope + stored.intercept) as f32;
                extremes.iter().any(|value| !hu(*value).is_finite()).then_some(0)
            }
        }
    }
}

/// A decoded slice of the source series.
#[derive(Debug, Clone, Copy)]
pub struct SourceSlice<'a> {
    /// Rows, front to back.
    pub rows: usize,
    /// Columns, patient's right to left.
    pub columns: usize,
    /// Distance between rows.
    pub row_spacing_mm: f64,
    /// Distance between columns.
    pub column_spacing_mm: f64,
    /// rows × columns pixels.
    pub pixels: Pixels<'a>,
}

/// One slice on arrival.
#[derive(Debug, Clone, Copy)]
pub struct SliceJob<'a> {
    /// The slice; its pixels are finite and as many as its size says.
    pub slice: SourceSlice<'a>,
    /// Rows and columns of the networks' grid.
    pub grid: [usize; 2],
    /// The window that becomes [0, 1].
    pub window_hu: [f32; 2],
    /// Lung probability from which a voxel is lung.
    pub lung_threshold: f32,
}

/// A slice on the networks' grid.
#[derive(Debug, Clone, PartialEq)]
pub struct GridSlice {
    /// Windowed to [0, 1], rows × columns.
    pub plane: Vec<f32>,
    /// Lung probability, rows × columns.
    pub lungs: Vec<f32>,
    /// Where the lungs are.
    pub lung_box: Option<SliceBox>,
    /// Time that resampling took.
    pub resample_ms: f64,
    /// Time that the lung net took, waiting for its turn included.
    pub lungs_ms: f64,
}

/// Bounding box of the lung voxels of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceBox {
    /// Rows.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
    /// Lung voxels.
    pub voxels: usize,
}

impl SliceBox {
    /// The box of the voxels of `lungs`, rows of `columns` values, at or above `threshold`.
    pub fn around(lungs: &[f32], columns: usize, threshold: f32) -> Option<Self> {
        let mut found: Option<Self> = None;
        for (r, row) in lungs.chunks_exact(columns).enumerate() {
            let Some(first) = row.iter().position(|p| *p >= threshold) else { continue };
            let last = row.iter().rposition(|p| *p >= threshold).expect("the row has a first such voxel");
            let voxels = row[first..=last].iter().filter(|p| **p >= threshold).count();
            let this = Self { rows: r..r + 1, columns: first..last + 1, voxels };
            found = Some(match found {
                None => this,
                Some(old) => Self {
                    rows: old.rows.start..r + 1,
                    columns: old.columns.start.min(first)..old.columns.end.max(last + 1),
                    voxels: old.voxels + voxels,
                },
            });
        }
        found
    }
}

/// The lung box of a study, after the last slice.
#[derive(Debug, Clone, Copy)]
pub struct CropJob<'a> {
    /// Windowed planes of the box, head to feet.
    pub planes: &'a [Plane<'a>],
    /// Lung probability of the same voxels.
    pub lungs: &'a [Plane<'a>],
    /// From the box to a source slice.
    pub paste: &'a Paste,
    /// Lung probability from which a voxel is lung.
    pub lung_threshold: f32,
    /// Lesion probability from which a voxel is lesion.
    pub lesion_threshold: f32,
    /// Threads to use.
    pub threads: usize,
}

/// What came of a crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cropped {
    /// Identification probability.
    pub probability: f32,
    /// Time of the multitask net and the lesion mask.
    pub multitask_ms: f64,
    /// Time of the lung mask, where that is a step of its own.
    pub paste_ms: f64,
}

/// Progress: slices done, slices in all. Called from several threads.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// [`Backend::prepare`] on the processor.
pub(crate) fn prepare<B: Backend + ?Sized>(
    backend: &B,
    job: &SliceJob<'_>,
) -> Result<GridSlice, EngineError> {
    let start = Instant::now();
    let (source, columns) = ([job.slice.rows, job.slice.columns], job.slice.columns);
    let zoom = Zoom::new(source, job.grid);
    let mut plane = match job.slice.pixels {
        Pixels::Hu(hu) => zoom.plane(hu, columns),
        Pixels::Stored { cells, stored } => zoom.plane(&stored.plane(cells), columns),
    };
    window(&mut plane, job.window_hu);
    let resample_ms = ms(start);
    let start = Instant::now();
    let [rows, columns] = job.grid;
    let lungs = backend.lungs(Plane::new(&plane, rows, columns, columns))?;
    let lung_box = SliceBox::around(&lungs, columns, job.lung_threshold);
    Ok(GridSlice { plane, lungs, lung_box, resample_ms, lungs_ms: ms(start) })
}

/// [`Backend::crop`] on the processor.
pub(crate) fn crop<B: Backend + ?Sized>(
    backend: &B,
    job: &CropJob<'_>,
    labels: &mut [u8],
    progress: Progress<'_>,
) -> Result<Cropped, EngineError> {
    let (probability, multitask_ms, paste_ms) =
        mark_crop(job, labels, progress, |emit| backend.multitask(job.planes, emit))?;
    Ok(Cropped { probability, multitask_ms, paste_ms })
}

/// Runs `network`; the lesions that it emits are pasted slice by slice as they come, then the lungs. Returns what it returns, its time and that of
/// the lungs.
pub(crate) fn mark_crop<T>(
    job: &CropJob<'_>,
    labels: &mut [u8],
    progress: Progress<'_>,
    network: impl FnOnce(Emit<'_>) -> Result<T, EngineError>,
) -> Result<(T, f64, f64), EngineError> {
    let size = labels.len() / job.planes.len();
    // One lock a slice, so that several threads may mark different slices.
    let targets: Vec<Mutex<&mut [u8]>> = labels.chunks_exact_mut(size).map(Mutex::new).collect();
    let target = |index: usize| targets[index].lock().unwrap_or_else(PoisonError::into_inner);

    let start = Instant::now();
    let done = AtomicUsize::new(0);
    progress(0, job.planes.len());
    let columns = job.planes[0].columns();
    let found = network(&|index, lesions| {
        mark(job.paste, lesions, columns, job.lesion_threshold, LabelVolume::LESION, &mut target(index));
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, job.planes.len());
    })?;
    let network_ms = ms(start);

    let start = Instant::now();
    parallel(job.threads, 0..job.lungs.len(), |index| {
        let (lungs, stride) = job.lungs[index].values();
        mark(job.paste, lungs, stride, job.lung_threshold, LabelVolume::RIGHT_LUNG, &mut target(index));
    });
    Ok((found, network_ms, ms(start)))
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
