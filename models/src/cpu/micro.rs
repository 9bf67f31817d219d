//! The convolution micro-kernel: a tile of output rows × pixels × one block of 16 lanes, accumulated in registers.
//!
//! Owns: the innermost loops. Never does: choose a tile or know a network.
//!
//! Each input value is read once and used for every horizontal position of the kernel: with 12 pixels and a width of 3, 17 loads serve 36
//! multiply-adds, so the multipliers are the bound, not the loads.
//!
//! An output's multiply-adds are done in the same order in every tile with as many sums an output, whatever its rows and pixels: so how
//! a map is cut, into strips or among threads, changes no bit.

#![expect(clippy::needless_range_loop, reason = "constant bounds and indices keep the sums in registers")]

use super::simd::Isa;
use super::tile::{OUTSIDE, Read, Tap, Tile, Weight};

/// Computes a tile of `R` rows of `T` pixels with a kernel `K` wide at stride 1; `K` = 0 for any width, at stride `D`, or at any if `D` = 0.
/// Each output has `P` sums: one, or, where a tile has so few outputs that each sum would wait for itself, one for every horizontal position.
///
/// # Safety
/// The processor has the instruction set. All indices that follow from `tile` lie inside its slices; `Conv::run` in `conv.rs` asserts it.
#[inline(always)]
pub(super) unsafe fn tile<
    I,
    S,
    W,
    const K: usize,
    const R: usize,
    const T: usize,
    const P: usize,
    const D: usize,
>(
    tile: &mut Tile<'_>,
) where
    I: Isa,
    S: Read,
    W: Weight,
{
    let panel = W::of(&tile.panel);
    for lane in (0..16).step_by(I::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[[I::zero(); T]; R]; P];
            sums[0] = [[I::load(tile.bias, lane); T]; R];
            for tap in tile.taps {
                if R == 1 && tap.rows[0] == OUTSIDE {
                    continue;
                }
                let mut weights = tap.weights + lane;
                let mut block = tile.input_at;
                let mut channels = tile.channels;
                while channels > 0 {
                    let in_block = channels.min(tile.per_block);
                    let mut at = block;
                    for _ in 0..in_block {
                        if K == 0 {
                            any::<I, S, W, R, T, D>(tile, tap, panel, weights, at, &mut sums[0]);
                            weights += 16 * tile.width;
                        } else {
                            fixed::<I, S, W, K, R, T, P>(tile, tap, panel, weights, at, &mut sums);
                            weights += 16 * K;
                        }
                        at += tile.channel_step;
                    }
                    channels -= in_block;
                    block += tile.block_step;
                }
            }
            let mut first = sums[0];
            for other in &sums[1..] {
                for r in 0..R {
                    for t in 0..T {
                        first[r][t] = I::add(first[r][t], other[r][t]);
                    }
                }
            }
            store::<I, R, T>(tile, lane, 0, first);
        }
    }
}

/// One input channel of one tap, at stride 1.
#[inline(always)]
unsafe fn fixed<I, S, W, const K: usize, const R: usize, const T: usize, const P: usize>(
    tile: &Tile<'_>,
    tap: &Tap,
    panel: &[W::Stored],
    weights: usize,
    at: usize,
    sums: &mut [[[I::V; T]; R]; P],
) where
    I: Isa,
    S: Read,
    W: Weight,
{
    // SAFETY: the caller's promise.
    unsafe {
        W::ahead::<I, K>(panel, weights);
        let kernel: [I::V; K] = std::array::from_fn(|k| W::read::<I>(panel, weights + 16 * k));
        for r in 0..R {
            if R > 1 && tap.rows[r] == OUTSIDE {
                continue;
            }
            for x in 0..T + K - 1 {
                let value = S::read::<I>(tile.input, tap.rows[r] + at + 16 * x, tile.delta);
                for k in 0..K {
                    if x >= k && x - k < T {
                        sums[k % P][r][x - k] = I::fma(value, kernel[k], sums[k % P][r][x - k]);
                    }
                }
            }
        }
    }
}

