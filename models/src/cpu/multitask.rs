//! The multitask nets over the slices of a study: lesions of each slice, one pyramid of the features of all, one probability.
//!
//! The features may have any number of channels and any size that the slice's size fixes: those of the uppermost level of the U-Net
//! (Multitask-Spatial-1) or a lower one, pooled in three dimensions; or they are one vector a slice, as of the bridge (Multitask-Latent), pooled
//! along the slices.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::pyramid::CELLS;
use kernels::{PyramidError, PyramidPool};

use super::lanes::Lane;
use super::{Head, Lanes, Model, VECTOR_CELLS, VectorPool, check};
use crate::backend::{Emit, EngineError, Plane, sigmoid};

/// A multitask net and its head.
pub(crate) struct Multitask {
    slices: Model<2>,
    head: Head,
}

impl Multitask {
    /// Loads the network over slices and the head over its pyramid.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn load(model: &Path, head: &Path) -> Result<Self, EngineError> {
        let slices = Model::slices(model, "multitask net", ["features", "lesions"])?;
        let cells = if slices.is_vector(0) { VECTOR_CELLS } else { CELLS };
        let head = Head::open(head, cells * slices.channels(0))?;
        Ok(Self { slices, head })
    }

    /// As [`Backend::multitask`](crate::Backend::multitask).
    pub(crate) fn run(&self, crop: &[Plane<'_>], lanes: &Lanes, emit: Emit<'_>) -> Result<f32, EngineError> {
        let pool = || -> Result<Pool, EngineError> {
            let channels = self.slices.channels(0);
            if self.slices.is_vector(0) {
                return Ok(Pool::Vectors(VectorPool::new(channels, crop.len())));
            }
            let [rows, columns] = self.slices.size(0, &crop[0])?;
            Ok(Pool::Maps(Box::new(PyramidPool::new(channels, rows, columns, crop.len()))))
        };
        let work = |pool: &mut Pool, index, slice: &Plane<'_>, lane: Lane<'_>| match pool {
            Pool::Maps(pool) => self.slice(slice, index, pool, lane),
            Pool::Vectors(pool) => self.vector_slice(slice, index, pool, lane),
        };
        let pools = each_slice(lanes, crop, pool, work, |index, mut lesions| {
            sigmoid(&mut lesions, self.slices.name())?;
            emit(index, &lesions);
            Ok(())
        })?;
        let mut pools = pools.into_iter();
        let mut pool = pools.next().ok_or(EngineError::Bounds {
            what: "slices in the crop",
            value: 0,
            min: 1,
            max: usize::MAX,
        })?;
        for other in pools {
            pool.merge(other)?;
        }
        self.head.probability(&pool.finish()?)
    }

    /// As [`Multitask::slice`], where the features are a vector.
    fn vector_slice(
        &self,
        slice: &Plane<'_>,
        index: usize,
        pool: &mut VectorPool,
        lane: Lane<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let [features, logits] = [0, 1].map(|at| self.slices.output(at));
        let (mut vector, mut lesions) = (Vec::new(), Vec::with_capacity(slice.rows() * slice.columns()));
        self.slices.run(slice, lane, &mut |row| {
            if row.output == features {
                (0..row.layout.channels).for_each(|channel| row.append(channel, &mut vector));
            } else if row.output == logits {
                row.append(0, &mut lesions);
            }
        })?;
        check(self.slices.name(), lesions.len(), slice.rows() * slice.columns())?;
        check(self.slices.name(), vector.len(), self.slices.channels(0))?;
        if vector.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { model: self.slices.name() });
        }
        pool.push(index, &vector);
        Ok(lesions)
    }

    /// Lesion logits of one slice; its features go into the pyramid row by row.
    fn slice(
        &self,
        slice: &Plane<'_>,
        index: usize,
        pool: &mut PyramidPool,
        lane: Lane<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let [features, logits] = [0, 1].map(|at| self.slices.output(at));
        let mut pooled = pool.slice(index)?;
        let mut finite = true;
        let mut lesions = Vec::with_capacity(slice.rows() * slice.columns());
        self.slices.run(slice, lane, &mut |row| {
            if row.output == features {
                // The pyramid's maxima would swallow what is no number.
                finite &= row.values.iter().fold(true, |all, value| all & value.is_finite());
                pooled.push(row.values, |channel, column| row.layout.at(channel, column));
            } else if row.output == logits {
                row.append(0, &mut lesions);
            }
        })?;
        check(self.slices.name(), lesions.len(), slice.rows() * slice.columns())?;
        if !finite {
            return Err(EngineError::NotFinite { model: self.slices.name() });
        }
        pooled.finish()?;
        Ok(lesions)
    }
}

/// The features of all slices, as far as they were seen.
enum Pool {
    Maps(Box<PyramidPool>),
    Vectors(VectorPool),
}

impl Pool {
    fn merge(&mut self, other: Self) -> Result<(), EngineError> {
        match (self, other) {
            (Self::Maps(mine), Self::Maps(theirs)) => mine.merge(&theirs)?,
            (Self::Vectors(mine), Self::Vectors(theirs)) => mine.merge(&theirs),
            _ => return Err(PyramidError::Mismatch.into()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Maps(pool) => Ok(pool.finish()?),
            Self::Vectors(pool) => Ok(pool.finish()),
        }
    }
}

/// Runs `work` on every slice, as many at once as there are lanes, each in a lane, then `give` on what came of it, outside; returns what
/// each worker collected, in no order. The first error, or panic, stops all.
///
/// # Errors
/// Those of `start`, `work` and `give`.
pub(crate) fn each_slice<S: Send, T: Send>(
    lanes: &Lanes,
    crop: &[Plane<'_>],
    start: impl Fn() -> Result<S, EngineError> + Sync,
    work: impl Fn(&mut S, usize, &Plane<'_>, Lane<'_>) -> Result<T, EngineError> + Sync,
    give: impl Fn(usize, T) -> Result<(), EngineError> + Sync,
) -> Result<Vec<S>, EngineError> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Option<S>, EngineError> {
        // When one ends, no slice is left, or it failed or panicked: the others stop at their next slice.
        let _stop = Stop { next: &next, count: crop.len() };
        let mut state = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slice) = crop.get(index) else { return Ok(state) };
            let state = match &mut state {
                Some(state) => state,
                none => none.insert(start()?),
            };
            let done = lanes.with(crop.len() - index, |lane| work(state, index, slice, lane))?;
            give(index, done)?;
        }
    };
    let workers = lanes.count.min(crop.len()).max(1);
    let states = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(states.into_iter().flatten().collect())
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
