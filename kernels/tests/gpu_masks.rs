//! The masks' kernels on the software device, against the CPU's sigmoid, box and paste.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{buffer, device, noise, unit};
use kernels::Paste;
use kernels::device::{Device, DeviceError};
use kernels::gpu::masks::{Crops, LungRecord, Pasted, RECORD, lungs, sigmoid};

fn probability(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[test]
fn probabilities_equal_the_cpu() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    for count in [1, 255, 257, 5000] {
        let mut logits: Vec<f32> = (0..count).map(|i| 40.0 * unit(i) - 20.0).collect();
        logits[0] = 300.0;
        let (values, flags) = (buffer(&mut stream, &logits), buffer(&mut stream, &[0u32]));
        sigmoid(&mut stream, &values, count, &flags).unwrap();
        let (mut found, mut flag) = (vec![0.0f32; count], [7u32]);
        stream.download(&values, 0, &mut found).unwrap();
        stream.download(&flags, 0, &mut flag).unwrap();
        assert_eq!(flag, [0]);
        for (found, logit) in found.into_iter().zip(logits) {
            assert!((found - probability(logit)).abs() <= 1e-6, "{found} for {logit}");
        }
    }
}

#[test]
fn what_is_not_finite_is_told() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut logits = vec![0.0f32; 2 * 700];
        logits[1311] = bad;
        let (values, flags) = (buffer(&mut stream, &logits), buffer(&mut stream, &[0u32]));
        sigmoid(&mut stream, &values, 1400, &flags).unwrap();
        let mut flag = [0u32];
        stream.download(&flags, 0, &mut flag).unwrap();
        assert_eq!(flag, [1], "{bad}");
        let values = buffer(&mut stream, &logits);
        assert_eq!(records(&device, &values, [2, 20, 35], 0.9).map(|r| r.finite), [true, false], "{bad}");
    }
}

fn records(
    device: &Device,
    values: &kernels::device::Buffer,
    shape: [usize; 3],
    threshold: f32,
) -> [LungRecord; 2] {
    let mut stream = device.stream().unwrap();
    let buffer = device.buffer(2 * RECORD * 4).unwrap();
    lungs(&mut stream, values, shape, threshold, &buffer).unwrap();
    let mut words = [0u32; 2 * RECORD];
    stream.download(&buffer, 0, &mut words).unwrap();
    let of = |slice: usize| words[slice * RECORD..][..RECORD].try_into().unwrap();
    [0, 1].map(|slice| LungRecord::new(of(slice), [shape[1], shape[2]]))
}

#[test]
fn boxes_and_counts_are_those_of_the_voxels() {
    let Some(device) = device() else { return };
    for (rows, columns, every) in
        [(1, 1, 1), (1, 1, 2), (30, 41, 1000), (97, 190, 7000), (64, 64, 3), (50, 90, usize::MAX)]
    {
        let plane = rows * columns;
        let is_lung = |i: usize| noise(i).is_multiple_of(every as u64);
        let logits: Vec<f32> = (0..2 * plane).map(|i| if is_lung(i) { 0.5 } else { -0.5 }).collect();
        let values = buffer(&mut device.stream().unwrap(), &logits);
        let found = records(&device, &values, [2, rows, columns], 0.5);
        for (slice, found) in found.into_iter().enumerate() {
            let voxels: Vec<_> = (0..plane).filter(|i| is_lung(slice * plane + i)).collect();
            let range = |of: &dyn Fn(usize) -> usize| match voxels.iter().map(|v| of(*v)).min() {
                Some(first) => first..voxels.iter().map(|v| of(*v)).max().unwrap() + 1,
                None => 0..0,
            };
            let expected = LungRecord {
                rows: range(&|v| v / columns),
                columns: range(&|v| v % columns),
                voxels: voxels.len(),
                finite: true,
            };
            assert_eq!(found, expected, "{rows} x {columns}, one of {every}");
        }
    }
}

/// Probabilities that are far from the threshold, near it, and on it.
fn crop(size: [usize; 2], slice: usize, threshold: f32) -> Vec<f32> {
    let at = |i: usize| {
        let seed = slice * 100_003 + i;
        match noise(seed) % 4 {
            0 => unit(seed),
            1 => threshold + (unit(seed) - 0.5) * 1e-4,
            2 => threshold + (unit(seed) - 0.5) * 1e-7,
            _ => threshold,
        }
    };
    (0..size[0] * size[1]).map(at).collect()
}

#[test]
fn pasted_bits_equal_the_cpu() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    for (rows, columns, grid, source) in [
        (3..7, 2..9, [10, 11], [25, 29]),
        (0..10, 0..10, [10, 10], [25, 70]),
        (2..4, 3..4, [10, 10], [10, 10]),
        (1..9, 0..33, [9, 40], [3, 100]),
        (10..60, 5..75, [64, 80], [171, 213]),
        (0..1, 0..1, [1, 1], [4, 33]),
    ] {
        for threshold in [0.2f32, 0.5] {
            let size = [rows.len(), columns.len()];
            let paste = Paste::new(&rows, &columns, grid, source);
            let pasted = Pasted::new(&paste);
            let crops: Vec<Vec<f32>> = (0..3).map(|slice| crop(size, slice, threshold)).collect();
            let values = buffer(&mut stream, &crops.concat());
            let bits = device.buffer(8 + 3 * pasted.words() * 4).unwrap();
            let all = Crops { values: &values, slices: 3, size };
            pasted.launch(&mut stream, all, threshold, &bits, 8).unwrap();
            let mut words = vec![0u32; 3 * pasted.words()];
            stream.download(&bits, 8, &mut words).unwrap();
            for (crop, mask) in crops.iter().zip(words.chunks_exact(pasted.words())) {
                let mut expected = vec![0u8; source[0] * source[1]];
                paste.each_row(crop, size[1], |offset, values| {
                    for (label, value) in expected[offset..].iter_mut().zip(values) {
                        *label = if *value >= threshold { 4 } else { 0 };
                    }
                });
                let mut found = vec![0u8; source[0] * source[1]];
                pasted.unpack(mask, 4, &mut found);
                assert!(found == expected, "{rows:?} x {columns:?} of {grid:?} to {source:?} at {threshold}");
            }
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let usage = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Usage { .. }));
    let (small, flags) = (device.buffer(15).unwrap(), device.buffer(4).unwrap());
    assert!(usage(sigmoid(&mut stream, &small, 4, &flags)));
    assert!(usage(lungs(&mut stream, &small, [1, 2, 2], 0.5, &device.buffer(24).unwrap())));
    assert!(usage(lungs(&mut stream, &device.buffer(16).unwrap(), [1, 2, 2], 0.5, &flags)));
    let paste = Paste::new(&(0..2), &(0..2), [2, 2], [4, 4]);
    let crops = Crops { values: &small, slices: 1, size: [2, 2] };
    assert!(usage(Pasted::new(&paste).launch(&mut stream, crops, 0.5, &device.buffer(16).unwrap(), 0)));
    let values = device.buffer(16).unwrap();
    let crops = Crops { values: &values, ..crops };
    assert!(usage(Pasted::new(&paste).launch(&mut stream, crops, 0.5, &device.buffer(16).unwrap(), 4)));
}
