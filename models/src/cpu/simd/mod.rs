//! What a micro-kernel needs of an instruction set, and the choice among those that this processor has.
//!
//! Owns: the trait [`Isa`], the table of compiled kernels of each instruction set, the choice at run time. Never does: geometry or planning.
//!
//! Every kernel is one generic function, compiled once an instruction set; so [`portable`] is a twin of the others, which Miri can run and
//! whose every index is checked.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::rows::{Blend, Finish};
use super::tile::Tile;

/// Vectors of `f32` of one instruction set.
///
/// # Safety
/// Every function needs a processor with the instruction set, and its indices inside the slices; debug builds check the latter.
pub(super) trait Isa: Copy {
    /// Values of a vector: a divisor of 16.
    const LANES: usize;
    /// A vector.
    type V: Copy;
    /// Zeros.
    unsafe fn zero() -> Self::V;
    /// Brings the value at `at`, which may lie past the end, near.
    fn fetch<T>(values: &[T], at: usize);
    /// `LANES` values from `at`.
    unsafe fn load(values: &[f32], at: usize) -> Self::V;
    /// `LANES` values from `at`, widened from IEEE half precision.
    unsafe fn load_half(values: &[u16], at: usize) -> Self::V;
    /// Writes `LANES` values from `at`.
    unsafe fn store(values: &mut [f32], at: usize, v: Self::V);
    /// The value at `at` in all lanes.
    unsafe fn splat(values: &[f32], at: usize) -> Self::V;
    /// The value at `even` in even lanes, the one at `odd` in odd ones.
    unsafe fn splat_two(values: &[f32], even: usize, odd: usize) -> Self::V;
    /// As [`Isa::splat_two`] for neighbours, `at` and `at + 1`.
    unsafe fn splat_pair(values: &[f32], at: usize) -> Self::V;
    /// `a · b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of 0 and `v`; NaN stays NaN, so that it can be refused at the end.
    unsafe fn relu(v: Self::V) -> Self::V;
}

/// A compiled kernel for one tile.
///
/// # Safety
/// The processor has the kernel's instruction set; every index of the tile lies inside its slices.
pub(super) type TileFn = unsafe fn(&mut Tile<'_>);

/// Which kernel: how the input is read, how wide it is, how many output rows and pixels a tile has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// How the input is read.
    pub(super) source: Source,
    /// Weights are half precision; only with [`Source::Plain`].
    pub(super) half: bool,
    /// Width of the kernel, 1 or 3 at stride 1; 0 for any width and stride.
    pub(super) width: usize,
    /// Stride of a kernel of any width: 1, 2, or 0 for any.
    pub(super) stride: usize,
    /// Sums of an output: 1, or, at width 3, one for each horizontal position. Bits depend on it.
    pub(super) sums: usize,
    /// Blocks of outputs of a tile: 1, or 2 of one row, with [`Source::Plain`] and kernels of any width.
    pub(super) blocks: usize,
    /// Output rows of a tile.
    pub(super) rows: usize,
    /// Output pixels of a row of a tile.
    pub(super) pixels: usize,
}

/// How a vector of input is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One value for all lanes: the output has 16 channels a block.
    Plain,
    /// Two neighbours: input and output are pairs of pixels.
    Pair,
    /// Two values `delta` apart: the output is pairs of pixels, the input is not.
    Two,
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Name, for reports.
    pub(super) name: &'static str,
    /// Multiply-adds of `rounds` rounds without any memory, to measure the processor: how many they were.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) peak: unsafe fn(rounds: usize) -> usize,
    /// The kernel of a shape, if there is one.
    pub(super) tile: fn(Shape) -> Option<TileFn>,
    /// [`super::rows::finish`], compiled for the instruction set.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) finish: unsafe fn(&mut Finish<'_>),
    /// [`super::rows::blend`], compiled for the instruction set.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) blend: unsafe fn(&mut Blend<'_>),
}

/// The kernels that this processor can run, best first; never empty.
pub(super) fn available() -> Vec<Kernels> {
    let mut all = Vec::new();
    // Miri runs the portable twin of the kernels.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        if is_x86_feature_detected!("avx512f") {
            all.push(avx512::KERNELS);
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            all.push(avx2::KERNELS);
        }
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    if std::arch::is_aarch64_feature_detected!("neon") {
        all.push(neon::KERNELS);
    }
    all.push(portable::KERNELS);
    all
}

