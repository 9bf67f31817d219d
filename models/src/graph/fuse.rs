//! From the nodes of an ONNX file to layers: fusion.
//!
//! Owns: the documented subset of operators and what is fused into what. Never does: know sizes or run.
//!
//! - A batch normalization goes into the weights of the convolution before it, if nothing else reads that; else it becomes the second
//!   output of the layer before it: so are the pre-activations (BN → ReLU → convolution) of the paper's nets.
//! - An addition becomes the residual of the later of its two operands, if that is a layer that nothing else reads: shortcuts, and the
//!   skips that are added to what is resized.
//! - ReLU goes into the layer before it.
//!
//! Operators (`models/README.md` has the table); anything else is refused by the node's name.

mod read;

use std::collections::HashMap;

use super::onnx::{Kind, Model, Node, Tensor};
use super::{Filter, Graph, Layer, Op, Second, Size, Value, ValueId, Weights, Window};

/// A node that this engine does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` ({op}): {what}")]
pub(crate) struct GraphError {
    /// Its name.
    pub(crate) node: String,
    /// Its operator.
    pub(crate) op: String,
    /// What doesn't fit.
    pub(crate) what: String,
}

/// A network and, by layer, the weights of its convolutions.
pub(crate) type Fused<'a> = (Graph, HashMap<usize, Weights<'a>>);

/// Fuses the nodes of a file.
///
/// # Errors
/// [`GraphError`].
pub(crate) fn fuse<'a>(model: &'a Model<'a>) -> Result<Fused<'a>, GraphError> {
    let fail = |what: String| GraphError { node: "graph".into(), op: "inputs".into(), what };
    let [(input, dims)] = &model.inputs[..] else {
        return Err(fail(format!("{} inputs; one is known", model.inputs.len())));
    };
    let mut builder = Builder::new(model, input, *dims);
    for node in &model.nodes {
        builder.node = node;
        builder.add()?;
    }
    for name in &model.outputs {
        let value = builder.value(name)?;
        builder.graph.outputs.push((name.clone(), value));
    }
    let mut graph = builder.graph;
    graph.drop_unread();
    if let Some(dead) = graph.layers.iter().find(|layer| layer.raw.is_none() && layer.second.is_none()) {
        let what = "nothing reads what it writes".to_owned();
        return Err(GraphError { node: dead.name.clone(), op: "last of its layer".to_owned(), what });
    }
    Ok((graph, builder.weights))
}

/// Layers of a network: planning recurses once a layer, and the paper's largest has about 100.
const LAYERS_MAX: usize = 2_000;

/// A batch normalization that waits for what follows it: value, scale, shift.
type Norm = (ValueId, Vec<f32>, Vec<f32>);

struct Builder<'a> {
    graph: Graph,
    /// By layer.
    weights: HashMap<usize, Weights<'a>>,
    node: &'a Node<'a>,
    tensors: HashMap<&'a str, &'a Tensor<'a>>,
    /// Value of each name that a layer writes.
    names: HashMap<&'a str, ValueId>,
    /// Pending normalizations by the name of their output.
    norms: HashMap<&'a str, Norm>,
    /// Names whose value is the shape of another.
    shapes: HashMap<&'a str, ValueId>,
    /// How often each name is read.
    uses: HashMap<&'a str, usize>,
    /// The layer that writes a value.
    writers: Vec<Option<usize>>,
}

impl<'a> Builder<'a> {
    fn new(model: &'a Model<'a>, input: &'a str, dims: usize) -> Self {
        let mut uses = HashMap::new();
        for name in model.nodes.iter().flat_map(|n| &n.inputs).chain(&model.outputs) {
            *uses.entry(name.as_str()).or_default() += 1;
        }
        let value = Value { name: input.to_owned(), channels: 0, flat: dims == 2 };
        static NONE: std::sync::LazyLock<Node<'static>> = std::sync::LazyLock::new(Node::default);
        Self {
            graph: Graph { values: vec![value], ..Graph::default() },
            weights: HashMap::new(),
            node: &NONE,
            tensors: model.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect(),
            names: HashMap::from([(input, 0)]),
            norms: HashMap::new(),
            shapes: HashMap::new(),
            uses,
            writers: vec![None],
        }
    }

    fn add(&mut self) -> Result<(), GraphError> {
        match self.node.op.as_str() {
            "Conv" => self.conv(),
            "Gemm" => self.gemm(),
            "BatchNormalization" => self.norm(),
            "Relu" => self.relu(),
            "Add" => self.sum(),
            "MaxPool" => {
                let window = self.window(None)?;
                self.map(Op::MaxPool(window))
            }
            "Resize" => self.resize(),
            "Concat" => self.concat(),
            "GlobalMaxPool" => self.global_pool(true),
            "GlobalAveragePool" => self.global_pool(false),
            "Cast" | "Identity" | "Dropout" => self.alias(),
            "Constant" => self.constant(),
            "Flatten" => self.flatten(),
            "Shape" => {
                let value = self.input(0)?;
                self.shapes.insert(self.output()?, value);
                Ok(())
            }
            _ => self.fail("this operator is not known to the CPU engine"),
        }
    }

