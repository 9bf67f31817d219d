//! Streamed pyramid max-pooling: 585 cells over rows, columns and slices, one slice at a time.
//!
//! Owns: the windows of the pyramid and its running maxima. Never does: keep a feature map; a slice is read once and forgotten.
//!
//! Windows overlap when an axis is no multiple of 2^level, so a coarse cell is in general not the union of finer ones. But the starts and
//! stops of all windows of all levels cut an axis into a few elementary intervals (at most 29), and **every** window is a union of those:
//! a slice is reduced once to a small matrix of interval maxima, and the cells of all levels are combined from that, exactly.

use std::ops::Range;

/// Levels of the pyramid: 1 + 8 + 64 + 512 cells.
pub const LEVELS: usize = 4;

/// Number of cells of a three-dimensional pyramid.
pub const CELLS: usize = 1 + 8 + 64 + 512;

/// Why a pyramid can't take a slice or can't be finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PyramidError {
    /// The slice does not exist.
    #[error("slice {slice} of a pyramid over {slices} slices")]
    NoSuchSlice {
        /// Index given.
        slice: usize,
        /// Slices of the volume.
        slices: usize,
    },
    /// The features have another size than channels × rows × columns.
    #[error("a feature map of {got} values where {expected} are needed")]
    WrongSize {
        /// Values given.
        got: usize,
        /// Values of channels × rows × columns.
        expected: usize,
    },
    /// A slice was never pushed.
    #[error("slice {slice} never reached the pyramid")]
    Missing {
        /// The first slice that is missing.
        slice: usize,
    },
    /// Two pools of different volumes can't be merged.
    #[error("pyramids over volumes of different shapes can't be merged")]
    Mismatch,
}

/// The windows of one `level` along an axis of `len` samples: 2^level of them, as ranges.
///
/// Where `len` ≥ 2^level: stride `len / 2^level` (rounded down), window `len - (2^level - 1) * stride`, as the paper's implementation.
/// Where `len` < 2^level that stride is 0 and the original fails; here window i is `floor(i·len / 2^level) .. ceil((i+1)·len / 2^level)`: never
/// empty, together the whole axis.
pub fn windows(len: usize, level: usize) -> Vec<Range<usize>> {
    let count = 1 << level;
    if len >= count {
        let stride = len / count;
        let width = len - (count - 1) * stride;
        (0..count).map(|i| i * stride..i * stride + width).collect()
    } else {
        (0..count).map(|i| i * len / count..((i + 1) * len).div_ceil(count)).collect()
    }
}

/// Windows of all levels along one axis, in units of elementary intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Stops of the elementary intervals; the first starts at 0.
    pub(crate) stops: Vec<usize>,
    /// `levels[l][i]`: the intervals that make up window i of level l.
    pub(crate) levels: [Vec<Range<usize>>; LEVELS],
}

impl Axis {
    pub(crate) fn new(len: usize) -> Self {
        let per_level: [Vec<Range<usize>>; LEVELS] = std::array::from_fn(|level| windows(len, level));
        let mut stops: Vec<usize> =
            per_level.iter().flatten().flat_map(|w| [w.start, w.end]).filter(|&edge| edge > 0).collect();
        stops.sort_unstable();
        stops.dedup();
        let interval = |edge: usize| stops.partition_point(|&stop| stop <= edge);
        let levels =
            per_level.map(|windows| windows.iter().map(|w| interval(w.start)..interval(w.end)).collect());
        Self { stops, levels }
    }
}

