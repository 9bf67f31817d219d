//! One lane: two streams, the buffers that they work in, and the two jobs of a backend on them.
//!
//! Owns: the order of uploads, networks, pyramid and masks of one slice or one study. Never does: keep anything of a study.
//!
//! ```text
//! copy stream      up 0 │ up 1 │ ◂── bits 0 │ up 2 │ ◂── bits 1 │ …
//! compute stream          nets, pyramid, masks 0 │ nets, pyramid, masks 1 │ …
//! host                    gathers 1 │ waits for 0 │ unpacks 0, gathers 2 │ …
//! ```
//! Batches take turns in two slots; a slot is filled again only after its masks have come to the host.

use std::ops::Range;

use kernels::device::{Buffer, Device, DeviceError, Event, Pinned, Stream};
use kernels::gpu::ingest::Ingest;
use kernels::gpu::masks::{self, Crops, LungRecord, Pasted, RECORD};
use kernels::gpu::pyramid::{PooledError, Pyramid};

use super::{LUNGS, MULTITASK, Networks, batch};
use crate::backend::{EngineError, Plane};
use crate::job::{GridSlice, Pixels, SliceBox, SliceJob};

/// Buffers grow to a multiple of this, so that studies of nearly one size share them.
const GROWTH_BYTES: usize = 1 << 20;

/// A lane of an engine whose networks have a workspace `L`.
pub(super) struct Lane<L> {
    // The streams come first: dropping them waits for their work, and only then are buffers freed.
    compute: Stream,
    copy: Stream,
    networks: L,
    slots: [Slot; 2],
    source: Buffer,
    records: Buffer,
    features: Buffer,
    /// Becomes 1 when a lesion logit is not finite.
    flags: Buffer,
    pyramid: Pyramid,
    /// A batch on its way to the device, without gaps.
    gathered: Vec<f32>,
    /// What came back: the device writes page-locked memory by itself.
    landed: Pinned,
}

/// The memory of a batch.
struct Slot {
    planes: Buffer,
    lungs: Buffer,
    logits: Buffer,
    /// Lesion masks of the batch, then lung masks.
    bits: Buffer,
}

/// What a study's batches become besides features.
pub(super) enum Want<'a> {
    /// Lesion probabilities on the networks' grid.
    Probabilities,
    /// Masks on the source grid.
    Masks {
        /// Lung probability of the same voxels.
        lungs: &'a [Plane<'a>],
        /// Where the masks go.
        pasted: &'a Pasted,
        /// Probabilities from which a voxel is lung and lesion.
        thresholds: [f32; 2],
    },
}

/// What came of a batch, one slice after the other.
pub(super) enum Made<'a> {
    /// Lesion probabilities.
    Probabilities(&'a [f32]),
    /// Packed masks.
    Masks {
        /// Lesions.
        lesions: &'a [u32],
        /// Lungs.
        lungs: &'a [u32],
    },
}

/// A batch that the device works on.
struct Batch {
    slices: Range<usize>,
    slot: usize,
    done: Event,
}

/// A study on a lane.
struct Study<'a, N: Networks> {
    lane: &'a mut Lane<N::Lane>,
    networks: &'a N,
    planes: &'a [Plane<'a>],
    want: &'a Want<'a>,
    /// Rows and columns of the crop.
    size: [usize; 2],
}

impl<L> Lane<L> {
    /// A lane with nothing in its buffers.
    pub(super) fn new(device: &Device, networks: L) -> Result<Self, DeviceError> {
        let empty = || device.buffer(0);
        let slot = || Ok(Slot { planes: empty()?, lungs: empty()?, logits: empty()?, bits: empty()? });
        Ok(Self {
            compute: device.stream()?,
            copy: device.stream()?,
            networks,
            slots: [slot()?, slot()?],
            source: empty()?,
            records: device.buffer(RECORD * 4)?,
            features: empty()?,
            flags: device.buffer(4)?,
            pyramid: Pyramid::new(device)?,
            gathered: Vec::new(),
            landed: device.pinned(RECORD * 4)?,
        })
    }

