//! Stored pixel cells → Hounsfield units.
//!
//! Owns: the arithmetic of PS3.5 section 8.1.1 (the bits of a cell), PS3.3 section C.11.1.1.2 (rescale) and the rule for padding. Never does: check
//! what a header says; the decoder refuses what is no CT.

/// Padding is taken for air: scanners that pad outside of the reconstructed circle state values of −2000 or lower.
pub const PADDING_HU_MAX: f32 = -1024.0;

/// How the cells of a slice become Hounsfield units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// Bits of a pixel, 1 to 16.
    pub bits: u32,
    /// Position of the lowest of them; `bits + shift` is at most 16.
    pub shift: u32,
    /// Two's complement.
    pub signed: bool,
    /// The value that stands for "no pixel".
    pub padding: Option<i32>,
    /// Rescale Slope.
    pub slope: f64,
    /// Rescale Intercept.
    pub intercept: f64,
}

impl Stored {
    /// The value that the lower bits of `bits` stand for: those outside of Bits Stored are not the pixel's (they held overlays).
    pub fn extend(&self, bits: u32) -> i32 {
        let unused = 32 - self.bits;
        let top = bits << unused;
        if self.signed { (top as i32) >> unused } else { (top >> unused) as i32 }
    }

    /// Hounsfield units of a cell.
    pub fn hu(&self, cell: u16) -> f32 {
        let value = self.extend(u32::from(cell) >> self.shift);
        let hu = (f64::from(value) * self.slope + self.intercept) as f32;
        if self.padding == Some(value) { hu.min(PADDING_HU_MAX) } else { hu }
    }

    /// Hounsfield units of all cells.
    pub fn plane(&self, cells: &[u16]) -> Vec<f32> {
        cells.iter().map(|cell| self.hu(*cell)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_sign_rescale_and_padding() {
        let plain =
            Stored { bits: 12, shift: 0, signed: false, padding: None, slope: 1.0, intercept: -1024.0 };
        let signed = Stored { bits: 12, signed: true, intercept: 0.0, ..plain };
        let high = Stored { shift: 4, ..plain };
        let padded =
            Stored { bits: 16, signed: true, padding: Some(-2000), slope: 2.0, intercept: 1.5, ..plain };
        for (stored, cell, hu) in [
            (plain, 0x0fff, 3071.0),
            (plain, 0xf000, -1024.0),
            (signed, 0x0fff, -1.0),
            (signed, 0x0800, -2048.0),
            (high, 0x0010, -1023.0),
            (padded, (-2000_i16) as u16, -3998.5),
            (Stored { intercept: 3000.0, ..padded }, (-2000_i16) as u16, PADDING_HU_MAX),
            (padded, 100, 201.5),
        ] {
            assert_eq!(stored.hu(cell), hu, "{stored:?} {cell:#x}");
        }
    }
}
