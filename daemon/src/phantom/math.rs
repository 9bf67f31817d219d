//! Shapes and randomness of the phantom.
//!
//! Owns: distances to simple solids, soft steps, a small generator, smooth random fields. Never calls a function of the
//! machine's mathematics library: additions, products, quotients and square roots are exact under IEEE 754, so that a
//! seed gives the same voxels on every machine.

/// A point in the canonical chest, mm: x to the patient's left, y to the back, z (depth) from head to feet.
pub type Point = [f32; 3];

/// Linear mix: `a` at 0, `b` at 1.
pub fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Smooth step from 0 at `from` to 1 at `to`.
pub fn step(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Share of a pixel of `width_mm` that a solid covers whose surface is `inside_mm` away (positive inside).
pub fn cover(inside_mm: f32, width_mm: f32) -> f32 {
    (inside_mm / width_mm + 0.5).clamp(0.0, 1.0)
}

/// Smooth minimum; corners are rounded over `k`.
pub fn smin(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.min(b) - h * h * k * 0.25
}

/// Smooth maximum; see [`smin`].
pub fn smax(a: f32, b: f32, k: f32) -> f32 {
    -smin(-a, -b, k)
}

/// Distance to an ellipse's edge to first order, positive inside.
pub fn ellipse(x: f32, y: f32, a: f32, b: f32) -> f32 {
    let (u, v) = (x / a, y / b);
    let g2 = u * u + v * v;
    if g2 < 1e-4 {
        return a.min(b);
    }
    let (p, q) = (u / a, v / b);
    (1.0 - g2.sqrt()) * (g2 / (p * p + q * q)).sqrt()
}

/// Distance to an ellipsoid's surface to first order, positive inside; `p` from its centre.
pub fn ellipsoid(p: Point, r: Point) -> f32 {
    let (u, v, w) = (p[0] / r[0], p[1] / r[1], p[2] / r[2]);
    let g2 = u * u + v * v + w * w;
    if g2 < 1e-4 {
        return r[0].min(r[1]).min(r[2]);
    }
    let (du, dv, dw) = (u / r[0], v / r[1], w / r[2]);
    (1.0 - g2.sqrt()) * (g2 / (du * du + dv * dv + dw * dw)).sqrt()
}

/// Distance to a superellipse of exponent 2.5 to first order, positive inside: a body's outline.
pub fn superellipse(x: f32, y: f32, a: f32, b: f32) -> f32 {
    let (u, v) = ((x / a).abs(), (y / b).abs());
    let (su, sv) = (u * u.sqrt(), v * v.sqrt());
    let (du, dv) = (2.5 * su / a, 2.5 * sv / b);
    (1.0 - su * u - sv * v) / (du * du + dv * dv).sqrt().max(1.0 / b)
}

/// Distance to a capsule in the plane, positive inside.
pub fn capsule(x: f32, y: f32, from: [f32; 2], to: [f32; 2], radius: f32) -> f32 {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let (px, py) = (x - from[0], y - from[1]);
    let t = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    let (ex, ey) = (px - t * dx, py - t * dy);
    radius - (ex * ex + ey * ey).sqrt()
}

/// Distance to a straight tube from `a` to `b` with a radius at either end, positive inside.
pub fn segment(p: Point, a: Point, b: Point, radii: [f32; 2]) -> f32 {
    let d: Point = std::array::from_fn(|i| b[i] - a[i]);
    let q: Point = std::array::from_fn(|i| p[i] - a[i]);
    let length2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    let t = ((q[0] * d[0] + q[1] * d[1] + q[2] * d[2]) / length2.max(1e-6)).clamp(0.0, 1.0);
    let e: Point = std::array::from_fn(|i| q[i] - t * d[i]);
    radii[0] + t * (radii[1] - radii[0]) - (e[0] * e[0] + e[1] * e[1] + e[2] * e[2]).sqrt()
}

/// Value at `t` of a curve through `knots` (ascending), smooth between them and flat outside.
pub fn profile(knots: &[(f32, f32)], t: f32) -> f32 {
    let (first, last) = (knots[0], knots[knots.len() - 1]);
    if t <= first.0 {
        return first.1;
    }
    for pair in knots.windows(2) {
        if t <= pair[1].0 {
            return mix(pair[0].1, pair[1].1, step(pair[0].0, pair[1].0, t));
        }
    }
    last.1
}

/// Cube root of a number of at least 1 by Newton's method.
pub fn cube_root(x: f32) -> f32 {
    let mut r = if x > 64.0 { x / 24.0 } else { 1.0 + x / 8.0 };
    for _ in 0..12 {
        r = (2.0 * r + x / (r * r)) / 3.0;
    }
    r
}

/// Mixes 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
pub fn hash(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// SplitMix64: a generator whose state is one counter.
pub struct Random(u64);

impl Random {
    /// A generator for one purpose (`stream`) of one seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(hash(hash(seed) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)))
    }

    /// Next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let value = hash(self.0);
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        value
    }

    /// Uniform in `low..high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        mix(low, high, (self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// Nearly normal with variance 1: the sum of four uniforms (Irwin-Hall), which needs no logarithm.
    pub fn normal(&mut self) -> f32 {
        let b = self.bits();
        let sum = (b & 0xFFFF) + ((b >> 16) & 0xFFFF) + ((b >> 32) & 0xFFFF) + (b >> 48);
        // Four uniforms of 0..65535: mean 131070, variance 4 · 65536² / 12.
        (sum as f32 - 131_070.0) / 37_837.23
    }
}

