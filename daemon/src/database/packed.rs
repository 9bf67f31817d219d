//! The bytes of a result as they lie in the database: large ones packed.
//!
//! Masks and pictures are mostly background: a segmentation of 29 MB packs to some 100 KiB in a few milliseconds, and the
//! one transaction on which every flag waits writes that much less. What is sent is what went in, byte for byte.
use rusqlite::types::Type;

/// Packing smaller ones would save a page or two.
const PACKED_FROM_BYTES: usize = 64 << 10;

/// Bytes, packed where that pays.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// As they are written.
    pub(super) bytes: Vec<u8>,
    /// How long they are unpacked; `None`: they are not packed.
    pub(super) unpacked_bytes: Option<usize>,
}

impl Packed {
    /// Packs `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() >= PACKED_FROM_BYTES {
            let packed = lz4_flex::compress(bytes);
            if packed.len() < bytes.len() {
                return Self { bytes: packed, unpacked_bytes: Some(bytes.len()) };
            }
        }
        Self { bytes: bytes.to_vec(), unpacked_bytes: None }
    }

    /// What went in.
    pub(super) fn unpack(self) -> rusqlite::Result<Vec<u8>> {
        match self.unpacked_bytes {
            None => Ok(self.bytes),
            Some(length) => lz4_flex::decompress(&self.bytes, length)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let background = vec![0; 1 << 20];
        let noise: Vec<u8> = (0..1u32 << 17).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [&[][..], &[1, 2, 3], &background[..PACKED_FROM_BYTES - 1], &background, &noise] {
            let packed = Packed::new(bytes);
            assert!(packed.bytes.len() <= bytes.len());
            assert_eq!(packed.unpacked_bytes.is_some(), packed.bytes.len() < bytes.len());
            assert!(packed.unpack().unwrap() == bytes);
        }
        assert!(Packed::new(&background).bytes.len() < 8 << 10);
    }

    #[test]
    fn what_is_broken_is_said_so() {
        let mut packed = Packed::new(&vec![0; 1 << 20]);
        packed.bytes.truncate(100);
        assert!(packed.unpack().is_err());
    }
}