    /// Brings a slice to the networks' grid and runs the lung net on it. The times are left to the caller.
    pub(super) fn slice<N: Networks<Lane = L>>(
        &mut self,
        networks: &N,
        job: &SliceJob<'_>,
    ) -> Result<GridSlice, EngineError> {
        let fail = |error| device_error(networks, error);
        let [rows, columns] = job.grid;
        self.fit_slice(networks, job.slice.pixels.len() * 4, job.grid).map_err(fail)?;
        let slot = &self.slots[0];
        let ingest = Ingest {
            slices: 1,
            from: [job.slice.rows, job.slice.columns],
            to: job.grid,
            window_hu: job.window_hu,
        };
        match job.slice.pixels {
            Pixels::Hu(hu) => self
                .compute
                .upload(&self.source, 0, hu)
                .and_then(|()| ingest.hu(&mut self.compute, &self.source, &slot.planes)),
            Pixels::Stored { cells, stored } => self
                .compute
                .upload(&self.source, 0, cells)
                .and_then(|()| ingest.stored(&mut self.compute, &self.source, stored, &slot.planes)),
        }
        .map_err(fail)?;
        let (lungs, lung_box) = self.lungs(networks, job.grid, job.lung_threshold)?;
        let bytes = rows * columns * 4;
        self.compute.download_pinned(&self.slots[0].planes, 0, &mut self.landed, bytes).map_err(fail)?;
        let plane = self.landed.as_slice()[..rows * columns].to_vec();
        Ok(GridSlice { plane, lungs, lung_box, resample_ms: 0.0, lungs_ms: 0.0 })
    }

    /// Lung probability of a windowed plane.
    pub(super) fn plane<N: Networks<Lane = L>>(
        &mut self,
        networks: &N,
        plane: Plane<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let fail = |error| device_error(networks, error);
        let size = [plane.rows(), plane.columns()];
        self.fit_slice(networks, 0, size).map_err(fail)?;
        self.compute.upload(&self.slots[0].planes, 0, &plane.to_vec()).map_err(fail)?;
        Ok(self.lungs(networks, size, 0.5)?.0)
    }

    /// Makes room for a slice.
    fn fit_slice<N: Networks>(
        &mut self,
        networks: &N,
        source_bytes: usize,
        [rows, columns]: [usize; 2],
    ) -> Result<(), DeviceError> {
        let device = networks.device();
        let slot = &mut self.slots[0];
        grow(device, &mut self.source, source_bytes)?;
        grow(device, &mut slot.planes, rows * columns * 4)?;
        grow(device, &mut slot.logits, rows * columns * 4)?;
        land(device, &mut self.landed, rows * columns * 4)
    }

    /// The lung net on the plane in the first slot: probability and box.
    fn lungs<N: Networks<Lane = L>>(
        &mut self,
        networks: &N,
        [rows, columns]: [usize; 2],
        threshold: f32,
    ) -> Result<(Vec<f32>, Option<SliceBox>), EngineError> {
        let fail = |error| device_error(networks, error);
        let (shape, slot) = ([1, rows, columns], &self.slots[0]);
        networks.lungs(&mut self.networks, &mut self.compute, &slot.planes, shape, &slot.logits)?;
        masks::lungs(&mut self.compute, &slot.logits, shape, threshold, &self.records).map_err(fail)?;
        self.compute.download_pinned(&slot.logits, 0, &mut self.landed, rows * columns * 4).map_err(fail)?;
        let lungs = self.landed.as_slice()[..rows * columns].to_vec();
        let mut words = [0; RECORD];
        self.compute.download(&self.records, 0, &mut words).map_err(fail)?;
        let record = LungRecord::new(words, [rows, columns]);
        if !record.finite {
            return Err(EngineError::NotFinite { model: LUNGS });
        }
        let LungRecord { rows, columns, voxels, .. } = record;
        Ok((lungs, (voxels > 0).then_some(SliceBox { rows, columns, voxels })))
    }

