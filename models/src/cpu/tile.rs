//! The work of a convolution's tile: what is read, with which weights, and where it goes.
//!
//! Owns: the description of a tile, how its input and weights are read. Never does: choose a tile, know a network, or compute (`micro`).

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
    /// Where the first pixel of each row of the tile is, or of each block in a tile of blocks.
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
    /// The weights, of one block of outputs or of two.
    pub(super) panel: Panel<'a>,
    /// From the weights of a block to those of the next.
    pub(super) panel_step: usize,
    /// By lane, of the same blocks.
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
    fn ahead<I: Isa, const K: usize>(values: &[Self::Stored], at: usize);
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

    #[inline(always)]
    fn ahead<I: Isa, const K: usize>(values: &[f32], at: usize) {
        // A line each horizontal position.
        for k in 0..K.max(1) {
            I::fetch(values, at + AHEAD / 2 + 16 * k);
        }
    }
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
    fn ahead<I: Isa, const K: usize>(values: &[u16], at: usize) {
        // A step of a 3 wide kernel reads 96 bytes: one line and a half.
        I::fetch(values, at + AHEAD);
        I::fetch(values, at + AHEAD + 32);
    }
}
