//! The coronal projection of a CT, as the pipeline sums it up, and its rendering at a given size: an X-ray-like grey
//! with, when asked for, the share of affected lung along each ray in colour. The page around it is
//! [`crate::picture`]'s.
use crate::canvas::Canvas;
use crate::colour;
use crate::resample::{SMOOTH, resample, taps};

/// Bound on the number of values in one map: far above any series (4096 slices of 2048 columns), far below what
/// would take a noticeable part of the memory.
pub const VALUES_MAX: usize = 4096 * 2048;
/// Columns whose densest ray is below this share of the densest of all show only air, and are not drawn.
const AIR_SHARE: f32 = 0.12;
/// Air that is left at each side of the body.
const MARGIN_MM: f64 = 8.0;
/// A ray that meets this share of the deepest lung has the full tint: the colour fades at the lungs' edges.
const FULL_TINT_SHARE: f32 = 0.10;
/// Radius of the neighbourhood against which details (ribs, vessels) are raised.
const DETAIL_MM: f64 = 14.0;
/// By how much they are raised.
const DETAIL_GAIN: f32 = 1.1;

/// Sums over the rows (front to back) of a CT and its masks: one ray for each slice and column.
///
/// All maps are slices × columns, slice-major. Slice 0 is the head, column 0 the patient's right.
#[derive(Debug, Clone, PartialEq)]
pub struct CoronalProjection {
    /// Number of slices.
    pub slices: usize,
    /// Number of columns.
    pub columns: usize,
    /// Distance between slices.
    pub slice_spacing_mm: f64,
    /// Distance between columns.
    pub column_spacing_mm: f64,
    /// Mean over the rows of the windowed CT, 0 to 1.
    pub mean_density: Vec<f32>,
    /// Lung voxels on the ray.
    pub lung: Vec<f32>,
    /// Lesion voxels inside the lungs on the ray, in the unit of `lung`.
    pub lesion: Vec<f32>,
}

/// Why a projection can't be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProjectionError {
    /// Nothing in it.
    #[error("the projection is empty: {slices} slices of {columns} columns")]
    Empty {
        /// Slices.
        slices: usize,
        /// Columns.
        columns: usize,
    },
    /// More than [`VALUES_MAX`].
    #[error("the projection is too large: {slices} slices of {columns} columns, at most {VALUES_MAX} values")]
    TooLarge {
        /// Slices.
        slices: usize,
        /// Columns.
        columns: usize,
    },
    /// A map whose length is not slices × columns.
    #[error("the projection's {map} has {length} values instead of {expected}")]
    Length {
        /// Which map.
        map: &'static str,
        /// Its length.
        length: usize,
        /// Slices × columns.
        expected: usize,
    },
    /// A spacing that is not a positive number.
    #[error("the projection's {axis} spacing is {spacing_mm} mm")]
    Spacing {
        /// Which axis.
        axis: &'static str,
        /// The spacing given.
        spacing_mm: f64,
    },
}

/// Where a projection came to lie on the canvas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Pixels for a millimetre.
    pub pixels_per_mm: f64,
}

impl CoronalProjection {
    /// Whether it can be drawn. NaN among the values is no error: it is drawn as 0.
    ///
    /// # Errors
    /// [`ProjectionError`], the first that applies.
    pub fn check(&self) -> Result<(), ProjectionError> {
        let Self { slices, columns, .. } = *self;
        if slices == 0 || columns == 0 {
            return Err(ProjectionError::Empty { slices, columns });
        }
        let expected = slices.checked_mul(columns).filter(|n| *n <= VALUES_MAX);
        let expected = expected.ok_or(ProjectionError::TooLarge { slices, columns })?;
        for (map, values) in [("density", &self.mean_density), ("lung", &self.lung), ("lesion", &self.lesion)]
        {
            if values.len() != expected {
                return Err(ProjectionError::Length { map, length: values.len(), expected });
            }
        }
        for (axis, spacing_mm) in [("slice", self.slice_spacing_mm), ("column", self.column_spacing_mm)] {
            if !(spacing_mm.is_finite() && spacing_mm > 0.0) {
                return Err(ProjectionError::Spacing { axis, spacing_mm });
            }
        }
        Ok(())
    }

