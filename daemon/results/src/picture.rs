//! The picture of an outcome, for a technician in a dark control room: the verdict in words, the coronal projection
//! with, when asked for, the affected share in colour, and the numbers, so that nothing depends on colour vision alone.
//!
//! It shows no patient's name, identifier or date: the DICOM header holds those. It never decides anything.
use crate::canvas::{BODY, Canvas, Font, HUGE, LARGE, MEDIUM, SMALL, STRONG};
use crate::colour::{BACKGROUND, Colour, FAINT, PANEL, TEXT, WARNING, tint};
use crate::projection::CoronalProjection;
use crate::words;
use study::{Findings, Outcome, Sides, Verdict};

/// Width of every picture, in pixels.
pub const WIDTH: usize = 960;
/// Height of every picture of a first revision, in pixels.
pub const HEIGHT: usize = 800;
/// By so much those of later revisions are higher.
pub const STRIP_HEIGHT: usize = 44;

const MARGIN: usize = 20;
const BANNER_HEIGHT: usize = 84;
/// Left upper corner and size of the projection.
const PANEL_AT: (usize, usize) = (MARGIN, 146);
const PANEL_SIZE: (usize, usize) = (620, 510);
/// Without colours there is no scale bar, and the projection has its place.
const PANEL_HEIGHT_PLAIN: usize = 590;
/// The scale bar, below the projection.
const BAR_AT: (usize, usize) = (MARGIN + 60, 696);
const BAR_SIZE: (usize, usize) = (500, 14);
/// Where the column of numbers begins.
const NUMBERS_X: usize = 668;
const FOOTER_Y: usize = HEIGHT - 48;

/// An RGB image, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Rows from the top, pixels from the left, red, green, blue: `width * height * 3` bytes.
    pub rgb: Vec<u8>,
    /// What it shows, in words of ASCII, without a full stop.
    pub shows: &'static str,
}

impl Picture {
    /// The picture below a strip that says what it replaces, from the second revision on. Above everything, so that
    /// nothing is hidden and a technician who has read the first picture reads this before the new one; in no verdict's
    /// colour.
    pub(crate) fn of_revision(self, revision: u32) -> Self {
        let Some(words) = words::replaces(revision) else { return self };
        let mut strip = Canvas::new(self.width, STRIP_HEIGHT, TEXT);
        let fits = |font: &Font| font.width(&words) + 2 * MARGIN <= self.width;
        let font = [LARGE, STRONG].into_iter().find(fits).unwrap_or(SMALL);
        strip.text_centred((self.width / 2, (STRIP_HEIGHT - font.line()) / 2), &words, (font, [0.05; 3]));
        let rgb = [strip.finish("").rgb, self.rgb].concat();
        Self { height: self.height + STRIP_HEIGHT, rgb, ..self }
    }

    /// The picture as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.rgb))
            .expect("writing to memory can't fail, and `rgb` has width * height * 3 bytes");
        bytes
    }
}

/// Draws the picture of an outcome, [`WIDTH`] × [`HEIGHT`], from the second `revision` on below a strip that says that
/// earlier results are replaced.
///
/// Without `colours` nothing is marked in the projection; the words and the numbers stay.
///
/// A study that was not evaluated has its reason in words in the place of the projection. So has an outcome whose
/// `projection` is absent or can't be drawn: the flag must not fail for want of its picture.
pub fn render(
    outcome: &Outcome,
    projection: Option<&CoronalProjection>,
    colours: bool,
    revision: u32,
) -> Picture {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, BACKGROUND);
    // Without lesions that were looked for, a projection in colour would show healthy lungs.
    let colours = colours && outcome.findings().is_none_or(|findings| findings.lesions.is_some());
    banner(&mut canvas, &outcome.verdict);
    match &outcome.verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => {
            sides(&mut canvas, findings);
            panel(&mut canvas, projection, colours);
            if colours {
                scale_bar(&mut canvas);
            }
            numbers(&mut canvas, findings);
        }
        Verdict::NotEvaluated(reason) => notice(&mut canvas, &reason.to_string()),
    }
    footer(&mut canvas, (WIDTH, HEIGHT), HEIGHT - FOOTER_Y);
    let shows = match (&outcome.verdict, colours) {
        (Verdict::NotEvaluated(_), _) => "Notice that the study was not evaluated",
        (_, true) => "Coronal mean projection with the affected share of the lung along the ray in colour",
        (_, false) => "Coronal mean projection",
    };
    canvas.finish(shows).of_revision(revision)
}