/// One input channel of one tap, any width; each multiply-add reads its input itself, as fast as it can be added.
#[inline(always)]
unsafe fn any<I, S, W, const R: usize, const T: usize, const D: usize>(
    tile: &Tile<'_>,
    tap: &Tap,
    panel: &[W::Stored],
    weights: usize,
    at: usize,
    sums: &mut [[I::V; T]; R],
) where
    I: Isa,
    S: Read,
    W: Weight,
{
    // A constant distance between pixels needs no register.
    let stride = if D == 0 { tile.stride } else { 16 * D };
    // SAFETY: the caller's promise.
    unsafe {
        W::ahead::<I, 0>(panel, weights);
        for k in 0..tile.width {
            let kernel = W::read::<I>(panel, weights + 16 * k);
            for r in 0..R {
                if R > 1 && tap.rows[r] == OUTSIDE {
                    continue;
                }
                let from = tap.rows[r] + at + 16 * k;
                for t in 0..T {
                    let value = S::read::<I>(tile.input, from + t * stride, tile.delta);
                    sums[r][t] = I::fma(value, kernel, sums[r][t]);
                }
            }
        }
    }
}

/// Computes a tile of `T` pixels of one row and `B` blocks, with a kernel of any width at stride `D`, or at any if `D` = 0. Each input value is
/// read once for all blocks: where the kernel's positions share no input, that takes the load off the load units.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn blocks<I, W, const T: usize, const B: usize, const D: usize>(tile: &mut Tile<'_>)
where
    I: Isa,
    W: Weight,
{
    let panel = W::of(&tile.panel);
    // A constant distance between pixels needs no register.
    let stride = if D == 0 { tile.stride } else { 16 * D };
    for lane in (0..16).step_by(I::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums: [[I::V; T]; B] = std::array::from_fn(|b| [I::load(tile.bias, lane + 16 * b); T]);
            for tap in tile.taps.iter().filter(|tap| tap.rows[0] != OUTSIDE) {
                let mut weights = tap.weights + lane;
                let mut block = tap.rows[0] + tile.input_at;
                let mut channels = tile.channels;
                while channels > 0 {
                    let in_block = channels.min(tile.per_block);
                    let mut at = block;
                    for _ in 0..in_block {
                        for k in 0..tile.width {
                            let kernels: [I::V; B] = std::array::from_fn(|b| {
                                W::ahead::<I, 0>(panel, weights + b * tile.panel_step);
                                W::read::<I>(panel, weights + b * tile.panel_step)
                            });
                            for t in 0..T {
                                let value = I::splat(tile.input, at + 16 * k + t * stride);
                                for b in 0..B {
                                    sums[b][t] = I::fma(value, kernels[b], sums[b][t]);
                                }
                            }
                            weights += 16;
                        }
                        at += tile.channel_step;
                    }
                    channels -= in_block;
                    block += tile.block_step;
                }
            }
            store::<I, B, T>(tile, lane, 16, sums);
        }
    }
}

/// Residual, clip, outputs; `step` from a row's lanes to the next row's: 0, or 16 if they are blocks.
#[inline(always)]
unsafe fn store<I: Isa, const R: usize, const T: usize>(
    tile: &mut Tile<'_>,
    lane: usize,
    step: usize,
    mut sums: [[I::V; T]; R],
) {
    let first = tile.output_at + lane;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some((values, rows)) = &tile.residual {
            for r in 0..R {
                for t in 0..T {
                    sums[r][t] = I::add(sums[r][t], I::load(values, rows[r] + first + 16 * t));
                }
            }
        }
        if tile.relu {
            for row in &mut sums {
                for sum in row {
                    *sum = I::relu(*sum);
                }
            }
        }
        if let Some(raw) = &mut tile.raw {
            for r in 0..R {
                for t in 0..T {
                    I::store(raw.values, raw.rows[r] + first + 16 * t, sums[r][t]);
                }
            }
        }
        if let Some(second) = &mut tile.second {
            for r in 0..R {
                let lanes = lane + r * step;
                let (scale, shift) = (I::load(second.scale, lanes), I::load(second.shift, lanes));
                for t in 0..T {
                    let mut value = I::fma(sums[r][t], scale, shift);
                    if second.relu {
                        value = I::relu(value);
                    }
                    I::store(second.to.values, second.to.rows[r] + first + 16 * t, value);
                }
            }
        }
    }
}

/// As many multiply-adds as the processor can do: 12 independent sums. Returns how many single ones it did.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn peak<I: Isa>(rounds: usize) -> usize {
    let ones = [1.0_f32; 16];
    // SAFETY: the caller's promise; 16 values are at least one vector.
    unsafe {
        // What the compiler can't know, it can't compute ahead.
        let factor = I::load(std::hint::black_box(&ones), 0);
        let mut sums = [factor; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = I::fma(*sum, factor, factor);
            }
        }
        let mut out = [0.0; 16];
        for sum in sums {
            I::store(&mut out, 0, sum);
            std::hint::black_box(&out);
        }
    }
    rounds * 12 * I::LANES
}
