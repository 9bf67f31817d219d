//! Parts of files.

use crate::support::{self, Attribute, Data, File};

pub fn ints(list: &[i64]) -> Attribute {
    Attribute::Ints(list.to_vec())
}

pub fn zeros(f: &mut File, dims: &[usize]) -> String {
    f.tensor(dims, Data::F32(vec![0.0; dims.iter().product()]))
}

/// A convolution of `x` to 4 channels, `v0`.
pub fn start(f: &mut File) -> String {
    conv(f, "x", &[4, 1, 1, 1], vec![])
}

pub fn conv(f: &mut File, x: &str, dims: &[usize], attributes: Vec<(&'static str, Attribute)>) -> String {
    let weights = zeros(f, dims);
    f.node("Conv", &[x, &weights], attributes)
}

/// A normalization of 4 channels.
pub fn norm(
    f: &mut File,
    x: &str,
    [scale, shift, mean, variance]: [f32; 4],
    more: Vec<(&'static str, Attribute)>,
) -> String {
    let inputs = [scale, shift, mean, variance].map(|v| f.tensor(&[4], Data::F32(vec![v; 4])));
    let [scale, shift, mean, variance] = &inputs;
    f.node("BatchNormalization", &[x, scale, shift, mean, variance], more)
}

pub fn resize(f: &mut File, x: &str, scales: &[f32], more: Vec<(&'static str, Attribute)>) -> String {
    let scales = f.tensor(&[scales.len()], Data::F32(scales.to_vec()));
    let mut attributes = vec![("mode", Attribute::Text("linear"))];
    attributes.extend(more);
    f.node("Resize", &[x, "", &scales], attributes)
}

pub fn pool(f: &mut File, more: Vec<(&'static str, Attribute)>) -> String {
    let x = start(f);
    let mut attributes = vec![("kernel_shape", ints(&[2, 2]))];
    attributes.extend(more);
    f.node("MaxPool", &[&x], attributes)
}

/// Weights that are exact in 8 bits of mantissa.
pub fn exact(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 61) as f32 / 16.0 - 1.75).collect()
}

/// A convolution to 4 channels with weights of any type.
pub fn weighted(f: &mut File, data: Data) -> String {
    let w = f.tensor(&[4, 1, 3, 3], data);
    f.node("Conv", &["x", &w], vec![])
}

pub fn plain(f: &mut File) -> String {
    weighted(f, Data::F32(exact(36)))
}

pub fn bf16(values: Vec<f32>) -> Data {
    Data::Bf16(values.iter().map(|v| (v.to_bits() >> 16) as u16).collect())
}

pub fn f16(values: Vec<f32>) -> Data {
    Data::F16(values.into_iter().map(|v| support::half(v).0).collect())
}
