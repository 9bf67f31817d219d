//! A loaded method, and what it does with the lung box of a study.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Method;
use super::patches::Patches;
use super::series::Series;
use super::threshold::{SHARE_MIN, Threshold};
use crate::backend::{EngineError, Plane, sigmoid};
use crate::cpu::{Head, Lane, Lanes, Model, Multitask, VECTOR_CELLS, each_slice};
use crate::job::{CropJob, Progress, mark_crop};
use crate::zoo::Zoo;

/// A method on the processor. Multitask-Spatial-1 has none: engines run it themselves.
pub(crate) struct Runner {
    net: Net,
    lanes: Lanes,
}

enum Net {
    Threshold(Threshold),
    Lesions(Model<1>),
    Patches(Patches),
    Series(Series),
    Multitask(Multitask),
}

/// What a method found in a crop, beside the bits that it set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ran {
    /// Identification probability, where the method gives one.
    pub probability: Option<f32>,
    /// Time of the networks and the lesion mask.
    pub method_ms: f64,
    /// Time of the lung mask.
    pub paste_ms: f64,
}

impl Runner {
    /// Loads the zoo's method; `None` for the one that engines run.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn load(zoo: &Zoo, threads: usize) -> Result<Option<Self>, EngineError> {
        let lanes = Lanes::new(threads);
        let net = match zoo.method() {
            Method::MultitaskSpatial1 => return Ok(None),
            Method::Threshold => Net::Threshold(Threshold::new(zoo.lungs.input.window_hu, threads)),
            Method::Unet2d | Method::Unet2dPlus => {
                Net::Lesions(Model::slices(&zoo.method_model(), "lesion net", ["lesions"])?)
            }
            Method::Unet3d => {
                let model = Model::<1>::patches(&zoo.method_model(), "3-D lesion net", "lesions")?;
                let patch = zoo.card().patch.expect("ModelCard::load: a 3-D net has a patch");
                Net::Patches(Patches { model, size: patch.size })
            }
            Method::Resnet50 => {
                let model = Model::<1>::vectors(&zoo.method_model(), "slice net")?;
                let head = Head::open(&zoo.method_head(), VECTOR_CELLS * model.channels(0))?;
                Net::Series(Series { model, head })
            }
            Method::MultitaskLatent | Method::MultitaskSpatial4 => {
                Net::Multitask(Multitask::load(&zoo.method_model(), &zoo.method_head())?)
            }
        };
        Ok(Some(Self { net, lanes }))
    }

    /// The lesion probability from which a pasted voxel is lesion, where it isn't the card's.
    pub(crate) fn lesion_threshold(&self) -> Option<f32> {
        matches!(self.net, Net::Threshold(_)).then_some(SHARE_MIN)
    }

    /// As [`Backend::crop`](crate::Backend::crop).
    ///
    /// # Errors
    /// [`EngineError`].
    pub(crate) fn crop(
        &self,
        job: &CropJob<'_>,
        labels: &mut [u8],
        progress: Progress<'_>,
    ) -> Result<Ran, EngineError> {
        let lanes = &self.lanes;
        let silent: Progress<'_> = &|_, _| {};
        // Those that emit all slices at their end say for themselves how far they are.
        let marks = match self.net {
            Net::Lesions(_) | Net::Multitask(_) | Net::Threshold(_) => progress,
            Net::Patches(_) | Net::Series(_) => silent,
        };
        let (probability, method_ms, paste_ms) = mark_crop(job, labels, marks, |emit| match &self.net {
            Net::Threshold(threshold) => threshold.run(job, emit).map(|()| None),
            Net::Multitask(multitask) => multitask.run(job.planes, lanes, emit).map(Some),
            Net::Patches(patches) => patches.run(job.planes, lanes, emit, progress).map(|()| None),
            Net::Lesions(model) => {
                let map = |(): &mut (), _, slice: &Plane<'_>, lane: Lane<'_>| model.map(slice, lane);
                each_slice(
                    lanes,
                    job.planes,
                    || Ok(()),
                    map,
                    |index, mut lesions| {
                        sigmoid(&mut lesions, model.name())?;
                        emit(index, &lesions);
                        Ok(())
                    },
                )
                .map(|_| None)
            }
            Net::Series(series) => {
                let done = AtomicUsize::new(0);
                let of = job.planes.len();
                let count = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, of);
                series.run(job.planes, lanes, &count).map(Some)
            }
        })?;
        Ok(Ran { probability, method_ms, paste_ms })
    }
}