/// Running maxima of the pyramid over a volume of `channels` feature maps.
///
/// Slices may be pushed in any order and into several pools that are merged at the end (one a thread): a maximum does not depend on order,
/// so the result is the same to the bit.
#[derive(Clone, Debug)]
pub struct PyramidPool {
    channels: usize,
    size: [usize; 2],
    rows: Axis,
    columns: Axis,
    /// `slice_windows[level]`: the windows along the slices.
    slice_windows: [Vec<Range<usize>>; LEVELS],
    /// `maxima[level][((channel · n + row) · n + column) · n + slice]` with n = 2^level.
    maxima: [Vec<f32>; LEVELS],
    seen: Vec<bool>,
    /// Maxima of the rows of one interval, as the rows lie in memory.
    row_maxima: Vec<f32>,
    /// Maxima of one slice over channel × row interval × column interval.
    intervals: Vec<f32>,
}

impl PyramidPool {
    /// A pool over `channels` feature maps of `rows` × `columns` × `slices`, empty.
    ///
    /// # Panics
    /// When `rows` or `columns` is 0: a window without samples has no maximum.
    pub fn new(channels: usize, rows: usize, columns: usize, slices: usize) -> Self {
        assert!(rows > 0 && columns > 0, "a pyramid over {rows} x {columns}");
        let (row_axis, column_axis) = (Axis::new(rows), Axis::new(columns));
        Self {
            channels,
            size: [rows, columns],
            slice_windows: std::array::from_fn(|level| windows(slices, level)),
            maxima: std::array::from_fn(|level| vec![f32::NEG_INFINITY; channels << (3 * level)]),
            seen: vec![false; slices],
            row_maxima: Vec::new(),
            intervals: vec![0.0; channels * row_axis.stops.len() * column_axis.stops.len()],
            rows: row_axis,
            columns: column_axis,
        }
    }

    /// Takes the features of slice `slice`, channels × rows × columns.
    ///
    /// # Errors
    /// [`PyramidError::NoSuchSlice`], [`PyramidError::WrongSize`].
    pub fn push(&mut self, slice: usize, features: &[f32]) -> Result<(), PyramidError> {
        let plane = self.size[0] * self.size[1];
        if features.len() != self.channels * plane {
            return Err(PyramidError::WrongSize { got: features.len(), expected: self.channels * plane });
        }
        let columns = self.size[1];
        let (mut line, rows) = (vec![0.0; self.channels * columns], self.size[0]);
        let mut pooled = self.slice(slice)?;
        for row in 0..rows {
            for (line, features) in line.chunks_exact_mut(columns).zip(features.chunks_exact(plane)) {
                line.copy_from_slice(&features[row * columns..(row + 1) * columns]);
            }
            pooled.push(&line, |channel, column| channel * columns + column);
        }
        pooled.finish()
    }

    /// Starts slice `slice`, whose rows then come one by one.
    ///
    /// # Errors
    /// [`PyramidError::NoSuchSlice`].
    pub fn slice(&mut self, slice: usize) -> Result<SliceRows<'_>, PyramidError> {
        let slices = self.seen.len();
        if slice >= slices {
            return Err(PyramidError::NoSuchSlice { slice, slices });
        }
        Ok(SliceRows { pool: self, slice, rows: 0, interval: 0 })
    }

    /// Takes over everything that `other`, a pool over the same volume, has seen.
    ///
    /// # Errors
    /// [`PyramidError::Mismatch`] when the volumes differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), PyramidError> {
        if (self.channels, self.size, self.seen.len()) != (other.channels, other.size, other.seen.len()) {
            return Err(PyramidError::Mismatch);
        }
        for (mine, theirs) in self.maxima.iter_mut().zip(&other.maxima) {
            raise(mine, theirs);
        }
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            *mine |= theirs;
        }
        Ok(())
    }

    /// The features of the whole volume: level by level, inside a level channel-major, then row, column, slice; [`CELLS`] × channels.
    ///
    /// # Errors
    /// [`PyramidError::Missing`] when a slice was never pushed.
    pub fn finish(self) -> Result<Vec<f32>, PyramidError> {
        if let Some(slice) = self.seen.iter().position(|seen| !seen) {
            return Err(PyramidError::Missing { slice });
        }
        Ok(self.maxima.concat())
    }

    /// `intervals` → the cells of every level whose window along the slices holds `slice`.
    fn combine(&mut self, channel: usize, slice: usize) {
        let width = self.columns.stops.len();
        let size = self.rows.stops.len() * width;
        let intervals = &self.intervals[channel * size..(channel + 1) * size];
        for (level, maxima) in self.maxima.iter_mut().enumerate() {
            let count = 1 << level;
            let depth = &self.slice_windows[level];
            let mut cells = maxima[channel << (3 * level)..].chunks_exact_mut(count);
            for rows in &self.rows.levels[level] {
                for columns in &self.columns.levels[level] {
                    let lines = intervals[rows.start * width..rows.end * width].chunks_exact(width);
                    let value = lines
                        .flat_map(|line| &line[columns.clone()])
                        .fold(f32::NEG_INFINITY, |a, &b| larger(a, b));
                    let line =
                        cells.next().expect("a level has 2^level lines of cells a row and column window");
                    for (cell, _) in line.iter_mut().zip(depth).filter(|(_, window)| window.contains(&slice))
                    {
                        *cell = larger(*cell, value);
                    }
                }
            }
        }
    }
}

