//! Gaussian smoothing of a volume, as `scipy.ndimage.gaussian_filter` does it: truncated at 4 sigma, mirrored at the borders.

use std::sync::{Mutex, PoisonError};

use crate::labels::parallel;

/// Standard deviations at which the kernel ends; SciPy's default.
const TRUNCATE: f64 = 4.0;

/// Smooths `volume` (slices × rows × columns) with the same `sigma`, in voxels, along each axis. Sums are in double precision.
///
/// # Panics
/// When `volume` has not the size of `shape`, or an axis is 0 long.
pub fn gaussian(volume: &[f32], shape: [usize; 3], sigma: f64, threads: usize) -> Vec<f32> {
    assert_eq!(volume.len(), shape.iter().product::<usize>(), "a volume of {shape:?}");
    assert!(!volume.is_empty(), "a volume of {shape:?}");
    let weights = weights(sigma);
    let along = |source: &[f32], axis: usize| pass(source, shape, axis, &weights, threads);
    let [first, second] = [1, 2];
    along(&along(&along(volume, 0), first), second)
}

/// The kernel: normalized, 2 · radius + 1 values.
fn weights(sigma: f64) -> Vec<f64> {
    let radius = (TRUNCATE * sigma + 0.5) as i64;
    let raw: Vec<f64> = (-radius..=radius).map(|x| (-0.5 * (x * x) as f64 / (sigma * sigma)).exp()).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

/// Sample `at` of an axis of `len` samples that is mirrored about its edges: d c b a | a b c d | d c b a.
fn mirrored(at: isize, len: usize) -> usize {
    let at = at.rem_euclid(2 * len as isize) as usize;
    if at < len { at } else { 2 * len - 1 - at }
}

fn pass(source: &[f32], shape: [usize; 3], axis: usize, weights: &[f64], threads: usize) -> Vec<f32> {
    let [slices, rows, columns] = shape;
    let radius = weights.len() as isize / 2;
    let mut out = vec![0.0; source.len()];
    let planes: Vec<_> = out.chunks_exact_mut(rows * columns).map(Mutex::new).collect();
    parallel(threads, 0..slices, |slice| {
        let mut plane = planes[slice].lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = vec![0.0_f64; columns];
        let mut line = vec![0.0_f32; columns + 2 * radius as usize];
        for (row, out) in plane.chunks_exact_mut(columns).enumerate() {
            sums.fill(0.0);
            let at = |slice: usize, row: usize| &source[(slice * rows + row) * columns..][..columns];
            if axis == 2 {
                let values = at(slice, row);
                for (x, value) in (-radius..).zip(&mut line) {
                    *value = values[mirrored(x, columns)];
                }
            }
            for (index, weight) in weights.iter().enumerate() {
                let offset = index as isize - radius;
                let values = match axis {
                    0 => at(mirrored(slice as isize + offset, slices), row),
                    1 => at(slice, mirrored(row as isize + offset, rows)),
                    _ => &line[index..index + columns],
                };
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * f64::from(*value);
                }
            }
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out = *sum as f32;
            }
        }
    });
    drop(planes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_repeats_its_edges() {
        let found: Vec<usize> = (-5..8).map(|at| mirrored(at, 3)).collect();
        assert_eq!(found, [1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]);
        assert!((-9..9).all(|at| mirrored(at, 1) == 0));
    }

    #[test]
    fn what_is_even_stays_and_threads_change_no_bit() {
        let shape = [3, 5, 7];
        let even = gaussian(&[0.25; 105], shape, 4.0, 1);
        assert!(even.iter().all(|v| (v - 0.25).abs() < 1e-6), "{even:?}");
        let volume: Vec<f32> = (0..105).map(|i| (i * 37 % 11) as f32).collect();
        assert_eq!(gaussian(&volume, shape, 1.3, 1), gaussian(&volume, shape, 1.3, 3));
    }
}
