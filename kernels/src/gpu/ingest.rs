//! Source pixels → windowed planes on the networks' grid: `ingest.cu`.

use super::{GRID_YZ_MAX, blocks, holds, int, usage};
use crate::device::{Arg, Buffer, DeviceError, Stream};
use crate::stored::{PADDING_HU_MAX, Stored};

/// Columns and rows of a block.
const BLOCK: [usize; 2] = [32, 8];

/// What is resampled to what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ingest {
    /// Slices, one after the other in either buffer.
    pub slices: usize,
    /// Rows and columns of the source.
    pub from: [usize; 2],
    /// Rows and columns of the planes.
    pub to: [usize; 2],
    /// Hounsfield units that become 0 and 1.
    pub window_hu: [f32; 2],
}

impl Ingest {
    /// Bytes that must move: the rows that are touched of pixels of `pixel_bytes`, and the planes.
    pub fn bytes_moved(&self, pixel_bytes: usize) -> usize {
        let rows = self.from[0].min(2 * self.to[0]);
        self.slices * (rows * self.from[1] * pixel_bytes + self.to[0] * self.to[1] * 4)
    }

    /// Pixels as they are stored (16 bits a cell) → planes, f32.
    ///
    /// # Errors
    /// [`DeviceError::Usage`] for buffers that are too small and sizes that make no sense.
    pub fn stored(
        &self,
        stream: &mut Stream,
        cells: &Buffer,
        stored: &Stored,
        planes: &Buffer,
    ) -> Result<(), DeviceError> {
        if !(1..=16).contains(&stored.bits) || stored.bits + stored.shift > 16 {
            return Err(usage(format!("{} bits above bit {} of a cell of 16", stored.bits, stored.shift)));
        }
        let mut args = self.args(cells, 2, planes)?;
        args.extend([
            Arg::I32(stored.shift as i32),
            Arg::I32(32 - stored.bits as i32),
            Arg::I32(i32::from(stored.signed)),
            Arg::I32(i32::from(stored.padding.is_some())),
            Arg::I32(stored.padding.unwrap_or(0)),
            Arg::F64(stored.slope),
            Arg::F64(stored.intercept),
            Arg::F32(PADDING_HU_MAX),
        ]);
        self.launch(stream, "ingest_stored", &args)
    }

    /// Hounsfield units, f32 → planes, f32.
    ///
    /// # Errors
    /// As [`Ingest::stored`].
    pub fn hu(&self, stream: &mut Stream, hu: &Buffer, planes: &Buffer) -> Result<(), DeviceError> {
        let args = self.args(hu, 4, planes)?;
        self.launch(stream, "ingest_hu", &args)
    }

    fn args(&self, source: &Buffer, pixel_bytes: usize, planes: &Buffer) -> Result<Vec<Arg>, DeviceError> {
        let ([rows, columns], [to_rows, to_columns]) = (self.from, self.to);
        if [self.slices, rows, columns, to_rows, to_columns].contains(&0) || self.slices > GRID_YZ_MAX {
            return Err(usage(format!("{} slices of {:?} to {:?}", self.slices, self.from, self.to)));
        }
        holds("source pixels", source, self.slices * rows * columns * pixel_bytes)?;
        holds("planes", planes, self.slices * to_rows * to_columns * 4)?;
        let [low, high] = self.window_hu;
        Ok(vec![
            Arg::Ptr(source.ptr()),
            Arg::Ptr(planes.ptr()),
            Arg::I32(int(rows)?),
            Arg::I32(int(columns)?),
            Arg::I32(int(to_rows)?),
            Arg::I32(int(to_columns)?),
            Arg::F64(step(rows, to_rows)),
            Arg::F64(step(columns, to_columns)),
            Arg::F32(low),
            Arg::F32(high),
        ])
    }

    fn launch(&self, stream: &mut Stream, kernel: &str, args: &[Arg]) -> Result<(), DeviceError> {
        let grid = [blocks(self.to[1], BLOCK[0]), blocks(self.to[0], BLOCK[1]), self.slices as u32];
        stream.launch(kernel, grid, [BLOCK[0] as u32, BLOCK[1] as u32, 1], 0, args)
    }
}

/// Distance of output samples on an axis of `from` samples, corners aligned: the rule of [`crate::Zoom`].
pub(super) fn step(from: usize, to: usize) -> f64 {
    if to > 1 { from.saturating_sub(1) as f64 / (to - 1) as f64 } else { 1.0 }
}
