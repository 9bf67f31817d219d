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
//! Operators (`models/README.md` has the table); anything else is refused by the node's name, and so is an attribute, an input or a value
//! that would change the result in a way that is not computed here.

mod ends;
mod nodes;
mod read;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use super::limits::{CHANNELS_MAX, CHANNELS_SUM_MAX, LAYERS_MAX};
use super::onnx::{Input, Model, Node, Tensor, is_standard};
use super::{Graph, Layer, Op, Value, ValueId, Weights};

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

/// Fuses the nodes of a file. The network's layers fit each other for the size that the file fixes, or for a typical one.
///
/// # Errors
/// [`GraphError`].
pub(crate) fn fuse<'a>(model: &'a Model<'a>) -> Result<Fused<'a>, GraphError> {
    let [input] = &model.inputs[..] else {
        return Err(refused("inputs", format!("{} inputs; one is known", model.inputs.len())));
    };
    let mut builder = Builder::new(model, input)?;
    for node in &model.nodes {
        builder.node = node;
        builder.add()?;
    }
    builder.finish(model, input)
}

/// What is wrong with the graph as a whole.
fn refused(op: &str, what: String) -> GraphError {
    GraphError { node: "graph".to_owned(), op: op.to_owned(), what }
}

/// A batch normalization that waits for what follows it: value, scale, shift.
type Norm = (ValueId, Vec<f32>, Vec<f32>);

struct Builder<'a> {
    graph: Graph,
    /// By layer.
    weights: HashMap<usize, Weights<'a>>,
    node: &'a Node<'a>,
    tensors: HashMap<&'a str, &'a Tensor<'a>>,
    /// Names that were given to something.
    taken: HashSet<&'a str>,
    /// Value of each name that a layer writes.
    names: HashMap<&'a str, ValueId>,
    /// Pending normalizations by the name of their output.
    norms: HashMap<&'a str, Norm>,
    /// Names whose value is the shape of another.
    shapes: HashMap<&'a str, ValueId>,
    /// Names of maps of one pixel that are laid out as vectors, and are none until they are flattened.
    pixels: HashSet<&'a str>,
    /// How often each name is read.
    uses: HashMap<&'a str, usize>,
    /// The layer that writes a value.
    writers: Vec<Option<usize>>,
    /// Channels of all values.
    channels_sum: usize,
    /// Weights of all layers, filled up to blocks.
    weights_sum: usize,
}

/// What is known of an operator: how many inputs, which attributes, what it becomes.
struct Operator {
    inputs: RangeInclusive<usize>,
    attributes: &'static [&'static str],
    add: for<'a> fn(&mut Builder<'a>) -> Result<(), GraphError>,
}

/// Attributes of a window.
const CONV: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
const POOL: &[&str] =
    &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
/// Some only matter in modes that are refused; PyTorch writes them nevertheless.
const RESIZE: &[&str] = &[
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
];

fn operator(name: &str) -> Option<Operator> {
    let known = |inputs, attributes, add| Some(Operator { inputs, attributes, add });
    match name {
        "Conv" => known(2..=3, CONV, |b| b.conv()),
        "Gemm" => known(2..=3, &["alpha", "beta", "transA", "transB"], |b| b.gemm()),
        "BatchNormalization" => known(5..=5, &["epsilon", "momentum", "training_mode"], |b| b.norm()),
        "Relu" => known(1..=1, &[], |b| b.relu()),
        "Add" => known(2..=2, &[], |b| b.sum()),
        "MaxPool" => known(1..=1, POOL, |b| b.max_pool()),
        "Resize" => known(1..=4, RESIZE, |b| b.resize()),
        "Concat" => known(1..=usize::MAX, &["axis"], |b| b.concat()),
        "GlobalMaxPool" => known(1..=1, &[], |b| b.global_pool(true)),
        "GlobalAveragePool" => known(1..=1, &[], |b| b.global_pool(false)),
        // How a cast rounds does not matter for one to float.
        "Cast" => known(1..=1, &["round_mode", "saturate", "to"], |b| b.cast()),
        "Identity" => known(1..=1, &[], |b| b.alias()),
        // The ratio and the seed are those of training.
        "Dropout" => known(1..=2, &["ratio", "seed"], |b| b.alias()),
        "Constant" => known(0..=0, &["value"], |b| b.constant()),
        "Flatten" => known(1..=1, &["axis"], |b| b.flatten()),
        "Shape" => known(1..=1, &["start", "end"], |b| b.shape()),
        _ => None,
    }
}

impl<'a> Builder<'a> {
    fn new(model: &'a Model<'a>, input: &'a Input) -> Result<Self, GraphError> {
        let mut uses = HashMap::new();
        for name in model.nodes.iter().flat_map(|n| &n.inputs).chain(&model.outputs) {
            *uses.entry(name.as_str()).or_default() += 1;
        }
        let rank = input.dims.len();
        if !matches!(rank, 0 | 2 | 4 | 5) || !matches!(input.kind, 0 | 1) {
            let what = format!(
                "`{}` of type {}, {rank} dimensions; 1 (float), 2, 4 and 5 are known",
                input.name, input.kind
            );
            return Err(refused("inputs", what));
        }
        if let Some(&Some(batch)) = input.dims.first()
            && batch > 1
        {
            return Err(refused("inputs", format!("`{}` is a batch of {batch}; 1 is known", input.name)));
        }
        let value = Value { name: input.name.clone(), channels: 0, flat: rank == 2 };
        let mut graph = Graph { values: vec![value], axes: rank.saturating_sub(2), ..Graph::default() };
        for (slot, &size) in graph.fixed.iter_mut().rev().zip(input.dims.iter().skip(2).rev()) {
            *slot = size.filter(|&n| n > 0).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        }
        if rank == 4 {
            graph.fixed[0] = Some(1);
        }
        static NONE: std::sync::LazyLock<Node<'static>> = std::sync::LazyLock::new(Node::default);
        let name = input.name.as_str();
        Ok(Self {
            graph,
            weights: HashMap::new(),
            node: &NONE,
            taken: model.tensors.keys().map(String::as_str).chain([name]).collect(),
            tensors: model.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect(),
            names: HashMap::from([(name, 0)]),
            norms: HashMap::new(),
            shapes: HashMap::new(),
            pixels: HashSet::new(),
            uses,
            writers: vec![None],
            channels_sum: 0,
            weights_sum: 0,
        })
    }

