use super::*;
use crate::canvas::Font;
use crate::projection::tests::chest;
use std::collections::BTreeMap;
use study::{Lesions, NotEvaluated, SeriesUid, StudyUid};

pub(crate) fn findings() -> Findings {
    Findings {
        probability: Some(0.873),
        lesions: Some(Lesions {
            fraction: Sides { left: 0.342, right: 0.618 },
            volume_ml: Sides { left: 691.3, right: 1430.7 },
        }),
        lung_volume_ml: Sides { left: 2021.4, right: 2315.0 },
        method: "Multitask-Spatial-1, Goncharov et al. 2020".into(),
        engine: "cpu".into(),
        model_version: "1".into(),
    }
}

pub(crate) fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        study_uid: StudyUid::new("1.2.826.0.1.3680043.8.498.1").unwrap(),
        series_uid: Some(SeriesUid::new("1.2.826.0.1.3680043.8.498.2").unwrap()),
        verdict,
        timings_ms: BTreeMap::new(),
    }
}

/// Whether `text` is somewhere in the picture, in this font and colour, pixel for pixel.
pub(crate) fn shows(picture: &Picture, text: &str, font: Font, colour: Colour) -> bool {
    let mut canvas = Canvas::new(font.width(text), font.line(), [0.0; 3]);
    canvas.text((0, 0), text, (font, [1.0; 3]));
    let mask = canvas.finish("");
    let want = colour.map(|c| (c * 255.0 + 0.5) as u8);
    // Only pixels that the glyphs cover whole: their colour does not depend on the ground.
    let solid: Vec<(usize, usize)> = (0..mask.width * mask.height)
        .filter(|i| mask.rgb[i * 3] == 255)
        .map(|i| (i % mask.width, i / mask.width))
        .collect();
    let here = |x: usize, y: usize| {
        solid.iter().all(|(dx, dy)| {
            let at = ((y + dy) * picture.width + x + dx) * 3;
            picture.rgb[at..at + 3] == want
        })
    };
    assert!(solid.len() > 5, "{text} has too few solid pixels to be found");
    (0..=picture.height - mask.height).any(|y| (0..=picture.width - mask.width).any(|x| here(x, y)))
}

#[test]
fn the_verdict_and_every_number_are_in_words() {
    let flagged = render(&outcome(Verdict::Flagged(findings())), Some(&chest(80, 128)), true, 1);
    for (text, font, colour) in [
        ("FLAGGED", HUGE, [1.0; 3]),
        ("CT-3", HUGE, TEXT),
        ("61.8 %", LARGE, TEXT),
        ("34.2 %", LARGE, TEXT),
        ("0.87", LARGE, TEXT),
        ("2021 ml", STRONG, TEXT),
        ("2315 ml", STRONG, TEXT),
        ("R", LARGE, WARNING),
        ("L", LARGE, WARNING),
        (words::WARNING, LARGE, WARNING),
        ("version 1", BODY, TEXT),
        ("identification (demonstration)", BODY, FAINT),
        ("no accuracy claimed", BODY, FAINT),
    ] {
        assert!(shows(&flagged, text, font, colour), "{text}");
    }
    assert!(!shows(&flagged, "NOT FLAGGED", HUGE, [1.0; 3]));
    let not_flagged = render(&outcome(Verdict::NotFlagged(findings())), Some(&chest(80, 128)), true, 1);
    assert!(shows(&not_flagged, "NOT FLAGGED", HUGE, TEXT));
    assert!(shows(&not_flagged, words::WARNING, LARGE, WARNING));
}

#[test]
fn a_later_revision_says_so_above_everything_and_hides_nothing() {
    let reason = NotEvaluated::Gap { gap_mm: 16.0, spacing_mm: 8.0 };
    for verdict in [Verdict::Flagged(findings()), Verdict::NotEvaluated(reason)] {
        let [first, second] =
            [1, 2].map(|revision| render(&outcome(verdict.clone()), Some(&chest(80, 128)), false, revision));
        assert_eq!(second.height, HEIGHT + STRIP_HEIGHT);
        let below = second.rgb.len() - first.rgb.len();
        assert!(second.rgb[below..] == first.rgb, "the picture itself is the same");
        assert_eq!(below, STRIP_HEIGHT * WIDTH * 3);
        let strip =
            Picture { width: WIDTH, height: STRIP_HEIGHT, rgb: second.rgb[..below].to_vec(), shows: "" };
        assert!(shows(&strip, "REVISION 2 - REPLACES EARLIER RESULTS", LARGE, [0.05; 3]));
    }
}

