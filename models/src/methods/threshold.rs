//! The thresholding baseline (paper, section 2.2): what is dense in the lungs is lesion.
//!
//! Works on the grid of the networks, as all of the paper's methods do (section 4.1): 2 mm in plane, slices as acquired, cropped to the lung
//! box; so sigma is 4 voxels, whatever the slices' distance. The planes are windowed to −1000 to 300 HU by then: what is denser than 300 HU
//! counts as 300 and stays, on the paper's normalized images as here.

use kernels::window;

use super::{drop_small, gaussian};
use crate::backend::{Emit, EngineError};
use crate::job::CropJob;

/// Least density of a lesion.
const HU_MIN: f32 = -700.0;
/// Standard deviation of the smoothing, in voxels.
const SIGMA_VOXELS: f64 = 4.0;
/// Share of the smoothed mask above which a voxel is lesion; what is pasted back is cut there, too.
pub(super) const SHARE_MIN: f32 = 0.5;
/// Least volume of a lesion, as a share of the lungs'.
const PART_MIN: f64 = 0.001;

/// The baseline, with its bound in units of the window.
pub(crate) struct Threshold {
    value_min: f32,
    threads: usize,
}

impl Threshold {
    /// The baseline on planes that were windowed to `window_hu`.
    pub(super) fn new(window_hu: [f32; 2], threads: usize) -> Self {
        // By the same arithmetic as the planes', so that −700 HU itself is inside.
        let mut value = [HU_MIN];
        window(&mut value, window_hu);
        Self { value_min: value[0], threads }
    }

    /// Emits the mask of each slice as 0 and 1.
    pub(super) fn run(&self, job: &CropJob<'_>, emit: Emit<'_>) -> Result<(), EngineError> {
        let (rows, columns) = (job.planes[0].rows(), job.planes[0].columns());
        let shape = [job.planes.len(), rows, columns];
        let mut dense = Vec::with_capacity(shape.iter().product());
        let mut lung_voxels = 0_usize;
        for (plane, lungs) in job.planes.iter().zip(job.lungs) {
            for (values, lungs) in plane.iter_rows().zip(lungs.iter_rows()) {
                for (value, lung) in values.iter().zip(lungs) {
                    let in_lung = *lung >= job.lung_threshold;
                    lung_voxels += usize::from(in_lung);
                    dense.push(f32::from(u8::from(in_lung && *value >= self.value_min)));
                }
            }
        }
        let smooth = gaussian(&dense, shape, SIGMA_VOXELS, self.threads);
        drop(dense);
        let mut mask: Vec<bool> = smooth.iter().map(|share| *share > SHARE_MIN).collect();
        drop(smooth);
        drop_small(&mut mask, shape, PART_MIN * lung_voxels as f64);
        for (index, slice) in mask.chunks_exact(rows * columns).enumerate() {
            let values: Vec<f32> = slice.iter().map(|lesion| f32::from(u8::from(*lesion))).collect();
            emit(index, &values);
        }
        Ok(())
    }
}
