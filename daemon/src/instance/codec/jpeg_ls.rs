//! JPEG-LS (PS3.5 section 8.2.3) by CharLS, which needs a C++ compiler and CMake to build.
use super::{Frame, native};

/// Decodes a frame into one cell a pixel.
pub(super) fn decode(frame: &Frame<'_>) -> Result<Vec<u16>, String> {
    let mut decoder = charls::CharLS::default();
    let info = decoder.get_frame_info(frame.stream).map_err(|e| format!("JPEG-LS: {e}"))?;
    let [columns, rows] = [info.width, info.height].map(|n| n as usize);
    let [components, bits] = [info.component_count, info.bits_per_sample].map(|n| n.max(0) as usize);
    frame.check(columns, rows, components, bits)?;
    let bytes = charls::CharLS::default().decode(frame.stream).map_err(|e| format!("JPEG-LS: {e}"))?;
    Ok(native(&bytes, bits.div_ceil(8)))
}
