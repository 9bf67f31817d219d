//! From the layers of a network to the kernels that run them, and their weights as one block of bytes.
//!
//! Owns: which layers the kernels know. Never does: sizes, the device.

use std::collections::HashMap;

use kernels::gpu::layers::{self, Arithmetic, Window};

use crate::graph::fuse::GraphError;
use crate::graph::{self, Filter, Graph, Layer, Op, Size, ValueId, Weights};

/// Where weights start: as allocations of the driver do.
const ALIGN_BYTES: usize = 256;

/// What runs a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kernel {
    /// 3 × 3 convolution of the network's input, a plane.
    First {
        /// Where the weights are.
        weights: usize,
    },
    /// Convolution of this side.
    Conv {
        /// 1 or 3.
        side: usize,
        /// Where the weights are.
        weights: usize,
    },
    /// 1 × 1 convolution to a plane.
    ToPlane {
        /// Where the weights are.
        weights: usize,
    },
    /// Max-pooling.
    Pool(Window),
    /// Linear resizing; to which size, the layer says.
    Resize,
    /// The source, and other values, side by side.
    Join(Vec<ValueId>),
    /// A value a channel.
    Global {
        /// The largest, instead of the mean.
        max: bool,
    },
}

/// A layer's kernel and where its bias, scale and shift are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    /// The kernel.
    pub(super) kernel: Kernel,
    /// Byte of the weights.
    pub(super) affine: usize,
}

/// Steps by layer, the bytes of all weights, and by value whether it is a plane in f32.
pub(super) struct Lowered {
    /// By layer.
    pub(super) steps: Vec<Step>,
    /// Of all weights.
    pub(super) bytes: Vec<u8>,
    /// By value.
    pub(super) planes: Vec<bool>,
}

/// Chooses the kernels of a network's layers and packs their weights.
///
/// # Errors
/// [`GraphError`] for the first layer that no kernel knows.
pub(super) fn lower(
    graph: &Graph,
    weights: &HashMap<usize, Weights<'_>>,
    arithmetic: Arithmetic,
) -> Result<Lowered, GraphError> {
    let mut planes = vec![false; graph.values.len()];
    planes[0] = true;
    let mut out = Lowered { steps: Vec::new(), bytes: Vec::new(), planes };
    for (index, layer) in graph.layers.iter().enumerate() {
        let fail =
            |what: String| GraphError { node: layer.name.clone(), op: name(&layer.op).to_owned(), what };
        let kernel = match &layer.op {
            Op::Conv(filter) => {
                let weights = weights.get(&index).ok_or_else(|| fail("no weights".to_owned()))?;
                out.conv(graph, layer, filter, weights, arithmetic).map_err(fail)?
            }
            op => out.map(graph, op).map_err(fail)?,
        };
        let first = matches!(kernel, Kernel::First { .. });
        if graph.reads(index).enumerate().any(|(at, value)| out.planes[value] && !(first && at == 0)) {
            return Err(fail("reads a plane; only a 3 x 3 convolution reads the input".to_owned()));
        }
        let affine = out.put(&floats(&affine(graph, layer)));
        out.steps.push(Step { kernel, affine });
    }
    Ok(out)
}

