//! Files with random faults.

use std::time::{Duration, Instant};

use engine::cpu::probe::{Probe, instruction_sets};

use crate::BYTES_MAX;
use crate::build::*;
use crate::memory::peak;
use crate::support::{Attribute, Data, File, Noise};

/// Every operator once or more; few weights, so that faults hit what matters.
fn everything(f: &mut File) -> String {
    let x = plain(f);
    let pre = norm(f, &x, [0.5, 0.25, -1.0, 2.0], vec![("epsilon", Attribute::Float(1e-5))]);
    let pre = f.node("Relu", &[&pre], vec![]);
    let w = f.tensor(&[4, 4, 1, 1], f16(exact(16)));
    let w = f.node("Cast", &[&w], vec![("to", Attribute::Int(1))]);
    let y = f.node("Conv", &[&pre, &w], vec![("strides", ints(&[1, 1])), ("group", Attribute::Int(1))]);
    let skip = f.node("Add", &[&y, &x], vec![]);
    let window = vec![
        ("kernel_shape", ints(&[2, 2])),
        ("strides", ints(&[2, 2])),
        ("pads", ints(&[0, 0, 1, 1])),
        ("ceil_mode", Attribute::Int(1)),
    ];
    let low = f.node("MaxPool", &[&skip], window);
    let shape = f.node("Shape", &[&skip], vec![]);
    let up = f.node("Resize", &[&low, "", "", &shape], vec![("mode", Attribute::Text("linear"))]);
    let twice = resize(f, &skip, &[1.0, 1.0, 2.0, 1.5], vec![]);
    let joined = f.node("Concat", &[&up, &skip], vec![("axis", Attribute::Int(1))]);
    let joined = f.node("Dropout", &[&joined], vec![]);
    let w = f.tensor(&[3, 8, 3, 1], bf16(exact(72)));
    let last = f.node("Conv", &[&joined, &w], vec![("pads", ints(&[1, 0, 1, 0]))]);
    let a = f.node("GlobalAveragePool", &[&last], vec![]);
    let b = f.node("GlobalMaxPool", &[&twice], vec![]);
    let (a, b) =
        (f.node("Flatten", &[&a], vec![("axis", Attribute::Int(1))]), f.node("Flatten", &[&b], vec![]));
    let (w, v) = (f.tensor(&[2, 3], Data::F32(exact(6))), f.tensor(&[4, 2], Data::F32(exact(8))));
    let a = f.node("Gemm", &[&a, &w], vec![("transB", Attribute::Int(1))]);
    let b = f.node("Gemm", &[&b, &v], vec![("alpha", Attribute::Float(1.0))]);
    f.node("Add", &[&a, &b], vec![])
}

/// A file with some faults.
fn damaged(file: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut out = file.to_vec();
    for _ in 0..=noise.below(3) {
        let at = noise.below(out.len());
        let some = 1 + noise.below(8);
        match noise.below(12) {
            0 => out.truncate(at.max(1)),
            1 => drop(out.drain(at..(at + some).min(out.len()))),
            2 => drop(out.splice(at..at, (0..some).map(|_| 0xff))),
            3 => {
                let from = noise.below(out.len());
                let copy = out[from..(from + 4 * some).min(out.len())].to_vec();
                let end = (at + copy.len()).min(out.len());
                out.splice(at..end, copy);
            }
            4..7 => out[at] ^= 1 << noise.below(8),
            7..9 => out[at] = noise.pick(&[0, 1, 2, 3, 4, 5, 7, 8, 16, 0x7f, 0x80, 0xff]),
            _ => out[at] = out[at].wrapping_add(noise.pick(&[1, 0xff])),
        }
        if out.is_empty() {
            break;
        }
    }
    out
}

/// Faults that are always the same. `TRIAGED_FUZZ_ROUNDS` asks for more than a test's time allows.
#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn damaged_files_cost_neither_memory_nor_time() {
    let asked = std::env::var("TRIAGED_FUZZ_ROUNDS").ok().map(|rounds| rounds.parse().unwrap());
    let rounds: usize = asked.unwrap_or(6000);
    let set = instruction_sets()[0];
    let small = {
        let mut file = File::default();
        let output = everything(&mut file);
        file.bytes(4, &[&output, "v5"])
    };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let volume = std::fs::read(folder.join("nets/unet3d.onnx")).unwrap();
    let (two, three) = ([1, 9, 11], [4, 6, 8]);
    let mut noise = Noise(2026);
    let input = noise.values(4 * 6 * 8);
    let (mut read, mut run) = (0, 0);
    for round in 0..rounds {
        let (file, dims) = if round % 8 == 0 { (&volume, three) } else { (&small, two) };
        let bytes = damaged(file, &mut noise);
        let start = Instant::now();
        let (probe, allocated) = peak(|| Probe::new(&bytes, set));
        assert!(allocated < BYTES_MAX, "round {round}: {allocated} bytes to load, {:?}", probe.err());
        let Ok(mut probe) = probe else { continue };
        read += 1;
        let input = &input[..dims.iter().product()];
        let (outputs, allocated) = peak(|| probe.run(input, dims));
        assert!(allocated < BYTES_MAX, "round {round}: {allocated} bytes to run");
        run += usize::from(outputs.is_ok());
        assert!(start.elapsed() < Duration::from_secs(20), "round {round}: {:?}", start.elapsed());
    }
    println!("of {rounds} damaged files, {read} were read and {run} run");
    assert!(read > rounds / 50 && read < rounds, "{read} of {rounds}: the faults are too grave or too light");
}

#[test]
fn every_shortened_file_is_refused() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny/multitask-spatial-1/model.onnx");
    let bytes = std::fs::read(path).unwrap();
    assert!(Probe::new(&bytes, "portable").is_ok());
    // The version of the operators is the file's last field.
    for len in (0..bytes.len() - 1).step_by(if cfg!(miri) { 9973 } else { 97 }) {
        assert!(Probe::new(&bytes[..len], "portable").is_err(), "a graph cut at {len} is no graph");
    }
}
