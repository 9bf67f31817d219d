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
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most rows and columns of a slice. Scanners reconstruct 512 to 2048.
pub const ROWS_COLUMNS_MAX: usize = 4096;
/// Padding is taken for air: scanners that pad outside of the reconstructed circle state values of −2000 or lower.
const PADDING_HU_MAX: f32 = -1024.0;

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

/// A slice in Hounsfield units.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceHu {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows × columns` values, row by row.
    pub hu: Vec<f32>,
}

/// Reads and decodes the pixels of an instance from its file.
///
/// # Errors
/// [`InstanceError`]: a broken or vanished file, an image that is no CT slice, a compression that this build lacks.
pub fn read_hu(instance: &Instance) -> Result<SliceHu, InstanceError> {
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
    let stored = match &instance.location {
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
            let frame =
                codec::Frame { rows, columns, bytes: format.bytes, signed: format.signed, stream: &stream };
            codec::decode(&instance.transfer_syntax, &frame).map_err(fail)?
        }
        PixelLocation::Absent | PixelLocation::Damaged { .. } => {
            return Err(fail(Problem::Image { what: "the file holds no pixel data".to_owned() }));
        }
    };
    if stored.len() != pixels {
        let what = format!("{} pixels were decoded, the header announces {pixels}", stored.len());
        return Err(fail(Problem::Image { what }));
    }
    let hu = stored.iter().map(|v| format.hu(*v)).collect();
    Ok(SliceHu { rows, columns, hu })
}

/// How stored values become Hounsfield units.
struct Format {
    /// Bytes a pixel, 1 or 2.
    bytes: usize,
    bits_stored: u32,
    /// Position of the lowest stored bit.
    shift: u32,
    signed: bool,
    padding: Option<i32>,
    slope: f64,
    intercept: f64,
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
        let stored = facts.bits_stored.unwrap_or(allocated);
        let high_bit = facts.high_bit.unwrap_or(stored.wrapping_sub(1));
        if stored == 0 || stored > allocated || high_bit >= allocated || high_bit + 1 < stored {
            return unsupported(format!("{stored} bits stored below bit {high_bit} of {allocated}"));
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
        let mut format = Self {
            bytes: usize::from(allocated / 8),
            bits_stored: u32::from(stored),
            shift: u32::from(high_bit + 1 - stored),
            signed,
            padding: None,
            slope,
            intercept,
        };
        format.padding = facts.padding.map(|p| format.extend(u32::from(p)));
        Ok(format)
    }

    /// PS3.5 section 8.1.1: the bits of a pixel cell outside of Bits Stored are not the pixel's (they held overlays).
    fn extend(&self, bits: u32) -> i32 {
        let unused = 32 - self.bits_stored;
        let top = bits << unused;
        if self.signed { (top as i32) >> unused } else { (top >> unused) as i32 }
    }

    fn hu(&self, cell: u16) -> f32 {
        let value = self.extend(u32::from(cell) >> self.shift);
        let hu = (f64::from(value) * self.slope + self.intercept) as f32;
        if self.padding == Some(value) { hu.min(PADDING_HU_MAX) } else { hu }
    }
}

#[cfg(test)]
#[path = "pixels_tests.rs"]
mod tests;
