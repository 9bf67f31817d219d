//! A network that is ready to run: its layers, its packed weights, its plans.
//!
//! Owns: the plans of the sizes seen last, and running them. Never does: own a thread; the parts of a step are shared within the pool of the
//! caller, if it has one and says so. Each caller brings a [`Workspace`].

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::buffer::Aligned;
use super::conv::{Conv, by_lane};
use super::ends::{Ends, From, Into};
use super::layout::{LANES, Layout};
use super::plan::{Plan, Step, written};
use super::simd::Kernels;
use super::work::{Scratch, Work};
use crate::graph::fuse::{GraphError, fuse};
use crate::graph::limits::MODEL_BYTES_MAX;
use crate::graph::onnx::OnnxError;
use crate::graph::{Graph, Layer, Op, SizeError, ValueId};

/// Plans that are kept, those used last: several studies of different sizes may arrive at once, each with plans for one thread and several.
const PLANS_MAX: usize = 8;

/// A loaded network.
pub(super) struct Net {
    graph: Graph,
    /// By layer.
    convs: Vec<Option<Conv>>,
    /// Scale and shift of each layer's second output, by lane.
    seconds: Vec<(Vec<f32>, Vec<f32>)>,
    pairs: bool,
    kernels: Kernels,
    /// The one used last comes first.
    plans: Mutex<Vec<Arc<Plan>>>,
}

/// The buffers of a slice; they grow to what the largest plan needs, and serve any network.
#[derive(Default)]
pub(super) struct Workspace {
    buffers: Vec<Aligned<f32>>,
    /// One a thread.
    scratch: Vec<Scratch>,
    /// Time by layer, if asked for.
    pub(super) profile: Option<Vec<Duration>>,
}

/// Gives the values of a row of the input: (channel, row, where to put them).
pub(super) type Input<'a> = &'a (dyn Fn(usize, usize, &mut dyn FnMut(&[f32])) + Sync);

/// Takes rows of the outputs.
pub(super) type Take<'a> = &'a mut (dyn FnMut(Row<'_>) + Send);

/// How many threads there are.
pub(super) type Threads<'a> = &'a (dyn Fn() -> usize + Sync);

/// A row of an output, as soon as it is there.
pub(super) struct Row<'a> {
    /// Which of the network's outputs.
    pub(super) output: usize,
    /// Which row.
    pub(super) row: usize,
    /// The row, from its first pixel.
    pub(super) values: &'a [f32],
    /// Where [channel, column] is in `values`: [`Layout::at`].
    pub(super) layout: &'a Layout,
}

impl Row<'_> {
    /// Appends the values of a channel, left to right.
    pub(super) fn append(&self, channel: usize, out: &mut Vec<f32>) {
        let len = out.len();
        out.resize(len + self.layout.dims[2], 0.0);
        self.layout.get_channel(self.values, channel, &mut out[len..]);
    }
}

