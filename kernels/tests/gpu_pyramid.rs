//! The pyramid's kernels on the software device, against the CPU's: value for value.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{buffer, device, noise, unit};
use kernels::device::{Device, DeviceError};
use kernels::gpu::pyramid::{FeatureFormat, PooledError, Pyramid};
use kernels::{PyramidError, PyramidPool};

/// Half precision → single, by the definition of IEEE 754 binary16.
fn widen(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// A feature: finite, of either sign, of any size that its type has.
fn feature(seed: usize, half: bool) -> (u32, f32) {
    if half {
        let bits = noise(seed) as u16;
        let bits = if bits & 0x7c00 == 0x7c00 { bits & !0x4000 } else { bits };
        (u32::from(bits), widen(bits))
    } else {
        let value = (unit(seed) - 0.75) * 10f32.powi((noise(seed) % 60) as i32 - 30);
        (value.to_bits(), value)
    }
}

fn formats() -> impl Iterator<Item = FeatureFormat> {
    [(1, 8), (8, 8), (11, 16)].into_iter().flat_map(|(channels, channel_stride)| {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(half, channels_last)| FeatureFormat { channels, half, channels_last, channel_stride })
    })
}

/// A volume as the device takes it and as the CPU does; what is no feature is poison on the device.
struct Volume {
    format: FeatureFormat,
    size: [usize; 2],
    slices: usize,
}

impl Volume {
    fn seed(&self, slice: usize, channel: usize, pixel: usize) -> usize {
        (slice * 64 + channel) * 1_000_003 + pixel
    }

    /// Slices of features as words of their type.
    fn words(&self, slices: std::ops::Range<usize>) -> Vec<u32> {
        let pixels = self.size[0] * self.size[1];
        let stride = self.format.channel_stride;
        let mut words = Vec::new();
        for slice in slices {
            for at in 0..pixels * stride {
                let (pixel, channel) = if self.format.channels_last {
                    (at / stride, at % stride)
                } else {
                    (at % pixels, at / pixels)
                };
                let seed = self.seed(slice, channel, pixel);
                // Padding is zero where the channels are last, and anything where they are first.
                let zero = channel >= self.format.channels && self.format.channels_last;
                words.push(if zero { 0 } else { feature(seed, self.format.half).0 });
            }
        }
        words
    }

    fn pooled_on_cpu(&self) -> Vec<f32> {
        let [rows, columns] = self.size;
        let mut pool = PyramidPool::new(self.format.channels, rows, columns, self.slices);
        for slice in 0..self.slices {
            let mut features = Vec::new();
            for channel in 0..self.format.channels {
                features.extend(
                    (0..rows * columns).map(|p| feature(self.seed(slice, channel, p), self.format.half).1),
                );
            }
            pool.push(slice, &features).unwrap();
        }
        pool.finish().unwrap()
    }

    /// Pools on the device in batches of `batch` slices, last ones first.
    fn pooled(&self, device: &Device, pyramid: &mut Pyramid, batch: usize) -> Result<Vec<f32>, PooledError> {
        let mut stream = device.stream().unwrap();
        pyramid.begin(&mut stream, self.format, self.size, self.slices)?;
        for first in (0..self.slices).step_by(batch).rev() {
            let stop = (first + batch).min(self.slices);
            let words = self.words(first..stop);
            let features = if self.format.half {
                buffer(&mut stream, &words.iter().map(|word| *word as u16).collect::<Vec<_>>())
            } else {
                buffer(&mut stream, &words)
            };
            pyramid.push(&mut stream, first, stop - first, &features)?;
        }
        pyramid.finish(&mut stream)
    }
}

#[test]
fn equals_the_cpu_in_every_format_size_and_batch() {
    let Some(device) = device() else { return };
    let mut pyramid = Pyramid::new(&device).unwrap();
    let sizes = [
        ([1, 1], 1, 1),
        ([7, 5], 3, 2),
        ([8, 8], 8, 3),
        ([3, 37], 9, 9),
        ([19, 23], 13, 5),
        ([31, 1], 17, 16),
        ([2, 300], 4, 3),
        ([41, 64], 20, 20),
    ];
    for format in formats() {
        for (size, slices, batch) in sizes {
            let volume = Volume { format, size, slices };
            let expected = volume.pooled_on_cpu();
            let found = volume.pooled(&device, &mut pyramid, batch).unwrap();
            assert!(found == expected, "{format:?}, {size:?}, {slices} slices in batches of {batch}");
        }
    }
}

