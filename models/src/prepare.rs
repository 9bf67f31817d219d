//! One slice on its way in: 2 mm grid, window, lung net. Runs as slices arrive, on any thread.

use std::sync::Arc;

use kernels::zoomed_len;

use crate::analysis::Analyzer;
use crate::backend::{EngineError, Plane};
use crate::job::{SliceBox, SliceJob, SourceSlice};
use crate::limits::{GRID_SIDE_MAX, SOURCE_SIDE_MAX};

/// A slice that waits for its study to be complete. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreparedSlice {
    /// Source size, [rows, columns].
    pub(crate) source: [usize; 2],
    /// Size on the networks' grid, [rows, columns].
    pub(crate) grid: [usize; 2],
    /// Windowed to [0, 1].
    pub(crate) plane: Arc<[f32]>,
    /// Lung probability.
    pub(crate) lungs: Arc<[f32]>,
    /// Where the lungs are.
    pub(crate) lung_box: Option<SliceBox>,
    /// Time that resampling took.
    pub resample_ms: f64,
    /// Time that the lung net took, waiting for a free core included.
    pub lungs_ms: f64,
}

impl PreparedSlice {
    /// The slice on the networks' grid, windowed to [0, 1].
    pub fn windowed(&self) -> Plane<'_> {
        Plane::new(&self.plane, self.grid[0], self.grid[1], self.grid[1])
    }

    /// Bytes that the slice holds.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.plane) + size_of_val::<[f32]>(&self.lungs)
    }

    /// Rows and columns on source and grid, to compare slices of a study.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.source[0], self.source[1], self.grid[0], self.grid[1]]
    }
}

impl Analyzer {
    /// Brings a slice to the networks' grid and window and runs the lung net on it.
    ///
    /// # Errors
    /// [`EngineError::Bounds`], [`EngineError::Spacing`] and [`EngineError::Input`] for a slice that no scanner writes, else what the engine reports.
    pub fn prepare(&self, slice: SourceSlice<'_>) -> Result<PreparedSlice, EngineError> {
        let (row_mm, column_mm) = (slice.row_spacing_mm, slice.column_spacing_mm);
        if !(row_mm > 0.0 && column_mm > 0.0 && row_mm.is_finite() && column_mm.is_finite()) {
            return Err(EngineError::Spacing { row_mm, column_mm });
        }
        bounds("rows", slice.rows, SOURCE_SIDE_MAX)?;
        bounds("columns", slice.columns, SOURCE_SIDE_MAX)?;
        let pixels = slice.rows * slice.columns;
        if slice.pixels.len() != pixels {
            return Err(EngineError::Bounds {
                what: "pixels of a slice",
                value: slice.pixels.len(),
                min: pixels,
                max: pixels,
            });
        }
        // An engine may turn NaN into 0 on its way (ReLU as a maximum), so it would end as "no lesion".
        if let Some(at) = slice.pixels.not_finite() {
            return Err(EngineError::Input { row: at / slice.columns, column: at % slice.columns });
        }
        let input = &self.zoo().lungs.input;
        let grid = [
            zoomed_len(slice.rows, row_mm, input.spacing_mm),
            zoomed_len(slice.columns, column_mm, input.spacing_mm),
        ];
        bounds("rows on the 2 mm grid", grid[0], GRID_SIDE_MAX)?;
        bounds("columns on the 2 mm grid", grid[1], GRID_SIDE_MAX)?;

        let job = SliceJob {
            slice,
            grid,
            window_hu: input.window_hu,
            lung_threshold: self.zoo().lungs.thresholds.probability,
        };
        let (on_grid, _) = self.engines().run(|engine| engine.prepare(&job))?;
        Ok(PreparedSlice {
            source: [slice.rows, slice.columns],
            grid,
            plane: on_grid.plane.into(),
            lungs: on_grid.lungs.into(),
            lung_box: on_grid.lung_box,
            resample_ms: on_grid.resample_ms,
            lungs_ms: on_grid.lungs_ms,
        })
    }
}

fn bounds(what: &'static str, value: usize, max: usize) -> Result<(), EngineError> {
    if (1..=max).contains(&value) { Ok(()) } else { Err(EngineError::Bounds { what, value, min: 1, max }) }
}
