//! The convolution micro-kernel: a tile of output rows × pixels × one block of 16 lanes, accumulated in registers.
//!
//! Owns: the innermost loops. Never does: choose a tile or know a network.
//!
//! Each input value is read once and used for every horizontal position of the kernel: with 12 pixels and a width of 3, 17 loads serve 36
//! multiply-adds, so the multipliers are the bound, not the loads.

#![expect(clippy::needless_range_loop, reason = "constant bounds and indices keep the sums in registers")]

use super::simd::Isa;

/// Most output rows of a tile.
pub(super) const ROWS_MAX: usize = 4;

/// How far ahead weights are fetched: 2 KiB, about 20 input channels of a 3 × 3 kernel's row.
const AHEAD: usize = 1024;

/// A row of input above or below the image: contributes nothing.
pub(super) const OUTSIDE: usize = usize::MAX;

/// One vertical (and depth) position of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    /// Where its weights start in the panel.
    pub(super) weights: usize,
    /// Where the input of each output row of the tile starts, or [`OUTSIDE`].
    pub(super) rows: [usize; ROWS_MAX],
}

/// Weights of one block of output channels: [tap][input channel][horizontal position][16].
#[derive(Debug, Clone, Copy)]
pub(super) enum Panel<'a> {
    /// Single precision.
    Full(&'a [f32]),
    /// Half precision, widened as they are read.
    Half(&'a [u16]),
}

/// Where a tile's rows go.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The buffer.
    pub(super) values: &'a mut [f32],
    /// Where the first pixel of each row of the tile is.
    pub(super) rows: [usize; ROWS_MAX],
}

/// A second output: `value · scale + shift`, and the larger of that and 0 if `relu`.
#[derive(Debug)]
pub(super) struct Second<'a> {
    /// Where it goes.
    pub(super) to: Target<'a>,
    /// By lane.
    pub(super) scale: &'a [f32],
    /// By lane.
    pub(super) shift: &'a [f32],
    /// Clip at 0.
    pub(super) relu: bool,
}

/// The work of one tile. Values of a pixel are 16 lanes apart; all offsets count values.
#[derive(Debug)]
pub(super) struct Tile<'a> {
    /// The input.
    pub(super) input: &'a [f32],
    /// The kernel's vertical positions.
    pub(super) taps: &'a [Tap],
    /// From a row's start to the tile's first pixel.
    pub(super) input_at: usize,
    /// From a pixel to its partner, for [`Two`].
    pub(super) delta: usize,
    /// Input channels.
    pub(super) channels: usize,
    /// Input channels of a block.
    pub(super) per_block: usize,
    /// From a channel to the next in a block.
    pub(super) channel_step: usize,
    /// From a block to the next.
    pub(super) block_step: usize,
    /// Width of the kernel and distance of neighbouring output pixels in the input, for kernels of any width.
    pub(super) width: usize,
    /// Values between the inputs of neighbouring outputs, for kernels of any width.
    pub(super) stride: usize,
    /// The weights.
    pub(super) panel: Panel<'a>,
    /// By lane.
    pub(super) bias: &'a [f32],
    /// Added to the sum: buffer and where each row is.
    pub(super) residual: Option<(&'a [f32], [usize; ROWS_MAX])>,
    /// Clip at 0, before anything is written.
    pub(super) relu: bool,
    /// First output.
    pub(super) raw: Option<Target<'a>>,
    /// Second output.
    pub(super) second: Option<Second<'a>>,
    /// From a row's start to the tile's first pixel, in residual and outputs.
    pub(super) output_at: usize,
}

/// How input is read.
pub(super) trait Read: Copy {
    /// The input for all lanes.
    ///
    /// # Safety
    /// As [`Isa`].
    unsafe fn read<I: Isa>(values: &[f32], at: usize, delta: usize) -> I::V;
}

/// One value for all lanes.
#[derive(Clone, Copy)]
pub(super) struct Plain;
/// Two neighbours, for even and odd lanes.
#[derive(Clone, Copy)]
pub(super) struct Pair;
/// Two values `delta` apart, for even and odd lanes.
#[derive(Clone, Copy)]
pub(super) struct Two;

impl Read for Plain {
    #[inline(always)]
    unsafe fn read<I: Isa>(values: &[f32], at: usize, _: usize) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { I::splat(values, at) }
    }
}

impl Read for Pair {
    #[inline(always)]
    unsafe fn read<I: Isa>(values: &[f32], at: usize, _: usize) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { I::splat_pair(values, at) }
    }
}

