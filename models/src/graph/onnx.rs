//! Reads ONNX files: the part of the protocol buffer that inference needs.
//!
//! Owns: the wire format. Never does: know an operator. A file that is cut short or contradicts itself is refused, never a panic.
//!
//! Field numbers are those of `onnx.proto`, IR version 8.

use std::borrow::Cow;
use std::collections::HashMap;

/// Why a file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OnnxError {
    /// The file ends inside a field.
    #[error("ends inside a field, {left} bytes from its end")]
    Short {
        /// Bytes left where the field starts.
        left: usize,
    },
    /// A field has a type that no ONNX file has.
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
    #[error("tensor `{name}` has data type {kind}; known: 1 (float), 7 (int64), 10 (float16)")]
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
    /// Inputs: name and number of dimensions.
    pub(crate) inputs: Vec<(String, usize)>,
    /// Names of the outputs.
    pub(crate) outputs: Vec<String>,
}

/// A node of the graph.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    /// Its name, or that of its first output.
    pub(crate) name: String,
    /// Its operator.
    pub(crate) op: String,
    /// Names of its inputs; an omitted one is empty.
    pub(crate) inputs: Vec<String>,
    /// Names of its outputs.
    pub(crate) outputs: Vec<String>,
    /// By name.
    pub(crate) attributes: HashMap<String, Attribute<'a>>,
}

/// Value of an attribute.
#[derive(Debug, Default, Clone)]
pub(crate) struct Attribute<'a> {
    /// If it is an integer.
    pub(crate) int: Option<i64>,
    /// If it is a number.
    pub(crate) float: Option<f32>,
    /// If it is a text.
    pub(crate) text: Option<String>,
    /// If it is a list of integers.
    pub(crate) ints: Vec<i64>,
    /// If it is a tensor.
    pub(crate) tensor: Option<Tensor<'a>>,
}

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 64-bit integers.
    I64,
}

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor<'a> {
    /// Sizes.
    pub(crate) dims: Vec<usize>,
    /// Type of the values.
    pub(crate) kind: Kind,
    /// The values, little-endian.
    bytes: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// The values as single precision; `None` for integers.
    pub(crate) fn floats(&self) -> Option<Vec<f32>> {
        match self.kind {
            Kind::F32 => Some(
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            ),
            Kind::F16 => {
                Some(self.bytes.chunks_exact(2).map(|b| widen(u16::from_le_bytes([b[0], b[1]]))).collect())
            }
            Kind::I64 => None,
        }
    }

    /// The bytes, if they are half precision.
    pub(crate) fn halves(&self) -> Option<&[u8]> {
        (self.kind == Kind::F16).then_some(&self.bytes[..])
    }

    /// The values, if they are integers.
    pub(crate) fn ints(&self) -> Option<Vec<i64>> {
        let int = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        (self.kind == Kind::I64).then(|| self.bytes.chunks_exact(8).map(int).collect())
    }
}

/// Half precision to single, exactly.
#[inline]
pub(crate) fn widen(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let bits = match magnitude {
        // Subnormal: a multiple of 2⁻²⁴.
        0..0x0400 => (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits(),
        // The exponent's bias is 15 there and 127 here.
        0x0400..0x7c00 => (magnitude << 13) + ((127 - 15) << 23),
        _ => 0x7f80_0000 | magnitude << 13,
    };
    f32::from_bits(sign | bits)
}

/// Reads a model.
///
/// # Errors
/// [`OnnxError`].
pub(crate) fn read(bytes: &[u8]) -> Result<Model<'_>, OnnxError> {
    let mut graph = None;
    fields(bytes, |field, value| {
        if field == 7 {
            graph = Some(value.bytes());
        }
        Ok(())
    })?;
    let mut model = Model::default();
    fields(graph.ok_or(OnnxError::NoGraph)?, |field, value| {
        match field {
            1 => model.nodes.push(node(value.bytes())?),
            5 => {
                let (name, tensor) = tensor(value.bytes())?;
                model.tensors.insert(name, tensor);
            }
            11 => model.inputs.push(value_info(value.bytes())?),
            12 => model.outputs.push(value_info(value.bytes())?.0),
            _ => {}
        }
        Ok(())
    })?;
    // Old files list initializers among the inputs.
    model.inputs.retain(|(name, _)| !model.tensors.contains_key(name));
    Ok(model)
}

