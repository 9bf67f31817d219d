//! The processor's engine: our own, one slice a core, batch 1.
//!
//! Owns: the loaded networks and one workspace a lane. Never does: keep a feature map; rows of features go into the lane's own pyramid as
//! they leave the backbone, and are forgotten.
//!
//! One slice a thread beats several threads a slice: the lower levels of the nets are too small to share, and a slice's activations stay in a
//! core's cache.
//!
//! ```text
//! file ─ onnx ─▶ nodes ─ fuse ──▶ fused layers ─ conv ─▶ packed weights ┐
//!                                      └─ plan (once a size) ─▶ steps ──┴─ net ─▶ rows of the outputs
//!                                                       tile, rows: the arithmetic, compiled by simd for each instruction set
//! ```

mod buffer;
mod conv;
mod head;
mod layers;
mod layout;
mod net;
mod plan;
pub mod probe;
mod rows;
mod simd;
mod tile;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use kernels::PyramidPool;

use crate::backend::{Backend, Emit, EngineError, Plane, sigmoid};
use crate::graph::SizeError;
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;
pub(crate) use head::Head;
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
            let mut lesions = self.lanes.with(|lane| self.slice(slice, index, pool, lane))?;
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
        lane: &mut Workspace,
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
        self.lanes.with(|lane| {
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
                        let pool = self.work(crop, &next, emit);
                        if pool.is_err() {
                            // The others stop at their next slice.
                            next.store(crop.len(), Ordering::Relaxed);
                        }
                        pool
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
    fn run(
        &self,
        slice: &Plane<'_>,
        lane: &mut Workspace,
        take: &mut dyn FnMut(net::Row<'_>),
    ) -> Result<(), EngineError> {
        let fail = |error: SizeError| EngineError::Run { model: self.name, why: error.to_string() };
        let plan = self.net.plan([1, slice.rows(), slice.columns()]).map_err(fail)?;
        self.net.run(&plan, lane, &|_, row, out| out(slice.row(row)), take);
        Ok(())
    }

    /// Runs on a vector; returns the first output.
    fn vector(&self, values: &[f32], lane: &mut Workspace) -> Result<Vec<f32>, EngineError> {
        let fail = |error: SizeError| EngineError::Run { model: self.name, why: error.to_string() };
        check(self.name, values.len(), self.net.input_channels())?;
        let plan = self.net.plan([1, 1, 1]).map_err(fail)?;
        let mut result = Vec::new();
        self.net.run(&plan, lane, &|channel, _, out| out(&values[channel..=channel]), &mut |row| {
            if row.output == self.outputs[0] {
                (0..row.layout.channels).for_each(|channel| row.append(channel, &mut result));
            }
        });
        Ok(result)
    }
}

/// The lanes: workspaces, lent to one caller each. A caller waits while all are lent, which bounds the activations in memory.
struct Lanes {
    count: usize,
    free: Mutex<Vec<Workspace>>,
    returned: Condvar,
}

impl Lanes {
    fn new(count: usize) -> Self {
        let free = (0..count).map(|_| Workspace::default()).collect();
        Self { count, free: Mutex::new(free), returned: Condvar::new() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> T {
        /// Gives the lane back even if the work panics; a workspace is valid whatever it holds.
        struct Lent<'a>(&'a Lanes, Workspace);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                // The list is valid after any panic: push and pop are its only changes.
                let lane = std::mem::take(&mut self.1);
                self.0.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
                self.0.returned.notify_one();
            }
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let lane = free.pop().expect("waited until a lane was free");
        drop(free);
        let mut lent = Lent(self, lane);
        work(&mut lent.1)
    }
}
