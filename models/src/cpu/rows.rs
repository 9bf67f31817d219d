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
    /// For the same unpaired: twice as many values; not used without pairs.
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
    /// Second output.
    pub(super) second: Option<SecondRow<'a>>,
}

/// A second output of one block of one row.
pub(super) struct SecondRow<'a> {
    /// Where it goes.
    pub(super) to: &'a mut [f32],
    /// By lane.
    pub(super) scale: &'a [f32],
    /// By lane.
    pub(super) shift: &'a [f32],
    /// Clip at 0.
    pub(super) relu: bool,
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
    let pixels = if args.pairs {
        unpair(row, &mut args.unpaired[..2 * len]);
        args.unpaired[..2 * len].as_chunks().0
    } else {
        row.as_chunks().0
    };
    let output = args.output.as_chunks_mut().0;
    match args.horizontal {
        Horizontal::Max(windows) => each(args.pairs, windows, output, |w| most(pixels, w)),
        Horizontal::Linear(places) => each(args.pairs, places, output, |p| between(pixels, p)),
    }
}

/// The lanes of a pixel.
type Pixel = [f32; LANES];

/// Pairs of pixels → pixels of 8 channels, each twice; left half and then right half.
#[inline(always)]
fn unpair(row: &[f32], out: &mut [f32]) {
    let (left, right) = out.as_chunks_mut::<LANES>().0.split_at_mut(row.len() / LANES);
    for (pair, (left, right)) in row.as_chunks::<LANES>().0.iter().zip(left.iter_mut().zip(right)) {
        *left = std::array::from_fn(|lane| pair[lane & !1]);
        *right = std::array::from_fn(|lane| pair[lane | 1]);
    }
}

/// Computes output pixels; if they are paired, even lanes are those of the left half, odd ones those of the right, and zeros past the last.
#[inline(always)]
fn each<T>(pairs: bool, from: &[T], output: &mut [Pixel], pixel: impl Fn(&T) -> Pixel) {
    if !pairs {
        output.iter_mut().zip(from).for_each(|(out, from)| *out = pixel(from));
        return;
    }
    let (left, right) = from.split_at(output.len());
    for (x, (out, left)) in output.iter_mut().zip(left).enumerate() {
        let (left, right) = (pixel(left), right.get(x).map_or([0.0; LANES], &pixel));
        *out = std::array::from_fn(|lane| if lane % 2 == 0 { left[lane] } else { right[lane] });
    }
}

/// The largest of a window.
#[inline(always)]
fn most(pixels: &[Pixel], window: &Range<usize>) -> Pixel {
    let (first, rest) = pixels[window.clone()].split_first().expect("windows overlap the map");
    rest.iter().fold(*first, |most, p| std::array::from_fn(|c| larger(most[c], p[c])))
}

/// Between two pixels.
#[inline(always)]
fn between(pixels: &[Pixel], &(left, right, weight): &(usize, usize, f32)) -> Pixel {
    let (left, right) = (&pixels[left], &pixels[right]);
    std::array::from_fn(|c| left[c] + weight * (right[c] - left[c]))
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
        if let Some(SecondRow { to, scale, shift, relu: clip }) = &mut args.second {
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
