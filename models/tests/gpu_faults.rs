//! A GPU that fails in the middle of a study, on the software device: the study is finished by the next engine. One test, because faults are
//! the whole process's.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use engine::cpu::CpuBackend;
use engine::cuda::{self, Precision};
use engine::{Analysis, Analyzer, EngineState, Engines, Pixels, PreparedSlice, SourceSlice, SpacingMm, Zoo};
use kernels::shim::fail_after;

const SHAPE: [usize; 3] = [9, 60, 72];
const SPACING: SpacingMm = SpacingMm { slice: 7.5, row: 2.9, column: 2.4 };

/// CUDA's codes: out of memory (once), an ECC error, a failed launch.
const CODES: [i32; 3] = [2, 214, 719];

fn zoo() -> Zoo {
    Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")).unwrap()
}

fn with_gpu() -> Analyzer {
    let zoo = zoo();
    let gpu = cuda::open(&zoo, 0, 2, 1 << 30, Precision::Single).unwrap();
    let cpu = Box::new(CpuBackend::load(&zoo, 2).unwrap());
    Analyzer::with_engines(zoo, Engines::new(vec![gpu, cpu], Vec::new()), 2)
}

fn prepare(analyzer: &Analyzer) -> Vec<PreparedSlice> {
    let [slices, rows, columns] = SHAPE;
    let plane = |slice: usize| {
        let value = |at: usize| {
            let index = (slice * rows * columns + at) as u64;
            (index * 2_654_435_761 % (1 << 32)) as f32 / 4.3e6 - 900.0 + 20.0 * (at % columns) as f32 / 7.0
        };
        (0..rows * columns).map(value).collect::<Vec<f32>>()
    };
    let prepare = |slice| {
        let hu = plane(slice);
        let (row_spacing_mm, column_spacing_mm) = (SPACING.row, SPACING.column);
        let pixels = Pixels::Hu(&hu);
        analyzer.prepare(SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels }).unwrap()
    };
    (0..slices).map(prepare).collect()
}

fn finish(analyzer: &Analyzer, slices: &[PreparedSlice]) -> Analysis {
    analyzer.finish(slices, SPACING, &|_, _| ()).unwrap()
}

fn assert_same(got: &Analysis, expected: &Analysis, what: &str) {
    assert!((got.probability.unwrap() - expected.probability.unwrap()).abs() <= 0.01, "{what}");
    let both = got.labels.voxels.iter().zip(&expected.labels.voxels);
    let differing = both.filter(|(got, expected)| got != expected).count();
    assert!(differing * 1000 <= got.labels.voxels.len(), "{what}: {differing} voxels differ");
}

#[test]
fn a_study_is_finished_whatever_the_gpu_does() {
    if let Err(skipped) = kernels::shim::load() {
        println!("{skipped}");
        return;
    }
    let healthy = with_gpu();
    let slices = prepare(&healthy);
    let expected = finish(&healthy, &slices);
    assert_eq!(expected.engine, "cuda");
    for code in CODES {
        // In the middle of the multitask net.
        let analyzer = with_gpu();
        fail_after(20, code);
        let fallen = finish(&analyzer, &slices);
        assert_eq!(fallen.engine, "cpu (cuda failed)", "{code}");
        assert_same(&fallen, &expected, "fallen");
        // Out of memory is not the end of a GPU; the others are.
        let next = finish(&analyzer, &slices);
        let status = analyzer.engines().status().remove(0);
        assert_eq!((status.name, status.falls), ("cuda", 1), "{code}");
        if code == 2 {
            assert_eq!((next.engine.as_str(), status.state), ("cuda", EngineState::Ready));
        } else {
            assert_eq!(next.engine, "cpu");
            assert!(matches!(status.state, EngineState::Out { .. }), "{code}: {status:?}");
        }
        assert_same(&next, &expected, "the next study");
        fail_after(0, 0);

        // In the middle of the reception: a slice is prepared by either.
        let analyzer = with_gpu();
        fail_after(40, code);
        let slices = prepare(&analyzer);
        fail_after(0, 0);
        assert_eq!(analyzer.engines().status()[0].falls, 1, "{code}");
        assert_same(&finish(&analyzer, &slices), &expected, "fallen on the way");
    }
}