/// Why a network can't be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    /// The file can't be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is no ONNX model.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The model has nodes that are not known.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Net {
    /// Loads a network from a file, to run on these kernels.
    ///
    /// # Errors
    /// [`NetError`].
    pub(super) fn load(path: &Path, kernels: Kernels) -> Result<Self, NetError> {
        let bytes = std::fs::metadata(path)?.len();
        if bytes > MODEL_BYTES_MAX {
            return Err(OnnxError::Large { bytes }.into());
        }
        Self::new(&std::fs::read(path)?, kernels)
    }

    /// Loads a network from the bytes of a file, to run on these kernels.
    ///
    /// # Errors
    /// [`NetError`].
    pub(super) fn new(bytes: &[u8], kernels: Kernels) -> Result<Self, NetError> {
        let model = crate::graph::onnx::read(bytes)?;
        let (graph, mut weights) = fuse(&model)?;
        let pairs = can_pair(&graph);
        let mut pack = |(index, layer): (usize, &Layer)| {
            let value = &graph.values[written(layer)];
            let pairs = pairs && !value.flat && value.channels <= 8;
            let Op::Conv(filter) = &layer.op else { return None };
            // Those of the file are not needed any more.
            weights.remove(&index).map(|weights| Conv::new(filter, &weights, pairs))
        };
        let convs = graph.layers.iter().enumerate().map(&mut pack).collect();
        let seconds = graph.layers.iter().map(|layer| {
            layer.second.as_ref().map_or_else(Default::default, |second| {
                let value = &graph.values[second.value];
                let pairs = pairs && !value.flat && value.channels <= 8;
                (by_lane(&second.scale, pairs), by_lane(&second.shift, pairs))
            })
        });
        let seconds = seconds.collect();
        Ok(Self { graph, convs, seconds, pairs, kernels, plans: Mutex::default() })
    }

    /// Index of an output.
    pub(super) fn output(&self, name: &str) -> Option<usize> {
        self.graph.outputs.iter().position(|(output, _)| output == name)
    }

    /// Number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.graph.outputs.len()
    }

    /// Name of the input.
    pub(super) fn input(&self) -> &str {
        &self.graph.values[0].name
    }

    /// Channels of the input.
    pub(super) fn input_channels(&self) -> usize {
        self.graph.values[0].channels
    }

    /// Channels of an output.
    pub(super) fn channels(&self, output: usize) -> usize {
        self.graph.values[self.graph.outputs[output].1].channels
    }

    /// The value of an output in [`Net::graph`].
    pub(super) fn value(&self, output: usize) -> ValueId {
        self.graph.outputs[output].1
    }

    /// The network's layers.
    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The plan for an input of this depth, height and width, to be run by up to `threads` threads.
    ///
    /// # Errors
    /// [`SizeError`].
    pub(super) fn plan(&self, input: [usize; 3], threads: usize) -> Result<Arc<Plan>, SizeError> {
        // A plan is only ever added whole, and moved.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = plans.iter().position(|plan| (plan.input, plan.threads) == (input, threads)) {
            plans[..=at].rotate_right(1);
            return Ok(Arc::clone(&plans[0]));
        }
        let plan = Plan::new(&self.graph, &self.convs, self.pairs, input, threads, &self.kernels)?;
        plans.truncate(PLANS_MAX - 1);
        plans.insert(0, Arc::new(plan));
        let plan = Arc::clone(&plans[0]);
        Ok(plan)
    }

    /// Runs the network. `take` gets the rows of the outputs, each output's in order. The result depends neither on the workspace nor on
    /// the threads: before each step, `threads` is asked how many of the pool that this one belongs to it may use, this one included.
    pub(super) fn run(
        &self,
        plan: &Plan,
        workspace: &mut Workspace,
        threads: Threads<'_>,
        input: Input<'_>,
        take: Take<'_>,
    ) {
        workspace.fit(plan);
        if let Some(profile) = &mut workspace.profile {
            profile.resize(self.graph.layers.len() + 1, Duration::ZERO);
        }
        for step in &plan.steps {
            let start = workspace.profile.is_some().then(Instant::now);
            match step.layer {
                None => self.read(plan, workspace, step, input),
                Some(layer) => self.step(plan, workspace, threads, layer, step),
            }
            self.give(plan, workspace, step, take);
            if let (Some(start), Some(profile)) = (start, &mut workspace.profile) {
                profile[step.layer.unwrap_or(self.graph.layers.len())] += start.elapsed();
            }
        }
    }

    /// Runs multiply-adds without memory; returns how many.
    pub(super) fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the kernels are this processor's.
        unsafe { (self.kernels.peak)(rounds) }
    }

    /// Name, time and multiply-adds of each layer, from the times of a profiled workspace.
    pub(super) fn profile(&self, plan: &Plan, times: &[Duration]) -> Vec<(String, Duration, usize)> {
        let layers = self.graph.layers.iter().zip(&self.convs).zip(times);
        let mut all: Vec<_> = layers
            .map(|((layer, conv), time)| {
                let to = plan.layout(written(layer));
                let work = conv.as_ref().map_or(0, |conv| conv.work(to.channels));
                let [d, h, w] = to.dims;
                let kind = match layer.op {
                    Op::Conv(ref f) => {
                        format!("conv {}x{} {}->{}", f.window.size[1], f.window.size[2], f.inputs, f.outputs)
                    }
                    Op::MaxPool(_) => "pool".to_owned(),
                    Op::Resize(_) => "resize".to_owned(),
                    _ => "other".to_owned(),
                };
                (format!("{:<24}{kind:<18}{h:>4} x {w:<4}", layer.name), *time, work * d * h * w)
            })
            .collect();
        all.extend(times.get(self.graph.layers.len()).map(|time| ("input".to_owned(), *time, 0)));
        all
    }

    fn read(&self, plan: &Plan, workspace: &mut Workspace, step: &Step, input: Input<'_>) {
        let Some(place) = &plan.places[0] else { return };
        let layout = &place.layout;
        let buffer = workspace.buffers[place.buffer].values_mut();
        for row in step.rows.clone() {
            for channel in 0..layout.channels {
                input(channel, row, &mut |values| {
                    layout.set_channel(&mut buffer[layout.row(row)..], channel, values);
                });
            }
            layout.seal(&mut buffer[layout.row_start(row)..][..layout.row_len()]);
        }
    }

    /// Hands out the rows of outputs.
    fn give(&self, plan: &Plan, workspace: &Workspace, step: &Step, take: Take<'_>) {
        let writes = |value: ValueId| match step.layer.map(|layer| &self.graph.layers[layer]) {
            None => value == 0,
            Some(layer) => {
                layer.raw == Some(value) || layer.second.as_ref().is_some_and(|s| s.value == value)
            }
        };
        for (output, (_, value)) in self.graph.outputs.iter().enumerate() {
            let Some(place) = plan.places[*value].as_ref().filter(|_| writes(*value)) else { continue };
            let (layout, buffer) = (&place.layout, &workspace.buffers[place.buffer]);
            for row in step.rows.clone() {
                let start = layout.row_start(row);
                let values = &buffer.values()[start..start + layout.row_len()][layout.left * LANES..];
                take(Row { output, row, values, layout });
            }
        }
    }

    fn step(&self, plan: &Plan, workspace: &mut Workspace, threads: Threads<'_>, index: usize, step: &Step) {
        let layer = &self.graph.layers[index];
        // What is written is taken out, so that the rest can be read.
        let place = |value: Option<ValueId>| value.and_then(|v| plan.places[v].as_ref());
        let (raw, second) = (place(layer.raw), place(layer.second.as_ref().map(|s| s.value)));
        let mut out = [raw, second].map(|p| p.map(|p| (std::mem::take(&mut workspace.buffers[p.buffer]), p)));
        let mut outputs = out.iter_mut().map(|o| {
            o.as_mut().map(|(buffer, place)| Into {
                values: buffer.values_mut(),
                layout: &place.layout,
                start: 0,
            })
        });
        let raw = outputs.next().flatten();
        let (scale, shift) = &self.seconds[index];
        let clip = layer.second.as_ref().is_some_and(|s| s.relu);
        let second = outputs.next().flatten().map(|to| (to, &scale[..], &shift[..], clip));
        let buffers = &workspace.buffers;
        let from = |value: ValueId| {
            let place = plan.places[value].as_ref().expect("a value that is read has a place");
            From { values: buffers[place.buffer].values(), layout: &place.layout }
        };
        let residual = layer.residual.map(from);
        let ends = Ends { residual, relu: layer.relu, raw, second };
        let threads = if step.parts.len() > 1 { threads().clamp(1, step.parts.len()) } else { 1 };
        let Self { convs, kernels, .. } = self;
        let work = Work { layers: &self.graph.layers, convs, kernels, plan, index, from: &from };
        work.share(ends, &step.parts, &mut workspace.scratch, threads);
        for (buffer, place) in out.into_iter().flatten() {
            workspace.buffers[place.buffer] = buffer;
        }
    }
}

