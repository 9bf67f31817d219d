//! What a node says: its operands, attributes, window and weights.

use std::borrow::Cow;

use super::{Builder, GraphError};
use crate::graph::onnx::Tensor;
use crate::graph::{Weights, Window};

impl<'a> Builder<'a> {
    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T, GraphError> {
        Err(GraphError { node: self.node.name.clone(), op: self.node.op.clone(), what: what.into() })
    }

    pub(super) fn output(&self) -> Result<&'a str, GraphError> {
        match &self.node.outputs[..] {
            [name, rest @ ..] if rest.iter().all(String::is_empty) => Ok(name),
            outputs => self.fail(format!("{} outputs; one is known", outputs.len())),
        }
    }

    pub(super) fn input_name(&self, index: usize) -> Result<&'a str, GraphError> {
        match self.node.inputs.get(index) {
            Some(name) if !name.is_empty() => Ok(name),
            _ => self.fail(format!("input {index} is missing")),
        }
    }

    pub(super) fn tensor(&self, index: usize) -> Result<&'a Tensor<'a>, GraphError> {
        let name = self.input_name(index)?;
        match self.tensors.get(name) {
            Some(&tensor) => Ok(tensor),
            None => self.fail(format!("input {index}, `{name}`, is no constant")),
        }
    }

    pub(super) fn floats(&self, index: usize, len: usize) -> Result<Vec<f32>, GraphError> {
        match self.tensor(index)?.floats() {
            Some(values) if values.len() == len => Ok(values),
            _ => self.fail(format!("input {index} is not {len} numbers")),
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.node.attributes.get(name).and_then(|a| a.int).unwrap_or(default)
    }

    pub(super) fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.node.attributes.get(name).and_then(|a| a.text.as_deref()).unwrap_or(default)
    }

    /// Sizes from an attribute, as depth, height, width; `missing` where it is absent.
    pub(super) fn sizes(&self, name: &str, list: &[i64], missing: usize) -> Result<[usize; 3], GraphError> {
        let mut out = [missing; 3];
        if list.len() > 3 {
            return self.fail(format!("{name} has {} numbers", list.len()));
        }
        for (slot, &value) in out[3 - list.len()..].iter_mut().zip(list) {
            match usize::try_from(value) {
                // Products of sizes stay far below the range of usize.
                Ok(value) if value < 1 << 16 => *slot = value,
                _ => return self.fail(format!("{name} holds {value}")),
            }
        }
        Ok(out)
    }

    /// The window of a convolution (whose kernel is known from the weights) or a pooling.
    pub(super) fn window(&self, kernel: Option<&[usize]>) -> Result<Window, GraphError> {
        let empty = Vec::new();
        let ints = |name: &str| self.node.attributes.get(name).map_or(&empty, |a| &a.ints);
        let kernel: Vec<i64> =
            kernel.map_or_else(|| ints("kernel_shape").clone(), |k| k.iter().map(|&n| n as i64).collect());
        let axes = kernel.len();
        if !(2..=3).contains(&axes) || kernel.contains(&0) {
            return self.fail(format!("kernel of shape {kernel:?}; 2 and 3 axes are known"));
        }
        let pads = ints("pads");
        if !(pads.is_empty() || pads.len() == 2 * axes) {
            return self.fail(format!("pads of {} numbers for {axes} axes", pads.len()));
        }
        if ints("dilations").iter().any(|&d| d != 1) {
            return self.fail("dilation is not known");
        }
        if !matches!(self.text("auto_pad", "NOTSET"), "NOTSET" | "VALID") {
            return self.fail("auto_pad is not known");
        }
        let (before, after) = pads.split_at(pads.len() / 2);
        let window = Window {
            size: self.sizes("kernel_shape", &kernel, 1)?,
            stride: self.sizes("strides", ints("strides"), 1)?,
            before: self.sizes("pads", before, 0)?,
            after: self.sizes("pads", after, 0)?,
            ceil: self.int("ceil_mode", 0) != 0,
        };
        let pads = window.before.iter().zip(&window.after).map(|(a, b)| a.max(b));
        if window.stride.contains(&0) || pads.zip(&window.size).any(|(pad, size)| pad >= size) {
            return self.fail("a step of 0, or padding as wide as the kernel");
        }
        Ok(window)
    }

    pub(super) fn read_weights(&self, tensor: &'a Tensor<'a>) -> Result<Weights<'a>, GraphError> {
        if let Some(halves) = tensor.halves() {
            return Ok(Weights::Half(Cow::Borrowed(halves)));
        }
        match tensor.floats() {
            Some(floats) => Ok(Weights::Full(floats)),
            None => self.fail("weights are integers"),
        }
    }

    pub(super) fn bias(&self, outputs: usize) -> Result<Vec<f32>, GraphError> {
        match self.node.inputs.get(2) {
            Some(name) if !name.is_empty() => self.floats(2, outputs),
            _ => Ok(vec![0.0; outputs]),
        }
    }
}
