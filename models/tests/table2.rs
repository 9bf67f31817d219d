//! The other nets of the paper's Table 2 at full size, the 3-D U-Net and ResNet50, against ONNX Runtime on the same file and input.
//!
//! Weights are random (`nets/full.py`): the nets prove operators, sizes and accuracy, not findings. `TRIAGED_PYTHON` names a Python with
//! PyTorch, ONNX and ONNX Runtime. A whole patch of 160³ takes half a minute more, and some GiB for ONNX Runtime:
//! `cargo test --release -p engine --test table2 -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use engine::cpu::probe::{Probe, instruction_sets};
use nix::time::{ClockId, clock_gettime};

/// Largest difference, as a part of the largest magnitude: both engines add the same products in another order.
const TOLERANCE: f32 = 1e-4;

fn python() -> String {
    std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Says what is missing, if something is; that fails where peers are required.
fn has_peer() -> bool {
    let found = Command::new(python()).args(["-c", "import onnx, onnxruntime, torch"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no Python with torch, onnx, onnxruntime");
    println!("skipped: no Python with torch, onnx, onnxruntime");
    false
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// A result and the processor time that it took this thread.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let start = now();
    let result = work();
    (result, now() - start)
}

/// Compares all outputs; `axes` has the sizes of the input without batch, `dims` the same as depth, height, width.
fn compare(net: &str, axes: &[usize], dims: [usize; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nets/full.py");
    let sizes = std::iter::once(&1).chain(axes).map(usize::to_string);
    let made = Command::new(python()).arg(script).arg(net).arg(folder.path()).args(sizes).output().unwrap();
    assert!(made.status.success(), "{net}: {}", String::from_utf8_lossy(&made.stderr));
    print!("{}", String::from_utf8_lossy(&made.stdout));
    let (input, expected) =
        (floats(&folder.path().join("input.f32")), floats(&folder.path().join("output.f32")));
    let largest = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(largest.is_finite() && largest > 0.1, "{net}: a largest value of {largest} proves nothing");
    let set = instruction_sets()[0];
    let (mut probe, loading) = timed(|| Probe::load(&folder.path().join("model.onnx"), set).unwrap());
    let (got, first) = timed(|| probe.run(&input, dims).unwrap().remove(0));
    let (repeated, again) = timed(|| probe.run(&input, dims).unwrap().remove(0));
    assert_eq!(repeated, got, "{net}: repeated");
    let bytes = probe.workspace_bytes();
    assert_eq!(got.len(), expected.len(), "{net}");
    let worse = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, worse) / largest;
    println!(
        "{net} {axes:?} on {set}, processor time: loaded in {loading:.2?}, run in {first:.2?}, again in {again:.2?}, {} MiB of \
         activations; differs by {worst:.1e} of {largest:.3}",
        bytes >> 20
    );
    assert!(worst <= TOLERANCE, "{net}: {worst:e} of {largest}");
}

#[test]
fn resnet50_and_its_head_equal_onnxruntime() {
    if has_peer() {
        // A crop around the lungs on the 2 mm grid; the features of all slices, pooled.
        compare("resnet50", &[1, 150, 190], [1, 150, 190]);
        compare("series-head", &[15_000], [1, 1, 1]);
    }
}

#[test]
fn the_3d_u_net_equals_onnxruntime() {
    if has_peer() {
        // Not a power of two: the last level has 2 × 1 × 2 voxels, and half of the levels are odd.
        compare("volume", &[1, 72, 64, 84], [72, 64, 84]);
    }
}

#[test]
#[ignore = "half a minute, and some GiB for ONNX Runtime; see the top of this file"]
fn a_patch_of_160_cubed_equals_onnxruntime() {
    if has_peer() {
        compare("volume", &[1, 160, 160, 160], [160; 3]);
    }
}
