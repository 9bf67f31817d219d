//! Images and masks of a data set, as slices from head to feet, rows front to back, columns from the patient's right to the left.
//!
//! Owns: NumPy arrays, NIfTI and DICOM folders behind one type that gives slices one by one. Never does: resample, window.

use super::dataset::{Image, json};
use crate::commands::analyze::collect::{self, Collection};
use crate::commands::analyze::files;
use crate::instance::{self, Instance};
use anyhow::{Context, bail};
use engine::SpacingMm;
use nifti::volume::{InMemNiftiVolume, NiftiVolume, RandomAccessNiftiVolume};
use nifti::{NiftiHeader, NiftiObject, ReaderOptions};
use npyz::{NpyFile, Order};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use study::InputRange;

/// An image that is open.
pub struct Volume {
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Distances between voxels.
    pub spacing: SpacingMm,
    /// Files of a DICOM study that could not be used.
    pub left_out: Option<String>,
    source: Source,
}

enum Source {
    Array(Array),
    Nifti(Canonical),
    /// Head to feet.
    Dicom(Vec<Arc<Instance>>),
}

impl Volume {
    /// Opens an image. Of a DICOM study the series is chosen, and may be refused, by the daemon's gate.
    ///
    /// # Errors
    /// A file that can't be read, is too large, or has not three axes.
    pub fn open(image: &Image, range: &InputRange, threads: usize) -> anyhow::Result<Self> {
        match image {
            Image::Npy { image, spacing } => {
                let array = Array::open(image)?;
                let [row, column, slice]: [f64; 3] = json(spacing)?;
                let [rows, columns, slices] = array.shape;
                let spacing = SpacingMm { slice, row, column };
                let shape = [slices, rows, columns];
                Ok(Self { shape, spacing, left_out: None, source: Source::Array(array) })
            }
            Image::Nifti(path) => {
                let volume = Canonical::open(path)?;
                let (shape, spacing) = (volume.shape, volume.spacing);
                Ok(Self { shape, spacing, left_out: None, source: Source::Nifti(volume) })
            }
            Image::Dicom(dir) => Self::dicom(dir, range, threads),
        }
    }

    fn dicom(dir: &Path, range: &InputRange, threads: usize) -> anyhow::Result<Self> {
        // Beside the slices may lie a phantom's truth, notes, pictures: what is no DICOM is passed over.
        let paths = files::under(&[dir.to_owned()])?;
        let found = collect::collect(&paths, threads, &|| ());
        let left_out = left_out(&found);
        let mut studies = found.studies.into_values();
        let (Some(instances), None) = (studies.next(), studies.next()) else {
            bail!("{} doesn't hold one DICOM study", dir.display());
        };
        let headers: Vec<_> = instances.iter().map(|instance| instance.header.clone()).collect();
        let ranked =
            study::series::rank(&headers, range).map_err(|refused| anyhow::anyhow!("{}", refused.reason))?;
        let chosen = ranked.into_iter().next().context("no series")?;
        let slices: Vec<_> = chosen.order.iter().map(|i| Arc::clone(&instances[*i])).collect();
        let geometry = &slices[0].header.geometry;
        let spacing = SpacingMm {
            slice: chosen.slice_spacing_mm,
            row: geometry.row_spacing_mm,
            column: geometry.column_spacing_mm,
        };
        let shape = [slices.len(), geometry.rows, geometry.columns];
        Ok(Self { shape, spacing, left_out, source: Source::Dicom(slices) })
    }

    /// The HU of a slice, row by row.
    ///
    /// # Errors
    /// A slice that can't be decoded.
    pub fn slice(&self, slice: usize) -> anyhow::Result<Vec<f32>> {
        match &self.source {
            Source::Array(array) => Ok(array.slice(slice)),
            Source::Nifti(volume) => volume.slice(slice),
            Source::Dicom(slices) => Ok(instance::read_pixels(&slices[slice])?.hu()),
        }
    }
}

/// The first file that could not be used, and how many others.
fn left_out(found: &Collection) -> Option<String> {
    let first = found.warnings.first()?;
    match found.warnings.len() + found.more_warnings - 1 {
        0 => Some(format!("left out: {first}")),
        others => Some(format!("left out: {first}, and {others} files more")),
    }
}

