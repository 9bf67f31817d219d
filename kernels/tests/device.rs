//! `kernels::device` on the software device: the path from Rust through cudarc to a kernel and back.

use std::sync::Arc;

use kernels::device::{Arg, Device, DeviceError, Stream};

const MIB: u64 = 1 << 20;

/// A device of 64 MiB, or `None` after saying why not.
fn device() -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, 64 * MIB).expect("the software device opens")),
        Err(why) => {
            println!("{why}");
            None
        }
    }
}

/// out = input * 2 + 1 for `count` values from the start of each buffer.
fn scale(stream: &mut Stream, input: u64, output: u64, count: i32) -> Result<(), DeviceError> {
    let blocks = (count as u32).div_ceil(256);
    let args = [Arg::Ptr(input), Arg::Ptr(output), Arg::I32(count), Arg::F32(2.0), Arg::F32(1.0)];
    stream.launch("probe_scale_f32", [blocks, 1, 1], [256, 1, 1], 0, &args)
}

#[test]
fn a_kernel_gets_its_arguments_and_writes_only_its_values() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    for count in [1usize, 255, 256, 257, 100_003] {
        let values: Vec<f32> = (0..count).map(|i| i as f32 * 0.5 - 3.0).collect();
        let (input, output) = (device.buffer(count * 4).unwrap(), device.buffer(count * 4 + 4).unwrap());
        stream.upload(&input, 0, &values).unwrap();
        stream.upload(&output, count * 4, &[7.0f32]).unwrap();
        scale(&mut stream, input.ptr(), output.ptr(), count as i32).unwrap();
        let mut result = vec![0.0f32; count + 1];
        stream.download(&output, 0, &mut result).unwrap();
        let expected: Vec<f32> = values.iter().map(|v| v * 2.0 + 1.0).chain([7.0]).collect();
        assert_eq!(result, expected, "{count}");
    }
}

#[test]
fn uploads_larger_than_the_staging_memory_arrive_whole() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    // More than both halves of 4 MiB, by odd pieces.
    let values: Vec<u32> = (0..5_000_003u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let buffer = device.buffer(values.len() * 4).unwrap();
    for piece in [1usize, 1_234_567, 5_000_003] {
        stream.fill_zero(&buffer, 0, buffer.bytes()).unwrap();
        for (index, chunk) in values.chunks(piece).enumerate().take(40) {
            stream.upload(&buffer, index * piece * 4, chunk).unwrap();
        }
        let mut result = vec![0u32; values.len().min(piece * 40)];
        stream.download(&buffer, 0, &mut result).unwrap();
        assert!(result == values[..result.len()], "pieces of {piece}");
    }
}

#[test]
fn pinned_memory_is_not_writable_while_a_copy_may_read_it() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(16).unwrap();
    let mut pinned = Arc::new(device.pinned(32).unwrap());
    Arc::get_mut(&mut pinned).unwrap().as_mut_slice::<u32>().copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    stream.upload_pinned(&buffer, 4, &pinned, 8..20).unwrap();
    assert!(Arc::get_mut(&mut pinned).is_none());
    stream.synchronize().unwrap();
    Arc::get_mut(&mut pinned).unwrap().fill(0);
    let mut result = [0u32; 3];
    stream.download(&buffer, 4, &mut result).unwrap();
    assert_eq!(result, [3, 4, 5]);
    let error = stream.upload_pinned(&buffer, 0, &pinned, 20..40).unwrap_err();
    assert!(error.to_string().contains("20..40 of 32"), "{error}");
}

#[test]
fn copies_and_fills_keep_their_bounds() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let (a, b) = (device.buffer(100).unwrap(), device.buffer(50).unwrap());
    let bytes: Vec<u8> = (0..100).collect();
    stream.upload(&a, 0, &bytes).unwrap();
    stream.copy(&a, 30, &b, 0, 50).unwrap();
    stream.fill_zero(&b, 10, 5).unwrap();
    let mut result = [0u8; 50];
    stream.download(&b, 0, &mut result).unwrap();
    let expected: Vec<u8> = (30..80).map(|v| if (40..45).contains(&v) { 0 } else { v }).collect();
    assert_eq!(result[..], expected[..]);
    for error in [
        stream.copy(&a, 51, &b, 0, 50).unwrap_err(),
        stream.copy(&a, 0, &b, 1, 50).unwrap_err(),
        stream.fill_zero(&b, usize::MAX, 2).unwrap_err(),
        stream.upload(&b, 48, &[1u8, 2, 3]).unwrap_err(),
        stream.download(&b, 48, &mut [0u8; 3]).unwrap_err(),
    ] {
        assert!(
            matches!(&error, DeviceError::Usage { what } if what.contains("exceed a device buffer")),
            "{error}"
        );
    }
}

