//! The proof that an engine gives the processor's answers, before it is trusted with a study.
//!
//! Owns: a made-up chest and the tolerances. Never does: stand in for the goldens: it is to show a wrong driver, plan or card, and to cost a start
//! little.
//!
//! Every step of a study is in it: stored pixels to the 2 mm grid, the lung net and its box, the crop's net, the masks pasted back. Once at sizes that
//! are no multiples of anything, twice over, because an engine may replay what it recorded the first time; and once at those of a patient, where the
//! kernels for large maps work.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use kernels::{Paste, Stored};
use log::{error, info};

use crate::backend::{Backend, EngineError, Plane};
use crate::job::{CropJob, GridSlice, Pixels, SliceBox, SliceJob, SourceSlice};
use crate::labels::LabelVolume;

/// Largest difference of a windowed value: ingest is exact to 1e-6 (kernels/tests).
const PLANE_DIFFERENCE_MAX: f32 = 1e-4;
/// Largest difference of a probability from the processor's in the check: fp16 has moved lesions of the zoo's nets by a tenth of that.
const DIFFERENCE_MAX: f32 = 0.05;
/// Largest difference of the identification probability: promise 7 of the specification.
const IDENTIFICATION_DIFFERENCE_MAX: f32 = 0.01;
/// Largest share of the voxels with a label, of lungs and of lesions, that is wrong: those whose probability is near the threshold.
const LABELS_DIFFERENCE_MAX: f32 = 0.05;
/// Fewer voxels than this share of all count as so many: a few voxels are no measure.
const LABELLED_MIN: f32 = 0.02;
/// Probability from which a voxel of the check is lung, and lesion.
const THRESHOLD: f32 = 0.5;
/// The usual window of lungs.
const WINDOW_HU: [f32; 2] = [-1000.0, 300.0];
const STORED: Stored =
    Stored { bits: 12, shift: 0, signed: false, padding: None, slope: 1.0, intercept: -1024.0 };

/// A chest.
struct Case {
    slices: usize,
    source: [usize; 2],
    grid: [usize; 2],
    /// Rows and columns of the lung box on the grid.
    crop: [Range<usize>; 2],
}

impl Case {
    /// No multiples of anything.
    fn odd() -> Self {
        Self { slices: 9, source: [89, 131], grid: [45, 61], crop: [2..44, 1..61] }
    }

    /// A field of 360 mm; the lung box is an adult's, 220 by 300 mm.
    fn adult() -> Self {
        Self { slices: 2, source: [270, 270], grid: [180, 180], crop: [35..145, 15..165] }
    }
}

/// What an engine says of a chest.
struct Answers {
    on_grid: Vec<GridSlice>,
    lesions: Vec<f32>,
    labels: Vec<u8>,
    /// From the net alone, and with the masks.
    identification: [f32; 2],
}

/// Runs made-up chests through an engine and the processor: a wrong driver, plan or card shows before a patient's study does.
///
/// # Errors
/// What the engine says, or [`EngineError::Device`] with the largest differences.
pub(super) fn check(engine: &dyn Backend, cpu: &dyn Backend) -> Result<(), EngineError> {
    let mut apart = Apart::default();
    for (case, times) in [(Case::odd(), 2), (Case::adult(), 1)] {
        let expected = ask(cpu, &case, None)?;
        for _ in 0..times {
            apart.add(&case, &ask(engine, &case, Some(&expected.on_grid))?, &expected);
        }
    }
    info!("engine {} against the processor's: {apart}", engine.name());
    if apart.is_too_much() {
        let what = format!(
            "it gives other results than the processor ({apart}); update the driver, or build the plans again by `triaged provision`"
        );
        error!("engine {}: {what}", engine.name());
        return Err(EngineError::Device { engine: engine.name(), what, lost: false });
    }
    Ok(())
}