/// A mask of a volume of `shape`, slice by slice; what is not 0 is inside, since data sets number lungs and readers' findings.
///
/// # Errors
/// A file that can't be read, or a mask of another size.
pub fn mask(path: &Path, shape: [usize; 3]) -> anyhow::Result<Vec<bool>> {
    Ok(values(path, shape)?.into_iter().map(|value| value != 0.0).collect())
}

/// The same of a mask that may hold nothing but 0 and 1: probabilities or labels, taken for a mask, would count as lesion all over.
///
/// # Errors
/// As [`mask`], and another value.
pub fn binary_mask(path: &Path, shape: [usize; 3]) -> anyhow::Result<Vec<bool>> {
    let values = values(path, shape)?;
    if let Some(value) = values.iter().find(|value| **value != 0.0 && **value != 1.0) {
        bail!("{}: a mask of 0 and 1 is needed, and it holds {value}", path.display());
    }
    Ok(values.into_iter().map(|value| value != 0.0).collect())
}

fn values(path: &Path, shape: [usize; 3]) -> anyhow::Result<Vec<f32>> {
    let mut mask = Vec::with_capacity(shape.iter().product());
    let found = if path.extension().is_some_and(|ending| ending == "npy") {
        let array = Array::open(path)?;
        let [rows, columns, slices] = array.shape;
        (0..slices).for_each(|slice| mask.extend(array.slice(slice)));
        [slices, rows, columns]
    } else {
        let volume = Canonical::open(path)?;
        for slice in 0..volume.shape[0] {
            mask.extend(volume.slice(slice)?);
        }
        volume.shape
    };
    if found != shape {
        bail!("{}: a mask of {found:?} slices, rows and columns for an image of {shape:?}", path.display());
    }
    Ok(mask)
}

/// Slices, rows and columns of a mask in a NumPy array.
///
/// # Errors
/// A file that can't be read.
pub fn shape(path: &Path) -> anyhow::Result<[usize; 3]> {
    let npy = NpyFile::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?))?;
    match npy.shape() {
        [rows, columns, slices] => Ok([slices, rows, columns].map(|n| *n as usize)),
        other => bail!("{}: {other:?} is no volume", path.display()),
    }
}

/// A phantom's labels: slices × rows × columns, 1 right lung, 2 left lung, 4 diseased.
///
/// # Errors
/// As [`mask`].
pub fn labels(path: &Path, shape: [usize; 3]) -> anyhow::Result<Vec<u8>> {
    let array = Array::open(path)?;
    let Values::Small(values) = &array.values else { bail!("{}: no labels", path.display()) };
    if array.shape != shape || !array.last_fastest {
        bail!("{}: labels of {:?} for an image of {shape:?}", path.display(), array.shape);
    }
    Ok(values.iter().map(|v| *v as u8).collect())
}

/// A NumPy array of three axes.
struct Array {
    shape: [usize; 3],
    last_fastest: bool,
    values: Values,
}

/// As small as they can be kept: a study of 300 slices of 512² has 79 million.
enum Values {
    Small(Vec<i16>),
    Single(Vec<f32>),
}

