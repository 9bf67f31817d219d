//! Convolution: weights packed for the micro-kernel, and the tiles of a step.
//!
//! Owns: the order of weights, the choice of a tile's size, the geometry that the micro-kernel trusts. Never does: arithmetic.

use std::ops::Range;

use super::buffer::Aligned;
use super::ends::{Ends, From};
use super::layout::{LANES, Layout};
use super::simd::{Kernels, Shape, Source, TileFn};
use super::tile::{OUTSIDE, Panel, ROWS_MAX, Second, Tap, Target, Tile};
use crate::graph::{Filter, Weights, Window};

/// From here on, weights stay in half precision if that is what the file has: 60 000 weights fill a tenth of a core's cache, and are read
/// for so few pixels each that the reading costs more than the widening.
const HALF_MIN: usize = 60_000;

/// A convolution with its weights packed: [output block][tap][input channel][horizontal position][16].
#[derive(Debug)]
pub(super) struct Conv {
    /// Where it is applied.
    pub(super) window: Window,
    inputs: usize,
    blocks: usize,
    panel_len: usize,
    panels: Panels,
    bias: Vec<f32>,
}

#[derive(Debug)]
enum Panels {
    Full(Aligned<f32>),
    Half(Aligned<u16>),
}

/// Output pixels next to each other, and where their input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// From a row's first pixel to the input of the first output, horizontal padding not counted.
    input_at: usize,
    /// From a row's first pixel to the first output.
    output_at: usize,
    /// Pixels, or pairs.
    len: usize,
    /// Between partners.
    delta: usize,
}

/// The kernels of a step: for each segment of a row, which one; at most two segments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles([Option<(Segment, Shape, TileFn)>; 2]);

impl Conv {
    /// Packs a filter. `pairs`: the output is laid out in pairs of pixels.
    pub(super) fn new(filter: &Filter, weights: &Weights<'_>, pairs: bool) -> Self {
        let Filter { window, inputs, outputs, bias } = filter;
        let per_block = if pairs { LANES / 2 } else { LANES };
        let blocks = outputs.div_ceil(per_block);
        let [depth, height, width] = window.size;
        let panel_len = depth * height * inputs * width * LANES;
        // Index in the file of a packed weight; `None` for the channels that fill up a block.
        let place = |block: usize, at: usize| {
            let (at, lane) = (at / LANES, at % LANES);
            let (at, kx) = (at / width, at % width);
            let (tap, input) = (at / inputs, at % inputs);
            let output = block * per_block + if pairs { lane / 2 } else { lane };
            (output < *outputs).then_some(((output * inputs + input) * depth * height + tap) * width + kx)
        };
        let panels = match weights {
            Weights::Half(bytes) if !pairs && weights.len() >= HALF_MIN => {
                Panels::Half(packed(blocks, panel_len, |b, at| {
                    place(b, at).map_or(0, |i| Weights::half(bytes, i))
                }))
            }
            weights => {
                Panels::Full(packed(blocks, panel_len, |b, at| place(b, at).map_or(0.0, |i| weights.at(i))))
            }
        };
        Self {
            window: window.clone(),
            inputs: *inputs,
            blocks,
            panel_len,
            panels,
            bias: by_lane(bias, pairs),
        }
    }

    /// Multiply-adds for one output pixel.
    pub(super) fn work(&self, outputs: usize) -> usize {
        self.inputs * outputs * self.window.size.iter().product::<usize>()
    }

    /// The kernels for `rows` rows of the output. The order of an output's multiply-adds doesn't depend on `rows`.
    pub(super) fn tiles(&self, from: &Layout, to: &Layout, rows: usize, kernels: &Kernels) -> Tiles {
        let (width, stride) = (self.window.size[2], self.window.stride[2]);
        let half = matches!(self.panels, Panels::Half(_));
        let source = match (from.pairs, to.pairs) {
            (true, true) => Source::Pair,
            (false, true) => Source::Two,
            (_, false) => Source::Plain,
        };
        let (width, stride) = match (width, stride) {
            (1 | 3, 1) => (width, 1),
            (_, 1) => (0, 1),
            (_, 2) => (0, 2),
            _ => (0, 0),
        };
        let any = Shape { source, half, width, stride, sums: 0, blocks: self.blocks, rows: 0, pixels: 0 };
        Tiles(segments(from, to).map(|segment| {
            let segment = segment?;
            let (whole, _) = choose(any, &[1, 3], to.rows(), segment.len, kernels)?;
            let (shape, kernel) = choose(any, &[whole.sums], rows, segment.len, kernels)?;
            Some((segment, shape, kernel))
        }))
    }

