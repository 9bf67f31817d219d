//! The plan of a network for one input size: in which order which rows are computed, and where they are kept.
//!
//! Owns: sizes, the schedule, the arena. Never does: arithmetic.
//!
//! Large maps are computed depth first, a strip of rows at a time: a layer's strip is computed when the next layer asks for it, and a map
//! keeps only the rows that some layer has yet to read. So what a strip needs stays in the core's cache, and the memory is small. Small
//! maps, whose weights are larger than they, are computed whole.
//!
//! A plan for several threads computes every map whole, and cuts its rows into parts: steps are then long enough to be worth a thread. The
//! bits are the same.

use std::collections::HashMap;
use std::ops::Range;

use super::conv::{Conv, Tiles};
use super::layout::Layout;
use super::rows::{Horizontal, linear};
use super::simd::Kernels;
use crate::graph::limits::VALUES_MAX;
use crate::graph::{Graph, Layer, Op, Size, SizeError, Value, ValueId, Window};

/// Maps of at most this size are computed whole: a few of them fit a core's cache of 1 MiB.
const WHOLE_BYTES: usize = 192 << 10;
/// Size of a strip of larger ones: a few rows, so that a layer finds its input in the cache, and tiles of several rows fit. From 16 to 100 KiB
/// the time is the same within 5 %.
const STRIP_BYTES: usize = 36 << 10;
/// Least multiply-adds of a part: about 20 µs; to wake a thread takes 5.
const PART_WORK: usize = 1_500_000;
/// Work of a value of layers without multiply-adds, which wait for memory.
const VALUE_WORK: usize = 16;
/// Most values of maps that are computed whole for several threads, 128 MiB; larger networks are not shared, but run in strips.
const SHARED_VALUES_MAX: usize = 1 << 25;

/// Where a value is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Index of the buffer.
    pub(super) buffer: usize,
    /// How it lies there.
    pub(super) layout: Layout,
}

/// Rows to compute.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The layer; `None` for the network's input.
    pub(super) layer: Option<usize>,
    /// Rows of its output.
    pub(super) rows: Range<usize>,
    /// The rows in parts, of which each thread takes some; one in a plan for one thread.
    pub(super) parts: Vec<Part>,
}

/// Rows that one thread computes.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Rows of the output.
    pub(super) rows: Range<usize>,
    /// Kernels of a convolution.
    pub(super) tiles: Option<Tiles>,
}

/// From rows and planes of a source to those of an output: (first, second, weight of second) each.
#[derive(Debug, Clone, Default)]
pub(super) struct Vertical {
    /// By output plane.
    pub(super) planes: Vec<(usize, usize, f32)>,
    /// By output row.
    pub(super) rows: Vec<(usize, usize, f32)>,
}

/// Tables of a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// Of pooling and resizing.
    pub(super) horizontal: Option<Horizontal>,
    /// Of resizing.
    pub(super) vertical: Vertical,
}

/// A plan.
#[derive(Debug)]
pub(super) struct Plan {
    /// Depth, height, width of the input.
    pub(super) input: [usize; 3],
    /// Most parts of a step.
    pub(super) threads: usize,
    /// What is done in which order.
    pub(super) steps: Vec<Step>,
    /// Where each value is; `None` for those that nothing reads or writes.
    pub(super) places: Vec<Option<Place>>,
    /// By layer.
    pub(super) tables: Vec<Tables>,
    /// Sizes of the buffers, in values.
    pub(super) buffers: Vec<usize>,
    /// Size of the scratch rows, in values.
    pub(super) scratch: usize,
}

