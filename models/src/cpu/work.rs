//! The parts of a step, on one thread or several.
//!
//! Owns: who computes which rows. Never does: choose how a step is cut; that is in the plan.

use super::buffer::Aligned;
use super::conv::Conv;
use super::ends::{Ends, From};
use super::layers::Rows;
use super::plan::{Part, Plan};
use super::rows::Weighted;
use super::simd::Kernels;
use super::tile::Tap;
use crate::graph::{Layer, ValueId};

/// What a thread needs for itself.
#[derive(Default)]
pub(super) struct Scratch {
    /// Each for two of the widest rows of a block.
    pub(super) lines: [Aligned<f32>; 3],
    /// Source rows of the row at hand.
    rows: Vec<Weighted>,
    /// Vertical positions of the kernels.
    taps: Vec<Tap>,
}

/// The parts of a step.
pub(super) struct Work<'a, F> {
    /// The network's layers.
    pub(super) layers: &'a [Layer],
    /// By layer.
    pub(super) convs: &'a [Option<Conv>],
    /// The processor's.
    pub(super) kernels: &'a Kernels,
    /// For this size.
    pub(super) plan: &'a Plan,
    /// The layer.
    pub(super) index: usize,
    /// The values that it reads.
    pub(super) from: &'a F,
}

impl<'a, F: Fn(ValueId) -> From<'a> + Sync> Work<'a, F> {
    /// Computes parts on so many threads of the pool that this one belongs to. What no other thread has begun when this one gets there, it
    /// does itself: it never waits for one that has no core.
    pub(super) fn share(&self, mut ends: Ends<'_>, parts: &[Part], scratch: &mut [Scratch], threads: usize) {
        if threads < 2 || parts.len() < 2 {
            parts.iter().for_each(|part| self.part(part, &mut ends, &mut scratch[0]));
            return;
        }
        let (above, below) = parts.split_at(parts.len().div_ceil(2));
        let (ends_above, ends_below) = ends.split(below[0].rows.start);
        let (scratch_above, scratch_below) = scratch.split_at_mut(above.len());
        let half = threads.div_ceil(2);
        rayon_core::join(
            || self.share(ends_above, above, scratch_above, half),
            || self.share(ends_below, below, scratch_below, threads - half),
        );
    }

    fn part(&self, part: &Part, ends: &mut Ends<'_>, scratch: &mut Scratch) {
        let Self { layers, convs, kernels, plan, index, from } = self;
        let layer = &layers[*index];
        match (&convs[*index], &part.tiles) {
            (Some(conv), Some(tiles)) => {
                conv.run(from(layer.source), ends, part.rows.clone(), tiles, &mut scratch.taps);
            }
            _ => {
                let Scratch { lines, rows, .. } = scratch;
                let mut work = Rows { kernels, plan, scratch: lines, rows };
                for row in part.rows.clone() {
                    work.row(layer, *index, from, ends, row);
                }
            }
        }
        ends.seal(&part.rows);
    }
}