fn node(bytes: &[u8]) -> Result<Node<'_>, OnnxError> {
    let mut node = Node::default();
    fields(bytes, |field, value| {
        match field {
            1 => node.inputs.push(value.text()),
            2 => node.outputs.push(value.text()),
            3 => node.name = value.text(),
            4 => node.op = value.text(),
            5 => {
                let (name, attribute) = attribute(value.bytes())?;
                node.attributes.insert(name, attribute);
            }
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
    let (mut name, mut attribute) = (String::new(), Attribute::default());
    fields(bytes, |field, value| {
        match field {
            1 => name = value.text(),
            2 => attribute.float = Some(f32::from_bits(value.number() as u32)),
            3 => attribute.int = Some(value.number() as i64),
            4 => attribute.text = Some(value.text()),
            5 => attribute.tensor = Some(tensor(value.bytes())?.1),
            8 => value.numbers(|v| attribute.ints.push(v as i64))?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((name, attribute))
}

fn tensor(bytes: &[u8]) -> Result<(String, Tensor<'_>), OnnxError> {
    let (mut name, mut dims, mut kind) = (String::new(), Vec::new(), 0);
    let (mut raw, mut typed, mut external) = (None, Vec::new(), false);
    fields(bytes, |field, value| {
        match field {
            1 => value.numbers(|v| dims.push(v as usize))?,
            2 => kind = value.number(),
            // float_data: packed, so already as raw_data would be.
            4 => typed.extend_from_slice(&value.fixed32()),
            7 => value.numbers(|v| typed.extend_from_slice(&v.to_le_bytes()))?,
            8 => name = value.text(),
            9 => raw = Some(value.bytes()),
            14 => external = value.number() == 1,
            _ => {}
        }
        Ok(())
    })?;
    let (kind, size) = match kind {
        1 => (Kind::F32, 4),
        7 => (Kind::I64, 8),
        10 => (Kind::F16, 2),
        _ => return Err(OnnxError::TensorType { name, kind }),
    };
    if external {
        return Err(OnnxError::External { name });
    }
    let bytes = raw.map_or(Cow::Owned(typed), Cow::Borrowed);
    let expected = dims.iter().try_fold(1_usize, |all, &n| all.checked_mul(n)).unwrap_or(usize::MAX);
    if expected.checked_mul(size) != Some(bytes.len()) {
        return Err(OnnxError::TensorSize { name, expected, got: bytes.len() });
    }
    Ok((name, Tensor { dims, kind, bytes }))
}

/// Name and number of dimensions.
fn value_info(bytes: &[u8]) -> Result<(String, usize), OnnxError> {
    let (mut name, mut dims) = (String::new(), 0);
    fields(bytes, |field, value| {
        match field {
            1 => name = value.text(),
            // TypeProto.tensor_type.shape.dim
            2 => fields(value.bytes(), |field, value| match field {
                1 => fields(value.bytes(), |field, value| match field {
                    2 => fields(value.bytes(), |field, _| {
                        dims += usize::from(field == 1);
                        Ok(())
                    }),
                    _ => Ok(()),
                }),
                _ => Ok(()),
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((name, dims))
}

/// Value of a field.
#[derive(Clone, Copy)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) => 0,
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Number(_) => &[],
            Self::Bytes(bytes) => bytes,
        }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// One number, or a packed list of them.
    fn numbers(self, mut take: impl FnMut(u64)) -> Result<(), OnnxError> {
        match self {
            Self::Number(number) => take(number),
            Self::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    take(varint(&mut bytes)?);
                }
            }
        }
        Ok(())
    }

    /// One 32-bit value, or a packed list of them, little-endian.
    fn fixed32(self) -> Cow<'a, [u8]> {
        match self {
            Self::Number(number) => Cow::Owned((number as u32).to_le_bytes().to_vec()),
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
        }
    }
}

/// Hands out the fields of a message.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => Field::Number(cut(&mut bytes, 8)?.iter().rev().fold(0, |all, &b| all << 8 | u64::from(b))),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).unwrap_or(usize::MAX);
                Field::Bytes(cut(&mut bytes, len)?)
            }
            5 => Field::Number(cut(&mut bytes, 4)?.iter().rev().fold(0, |all, &b| all << 8 | u64::from(b))),
            wire => return Err(OnnxError::Wire { field: key >> 3, wire }),
        };
        take(key >> 3, value)?;
    }
    Ok(())
}

fn cut<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], OnnxError> {
    let (head, tail) = bytes.split_at_checked(len).ok_or(OnnxError::Short { left: bytes.len() })?;
    *bytes = tail;
    Ok(head)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, OnnxError> {
    let mut value = 0;
    // 64 bits in groups of 7.
    for shift in (0..64).step_by(7) {
        let byte = cut(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(OnnxError::Short { left: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_exactly() {
        for (half, value) in [
            (0x0000_u16, 0.0_f32),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(widen(half).to_bits(), value.to_bits(), "{half:#06x}");
        }
        assert!(widen(0x7e00).is_nan());
    }

    #[test]
    fn every_shortened_file_is_refused_or_read_without_panic() {
        let bytes = include_bytes!("../../tests/tiny/multitask-spatial-1/model.onnx");
        assert!(read(bytes).is_ok());
        for len in (0..bytes.len()).step_by(97) {
            if let Ok(model) = read(&bytes[..len]) {
                assert!(model.nodes.is_empty(), "a graph cut at {len} is no graph");
            }
        }
        let mut wrong = bytes.to_vec();
        for at in (0..bytes.len()).step_by(31) {
            wrong[at] ^= 0xff;
            drop(read(&wrong));
            wrong[at] ^= 0xff;
        }
    }
}
