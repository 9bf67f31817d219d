//! Reads ONNX files: the part of the protocol buffer that inference needs.
//!
//! Owns: the file's form. Never does: know an operator. A file that is cut short, contradicts itself or exceeds a bound is refused, never
//! a panic.
//!
//! Field numbers are those of `onnx.proto`, IR version 8; later versions added fields only.

mod tensor;
pub(crate) mod wire;

use std::collections::HashMap;

use super::limits::{AXES_MAX, MODEL_BYTES_MAX, NODES_MAX, OPERANDS_MAX};
pub(crate) use tensor::{Kind, Tensor, widen, widen_bf16};
use tensor::{push, tensor};
use wire::fields;

/// Versions of the standard operators that are known. Resize had no modes before 11; 28 is the last one that was compared.
const OPSETS: std::ops::RangeInclusive<u64> = 11..=28;
/// Versions of the file's form: before 4, initializers were inputs; 14 is the last one that was compared.
const IR_VERSIONS: std::ops::RangeInclusive<u64> = 4..=14;

/// Why a file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OnnxError {
    /// The file is too large.
    #[error("has {bytes} bytes; at most {MODEL_BYTES_MAX} are read")]
    Large {
        /// Its size.
        bytes: u64,
    },
    /// The file ends inside a field.
    #[error("ends inside a field, {left} bytes from its end")]
    Short {
        /// Bytes left where the field starts.
        left: usize,
    },
    /// A field has a type that it has in no ONNX file.
    #[error("field {field} has wire type {wire}")]
    Wire {
        /// Its number.
        field: u64,
        /// Its type.
        wire: u64,
    },
    /// The file has no graph.
    #[error("has no graph")]
    NoGraph,
    /// The file's form is of another version.
    #[error("has IR version {version}; known: 4 to 14")]
    Ir {
        /// Its version.
        version: u64,
    },
    /// The file's standard operators are of another version, or no version is given.
    #[error("uses operator set {version}; known: 11 to 28")]
    Opset {
        /// The version; 0 for none.
        version: u64,
    },
    /// A list exceeds its bound.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A name is given twice.
    #[error("`{name}` is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A tensor's size and its data differ.
    #[error("tensor `{name}` of {expected} values has {got} bytes")]
    TensorSize {
        /// Its name.
        name: String,
        /// Values that its dimensions ask for.
        expected: usize,
        /// Bytes of data.
        got: usize,
    },
    /// A tensor is of a type that isn't read.
    #[error("tensor `{name}` has data type {kind}; known: 1 (float), 7 (int64), 10 (float16), 16 (bfloat16)")]
    TensorType {
        /// Its name.
        name: String,
        /// ONNX's number of the type.
        kind: u64,
    },
    /// A tensor's data is in another file.
    #[error("tensor `{name}` has its data in another file")]
    External {
        /// Its name.
        name: String,
    },
}

/// A model's graph. Weights are borrowed from the file's bytes.
#[derive(Debug, Default)]
pub(crate) struct Model<'a> {
    /// In an order in which every input comes before its use.
    pub(crate) nodes: Vec<Node<'a>>,
    /// Initializers by name.
    pub(crate) tensors: HashMap<String, Tensor<'a>>,
    /// Inputs that have no initializer.
    pub(crate) inputs: Vec<Input>,
    /// Names of the outputs.
    pub(crate) outputs: Vec<String>,
}

/// An input, or an output.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Its name.
    pub(crate) name: String,
    /// ONNX's number of its type; 0 if none is given.
    pub(crate) kind: u64,
    /// Its dimensions; `None` for those that may vary. Empty if none are given.
    pub(crate) dims: Vec<Option<u64>>,
}

/// A node of the graph.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    /// Its name, or that of its first output.
    pub(crate) name: String,
    /// Its operator.
    pub(crate) op: String,
    /// Who defined the operator; empty for ONNX.
    pub(crate) domain: String,
    /// Names of its inputs; an omitted one is empty.
    pub(crate) inputs: Vec<String>,
    /// Names of its outputs.
    pub(crate) outputs: Vec<String>,
    /// By name.
    pub(crate) attributes: HashMap<String, Attribute<'a>>,
}

/// Value of an attribute.
#[derive(Debug, Clone)]
pub(crate) enum Attribute<'a> {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f32),
    /// A text.
    Text(String),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A constant.
    Tensor(Tensor<'a>),
    /// Anything else.
    Other,
}