/// A slice on its way into a pool, row by row: no plane of features needs to exist.
#[derive(Debug)]
pub struct SliceRows<'a> {
    pool: &'a mut PyramidPool,
    slice: usize,
    /// Rows that came.
    rows: usize,
    /// Row interval that the next row is in.
    interval: usize,
}

impl SliceRows<'_> {
    /// Takes the next row of all channels, in whatever order it lies in memory: the value of a channel and column is `row[at(channel, column)]`;
    /// `at` must be the same for all rows. Rows past the last are ignored.
    pub fn push(&mut self, row: &[f32], at: impl Fn(usize, usize) -> usize) {
        let Some(&stop) = self.pool.rows.stops.get(self.interval) else { return };
        let maxima = &mut self.pool.row_maxima;
        let start = self.interval.checked_sub(1).map_or(0, |before| self.pool.rows.stops[before]);
        if self.rows == start {
            maxima.clear();
            maxima.extend_from_slice(row);
        } else {
            raise(maxima, row);
        }
        self.rows += 1;
        if self.rows == stop {
            self.reduce(at);
            self.interval += 1;
        }
    }

    /// Takes the slice into the pool.
    ///
    /// # Errors
    /// [`PyramidError::WrongSize`] when rows are missing.
    pub fn finish(self) -> Result<(), PyramidError> {
        let expected = self.pool.size[0];
        if self.rows != expected {
            return Err(PyramidError::WrongSize { got: self.rows, expected });
        }
        for channel in 0..self.pool.channels {
            self.pool.combine(channel, self.slice);
        }
        self.pool.seen[self.slice] = true;
        Ok(())
    }

    /// Maxima of an interval of rows → `intervals`.
    fn reduce(&mut self, at: impl Fn(usize, usize) -> usize) {
        let PyramidPool { rows, columns, intervals, row_maxima, channels, .. } = &mut *self.pool;
        let (width, height) = (columns.stops.len(), rows.stops.len());
        for channel in 0..*channels {
            let mut left = 0;
            let out = &mut intervals[(channel * height + self.interval) * width..][..width];
            for (&right, out) in columns.stops.iter().zip(out) {
                let values = (left..right).map(|column| row_maxima[at(channel, column)]);
                *out = values.fold(f32::NEG_INFINITY, larger);
                left = right;
            }
        }
    }
}

/// The larger value, without `f32::max`'s rule for NaN, so that it stays one vector instruction; callers refuse NaN earlier.
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

