//! The networks' layers on the software device against plain loops in f64.
//!
//! In fp32 within 1e-5 of the magnitudes that were added; in fp16 half a unit in the last place of the result more, since inputs and weights are
//! halves and sums are in fp32.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use kernels::device::{Buffer, Device, Stream};
use kernels::gpu::layers::{self, Arithmetic, Conv, Finish, Shape, Span, Weights, Window, half_bits, padded};

const ALL: [Arithmetic; 3] = [Arithmetic::Tensor, Arithmetic::Half, Arithmetic::Single];

fn gpu() -> Option<Gpu> {
    match kernels::shim::load() {
        Ok(_) => {
            let device = Device::open(0, 1 << 30).unwrap();
            let stream = device.stream().unwrap();
            Some(Gpu { device, stream })
        }
        Err(skipped) => {
            assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "{skipped}");
            println!("{skipped}");
            None
        }
    }
}

struct Gpu {
    device: Device,
    stream: Stream,
}

/// A map, channels as they are named: [slice][row][column][channel], with the magnitudes that were added to each value.
#[derive(Clone)]
struct Map {
    shape: Shape,
    channels: usize,
    values: Vec<f64>,
    weights: Vec<f64>,
}

/// Reproducible halves in [-1, 1] without structure.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        // Marsaglia's xorshift64; 10 bits, so that every value is a half.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 53) as f32 / 1024.0 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    fn map(&mut self, shape: Shape, channels: usize) -> Map {
        Map::fill(shape, channels, |_, _| {
            let value = f64::from(self.next());
            (value, value.abs())
        })
    }
}

impl Map {
    fn fill(shape: Shape, channels: usize, mut each: impl FnMut([usize; 3], usize) -> (f64, f64)) -> Self {
        let mut map = Self { shape, channels, values: Vec::new(), weights: Vec::new() };
        for at in 0..shape.iter().product() {
            let (row, x) = (at / shape[2], at % shape[2]);
            for channel in 0..channels {
                let (value, weight) = each([row / shape[1], row % shape[1], x], channel);
                map.values.push(value);
                map.weights.push(weight);
            }
        }
        map
    }

    fn at(&self, [slice, y, x]: [usize; 3], channel: usize) -> (f64, f64) {
        let at = ((slice * self.shape[1] + y) * self.shape[2] + x) * self.channels + channel;
        (self.values[at], self.weights[at])
    }

    /// [output][input][tap] weights.
    fn conv(&self, side: usize, outputs: usize, weights: &[f32]) -> Self {
        let (taps, reach) = (side * side, side / 2);
        Self::fill(self.shape, outputs, |[slice, y, x], output| {
            let (mut sum, mut size) = (0.0, 0.0);
            for tap in 0..taps {
                let (from_y, from_x) = (y + tap / side, x + tap % side);
                let inside = |from: usize, len: usize| from >= reach && from < len + reach;
                if !inside(from_y, self.shape[1]) || !inside(from_x, self.shape[2]) {
                    continue;
                }
                for input in 0..self.channels {
                    let w = f64::from(weights[(output * self.channels + input) * taps + tap]);
                    let (value, weight) = self.at([slice, from_y - reach, from_x - reach], input);
                    sum += w * value;
                    size += w.abs() * weight;
                }
            }
            (sum, size)
        })
    }

    fn each(&self, mut each: impl FnMut(usize, (f64, f64), usize) -> (f64, f64)) -> Self {
        let mut out = self.clone();
        for at in 0..out.values.len() {
            let old = (self.values[at], self.weights[at]);
            (out.values[at], out.weights[at]) = each(at, old, at % self.channels);
        }
        out
    }

    fn check(&self, got: &[f32], arithmetic: Arithmetic, what: &str) {
        let stride = padded(self.channels);
        assert_eq!(got.len() / stride * self.channels, self.values.len(), "{what}: number of values");
        for (at, &got) in got.iter().enumerate() {
            let (pixel, channel) = (at / stride, at % stride);
            if channel >= self.channels {
                assert_eq!(got, 0.0, "{what}: padding of pixel {pixel}");
                continue;
            }
            let at = pixel * self.channels + channel;
            let (want, size) = (self.values[at], self.weights[at]);
            // Half a unit in the last place of a half, or of the least one.
            let rounding = if arithmetic == Arithmetic::Single {
                0.0
            } else {
                want.abs() / 2048.0 + 1.0 / f64::from(1 << 25)
            };
            let bound = size * 1e-5 + rounding + 1e-30;
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= bound,
                "{what}: pixel {pixel}, channel {channel} is {got}, not {want} ({error:e})"
            );
        }
    }
}

