//! A network as layers that each write a map once.
//!
//! Owns: what a layer is. Never does: know ONNX, sizes, or run.
//!
//! A layer is a convolution, pooling, resizing, concatenation or copy, and then, on each value before it is written:
//! `raw = relu?(value + residual?)`, `second = relu?(raw · scale + shift)`.

pub(crate) mod fuse;
pub(crate) mod limits;
pub(crate) mod onnx;
mod sizes;

use std::borrow::Cow;
use std::collections::HashMap;

pub(crate) use sizes::SizeError;

/// Index of a value.
pub(crate) type ValueId = usize;

/// A map or vector that some layer writes; value 0 is the network's input.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    /// Name in the file.
    pub(crate) name: String,
    /// Channels; 0 for the input of a network that does not start with a convolution.
    pub(crate) channels: usize,
    /// A vector: no pixels.
    pub(crate) flat: bool,
}

/// A window that slides over depth, height and width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Size.
    pub(crate) size: [usize; 3],
    /// Steps.
    pub(crate) stride: [usize; 3],
    /// Padding before.
    pub(crate) before: [usize; 3],
    /// Padding after.
    pub(crate) after: [usize; 3],
    /// The number of steps is rounded up.
    pub(crate) ceil: bool,
}

impl Window {
    /// Size of the output along an axis, 0 where the window does not fit.
    pub(crate) fn output(&self, axis: usize, len: usize) -> usize {
        let (padded, stride) = (len + self.before[axis] + self.after[axis], self.stride[axis]);
        let steps = match padded.checked_sub(self.size[axis]) {
            Some(room) if self.ceil => room.div_ceil(stride),
            Some(room) => room / stride,
            // Rounded up, a window that is too large by less than a step still counts.
            None if self.ceil && padded + stride > self.size[axis] => 0,
            None => return 0,
        };
        // ONNX, MaxPool: a window that starts in the padding after the end is dropped.
        let starts_inside = steps * stride < len + self.before[axis];
        steps + usize::from(starts_inside)
    }
}

/// A convolution; its weights are kept apart, until they are packed.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// Where it is applied.
    pub(crate) window: Window,
    /// Input channels.
    pub(crate) inputs: usize,
    /// Output channels.
    pub(crate) outputs: usize,
    /// One an output channel.
    pub(crate) bias: Vec<f32>,
}

/// Weights of a convolution, as in the file: [output][input][depth][height][width]. All are finite.
#[derive(Debug, Clone)]
pub(crate) enum Weights<'a> {
    /// Single precision.
    Full(Vec<f32>),
    /// Half precision, little-endian: not copied, because they are most of a file.
    Half(Cow<'a, [u8]>),
    /// bfloat16, little-endian: not copied either.
    Bf16(Cow<'a, [u8]>),
}

impl Weights<'_> {
    /// The bits of a weight of 16 bits.
    pub(crate) fn half(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])
    }

    /// A weight in single precision.
    pub(crate) fn at(&self, at: usize) -> f32 {
        match self {
            Self::Full(values) => values[at],
            Self::Half(bytes) => onnx::widen(Self::half(bytes, at)),
            Self::Bf16(bytes) => onnx::widen_bf16(Self::half(bytes, at)),
        }
    }

    /// Number of weights.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Full(values) => values.len(),
            Self::Half(bytes) | Self::Bf16(bytes) => bytes.len() / 2,
        }
    }
}

/// The size that a map is resized to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Size {
    /// That of another value.
    Like(ValueId),
    /// Depth, height, width.
    Fixed([usize; 3]),
    /// Factors of depth, height, width.
    Scales([f32; 3]),
}

/// What a layer computes before residual and clip.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Convolution; on a vector, a matrix.
    Conv(Filter),
    /// The largest value of a window.
    MaxPool(Window),
    /// Linear interpolation between pixel centres, edges repeated.
    Resize(Size),
    /// The source itself.
    Copy,
    /// The source's channels, then those of others.
    Concat(Vec<ValueId>),
    /// Largest value, or the mean, of each channel.
    GlobalPool {
        /// Largest instead of mean.
        max: bool,
    },
}

/// A second output.
#[derive(Debug, Clone)]
pub(crate) struct Second {
    /// Where it goes.
    pub(crate) value: ValueId,
    /// One a channel.
    pub(crate) scale: Vec<f32>,
    /// One a channel.
    pub(crate) shift: Vec<f32>,
    /// Clip at 0.
    pub(crate) relu: bool,
}

/// A fused layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Name of the node that it computes first.
    pub(crate) name: String,
    /// What it computes.
    pub(crate) op: Op,
    /// From what.
    pub(crate) source: ValueId,
    /// Added to it.
    pub(crate) residual: Option<ValueId>,
    /// Clip at 0.
    pub(crate) relu: bool,
    /// First output.
    pub(crate) raw: Option<ValueId>,
    /// Second output.
    pub(crate) second: Option<Second>,
}

/// A network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    /// In an order in which every value is written before it is read.
    pub(crate) layers: Vec<Layer>,
    /// All values.
    pub(crate) values: Vec<Value>,
    /// Name and value of each output.
    pub(crate) outputs: Vec<(String, ValueId)>,
    /// Axes of the input's maps: 2 or 3; 0 for a vector.
    pub(crate) axes: usize,
    /// Depth, height and width of the input, where the file fixes them; a depth that isn't there is 1.
    pub(crate) fixed: [Option<usize>; 3],
}

impl Graph {
    /// Values that a layer reads.
    pub(crate) fn reads(&self, layer: usize) -> impl Iterator<Item = ValueId> {
        let layer = &self.layers[layer];
        let others = if let Op::Concat(others) = &layer.op { &others[..] } else { &[] };
        std::iter::once(layer.source).chain(layer.residual).chain(others.iter().copied())
    }

    /// First outputs that only their layer's second output needs are not written; who asks for their size asks the second one.
    pub(crate) fn drop_unread(&mut self) {
        let mut read = vec![false; self.values.len()];
        for layer in 0..self.layers.len() {
            for value in self.reads(layer) {
                read[value] = true;
            }
        }
        for (_, value) in &self.outputs {
            read[*value] = true;
        }
        let mut instead = HashMap::new();
        for layer in &mut self.layers {
            if let Some(raw) = layer.raw.take_if(|raw| !read[*raw]) {
                instead.extend(layer.second.as_ref().map(|second| (raw, second.value)));
            }
            if let Op::Resize(Size::Like(value)) = &mut layer.op {
                *value = *instead.get(value).unwrap_or(value);
            }
        }
    }
}