/// Runs a chest; its crop is cut from the slices that are given, or else from the engine's own.
fn ask(engine: &dyn Backend, case: &Case, given: Option<&[GridSlice]>) -> Result<Answers, EngineError> {
    let prepare = |slice: usize| {
        let cells = made_up_slice(case, slice);
        let [rows, columns] = case.source;
        let pixels = Pixels::Stored { cells: &cells, stored: &STORED };
        engine.prepare(&SliceJob {
            slice: SourceSlice { rows, columns, row_spacing_mm: 1.0, column_spacing_mm: 1.0, pixels },
            grid: case.grid,
            window_hu: WINDOW_HU,
            lung_threshold: THRESHOLD,
        })
    };
    let on_grid = (0..case.slices).map(prepare).collect::<Result<Vec<_>, _>>()?;
    let slices = given.unwrap_or(&on_grid);
    let [rows, columns] = &case.crop;
    let stride = case.grid[1];
    let first = rows.start * stride + columns.start;
    fn window<'a>(values: &'a [f32], first: usize, size: [usize; 2], stride: usize) -> Plane<'a> {
        Plane::new(&values[first..], size[0], size[1], stride)
    }
    let size = [rows.len(), columns.len()];
    let planes: Vec<_> = slices.iter().map(|slice| window(&slice.plane, first, size, stride)).collect();
    let lungs: Vec<_> = slices.iter().map(|slice| window(&slice.lungs, first, size, stride)).collect();

    let lesions = Mutex::new(vec![0.0; case.slices * size[0] * size[1]]);
    let alone = engine.multitask(&planes, &|index, values| {
        let mut all = lesions.lock().unwrap_or_else(PoisonError::into_inner);
        all[index * values.len()..][..values.len()].copy_from_slice(values);
    })?;
    let job = CropJob {
        planes: &planes,
        lungs: &lungs,
        paste: &Paste::new(rows, columns, case.grid, case.source),
        lung_threshold: THRESHOLD,
        lesion_threshold: THRESHOLD,
        threads: 1,
    };
    let mut labels = vec![0; case.slices * case.source[0] * case.source[1]];
    let cropped = engine.crop(&job, &mut labels, &|_, _| ())?;
    let lesions = lesions.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Answers { on_grid, lesions, labels, identification: [alone, cropped.probability] })
}

/// The largest differences from the processor's answers.
#[derive(Default)]
struct Apart {
    planes: f32,
    lungs: f32,
    /// Lung boxes that are not those of the engine's own lungs.
    boxes: usize,
    lesions: f32,
    /// Share of those with a label.
    labels: f32,
    identification: f32,
}

impl Apart {
    fn add(&mut self, case: &Case, got: &Answers, expected: &Answers) {
        for (got, expected) in got.on_grid.iter().zip(&expected.on_grid) {
            self.planes = self.planes.max(largest(&got.plane, &expected.plane));
            self.lungs = self.lungs.max(largest(&got.lungs, &expected.lungs));
            let right = SliceBox::around(&got.lungs, case.grid[1], THRESHOLD);
            self.boxes += usize::from(got.lung_box != right);
        }
        self.lesions = self.lesions.max(largest(&got.lesions, &expected.lesions));
        for bit in [LabelVolume::RIGHT_LUNG, LabelVolume::LESION] {
            let both = || got.labels.iter().zip(&expected.labels);
            let differing = both().filter(|(got, expected)| (**got ^ **expected) & bit != 0).count();
            let labelled = both().filter(|(_, expected)| **expected & bit != 0).count() as f32;
            let share = differing as f32 / labelled.max(LABELLED_MIN * expected.labels.len() as f32);
            self.labels = self.labels.max(share);
        }
        for (got, expected) in got.identification.iter().zip(expected.identification) {
            self.identification = self.identification.max(distance(*got, expected));
        }
    }

    fn is_too_much(&self) -> bool {
        self.planes > PLANE_DIFFERENCE_MAX
            || self.lungs.max(self.lesions) > DIFFERENCE_MAX
            || self.boxes > 0
            || self.labels > LABELS_DIFFERENCE_MAX
            || self.identification > IDENTIFICATION_DIFFERENCE_MAX
    }
}

impl std::fmt::Display for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { planes, lungs, boxes, lesions, labels, identification } = self;
        let percent = 100.0 * labels;
        write!(
            f,
            "slices by {planes:.1e}, lungs by {lungs:.3}, {boxes} lung boxes, lesions by {lesions:.3}, {percent:.2} % of the labels, \
             identification by {identification:.3}"
        )
    }
}

/// What is no number is the largest difference.
fn distance(a: f32, b: f32) -> f32 {
    if (a - b).is_finite() { (a - b).abs() } else { f32::INFINITY }
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    match a.len() == b.len() {
        true => a.iter().zip(b).map(|(a, b)| distance(*a, *b)).fold(0.0, f32::max),
        false => f32::INFINITY,
    }
}

