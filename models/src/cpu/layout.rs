//! How feature maps lie in memory: rows, in them blocks of 16 lanes, in those pixels.
//!
//! Owns: offsets, margins and the pairing of pixels. Never does: arithmetic.
//!
//! A row holds all channels: `[block][left margin, pixels, right margin][16]`. The 16 lanes of a pixel are
//! - 16 channels, or
//! - where a map has at most 8 channels, 8 channels × 2 pixels, interleaved: pixel `x` of the left half of the row and its partner in the
//!   right half. Shifting by a pixel then shifts both, so a convolution of 8 channels fills a vector of 16 without a shuffle.
//!
//! Margins make horizontal padding: zeros, or for pairs the neighbour from the other half. A map may keep only its last `capacity` rows.

/// Lanes of a pixel.
pub(super) const LANES: usize = 16;

/// Layout of one feature map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Channels.
    pub(super) channels: usize,
    /// Depth, height, width.
    pub(super) dims: [usize; 3],
    /// Two pixels of 8 channels a vector.
    pub(super) pairs: bool,
    /// Pixels (or pairs) of margin on the left.
    pub(super) left: usize,
    /// Pixels (or pairs) of margin on the right.
    pub(super) right: usize,
    /// Rows kept.
    pub(super) capacity: usize,
}

impl Layout {
    /// Rows of the map: depth × height.
    pub(super) fn rows(&self) -> usize {
        self.dims[0] * self.dims[1]
    }

    /// Pixels, or pairs, of a row.
    pub(super) fn width(&self) -> usize {
        if self.pairs { self.dims[2].div_ceil(2) } else { self.dims[2] }
    }

    /// Channels of a block.
    pub(super) fn per_block(&self) -> usize {
        if self.pairs { LANES / 2 } else { LANES }
    }

    /// Values from a channel to the next in a block.
    pub(super) fn channel_step(&self) -> usize {
        if self.pairs { 2 } else { 1 }
    }

    /// Blocks of a row.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(self.per_block())
    }

    /// Values from a block to the next.
    pub(super) fn block_step(&self) -> usize {
        (self.left + self.width() + self.right) * LANES
    }

    /// Values of a row, margins included.
    pub(super) fn row_len(&self) -> usize {
        self.blocks() * self.block_step()
    }

    /// Values of the map as kept.
    pub(super) fn len(&self) -> usize {
        self.capacity * self.row_len()
    }

    /// Where a row starts, its margin included.
    pub(super) fn row_start(&self, row: usize) -> usize {
        // Most maps keep all rows; a division is slow.
        let row = if row < self.capacity { row } else { row % self.capacity };
        row * self.row_len()
    }

    /// Where the first pixel of a row is.
    pub(super) fn row(&self, row: usize) -> usize {
        self.row_start(row) + self.left * LANES
    }

    /// Where a value is, from its row's first pixel.
    #[inline]
    pub(super) fn at(&self, channel: usize, x: usize) -> usize {
        // Constant divisors are shifts.
        let (block, channel) =
            if self.pairs { (channel / 8, channel % 8) } else { (channel / 16, channel % 16) };
        let (pixel, lane) = if x < self.width() { (x, 0) } else { (x - self.width(), 1) };
        block * self.block_step() + pixel * LANES + channel * self.channel_step() + lane
    }

    /// Reads the values of a channel, left to right; `row` starts with its first pixel.
    pub(super) fn get_channel(&self, row: &[f32], channel: usize, out: &mut [f32]) {
        let first = self.at(channel, 0);
        // Without pairs, nothing is to the right.
        let (left, right) = out.split_at_mut(self.width());
        left.iter_mut().zip(row[first..].iter().step_by(LANES)).for_each(|(to, v)| *to = *v);
        right.iter_mut().zip(row[first + 1..].iter().step_by(LANES)).for_each(|(to, v)| *to = *v);
    }

    /// Writes the values of a channel, left to right; `row` starts with its first pixel.
    pub(super) fn set_channel(&self, row: &mut [f32], channel: usize, values: &[f32]) {
        let first = self.at(channel, 0);
        let (left, right) = values.split_at(self.width());
        row[first..].iter_mut().step_by(LANES).zip(left).for_each(|(to, v)| *to = *v);
        row[first + 1..].iter_mut().step_by(LANES).zip(right).for_each(|(to, v)| *to = *v);
    }

    /// Makes the margins of a row that was just written; `row` starts with its left margin.
    pub(super) fn seal(&self, row: &mut [f32]) {
        if self.left + self.right == 0 && !self.pairs {
            return;
        }
        let width = self.width();
        for block in row.chunks_exact_mut(self.block_step()) {
            block[..self.left * LANES].fill(0.0);
            block[(self.left + width) * LANES..].fill(0.0);
            if !self.pairs {
                continue;
            }
            if self.dims[2] % 2 == 1 {
                // The last pair has no right pixel: it is padding.
                let last = (self.left + width - 1) * LANES;
                block[last..last + LANES].iter_mut().skip(1).step_by(2).for_each(|v| *v = 0.0);
            }
            for m in 1..=self.left.min(width) {
                let (to, from) = ((self.left - m) * LANES, (self.left + width - m) * LANES);
                for lane in (0..LANES).step_by(2) {
                    block[to + lane + 1] = block[from + lane];
                }
            }
            for m in 0..self.right.min(self.dims[2] - width) {
                let (to, from) = ((self.left + width + m) * LANES, (self.left + m) * LANES);
                for lane in (0..LANES).step_by(2) {
                    block[to + lane] = block[from + lane + 1];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_their_neighbours_in_the_margins() {
        for width in [1, 2, 3, 4, 7, 8] {
            let layout =
                Layout { channels: 3, dims: [1, 1, width], pairs: true, left: 1, right: 1, capacity: 1 };
            let mut row = vec![f32::NAN; layout.row_len()];
            for c in 0..8 {
                for x in 0..width {
                    row[LANES + layout.at(c, x)] = (c * 100 + x + 1) as f32;
                }
            }
            layout.seal(&mut row);
            let half = layout.width();
            for c in 0..8 {
                // Pixel x at lane 0 of pair x, and at lane 1 of pair x - half; outside the image, 0.
                let pixel = |x: isize| {
                    if (0..width as isize).contains(&x) { (c * 100) as f32 + x as f32 + 1.0 } else { 0.0 }
                };
                for pair in -1..=half as isize {
                    let at = (pair + 1) as usize * LANES + 2 * c;
                    assert_eq!(row[at], pixel(pair), "width {width}, pair {pair}, left");
                    // The margin on the right of the right half is outside whatever the left half holds.
                    assert_eq!(row[at + 1], pixel(pair + half as isize), "width {width}, pair {pair}, right");
                }
            }
        }
    }
}