/// The verdict, over the whole width. Not flagged is not green: it is no statement that the study is normal.
fn banner(canvas: &mut Canvas, verdict: &Verdict) {
    let (word, meaning) = (words::verdict(verdict), words::meaning(verdict));
    let (ground, ink): (Colour, Colour) = match verdict {
        Verdict::Flagged(_) => ([0.70, 0.09, 0.10], [1.0; 3]),
        Verdict::NotFlagged(_) => ([0.16, 0.20, 0.26], TEXT),
        Verdict::NotEvaluated(_) => ([0.88, 0.66, 0.08], [0.05; 3]),
    };
    canvas.rectangle(0, 0, WIDTH, BANNER_HEIGHT, ground);
    canvas.text((MARGIN, (BANNER_HEIGHT - HUGE.line()) / 2), word, (HUGE, ink));
    let x = MARGIN + HUGE.width(word) + 32;
    let y = (BANNER_HEIGHT - MEDIUM.line()) / 2 + 4;
    canvas.text((x, y), meaning, (MEDIUM, ink));
}

/// Sides of the patient above the sides of the image, in the radiological convention: the patient's right is at
/// the image's left.
fn sides(canvas: &mut Canvas, findings: &Findings) {
    let (left, right) = (PANEL_AT.0, PANEL_AT.0 + PANEL_SIZE.0);
    let y = BANNER_HEIGHT + 16;
    canvas.text((left, y), "R", (LARGE, WARNING));
    canvas.text_right((right, y), "L", (LARGE, WARNING));
    let middle = ((left + right) / 2, y + 6);
    if findings.lesions.is_none() {
        return canvas.text_centred(middle, "affected share not measured by this method", (BODY, TEXT));
    }
    let Sides { left: of_left, right: of_right } = words::affected(findings);
    canvas.text((left + 30, y), &of_right, (LARGE, TEXT));
    canvas.text_right((right - 30, y), &of_left, (LARGE, TEXT));
    canvas.text_centred(middle, "affected share of each lung", (BODY, FAINT));
}

fn panel(canvas: &mut Canvas, projection: Option<&CoronalProjection>, colours: bool) {
    let (width, height) = (PANEL_SIZE.0, if colours { PANEL_SIZE.1 } else { PANEL_HEIGHT_PLAIN });
    canvas.rectangle(PANEL_AT.0, PANEL_AT.1, width, height, PANEL);
    let why = match projection.map(|p| p.draw(canvas, PANEL_AT, (width, height), colours)) {
        Some(Ok(placed)) => return length_bar(canvas, placed.pixels_per_mm, PANEL_AT.1 + height - 2),
        Some(Err(error)) => error.to_string(),
        None => "no projection was made".to_owned(),
    };
    let at = (PANEL_AT.0 + MARGIN, PANEL_AT.1 + height / 2);
    canvas.paragraph(at, (width - 2 * MARGIN, 4), &why, (BODY, FAINT));
}

/// 10 cm at the projection's scale, or 1 cm where 10 do not fit. Beside the projection: it hides no anatomy.
fn length_bar(canvas: &mut Canvas, pixels_per_mm: f64, y: usize) {
    let pixels = |mm: f64| (mm * pixels_per_mm).round() as usize;
    let most = WIDTH - MARGIN - NUMBERS_X;
    let fitting = [(100.0, "10 cm"), (10.0, "1 cm")].into_iter().find(|(mm, _)| pixels(*mm) < most);
    let Some((mm, label)) = fitting else { return };
    let (length, x) = (pixels(mm).max(2), NUMBERS_X);
    canvas.rectangle(x, y, length, 2, TEXT);
    for end in [x, x + length - 2] {
        canvas.rectangle(end, y - 8, 2, 10, TEXT);
    }
    canvas.text((x + 8, y - 24), label, (BODY, TEXT));
}

fn scale_bar(canvas: &mut Canvas) {
    let ((x, y), (width, height)) = (BAR_AT, BAR_SIZE);
    let centre = x + width / 2;
    canvas.text_centred((centre, y - 28), "affected share of the lung along the ray", (BODY, FAINT));
    for i in 0..width {
        // As in the lungs of the picture: over a rather bright grey.
        canvas.rectangle(x + i, y, 1, height, tint(0.7, i as f32 / (width - 1) as f32, 1.0));
    }
    for percent in [0, 25, 50, 75, 100] {
        let tick = x + (width - 2) * percent / 100;
        canvas.rectangle(tick, y + height, 2, 6, TEXT);
        canvas.text_centred((tick + 1, y + height + 6), &format!("{percent} %"), (SMALL, TEXT));
    }
}

