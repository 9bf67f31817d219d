//! How the pixels of a map are laid out as positions for a convolution; `Strips` of `cu/layers.cuh`.
//!
//! Owns: width of the strips and the grid. Never does: launch.

use super::{PIXELS_MAX, Shape, usage};
use crate::device::DeviceError;

/// Positions of a row of a strip: `PITCH_MAX` in `traits.cuh`.
const PITCH_MAX: usize = 48;

/// The rows of all slices, each slice followed by a row of zeros, cut into strips of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strips {
    /// Pixels of a strip's row.
    pub(super) columns: usize,
    /// Positions of a strip's row.
    pub(super) pitch: usize,
    /// For divisions by the pitch.
    pub(super) pitch_magic: u32,
    /// For divisions by the rows of a slice.
    pub(super) period_magic: u32,
    /// Strips of a map.
    count: usize,
    /// Positions of a strip.
    positions: usize,
}

impl Strips {
    /// `paired`: neighbouring pixels are read as one from even positions, so rows must start at even positions.
    pub(super) fn new(
        side: usize,
        [slices, rows, columns]: Shape,
        paired: bool,
    ) -> Result<Self, DeviceError> {
        if side == 1 {
            let positions = slices * rows * columns;
            return Ok(Self { columns, pitch: 0, pitch_magic: 0, period_magic: 0, count: 1, positions });
        }
        let even = |pitch: usize| if paired { pitch.next_multiple_of(2) } else { pitch };
        // One strip: the zeros before a row are also those after the row before.
        let (count, width, pitch) = if even(columns + 1) <= PITCH_MAX {
            (1, columns, even(columns + 1))
        } else {
            let count = columns.div_ceil(PITCH_MAX - 2);
            let width = columns.div_ceil(count);
            (count, width, even(width + 2))
        };
        // Of the pixels, there are at most PIXELS_MAX.
        let positions = slices * (rows + 1) * pitch;
        // The kernel counts positions from two rows before, and to the end of the last block.
        let last = positions + 2 * pitch + 1024;
        if positions > 2 * PIXELS_MAX || last * pitch.max(rows + 1) >= 1 << 32 {
            return Err(usage(format!("positions of a convolution: {positions}")));
        }
        let magic = |by: usize| ((1_u64 << 32) / by as u64 + 1) as u32;
        let (pitch_magic, period_magic) = (magic(pitch), magic(rows + 1));
        Ok(Self { columns: width, pitch, pitch_magic, period_magic, count, positions })
    }

    /// Blocks of so many positions, strips, and tiles of output channels.
    pub(super) fn grid(&self, positions: usize, tiles: usize) -> Result<[u32; 3], DeviceError> {
        if self.count > 65_535 || tiles > 65_535 {
            let value = self.count.max(tiles);
            return Err(usage(format!("strips or tiles of channels: {value}")));
        }
        Ok([self.positions.div_ceil(positions) as u32, self.count as u32, tiles as u32])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The divisions of the kernel are exact for every position that it may ask for.
    #[test]
    fn magic_numbers_divide() {
        for shape in [[1, 1, 1], [64, 3, 3], [3, 47, 46], [40, 181, 158], [600, 3, 5], [2, 700, 47]] {
            for paired in [false, true] {
                let strips = Strips::new(3, shape, paired).unwrap();
                assert!(strips.pitch <= PITCH_MAX && (!paired || strips.pitch.is_multiple_of(2)));
                assert!(strips.columns * strips.count >= shape[2]);
                assert!(strips.pitch >= strips.columns + 1 + usize::from(strips.count > 1));
                let last = strips.positions + 2 * strips.pitch + 1024;
                for n in (0..last).step_by(37).chain(last - 5000.min(last)..last) {
                    let by = |magic: u32| ((n as u64 * u64::from(magic)) >> 32) as usize;
                    assert_eq!(by(strips.pitch_magic), n / strips.pitch, "{n} of {shape:?}");
                    assert_eq!(by(strips.period_magic), n / (shape[1] + 1), "{n} of {shape:?}");
                }
            }
        }
    }
}
