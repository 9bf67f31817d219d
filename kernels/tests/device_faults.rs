//! What `kernels::device` says of a GPU that fails, and of none: each case in a process of its own.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::{Command, Output};

use kernels::device::{Arg, Device, DeviceError};

/// Run by the tests below with another environment each; prints what it finds.
#[test]
#[ignore = "run by the other tests of this file"]
fn child() {
    if std::env::var_os("SHIM").is_some() {
        kernels::shim::load().expect("the parent has built it");
    }
    match Device::open(0, 1 << 24) {
        Err(error) => println!("open: {error}"),
        Ok(device) => {
            println!("opened {} {:?}", device.name(), device.compute_capability());
            work(&device);
            println!("lost: {}", device.is_lost());
        }
    }
}

/// Six launches, going on after errors.
fn work(device: &Device) {
    let result = device.buffer(4 << 20).map(drop);
    println!("4 MiB: {}", text(&result));
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(1024).unwrap();
    for launch in 1..=6 {
        let args =
            [Arg::Ptr(buffer.ptr()), Arg::Ptr(buffer.ptr()), Arg::I32(8), Arg::F32(1.0), Arg::F32(0.0)];
        let launched = stream.launch("probe_scale_f32", [1, 1, 1], [32, 1, 1], 0, &args);
        println!("launch {launch}: {}", text(&launched));
    }
    println!("synchronize: {}", text(&stream.synchronize()));
    println!("another stream: {}", text(&device.stream().map(drop)));
    println!("another device: {}", text(&Device::open(0, 1).map(drop)));
}

fn text(result: &Result<(), DeviceError>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => format!("{error}"),
    }
}

fn run(environment: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn shim() -> bool {
    kernels::shim::build().map_err(|why| println!("{why}")).is_ok()
}

#[test]
fn no_driver_is_an_answer() {
    // Asked in a child, because this process may have loaded the software device.
    let text = run(&[]);
    if text.contains("opened") {
        println!("skipped: this machine has a GPU");
        return;
    }
    let expected =
        ["no CUDA driver (libcuda.so.1 was not found)", "no GPU number 0", "no CUDA driver (CUDA_ERROR"];
    assert!(expected.iter().any(|expected| text.contains(&format!("open: {expected}"))), "{text}");
}

#[test]
fn a_final_error_stays_and_marks_the_device() {
    if !shim() {
        return;
    }
    for (code, name) in [(214, "CUDA_ERROR_ECC_UNCORRECTABLE"), (719, "CUDA_ERROR_LAUNCH_FAILED")] {
        let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_FAIL", &format!("4:{code}"))]);
        assert!(text.contains("launch 3: ok"), "{text}");
        for call in ["launch 4", "launch 5", "synchronize", "another stream", "another device"] {
            let line = text.lines().find(|line| line.starts_with(&format!("{call}: "))).unwrap_or("none");
            assert!(
                line.contains(name) && line.contains("lost for this process; restart it"),
                "{call}: {text}"
            );
        }
        assert!(text.contains("lost: true"), "{text}");
    }
}

#[test]
fn out_of_memory_passes() {
    if !shim() {
        return;
    }
    let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_FAIL", "2:2")]);
    assert!(text.contains("launch 1: ok") && text.contains("launch 3: ok"), "{text}");
    assert!(text.contains("launch 2: cuLaunchKernel: probe_scale_f32"), "{text}");
    assert!(text.contains("synchronize: ok") && text.contains("lost: false"), "{text}");

    let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_MEMORY_MIB", "2")]);
    assert!(
        text.contains("4 MiB: device memory: the GPU refused 4194304 bytes with 0 in use by us"),
        "{text}"
    );
    assert!(text.contains("launch 6: ok") && text.contains("lost: false"), "{text}");
}

#[test]
fn a_gpu_without_kernels_is_refused_by_name() {
    if !shim() {
        return;
    }
    let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_CC", "6.1")]);
    assert!(text.contains("open: no kernels for compute capability 6.1: built are 5.2, 7.0, "), "{text}");
    let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_CC", "8.9"), ("TRIAGED_SHIM_NAME", "NVIDIA L4")]);
    assert!(text.contains("opened NVIDIA L4 (8, 9)"), "{text}");
}

#[test]
fn a_program_finds_the_software_device_by_its_path() {
    let library = match kernels::shim::build() {
        Ok(library) => library,
        Err(why) => return println!("{why}"),
    };
    let folder = library.parent().unwrap().to_str().unwrap();
    assert!(run(&[("LD_LIBRARY_PATH", folder)]).contains("opened software device (9, 0)"));
}
