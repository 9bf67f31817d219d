//! Colours. Arithmetic only of operations that IEEE 754 rounds exactly, so that bytes are the same on all machines.

/// Red, green, blue, 0 to 1, as a display takes them (sRGB).
pub type Colour = [f32; 3];

pub const BACKGROUND: Colour = [0.035, 0.04, 0.05];
pub const PANEL: Colour = [0.0, 0.0, 0.0];
pub const TEXT: Colour = [0.86, 0.87, 0.88];
pub const FAINT: Colour = [0.66, 0.68, 0.70];
pub const WARNING: Colour = [1.0, 0.80, 0.10];

/// The colour of a lesion fraction: green at 0, yellow at one half, red at 1.
///
/// `fraction` is lesion voxels ÷ lung voxels along a ray, dimensionless; values outside of 0 to 1 are clamped and
/// NaN counts as 0. The red is lighter than a pure one: pure red is dark on a display, and red must not recede.
pub fn lesion_colour(fraction: f32) -> [f32; 3] {
    const STOPS: [Colour; 5] =
        [[0.10, 0.62, 0.30], [0.50, 0.74, 0.20], [0.96, 0.80, 0.14], [0.98, 0.48, 0.12], [0.93, 0.10, 0.12]];
    let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
    let position = fraction * (STOPS.len() - 1) as f32;
    let stop = (position as usize).min(STOPS.len() - 2);
    mix(STOPS[stop], STOPS[stop + 1], position - stop as f32)
}

/// `a` at 0, `b` at 1.
pub fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * share)
}

/// The colour of a pixel of the projection: `grey` 0 to 1, tinted by the lesion fraction where there is lung
/// (`lung`, 0 to 1). The grey modulates the tint, so that ribs and vessels stay visible under it; the tint grows
/// with the fraction, so that the affected part stands out without its hue too.
pub fn tint(grey: f32, fraction: f32, lung: f32) -> Colour {
    let colour = lesion_colour(fraction);
    let lit = colour.map(|c| c * (0.40 + 0.65 * grey));
    let alpha = lung * (0.42 + 0.34 * fraction);
    mix([grey; 3], lit.map(|c| c.min(1.0)), alpha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_green_to_red() {
        let [r, g, _] = lesion_colour(0.0);
        assert!(g > 2.0 * r);
        let [r, g, _] = lesion_colour(1.0);
        assert!(r > 4.0 * g);
        let red_share = |fraction| {
            let [r, g, _] = lesion_colour(fraction);
            r / (r + g)
        };
        for i in 0..100 {
            assert!(red_share(i as f32 / 100.0) < red_share((i + 1) as f32 / 100.0), "{i}");
        }
        assert_eq!(lesion_colour(f32::NAN), lesion_colour(0.0));
        assert_eq!(lesion_colour(f32::INFINITY), lesion_colour(1.0));
        assert_eq!(lesion_colour(-1.0), lesion_colour(0.0));
    }

    #[test]
    fn outside_of_the_lungs_nothing_is_coloured() {
        assert_eq!(tint(0.4, 1.0, 0.0), [0.4; 3]);
    }
}