/// A slice of a smooth random field (values -1..1 on a cubic lattice, interpolated).
pub struct NoisePlane {
    values: Vec<f32>,
    pitch_inverse: f32,
}

const NOISE_EXTENT_MM: f32 = 320.0;

impl NoisePlane {
    /// The field `stream` of `seed` with lattice pitch `pitch_mm`, at depth `z`.
    pub fn new(seed: u64, stream: u64, pitch_mm: f32, z: f32) -> Self {
        let side = Self::side(1.0 / pitch_mm);
        let base = hash(hash(seed) ^ (stream << 48));
        let w = z / pitch_mm + 64.0;
        let layer = w as u64;
        let t = step(0.0, 1.0, w - layer as f32);
        let value = |k: u64, i: usize| {
            let bits = hash(base ^ (k << 32) ^ i as u64);
            (bits >> 40) as f32 * (2.0 / (1u64 << 24) as f32) - 1.0
        };
        let values = (0..side * side).map(|i| mix(value(layer, i), value(layer + 1, i), t)).collect();
        Self { values, pitch_inverse: 1.0 / pitch_mm }
    }

    fn side(pitch_inverse: f32) -> usize {
        (2.0 * NOISE_EXTENT_MM * pitch_inverse) as usize + 3
    }

    /// Value at a point of the slice. The lattice is turned against the pixel grid, so that its axes don't show.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let side = Self::side(self.pitch_inverse);
        let limit = (side - 2) as f32;
        let u = ((0.8 * x + 0.6 * y + NOISE_EXTENT_MM) * self.pitch_inverse).clamp(0.0, limit);
        let v = ((0.8 * y - 0.6 * x + NOISE_EXTENT_MM) * self.pitch_inverse).clamp(0.0, limit);
        let (i, j) = ((u as usize).min(side - 2), (v as usize).min(side - 2));
        let (fu, fv) = (u - i as f32, v - j as f32);
        let (su, sv) = (fu * fu * (3.0 - 2.0 * fu), fv * fv * (3.0 - 2.0 * fv));
        let row = &self.values[j * side + i..];
        mix(mix(row[0], row[1], su), mix(row[side], row[side + 1], su), sv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_root_is_one() {
        for x in [1.0f32, 2.0, 8.0, 27.0, 700.0, 2000.0] {
            let r = cube_root(x);
            assert!((r * r * r / x - 1.0).abs() < 1e-4, "cube root of {x} gave {r}");
        }
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut random = Random::new(7, 1);
        let n = 200_000;
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..n {
            let v = f64::from(random.normal());
            sum += v;
            squares += v * v;
        }
        let mean = sum / f64::from(n);
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02, "variance {}", squares / f64::from(n));
    }

    #[test]
    fn distances_are_right_on_circles() {
        for (x, y, inside) in [(0.0, 5.0, 5.0), (6.0, 8.0, 0.0), (12.0, 0.0, -2.0)] {
            assert!((ellipse(x, y, 10.0, 10.0) - inside).abs() < 1e-4, "{x} {y}");
            assert!((ellipsoid([x, 0.0, y], [10.0; 3]) - inside).abs() < 1e-4, "{x} {y}");
            assert!((capsule(x, y, [0.0, 0.0], [0.0, 1e-3], 10.0) - inside).abs() < 1e-2, "{x} {y}");
        }
    }
}
