//! The processor's engine: our own, one slice a core, batch 1.
//!
//! Owns: the loaded networks, the lanes. Never does: keep a feature map; rows of features go into the lane's own pyramid as they leave the
//! backbone, and are forgotten.
//!
//! One slice a thread beats several threads a slice: the lower levels of the nets are too small to share, and a slice's activations stay in a
//! core's cache. Several threads take a slice only when slices are fewer than lanes (`lanes` decides). The bits are the same.
//!
//! ```text
//! file ─ onnx ─▶ nodes ─ fuse ──▶ fused layers ─ conv ─▶ packed weights ┐
//!                                      └─ plan (once a size) ─▶ steps ──┴─ net ─▶ rows of the outputs
//!                                                       micro, rows: the arithmetic, compiled by simd for each instruction set
//! ```

mod buffer;
mod conv;
mod ends;
mod head;
mod lanes;
mod layers;
mod layout;
mod micro;
mod model;
mod multitask;
mod net;
mod plan;
pub mod probe;
mod rows;
mod simd;
mod tile;
mod vector_pool;
mod work;

use crate::backend::{Backend, Emit, EngineError, Plane, sigmoid};
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;
pub(crate) use head::Head;
pub(crate) use lanes::{Lane, Lanes};
pub(crate) use model::{Model, check};
pub(crate) use multitask::{Multitask, each_slice};
pub(crate) use vector_pool::{VECTOR_CELLS, VectorPool};

/// The engine. Networks are shared by all lanes.
pub struct CpuBackend {
    lungs: Model<1>,
    multitask: Multitask,
    lanes: Lanes,
}

impl CpuBackend {
    /// Loads the zoo's networks; at most `threads` slices run at once.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a file that is no ONNX model, has an operator that isn't known, or lacks an input or output of the zoo's format.
    pub fn load(zoo: &Zoo, threads: usize) -> Result<Self, EngineError> {
        Ok(Self {
            lungs: Model::slices(&zoo.lungs_model(), "lung net", ["lungs"])?,
            multitask: Multitask::load(&zoo.multitask_model(), &zoo.multitask_head())?,
            lanes: Lanes::new(threads.clamp(1, THREADS_MAX)),
        })
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        let left = self.lanes.expected();
        let mut lungs = self.lanes.with(left, |lane| self.lungs.map(&slice, lane))?;
        sigmoid(&mut lungs, self.lungs.name())?;
        Ok(lungs)
    }

    fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
        self.multitask.run(crop, &self.lanes, emit)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::zoo::Zoo;

    #[test]
    #[cfg_attr(miri, ignore = "too long under Miri")]
    fn lanes_change_no_bit_whether_slices_are_few_or_many() {
        let zoo = Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo")).unwrap();
        let (rows, columns) = (97, 121);
        let value = |i: usize| (i % 61) as f32 / 60.0 * ((i / columns) as f32 / rows as f32);
        let values: Vec<f32> = (0..rows * columns + 5).map(value).collect();
        let crop: Vec<_> = (0..5).map(|shift| Plane::new(&values[shift..], rows, columns, columns)).collect();
        let results = |lanes: usize, crop: &[Plane<'_>]| {
            let engine = CpuBackend::load(&zoo, lanes).unwrap();
            let lesions = std::sync::Mutex::new(vec![Vec::new(); crop.len()]);
            let covid = engine.multitask(crop, &|at, values| lesions.lock().unwrap()[at] = values.to_vec());
            // The first are not shared, the last is: no other came in between.
            let lungs: Vec<_> = (0..4).flat_map(|_| engine.lungs(crop[0]).unwrap()).collect();
            let lesions = lesions.into_inner().unwrap().concat();
            let all = [vec![covid.unwrap()], lesions, lungs].concat();
            all.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
        };
        for slices in [1, 2, 5] {
            let one = results(1, &crop[..slices]);
            for lanes in [2, 3] {
                assert!(one == results(lanes, &crop[..slices]), "{slices} slices on {lanes} lanes");
            }
        }
    }

    /// Found in review: the other workers went on through the whole study.
    #[test]
    #[cfg_attr(miri, ignore = "too long under Miri")]
    fn a_panic_of_one_worker_stops_the_others() {
        let zoo = Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")).unwrap();
        let engine = CpuBackend::load(&zoo, 2).unwrap();
        let values = vec![0.5; 24 * 24];
        let crop = vec![Plane::new(&values, 24, 24, 24); 2_000];
        let emitted = AtomicUsize::new(0);
        let run = std::panic::AssertUnwindSafe(|| {
            engine.multitask(&crop, &|index, _| {
                emitted.fetch_add(1, Ordering::Relaxed);
                assert_ne!(index, 3, "as asked by the test");
                // To print the panic, which comes before it stops the others, may take a second on a busy machine; all slices take 4.
                std::thread::sleep(std::time::Duration::from_millis(2));
            })
        });
        assert!(std::panic::catch_unwind(run).is_err());
        let emitted = emitted.into_inner();
        assert!(emitted < crop.len(), "all {emitted} slices, after a panic at slice 3");
    }
}