fn numbers(canvas: &mut Canvas, findings: &Findings) {
    let (x, top) = (NUMBERS_X, BANNER_HEIGHT + 22);
    canvas.text((x, top), "severity of worse lung", (BODY, FAINT));
    match (findings.category(), findings.severity()) {
        (Some(category), Some(severity)) => {
            canvas.text((x, top + 24), &category.to_string(), (HUGE, TEXT));
            let share = words::text(words::percent(severity), " %");
            canvas.text_right((WIDTH - MARGIN, top + 34), &share, (LARGE, TEXT));
        }
        _ => {
            canvas.paragraph((x, top + 30), (WIDTH - MARGIN - x, 2), words::NOT_MEASURED, (STRONG, TEXT));
        }
    }
    canvas.text((x, top + 106), "identification (demonstration)", (BODY, FAINT));
    match findings.probability {
        Some(probability) => {
            canvas.text((x, top + 130), &words::text(words::score(probability), ""), (LARGE, TEXT));
            canvas.text_right((WIDTH - MARGIN, top + 138), "no accuracy claimed", (BODY, FAINT));
        }
        None => canvas.text((x, top + 134), "by severity alone", (STRONG, TEXT)),
    }
    table(canvas, (x, top + 204), findings);
    let y = top + 352;
    let width = WIDTH - MARGIN - x;
    canvas.text((x, y), "model", (BODY, FAINT));
    let model = format!("{}, version {}", findings.method, findings.model_version);
    let y = canvas.paragraph((x, y + 24), (width, 5), &model, (BODY, TEXT));
    canvas.paragraph((x, y), (width, 2), &format!("run by {}", findings.engine), (BODY, TEXT));
}

/// Volumes of each lung, the patient's right at the left as in the image.
fn table(canvas: &mut Canvas, (x, y): (usize, usize), findings: &Findings) {
    let columns = [x + 174, WIDTH - MARGIN];
    for (right, name) in columns.into_iter().zip(["right", "left"]) {
        canvas.text_right((right, y), name, (STRONG, WARNING));
    }
    let millilitres = |sides: Sides<f64>| sides.map(|ml| words::text(words::millilitres(ml, 0), " ml"));
    let lesions = findings.lesions.map(|lesions| {
        [("affected", words::affected(findings)), ("lesions", millilitres(lesions.volume_ml))]
    });
    let lungs = ("lung", millilitres(findings.lung_volume_ml));
    let rows: Vec<_> = lesions.into_iter().flatten().chain([lungs]).collect();
    for (i, (name, value)) in rows.iter().enumerate() {
        let y = y + 30 + i * 30;
        canvas.text((x, y), name, (BODY, FAINT));
        canvas.text_right((columns[0], y), &value.right, (STRONG, TEXT));
        canvas.text_right((columns[1], y), &value.left, (STRONG, TEXT));
    }
}

fn notice(canvas: &mut Canvas, reason: &str) {
    let width = WIDTH - 2 * MARGIN - 80;
    let mut y = BANNER_HEIGHT + 110;
    canvas.text((MARGIN + 40, y), "why", (MEDIUM, FAINT));
    y = canvas.paragraph((MARGIN + 40, y + 36), (width, 8), reason, (LARGE, TEXT));
    let advice = "Read this study as if there were no triage.";
    canvas.paragraph((MARGIN + 40, y + 48), (width, 2), advice, (MEDIUM, WARNING));
}

/// The warning, over the whole width of a picture of `size`, in its lowest `high` rows.
pub(crate) fn footer(canvas: &mut Canvas, size: (usize, usize), high: usize) {
    let top = size.1 - high;
    canvas.rectangle(0, top, size.0, high, [0.0; 3]);
    canvas.rectangle(0, top, size.0, 2, WARNING);
    canvas.text_centred(
        (size.0 / 2, top + 2 + (high - 2 - LARGE.line()) / 2),
        words::WARNING,
        (LARGE, WARNING),
    );
}

#[cfg(test)]
pub(crate) mod tests;