    fn add(&mut self) -> Result<(), GraphError> {
        let node = self.node;
        let operator = operator(&node.op).filter(|_| is_standard(&node.domain));
        let Some(Operator { inputs, attributes, add }) = operator else {
            return self.fail("this operator is not known");
        };
        if !inputs.contains(&node.inputs.len()) {
            return self.fail(format!("{} inputs; {inputs:?} are known", node.inputs.len()));
        }
        if let Some(name) = node.attributes.keys().find(|name| !attributes.contains(&name.as_str())) {
            return self.fail(format!("the attribute {name} is not known"));
        }
        let output = self.output()?;
        if !self.taken.insert(output) {
            return self.fail(format!("`{output}` is there already"));
        }
        add(self)
    }

    fn finish(mut self, model: &Model<'_>, input: &Input) -> Result<Fused<'a>, GraphError> {
        static END: std::sync::LazyLock<Node<'static>> = std::sync::LazyLock::new(|| Node {
            name: "graph".to_owned(),
            op: "outputs".to_owned(),
            ..Node::default()
        });
        self.node = &END;
        if model.outputs.is_empty() {
            return self.fail("there are none");
        }
        for name in &model.outputs {
            let value = self.value(name)?;
            if self.graph.values[value].channels == 0 {
                return self.fail(format!("`{name}` is the input"));
            }
            self.graph.outputs.push((name.clone(), value));
        }
        let channels = self.graph.values[0].channels;
        if let Some(&Some(given)) = input.dims.get(1)
            && given > 0
            && given != channels as u64
        {
            return self.fail(format!("the input has {given} channels, its first layer reads {channels}"));
        }
        let Self { mut graph, weights, .. } = self;
        graph.drop_unread();
        if let Some(dead) = graph.layers.iter().find(|layer| layer.raw.is_none() && layer.second.is_none()) {
            let what = "nothing reads what it writes".to_owned();
            return Err(GraphError { node: dead.name.clone(), op: "last of its layer".to_owned(), what });
        }
        graph.try_sizes().map_err(|error| GraphError {
            node: error.layer,
            op: "first of its layer".to_owned(),
            what: error.what,
        })?;
        Ok((graph, weights))
    }

    fn input(&mut self, index: usize) -> Result<ValueId, GraphError> {
        let name = self.input_name(index)?;
        self.value(name)
    }

    /// The value of a name; a pending normalization becomes one.
    fn value(&mut self, name: &str) -> Result<ValueId, GraphError> {
        if let Some((key, (value, scale, shift))) = self.norms.remove_entry(name) {
            return self.second(key, value, scale, shift, false);
        }
        match self.names.get(name) {
            Some(&value) => Ok(value),
            None => self.fail(format!("`{name}` is computed by no node before this")),
        }
    }

    /// The channels of a value; those of the input are known once a layer read it.
    fn known_channels(&self, value: ValueId) -> Result<usize, GraphError> {
        match self.graph.values[value].channels {
            0 => self.fail("the network must start with a convolution or a matrix"),
            channels => Ok(channels),
        }
    }

    fn layer(&mut self, op: Op, source: ValueId, value: Value) -> Result<(), GraphError> {
        self.known_channels(source)?;
        let name = self.output()?;
        let raw = Some(self.new_value(name, value, self.graph.layers.len())?);
        let name = self.node.name.clone();
        self.push(Layer { name, op, source, residual: None, relu: false, raw, second: None })
    }

    fn push(&mut self, layer: Layer) -> Result<(), GraphError> {
        if self.graph.layers.len() >= LAYERS_MAX {
            return self.fail(format!("more than {LAYERS_MAX} layers"));
        }
        self.graph.layers.push(layer);
        Ok(())
    }

    fn new_value(&mut self, name: &'a str, value: Value, writer: usize) -> Result<ValueId, GraphError> {
        let channels = value.channels;
        self.channels_sum = self.channels_sum.saturating_add(channels);
        if channels > CHANNELS_MAX || self.channels_sum > CHANNELS_SUM_MAX {
            return self.fail(format!(
                "{channels} channels, {} in all; {CHANNELS_MAX} and {CHANNELS_SUM_MAX} are the most",
                self.channels_sum
            ));
        }
        self.graph.values.push(value);
        self.writers.push(Some(writer));
        self.names.insert(name, self.graph.values.len() - 1);
        Ok(self.graph.values.len() - 1)
    }

    /// A layer whose output has the channels of its source.
    fn map(&mut self, op: Op) -> Result<(), GraphError> {
        let source = self.input(0)?;
        if self.graph.values[source].flat {
            return self.fail("a vector where a map is needed");
        }
        let value = Value { name: self.output()?.to_owned(), ..self.graph.values[source].clone() };
        self.layer(op, source, value)
    }
}
