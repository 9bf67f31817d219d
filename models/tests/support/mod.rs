//! The operators as plain loops in f64, and a writer of small ONNX files: what the engine is tested against.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod onnx;

pub use onnx::{Attribute, Data, File};

/// Reproducible values in [-1, 1) without structure.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() + 1.0) / 2.0 * end as f32) as usize % end
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A value of half precision near `v`, as bits and exactly; |v| from 2⁻¹⁴ to 1, or 0.
pub fn half(v: f32) -> (u16, f32) {
    if v.abs() < 1.0 / 16384.0 {
        return (0, 0.0);
    }
    let bits = v.to_bits() & 0xffff_e000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let half = (bits >> 16 & 0x8000) as u16 | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16;
    (half, f32::from_bits(bits))
}

/// A map: channels × depth × height × width.
#[derive(Clone, Debug)]
pub struct Map {
    pub channels: usize,
    pub dims: [usize; 3],
    pub values: Vec<f64>,
    /// For each value, the sum of the magnitudes that were added: rounding errors are in proportion to it.
    pub weight: Vec<f64>,
}

impl Map {
    pub fn new(channels: usize, dims: [usize; 3], values: &[f32]) -> Self {
        let values: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        assert_eq!(values.len(), channels * dims.iter().product::<usize>());
        Self { channels, dims, weight: values.iter().map(|v| v.abs()).collect(), values }
    }

    fn empty(channels: usize, dims: [usize; 3]) -> Self {
        let len = channels * dims.iter().product::<usize>();
        Self { channels, dims, values: vec![0.0; len], weight: vec![0.0; len] }
    }

    fn index(&self, c: usize, [z, y, x]: [usize; 3]) -> usize {
        ((c * self.dims[0] + z) * self.dims[1] + y) * self.dims[2] + x
    }

    /// Calls `each` for every position of every channel.
    fn fill(mut self, each: impl Fn(usize, [usize; 3]) -> (f64, f64)) -> Self {
        for c in 0..self.channels {
            for z in 0..self.dims[0] {
                for y in 0..self.dims[1] {
                    for x in 0..self.dims[2] {
                        let at = self.index(c, [z, y, x]);
                        (self.values[at], self.weight[at]) = each(c, [z, y, x]);
                    }
                }
            }
        }
        self
    }

    pub fn conv(&self, w: &[f32], bias: &[f32], window: &Window) -> Self {
        let dims = [0, 1, 2].map(|a| window.output(a, self.dims[a]));
        let [kd, kh, kw] = window.size;
        Self::empty(bias.len(), dims).fill(|o, at| {
            let (mut sum, mut weight) = (f64::from(bias[o]), f64::from(bias[o]).abs());
            window.each(at, self.dims, |[kz, ky, kx], from| {
                for i in 0..self.channels {
                    let w = f64::from(w[(((o * self.channels + i) * kd + kz) * kh + ky) * kw + kx]);
                    let at = self.index(i, from);
                    sum += w * self.values[at];
                    weight += w.abs() * self.weight[at];
                }
            });
            (sum, weight)
        })
    }

    pub fn max_pool(&self, window: &Window) -> Self {
        let dims = [0, 1, 2].map(|a| window.output(a, self.dims[a]));
        Self::empty(self.channels, dims).fill(|c, at| {
            let mut best = (f64::NEG_INFINITY, 0.0_f64);
            window.each(at, self.dims, |_, from| {
                let at = self.index(c, from);
                best = (best.0.max(self.values[at]), best.1.max(self.weight[at]));
            });
            best
        })
    }

    pub fn scale(&self, scale: &[f32], shift: &[f32]) -> Self {
        self.clone().fill(|c, at| {
            let (s, b, at) = (f64::from(scale[c]), f64::from(shift[c]), self.index(c, at));
            (self.values[at] * s + b, self.weight[at] * s.abs() + b.abs())
        })
    }

    pub fn relu(&self) -> Self {
        let mut out = self.clone();
        out.values.iter_mut().for_each(|v| *v = v.max(0.0));
        out
    }

    pub fn add(&self, other: &Self) -> Self {
        self.clone().fill(|c, at| {
            let at = self.index(c, at);
            (self.values[at] + other.values[at], self.weight[at] + other.weight[at])
        })
    }

    pub fn concat(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.channels += other.channels;
        out.values.extend(&other.values);
        out.weight.extend(&other.weight);
        out
    }

