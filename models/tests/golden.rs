//! The whole analysis against the reference pipeline (PyTorch, SciPy): `golden.json`, written by `make_golden.py`.
//!
//! Twice: with the tiny nets beside this file (every operator, random weights), and with the weights of the zoo.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/chest.rs"]
mod chest;

use std::path::{Path, PathBuf};

use engine::{
    Analysis, AnalysisError, Analyzer, Choice, EngineError, LabelVolume, Pixels, PreparedSlice, Setup,
    SourceSlice, Zoo,
};
use serde::Deserialize;

use chest::{SHAPE, SPACING, chest};

#[derive(Deserialize)]
struct Golden {
    hu_sum: i64,
    /// Rows, columns, slices.
    r#box: [[usize; 2]; 3],
    grid: [usize; 2],
    probability: f32,
    severity: BySide,
    lung_volume_ml: BySide,
    lesion_volume_ml: BySide,
    runs: Runs,
}

#[derive(Deserialize)]
struct BySide {
    left: f64,
    right: f64,
}

#[derive(Deserialize)]
struct Runs {
    lungs: Vec<usize>,
    lesions: Vec<usize>,
    left: Vec<usize>,
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")
}

fn analyzer(zoo: &Path, threads: usize) -> Analyzer {
    Analyzer::new(Zoo::open(zoo).unwrap(), &Setup::new(Choice::Cpu, threads)).unwrap()
}

fn prepare(
    analyzer: &Analyzer,
    hu: &[f32],
    [_, rows, columns]: [usize; 3],
) -> Result<Vec<PreparedSlice>, EngineError> {
    let (row_spacing_mm, column_spacing_mm) = (SPACING.row, SPACING.column);
    let slice = |hu| {
        let pixels = Pixels::Hu(hu);
        analyzer.prepare(SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels })
    };
    hu.chunks_exact(rows * columns).map(slice).collect()
}

fn analyze(analyzer: &Analyzer, hu: &[f32], shape: [usize; 3]) -> Result<Analysis, AnalysisError> {
    analyzer.finish(&prepare(analyzer, hu, shape)?, SPACING, &|_, _| ())
}

/// Voxels in which the mask differs from its runs (lengths in memory order, outside first).
fn differing(runs: &[usize], mask: impl Iterator<Item = bool>) -> usize {
    let expected =
        runs.iter().enumerate().flat_map(|(run, &length)| std::iter::repeat_n(run % 2 == 1, length));
    let (mut voxels, mut wrong) = (0, 0);
    for (expected, got) in expected.zip(mask) {
        voxels += 1;
        wrong += usize::from(expected != got);
    }
    assert_eq!(voxels, SHAPE.iter().product::<usize>(), "the runs cover the volume");
    wrong
}

fn compare(zoo: &Path) {
    let text =
        std::fs::read_to_string(zoo.join("golden.json")).expect("each zoo has a golden: make_golden.py");
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    check_digests(zoo, &all["sha256"]);
    let golden: Golden = serde_json::from_value(all).unwrap();
    let hu = chest();
    assert_eq!(hu.iter().map(|v| *v as i64).sum::<i64>(), golden.hu_sum, "both sides make the same chest");

    let analysis = analyze(&analyzer(zoo, 2), &hu, SHAPE).unwrap();
    let [rows, columns, slices] = golden.r#box.map(|[start, stop]| start..stop);
    let found = &analysis.lung_box;
    assert_eq!((&found.rows, &found.columns, &found.slices), (&rows, &columns, &slices));
    assert_eq!(analysis.grid, [SHAPE[0], golden.grid[0], golden.grid[1]]);
    let probability = analysis.probability.unwrap();
    let error = (probability - golden.probability).abs();
    assert!(error <= 1e-3, "probability {probability} for {}", golden.probability);

    let allowed = (hu.len() as f64 * 1e-4) as usize;
    let voxels = &analysis.labels.voxels;
    for (name, runs, bits) in [
        ("lungs", &golden.runs.lungs, LabelVolume::LUNGS),
        ("left lung", &golden.runs.left, LabelVolume::LEFT_LUNG),
        ("lesions", &golden.runs.lesions, LabelVolume::LESION),
    ] {
        let wrong = differing(runs, voxels.iter().map(|label| label & bits != 0));
        println!("{name}: {wrong} of {} voxels differ, {allowed} may", hu.len());
        assert!(wrong <= allowed, "{name}: {wrong} voxels differ, {allowed} may");
    }
    println!("probability {} ± {error:e}", golden.probability);
    let lesions = analysis.lesions.unwrap();
    for (name, got, want, tolerance) in [
        ("left severity", lesions.fraction.left, golden.severity.left, 1e-3),
        ("right severity", lesions.fraction.right, golden.severity.right, 1e-3),
        (
            "left lung",
            analysis.lung_volume_ml.left,
            golden.lung_volume_ml.left,
            golden.lung_volume_ml.left * 1e-3,
        ),
        (
            "right lung",
            analysis.lung_volume_ml.right,
            golden.lung_volume_ml.right,
            golden.lung_volume_ml.right * 1e-3,
        ),
        (
            "left lesions",
            lesions.volume_ml.left,
            golden.lesion_volume_ml.left,
            golden.lung_volume_ml.left * 1e-3,
        ),
        (
            "right lesions",
            lesions.volume_ml.right,
            golden.lesion_volume_ml.right,
            golden.lung_volume_ml.right * 1e-3,
        ),
    ] {
        assert!((got - want).abs() <= tolerance, "{name}: {got} for {want}");
    }
}

