use super::*;
use crate::case::Identity;
use crate::masks::Masks;
use crate::picture::render;
use crate::projection::tests::chest;
use crate::slice_picture::{self, SliceView};
use crate::source::{SourceSeries, SourceStudy};
use crate::testing::{
    JAPANESE, case, findings, identity, not_evaluated, outcome, python, series, skip, source, text, value,
    verify, write,
};
use std::path::Path;
use std::process::Command;
use study::StudyUid;

fn built(outcome: &Outcome, revision: u32) -> (DicomResult, Picture) {
    let picture = render(outcome, Some(&chest(60, 100)), true);
    let (source, identity) = (source(), identity());
    (build(&Case { revision, ..case(&source, None, outcome, &identity) }, &picture), picture)
}

#[test]
fn the_study_is_repeated_byte_by_byte_and_the_rest_is_ours() {
    let mut outcome = outcome(Verdict::Flagged(findings()));
    outcome.study_uid = StudyUid::new("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap();
    let (sc, picture) = built(&outcome, 3);
    let set = sc.data_set();
    assert_eq!(value(set, Tag(0x0010, 0x0010)).unwrap()[..JAPANESE.len()], *JAPANESE);
    for (group, element, want) in [
        (0x0008, 0x0005, "\\ISO 2022 IR 87"),
        (0x0008, 0x0016, SOP_CLASS_UID),
        (0x0008, 0x0018, &sc.sop_instance_uid),
        (0x0008, 0x0023, "20261123"),
        (0x0008, 0x0033, "070509"),
        (0x0008, 0x0050, ""),
        (0x0008, 0x103e, "Triage NOT FOR DIAGNOSTIC USE"),
        (0x0010, 0x0020, "12345678"),
        (0x0010, 0x0030, ""),
        (0x0010, 0x1010, "067Y"),
        (0x0020, 0x000d, "0f8fad5b-d9cb-469f-a165-70867728950e"),
        (0x0020, 0x000e, &sc.series_uid),
        (0x0020, 0x0013, "3"),
        (0x0020, 0x0020, "L\\F"),
        (0x0020, 0x4000, "FLAGGED, CT-3. Not for diagnostic use."),
    ] {
        assert_eq!(text(set, group, element), want, "({group:04x},{element:04x})");
    }
    assert!(value(set, Tag(0x7fe0, 0x0010)).unwrap() == picture.rgb);
    assert_eq!(value(set, Tag(0x0010, 0x1020)), None, "an absent optional attribute stays absent");
}

#[test]
fn not_evaluated_says_why_in_ascii() {
    let (sc, _) = built(&not_evaluated(), 1);
    let comment = text(sc.data_set(), 0x0020, 0x4000);
    assert!(comment.starts_with("NOT EVALUATED: gantry tilt of 5.0 deg; at most"), "{comment}");
    assert_eq!(text(sc.data_set(), 0x0020, 0x0020), "");
}

#[test]
fn the_same_facts_give_the_same_bytes_and_other_facts_another_uid() {
    let flagged = outcome(Verdict::Flagged(findings()));
    let (first, picture) = built(&flagged, 1);
    assert_eq!(first, built(&flagged, 1).0);
    let mut uids = vec![first.sop_instance_uid.clone()];
    let mut other = |outcome: &Outcome, identity: &Identity, revision, same_series: bool| {
        let sc = build(&Case { revision, ..case(&source(), None, outcome, identity) }, &picture);
        assert!(!uids.contains(&sc.sop_instance_uid));
        assert_eq!(sc.series_uid == first.series_uid, same_series);
        uids.push(sc.sop_instance_uid);
    };
    let mut findings = findings();
    findings.model_version = "2".into();
    let mut study = flagged.clone();
    study.study_uid = StudyUid::new("1.2.3").unwrap();
    let mut series = flagged.clone();
    series.series_uid = None;
    let station = Identity { station: "CT2-TRIAGE".into(), ..identity() };
    other(&flagged, &identity(), 2, true);
    other(&outcome(Verdict::Flagged(findings)), &identity(), 1, true);
    other(&not_evaluated(), &identity(), 1, true);
    other(&series, &identity(), 1, true);
    other(&study, &identity(), 1, false);
    other(&flagged, &station, 1, false);
    // Neither a box of the same name nor one that lost its database comes under these UIDs with other content.
    other(&flagged, &Identity { installation: "another".into(), ..identity() }, 1, false);
    let (source, identity) = (source(), identity());
    let later = Case {
        when: crate::DateTime { second: 10, ..crate::testing::WHEN },
        ..case(&source, None, &flagged, &identity)
    };
    let later = build(&later, &picture);
    assert!(later.sop_instance_uid != first.sop_instance_uid && later.series_uid == first.series_uid);
    // A later sending is the same object, even if what was measured is printed anew.
    assert_eq!(first.sop_instance_uid, built(&flagged, 1).0.sop_instance_uid);
}

#[test]
fn our_own_text_fits_every_character_set_and_its_vr() {
    let long = Identity { manufacturer: "Ü\\".repeat(50), station: "a".repeat(40), ..identity() };
    let flagged = outcome(Verdict::Flagged(findings()));
    let picture = render(&flagged, None, true);
    let sc = build(&case(&SourceStudy::default(), None, &flagged, &long), &picture);
    assert_eq!(text(sc.data_set(), 0x0008, 0x0070), "?".repeat(64));
    assert_eq!(text(sc.data_set(), 0x0008, 0x1010), "a".repeat(16));
}

/// The Secondary Capture of slice `index` of a series, and its picture.
fn built_slice(series: &SourceSeries, index: usize, revision: u32, outlines: bool) -> (DicomResult, Picture) {
    let labels = vec![5; series.images.len() * series.rows * series.columns];
    let masks = Masks { labels: &labels, right_lung: 1, left_lung: 2, lesion: 4 };
    let hu = vec![-700.0; series.rows * series.columns];
    let picture =
        slice_picture::render(&SliceView { series, index, hu: &hu, masks: &masks, outlines }).unwrap();
    let (source, identity, flagged) = (source(), identity(), outcome(Verdict::Flagged(findings())));
    let case = Case { revision, ..case(&source, Some(series), &flagged, &identity) };
    (slice(&case, &picture, &series.images[index], index as u32 + 1), picture)
}

#[test]
fn slices_are_one_series_in_the_order_of_the_body_and_refer_to_their_source() {
    let series = series(4, 16, 24);
    let (second, picture) = built_slice(&series, 1, 1, false);
    let set = second.data_set();
    for (group, element, want) in [
        (0x0008, 0x0008, "DERIVED\\SECONDARY\\AXIAL"),
        (0x0008, 0x103e, "Triage slices NOT FOR DIAGNOSTIC USE"),
        (0x0020, 0x0011, "9002"),
        (0x0020, 0x0013, "2"),
        (0x0020, 0x0020, "L\\P"),
    ] {
        assert_eq!(text(set, group, element), want, "({group:04x},{element:04x})");
    }
    let contains = |tag, uid: &str| value(set, tag).unwrap().windows(uid.len()).any(|w| w == uid.as_bytes());
    for tag in [Tag(0x0008, 0x2112), Tag(0x0008, 0x1115)] {
        assert!(contains(tag, &series.images[1].sop_instance_uid));
        assert!(!contains(tag, &series.images[0].sop_instance_uid));
    }
    assert!(value(set, Tag(0x7fe0, 0x0010)).unwrap() == picture.rgb);
    assert_eq!(value(set, Tag(0x0028, 0x0030)), None, "nothing to measure by");
    assert!(!text(set, 0x0008, 0x2111).contains("outlined"));
    assert!(text(built_slice(&series, 1, 1, true).0.data_set(), 0x0008, 0x2111).contains("outlined"));

    assert_eq!(second, built_slice(&series, 1, 1, false).0);
    let (third, later) = (built_slice(&series, 2, 1, false).0, built_slice(&series, 1, 2, false).0);
    assert!(third.series_uid == second.series_uid && later.series_uid == second.series_uid);
    assert!(third.sop_instance_uid != second.sop_instance_uid);
    assert!(later.sop_instance_uid != second.sop_instance_uid);
    assert_eq!(text(later.data_set(), 0x0020, 0x0013), "1002", "after all of the first revision's");
    assert_ne!(second.series_uid, built(&outcome(Verdict::Flagged(findings())), 1).0.series_uid);
}

#[test]
fn the_coronal_picture_refers_to_all_of_its_source_and_a_notice_to_none() {
    let (source, series, identity) = (source(), series(4, 16, 24), identity());
    for (outcome, want) in [(outcome(Verdict::Flagged(findings())), true), (not_evaluated(), false)] {
        let picture = render(&outcome, Some(&chest(60, 100)), false);
        let sc = build(&case(&source, Some(&series), &outcome, &identity), &picture);
        let references = value(sc.data_set(), Tag(0x0008, 0x2112));
        assert_eq!(references.is_some(), want);
        let all = |bytes: &[u8]| {
            let has = |uid: &str| bytes.windows(uid.len()).any(|w| w == uid.as_bytes());
            series.images.iter().all(|image| has(&image.sop_instance_uid))
        };
        assert!(references.is_none_or(all));
        assert!(!text(sc.data_set(), 0x0008, 0x2111).contains("colour"));
    }
}

/// Writes the files of a flagged and an unevaluated study and of slices into `folder`, with the pixels that they must
/// hold.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Picture)> {
    let series = series(4, 16, 24);
    let (source, identity, flagged) = (source(), identity(), outcome(Verdict::Flagged(findings())));
    let with_series =
        |picture: Picture| (build(&case(&source, Some(&series), &flagged, &identity), &picture), picture);
    let objects = [
        ("flagged", built(&flagged, 1)),
        ("with-series", with_series(render(&flagged, Some(&chest(60, 100)), false))),
        ("not-evaluated", built(&not_evaluated(), 1)),
        ("slice", built_slice(&series, 1, 1, false)),
        ("slice-outlined", built_slice(&series, 2, 2, true)),
    ];
    objects.into_iter().map(|(name, (sc, picture))| (write(folder, name, &sc), picture)).collect()
}

