//! Images and masks of a data set, as slices from head to feet, rows front to back, columns from the patient's right to the left.
//!
//! Owns: NumPy arrays, NIfTI and DICOM folders behind one type that gives slices one by one. Never does: resample, window.

use super::dataset::{Image, json};
use crate::commands::analyze::{collect, files};
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
                Ok(Self { shape: [slices, rows, columns], spacing, source: Source::Array(array) })
            }
            Image::Nifti(path) => {
                let volume = Canonical::open(path)?;
                Ok(Self { shape: volume.shape, spacing: volume.spacing, source: Source::Nifti(volume) })
            }
            Image::Dicom(dir) => Self::dicom(dir, range, threads),
        }
    }

    fn dicom(dir: &Path, range: &InputRange, threads: usize) -> anyhow::Result<Self> {
        // Beside the slices may lie a phantom's truth, notes, pictures: what is no DICOM is passed over.
        let paths = files::under(&[dir.to_owned()])?;
        let found = collect::collect(&paths, threads, &|| ());
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
        Ok(Self { shape, spacing, source: Source::Dicom(slices) })
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

/// A mask of a volume of `shape`, slice by slice.
///
/// # Errors
/// A file that can't be read, or a mask of another size.
pub fn mask(path: &Path, shape: [usize; 3]) -> anyhow::Result<Vec<bool>> {
    let mut mask = Vec::with_capacity(shape.iter().product());
    let found = if path.extension().is_some_and(|ending| ending == "npy") {
        let array = Array::open(path)?;
        let [rows, columns, slices] = array.shape;
        (0..slices).for_each(|slice| mask.extend(array.slice(slice).iter().map(|v| *v != 0.0)));
        [slices, rows, columns]
    } else {
        let volume = Canonical::open(path)?;
        for slice in 0..volume.shape[0] {
            mask.extend(volume.slice(slice)?.iter().map(|v| *v != 0.0));
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

/// From steps along the file's axes to mm to the right, front and head (nifti1.h: methods 3, 2 and 1).
fn affine(header: &NiftiHeader) -> [[f64; 3]; 3] {
    if header.sform_code > 0 {
        let row = |row: [f32; 4]| [0, 1, 2].map(|i| f64::from(row[i]));
        return [row(header.srow_x), row(header.srow_y), row(header.srow_z)];
    }
    let step = [1, 2, 3].map(|i| f64::from(header.pixdim[i]).abs());
    if header.qform_code <= 0 {
        return [[step[0], 0.0, 0.0], [0.0, step[1], 0.0], [0.0, 0.0, step[2]]];
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