impl Read for Two {
    #[inline(always)]
    unsafe fn read<I: Isa>(values: &[f32], at: usize, delta: usize) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { I::splat_two(values, at, at + delta) }
    }
}

/// How weights are read.
pub(super) trait Weight: Copy {
    /// What they are stored as.
    type Stored: 'static;
    /// The stored weights.
    fn of<'a>(panel: &Panel<'a>) -> &'a [Self::Stored];
    /// A vector of weights.
    ///
    /// # Safety
    /// As [`Isa`].
    unsafe fn read<I: Isa>(values: &[Self::Stored], at: usize) -> I::V;
    /// Fetches weights that will be read soon; what lies past the end is not touched.
    fn ahead<I: Isa>(values: &[Self::Stored], at: usize);
}

/// Single precision.
#[derive(Clone, Copy)]
pub(super) struct Full;
/// Half precision.
#[derive(Clone, Copy)]
pub(super) struct Half;

impl Weight for Full {
    type Stored = f32;

    #[inline(always)]
    fn of<'a>(panel: &Panel<'a>) -> &'a [f32] {
        match panel {
            Panel::Full(values) => values,
            Panel::Half(_) => &[],
        }
    }

    #[inline(always)]
    unsafe fn read<I: Isa>(values: &[f32], at: usize) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { I::load(values, at) }
    }

    // Single precision weights are few: they stay in the cache.
    #[inline(always)]
    fn ahead<I: Isa>(_: &[f32], _: usize) {}
}

impl Weight for Half {
    type Stored = u16;

    #[inline(always)]
    fn of<'a>(panel: &Panel<'a>) -> &'a [u16] {
        match panel {
            Panel::Half(values) => values,
            Panel::Full(_) => &[],
        }
    }

    #[inline(always)]
    unsafe fn read<I: Isa>(values: &[u16], at: usize) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { I::load_half(values, at) }
    }

    #[inline(always)]
    fn ahead<I: Isa>(values: &[u16], at: usize) {
        // A step of a 3 wide kernel reads 96 bytes: one line and a half.
        I::fetch(values, at + AHEAD);
        I::fetch(values, at + AHEAD + 32);
    }
}

/// Computes a tile of `R` rows of `T` pixels with a kernel `K` wide at stride 1; `K` = 0 for any width and stride.
///
/// # Safety
/// The processor has the instruction set. All indices that follow from `tile` lie inside its slices; `Layer::run` in `conv.rs` asserts it.
#[inline(always)]
pub(super) unsafe fn tile<I, S, W, const K: usize, const R: usize, const T: usize>(tile: &mut Tile<'_>)
where
    I: Isa,
    S: Read,
    W: Weight,
{
    // Each sum waits for itself. Where a tile has few, every horizontal position gets sums of its own, so that the multipliers stay busy.
    // SAFETY: the caller's promise.
    unsafe {
        if K > 1 && R * T * K <= I::SUMS {
            sum::<I, S, W, K, R, T, 3>(tile);
        } else {
            sum::<I, S, W, K, R, T, 1>(tile);
        }
    }
}

/// As [`tile`], with `P` sums for each output.
#[inline(always)]
unsafe fn sum<I, S, W, const K: usize, const R: usize, const T: usize, const P: usize>(tile: &mut Tile<'_>)
where
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
                            any::<I, S, W, R, T>(tile, tap, panel, weights, at, &mut sums[0]);
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
            store::<I, R, T>(tile, lane, first);
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
        W::ahead::<I>(panel, weights);
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

/// One input channel of one tap, any width and stride.
#[inline(always)]
unsafe fn any<I, S, W, const R: usize, const T: usize>(
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
    // SAFETY: the caller's promise.
    unsafe {
        for r in 0..R {
            if R > 1 && tap.rows[r] == OUTSIDE {
                continue;
            }
            for k in 0..tile.width {
                let kernel = W::read::<I>(panel, weights + 16 * k);
                let from = tap.rows[r] + at + 16 * k;
                for t in 0..T {
                    let value = S::read::<I>(tile.input, from + t * tile.stride, tile.delta);
                    sums[r][t] = I::fma(value, kernel, sums[r][t]);
                }
            }
        }
    }
}

/// Residual, clip, outputs.
#[inline(always)]
unsafe fn store<I: Isa, const R: usize, const T: usize>(
    tile: &mut Tile<'_>,
    lane: usize,
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
            let (scale, shift) = (I::load(second.scale, lane), I::load(second.shift, lane));
            for r in 0..R {
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