    /// Computes rows of the output.
    pub(super) fn run(
        &self,
        from: From<'_>,
        ends: &mut Ends<'_>,
        rows: Range<usize>,
        tiles: &Tiles,
        taps: &mut Vec<Tap>,
    ) {
        for (segment, shape, kernel) in tiles.0.iter().flatten() {
            self.check(&from, ends, &rows, segment, shape);
            let heights = self.window.size[0] * self.window.size[1];
            let dims = ends.output().dims;
            taps.clear();
            // The last tile ends at the edge and repeats what the one before it did: the same bits.
            let firsts = || rows.clone().step_by(shape.rows).map(|y| y.min(rows.end - shape.rows));
            firsts().for_each(|first| self.taps(from.layout, dims, first, shape.rows, taps));
            for block in (0..self.blocks).step_by(shape.blocks) {
                for (first, taps) in firsts().zip(taps.chunks_exact(heights)) {
                    self.row(&from, ends, block, first, (segment, shape, *kernel), taps);
                }
            }
        }
    }

    /// One block of a tile's rows.
    fn row(
        &self,
        from: &From<'_>,
        ends: &mut Ends<'_>,
        block: usize,
        first: usize,
        (segment, shape, kernel): (&Segment, &Shape, TileFn),
        taps: &[Tap],
    ) {
        let rows = |layout: &Layout, start: usize| row_offsets(layout, start, block, first, shape);
        let lanes = block * LANES..(block + shape.blocks) * LANES;
        let panel = block * self.panel_len..(block + shape.blocks) * self.panel_len;
        let mut tile = Tile {
            input: from.values,
            taps,
            input_at: 0,
            delta: segment.delta,
            channels: self.inputs,
            per_block: from.layout.per_block(),
            channel_step: from.layout.channel_step(),
            block_step: from.layout.block_step(),
            width: self.window.size[2],
            stride: self.window.stride[2] * LANES,
            panel: match &self.panels {
                Panels::Full(values) => Panel::Full(&values.values()[panel]),
                Panels::Half(values) => Panel::Half(&values.values()[panel]),
            },
            panel_step: self.panel_len,
            bias: &self.bias[lanes.clone()],
            residual: ends.residual.as_ref().map(|r| (r.values, rows(r.layout, 0))),
            relu: ends.relu,
            raw: ends.raw.as_mut().map(|to| Target { rows: rows(to.layout, to.start), values: to.values }),
            second: ends.second.as_mut().map(|(to, scale, shift, relu)| Second {
                to: Target { rows: rows(to.layout, to.start), values: to.values },
                scale: &scale[lanes.clone()],
                shift: &shift[lanes.clone()],
                relu: *relu,
            }),
            output_at: 0,
        };
        let mut x = 0;
        while x < segment.len {
            let at = x.min(segment.len - shape.pixels);
            tile.input_at = segment.input_at + at * self.window.stride[2] * LANES;
            tile.output_at = segment.output_at + at * LANES;
            // SAFETY: the kernel is one of this processor's; `check` has proved the geometry.
            unsafe { kernel(&mut tile) };
            x += shape.pixels;
        }
    }

    /// Adds the vertical positions of the kernel at `count` output rows from `first`.
    fn taps(&self, from: &Layout, to: [usize; 3], first: usize, count: usize, taps: &mut Vec<Tap>) {
        let Window { size, stride, before, .. } = &self.window;
        for kz in 0..size[0] {
            for ky in 0..size[1] {
                let mut rows = [OUTSIDE; ROWS_MAX];
                for (r, slot) in rows.iter_mut().enumerate().take(count) {
                    let row = first + r;
                    // Most networks have one plane; a division is slow.
                    let (z, y) = if row < to[1] { (0, row) } else { (row / to[1], row % to[1]) };
                    // Below 0 wraps around, and is outside as what is too large.
                    let z = (z * stride[0] + kz).wrapping_sub(before[0]);
                    let y = (y * stride[1] + ky).wrapping_sub(before[1]);
                    if z < from.dims[0] && y < from.dims[1] {
                        *slot = from.row(z * from.dims[1] + y) - before[2] * LANES;
                    }
                }
                taps.push(Tap { weights: (kz * size[1] + ky) * self.inputs * size[2] * LANES, rows });
            }
        }
    }

    /// Proves what the micro-kernel trusts: no index leaves its row, and every row is inside its buffer.
    fn check(&self, from: &From<'_>, ends: &Ends<'_>, rows: &Range<usize>, segment: &Segment, shape: &Shape) {
        let layout = from.layout;
        let window = &self.window;
        assert!(
            layout.channels == self.inputs && layout.len() <= from.values.len(),
            "input of a convolution"
        );
        assert!(window.before[2] <= layout.left, "left margin of a convolution");
        let last = segment.input_at
            + ((segment.len - 1) * window.stride[2] + window.size[2] - 1) * LANES
            + segment.delta
            + (layout.per_block() - 1) * layout.channel_step();
        let pair = usize::from(shape.source == Source::Pair);
        assert!(last + pair + (layout.left - window.before[2]) * LANES < layout.block_step(), "right margin");
        assert!(
            shape.pixels <= segment.len && shape.rows <= ROWS_MAX.min(rows.len()),
            "tile of a convolution"
        );
        let fits = |layout: &Layout| {
            let end = segment.output_at + segment.len * LANES + layout.left * LANES;
            assert!(end <= layout.block_step() && layout.blocks() == self.blocks, "output of a convolution");
        };
        if let Some(residual) = &ends.residual {
            fits(residual.layout);
            assert!(residual.layout.len() <= residual.values.len(), "residual of a convolution");
        }
        for to in ends.raw.iter().chain(ends.second.as_ref().map(|second| &second.0)) {
            fits(to.layout);
            to.check(rows);
        }
        if let Some((_, scale, shift, _)) = &ends.second {
            assert!(scale.len().min(shift.len()) >= self.blocks * LANES, "scale of a second output");
        }
    }
}

