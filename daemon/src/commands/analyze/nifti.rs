//! Label volumes as NIfTI-1 files (nifti1.h of the NIfTI Data Format Working Group), one byte a voxel, compressed.
//!
//! Written slice by slice, so that a mask needs no second copy in memory.
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use study::SliceGeometry;

/// The header's own size; four bytes that announce no extension follow.
const HEADER_BYTES: usize = 348;
const DATA_OFFSET: f32 = 352.0;

/// Where a volume lies: NIfTI's voxel (i, j, k) is (column, row, slice).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Columns, rows, slices.
    shape: [usize; 3],
    /// From (i, j, k, 1) to patient coordinates in mm: x to the right, y to the front, z to the head.
    affine: [[f64; 4]; 3],
}

impl Grid {
    /// The grid of a series from its first and last slice; `shape` is slices, rows, columns.
    ///
    /// PS3.3 section C.7.6.2.1.1 gives the position of a pixel in coordinates to the left and to the back; NIfTI's point
    /// the other way.
    pub fn of(shape: [usize; 3], first: &SliceGeometry, last: &SliceGeometry) -> Self {
        let [slices, rows, columns] = shape;
        let steps = slices.max(2) as f64 - 1.0;
        let affine = std::array::from_fn(|axis| {
            let sign = if axis < 2 { -1.0 } else { 1.0 };
            let (start, end) = (first.position_mm[axis], last.position_mm[axis]);
            [
                sign * first.orientation[axis] * first.column_spacing_mm,
                sign * first.orientation[3 + axis] * first.row_spacing_mm,
                sign * (end - start) / steps,
                sign * start,
            ]
        });
        Self { shape: [columns, rows, slices], affine }
    }

    fn header(&self) -> [u8; HEADER_BYTES + 4] {
        let mut bytes = [0; HEADER_BYTES + 4];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(HEADER_BYTES as i32).to_le_bytes());
        put(40, &3i16.to_le_bytes());
        for axis in 0..4 {
            let size = self.shape.get(axis).map_or(1, |n| *n as i16);
            put(42 + 2 * axis, &size.to_le_bytes());
        }
        // DT_UINT8, eight bits.
        put(70, &2i16.to_le_bytes());
        put(72, &8i16.to_le_bytes());
        put(76, &1f32.to_le_bytes());
        for axis in 0..3 {
            let length = self.affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt();
            put(80 + 4 * axis, &(length as f32).to_le_bytes());
        }
        put(108, &DATA_OFFSET.to_le_bytes());
        put(112, &1f32.to_le_bytes());
        // NIFTI_UNITS_MM.
        put(123, &[2]);
        put(148, b"triaged: not for diagnostic use");
        // NIFTI_XFORM_SCANNER_ANAT by the affine alone.
        put(254, &1i16.to_le_bytes());
        for (axis, row) in self.affine.iter().enumerate() {
            for (i, value) in row.iter().enumerate() {
                put(280 + 16 * axis + 4 * i, &(*value as f32).to_le_bytes());
            }
        }
        put(344, b"n+1\0");
        bytes
    }
}

/// Writes `label` of every voxel; `voxels` are slice-major, as the grid's shape says.
///
/// # Errors
/// The file can't be written, or the volume has not the grid's size.
pub fn write(path: &Path, grid: &Grid, voxels: &[u8], label: impl Fn(u8) -> u8) -> std::io::Result<()> {
    let [columns, rows, slices] = grid.shape;
    if voxels.len() != columns * rows * slices {
        return Err(std::io::Error::other(format!("{} voxels for a grid of {:?}", voxels.len(), grid.shape)));
    }
    let mut file = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::fast());
    file.write_all(&grid.header())?;
    let mut slice = Vec::with_capacity(columns * rows);
    for source in voxels.chunks(columns * rows) {
        slice.clear();
        slice.extend(source.iter().map(|v| label(*v)));
        file.write_all(&slice)?;
    }
    file.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::nifti::volume::{NiftiVolume, RandomAccessNiftiVolume};
    use ::nifti::{NiftiObject, ReaderOptions};

    fn geometry(z: f64) -> SliceGeometry {
        SliceGeometry {
            rows: 4,
            columns: 5,
            row_spacing_mm: 0.5,
            column_spacing_mm: 0.75,
            position_mm: [-100.0, -80.0, z],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            gantry_tilt_deg: None,
        }
    }

    /// Read back by another implementation.
    #[test]
    fn another_reader_finds_the_voxels_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.nii.gz");
        let grid = Grid::of([3, 4, 5], &geometry(50.0), &geometry(46.0));
        let mut voxels = vec![0; 60];
        // Slice 1, row 2, column 3.
        voxels[(4 + 2) * 5 + 3] = 6;
        write(&path, &grid, &voxels, |v| v & 2).unwrap();
        let object = ReaderOptions::new().read_file(&path).unwrap();
        let header = object.header();
        assert_eq!((header.sform_code, header.qform_code, header.xyzt_units), (1, 0, 2));
        assert_eq!(&header.pixdim[..4], [1.0, 0.75, 0.5, 2.0]);
        // Right, front, head: column 3 is 2.25 mm to the left of −100 mm left, and so on.
        let at = |row: [f32; 4]| row[0] * 3.0 + row[1] * 2.0 + row[2] + row[3];
        let position = [at(header.srow_x), at(header.srow_y), at(header.srow_z)];
        assert_eq!(position, [97.75, 79.0, 48.0]);
        let volume = object.volume();
        assert_eq!(volume.dim(), [5, 4, 3]);
        let label = |i, j, k| volume.get_u8(&[i, j, k]).unwrap();
        assert_eq!((label(3, 2, 1), label(2, 3, 1), label(3, 2, 0)), (2, 0, 0));
        let wrong = write(&path, &grid, &voxels[1..], |v| v);
        assert!(wrong.unwrap_err().to_string().contains("59 voxels"));
    }
}
