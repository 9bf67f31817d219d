//! Which engine does the work, and the fall from one to the next, with the real program on the software CUDA device.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::triaged;
use e2e::slices::{self, phantom_of};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// Analyses a study; `device`: the folder of the driver that is to be found.
fn analyze(study: &Path, engine: &str, device: Option<&Path>, environment: &[(&str, &str)]) -> Output {
    let mut command = triaged(&["analyze", "--json", "--engine", engine, "--threads", "2"]);
    command.arg(study).env("RUST_LOG", "info").envs(environment.iter().copied());
    if let Some(device) = device {
        command.env("LD_LIBRARY_PATH", device);
    }
    command.output().unwrap()
}

fn outcome(output: &Output) -> (Value, String) {
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{log}");
    (serde_json::from_str(line.trim()).unwrap_or_else(|e| panic!("{line}: {e}\n{log}")), log)
}

#[track_caller]
fn close(a: &Value, b: &Value) {
    let number = |of: &Value, path: &str| of.pointer(path).and_then(Value::as_f64).unwrap();
    for (path, tolerance) in [("/probability", 0.01), ("/severity/left", 0.005), ("/severity/right", 0.005)] {
        let (a, b) = (number(a, path), number(b, path));
        assert!((a - b).abs() <= tolerance, "{path}: {a} and {b}");
    }
    assert_eq!(a["outcome"], b["outcome"]);
}

#[test]
fn the_gpus_engine_gives_the_processors_answer_and_a_lost_gpu_costs_no_study() {
    let library = match kernels::shim::build() {
        Ok(library) => library,
        Err(skipped) => return println!("{skipped}"),
    };
    let device = library.parent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let study =
        slices::write(&phantom_of(10, &dir.path().join("phantom"), "40,20"), &dir.path().join("study"));
    let (cpu, _) = outcome(&analyze(&study, "cpu", Some(device), &[]));
    assert_eq!(cpu["engine"], "cpu");

    let count = dir.path().join("launches");
    let counting = [("TRIAGED_SHIM_COUNT", count.to_str().unwrap())];
    let (gpu, log) = outcome(&analyze(&study, "auto", Some(device), &counting));
    assert_eq!(gpu["engine"], "cuda", "{log}");
    assert!(log.contains("engine tensorrt is not used"), "{log}");
    assert!(log.contains("engine cuda against the processor's"), "{log}");
    close(&gpu, &cpu);

    // An uncorrectable memory error (214), long after the check: in the multitask net, which comes last.
    let launches: u64 = std::fs::read_to_string(&count).unwrap().trim().parse().unwrap();
    let launches = launches - 30;
    let (fallen, log) =
        outcome(&analyze(&study, "auto", Some(device), &[("TRIAGED_SHIM_FAIL", &format!("{launches}:214"))]));
    assert!(log.contains("engine cuda is out, the work goes on without it"), "{log}");
    assert!(fallen["engine"].as_str().unwrap().starts_with("cpu"), "{fallen}");
    close(&fallen, &cpu);

    // It hangs there: no wait is for ever, neither for the study nor at the end of the process.
    let started = std::time::Instant::now();
    let fault = format!("{launches}:-1");
    let (hung, log) = outcome(&analyze(&study, "auto", Some(device), &[("TRIAGED_SHIM_FAIL", &fault)]));
    assert!(log.contains("the GPU does not answer since 20.0 s: it hangs"), "{log}");
    assert!(hung["engine"].as_str().unwrap().starts_with("cpu"), "{hung}");
    close(&hung, &cpu);
    assert!(started.elapsed() >= std::time::Duration::from_secs(20), "it did not hang");

    // It fails at once: it is not used, and the reason is said.
    let (missing, log) = outcome(&analyze(&study, "auto", Some(device), &[("TRIAGED_SHIM_FAIL", "1:719")]));
    assert_eq!(missing["engine"], "cpu");
    assert!(log.contains("engine cuda is not used"), "{log}");
    assert_eq!(missing["probability"], cpu["probability"]);
}

#[test]
fn an_engine_that_is_not_there_is_refused_by_name_and_auto_goes_on_without() {
    let dir = tempfile::tempdir().unwrap();
    let study = slices::write(&phantom_of(10, &dir.path().join("phantom"), "0,0"), &dir.path().join("study"));
    // A driver that is none hides a real one.
    let none = dir.path().join("driver");
    std::fs::create_dir(&none).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(none.join(name), "no library").unwrap();
    }
    for engine in ["cuda", "tensorrt"] {
        let output = analyze(&study, engine, Some(&none), &[]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(&format!("engine {engine}")), "{log}");
    }
    let (outcome, log) = outcome(&analyze(&study, "auto", Some(&none), &[]));
    assert_eq!(outcome["engine"], "cpu", "{log}");
}
