//! Axial slices as pictures, made when they are asked for, from the received images as they lie in the spool.
//!
//! Owns window, outline and PNG. The outline is drawn only where the site allows it: see `ResultSettings::lesion_outlines`.
use super::App;
use super::page::{PageError, Visitor};
use crate::audit::{self, Action};
use crate::database::StudyKey;
use crate::instance::{self, Instance, StoredSlice};
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Studies whose files and lesions are remembered: a mask of 300 slices of 512² is 10 MiB.
const STUDIES_MAX: usize = 3;
/// Slices that are drawn at a time.
const TURNS_MAX: usize = 2;
/// Windows in Hounsfield units (centre, width), as radiology's presets have them.
const LUNG: (f32, f32) = (-600.0, 1500.0);
const SOFT: (f32, f32) = (40.0, 400.0);
/// Of an outline: no grey has it, and it is as bright to colour-blind eyes.
const OUTLINE: [u8; 3] = [255, 115, 26];

/// What is wanted.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    window: String,
    #[serde(default)]
    outlines: bool,
    revision: Option<u32>,
}

/// Files and lesions of the studies that were looked at last.
pub struct Cache {
    known: Mutex<Vec<Arc<Known>>>,
    turns: Arc<Semaphore>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { known: Mutex::default(), turns: Arc::new(Semaphore::new(TURNS_MAX)) }
    }
}

struct Known {
    key: StudyKey,
    subject: audit::Subject,
    revision: u32,
    /// Head to feet.
    files: Vec<Option<PathBuf>>,
    lesions: Option<Vec<u8>>,
}

/// `GET /study/{key}/slice/{index}`.
pub async fn slice(
    State(app): State<Arc<App>>,
    Extension(visitor): Extension<Visitor>,
    Path((key, index)): Path<(i64, usize)>,
    Query(asked): Query<Asked>,
) -> Response {
    // The processor is for the evaluation: who scrolls fast asks again.
    let Ok(turn) = Arc::clone(&app.axial.turns).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    app.make(visitor, move |app, visitor| {
        let _held = turn;
        app.viewer(visitor, &format!("/study/{key}"))?;
        let known = app.known(StudyKey(key))?;
        app.note(visitor.who(), Action::View(known.subject.clone()));
        if asked.revision.is_some_and(|revision| revision != known.revision) {
            return Ok(StatusCode::CONFLICT.into_response());
        }
        let path = known.files.get(index).and_then(Option::as_ref).ok_or(PageError::NotFound)?;
        let read = Instance::read(path).and_then(|instance| instance::read_pixels(&instance));
        let slice = read.map_err(|error| PageError::Inside(error.to_string()))?;
        let window = if asked.window == "soft" { SOFT } else { LUNG };
        let outlined = asked.outlines && app.config.results.lesion_outlines;
        let lesions = known.lesions.as_deref().filter(|_| outlined);
        let png = picture(&slice, window, lesions.and_then(|all| of_slice(all, index, &slice)));
        Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
    })
    .await
}

impl App {
    fn known(&self, key: StudyKey) -> Result<Arc<Known>, PageError> {
        let study = self.database.listed_one(key)?.ok_or(PageError::NotFound)?;
        let revision = study.revision.unwrap_or_default();
        let lock = || self.axial.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().iter().find(|known| (known.key, known.revision) == (key, revision)) {
            return Ok(Arc::clone(known));
        }
        let slices = self.database.view_slices(key)?;
        let files =
            self.spool.files_of(key, &slices).map_err(|error| PageError::Inside(error.to_string()))?;
        let lesions =
            if self.config.results.lesion_outlines { self.database.view_lesions(key)? } else { None };
        let subject = super::study_page::subject(&study);
        let known = Arc::new(Known { key, subject, revision, files, lesions });
        let mut all = lock();
        if all.len() == STUDIES_MAX {
            all.remove(0);
        }
        all.push(Arc::clone(&known));
        Ok(known)
    }
}

/// The mask of one slice; `None` where the mask is not this slice's size.
fn of_slice<'a>(lesions: &'a [u8], index: usize, slice: &StoredSlice) -> Option<&'a [u8]> {
    let bytes = slice.rows * slice.columns.div_ceil(8);
    lesions.get(index * bytes..(index + 1) * bytes)
}

/// Grey, or with an outline in colour; as many pixels as the slice has.
fn picture(slice: &StoredSlice, (centre, width): (f32, f32), lesions: Option<&[u8]>) -> Vec<u8> {
    let low = centre - width / 2.0;
    let hu = slice.hu();
    let grey: Vec<u8> = hu.iter().map(|hu| ((hu - low) / width * 255.0).clamp(0.0, 255.0) as u8).collect();
    let (bytes, color) = match lesions {
        None => (grey, png::ColorType::Grayscale),
        Some(lesions) => {
            let mut rgb: Vec<u8> = grey.iter().flat_map(|v| [*v; 3]).collect();
            for at in outline(lesions, slice.rows, slice.columns) {
                rgb[3 * at..3 * at + 3].copy_from_slice(&OUTLINE);
            }
            (rgb, png::ColorType::Rgb)
        }
    };
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, slice.columns as u32, slice.rows as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&bytes))
        .expect("writing to memory can't fail, and there are as many bytes as the header says");
    out
}

/// Pixels outside of the lesions that touch them: what lies inside stays visible.
fn outline(lesions: &[u8], rows: usize, columns: usize) -> Vec<usize> {
    let stride = columns.div_ceil(8);
    let at = |row: usize, column: usize| lesions[row * stride + column / 8] >> (column % 8) & 1 == 1;
    let mut found = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            let touches = row > 0 && at(row - 1, column)
                || row + 1 < rows && at(row + 1, column)
                || column > 0 && at(row, column - 1)
                || column + 1 < columns && at(row, column + 1);
            if touches && !at(row, column) {
                found.push(row * columns + column);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Stored;

    #[test]
    fn the_outline_lies_around_the_lesion() {
        // One pixel in the middle of 3 × 9; the second byte of each row has one column.
        let mut lesions = vec![0u8; 6];
        lesions[2] = 1 << 4;
        assert_eq!(outline(&lesions, 3, 9), [4, 9 + 3, 9 + 5, 18 + 4]);
    }

    #[test]
    fn windows_and_outlines_are_drawn() {
        let stored = Stored { bits: 16, shift: 0, signed: true, padding: None, slope: 1.0, intercept: 0.0 };
        let cells = [-2000i16, -1350, -600, 150, 3000, 0].map(|v| v as u16).to_vec();
        let slice = StoredSlice { rows: 2, columns: 3, cells, stored };
        let decode = |png: &[u8]| {
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut bytes).unwrap();
            bytes.truncate(info.buffer_size());
            bytes
        };
        assert_eq!(decode(&picture(&slice, LUNG, None)), [0, 0, 127, 255, 255, 229]);
        let marked = decode(&picture(&slice, LUNG, Some(&[0b001, 0])));
        assert_eq!(marked[3..6], OUTLINE);
        assert_eq!(marked[..3], [0; 3], "the lesion itself stays as it is");
        assert_eq!(of_slice(&[0; 3], 1, &slice), None, "a mask of another size is drawn nowhere");
    }
}
