//! Resampling of maps along one axis at a time. Arithmetic only of operations that IEEE 754 rounds exactly.

/// The weight of a sample by its distance from the centre, in samples; nothing from a distance of 2 on.
pub type Kernel = fn(f64) -> f64;

/// Cubic B-spline: smooths. It has no negative lobes, so masks get no halos.
pub const SMOOTH: Kernel = |x| {
    let x = x.abs();
    if x < 1.0 {
        (4.0 - 6.0 * x * x + 3.0 * x * x * x) / 6.0
    } else if x < 2.0 {
        (2.0 - x) * (2.0 - x) * (2.0 - x) / 6.0
    } else {
        0.0
    }
};

/// Catmull-Rom spline: passes through the samples, so that vessels stay sharp. It may overshoot.
pub const SHARP: Kernel = |x| {
    let x = x.abs();
    if x < 1.0 {
        (2.0 - 5.0 * x * x + 3.0 * x * x * x) / 2.0
    } else if x < 2.0 {
        (4.0 - 8.0 * x + 5.0 * x * x - x * x * x) / 2.0
    } else {
        0.0
    }
};

/// For each output sample the first input sample and the weights from there on.
pub type Taps = Vec<(usize, Vec<f32>)>;

/// Weights that resample the inputs `start..stop` to `outputs` samples, by a kernel that is widened when the result is
/// coarser than the input.
pub fn taps(start: usize, stop: usize, outputs: usize, kernel: Kernel) -> Taps {
    let step = (stop - start) as f64 / outputs as f64;
    let width = step.max(1.0);
    (0..outputs)
        .map(|i| {
            let centre = start as f64 + (i as f64 + 0.5) * step - 0.5;
            let low = (centre - 2.0 * width).ceil().max(start as f64) as usize;
            let high = ((centre + 2.0 * width).floor() as usize).clamp(low, stop - 1);
            let weights: Vec<f64> = (low..=high).map(|k| kernel((k as f64 - centre) / width)).collect();
            let sum: f64 = weights.iter().sum();
            (low, weights.iter().map(|w| (w / sum) as f32).collect())
        })
        .collect()
}

/// Resamples rows of `columns` values each.
pub fn resample(values: &[f32], columns: usize, across: &Taps, down: &Taps) -> Vec<f32> {
    let narrow: Vec<f32> = values
        .chunks_exact(columns)
        .flat_map(|row| {
            across.iter().map(|(first, weights)| {
                weights.iter().zip(&row[*first..]).map(|(weight, value)| weight * value).sum::<f32>()
            })
        })
        .collect();
    let width = across.len();
    let mut out = Vec::with_capacity(width * down.len());
    for (first, weights) in down {
        for x in 0..width {
            out.push(weights.iter().enumerate().map(|(k, w)| w * narrow[(first + k) * width + x]).sum());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (start, stop, outputs) in [(0, 1, 1), (0, 1, 9), (3, 10, 7), (0, 512, 40), (5, 17, 300)] {
            for (first, weights) in taps(start, stop, outputs, SMOOTH) {
                assert!(first >= start && first + weights.len() <= stop);
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert!(weights.iter().all(|w| *w >= 0.0));
            }
            for (first, weights) in taps(start, stop, outputs, SHARP) {
                assert!(first >= start && first + weights.len() <= stop);
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_sharp_kernel_keeps_the_samples_of_the_same_grid() {
        let values = [0.0, 1.0, 0.25, 0.5, 0.75, 0.1];
        let (across, down) = (taps(0, 3, 3, SHARP), taps(0, 2, 2, SHARP));
        assert_eq!(resample(&values, 3, &across, &down), values);
    }
}
