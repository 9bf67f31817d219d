//! Rewrites a network's types for TensorRT, in memory.
//!
//! Owns: which values are in half precision. Never does: change a weight's value beyond rounding, or touch what it does not know: fields are copied.
//!
//! The zoo stores weights in half precision and casts each to single. Before 11 TensorRT wants plain single-precision constants (a casted weight
//! is a computed one to its parser) and chooses half precision itself ([`single`]). From 11 on the network's types are the plan's: [`half`]
//! writes a network that computes in half precision, but for the layers that make the sensitive outputs; batch normalisation keeps its
//! parameters in single precision. Field numbers are those of `onnx.proto`, IR version 8.

use std::collections::{HashMap, HashSet};

use crate::graph::onnx::wire::{cut, varint};
use crate::graph::onnx::{OnnxError, widen};

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const FLOAT16: u64 = 10;

/// The network with constants in single precision.
///
/// # Errors
/// [`OnnxError`].
pub(super) fn single(model: &[u8]) -> Result<Vec<u8>, OnnxError> {
    with_graph(model, |graph| Ok(Graph::read(graph)?.single()))
}

/// The network in half precision between its inputs and outputs, which stay in single precision, but for the nodes that make the outputs
/// named `sensitive`.
///
/// # Errors
/// [`OnnxError`].
pub(super) fn half(model: &[u8], sensitive: &[&str]) -> Result<Vec<u8>, OnnxError> {
    with_graph(model, |graph| Ok(Graph::read(graph)?.half(sensitive)))
}

/// The model with its graph replaced.
fn with_graph(
    model: &[u8],
    rewrite: impl FnOnce(&[u8]) -> Result<Vec<u8>, OnnxError>,
) -> Result<Vec<u8>, OnnxError> {
    let fields = fields(model)?;
    let graph = fields.iter().rfind(|field| field.number == 7).ok_or(OnnxError::NoGraph)?;
    let graph = rewrite(graph.bytes)?;
    let mut out = Vec::with_capacity(model.len() * 2);
    fields.iter().filter(|field| field.number != 7).for_each(|field| out.extend_from_slice(field.raw));
    message(&mut out, 7, &graph);
    Ok(out)
}

struct Node<'a> {
    raw: &'a [u8],
    op: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

struct Tensor<'a> {
    name: String,
    dims: Vec<u64>,
    kind: u64,
    raw: &'a [u8],
    /// All of it, to be copied.
    message: &'a [u8],
}

struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    tensors: HashMap<String, Tensor<'a>>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Everything but nodes and tensors.
    rest: Vec<&'a [u8]>,
}

impl<'a> Graph<'a> {
    fn read(graph: &'a [u8]) -> Result<Self, OnnxError> {
        let mut this = Self {
            nodes: Vec::new(),
            tensors: HashMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            rest: Vec::new(),
        };
        for field in fields(graph)? {
            match field.number {
                1 => this.nodes.push(Node::read(field.bytes)?),
                5 => {
                    let tensor = Tensor::read(field.bytes)?;
                    this.tensors.insert(tensor.name.clone(), tensor);
                }
                // Types of inner values would be wrong after the rewriting; nobody needs them.
                13 => {}
                number => {
                    let name = || Ok::<_, OnnxError>(texts(&fields(field.bytes)?, 1).into_iter().next());
                    match number {
                        11 => this.inputs.extend(name()?),
                        12 => this.outputs.extend(name()?),
                        _ => {}
                    }
                    this.rest.push(field.raw);
                }
            }
        }
        this.inputs.retain(|name| !this.tensors.contains_key(name));
        Ok(this)
    }

