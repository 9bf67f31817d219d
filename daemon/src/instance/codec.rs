//! The compressions of CT images, each in its own file. Every decoder is given the size that the header announces,
//! checks it against the stream before it allocates, and gives one 16-bit cell a pixel.
//!
//! RLE, lossless JPEG and JPEG-LS are our own. `jpeg-decoder` 0.3.2 (which dicom-rs uses) ignores restart intervals and
//! the point transform of lossless JPEG without an error, and wrong pixels in silence are the worst of answers. CharLS
//! needs a C++ compiler, and some of the broken streams of our tests kept it busy for minutes.
#[cfg(feature = "jpeg-2000")]
mod jpeg_2000;
mod jpeg_lossless;
mod jpeg_ls;
mod markers;
mod rle;

use super::error::Problem;

pub(super) const RLE: &str = "1.2.840.10008.1.2.5";
pub(super) const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.57";
pub(super) const JPEG_LOSSLESS_SV1: &str = "1.2.840.10008.1.2.4.70";
pub(super) const JPEG_LS_LOSSLESS: &str = "1.2.840.10008.1.2.4.80";
pub(super) const JPEG_LS: &str = "1.2.840.10008.1.2.4.81";
#[cfg(feature = "jpeg-2000")]
pub(super) const JPEG_2000_LOSSLESS: &str = "1.2.840.10008.1.2.4.90";
#[cfg(feature = "jpeg-2000")]
pub(super) const JPEG_2000: &str = "1.2.840.10008.1.2.4.91";

/// A compressed frame and what the header says of it.
pub(super) struct Frame<'a> {
    pub rows: usize,
    pub columns: usize,
    /// Bytes a pixel when uncompressed, 1 or 2.
    pub bytes: usize,
    /// Whether the pixels are two's complement.
    #[cfg_attr(not(feature = "jpeg-2000"), expect(dead_code))]
    pub signed: bool,
    pub stream: &'a [u8],
}

impl Frame<'_> {
    pub fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    /// Checks the size in the stream's own header against the announced one.
    fn check(&self, columns: usize, rows: usize, components: usize, bits: usize) -> Result<(), String> {
        if (rows, columns) != (self.rows, self.columns) || components != 1 || bits > 8 * self.bytes {
            return Err(format!(
                "the compressed image is {rows} × {columns} × {components} of {bits} bits, the header announces {} × {} of {}",
                self.rows,
                self.columns,
                8 * self.bytes
            ));
        }
        Ok(())
    }
}

/// Cells of uncompressed little-endian pixels.
pub(super) fn native(bytes: &[u8], bytes_a_pixel: usize) -> Vec<u16> {
    if bytes_a_pixel == 1 {
        bytes.iter().map(|b| u16::from(*b)).collect()
    } else {
        bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    }
}

/// Decodes one frame.
///
/// # Errors
/// [`Problem::Compression`] for a transfer syntax that this build can't undo, [`Problem::Image`] for a broken stream.
pub(super) fn decode(transfer_syntax: &str, frame: &Frame<'_>) -> Result<Vec<u16>, Problem> {
    let decoded = match transfer_syntax {
        RLE => rle::decode(frame),
        JPEG_LOSSLESS | JPEG_LOSSLESS_SV1 => jpeg_lossless::decode(frame),
        JPEG_LS_LOSSLESS | JPEG_LS => jpeg_ls::decode(frame),
        #[cfg(feature = "jpeg-2000")]
        JPEG_2000_LOSSLESS | JPEG_2000 => jpeg_2000::decode(frame),
        uid => return Err(Problem::Compression { uid: uid.to_owned() }),
    };
    decoded.map_err(|what| Problem::Image { what })
}
