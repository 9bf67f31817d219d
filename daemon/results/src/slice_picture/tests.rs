use super::*;
use crate::picture::WARNING_TEXT;
use crate::picture::tests::shows;
use crate::testing::series;

const PIXELS: usize = 64 * 64;

fn masks(labels: &[u8]) -> Masks<'_> {
    Masks { labels, right_lung: 1, left_lung: 2, lesion: 4 }
}

/// Two lungs in a body, in Hounsfield units, with their labels: a lesion in the patient's left one, at the right.
fn chest(rows: usize, columns: usize) -> (Vec<f32>, Vec<u8>) {
    let at = |i: usize| ((i / columns) as f64 / rows as f64 - 0.5, (i % columns) as f64 / columns as f64);
    let inside = |i: usize, cx: f64, rx: f64, ry: f64| {
        let (y, x) = at(i);
        ((x - cx) / rx).powi(2) + (y / ry).powi(2) < 1.0
    };
    let label = |i: usize| match (inside(i, 0.3, 0.13, 0.28), inside(i, 0.7, 0.13, 0.28)) {
        (true, _) => 1,
        (_, true) if inside(i, 0.7, 0.06, 0.1) => 2 | 4,
        (_, true) => 2,
        _ => 0,
    };
    let hu = |i: usize| match label(i) {
        6 => -350.0,
        1 | 2 => -850.0,
        _ if inside(i, 0.5, 0.46, 0.36) => 40.0,
        _ => -1010.0,
    };
    ((0..rows * columns).map(hu).collect(), (0..rows * columns).map(label).collect())
}

fn drawn(series: &SourceSeries, outlines: bool) -> Picture {
    let (hu, labels) = chest(series.rows, series.columns);
    let labels = labels.repeat(series.images.len());
    render(&SliceView { series, index: 1, hu: &hu, masks: &masks(&labels), outlines }).unwrap()
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    let at = (y * picture.width + x) * 3;
    [0, 1, 2].map(|i| picture.rgb[at + i])
}

/// Pixels of the outline's colour, left and right of the middle.
fn outline(picture: &Picture) -> [usize; 2] {
    let colour = OUTLINE.map(|c| (c * 255.0 + 0.5) as u8);
    let mut count = [0; 2];
    for y in HEADER_HEIGHT + 100..HEADER_HEIGHT + PANEL_SIDE - 100 {
        for x in 0..WIDTH {
            count[x * 2 / WIDTH] += usize::from(pixel(picture, x, y) == colour);
        }
    }
    count
}

#[test]
fn the_largest_lesions_are_chosen_apart_from_each_other_and_from_head_to_feet() {
    // Lesion areas of 12 slices, 2.5 mm apart: neighbours are 4 slices apart.
    let choose = |areas: [usize; 12], spacing_mm: f64, count: usize| {
        let mut series = series(12, 64, 64);
        series.slice_spacing_mm = spacing_mm;
        let mut labels = vec![1u8; 12 * PIXELS];
        for (slice, area) in labels.chunks_exact_mut(PIXELS).zip(areas) {
            slice[..area].fill(5);
            slice[area..].iter_mut().rev().take(1000).for_each(|label| *label = 4);
        }
        most_affected(&series, &masks(&labels), count)
    };
    let peak = [0, 1, 5, 9, 8, 7, 6, 5, 4, 3, 2, 20];
    let cases: [(_, f64, usize, &[usize]); 8] = [
        (peak, 2.5, 3, &[3, 7, 11]),
        (peak, 2.4999, 3, &[3, 7, 11]),
        (peak, 2.5, 1, &[11]),
        (peak, 2.5, 0, &[]),
        (peak, 2.5, 9, &[3, 7, 11]),
        (peak, 20.0, 3, &[3, 4, 11]),
        ([0; 12], 2.5, 3, &[]),
        ([7; 12], 5.0, 3, &[0, 2, 4]),
    ];
    for (areas, spacing_mm, count, want) in cases {
        assert_eq!(choose(areas, spacing_mm, count), want, "{areas:?} {spacing_mm} {count}");
    }
    assert!(most_affected(&series(12, 64, 64), &masks(&[5; 7]), 3).is_empty(), "labels of another series");
}

#[test]
fn the_slice_its_share_and_the_warning_are_in_words() {
    let picture = drawn(&series(8, 256, 256), false);
    let (_, labels) = chest(256, 256);
    let count = |bits: u8| labels.iter().filter(|label| **label & bits != 0).count() as f64;
    let share = format!("{:.1} % of its lung affected", 100.0 * count(4) / count(3));
    for (text, font, colour) in [
        ("Slice 2 of 8", MEDIUM, TEXT),
        (share.as_str(), STRONG, TEXT),
        ("image 2, location 297.8 mm", SMALL, FAINT),
        ("lung window -600 / 1500", SMALL, FAINT),
        (WARNING_TEXT, LARGE, WARNING),
    ] {
        assert!(shows(&picture, text, font, colour), "{text}");
    }
    let half = |from: usize| {
        let rows = picture.rgb.chunks_exact(WIDTH * 3).skip(HEADER_HEIGHT).take(60);
        let rgb = rows.flat_map(|row| row[from * 3..(from + WIDTH / 2) * 3].to_vec()).collect();
        Picture { width: WIDTH / 2, height: 60, rgb, shows: "" }
    };
    assert!(shows(&half(0), "R", LARGE, WARNING) && !shows(&half(0), "L", LARGE, WARNING));
    assert!(shows(&half(WIDTH / 2), "L", LARGE, WARNING));
}