fn packed<T: Copy + Default>(blocks: usize, len: usize, value: impl Fn(usize, usize) -> T) -> Aligned<T> {
    let mut out = Aligned::new(blocks * len);
    for (block, panel) in out.values_mut().chunks_exact_mut(len).enumerate() {
        panel.iter_mut().enumerate().for_each(|(at, slot)| *slot = value(block, at));
    }
    out
}

/// One value a channel → one a lane, whole blocks.
pub(super) fn by_lane(values: &[f32], pairs: bool) -> Vec<f32> {
    let repeat = 1 + usize::from(pairs);
    let mut out: Vec<f32> = values.iter().flat_map(|&v| std::iter::repeat_n(v, repeat)).collect();
    out.resize(out.len().next_multiple_of(LANES), 0.0);
    out
}

/// Where each row of a tile has its first pixel, or each block.
fn row_offsets(
    layout: &Layout,
    start: usize,
    block: usize,
    first: usize,
    shape: &Shape,
) -> [usize; ROWS_MAX] {
    let mut rows = [0; ROWS_MAX];
    for (r, slot) in rows.iter_mut().enumerate().take(shape.rows.max(shape.blocks)) {
        let (row, block) = if shape.blocks > 1 { (first, block + r) } else { (first + r, block) };
        *slot = layout.row(row) - start + block * layout.block_step();
    }
    rows
}

fn segments(from: &Layout, to: &Layout) -> [Option<Segment>; 2] {
    let whole = Segment { input_at: 0, output_at: 0, len: to.width(), delta: 0 };
    match (from.pairs, to.pairs) {
        (false, true) => [Some(Segment { delta: to.width() * LANES, ..whole }), None],
        // Pairs → pixels: each half of the row by itself.
        (true, false) => {
            let half = from.width();
            let left = Segment { len: half, ..whole };
            let right = Segment { input_at: 1, output_at: half * LANES, len: to.width() - half, delta: 0 };
            [Some(left), (right.len > 0).then_some(right)]
        }
        _ => [Some(whole), None],
    }
}

/// The kernel that is expected to take the least time for `rows` × `len` outputs of all blocks, with one of these numbers of sums an output.
fn choose(any: Shape, sums: &[usize], rows: usize, len: usize, kernels: &Kernels) -> Option<(Shape, TileFn)> {
    let mut best: Option<(f64, Shape, TileFn)> = None;
    let mut consider = |shape: Shape| {
        let Some(kernel) = (kernels.tile)(shape) else { return };
        // Cycles for one input channel and tap: two multiply-adds each, four until a sum can be added to again; the loads of weights. At width
        // 3 an input serves three multiply-adds; else each needs its own load, two a cycle as well, unless there are two blocks.
        let horizontal = any.width.max(1) as f64;
        let outputs = (shape.rows * shape.pixels * shape.blocks) as f64;
        let waiting = if shape.sums == 1 { 4.0 * horizontal } else { 8.0 };
        let loading = if any.width != 3 && shape.blocks == 1 { 1.4 } else { 1.0 };
        let cycles = (0.5 * horizontal * outputs * loading).max(waiting)
            + 0.4 * shape.rows as f64
            + (horizontal * shape.blocks as f64) * if any.half { 1.5 } else { 0.6 };
        let tiles = rows.div_ceil(shape.rows) * len.div_ceil(shape.pixels) * (any.blocks / shape.blocks);
        let cost = tiles as f64 * cycles;
        if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
            best = Some((cost, shape, kernel));
        }
    };
    for &sums in sums {
        for tile_rows in 1..=rows.min(ROWS_MAX) {
            for pixels in 1..=len.min(12) {
                consider(Shape { sums, blocks: 1, rows: tile_rows, pixels, ..any });
            }
        }
    }
    if any.blocks.is_multiple_of(2) && any.width != 3 && sums.contains(&1) {
        for pixels in 1..=len.min(12) {
            consider(Shape { width: 0, sums: 1, blocks: 2, rows: 1, pixels, ..any });
        }
    }
    best.map(|(_, shape, kernel)| (shape, kernel))
}