    fn input(&mut self, index: usize) -> Result<ValueId, GraphError> {
        let name = self.input_name(index)?;
        self.value(name)
    }

    /// The value of a name; a pending normalization becomes one.
    fn value(&mut self, name: &str) -> Result<ValueId, GraphError> {
        if let Some((key, (value, scale, shift))) = self.norms.remove_entry(name) {
            return Ok(self.second(key, value, scale, shift, false));
        }
        match self.names.get(name) {
            Some(&value) => Ok(value),
            None => self.fail(format!("`{name}` is computed by no node before this")),
        }
    }

    fn conv(&mut self) -> Result<(), GraphError> {
        let weights = self.tensor(1)?;
        let [outputs, inputs, kernel @ ..] = &weights.dims[..] else {
            return self.fail(format!("weights of shape {:?}", weights.dims));
        };
        if self.int("group", 1) != 1 {
            return self.fail("groups are not known");
        }
        let window = self.window(Some(kernel))?;
        let bias = self.bias(*outputs)?;
        let filter = Filter { window, inputs: *inputs, outputs: *outputs, bias };
        self.filter(filter, self.read_weights(weights)?, false)
    }

    fn gemm(&mut self) -> Result<(), GraphError> {
        let weights = self.tensor(1)?;
        let factor = |name| self.node.attributes.get(name).and_then(|a| a.float).unwrap_or(1.0);
        if self.int("transA", 0) != 0 || factor("alpha") != 1.0 || factor("beta") != 1.0 {
            return self.fail("transA, alpha and beta are not known");
        }
        let [rows, columns] = weights.dims[..] else {
            return self.fail(format!("weights of shape {:?}", weights.dims));
        };
        let mut values = self.read_weights(weights)?;
        let (mut outputs, mut inputs) = (rows, columns);
        if self.int("transB", 0) == 0 {
            (outputs, inputs) = (columns, rows);
            values = match values {
                Weights::Full(values) => Weights::Full(transposed(&values, rows, columns)),
                Weights::Half(bytes) => {
                    Weights::Half(transposed(bytes.as_chunks::<2>().0, rows, columns).concat().into())
                }
            };
        }
        let point = [1; 3];
        let window = Window { size: point, stride: point, before: [0; 3], after: [0; 3], ceil: false };
        self.filter(Filter { window, inputs, outputs, bias: self.bias(outputs)? }, values, true)
    }

