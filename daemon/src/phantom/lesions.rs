//! Ground glass and consolidation: a smooth random field, higher at the periphery, the bases and the back, cut at the
//! level that leaves the requested share of each lung.
//!
//! Owns: the field, its levels, the lesions' HU. Never draws outside the lungs.

use super::anatomy::Section;
use super::math::{NoisePlane, Random, mix, step};

/// Level that no value of the field reaches.
const NEVER: f32 = 100.0;
const FIELD_LOW: f32 = -4.0;
const FIELD_HIGH: f32 = 6.0;
const BINS: usize = 1 << 16;

/// How lesions look in a patient.
#[derive(Clone, Debug)]
pub struct Style {
    seed: u64,
    ground_glass_hu: f32,
    consolidation_hu: f32,
    /// Share of a lesion's voxels that is consolidated, but for the rim under the pleura.
    consolidated: f32,
    bias: [f32; 3],
}

impl Style {
    /// The style of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 3);
        Self {
            seed,
            ground_glass_hu: random.between(-640.0, -540.0),
            consolidation_hu: random.between(-70.0, 20.0),
            consolidated: random.between(0.08, 0.28),
            bias: [random.between(0.3, 0.7), random.between(0.2, 0.8), random.between(0.1, 0.6)],
        }
    }
}

/// Levels of the field above which a lung is diseased, and consolidated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// Any lesion.
    pub lesion: f32,
    /// Consolidation.
    pub consolidation: f32,
}

/// The field in one slice.
pub struct Field<'a> {
    style: &'a Style,
    depth: f32,
    coarse: NoisePlane,
    middle: NoisePlane,
    fine: NoisePlane,
}

impl<'a> Field<'a> {
    /// The field at the section's depth.
    pub fn new(style: &'a Style, depth: f32) -> Self {
        let plane = |stream, pitch| NoisePlane::new(style.seed, stream, pitch, depth);
        Self { style, depth, coarse: plane(11, 36.0), middle: plane(12, 16.0), fine: plane(13, 6.5) }
    }

    /// Value at a point `inside` mm within a lung.
    pub fn at(&self, section: &Section, x: f32, y: f32, inside: f32) -> f32 {
        let [peripheral, basal, posterior] = self.style.bias;
        let bias = peripheral * (1.0 - (inside * (1.0 / 30.0)).min(1.0))
            + basal * (self.depth - section.anatomy.apex) * (1.0 / 240.0)
            + posterior * (y + 80.0) * (1.0 / 160.0);
        1.1 * self.coarse.at(x, y) + 0.55 * self.middle.at(x, y) + 0.2 * self.fine.at(x, y) + bias
    }

    /// Lays the lesion over the lung's HU, given the field's value `inside` mm within the lung.
    pub fn lay(&self, hu: f32, value: f32, inside: f32, levels: Levels, texture: f32) -> f32 {
        let above = value - levels.lesion;
        if above < -0.1 {
            return hu;
        }
        let glass = self.style.ground_glass_hu + 55.0 * texture + 130.0 * step(0.0, 0.7, above);
        // The edge is some 2 mm wide and centred on the truth's.
        let hu = mix(hu, glass.max(hu + 60.0), (above / 0.12 + 0.5).clamp(0.0, 1.0));
        let dense = self.style.consolidation_hu + 25.0 * texture;
        // A rim under the pleura often stays aerated: without it nothing would mark where lung ends and liver begins.
        let value = value - 0.5 * step(6.0, 0.0, inside);
        mix(hu, dense, ((value - levels.consolidation) / 0.16 + 0.5).clamp(0.0, 1.0))
    }
}

/// Counts of the field's values over one lung.
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; BINS])
    }
}

impl Histogram {
    /// Counts one voxel.
    pub fn add(&mut self, value: f32) {
        let t = (value - FIELD_LOW) / (FIELD_HIGH - FIELD_LOW);
        self.0[((t * BINS as f32).max(0.0) as usize).min(BINS - 1)] += 1;
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a += b;
        }
    }

    /// The levels that `percent` of the voxels reach; to within half a bin's count.
    pub fn levels(&self, style: &Style, percent: f64) -> Levels {
        let lesion = self.level(percent / 100.0);
        let consolidation = self.level(percent / 100.0 * f64::from(style.consolidated));
        Levels { lesion, consolidation }
    }

    fn level(&self, fraction: f64) -> f32 {
        let total: u64 = self.0.iter().sum();
        let wanted = fraction * total as f64;
        if wanted <= 0.0 {
            return NEVER;
        }
        let mut reached = 0u64;
        for (bin, &count) in self.0.iter().enumerate().rev() {
            let next = reached + count;
            if next as f64 >= wanted {
                // The bin's lower edge counts it in, its upper edge leaves it out: take the nearer.
                let edge = if next as f64 - wanted <= wanted - reached as f64 { bin } else { bin + 1 };
                return if edge == 0 {
                    -NEVER
                } else {
                    FIELD_LOW + (FIELD_HIGH - FIELD_LOW) * edge as f32 / BINS as f32
                };
            }
            reached = next;
        }
        -NEVER
    }
}
