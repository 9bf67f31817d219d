//! Streamed pyramid max-pooling on a device: `pyramid.cu`.
//!
//! Owns: the intervals of a study and their maxima on the device, which batches of slices raise. Never does: keep a feature.

use super::{GRID_YZ_MAX, blocks, holds, int, usage};
use crate::device::{Arg, Buffer, Device, DeviceError, Stream};
use crate::pyramid::{Axis, CELLS, PyramidError};

/// Most threads of a block: `PYRAMID_THREADS` of `traits.cuh`.
const THREADS: usize = 256;
/// Most columns where the channels are first: `PYRAMID_COLUMNS_MAX`.
const COLUMNS_MAX: usize = 1024;
/// Bytes of rows on their way: `PYRAMID_STAGE_BYTES`.
const STAGE_BYTES: usize = 16 * 1024;
/// Rows and slices that a block takes at most. More save atomics, fewer fill the device; 8 x 8 x 150 columns are 154 KB of fp16 features.
const ROWS_MAX: usize = 8;
const SLICES_MAX: usize = 8;
/// Blocks for each multiprocessor, twice what are there at once, so that the last ones are a small part: below it a block takes fewer slices.
const BLOCKS_EACH: usize = 16;
/// Windows of all levels along an axis: 1 + 2 + 4 + 8.
const WINDOWS: usize = 15;

/// How features lie in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureFormat {
    /// Feature maps.
    pub channels: usize,
    /// `f16`, else `f32`.
    pub half: bool,
    /// `[slice][row][column][channel]`, else `[slice][channel][row][column]`.
    pub channels_last: bool,
    /// Values from one pixel to the next if channels are last (a multiple of 8; the rest is padding, zero), else channels from one slice to the next.
    pub channel_stride: usize,
}

impl FeatureFormat {
    /// Bytes of the features of `slices` slices of `rows` × `columns`.
    pub fn bytes(&self, [slices, rows, columns]: [usize; 3]) -> usize {
        slices * rows * columns * self.channel_stride * self.value_bytes()
    }

    fn value_bytes(&self) -> usize {
        if self.half { 2 } else { 4 }
    }

    fn check(&self) -> Result<(), DeviceError> {
        let stride_fits = self.channel_stride >= self.channels
            && (!self.channels_last || self.channel_stride.is_multiple_of(8));
        if stride_fits && (1..=THREADS).contains(&self.channels) {
            return Ok(());
        }
        Err(usage(format!("{} channels, {} apart", self.channels, self.channel_stride)))
    }
}

/// Why there is no pyramid.
#[derive(Debug, thiserror::Error)]
pub enum PooledError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The slices are not whole.
    #[error(transparent)]
    Pyramid(#[from] PyramidError),
    /// A feature is a NaN or infinite.
    #[error("a feature is not a finite number")]
    NotFinite,
}

/// Memory of a pyramid on a device, for one study after the other.
#[derive(Debug)]
pub struct Pyramid {
    device: Device,
    study: Study,
    /// Chunks of rows, stops of columns and slices, windows of the axes: 32-bit words.
    tables: Buffer,
    /// Maxima by slice interval, row interval, column interval, channel.
    cells: Buffer,
    /// The same by window along the slices.
    pooled: Buffer,
    /// The cells of all levels, then the flag.
    out: Buffer,
}

/// The volume in hand.
#[derive(Debug, Default)]
struct Study {
    format: Option<FeatureFormat>,
    size: [usize; 2],
    seen: Vec<bool>,
    /// Row intervals, column intervals, slice intervals.
    intervals: [usize; 3],
    chunks: usize,
    /// Where each table begins, in words: column stops, slice stops, windows of rows, columns, slices (the chunks are at 0).
    at: [usize; 5],
}