/// Reads a model.
///
/// # Errors
/// [`OnnxError`].
pub(crate) fn read(bytes: &[u8]) -> Result<Model<'_>, OnnxError> {
    if bytes.len() as u64 > MODEL_BYTES_MAX {
        return Err(OnnxError::Large { bytes: bytes.len() as u64 });
    }
    let (mut graph, mut ir, mut opset) = (None, 0, 0);
    fields(bytes, |field| {
        match field.id {
            1 => ir = field.number()?,
            7 => graph = Some(field.bytes()?),
            8 => {
                let (domain, version) = operator_set(field.bytes()?)?;
                if is_standard(&domain) {
                    opset = version;
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let graph = graph.ok_or(OnnxError::NoGraph)?;
    if !IR_VERSIONS.contains(&ir) {
        return Err(OnnxError::Ir { version: ir });
    }
    if !OPSETS.contains(&opset) {
        return Err(OnnxError::Opset { version: opset });
    }
    let mut model = Model::default();
    fields(graph, |field| {
        match field.id {
            1 => push(&mut model.nodes, node(field.bytes()?)?, NODES_MAX, "nodes")?,
            5 => {
                let (name, tensor) = tensor(field.bytes()?)?;
                if model.tensors.len() == NODES_MAX {
                    return Err(OnnxError::TooMany { what: "initializers", max: NODES_MAX });
                }
                if let Some(_twice) = model.tensors.insert(name.clone(), tensor) {
                    return Err(OnnxError::Twice { name });
                }
            }
            11 => push(&mut model.inputs, value_info(field.bytes()?)?, NODES_MAX, "inputs")?,
            12 => push(&mut model.outputs, value_info(field.bytes()?)?.name, OPERANDS_MAX, "outputs")?,
            _ => {}
        }
        Ok(())
    })?;
    // Those with an initializer are constants: nobody gives them another value.
    model.inputs.retain(|input| !model.tensors.contains_key(&input.name));
    Ok(model)
}

/// The domain is ONNX's own.
pub(super) fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Domain and version.
fn operator_set(bytes: &[u8]) -> Result<(String, u64), OnnxError> {
    let (mut domain, mut version) = (String::new(), 0);
    fields(bytes, |field| {
        match field.id {
            1 => domain = field.text()?,
            2 => version = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((domain, version))
}

fn node(bytes: &[u8]) -> Result<Node<'_>, OnnxError> {
    let mut node = Node::default();
    fields(bytes, |field| {
        match field.id {
            1 => push(&mut node.inputs, field.text()?, OPERANDS_MAX, "inputs of a node")?,
            2 => push(&mut node.outputs, field.text()?, OPERANDS_MAX, "outputs of a node")?,
            3 => node.name = field.text()?,
            4 => node.op = field.text()?,
            5 => {
                let (name, attribute) = attribute(field.bytes()?)?;
                if let Some(_twice) = node.attributes.insert(name.clone(), attribute) {
                    return Err(OnnxError::Twice { name });
                }
            }
            7 => node.domain = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    if node.name.is_empty() {
        node.name = node.outputs.first().cloned().unwrap_or_default();
    }
    Ok(node)
}

fn attribute(bytes: &[u8]) -> Result<(String, Attribute<'_>), OnnxError> {
    let (mut name, mut kind) = (String::new(), None);
    let (mut int, mut float, mut text, mut constant) = (None, None, None, None);
    let mut ints = Vec::new();
    fields(bytes, |field| {
        match field.id {
            1 => name = field.text()?,
            2 => float = Some(f32::from_bits(field.number()? as u32)),
            3 => int = Some(field.number()? as i64),
            4 => text = Some(field.text()?),
            5 => constant = Some(tensor(field.bytes()?)?.1),
            8 => field.numbers(|v| push(&mut ints, v as i64, OPERANDS_MAX, "numbers of an attribute"))?,
            20 => kind = Some(field.number()?),
            _ => {}
        }
        Ok(())
    })?;
    // Writers of proto3 leave out what is 0 or empty, so the type decides; old files have no type.
    let value = match (kind, int, float, text, constant) {
        (Some(1), _, float, ..) => Attribute::Float(float.unwrap_or(0.0)),
        (Some(2), int, ..) => Attribute::Int(int.unwrap_or(0)),
        (Some(3), _, _, text, _) => Attribute::Text(text.unwrap_or_default()),
        (Some(7), ..) => Attribute::Ints(ints),
        (Some(4) | None, None, None, None, Some(constant)) => Attribute::Tensor(constant),
        (None, Some(int), None, None, None) => Attribute::Int(int),
        (None, None, Some(float), None, None) => Attribute::Float(float),
        (None, None, None, Some(text), None) => Attribute::Text(text),
        (None, None, None, None, None) if !ints.is_empty() => Attribute::Ints(ints),
        _ => Attribute::Other,
    };
    Ok((name, value))
}

fn value_info(bytes: &[u8]) -> Result<Input, OnnxError> {
    let mut info = Input::default();
    fields(bytes, |field| {
        match field.id {
            1 => info.name = field.text()?,
            // TypeProto.tensor_type: elem_type, shape.
            2 => fields(field.bytes()?, |field| match field.id {
                1 => fields(field.bytes()?, |field| match field.id {
                    1 => {
                        info.kind = field.number()?;
                        Ok(())
                    }
                    2 => fields(field.bytes()?, |field| match field.id {
                        1 => push(
                            &mut info.dims,
                            dimension(field.bytes()?)?,
                            AXES_MAX,
                            "dimensions of an input",
                        ),
                        _ => Ok(()),
                    }),
                    _ => Ok(()),
                }),
                _ => Ok(()),
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(info)
}

/// A dimension's value, if it is fixed.
fn dimension(bytes: &[u8]) -> Result<Option<u64>, OnnxError> {
    let mut value = None;
    fields(bytes, |field| {
        if field.id == 1 {
            value = Some(field.number()?);
        }
        Ok(())
    })?;
    Ok(value)
}