/// A golden of other weights proves nothing.
fn check_digests(zoo: &Path, sha256: &serde_json::Value) {
    let zoo = Zoo::open(zoo).unwrap();
    let head = zoo.multitask.sha256.head.as_deref();
    for (file, card) in [
        ("lungs/model.onnx", Some(zoo.lungs.sha256.model.as_str())),
        ("multitask-spatial-1/model.onnx", Some(zoo.multitask.sha256.model.as_str())),
        ("multitask-spatial-1/head.onnx", head),
    ] {
        assert_eq!(sha256[file].as_str(), card, "{file}: golden of other weights; run make_golden.py");
    }
}

#[test]
fn tiny_nets_equal_the_reference() {
    compare(&tiny());
}

#[test]
fn zoo_equals_the_reference() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo");
    if zoo.join("lungs/card.toml").exists() || zoo.join("multitask-spatial-1/card.toml").exists() {
        compare(&zoo);
    } else {
        println!("skipped: no weights in models/zoo");
    }
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let hu = chest();
    let one = analyze(&analyzer(&tiny(), 1), &hu, SHAPE).unwrap();
    for threads in [2, 5] {
        let many = analyze(&analyzer(&tiny(), threads), &hu, SHAPE).unwrap();
        assert_eq!(many.probability.map(f32::to_bits), one.probability.map(f32::to_bits));
        assert_eq!(many.labels, one.labels);
        assert_eq!((many.lesions, many.lung_volume_ml), (one.lesions, one.lung_volume_ml));
    }
}

#[test]
fn progress_counts_every_slice_once() {
    let analyzer = analyzer(&tiny(), 2);
    let prepared = prepare(&analyzer, &chest(), SHAPE).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let analysis =
        analyzer.finish(&prepared, SPACING, &|done, all| seen.lock().unwrap().push((done, all))).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    let all = analysis.lung_box.slices.len();
    assert_eq!(seen, (0..=all).map(|done| (done, all)).collect::<Vec<_>>());
}

/// Volumes of one slice, one row, one column: an answer or "no lungs", no panic. The tiny nets find "lungs" in most of these.
#[test]
fn degenerate_volumes_have_an_answer() {
    let analyzer = analyzer(&tiny(), 2);
    let mut answered = 0;
    for shape in [[1, 1, 1], [1, 90, 112], [3, 1, 40], [3, 40, 1], [7, 5, 6], [2, 2, 2], [9, 3, 3]] {
        for hu in [-1024.0, -850.0, -300.0, 40.0, 3000.0] {
            let volume = vec![hu; shape.iter().product()];
            match analyze(&analyzer, &volume, shape) {
                Ok(analysis) => {
                    answered += 1;
                    assert!((0.0..=1.0).contains(&analysis.probability.unwrap()), "{shape:?} at {hu} HU");
                    assert_eq!(analysis.labels.voxels.len(), volume.len());
                }
                Err(AnalysisError::NoLungs { .. }) => {}
                Err(error) => panic!("{shape:?} at {hu} HU: {error}"),
            }
        }
    }
    assert!(answered > 0, "no degenerate volume reached the multitask net");
}

#[test]
fn refuses_what_is_no_study() {
    let analyzer = analyzer(&tiny(), 1);
    let slice = |rows, columns, mm, hu: &[f32]| {
        let spacing = (mm, mm);
        analyzer.prepare(SourceSlice {
            rows,
            columns,
            row_spacing_mm: spacing.0,
            column_spacing_mm: spacing.1,
            pixels: Pixels::Hu(hu),
        })
    };
    for (rows, columns, mm, values, message) in [
        (0, 4, 1.0, 0, "rows is 0"),
        (4, 4, 1.0, 15, "pixels of a slice is 15"),
        (4, 4, 0.0, 16, "pixel spacing of 0 mm"),
        (4, 4, f64::NAN, 16, "pixel spacing of NaN mm"),
        (1, 3000, 1.0, 3000, "columns is 3000"),
        (4, 4, 1e9, 16, "rows on the 2 mm grid is 2000000000"),
    ] {
        let error = slice(rows, columns, mm, &vec![0.0; values]).expect_err(message).to_string();
        assert!(error.contains(message), "`{error}` lacks `{message}`");
    }
    assert!(matches!(slice(2, 2, 2.0, &[f32::NAN; 4]), Err(EngineError::Input { row: 0, column: 0 })));
    let finish = |slices: &[PreparedSlice]| {
        analyzer.finish(slices, SPACING, &|_, _| ()).expect_err("no study").to_string()
    };
    assert!(finish(&[]).contains("slices is 0"));
    let mixed = [slice(4, 4, 2.0, &[0.0; 16]).unwrap(), slice(4, 5, 2.0, &[0.0; 20]).unwrap()];
    assert!(finish(&mixed).contains("slice 1 is [4, 5, 4, 5]"));
}