impl Array {
    fn open(path: &Path) -> anyhow::Result<Self> {
        Self::read(path).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let npy = NpyFile::new(BufReader::new(File::open(path)?))?;
        let shape: Vec<usize> = npy.shape().iter().map(|n| *n as usize).collect();
        let Ok(shape) = <[usize; 3]>::try_from(shape.as_slice()) else { bail!("{shape:?} is no volume") };
        let voxels = shape.iter().try_fold(1_usize, |all, n| all.checked_mul(*n)).unwrap_or(usize::MAX);
        if voxels == 0 || voxels > engine::limits::VOXELS_MAX {
            bail!("a volume of {shape:?}; at most {} voxels are read", engine::limits::VOXELS_MAX);
        }
        let last_fastest = npy.order() == Order::C;
        // Each type in turn; a file of another one comes back unread.
        macro_rules! read {
            ($npy:expr, $kind:ty, $variant:ident, $convert:expr) => {
                match $npy.try_data::<$kind>() {
                    Ok(data) => {
                        let convert = $convert;
                        let values = data.map(|v| v.map(convert)).collect::<std::io::Result<Vec<_>>>()?;
                        return Ok(Self { shape, last_fastest, values: Values::$variant(values) });
                    }
                    Err(npy) => npy,
                }
            };
        }
        let npy = read!(npy, i16, Small, |v: i16| v);
        let npy = read!(npy, u8, Small, |v: u8| i16::from(v));
        let npy = read!(npy, bool, Small, |v: bool| i16::from(v));
        let npy = read!(npy, i8, Small, |v: i8| i16::from(v));
        let npy = read!(npy, f32, Single, |v: f32| v);
        let npy = read!(npy, f64, Single, |v: f64| v as f32);
        let npy = read!(npy, i32, Single, |v: i32| v as f32);
        let npy = read!(npy, u16, Single, |v: u16| f32::from(v));
        let npy = read!(npy, i64, Single, |v: i64| v as f32);
        bail!("values of type {}", npy.dtype().descr())
    }

    /// Plane `at` of the last axis, row by row.
    fn slice(&self, at: usize) -> Vec<f32> {
        let [rows, columns, slices] = self.shape;
        let value = |index: usize| match &self.values {
            Values::Small(values) => f32::from(values[index]),
            Values::Single(values) => values[index],
        };
        let place = |row: usize, column: usize| match self.last_fastest {
            true => (row * columns + column) * slices + at,
            false => (at * columns + column) * rows + row,
        };
        (0..rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(r, c)| value(place(r, c)))
            .collect()
    }
}

/// A NIfTI volume, turned: slices towards the feet, rows to the back, columns to the left.
struct Canonical {
    /// Slices, rows, columns.
    shape: [usize; 3],
    spacing: SpacingMm,
    volume: InMemNiftiVolume,
    /// For slices, rows and columns: which axis of the file, and whether it runs the other way.
    axes: [(usize, bool); 3],
}

impl Canonical {
    fn open(path: &Path) -> anyhow::Result<Self> {
        Self::read(path).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let object = ReaderOptions::new().read_file(path)?;
        let header = object.header();
        let affine = affine(header);
        let dim: Vec<usize> = object.volume().dim().iter().map(|n| usize::from(*n)).collect();
        if dim.len() < 3 || dim[3..].iter().any(|n| *n > 1) {
            bail!("{dim:?} is no volume");
        }
        // World axes x (right), y (front), z (head), each with the file's axis that is closest to it.
        let mut pairs: Vec<(f64, usize, usize)> = (0..9)
            .map(|i| (affine[i / 3][i % 3].abs() / length(&affine, i % 3).max(1e-12), i / 3, i % 3))
            .collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut axis_of = [usize::MAX; 3];
        for (_, world, axis) in pairs {
            if axis_of[world] == usize::MAX && !axis_of.contains(&axis) {
                axis_of[world] = axis;
            }
        }
        // We run against all three: towards the feet, the back, the left.
        let turned = |world: usize| (axis_of[world], affine[world][axis_of[world]] > 0.0);
        let axes = [turned(2), turned(1), turned(0)];
        let [slice, row, column] = axes.map(|(axis, _)| length(&affine, axis));
        Ok(Self {
            shape: axes.map(|(axis, _)| dim[axis]),
            spacing: SpacingMm { slice, row, column },
            axes,
            volume: object.into_volume(),
        })
    }

    fn slice(&self, slice: usize) -> anyhow::Result<Vec<f32>> {
        let mut values = Vec::with_capacity(self.shape[1] * self.shape[2]);
        let mut at = [0_u16; 3];
        let mut place = |which: usize, index: usize| {
            let (axis, reversed) = self.axes[which];
            at[axis] = (if reversed { self.shape[which] - 1 - index } else { index }) as u16;
            at
        };
        place(0, slice);
        for row in 0..self.shape[1] {
            place(1, row);
            for column in 0..self.shape[2] {
                values.push(self.volume.get_f32(&place(2, column))?);
            }
        }
        Ok(values)
    }
}

