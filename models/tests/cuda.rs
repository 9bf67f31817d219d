//! The cuda engine on the software device against the CPU engine: single networks, and a whole study.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/chest.rs"]
mod chest;
mod support;

use std::path::{Path, PathBuf};

use engine::cpu::probe::{Probe as Cpu, instruction_sets};
use engine::cuda::{self, Precision, probe::Probe};
use engine::{Analysis, Analyzer, Choice, Engines, LabelVolume, Pixels, Setup, SourceSlice, Zoo};
use kernels::device::Device;

use chest::{SHAPE, SPACING, chest};
use support::{Attribute, Data, File};

const MEMORY_MAX: u64 = 1 << 30;

/// The software device, or a line that says why not.
fn device() -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, MEMORY_MAX).unwrap()),
        Err(skipped) => {
            println!("{skipped}");
            None
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The networks of a zoo.
fn nets(zoo: &str) -> [PathBuf; 2] {
    let zoo = root().join(zoo);
    [zoo.join("lungs/model.onnx"), zoo.join("multitask-spatial-1/model.onnx")]
}

/// Smooth values in [0, 1] with some noise, as windowed slices have.
fn slices([count, rows, columns]: [usize; 3]) -> Vec<f32> {
    let value = |i: usize| {
        let (y, x) = ((i / columns) as f32, (i % columns) as f32);
        let noise = (i as u64).wrapping_mul(2_654_435_761) % (1 << 32);
        (0.5 + 0.4 * (y / 7.0).sin() * (x / 11.0).cos() + 0.2 * (noise as f32 / 4.3e9 - 0.5)).clamp(0.0, 1.0)
    };
    (0..count * rows * columns).map(value).collect()
}

/// Every output of each slice, by the CPU engine.
fn by_cpu(path: &Path, input: &[f32], [_, rows, columns]: [usize; 3]) -> Vec<Vec<f32>> {
    let mut probe = Cpu::load(path, instruction_sets()[0]).unwrap();
    let mut outputs: Vec<Vec<f32>> = Vec::new();
    for slice in input.chunks_exact(rows * columns) {
        let each = probe.run(slice, [1, rows, columns]).unwrap();
        outputs.resize(each.len(), Vec::new());
        outputs.iter_mut().zip(each).for_each(|(all, slice)| all.extend(slice));
    }
    outputs
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // What is no number is worst of all.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |all: f32, e| if e <= all { all } else { e })
}

/// Runs a network in both precisions; `bounds` are for outputs relative to their largest value.
fn compare(device: &Device, path: &Path, shape: [usize; 3], bounds: [f32; 2]) {
    let input = slices(shape);
    let expected = by_cpu(path, &input, shape);
    let bytes = std::fs::read(path).unwrap();
    for (precision, bound) in [Precision::Single, Precision::Half].into_iter().zip(bounds) {
        let mut probe = Probe::new(&bytes, device, precision, true).unwrap();
        let got = probe.run(&input, shape).unwrap();
        assert_eq!(got.len(), expected.len());
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let largest = expected.iter().fold(0.0_f32, |all, v| all.max(v.abs()));
            let error = worst(got, expected);
            let probability = |v: f32| 1.0 / (1.0 + (-v).exp());
            let probabilities =
                [got, expected].map(|all| all.iter().map(|v| probability(*v)).collect::<Vec<_>>());
            println!(
                "{}, {shape:?}, {precision:?}, output {at}: {error:.1e} of {largest:.1}, as probability {:.1e}; arena {} KiB",
                path.display(),
                worst(&probabilities[0], &probabilities[1]),
                probe.arena_bytes() >> 10
            );
            assert!(error <= bound * largest.max(1.0), "{precision:?}, output {at}: {error:e} of {largest}");
        }
    }
}

#[test]
fn tiny_nets_are_the_cpu_engines() {
    let Some(device) = device() else { return };
    for path in nets("tests/tiny") {
        for shape in [[1, 1, 1], [2, 7, 8], [1, 31, 15], [3, 16, 50], [1, 9, 101]] {
            compare(&device, &path, shape, [1e-5, 1e-2]);
        }
    }
}

#[test]
fn zoo_nets_are_the_cpu_engines() {
    let Some(device) = device() else { return };
    for path in nets("zoo") {
        for shape in [[2, 40, 48], [1, 37, 51]] {
            compare(&device, &path, shape, [1e-5, 1e-2]);
        }
    }
}

/// The third run of a size is a graph's, and the same to the bit; so is a slice in any batch.
#[test]
fn graphs_and_batches_change_no_bit() {
    let Some(device) = device() else { return };
    let bytes = std::fs::read(&nets("zoo")[1]).unwrap();
    let shape = [3, 24, 40];
    let input = slices(shape);
    let bits = |all: Vec<Vec<f32>>| -> Vec<Vec<u32>> {
        all.into_iter().map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
    };
    for precision in [Precision::Half, Precision::Single] {
        let mut direct = Probe::new(&bytes, &device, precision, false).unwrap();
        let mut graphs = Probe::new(&bytes, &device, precision, true).unwrap();
        let expected = bits(direct.run(&input, shape).unwrap());
        for _ in 0..3 {
            assert_eq!(bits(graphs.run(&input, shape).unwrap()), expected);
        }
        assert_eq!((direct.replays(), graphs.replays()), (0, 2));
        for slice in 0..shape[0] {
            let alone = &input[slice * 24 * 40..][..24 * 40];
            let alone = bits(direct.run(alone, [1, 24, 40]).unwrap());
            for (alone, all) in alone.iter().zip(&expected) {
                assert!(
                    alone[..] == all[slice * alone.len()..][..alone.len()],
                    "{precision:?}, slice {slice}"
                );
            }
        }
    }
}

