//! Weights as the kernels read them.
//!
//! Owns: their order in memory. Never does: upload.

use super::{Arithmetic, plain_block};

/// Side of the matrices of tensor cores.
const SIDE: usize = 16;

/// Packed weights.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// fp16 bits.
    Half(Vec<u16>),
    /// Single precision.
    Single(Vec<f32>),
}

/// Channels as they lie in memory.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// Bias of each channel, and scale and shift of the second output where there is one, as [`Finish`](super::Finish) wants them.
///
/// # Panics
/// When the lengths differ.
pub fn affine(bias: &[f32], second: Option<(&[f32], &[f32])>) -> Vec<f32> {
    let channels = padded(bias.len());
    let mut out = vec![0.0; 3 * channels];
    out[..bias.len()].copy_from_slice(bias);
    if let Some((scale, shift)) = second {
        out[channels..][..bias.len()].copy_from_slice(scale);
        out[2 * channels..][..bias.len()].copy_from_slice(shift);
    }
    out
}

/// Weights of a convolution to a plane: one a channel, zeros, the bias.
pub fn last(weights: &[f32], bias: f32) -> Vec<f32> {
    let mut out = weights.to_vec();
    out.resize(padded(weights.len()), 0.0);
    out.push(bias);
    out
}

/// Packs weights `[output][input][row][column]` of a convolution of side 1 or 3.
///
/// # Panics
/// When they are not as many.
pub fn pack(arithmetic: Arithmetic, side: usize, [inputs, outputs]: [usize; 2], weights: &[f32]) -> Weights {
    let taps = side * side;
    assert_eq!(weights.len(), taps * inputs * outputs, "weights of {inputs} to {outputs} channels");
    let channels = [padded(inputs), padded(outputs)];
    let len = bytes(arithmetic, side, channels);
    if arithmetic == Arithmetic::Tensor {
        let mut out = vec![0; len / 2];
        let place = tensor(side, channels[0]);
        each(taps, [inputs, outputs], |at, from| out[place(at)] = half_bits(weights[from]));
        Weights::Half(out)
    } else {
        let mut out = vec![0.0; len / 4];
        let place = plain(side, channels);
        each(taps, [inputs, outputs], |at, from| out[place(at)] = weights[from]);
        Weights::Single(out)
    }
}

/// Bytes of packed weights, of padded channels.
pub(super) fn bytes(arithmetic: Arithmetic, side: usize, [inputs, outputs]: [usize; 2]) -> usize {
    if arithmetic == Arithmetic::Tensor {
        let (chunks, steps) = chunks(side, inputs);
        outputs.div_ceil(SIDE) * chunks * steps * SIDE * SIDE * 2
    } else {
        side * side * inputs * outputs * 4
    }
}

/// Calls `each` with (output, input, tap) and the place of that weight in the file.
fn each(taps: usize, [inputs, outputs]: [usize; 2], mut each: impl FnMut([usize; 3], usize)) {
    for output in 0..outputs {
        for input in 0..inputs {
            for tap in 0..taps {
                each([output, input, tap], (output * inputs + input) * taps + tap);
            }
        }
    }
}

/// Matrices of 16 input channels and what each is multiplied by; pairs of taps where 8 channels are all.
fn chunks(side: usize, inputs: usize) -> (usize, usize) {
    match (inputs <= 8, side) {
        (true, 3) => (1, 6),
        (_, side) => (inputs.div_ceil(SIDE), side * side),
    }
}

/// `[tile of outputs][chunk of inputs][step][16 inputs][16 outputs]`.
fn tensor(side: usize, inputs: usize) -> impl Fn([usize; 3]) -> usize {
    let (chunks, steps) = chunks(side, inputs);
    move |[output, input, tap]| {
        let (chunk, step, row) = if inputs <= 8 {
            let (down, right) = (tap / side, tap % side);
            // A row of the map's matrix is two neighbouring pixels.
            (0, if side == 3 { down * 2 + right / 2 } else { 0 }, right % 2 * 8 + input)
        } else {
            (input / SIDE, tap, input % SIDE)
        };
        (((output / SIDE * chunks + chunk) * steps + step) * SIDE + row) * SIDE + output % SIDE
    }
}

/// `[tile of outputs][8 inputs][tap][input][output]`.
fn plain(side: usize, [inputs, outputs]: [usize; 2]) -> impl Fn([usize; 3]) -> usize {
    let (taps, tile) = (side * side, plain_block(outputs).channels);
    move |[output, input, tap]| {
        let eight = output / tile * (inputs / 8) + input / 8;
        ((eight * taps + tap) * 8 + input % 8) * tile + output % tile
    }
}

/// Half precision, rounded to the nearest, ties to even; what is too large becomes infinite.
pub fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 2⁻¹⁴, the least normal number: below it, multiples of 2⁻²⁴.
    if magnitude < 0x3880_0000 {
        let scaled = f32::from_bits(magnitude) * 16_777_216.0;
        return sign | scaled.round_ties_even() as u16;
    }
    // 13 bits of the fraction are rounded away; a carry goes into the exponent, as it must.
    let rounded = magnitude + 0x0fff + (magnitude >> 13 & 1);
    let half = (rounded >> 13).saturating_sub((127 - 15) << 10);
    sign | half.min(0x7c00) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_nearest_even() {
        for (value, half) in [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (65_504.0, 0x7bff),
            (65_519.9, 0x7bff),
            (65_520.0, 0x7c00),
            (f32::INFINITY, 0x7c00),
            (5.960_464_5e-8, 0x0001),
            (2.980_232_2e-8, 0x0000),
            (6.103_515_6e-5, 0x0400),
            (6.101_e-5, 0x0400),
        ] {
            assert_eq!(half_bits(value), half, "{value}");
        }
        assert_eq!(half_bits(f32::NAN) & 0x7c00, 0x7c00);
    }
}
