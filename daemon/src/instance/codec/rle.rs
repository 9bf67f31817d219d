//! RLE Lossless (PS3.5 annex G): byte planes, the most significant first, each packed by PackBits.
use super::Frame;

/// Header: the number of segments and 15 offsets, 32 bits each (PS3.5 section G.5).
const HEADER_BYTES: usize = 64;

/// Decodes a frame into one cell a pixel.
pub(super) fn decode(frame: &Frame<'_>) -> Result<Vec<u16>, String> {
    let word = |i: usize| -> Option<usize> {
        Some(u32::from_le_bytes(*frame.stream.get(4 * i..)?.first_chunk()?) as usize)
    };
    let segments = word(0).ok_or("the RLE header is cut off")?;
    if segments != frame.bytes || frame.stream.len() < HEADER_BYTES {
        return Err(format!("{segments} RLE segments, {} are needed", frame.bytes));
    }
    let mut cells = vec![0u16; frame.pixels()];
    for segment in 0..segments {
        let start = word(1 + segment).unwrap_or(0);
        let end = if segment + 1 < segments { word(2 + segment).unwrap_or(0) } else { frame.stream.len() };
        if start < HEADER_BYTES {
            return Err(format!("RLE segment {segment} starts inside the header"));
        }
        let packed = frame.stream.get(start..end).ok_or("an RLE segment lies outside of the pixel data")?;
        let shift = 8 * (segments - 1 - segment);
        let filled = unpack(packed, &mut cells, shift);
        if filled != cells.len() {
            return Err(format!("RLE segment {segment} holds {filled} of {} bytes", cells.len()));
        }
    }
    Ok(cells)
}

/// Adds a byte plane to the cells; returns how many cells it reached (PS3.5 section G.3.2).
fn unpack(packed: &[u8], cells: &mut [u16], shift: usize) -> usize {
    let mut at = 0;
    let mut filled = 0;
    while filled < cells.len() {
        let Some(control) = packed.get(at) else { break };
        let control = usize::from(*control);
        at += 1;
        match control {
            0..=127 => {
                let literal = packed.get(at..packed.len().min(at + control + 1)).unwrap_or_default();
                for (cell, byte) in cells[filled..].iter_mut().zip(literal) {
                    *cell |= u16::from(*byte) << shift;
                }
                filled += literal.len().min(cells.len() - filled);
                at += control + 1;
            }
            // 128 is "no operation".
            128 => {}
            _ => {
                let Some(byte) = packed.get(at) else { break };
                at += 1;
                let run = (257 - control).min(cells.len() - filled);
                for cell in &mut cells[filled..filled + run] {
                    *cell |= u16::from(*byte) << shift;
                }
                filled += run;
            }
        }
    }
    filled
}