#[test]
fn the_reason_of_no_evaluation_is_in_words() {
    let reason = NotEvaluated::Gap { gap_mm: 16.0, spacing_mm: 8.0 };
    let picture = render(&outcome(Verdict::NotEvaluated(reason)), Some(&chest(80, 128)), true, 1);
    assert!(shows(&picture, "NOT EVALUATED", HUGE, [0.05; 3]));
    assert!(shows(&picture, "slices are missing: a gap of 16.00 mm", LARGE, TEXT));
    assert!(shows(&picture, words::WARNING, LARGE, WARNING));
    // No projection: no colour of a lung anywhere.
    assert_eq!(
        picture,
        render(
            &outcome(Verdict::NotEvaluated(NotEvaluated::Gap { gap_mm: 16.0, spacing_mm: 8.0 })),
            None,
            true,
            1
        )
    );
}

#[test]
fn the_patients_right_is_at_the_images_left() {
    let mut only_right = findings();
    only_right.lesions.as_mut().unwrap().fraction = Sides { left: 0.0, right: 0.618 };
    let picture = render(&outcome(Verdict::Flagged(only_right)), None, true, 1);
    let half = |from: usize| {
        let rows = picture.rgb.chunks_exact(WIDTH * 3).skip(BANNER_HEIGHT).take(PANEL_AT.1 - BANNER_HEIGHT);
        let rgb: Vec<u8> = rows.flat_map(|row| row[from * 3..(from + 310) * 3].to_vec()).collect();
        Picture { width: 310, height: PANEL_AT.1 - BANNER_HEIGHT, rgb, shows: "" }
    };
    assert!(shows(&half(MARGIN), "61.8 %", LARGE, TEXT) && shows(&half(MARGIN), "R", LARGE, WARNING));
    assert!(
        shows(&half(MARGIN + 310), "0.0 %", LARGE, TEXT) && shows(&half(MARGIN + 310), "L", LARGE, WARNING)
    );
}

#[test]
fn a_method_without_lesions_shows_no_healthy_lungs() {
    let without = Findings { lesions: None, ..findings() };
    let picture = render(&outcome(Verdict::Flagged(without)), Some(&chest(20, 20)), true, 1);
    assert_eq!(picture.shows, "Coronal mean projection");
    assert!(shows(&picture, "affected share not measured by this method", BODY, TEXT));
    assert!(!shows(&picture, "CT-0", HUGE, TEXT) && !shows(&picture, "0.0 %", LARGE, TEXT));
    assert!(shows(&picture, "0.87", LARGE, TEXT));
    let without = Findings { probability: None, ..findings() };
    let picture = render(&outcome(Verdict::Flagged(without)), None, true, 1);
    assert!(shows(&picture, "CT-3", HUGE, TEXT) && shows(&picture, "by severity alone", STRONG, TEXT));
}

#[test]
fn a_picture_is_made_whatever_comes() {
    let mut odd = findings();
    odd.probability = Some(f32::NAN);
    odd.lesions.as_mut().unwrap().fraction = Sides { left: f64::NAN, right: f64::INFINITY };
    odd.lung_volume_ml = Sides { left: f64::NAN, right: 0.0 };
    odd.method = "m".repeat(5000);
    odd.engine = String::new();
    let mut broken = chest(10, 10);
    broken.lung.pop();
    for projection in [None, Some(&broken), Some(&chest(1, 1)), Some(&chest(1, 512))] {
        let picture = render(&outcome(Verdict::Flagged(odd.clone())), projection, true, 1);
        assert_eq!(picture.rgb.len(), WIDTH * HEIGHT * 3);
        assert!(shows(&picture, "FLAGGED", HUGE, [1.0; 3]));
        assert!(shows(&picture, "no lung", LARGE, TEXT));
        assert!(shows(&picture, "n/a", LARGE, TEXT));
    }
    let picture = render(&outcome(Verdict::Flagged(findings())), Some(&broken), true, 1);
    assert!(shows(&picture, "lung has 99 values", BODY, FAINT), "says why there is no projection");
    let what = "x ".repeat(4000);
    let picture = render(&outcome(Verdict::NotEvaluated(NotEvaluated::Unreadable { what })), None, true, 1);
    assert!(shows(&picture, words::WARNING, LARGE, WARNING));
}

#[test]
fn the_png_holds_the_same_pixels_and_is_repeatable() {
    let outcome = outcome(Verdict::Flagged(findings()));
    let picture = render(&outcome, Some(&chest(80, 128)), true, 1);
    assert_eq!(picture, render(&outcome, Some(&chest(80, 128)), true, 1));
    let bytes = picture.to_png();
    assert_eq!(bytes, picture.to_png());
    let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((info.width as usize, info.height as usize), (picture.width, picture.height));
    assert!(rgb == picture.rgb);
}

/// The bytes are the same on every machine: the arithmetic uses only operations that IEEE 754 rounds exactly.
/// A change of the design changes these sums; look at the pictures, then put the new ones here.
#[test]
fn the_picture_is_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    for (colours, want) in [(true, "4f0dcd689a1e540a"), (false, "da2e8901ebbba313")] {
        let picture = render(&outcome(Verdict::Flagged(findings())), Some(&chest(80, 128)), colours, 1);
        let sum: String = Sha256::digest(&picture.rgb).iter().take(8).map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, want, "{}", picture.shows);
    }
}
