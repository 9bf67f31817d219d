//! The outlines of the chest: body, thoracic cavity, mediastinum, heart, diaphragm and the two lungs.
//!
//! Owns: where things are, as distances in mm in a canonical chest 300 mm high (x to the patient's left, y to the back,
//! depth from head to feet), and how they vary with the seed. Never knows HU, pixels or DICOM.

use super::math::{NoisePlane, Point, Random, ellipse, ellipsoid, profile, smax, smin, superellipse};

/// Height of the canonical chest in mm: the slices cover exactly this depth.
pub const HEIGHT_MM: f32 = 300.0;

/// The measures of one patient. Lengths in canonical mm.
#[derive(Clone, Debug)]
pub struct Anatomy {
    /// In-plane scale from canonical to real mm, left-right and front-back.
    pub scale: [f32; 2],
    /// Sine and cosine of the patient's rotation on the table.
    pub rotation: [f32; 2],
    /// Offset of the body's centre from the scan's centre, mm.
    pub offset_mm: [f32; 2],
    /// Depth of the lungs' apices and of the deepest costophrenic angle.
    pub apex: f32,
    /// See `apex`.
    pub base: f32,
    /// Depth of the diaphragm domes' tops, right and left.
    pub dome_top: [f32; 2],
    /// Size of the rib cage relative to the usual.
    pub cage: f32,
    /// Thickness of the fat under the skin relative to the usual.
    pub fat: f32,
    /// Size of the heart relative to the usual.
    pub heart: f32,
    /// Size of the breasts' glandular bodies; 0 for a man.
    pub breasts: f32,
    /// Shift of the vertebrae and ribs along the axis.
    pub skeleton_shift: f32,
}

impl Anatomy {
    /// The patient of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let mut pick = |low: f32, high: f32| random.between(low, high);
        let angle = pick(-0.07, 0.07);
        let dome_right = pick(178.0, 196.0);
        Self {
            scale: [pick(0.90, 1.06), pick(0.90, 1.07)],
            rotation: [angle - angle * angle * angle / 6.0, 1.0 - angle * angle / 2.0],
            offset_mm: [pick(-6.0, 6.0), pick(-8.0, 8.0)],
            apex: pick(23.0, 31.0),
            base: pick(264.0, 275.0),
            dome_top: [dome_right, dome_right + pick(8.0, 20.0)],
            cage: pick(0.95, 1.03),
            fat: pick(0.6, 1.5),
            heart: pick(0.92, 1.08),
            breasts: (pick(-1.0, 1.0) * 1.2).clamp(0.0, 1.0),
            skeleton_shift: pick(0.0, 24.0),
        }
    }

    /// Half of the body's largest width in canonical mm.
    pub fn half_width(&self) -> f32 {
        154.0 + 10.0 * self.fat
    }
}

/// A gentle bend of a slice, so that no outline is a perfect curve and no two sides are alike.
pub struct Warp([NoisePlane; 2]);

impl Warp {
    /// Largest shift, mm.
    const REACH_MM: f32 = 6.0;

    /// The bend of a seed at `depth`.
    pub fn new(seed: u64, depth: f32) -> Self {
        Self([31, 32].map(|stream| NoisePlane::new(seed, stream, 48.0, depth)))
    }

    /// Where a point of the slice lies in the canonical chest.
    pub fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [x + Self::REACH_MM * self.0[0].at(x, y), y + Self::REACH_MM * self.0[1].at(x, y)]
    }
}

/// The chest cut at one depth.
pub struct Section<'a> {
    /// The patient.
    pub anatomy: &'a Anatomy,
    /// Depth in canonical mm.
    pub depth: f32,
    /// Half axes of the rib cage's inner outline and its centre's y.
    pub cage: [f32; 3],
    /// Half axes of the body and its centre's y.
    pub body: [f32; 3],
    /// y of the vertebral body's centre.
    pub spine_y: f32,
    mediastinum: f32,
    bump: f32,
}

/// y of the patient's back, which lies on the table.
pub const BACK_Y: f32 = 116.0;

