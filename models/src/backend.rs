//! The trait that every engine implements, and what it speaks in.
//!
//! Owns: the boundary between the analysis and the engines. Never does: name an engine's own types.

use std::path::PathBuf;

use kernels::PyramidError;

use crate::job::{self, CropJob, Cropped, GridSlice, Progress, SliceJob};

/// Why an engine gave no result. The caller falls back to the next engine, or reports the study as not evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model file can't be loaded.
    #[error("{path}: {why}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        why: String,
    },
    /// The engine failed on a slice.
    #[error("{model} failed: {why}")]
    Run {
        /// Which network.
        model: &'static str,
        /// What the engine said.
        why: String,
    },
    /// The engine's device or library failed.
    #[error("engine {engine}: {what}")]
    Device {
        /// Which engine.
        engine: &'static str,
        /// What it said, and what to do.
        what: String,
        /// Nothing else will work on it until the next start: a lost GPU, an ECC error.
        lost: bool,
    },
    /// The engine can't do this slice or study; another one can, and nothing is wrong with this one.
    #[error("engine {engine}: {what}")]
    Unsuited {
        /// Which engine.
        engine: &'static str,
        /// What it can't.
        what: String,
    },
    /// A network's output has not the size it must have.
    #[error("{model}: output of {got} values where {expected} are needed")]
    Output {
        /// Which network.
        model: &'static str,
        /// Values that came.
        got: usize,
        /// Values that are needed.
        expected: usize,
    },
    /// A network's output is not a number; it must not become "no lesion".
    #[error("{model}: an output is not a finite number")]
    NotFinite {
        /// Which network.
        model: &'static str,
    },
    /// A source value is not a number.
    #[error("the value at row {row}, column {column} is not a finite number")]
    Input {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// The pooled volume is not whole.
    #[error(transparent)]
    Pyramid(#[from] PyramidError),
    /// The slice or study is outside the engine's bounds.
    #[error("{what} is {value}; the engine takes {min} to {max}")]
    Bounds {
        /// What was measured.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The least.
        min: usize,
        /// The bound.
        max: usize,
    },
    /// A slice's spacing is no positive number.
    #[error("pixel spacing of {row_mm} mm by {column_mm} mm")]
    Spacing {
        /// Between rows.
        row_mm: f64,
        /// Between columns.
        column_mm: f64,
    },
    /// Slices of one study must share one grid.
    #[error("slice {slice} is {got:?} on the source and 2 mm grids, the first slice is {expected:?}")]
    MixedSizes {
        /// Index of the slice.
        slice: usize,
        /// Its rows and columns, source then grid.
        got: [usize; 4],
        /// Those of the first slice.
        expected: [usize; 4],
    },
}

impl EngineError {
    /// Whether the slice or study is to blame, so that another engine would say the same.
    pub fn is_of_the_input(&self) -> bool {
        match self {
            Self::Input { .. } | Self::Bounds { .. } | Self::Spacing { .. } | Self::MixedSizes { .. } => true,
            Self::Load { .. }
            | Self::Run { .. }
            | Self::Device { .. }
            | Self::Unsuited { .. }
            | Self::Output { .. }
            | Self::NotFinite { .. }
            | Self::Pyramid(_) => false,
        }
    }
}

/// A row-major plane, possibly a window of a larger one.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> Plane<'a> {
    /// A plane of `rows` × `columns` whose rows start `stride` values apart in `values`.
    ///
    /// # Panics
    /// When it has no values or `values` is too short for it.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows > 0 && columns > 0 && stride >= columns, "plane of {rows} x {columns}, stride {stride}");
        assert!(values.len() >= (rows - 1) * stride + columns, "{} values are too few", values.len());
        Self { values, rows, columns, stride }
    }

    /// Rows of the plane.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the plane.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// A row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..row * self.stride + self.columns]
    }

    /// The rows, top to bottom.
    pub fn iter_rows(&self) -> impl Iterator<Item = &'a [f32]> {
        let (columns, stride, values) = (self.columns, self.stride, self.values);
        (0..self.rows).map(move |row| &values[row * stride..row * stride + columns])
    }

    /// The values from the first on, and how far apart rows start.
    pub(crate) fn values(&self) -> (&'a [f32], usize) {
        (self.values, self.stride)
    }

    /// The values without gaps.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows * self.columns);
        self.iter_rows().for_each(|row| out.extend_from_slice(row));
        out
    }
}

/// Takes the lesion probability of one slice of the crop, as soon as it is known: (index in the crop, rows × columns).
/// Called once a slice, in any order, from any thread.
pub type Emit<'a> = &'a (dyn Fn(usize, &[f32]) + Sync);

/// An engine that runs the two networks.
///
/// Its methods may be called from several threads at once; an engine that can't run them at once makes callers wait.
/// The result does not depend on the number of threads.
///
/// An engine with a device of its own may do [`Backend::prepare`] and [`Backend::crop`] there; what they give is the same, within the tolerances.
pub trait Backend: Send + Sync {
    /// Name in results and logs.
    fn name(&self) -> &'static str;

    /// What it runs on, for people: the card, its memory, versions.
    fn detail(&self) -> String {
        String::new()
    }

    /// Brings a slice to the networks' grid and window, and runs the lung net on it.
    ///
    /// # Errors
    /// [`EngineError`].
    fn prepare(&self, job: &SliceJob<'_>) -> Result<GridSlice, EngineError> {
        job::prepare(self, job)
    }

    /// Runs the multitask net over the lung box and sets the bits of lesions and lungs (all as right lung, until they are split) in
    /// `labels`: one byte a voxel of the box's source slices, all zero before.
    ///
    /// # Errors
    /// [`EngineError`]; some bits may be set by then.
    fn crop(
        &self,
        job: &CropJob<'_>,
        labels: &mut [u8],
        progress: Progress<'_>,
    ) -> Result<Cropped, EngineError> {
        job::crop(self, job, labels, progress)
    }

    /// Lung probability of one slice on the 2 mm grid (windowed to [0, 1]): rows × columns values.
    ///
    /// # Errors
    /// [`EngineError`].
    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError>;

    /// Runs the multitask network over the cropped volume, slices head to feet and all of one size; hands out the lesion probability
    /// of each slice and returns the identification probability. In what batches, and where the pyramid is pooled, is the engine's choice.
    ///
    /// # Errors
    /// [`EngineError`]; some slices may have been emitted by then.
    fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError>;
}

/// Logits → probabilities, in place; refuses what is not a number.
pub(crate) fn sigmoid(logits: &mut [f32], model: &'static str) -> Result<(), EngineError> {
    for value in logits {
        if !value.is_finite() {
            return Err(EngineError::NotFinite { model });
        }
        *value = 1.0 / (1.0 + (-*value).exp());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_is_exact_at_its_ends_and_refuses_nan() {
        let mut values = [0.0, 200.0, -200.0];
        sigmoid(&mut values, "m").unwrap();
        assert_eq!(values, [0.5, 1.0, 0.0]);
        assert!(matches!(sigmoid(&mut [f32::NAN], "m"), Err(EngineError::NotFinite { .. })));
    }

    #[test]
    fn a_window_of_a_plane_is_read_row_by_row() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        assert_eq!(Plane::new(&values[5..], 2, 2, 4).to_vec(), [5.0, 6.0, 9.0, 10.0]);
    }
}