/// Length of a column of the affine: the distance between voxels along an axis of the file.
fn length(affine: &[[f64; 3]; 3], axis: usize) -> f64 {
    affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt()
}

/// From steps along the file's axes to mm to the right, front and head (nifti1.h: methods 3, 2 and 1). Where a file doesn't say how it lies,
/// nifti1.h leaves it open, and nibabel, which most such files come through, takes its first axis to run from right to left: so do we.
fn affine(header: &NiftiHeader) -> [[f64; 3]; 3] {
    if header.sform_code > 0 {
        let row = |row: [f32; 4]| [0, 1, 2].map(|i| f64::from(row[i]));
        return [row(header.srow_x), row(header.srow_y), row(header.srow_z)];
    }
    let step = [1, 2, 3].map(|i| f64::from(header.pixdim[i]).abs());
    if header.qform_code <= 0 {
        return [[-step[0], 0.0, 0.0], [0.0, step[1], 0.0], [0.0, 0.0, step[2]]];
    }
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
    let flip = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    rotation.map(|row| [row[0] * step[0], row[1] * step[1], row[2] * step[2] * flip])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A NIfTI file of 2 × 3 × 4 voxels, each of 1 × 2 × 3 mm and of the value x + 10 y + 100 z.
    fn nifti(path: &Path, sform: Option<[[f32; 4]; 3]>) {
        let mut bytes = vec![0; 352];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &348_i32.to_le_bytes());
        for (at, value) in
            [(40, 3_i16), (42, 2), (44, 3), (46, 4), (48, 1), (50, 1), (52, 1), (54, 1), (70, 4), (72, 16)]
        {
            put(at, &value.to_le_bytes());
        }
        for (at, value) in [(76, 1.0_f32), (80, 1.0), (84, 2.0), (88, 3.0), (108, 352.0), (112, 1.0)] {
            put(at, &value.to_le_bytes());
        }
        for (index, value) in sform.iter().flatten().flatten().enumerate() {
            put(280 + 4 * index, &value.to_le_bytes());
        }
        put(254, &i16::from(sform.is_some()).to_le_bytes());
        put(344, b"n+1\0");
        for index in 0..24_i16 {
            bytes.extend((index % 2 + index / 2 % 3 * 10 + index / 6 * 100).to_le_bytes());
        }
        std::fs::write(path, bytes).unwrap();
    }

    fn python() -> String {
        std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned())
    }

    /// Slices to the feet, rows to the back, columns to the left: nibabel's axes I, P and L.
    const PEER: &str = "
import sys, nibabel, numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
image = nibabel.load(sys.argv[1])
turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt('LPI')))
print(*np.asarray(turned.dataobj).transpose(2, 1, 0).ravel().astype(int))
";

    #[test]
    fn a_nifti_file_lies_as_it_says_and_else_as_nibabel_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.nii");
        let has_peer =
            Command::new(python()).args(["-c", "import nibabel"]).output().is_ok_and(|o| o.status.success());
        if !has_peer {
            assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no Python with nibabel");
            println!("skipped: no Python with nibabel for comparison");
        }
        let right = [[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]];
        let left = [[-1.0, 0.0, 0.0, 0.0], right[1], right[2]];
        // The first slice is the head's, its first row the front's; the columns go to the left.
        for (sform, first_row) in
            [(None, [320.0, 321.0]), (Some(left), [320.0, 321.0]), (Some(right), [321.0, 320.0])]
        {
            nifti(&path, sform);
            let volume = Canonical::open(&path).unwrap();
            assert_eq!((volume.shape, volume.spacing.row), ([4, 3, 2], 2.0));
            assert_eq!(volume.slice(0).unwrap()[..2], first_row, "{sform:?}");
            if has_peer {
                let done = Command::new(python()).args(["-c", PEER]).arg(&path).output().unwrap();
                let theirs = String::from_utf8_lossy(&done.stdout).into_owned();
                let ours: Vec<String> =
                    (0..4).flat_map(|s| volume.slice(s).unwrap()).map(|v| v.to_string()).collect();
                let said = String::from_utf8_lossy(&done.stderr);
                assert_eq!(theirs.trim(), ours.join(" "), "{sform:?} {said}");
            }
        }
    }
}