/// Two dark lungs in a bright body, one of them with a lesion, as a scanner stores them.
fn made_up_slice(case: &Case, slice: usize) -> Vec<u16> {
    let [rows, columns] = case.source;
    let mut cells = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            // In the units of a chest of 45 by 61.
            let (r, c) = (row as f32 * 45.0 / rows as f32, column as f32 * 61.0 / columns as f32);
            let inside = |row: f32, column: f32, height: f32, width: f32| {
                ((r - row) / height).powi(2) + ((c - column) / width).powi(2) < 1.0
            };
            let texture = ((slice * 7 + row * 13 + column * 5) % 17) as f32 / 170.0;
            let value = if inside(24.0, 44.0, 5.0, 4.0 + slice as f32 / 3.0) {
                0.45
            } else if inside(22.0, 18.0, 14.0, 10.0) || inside(22.0, 43.0, 14.0, 10.0) {
                0.12
            } else if inside(22.0, 30.0, 21.0, 29.0) {
                0.8
            } else {
                0.0
            };
            let hu = WINDOW_HU[0] + (value + texture) * (WINDOW_HU[1] - WINDOW_HU[0]);
            cells.push((f64::from(hu) - STORED.intercept) as u16);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Emit;
    use crate::cpu::CpuBackend;
    use crate::job::{self, Cropped, Progress};
    use crate::zoo::{Zoo, default_zoo_dir};

    /// In which step an engine is wrong.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Wrong {
        Nothing,
        /// Stored pixels are read a little too bright.
        Ingest,
        /// The box is a row short.
        Box,
        /// Only large maps come out wrong.
        LargeLungs,
        Identification,
        /// Every tenth voxel has no label.
        Labels,
        /// The second time.
        Replay,
    }

    /// The processor's engine with another name, and wrong by a little.
    struct Other(CpuBackend, Wrong, std::sync::atomic::AtomicUsize);

    impl Backend for Other {
        fn name(&self) -> &'static str {
            "cuda"
        }

        fn prepare(&self, job: &SliceJob<'_>) -> Result<GridSlice, EngineError> {
            let mut made = job::prepare(&self.0, job)?;
            match self.1 {
                Wrong::Ingest => made.plane.iter_mut().for_each(|value| *value += 0.001),
                Wrong::Box => {
                    if let Some(found) = &mut made.lung_box {
                        found.rows.end -= 1;
                    }
                }
                Wrong::LargeLungs if made.lungs.len() > 10_000 => made.lungs[9_000] += 0.1,
                _ => {}
            }
            Ok(made)
        }

        fn crop(
            &self,
            job: &CropJob<'_>,
            labels: &mut [u8],
            progress: Progress<'_>,
        ) -> Result<Cropped, EngineError> {
            let cropped = job::crop(&self.0, job, labels, progress)?;
            if self.1 == Wrong::Labels {
                labels.iter_mut().step_by(10).for_each(|label| *label = 0);
            }
            Ok(cropped)
        }

        fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
            self.0.lungs(slice)
        }

        fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
            let call = self.2.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let wrong = self.1 == Wrong::Identification || self.1 == Wrong::Replay && call == 1;
            self.0.multitask(crop, emit).map(|p| if wrong { p + 0.02 } else { p + 0.001 })
        }
    }

    fn cpu() -> CpuBackend {
        CpuBackend::load(&Zoo::open(&default_zoo_dir()).unwrap(), 2).unwrap()
    }

    #[test]
    fn the_made_up_chests_have_lungs_and_lesions() {
        let cpu = cpu();
        for (case, lungs_min, lesions_min) in [(Case::odd(), 0.005, 0.0), (Case::adult(), 0.1, 0.002)] {
            let said = ask(&cpu, &case, None).unwrap();
            let found = said.on_grid.iter().filter(|slice| slice.lung_box.is_some()).count();
            let share = |bit: u8| {
                let voxels = said.labels.iter().filter(|label| **label & bit != 0).count();
                voxels as f32 / said.labels.len() as f32
            };
            let (lungs, lesions) = (share(LabelVolume::RIGHT_LUNG), share(LabelVolume::LESION));
            println!("{found} of {} slices, lungs {lungs}, lesions {lesions}", case.slices);
            let enough = found == case.slices && lungs > lungs_min && lesions > lesions_min;
            assert!(enough, "an engine that answers nothing would pass");
        }
    }

    #[test]
    fn an_engine_that_differs_in_any_step_is_not_trusted() {
        for (wrong, said) in [
            (Wrong::Nothing, ""),
            (Wrong::Ingest, "slices by 1.0e-3"),
            (Wrong::Box, "lung boxes"),
            (Wrong::LargeLungs, "lungs by 0.100"),
            (Wrong::Identification, "identification by 0.020"),
            (Wrong::Labels, "% of the labels"),
            (Wrong::Replay, "identification by 0.020"),
        ] {
            let result = check(&Other(cpu(), wrong, 0.into()), &cpu());
            match (wrong, result) {
                (Wrong::Nothing, Ok(())) => {}
                (_, Err(error)) if wrong != Wrong::Nothing => {
                    assert!(matches!(error, EngineError::Device { lost: false, .. }), "{error}");
                    assert!(error.to_string().contains(said), "{wrong:?}: {error}");
                }
                (_, result) => panic!("{wrong:?}: {result:?}"),
            }
        }
    }
}
