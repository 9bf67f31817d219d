//! The whole way of a series through the networks against the reference pipeline in PyTorch and SciPy
//! (`models/training/triage_models/reference.py`): probability within 1e-3, masks within 1e-4 of the voxels, severity
//! within 1e-3.
//!
//! On the phantom against the golden that is committed beside this file, which needs no Python; on the phantom again and
//! on real CT against the reference run here and now. The golden is made anew, after the weights have changed, by
//! ```text
//! triaged phantom P --slices 16 --size 256 --lesions 40,20 --seed 3
//! python -m triage_models.reference P --zoo models/zoo --out tests/golden/phantom     (in models/training: PYTHONPATH)
//! ```
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::triaged;
use e2e::peers::{have_python, python, run_ok};
use e2e::slices::{files, phantom};
use flate2::read::GzDecoder;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const PROBABILITY_TOLERANCE: f64 = 1e-3;
const SEVERITY_TOLERANCE: f64 = 1e-3;
const MASK_TOLERANCE: f64 = 1e-4;
/// Header of a NIfTI file, with the four bytes that announce no extension.
const NIFTI_HEADER_BYTES: usize = 352;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn unzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The reference's mask: bits, slice-major, first voxel in the highest bit.
fn reference_mask(golden: &Path, name: &str, voxels: usize) -> Vec<bool> {
    let bits = unzip(&golden.join(format!("golden.{name}.bits.gz")));
    (0..voxels).map(|i| bits[i / 8] >> (7 - i % 8) & 1 == 1).collect()
}

/// Our mask, as `analyze --out` writes it.
fn our_mask(out: &Path, name: &str) -> Vec<bool> {
    unzip(&out.join(format!("{name}.nii.gz")))[NIFTI_HEADER_BYTES..].iter().map(|label| *label != 0).collect()
}

/// Evaluates a folder of one study and compares with the reference's output in `golden`.
fn compare(folder: &Path, golden: &Path, scratch: &Path) {
    let out = scratch.join("out");
    let said = triaged(&["analyze", "--json", "--out"]).arg(&out).arg(folder).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let ours: Value =
        serde_json::from_str(text.lines().next().unwrap_or_else(|| panic!("{said:?}"))).unwrap();
    let theirs: Value =
        serde_json::from_str(&fs::read_to_string(golden.join("golden.json")).unwrap()).unwrap();
    assert_eq!(ours["series_uid"], theirs["series_uid"], "another series was chosen");
    let near = |path: &str, tolerance: f64| {
        let value = |json: &Value| json.pointer(path).and_then(Value::as_f64);
        let (a, b) = (value(&ours), value(&theirs));
        let distance = a.zip(b).map(|(a, b)| (a - b).abs());
        println!("{}: {path} {a:?} reference {b:?}", folder.display());
        assert!(distance.is_some_and(|d| d <= tolerance), "{path}: {a:?}, reference {b:?}");
    };
    near("/probability", PROBABILITY_TOLERANCE);
    for side in ["left", "right", "max"] {
        near(&format!("/severity/{side}"), SEVERITY_TOLERANCE);
    }
    let study = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let lungs = our_mask(&study, "lungs");
    let reference_lungs = reference_mask(golden, "lungs", lungs.len());
    // Ours are the lesions inside the lungs, which are those that count.
    let lesions = our_mask(&study, "lesions");
    let reference_lesions: Vec<bool> = reference_mask(golden, "lesions", lesions.len())
        .iter()
        .zip(&reference_lungs)
        .map(|(a, b)| a & b)
        .collect();
    for (name, ours, theirs) in [("lungs", lungs, reference_lungs), ("lesions", lesions, reference_lesions)] {
        let differ = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        println!("{}: {name}: {differ} of {} voxels differ", folder.display(), ours.len());
        assert!(theirs.iter().any(|v| *v), "the reference has no {name}: nothing is compared");
        assert!(differ as f64 <= MASK_TOLERANCE * ours.len() as f64, "{name}: {differ} of {}", ours.len());
    }
}

/// Runs the reference on a folder; `false`, and said so, without PyTorch.
fn reference(folder: &Path, out: &Path) -> bool {
    if !(have_python("torch") && have_python("scipy") && have_python("pydicom")) {
        return false;
    }
    let mut command = python();
    command.env("PYTHONPATH", root().join("models/training")).args(["-m", "triage_models.reference"]);
    run_ok(command.arg(folder).arg("--zoo").arg(root().join("models/zoo")).arg("--out").arg(out));
    true
}

#[test]
fn the_phantom_equals_the_golden() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("phantom");
    phantom(&folder, "40,20");
    compare(&folder, &root().join("tests/golden/phantom"), scratch.path());
}

#[test]
fn the_phantom_equals_the_reference() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, golden) = (scratch.path().join("phantom"), scratch.path().join("golden"));
    phantom(&folder, "10,70");
    if reference(&folder, &golden) {
        compare(&folder, &golden, scratch.path());
    }
}

#[test]
fn real_ct_equals_the_reference() {
    let data = std::env::var_os("TRIAGED_DATA")
        .map_or_else(|| root().join("../shared/data"), PathBuf::from)
        .join("ct");
    for study in ["covid-p001", "two-kernels-a0002/B40f"] {
        let folder = data.join(study);
        if !folder.is_dir() || files(&folder).is_empty() {
            // Not a peer: the data may not be everywhere, so this is no failure in CI either.
            println!("skipped: no real CT at {}", folder.display());
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let golden = scratch.path().join("golden");
        if reference(&folder, &golden) {
            compare(&folder, &golden, scratch.path());
        }
    }
}
