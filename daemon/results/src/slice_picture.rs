//! Pictures of the most affected axial slices, for a technician in a dark control room: which slices, and how each is
//! drawn. Like the coronal picture they show no patient's name, identifier or date, and decide nothing.
//!
//! Lesions are outlined only when that is asked for, and the setting (`results.lesion_outlines`) is off by default: a
//! triage device (21 CFR 892.2080) notifies, with an unmarked preview that is not for diagnosis, beside the standard of
//! care. A lesion overlay on the technician's screen moved a comparable product to 21 CFR 892.2090, computer-assisted
//! detection *and diagnosis*, with other obligations. Whoever switches it on takes that step.
use crate::canvas::{Canvas, LARGE, MEDIUM, SMALL, STRONG};
use crate::colour::{BACKGROUND, Colour, FAINT, PANEL, TEXT, WARNING};
use crate::masks::Masks;
use crate::picture::{Picture, footer, percent};
use crate::resample::{SHARP, resample, taps};
use crate::source::SourceSeries;

/// Width of every picture, in pixels.
pub const WIDTH: usize = 640;
/// Height of every picture, in pixels.
pub const HEIGHT: usize = HEADER_HEIGHT + PANEL_SIDE + FOOTER_HEIGHT;
/// The usual window for lungs: its centre and width.
pub const WINDOW_HU: (f32, f32) = (-600.0, 1500.0);
/// Slices closer than this show the same thing.
pub const APART_MIN_MM: f64 = 10.0;

const MARGIN: usize = 12;
const HEADER_HEIGHT: usize = 64;
/// The slice has the whole width.
const PANEL_SIDE: usize = WIDTH;
const FOOTER_HEIGHT: usize = 48;
/// Of an outlined lesion: no tissue of the window has it, and red recedes in grey.
const OUTLINE: Colour = [1.0, 0.45, 0.1];

/// A slice that is to be drawn.
#[derive(Debug, Clone, Copy)]
pub struct SliceView<'a> {
    /// Its series.
    pub series: &'a SourceSeries,
    /// Which of the series' images, from the head.
    pub index: usize,
    /// Its `rows × columns` values in Hounsfield units, row by row.
    pub hu: &'a [f32],
    /// Lungs and lesions of the whole series.
    pub masks: &'a Masks<'a>,
    /// Whether the lesions are outlined: see the module's text.
    pub outlines: bool,
}

