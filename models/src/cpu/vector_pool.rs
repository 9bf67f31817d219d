//! Pyramid max-pooling of one vector a slice, along the slices.

use kernels::pyramid::{LEVELS, windows};

/// Cells of a 1-D pyramid: 1 + 2 + 4 + 8.
pub(crate) const VECTOR_CELLS: usize = (1 << LEVELS) - 1;

/// Running maxima of a 1-D pyramid: level by level, inside a level channel by channel, then window.
pub(crate) struct VectorPool {
    slices: usize,
    maxima: [Vec<f32>; LEVELS],
}

impl VectorPool {
    /// An empty pool over vectors of `channels` values.
    pub(crate) fn new(channels: usize, slices: usize) -> Self {
        Self { slices, maxima: std::array::from_fn(|level| vec![f32::NEG_INFINITY; channels << level]) }
    }

    /// Takes the vector of a slice, in any order.
    pub(crate) fn push(&mut self, slice: usize, features: &[f32]) {
        for (level, maxima) in self.maxima.iter_mut().enumerate() {
            for (at, _) in
                windows(self.slices, level).iter().enumerate().filter(|(_, window)| window.contains(&slice))
            {
                for (channel, value) in features.iter().enumerate() {
                    let cell = &mut maxima[(channel << level) + at];
                    *cell = cell.max(*value);
                }
            }
        }
    }

    /// Takes over what `other`, a pool over the same slices, has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.maxima.iter_mut().flatten().zip(other.maxima.iter().flatten()) {
            *mine = mine.max(*theirs);
        }
    }

    /// The cells of all levels.
    pub(crate) fn finish(self) -> Vec<f32> {
        self.maxima.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_the_maxima_of_their_windows_in_any_order() {
        let value = |channel: usize, slice: usize| ((slice * 7 + channel * 5) % 13) as f32 - 6.0;
        for slices in [1, 5, 8, 19] {
            let mut pool = VectorPool::new(3, slices);
            for slice in (0..slices).rev() {
                pool.push(slice, &[0, 1, 2].map(|channel| value(channel, slice)));
            }
            let mut expected = Vec::new();
            for level in 0..LEVELS {
                for channel in 0..3 {
                    for window in windows(slices, level) {
                        expected.push(window.map(|slice| value(channel, slice)).fold(f32::MIN, f32::max));
                    }
                }
            }
            assert_eq!(pool.maxima.concat(), expected, "{slices} slices");
            assert_eq!(expected.len(), 3 * VECTOR_CELLS);
        }
    }
}
