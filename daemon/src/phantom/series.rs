//! A phantom as files: the CT series, and its truth beside it.
//!
//! Owns: the folder's layout. `DIR/IM0001.dcm …` are the slices from head to feet; `DIR/truth/labels.npy` is a NumPy
//! array `uint8 [slices, rows, columns]` in the same order (1 right lung, 2 left lung, 4 added where diseased);
//! `DIR/truth/truth.json` holds the [`Truth`]. Never writes into a folder that holds anything.

use super::{LEFT_LUNG, LESION, Phantom, PhantomSpec, RIGHT_LUNG, Spacing, cores, dicom, over_slices};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A value for each lung, the patient's left and right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sides<T> {
    /// The patient's left.
    pub left: T,
    /// The patient's right.
    pub right: T,
}

/// What is known about a written phantom, counted from its voxels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// UID of the study.
    pub study_uid: String,
    /// UID of the series.
    pub series_uid: String,
    /// The seed.
    pub seed: u64,
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Distances between voxel centres, mm.
    pub spacing: Spacing,
    /// Volume of the lungs, ml.
    pub lung_volume_ml: Sides<f64>,
    /// Volume of the lesions, ml.
    pub lesion_volume_ml: Sides<f64>,
    /// Share of each lung that is diseased, 0 to 1.
    pub lesion_fraction: Sides<f64>,
}

/// Why a series can't be written.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The folder holds something.
    #[error("{0} is not empty; a phantom is written into a new or empty folder")]
    NotEmpty(PathBuf),
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// A slice could not be written as DICOM.
    #[error("{path}: {message}")]
    Dicom {
        /// The slice's file.
        path: PathBuf,
        /// Why it failed.
        message: String,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SeriesError + '_ {
    move |error| SeriesError::Io { path: path.to_owned(), error }
}

/// Voxels by label.
type Counts = [u64; 8];

/// Writes the series and its truth into `dir`, which is made when absent. `progress` is called after each slice.
///
/// # Errors
/// When `dir` holds anything, or a file can't be written.
pub fn write_series(phantom: &Phantom, dir: &Path, progress: impl Fn() + Sync) -> Result<Truth, SeriesError> {
    let truth_dir = dir.join("truth");
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(SeriesError::NotEmpty(dir.to_owned())),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(dir)(error)),
    }
    std::fs::create_dir_all(&truth_dir).map_err(io_error(&truth_dir))?;
    let PhantomSpec { slices, size, .. } = *phantom.spec();
    let labels_path = truth_dir.join("labels.npy");
    let header = npy_header([slices, size, size]);
    let labels = File::create(&labels_path).map_err(io_error(&labels_path))?;
    labels.write_all_at(&header, 0).map_err(io_error(&labels_path))?;
    let outcome = Mutex::new(Ok::<Counts, SeriesError>([0; 8]));
    let write = |k: usize| -> Result<Counts, SeriesError> {
        let slice = phantom.slice(k);
        write_slice(phantom, k, &slice.hu, &dir.join(format!("IM{:04}.dcm", k + 1)))?;
        let offset = header.len() + k * slice.labels.len();
        labels.write_all_at(&slice.labels, offset as u64).map_err(io_error(&labels_path))?;
        let mut counts = [0; 8];
        slice.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        Ok(counts)
    };
    over_slices(slices, cores(), || {
        let (outcome, write, progress) = (&outcome, &write, &progress);
        move |k: Option<usize>| {
            let Some(k) = k else { return };
            if outcome.lock().unwrap_or_else(PoisonError::into_inner).is_err() {
                return;
            }
            let written = write(k);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *outcome, written) {
                (Ok(sum), Ok(counts)) => sum.iter_mut().zip(counts).for_each(|(s, c)| *s += c),
                (Ok(_), Err(error)) => *outcome = Err(error),
                (Err(_), _) => {}
            }
            progress();
        }
    });
    let truth = truth(phantom, outcome.into_inner().unwrap_or_else(PoisonError::into_inner)?);
    let path = truth_dir.join("truth.json");
    let text = serde_json::to_string_pretty(&truth).map_err(|e| io_error(&path)(e.into()))?;
    std::fs::write(&path, text + "\n").map_err(io_error(&path))?;
    Ok(truth)
}

fn write_slice(phantom: &Phantom, k: usize, hu: &[i16], path: &Path) -> Result<(), SeriesError> {
    let failed = |message: String| SeriesError::Dicom { path: path.to_owned(), message };
    let object = dicom::slice_object(phantom, k, hu).map_err(|e| failed(e.to_string()))?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io_error(path))?);
    object.write_all(&mut file).map_err(|e| failed(e.to_string()))?;
    file.flush().map_err(io_error(path))
}

fn truth(phantom: &Phantom, counts: Counts) -> Truth {
    let spec = phantom.spec();
    let spacing = phantom.spacing();
    let of = |lung: u8| {
        let diseased = counts[usize::from(lung + LESION)];
        (counts[usize::from(lung)] + diseased, diseased)
    };
    let (left, right) = (of(LEFT_LUNG), of(RIGHT_LUNG));
    let sides = |f: &dyn Fn((u64, u64)) -> f64| Sides { left: f(left), right: f(right) };
    Truth {
        study_uid: dicom::study_uid(spec),
        series_uid: dicom::series_uid(spec),
        seed: spec.seed,
        shape: [spec.slices, spec.size, spec.size],
        spacing,
        lung_volume_ml: sides(&|(lung, _)| lung as f64 * spacing.voxel_ml()),
        lesion_volume_ml: sides(&|(_, lesion)| lesion as f64 * spacing.voxel_ml()),
        lesion_fraction: sides(&|(lung, lesion)| lesion as f64 / (lung as f64).max(1.0)),
    }
}

/// Header of a NumPy array file, format 1.0: magic, version, length, a Python dictionary padded to 64 bytes.
fn npy_header(shape: [usize; 3]) -> Vec<u8> {
    let [a, b, c] = shape;
    let mut text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({a}, {b}, {c}), }}");
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}