/// Bias, residual, second output: everything that a layer may have after its values.
struct End {
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    residual: Option<Map>,
    relu: bool,
    second_relu: bool,
}

impl End {
    fn new(noise: &mut Noise, shape: Shape, channels: usize, kind: usize) -> Self {
        let biased = !kind.is_multiple_of(3);
        Self {
            bias: if biased { noise.values(channels) } else { vec![0.0; channels] },
            scale: noise.values(channels),
            shift: noise.values(channels),
            residual: (kind % 2 == 1).then(|| noise.map(shape, channels)),
            relu: kind & 2 != 0,
            second_relu: kind & 4 != 0,
        }
    }

    /// Both outputs.
    fn apply(&self, map: &Map) -> [Map; 2] {
        let raw = map.each(|at, (mut value, mut size), c| {
            value += f64::from(self.bias[c]);
            size += f64::from(self.bias[c]).abs();
            if let Some(residual) = &self.residual {
                value += residual.values[at];
                size += residual.weights[at];
            }
            (if self.relu { value.max(0.0) } else { value }, size)
        });
        let second = raw.each(|_, (value, size), c| {
            let (scale, shift) = (f64::from(self.scale[c]), f64::from(self.shift[c]));
            let value = value * scale + shift;
            (if self.second_relu { value.max(0.0) } else { value }, size * scale.abs() + shift.abs())
        });
        [raw, second]
    }
}

impl Gpu {
    fn bytes(&mut self, bytes: &[u8]) -> Buffer {
        let buffer = self.device.buffer(bytes.len()).unwrap();
        self.stream.upload(&buffer, 0, bytes).unwrap();
        buffer
    }

