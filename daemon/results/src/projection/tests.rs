use super::*;

/// Two ellipses of lung in an ellipse of body with a dense spine; lesions in the lower third of the patient's right
/// lung (half of each ray) and in the whole of a disc in the left one.
pub(crate) fn chest(slices: usize, columns: usize) -> CoronalProjection {
    let mut p = CoronalProjection {
        slices,
        columns,
        slice_spacing_mm: 320.0 / slices as f64,
        column_spacing_mm: 380.0 / columns as f64,
        mean_density: Vec::new(),
        lung: Vec::new(),
        lesion: Vec::new(),
    };
    for i in 0..slices * columns {
        let z = ((i / columns) as f32 + 0.5) / slices as f32;
        let x = ((i % columns) as f32 + 0.5) / columns as f32;
        let inside = |cx: f32, cz: f32, rx: f32, rz: f32| {
            (1.0 - ((x - cx) / rx) * ((x - cx) / rx) - ((z - cz) / rz) * ((z - cz) / rz)).max(0.0)
        };
        let (right, left) = (inside(0.32, 0.5, 0.15, 0.4), inside(0.68, 0.5, 0.15, 0.4));
        let lung = 120.0 * (right + left);
        let below = (z * 3.0 - 1.9).clamp(0.0, 0.5);
        let nodule = (inside(0.7, 0.35, 0.07, 0.1) * 8.0).min(1.0);
        let body = inside(0.5, 0.6, 0.46, 1.2).min(0.5);
        let ribs = if (z * 12.0 + (x - 0.5).abs() * 4.0).fract() < 0.3 { 0.05 } else { 0.0 };
        let spine = inside(0.5, 0.5, 0.05, 2.0) * 0.2;
        p.lung.push(lung);
        p.lesion.push(if right > 0.0 { lung * below } else { lung * nodule });
        p.mean_density.push((body * (1.0 + ribs + spine) - lung * 0.003).max(0.0));
    }
    p
}

fn drawn(p: &CoronalProjection) -> Vec<u8> {
    let mut canvas = Canvas::new(200, 160, [0.0; 3]);
    p.draw(&mut canvas, (0, 0), (200, 160), true).unwrap();
    canvas.finish("").rgb
}

/// Red minus green of a pixel.
fn redness(rgb: &[u8], x: usize, y: usize) -> i32 {
    let at = (y * 200 + x) * 3;
    i32::from(rgb[at]) - i32::from(rgb[at + 1])
}

type Change = fn(&mut CoronalProjection);

#[test]
fn what_can_not_be_drawn_is_refused() {
    let whole = chest(10, 12);
    let cases: [(&str, Change); 8] = [
        ("empty", |p| p.slices = 0),
        ("empty", |p| p.columns = 0),
        ("too large", |p| p.slices = usize::MAX),
        ("too large", |p| p.slices = VALUES_MAX),
        ("lung has 119", |p| p.lung.truncate(119)),
        ("slice spacing is 0 mm", |p| p.slice_spacing_mm = 0.0),
        ("slice spacing is NaN mm", |p| p.slice_spacing_mm = f64::NAN),
        ("column spacing is inf mm", |p| p.column_spacing_mm = f64::INFINITY),
    ];
    assert_eq!(whole.check(), Ok(()));
    for (want, change) in cases {
        let mut p = whole.clone();
        change(&mut p);
        let error = p.check().unwrap_err().to_string();
        assert!(error.contains(want), "{error} instead of {want}");
        let mut canvas = Canvas::new(20, 20, [0.0; 3]);
        assert!(p.draw(&mut canvas, (0, 0), (20, 20), true).is_err());
        assert!(canvas.finish("").rgb.iter().all(|b| *b == 0), "{want}: something was drawn");
    }
}

#[test]
fn the_affected_parts_are_red_on_their_own_side_and_the_others_green() {
    let rgb = drawn(&chest(80, 128));
    // The disc in the patient's left lung, at the image's right, above the middle.
    assert!(redness(&rgb, 144, 57) > 60, "nodule {}", redness(&rgb, 144, 57));
    assert!(redness(&rgb, 58, 57) < -20, "same height, other lung {}", redness(&rgb, 58, 57));
    assert!(redness(&rgb, 134, 110) < -20, "below the disc {}", redness(&rgb, 134, 110));
    // No colour outside of the lungs.
    assert_eq!(redness(&rgb, 100, 80), 0);
}

#[test]
fn the_scale_is_isotropic_and_independent_of_the_slice_count() {
    let thin = drawn(&chest(320, 512));
    let thick = drawn(&chest(40, 512));
    let difference: f64 =
        thin.iter().zip(&thick).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / thin.len() as f64;
    assert!(difference < 6.0, "mean difference {difference}");
    let p = chest(40, 512);
    let mut canvas = Canvas::new(700, 160, [0.0; 3]);
    let placed = p.draw(&mut canvas, (0, 0), (700, 160), true).unwrap();
    assert!((placed.pixels_per_mm - 0.5).abs() < 1e-9, "160 pixels for 320 mm: {placed:?}");
}

#[test]
fn odd_inputs_are_drawn_without_panic() {
    let mut nan = chest(20, 24);
    for i in (0..nan.lung.len()).step_by(3) {
        nan.lung[i] = f32::NAN;
        nan.lesion[i + 1] = f32::INFINITY;
        nan.mean_density[i + 2] = f32::NEG_INFINITY;
    }
    let mut empty = chest(20, 24);
    for map in [&mut empty.mean_density, &mut empty.lung, &mut empty.lesion] {
        map.fill(0.0);
    }
    let mut needle = chest(20, 24);
    needle.slice_spacing_mm = 1e-9;
    let mut rod = chest(20, 24);
    rod.column_spacing_mm = 1e-300;
    for p in [nan, needle, rod, chest(1, 512), chest(1, 1), chest(3000, 2), chest(2, 3000)] {
        assert!(drawn(&p).iter().any(|b| *b > 0));
    }
    assert!(drawn(&empty).iter().all(|b| *b == 0));
}

#[test]
fn without_colours_lungs_and_lesions_leave_no_trace() {
    let marked = chest(80, 128);
    let mut unmarked = marked.clone();
    unmarked.lesion.fill(0.0);
    unmarked.lung.fill(0.0);
    let plain = |p: &CoronalProjection| {
        let mut canvas = Canvas::new(200, 160, [0.0; 3]);
        p.draw(&mut canvas, (0, 0), (200, 160), false).unwrap();
        canvas.finish("").rgb
    };
    assert!(plain(&marked).chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]));
    assert!(plain(&marked) == plain(&unmarked) && plain(&marked) != drawn(&marked));
}

#[test]
fn a_metal_implant_does_not_darken_the_rest() {
    let p = chest(80, 128);
    let mut implanted = p.clone();
    implanted.mean_density[10 * 128 + 64] = 50.0;
    let brightness =
        |rgb: &[u8]| rgb[160 * 100 * 3..160 * 120 * 3].iter().map(|b| u64::from(*b)).sum::<u64>();
    let (without, with) = (brightness(&drawn(&p)), brightness(&drawn(&implanted)));
    assert!(with * 10 > without * 8, "{with} of {without}");
}
