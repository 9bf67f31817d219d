//! Linear resampling of a plane with aligned corners, and the intensity window.
//!
//! Owns: the arithmetic of `scipy.ndimage.zoom(plane, factor, order=1, mode="nearest")` in two dimensions, and the clip to
//! the window. Never does: choose a spacing or a size.
//!
//! SciPy's default `mode="constant"` differs in one accident: for about 5 % of all size pairs the last coordinate,
//! `(m - 1) * ((n - 1) / (m - 1))`, rounds to just above `n - 1`, and the whole last row becomes the fill value. Here
//! that coordinate is held at `n - 1`, as the corner-aligned rule means it.

/// Size of an axis of `len` samples at `spacing_mm` after resampling to `target_mm`: `round(len * spacing / target)`,
/// halves to the even number (as Python's `round` and NumPy do), at least 1.
pub fn zoomed_len(len: usize, spacing_mm: f64, target_mm: f64) -> usize {
    let exact = len as f64 * (spacing_mm / target_mm);
    // A float-to-int cast saturates, and turns NaN into 0: no panic, whatever the spacing.
    (exact.round_ties_even() as usize).max(1)
}

/// Clips `hu` to `[low, high]` and rescales that window to `[0, 1]`, in place.
pub fn window(hu: &mut [f32], [low, high]: [f32; 2]) {
    let width = high - low;
    for value in hu {
        *value = (value.clamp(low, high) - low) / width;
    }
}

/// Where one output sample of an axis comes from: `before` and the sample after it, the latter with weight `weight`.
#[derive(Clone, Copy, Debug)]
struct Tap {
    before: usize,
    after: usize,
    weight: f64,
}

/// Output sample i of `to` lies at `i * (from - 1) / (to - 1)` of the input; a single output sample lies at 0.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let last = from.saturating_sub(1);
    let step = if to > 1 { last as f64 / (to - 1) as f64 } else { 1.0 };
    (0..to)
        .map(|index| {
            let at = (index as f64 * step).min(last as f64);
            let before = (at.floor() as usize).min(last);
            Tap { before, after: (before + 1).min(last), weight: at - before as f64 }
        })
        .collect()
}

/// A prepared linear zoom from one plane size to another; build once, apply to every slice.
#[derive(Clone, Debug)]
pub struct Zoom {
    from: [usize; 2],
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl Zoom {
    /// A zoom of planes of `from` = [rows, columns] to planes of `to` = [rows, columns].
    ///
    /// # Panics
    /// When a size in `from` is 0: a plane without samples has no values to interpolate.
    pub fn new(from: [usize; 2], to: [usize; 2]) -> Self {
        assert!(from[0] > 0 && from[1] > 0, "a plane of {from:?} has no samples");
        Self { from, rows: taps(from[0], to[0]), columns: taps(from[1], to[1]) }
    }

    /// The output size, [rows, columns].
    pub fn to(&self) -> [usize; 2] {
        [self.rows.len(), self.columns.len()]
    }

    /// Zooms `source`, whose rows start `stride` values apart, into a new row-major plane.
    ///
    /// # Panics
    /// When `source` is too short for the plane size given to [`Zoom::new`] or `stride` is less than its columns.
    pub fn plane(&self, source: &[f32], stride: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.rows.len() * self.columns.len()];
        if self.columns.is_empty() {
            return out;
        }
        let mut rows = out.chunks_exact_mut(self.columns.len());
        self.each_row(source, stride, |_, values| {
            let row = rows.next().expect("as many rows are visited as the output has");
            row.copy_from_slice(values);
        });
        out
    }

    /// Zooms `source` and hands each output row, top to bottom, to `visit(row index, values)`; nothing larger than a row is held.
    ///
    /// # Panics
    /// As [`Zoom::plane`].
    pub fn each_row(&self, source: &[f32], stride: usize, mut visit: impl FnMut(usize, &[f32])) {
        let [from_rows, from_columns] = self.from;
        assert!(stride >= from_columns, "stride {stride} is less than the {from_columns} columns");
        assert!(
            source.len() >= (from_rows - 1) * stride + from_columns,
            "source of {} values is too short",
            source.len()
        );
        // Double precision, as SciPy has it: near a threshold the last bit of a float decides a voxel.
        let mut blended = vec![0.0f64; from_columns];
        let mut out = vec![0.0f32; self.columns.len()];
        for (index, tap) in self.rows.iter().enumerate() {
            let upper = &source[tap.before * stride..][..from_columns];
            let lower = &source[tap.after * stride..][..from_columns];
            for ((value, &above), &below) in blended.iter_mut().zip(upper).zip(lower) {
                *value = f64::from(above) * (1.0 - tap.weight) + f64::from(below) * tap.weight;
            }
            for (value, tap) in out.iter_mut().zip(&self.columns) {
                *value = (blended[tap.before] * (1.0 - tap.weight) + blended[tap.after] * tap.weight) as f32;
            }
            visit(index, &out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_half_to_even_and_never_vanish() {
        for (len, spacing, size) in [
            (512, 0.748, 191),
            (5, 1.0, 2),
            (7, 1.0, 4),
            (1, 1.0, 1),
            (3, 1.0, 2),
            (0, 1.0, 1),
            (10, 2.0, 10),
            (4, f64::NAN, 1),
        ] {
            assert_eq!(zoomed_len(len, spacing, 2.0), size, "{len} x {spacing} mm");
        }
    }

    #[test]
    fn corners_stay_corners() {
        let source = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let out = Zoom::new([2, 3], [3, 5]).plane(&source, 3);
        assert_eq!(out, [1.0, 1.5, 2.0, 2.5, 3.0, 2.5, 3.0, 3.5, 4.0, 4.5, 4.0, 4.5, 5.0, 5.5, 6.0]);
    }

    #[test]
    fn single_samples_on_either_side() {
        assert_eq!(Zoom::new([1, 1], [2, 3]).plane(&[7.0], 1), [7.0; 6]);
        assert_eq!(Zoom::new([2, 2], [1, 1]).plane(&[1.0, 2.0, 3.0, 4.0], 2), [1.0]);
        assert!(Zoom::new([2, 2], [0, 4]).plane(&[1.0; 4], 2).is_empty());
    }

    /// 4 → 188 is one of the pairs whose last coordinate rounds past the edge.
    #[test]
    fn last_sample_is_the_last_sample_where_scipy_falls_off_the_edge() {
        let step = std::hint::black_box(3.0) / 187.0;
        assert!(step * 187.0 > 3.0);
        let out = Zoom::new([1, 4], [1, 188]).plane(&[1.0, 1.0, 1.0, 9.0], 4);
        assert_eq!(out[187], 9.0);
    }

    #[test]
    fn stride_reads_a_crop_in_place() {
        let big: Vec<f32> = (0..20).map(|v| v as f32).collect();
        let crop = [6.0, 7.0, 11.0, 12.0];
        let zoom = Zoom::new([2, 2], [5, 3]);
        assert_eq!(zoom.plane(&big[6..], 5), zoom.plane(&crop, 2));
    }

    #[test]
    fn window_clips_and_scales() {
        let mut hu = [-2000.0, -1000.0, -350.0, 300.0, 3000.0];
        window(&mut hu, [-1000.0, 300.0]);
        assert_eq!(hu, [0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