    /// A constant that is only cast: its node, and the tensor.
    fn casted(&self, node: &Node) -> Option<&Tensor<'a>> {
        let tensor = self.tensors.get(node.inputs.first()?)?;
        (node.op == "Cast" && matches!(tensor.kind, FLOAT | FLOAT16)).then_some(tensor)
    }

    fn single(&self) -> Vec<u8> {
        let mut out = Out::new(self);
        for node in &self.nodes {
            if let Some(tensor) = self.casted(node) {
                out.constant(&node.outputs[0], tensor, FLOAT);
                continue;
            }
            for name in &node.inputs {
                if let Some(tensor) = self.tensors.get(name) {
                    out.constant(name, tensor, if tensor.kind == FLOAT16 { FLOAT } else { tensor.kind });
                }
            }
            out.node(node, |name| name.to_owned(), |name| name.to_owned());
        }
        out.bytes
    }

    fn half(&self, sensitive: &[&str]) -> Vec<u8> {
        let mut out = Out::new(self);
        // Weights, by the name under which they are used.
        let mut weights: HashMap<&str, &Tensor> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for node in &self.nodes {
            if let Some(tensor) = self.casted(node) {
                weights.insert(&node.outputs[0], tensor);
            }
        }
        let is_float = |name: &str| weights.get(name).is_some_and(|t| matches!(t.kind, FLOAT | FLOAT16));
        for input in &self.inputs {
            out.cast(input, &format!("{input}_half"), FLOAT16);
        }
        let external: HashSet<&str> = self.inputs.iter().chain(&self.outputs).map(String::as_str).collect();
        // A value's name in half and in single precision: what is seen from outside keeps its name in single precision.
        let in_half = |name: &str| {
            if external.contains(name) { format!("{name}_half") } else { name.to_owned() }
        };
        let in_single = |name: &str| {
            if external.contains(name) { name.to_owned() } else { format!("{name}_single") }
        };
        let inner: HashSet<&str> = self
            .nodes
            .iter()
            .filter(|node| self.casted(node).is_none() && !is_whole(node))
            .flat_map(|node| &node.outputs)
            .map(String::as_str)
            .collect();
        let value = |name: &str| inner.contains(name) || self.inputs.iter().any(|input| input == name);
        for node in self.nodes.iter().filter(|node| self.casted(node).is_none()) {
            let exact = node.outputs.iter().any(|name| sensitive.contains(&name.as_str()));
            let plain = exact || is_whole(node);
            for (index, name) in node.inputs.iter().enumerate() {
                if let Some(tensor) = weights.get(name.as_str()) {
                    let keep = plain || stays_single(node, index) || !is_float(name);
                    let kind = if keep && is_float(name) {
                        FLOAT
                    } else if keep {
                        tensor.kind
                    } else {
                        FLOAT16
                    };
                    out.constant(name, tensor, kind);
                } else if exact && value(name) && !external.contains(name.as_str()) {
                    out.cast(name, &in_single(name), FLOAT);
                }
            }
            let input = |name: &str| match (value(name), exact) {
                (false, _) => name.to_owned(),
                (true, true) => in_single(name),
                (true, false) => in_half(name),
            };
            let output = |name: &str| if plain { name.to_owned() } else { in_half(name) };
            out.node(node, input, output);
            if !plain {
                for name in node.outputs.iter().filter(|name| external.contains(name.as_str())) {
                    out.cast(&in_half(name), name, FLOAT);
                }
            } else if exact {
                // Another node may use it.
                for name in &node.outputs {
                    out.cast(name, &in_half(name), FLOAT16);
                }
            }
        }
        out.bytes
    }
}

/// Gives integers, whatever it takes.
fn is_whole(node: &Node) -> bool {
    matches!(node.op.as_str(), "Shape" | "Constant" | "Size")
}

/// Inputs whose type does not follow that of the first.
fn stays_single(node: &Node, index: usize) -> bool {
    index > 0 && matches!(node.op.as_str(), "BatchNormalization" | "Resize")
}

/// A graph in the making.
struct Out {
    bytes: Vec<u8>,
    written: HashSet<String>,
}

impl Out {
    fn new(graph: &Graph) -> Self {
        let mut bytes = Vec::new();
        graph.rest.iter().for_each(|raw| bytes.extend_from_slice(raw));
        Self { bytes, written: HashSet::new() }
    }

    fn node(&mut self, node: &Node, input: impl Fn(&str) -> String, output: impl Fn(&str) -> String) {
        let mut bytes = Vec::new();
        // Read once already.
        for field in fields(node.raw).unwrap_or_default() {
            let text = || String::from_utf8_lossy(field.bytes);
            match field.number {
                1 => message(&mut bytes, 1, input(&text()).as_bytes()),
                2 => message(&mut bytes, 2, output(&text()).as_bytes()),
                _ => bytes.extend_from_slice(field.raw),
            }
        }
        message(&mut self.bytes, 1, &bytes);
    }

    /// A node that casts, once.
    fn cast(&mut self, from: &str, to: &str, kind: u64) {
        if !self.written.insert(to.to_owned()) {
            return;
        }
        let mut attribute = Vec::new();
        message(&mut attribute, 1, b"to");
        number(&mut attribute, 3, kind);
        number(&mut attribute, 20, 2); // AttributeType INT
        let mut node = Vec::new();
        message(&mut node, 1, from.as_bytes());
        message(&mut node, 2, to.as_bytes());
        message(&mut node, 3, format!("cast_{to}").as_bytes());
        message(&mut node, 4, b"Cast");
        message(&mut node, 5, &attribute);
        message(&mut self.bytes, 1, &node);
    }

