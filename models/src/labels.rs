//! The label volume on the source grid: which voxel is right lung, left lung, lesion.
//!
//! Owns: pasting the networks' probabilities back, splitting the lungs, counting. One byte a voxel; slices are worked on by several threads
//! and counted apart, so that sums do not depend on their number.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use study::lungs::{FIT_ALL_MAX, FIT_EVERY, SplitModel, fit_split};
use study::severity::fractions;
use study::{Side, Sides};

/// Labels of a study, one byte a voxel.
///
/// Slice-major: voxel (slice, row, column) is at `(slice * rows + row) * columns + column`; slice 0 is nearest the head. A lesion
/// bit may lie outside the lungs; volumes and severity count lesions inside them only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelVolume {
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// One byte a voxel: a sum of [`LabelVolume::RIGHT_LUNG`], [`LabelVolume::LEFT_LUNG`], [`LabelVolume::LESION`].
    pub voxels: Vec<u8>,
}

/// Voxels of each lung, and of the lesions inside it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    pub lung: Sides<u64>,
    pub lesion: Sides<u64>,
}

impl LabelVolume {
    /// Bit of the patient's right lung.
    pub const RIGHT_LUNG: u8 = 1;
    /// Bit of the patient's left lung.
    pub const LEFT_LUNG: u8 = 2;
    /// Bit of a lesion.
    pub const LESION: u8 = 4;
    /// Bits of either lung.
    pub const LUNGS: u8 = Self::RIGHT_LUNG | Self::LEFT_LUNG;

    pub(crate) fn new(shape: [usize; 3]) -> Self {
        Self { shape, voxels: vec![0; shape.iter().product()] }
    }

    /// Labels of given masks; all lung is right lung, until [`LabelVolume::fractions`] splits it.
    ///
    /// # Panics
    /// When a mask has not the size of `shape`.
    pub fn of_masks(shape: [usize; 3], lungs: &[bool], lesions: &[bool]) -> Self {
        let voxels = shape.iter().product::<usize>();
        assert!(lungs.len() == voxels && lesions.len() == voxels, "masks of a volume of {shape:?}");
        let label = |(lung, lesion): (&bool, &bool)| {
            (u8::from(*lung) * Self::RIGHT_LUNG) | (u8::from(*lesion) * Self::LESION)
        };
        Self { shape, voxels: lungs.iter().zip(lesions).map(label).collect() }
    }

    /// Splits the lungs, as an analysis does, and gives the lesion fraction of each, 0 to 1; `None` where there is no lung.
    pub fn fractions(&mut self, threads: usize) -> Option<Sides<f64>> {
        let model = fit_split(&self.fit_points(threads))?;
        let counts = self.split(&model, threads);
        Some(fractions(counts.lesion.map(|v| v as f64), counts.lung.map(|v| v as f64)))
    }

    /// The labels of one slice, row-major.
    pub fn slice(&self, slice: usize) -> &[u8] {
        let size = self.shape[1] * self.shape[2];
        &self.voxels[slice * size..][..size]
    }

    /// The labels of some slices.
    pub(crate) fn slices_mut(&mut self, slices: &Range<usize>) -> &mut [u8] {
        let size = self.shape[1] * self.shape[2];
        &mut self.voxels[slices.start * size..slices.end * size]
    }