fn raise(values: &mut [f32], by: &[f32]) {
    for (value, &other) in values.iter_mut().zip(by) {
        *value = larger(*value, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, cell by cell, over a stacked volume `[channel][row][column][slice]`.
    fn naive(
        volume: &dyn Fn(usize, usize, usize, usize) -> f32,
        channels: usize,
        [h, w, d]: [usize; 3],
    ) -> Vec<f32> {
        let mut out = Vec::new();
        for level in 0..LEVELS {
            for channel in 0..channels {
                for rows in windows(h, level) {
                    for columns in windows(w, level) {
                        for slices in windows(d, level) {
                            let mut best = f32::NEG_INFINITY;
                            for r in rows.clone() {
                                for c in columns.clone() {
                                    for s in slices.clone() {
                                        best = best.max(volume(channel, r, c, s));
                                    }
                                }
                            }
                            out.push(best);
                        }
                    }
                }
            }
        }
        out
    }

    /// Reproducible values without structure, negative ones too.
    fn noise(seed: usize) -> f32 {
        let mixed = (seed as u64 ^ 0x9e37_79b9).wrapping_mul(0xd1b5_4a32_d192_ed03);
        ((mixed >> 40) as f32) / 8_388_608.0 - 1.0
    }

    #[test]
    fn windows_of_the_paper_overlap() {
        // 19 samples at level 2: stride 4, window 19 - 12 = 7.
        assert_eq!(windows(19, 2), [0..7, 4..11, 8..15, 12..19]);
        assert_eq!(windows(8, 3), (0..8).map(|i| i..i + 1).collect::<Vec<_>>());
        assert_eq!(windows(17, 0).first(), Some(&(0..17)));
    }

    #[test]
    fn axes_shorter_than_their_windows_are_covered() {
        assert!(windows(1, 3).iter().all(|w| *w == (0..1)));
        assert_eq!(windows(3, 2), [0..1, 0..2, 1..3, 2..3]);
        for len in 1..8 {
            for level in 0..LEVELS {
                let all = windows(len, level);
                assert_eq!(all.len(), 1 << level);
                assert!(all.iter().all(|w| !w.is_empty() && w.end <= len));
                assert!((0..len).all(|at| all.iter().any(|w| w.contains(&at))), "{len} at level {level}");
            }
        }
    }

    #[test]
    fn equals_the_naive_loop_in_any_order_and_split() {
        for (h, w, d) in [
            (1, 1, 1),
            (7, 8, 15),
            (8, 8, 8),
            (16, 17, 31),
            (31, 1, 9),
            (15, 33, 2),
            (19, 23, 45),
            (5, 64, 12),
        ] {
            let channels = 3;
            let value = |c: usize, r: usize, col: usize, s: usize| noise(((c * h + r) * w + col) * d + s);
            let mut even = PyramidPool::new(channels, h, w, d);
            let mut odd = even.clone();
            for s in (0..d).rev() {
                let mut features = Vec::new();
                for c in 0..channels {
                    for r in 0..h {
                        features.extend((0..w).map(|col| value(c, r, col, s)));
                    }
                }
                let pool = if s % 2 == 0 { &mut even } else { &mut odd };
                pool.push(s, &features).expect("the slice fits");
            }
            even.merge(&odd).expect("same volume");
            let pooled = even.finish().expect("all slices were pushed");
            assert_eq!(pooled.len(), CELLS * channels);
            assert_eq!(pooled, naive(&value, channels, [h, w, d]), "{h} x {w} x {d}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut pool = PyramidPool::new(2, 3, 4, 2);
        assert_eq!(pool.push(0, &[0.0; 23]), Err(PyramidError::WrongSize { got: 23, expected: 24 }));
        assert_eq!(pool.push(2, &[0.0; 24]), Err(PyramidError::NoSuchSlice { slice: 2, slices: 2 }));
        pool.push(1, &[0.0; 24]).expect("slice 1 fits");
        assert_eq!(pool.merge(&PyramidPool::new(2, 4, 3, 2)), Err(PyramidError::Mismatch));
        assert_eq!(pool.finish(), Err(PyramidError::Missing { slice: 0 }));
    }
}