impl Plan {
    /// Plans a network for an input of this depth, height and width, to be run by up to so many threads.
    ///
    /// # Errors
    /// [`SizeError`] when sizes don't fit together, or need more than [`VALUES_MAX`] values at once.
    pub(super) fn new(
        graph: &Graph,
        convs: &[Option<Conv>],
        pairs: bool,
        input: [usize; 3],
        threads: usize,
        kernels: &Kernels,
    ) -> Result<Self, SizeError> {
        let mut layouts = layouts(graph, pairs, input)?;
        margins(graph, &mut layouts);
        let tables: Vec<Tables> = (0..graph.layers.len()).map(|l| tables(graph, &layouts, l)).collect();
        let mut schedule = Schedule::new(graph, &layouts, &tables, threads > 1);
        for (_, value) in &graph.outputs {
            schedule.demand(*value, layouts[*value].rows());
        }
        let Schedule { steps, capacity, lives, .. } = schedule;
        for (layout, capacity) in layouts.iter_mut().zip(capacity) {
            layout.capacity = capacity.max(1);
        }
        let scratch = layouts.iter().map(Layout::block_step).max().unwrap_or(0);
        let (places, buffers) = place(layouts, &lives);
        let needed = buffers.iter().fold(0_usize, |all, &len| all.saturating_add(len));
        if threads > 1 && needed > SHARED_VALUES_MAX {
            return Ok(Self { threads, ..Self::new(graph, convs, pairs, input, 1, kernels)? });
        }
        if needed > VALUES_MAX {
            let what = format!("{needed} values for an input of {input:?}; {VALUES_MAX} are the most");
            return Err(SizeError { layer: "arena".to_owned(), what });
        }
        let mut plan = Self { input, threads, steps, places, tables, buffers, scratch };
        plan.parts(graph, convs, kernels);
        Ok(plan)
    }

    /// Layout of a value that is in use.
    pub(super) fn layout(&self, value: ValueId) -> &Layout {
        &self.places[value].as_ref().expect("a value that is read or written has a place").layout
    }

    /// Cuts the steps into parts, and chooses the kernels of each.
    fn parts(&mut self, graph: &Graph, convs: &[Option<Conv>], kernels: &Kernels) {
        let mut known = HashMap::new();
        for at in 0..self.steps.len() {
            let Step { layer, rows, .. } = self.steps[at].clone();
            let Some(layer) = layer else { continue };
            let (from, to) = (graph.layers[layer].source, written(&graph.layers[layer]));
            let (from, to) = (self.layout(from), self.layout(to));
            let row_work = match &convs[layer] {
                Some(conv) => conv.work(to.channels) * to.dims[2],
                None => to.row_len() * VALUE_WORK,
            };
            let count = (rows.len() * row_work / PART_WORK).clamp(1, self.threads);
            let part_rows = rows.len().div_ceil(count);
            let parts = rows.clone().step_by(part_rows).map(|first| {
                let rows = first..(first + part_rows).min(rows.end);
                let tiles = convs[layer].as_ref().map(|conv| {
                    *known
                        .entry((layer, rows.len()))
                        .or_insert_with(|| conv.tiles(from, to, rows.len(), kernels))
                });
                Part { rows, tiles }
            });
            self.steps[at].parts = parts.collect();
        }
    }
}

/// A value that the layer writes; all that it writes have one size.
pub(super) fn written(layer: &Layer) -> ValueId {
    layer.written()
}

/// Both values that a layer writes.
fn outputs(layer: &Layer) -> impl Iterator<Item = ValueId> {
    layer.raw.into_iter().chain(layer.second.as_ref().map(|s| s.value))
}

/// Layouts of all values, without margins and all rows kept.
fn layouts(graph: &Graph, pairs: bool, input: [usize; 3]) -> Result<Vec<Layout>, SizeError> {
    let of = |(value, dims): (&Value, [usize; 3])| {
        let pairs = pairs && !value.flat && value.channels <= 8;
        Layout { channels: value.channels, dims, pairs, left: 0, right: 0, capacity: dims[0] * dims[1] }
    };
    Ok(graph.values.iter().zip(graph.dims(input)?).map(of).collect())
}

/// Margins that convolutions need.
fn margins(graph: &Graph, layouts: &mut [Layout]) {
    for layer in &graph.layers {
        let Op::Conv(filter) = &layer.op else { continue };
        let to = layouts[written(layer)].clone();
        let from = &mut layouts[layer.source];
        let Window { size, stride, before, .. } = &filter.window;
        // The last pixel that a kernel starts at; pairs of outputs from single inputs have one too many where the width is odd.
        let last = match (from.pairs, to.pairs) {
            (false, true) => 2 * to.width() - 1,
            _ => to.width() - 1,
        };
        let end = last * stride[2] + size[2];
        let inside = if from.pairs && !to.pairs { from.dims[2] } else { from.width() };
        from.left = from.left.max(before[2]);
        from.right = from.right.max(end.saturating_sub(before[2] + inside));
    }
}