#[test]
fn memory_is_counted_bounded_and_given_back() {
    let Some(_) = device() else { return };
    let device = Device::open(0, MIB).unwrap();
    let half = device.buffer(512 * 1024).unwrap();
    assert_eq!((device.memory_used(), device.memory_peak()), (512 * 1024, 512 * 1024));
    let small = device.buffer(1).unwrap();
    assert_eq!(device.memory_used(), 512 * 1024 + 512);
    let error = device.buffer(512 * 1024).unwrap_err();
    assert_eq!(error, DeviceError::Budget { asked: 512 * 1024, used: 512 * 1024 + 512, max: MIB });
    assert!(!error.is_lost());
    drop(small);
    drop(half);
    assert_eq!((device.memory_used(), device.memory_peak()), (0, 512 * 1024 + 512));
    device.buffer(1024 * 1024).unwrap();
}

#[test]
fn a_full_device_is_not_a_lost_one() {
    let Some(_) = device() else { return };
    // The software device has 8 GiB.
    let device = Device::open(0, u64::MAX).unwrap();
    let error = device.buffer(9 << 30).unwrap_err();
    assert_eq!(error, DeviceError::OutOfMemory { asked: 9 << 30, used: 0 });
    assert!(!error.is_lost() && !device.is_lost());
    assert_eq!(device.memory_used(), 0);
    device.buffer(1024).unwrap();
}

#[test]
fn launches_that_a_gpu_would_refuse_are_refused() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(4096).unwrap();
    let args = [Arg::Ptr(buffer.ptr()), Arg::Ptr(buffer.ptr()), Arg::I32(1), Arg::F32(1.0), Arg::F32(0.0)];
    let mut launch = |kernel, grid, block, shared, args: &[Arg]| {
        stream.launch(kernel, grid, block, shared, args).unwrap_err()
    };
    let name = launch("probe_none_f32", [1, 1, 1], [32, 1, 1], 0, &args);
    assert_eq!(name, DeviceError::NoKernel { kernel: "probe_none_f32".into() });
    let cases = [
        ([0, 1, 1], [32, 1, 1], 0, 1),
        ([1, 65536, 1], [32, 1, 1], 0, 1),
        ([1, 1, 1], [2048, 1, 1], 0, 1),
        ([1, 1, 1], [32, 32, 2], 0, 1),
        ([1, 1, 1], [1, 1, 65], 0, 1),
        ([1, 1, 1], [257, 1, 1], 0, 701), // __launch_bounds__(256)
        ([1, 1, 1], [32, 1, 1], 300 * 1024, 1),
    ];
    for (grid, block, shared, expected) in cases {
        match launch("probe_scale_f32", grid, block, shared, &args) {
            error @ DeviceError::Driver { code, .. } => {
                assert_eq!(code, expected, "{grid:?} {block:?} {shared}");
                assert!(!error.is_lost());
            }
            other => panic!("{other}"),
        }
    }
    let few = launch("probe_scale_f32", [1, 1, 1], [32, 1, 1], 0, &args[..4]);
    let wrong = [Arg::Ptr(buffer.ptr()), Arg::Ptr(buffer.ptr()), Arg::U64(1), Arg::F32(1.0), Arg::F32(0.0)];
    let kinds = launch("probe_scale_f32", [1, 1, 1], [32, 1, 1], 0, &wrong);
    for error in [few, kinds] {
        assert!(error.to_string().contains("takes \"ppiff\""), "{error}");
    }
    // More dynamic shared memory than 48 KiB is asked for by itself.
    stream.launch("probe_scale_f32", [1, 1, 1], [32, 1, 1], 100 * 1024, &args).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn a_graph_gives_the_bits_of_direct_launches() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let count = 1000usize;
    let values: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
    let [input, middle, output] = [0; 3].map(|_| device.buffer(count * 4).unwrap());
    let work = |stream: &mut Stream| {
        scale(stream, input.ptr(), middle.ptr(), count as i32)?;
        stream.fill_zero(&output, 0, 16)?;
        scale(stream, middle.ptr(), output.ptr() + 16, count as i32 - 4)
    };
    let run = |stream: &mut Stream, values: &[f32], work: &dyn Fn(&mut Stream) -> Result<(), DeviceError>| {
        stream.upload(&input, 0, values).unwrap();
        work(stream).unwrap();
        let mut result = vec![0.0f32; count];
        stream.download(&output, 0, &mut result).unwrap();
        result.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let direct = run(&mut stream, &values, &work);
    let graph = stream.capture(work).unwrap();
    // Recording ran nothing; replaying runs on what lies there then.
    let other: Vec<f32> = values.iter().map(|v| v * 3.0).collect();
    let expected_other = run(&mut stream, &other, &work);
    assert_ne!(direct, expected_other);
    let launches = kernels::shim::launches();
    for (values, expected) in [(&values, &direct), (&other, &expected_other), (&values, &direct)] {
        assert_eq!(&run(&mut stream, values, &|stream| stream.replay(&graph)), expected);
    }
    assert!(kernels::shim::launches() >= launches + 6);
}

