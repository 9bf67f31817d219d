//! From stored pixels to Hounsfield units.
//!
//! Only what a CT Image may hold is read: one sample a pixel, MONOCHROME2, 8 or 16 bits allocated, with its rescale
//! (PS3.3 sections C.7.6.3 and C.8.2.1). Anything else is refused by name. The size of the image is checked before
//! anything is decoded, so that a small file can't unfold into a large image.
use super::Instance;
use super::codec;
use super::error::{InstanceError, Problem};
use super::header::PixelFacts;
use super::scan::{EXPLICIT_LITTLE, IMPLICIT_LITTLE, PixelLocation};
use kernels::Stored;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most rows and columns of a slice. Scanners reconstruct 512 to 2048.
pub const ROWS_COLUMNS_MAX: usize = 4096;
/// Transfer syntaxes that are read, the preferred one first: what costs the least to read, then lossless before what
/// may be lossy.
pub const TRANSFER_SYNTAXES: &[&str] = &[
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    codec::JPEG_LOSSLESS_SV1,
    codec::JPEG_LOSSLESS,
    codec::RLE,
    codec::JPEG_LS_LOSSLESS,
    #[cfg(feature = "jpeg-2000")]
    codec::JPEG_2000_LOSSLESS,
    codec::JPEG_LS,
    #[cfg(feature = "jpeg-2000")]
    codec::JPEG_2000,
];

/// The pixels of a slice as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSlice {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows × columns` pixel cells, row by row.
    pub cells: Vec<u16>,
    /// What they mean.
    pub stored: Stored,
}

impl StoredSlice {
    /// `rows × columns` Hounsfield units, row by row.
    pub fn hu(&self) -> Vec<f32> {
        self.stored.plane(&self.cells)
    }
}

/// Reads and decodes the pixels of an instance from its file.
///
/// # Errors
/// [`InstanceError`]: a broken or vanished file, an image that is no CT slice, a compression that this build lacks.
pub fn read_pixels(instance: &Instance) -> Result<StoredSlice, InstanceError> {
    let fail = |problem| InstanceError::new(&instance.path, problem);
    let (rows, columns) = (instance.header.geometry.rows, instance.header.geometry.columns);
    if let Some(what) = instance.damage() {
        return Err(fail(Problem::Image { what: what.to_owned() }));
    }
    let format = Format::of(&instance.facts, rows, columns).map_err(fail)?;
    let pixels = rows * columns;
    let read = |(offset, length): (usize, usize)| -> Result<Vec<u8>, InstanceError> {
        let mut bytes = vec![0; length];
        let file = File::open(&instance.path).map_err(|e| fail(Problem::Io(e)))?;
        file.read_exact_at(&mut bytes, offset as u64).map_err(|e| fail(Problem::Io(e)))?;
        Ok(bytes)
    };
    let cells = match &instance.location {
        PixelLocation::Native { offset, length } => {
            let bytes = pixels * format.bytes;
            if *length < bytes {
                let what = format!("{length} bytes of pixels, {rows} × {columns} needs {bytes}");
                return Err(fail(Problem::Image { what }));
            }
            codec::native(&read((*offset, bytes))?, format.bytes)
        }
        PixelLocation::Encapsulated { fragments } => {
            // A frame may span several fragments: PS3.5 section A.4.
            let mut stream = Vec::new();
            for fragment in fragments {
                stream.extend(read(*fragment)?);
            }
            let frame = codec::Frame {
                rows,
                columns,
                bytes: format.bytes,
                signed: format.stored.signed,
                stream: &stream,
            };
            codec::decode(&instance.transfer_syntax, &frame).map_err(fail)?
        }
        PixelLocation::Absent | PixelLocation::Damaged { .. } => {
            return Err(fail(Problem::Image { what: "the file holds no pixel data".to_owned() }));
        }
    };
    if cells.len() != pixels {
        let what = format!("{} pixels were decoded, the header announces {pixels}", cells.len());
        return Err(fail(Problem::Image { what }));
    }
    Ok(StoredSlice { rows, columns, cells, stored: format.stored })
}

/// How pixels are stored.
struct Format {
    /// Bytes a pixel cell, 1 or 2.
    bytes: usize,
    stored: Stored,
}

impl Format {
    fn of(facts: &PixelFacts, rows: usize, columns: usize) -> Result<Self, Problem> {
        let unsupported = |what: String| Err(Problem::Unsupported { what });
        if !(1..=ROWS_COLUMNS_MAX).contains(&rows) || !(1..=ROWS_COLUMNS_MAX).contains(&columns) {
            return unsupported(format!("a matrix of {rows} × {columns} (at most {ROWS_COLUMNS_MAX}²)"));
        }
        if facts.samples.is_some_and(|s| s != 1) {
            return unsupported(format!("{} samples a pixel", facts.samples.unwrap_or(0)));
        }
        if facts.photometric != "MONOCHROME2" {
            return unsupported(format!("photometric interpretation {:?}", facts.photometric));
        }
        let Some(allocated @ (8 | 16)) = facts.bits_allocated else {
            return unsupported(format!("Bits Allocated {:?}", facts.bits_allocated));
        };
        // PS3.3 section C.7.6.3: all of these are type 1. Absent ones have one meaning only.
        let bits = facts.bits_stored.unwrap_or(allocated);
        let high_bit = facts.high_bit.unwrap_or(bits.wrapping_sub(1));
        if bits == 0 || bits > allocated || high_bit >= allocated || high_bit + 1 < bits {
            return unsupported(format!("{bits} bits stored below bit {high_bit} of {allocated}"));
        }
        let signed = match facts.representation {
            Some(0) => false,
            Some(1) => true,
            other => return unsupported(format!("Pixel Representation {other:?}")),
        };
        let (Some(slope), Some(intercept)) = (facts.slope, facts.intercept) else {
            return Err(Problem::NoRescale);
        };
        if slope == 0.0 {
            return unsupported("a Rescale Slope of 0".to_owned());
        }
        let mut stored = Stored {
            bits: u32::from(bits),
            shift: u32::from(high_bit + 1 - bits),
            signed,
            padding: None,
            slope,
            intercept,
        };
        stored.padding = facts.padding.map(|p| stored.extend(u32::from(p)));
        Ok(Self { bytes: usize::from(allocated / 8), stored })
    }
}

#[cfg(test)]
#[path = "pixels_tests.rs"]
mod tests;