    fn floats(&mut self, values: &[f32]) -> Buffer {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    fn map(&mut self, map: &Map, arithmetic: Arithmetic) -> Buffer {
        let stride = padded(map.channels);
        let mut values = vec![0.0; map.values.len() / map.channels * stride];
        for (at, &value) in map.values.iter().enumerate() {
            values[at / map.channels * stride + at % map.channels] = value as f32;
        }
        if arithmetic == Arithmetic::Single {
            return self.floats(&values);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|&v| half_bits(v).to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A buffer of what is no number: what a kernel leaves out shows.
    fn output(&mut self, shape: Shape, channels: usize, arithmetic: Arithmetic) -> Buffer {
        self.bytes(&vec![0xff; shape.iter().product::<usize>() * padded(channels) * arithmetic.bytes()])
    }

    fn read(&mut self, buffer: &Buffer, arithmetic: Arithmetic) -> Vec<f32> {
        if arithmetic == Arithmetic::Single {
            let mut values = vec![0.0_f32; buffer.bytes() / 4];
            self.stream.download(buffer, 0, &mut values).unwrap();
            return values;
        }
        let mut bits = vec![0_u16; buffer.bytes() / 2];
        self.stream.download(buffer, 0, &mut bits).unwrap();
        bits.into_iter().map(widen).collect()
    }

    /// Runs a layer with an end, and checks both outputs against `values` with the same end.
    fn layer(
        &mut self,
        arithmetic: Arithmetic,
        values: &Map,
        end: &End,
        what: &str,
        launch: impl FnOnce(&mut Self, &Finish<'_>),
    ) {
        let affine = self.floats(&layers::affine(&end.bias, Some((&end.scale, &end.shift))));
        let residual = end.residual.as_ref().map(|map| self.map(map, arithmetic));
        let [raw, second] = [0, 1].map(|_| self.output(values.shape, values.channels, arithmetic));
        let finish = Finish {
            affine: Span::all(&affine),
            residual: residual.as_ref().map(Span::all),
            relu: end.relu,
            raw: Some(Span::all(&raw)),
            second: Some(Span::all(&second)),
            second_relu: end.second_relu,
        };
        launch(self, &finish);
        for (want, (got, which)) in end.apply(values).iter().zip([(&raw, "first"), (&second, "second")]) {
            let got = self.read(got, arithmetic);
            want.check(&got, arithmetic, &format!("{what}, {which} output"));
        }
    }

    fn weights(&mut self, weights: Weights) -> Buffer {
        match weights {
            Weights::Half(bits) => {
                let bytes: Vec<u8> = bits.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.bytes(&bytes)
            }
            Weights::Single(values) => self.floats(&values),
        }
    }

    fn conv(
        &mut self,
        arithmetic: Arithmetic,
        [side, outputs]: [usize; 2],
        input: &Map,
        weights: &[f32],
        finish: &Finish<'_>,
    ) {
        let channels = [input.channels, outputs];
        let weights = self.weights(layers::pack(arithmetic, side, channels, weights));
        let map = self.map(input, arithmetic);
        let (input, weights, shape) = (Span::all(&map), Span::all(&weights), input.shape);
        let conv = Conv { side, channels: channels.map(padded), shape, input, weights };
        layers::convolve(&mut self.stream, arithmetic, &conv, finish).unwrap();
        // The buffers are dropped here.
        self.stream.synchronize().unwrap();
    }
}

fn widen(half: u16) -> f32 {
    let (sign, magnitude) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff));
    let bits = match magnitude {
        0..0x0400 => (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits(),
        0x0400..0x7c00 => (magnitude << 13) + ((127 - 15) << 23),
        _ => 0x7f80_0000 | magnitude << 13,
    };
    f32::from_bits(sign | bits)
}

fn check_conv(gpu: &mut Gpu, side: usize, shape: Shape, [inputs, outputs]: [usize; 2], kind: usize) {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ (kind as u64) << 32 ^ (inputs * 1000 + outputs) as u64);
    let input = noise.map(shape, inputs);
    let weights = noise.values(side * side * inputs * outputs);
    let end = End::new(&mut noise, shape, outputs, kind);
    let values = input.conv(side, outputs, &weights);
    for arithmetic in ALL {
        let what = format!("{arithmetic:?} {side} x {side} of {shape:?}, {inputs} to {outputs}, end {kind}");
        gpu.layer(arithmetic, &values, &end, &what, |gpu, finish| {
            gpu.conv(arithmetic, [side, outputs], &input, &weights, finish);
        });
    }
}

#[test]
fn convolutions_are_those_of_plain_loops() {
    let Some(mut gpu) = gpu() else { return };
    let mut kind = 0;
    let sizes =
        [[1, 1, 1], [2, 1, 7], [1, 8, 15], [3, 16, 17], [1, 31, 8], [2, 5, 46], [1, 3, 47], [1, 4, 101]];
    for shape in sizes {
        for side in [1, 3] {
            for channels in [[8, 8], [8, 16], [16, 8], [24, 24], [5, 3]] {
                check_conv(&mut gpu, side, shape, channels, kind);
                kind = (kind + 1) % 8;
            }
        }
    }
    for shape in [[1, 1, 1], [5, 3, 3], [2, 7, 8], [1, 17, 31]] {
        for side in [1, 3] {
            for channels in [[16, 32], [32, 64], [64, 32], [40, 96], [8, 64]] {
                check_conv(&mut gpu, side, shape, channels, kind);
                kind = (kind + 1) % 8;
            }
        }
    }
}

/// Maps so large that the largest blocks are taken, and the division of positions is by large numbers.
#[test]
fn large_maps_and_many_slices() {
    let Some(mut gpu) = gpu() else { return };
    for (shape, channels) in
        [([1, 130, 260], [8, 8]), ([300, 3, 3], [16, 64]), ([40, 10, 21], [16, 32]), ([2, 150, 50], [16, 16])]
    {
        check_conv(&mut gpu, 3, shape, channels, 5);
        check_conv(&mut gpu, 1, shape, channels, 7);
    }
}

/// A slice gives the same bits whatever is beside it, also where a batch is cut into other blocks.
#[test]
fn a_slice_does_not_depend_on_its_batch() {
    let Some(mut gpu) = gpu() else { return };
    let mut noise = Noise(77);
    for (channels, shape) in [([8, 8], [5, 13, 9]), ([16, 32], [40, 9, 20]), ([32, 64], [25, 7, 5])] {
        let input = noise.map(shape, channels[0]);
        let weights = noise.values(9 * channels[0] * channels[1]);
        let affine = gpu.floats(&layers::affine(&noise.values(channels[1]), None));
        for arithmetic in ALL {
            let mut run = |input: &Map| {
                let raw = gpu.output(input.shape, channels[1], arithmetic);
                let finish = Finish {
                    affine: Span::all(&affine),
                    residual: None,
                    relu: false,
                    raw: Some(Span::all(&raw)),
                    second: None,
                    second_relu: false,
                };
                gpu.conv(arithmetic, [3, channels[1]], input, &weights, &finish);
                gpu.read(&raw, arithmetic)
            };
            let all = run(&input);
            let each = input.values.len() / shape[0];
            for slice in [0, shape[0] / 2, shape[0] - 1] {
                let values = input.values[slice * each..][..each].to_vec();
                let alone =
                    run(&Map { shape: [1, shape[1], shape[2]], weights: values.clone(), values, ..input });
                let same = &all[slice * alone.len()..][..alone.len()];
                assert!(
                    alone.iter().zip(same).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{arithmetic:?} {shape:?}"
                );
            }
        }
    }
}

#[test]
fn the_ends_are_those_of_plain_loops() {
    let Some(mut gpu) = gpu() else { return };
    for (kind, shape) in [[1, 1, 1], [2, 7, 8], [1, 15, 31], [3, 16, 17]].into_iter().enumerate() {
        for channels in [8, 16, 3] {
            let mut noise = Noise(500 + kind as u64);
            let plane = noise.map(shape, 1);
            let weights = noise.values(9 * channels);
            let end = End::new(&mut noise, shape, channels, kind + 4);
            let values = plane.conv(3, channels, &weights);
            let mut packed = vec![0.0; 9 * padded(channels)];
            for (at, weight) in weights.iter().enumerate() {
                packed[at % 9 * padded(channels) + at / 9] = *weight;
            }
            let floats: Vec<f32> = plane.values.iter().map(|&v| v as f32).collect();
            let (plane, packed) = (gpu.floats(&floats), gpu.floats(&packed));
            for arithmetic in ALL {
                let what = format!("{arithmetic:?} first of {shape:?} to {channels}");
                gpu.layer(arithmetic, &values, &end, &what, |gpu, finish| {
                    let operands = [Span::all(&plane), Span::all(&packed)];
                    layers::first(&mut gpu.stream, arithmetic, shape, padded(channels), operands, finish)
                        .unwrap();
                });
            }
            let input = noise.map(shape, channels);
            let (weights, bias) = (noise.values(channels), noise.next());
            let want = input
                .conv(1, 1, &weights)
                .each(|_, (value, size), _| (value + f64::from(bias), size + f64::from(bias).abs()));
            let packed = gpu.floats(&layers::last(&weights, bias));
            for arithmetic in ALL {
                let map = gpu.map(&input, arithmetic);
                let plane = gpu.floats(&vec![f32::NAN; shape.iter().product()]);
                let operands = [Span::all(&map), Span::all(&packed), Span::all(&plane)];
                layers::to_plane(&mut gpu.stream, arithmetic, shape, padded(channels), operands).unwrap();
                let got = gpu.read(&plane, Arithmetic::Single);
                for (got, (want, size)) in got.iter().zip(want.values.iter().zip(&want.weights)) {
                    assert!(
                        (f64::from(*got) - want).abs() <= size * 1e-5,
                        "{arithmetic:?}: {got}, not {want}"
                    );
                }
            }
        }
    }
}

/// As in PyTorch's documentation of `MaxPool2d`.
fn pooled(len: usize, window: &Window, axis: usize, after: usize, ceil: bool) -> usize {
    let room = (len + window.before[axis] + after) as f64 - window.size[axis] as f64;
    let steps = room / window.stride[axis] as f64;
    let out = if ceil { steps.ceil() } else { steps.floor() } as usize + 1;
    out - usize::from((out - 1) * window.stride[axis] >= len + window.before[axis])
}

#[test]
fn poolings_are_those_of_plain_loops() {
    let Some(mut gpu) = gpu() else { return };
    let windows = [([2, 2], [2, 2], [0, 0]), ([3, 3], [2, 2], [1, 1]), ([3, 2], [1, 3], [1, 0])];
    for (kind, shape) in [[1, 1, 1], [2, 7, 8], [1, 15, 16], [2, 17, 31]].into_iter().enumerate() {
        for (size, stride, before) in windows {
            let window = Window { size, stride, before };
            for ceil in [false, true] {
                if (0..2).any(|a| shape[a + 1] + 2 * before[a] < size[a]) {
                    continue;
                }
                let to = [0, 1].map(|a| pooled(shape[a + 1], &window, a, before[a], ceil));
                let mut noise = Noise(900 + kind as u64);
                let input = noise.map(shape, 16);
                let values = Map::fill([shape[0], to[0], to[1]], 16, |[slice, y, x], c| {
                    let mut best = (f64::NEG_INFINITY, 0.0);
                    for tap in 0..size[0] * size[1] {
                        let from_y = (y * stride[0] + tap / size[1]).wrapping_sub(before[0]);
                        let from_x = (x * stride[1] + tap % size[1]).wrapping_sub(before[1]);
                        if from_y < shape[1] && from_x < shape[2] {
                            let value = input.at([slice, from_y, from_x], c);
                            best = if value.0 > best.0 { value } else { best };
                        }
                    }
                    best
                });
                let end = End::new(&mut noise, values.shape, 16, kind + usize::from(ceil));
                for arithmetic in ALL {
                    let map = gpu.map(&input, arithmetic);
                    let what = format!("{arithmetic:?} {window:?} of {shape:?}, ceil {ceil}");
                    gpu.layer(arithmetic, &values, &end, &what, |gpu, finish| {
                        let maps = (Span::all(&map), shape, to);
                        layers::max_pool(&mut gpu.stream, arithmetic, maps, 16, &window, finish).unwrap();
                    });
                }
            }
        }
    }
}

#[test]
fn resizings_are_those_of_plain_loops() {
    let Some(mut gpu) = gpu() else { return };
    for (kind, (from, to)) in
        [([1, 1], [1, 1]), ([4, 4], [7, 8]), ([3, 3], [5, 6]), ([16, 9], [31, 17]), ([15, 8], [4, 16])]
            .into_iter()
            .enumerate()
    {
        let mut noise = Noise(1300 + kind as u64);
        let shape = [2, from[0], from[1]];
        let input = noise.map(shape, 24);
        // ONNX, Resize: linear, half_pixel.
        let places = |axis: usize, index: usize| {
            let last = (from[axis] - 1) as f64;
            let scale = to[axis] as f64 / from[axis] as f64;
            let at = ((index as f64 + 0.5) / scale - 0.5).clamp(0.0, last);
            let second = (at.floor() + 1.0).min(last);
            [(at.floor() as usize, 1.0 - at.fract()), (second as usize, at.fract())]
        };
        let values = Map::fill([2, to[0], to[1]], 24, |[slice, y, x], c| {
            let (mut sum, mut size) = (0.0, 0.0);
            for (from_y, weight_y) in places(0, y) {
                for (from_x, weight_x) in places(1, x) {
                    let (value, weight) = input.at([slice, from_y, from_x], c);
                    sum += value * weight_y * weight_x;
                    size += weight * weight_y * weight_x;
                }
            }
            (sum, size)
        });
        let end = End::new(&mut noise, values.shape, 24, kind + 1);
        for arithmetic in ALL {
            let map = gpu.map(&input, arithmetic);
            let what = format!("{arithmetic:?} {from:?} to {to:?}");
            gpu.layer(arithmetic, &values, &end, &what, |gpu, finish| {
                let maps = (Span::all(&map), shape, to);
                layers::resize(&mut gpu.stream, arithmetic, maps, 24, finish).unwrap();
            });
        }
    }
}

#[test]
fn copies_joins_and_global_poolings() {
    let Some(mut gpu) = gpu() else { return };
    let (mut noise, shape) = (Noise(31), [2, 7, 5]);
    let parts = [noise.map(shape, 8), noise.map(shape, 24)];
    let joined =
        Map::fill(shape, 32, |at, c| if c < 8 { parts[0].at(at, c) } else { parts[1].at(at, c - 8) });
    let end = End::new(&mut noise, shape, 32, 7);
    for arithmetic in ALL {
        let maps = [0, 1].map(|at| gpu.map(&parts[at], arithmetic));
        gpu.layer(arithmetic, &joined, &end, &format!("{arithmetic:?} joined"), |gpu, finish| {
            for (map, [count, offset]) in maps.iter().zip([[8, 0], [24, 8]]) {
                let source = (Span::all(map), shape);
                layers::copy(&mut gpu.stream, arithmetic, source, [count, offset, 32], finish).unwrap();
            }
        });
    }
    for shape in [[1, 1, 1], [3, 7, 5], [2, 31, 17]] {
        let input = noise.map(shape, 16);
        let pixels = shape[1] * shape[2];
        for max in [false, true] {
            let want = Map::fill([shape[0], 1, 1], 16, |[slice, ..], c| {
                let all = (0..pixels).map(|p| input.at([slice, p / shape[2], p % shape[2]], c));
                if max {
                    all.fold((f64::NEG_INFINITY, 0.0), |a, b| if b.0 > a.0 { b } else { a })
                } else {
                    let (sum, size) = all.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
                    (sum / pixels as f64, size / pixels as f64)
                }
            });
            for arithmetic in ALL {
                let affine = gpu.floats(&layers::affine(&[0.0; 16], None));
                let (map, out) = (gpu.map(&input, arithmetic), gpu.output([shape[0], 1, 1], 16, arithmetic));
                let (source, ends) = ((Span::all(&map), shape), [Span::all(&affine), Span::all(&out)]);
                layers::global_pool(&mut gpu.stream, arithmetic, source, 16, max, ends).unwrap();
                let got = gpu.read(&out, arithmetic);
                want.check(&got, arithmetic, &format!("{arithmetic:?} global, max {max}, {shape:?}"));
            }
        }
    }
}

/// What is no number must reach the outputs, where the engine refuses it; clips and maxima must not swallow it.
#[test]
fn what_is_no_number_stays() {
    let Some(mut gpu) = gpu() else { return };
    let shape = [1, 4, 4];
    let mut input = Noise(5).map(shape, 8);
    input.values[5 * 8] = f64::NAN;
    for arithmetic in ALL {
        let affine = gpu.floats(&layers::affine(&[0.0; 8], Some((&[1.0; 8], &[0.0; 8]))));
        let [raw, second] = [0, 1].map(|_| gpu.output(shape, 8, arithmetic));
        let finish = Finish {
            affine: Span::all(&affine),
            residual: None,
            relu: true,
            raw: Some(Span::all(&raw)),
            second: Some(Span::all(&second)),
            second_relu: true,
        };
        let identity: Vec<f32> = (0..64).map(|at| if at % 9 == 0 { 1.0 } else { 0.0 }).collect();
        gpu.conv(arithmetic, [1, 8], &input, &identity, &finish);
        let outputs = [gpu.read(&raw, arithmetic), gpu.read(&second, arithmetic)];
        assert!(outputs.iter().all(|out| out[5 * 8].is_nan()), "{arithmetic:?} convolution");
        let map = gpu.map(&input, arithmetic);
        let window = Window { size: [2, 2], stride: [2, 2], before: [0, 0] };
        let maps = (Span::all(&map), shape, [2, 2]);
        layers::max_pool(&mut gpu.stream, arithmetic, maps, 8, &window, &finish).unwrap();
        assert!(gpu.read(&raw, arithmetic)[0].is_nan(), "{arithmetic:?} pooling");
        let (source, ends) = ((Span::all(&map), shape), [Span::all(&affine), Span::all(&raw)]);
        layers::global_pool(&mut gpu.stream, arithmetic, source, 8, true, ends).unwrap();
        assert!(gpu.read(&raw, arithmetic)[0].is_nan(), "{arithmetic:?} global pooling");
    }
}

/// Sizes that would make a kernel touch what is not its own are refused before the launch.
#[test]
fn wrong_sizes_are_refused() {
    let Some(mut gpu) = gpu() else { return };
    let buffer = gpu.device.buffer(4096).unwrap();
    let span = Span::all(&buffer);
    let finish = Finish {
        affine: span,
        residual: None,
        relu: false,
        raw: Some(span),
        second: None,
        second_relu: false,
    };
    let conv = Conv { side: 1, channels: [8, 8], shape: [1, 2, 2], input: span, weights: span };
    let mut refused = |conv: &Conv<'_>, finish: &Finish<'_>, why: &str| {
        let error =
            layers::convolve(&mut gpu.stream, Arithmetic::Half, conv, finish).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&Conv { shape: [1, 20, 20], ..conv }, &finish, "the first output");
    refused(&Conv { channels: [8, 12], ..conv }, &finish, "12");
    refused(&Conv { side: 5, ..conv }, &finish, "side of a convolution");
    refused(&Conv { shape: [0, 2, 2], ..conv }, &finish, "pixels of a map");
    refused(&Conv { shape: [1 << 20, 1 << 20, 1 << 30], ..conv }, &finish, "pixels of a map");
    refused(&conv, &Finish { residual: Some(Span { offset: 8, ..span }), ..finish }, "the residual");
    refused(&Conv { weights: Span { offset: 4000, ..span }, ..conv }, &finish, "the weights");
    let window = Window { size: [2, 2], stride: [2, 2], before: [0, 0] };
    let maps = (span, [1, 2, 2], [2, 1]);
    let error = layers::max_pool(&mut gpu.stream, Arithmetic::Half, maps, 8, &window, &finish).unwrap_err();
    assert!(error.to_string().contains("a window has no pixel"), "{error}");
}
