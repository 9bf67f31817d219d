//! A GPU whose driver is loaded after the daemon, and that is lost later, on the software device: the daemon's engines take it in both times without
//! a restart. One test, because it takes the pauses of a daemon, and faults are the whole process's.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Choice, EngineState, Engines, Plane, Setup, Zoo};
use kernels::shim::fail_after;

fn state(engines: &Engines, name: &str) -> (EngineState, u64) {
    let status = engines.status().into_iter().find(|status| status.name == name).unwrap();
    (status.state, status.falls)
}

/// The engine that brings a plane through the lung net.
fn work(engines: &Engines) -> String {
    let values = vec![0.5; 20 * 30];
    engines.run(|engine| engine.lungs(Plane::new(&values, 20, 30, 30))).unwrap().1
}

#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_gpu_is_used_when_it_comes_and_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let driver = dir.path().join("loaded");
    // SAFETY: the only test of this process, before any other thread.
    unsafe { std::env::set_var("TRIAGED_SHIM_LATE", &driver) };
    if let Err(skipped) = kernels::shim::load() {
        println!("{skipped}");
        return;
    }
    let zoo = Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")).unwrap();
    let mut setup = Setup { required: false, ..Setup::new(Choice::Auto, 2) };
    setup.tensorrt.library_dir = Some(dir.path().into());
    let engines = setup.open(&zoo).unwrap();
    assert_eq!(work(&engines), "cpu");
    let (missing, _) = state(&engines, "cuda");
    assert!(
        matches!(&missing, EngineState::Missing { why } if why.contains("no CUDA driver") || why.contains("no GPU")),
        "{missing:?}"
    );

    std::fs::write(&driver, "").unwrap();
    until("the GPU that came is not used", || state(&engines, "cuda").0 == EngineState::Ready);
    assert_eq!(work(&engines), "cuda");

    // Lost in the middle of a study, which the processor finishes.
    fail_after(2, 719);
    assert_eq!(work(&engines), "cpu (cuda failed)");
    assert!(matches!(state(&engines, "cuda"), (EngineState::Out { .. }, 1)));
    until("the lost GPU is not used again", || state(&engines, "cuda").0 == EngineState::Ready);
    assert_eq!(work(&engines), "cuda");
    assert_eq!(state(&engines, "cuda"), (EngineState::Ready, 1));

    // Lost for good: it stays out, and who looks at the box is told what to do.
    fail_after(2, 46);
    assert_eq!(work(&engines), "cpu (cuda failed)");
    let told = || matches!(state(&engines, "cuda").0, EngineState::Out { why } if why.contains("restart the daemon"));
    until("nobody is told to restart the daemon", told);
    assert_eq!(work(&engines), "cpu");
}
