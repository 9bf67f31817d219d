//! The binding against a real library: TensorRT-RTX, which builds without a GPU. It is looked for in the folder `$TRIAGED_TENSORRT_RTX` (the two
//! `.so` files of the PyPI package `tensorrt-rtx-cu13-libs`).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::tensorrt::{Flavour, Library, Network, Range, Recipe, TensorRtError, build};
use engine::zoo::Zoo;

/// The library, or `None` where there is none and none is demanded.
fn library() -> Option<Arc<Library>> {
    let Some(dir) = std::env::var_os("TRIAGED_TENSORRT_RTX") else {
        assert!(
            std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(),
            "TRIAGED_TENSORRT_RTX names no folder with TensorRT-RTX"
        );
        eprintln!("skipped: no TensorRT-RTX (TRIAGED_TENSORRT_RTX)");
        return None;
    };
    Some(Library::find(Some(Path::new(&dir))).unwrap())
}

/// RTX 1.7 keeps the target of a build in one place for the process: two at once for different ones fail.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Builds, and says what came of it.
fn built(library: &Arc<Library>, network: &Network, capability: Option<u32>) -> usize {
    let _held = one_at_a_time();
    // A patch of the 3-D U-Net takes more than a slice.
    let built = build(library, &Recipe { capability, workspace_bytes: 2 << 30, ..network.recipe() }).unwrap();
    let (bytes, layers) = (built.plan.len(), built.layers);
    println!("{} for {capability:?}: {layers} layers, a plan of {bytes} bytes", network.name);
    assert!(bytes > 10_000, "{}: {bytes} bytes", network.name);
    layers
}

/// A range whose sizes are `1, rest` to `batch, rest`.
fn range(input: &str, least: &[i64], best: &[i64], most: &[i64]) -> Range {
    Range { input: input.to_owned(), sizes: [least, best, most].map(<[i64]>::to_vec) }
}

#[test]
fn the_library_says_what_it_is() {
    let Some(library) = library() else { return };
    let version = library.version();
    assert_eq!((version.flavour, version.major), (Flavour::Rtx, 1), "{version}");
    assert!(version.minor >= 5, "{version}");
    library.can_build().unwrap();
}

#[test]
fn the_zoo_builds_without_a_gpu() {
    let Some(library) = library() else { return };
    for (zoo, capabilities) in
        [("tests/tiny", &[Some(75), Some(80), Some(86), None][..]), ("zoo", &[Some(86)][..])]
    {
        let zoo = Zoo::open(&root().join(zoo)).unwrap();
        for network in Network::of_zoo(&zoo, &library).unwrap() {
            for &capability in capabilities {
                assert!(built(&library, &network, capability) > 60);
            }
        }
        let head = std::fs::read(zoo.multitask_head()).unwrap();
        let head = Network::new(
            &library,
            ("head", &head),
            range("pyramid", &[1, 4680], &[1, 4680], &[4, 4680]),
            "covid",
        );
        let layers = built(&library, &head.unwrap(), Some(86));
        assert!(layers > 2, "{layers} layers");
    }
}

#[test]
fn volumes_and_vectors_build_without_a_gpu() {
    let Some(library) = library() else { return };
    let network = |name, file: &str, range, sensitive| {
        let onnx = std::fs::read(root().join("tests/nets").join(file)).unwrap();
        Network::new(&library, (name, &onnx), range, sensitive).unwrap()
    };
    let resnet = range("x", &[1, 1, 32, 32], &[8, 1, 112, 160], &[8, 1, 256, 256]);
    // Not for 7.5: there TensorRT-RTX has neither matrix products nor 3-D convolutions in single precision, and the last layer is one.
    assert!(built(&library, &network("small resnet", "resnet.onnx", resnet, "y"), Some(80)) > 20);
    let volume = range("x", &[1, 1, 8, 8, 8], &[1, 1, 32, 64, 64], &[1, 1, 64, 128, 128]);
    assert!(built(&library, &network("small 3-D U-Net", "unet3d.onnx", volume, "y"), Some(80)) > 10);
}

/// The nets of the paper's Table 2 at full size, with random weights, by the training code's own exporter.
#[test]
fn table_2_builds_without_a_gpu() {
    let Some(library) = library() else { return };
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import onnx, onnxruntime, torch"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(),
            "no Python with torch, onnx, onnxruntime"
        );
        println!("skipped: no Python with torch, onnx, onnxruntime");
        return;
    }
    let slices = range("slice", &[1, 1, 32, 32], &[8, 1, 112, 160], &[8, 1, 256, 256]);
    let volume = range("volume", &[1, 1, 32, 32, 32], &[1, 1, 160, 160, 160], &[1, 1, 160, 192, 192]);
    for (name, sizes, range, sensitive) in
        [("resnet50", "1 1 64 64", slices, "features"), ("volume", "1 1 32 32 32", volume, "lesions")]
    {
        let folder = tempfile::tempdir().unwrap();
        let script = root().join("tests/nets/full.py");
        let mut export = Command::new(&python);
        let made = export.arg(script).arg(name).arg(folder.path()).args(sizes.split(' ')).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        let onnx = std::fs::read(folder.path().join("model.onnx")).unwrap();
        let network = Network::new(&library, (name, &onnx), range, sensitive).unwrap();
        assert!(built(&library, &network, Some(80)) > 40);
    }
}

#[test]
fn what_it_does_not_take_is_an_error_with_its_own_words() {
    let Some(library) = library() else { return };
    let zoo = Zoo::open(&root().join("tests/tiny")).unwrap();
    let [lungs, _] = Network::of_zoo(&zoo, &library).unwrap();
    let _held = one_at_a_time();
    let fails = |recipe: &Recipe| build(&library, recipe).unwrap_err();
    let error = fails(&Recipe { onnx: b"no model", ..lungs.recipe() });
    assert!(matches!(error, TensorRtError::Parse { .. }), "{error}");
    let error = fails(&Recipe { onnx: &lungs.onnx[..lungs.onnx.len() / 2], ..lungs.recipe() });
    assert!(matches!(error, TensorRtError::Parse { .. }), "{error}");
    // The best size is outside the bounds.
    let wrong = range("slice", &[1, 1, 32, 32], &[9, 1, 64, 64], &[8, 1, 128, 128]);
    let error = fails(&Recipe { ranges: vec![wrong], ..lungs.recipe() }).to_string();
    assert!(error.contains("failed: ") && !error.contains("gave no reason"), "{error}");
    // A card that this library does not know: 7.0.
    let error = fails(&Recipe { capability: Some(70), ..lungs.recipe() }).to_string();
    assert!(error.contains("failed: ") && !error.contains("gave no reason"), "{error}");
    assert!(build(&library, &Recipe { dla: Some(0), ..lungs.recipe() }).is_err(), "no DLA here");
}