fn tables(graph: &Graph, layouts: &[Layout], index: usize) -> Tables {
    let layer = &graph.layers[index];
    let (from, to) = (layouts[layer.source].dims, layouts[written(layer)].dims);
    match &layer.op {
        Op::MaxPool(window) => {
            let ranges = (0..to[2]).map(|x| reach(window, 2, x..x + 1, from[2])).collect();
            Tables { horizontal: Some(Horizontal::Max(ranges)), vertical: Vertical::default() }
        }
        Op::Resize(size) => {
            let scale = |axis: usize| match size {
                Size::Scales(scales) => f64::from(scales[axis]),
                _ => to[axis] as f64 / from[axis] as f64,
            };
            let [planes, rows, pixels] = [0, 1, 2].map(|axis| linear(from[axis], to[axis], scale(axis)));
            Tables { horizontal: Some(Horizontal::Linear(pixels)), vertical: Vertical { planes, rows } }
        }
        _ => Tables::default(),
    }
}

/// What a window reads for a range of outputs along an axis.
pub(super) fn reach(window: &Window, axis: usize, outputs: Range<usize>, len: usize) -> Range<usize> {
    let (size, stride, before) = (window.size[axis], window.stride[axis], window.before[axis]);
    let start = (outputs.start * stride).saturating_sub(before);
    let end = ((outputs.end - 1) * stride + size).saturating_sub(before);
    start.min(len)..end.min(len)
}

/// Simulates the network to find the order of the steps, the rows that must be kept, and when each value lives.
struct Schedule<'a> {
    graph: &'a Graph,
    layouts: &'a [Layout],
    tables: &'a [Tables],
    /// Every map is computed whole.
    whole: bool,
    steps: Vec<Step>,
    /// Rows done, by layer; the input's are last.
    done: Vec<usize>,
    /// The layer that writes each value.
    writers: Vec<Option<usize>>,
    /// The layers that read each value.
    readers: Vec<Vec<usize>>,
    /// Rows that must be kept, by value.
    capacity: Vec<usize>,
    /// First and last step in which a value is in use.
    lives: Vec<Option<Range<usize>>>,
}

impl<'a> Schedule<'a> {
    fn new(graph: &'a Graph, layouts: &'a [Layout], tables: &'a [Tables], whole: bool) -> Self {
        let count = graph.values.len();
        let mut writers = vec![None; count];
        let mut readers = vec![Vec::new(); count];
        for (index, layer) in graph.layers.iter().enumerate() {
            outputs(layer).for_each(|value| writers[value] = Some(index));
            graph.reads(index).for_each(|value| readers[value].push(index));
        }
        let done = vec![0; graph.layers.len() + 1];
        let (capacity, lives) = (vec![0; count], vec![None; count]);
        Self { graph, layouts, tables, whole, steps: Vec::new(), done, writers, readers, capacity, lives }
    }

    /// Makes rows `0..rows` of a value.
    fn demand(&mut self, value: ValueId, rows: usize) {
        let layer = self.writers[value];
        let slot = layer.unwrap_or(self.graph.layers.len());
        let layout = &self.layouts[value];
        let all = layout.rows();
        let row_bytes = layout.row_len() * size_of::<f32>();
        let strip =
            if self.whole || all * row_bytes <= WHOLE_BYTES { all } else { (STRIP_BYTES / row_bytes).max(1) };
        while self.done[slot] < rows {
            let step = self.done[slot]..(self.done[slot] + strip).min(all);
            if let Some(layer) = layer {
                let reads: Vec<ValueId> = self.graph.reads(layer).collect();
                for read in reads {
                    self.demand(read, self.needs(layer, read, step.clone()).end);
                }
            }
            self.take(layer, slot, step);
        }
    }

