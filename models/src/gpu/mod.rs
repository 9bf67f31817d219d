//! A study on a GPU: everything but the networks.
//!
//! Owns: the lanes (a stream and its workspace, lent to one caller each), the uploads, the batches, the pyramid and the masks on the device, and
//! the bound on their memory. Never does: run a network; an implementation of [`Networks`] does (our kernels, or TensorRT). Never keeps the
//! features of a study: they go into the pyramid batch by batch.

mod lane;
mod lanes;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kernels::device::{Buffer, Device, DeviceError, Stream};
use kernels::gpu::masks::Pasted;
pub(crate) use kernels::gpu::pyramid::FeatureFormat;

use crate::backend::{Backend, Emit, EngineError, Plane};
use crate::cpu::Head;
use crate::job::{CropJob, Cropped, GridSlice, Progress, SliceJob};
use crate::labels::{LabelVolume, parallel};
use crate::zoo::Zoo;
use lane::{Lane, Made, Want, device_error};
use lanes::Lanes;

/// Names in errors.
const LUNGS: &str = "lung net";
const MULTITASK: &str = "multitask net";

/// Most pixels of a batch: 32 slices of 180 × 180, or one of the largest that the engine takes. Bounds the activations whatever the study.
pub(crate) const BATCH_PIXELS_MAX: usize = 1 << 20;

/// Most lanes: while one is uploading another computes, and more than two at once no GPU of an appliance has room for.
pub(crate) const LANES_MAX: usize = 4;

/// The two networks on a device. A lane is used by one thread at a time, always with the same stream.
///
/// Both calls only put work on the stream: buffers are read and written when it gets there. `shape` is [slices, rows, columns] with at most
/// [`Networks::batch_max`] slices and [`BATCH_PIXELS_MAX`] pixels; the buffers may be larger than it needs. Other buffers may come with each call, and
/// those of the call before may be gone by then: a graph that was captured is good for the buffers that it was captured with.
pub(crate) trait Networks: Send + Sync {
    /// Workspace of a lane: buffers, graphs, execution contexts.
    type Lane: Send;

    /// Name in results and logs: "cuda", "tensorrt".
    fn name(&self) -> &'static str;

    /// Where they run.
    fn device(&self) -> &Device;

    /// Most slices of a call.
    fn batch_max(&self) -> usize;

    /// A workspace for a lane.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn lane(&self) -> Result<Self::Lane, EngineError>;

    /// Windowed planes `[slice][row][column]` f32 → lung logits, the same shape and type.
    ///
    /// # Errors
    /// [`EngineError`].
    fn lungs(
        &self,
        lane: &mut Self::Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        logits: &Buffer,
    ) -> Result<(), EngineError>;

    /// Windowed planes → features as [`Networks::feature_format`] says, and lesion logits `[slice][row][column]` f32.
    ///
    /// # Errors
    /// [`EngineError`].
    fn slices(
        &self,
        lane: &mut Self::Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        features: &Buffer,
        logits: &Buffer,
    ) -> Result<(), EngineError>;

    /// How the features lie.
    fn feature_format(&self) -> FeatureFormat;
}

/// A GPU's engine: studies through the networks `N`.
pub(crate) struct GpuBackend<N: Networks> {
    // The lanes go first: their workspaces may be the networks' own.
    lanes: Lanes<Lane<N::Lane>>,
    networks: N,
    head: Head,
}

impl<N: Networks> GpuBackend<N> {
    /// The engine with up to `lanes` lanes, with the zoo's identification head on the processor.
    ///
    /// # Errors
    /// [`EngineError::Load`]; [`EngineError::Device`] when not even one lane fits the device.
    pub(crate) fn new(networks: N, zoo: &Zoo, lanes: usize) -> Result<Self, EngineError> {
        let head = Head::load(zoo)?;
        let backend = Self { lanes: Lanes::new(lanes.clamp(1, LANES_MAX)), networks, head };
        backend.with(|_| Ok(()))?;
        Ok(backend)
    }

