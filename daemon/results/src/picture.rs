//! The picture of an outcome, for a technician in a dark control room: the verdict in words, the coronal projection
//! with the affected share in colour, and the numbers, so that nothing depends on colour vision alone.
//!
//! It shows no patient's name, identifier or date: the DICOM header holds those. It never decides anything.
use crate::canvas::{BODY, Canvas, Font, HUGE, LARGE, SMALL, STRONG};
use crate::colour::{BACKGROUND, Colour, FAINT, PANEL, TEXT, WARNING, tint};
use crate::projection::CoronalProjection;
use study::{Findings, Outcome, Sides, Verdict};

/// Width of every picture, in pixels.
pub const WIDTH: usize = 960;
/// Height of every picture, in pixels.
pub const HEIGHT: usize = 800;
/// Burnt into every picture.
pub const WARNING_TEXT: &str = "NOT FOR DIAGNOSTIC USE";

const MARGIN: usize = 20;
const BANNER_HEIGHT: usize = 84;
/// Left upper corner and size of the projection.
const PANEL_AT: (usize, usize) = (MARGIN, 146);
const PANEL_SIZE: (usize, usize) = (620, 510);
/// The scale bar, below the projection.
const BAR_AT: (usize, usize) = (MARGIN + 60, 692);
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
}

impl Picture {
    /// The picture as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.rgb))
            .expect("writing to memory can't fail, and `rgb` has width * height * 3 bytes");
        bytes
    }
}

/// Draws the picture of an outcome, [`WIDTH`] × [`HEIGHT`].
///
/// A study that was not evaluated has its reason in words in the place of the projection. So has an outcome whose
/// `projection` is absent or can't be drawn: the flag must not fail for want of its picture.
pub fn render(outcome: &Outcome, projection: Option<&CoronalProjection>) -> Picture {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, BACKGROUND);
    banner(&mut canvas, &outcome.verdict);
    match &outcome.verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => {
            sides(&mut canvas, findings);
            panel(&mut canvas, projection);
            scale_bar(&mut canvas);
            numbers(&mut canvas, findings);
        }
        Verdict::NotEvaluated(reason) => notice(&mut canvas, &reason.to_string()),
    }
    footer(&mut canvas);
    canvas.finish()
}

/// The verdict, over the whole width. Not flagged is not green: it is no statement that the study is normal.
fn banner(canvas: &mut Canvas, verdict: &Verdict) {
    let (word, meaning, ground, ink): (_, _, Colour, Colour) = match verdict {
        Verdict::Flagged(_) => ("FLAGGED", "read this study first", [0.70, 0.09, 0.10], [1.0; 3]),
        Verdict::NotFlagged(_) => {
            ("NOT FLAGGED", "read in turn; this does not say normal", [0.16, 0.20, 0.26], TEXT)
        }
        Verdict::NotEvaluated(_) => {
            ("NOT EVALUATED", "triage has no answer for this study", [0.88, 0.66, 0.08], [0.05; 3])
        }
    };
    canvas.rectangle(0, 0, WIDTH, BANNER_HEIGHT, ground);
    canvas.text((MARGIN, (BANNER_HEIGHT - HUGE.line()) / 2), word, (HUGE, ink));
    let x = MARGIN + HUGE.width(word) + 32;
    let y = (BANNER_HEIGHT - BODY.line()) / 2 + 4;
    canvas.text((x, y), meaning, (BODY, ink));
}

/// Sides of the patient above the sides of the image, in the radiological convention: the patient's right is at
/// the image's left.
fn sides(canvas: &mut Canvas, findings: &Findings) {
    let (left, right) = (PANEL_AT.0, PANEL_AT.0 + PANEL_SIZE.0);
    let y = BANNER_HEIGHT + 16;
    let Sides { left: of_left, right: of_right } = affected(findings);
    canvas.text((left, y), "R", (LARGE, WARNING));
    canvas.text((left + 30, y), &of_right, (LARGE, TEXT));
    canvas.text_right((right, y), "L", (LARGE, WARNING));
    canvas.text_right((right - 30, y), &of_left, (LARGE, TEXT));
    canvas.text_centred(((left + right) / 2, y + 8), "affected share of each lung", (SMALL, FAINT));
}

fn panel(canvas: &mut Canvas, projection: Option<&CoronalProjection>) {
    canvas.rectangle(PANEL_AT.0, PANEL_AT.1, PANEL_SIZE.0, PANEL_SIZE.1, PANEL);
    let why = match projection.map(|p| p.draw(canvas, PANEL_AT, PANEL_SIZE)) {
        Some(Ok(placed)) => return length_bar(canvas, placed.pixels_per_mm),
        Some(Err(error)) => error.to_string(),
        None => "no projection was made".to_owned(),
    };
    let at = (PANEL_AT.0 + MARGIN, PANEL_AT.1 + PANEL_SIZE.1 / 2);
    canvas.paragraph(at, (PANEL_SIZE.0 - 2 * MARGIN, 4), &why, (BODY, FAINT));
}

/// 10 cm, or 1 cm where 10 do not fit.
fn length_bar(canvas: &mut Canvas, pixels_per_mm: f64) {
    let pixels = |mm: f64| (mm * pixels_per_mm).round() as usize;
    let fitting =
        [(100.0, "10 cm"), (10.0, "1 cm")].into_iter().find(|(mm, _)| pixels(*mm) < PANEL_SIZE.0 / 2);
    let Some((mm, label)) = fitting else { return };
    let (length, y) = (pixels(mm).max(2), PANEL_AT.1 + PANEL_SIZE.1 - 14);
    let right = PANEL_AT.0 + PANEL_SIZE.0 - 12;
    let left = right - length;
    canvas.rectangle(left, y, length, 2, TEXT);
    for x in [left, right - 2] {
        canvas.rectangle(x, y - 6, 2, 8, TEXT);
    }
    canvas.text_centred(((left + right) / 2, y - 20), label, (SMALL, TEXT));
}