    /// A step: what it reads and writes lives now, and what it writes must fit beside the rows that are still to be read.
    fn take(&mut self, layer: Option<usize>, slot: usize, rows: Range<usize>) {
        let now = self.steps.len();
        let writes: Vec<ValueId> =
            layer.map_or_else(|| vec![0], |layer| outputs(&self.graph.layers[layer]).collect());
        for &value in &writes {
            let kept = self.readers[value].iter().filter_map(|&reader| {
                let (done, all) =
                    (self.done[reader], self.layouts[written(&self.graph.layers[reader])].rows());
                (done < all).then(|| self.needs(reader, value, done..done + 1).start)
            });
            let first = kept.min().unwrap_or(rows.start).min(rows.start);
            self.capacity[value] = self.capacity[value].max(rows.end - first);
        }
        let reads = layer.into_iter().flat_map(|layer| self.graph.reads(layer));
        for value in writes.iter().copied().chain(reads) {
            let life = self.lives[value].get_or_insert(now..now);
            life.end = now;
        }
        self.done[slot] = rows.end;
        self.steps.push(Step { layer, rows, parts: Vec::new() });
    }

    /// Rows of `value` that a layer reads for rows of its output.
    fn needs(&self, index: usize, value: ValueId, rows: Range<usize>) -> Range<usize> {
        let layer = &self.graph.layers[index];
        if value != layer.source {
            return rows;
        }
        let (from, to) = (&self.layouts[value], &self.layouts[written(layer)]);
        let needs = match &layer.op {
            Op::Conv(filter) => windowed(&filter.window, from, to, rows.clone()),
            Op::MaxPool(window) => windowed(window, from, to, rows.clone()),
            Op::Resize(_) if from.dims[0] == 1 && to.dims[0] == 1 => {
                let places = &self.tables[index].vertical.rows;
                places[rows.start].0..places[rows.end - 1].1 + 1
            }
            Op::Resize(_) | Op::GlobalPool { .. } => 0..from.rows(),
            Op::Copy | Op::Concat(_) => rows.clone(),
        };
        // The same map may also be the residual.
        if layer.residual == Some(value) {
            needs.start.min(rows.start)..needs.end.max(rows.end)
        } else {
            needs
        }
    }
}

/// Rows that a window reads; whole planes where there are several.
fn windowed(window: &Window, from: &Layout, to: &Layout, rows: Range<usize>) -> Range<usize> {
    if from.dims[0] == 1 && to.dims[0] == 1 {
        return reach(window, 1, rows, from.dims[1]);
    }
    let (height, below) = (to.dims[1], from.dims[1]);
    let planes = reach(window, 0, rows.start / height..(rows.end - 1) / height + 1, from.dims[0]);
    planes.start * below..planes.end * below
}

/// Gives each value a buffer: one whose last value is dead, the smallest that it fits, else the largest.
fn place(layouts: Vec<Layout>, lives: &[Option<Range<usize>>]) -> (Vec<Option<Place>>, Vec<usize>) {
    let mut order: Vec<usize> = (0..layouts.len()).filter(|&v| lives[v].is_some()).collect();
    let born = |v: usize| lives[v].as_ref().map_or(0, |life| life.start);
    order.sort_by_key(|&v| born(v));
    // Size, and the step in which it is last used.
    let mut buffers: Vec<(usize, usize)> = Vec::new();
    let mut at = vec![0; layouts.len()];
    for value in order {
        let (len, life) = (layouts[value].len(), lives[value].clone().unwrap_or(0..0));
        let free = (0..buffers.len()).filter(|&b| buffers[b].1 < life.start);
        let fit = |b: &usize| {
            let size = buffers[*b].0;
            if size >= len { (0, size - len) } else { (1, len - size) }
        };
        let buffer = free.min_by_key(fit).unwrap_or_else(|| {
            buffers.push((0, 0));
            buffers.len() - 1
        });
        buffers[buffer] = (buffers[buffer].0.max(len), life.end);
        at[value] = buffer;
    }
    let places = layouts.into_iter().enumerate();
    let places =
        places.map(|(v, layout)| lives[v].is_some().then_some(Place { buffer: at[v], layout })).collect();
    (places, buffers.into_iter().map(|(size, _)| size).collect())
}
