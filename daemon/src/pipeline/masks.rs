//! What is read off the masks: how far the lungs reach, and the coronal projection.
use engine::{Analysis, LabelVolume, PreparedSlice, SpacingMm};
use results::CoronalProjection;
use study::NotEvaluated;
use study::gate::{self, LungExtent};

/// Judges whether the lungs that were found are whole.
///
/// # Errors
/// [`NotEvaluated::NoLungs`], [`NotEvaluated::OneLung`], [`NotEvaluated::LungsCut`].
pub fn judge_lungs(analysis: &Analysis, spacing: SpacingMm) -> Result<(), NotEvaluated> {
    gate::judge_lungs(&lung_extent(analysis, spacing))
}

/// How large the lungs are and how far they reach to the edges of the source grid.
fn lung_extent(analysis: &Analysis, spacing: SpacingMm) -> LungExtent {
    let labels = &analysis.labels;
    let [slices, rows, columns] = labels.shape;
    let is_lung = |label: &&u8| **label & LabelVolume::LUNGS != 0;
    let lungs = analysis.lung_volume_ml;
    let mut extent = LungExtent { volume_ml: lungs.left + lungs.right, ..LungExtent::default() };
    // Sums of columns and counts, for the centres of the right and the left lung.
    let mut centres = [(LabelVolume::RIGHT_LUNG, 0u64, 0u64), (LabelVolume::LEFT_LUNG, 0, 0)];
    for k in 0..slices {
        let slice = labels.slice(k);
        let area = slice.iter().filter(is_lung).count();
        let sides =
            (1..rows.saturating_sub(1)).flat_map(|r| [&slice[r * columns], &slice[(r + 1) * columns - 1]]);
        let border = slice[..columns].iter().chain(&slice[(rows - 1) * columns..]).chain(sides);
        extent.border_area += border.filter(is_lung).count();
        extent.volume += area;
        extent.largest_slice_area = extent.largest_slice_area.max(area);
        if k == 0 {
            extent.first_slice_area = area;
        }
        if k + 1 == slices {
            extent.last_slice_area = area;
        }
        for row in slice.chunks_exact(columns).filter(|row| is_marked(row)) {
            for (column, label) in row.iter().enumerate() {
                for (bit, sum, count) in &mut centres {
                    let inside = u64::from(label & *bit != 0);
                    *sum += inside * column as u64;
                    *count += inside;
                }
            }
        }
    }
    let [right, left] = centres.map(|(_, sum, count)| sum as f64 / count.max(1) as f64);
    let both = centres.iter().all(|(_, _, count)| *count > 0);
    extent.distance_mm = if both { (left - right) * spacing.column } else { 0.0 };
    extent
}

/// The coronal projection: mean density along the rows, and lung and lesion voxels on each ray.
pub(super) fn project(
    prepared: &[PreparedSlice],
    labels: &LabelVolume,
    spacing: SpacingMm,
) -> CoronalProjection {
    let [slices, rows, columns] = labels.shape;
    let grid_columns = prepared.first().map_or(0, |p| p.windowed().columns());
    let mut projection = CoronalProjection {
        slices,
        columns: grid_columns,
        slice_spacing_mm: spacing.slice,
        column_spacing_mm: spacing.column * columns as f64 / grid_columns.max(1) as f64,
        mean_density: vec![0.0; slices * grid_columns],
        lung: vec![0.0; slices * grid_columns],
        lesion: vec![0.0; slices * grid_columns],
    };
    // Corners of both grids coincide.
    let scale = (grid_columns.max(1) - 1) as f64 / (columns.max(2) - 1) as f64;
    let grid_column: Vec<usize> = (0..columns).map(|c| (c as f64 * scale).round() as usize).collect();
    for (k, slice) in prepared.iter().enumerate() {
        let ray = k * grid_columns..(k + 1) * grid_columns;
        let plane = slice.windowed();
        let share = 1.0 / plane.rows() as f32;
        for row in plane.iter_rows() {
            for (sum, value) in projection.mean_density[ray.clone()].iter_mut().zip(row) {
                *sum += value * share;
            }
        }
        let (lung, lesion) = (&mut projection.lung[ray.clone()], &mut projection.lesion[ray]);
        for row in labels.slice(k).chunks_exact(columns).take(rows).filter(|row| is_marked(row)) {
            for (label, c) in row.iter().zip(&grid_column) {
                let inside = label & LabelVolume::LUNGS != 0;
                lung[*c] += f32::from(u8::from(inside));
                lesion[*c] += f32::from(u8::from(inside && label & LabelVolume::LESION != 0));
            }
        }
    }
    projection
}

/// Whether a row has any label: most have none, and that is found 64 voxels at a time.
fn is_marked(row: &[u8]) -> bool {
    row.iter().fold(0, |all, label| all | label) != 0
}