impl<'a> Section<'a> {
    /// The section at `depth`.
    pub fn new(anatomy: &'a Anatomy, depth: f32) -> Self {
        let t = depth;
        let width = profile(
            &[(0.0, 74.0), (30.0, 84.0), (80.0, 110.0), (140.0, 125.0), (220.0, 130.0), (300.0, 127.0)],
            t,
        );
        let half_depth = profile(
            &[(0.0, 42.0), (30.0, 51.0), (80.0, 74.0), (140.0, 89.0), (220.0, 94.0), (300.0, 91.0)],
            t,
        );
        let back = profile(&[(0.0, 66.0), (60.0, 76.0), (140.0, 82.0), (300.0, 80.0)], t);
        let fat = 10.0 * (anatomy.fat - 1.0);
        let body_width =
            profile(&[(0.0, 164.0), (70.0, 163.0), (140.0, 159.0), (220.0, 157.0), (300.0, 154.0)], t) + fat;
        let body_depth =
            profile(&[(0.0, 82.0), (40.0, 92.0), (120.0, 115.0), (220.0, 121.0), (300.0, 120.0)], t)
                + 0.6 * fat;
        let cage = anatomy.cage;
        Self {
            anatomy,
            depth,
            cage: [width * cage, half_depth * cage, back - half_depth * cage],
            body: [body_width, body_depth, BACK_Y - body_depth],
            spine_y: profile(&[(0.0, 46.0), (120.0, 56.0), (300.0, 48.0)], t),
            mediastinum: profile(
                &[(0.0, 30.0), (40.0, 25.0), (90.0, 26.0), (125.0, 30.0), (175.0, 20.0), (300.0, 16.0)],
                t,
            ),
            // The aortic arch's knob, seen from the left lung.
            bump: profile(&[(62.0, -12.0), (82.0, 14.5), (96.0, 14.0), (300.0, 13.0)], t),
        }
    }

    /// Distance inside the body's outline.
    pub fn inside_body(&self, x: f32, y: f32) -> f32 {
        let [a, b, centre] = self.body;
        let torso = superellipse(x, y - centre, a, b);
        let size = self.anatomy.breasts;
        if size < 0.05 || y > -20.0 {
            return torso;
        }
        let bulge = ellipsoid(
            [x.abs() - 72.0, y - (centre - b) - 14.0, self.depth - 165.0],
            [52.0, 18.0 + 22.0 * size, 48.0],
        );
        smax(torso, bulge, 12.0)
    }

    /// Distance inside the rib cage's inner outline.
    pub fn inside_cage(&self, x: f32, y: f32) -> f32 {
        let [a, b, centre] = self.cage;
        ellipse(x, y - centre, a, b)
    }

    /// Distance inside the heart with its fat.
    pub fn inside_heart(&self, x: f32, y: f32) -> f32 {
        let size = self.anatomy.heart;
        let (dx, dy) = (x - 24.0, y + 32.0);
        // The long axis points to the left and to the front: 35 degrees.
        let (long, short) = (0.819 * dx - 0.574 * dy, 0.574 * dx + 0.819 * dy);
        let lean = 0.25 * (self.depth - 172.0);
        ellipsoid([long - lean, short, self.depth - 172.0], [66.0 * size, 47.0 * size, 56.0 * size])
    }

    /// Distance inside everything between the lungs.
    pub fn inside_mediastinum(&self, x: f32, y: f32) -> f32 {
        // Narrow in front, where the lungs nearly touch, but for the heart.
        let slab = ellipse(x - 1.0, y - 8.0, self.mediastinum, self.cage[1] - 6.0);
        let spine = ellipse(x, y - self.spine_y - 8.0, 25.0, 30.0);
        let aorta = ellipse(x - 21.0, y - 36.0, 15.0, 15.0).min(self.bump);
        let hilum = ellipsoid([x.abs() - 32.0, y - 8.0, self.depth - 126.0], [15.0, 19.0, 24.0]);
        let great = smax(smax(slab, spine, 8.0), smax(aorta, hilum, 8.0), 8.0);
        smax(great, self.inside_heart(x, y), 8.0)
    }

    /// Distance below the diaphragm.
    pub fn below_diaphragm(&self, x: f32, y: f32) -> f32 {
        let dome = |centre: Point, depth_radius: f32, top: f32| {
            let p = [x - centre[0], y - centre[1], (self.depth - centre[2]).min(0.0)];
            ellipsoid(p, [74.0, depth_radius, centre[2] - top])
        };
        let right = dome([-63.0, -30.0, 268.0], 86.0, self.anatomy.dome_top[0]);
        let left = dome([63.0, -24.0, 268.0], 82.0, self.anatomy.dome_top[1]);
        smax(right, left, 24.0)
    }

    /// Distance inside the lungs: the right one where x < 0, the left one elsewhere.
    pub fn inside_lung(&self, x: f32, y: f32) -> f32 {
        let cage = self.inside_cage(x, y) - 1.5;
        if cage < -6.0 {
            return cage;
        }
        let apex = self.anatomy.apex;
        let dome_depth = 118.0;
        let dome = ellipsoid(
            [x.abs() - 56.0, y - 10.0, (self.depth - dome_depth).min(0.0)],
            [80.0, 98.0, dome_depth - apex],
        );
        let upper = smin(cage, dome, 10.0);
        // The recess behind the diaphragm goes deepest at the back.
        let sulcus = self.anatomy.base - 38.0 * (1.0 - super::math::step(-60.0, 50.0, y)) - self.depth;
        let lower = smin(-self.below_diaphragm(x, y), 0.8 * sulcus, 8.0);
        smin(smin(upper, lower, 6.0), -self.inside_mediastinum(x, y), 8.0)
    }
}
