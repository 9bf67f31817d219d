//! From the 2 mm grid back to the source grid.
//!
//! Owns: where the lung box lands on the source grid and which values its voxels get. Never does: threshold; the caller
//! compares the visited probabilities, last of all steps.
//!
//! The rule of the paper's implementation: scale the box by source size ÷ grid size, round its start up and its stop down, zoom the
//! cropped probabilities to exactly that size (corners aligned), and leave zero elsewhere.

use std::ops::Range;

use crate::resample::Zoom;

/// Where `range` of an axis of `grid` samples lands on the same axis with `source` samples: start up, stop down. Can be empty.
///
/// The scale is rounded to a double before it multiplies, as in NumPy: `190 * (512 / 190)` must fall on the same side.
pub fn zoomed_range(range: &Range<usize>, grid: usize, source: usize) -> Range<usize> {
    let scale = source as f64 / grid as f64;
    let start = (range.start as f64 * scale).ceil() as usize;
    let stop = (range.end as f64 * scale).floor() as usize;
    start.min(source)..stop.min(source).max(start.min(source))
}

/// A prepared paste of a cropped plane into source planes; build once, apply to every slice.
#[derive(Clone, Debug)]
pub struct Paste {
    rows: Range<usize>,
    columns: Range<usize>,
    source: [usize; 2],
    /// None when the box vanishes on the source grid.
    zoom: Option<Zoom>,
}

impl Paste {
    /// Pastes crops that cover `rows` × `columns` of a plane of `grid` = [rows, columns] into planes of `source` = [rows, columns].
    ///
    /// # Panics
    /// When a range is empty or leaves the grid: the lung box of a lung that was found does neither.
    pub fn new(rows: &Range<usize>, columns: &Range<usize>, grid: [usize; 2], source: [usize; 2]) -> Self {
        assert!(rows.start < rows.end && rows.end <= grid[0], "rows {rows:?} of a grid of {grid:?}");
        assert!(
            columns.start < columns.end && columns.end <= grid[1],
            "columns {columns:?} of a grid of {grid:?}"
        );
        let to_rows = zoomed_range(rows, grid[0], source[0]);
        let to_columns = zoomed_range(columns, grid[1], source[1]);
        let zoom = (!to_rows.is_empty() && !to_columns.is_empty())
            .then(|| Zoom::new([rows.len(), columns.len()], [to_rows.len(), to_columns.len()]));
        Self { rows: to_rows, columns: to_columns, source, zoom }
    }

    /// Size of the source planes, [rows, columns].
    pub fn source(&self) -> [usize; 2] {
        self.source
    }

    /// The rows of the source plane that receive values.
    pub fn rows(&self) -> &Range<usize> {
        &self.rows
    }

    /// The columns of the source plane that receive values.
    pub fn columns(&self) -> &Range<usize> {
        &self.columns
    }

    /// Pastes `crop`, whose rows start `stride` values apart: calls `visit(offset, values)` for each source row inside the
    /// box, where `values[k]` belongs to voxel `offset + k` of the row-major source plane. All voxels not visited are zero.
    pub fn each_row(&self, crop: &[f32], stride: usize, mut visit: impl FnMut(usize, &[f32])) {
        if let Some(zoom) = &self.zoom {
            zoom.each_row(crop, stride, |row, values| {
                visit((self.rows.start + row) * self.source[1] + self.columns.start, values);
            });
        }
    }

    /// Pastes `crop` into a new source plane, zero outside the box.
    pub fn plane(&self, crop: &[f32], stride: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.source[0] * self.source[1]];
        self.each_row(crop, stride, |offset, values| {
            out[offset..offset + values.len()].copy_from_slice(values)
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn box_shrinks_to_whole_voxels() {
        for (range, grid, source, expected) in [
            (3..7, 10, 25, 8..17),  // 7.5 → 8, 17.5 → 17
            (0..10, 10, 25, 0..25), // the whole axis stays the whole axis
            (2..4, 10, 10, 2..4),   // same size: untouched
            (3..4, 10, 4, 2..2),    // 1.2 → 2, 1.6 → 1: nothing left
            (0..190, 190, 512, 0..512),
        ] {
            assert_eq!(zoomed_range(&range, grid, source), expected, "{range:?} of {grid} in {source}");
        }
    }

    #[test]
    fn values_land_inside_the_box_and_zero_elsewhere() {
        let paste = Paste::new(&(1..3), &(1..3), [4, 4], [8, 8]);
        assert_eq!((paste.rows().clone(), paste.columns().clone()), (2..6, 2..6));
        let out = paste.plane(&[0.0, 3.0, 3.0, 6.0], 2);
        assert_eq!(out[2 * 8 + 2..2 * 8 + 6], [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(out[5 * 8 + 2..5 * 8 + 6], [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(out.iter().filter(|v| **v != 0.0).count(), 15);
    }

    #[test]
    fn a_box_that_vanishes_visits_nothing() {
        let paste = Paste::new(&(3..4), &(0..10), [10, 10], [4, 4]);
        assert_eq!(paste.plane(&[1.0; 10], 10), [0.0; 16]);
    }
}
