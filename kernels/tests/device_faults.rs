//! What `kernels::device` says of a GPU that fails, and of none: each case in a process of its own.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

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
    run_test("child", environment)
}

fn run_test(name: &str, environment: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
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
            assert!(line.contains(name) && line.contains("the GPU is lost"), "{call}: {text}");
        }
        assert!(text.contains("lost: true"), "{text}");
    }
}

/// Run by the tests below: a device that fails at the second launch, given up, and opened anew.
#[test]
#[ignore = "run by the other tests of this file"]
fn child_opens_anew() {
    kernels::shim::load().expect("the parent has built it");
    let device = Device::open(0, 1 << 24).unwrap();
    device.set_wait_max(Duration::from_millis(200));
    let start = Instant::now();
    let scaled = |device: &Device| -> Result<[f32; 4], DeviceError> {
        let mut stream = device.stream()?;
        let (from, to) = (device.buffer(16)?, device.buffer(16)?);
        stream.upload(&from, 0, &[1.0f32, 2.0, 3.0, 4.0])?;
        let args = [Arg::Ptr(from.ptr()), Arg::Ptr(to.ptr()), Arg::I32(4), Arg::F32(2.0), Arg::F32(1.0)];
        stream.launch("probe_scale_f32", [1, 1, 1], [32, 1, 1], 0, &args)?;
        let mut out = [0.0; 4];
        stream.download(&to, 0, &mut out)?;
        Ok(out)
    };
    assert_eq!(scaled(&device).unwrap(), [3.0, 5.0, 7.0, 9.0]);
    // What is dropped on the way out of the failing call is left alone: the driver would never return.
    println!("fails: {}", scaled(&device).unwrap_err());
    println!("then: {}", scaled(&device).unwrap_err());
    println!("still held: {}", text(&Device::open(0, 1).map(drop)));
    drop(device);
    println!("given up within {} s", start.elapsed().as_secs());
    match Device::open(0, 1 << 24) {
        Ok(device) => println!("anew: {:?}, {} used", scaled(&device), device.memory_used()),
        Err(error) => {
            println!("anew: {error}");
            println!("again: {}", text(&Device::open(0, 1).map(drop)));
        }
    }
}

#[test]
fn a_device_that_hangs_is_given_up_in_time_and_can_be_had_back() {
    if !shim() {
        return;
    }
    let text = run_test("child_opens_anew", &[("TRIAGED_SHIM_FAIL", "2:-1")]);
    assert!(text.contains("fails: cuStreamQuery: the GPU does not answer since 0.2 s"), "{text}");
    assert!(text.contains("then: the GPU was lost (cuStreamQuery: "), "{text}");
    assert!(text.contains("work of before still holds it"), "{text}");
    assert!(text.contains("anew: Ok([3.0, 5.0, 7.0, 9.0]), 0 used"), "{text}");
    // An error that ends the context.
    let text = run_test("child_opens_anew", &[("TRIAGED_SHIM_FAIL", "2:719")]);
    assert!(text.contains("fails: cuLaunchKernel: ") && text.contains("anew: Ok("), "{text}");
}

#[test]
fn a_device_that_no_reset_helps_stays_lost_until_the_next_process() {
    if !shim() {
        return;
    }
    // The driver says so, or does not return.
    for (code, why) in
        [("46", "cuDevicePrimaryCtxReset_v2: "), ("-2", "cuDevicePrimaryCtxReset: the GPU does not answer")]
    {
        let text = run_test("child_opens_anew", &[("TRIAGED_SHIM_FAIL", &format!("2:{code}"))]);
        for call in ["anew", "again"] {
            let line = text.lines().find(|line| line.starts_with(&format!("{call}: "))).unwrap_or("none");
            assert!(line.contains("it can't be reset") && line.contains(why), "{call}: {text}");
            assert!(line.contains("restart the daemon"), "{call}: {text}");
        }
    }
}

#[test]
fn a_driver_too_old_for_the_kernels_is_refused_with_what_it_needs() {
    if !shim() {
        return;
    }
    // An H100's kernels are built by 12.9; those of Orin load on JetPack 5's driver.
    for (capability, driver, expected) in [
        ("9.0", "11080", "CUDA driver 11.8 can't load kernels that CUDA 12.9 built"),
        ("8.7", "11040", "opened software device (8, 7)"),
        ("8.7", "11020", "CUDA driver 11020 is older than 11040"),
        ("11.0", "12090", "CUDA driver 12.9 can't load kernels that CUDA 13.0 built"),
    ] {
        let text = run(&[("SHIM", "1"), ("TRIAGED_SHIM_CC", capability), ("TRIAGED_SHIM_DRIVER", driver)]);
        assert!(text.contains(expected), "{capability}, {driver}: {text}");
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