impl Pyramid {
    /// A pyramid without a volume.
    ///
    /// # Errors
    /// [`DeviceError`] without memory.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let empty = || device.buffer(0);
        let (tables, cells, pooled, out) = (empty()?, empty()?, empty()?, empty()?);
        Ok(Self { device: device.clone(), study: Study::default(), tables, cells, pooled, out })
    }

    /// Forgets the volume before and begins one of `slices` slices of `size` = [rows, columns].
    ///
    /// # Errors
    /// [`DeviceError::Usage`] for a size that makes no sense, else without memory.
    pub fn begin(
        &mut self,
        stream: &mut Stream,
        format: FeatureFormat,
        size: [usize; 2],
        slices: usize,
    ) -> Result<(), DeviceError> {
        format.check()?;
        let [rows, columns] = size;
        if rows == 0 || columns == 0 || slices == 0 || (!format.channels_last && columns > COLUMNS_MAX) {
            return Err(usage(format!("a pyramid over {rows} x {columns} x {slices}")));
        }
        // The kernel counts the values that a block reads in 32 bits.
        int(SLICES_MAX * rows * columns * format.channel_stride)?;
        let (study, tables) = Study::new(format, size, slices);
        let plane = study.plane();
        grow(&self.device, &mut self.tables, tables.len() * 4)?;
        grow(&self.device, &mut self.cells, plane * study.intervals[2] * 4)?;
        grow(&self.device, &mut self.pooled, plane * WINDOWS * 4)?;
        grow(&self.device, &mut self.out, (format.channels * CELLS + 1) * 4)?;
        stream.upload(&self.tables, 0, &tables)?;
        let count = plane * study.intervals[2];
        let args = [Arg::Ptr(self.cells.ptr()), Arg::I32(int(count)?), Arg::Ptr(self.flag(format.channels))];
        stream.launch("pyramid_clear", [blocks(count, THREADS), 1, 1], [THREADS as u32, 1, 1], 0, &args)?;
        self.study = study;
        Ok(())
    }

    /// Takes the features of the slices from `first` on, `count` of them.
    ///
    /// # Errors
    /// [`DeviceError::Usage`] for slices that the volume has not and a buffer that is too small.
    pub fn push(
        &mut self,
        stream: &mut Stream,
        first: usize,
        count: usize,
        features: &Buffer,
    ) -> Result<(), DeviceError> {
        let study = &self.study;
        let Some(format) = study.format else { return Err(usage("no volume was begun".into())) };
        let [rows, columns] = study.size;
        if first + count > study.seen.len() {
            let slices = study.seen.len();
            return Err(usage(format!("slices {first} to {} of {slices}", first + count)));
        }
        holds("features", features, format.bytes([count, rows, columns]))?;
        if count > SLICES_MAX * GRID_YZ_MAX {
            return Err(usage(format!("{count} slices at once")));
        }
        if count == 0 {
            return Ok(());
        }
        let (kernel, block, depth) = study.block(format);
        let target = BLOCKS_EACH * self.device.multiprocessors() as usize;
        let each = slices_each(count, study.chunks * depth, target);
        let grid = [study.chunks as u32, blocks(count, each), depth as u32];
        let table = |words: usize| Arg::Ptr(self.tables.ptr() + 4 * words as u64);
        let args = [
            Arg::Ptr(features.ptr()),
            Arg::Ptr(self.cells.ptr()),
            Arg::Ptr(self.flag(format.channels)),
            table(0),
            table(study.at[0]),
            table(study.at[1]),
            Arg::I32(int(study.intervals[0])?),
            Arg::I32(int(study.intervals[1])?),
            Arg::I32(int(study.intervals[2])?),
            Arg::I32(int(rows)?),
            Arg::I32(int(columns)?),
            Arg::I32(int(format.channels)?),
            Arg::I32(int(format.channel_stride)?),
            Arg::I32(int(first)?),
            Arg::I32(int(count)?),
            Arg::I32(int(each)?),
        ];
        stream.launch(kernel, grid, block, 0, &args)?;
        self.study.seen[first..first + count].fill(true);
        Ok(())
    }

    /// The features of the whole volume, as [`crate::PyramidPool::finish`] gives them; waits for the device.
    ///
    /// # Errors
    /// [`PooledError`].
    pub fn finish(&mut self, stream: &mut Stream) -> Result<Vec<f32>, PooledError> {
        let study = std::mem::take(&mut self.study);
        let Some(format) = study.format else { return Err(usage("no volume was begun".into()).into()) };
        if let Some(slice) = study.seen.iter().position(|seen| !seen) {
            return Err(PyramidError::Missing { slice }.into());
        }
        let plane = study.plane();
        let table = |words: usize| Arg::Ptr(self.tables.ptr() + 4 * words as u64);
        let args = [
            Arg::Ptr(self.cells.ptr()),
            Arg::Ptr(self.pooled.ptr()),
            table(study.at[4]),
            Arg::I32(int(plane)?),
        ];
        let grid = [blocks(plane, THREADS), WINDOWS as u32, 1];
        stream.launch("pyramid_slices", grid, [THREADS as u32, 1, 1], 0, &args)?;
        let args = [
            Arg::Ptr(self.pooled.ptr()),
            Arg::Ptr(self.out.ptr()),
            table(study.at[2]),
            table(study.at[3]),
            Arg::I32(int(study.intervals[0])?),
            Arg::I32(int(study.intervals[1])?),
            Arg::I32(int(format.channels)?),
        ];
        // As many lanes for each channel as fit.
        let threads = THREADS / format.channels * format.channels;
        stream.launch("pyramid_cells", [CELLS as u32, 1, 1], [threads as u32, 1, 1], 0, &args)?;
        let mut words = vec![0u32; format.channels * CELLS + 1];
        stream.download(&self.out, 0, &mut words)?;
        match words.pop() {
            Some(0) => Ok(words.into_iter().map(f32::from_bits).collect()),
            _ => Err(PooledError::NotFinite),
        }
    }

    /// Bytes that must move for `shape` = [slices, rows, columns]: each feature once.
    pub fn bytes_moved(format: FeatureFormat, shape: [usize; 3]) -> usize {
        format.bytes(shape)
    }

    /// The word that becomes 1 when a feature is not finite.
    fn flag(&self, channels: usize) -> u64 {
        self.out.ptr() + (channels * CELLS * 4) as u64
    }
}

