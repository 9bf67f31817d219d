//! Whole networks on the CPU engine: against `rten`, against PyTorch where `rten` lacks operators, and against themselves.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use engine::cpu::probe::{Probe, instruction_sets};
use rten::{ModelOptions, RunOptions};
use rten_tensor::{AsView, NdTensor};

/// Largest difference of a logit.
const TOLERANCE: f32 = 1e-4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Smooth values in [0, 1] with some noise, as a windowed slice has.
fn slice(rows: usize, columns: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (y, x) = ((i / columns) as f32, (i % columns) as f32);
        let noise = (i as u64).wrapping_mul(2_654_435_761) % (1 << 32);
        (0.5 + 0.4 * (y / 7.0).sin() * (x / 11.0).cos() + 0.2 * (noise as f32 / 4.3e9 - 0.5)).clamp(0.0, 1.0)
    };
    (0..rows * columns).map(value).collect()
}

fn by_rten(path: &Path, input: &[f32], [rows, columns]: [usize; 2]) -> Vec<Vec<f32>> {
    let model = ModelOptions::with_all_ops().load(std::fs::read(path).unwrap()).unwrap();
    let tensor = NdTensor::from_data([1, 1, rows, columns], input.to_vec());
    let input = vec![(model.input_ids()[0], tensor.into())];
    let outputs = model.run(input, model.output_ids(), Some(RunOptions::default())).unwrap();
    outputs.into_iter().map(|output| output.into_tensor::<f32>().unwrap().to_vec()).collect()
}

fn compare(path: &Path, sizes: &[[usize; 2]]) {
    let mut probes: Vec<_> =
        instruction_sets().into_iter().map(|set| (set, Probe::load(path, set).unwrap())).collect();
    for &[rows, columns] in sizes {
        let input = slice(rows, columns);
        let expected = by_rten(path, &input, [rows, columns]);
        for (set, probe) in &mut probes {
            let got = probe.run(&input, [1, rows, columns]).unwrap();
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got.len(), expected.len());
                let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
                assert!(worst <= TOLERANCE, "{}: {rows} x {columns} on {set}: {worst:e}", path.display());
            }
        }
    }
}

#[test]
fn tiny_nets_equal_rten() {
    let sizes = [
        [1, 1],
        [1, 31],
        [17, 1],
        [2, 2],
        [7, 8],
        [15, 16],
        [31, 17],
        [33, 64],
        [65, 63],
        [64, 128],
        [90, 112],
        [129, 97],
        [180, 181],
    ];
    for net in ["lungs", "multitask-spatial-1"] {
        compare(&root().join("tests/tiny").join(net).join("model.onnx"), &sizes);
    }
}

#[test]
fn the_zoo_equals_rten() {
    let zoo = root().join("zoo");
    compare(&zoo.join("lungs/model.onnx"), &[[180, 180], [97, 131], [256, 255]]);
    compare(&zoo.join("multitask-spatial-1/model.onnx"), &[[110, 150], [61, 93]]);
}

#[test]
fn the_same_bits_again_and_after_other_sizes() {
    let path = root().join("tests/tiny/multitask-spatial-1/model.onnx");
    for set in instruction_sets() {
        let mut probe = Probe::load(&path, set).unwrap();
        let sizes = [[90, 112], [33, 31], [200, 180], [7, 5], [91, 111], [90, 112], [33, 31], [200, 180]];
        let mut seen = std::collections::HashMap::new();
        for [rows, columns] in sizes {
            let outputs = probe.run(&slice(rows, columns), [1, rows, columns]).unwrap();
            let bits: Vec<u32> = outputs.iter().flatten().map(|v| v.to_bits()).collect();
            let fresh =
                Probe::load(&path, set).unwrap().run(&slice(rows, columns), [1, rows, columns]).unwrap();
            let fresh: Vec<u32> = fresh.iter().flatten().map(|v| v.to_bits()).collect();
            assert_eq!(bits, fresh, "{set}: {rows} x {columns} after others");
            assert_eq!(*seen.entry([rows, columns]).or_insert_with(|| bits.clone()), bits, "{set}: repeated");
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let path = root().join("tests/tiny/lungs/model.onnx");
    for set in instruction_sets() {
        let mut input = slice(40, 40);
        input[777] = f32::NAN;
        let outputs = Probe::load(&path, set).unwrap().run(&input, [1, 40, 40]).unwrap();
        assert!(outputs[0].iter().any(|v| v.is_nan()), "{set}: NaN vanished on the way");
    }
}

/// The 3-D U-Net and the ResNet50 of the paper's Table 2, small: exported by PyTorch, with its results (`make_nets.py`).
#[test]
fn small_nets_of_table_2_equal_pytorch() {
    for (name, dims) in [("unet3d", [8, 20, 24]), ("resnet", [1, 70, 61])] {
        let folder = root().join("tests/nets");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let golden: Vec<f32> = serde_json::from_str(&text).unwrap();
        for set in instruction_sets() {
            let mut probe = Probe::load(&folder.join(format!("{name}.onnx")), set).unwrap();
            let voxels: usize = dims.iter().product();
            // The same integers as in make_nets.py.
            let input: Vec<f32> = (0..voxels).map(|i| ((i * 7919 + 13) % 1009) as f32 / 1009.0).collect();
            let got = &probe.run(&input, dims).unwrap()[0];
            // Every seventh value is kept.
            let kept: Vec<f32> = got.iter().copied().step_by(7).collect();
            assert_eq!(kept.len(), golden.len(), "{name}");
            let worst = kept.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
            assert!(worst <= TOLERANCE, "{name} on {set}: {worst:e}");
        }
    }
}

/// The larger difference; what is no number is the worst.
fn worse(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}
