//! The software device itself: threads, barriers, warps, fragments, half precision, and what it finds.

use kernels::device::{Arg, Buffer, Device, Plain, Stream};

fn device() -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, 1 << 26).expect("the software device opens")),
        Err(why) => {
            println!("{why}");
            None
        }
    }
}

fn filled<T: Plain>(stream: &mut Stream, values: &[T]) -> Buffer {
    let buffer = stream.device().buffer(size_of_val(values)).expect("memory");
    stream.upload(&buffer, 0, values).expect("an upload");
    buffer
}

fn read<T: Plain + Default>(stream: &mut Stream, buffer: &Buffer) -> Vec<T> {
    let mut values = vec![T::default(); buffer.bytes() / size_of::<T>()];
    stream.download(buffer, 0, &mut values).expect("a download");
    values
}

#[test]
fn blocks_of_any_shape_sum() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    for (x, y) in [(1, 1), (32, 1), (33, 1), (64, 4), (7, 9), (1024, 1), (31, 33)] {
        let threads = (x * y) as usize;
        let count = threads * 3 - threads / 2;
        // Small integers: exact in any order.
        let values: Vec<f32> = (0..count).map(|i| (i % 17) as f32 - 8.0).collect();
        let (input, output) = (filled(&mut stream, &values), filled(&mut stream, &[0.0f32; 3]));
        let args = [Arg::Ptr(input.ptr()), Arg::Ptr(output.ptr()), Arg::I32(count as i32)];
        stream.launch("selftest_sum", [3, 1, 1], [x, y, 1], 0, &args).unwrap();
        let expected: Vec<f32> = values.chunks(threads).map(|chunk| chunk.iter().sum()).collect();
        assert_eq!(read::<f32>(&mut stream, &output), expected, "{x} x {y}");
    }
}

/// The values come out the other way round, in whatever order the threads run; without the barrier they don't in both.
#[test]
fn a_missing_barrier_shows_in_one_of_two_orders() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let values: Vec<i32> = (0..4 * 96).map(|i| i * i).collect();
    let expected: Vec<i32> = values.chunks(96).flat_map(|block| block.iter().rev().copied()).collect();
    let mut outcomes = Vec::new();
    for barrier in [1, 0] {
        for reverse in [false, true] {
            kernels::shim::set_reverse(reverse);
            let (input, output) = (filled(&mut stream, &values), filled(&mut stream, &vec![0; values.len()]));
            let args = [Arg::Ptr(input.ptr()), Arg::Ptr(output.ptr()), Arg::I32(barrier)];
            stream.launch("selftest_reverse", [4, 1, 1], [96, 1, 1], 96 * 4, &args).unwrap();
            outcomes.push(read::<i32>(&mut stream, &output));
            kernels::shim::set_reverse(false);
        }
    }
    assert_eq!(outcomes[0], expected);
    assert_eq!(outcomes[1], expected);
    assert!(outcomes[2] != outcomes[3]);
}

#[test]
fn lanes_exchange_as_the_programming_guide_says() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let output = filled(&mut stream, &[0u32; 256]);
    stream.launch("selftest_warp", [1, 1, 1], [32, 1, 1], 0, &[Arg::Ptr(output.ptr())]).unwrap();
    for (lane, found) in read::<u32>(&mut stream, &output).chunks(8).enumerate() {
        let lane = lane as u32;
        let expected = [
            (0..32).filter(|l| l % 3 == 0).map(|l| 1 << l).sum(),
            50,
            if lane < 4 { lane } else { lane - 4 },
            if lane % 8 < 5 { lane + 3 } else { lane },
            2,
            if lane < 16 { lane ^ 1 } else { lane ^ 2 },
            7,
            lane.count_ones() + 100 * lane.leading_zeros(),
        ];
        assert_eq!(found, expected, "lane {lane}");
    }
}

/// The memory of a thread's warps may have been another's; here malloc fills it with garbage.
#[test]
fn lanes_exchange_in_memory_that_was_used() {
    if device().is_none() {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lanes_exchange_as_the_programming_guide_says", "--nocapture"])
        .env("GLIBC_TUNABLES", "glibc.malloc.perturb=90")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn fragments_multiply() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    const WARPS: usize = 3;
    let value = |i: usize| ((i * 7 + i / 13) % 11) as f32 - 5.0;
    let matrix = |seed: usize| (0..WARPS * 256).map(|i| value(i + seed)).collect::<Vec<_>>();
    let (a, b) = (matrix(0), matrix(1000));
    let halves = |values: &[f32]| values.iter().map(|v| half(*v)).collect::<Vec<u16>>();
    let (left, right) = (filled(&mut stream, &halves(&a)), filled(&mut stream, &halves(&b)));
    let output = filled(&mut stream, &[0.0f32; WARPS * 256]);
    let args = [Arg::Ptr(left.ptr()), Arg::Ptr(right.ptr()), Arg::Ptr(output.ptr())];
    stream.launch("selftest_matrix", [1, 1, 1], [32 * WARPS as u32, 1, 1], 0, &args).unwrap();
    let found = read::<f32>(&mut stream, &output);
    for (index, found) in found.into_iter().enumerate() {
        let (first, row, column) = (index / 256 * 256, index % 256 / 16, index % 16);
        let sum: f32 = (0..16).map(|k| a[first + row * 16 + k] * b[first + column * 16 + k]).sum();
        assert_eq!(found, sum + 1.0, "{index}");
    }
}

/// Nearest half, ties to even, of values that are halves or lie between two.
fn half(value: f32) -> u16 {
    let magnitude = f64::from(value.abs());
    // The 31744 finite magnitudes ascend with their bits.
    let above = (0..0x7c00u16).collect::<Vec<_>>().partition_point(|bits| widened(*bits) < magnitude) as u16;
    let bits = match above {
        0 => 0,
        0x7c00 if magnitude >= 65520.0 => 0x7c00,
        0x7c00 => 0x7bff,
        above => {
            let (low, high) = (magnitude - widened(above - 1), widened(above) - magnitude);
            if low < high || (low == high && above % 2 == 1) { above - 1 } else { above }
        }
    };
    bits | if value.is_sign_negative() { 0x8000 } else { 0 }
}

/// The value of a finite half without its sign.
fn widened(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3ff));
    if exponent == 0 { fraction * 2f64.powi(-24) } else { (1024.0 + fraction) * 2f64.powi(exponent - 25) }
}