    /// The networks.
    #[cfg(test)]
    pub(crate) fn networks(&self) -> &N {
        &self.networks
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Lane<N::Lane>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let make = || {
            let workspace = self.networks.lane()?;
            Lane::new(self.networks.device(), workspace).map_err(|error| self.device_error(error))
        };
        self.lanes.with(make, work)
    }

    fn device_error(&self, error: DeviceError) -> EngineError {
        device_error(&self.networks, error)
    }
}

impl<N: Networks> Backend for GpuBackend<N> {
    fn name(&self) -> &'static str {
        self.networks.name()
    }

    fn detail(&self) -> String {
        let device = self.networks.device();
        let ((major, minor), version) = (device.compute_capability(), device.driver_version());
        format!(
            "{}, compute capability {major}.{minor}, at most {} MiB used, driver for CUDA {}.{}",
            device.name(),
            device.memory_max() >> 20,
            version / 1000,
            version % 1000 / 10
        )
    }

    fn prepare(&self, job: &SliceJob<'_>) -> Result<GridSlice, EngineError> {
        let start = Instant::now();
        let mut slice = self.with(|lane| lane.slice(&self.networks, job))?;
        // One piece of work on the device, resampling included.
        slice.lungs_ms = ms(start);
        Ok(slice)
    }

    fn crop(
        &self,
        job: &CropJob<'_>,
        labels: &mut [u8],
        progress: Progress<'_>,
    ) -> Result<Cropped, EngineError> {
        let start = Instant::now();
        let (slices, pasted) = (job.planes.len(), Pasted::new(job.paste));
        let want = Want::Masks {
            lungs: job.lungs,
            pasted: &pasted,
            thresholds: [job.lung_threshold, job.lesion_threshold],
        };
        let size = labels.len() / slices.max(1);
        progress(0, slices);
        let pooled = self.with(|lane| {
            lane.study(&self.networks, job.planes, &want, &mut |batch, made| {
                if let Made::Masks { lesions, lungs } = made {
                    let labels = &mut labels[batch.start * size..batch.end * size];
                    unpack(&pasted, lesions, lungs, labels, job.threads);
                }
                batch.for_each(|index| progress(index + 1, slices));
            })
        })?;
        let probability = self.head.probability(&pooled)?;
        Ok(Cropped { probability, multitask_ms: ms(start), paste_ms: 0.0 })
    }

    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        self.with(|lane| lane.plane(&self.networks, slice))
    }

    fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
        let pooled = self.with(|lane| {
            lane.study(&self.networks, crop, &Want::Probabilities, &mut |batch, made| {
                if let Made::Probabilities(lesions) = made {
                    let plane = lesions.len() / batch.len();
                    batch.zip(lesions.chunks_exact(plane)).for_each(|(index, lesions)| emit(index, lesions));
                }
            })
        })?;
        self.head.probability(&pooled)
    }
}

/// The packed masks of some slices → their labels, a slice a thread at a time: the first touch of a page of labels costs as much as the bits.
fn unpack(pasted: &Pasted, lesions: &[u32], lungs: &[u32], labels: &mut [u8], threads: usize) {
    let words = pasted.words();
    if words == 0 {
        return;
    }
    let slices = lesions.len() / words;
    let planes: Vec<_> = labels.chunks_exact_mut(labels.len() / slices).map(Mutex::new).collect();
    parallel(threads, 0..slices, |slice| {
        let mut plane = planes[slice].lock().unwrap_or_else(PoisonError::into_inner);
        let of = slice * words..(slice + 1) * words;
        pasted.unpack(&lesions[of.clone()], LabelVolume::LESION, &mut plane);
        pasted.unpack(&lungs[of], LabelVolume::RIGHT_LUNG, &mut plane);
    });
}

/// Slices of a batch of planes of `size`.
fn batch<N: Networks>(networks: &N, [rows, columns]: [usize; 2]) -> usize {
    (BATCH_PIXELS_MAX / (rows * columns)).clamp(1, networks.batch_max().max(1))
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests;
