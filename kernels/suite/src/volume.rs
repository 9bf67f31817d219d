//! The phantom of the bundle, and studies of any size made from it.
//!
//! Owns: reading `phantom.json` and `phantom.cells.gz`, and bringing them to other sizes. Never does: invent anatomy; `triaged phantom` did.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use engine::{Analyzer, EngineError, Pixels, PreparedSlice, SourceSlice, SpacingMm};
use kernels::Stored;
use serde::Deserialize;

/// How cells become Hounsfield units in every study here.
pub const STORED: Stored =
    Stored { bits: 12, shift: 0, signed: false, padding: None, slope: 1.0, intercept: -1024.0 };

/// `phantom.json`.
#[derive(Debug, Deserialize)]
struct Header {
    slices: usize,
    rows: usize,
    columns: usize,
    slice_mm: f64,
    row_mm: f64,
    column_mm: f64,
    /// Of [`STORED`].
    intercept: f64,
}

/// A study: cells as [`STORED`] says.
pub struct Volume {
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Distances.
    pub spacing: SpacingMm,
    /// Slice by slice, row by row.
    pub cells: Vec<u16>,
}

impl Volume {
    /// Reads the phantom.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("phantom.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let header: Header = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(header.intercept == STORED.intercept, "an intercept of {}", header.intercept);
        let path = dir.join("phantom.cells.gz");
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?;
        let shape = [header.slices, header.rows, header.columns];
        let expected = 2 * shape.iter().product::<usize>();
        ensure!(bytes.len() == expected, "{}: {} bytes, expected {expected}", path.display(), bytes.len());
        let cells = bytes.chunks_exact(2).map(|cell| u16::from_le_bytes([cell[0], cell[1]])).collect();
        let spacing = SpacingMm { slice: header.slice_mm, row: header.row_mm, column: header.column_mm };
        Ok(Self { shape, spacing, cells })
    }

    /// The same chest as `slices` slices of `side` × `side`, linear between the phantom's voxels, with the noise of a scanner.
    pub fn study(&self, slices: usize, side: usize) -> Self {
        let shape = [slices, side, side];
        let mut cells = vec![0; shape.iter().product()];
        let planes: Vec<_> =
            cells.chunks_exact_mut(side * side).enumerate().map(std::sync::Mutex::new).collect();
        each(planes.len(), threads(), |k| {
            let mut plane = planes[k].lock().expect("no thread panics with it");
            let (k, cells) = &mut *plane;
            self.slice(*k, shape, cells);
        });
        drop(planes);
        let scale = |axis: usize| self.shape[axis] as f64 / shape[axis] as f64;
        let spacing = SpacingMm {
            slice: self.spacing.slice * scale(0),
            row: self.spacing.row * scale(1),
            column: self.spacing.column * scale(2),
        };
        Self { shape, spacing, cells }
    }

    fn slice(&self, slice: usize, shape: [usize; 3], cells: &mut [u16]) {
        let [rows, columns] = [self.shape[1], self.shape[2]];
        // Between the voxels before and behind, of an axis whose corners stay.
        let taps = |axis: usize, at: usize| {
            let (from, to) = (self.shape[axis], shape[axis]);
            let at = if to > 1 { at as f32 * (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
            let low = (at as usize).min(from - 1);
            (low, (low + 1).min(from - 1), at - low as f32)
        };
        let across: Vec<_> = (0..shape[2]).map(|column| taps(2, column)).collect();
        let (before, behind, depth) = taps(0, slice);
        for row in 0..shape[1] {
            let (above, below, down) = taps(1, row);
            let line = |slice: usize, row: usize| &self.cells[(slice * rows + row) * columns..][..columns];
            let lines = [line(before, above), line(before, below), line(behind, above), line(behind, below)];
            for (column, &(left, right, side)) in across.iter().enumerate() {
                let [a, b, c, d] = lines.map(|line| mix(f32::from(line[left]), f32::from(line[right]), side));
                let value = mix(mix(a, b, down), mix(c, d, down), depth);
                let index = (slice * shape[1] + row) * shape[2] + column;
                let noise = (noise(index) >> 56) as f32 / 16.0 - 8.0;
                cells[row * shape[2] + column] = (value + noise).clamp(0.0, 4095.0) as u16;
            }
        }
    }

    /// A slice as the analysis takes it.
    pub fn source(&self, slice: usize) -> SourceSlice<'_> {
        let [_, rows, columns] = self.shape;
        SourceSlice {
            rows,
            columns,
            row_spacing_mm: self.spacing.row,
            column_spacing_mm: self.spacing.column,
            pixels: Pixels::Stored {
                cells: &self.cells[slice * rows * columns..][..rows * columns],
                stored: &STORED,
            },
        }
    }

    /// Prepares all slices on `threads` threads, as a daemon does while they arrive.
    pub fn prepare(&self, analyzer: &Analyzer, threads: usize) -> Result<Vec<PreparedSlice>, EngineError> {
        let slots: Vec<_> = (0..self.shape[0]).map(|_| std::sync::OnceLock::new()).collect();
        each(slots.len(), threads, |k| {
            let _ = slots[k].set(analyzer.prepare(self.source(k)));
        });
        slots.into_iter().map(|slot| slot.into_inner().expect("every slice was prepared")).collect()
    }

    /// Writes the cells, little-endian.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
        for cell in &self.cells {
            out.write_all(&cell.to_le_bytes())?;
        }
        out.flush()
    }
}

/// Threads for the work on the processor.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(engine::limits::THREADS_MAX)
}

/// Reproducible bits without structure.
pub fn noise(seed: usize) -> u64 {
    let mixed = (seed as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 32
}

fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// Calls `work` with 0 to `count` − 1 on several threads.
fn each(count: usize, threads: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= count {
                        return;
                    }
                    work(item);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_study_keeps_the_chest_and_its_size_in_mm() {
        let spacing = SpacingMm { slice: 8.0, row: 2.0, column: 1.0 };
        let cells = (0..2 * 3 * 4).map(|v| 100 * v as u16).collect();
        let small = Volume { shape: [2, 3, 4], spacing, cells };
        let large = small.study(5, 8);
        assert_eq!((large.shape, large.cells.len()), ([5, 8, 8], 320));
        assert_eq!((large.spacing.slice, large.spacing.row, large.spacing.column), (3.2, 0.75, 0.5));
        // Corners stay, up to the noise; the middle slice is the mean.
        for (at, expected) in [(0, 0), (7, 300), (319, 2300), (2 * 64, 600)] {
            assert!(large.cells[at].abs_diff(expected) <= 8, "{at}: {} and {expected}", large.cells[at]);
        }
    }
}
