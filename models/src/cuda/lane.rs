//! One lane's workspace: the arena of its maps, the plans of the sizes seen last, and their launches as CUDA graphs.
//!
//! Owns: when a run becomes a graph. Never does: share anything with another lane.

use kernels::device::{Buffer, DeviceError, Graph, Stream};
use kernels::gpu::layers::{Shape, Span};

use super::net::Net;
use super::plan::{Plan, PlanError};
use crate::graph::ValueId;

/// Runs that are kept: two networks, whole batches and the last ones of a study, of several sizes.
const RUNS_MAX: usize = 8;

/// Why a network did not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// The size does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a run is recognised by: the network's weights, the shape, and every place outside the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    weights: u64,
    shape: Shape,
    outside: Vec<(ValueId, u64)>,
}

/// A run that was made before.
struct Run {
    key: Key,
    plan: Plan,
    /// Not before the second time: the driver may load kernels at their first launch, which no capture allows; and the last batch of a study
    /// comes once.
    graph: Option<Graph>,
}

/// A lane's workspace.
#[derive(Default)]
pub(crate) struct Lane {
    arena: Option<Buffer>,
    /// The last used first.
    runs: Vec<Run>,
    /// Every launch by itself: asked for, or the driver refused a graph.
    direct: bool,
    replays: u64,
}

impl Lane {
    /// A lane that makes no graphs.
    pub(super) fn direct() -> Self {
        Self { direct: true, ..Self::default() }
    }

    /// How often a graph was replayed.
    pub(super) fn replays(&self) -> u64 {
        self.replays
    }

    /// Bytes of the arena.
    pub(super) fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, Buffer::bytes)
    }

    /// Puts a network on the stream, for slices of planes in `outside` (value 0); results go to the others of `outside`. What a call may ask
    /// for is the caller's to bound: see [`BATCH_PIXELS_MAX`](crate::gpu::BATCH_PIXELS_MAX).
    ///
    /// # Errors
    /// [`RunError`].
    pub(super) fn run(
        &mut self,
        net: &Net,
        stream: &mut Stream,
        shape: Shape,
        outside: &[(ValueId, Span<'_>)],
    ) -> Result<(), RunError> {
        let place = |&(value, span): &(ValueId, Span<'_>)| (value, span.buffer.ptr() + span.offset as u64);
        let key = Key { weights: net.id(), shape, outside: outside.iter().map(place).collect() };
        let known = self.runs.iter().position(|run| run.key == key);
        let mut run = match known {
            Some(at) => self.runs.remove(at),
            None => {
                let values: Vec<ValueId> = outside.iter().map(|(value, _)| *value).collect();
                Run { key, plan: net.plan(&values, shape)?, graph: None }
            }
        };
        self.fit(stream, run.plan.bytes)?;
        let arena = self.arena.as_ref().expect("fitted above");
        if known.is_some() && run.graph.is_none() && !self.direct {
            match stream.capture(|stream| net.run(stream, &run.plan, arena, outside)) {
                Ok(graph) => run.graph = Some(graph),
                Err(error) if error.is_lost() => return Err(error.into()),
                // The same launches are made one by one, and say what is wrong if it was not the capture.
                Err(error) => {
                    log::warn!(
                        "engine cuda: no CUDA graphs in this lane, which costs time and nothing else: {error}"
                    );
                    self.direct = true;
                }
            }
        }
        match &run.graph {
            Some(graph) => {
                stream.replay(graph)?;
                self.replays += 1;
            }
            None => net.run(stream, &run.plan, arena, outside)?,
        }
        self.runs.insert(0, run);
        self.runs.truncate(RUNS_MAX);
        Ok(())
    }

    /// Makes the arena large enough. Graphs hold its address.
    fn fit(&mut self, stream: &mut Stream, bytes: usize) -> Result<(), DeviceError> {
        if self.arena.is_none() || self.arena_bytes() < bytes {
            // What is on the stream may still use the old one.
            stream.synchronize()?;
            self.runs.iter_mut().for_each(|run| run.graph = None);
            self.arena = None;
            self.arena = Some(stream.device().buffer(bytes.max(1))?);
        }
        Ok(())
    }
}