/// Wide planes: several tiles of columns where the channels are last, few rows a stage where they are first.
#[test]
fn equals_the_cpu_for_the_widest_plane() {
    let Some(device) = device() else { return };
    let mut pyramid = Pyramid::new(&device).unwrap();
    for (half, channels_last) in [(true, true), (false, false)] {
        let format = FeatureFormat { channels: 8, half, channels_last, channel_stride: 8 };
        let volume = Volume { format, size: [9, 1024], slices: 2 };
        assert!(volume.pooled(&device, &mut pyramid, 2).unwrap() == volume.pooled_on_cpu(), "{format:?}");
    }
}

/// Threads and blocks from the last to the first: the other tests of this process may run that way meanwhile, which is as good.
#[test]
fn does_not_depend_on_the_order_of_threads() {
    let Some(device) = device() else { return };
    let mut pyramid = Pyramid::new(&device).unwrap();
    for format in formats().filter(|format| format.channels == 8) {
        let volume = Volume { format, size: [21, 37], slices: 11 };
        kernels::shim::set_reverse(true);
        let found = volume.pooled(&device, &mut pyramid, 4).unwrap();
        kernels::shim::set_reverse(false);
        assert!(found == volume.pooled_on_cpu(), "{format:?}");
    }
}

#[test]
fn what_is_not_finite_is_never_swallowed() {
    let Some(device) = device() else { return };
    let mut pyramid = Pyramid::new(&device).unwrap();
    for format in formats().filter(|format| format.channels == 8) {
        for (word, half_word) in [
            (f32::NAN.to_bits(), 0x7e00u16),
            (f32::NEG_INFINITY.to_bits(), 0xfc00),
            (f32::INFINITY.to_bits(), 0x7c00),
        ] {
            let mut stream = device.stream().unwrap();
            let volume = Volume { format, size: [5, 6], slices: 2 };
            pyramid.begin(&mut stream, format, volume.size, 2).unwrap();
            let mut words = volume.words(0..2);
            words[5 * 6 * 8 + 77] = if format.half { u32::from(half_word) } else { word };
            let features = if format.half {
                buffer(&mut stream, &words.iter().map(|word| *word as u16).collect::<Vec<_>>())
            } else {
                buffer(&mut stream, &words)
            };
            pyramid.push(&mut stream, 0, 2, &features).unwrap();
            assert!(
                matches!(pyramid.finish(&mut stream), Err(PooledError::NotFinite)),
                "{format:?} {word:x}"
            );
            // The next study is not the last one's.
            assert!(volume.pooled(&device, &mut pyramid, 1).unwrap() == volume.pooled_on_cpu());
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let mut pyramid = Pyramid::new(&device).unwrap();
    let format = FeatureFormat { channels: 8, half: true, channels_last: true, channel_stride: 8 };
    let small = device.buffer(4 * 5 * 16 - 1).unwrap();
    let usage = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Usage { .. }));
    assert!(usage(pyramid.push(&mut stream, 0, 1, &small)), "nothing was begun");
    assert!(usage(pyramid.begin(&mut stream, format, [0, 5], 3)));
    assert!(usage(pyramid.begin(&mut stream, FeatureFormat { channel_stride: 9, ..format }, [4, 5], 3)));
    let first = FeatureFormat { channels_last: false, ..format };
    assert!(usage(pyramid.begin(&mut stream, first, [4, 1025], 3)));
    pyramid.begin(&mut stream, format, [4, 5], 3).unwrap();
    assert!(usage(pyramid.push(&mut stream, 0, 1, &small)));
    let features = device.buffer(4 * 5 * 16).unwrap();
    stream.fill_zero(&features, 0, features.bytes()).unwrap();
    assert!(usage(pyramid.push(&mut stream, 3, 1, &features)));
    pyramid.push(&mut stream, 1, 1, &features).unwrap();
    let error = pyramid.finish(&mut stream).unwrap_err();
    assert!(matches!(error, PooledError::Pyramid(PyramidError::Missing { slice: 0 })));
}
