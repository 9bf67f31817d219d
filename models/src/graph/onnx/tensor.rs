//! Constants of a file.
//!
//! Owns: their types and values. Never does: copy weights that lie in the file as they are used.

use std::borrow::Cow;

use super::OnnxError;
use super::wire::fields;
use crate::graph::limits::{AXES_MAX, OPERANDS_MAX};

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// 64-bit integers.
    I64,
}

/// A constant.
#[derive(Debug, Clone)]
pub(crate) struct Tensor<'a> {
    /// Sizes.
    pub(crate) dims: Vec<usize>,
    /// Type of the values.
    pub(crate) kind: Kind,
    /// The values, little-endian; as many as `dims` says.
    bytes: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.kind.size()
    }

    /// The values as single precision; `None` for integers.
    pub(crate) fn floats(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
        match self.kind {
            Kind::F32 => Some(self.bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            Kind::F16 => Some(pairs().map(widen).collect()),
            Kind::Bf16 => Some(pairs().map(widen_bf16).collect()),
            Kind::I64 => None,
        }
    }

    /// No value is infinite or NaN; nothing is copied.
    pub(crate) fn is_finite(&self) -> bool {
        let pairs = |exponent: u16| {
            let mut all = self.bytes.as_chunks::<2>().0.iter();
            all.all(|&b| u16::from_le_bytes(b) & exponent != exponent)
        };
        match self.kind {
            Kind::F32 => self.bytes.as_chunks::<4>().0.iter().all(|&b| f32::from_le_bytes(b).is_finite()),
            Kind::F16 => pairs(0x7c00),
            Kind::Bf16 => pairs(0x7f80),
            Kind::I64 => true,
        }
    }

    /// The values as they lie in the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values, if they are integers.
    pub(crate) fn ints(&self) -> Option<Vec<i64>> {
        let all = || self.bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
        (self.kind == Kind::I64).then(all)
    }
}

impl Kind {
    /// Bytes of a value.
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I64 => 8,
        }
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

/// bfloat16 to single precision, exactly.
#[inline]
pub(crate) fn widen_bf16(upper: u16) -> f32 {
    f32::from_bits(u32::from(upper) << 16)
}

/// Reads a tensor: its name and itself.
pub(super) fn tensor(bytes: &[u8]) -> Result<(String, Tensor<'_>), OnnxError> {
    let (mut name, mut dims, mut number) = (String::new(), Vec::new(), 0);
    let (mut raw, mut external) = (None, false);
    // Values outside `raw_data`, each kind in a field of its own.
    let (mut floats, mut shorts, mut ints) = (Cow::Borrowed(&[][..]), Vec::new(), Vec::new());
    fields(bytes, |field| {
        match field.id {
            1 => field.numbers(|v| push(&mut dims, v, AXES_MAX, "dimensions of a tensor"))?,
            2 => number = field.number()?,
            4 if floats.is_empty() => floats = field.fixed32(),
            4 => floats.to_mut().extend_from_slice(&field.fixed32()),
            // int32_data holds the 16-bit types, one value an integer.
            5 => field.numbers(|v| {
                shorts.extend_from_slice(&(v as u16).to_le_bytes());
                Ok(())
            })?,
            7 => field.numbers(|v| push(&mut ints, v, OPERANDS_MAX, "values outside raw_data"))?,
            8 => name = field.text()?,
            9 => raw = Some(field.bytes()?),
            13 => external = true,
            14 => external |= field.number()? == 1,
            _ => {}
        }
        Ok(())
    })?;
    let kind = match number {
        1 => Kind::F32,
        7 => Kind::I64,
        10 => Kind::F16,
        16 => Kind::Bf16,
        kind => return Err(OnnxError::TensorType { name, kind }),
    };
    if external {
        return Err(OnnxError::External { name });
    }
    let typed = || match kind {
        Kind::F32 => floats,
        Kind::F16 | Kind::Bf16 => Cow::Owned(shorts),
        Kind::I64 => Cow::Owned(ints.iter().flat_map(|v: &u64| v.to_le_bytes()).collect()),
    };
    let bytes = raw.map_or_else(typed, Cow::Borrowed);
    let dims: Vec<usize> = dims.iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    let expected = dims.iter().try_fold(1_usize, |all, &n| all.checked_mul(n)).unwrap_or(usize::MAX);
    if expected.checked_mul(kind.size()) != Some(bytes.len()) {
        return Err(OnnxError::TensorSize { name, expected, got: bytes.len() });
    }
    Ok((name, Tensor { dims, kind, bytes }))
}

/// Adds to a list that has a bound.
pub(super) fn push<T>(list: &mut Vec<T>, value: T, max: usize, what: &'static str) -> Result<(), OnnxError> {
    if list.len() == max {
        return Err(OnnxError::TooMany { what, max });
    }
    list.push(value);
    Ok(())
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
    fn upper_halves_widen_exactly() {
        for (upper, value) in [(0x0000_u16, 0.0_f32), (0x3f80, 1.0), (0xc040, -3.0), (0x0001, 9.183_55e-41)] {
            assert_eq!(widen_bf16(upper).to_bits(), value.to_bits(), "{upper:#06x}");
        }
        assert!(widen_bf16(0x7fc0).is_nan());
    }
}
