//! Bones: ribs with their cartilage, vertebrae, sternum, clavicles, shoulder blades.
//!
//! Owns: painting bone over soft tissue. Never decides where lungs are: the rib cage's outline comes from the anatomy.

use super::anatomy::Section;
use super::math::{Point, capsule, cover, ellipse, mix, profile, segment, step};

const CORTEX_HU: f32 = 620.0;
const MARROW_HU: f32 = 190.0;
const RIB_PITCH_MM: f32 = 25.0;
const VERTEBRA_PITCH_MM: f32 = 24.0;

/// Paints a bone whose surface is `inside` mm away over `hu`: a cortex of `shell_mm` around marrow.
fn bone(hu: f32, inside: f32, shell_mm: f32, edge_mm: f32) -> f32 {
    if inside < -edge_mm {
        return hu;
    }
    let content = mix(CORTEX_HU, MARROW_HU, cover(inside - shell_mm, edge_mm + 0.5));
    mix(hu, content, cover(inside, edge_mm))
}

/// Paints all bones of a section over `hu`; `outside_cage` is the distance outside the rib cage's inner outline.
pub fn paint(
    section: &Section,
    x: f32,
    y: f32,
    outside_cage: f32,
    texture: f32,
    edge_mm: f32,
    hu: f32,
) -> f32 {
    let mut hu = hu;
    if outside_cage > -2.0 && outside_cage < 14.0 {
        hu = ribs(section, x, y, outside_cage, edge_mm, hu);
    }
    if x.abs() < 44.0 && y > section.spine_y - 24.0 {
        hu = vertebra(section, x, y, texture, edge_mm, hu);
    }
    if x.abs() < 40.0 && y < 0.0 {
        hu = sternum(section, x, y, edge_mm, hu);
    }
    shoulder(section, x, y, edge_mm, hu)
}

fn ribs(section: &Section, x: f32, y: f32, outside: f32, edge: f32, hu: f32) -> f32 {
    let [_, _, centre] = section.cage;
    let radius = (x * x + (y - centre) * (y - centre)).sqrt().max(1.0);
    // 1 at the back, 0 at the side, -1 at the front: a rib falls on its way round; its cartilage rises again.
    let c = (y - centre) / radius;
    let drop = 42.0 * (1.0 - c) - 60.0 * (-c - 0.75).max(0.0);
    let u = (section.depth + section.anatomy.skeleton_shift - 6.0 - drop) / RIB_PITCH_MM;
    if !(0.0..11.0).contains(&u) || (c < -0.8 && u > 7.0) {
        return hu;
    }
    let height = (u - u.floor() - 0.5) * RIB_PITCH_MM;
    let inside = ellipse(outside - 5.5, height, 4.2, 6.5);
    if c < -0.78 {
        return mix(hu, 105.0, cover(inside, edge));
    }
    bone(hu, inside, 1.3, edge)
}

fn vertebra(section: &Section, x: f32, y: f32, texture: f32, edge: f32, hu: f32) -> f32 {
    let dy = y - section.spine_y;
    let u = (section.depth + section.anatomy.skeleton_shift) / VERTEBRA_PITCH_MM;
    // Distance from the middle of the disc, which sits at whole numbers.
    let from_disc = (u - u.floor() - 0.5).abs();
    let from_disc = (0.5 - from_disc) * VERTEBRA_PITCH_MM;
    let grow = 0.9 + 0.2 * step(40.0, 280.0, section.depth);
    let waist = 1.5 * step(3.0, 10.0, from_disc);
    let mut hu = hu;
    let canal = ellipse(x, dy - 23.0, 9.5, 8.0);
    // Arch, processes.
    let mut arch = canal + 5.0;
    if from_disc > 5.0 {
        arch = arch.max(capsule(x.abs(), dy, [12.0, 20.0], [33.0, 27.0], 4.5));
    }
    arch = arch.max(capsule(x, dy, [0.0, 33.0], [0.0, 46.0], 3.5));
    if from_disc > 2.5 {
        hu = bone(hu, arch, 1.8, edge);
    }
    let body = ellipse(x, dy, 18.5 * grow - waist, 15.0 * grow - waist);
    let disc = step(4.0, 2.0, from_disc);
    let trabecular = MARROW_HU + 35.0 * texture + 200.0 * step(5.5, 4.0, from_disc);
    let content = mix(CORTEX_HU * 0.8, trabecular, cover(body - 1.6, edge + 0.6));
    hu = mix(hu, mix(content, 85.0, disc), cover(body, edge));
    let cord = mix(5.0, 38.0, cover(ellipse(x, dy - 23.0, 6.0, 5.0), 1.0));
    mix(hu, cord, cover(canal, edge))
}

fn sternum(section: &Section, x: f32, y: f32, edge: f32, hu: f32) -> f32 {
    let [_, b, centre] = section.cage;
    let t = section.depth;
    if !(46.0..205.0).contains(&t) {
        return hu;
    }
    let width = profile(&[(46.0, 18.0), (56.0, 29.0), (80.0, 20.0), (170.0, 17.0), (205.0, 5.0)], t);
    let inside = ellipse(x, y - (centre - b - 8.0) - 0.004 * x * x, width, 6.0);
    bone(hu, inside, 1.2, edge)
}

fn shoulder(section: &Section, x: f32, y: f32, edge: f32, hu: f32) -> f32 {
    let t = section.depth;
    let side = x.abs();
    let mut hu = hu;
    if t < 75.0 && y < 20.0 {
        // Clavicle: rises from the breastbone to the shoulder, bent like an S.
        let [_, b, centre] = section.cage;
        let front = centre - b;
        let bends: [Point; 4] = [
            [20.0, front - 8.0, 58.0],
            [58.0, front - 12.0, 44.0],
            [98.0, front + 6.0, 30.0],
            [142.0, front + 20.0, 24.0],
        ];
        for pair in bends.windows(2) {
            hu = bone(hu, segment([side, y, t], pair[0], pair[1], [5.6, 5.6]), 1.6, edge);
        }
    }
    if t < 165.0 && y > 10.0 {
        let [a, b, centre] = section.cage;
        // The blade follows the cage at 16 mm and ends lower down in a tip.
        let (wall_x, wall_y) = (a + 17.0, b + 17.0);
        let inner = [0.56 * wall_x, centre + 0.84 * wall_y];
        let outer = [0.93 * wall_x, centre + 0.42 * wall_y];
        let shrink = step(100.0, 165.0, t);
        let inner = [mix(inner[0], outer[0], 0.6 * shrink), mix(inner[1], outer[1], 0.6 * shrink)];
        let blade = capsule(side, y, inner, outer, 3.4 - 1.5 * shrink);
        hu = bone(hu, blade, 1.5, edge);
        if t < 70.0 {
            let middle = [0.5 * (inner[0] + outer[0]), 0.5 * (inner[1] + outer[1])];
            let spine = capsule(side, y, middle, [outer[0] + 14.0, outer[1] + 24.0], 3.6);
            let glenoid = ellipse(side - outer[0] - 6.0, y - outer[1] + 3.0, 11.0, 8.0);
            hu = bone(hu, spine.max(glenoid), 1.6, edge);
        }
    }
    hu
}