    /// Linear, between pixel centres; `scale` is the factor of each axis.
    pub fn resize(&self, dims: [usize; 3], scale: [f64; 3]) -> Self {
        let places = [0, 1, 2].map(|axis| {
            let place = |i: usize| {
                let last = self.dims[axis] - 1;
                let at = ((i as f64 + 0.5) / scale[axis] - 0.5).clamp(0.0, last as f64);
                let left = at.floor() as usize;
                [(left, 1.0 - at.fract()), ((left + 1).min(last), at.fract())]
            };
            (0..dims[axis]).map(place).collect::<Vec<_>>()
        });
        Self::empty(self.channels, dims).fill(|c, [z, y, x]| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for (sz, wz) in places[0][z] {
                for (sy, wy) in places[1][y] {
                    for (sx, wx) in places[2][x] {
                        let at = self.index(c, [sz, sy, sx]);
                        sum += wz * wy * wx * self.values[at];
                        weight += wz * wy * wx * self.weight[at];
                    }
                }
            }
            (sum, weight)
        })
    }

    pub fn global(&self, max: bool) -> Self {
        let size = self.dims.iter().product::<usize>();
        Self::empty(self.channels, [1; 3]).fill(|c, _| {
            let (values, weight) = (&self.values[c * size..][..size], &self.weight[c * size..][..size]);
            if max {
                (
                    values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    weight.iter().copied().fold(0.0, f64::max),
                )
            } else {
                (values.iter().sum::<f64>() / size as f64, weight.iter().sum::<f64>() / size as f64)
            }
        })
    }

    /// Fails where `got` is further away than rounding explains.
    pub fn check(&self, got: &[f32], what: &str) {
        assert_eq!(got.len(), self.values.len(), "{what}: number of values");
        for (at, (&got, (&want, &weight))) in got.iter().zip(self.values.iter().zip(&self.weight)).enumerate()
        {
            let error = (f64::from(got) - want).abs();
            // 16 units in the last place of the magnitudes that were added.
            assert!(
                error <= weight * 2e-6 + 1e-30,
                "{what}: value {at} is {got}, not {want} (error {error:e})"
            );
        }
    }
}

/// A sliding window: size, stride, padding, all by axis.
#[derive(Clone, Debug)]
pub struct Window {
    pub size: [usize; 3],
    pub stride: [usize; 3],
    pub pad: [usize; 3],
    pub ceil: bool,
}

impl Window {
    pub fn square(size: usize, stride: usize, pad: usize) -> Self {
        Self { size: [1, size, size], stride: [1, stride, stride], pad: [0, pad, pad], ceil: false }
    }

    pub fn cube(size: usize, stride: usize, pad: usize) -> Self {
        Self { size: [size; 3], stride: [stride; 3], pad: [pad; 3], ceil: false }
    }

    /// As in PyTorch's documentation of `MaxPool2d`.
    pub fn output(&self, axis: usize, len: usize) -> usize {
        let room = (len + 2 * self.pad[axis]) as f64 - self.size[axis] as f64;
        let steps = room / self.stride[axis] as f64;
        let mut out = if self.ceil { steps.ceil() } else { steps.floor() } as i64 + 1;
        if self.ceil && (out - 1) * self.stride[axis] as i64 >= (len + self.pad[axis]) as i64 {
            out -= 1;
        }
        out.max(0) as usize
    }

    /// Calls `each` with the position in the window and in the input, where that is inside.
    fn each(&self, at: [usize; 3], dims: [usize; 3], mut each: impl FnMut([usize; 3], [usize; 3])) {
        for kz in 0..self.size[0] {
            for ky in 0..self.size[1] {
                for kx in 0..self.size[2] {
                    let k = [kz, ky, kx];
                    let from = [0, 1, 2].map(|a| (at[a] * self.stride[a] + k[a]).wrapping_sub(self.pad[a]));
                    if (0..3).all(|a| from[a] < dims[a]) {
                        each(k, from);
                    }
                }
            }
        }
    }

    /// The ONNX attributes, for 2 or 3 axes.
    pub fn attributes(&self, axes: usize) -> Vec<(&'static str, Attribute)> {
        let list = |all: [usize; 3]| all[3 - axes..].iter().map(|&n| n as i64).collect::<Vec<_>>();
        let pads = [list(self.pad), list(self.pad)].concat();
        let mut out = vec![
            ("kernel_shape", Attribute::Ints(list(self.size))),
            ("strides", Attribute::Ints(list(self.stride))),
            ("pads", Attribute::Ints(pads)),
        ];
        if self.ceil {
            out.push(("ceil_mode", Attribute::Int(1)));
        }
        out
    }
}
