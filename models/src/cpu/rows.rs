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
    let unpaired: &[f32] = if args.pairs {
        unpair(row, &mut args.unpaired[..len]);
        &args.unpaired[..len]
    } else {
        row
    };
    let output = args.output.as_chunks_mut::<LANES>().0;
    match (args.pairs, args.horizontal) {
        (true, Horizontal::Max(windows)) => pair(windows, output, |w| most::<8>(unpaired, w)),
        (true, Horizontal::Linear(places)) => pair(places, output, |p| between::<8>(unpaired, p)),
        (false, Horizontal::Max(windows)) => {
            output.iter_mut().zip(windows).for_each(|(out, w)| *out = most(unpaired, w));
        }
        (false, Horizontal::Linear(places)) => {
            output.iter_mut().zip(places).for_each(|(out, p)| *out = between(unpaired, p));
        }
    }
}

/// Pairs of pixels → pixels of 8 channels, left half and then right half.
#[inline(always)]
fn unpair(row: &[f32], out: &mut [f32]) {
    let (left, right) = out.split_at_mut(row.len() / 2);
    let halves = left.as_chunks_mut::<8>().0.iter_mut().zip(right.as_chunks_mut::<8>().0);
    for (pair, (left, right)) in row.as_chunks::<LANES>().0.iter().zip(halves) {
        for c in 0..8 {
            left[c] = pair[2 * c];
            right[c] = pair[2 * c + 1];
        }
    }
}

/// Computes output pixels and pairs those of the left half with those of the right; a missing one is zeros.
#[inline(always)]
fn pair<T>(from: &[T], output: &mut [[f32; LANES]], pixel: impl Fn(&T) -> [f32; 8]) {
    let (left, right) = from.split_at(output.len().min(from.len()));
    for (x, (out, left)) in output.iter_mut().zip(left).enumerate() {
        let (left, right) = (pixel(left), right.get(x).map_or([0.0; 8], &pixel));
        for c in 0..8 {
            out[2 * c] = left[c];
            out[2 * c + 1] = right[c];
        }
    }
}

/// The largest of a window of pixels of `N` channels.
#[inline(always)]
fn most<const N: usize>(pixels: &[f32], window: &Range<usize>) -> [f32; N] {
    let pixels = &pixels.as_chunks::<N>().0[window.clone()];
    let (first, rest) = pixels.split_first().expect("windows overlap the map");
    rest.iter().fold(*first, |most, p| std::array::from_fn(|c| larger(most[c], p[c])))
}

/// Between two pixels of `N` channels.
#[inline(always)]
fn between<const N: usize>(pixels: &[f32], &(left, right, weight): &(usize, usize, f32)) -> [f32; N] {
    let pixels = pixels.as_chunks::<N>().0;
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
