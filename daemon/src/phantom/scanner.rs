//! What the scanner does to the picture: quantum noise and the reconstruction kernel's blur.
//!
//! Owns: both, in one pass, so that the noise is correlated as the kernel makes it. Never knows anatomy.

use super::math::Random;

/// Width (standard deviation) of a soft kernel's point spread, mm: about 1.3 mm at half height.
const BLUR_MM: f32 = 0.55;

/// Adds noise of `sigma_hu` (times `weight` of each pixel) to a square picture and blurs both with the kernel. The
/// generator must be the slice's own, so that slices don't depend on their order.
pub fn reconstruct(
    hu: &mut [f32],
    weight: &[f32],
    size: usize,
    pixel_mm: f32,
    sigma_hu: f32,
    random: &mut Random,
) {
    let kernel = kernel(BLUR_MM / pixel_mm);
    // Blurring in both directions leaves sum(w²) of the noise's standard deviation.
    let kept: f32 = kernel.iter().enumerate().map(|(i, w)| if i == 0 { w * w } else { 2.0 * w * w }).sum();
    let amplitude = sigma_hu / kept;
    for (value, weight) in hu.iter_mut().zip(weight) {
        *value += amplitude * weight * random.normal();
    }
    if kernel.len() == 1 {
        return;
    }
    let mut line = vec![0.0f32; size];
    for row in hu.chunks_exact_mut(size) {
        line.copy_from_slice(row);
        convolve(&line, &kernel, row);
    }
    // Down the columns, a row at a time, from a copy.
    let source = hu.to_vec();
    for (r, row) in hu.chunks_exact_mut(size).enumerate() {
        let at = |k: usize| &source[k * size..(k + 1) * size];
        for (value, s) in row.iter_mut().zip(at(r)) {
            *value = kernel[0] * s;
        }
        for (k, w) in kernel.iter().enumerate().skip(1) {
            let (above, below) = (at(r.saturating_sub(k)), at((r + k).min(size - 1)));
            for ((value, a), b) in row.iter_mut().zip(above).zip(below) {
                *value += w * (a + b);
            }
        }
    }
}

fn convolve(line: &[f32], kernel: &[f32], out: &mut [f32]) {
    let last = line.len() - 1;
    for (i, value) in out.iter_mut().enumerate() {
        let mut sum = kernel[0] * line[i];
        for (k, w) in kernel.iter().enumerate().skip(1) {
            sum += w * (line[i.saturating_sub(k)] + line[(i + k).min(last)]);
        }
        *value = sum;
    }
}

/// Half of a Gaussian kernel, the centre first, normalised.
fn kernel(sigma_px: f32) -> Vec<f32> {
    let radius = (2.6 * sigma_px) as usize;
    // exp(-1 / 2σ²) as a power, for the same bits on every machine.
    let mut q = (1.0 - 1.0 / (2.0 * sigma_px * sigma_px) / 4096.0).max(0.0);
    for _ in 0..12 {
        q *= q;
    }
    let mut half = Vec::with_capacity(radius + 1);
    for i in 0..=radius {
        half.push((0..i * i).fold(1.0f32, |w, _| w * q));
    }
    let sum: f32 = 2.0 * half.iter().sum::<f32>() - half[0];
    half.iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_asked_sigma_and_blur_keeps_the_mean() {
        for pixel_mm in [0.35f32, 0.7, 5.6] {
            let size = 200;
            let mut hu = vec![40.0f32; size * size];
            let weight = vec![1.0f32; size * size];
            reconstruct(&mut hu, &weight, size, pixel_mm, 20.0, &mut Random::new(3, 4));
            let n = hu.len() as f64;
            let mean = hu.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let sigma = (hu.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((mean - 40.0).abs() < 1.0, "mean {mean} at {pixel_mm} mm");
            assert!((sigma - 20.0).abs() < 1.0, "sigma {sigma} at {pixel_mm} mm");
        }
    }
}