    /// Positions `[slice, row, column]` of the lung voxels that the split is fitted on: every 30th in the order of the paper's arrays (row,
    /// column, slice), all of them in a mask of at most 60.
    ///
    /// Memory is slice-major, so the order is counted instead of walked: first the lung voxels of each (row, column), then each column's place.
    pub(crate) fn fit_points(&self, threads: usize) -> Vec<[f64; 3]> {
        let [slices, rows, columns] = self.shape;
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); rows];
        let work: Vec<_> = places.iter_mut().map(Mutex::new).collect();
        parallel(threads, 0..rows, |row| {
            let mut counts = vec![0; columns];
            for slice in 0..slices {
                for (count, &label) in counts.iter_mut().zip(self.row(slice, row)) {
                    *count += u32::from(label & Self::LUNGS != 0);
                }
            }
            **work[row].lock().unwrap_or_else(PoisonError::into_inner) = counts;
        });
        drop(work);
        let mut total = 0;
        for count in places.iter_mut().flatten() {
            total += std::mem::replace(count, total);
        }
        let step = if total as usize <= FIT_ALL_MAX { 1 } else { FIT_EVERY as u32 };
        let mut points: Vec<Vec<(u32, [f64; 3])>> = vec![Vec::new(); rows];
        let work: Vec<_> = points.iter_mut().map(Mutex::new).collect();
        parallel(threads, 0..rows, |row| {
            let found = self.row_points(row, &places[row], step);
            **work[row].lock().unwrap_or_else(PoisonError::into_inner) = found;
        });
        drop(work);
        let mut points = points.concat();
        points.sort_unstable_by_key(|(place, _)| *place);
        points.into_iter().map(|(_, point)| point).collect()
    }

    /// The lung voxels of a row of all slices whose place is a multiple of `step`; `places` are those of each column's first voxel.
    fn row_points(&self, row: usize, places: &[u32], step: u32) -> Vec<(u32, [f64; 3])> {
        // Voxels still to pass by in each column: a division a column instead of one a voxel.
        let mut left: Vec<u32> = places.iter().map(|place| (step - place % step) % step).collect();
        let mut next: Vec<u32> = places.iter().zip(&left).map(|(place, left)| place + left).collect();
        let mut points = Vec::new();
        for slice in 0..self.shape[0] {
            let labels = self.row(slice, row);
            if labels.iter().fold(0, |all, label| all | label) & Self::LUNGS == 0 {
                continue;
            }
            for (column, _) in labels.iter().enumerate().filter(|(_, label)| **label & Self::LUNGS != 0) {
                if left[column] == 0 {
                    points.push((next[column], [slice as f64, row as f64, column as f64]));
                    next[column] += step;
                    left[column] = step;
                }
                left[column] -= 1;
            }
        }
        points
    }

    fn row(&self, slice: usize, row: usize) -> &[u8] {
        let [_, rows, columns] = self.shape;
        &self.voxels[(slice * rows + row) * columns..][..columns]
    }

    /// Gives every lung voxel its side and counts.
    pub(crate) fn split(&mut self, model: &SplitModel, threads: usize) -> Counts {
        let columns = self.shape[2];
        let mut counts = vec![Counts::default(); self.shape[0]];
        let size = self.shape[1] * columns;
        let work: Vec<_> = self.voxels.chunks_exact_mut(size).zip(&mut counts).map(Mutex::new).collect();
        parallel(threads, 0..work.len(), |slice| {
            let mut guard = work[slice].lock().unwrap_or_else(PoisonError::into_inner);
            let (labels, slice_counts) = &mut *guard;
            // Counted here: neighbours in the list share cache lines with another thread's slices.
            let mut counts = Counts::default();
            for (row, labels) in labels.chunks_exact_mut(columns).enumerate() {
                if labels.iter().fold(0, |all, label| all | label) & Self::LUNGS == 0 {
                    continue;
                }
                // Along a row the side changes once, from right to left: the difference of the distances is linear.
                let is_right = |column: f64| model.side([slice as f64, row as f64, column]) == Side::Right;
                let (mut first, mut end) = (0, columns);
                while first < end {
                    let middle = first.midpoint(end);
                    if is_right(middle as f64) { first = middle + 1 } else { end = middle }
                }
                let (right, left) = labels.split_at_mut(first);
                for (side, bit, labels) in
                    [(Side::Right, Self::RIGHT_LUNG, right), (Side::Left, Self::LEFT_LUNG, left)]
                {
                    let (lung, lesion) = mark_side(labels, bit);
                    *counts.lung.get_mut(side) += u64::from(lung);
                    *counts.lesion.get_mut(side) += u64::from(lesion);
                }
            }
            **slice_counts = counts;
        });
        drop(work);
        let mut sum = Counts::default();
        for count in counts {
            for side in [Side::Left, Side::Right] {
                *sum.lung.get_mut(side) += count.lung.get(side);
                *sum.lesion.get_mut(side) += count.lesion.get(side);
            }
        }
        sum
    }
}

/// Gives the lung voxels of a part of a row their side's bit; counts them, and the lesions among them.
fn mark_side(labels: &mut [u8], bit: u8) -> (u32, u32) {
    let (mut lung, mut lesion) = (0, 0);
    for label in labels {
        let is_lung = *label & LabelVolume::LUNGS != 0;
        let is_lesion = is_lung && *label & LabelVolume::LESION != 0;
        *label = if is_lung { *label & LabelVolume::LESION | bit } else { *label };
        lung += u32::from(is_lung);
        lesion += u32::from(is_lesion);
    }
    (lung, lesion)
}

/// Calls `work` for every index of `range`, each once, on up to `threads` threads.
pub(crate) fn parallel(threads: usize, range: Range<usize>, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(range.start);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= range.end {
                break;
            }
            work(index);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(range.len()) {
            scope.spawn(run);
        }
        run();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(shape: [usize; 3], is_lung: impl Fn(usize, usize, usize) -> bool) -> LabelVolume {
        let mut labels = LabelVolume::new(shape);
        for (at, label) in labels.voxels.iter_mut().enumerate() {
            let (s, r, c) = (at / (shape[1] * shape[2]), at / shape[2] % shape[1], at % shape[2]);
            *label = u8::from(is_lung(s, r, c));
        }
        labels
    }

    #[test]
    fn fit_points_are_every_30th_of_row_column_slice() {
        for (shape, salt) in [([5, 7, 9], 3), ([4, 3, 5], 2), ([1, 1, 61], 1), ([6, 10, 1], 1)] {
            let is_lung = |s: usize, r: usize, c: usize| (s * 7 + r * 5 + c * 3) % salt != 1;
            let labels = volume(shape, is_lung);
            let mut expected = Vec::new();
            for r in 0..shape[1] {
                for c in 0..shape[2] {
                    expected.extend(
                        (0..shape[0]).filter(|&s| is_lung(s, r, c)).map(|s| [s as f64, r as f64, c as f64]),
                    );
                }
            }
            let step = if expected.len() <= 60 { 1 } else { 30 };
            let expected: Vec<_> = expected.into_iter().step_by(step).collect();
            assert_eq!(labels.fit_points(1 + salt), expected, "{shape:?}");
        }
    }

    #[test]
    fn split_counts_lesions_inside_lungs_only() {
        // Two blocks of 4 columns; lesions in row 0, also between the lungs.
        let mut labels = volume([3, 4, 20], |_, _, c| !(4..16).contains(&c));
        for slice in 0..3 {
            labels.voxels[slice * 80..slice * 80 + 18]
                .iter_mut()
                .for_each(|label| *label |= LabelVolume::LESION);
        }
        let model = fit_split(&labels.fit_points(2)).unwrap();
        let mut one = labels.clone();
        let counts = one.split(&model, 1);
        assert_eq!(counts.lung, Sides { left: 48, right: 48 });
        assert_eq!(counts.lesion, Sides { left: 6, right: 12 });
        assert_eq!(one.slice(1)[..6], [5, 5, 5, 5, 4, 4]);
        assert_eq!(one.slice(1)[14..20], [4, 4, 6, 6, 2, 2]);
        assert_eq!((labels.split(&model, 3), labels), (counts, one));
    }
}