impl Workspace {
    /// Makes room for a plan: nothing is allocated for a size that was seen before.
    fn fit(&mut self, plan: &Plan) {
        if self.buffers.len() < plan.buffers.len() {
            self.buffers.resize_with(plan.buffers.len(), Aligned::default);
        }
        for (buffer, &len) in self.buffers.iter_mut().zip(&plan.buffers) {
            buffer.grow(len);
        }
        if self.scratch.len() < plan.threads {
            self.scratch.resize_with(plan.threads, Scratch::default);
        }
        for line in self.scratch[..plan.threads].iter_mut().flat_map(|scratch| &mut scratch.lines) {
            // Unpaired, a row is twice as long.
            line.grow(2 * plan.scratch);
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let lines = self.scratch.iter().flat_map(|scratch| &scratch.lines);
        self.buffers.iter().chain(lines).map(|buffer| size_of_val(buffer.values())).sum()
    }
}

/// Pixels of at most 8 channels can be paired if every convolution of them keeps the width and moves by single pixels.
fn can_pair(graph: &Graph) -> bool {
    graph.layers.iter().all(|layer| {
        let Op::Conv(filter) = &layer.op else { return true };
        let window = &filter.window;
        let keeps = window.stride[2] == 1
            && matches!(window.size[2], 1 | 3)
            && window.before[2] == window.size[2] / 2
            && window.after[2] == window.size[2] / 2;
        keeps || (filter.inputs > 8 && filter.outputs > 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "reads a file")]
    fn the_plans_used_last_are_kept() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny/lungs/model.onnx");
        let net = Net::load(&path, super::super::simd::available()[0]).unwrap();
        let plan = |columns| net.plan([1, 16, columns], 1).unwrap();
        let plans: Vec<_> = (1..=PLANS_MAX).map(plan).collect();
        assert!(Arc::ptr_eq(&plans[0], &plan(1)), "as many as are kept");
        plan(PLANS_MAX + 1);
        assert!(Arc::ptr_eq(&plans[0], &plan(1)), "the first, used again since");
        assert!(!Arc::ptr_eq(&plans[1], &plan(2)), "the one not used for longest went");
        assert!(!Arc::ptr_eq(&plan(1), &net.plan([1, 16, 1], 2).unwrap()), "one for two threads is another");
    }
}
