//! A network of volumes, patch by patch (the paper's 3-D U-Net: 160³).
//!
//! The patches lie on a regular grid that covers the crop, the last one along an axis shifted back to end at its edge; an axis that is shorter than
//! a patch is filled up with air (0 of the window) at its end. Where patches overlap, their probabilities are averaged. The paper doesn't say how
//! it stitches; this is our definition, and that of models/training.
//!
//! One patch at a time, shared by all threads: the activations of 160³ voxels take 212 MiB on one thread, and two patches at once would not fit a
//! small box. Beside them, one patch and the sums of the crop are kept: 4 bytes a voxel.

use std::ops::Range;

use crate::backend::{Emit, EngineError, Plane, sigmoid};
use crate::cpu::{Lanes, Model};
use crate::job::Progress;

/// The network and the size of its patches.
pub(crate) struct Patches {
    pub(super) model: Model<1>,
    /// Slices, rows, columns.
    pub(super) size: [usize; 3],
}

impl Patches {
    /// Emits the lesion probability of each slice, when all patches are done; `done` is called with patches done, and in all.
    pub(super) fn run(
        &self,
        crop: &[Plane<'_>],
        lanes: &Lanes,
        emit: Emit<'_>,
        done: Progress<'_>,
    ) -> Result<(), EngineError> {
        let shape = [crop.len(), crop[0].rows(), crop[0].columns()];
        let axes = [0, 1, 2].map(|axis| cover(shape[axis], self.size[axis]));
        let of = axes.iter().map(Vec::len).product();
        let [_, rows, columns] = shape;
        let mut sums = vec![0.0_f32; shape.iter().product()];
        for number in 0..of {
            done(number, of);
            let [across, beside] = [axes[1].len() * axes[2].len(), axes[2].len()];
            let at = [
                &axes[0][number / across],
                &axes[1][number / beside % axes[1].len()],
                &axes[2][number % beside],
            ];
            let [slices, rows_of, columns_of] = at.map(Range::clone);
            let values = self.patch(crop, at, lanes)?;
            for (z, slice) in slices.clone().enumerate() {
                for (y, row) in rows_of.clone().enumerate() {
                    let from = &values[(z * self.size[1] + y) * self.size[2]..][..columns_of.len()];
                    let start = (slice * rows + row) * columns + columns_of.start;
                    sums[start..start + from.len()].iter_mut().zip(from).for_each(|(sum, v)| *sum += v);
                }
            }
        }
        done(of, of);
        let times = [0, 1, 2].map(|axis| counts(&axes[axis]));
        for (slice, sums) in sums.chunks_exact_mut(rows * columns).enumerate() {
            for (row, sums) in sums.chunks_exact_mut(columns).enumerate() {
                for (sum, column) in sums.iter_mut().zip(&times[2]) {
                    *sum /= (times[0][slice] * times[1][row] * column) as f32;
                }
            }
            emit(slice, sums);
        }
        Ok(())
    }

    /// Probabilities of a patch of the full size.
    fn patch(
        &self,
        crop: &[Plane<'_>],
        [slices, rows, columns]: [&Range<usize>; 3],
        lanes: &Lanes,
    ) -> Result<Vec<f32>, EngineError> {
        let [_, height, width] = self.size;
        let mut filled = vec![0.0; self.size.iter().product()];
        for (plane, out) in crop[slices.clone()].iter().zip(filled.chunks_exact_mut(height * width)) {
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(width)) {
                out[..columns.len()].copy_from_slice(&plane.row(row)[columns.clone()]);
            }
        }
        let planes: Vec<Plane<'_>> = filled
            .chunks_exact(height * width)
            .map(|values| Plane::new(values, height, width, width))
            .collect();
        let mut values = self.model.volume(&planes, lanes)?;
        sigmoid(&mut values, self.model.name())?;
        Ok(values)
    }
}

/// Parts of at most `size` samples that cover an axis of `len`; the last one is shifted back to its end.
fn cover(len: usize, size: usize) -> Vec<Range<usize>> {
    let width = len.min(size);
    (0..len.div_ceil(size)).map(|i| (i * size).min(len - width)).map(|start| start..start + width).collect()
}

/// In how many parts each sample lies.
fn counts(ranges: &[Range<usize>]) -> Vec<usize> {
    let len = ranges.last().map_or(0, |last| last.end);
    (0..len).map(|at| ranges.iter().filter(|range| range.contains(&at)).count()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_cover_every_axis() {
        assert_eq!(cover(90, 160), std::slice::from_ref(&(0..90)));
        assert_eq!(cover(160, 160), std::slice::from_ref(&(0..160)));
        assert_eq!(cover(330, 160), [0..160, 160..320, 170..330]);
        for len in 1..700 {
            let ranges = cover(len, 160);
            assert!(counts(&ranges).iter().all(|times| *times > 0), "{len}");
            assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, len));
            assert!(ranges.iter().all(|range| range.len() == len.min(160)));
        }
    }
}
