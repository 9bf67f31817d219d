//! The processor's engine, on `rten`: one slice a core, batch 1.
//!
//! Owns: the loaded networks and one single-threaded pool a lane. Never does: keep a feature map; features go into the lane's own pyramid and
//! are forgotten. No type of `rten` leaves this module.
//!
//! One slice a thread beats several threads a slice: the lower levels of the nets are too small to share, and a slice's activations stay in a
//! core's cache.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use kernels::PyramidPool;
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::NdTensor;

use crate::backend::{Backend, Emit, EngineError, Plane, sigmoid};
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;

/// The engine. Networks are shared by all lanes.
pub struct CpuBackend {
    lungs: Net<1>,
    slices: Net<2>,
    head: Net<1>,
    lanes: Lanes,
}

impl CpuBackend {
    /// Loads the zoo's networks; at most `threads` slices run at once.
    ///
    /// # Errors
    /// [`EngineError::Load`] for a file that is no ONNX model, or lacks an input or output of the zoo's format.
    pub fn load(zoo: &Zoo, threads: usize) -> Result<Self, EngineError> {
        Ok(Self {
            lungs: Net::load(&zoo.lungs_model(), "lung net", "slice", ["lungs"])?,
            slices: Net::load(&zoo.multitask_model(), "multitask net", "slice", ["features", "lesions"])?,
            head: Net::load(&zoo.multitask_head(), "identification head", "pyramid", ["covid"])?,
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
            let size = slice.rows() * slice.columns();
            let [features, mut lesions] = self.lanes.with(|lane| self.slices.run_slice(slice, lane))?;
            check(self.slices.name, lesions.len(), size)?;
            sigmoid(&mut lesions, self.slices.name)?;
            if !features.iter().all(|v| v.is_finite()) {
                // The pyramid's maxima would swallow it.
                return Err(EngineError::NotFinite { model: self.slices.name });
            }
            emit(index, &lesions);
            let channels = features.len() / size;
            pool.get_or_insert_with(|| PyramidPool::new(channels, slice.rows(), slice.columns(), crop.len()))
                .push(index, &features)?;
        }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        let [mut lungs] = self.lanes.with(|lane| self.lungs.run_slice(&slice, lane))?;
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
        let input = NdTensor::from_data([1, pyramid.len()], pyramid);
        let [mut covid] = self.lanes.with(|lane| self.head.run(input.into(), lane))?;
        check(self.head.name, covid.len(), 1)?;
        sigmoid(&mut covid, self.head.name)?;
        Ok(covid[0])
    }
}

fn check(model: &'static str, got: usize, expected: usize) -> Result<(), EngineError> {
    if got == expected { Ok(()) } else { Err(EngineError::Output { model, got, expected }) }
}

/// A loaded network with one input and `N` outputs, found by name.
struct Net<const N: usize> {
    model: Model,
    name: &'static str,
    input: NodeId,
    outputs: [NodeId; N],
}

impl<const N: usize> Net<N> {
    fn load(path: &Path, name: &'static str, input: &str, outputs: [&str; N]) -> Result<Self, EngineError> {
        let fail = |why: String| EngineError::Load { path: path.to_path_buf(), why };
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let mut options = ModelOptions::with_all_ops();
        let model = options.prepack_weights(true).load(bytes).map_err(|error| fail(error.to_string()))?;
        let node =
            |wanted: &str| model.node_id(wanted).map_err(|_| fail(format!("has no value named `{wanted}`")));
        let input = node(input)?;
        let outputs = outputs.iter().map(|output| node(output)).collect::<Result<Vec<_>, _>>()?;
        let outputs = outputs.try_into().expect("one node for each of N names");
        Ok(Self { model, name, input, outputs })
    }

    fn run_slice(&self, slice: &Plane<'_>, lane: &Arc<ThreadPool>) -> Result<[Vec<f32>; N], EngineError> {
        let input = NdTensor::from_data([1, 1, slice.rows(), slice.columns()], slice.to_vec());
        self.run(input.into(), lane)
    }

    fn run(&self, input: Value, lane: &Arc<ThreadPool>) -> Result<[Vec<f32>; N], EngineError> {
        let fail = |why: String| EngineError::Run { model: self.name, why };
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(lane)));
        let outputs = self
            .model
            .run_n(vec![(self.input, input.into())], self.outputs, Some(options))
            .map_err(|error| fail(error.to_string()))?;
        let mut out = [const { Vec::new() }; N];
        for (slot, output) in out.iter_mut().zip(outputs) {
            let tensor = output.into_tensor::<f32>().ok_or_else(|| fail("output is not f32".to_owned()))?;
            *slot = tensor.into_data();
        }
        Ok(out)
    }
}

/// The lanes: single-threaded pools, lent to one caller each. A caller waits while all are lent, which bounds the activations in memory.
struct Lanes {
    count: usize,
    free: Mutex<Vec<Arc<ThreadPool>>>,
    returned: Condvar,
}

impl Lanes {
    fn new(count: usize) -> Self {
        let free = (0..count).map(|_| Arc::new(ThreadPool::with_num_threads(1))).collect();
        Self { count, free: Mutex::new(free), returned: Condvar::new() }
    }

    fn with<T>(&self, work: impl FnOnce(&Arc<ThreadPool>) -> T) -> T {
        /// Gives the lane back even if the work panics.
        struct Lent<'a>(&'a Lanes, Arc<ThreadPool>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                // The list is valid after any panic: push and pop are its only changes.
                self.0.free.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.1));
                self.0.returned.notify_one();
            }
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let lane = free.pop().expect("waited until a lane was free");
        drop(free);
        let lent = Lent(self, lane);
        work(&lent.1)
    }
}