/// The table of an instruction set: `$wrap` compiles a generic kernel for it, for every tile of at most `ACCUMULATORS` sums.
macro_rules! tile_table {
    ($isa:ty, $features:meta) => {
        #[$features]
        unsafe fn tile<S, W, const K: usize, const R: usize, const T: usize, const P: usize, const D: usize>(
            tile: &mut $crate::cpu::tile::Tile<'_>,
        ) where
            S: $crate::cpu::tile::Read,
            W: $crate::cpu::tile::Weight,
        {
            // Tiles that don't fit the registers are never picked, and so not compiled.
            if const { R * T * P <= ACCUMULATORS } {
                // SAFETY: the caller's promise is the same.
                unsafe { $crate::cpu::micro::tile::<$isa, S, W, K, R, T, P, D>(tile) }
            }
        }

        #[$features]
        unsafe fn blocks<W, const T: usize, const D: usize>(tile: &mut $crate::cpu::tile::Tile<'_>)
        where
            W: $crate::cpu::tile::Weight,
        {
            // As above.
            if const { 2 * T <= ACCUMULATORS } {
                // SAFETY: the caller's promise is the same.
                unsafe { $crate::cpu::micro::blocks::<$isa, W, T, 2, D>(tile) }
            }
        }

        fn pick(shape: $crate::cpu::simd::Shape) -> Option<$crate::cpu::simd::TileFn> {
            use $crate::cpu::simd::{Shape, Source, TileFn};
            use $crate::cpu::tile::{Full, Half, Pair, Plain, Read, Two, Weight};
            fn one_row<S: Read, W: Weight, const K: usize, const D: usize>(pixels: usize) -> Option<TileFn> {
                Some(match pixels {
                    1 => tile::<S, W, K, 1, 1, 1, D>,
                    2 => tile::<S, W, K, 1, 2, 1, D>,
                    3 => tile::<S, W, K, 1, 3, 1, D>,
                    4 => tile::<S, W, K, 1, 4, 1, D>,
                    5 => tile::<S, W, K, 1, 5, 1, D>,
                    6 => tile::<S, W, K, 1, 6, 1, D>,
                    7 => tile::<S, W, K, 1, 7, 1, D>,
                    8 => tile::<S, W, K, 1, 8, 1, D>,
                    9 => tile::<S, W, K, 1, 9, 1, D>,
                    10 => tile::<S, W, K, 1, 10, 1, D>,
                    11 => tile::<S, W, K, 1, 11, 1, D>,
                    12 => tile::<S, W, K, 1, 12, 1, D>,
                    _ => return None,
                })
            }
            fn rows<S: Read, W: Weight>(rows: usize, pixels: usize) -> Option<TileFn> {
                Some(match (rows, pixels) {
                    (1, _) => return one_row::<S, W, 3, 1>(pixels),
                    (2, 1) => tile::<S, W, 3, 2, 1, 1, 1>,
                    (2, 2) => tile::<S, W, 3, 2, 2, 1, 1>,
                    (2, 3) => tile::<S, W, 3, 2, 3, 1, 1>,
                    (2, 4) => tile::<S, W, 3, 2, 4, 1, 1>,
                    (2, 5) => tile::<S, W, 3, 2, 5, 1, 1>,
                    (2, 6) => tile::<S, W, 3, 2, 6, 1, 1>,
                    (2, 7) => tile::<S, W, 3, 2, 7, 1, 1>,
                    (2, 8) => tile::<S, W, 3, 2, 8, 1, 1>,
                    (2, 9) => tile::<S, W, 3, 2, 9, 1, 1>,
                    (2, 10) => tile::<S, W, 3, 2, 10, 1, 1>,
                    (2, 11) => tile::<S, W, 3, 2, 11, 1, 1>,
                    (2, 12) => tile::<S, W, 3, 2, 12, 1, 1>,
                    (3, 1) => tile::<S, W, 3, 3, 1, 1, 1>,
                    (3, 2) => tile::<S, W, 3, 3, 2, 1, 1>,
                    (3, 3) => tile::<S, W, 3, 3, 3, 1, 1>,
                    (3, 4) => tile::<S, W, 3, 3, 4, 1, 1>,
                    (3, 5) => tile::<S, W, 3, 3, 5, 1, 1>,
                    (3, 6) => tile::<S, W, 3, 3, 6, 1, 1>,
                    (3, 7) => tile::<S, W, 3, 3, 7, 1, 1>,
                    (3, 8) => tile::<S, W, 3, 3, 8, 1, 1>,
                    (4, 1) => tile::<S, W, 3, 4, 1, 1, 1>,
                    (4, 2) => tile::<S, W, 3, 4, 2, 1, 1>,
                    (4, 3) => tile::<S, W, 3, 4, 3, 1, 1>,
                    (4, 4) => tile::<S, W, 3, 4, 4, 1, 1>,
                    (4, 5) => tile::<S, W, 3, 4, 5, 1, 1>,
                    (4, 6) => tile::<S, W, 3, 4, 6, 1, 1>,
                    _ => return None,
                })
            }
            fn three_sums_of_one_row<S: Read, W: Weight>(pixels: usize) -> Option<TileFn> {
                Some(match pixels {
                    1 => tile::<S, W, 3, 1, 1, 3, 1>,
                    2 => tile::<S, W, 3, 1, 2, 3, 1>,
                    3 => tile::<S, W, 3, 1, 3, 3, 1>,
                    4 => tile::<S, W, 3, 1, 4, 3, 1>,
                    5 => tile::<S, W, 3, 1, 5, 3, 1>,
                    6 => tile::<S, W, 3, 1, 6, 3, 1>,
                    7 => tile::<S, W, 3, 1, 7, 3, 1>,
                    8 => tile::<S, W, 3, 1, 8, 3, 1>,
                    _ => return None,
                })
            }
            fn three_sums<S: Read, W: Weight>(rows: usize, pixels: usize) -> Option<TileFn> {
                Some(match (rows, pixels) {
                    (1, _) => return three_sums_of_one_row::<S, W>(pixels),
                    (2, 1) => tile::<S, W, 3, 2, 1, 3, 1>,
                    (2, 2) => tile::<S, W, 3, 2, 2, 3, 1>,
                    (2, 3) => tile::<S, W, 3, 2, 3, 3, 1>,
                    (2, 4) => tile::<S, W, 3, 2, 4, 3, 1>,
                    (3, 1) => tile::<S, W, 3, 3, 1, 3, 1>,
                    (3, 2) => tile::<S, W, 3, 3, 2, 3, 1>,
                    (4, 1) => tile::<S, W, 3, 4, 1, 3, 1>,
                    (4, 2) => tile::<S, W, 3, 4, 2, 3, 1>,
                    _ => return None,
                })
            }
            fn two_blocks<W: Weight, const D: usize>(pixels: usize) -> Option<TileFn> {
                Some(match pixels {
                    1 => blocks::<W, 1, D>,
                    2 => blocks::<W, 2, D>,
                    3 => blocks::<W, 3, D>,
                    4 => blocks::<W, 4, D>,
                    5 => blocks::<W, 5, D>,
                    6 => blocks::<W, 6, D>,
                    7 => blocks::<W, 7, D>,
                    8 => blocks::<W, 8, D>,
                    9 => blocks::<W, 9, D>,
                    10 => blocks::<W, 10, D>,
                    11 => blocks::<W, 11, D>,
                    12 => blocks::<W, 12, D>,
                    _ => return None,
                })
            }
            let Shape { source, half, width, stride, sums, blocks, rows: r, pixels } = shape;
            if r * pixels * sums * blocks > ACCUMULATORS {
                return None;
            }
            if blocks == 2 {
                return match (source, half, width, stride, r) {
                    (Source::Plain, false, 0, 1, 1) => two_blocks::<Full, 1>(pixels),
                    (Source::Plain, true, 0, 1, 1) => two_blocks::<Half, 1>(pixels),
                    (Source::Plain, false, 0, 2, 1) => two_blocks::<Full, 2>(pixels),
                    (Source::Plain, true, 0, 2, 1) => two_blocks::<Half, 2>(pixels),
                    _ => None,
                };
            }
            match (source, half, width, stride, sums) {
                (Source::Plain, false, 3, _, 1) => rows::<Plain, Full>(r, pixels),
                (Source::Plain, true, 3, _, 1) => rows::<Plain, Half>(r, pixels),
                (Source::Pair, false, 3, _, 1) => rows::<Pair, Full>(r, pixels),
                (Source::Plain, false, 3, _, 3) => three_sums::<Plain, Full>(r, pixels),
                (Source::Plain, true, 3, _, 3) => three_sums::<Plain, Half>(r, pixels),
                (Source::Pair, false, 3, _, 3) => three_sums::<Pair, Full>(r, pixels),
                _ if r != 1 => None,
                (Source::Two, false, 3, _, 3) => three_sums_of_one_row::<Two, Full>(pixels),
                (Source::Two, false, 3, _, 1) => one_row::<Two, Full, 3, 1>(pixels),
                (Source::Pair, false, 1, _, 1) => one_row::<Pair, Full, 1, 1>(pixels),
                (Source::Two, false, 1, _, 1) => one_row::<Two, Full, 1, 1>(pixels),
                (Source::Plain, false, 1, _, 1) => one_row::<Plain, Full, 1, 1>(pixels),
                (Source::Plain, true, 1, _, 1) => one_row::<Plain, Half, 1, 1>(pixels),
                (Source::Plain, false, 0, 2, 1) => one_row::<Plain, Full, 0, 2>(pixels),
                (Source::Plain, true, 0, 2, 1) => one_row::<Plain, Half, 0, 2>(pixels),
                (Source::Plain, false, 0, _, 1) => one_row::<Plain, Full, 0, 0>(pixels),
                (Source::Plain, true, 0, _, 1) => one_row::<Plain, Half, 0, 0>(pixels),
                _ => None,
            }
        }

        #[$features]
        unsafe fn finish(args: &mut $crate::cpu::rows::Finish<'_>) {
            $crate::cpu::rows::finish(args);
        }

        #[$features]
        unsafe fn blend(args: &mut $crate::cpu::rows::Blend<'_>) {
            $crate::cpu::rows::blend(args);
        }

        #[$features]
        unsafe fn peak(rounds: usize) -> usize {
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::cpu::micro::peak::<$isa>(rounds) }
        }

        /// The kernels of this instruction set.
        pub(in crate::cpu) const KERNELS: $crate::cpu::simd::Kernels =
            $crate::cpu::simd::Kernels { name: NAME, peak, tile: pick, finish, blend };
    };
}
use tile_table;