#[test]
fn lesions_are_outlined_only_when_asked_for_and_on_their_own_side() {
    let series = series(8, 256, 256);
    let plain = drawn(&series, false);
    let panel = plain.rgb.chunks_exact(WIDTH * 3).skip(HEADER_HEIGHT + 60).take(PANEL_SIDE - 60);
    for p in panel.flat_map(|row| row.chunks_exact(3)) {
        assert!(p[0] == p[1] && p[1] == p[2], "a colour in an unmarked preview");
    }
    assert_eq!(outline(&plain), [0, 0]);
    let outlined = drawn(&series, true);
    let [right_lung, left_lung] = outline(&outlined);
    assert!(right_lung == 0 && left_lung > 200, "{right_lung} {left_lung}");
    assert!(outlined.shows.contains("outlined") && !plain.shows.contains("outlined"));
    // The marks hide nothing of the lesion's inside.
    let centre = (WIDTH * 7 / 10, HEADER_HEIGHT + PANEL_SIDE / 2);
    assert_eq!(pixel(&outlined, centre.0, centre.1), pixel(&plain, centre.0, centre.1));
}

#[test]
fn grey_is_the_window_and_both_axes_have_one_scale() {
    let mut square = series(3, 128, 256);
    square.pixel_spacing_mm = [1.4, 0.7];
    let picture = drawn(&square, false);
    let grey = |hu: f32| ((hu + 1350.0) / 1500.0 * 255.0 + 0.5) as u8;
    let middle = HEADER_HEIGHT + PANEL_SIDE / 2;
    assert_eq!(pixel(&picture, WIDTH * 3 / 10, middle), [grey(-850.0); 3]);
    assert_eq!(pixel(&picture, WIDTH * 7 / 10, middle), [grey(-350.0); 3]);
    assert_eq!(pixel(&picture, WIDTH / 2, middle), [grey(40.0); 3]);
    // 128 rows of 1.4 mm are as long as 256 columns of 0.7 mm.
    assert_eq!(pixel(&picture, WIDTH / 2, HEADER_HEIGHT + PANEL_SIDE - 5), [grey(-1010.0); 3]);
    let mut flat = square.clone();
    flat.pixel_spacing_mm = [0.7, 0.7];
    let picture = drawn(&flat, false);
    assert_eq!(pixel(&picture, WIDTH / 2, HEADER_HEIGHT + PANEL_SIDE - 5), [0; 3], "outside of the slice");
    assert_eq!(pixel(&picture, WIDTH / 2, middle), [grey(40.0); 3]);
}

#[test]
fn what_makes_no_slice_is_not_drawn_and_odd_values_are() {
    let series = series(3, 16, 24);
    let (hu, labels) = chest(16, 24);
    let labels = labels.repeat(3);
    let masks = masks(&labels);
    let view = SliceView { series: &series, index: 2, hu: &hu, masks: &masks, outlines: true };
    assert!(render(&view).is_some());
    assert!(render(&SliceView { index: 3, ..view }).is_none());
    assert!(render(&SliceView { hu: &hu[1..], ..view }).is_none());
    assert!(render(&SliceView { masks: &Masks { labels: &labels[1..], ..masks }, ..view }).is_none());
    for spacing_mm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut odd = series.clone();
        odd.pixel_spacing_mm[1] = spacing_mm;
        assert!(render(&SliceView { series: &odd, ..view }).is_none(), "{spacing_mm}");
    }
    let mut needle = series.clone();
    needle.pixel_spacing_mm = [1e-300, 1.0];
    assert!(render(&SliceView { series: &needle, ..view }).is_some());
    let mut odd_hu = hu.clone();
    odd_hu[5] = f32::NAN;
    odd_hu[6] = f32::INFINITY;
    odd_hu[7] = f32::NEG_INFINITY;
    let picture = render(&SliceView { hu: &odd_hu, masks: &Masks { lesion: 8, ..masks }, ..view }).unwrap();
    assert!(shows(&picture, "0.0 % of its lung affected", STRONG, TEXT));
}

/// As for the coronal picture: the same bytes on every machine.
#[test]
fn the_picture_is_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    for (outlines, want) in [(false, "9b487b9af52b75e1"), (true, "daa52177f285588f")] {
        let picture = drawn(&series(8, 100, 120), outlines);
        let sum: String = Sha256::digest(&picture.rgb).iter().take(8).map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, want, "outlines: {outlines}");
    }
}
