//! A network that makes one vector a slice (the paper's ResNet50), pooled along the slices: no lesions, one probability.

use crate::backend::{EngineError, Plane};
use crate::cpu::{Head, Lane, Lanes, Model, VectorPool, each_slice};

/// The network over slices and the head over the pyramid.
pub(crate) struct Series {
    pub(super) model: Model<1>,
    pub(super) head: Head,
}

impl Series {
    /// Identification probability of a study. `done` is called once a slice, from any thread.
    pub(super) fn run(
        &self,
        crop: &[Plane<'_>],
        lanes: &Lanes,
        done: &(dyn Fn() + Sync),
    ) -> Result<f32, EngineError> {
        let start = || Ok(VectorPool::new(self.model.channels(0), crop.len()));
        let vector = |pool: &mut VectorPool, index, slice: &Plane<'_>, lane: Lane<'_>| {
            pool.push(index, &self.model.vector_of(slice, lane)?);
            Ok(())
        };
        let pools = each_slice(lanes, crop, start, vector, |_, ()| {
            done();
            Ok(())
        })?;
        let mut pool = VectorPool::new(self.model.channels(0), crop.len());
        pools.iter().for_each(|other| pool.merge(other));
        self.head.probability(&pool.finish())
    }
}
