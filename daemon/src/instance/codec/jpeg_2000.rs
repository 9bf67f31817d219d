//! JPEG 2000 (PS3.5 section 8.2.4) by `openjp2`, OpenJPEG in Rust: it needs no C++ compiler.
use super::Frame;
use jpeg2k::{DecodeParameters, Image};
use std::panic::catch_unwind;

/// Decodes a frame into one cell a pixel.
pub(super) fn decode(frame: &Frame<'_>) -> Result<Vec<u16>, String> {
    let (columns, rows, components, bits) = size(frame.stream)?;
    frame.check(columns, rows, components, bits)?;
    // Strict: else a stream that breaks off gives an image all the same.
    let parameters = DecodeParameters::new().strict(true);
    // The decoder is a translation from C: a broken stream may trip a check in it.
    let image = catch_unwind(|| Image::from_bytes_with(frame.stream, parameters))
        .map_err(|_| "the JPEG 2000 decoder failed".to_owned())?
        .map_err(|e| format!("JPEG 2000: {e}"))?;
    let component = image.components().first().ok_or("JPEG 2000: no component")?;
    if (component.width() as usize, component.height() as usize) != (columns, rows) {
        return Err("JPEG 2000: the component is subsampled".to_owned());
    }
    if !frame.signed && component.data().iter().any(|v| *v < 0) {
        return Err("negative pixels in a JPEG 2000 stream, the header announces unsigned ones".to_owned());
    }
    Ok(component.data().iter().map(|v| *v as u16).collect())
}

/// Columns, rows, components and bits from the SIZ marker segment (ISO/IEC 15444-1 section A.5.1), before anything is
/// allocated: SOC, SIZ, length, capabilities, then the sizes of the reference grid, its offset and the tiles.
fn size(stream: &[u8]) -> Result<(usize, usize, usize, usize), String> {
    let word = |at: usize| stream.get(at..).and_then(|s| s.first_chunk()).map(|b| u32::from_be_bytes(*b));
    if stream.get(..4) != Some(b"\xff\x4f\xff\x51") {
        return Err("no JPEG 2000 codestream".to_owned());
    }
    let cut = "the JPEG 2000 header is cut off";
    let extent = |at: usize| -> Result<usize, String> {
        let (end, start) = (word(at).ok_or(cut)?, word(at + 8).ok_or(cut)?);
        Ok(end.saturating_sub(start) as usize)
    };
    let (columns, rows) = (extent(8)?, extent(12)?);
    let tile_edges = [word(24).ok_or(cut)?, word(28).ok_or(cut)?];
    let tiles: u64 = [columns, rows]
        .iter()
        .zip(tile_edges)
        .map(|(n, t)| (*n as u64).div_ceil(u64::from(t).max(1)))
        .product();
    if tiles > 1024 {
        return Err(format!("{tiles} JPEG 2000 tiles"));
    }
    let components = stream.get(40..42).ok_or(cut)?;
    let bits = usize::from(stream.get(42).ok_or(cut)? & 0x7f) + 1;
    Ok((columns, rows, usize::from(components[0]) << 8 | usize::from(components[1]), bits))
}
