//! What the chest is made of outside the lungs, in HU.
//!
//! Owns: skin, fat, muscle, mediastinum, heart, the organs under the diaphragm, the table. Never paints bone, vessels or
//! lung: those are laid over it.

use super::anatomy::{BACK_Y, Section};
use super::math::{cover, ellipse, ellipsoid, mix, smax, step};

/// HU of air.
pub const AIR_HU: f32 = -1000.0;
const FAT_HU: f32 = -102.0;
const MUSCLE_HU: f32 = 54.0;
/// HU of blood without contrast agent.
pub const BLOOD_HU: f32 = 42.0;

/// HU of the soft tissue at a point, from its distances inside the body and inside the rib cage. `texture` is a smooth
/// random value in -1..1.
pub fn soft(section: &Section, x: f32, y: f32, body: f32, cage: f32, texture: f32, edge_mm: f32) -> f32 {
    let fat = FAT_HU + 8.0 * texture;
    let mut hu = fat;
    if cage < 2.0 {
        hu = wall(section, x, y, body, -cage, texture, edge_mm, hu);
        // Skin.
        hu = mix(hu, 15.0, cover(2.2 - body, 1.5));
    }
    if cage > -2.0 {
        hu = mix(hu, inside(section, x, y, texture, edge_mm, fat), cover(cage, edge_mm));
    }
    hu
}

#[allow(clippy::too_many_arguments)]
fn wall(
    section: &Section,
    x: f32,
    y: f32,
    body: f32,
    outside: f32,
    texture: f32,
    edge: f32,
    fat: f32,
) -> f32 {
    let t = section.depth;
    let mut muscle = 13.0 + 3.0 * texture - outside;
    // Long muscles of the back beside the spine.
    muscle = muscle.max(ellipse(x.abs() - 30.0, y - section.spine_y - 32.0, 30.0, 19.0 + 3.0 * texture));
    // Pectorals, and the broad muscles under the arms and over the shoulder blade.
    let [a, b, centre] = section.cage;
    if t < 150.0 {
        let front = ellipse(x.abs() - 62.0, y - (centre - b) - 4.0, 58.0, 21.0 + 2.0 * texture);
        let behind = ellipse(x.abs() - a * 0.86, y - centre - b * 0.72, 44.0, 36.0);
        let both = smax(front, behind, 6.0) - 14.0 * step(110.0, 150.0, t);
        muscle = muscle.max(both);
    }
    if t < 110.0 {
        let deltoid = ellipse(x.abs() - 122.0, y - 32.0, 44.0, 46.0) - 30.0 * step(60.0, 110.0, t);
        muscle = muscle.max(deltoid);
    }
    let under_skin = body - (5.0 + 7.0 * section.anatomy.fat * step(0.0, 60.0, t));
    let muscle = muscle.min(under_skin);
    // Strands of fat between the muscles.
    let content = mix(MUSCLE_HU, -40.0, step(0.55, 0.9, texture));
    let mut hu = mix(fat, content, cover(muscle, edge));
    if section.anatomy.breasts > 0.05 && y < centre - b {
        let gland = ellipsoid(
            [x.abs() - 72.0, y - (section.body[2] - section.body[1]) - 6.0, t - 168.0],
            [30.0, 16.0, 30.0],
        );
        hu = mix(hu, 10.0 + 40.0 * texture, cover(gland - 6.0 * texture, 6.0).min(cover(body - 6.0, 2.0)));
    }
    hu
}

fn inside(section: &Section, x: f32, y: f32, texture: f32, edge: f32, fat: f32) -> f32 {
    let t = section.depth;
    let mut hu = fat + 12.0;
    // Above the apices the cage holds the muscles of the neck.
    hu = mix(hu, mix(MUSCLE_HU, fat, step(0.25, 0.5, texture)), step(40.0, 22.0, t));
    // Lean tissue along the spine.
    let along_spine = ellipse(x, y - section.spine_y - 8.0, 24.0, 27.0);
    hu = mix(hu, 45.0, cover(along_spine, 2.0));
    let below = section.below_diaphragm(x, y);
    if below > -1.0 {
        hu = mix(hu, abdomen(section, x, y, texture, edge, fat), cover(below, edge));
        // The diaphragm itself.
        hu = mix(hu, 48.0, cover(below, edge) * cover(3.0 - below, 1.0));
    } else if t > section.anatomy.base - 45.0 {
        // Behind the deepest recess: chest wall and crura.
        hu = mix(hu, MUSCLE_HU, step(section.anatomy.base - 45.0, section.anatomy.base, t));
    }
    let heart = section.inside_heart(x, y) - 3.5 - 1.5 * texture;
    if heart > -2.0 {
        // A groove of fat between atria and ventricles.
        let groove = (0.819 * (x - 14.0) - 0.574 * (y + 20.0)).abs() - 1.5 - 3.0 * texture;
        let filling = mix(BLOOD_HU + 2.0 * texture, -70.0, cover(-groove, 2.0) * cover(9.0 - heart, 3.0));
        hu = mix(hu, filling, cover(heart, edge));
    }
    hu
}

fn abdomen(section: &Section, x: f32, y: f32, texture: f32, edge: f32, fat: f32) -> f32 {
    let t = section.depth;
    let mut hu = fat;
    let stomach = ellipsoid([x - 48.0, y + 28.0, t - 285.0], [50.0, 46.0, 74.0]);
    let level = -46.0 + 0.05 * (t - 260.0);
    let content = mix(25.0 + 10.0 * texture, -960.0, cover(level - y, edge));
    let filled = mix(45.0, content, cover(stomach - 4.0, edge));
    hu = mix(hu, filled, cover(stomach, edge));
    let spleen = ellipsoid([x - 92.0, y - 26.0, t - 280.0], [27.0, 46.0, 62.0]);
    hu = mix(hu, 51.0 + 2.0 * texture, cover(spleen, edge));
    // The liver fills the right dome and reaches over the midline in front.
    let lobe = smax(6.0 - x, ellipse(x - 10.0, y + 58.0, 48.0, 32.0) - 0.3 * (240.0 - t).max(0.0), 10.0);
    hu = mix(hu, 60.0 + 2.0 * texture, cover(lobe, edge));
    let spine = ellipse(x, y - section.spine_y, 34.0, 34.0);
    mix(hu, mix(fat, 50.0, step(-0.2, 0.2, texture)), cover(spine, 3.0))
}

/// HU outside the body: air and the table, whose top is a shallow trough under the back.
pub fn surroundings(x: f32, y: f32, edge_mm: f32) -> f32 {
    let top = BACK_Y + 4.0 - 0.0011 * x * x;
    let under = y - top;
    if under < -10.0 || x.abs() > 205.0 {
        return AIR_HU;
    }
    // A mattress, then a shell of carbon fibre around foam.
    let mattress = cover(3.0 - (under + 1.0).abs(), edge_mm) * cover(175.0 - x.abs(), edge_mm);
    let hu = mix(AIR_HU, -930.0, mattress);
    let shell = cover(1.2 - (under - 4.0).abs(), edge_mm)
        .max(cover(1.2 - (under - 4.0 - 18.0 - 0.0006 * x * x).abs(), edge_mm));
    let foam = cover(under - 4.0, edge_mm) * cover(22.0 + 0.0006 * x * x - under, edge_mm);
    mix(mix(hu, -940.0, foam), -180.0, shell)
}