/// The slices with the largest lesion areas, at most `count`, at least [`APART_MIN_MM`] apart, **from head to feet**:
/// the order in which readers expect a series. Slices without lesions are never among them.
///
/// Empty where the labels are not the series'.
pub fn most_affected(series: &SourceSeries, masks: &Masks<'_>, count: usize) -> Vec<usize> {
    if !masks.fit(series) {
        return Vec::new();
    }
    let area = |index: usize| (masks.count(masks.slice(series, index)).lesion, index);
    let mut areas: Vec<_> = (0..series.images.len()).map(area).filter(|(lesion, _)| *lesion > 0).collect();
    // Of two with the same area, the one nearer the head.
    areas.sort_by_key(|(lesion, index)| (std::cmp::Reverse(*lesion), *index));
    let mut chosen: Vec<usize> = Vec::new();
    for (_, index) in areas {
        // Spacings are rounded in headers: 4 × 2.4999 mm are 10 mm.
        let apart =
            |other: &usize| index.abs_diff(*other) as f64 * series.slice_spacing_mm > APART_MIN_MM - 0.01;
        if chosen.len() < count && chosen.iter().all(apart) {
            chosen.push(index);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Draws a slice in the lung window, [`WIDTH`] × [`HEIGHT`], as large as fits, with the same scale along both axes.
///
/// `None` where values, labels or spacings do not make a slice of the series: no preview is better than a wrong one.
pub fn render(view: &SliceView<'_>) -> Option<Picture> {
    let SliceView { series, index, hu, masks, outlines } = *view;
    let spacing_known = series.pixel_spacing_mm.iter().all(|mm| mm.is_finite() && *mm > 0.0);
    let there = index < series.images.len() && hu.len() == series.rows * series.columns;
    if !(there && spacing_known && masks.fit(series)) {
        return None;
    }
    let mut canvas = Canvas::new(WIDTH, HEIGHT, BACKGROUND);
    canvas.rectangle(0, HEADER_HEIGHT, WIDTH, PANEL_SIDE, PANEL);
    let panel = Panel::fit(series);
    panel.grey(&mut canvas, series, hu);
    if outlines {
        panel.outlines(&mut canvas, series, &marked(view));
        let y = HEADER_HEIGHT + PANEL_SIDE - SMALL.line() - 4;
        label(&mut canvas, (MARGIN, y), "outlined: lesions as the network saw them");
    }
    header(&mut canvas, view);
    footer(&mut canvas, (WIDTH, HEIGHT), FOOTER_HEIGHT);
    Some(canvas.finish(match outlines {
        true => "Axial slice in the lung window with the network's lesions outlined",
        false => "Axial slice in the lung window",
    }))
}

/// Which pixels of the slice are lesion.
fn marked(view: &SliceView<'_>) -> Vec<bool> {
    let masks = view.masks;
    let lungs = masks.right_lung | masks.left_lung;
    let lesion = |label: &u8| label & masks.lesion != 0 && label & lungs != 0;
    masks.slice(view.series, view.index).iter().map(lesion).collect()
}

/// Where the slice lies on the canvas.
struct Panel {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Panel {
    fn fit(series: &SourceSeries) -> Self {
        let height_mm = series.rows as f64 * series.pixel_spacing_mm[0];
        let width_mm = series.columns as f64 * series.pixel_spacing_mm[1];
        let pixels_per_mm = PANEL_SIDE as f64 / height_mm.max(width_mm);
        let pixels = |mm: f64| ((mm * pixels_per_mm).round() as usize).clamp(1, PANEL_SIDE);
        let (width, height) = (pixels(width_mm), pixels(height_mm));
        let (left, top) = ((WIDTH - width) / 2, HEADER_HEIGHT + (PANEL_SIDE - height) / 2);
        Self { left, top, width, height }
    }

    fn grey(&self, canvas: &mut Canvas, series: &SourceSeries, hu: &[f32]) {
        let (centre, width) = WINDOW_HU;
        // Before the resampling, so that metal casts no halo. What is no number is air.
        let window = |hu: &f32| {
            let grey = (hu - centre) / width + 0.5;
            if grey > 0.0 { grey.min(1.0) } else { 0.0 }
        };
        let windowed: Vec<f32> = hu.iter().map(window).collect();
        let across = taps(0, series.columns, self.width, SHARP);
        let down = taps(0, series.rows, self.height, SHARP);
        for (i, grey) in resample(&windowed, series.columns, &across, &down).into_iter().enumerate() {
            let at = (self.left + i % self.width, self.top + i / self.width);
            canvas.rectangle(at.0, at.1, 1, 1, [grey.clamp(0.0, 1.0); 3]);
        }
    }

    /// A line of two pixels at the inner side of the border.
    fn outlines(&self, canvas: &mut Canvas, series: &SourceSeries, lesion: &[bool]) {
        let inside = |x: isize, y: isize| {
            let (x, y) = (usize::try_from(x).ok(), usize::try_from(y).ok());
            let column = x.filter(|x| *x < self.width).map(|x| x * series.columns / self.width);
            let row = y.filter(|y| *y < self.height).map(|y| y * series.rows / self.height);
            column.zip(row).is_some_and(|(column, row)| lesion[row * series.columns + column])
        };
        for y in 0..self.height as isize {
            for x in 0..self.width as isize {
                let near = [(-2, 0), (2, 0), (0, -2), (0, 2), (-1, -1), (1, 1), (-1, 1), (1, -1)];
                if inside(x, y) && near.iter().any(|(dx, dy)| !inside(x + dx, y + dy)) {
                    canvas.rectangle(self.left + x as usize, self.top + y as usize, 1, 1, OUTLINE);
                }
            }
        }
    }
}

/// Small text on a black ground, over the slice.
fn label(canvas: &mut Canvas, (x, y): (usize, usize), text: &str) {
    canvas.rectangle(x - 4, y - 2, SMALL.width(text) + 8, SMALL.line() + 4, PANEL);
    canvas.text((x, y), text, (SMALL, OUTLINE));
}

/// What slice it is, in the words of the console that shows the series; the sides of the patient, in the radiological
/// convention: the gate has refused prone and turned patients.
fn header(canvas: &mut Canvas, view: &SliceView<'_>) {
    let SliceView { series, index, masks, .. } = *view;
    let image = &series.images[index];
    let counts = masks.count(masks.slice(series, index));
    let right = WIDTH - MARGIN;
    let slice = format!("Slice {} of {}", index + 1, series.images.len());
    canvas.text((MARGIN, 8), &slice, (MEDIUM, TEXT));
    let share = match counts.lung {
        0 => "no lung in this slice".to_owned(),
        lung => format!("{} of its lung affected", percent(counts.lesion as f64 / lung as f64)),
    };
    canvas.text_right((right, 10), &share, (STRONG, TEXT));
    let number = image.instance_number.map_or_else(String::new, |n| format!("image {n}, "));
    let place = format!("{number}location {:.1} mm", image.position_mm[2]);
    canvas.text((MARGIN, 40), &place, (SMALL, FAINT));
    let (centre, width) = WINDOW_HU;
    canvas.text_right((right, 40), &format!("lung window {centre} / {width}"), (SMALL, FAINT));
    let y = HEADER_HEIGHT + 8;
    canvas.text((MARGIN, y), "R", (LARGE, WARNING));
    canvas.text_right((right, y), "L", (LARGE, WARNING));
}

#[cfg(test)]
mod tests;