/// A layer that no kernel knows is refused at load, by the node's name.
#[test]
fn what_no_kernel_knows_is_refused_by_name() {
    let Some(device) = device() else { return };
    let square = |size: i64, pad: i64, stride: i64| {
        vec![
            ("kernel_shape", Attribute::Ints(vec![size; 2])),
            ("pads", Attribute::Ints(vec![pad; 4])),
            ("strides", Attribute::Ints(vec![stride; 2])),
        ]
    };
    let conv = |file: &mut File, from: &str, channels: [usize; 2], size: usize, pad: i64, stride: i64| {
        let dims = [channels[1], channels[0], size, size];
        let weights = file.tensor(&dims, Data::F32(vec![0.1; dims.iter().product()]));
        file.node("Conv", &[from, &weights], square(size as i64, pad, stride))
    };
    for (what, size, pad, stride) in [("7 x 7", 7, 3, 1), ("a step of 2", 3, 1, 2), ("no padding", 3, 0, 1)] {
        let mut file = File::default();
        let first = conv(&mut file, "x", [1, 8], 3, 1, 1);
        let node = conv(&mut file, &first, [8, 8], size, pad, stride);
        let error = Probe::new(&file.bytes(4, &[&node]), &device, Precision::Half, true).err().unwrap();
        assert!(error.contains(&format!("node {node}")) && error.contains("Conv"), "{what}: {error}");
    }
    let mut file = File::default();
    let node = conv(&mut file, "x", [1, 8], 1, 0, 1);
    let error = Probe::new(&file.bytes(4, &[&node]), &device, Precision::Half, true).err().unwrap();
    assert!(error.contains("the first is 3 x 3 of one"), "{error}");
}

fn analyze(analyzer: &Analyzer) -> Analysis {
    let [_, rows, columns] = SHAPE;
    let hu = chest();
    let prepare = |hu| {
        let slice = SourceSlice {
            rows,
            columns,
            row_spacing_mm: SPACING.row,
            column_spacing_mm: SPACING.column,
            pixels: Pixels::Hu(hu),
        };
        analyzer.prepare(slice).unwrap()
    };
    let prepared: Vec<_> = hu.chunks_exact(rows * columns).map(prepare).collect();
    analyzer.finish(&prepared, SPACING, &|_, _| ()).unwrap()
}

fn dice(a: &LabelVolume, b: &LabelVolume, bits: u8) -> f64 {
    let count = |labels: &LabelVolume| labels.voxels.iter().filter(|v| **v & bits != 0).count();
    let both = a.voxels.iter().zip(&b.voxels).filter(|(a, b)| **a & **b & bits != 0).count();
    assert!(count(b) > 0, "nothing to compare");
    2.0 * both as f64 / (count(a) + count(b)) as f64
}

/// The bounds that every engine must keep: probability 0.01, severity 0.5 percentage points, Dice of the lesions 0.995.
#[test]
fn a_study_is_the_cpu_engines() {
    let Some(device) = device() else { return };
    let zoo = || Zoo::open(&root().join("zoo")).unwrap();
    let expected = analyze(&Analyzer::new(zoo(), &Setup::new(Choice::Cpu, 2)).unwrap());
    for precision in [Precision::Half, Precision::Single] {
        let backend = cuda::open(&zoo(), &device, 1, precision).unwrap();
        let analyzer = Analyzer::with_engines(zoo(), Engines::new(vec![backend], Vec::new()), 1);
        let got = analyze(&analyzer);
        let lesions = dice(&got.labels, &expected.labels, LabelVolume::LESION);
        let lungs = dice(&got.labels, &expected.labels, LabelVolume::LUNGS);
        println!(
            "{precision:?}: probability {:?} for {:?}, lesions {:?} for {:?}, Dice of lesions {lesions:.5}, of lungs {lungs:.5}",
            got.probability, expected.probability, got.lesions, expected.lesions
        );
        assert_eq!(analyzer.engines().status()[0].falls, 0);
        assert!((got.probability.unwrap() - expected.probability.unwrap()).abs() <= 0.01);
        let [ours, theirs] = [&got, &expected].map(|analysis| analysis.lesions.unwrap().fraction);
        for (got, expected) in [(ours.left, theirs.left), (ours.right, theirs.right)] {
            assert!((got - expected).abs() <= 0.005, "severity {got} for {expected}");
        }
        assert!(lesions >= 0.995 && lungs >= 0.995, "Dice {lesions} and {lungs}");
    }
}
