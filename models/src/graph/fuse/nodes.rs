//! Nodes that become layers, constants or other names.

use super::{Builder, GraphError};
use crate::graph::limits::WEIGHTS_MAX;
use crate::graph::onnx::{Attribute, Kind};
use crate::graph::{Filter, Op, Size, Value, ValueId, Weights, Window};

impl<'a> Builder<'a> {
    pub(super) fn conv(&mut self) -> Result<(), GraphError> {
        let weights = self.tensor(1)?;
        let [outputs, inputs] = self.channels_of(weights)?;
        self.only_int("group", 1, 1)?;
        let window = self.window(Some(&weights.dims[2..]))?;
        self.weigh(outputs, weights.len() / outputs)?;
        let bias = self.bias(outputs)?;
        self.filter(Filter { window, inputs, outputs, bias }, self.read_weights(weights)?, false)
    }

    pub(super) fn gemm(&mut self) -> Result<(), GraphError> {
        let weights = self.tensor(1)?;
        self.only_int("transA", 0, 0)?;
        if self.float("alpha", 1.0)? != 1.0 || self.float("beta", 1.0)? != 1.0 {
            return self.fail("alpha and beta other than 1 are not known");
        }
        let [rows, columns] = self.channels_of(weights)?;
        if weights.dims.len() != 2 {
            return self.fail(format!("a matrix of shape {:?}", weights.dims));
        }
        let across = match self.int("transB", 0)? {
            0 => true,
            1 => false,
            other => return self.fail(format!("transB is {other}")),
        };
        let (outputs, inputs) = if across { (columns, rows) } else { (rows, columns) };
        self.weigh(outputs, inputs)?;
        let mut values = self.read_weights(weights)?;
        if across {
            let turned = |bytes: &[u8]| transposed(bytes.as_chunks::<2>().0, rows, columns).concat().into();
            values = match values {
                Weights::Full(values) => Weights::Full(transposed(&values, rows, columns)),
                Weights::Half(bytes) => Weights::Half(turned(&bytes)),
                Weights::Bf16(bytes) => Weights::Bf16(turned(&bytes)),
            };
        }
        if self.given(0).is_some_and(|name| self.pixels.contains(name)) {
            return self.fail("a map of one pixel where a vector is needed; Flatten is missing");
        }
        let point = [1; 3];
        let window = Window { size: point, stride: point, before: [0; 3], after: [0; 3], ceil: false };
        self.filter(Filter { window, inputs, outputs, bias: self.bias(outputs)? }, values, true)
    }

    /// Counts the weights of a layer before they are read.
    fn weigh(&mut self, outputs: usize, each: usize) -> Result<(), GraphError> {
        self.weights_sum = self.weights_sum.saturating_add(outputs.next_multiple_of(16).saturating_mul(each));
        if self.weights_sum > WEIGHTS_MAX {
            return self.fail(format!("{} weights so far; {WEIGHTS_MAX} are the most", self.weights_sum));
        }
        Ok(())
    }

    fn filter(&mut self, filter: Filter, weights: Weights<'a>, flat: bool) -> Result<(), GraphError> {
        let source = self.input(0)?;
        self.channels(source, filter.inputs)?;
        if self.graph.values[source].flat != flat {
            return self.fail("a matrix needs a vector, a convolution a map");
        }
        let value = Value { name: self.output()?.to_owned(), channels: filter.outputs, flat };
        self.weights.insert(self.graph.layers.len(), weights);
        self.layer(Op::Conv(filter), source, value)
    }

    /// The channels of a value must be `channels`; those of the input become known.
    fn channels(&mut self, value: ValueId, channels: usize) -> Result<(), GraphError> {
        let known = &mut self.graph.values[value].channels;
        if *known == 0 && value == 0 {
            *known = channels;
        }
        match *known {
            known if known == channels => Ok(()),
            known => self.fail(format!("{known} channels where {channels} are needed")),
        }
    }

    pub(super) fn max_pool(&mut self) -> Result<(), GraphError> {
        // The order of the indices, which are a second output.
        self.only_int("storage_order", 0, 0)?;
        let window = self.window(None)?;
        self.map(Op::MaxPool(window))
    }

    pub(super) fn resize(&mut self) -> Result<(), GraphError> {
        self.only_text("mode", "nearest", "linear")?;
        self.only_text("coordinate_transformation_mode", "half_pixel", "half_pixel")?;
        self.only_text("keep_aspect_ratio_policy", "stretch", "stretch")?;
        self.only_int("antialias", 0, 0)?;
        self.only_int("exclude_outside", 0, 0)?;
        let source = self.input(0)?;
        let channels = self.known_channels(source)?;
        // Old writers give an empty list for what they leave out.
        let scales = match self.given(2) {
            Some(_) => Some(self.tensor(2)?).filter(|scales| scales.len() > 0),
            None => None,
        };
        let size = match (self.given(3), scales) {
            (Some(_), Some(_)) => return self.fail("both sizes and scales are given"),
            (None, None) => return self.fail("neither sizes nor scales are given"),
            (Some(name), None) => self.sizes_of(name, channels)?,
            (None, Some(scales)) => match scales.floats().as_deref() {
                Some(&[1.0, 1.0, ref scales @ ..])
                    if scales.len() == self.graph.axes && scales.iter().all(|s| (1e-3..=1e3).contains(s)) =>
                {
                    let mut out = [1.0; 3];
                    out[3 - scales.len()..].copy_from_slice(scales);
                    Size::Scales(out)
                }
                scales => return self.fail(format!("scales {scales:?} for {} axes", self.graph.axes)),
            },
        };
        self.map(Op::Resize(size))
    }