#[test]
fn halves_are_ieee_halves() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let mut halves: Vec<u16> = (0..0x7c00).collect();
    halves.extend(0x8000..0xfc00);
    let count = halves.len();
    let floats: Vec<f32> = (0..count)
        .map(|i| {
            let magnitude = 10f32.powf((i % 1000) as f32 * 0.0135 - 8.5) * (1.0 + (i / 1000) as f32 * 0.003);
            if i % 2 == 0 { magnitude } else { -magnitude }
        })
        .chain([0.0, -0.0, 65504.0, 65519.9, 65520.0, 1e30, 5.96e-8, 2.98e-8, 2.980_232_3e-8, 2049.0, 2051.0])
        .take(count + 11)
        .skip(11)
        .collect();
    let (input, numbers) = (filled(&mut stream, &halves), filled(&mut stream, &floats));
    let (wide, narrow) = (device.buffer(count * 4).unwrap(), device.buffer(count * 2).unwrap());
    let args = [&input, &wide, &numbers, &narrow].map(|b| Arg::Ptr(b.ptr()));
    let args = [&args[..], &[Arg::I32(count as i32)]].concat();
    stream.launch("selftest_half", [count.div_ceil(128) as u32, 1, 1], [128, 1, 1], 0, &args).unwrap();
    for (bits, found) in halves.iter().zip(read::<f32>(&mut stream, &wide)) {
        let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
        assert_eq!(f64::from(found), sign * widened(bits & 0x7fff), "{bits:#x}");
    }
    let found = read::<u16>(&mut stream, &narrow);
    for (index, value) in
        floats.iter().enumerate().step_by(31).chain(floats.iter().enumerate().skip(count - 11))
    {
        assert_eq!(found[index], half(*value), "{value:e}");
    }
}

#[test]
fn atomics_of_all_threads_count() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let values: Vec<i32> = (0..1000).map(|i| (i * 7919) % 1009 - 500).collect();
    let (input, output) = (filled(&mut stream, &values), filled(&mut stream, &[i32::MIN, i32::MAX, 0, 0]));
    let args = [Arg::Ptr(input.ptr()), Arg::Ptr(output.ptr()), Arg::I32(1000)];
    stream.launch("selftest_atomics", [8, 1, 1], [128, 1, 1], 0, &args).unwrap();
    let expected = [*values.iter().max().unwrap(), *values.iter().min().unwrap(), values.iter().sum(), 1000];
    assert_eq!(read::<i32>(&mut stream, &output), expected);
}

/// Run by the test below, each time in a process of its own.
#[test]
#[ignore = "ends its process"]
fn fault() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let kind: i32 = std::env::var("FAULT").unwrap().parse().unwrap();
    let data = filled(&mut stream, &[0.0f32; 300]);
    let (_before, address) = (device.buffer(64).unwrap(), data.ptr());
    if kind == 8 {
        drop(data);
    }
    let args = [Arg::Ptr(address), Arg::I32(300), Arg::I32(kind)];
    stream.launch("selftest_fault", [1, 1, 1], [32, 1, 1], 128, &args).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn faults_of_kernels_end_the_process_with_their_place() {
    if device().is_none() {
        return;
    }
    let allocation = "of 1200 bytes";
    let cases = [
        (0, "wrote 0 bytes past the end of", allocation),
        (1, "a touch 262144 bytes past the end of", allocation),
        (2, "wrote 32 bytes before", allocation),
        (3, "meet at different __syncthreads", "kernel selftest_fault, block (0, 0, 0)"),
        (4, "threads wait for ever", "kernel selftest_fault"),
        (5, "past the end of its dynamic shared memory", "kernel selftest_fault"),
        (6, "no multiple of 32", "thread (0, 0, 0) of (32, 1, 1)"),
        (7, "no multiple of its alignment", "thread (0, 0, 0) of (32, 1, 1)"),
        (8, "a touch of freed", allocation),
        (9, "", ""),
    ];
    for (kind, what, place) in cases {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fault", "--ignored", "--nocapture"])
            .env("FAULT", kind.to_string())
            .env_remove("TRIAGED_SHIM_REVERSE")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), kind == 9, "{kind}: {text}");
        assert!(text.contains(what) && text.contains(place), "{kind}: {text}");
    }
}