    /// Draws it as large as fits into `size` pixels, centred, with the same scale along both axes. Without `colours`
    /// lungs and lesions are not marked.
    ///
    /// # Errors
    /// [`ProjectionError`] before anything is drawn.
    pub(crate) fn draw(
        &self,
        canvas: &mut Canvas,
        (x, y): (usize, usize),
        (width, height): (usize, usize),
        colours: bool,
    ) -> Result<Placed, ProjectionError> {
        self.check()?;
        let density: Vec<f32> = self.mean_density.iter().map(|v| finite(*v).min(1.0)).collect();
        let (first, last) = self.body_columns(&density);
        let width_mm = (last - first + 1) as f64 * self.column_spacing_mm;
        let height_mm = self.slices as f64 * self.slice_spacing_mm;
        let pixels_per_mm = (width as f64 / width_mm).min(height as f64 / height_mm);
        let fit = |mm: f64, most: usize| ((mm * pixels_per_mm).round() as usize).clamp(1, most);
        let (w, h) = (fit(width_mm, width), fit(height_mm, height));
        let across = taps(first, last + 1, w, SMOOTH);
        let down = taps(0, self.slices, h, SMOOTH);
        let map = |values: &[f32]| resample(values, self.columns, &across, &down);
        let grey = contrast(&map(&density), w, h, (DETAIL_MM * pixels_per_mm).round() as usize);
        let lung = map(&self.lung.iter().map(|v| finite(*v)).collect::<Vec<_>>());
        let lesion = map(&self.lesion.iter().map(|v| finite(*v)).collect::<Vec<_>>());
        let full = FULL_TINT_SHARE * lung.iter().copied().fold(0.0, f32::max);
        let (x, y) = (x + (width - w) / 2, y + (height - h) / 2);
        for i in 0..w * h {
            let tinted = colours && lung[i] > 0.0;
            let fraction = if tinted { (lesion[i] / lung[i]).min(1.0) } else { 0.0 };
            let alpha = if tinted { (lung[i] / full).min(1.0) } else { 0.0 };
            canvas.blend(x + i % w, y + i / w, colour::tint(grey[i], fraction, alpha), 1.0);
        }
        Ok(Placed { pixels_per_mm })
    }

    /// First and last column that show more than air, with a margin. All columns when there is only air.
    fn body_columns(&self, density: &[f32]) -> (usize, usize) {
        let mut densest = vec![0.0f32; self.columns];
        for slice in density.chunks_exact(self.columns) {
            for (most, value) in densest.iter_mut().zip(slice) {
                *most = most.max(*value);
            }
        }
        let threshold = AIR_SHARE * densest.iter().copied().fold(0.0, f32::max);
        let body = |v: &f32| *v > threshold;
        let Some((first, last)) = densest.iter().position(body).zip(densest.iter().rposition(body)) else {
            return (0, self.columns - 1);
        };
        let margin = (MARGIN_MM / self.column_spacing_mm).min(self.columns as f64) as usize;
        (first.saturating_sub(margin), (last + margin).min(self.columns - 1))
    }
}

/// NaN, infinities and negative values count as nothing.
fn finite(value: f32) -> f32 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

/// Stretches a density to a grey of 0 to 1: percentiles of the body, so that neither a metal implant nor the air
/// around decides, and details raised against their neighbourhood, so that ribs and vessels show through.
fn contrast(density: &[f32], width: usize, height: usize, radius: usize) -> Vec<f32> {
    let near = box_mean(&box_mean(density, width, height, radius), width, height, radius);
    let raised: Vec<f32> = density.iter().zip(&near).map(|(v, mean)| v + DETAIL_GAIN * (v - mean)).collect();
    let most = percentile(density.to_vec(), 0.995);
    let body: Vec<f32> = raised
        .iter()
        .zip(density)
        .filter(|(_, v)| **v > AIR_SHARE * most)
        .map(|(raised, _)| *raised)
        .collect();
    let (low, high) = (percentile(body.clone(), 0.01), percentile(body, 0.995));
    let range = high - low;
    if range.is_nan() || range <= 1e-6 {
        return density.iter().map(|v| v.clamp(0.0, 1.0)).collect();
    }
    let stretch = |(raised, v): (&f32, &f32)| {
        let grey = (0.06 + 0.94 * (raised - low) / range).clamp(0.0, 1.0);
        // Air fades to black, so that the body's outline stays.
        grey * (v / (AIR_SHARE * most)).min(1.0)
    };
    raised.iter().zip(density).map(stretch).collect()
}

/// The value below which `share` of the values lie; 0 for none.
fn percentile(mut values: Vec<f32>, share: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = ((values.len() - 1) as f32 * share) as usize;
    *values.select_nth_unstable_by(rank, f32::total_cmp).1
}

/// Mean over a square of `2 * radius + 1`, cut at the border.
fn box_mean(values: &[f32], width: usize, height: usize, radius: usize) -> Vec<f32> {
    let rows: Vec<f32> = values.chunks_exact(width).flat_map(|row| running_mean(row, radius)).collect();
    let mut out = vec![0.0; values.len()];
    for x in 0..width {
        let column: Vec<f32> = (0..height).map(|y| rows[y * width + x]).collect();
        for (y, mean) in running_mean(&column, radius).into_iter().enumerate() {
            out[y * width + x] = mean;
        }
    }
    out
}

fn running_mean(line: &[f32], radius: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64];
    for value in line {
        sums.push(sums[sums.len() - 1] + f64::from(*value));
    }
    (0..line.len())
        .map(|i| {
            let (low, high) = (i.saturating_sub(radius), (i + radius + 1).min(line.len()));
            ((sums[high] - sums[low]) / (high - low) as f64) as f32
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
