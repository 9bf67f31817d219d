//! Tests of the phantom as a whole: its truth, its geometry, its files.

use super::series::SeriesError;
use super::*;
use dicom_dictionary_std::tags;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn spec(slices: usize, size: usize, left_percent: f64, right_percent: f64, seed: u64) -> PhantomSpec {
    PhantomSpec { slices, size, left_percent, right_percent, seed }
}

fn digest(slice: &Slice) -> String {
    let mut hash = Sha256::new();
    slice.hu.iter().for_each(|v| hash.update(v.to_le_bytes()));
    hash.update(&slice.labels);
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Truth of a slice, without making the picture.
fn truth_slice(phantom: &Phantom, k: usize) -> Vec<u8> {
    let section = phantom.section(k);
    let grid = phantom.grid();
    let field = Field::new(&phantom.style, section.depth);
    let mut labels = vec![0u8; grid.size * grid.size];
    phantom.each_lung_pixel(&section, &grid, |i, x, y, inside| {
        labels[i] = phantom.label(x, field.at(&section, x, y, inside));
    });
    labels
}

/// Voxels of the right and the left lung, and how many of them are diseased.
fn count(phantom: &Phantom) -> [[f64; 2]; 2] {
    let mut counts = [[0.0; 2]; 2];
    for k in 0..phantom.spec().slices {
        for label in truth_slice(phantom, k).into_iter().filter(|&l| l != 0) {
            let side = usize::from(label & LEFT_LUNG != 0);
            counts[side][0] += 1.0;
            counts[side][1] += f64::from(u8::from(label & LESION != 0));
        }
    }
    counts
}

#[test]
fn a_seed_gives_the_same_voxels_everywhere() {
    // The digests were taken once, on x86-64 in release. Another value on another machine or in another profile is a
    // defect; after a deliberate change of the picture, take them anew.
    for (seed, k, expected) in [(1, 20, "c509c61596ad95cc"), (77, 31, "a31c0fc9dd3b7716")] {
        let phantom = Phantom::new(&spec(48, 128, 25.0, 40.0, seed)).unwrap();
        let first = digest(&phantom.slice(k));
        phantom.slice(k - 1);
        assert_eq!(first, digest(&phantom.slice(k)), "seed {seed}: a slice depends on those made before");
        assert_eq!(first, expected, "seed {seed} slice {k}");
    }
}

#[test]
fn threads_do_not_change_the_lesions() {
    let phantom = Phantom::new(&spec(24, 96, 25.0, 40.0, 5)).unwrap();
    let [one, five] = [1, 5].map(|threads| phantom.lesion_field(threads));
    for side in 0..2 {
        for percent in [3.0, 25.0, 90.0] {
            let style = &phantom.style;
            assert_eq!(one[side].levels(style, percent), five[side].levels(style, percent));
        }
    }
}

#[test]
fn lesions_take_the_asked_share_of_each_lung() {
    for (left, right, seed) in
        [(0.0, 10.0, 1), (10.0, 0.0, 2), (30.0, 60.0, 3), (60.0, 30.0, 4), (80.0, 80.0, 5), (100.0, 0.5, 6)]
    {
        let phantom = Phantom::new(&spec(40, 128, left, right, seed)).unwrap();
        let [[right_lung, right_lesion], [left_lung, left_lesion]] = count(&phantom);
        let found = [100.0 * left_lesion / left_lung, 100.0 * right_lesion / right_lung];
        assert!(
            (found[0] - left).abs() < 0.3,
            "seed {seed}: left {left} % asked for, {:.2} % made",
            found[0]
        );
        assert!(
            (found[1] - right).abs() < 0.3,
            "seed {seed}: right {right} % asked for, {:.2} % made",
            found[1]
        );
    }
}

#[test]
fn lungs_lie_inside_the_scan_and_have_human_volumes() {
    for seed in 0..12 {
        for (slices, size) in [(8, 64), (60, 128)] {
            let phantom = Phantom::new(&spec(slices, size, 20.0, 20.0, seed)).unwrap();
            let margin = (slices / 20).max(1);
            for k in 0..slices {
                let labels = truth_slice(&phantom, k);
                let any = labels.iter().any(|&l| l != 0);
                assert!(
                    !any || (margin..slices - margin).contains(&k),
                    "seed {seed}: lung in slice {k} of {slices}"
                );
                for (i, _) in labels.iter().enumerate().filter(|(_, l)| **l != 0) {
                    let (row, column) = (i / size, i % size);
                    let inner = 3..size - 3;
                    assert!(
                        inner.contains(&row) && inner.contains(&column),
                        "seed {seed}: lung at the border"
                    );
                }
            }
            if slices == 60 {
                let [right, left] = count(&phantom).map(|side| side[0] * phantom.spacing().voxel_ml());
                assert!((900.0..3500.0).contains(&left), "seed {seed}: left lung {left:.0} ml");
                assert!(
                    (1.02..1.6).contains(&(right / left)),
                    "seed {seed}: right {right:.0} ml, left {left:.0} ml"
                );
            }
        }
    }
}

#[test]
fn tissues_have_their_hu() {
    let phantom = Phantom::new(&spec(40, 256, 40.0, 0.0, 9)).unwrap();
    let (mut healthy, mut diseased) = (Vec::new(), Vec::new());
    for k in (0..40).step_by(3) {
        let Slice { hu, labels } = phantom.slice(k);
        assert_eq!(labels, truth_slice(&phantom, k), "slice {k}: picture and truth disagree");
        assert!(hu[..256].iter().all(|v| (-1024..-900).contains(v)), "slice {k}: first row is not air");
        assert!(hu.iter().any(|&v| v > 400), "slice {k}: no bone");
        for (v, label) in hu.into_iter().zip(labels) {
            match label {
                RIGHT_LUNG => healthy.push(v),
                l if l == LEFT_LUNG + LESION => diseased.push(v),
                _ => {}
            }
        }
    }
    for (name, values, low, high) in
        [("lung", &mut healthy, -910, -800), ("lesion", &mut diseased, -680, -350)]
    {
        values.sort_unstable();
        let median = values[values.len() / 2];
        assert!((low..high).contains(&median), "{name}: median {median} HU");
    }
}

#[test]
fn patients_differ_with_the_seed() {
    let spacings: BTreeSet<String> = (0..8)
        .map(|seed| format!("{:?}", Phantom::new(&spec(8, 64, 0.0, 0.0, seed)).unwrap().spacing()))
        .collect();
    assert!(spacings.len() > 5, "{spacings:?}");
}

#[test]
fn bad_requests_are_refused_with_their_values() {
    for (request, words) in [
        (spec(7, 512, 0.0, 0.0, 1), "7 slices"),
        (spec(2001, 512, 0.0, 0.0, 1), "2001 slices"),
        (spec(8, 63, 0.0, 0.0, 1), "63 columns"),
        (spec(8, 1025, 0.0, 0.0, 1), "1025 columns"),
        (spec(8, 64, -1.0, 0.0, 1), "-1 % of the left lung"),
        (spec(8, 64, 0.0, 100.5, 1), "100.5 % of the right lung"),
        (spec(8, 64, f64::NAN, 0.0, 1), "NaN % of the left lung"),
    ] {
        let error = Phantom::new(&request).err().expect("refused").to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn the_series_is_written_with_its_geometry_and_truth() {
    let dir = tempfile::tempdir().unwrap();
    let phantom = Phantom::new(&spec(12, 64, 30.0, 10.0, 4)).unwrap();
    let truth = write_series(&phantom, dir.path(), || {}).unwrap();
    let spacing = phantom.spacing();
    assert_eq!(spacing.slice_mm, 10.0, "12 slices over 300 mm are held at 10 mm");
    let mut uids = BTreeSet::new();
    for k in 0..12 {
        let path = dir.path().join(format!("IM{:04}.dcm", k + 1));
        let object = dicom_object::open_file(&path).unwrap();
        let numbers = |tag| object.element(tag).unwrap().to_multi_float64().unwrap();
        assert_eq!(numbers(tags::IMAGE_POSITION_PATIENT)[2], -(k as f64) * spacing.slice_mm);
        assert_eq!(numbers(tags::PIXEL_SPACING), [spacing.row_mm, spacing.column_mm]);
        let stored = object.element(tags::PIXEL_DATA).unwrap().to_multi_int::<i32>().unwrap();
        let hu: Vec<i16> = stored.iter().map(|&v| (v - 1024) as i16).collect();
        assert_eq!(hu, phantom.slice(k).hu, "slice {k}");
        let uid = object.element(tags::SOP_INSTANCE_UID).unwrap().to_str().unwrap().into_owned();
        assert!(uid.len() <= 64 && uid.starts_with("2.25."), "{uid}");
        uids.insert(uid);
        assert_eq!(object.element(tags::SERIES_INSTANCE_UID).unwrap().to_str().unwrap(), truth.series_uid);
    }
    assert_eq!(uids.len(), 12);
    let labels = std::fs::read(dir.path().join("truth/labels.npy")).unwrap();
    let header = labels.len() - 12 * 64 * 64;
    assert_eq!(header % 64, 0, "a NumPy header is padded to 64 bytes");
    assert_eq!(labels[header + 5 * 4096..header + 6 * 4096], truth_slice(&phantom, 5));
    let [[right, _], [left, lesion]] = count(&phantom);
    assert!((truth.lung_volume_ml.left - left * spacing.voxel_ml()).abs() < 1e-6);
    assert!((truth.lung_volume_ml.right - right * spacing.voxel_ml()).abs() < 1e-6);
    assert!((truth.lesion_fraction.left - lesion / left).abs() < 1e-9);
    let again = write_series(&phantom, dir.path(), || {}).unwrap_err();
    assert!(matches!(again, SeriesError::NotEmpty(_)), "{again}");
}

#[test]
fn dciodvfy_finds_no_error() {
    let dir = tempfile::tempdir().unwrap();
    write_series(&Phantom::new(&spec(9, 64, 30.0, 10.0, 4)).unwrap(), dir.path(), || {}).unwrap();
    for k in [1, 5, 9] {
        let path = dir.path().join(format!("IM{k:04}.dcm"));
        let Some(report) = dciodvfy(&path) else {
            println!("skipped: no dciodvfy");
            return;
        };
        assert!(report.contains("CTImage"), "not checked as a CT image: {report}");
        assert!(!report.contains("Error"), "{report}");
    }
}

fn dciodvfy(path: &Path) -> Option<String> {
    let output = Command::new("dciodvfy").arg(path).output().ok()?;
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
