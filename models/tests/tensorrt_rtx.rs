//! The binding against a real library: TensorRT-RTX, which builds without a GPU. It is looked for in the folder `$TRIAGED_TENSORRT_RTX` (the two
//! `.so` files of the PyPI package `tensorrt-rtx-cu13-libs`).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn recipe<'a>(name: &'a str, onnx: &'a [u8], input: &str, sizes: [&[i64]; 3]) -> Recipe<'a> {
    Recipe {
        name,
        onnx,
        ranges: vec![Range { input: input.to_owned(), sizes: sizes.map(<[i64]>::to_vec) }],
        profiles: 1,
        half: true,
        sensitive: Vec::new(),
        workspace_bytes: 64 << 20,
        dla: None,
        capability: None,
        timings: None,
    }
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
fn the_zoo_builds_for_every_card_without_a_gpu() {
    let Some(library) = library() else { return };
    let zoo = Zoo::open(&root().join("tests/tiny")).unwrap();
    for network in Network::of_zoo(&zoo, &library).unwrap() {
        for capability in [None, Some(75), Some(80), Some(86)] {
            let built = build(&library, &Recipe { capability, ..network.recipe() }).unwrap();
            println!(
                "{} for {capability:?}: {} bytes, {} layers",
                network.name,
                built.plan.len(),
                built.layers
            );
            assert!(built.layers > 60, "{} layers", built.layers);
            assert!(built.plan.len() > 20_000, "{} bytes", built.plan.len());
        }
    }
}