    fn filter(&mut self, filter: Filter, weights: Weights<'a>, flat: bool) -> Result<(), GraphError> {
        let source = self.input(0)?;
        self.channels(source, filter.inputs)?;
        if self.graph.values[source].flat != flat {
            return self.fail("a matrix needs a vector, a convolution a map");
        }
        if filter.outputs == 0 || filter.inputs == 0 {
            return self.fail("no channels");
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
        if *known == channels {
            Ok(())
        } else {
            self.fail(format!(
                "{known} channels where {channels} are needed",
                known = self.graph.values[value].channels
            ))
        }
    }

    fn layer(&mut self, op: Op, source: ValueId, value: Value) -> Result<(), GraphError> {
        if self.graph.values[source].channels == 0 {
            return self.fail("the network must start with a convolution or a matrix");
        }
        if self.graph.layers.len() >= LAYERS_MAX {
            return self.fail("more layers than any network of ours has by far");
        }
        let name = self.output()?;
        let raw = Some(self.new_value(name, value, self.graph.layers.len()));
        let name = self.node.name.clone();
        self.graph.layers.push(Layer { name, op, source, residual: None, relu: false, raw, second: None });
        Ok(())
    }

    fn new_value(&mut self, name: &'a str, value: Value, writer: usize) -> ValueId {
        self.graph.values.push(value);
        self.writers.push(Some(writer));
        self.names.insert(name, self.graph.values.len() - 1);
        self.graph.values.len() - 1
    }

    /// A layer whose output has the channels of its source.
    fn map(&mut self, op: Op) -> Result<(), GraphError> {
        let source = self.input(0)?;
        if self.graph.values[source].flat && !matches!(op, Op::Copy) {
            return self.fail("a vector where a map is needed");
        }
        let value = Value { name: self.output()?.to_owned(), ..self.graph.values[source].clone() };
        self.layer(op, source, value)
    }

    fn resize(&mut self) -> Result<(), GraphError> {
        if self.text("mode", "nearest") != "linear"
            || self.text("coordinate_transformation_mode", "half_pixel") != "half_pixel"
            || self.int("antialias", 0) != 0
            || self.node.attributes.contains_key("axes")
        {
            return self.fail("only linear, half_pixel, without antialias and axes is known");
        }
        let given = |index: usize| self.node.inputs.get(index).is_some_and(|name| !name.is_empty());
        let last = |len: usize| len.saturating_sub(2);
        let size = if given(3) {
            let name = self.input_name(3)?;
            match (self.shapes.get(name), self.tensors.get(name).and_then(|t| t.ints())) {
                (Some(&value), _) => Size::Like(value),
                (None, Some(sizes)) => {
                    Size::Fixed(self.sizes("sizes", &sizes[sizes.len() - last(sizes.len())..], 1)?)
                }
                (None, None) => return self.fail("sizes are neither constant nor another value's shape"),
            }
        } else {
            let Some(scales) = self.tensor(2)?.floats() else { return self.fail("scales are no numbers") };
            let mut out = [1.0; 3];
            let scales = &scales[scales.len() - last(scales.len())..];
            if scales.len() > 3 || !scales.iter().all(|s| (1e-3..=1e3).contains(s)) {
                return self.fail(format!("scales {scales:?}"));
            }
            out[3 - scales.len()..].copy_from_slice(scales);
            Size::Scales(out)
        };
        self.map(Op::Resize(size))
    }

    fn concat(&mut self) -> Result<(), GraphError> {
        if self.int("axis", 0) != 1 {
            return self.fail("only channels (axis 1) can be joined");
        }
        let all = (0..self.node.inputs.len()).map(|i| self.input(i)).collect::<Result<Vec<_>, _>>()?;
        let [source, others @ ..] = &all[..] else { return self.fail("no inputs") };
        if all.iter().any(|&v| self.graph.values[v].flat) {
            return self.fail("vectors can't be joined");
        }
        let channels = all.iter().map(|&v| self.graph.values[v].channels).sum();
        let value = Value { name: self.output()?.to_owned(), channels, flat: false };
        self.layer(Op::Concat(others.to_vec()), *source, value)
    }

    fn global_pool(&mut self, max: bool) -> Result<(), GraphError> {
        let source = self.input(0)?;
        if self.graph.values[source].flat {
            return self.fail("a vector where a map is needed");
        }
        let channels = self.graph.values[source].channels;
        // One pixel: laid out as a vector, so that Flatten costs nothing.
        let value = Value { name: self.output()?.to_owned(), channels, flat: true };
        self.layer(Op::GlobalPool { max }, source, value)
    }

    fn flatten(&mut self) -> Result<(), GraphError> {
        let value = self.input(0)?;
        if self.int("axis", 1) != 1 || !self.graph.values[value].flat {
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

    fn alias(&mut self) -> Result<(), GraphError> {
        // 1: float. Weights are widened where they are read.
        if self.node.op == "Cast" && self.int("to", 0) != 1 {
            return self.fail("only a cast to float is known");
        }
        let (from, to) = (self.input_name(0)?, self.output()?);
        if let Some(&tensor) = self.tensors.get(from) {
            if tensor.kind == Kind::I64 {
                return self.fail("a cast of integers");
            }
            self.tensors.insert(to, tensor);
        } else {
            let value = self.input(0)?;
            self.names.insert(to, value);
        }
        self.share_readers(from, to);
        Ok(())
    }

    fn constant(&mut self) -> Result<(), GraphError> {
        let output = self.output()?;
        match self.node.attributes.get("value").and_then(|a| a.tensor.as_ref()) {
            Some(tensor) => {
                self.tensors.insert(output, tensor);
                Ok(())
            }
            None => self.fail("only constant tensors are known"),
        }
    }

    /// The layer that writes `value` as its first output, if nothing but this node reads it and nothing was fused behind it yet.
    fn open_layer(&mut self, value: ValueId, name: &str) -> Option<&mut Layer> {
        let layer = &mut self.graph.layers[self.writers[value]?];
        let open = layer.raw == Some(value) && layer.second.is_none() && !layer.relu;
        let fits = !matches!(layer.op, Op::GlobalPool { .. });
        (open && fits && self.uses.get(name) == Some(&1)).then_some(layer)
    }

    fn norm(&mut self) -> Result<(), GraphError> {
        let name = self.input_name(0)?;
        let source = self.value(name)?;
        let channels = self.graph.values[source].channels;
        if channels == 0 {
            return self.fail("the network must start with a convolution or a matrix");
        }
        let [scale, bias, mean, variance] = [1, 2, 3, 4]
            .map(|i| self.floats(i, channels))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
            .try_into()
            .expect("four parameters");
        let epsilon = f64::from(self.node.attributes.get("epsilon").and_then(|a| a.float).unwrap_or(1e-5));
        let (mut factors, mut shifts) = (Vec::new(), Vec::new());
        for c in 0..channels {
            let factor = f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt();
            factors.push(factor as f32);
            shifts.push((f64::from(bias[c]) - f64::from(mean[c]) * factor) as f32);
        }
        let output = self.output()?;
        let open = self.open_layer(source, name);
        let alone = open.is_some_and(|layer| matches!(layer.op, Op::Conv(_)) && layer.residual.is_none());
        if let Some(writer) = self.writers[source].filter(|_| alone)
            && let (Op::Conv(filter), Some(weights)) =
                (&mut self.graph.layers[writer].op, self.weights.get_mut(&writer))
        {
            scale_filter(filter, weights, &factors, &shifts);
            self.names.insert(output, source);
            return Ok(());
        }
        self.norms.insert(output, (source, factors, shifts));
        Ok(())
    }

    fn relu(&mut self) -> Result<(), GraphError> {
        let (name, output) = (self.input_name(0)?, self.output()?);
        if self.uses.get(name) == Some(&1)
            && let Some((value, scale, shift)) = self.norms.remove(name)
        {
            self.second(output, value, scale, shift, true);
            return Ok(());
        }
        let source = self.value(name)?;
        if let Some(layer) = self.open_layer(source, name) {
            layer.relu = true;
            self.names.insert(output, source);
            return Ok(());
        }
        let channels = self.graph.values[source].channels;
        if channels == 0 {
            return self.fail("the network must start with a convolution or a matrix");
        }
        self.second(output, source, vec![1.0; channels], vec![0.0; channels], true);
        Ok(())
    }

    /// `relu?(value · scale + shift)` as the second output of the layer that writes `value`, or of a copy.
    fn second(
        &mut self,
        name: &'a str,
        value: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
        relu: bool,
    ) -> ValueId {
        let new = Value { name: name.to_owned(), ..self.graph.values[value].clone() };
        let free = self.writers[value].filter(|&writer| {
            let layer = &self.graph.layers[writer];
            layer.second.is_none() && layer.raw == Some(value) && !matches!(layer.op, Op::GlobalPool { .. })
        });
        let writer = free.unwrap_or(self.graph.layers.len());
        let id = self.new_value(name, new, writer);
        let second = Some(Second { value: id, scale, shift, relu });
        match free {
            Some(writer) => self.graph.layers[writer].second = second,
            None => self.graph.layers.push(Layer {
                name: name.to_owned(),
                op: Op::Copy,
                source: value,
                residual: None,
                relu: false,
                raw: None,
                second,
            }),
        }
        id
    }

    fn sum(&mut self) -> Result<(), GraphError> {
        let names = [self.input_name(0)?, self.input_name(1)?];
        let values = [self.input(0)?, self.input(1)?];
        let [a, b] = values.map(|v| &self.graph.values[v]);
        if (a.channels, a.flat) != (b.channels, b.flat) {
            return self.fail(format!("{} and {} channels", a.channels, b.channels));
        }
        let output = self.output()?;
        // The later one can add the other as it is written.
        let later = usize::from(self.writers[values[1]] > self.writers[values[0]]);
        let (value, other) = (values[later], values[1 - later]);
        if value != other
            && let Some(layer) = self.open_layer(value, names[later])
            && layer.residual.is_none()
        {
            layer.residual = Some(other);
            self.names.insert(output, value);
            return Ok(());
        }
        let new = Value { name: output.to_owned(), ..self.graph.values[value].clone() };
        self.layer(Op::Copy, value, new)?;
        let layer = self.graph.layers.last_mut().expect("a layer was just added");
        layer.residual = Some(other);
        Ok(())
    }
}

fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// A normalization goes into the weights before it.
fn scale_filter(filter: &mut Filter, weights: &mut Weights<'_>, scale: &[f32], shift: &[f32]) {
    let mut values = match weights {
        Weights::Full(values) => std::mem::take(values),
        Weights::Half(bytes) => {
            let bits = bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
            bits.map(super::onnx::widen).collect()
        }
    };
    let each = values.len() / filter.outputs;
    for (values, scale) in values.chunks_exact_mut(each).zip(scale) {
        values.iter_mut().for_each(|v| *v *= scale);
    }
    *weights = Weights::Full(values);
    for ((bias, scale), shift) in filter.bias.iter_mut().zip(scale).zip(shift) {
        *bias = *bias * scale + shift;
    }
}
