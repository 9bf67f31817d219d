//! What a node says: its operands, attributes, window and weights. What is given but not as expected is refused, never passed over.

use std::borrow::Cow;

use super::{Builder, GraphError};
use crate::graph::limits::CHANNELS_MAX;
use crate::graph::onnx::{Attribute, Kind, Tensor};
use crate::graph::{Weights, Window};

/// Largest size, step or padding along an axis, so that their products stay far below the range of usize.
const SIDE_MAX: i64 = (1 << 16) - 1;

impl<'a> Builder<'a> {
    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T, GraphError> {
        Err(GraphError { node: self.node.name.clone(), op: self.node.op.clone(), what: what.into() })
    }

    pub(super) fn output(&self) -> Result<&'a str, GraphError> {
        match &self.node.outputs[..] {
            [name, rest @ ..] if !name.is_empty() && rest.iter().all(String::is_empty) => Ok(name),
            outputs => self.fail(format!("{} outputs; one is known", outputs.len())),
        }
    }

    /// The name of an input, if it is given.
    pub(super) fn given(&self, index: usize) -> Option<&'a str> {
        self.node.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub(super) fn input_name(&self, index: usize) -> Result<&'a str, GraphError> {
        self.given(index).map_or_else(|| self.fail(format!("input {index} is missing")), Ok)
    }

    pub(super) fn tensor(&self, index: usize) -> Result<&'a Tensor<'a>, GraphError> {
        let name = self.input_name(index)?;
        let Some(&tensor) = self.tensors.get(name) else {
            return self.fail(format!("input {index}, `{name}`, is no constant"));
        };
        if tensor.is_finite() {
            Ok(tensor)
        } else {
            self.fail(format!("input {index}, `{name}`, holds a value that is not finite"))
        }
    }

    /// The numbers of an input that holds one for each of `len` channels.
    pub(super) fn floats(&self, index: usize, len: usize) -> Result<Vec<f32>, GraphError> {
        let tensor = self.tensor(index)?;
        // [len], or [1, len] for a matrix's; a column would be spread the other way.
        let row = tensor.dims.last().copied().unwrap_or(1) == len;
        match tensor.floats() {
            Some(values) if values.len() == len && row => Ok(values),
            _ => self.fail(format!("input {index} of shape {:?} is not {len} numbers", tensor.dims)),
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, GraphError> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => self.fail(format!("{name} is no integer")),
        }
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, GraphError> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => self.fail(format!("{name} is no number")),
        }
    }

    pub(super) fn text(&self, name: &str, default: &'a str) -> Result<&'a str, GraphError> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Text(value)) => Ok(value),
            Some(_) => self.fail(format!("{name} is no text")),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, GraphError> {
        match self.node.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => self.fail(format!("{name} is no list of integers")),
        }
    }

    /// Refuses an attribute that is not what it must be.
    pub(super) fn only_int(&self, name: &str, default: i64, known: i64) -> Result<(), GraphError> {
        match self.int(name, default)? {
            value if value == known => Ok(()),
            value => self.fail(format!("{name} is {value}; {known} is known")),
        }
    }

    /// Refuses an attribute that is not what it must be.
    pub(super) fn only_text(&self, name: &str, default: &'a str, known: &str) -> Result<(), GraphError> {
        match self.text(name, default)? {
            value if value == known => Ok(()),
            value => self.fail(format!("{name} is `{value}`; `{known}` is known")),
        }
    }

    /// Sizes as depth, height, width; `missing` for the axes before the first.
    pub(super) fn sizes(&self, name: &str, list: &[i64], missing: usize) -> Result<[usize; 3], GraphError> {
        let mut out = [missing; 3];
        if list.len() > 3 {
            return self.fail(format!("{name} has {} numbers", list.len()));
        }
        for (slot, &value) in out[3 - list.len()..].iter_mut().zip(list) {
            match usize::try_from(value) {
                Ok(size) if value <= SIDE_MAX => *slot = size,
                _ => return self.fail(format!("{name} holds {value}")),
            }
        }
        Ok(out)
    }

    /// The window of a convolution (whose kernel is known from the weights) or a pooling.
    pub(super) fn window(&mut self, weights: Option<&[usize]>) -> Result<Window, GraphError> {
        let given = self.ints("kernel_shape")?;
        let kernel: Vec<i64> = match (weights, given) {
            (Some(sizes), _) => sizes.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect(),
            (None, given) => given.unwrap_or_default().to_vec(),
        };
        if given.is_some_and(|given| given != kernel) {
            return self.fail(format!("kernel_shape is {given:?}, the weights' {kernel:?}"));
        }
        let axes = kernel.len();
        if !(2..=3).contains(&axes) || kernel.contains(&0) {
            return self.fail(format!("kernel of shape {kernel:?}; 2 and 3 axes are known"));
        }
        self.axes(axes)?;
        let list = |name: &str, count: usize, default: i64| match self.ints(name)? {
            None => Ok(vec![default; count]),
            Some(list) if list.len() == count => Ok(list.to_vec()),
            Some(list) => self.fail(format!("{name} has {} numbers for {axes} axes", list.len())),
        };
        if list("dilations", axes, 1)?.iter().any(|&d| d != 1) {
            return self.fail("dilation is not known");
        }
        let (strides, pads) = (list("strides", axes, 1)?, list("pads", 2 * axes, 0)?);
        let ceil = match self.int("ceil_mode", 0)? {
            0 => false,
            1 => true,
            mode => return self.fail(format!("ceil_mode is {mode}")),
        };
        match self.text("auto_pad", "NOTSET")? {
            "NOTSET" => {}
            "VALID" if !ceil && pads.iter().all(|&n| n == 0) => {}
            mode => return self.fail(format!("auto_pad `{mode}` is not known")),
        }
        let (before, after) = pads.split_at(axes);
        let window = Window {
            size: self.sizes("kernel_shape", &kernel, 1)?,
            stride: self.sizes("strides", &strides, 1)?,
            before: self.sizes("pads", before, 0)?,
            after: self.sizes("pads", after, 0)?,
            ceil,
        };
        let pads = window.before.iter().zip(&window.after).map(|(a, b)| a.max(b));
        if window.stride.contains(&0) || pads.zip(&window.size).any(|(pad, size)| pad >= size) {
            return self.fail("a step of 0, or padding as wide as the kernel");
        }
        Ok(window)
    }

    /// All maps have as many axes as the input's; where the file doesn't say how many, the first window does.
    fn axes(&mut self, axes: usize) -> Result<(), GraphError> {
        let known = self.graph.axes;
        if known == 0 && !self.graph.values[0].flat {
            self.graph.axes = axes;
        } else if known != axes {
            return self.fail(format!("a window of {axes} axes in a network of {known}"));
        }
        Ok(())
    }

    /// Output and input channels of weights.
    pub(super) fn channels_of(&self, tensor: &Tensor<'_>) -> Result<[usize; 2], GraphError> {
        match tensor.dims[..] {
            [outputs, inputs, ..] if tensor.len() > 0 && outputs.max(inputs) <= CHANNELS_MAX => {
                Ok([outputs, inputs])
            }
            _ => self.fail(format!("weights of shape {:?}", tensor.dims)),
        }
    }

    pub(super) fn read_weights(&self, tensor: &'a Tensor<'a>) -> Result<Weights<'a>, GraphError> {
        match tensor.kind {
            Kind::F32 => Ok(Weights::Full(tensor.floats().unwrap_or_default())),
            Kind::F16 => Ok(Weights::Half(Cow::Borrowed(tensor.bytes()))),
            Kind::Bf16 => Ok(Weights::Bf16(Cow::Borrowed(tensor.bytes()))),
            Kind::I64 => self.fail("weights are integers"),
        }
    }

    pub(super) fn bias(&self, outputs: usize) -> Result<Vec<f32>, GraphError> {
        match self.given(2) {
            Some(_) => self.floats(2, outputs),
            None => Ok(vec![0.0; outputs]),
        }
    }
}
