//! Logits → probabilities, boxes, and masks on the source grid, one bit a voxel: `masks.cu`.
//!
//! The counts of each side and the split of the lungs have no kernel: `masks.cu` says why.

use std::ops::Range;

use super::ingest::step;
use super::{GRID_YZ_MAX, blocks, holds, int, usage};
use crate::device::{Arg, Buffer, DeviceError, Stream};
use crate::paste::Paste;

/// Threads of a block: `MASKS_THREADS` of `traits.cuh`.
const THREADS: usize = 256;
/// Values of a thread that looks for lungs: `MASKS_VALUES`.
const VALUES: usize = 8;
/// Numbers of the record of a slice: `MASKS_RECORD`.
pub const RECORD: usize = 6;

/// Turns `count` logits (f32) into probabilities, in place; the 32-bit word of `flags` becomes 1 if one is not finite, else stays.
///
/// # Errors
/// [`DeviceError::Usage`] for a buffer that is too small.
pub fn sigmoid(
    stream: &mut Stream,
    values: &Buffer,
    count: usize,
    flags: &Buffer,
) -> Result<(), DeviceError> {
    holds("logits", values, count * 4)?;
    holds("flags", flags, 4)?;
    if count == 0 {
        return Ok(());
    }
    let args = [Arg::Ptr(values.ptr()), Arg::I32(int(count)?), Arg::Ptr(flags.ptr())];
    stream.launch("masks_sigmoid", [blocks(count, THREADS), 1, 1], [THREADS as u32, 1, 1], 0, &args)
}

/// Turns lung logits of `[slices, rows, columns]` (f32) into probabilities, in place, and writes [`RECORD`] 32-bit words a slice: [`LungRecord`].
///
/// # Errors
/// [`DeviceError::Usage`] for a buffer that is too small and sizes that make no sense.
pub fn lungs(
    stream: &mut Stream,
    values: &Buffer,
    [slices, rows, columns]: [usize; 3],
    threshold: f32,
    records: &Buffer,
) -> Result<(), DeviceError> {
    let plane = rows * columns;
    if plane == 0 || slices == 0 || slices > GRID_YZ_MAX {
        return Err(usage(format!("{slices} slices of {rows} x {columns}")));
    }
    holds("lung logits", values, slices * plane * 4)?;
    holds("lung records", records, slices * RECORD * 4)?;
    stream.fill_zero(records, 0, slices * RECORD * 4)?;
    let args = [
        Arg::Ptr(values.ptr()),
        Arg::I32(int(rows)?),
        Arg::I32(int(columns)?),
        Arg::F32(threshold),
        Arg::Ptr(records.ptr()),
    ];
    let grid = [blocks(plane, THREADS * VALUES), slices as u32, 1];
    stream.launch("masks_lungs", grid, [THREADS as u32, 1, 1], 0, &args)
}

/// What [`lungs`] found in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LungRecord {
    /// Rows and columns that hold the voxels at or above the threshold; empty if there is none.
    pub rows: Range<usize>,
    /// Columns of these.
    pub columns: Range<usize>,
    /// How many there are.
    pub voxels: usize,
    /// Whether all logits were finite; nothing else counts if not.
    pub finite: bool,
}

impl LungRecord {
    /// Reads the words of a slice of `size` = [rows, columns].
    pub fn new(words: [u32; RECORD], size: [usize; 2]) -> Self {
        // Kept as maxima, so that zero is "none".
        let [above, below, before, behind, voxels, broken] = words.map(|word| word as usize);
        let range = |first: usize, stop: usize, len: usize| len.saturating_sub(first)..stop;
        let (rows, columns) = (range(above, below, size[0]), range(before, behind, size[1]));
        let (rows, columns) = if voxels == 0 { (0..0, 0..0) } else { (rows, columns) };
        Self { rows, columns, voxels, finite: broken == 0 }
    }
}

/// Crops of probabilities in device memory, as [`Pasted::launch`] takes them.
#[derive(Debug, Clone, Copy)]
pub struct Crops<'a> {
    /// f32.
    pub values: &'a Buffer,
    /// Slices.
    pub slices: usize,
    /// Rows and columns of a crop, without gaps.
    pub size: [usize; 2],
}

/// The packed form of pasted masks: the box of a [`Paste`] on the source grid, row by row, 32 columns a word, the lowest bit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pasted {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Columns of a source plane.
    stride: usize,
}

impl Pasted {
    /// The form for `paste`.
    pub fn new(paste: &Paste) -> Self {
        Self { rows: paste.rows().clone(), columns: paste.columns().clone(), stride: paste.source()[1] }
    }

    /// Words of the mask of one slice; 0 if the box vanishes on the source grid.
    pub fn words(&self) -> usize {
        self.rows.len() * self.row_words()
    }

    fn row_words(&self) -> usize {
        self.columns.len().div_ceil(32)
    }

    /// Bytes that must move for `crops`: each value once, each word once.
    pub fn bytes_moved(&self, crops: &Crops<'_>) -> usize {
        crops.slices * 4 * (crops.size[0] * crops.size[1] + self.words())
    }