    /// Runs a study's crop; `take` gets each slice once, some at a time, head to feet. Returns the pooled features.
    pub(super) fn study<N: Networks<Lane = L>>(
        &mut self,
        networks: &N,
        planes: &[Plane<'_>],
        want: &Want<'_>,
        take: &mut dyn FnMut(Range<usize>, Made<'_>),
    ) -> Result<Vec<f32>, EngineError> {
        let first = planes.first().ok_or(EngineError::Bounds {
            what: "slices in the crop",
            value: 0,
            min: 1,
            max: usize::MAX,
        })?;
        let size = [first.rows(), first.columns()];
        let study = Study { lane: self, networks, planes, want, size };
        study.run(take)
    }
}

impl<N: Networks> Study<'_, N> {
    fn run(mut self, take: &mut dyn FnMut(Range<usize>, Made<'_>)) -> Result<Vec<f32>, EngineError> {
        let networks = self.networks;
        let fail = |error| device_error(networks, error);
        let each = batch(networks, self.size);
        self.begin(each.min(self.planes.len())).map_err(fail)?;
        let mut before: Option<Batch> = None;
        for (number, first) in (0..self.planes.len()).step_by(each).enumerate() {
            let slices = first..(first + each).min(self.planes.len());
            let batch = self.start(slices, number % 2)?;
            // The device has the next batch to work on while this one is taken.
            if let Some(batch) = before.replace(batch) {
                self.take(batch, take).map_err(fail)?;
            }
        }
        if let Some(batch) = before {
            self.take(batch, take).map_err(fail)?;
        }
        let mut broken = [0u32];
        self.lane.compute.download(&self.lane.flags, 0, &mut broken).map_err(fail)?;
        let pooled = self.lane.pyramid.finish(&mut self.lane.compute);
        match (pooled, broken) {
            (Ok(pooled), [0]) => Ok(pooled),
            (Ok(_) | Err(PooledError::NotFinite), _) => Err(EngineError::NotFinite { model: MULTITASK }),
            (Err(PooledError::Pyramid(error)), _) => Err(error.into()),
            (Err(PooledError::Device(error)), _) => Err(fail(error)),
        }
    }

    /// Makes room for batches of `each` slices, and an empty pyramid.
    fn begin(&mut self, each: usize) -> Result<(), DeviceError> {
        let (lane, device) = (&mut *self.lane, self.networks.device());
        let format = self.networks.feature_format();
        let [rows, columns] = self.size;
        let plane_bytes = each * rows * columns * 4;
        grow(device, &mut lane.features, format.bytes([each, rows, columns]))?;
        let mask_bytes = match self.want {
            Want::Probabilities => None,
            Want::Masks { pasted, .. } => Some(2 * each * pasted.words() * 4),
        };
        for slot in &mut lane.slots {
            grow(device, &mut slot.planes, plane_bytes)?;
            grow(device, &mut slot.logits, plane_bytes)?;
            if let Some(mask_bytes) = mask_bytes {
                grow(device, &mut slot.lungs, plane_bytes)?;
                grow(device, &mut slot.bits, mask_bytes)?;
            }
        }
        land(device, &mut lane.landed, mask_bytes.unwrap_or(plane_bytes))?;
        lane.compute.fill_zero(&lane.flags, 0, 4)?;
        lane.pyramid.begin(&mut lane.compute, format, self.size, self.planes.len())
    }

    /// Queues a batch.
    fn start(&mut self, slices: Range<usize>, slot: usize) -> Result<Batch, EngineError> {
        let networks = self.networks;
        let fail = |error| device_error(networks, error);
        let (lane, [rows, columns]) = (&mut *self.lane, self.size);
        let (memory, count) = (&lane.slots[slot], slices.len());
        gather(&self.planes[slices.clone()], &mut lane.gathered);
        lane.copy.upload(&memory.planes, 0, &lane.gathered).map_err(fail)?;
        if let Want::Masks { lungs, .. } = self.want {
            gather(&lungs[slices.clone()], &mut lane.gathered);
            lane.copy.upload(&memory.lungs, 0, &lane.gathered).map_err(fail)?;
        }
        let uploaded = lane.copy.mark().map_err(fail)?;
        lane.compute.wait(&uploaded).map_err(fail)?;
        let shape = [count, rows, columns];
        networks.slices(
            &mut lane.networks,
            &mut lane.compute,
            &memory.planes,
            shape,
            &lane.features,
            &memory.logits,
        )?;
        self.pool_and_mark(slices, slot).map_err(fail)
    }

    /// Queues what follows the networks: pyramid, probabilities, masks.
    fn pool_and_mark(&mut self, slices: Range<usize>, slot: usize) -> Result<Batch, DeviceError> {
        let (lane, size) = (&mut *self.lane, self.size);
        let (memory, count) = (&lane.slots[slot], slices.len());
        let compute = &mut lane.compute;
        lane.pyramid.push(compute, slices.start, count, &lane.features)?;
        masks::sigmoid(compute, &memory.logits, count * size[0] * size[1], &lane.flags)?;
        if let Want::Masks { pasted, thresholds: [lung, lesion], .. } = self.want {
            let crops = |values| Crops { values, slices: count, size };
            pasted.launch(compute, crops(&memory.logits), *lesion, &memory.bits, 0)?;
            let behind = count * pasted.words() * 4;
            pasted.launch(compute, crops(&memory.lungs), *lung, &memory.bits, behind)?;
        }
        let done = compute.mark()?;
        Ok(Batch { slices, slot, done })
    }

    /// Waits for a batch and hands out its slices.
    fn take(
        &mut self,
        batch: Batch,
        take: &mut dyn FnMut(Range<usize>, Made<'_>),
    ) -> Result<(), DeviceError> {
        let lane = &mut *self.lane;
        let (memory, count) = (&lane.slots[batch.slot], batch.slices.len());
        lane.copy.wait(&batch.done)?;
        match self.want {
            Want::Probabilities => {
                let pixels = count * self.size[0] * self.size[1];
                lane.copy.download_pinned(&memory.logits, 0, &mut lane.landed, pixels * 4)?;
                take(batch.slices, Made::Probabilities(&lane.landed.as_slice()[..pixels]));
            }
            Want::Masks { pasted, .. } => {
                let words = count * pasted.words();
                lane.copy.download_pinned(&memory.bits, 0, &mut lane.landed, 2 * words * 4)?;
                let (lesions, lungs) = lane.landed.as_slice()[..2 * words].split_at(words);
                take(batch.slices, Made::Masks { lesions, lungs });
            }
        }
        Ok(())
    }
}

/// The planes one after the other, without gaps.
fn gather(planes: &[Plane<'_>], to: &mut Vec<f32>) {
    to.clear();
    planes.iter().flat_map(Plane::iter_rows).for_each(|row| to.extend_from_slice(row));
}

/// Makes `buffer` at least `bytes` long. What it held is gone; the device is done with it, because the driver waits for work on what it frees.
fn grow(device: &Device, buffer: &mut Buffer, bytes: usize) -> Result<(), DeviceError> {
    if buffer.bytes() < bytes {
        // Freed first: both at once may not fit.
        *buffer = device.buffer(0)?;
        *buffer = device.buffer(bytes.next_multiple_of(GROWTH_BYTES))?;
    }
    Ok(())
}

/// Makes page-locked memory at least `bytes` long. Nothing is under way to it: a download is complete when it returns.
fn land(device: &Device, memory: &mut Pinned, bytes: usize) -> Result<(), DeviceError> {
    if memory.len() < bytes {
        *memory = device.pinned(bytes.next_multiple_of(GROWTH_BYTES))?;
    }
    Ok(())
}

/// What a device says, as an engine's error.
pub(super) fn device_error<N: Networks>(networks: &N, error: DeviceError) -> EngineError {
    EngineError::Device { engine: networks.name(), what: error.to_string(), lost: error.is_lost() }
}
