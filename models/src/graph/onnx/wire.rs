//! Protocol buffers as bytes: fields of a message.
//!
//! Owns: the wire format. Never does: know a message, or allocate more than a file's bytes.

use std::borrow::Cow;

use super::OnnxError;

/// A field of a message.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) id: u64,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    /// A number.
    pub(super) fn number(self) -> Result<u64, OnnxError> {
        match self.value {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) => Err(OnnxError::Wire { field: self.id, wire: 2 }),
        }
    }

    /// A message, a text or bytes.
    pub(super) fn bytes(self) -> Result<&'a [u8], OnnxError> {
        match self.value {
            Value::Number(_) => Err(OnnxError::Wire { field: self.id, wire: 0 }),
            Value::Bytes(bytes) => Ok(bytes),
        }
    }

    /// A text; what is no UTF-8 is replaced.
    pub(super) fn text(self) -> Result<String, OnnxError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// One number, or a packed list of them.
    pub(super) fn numbers(self, mut take: impl FnMut(u64) -> Result<(), OnnxError>) -> Result<(), OnnxError> {
        match self.value {
            Value::Number(number) => take(number),
            Value::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    take(varint(&mut bytes)?)?;
                }
                Ok(())
            }
        }
    }

    /// One 32-bit value, or a packed list of them, little-endian.
    pub(super) fn fixed32(self) -> Cow<'a, [u8]> {
        match self.value {
            Value::Number(number) => Cow::Owned((number as u32).to_le_bytes().to_vec()),
            Value::Bytes(bytes) => Cow::Borrowed(bytes),
        }
    }
}

/// Hands out the fields of a message.
pub(super) fn fields<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(Field<'a>) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let fixed = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, &b| all << 8 | u64::from(b));
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Number(fixed(cut(&mut bytes, 8)?)),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).unwrap_or(usize::MAX);
                Value::Bytes(cut(&mut bytes, len)?)
            }
            5 => Value::Number(fixed(cut(&mut bytes, 4)?)),
            wire => return Err(OnnxError::Wire { field: key >> 3, wire }),
        };
        take(Field { id: key >> 3, value })?;
    }
    Ok(())
}

/// The first `len` bytes; the others are left.
pub(crate) fn cut<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], OnnxError> {
    let (head, tail) = bytes.split_at_checked(len).ok_or(OnnxError::Short { left: bytes.len() })?;
    *bytes = tail;
    Ok(head)
}

/// A number of variable length.
pub(crate) fn varint(bytes: &mut &[u8]) -> Result<u64, OnnxError> {
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