    /// A constant of this type, once.
    fn constant(&mut self, name: &str, tensor: &Tensor, kind: u64) {
        if !self.written.insert(name.to_owned()) {
            return;
        }
        if kind == tensor.kind && name == tensor.name {
            return message(&mut self.bytes, 5, tensor.message);
        }
        let data = match (tensor.kind, kind) {
            (FLOAT16, FLOAT) => tensor
                .raw
                .chunks_exact(2)
                .flat_map(|b| widen(u16::from_le_bytes([b[0], b[1]])).to_le_bytes())
                .collect(),
            (FLOAT, FLOAT16) => tensor
                .raw
                .chunks_exact(4)
                .flat_map(|b| narrow(f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes())
                .collect(),
            _ => tensor.raw.to_vec(),
        };
        let mut out = Vec::with_capacity(data.len() + 64);
        tensor.dims.iter().for_each(|&size| number(&mut out, 1, size));
        number(&mut out, 2, kind);
        message(&mut out, 8, name.as_bytes());
        message(&mut out, 9, &data);
        message(&mut self.bytes, 5, &out);
    }
}

impl<'a> Node<'a> {
    fn read(raw: &'a [u8]) -> Result<Self, OnnxError> {
        let fields = fields(raw)?;
        let (inputs, outputs) = (texts(&fields, 1), texts(&fields, 2));
        let op = texts(&fields, 4).into_iter().next().unwrap_or_default();
        if outputs.is_empty() {
            return Err(OnnxError::NoGraph);
        }
        Ok(Self { raw, op, inputs, outputs })
    }
}

impl<'a> Tensor<'a> {
    fn read(message: &'a [u8]) -> Result<Self, OnnxError> {
        let (mut name, mut dims, mut kind, mut raw) = (String::new(), Vec::new(), 0, [].as_slice());
        for field in fields(message)? {
            match field.number {
                1 if field.wire == 2 => {
                    let mut packed = field.bytes;
                    while !packed.is_empty() {
                        dims.push(varint(&mut packed)?);
                    }
                }
                1 => dims.push(field.value),
                2 => kind = field.value,
                // float_data: packed, as raw_data would be.
                4 if field.wire == 2 => raw = field.bytes,
                8 => name = String::from_utf8_lossy(field.bytes).into_owned(),
                9 => raw = field.bytes,
                _ => {}
            }
        }
        let values = dims.iter().try_fold(1_u64, |all, &n| all.checked_mul(n)).unwrap_or(u64::MAX);
        let size = match kind {
            FLOAT => 4,
            FLOAT16 => 2,
            _ => return Ok(Self { name, dims, kind, raw, message }),
        };
        if values.checked_mul(size) != Some(raw.len() as u64) {
            let expected = usize::try_from(values).unwrap_or(usize::MAX);
            return Err(OnnxError::TensorSize { name, expected, got: raw.len() });
        }
        Ok(Self { name, dims, kind, raw, message })
    }
}

/// A field of a message.
struct Field<'a> {
    number: u64,
    wire: u64,
    value: u64,
    bytes: &'a [u8],
    /// With its key and length.
    raw: &'a [u8],
}

fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, OnnxError> {
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let start = rest;
        let key = varint(&mut rest)?;
        let (number, wire) = (key >> 3, key & 7);
        let (mut value, mut bytes) = (0, [].as_slice());
        match wire {
            0 => value = varint(&mut rest)?,
            1 => bytes = cut(&mut rest, 8)?,
            2 => {
                let len = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX);
                bytes = cut(&mut rest, len)?;
            }
            5 => bytes = cut(&mut rest, 4)?,
            wire => return Err(OnnxError::Wire { field: number, wire }),
        }
        found.push(Field { number, wire, value, bytes, raw: &start[..start.len() - rest.len()] });
    }
    Ok(found)
}

fn texts(fields: &[Field], number: u64) -> Vec<String> {
    let of = fields.iter().filter(|field| field.number == number);
    of.map(|field| String::from_utf8_lossy(field.bytes).into_owned()).collect()
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    push_varint(out, field << 3);
    push_varint(out, value);
}

