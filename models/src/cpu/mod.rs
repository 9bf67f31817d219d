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
mod net;
mod plan;
pub mod probe;
mod rows;
mod simd;
mod tile;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::PyramidPool;

use crate::backend::{Backend, Emit, EngineError, Plane, sigmoid};
use crate::graph::SizeError;
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;
pub(crate) use head::Head;
use lanes::{Lane, Lanes};
use net::{Net, Workspace};
use simd::Kernels;

/// The engine. Networks are shared by all lanes.
pub struct CpuBackend {
    lungs: Model<1>,
    slices: Model<2>,
    head: Head,
    lanes: Lanes,
}

impl CpuBackend {
    /// Loads the zoo's networks; at most `threads` slices run at once.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a file that is no ONNX model, has an operator that isn't known, or lacks an input or output of the zoo's format.
    pub fn load(zoo: &Zoo, threads: usize) -> Result<Self, EngineError> {
        let best = simd::available()[0];
        Ok(Self {
            lungs: Model::load(&zoo.lungs_model(), "lung net", "slice", 1, ["lungs"], best)?,
            slices: Model::load(
                &zoo.multitask_model(),
                "multitask net",
                "slice",
                1,
                ["features", "lesions"],
                best,
            )?,
            head: Head::load(zoo)?,
            lanes: Lanes::new(threads.clamp(1, THREADS_MAX)),
        })
    }

    /// One worker of [`Backend::multitask`]: takes slices until none is left, pools their features.
    fn work(
        &self,
        crop: &[Plane<'_>],
        next: &AtomicUsize,
        emit: Emit<'_>,
    ) -> Result<Option<PyramidPool>, EngineError> {
        let mut pool: Option<PyramidPool> = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slice) = crop.get(index) else { return Ok(pool) };
            let channels = self.slices.net.channels(self.slices.outputs[0]);
            let pool = pool
                .get_or_insert_with(|| PyramidPool::new(channels, slice.rows(), slice.columns(), crop.len()));
            let left = crop.len() - index;
            let mut lesions = self.lanes.with(left, |lane| self.slice(slice, index, pool, lane))?;
            sigmoid(&mut lesions, self.slices.name)?;
            emit(index, &lesions);
        }
    }

    /// Lesion logits of one slice; its features go into the pyramid row by row.
    fn slice(
        &self,
        slice: &Plane<'_>,
        index: usize,
        pool: &mut PyramidPool,
        lane: Lane<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let [features, logits] = self.slices.outputs;
        // Rows of features that are as wide as the slice.
        let mut whole_rows = 0;
        let mut pooled = pool.slice(index)?;
        let mut finite = true;
        let mut lesions = Vec::with_capacity(slice.rows() * slice.columns());
        self.slices.run(slice, lane, &mut |row| {
            if row.output == features {
                // The pyramid's maxima would swallow what is no number.
                whole_rows += usize::from(row.layout.dims[2] == slice.columns());
                finite &= row.values.iter().fold(true, |all, value| all & value.is_finite());
                pooled.push(row.values, |channel, column| row.layout.at(channel, column));
            } else if row.output == logits {
                row.append(0, &mut lesions);
            }
        })?;
        check(self.slices.name, lesions.len(), slice.rows() * slice.columns())?;
        check(self.slices.name, whole_rows, slice.rows())?;
        if !finite {
            return Err(EngineError::NotFinite { model: self.slices.name });
        }
        pooled.finish()?;
        Ok(lesions)
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        let mut lungs = Vec::with_capacity(slice.rows() * slice.columns());
        let left = self.lanes.expected();
        self.lanes.with(left, |lane| {
            self.lungs.run(&slice, lane, &mut |row| {
                if row.output == self.lungs.outputs[0] {
                    row.append(0, &mut lungs);
                }
            })
        })?;
        check(self.lungs.name, lungs.len(), slice.rows() * slice.columns())?;
        sigmoid(&mut lungs, self.lungs.name)?;
        Ok(lungs)
    }

    fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
        let next = AtomicUsize::new(0);
        let workers = self.lanes.count.min(crop.len()).max(1);
        let pools = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(|| {
                        // When one ends, no slice is left, or it failed or panicked: the others stop at their next slice.
                        let _stop = Stop { next: &next, count: crop.len() };
                        self.work(crop, &next, emit)
                    })
                })
                .collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            handles.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        let mut pools = pools.into_iter().flatten();
        let mut pool = pools.next().ok_or(EngineError::Bounds {
            what: "slices in the crop",
            value: 0,
            min: 1,
            max: usize::MAX,
        })?;
        for other in pools {
            pool.merge(&other)?;
        }
        let pyramid = pool.finish()?;
        self.head.probability(&pyramid)
    }
}