#[test]
fn dciodvfy_finds_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, _) in files(folder.path()) {
        verify(&path, "SCImage");
    }
}

/// DCMTK's converter, which consoles and viewers build on, decodes the same pixels.
#[test]
fn dcmtk_reads_the_same_pixels() {
    let folder = tempfile::tempdir().unwrap();
    for (path, picture) in files(folder.path()) {
        let ppm = path.with_extension("ppm");
        let Ok(output) = Command::new("dcm2pnm").arg("+op").arg(&path).arg(&ppm).output() else {
            return skip("dcm2pnm");
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(&ppm).unwrap();
        assert!(bytes.starts_with(b"P6"), "no colour image");
        assert!(bytes.ends_with(&picture.rgb));
    }
}

#[test]
fn pydicom_reads_the_same_pixels_and_the_name() {
    let script = "import sys, pydicom\n\
        d = pydicom.dcmread(sys.argv[1])\n\
        assert d.pixel_array.shape == (d.Rows, d.Columns, 3), d.pixel_array.shape\n\
        assert d.pixel_array.tobytes() == open(sys.argv[2], 'rb').read()\n\
        assert d.PatientName.ideographic == '\\u5c71\\u7530^\\u592a\\u90ce', d.PatientName\n\
        assert d.BurnedInAnnotation == 'NO' and d.ConversionType == 'WSD'\n";
    let folder = tempfile::tempdir().unwrap();
    for (path, picture) in files(folder.path()) {
        let pixels = path.with_extension("rgb");
        std::fs::write(&pixels, &picture.rgb).unwrap();
        python("pydicom, numpy", script, &[&path, &pixels]);
    }
}