impl Lowered {
    fn conv(
        &mut self,
        graph: &Graph,
        layer: &Layer,
        filter: &Filter,
        weights: &Weights<'_>,
        arithmetic: Arithmetic,
    ) -> Result<Kernel, String> {
        let window = &filter.window;
        let side = window.size[2];
        let same = [1, side, side] == window.size
            && window.stride == [1; 3]
            && [0, side / 2, side / 2] == window.before
            && window.before == window.after;
        if !same || !matches!(side, 1 | 3) {
            return Err(format!(
                "{:?} at steps of {:?} with padding {:?} and {:?}; 1 x 1 and 3 x 3 that keep the size are known",
                window.size, window.stride, window.before, window.after
            ));
        }
        let values: Vec<f32> = (0..weights.len()).map(|at| weights.at(at)).collect();
        let largest = values.iter().fold(0.0_f32, |all, v| all.max(v.abs()));
        // The largest number of half precision.
        if arithmetic == Arithmetic::Tensor && largest > 65_504.0 {
            return Err(format!("a weight of {largest}"));
        }
        if layer.source == 0 {
            if (filter.inputs, side) != (1, 3) {
                return Err(format!(
                    "{side} x {side} of {} input channels; the first is 3 x 3 of one",
                    filter.inputs
                ));
            }
            let channels = layers::padded(filter.outputs);
            let mut packed = vec![0.0; 9 * channels];
            for (at, value) in values.iter().enumerate() {
                packed[at % 9 * channels + at / 9] = *value;
            }
            return Ok(Kernel::First { weights: self.put(&floats(&packed)) });
        }
        let ends = graph.outputs.iter().any(|(_, value)| layer.raw == Some(*value));
        let bare = layer.residual.is_none() && layer.second.is_none() && !layer.relu;
        if filter.outputs == 1 && side == 1 && ends && bare && !graph.values[layer.source].flat {
            layer.raw.iter().for_each(|&value| self.planes[value] = true);
            let packed = layers::last(&values, filter.bias[0]);
            return Ok(Kernel::ToPlane { weights: self.put(&floats(&packed)) });
        }
        let channels = [filter.inputs, filter.outputs];
        let weights = match layers::pack(arithmetic, side, channels, &values) {
            layers::Weights::Half(bits) => bits.iter().flat_map(|v| v.to_le_bytes()).collect(),
            layers::Weights::Single(values) => floats(&values),
        };
        Ok(Kernel::Conv { side, weights: self.put(&weights) })
    }

    fn map(&self, graph: &Graph, op: &Op) -> Result<Kernel, String> {
        match op {
            Op::MaxPool(window) => {
                let graph::Window { size, stride, before, .. } = window;
                if (size[0], stride[0], before[0], window.after[0]) != (1, 1, 0, 0) {
                    return Err(format!("a window of {size:?}; only rows and columns are pooled"));
                }
                let flat = |axes: &[usize; 3]| [axes[1], axes[2]];
                Ok(Kernel::Pool(Window { size: flat(size), stride: flat(stride), before: flat(before) }))
            }
            // Others may not be the ratio of the sizes, which the kernel takes.
            Op::Resize(Size::Scales(scales))
                if scales[0] != 1.0 || scales.iter().any(|scale| scale.fract() != 0.0) =>
            {
                Err(format!("scales {scales:?}; whole factors of rows and columns are known"))
            }
            Op::Resize(_) => Ok(Kernel::Resize),
            Op::Copy => Ok(Kernel::Join(Vec::new())),
            Op::Concat(others) => {
                let channels = |&&value: &&ValueId| !graph.values[value].channels.is_multiple_of(8);
                match others.iter().find(channels) {
                    Some(&other) => {
                        Err(format!("{} channels, no multiple of 8", graph.values[other].channels))
                    }
                    None => Ok(Kernel::Join(others.clone())),
                }
            }
            Op::GlobalPool { max } => Ok(Kernel::Global { max: *max }),
            Op::Conv(_) => Err("a convolution is no map".to_owned()),
        }
    }

    /// Appends bytes at the next place that is aligned; returns where.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len().next_multiple_of(ALIGN_BYTES);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(bytes);
        at
    }
}

/// Bias, scale and shift of a layer.
fn affine(graph: &Graph, layer: &Layer) -> Vec<f32> {
    let zeros;
    let bias = match &layer.op {
        Op::Conv(filter) => &filter.bias,
        _ => {
            let value = layer.raw.or(layer.second.as_ref().map(|s| s.value)).unwrap_or(layer.source);
            zeros = vec![0.0; graph.values[value].channels];
            &zeros
        }
    };
    layers::affine(bias, layer.second.as_ref().map(|s| (&s.scale[..], &s.shift[..])))
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn name(op: &Op) -> &'static str {
    match op {
        Op::Conv(_) => "Conv",
        Op::MaxPool(_) => "MaxPool",
        Op::Resize(_) => "Resize",
        Op::Copy => "Add",
        Op::Concat(_) => "Concat",
        Op::GlobalPool { max: true } => "GlobalMaxPool",
        Op::GlobalPool { max: false } => "GlobalAveragePool",
    }
}