/// Takes all slices that are left.
struct Stop<'a> {
    next: &'a AtomicUsize,
    count: usize,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.next.store(self.count, Ordering::Relaxed);
    }
}

fn check(model: &'static str, got: usize, expected: usize) -> Result<(), EngineError> {
    if got == expected { Ok(()) } else { Err(EngineError::Output { model, got, expected }) }
}

/// A network with one input and `N` outputs, found by name.
struct Model<const N: usize> {
    net: Net,
    name: &'static str,
    outputs: [usize; N],
}

impl<const N: usize> Model<N> {
    fn load(
        path: &Path,
        name: &'static str,
        input: &str,
        channels: usize,
        outputs: [&str; N],
        kernels: Kernels,
    ) -> Result<Self, EngineError> {
        let fail = |why: String| EngineError::Load { path: path.to_path_buf(), why };
        let net = Net::load(path, kernels).map_err(|error| fail(error.to_string()))?;
        if (net.input(), net.input_channels()) != (input, channels) {
            let (got, count) = (net.input(), net.input_channels());
            return Err(fail(format!("input `{got}` of {count} channels, not `{input}` of {channels}")));
        }
        let find = |name: &str| net.output(name).ok_or_else(|| fail(format!("has no output named `{name}`")));
        let found = outputs.iter().map(|output| find(output)).collect::<Result<Vec<_>, _>>()?;
        for (output, name) in found.iter().zip(&outputs).filter(|(_, name)| **name != "features") {
            if net.channels(*output) != 1 {
                return Err(fail(format!("output `{name}` has {} channels, not one", net.channels(*output))));
            }
        }
        // A net of slices takes any, and answers for each pixel; a head takes one vector.
        let fits = if channels == 1 { net.try_slices(&found) } else { net.try_vector() };
        fits.map_err(|error| fail(error.to_string()))?;
        let outputs = found.try_into().expect("one output for each of N names");
        Ok(Self { net, name, outputs })
    }

    /// Runs on one slice; `take` gets the outputs' rows.
    fn run(&self, slice: &Plane<'_>, lane: Lane<'_>, take: net::Take<'_>) -> Result<(), EngineError> {
        let fail = |error: SizeError| EngineError::Run { model: self.name, why: error.to_string() };
        let Lane { workspace, threads_max, threads } = lane;
        let plan = self.net.plan([1, slice.rows(), slice.columns()], threads_max).map_err(fail)?;
        self.net.run(&plan, workspace, threads, &|_, row, out| out(slice.row(row)), take);
        Ok(())
    }

    /// Runs on a vector; returns the first output.
    fn vector(&self, values: &[f32], lane: &mut Workspace) -> Result<Vec<f32>, EngineError> {
        let fail = |error: SizeError| EngineError::Run { model: self.name, why: error.to_string() };
        check(self.name, values.len(), self.net.input_channels())?;
        let plan = self.net.plan([1, 1, 1], 1).map_err(fail)?;
        let mut result = Vec::new();
        let input: net::Input<'_> = &|channel, _, out| out(&values[channel..=channel]);
        self.net.run(&plan, lane, &|| 1, input, &mut |row| {
            if row.output == self.outputs[0] {
                (0..row.layout.channels).for_each(|channel| row.append(channel, &mut result));
            }
        });
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
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