fn message(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Single precision to half, to the nearest, ties to even; what is too large becomes the largest, as a weight must stay finite.
fn narrow(value: f32) -> u16 {
    const MAX: f32 = 65504.0;
    let sign = ((value.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = value.abs().min(MAX);
    // Below 2⁻¹⁴ halves are multiples of 2⁻²⁴; above, of 2⁻¹⁰ of their power of two. Adding a power of two rounds to its multiples.
    let exponent = (magnitude.to_bits() >> 23).max(127 - 14);
    let step = f32::from_bits((exponent + 13) << 23);
    let rounded = (magnitude + step) - step;
    let bits = rounded.to_bits();
    let half = if rounded < 6.103_515_6e-5 {
        (rounded * 16_777_216.0) as u16
    } else {
        ((bits - ((127 - 15) << 23)) >> 13) as u16
    };
    sign | half
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::onnx::{Kind, Model, read};

    const TINY: &[u8] = include_bytes!("../../tests/tiny/multitask-spatial-1/model.onnx");

    #[test]
    fn every_half_survives_and_halves_round_to_the_nearest() {
        for half in 0..0x7c00_u16 {
            for sign in [0, 0x8000] {
                assert_eq!(narrow(widen(half | sign)), half | sign);
            }
            let (low, high) = (widen(half), widen(half + 1));
            if high.is_finite() {
                let middle = f32::midpoint(low, high);
                assert_eq!(narrow(middle), half + (half & 1), "ties go to even");
                assert_eq!(narrow(middle.next_down()), half);
                assert_eq!(narrow(middle.next_up()), half + 1);
            }
        }
        assert_eq!(narrow(1e9), 0x7bff);
        assert_eq!(narrow(f32::NEG_INFINITY), 0xfbff);
    }

    fn count(model: &Model, op: &str) -> usize {
        model.nodes.iter().filter(|node| node.op == op).count()
    }

    #[test]
    fn in_single_precision_no_weight_is_cast() {
        let bytes = single(TINY).unwrap();
        let (before, after) = (read(TINY).unwrap(), read(&bytes).unwrap());
        assert_eq!(count(&after, "Cast"), 0);
        assert_eq!(after.nodes.len(), before.nodes.len() - count(&before, "Cast"));
        assert!(after.tensors.values().all(|tensor| tensor.kind == Kind::F32));
        assert_eq!(after.outputs, before.outputs);
        for cast in before.nodes.iter().filter(|node| node.op == "Cast") {
            let (from, to) = (&before.tensors[&cast.inputs[0]], &after.tensors[&cast.outputs[0]]);
            assert_eq!((&from.dims, from.floats()), (&to.dims, to.floats()));
        }
    }

    #[test]
    fn in_half_precision_only_ends_and_the_last_layer_are_single() {
        let bytes = half(TINY, &["lesions"]).unwrap();
        let model = read(&bytes).unwrap();
        let last = model.nodes.iter().find(|node| node.outputs[0] == "lesions").unwrap();
        for node in &model.nodes {
            let weight = |index: usize| node.inputs.get(index).and_then(|name| model.tensors.get(name));
            if node.op == "Conv" {
                let expected = if node.outputs[0] == "lesions" { Kind::F32 } else { Kind::F16 };
                assert_eq!(weight(1).unwrap().kind, expected, "{}", node.name);
            }
            if node.op == "BatchNormalization" {
                assert!((1..5).all(|index| weight(index).unwrap().kind == Kind::F32), "{}", node.name);
            }
        }
        // Into half after the input; out of it before the last layer and at `features`; `lesions` for nobody.
        let casts: Vec<_> = model
            .nodes
            .iter()
            .filter(|node| node.op == "Cast")
            .map(|node| node.outputs[0].as_str())
            .collect();
        assert_eq!(casts.len(), 4, "{casts:?}");
        assert!(
            casts.contains(&"slice_half")
                && casts.contains(&"features")
                && casts.contains(&last.inputs[0].as_str())
        );
        // Every value is made before it is used.
        let mut known: HashSet<&str> = model.tensors.keys().map(String::as_str).collect();
        known.insert("slice");
        for node in &model.nodes {
            for name in node.inputs.iter().filter(|name| !name.is_empty()) {
                assert!(known.contains(name.as_str()), "{} reads {name}", node.name);
            }
            known.extend(node.outputs.iter().map(String::as_str));
        }
    }

    #[test]
    fn broken_files_are_refused_without_panic() {
        for len in (0..TINY.len()).step_by(97) {
            assert!(single(&TINY[..len]).is_err(), "cut at {len}");
            assert!(half(&TINY[..len], &[]).is_err(), "cut at {len}");
        }
        let mut wrong = TINY.to_vec();
        for at in (0..TINY.len()).step_by(31) {
            wrong[at] ^= 0xff;
            drop(half(&wrong, &["lesions"]));
            wrong[at] ^= 0xff;
        }
    }
}
