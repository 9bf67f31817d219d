//! A network on our kernels: its weights on the device and its launches.
//!
//! Owns: the packed weights and the order of the launches. Never does: allocate maps, keep graphs; a caller brings the arena.

use kernels::device::{Buffer, Device, DeviceError, Stream};
use kernels::gpu::layers::{self, Arithmetic, Conv, Finish, Shape, Span, padded};

use super::lower::{Kernel, Lowered, Step, lower};
use super::plan::{Plan, PlanError};
use crate::graph::fuse::{GraphError, fuse};
use crate::graph::{Graph, Layer, ValueId, onnx};

/// Why a network can't be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    /// The file can't be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is no ONNX model.
    #[error(transparent)]
    Onnx(#[from] onnx::OnnxError),
    /// The model has nodes that no kernel knows.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A loaded network.
pub(super) struct Net {
    graph: Graph,
    steps: Vec<Step>,
    /// By value.
    planes: Vec<bool>,
    weights: Buffer,
    arithmetic: Arithmetic,
}

impl Net {
    /// Loads a network from the bytes of a file; its weights are on the device when this returns.
    ///
    /// # Errors
    /// [`NetError`].
    pub(super) fn new(
        bytes: &[u8],
        device: &Device,
        stream: &mut Stream,
        arithmetic: Arithmetic,
    ) -> Result<Self, NetError> {
        let model = onnx::read(bytes)?;
        let (graph, weights) = fuse(&model)?;
        let Lowered { steps, bytes, planes } = lower(&graph, &weights, arithmetic)?;
        let weights = device.buffer(bytes.len())?;
        stream.upload(&weights, 0, &bytes)?;
        stream.synchronize()?;
        Ok(Self { graph, steps, planes, weights, arithmetic })
    }

    /// Name of the input.
    pub(super) fn input(&self) -> &str {
        &self.graph.values[0].name
    }

    /// Channels of the input.
    pub(super) fn input_channels(&self) -> usize {
        self.graph.values[0].channels
    }

    /// The outputs: name and value.
    pub(super) fn outputs(&self) -> &[(String, ValueId)] {
        &self.graph.outputs
    }

    /// The value of an output.
    pub(super) fn output(&self, name: &str) -> Option<ValueId> {
        self.graph.outputs.iter().find(|(output, _)| output == name).map(|(_, value)| *value)
    }

    /// Channels of a value.
    pub(super) fn channels(&self, value: ValueId) -> usize {
        self.graph.values[value].channels
    }

    /// Whether a value is a plane in f32; else it is a map.
    pub(super) fn is_plane(&self, value: ValueId) -> bool {
        self.planes[value]
    }

    /// Whether a value is a vector: no pixels.
    pub(super) fn is_flat(&self, value: ValueId) -> bool {
        self.graph.values[value].flat
    }

    /// Bytes of a value of these pixels.
    pub(super) fn bytes(&self, value: ValueId, pixels: usize) -> usize {
        if self.planes[value] {
            pixels * 4
        } else {
            pixels * padded(self.channels(value)) * self.arithmetic.bytes()
        }
    }

    /// Where its weights are: no two networks on a device share that.
    pub(super) fn id(&self) -> u64 {
        self.weights.ptr()
    }

    /// How it computes.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The plan for a number of slices of a size; the caller has the values `outside`.
    ///
    /// # Errors
    /// [`PlanError`].
    pub(super) fn plan(&self, outside: &[ValueId], shape: Shape) -> Result<Plan, PlanError> {
        Plan::new(&self.graph, self.arithmetic, outside, shape)
    }

    /// Puts all launches on the stream. `outside` are the values that were so named when the plan was made.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub(super) fn run(
        &self,
        stream: &mut Stream,
        plan: &Plan,
        arena: &Buffer,
        outside: &[(ValueId, Span<'_>)],
    ) -> Result<(), DeviceError> {
        let launch = Launch { net: self, plan, arena, outside };
        self.graph
            .layers
            .iter()
            .zip(&self.steps)
            .try_for_each(|(layer, step)| launch.layer(stream, layer, step))
    }
}

/// A run of a network.
struct Launch<'a> {
    net: &'a Net,
    plan: &'a Plan,
    arena: &'a Buffer,
    outside: &'a [(ValueId, Span<'a>)],
}

impl<'a> Launch<'a> {
    fn layer(&self, stream: &mut Stream, layer: &Layer, step: &Step) -> Result<(), DeviceError> {
        let arithmetic = self.net.arithmetic;
        let to = layer.raw.or(layer.second.as_ref().map(|s| s.value)).expect("every layer writes something");
        let (input, from) = (self.span(layer.source)?, self.shape(layer.source));
        let (size, channels) =
            (self.plan.sizes[to], [layer.source, to].map(|v| padded(self.net.channels(v))));
        let shape = self.shape(to);
        let finish = &self.finish(layer, step)?;
        match &step.kernel {
            Kernel::First { weights } => {
                let operands = [input, self.weights(*weights)];
                layers::first(stream, arithmetic, shape, channels[1], operands, finish)
            }
            Kernel::Conv { side, weights } => {
                let conv = Conv { side: *side, channels, shape, input, weights: self.weights(*weights) };
                layers::convolve(stream, arithmetic, &conv, finish)
            }
            Kernel::ToPlane { weights } => {
                let operands = [input, self.weights(*weights), self.span(to)?];
                layers::to_plane(stream, arithmetic, shape, channels[0], operands)
            }
            Kernel::Pool(window) => {
                layers::max_pool(stream, arithmetic, (input, from, size), channels[1], window, finish)
            }
            Kernel::Resize => layers::resize(stream, arithmetic, (input, from, size), channels[1], finish),
            Kernel::Join(others) => {
                let mut offset = 0;
                for &part in std::iter::once(&layer.source).chain(others) {
                    let count = padded(self.net.channels(part));
                    let source = (self.span(part)?, shape);
                    layers::copy(stream, arithmetic, source, [count, offset, channels[1]], finish)?;
                    offset += count;
                }
                Ok(())
            }
            Kernel::Global { max } => {
                let ends = [finish.affine, self.span(to)?];
                layers::global_pool(stream, arithmetic, (input, from), channels[1], *max, ends)
            }
        }
    }

    fn finish(&self, layer: &Layer, step: &Step) -> Result<Finish<'a>, DeviceError> {
        let span = |value: Option<ValueId>| value.map(|value| self.span(value)).transpose();
        Ok(Finish {
            affine: self.weights(step.affine),
            residual: span(layer.residual)?,
            relu: layer.relu,
            raw: span(layer.raw)?,
            second: span(layer.second.as_ref().map(|second| second.value))?,
            second_relu: layer.second.as_ref().is_some_and(|second| second.relu),
        })
    }

    fn shape(&self, value: ValueId) -> Shape {
        let [rows, columns] = self.plan.sizes[value];
        [self.plan.shape[0], rows, columns]
    }

    fn weights(&self, offset: usize) -> Span<'a> {
        Span { buffer: &self.net.weights, offset }
    }

    fn span(&self, value: ValueId) -> Result<Span<'a>, DeviceError> {
        if let Some((_, span)) = self.outside.iter().find(|(outside, _)| *outside == value) {
            return Ok(*span);
        }
        match self.plan.places[value] {
            Some(offset) => Ok(Span { buffer: self.arena, offset }),
            None => Err(DeviceError::Usage { what: format!("value {value} has no place") }),
        }
    }
}