    /// Zooms each crop to the box and writes the bits of the voxels at or above `threshold`: [`Pasted::words`] a slice, from byte `offset` of `bits`.
    ///
    /// # Errors
    /// [`DeviceError::Usage`] for a buffer that is too small and sizes that make no sense.
    pub fn launch(
        &self,
        stream: &mut Stream,
        crops: Crops<'_>,
        threshold: f32,
        bits: &Buffer,
        offset: usize,
    ) -> Result<(), DeviceError> {
        let Crops { values, slices, size: [rows, columns] } = crops;
        if rows == 0 || columns == 0 || slices > GRID_YZ_MAX || !offset.is_multiple_of(4) {
            return Err(usage(format!("{slices} crops of {rows} x {columns}, bits from byte {offset}")));
        }
        holds("crops", values, slices * rows * columns * 4)?;
        holds("bits", bits, offset + slices * self.words() * 4)?;
        if self.words() == 0 || slices == 0 {
            return Ok(());
        }
        let args = [
            Arg::Ptr(values.ptr()),
            Arg::Ptr(bits.ptr() + offset as u64),
            Arg::I32(int(rows)?),
            Arg::I32(int(columns)?),
            Arg::I32(int(columns)?),
            Arg::I32(int(rows * columns)?),
            Arg::I32(int(self.rows.len())?),
            Arg::I32(int(self.columns.len())?),
            Arg::F64(step(rows, self.rows.len())),
            Arg::F64(step(columns, self.columns.len())),
            Arg::F32(threshold),
        ];
        let lines = THREADS / 32;
        let grid = [self.row_words() as u32, blocks(self.rows.len(), lines), slices as u32];
        stream.launch("masks_paste", grid, [32, lines as u32, 1], 0, &args)
    }

    /// Sets `label` (one byte a voxel, ORed) in a source plane wherever the mask of a slice has a bit.
    ///
    /// # Panics
    /// When `mask` or `plane` is too short.
    pub fn unpack(&self, mask: &[u32], label: u8, plane: &mut [u8]) {
        let words = self.row_words();
        if words == 0 {
            return;
        }
        for (row, mask) in self.rows.clone().zip(mask.chunks_exact(words)) {
            let line = &mut plane[row * self.stride..][self.columns.clone()];
            for (voxels, &word) in line.chunks_mut(32).zip(mask) {
                if word == 0 {
                    continue;
                }
                let mut bytes = word.to_le_bytes().into_iter();
                let (eights, rest) = voxels.as_chunks_mut::<8>();
                for (voxels, byte) in eights.iter_mut().zip(&mut bytes) {
                    let marks = SPREAD[usize::from(byte)] * u64::from(label);
                    *voxels = (u64::from_le_bytes(*voxels) | marks).to_le_bytes();
                }
                let marks = (SPREAD[usize::from(bytes.next().unwrap_or(0))] * u64::from(label)).to_le_bytes();
                rest.iter_mut().zip(marks).for_each(|(voxel, mark)| *voxel |= mark);
            }
        }
    }
}

/// The bits of a byte, lowest first, a byte each: eight voxels are one access.
const SPREAD: [u64; 256] = {
    let mut spread = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            spread[byte] |= (byte as u64 >> bit & 1) << (8 * bit);
            bit += 1;
        }
        byte += 1;
    }
    spread
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_land_on_their_voxels() {
        // Grid 4 x 4 to 8 x 40: rows 1..3 to 2..6, columns 1..4 to 10..40.
        let paste = Paste::new(&(1..3), &(1..4), [4, 4], [8, 40]);
        let pasted = Pasted::new(&paste);
        assert_eq!(pasted.words(), 4);
        let mut plane = vec![8u8; 320];
        pasted.unpack(&[1, 0, 1 << 29, 0xffff_ffff], 4, &mut plane);
        let set: Vec<usize> = (0..320).filter(|&at| plane[at] == 12).collect();
        let expected: Vec<usize> =
            [2 * 40 + 10, 4 * 40 + 39].into_iter().chain(5 * 40 + 10..6 * 40).collect();
        assert_eq!(set, expected);
        assert!(plane.iter().all(|voxel| [8, 12].contains(voxel)));
    }

    #[test]
    fn a_box_that_vanishes_has_no_words() {
        let paste = Paste::new(&(3..4), &(0..10), [10, 10], [4, 4]);
        let pasted = Pasted::new(&paste);
        assert_eq!(pasted.words(), 0);
        pasted.unpack(&[], 1, &mut [0; 16]);
    }

    #[test]
    fn records_are_ranges() {
        let record = LungRecord::new([7, 6, 4, 4, 3, 0], [10, 6]);
        assert_eq!((record.rows, record.columns, record.voxels, record.finite), (3..6, 2..4, 3, true));
        assert!(LungRecord::new([0; RECORD], [10, 6]).rows.is_empty());
        assert!(!LungRecord::new([0, 0, 0, 0, 0, 1], [10, 6]).finite);
    }
}
