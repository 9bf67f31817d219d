//! Everything but convolutions, a row at a time: pooling, resizing, copies, residuals, second outputs.
//!
//! Owns: the arithmetic of these. Never does: choose rows. Safe code, compiled once for each instruction set (`simd`), which makes vectors of
//! the loops over lanes.

use std::ops::Range;

use super::layout::LANES;

/// A source row and its weight.
pub(super) type Weighted = (usize, f32);

/// How an output pixel follows from the pixels of a row.
#[derive(Debug, Clone)]
pub(super) enum Horizontal {
    /// The largest of a range.
    Max(Vec<Range<usize>>),
    /// `(left, right, weight of right)`.
    Linear(Vec<(usize, usize, f32)>),
}

/// Pooling or resizing of one block of one row.
pub(super) struct Blend<'a> {
    /// The source.
    pub(super) input: &'a [f32],
    /// Where the first pixel of each row that contributes is, and its weight (pooling ignores that).
    pub(super) rows: &'a [Weighted],
    /// Pixels, or pairs, of a source row.
    pub(super) width: usize,
    /// Pixels of 8 channels are paired.
    pub(super) pairs: bool,
    /// From rows to pixels.
    pub(super) horizontal: &'a Horizontal,
    /// For the combined row: `width` × 16 values.
    pub(super) row: &'a mut [f32],
    /// For the same unpaired: `width` × 16 values; not used without pairs.
    pub(super) unpaired: &'a mut [f32],
    /// The output, pixels (or pairs) × 16.
    pub(super) output: &'a mut [f32],
}

/// Residual, clip and outputs of one block of one row. All rows start at their first pixel.
pub(super) struct Finish<'a> {
    /// The values.
    pub(super) values: &'a [f32],
    /// Added to them.
    pub(super) residual: Option<&'a [f32]>,
    /// Clip at 0.
    pub(super) relu: bool,
    /// First output.
    pub(super) raw: Option<&'a mut [f32]>,
    /// Second output, scale and shift by lane, clip at 0.
    pub(super) second: Option<(&'a mut [f32], &'a [f32], &'a [f32], bool)>,
}

/// Runs a [`Blend`].
#[inline(always)]
pub(super) fn blend(args: &mut Blend<'_>) {
    let len = args.width * LANES;
    let Some((&(first, weight), rest)) = args.rows.split_first() else { return };
    let row = &mut args.row[..len];
    match args.horizontal {
        Horizontal::Max(_) => {
            row.copy_from_slice(&args.input[first..first + len]);
            for &(at, _) in rest {
                for (value, &other) in row.iter_mut().zip(&args.input[at..at + len]) {
                    *value = larger(*value, other);
                }
            }
        }
        Horizontal::Linear(_) => {
            for (value, &other) in row.iter_mut().zip(&args.input[first..first + len]) {
                *value = weight * other;
            }
            for &(at, weight) in rest {
                for (value, &other) in row.iter_mut().zip(&args.input[at..at + len]) {
                    *value += weight * other;
                }
            }
        }
    }
    if args.pairs {
        let unpaired = &mut args.unpaired[..len];
        let (left, right) = unpaired.split_at_mut(len / 2);
        let halves = left.as_chunks_mut::<8>().0.iter_mut().zip(right.as_chunks_mut::<8>().0);
        for (pair, (left, right)) in row.as_chunks::<LANES>().0.iter().zip(halves) {
            for c in 0..8 {
                left[c] = pair[2 * c];
                right[c] = pair[2 * c + 1];
            }
        }
        let pixels = unpaired.as_chunks::<8>().0;
        let output = args.output.as_chunks_mut::<LANES>().0;
        let half = output.len();
        for (x, out) in output.iter_mut().enumerate() {
            let (left, right) = (pixel(pixels, args.horizontal, x), pixel(pixels, args.horizontal, x + half));
            for c in 0..8 {
                out[2 * c] = left[c];
                out[2 * c + 1] = right[c];
            }
        }
    } else {
        let pixels = row.as_chunks::<LANES>().0;
        for (x, out) in args.output.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            *out = pixel(pixels, args.horizontal, x);
        }
    }
}

/// One output pixel; zeros past the last.
#[inline(always)]
fn pixel<const N: usize>(pixels: &[[f32; N]], horizontal: &Horizontal, x: usize) -> [f32; N] {
    match horizontal {
        Horizontal::Max(windows) => {
            let Some((first, rest)) = windows.get(x).and_then(|w| pixels[w.clone()].split_first()) else {
                return [0.0; N];
            };
            rest.iter().fold(*first, |most, p| std::array::from_fn(|c| larger(most[c], p[c])))
        }
        Horizontal::Linear(places) => {
            let Some(&(left, right, weight)) = places.get(x) else { return [0.0; N] };
            let (left, right) = (&pixels[left], &pixels[right]);
            std::array::from_fn(|c| left[c] + weight * (right[c] - left[c]))
        }
    }
}

/// The larger; a NaN on either side stays, so that it can be refused at the end.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// Runs a [`Finish`].
#[inline(always)]
pub(super) fn finish(args: &mut Finish<'_>) {
    let relu = |v: f32| if v < 0.0 { 0.0 } else { v };
    let pixels = args.values.as_chunks::<LANES>().0;
    for (x, pixel) in pixels.iter().enumerate() {
        let at = x * LANES..(x + 1) * LANES;
        let mut value = *pixel;
        if let Some(residual) = args.residual {
            value.iter_mut().zip(&residual[at.clone()]).for_each(|(v, r)| *v += r);
        }
        if args.relu {
            value = value.map(relu);
        }
        if let Some(raw) = &mut args.raw {
            raw[at.clone()].copy_from_slice(&value);
        }
        if let Some((to, scale, shift, clip)) = &mut args.second {
            let (scale, shift) = (&scale[..LANES], &shift[..LANES]);
            let scaled: [f32; LANES] = std::array::from_fn(|c| value[c] * scale[c] + shift[c]);
            to[at].copy_from_slice(&if *clip { scaled.map(relu) } else { scaled });
        }
    }
}

/// Places and weights of linear interpolation between pixel centres, the edges repeated: ONNX `Resize`, `half_pixel`.
/// `scale` is the factor that made `to` of `from`.
pub(super) fn linear(from: usize, to: usize, scale: f64) -> Vec<(usize, usize, f32)> {
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) / scale - 0.5).clamp(0.0, (from - 1) as f64);
            let left = at as usize;
            (left, (left + 1).min(from - 1), (at - left as f64) as f32)
        })
        .collect()
}