#[test]
fn a_failed_capture_leaves_the_stream_usable() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(64).unwrap();
    let refused = stream.capture(|stream| stream.upload(&buffer, 0, &[1u8])).unwrap_err();
    assert!(refused.to_string().contains("while a graph is captured"), "{refused}");
    let refused = stream.capture(|stream| stream.synchronize()).unwrap_err();
    assert!(refused.to_string().contains("while a graph is captured"), "{refused}");
    // An allocation happens on a thread of its own, where it spoils no capture.
    stream.capture(|_| device.buffer(64).map(drop)).unwrap();
    stream.upload(&buffer, 0, &[5u8]).unwrap();
    let mut result = [0u8];
    stream.download(&buffer, 0, &mut result).unwrap();
    assert_eq!(result, [5]);
}

#[test]
fn page_locked_memory_takes_a_download_without_a_copy_between() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(64).unwrap();
    let values: Vec<u8> = (0..64).collect();
    stream.upload(&buffer, 0, &values).unwrap();
    let mut pinned = device.pinned(40).unwrap();
    stream.download_pinned(&buffer, 3, &mut pinned, 33).unwrap();
    assert_eq!(pinned[..33], values[3..36]);
    assert_eq!(pinned[33..], [0; 7]);
    let error = stream.download_pinned(&buffer, 0, &mut pinned, 41).unwrap_err();
    assert!(error.to_string().contains("41 bytes into 40"), "{error}");
}

#[test]
fn what_a_library_takes_counts_against_the_limit() {
    let Some(_) = device() else { return };
    let device = Device::open(0, MIB).unwrap();
    let reserved = device.reserve(700_000).unwrap();
    let error = device.clone().buffer(512 * 1024).unwrap_err();
    assert!(matches!(error, DeviceError::Budget { max: MIB, .. }), "{error}");
    assert!(matches!(device.reserve(512 * 1024).unwrap_err(), DeviceError::Budget { .. }));
    drop(reserved);
    device.buffer(512 * 1024).unwrap();
    assert_eq!(device.memory_used(), 0);
}

#[test]
fn streams_wait_for_each_other_by_marks() {
    let Some(device) = device() else { return };
    let (mut first, mut second) = (device.stream().unwrap(), device.stream().unwrap());
    let [a, b, c] = [0; 3].map(|_| device.buffer(4096).unwrap());
    first.upload(&a, 0, &[3.0f32; 1024]).unwrap();
    let start = first.mark().unwrap();
    scale(&mut first, a.ptr(), b.ptr(), 1024).unwrap();
    let done = first.mark().unwrap();
    second.wait(&done).unwrap();
    scale(&mut second, b.ptr(), c.ptr(), 1024).unwrap();
    let mut result = [0.0f32; 1024];
    second.download(&c, 0, &mut result).unwrap();
    assert_eq!(result, [15.0; 1024]);
    assert!(done.elapsed_ms(&start).unwrap() >= 0.0);
}

#[test]
fn lanes_on_several_threads_do_not_disturb_each_other() {
    let Some(device) = device() else { return };
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let device = &device;
            scope.spawn(move || {
                let mut stream = device.stream().unwrap();
                for round in 0..20 {
                    let value = (lane * 100 + round) as f32;
                    let (a, b) = (device.buffer(8192).unwrap(), device.buffer(8192).unwrap());
                    stream.upload(&a, 0, &[value; 2048]).unwrap();
                    scale(&mut stream, a.ptr(), b.ptr(), 2048).unwrap();
                    let mut result = [0.0f32; 2048];
                    stream.download(&b, 0, &mut result).unwrap();
                    assert_eq!(result, [value * 2.0 + 1.0; 2048]);
                }
            });
        }
    });
}

#[test]
fn the_device_says_what_it_is() {
    let Some(device) = device() else { return };
    assert_eq!(Device::count().unwrap(), 1);
    assert_eq!((device.name(), device.compute_capability()), ("software device", (9, 0)));
    assert_eq!(device.uuid(), "GPU-736f6674-7761-7265-2064-65766963652e");
    assert_eq!(
        (device.driver_version(), device.memory_bytes(), device.is_integrated()),
        (12_090, 8 << 30, false)
    );
    assert_eq!(Device::open(3, MIB).unwrap_err(), DeviceError::NoDevice { ordinal: 3, count: 1 });
}