    /// The sizes that a name holds; batch and channels must stay what they are.
    fn sizes_of(&self, name: &str, channels: usize) -> Result<Size, GraphError> {
        if let Some(&value) = self.shapes.get(name) {
            let like = &self.graph.values[value];
            if like.flat || like.channels != channels {
                return self.fail(format!("to the shape of `{}`, which has other channels", like.name));
            }
            return Ok(Size::Like(value));
        }
        let Some(tensor) = self.tensors.get(name) else {
            return self.fail("sizes are neither constant nor another value's shape");
        };
        match tensor.ints().as_deref() {
            Some(&[1, c, ref sizes @ ..])
                if usize::try_from(c) == Ok(channels) && sizes.len() == self.graph.axes =>
            {
                Ok(Size::Fixed(self.sizes("sizes", sizes, 1)?))
            }
            sizes => self.fail(format!("sizes {sizes:?} for {channels} channels, {} axes", self.graph.axes)),
        }
    }

    pub(super) fn shape(&mut self) -> Result<(), GraphError> {
        // Part of a shape would be the size of other axes.
        self.only_int("start", 0, 0)?;
        if self.node.attributes.contains_key("end") {
            return self.fail("the attribute end is not known");
        }
        let value = self.input(0)?;
        self.known_channels(value)?;
        self.shapes.insert(self.output()?, value);
        Ok(())
    }

    pub(super) fn concat(&mut self) -> Result<(), GraphError> {
        // Required: there is no default.
        self.only_int("axis", 0, 1)?;
        let all = (0..self.node.inputs.len()).map(|i| self.input(i)).collect::<Result<Vec<_>, _>>()?;
        let [source, others @ ..] = &all[..] else { return self.fail("no inputs") };
        if all.iter().any(|&v| self.graph.values[v].flat) {
            return self.fail("vectors can't be joined");
        }
        let mut channels = 0_usize;
        for &value in &all {
            channels = channels.saturating_add(self.known_channels(value)?);
        }
        let value = Value { name: self.output()?.to_owned(), channels, flat: false };
        self.layer(Op::Concat(others.to_vec()), *source, value)
    }

    pub(super) fn global_pool(&mut self, max: bool) -> Result<(), GraphError> {
        let source = self.input(0)?;
        if self.graph.values[source].flat {
            return self.fail("a vector where a map is needed");
        }
        let (channels, output) = (self.graph.values[source].channels, self.output()?);
        // One pixel: laid out as a vector, so that Flatten costs nothing.
        let value = Value { name: output.to_owned(), channels, flat: true };
        self.pixels.insert(output);
        self.layer(Op::GlobalPool { max }, source, value)
    }

    pub(super) fn flatten(&mut self) -> Result<(), GraphError> {
        let value = self.input(0)?;
        self.only_int("axis", 1, 1)?;
        if !self.graph.values[value].flat {
            return self.fail("only the result of a global pooling can be flattened");
        }
        let (from, to) = (self.input_name(0)?, self.output()?);
        self.names.insert(to, value);
        self.share_readers(from, to);
        Ok(())
    }

    /// Two names of one value: who reads either reads both. What is fused into the value's layer would change it for all.
    fn share_readers(&mut self, from: &'a str, to: &'a str) {
        let count = |name| self.uses.get(name).copied().unwrap_or(0);
        // This node itself is a reader of `from`, and no more than the other name.
        let readers = count(from).saturating_sub(1) + count(to);
        self.uses.insert(from, readers);
        self.uses.insert(to, readers);
    }

    pub(super) fn cast(&mut self) -> Result<(), GraphError> {
        // 1: float. Weights are widened where they are read.
        self.only_int("to", 0, 1)?;
        self.alias()
    }

    pub(super) fn alias(&mut self) -> Result<(), GraphError> {
        let (from, to) = (self.input_name(0)?, self.output()?);
        if let Some(&tensor) = self.tensors.get(from) {
            if tensor.kind == Kind::I64 {
                return self.fail("integers");
            }
            self.tensors.insert(to, tensor);
        } else {
            let value = self.input(0)?;
            self.names.insert(to, value);
            self.same_rank(from, to);
        }
        self.share_readers(from, to);
        Ok(())
    }

    /// A map of one pixel stays one.
    pub(super) fn same_rank(&mut self, from: &str, to: &'a str) {
        if self.pixels.contains(from) {
            self.pixels.insert(to);
        }
    }

    pub(super) fn constant(&mut self) -> Result<(), GraphError> {
        let output = self.output()?;
        match self.node.attributes.get("value") {
            Some(Attribute::Tensor(tensor)) => {
                self.tensors.insert(output, tensor);
                Ok(())
            }
            _ => self.fail("only constant tensors are known"),
        }
    }
}

fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