impl Study {
    /// The intervals of a volume, and the tables for the device.
    fn new(format: FeatureFormat, size: [usize; 2], slices: usize) -> (Self, Vec<u32>) {
        let [rows, columns] = size;
        let [row_axis, column_axis, slice_axis] = [rows, columns, slices].map(Axis::new);
        let mut tables = chunks(&row_axis.stops, rows_each(format, columns));
        let count = tables.len() / 3;
        let mut at = [0; 5];
        let words = |values: &[usize]| values.iter().map(|value| *value as u32).collect::<Vec<_>>();
        for (at, table) in at.iter_mut().zip([
            words(&column_axis.stops),
            words(&slice_axis.stops),
            windows(&row_axis),
            windows(&column_axis),
            windows(&slice_axis),
        ]) {
            *at = tables.len();
            tables.extend(table);
        }
        let intervals = [&row_axis, &column_axis, &slice_axis].map(|axis| axis.stops.len());
        (Self { format: Some(format), size, seen: vec![false; slices], intervals, chunks: count, at }, tables)
    }

    /// Maxima of one slice interval.
    fn plane(&self) -> usize {
        self.intervals[0] * self.intervals[1] * self.format.map_or(0, |format| format.channels)
    }

    /// Kernel, block and the grid's third dimension.
    fn block(&self, format: FeatureFormat) -> (&'static str, [u32; 3], usize) {
        if !format.channels_last {
            let kernel = if format.half { "pyramid_first_f16" } else { "pyramid_first_f32" };
            return (kernel, [THREADS as u32, 1, 1], format.channels);
        }
        let kernel = if format.half { "pyramid_last_f16" } else { "pyramid_last_f32" };
        let tiles = self.size[1].div_ceil(THREADS);
        // Whole warps of columns; what is left of a block shares the rows.
        let width = self.size[1].div_ceil(tiles).next_multiple_of(32);
        (kernel, [width as u32, (THREADS / width) as u32, 1], tiles * format.channels.div_ceil(8))
    }
}

/// Slices that a block takes: as many as leave `target` blocks, and no more than a grid can have groups of.
fn slices_each(count: usize, blocks_each: usize, target: usize) -> usize {
    let mut each = SLICES_MAX;
    while each > 1 && blocks_each * count.div_ceil(each) < target {
        each /= 2;
    }
    each.max(count.div_ceil(GRID_YZ_MAX))
}

/// Rows of a chunk: where the channels are first, those of one slice fit the stage, wherever they start.
fn rows_each(format: FeatureFormat, columns: usize) -> usize {
    if format.channels_last {
        return ROWS_MAX;
    }
    ((STAGE_BYTES - 32) / (columns * format.value_bytes())).clamp(1, ROWS_MAX)
}

/// The rows of each interval in even parts of at most `each`: {first, after the last, interval}.
fn chunks(stops: &[usize], each: usize) -> Vec<u32> {
    let mut out = Vec::new();
    let mut start = 0;
    for (interval, &stop) in stops.iter().enumerate() {
        let (len, parts) = (stop - start, (stop - start).div_ceil(each));
        for part in 0..parts {
            out.extend([start + part * len / parts, start + (part + 1) * len / parts, interval]);
        }
        start = stop;
    }
    out.into_iter().map(|value| value as u32).collect()
}

/// The windows of all levels, coarse ones first: {first interval, after the last}.
fn windows(axis: &Axis) -> Vec<u32> {
    axis.levels.iter().flatten().flat_map(|window| [window.start as u32, window.end as u32]).collect()
}

fn grow(device: &Device, buffer: &mut Buffer, bytes: usize) -> Result<(), DeviceError> {
    if buffer.bytes() < bytes {
        *buffer = device.buffer(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_each_interval_once() {
        for (stops, each) in [(vec![1], 8), (vec![13, 14, 30], 8), (vec![5, 6, 7], 1), (vec![1000], 3)] {
            let found = chunks(&stops, each);
            let mut next = 0;
            for chunk in found.chunks_exact(3) {
                let [from, to, interval] = [chunk[0], chunk[1], chunk[2]].map(|v| v as usize);
                assert_eq!(from, next, "{stops:?}");
                assert!(to > from && to - from <= each && to <= stops[interval]);
                assert!(interval == 0 || from >= stops[interval - 1]);
                next = to;
            }
            assert_eq!(Some(&next), stops.last());
        }
    }

    #[test]
    fn a_span_of_rows_fits_its_stage() {
        for half in [false, true] {
            for columns in 1..=COLUMNS_MAX {
                let format = FeatureFormat { channels: 8, half, channels_last: false, channel_stride: 8 };
                let each = 16 / format.value_bytes();
                let loads = (rows_each(format, columns) * columns).div_ceil(each) + 1;
                assert!(loads * 16 <= STAGE_BYTES, "{columns} columns, half {half}");
            }
        }
    }
}
