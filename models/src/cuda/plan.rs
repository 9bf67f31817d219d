//! Where the maps of a network lie, for a number of slices and a size.
//!
//! Owns: sizes and places in the arena. Never does: launch.

use kernels::gpu::layers::{Arithmetic, Shape, padded};

use crate::graph::{Graph, Layer, Op, Size, ValueId};

/// Where maps start: as allocations of the driver do.
const ALIGN_BYTES: usize = 256;

/// A size that the network can't take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer `{layer}`: {what}")]
pub(super) struct PlanError {
    /// Which layer.
    pub(super) layer: String,
    /// What does not fit.
    pub(super) what: String,
}

/// A plan.
#[derive(Debug)]
pub(super) struct Plan {
    /// Slices, rows and columns of the input.
    pub(super) shape: Shape,
    /// Rows and columns, by value.
    pub(super) sizes: Vec<[usize; 2]>,
    /// First byte in the arena, by value; `None` for those that the caller has, and those that nothing writes.
    pub(super) places: Vec<Option<usize>>,
    /// Bytes of the arena.
    pub(super) bytes: usize,
}

impl Plan {
    /// Plans a network; the caller has the values `outside`.
    ///
    /// # Errors
    /// [`PlanError`] when sizes don't fit together.
    pub(super) fn new(
        graph: &Graph,
        arithmetic: Arithmetic,
        outside: &[ValueId],
        shape: Shape,
    ) -> Result<Self, PlanError> {
        let sizes = sizes(graph, [shape[1], shape[2]])?;
        // First and last layer that uses a value.
        let mut lives: Vec<Option<[usize; 2]>> = vec![None; graph.values.len()];
        for (index, layer) in graph.layers.iter().enumerate() {
            for value in written(layer).chain(graph.reads(index)) {
                lives[value].get_or_insert([index; 2])[1] = index;
            }
        }
        for (_, value) in &graph.outputs {
            if let Some(life) = &mut lives[*value] {
                life[1] = graph.layers.len();
            }
        }
        outside.iter().for_each(|&value| lives[value] = None);
        let mut plan = Self { shape, sizes, places: vec![None; graph.values.len()], bytes: 0 };
        let len = |value: ValueId| {
            let [rows, columns] = plan.sizes[value];
            let pixels = shape[0] * rows * columns;
            (pixels * padded(graph.values[value].channels) * arithmetic.bytes()).next_multiple_of(ALIGN_BYTES)
        };
        let lens: Vec<usize> =
            (0..lives.len()).map(|v| if lives[v].is_some() { len(v) } else { 0 }).collect();
        plan.place(&lives, &lens);
        Ok(plan)
    }

    /// Gives each value, in the order of their first use, the lowest place that no value of its time has.
    fn place(&mut self, lives: &[Option<[usize; 2]>], lens: &[usize]) {
        let mut order: Vec<(ValueId, [usize; 2])> =
            lives.iter().enumerate().filter_map(|(value, life)| Some((value, (*life)?))).collect();
        order.sort_by_key(|(_, life)| life[0]);
        let mut placed: Vec<(usize, ValueId, [usize; 2])> = Vec::new();
        for (value, life) in order {
            let mut at = 0;
            for &(start, other, theirs) in &placed {
                let together = theirs[1] >= life[0] && life[1] >= theirs[0];
                if together && start < at + lens[value] && at < start + lens[other] {
                    at = start + lens[other];
                }
            }
            placed.push((at, value, life));
            placed.sort_unstable();
            self.places[value] = Some(at);
            self.bytes = self.bytes.max(at + lens[value]);
        }
    }
}

/// Both values that a layer writes.
pub(super) fn written(layer: &Layer) -> impl Iterator<Item = ValueId> {
    layer.raw.into_iter().chain(layer.second.as_ref().map(|second| second.value))
}

/// Rows and columns of all values.
fn sizes(graph: &Graph, input: [usize; 2]) -> Result<Vec<[usize; 2]>, PlanError> {
    let mut all = vec![[0; 2]; graph.values.len()];
    all[0] = input;
    for (index, layer) in graph.layers.iter().enumerate() {
        let fail = |what: String| Err(PlanError { layer: layer.name.clone(), what });
        let from = all[layer.source];
        let size = match &layer.op {
            // They keep the size.
            Op::Conv(_) | Op::Copy | Op::Concat(_) => from,
            Op::MaxPool(window) => [window.output(1, from[0]), window.output(2, from[1])],
            Op::Resize(Size::Like(value)) => all[*value],
            Op::Resize(Size::Fixed([1, rows, columns])) => [*rows, *columns],
            Op::Resize(Size::Fixed(dims)) => return fail(format!("resized to {dims:?}; one plane is known")),
            Op::Resize(Size::Scales(scales)) => [from[0] * scales[1] as usize, from[1] * scales[2] as usize],
            Op::GlobalPool { .. } => [1, 1],
        };
        if size.contains(&0) {
            return fail(format!("a map of {size:?} from one of {from:?}"));
        }
        // Joined maps and residuals lie pixel by pixel beside the result.
        for read in graph.reads(index).skip(1) {
            if all[read] != size {
                return fail(format!("maps of {:?} and {size:?} can't be joined", all[read]));
            }
        }
        written(layer).for_each(|value| all[value] = size);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{fuse::fuse, onnx};

    /// Values that live at the same time never share a byte, and the arena is far smaller than all values together.
    #[test]
    fn places_do_not_overlap_in_time() {
        let bytes = include_bytes!("../../zoo/multitask-spatial-1/model.onnx");
        let model = onnx::read(bytes).unwrap();
        let (graph, _) = fuse(&model).unwrap();
        for shape in [[1, 1, 1], [3, 40, 48], [32, 158, 151]] {
            let plan = Plan::new(&graph, Arithmetic::Half, &[0], shape).unwrap();
            let len = |v: ValueId| {
                shape[0] * plan.sizes[v][0] * plan.sizes[v][1] * padded(graph.values[v].channels) * 2
            };
            // Replayed: who wrote a byte last must be who is read.
            let mut holders: Vec<(usize, usize, ValueId)> = Vec::new();
            let mut total = 0;
            for (index, layer) in graph.layers.iter().enumerate() {
                for read in graph.reads(index).filter(|&read| read != 0) {
                    let at = plan.places[read].unwrap();
                    assert!(
                        holders.contains(&(at, at + len(read), read)),
                        "{} reads what is gone",
                        layer.name
                    );
                }
                for value in written(layer) {
                    let at = plan.places[value].unwrap();
                    let end = at + len(value);
                    for read in graph.reads(index).filter(|&read| read != 0) {
                        let start = plan.places[read].unwrap();
                        assert!(
                            end <= start || start + len(read) <= at,
                            "{} writes what it reads",
                            layer.name
                        );
                    }
                    holders.retain(|held| held.1 <= at || end <= held.0);
                    holders.push((at, end, value));
                    assert!(end <= plan.bytes);
                    total += len(value);
                }
            }
            for (_, value) in &graph.outputs {
                assert!(holders.iter().any(|held| held.2 == *value), "an output is overwritten");
            }
            assert!(shape[1] == 1 || plan.bytes * 4 < total, "{} of {total} bytes", plan.bytes);
        }
    }
}