fn scale_bar(canvas: &mut Canvas) {
    let ((x, y), (width, height)) = (BAR_AT, BAR_SIZE);
    let centre = x + width / 2;
    canvas.text_centred((centre, y - 24), "affected share of the lung along the ray", (SMALL, FAINT));
    for i in 0..width {
        // As in the lungs of the picture: over a middling grey.
        canvas.rectangle(x + i, y, 1, height, tint(0.5, i as f32 / (width - 1) as f32, 1.0));
    }
    for percent in [0, 25, 50, 75, 100] {
        let tick = x + (width - 2) * percent / 100;
        canvas.rectangle(tick, y + height, 2, 6, TEXT);
        canvas.text_centred((tick + 1, y + height + 6), &format!("{percent} %"), (SMALL, TEXT));
    }
}

fn numbers(canvas: &mut Canvas, findings: &Findings) {
    let x = NUMBERS_X;
    let mut y = BANNER_HEIGHT + 20;
    let row = |canvas: &mut Canvas, y: usize, name: &str, value: &str, font: Font| {
        canvas.text((x, y), name, (SMALL, FAINT));
        let baseline = y + font.line() - font.line() / 5;
        canvas.text((x, baseline.max(y + 18)), value, (font, TEXT));
    };
    row(canvas, y, "severity of the worse lung", &findings.category().to_string(), HUGE);
    canvas.text_right((WIDTH - MARGIN, y + 50), &percent(findings.severity()), (LARGE, TEXT));
    y += 116;
    row(canvas, y, "probability of COVID-19", &probability(findings.probability), LARGE);
    y += 84;
    table(canvas, (x, y), findings);
    y += 150;
    canvas.text((x, y), "model", (SMALL, FAINT));
    let model = format!("{}, version {}", findings.method, findings.model_version);
    y = canvas.paragraph((x, y + 18), (WIDTH - MARGIN - x, 4), &model, (SMALL, TEXT));
    canvas.paragraph((x, y), (WIDTH - MARGIN - x, 2), &format!("run by {}", findings.engine), (SMALL, TEXT));
}

/// Volumes of each lung, the patient's right at the left as in the image.
fn table(canvas: &mut Canvas, (x, y): (usize, usize), findings: &Findings) {
    let columns = [x + 180, WIDTH - MARGIN];
    for (right, name) in columns.into_iter().zip(["right", "left"]) {
        canvas.text_right((right, y), name, (SMALL, WARNING));
    }
    let millilitres = |sides: Sides<f64>| sides.map(volume);
    let rows = [
        ("affected", affected(findings)),
        ("lesions", millilitres(findings.lesion_volume_ml)),
        ("lung", millilitres(findings.lung_volume_ml)),
    ];
    for (i, (name, value)) in rows.iter().enumerate() {
        let y = y + 24 + i * 28;
        canvas.text((x, y + 2), name, (SMALL, FAINT));
        canvas.text_right((columns[0], y), &value.right, (STRONG, TEXT));
        canvas.text_right((columns[1], y), &value.left, (STRONG, TEXT));
    }
}

fn notice(canvas: &mut Canvas, reason: &str) {
    let width = WIDTH - 2 * MARGIN - 80;
    let mut y = BANNER_HEIGHT + 110;
    canvas.text((MARGIN + 40, y), "Why:", (BODY, FAINT));
    y = canvas.paragraph((MARGIN + 40, y + 36), (width, 8), reason, (LARGE, TEXT));
    let advice = "No flag is no answer: read this study as if there were no triage.";
    canvas.paragraph((MARGIN + 40, y + 48), (width, 2), advice, (BODY, WARNING));
}

fn footer(canvas: &mut Canvas) {
    canvas.rectangle(0, FOOTER_Y, WIDTH, HEIGHT - FOOTER_Y, [0.0; 3]);
    canvas.rectangle(0, FOOTER_Y, WIDTH, 2, WARNING);
    let y = FOOTER_Y + 2 + (HEIGHT - FOOTER_Y - 2 - LARGE.line()) / 2;
    canvas.text_centred((WIDTH / 2, y), WARNING_TEXT, (LARGE, WARNING));
}

/// Affected share of each lung in words.
fn affected(findings: &Findings) -> Sides<String> {
    let of = |share: f64, lung_ml: f64| if lung_ml > 0.0 { percent(share) } else { "no lung".to_owned() };
    let (severity, lung) = (findings.severity, findings.lung_volume_ml);
    Sides { left: of(severity.left, lung.left), right: of(severity.right, lung.right) }
}

/// A share of 0 to 1 in percent. A lesion that rounds to nothing is not shown as none.
fn percent(share: f64) -> String {
    match share * 100.0 {
        p if !p.is_finite() => "n/a".to_owned(),
        p if p > 0.0 && p < 0.1 => "<0.1 %".to_owned(),
        p => format!("{p:.1} %"),
    }
}

/// A probability of 0 to 1: never rounded to certainty.
fn probability(p: f32) -> String {
    match p {
        p if !p.is_finite() => "n/a".to_owned(),
        p if p > 0.99 => ">0.99".to_owned(),
        p if p < 0.01 => "<0.01".to_owned(),
        p => format!("{p:.2}"),
    }
}

fn volume(ml: f64) -> String {
    if ml.is_finite() { format!("{ml:.0} ml") } else { "n/a".to_owned() }
}

#[cfg(test)]
pub(crate) mod tests;
