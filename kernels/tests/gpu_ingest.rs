//! The ingest kernels on the software device, against the CPU's decoder, zoom and window: to the bit.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{buffer, device, noise, unit};
use kernels::device::{Device, DeviceError, Plain};
use kernels::gpu::ingest::Ingest;
use kernels::{Stored, Zoom, window};

const WINDOW_HU: [f32; 2] = [-1000.0, 300.0];

/// Enlarged, reduced, single samples, and 4 → 188: one of the pairs whose last position rounds past the edge.
const SIZES: [([usize; 2], [usize; 2]); 7] = [
    ([1, 1], [3, 2]),
    ([5, 7], [5, 7]),
    ([4, 9], [188, 4]),
    ([64, 50], [24, 19]),
    ([33, 65], [1, 1]),
    ([31, 40], [40, 31]),
    ([128, 96], [37, 71]),
];

fn on_cpu(hu: &[f32], slices: usize, from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let zoom = Zoom::new(from, to);
    let planes = hu.chunks_exact(hu.len() / slices).flat_map(|slice| zoom.plane(slice, from[1]));
    let mut planes: Vec<f32> = planes.collect();
    window(&mut planes, WINDOW_HU);
    planes
}

fn on_device<T: Plain>(device: &Device, ingest: Ingest, pixels: &[T], stored: Option<&Stored>) -> Vec<f32> {
    let mut stream = device.stream().unwrap();
    let source = buffer(&mut stream, pixels);
    let mut out = vec![-1.0; ingest.slices * ingest.to[0] * ingest.to[1]];
    let planes = device.buffer(out.len() * 4).unwrap();
    match stored {
        Some(stored) => ingest.stored(&mut stream, &source, stored, &planes).unwrap(),
        None => ingest.hu(&mut stream, &source, &planes).unwrap(),
    }
    stream.download(&planes, 0, &mut out).unwrap();
    out
}

#[test]
fn hounsfield_units_equal_the_cpu() {
    let Some(device) = device() else { return };
    for (from, to) in SIZES {
        for slices in [1, 3] {
            let count = slices * from[0] * from[1];
            let hu: Vec<f32> = (0..count).map(|i| -1200.0 + 1700.0 * unit(i)).collect();
            let ingest = Ingest { slices, from, to, window_hu: WINDOW_HU };
            let found = on_device(&device, ingest, &hu, None);
            assert!(found == on_cpu(&hu, slices, from, to), "{from:?} to {to:?}, {slices} slices");
        }
    }
}

#[test]
fn stored_pixels_equal_the_cpu() {
    let Some(device) = device() else { return };
    let plain = Stored { bits: 12, shift: 0, signed: false, padding: None, slope: 1.0, intercept: -1024.0 };
    let forms = [
        plain,
        Stored { shift: 4, ..plain },
        Stored { bits: 16, signed: true, padding: Some(-2000), slope: 1.0, intercept: 0.0, ..plain },
        Stored { bits: 16, slope: 0.1, intercept: -1500.3, ..plain },
        Stored { bits: 12, signed: true, padding: Some(-5), slope: -1.5, intercept: 40.25, ..plain },
        Stored { bits: 1, shift: 15, padding: Some(1), ..plain },
    ];
    for stored in forms {
        for (from, to) in SIZES {
            let count = 2 * from[0] * from[1];
            let cell =
                |i: usize| if noise(i).is_multiple_of(5) { (-2000i16) as u16 } else { noise(i) as u16 };
            let cells: Vec<u16> = (0..count).map(cell).collect();
            let ingest = Ingest { slices: 2, from, to, window_hu: WINDOW_HU };
            let found = on_device(&device, ingest, &cells, Some(&stored));
            assert!(found == on_cpu(&stored.plane(&cells), 2, from, to), "{stored:?} {from:?} to {to:?}");
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let ingest = Ingest { slices: 2, from: [4, 5], to: [2, 2], window_hu: WINDOW_HU };
    let (small, planes) = (device.buffer(2 * 20 * 4 - 1).unwrap(), device.buffer(2 * 4 * 4).unwrap());
    let usage = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Usage { .. }));
    assert!(usage(ingest.hu(&mut stream, &small, &planes)));
    assert!(usage(Ingest { slices: 0, ..ingest }.hu(&mut stream, &small, &planes)));
    assert!(usage(Ingest { to: [3, 3], slices: 1, ..ingest }.hu(
        &mut stream,
        &small,
        &device.buffer(35).unwrap()
    )));
    let stored = Stored { bits: 12, shift: 5, signed: false, padding: None, slope: 1.0, intercept: 0.0 };
    assert!(usage(ingest.stored(&mut stream, &small, &stored, &planes)));
}
