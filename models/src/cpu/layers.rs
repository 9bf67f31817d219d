//! Layers other than convolutions: pooling, resizing, concatenation, copies.
//!
//! Owns: which source rows make a row. Never does: the arithmetic over lanes; that is in `rows`.

use super::buffer::Aligned;
use super::ends::{Ends, From, Into};
use super::layout::{LANES, Layout};
use super::plan::{Plan, Vertical, reach, written};
use super::rows::{Blend, Finish, SecondRow, Weighted};
use super::simd::Kernels;
use crate::graph::{Layer, Op, ValueId};

/// Layers other than convolutions, row by row.
pub(super) struct Rows<'a> {
    /// The processor's.
    pub(super) kernels: &'a Kernels,
    /// For this size.
    pub(super) plan: &'a Plan,
    /// Each for two of the widest rows of a block.
    pub(super) scratch: &'a mut [Aligned<f32>; 3],
    /// Source rows of the row at hand.
    pub(super) rows: &'a mut Vec<Weighted>,
}

impl Rows<'_> {
    /// Computes a row of a layer's outputs from the values that `from` gives.
    pub(super) fn row<'a>(
        &mut self,
        layer: &Layer,
        index: usize,
        from: &impl Fn(ValueId) -> From<'a>,
        ends: &mut Ends<'_>,
        row: usize,
    ) {
        let source = from(layer.source);
        let to = self.plan.layout(written(layer));
        let tables = &self.plan.tables[index];
        contributes(self.rows, &layer.op, &tables.vertical, source.layout, to.dims, row);
        let len = to.width() * LANES;
        for block in 0..to.blocks() {
            let [values, combined, unpaired] = &mut *self.scratch;
            let values = &mut values.values_mut()[..len];
            match (&layer.op, &tables.horizontal) {
                (Op::Concat(others), _) => {
                    concat(
                        std::iter::once(source).chain(others.iter().map(|&o| from(o))),
                        to,
                        block,
                        row,
                        values,
                    );
                }
                (Op::GlobalPool { max }, _) => global_pool(source, block, *max, values),
                (_, Some(horizontal)) => {
                    let mut blend = Blend {
                        input: &source.values[block * source.layout.block_step()..],
                        rows: self.rows,
                        width: source.layout.width(),
                        pairs: source.layout.pairs,
                        horizontal,
                        row: combined.values_mut(),
                        unpaired: unpaired.values_mut(),
                        output: values,
                    };
                    // SAFETY: the kernels are this processor's.
                    unsafe { (self.kernels.blend)(&mut blend) };
                }
                (_, None) => {
                    let at = source.layout.row(row) + block * source.layout.block_step();
                    values.copy_from_slice(&source.values[at..at + len]);
                }
            }
            finish(self.kernels, ends, values, block, row);
        }
    }
}

/// Where the source rows are that make an output row, with their weights.
fn contributes(
    out: &mut Vec<Weighted>,
    op: &Op,
    vertical: &Vertical,
    from: &Layout,
    to: [usize; 3],
    row: usize,
) {
    let (z, y) = (row / to[1], row % to[1]);
    let place = |z: usize, y: usize| from.row(z * from.dims[1] + y);
    out.clear();
    match op {
        Op::MaxPool(window) => {
            for z in reach(window, 0, z..z + 1, from.dims[0]) {
                out.extend(reach(window, 1, y..y + 1, from.dims[1]).map(|y| (place(z, y), 1.0)));
            }
        }
        Op::Resize(_) => {
            for (z, plane) in two(vertical.planes[z]) {
                for (y, row) in two(vertical.rows[y]) {
                    if plane * row > 0.0 {
                        out.push((place(z, y), plane * row));
                    }
                }
            }
        }
        _ => {}
    }
}

/// Both places of an interpolation with their weights.
fn two((first, second, weight): (usize, usize, f32)) -> [(usize, f32); 2] {
    [(first, 1.0 - weight), (second, weight)]
}

fn finish(kernels: &Kernels, ends: &mut Ends<'_>, values: &[f32], block: usize, row: usize) {
    let lanes = block * LANES..(block + 1) * LANES;
    let at = |to: &Into<'_>| to.row(row) + block * to.layout.block_step();
    let mut args = Finish {
        values,
        residual: ends.residual.map(|r| &r.values[r.layout.row(row) + block * r.layout.block_step()..]),
        relu: ends.relu,
        raw: ends.raw.as_mut().map(|to| {
            let at = at(to);
            &mut to.values[at..]
        }),
        second: ends.second.as_mut().map(|(to, scale, shift, relu)| {
            let at = at(to);
            SecondRow {
                to: &mut to.values[at..],
                scale: &scale[lanes.clone()],
                shift: &shift[lanes.clone()],
                relu: *relu,
            }
        }),
    };
    // SAFETY: the kernels are this processor's.
    unsafe { (kernels.finish)(&mut args) };
}

/// One block of a row of several maps, one after the other; zeros in lanes that no channel has, for they are read where all lanes of a pixel
/// are: a number that was left there by another map could be refused as none.
fn concat<'a>(maps: impl Iterator<Item = From<'a>>, to: &Layout, block: usize, row: usize, out: &mut [f32]) {
    let wanted = block * to.per_block()..(block + 1) * to.per_block();
    let mut first = 0;
    out.fill(0.0);
    for map in maps {
        let layout = map.layout;
        let start = layout.row(row);
        let (begin, end) = (wanted.start.max(first), wanted.end.min(first + layout.channels));
        if begin == wanted.start
            && end == wanted.end
            && !layout.pairs
            && !to.pairs
            && (begin - first) % LANES == 0
        {
            // A whole block of one map.
            let at = start + layout.at(begin - first, 0);
            out.copy_from_slice(&map.values[at..at + out.len()]);
        } else {
            for channel in begin..end {
                for x in 0..to.dims[2] {
                    out[to.at(channel % to.per_block(), x)] =
                        map.values[start + layout.at(channel - first, x)];
                }
            }
        }
        first += layout.channels;
    }
}

/// One block of the largest values or means of all channels; the output has one pixel, 16 channels a block.
fn global_pool(from: From<'_>, block: usize, max: bool, out: &mut [f32]) {
    let layout = from.layout;
    out.fill(0.0);
    for (channel, out) in (block * LANES..layout.channels).zip(out) {
        let (mut most, mut sum) = (f32::NEG_INFINITY, 0.0_f64);
        for row in 0..layout.rows() {
            let start = layout.row(row);
            for x in 0..layout.dims[2] {
                let value = from.values[start + layout.at(channel, x)];
                sum += f64::from(value);
                if value > most || value.is_nan() {
                    most = value;
                }
            }
        }
        let count = layout.rows() * layout.dims[2];
        *out = if max { most } else { (sum / count as f64) as f32 };
    }
}
