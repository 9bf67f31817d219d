//! A digital chest phantom that looks like a CT, with known truth.
//!
//! Owns: turning a seed into a patient and any slice of it, on demand, so that no volume is ever held. Never reads files
//! and never depends on the machine: the same request gives the same voxels everywhere, whatever the number of threads.
//!
//! Not a patient: anatomy, noise and disease are invented. It proves that the way from scanner to flag works, not how
//! well disease is found.

mod anatomy;
mod dicom;
mod lesions;
mod math;
mod scanner;
mod series;
mod skeleton;
mod tissue;
mod vessels;

pub use series::write_series;

use anatomy::{Anatomy, HEIGHT_MM, Section, Warp};
use lesions::{Field, Histogram, Levels, Style};
use math::{NoisePlane, Random, mix};
use std::sync::atomic::{AtomicUsize, Ordering};
use vessels::{Grid, Tube};

/// Voxel of the right lung in a truth slice.
pub const RIGHT_LUNG: u8 = 1;
/// Voxel of the left lung in a truth slice.
pub const LEFT_LUNG: u8 = 2;
/// Added to a lung's label where it is diseased.
pub const LESION: u8 = 4;

/// Fewest slices: the paper's pyramid needs 8 of each axis.
pub const SLICES_MIN: usize = 8;
/// Most slices: beyond the thinnest whole-chest series in use.
pub const SLICES_MAX: usize = 2000;
/// Fewest columns (and rows).
pub const SIZE_MIN: usize = 64;
/// Most columns (and rows).
pub const SIZE_MAX: usize = 1024;
/// Slices no farther apart than the thickest in clinical use, and no nearer than the thinnest; the chest is squeezed or
/// stretched along its axis to fit.
const SLICE_SPACING_MM: [f64; 2] = [0.5, 10.0];

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhantomSpec {
    /// Number of slices.
    pub slices: usize,
    /// Columns and rows of a slice.
    pub size: usize,
    /// Share of the patient's left lung that is diseased, per cent.
    pub left_percent: f64,
    /// Share of the patient's right lung that is diseased, per cent.
    pub right_percent: f64,
    /// The patient: anatomy, vessels, noise and the places of the lesions.
    pub seed: u64,
}

impl Default for PhantomSpec {
    fn default() -> Self {
        Self { slices: 150, size: 512, left_percent: 30.0, right_percent: 10.0, seed: 1 }
    }
}

/// Why a phantom can't be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PhantomError {
    /// Too few or too many slices.
    #[error("{0} slices asked for; a phantom has {SLICES_MIN} to {SLICES_MAX}")]
    Slices(usize),
    /// Too few or too many columns.
    #[error("{0} columns asked for; a phantom has {SIZE_MIN} to {SIZE_MAX}")]
    Size(usize),
    /// Not a share.
    #[error("{percent} % of the {lung} lung asked for; a share is 0 to 100 %")]
    Percent {
        /// "left" or "right".
        lung: &'static str,
        /// What was asked for.
        percent: f64,
    },
}

/// Distances between voxel centres, mm.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spacing {
    /// Between slices.
    pub slice_mm: f64,
    /// Between rows.
    pub row_mm: f64,
    /// Between columns.
    pub column_mm: f64,
}

impl Spacing {
    /// Volume of a voxel, ml.
    pub fn voxel_ml(&self) -> f64 {
        self.slice_mm * self.row_mm * self.column_mm / 1000.0
    }
}

/// One slice: the picture and its truth, row by row; row 0 is anterior, column 0 at the patient's right.
pub struct Slice {
    /// HU, -1024..=3071.
    pub hu: Vec<i16>,
    /// 0, [`RIGHT_LUNG`], [`LEFT_LUNG`], with [`LESION`] added where diseased.
    pub labels: Vec<u8>,
}

/// A patient that can be sliced.
pub struct Phantom {
    spec: PhantomSpec,
    anatomy: Anatomy,
    tubes: Vec<Tube>,
    style: Style,
    /// Right, left.
    levels: [Levels; 2],
    pixel_mm: f64,
    lung_hu: f32,
    noise_hu: f32,
}

impl Phantom {
    /// Makes the patient of a request: grows its vessels and finds the levels that give the asked lesion shares.
    ///
    /// # Errors
    /// A request outside the limits.
    pub fn new(spec: &PhantomSpec) -> Result<Self, PhantomError> {
        if !(SLICES_MIN..=SLICES_MAX).contains(&spec.slices) {
            return Err(PhantomError::Slices(spec.slices));
        }
        if !(SIZE_MIN..=SIZE_MAX).contains(&spec.size) {
            return Err(PhantomError::Size(spec.size));
        }
        for (lung, percent) in [("left", spec.left_percent), ("right", spec.right_percent)] {
            if !(0.0..=100.0).contains(&percent) {
                return Err(PhantomError::Percent { lung, percent });
            }
        }
        let anatomy = Anatomy::new(spec.seed);
        let mut random = Random::new(spec.seed, 4);
        let field_mm = 2.0 * anatomy.half_width() * anatomy.scale[0] + random.between(16.0, 34.0);
        // Scanners give few digits; so do we.
        let pixel_mm = (f64::from(field_mm) / spec.size as f64 * 1000.0).round() / 1000.0;
        let tubes = vessels::grow(&anatomy, spec.seed);
        let never = Histogram::default().levels(&Style::new(spec.seed), 0.0);
        let mut phantom = Self {
            spec: *spec,
            anatomy,
            tubes,
            style: Style::new(spec.seed),
            levels: [never; 2],
            pixel_mm,
            lung_hu: random.between(-885.0, -840.0),
            noise_hu: random.between(15.0, 24.0),
        };
        let histograms = phantom.lesion_field(cores());
        for (side, percent) in [spec.right_percent, spec.left_percent].into_iter().enumerate() {
            phantom.levels[side] = histograms[side].levels(&phantom.style, percent);
        }
        Ok(phantom)
    }

    /// The request.
    pub fn spec(&self) -> &PhantomSpec {
        &self.spec
    }

    /// Distances between voxel centres.
    pub fn spacing(&self) -> Spacing {
        let slice_mm = f64::from(HEIGHT_MM) / self.spec.slices as f64;
        let slice_mm = slice_mm.clamp(SLICE_SPACING_MM[0], SLICE_SPACING_MM[1]);
        // A decimal string holds 16 characters.
        let slice_mm = (slice_mm * 1e6).round() / 1e6;
        Spacing { slice_mm, row_mm: self.pixel_mm, column_mm: self.pixel_mm }
    }

    /// Picture and truth of slice `k`, 0 at the head.
    ///
    /// # Panics
    /// When there is no slice `k`.
    pub fn slice(&self, k: usize) -> Slice {
        let section = self.section(k);
        let grid = self.grid();
        let edge = self.edge_mm();
        let count = grid.size * grid.size;
        let plane = |stream, pitch| NoisePlane::new(self.spec.seed, stream, pitch, section.depth);
        let (coarse, fine) = (plane(21, 14.0), plane(22, 4.5));
        let field = Field::new(&self.style, section.depth);
        let warp = Warp::new(self.spec.seed, section.depth);
        let covers = vessels::draw(&self.tubes, &grid, section.depth, self.thickness(), edge);
        let (mut hu, mut noise, mut labels) = (vec![0.0f32; count], vec![0.0f32; count], vec![0u8; count]);
        for row in 0..grid.size {
            for column in 0..grid.size {
                let i = row * grid.size + column;
                let [table_x, table_y] = grid.at(row, column);
                let [x, y] = warp.at([table_x, table_y]);
                let body = section.inside_body(x, y);
                noise[i] = 0.55 + 0.55 * math::step(-10.0, 100.0, body);
                let outside =
                    if body < edge { tissue::surroundings(table_x, table_y, edge) } else { tissue::AIR_HU };
                if body < -edge {
                    hu[i] = outside;
                    continue;
                }
                let texture = 0.7 * coarse.at(x, y) + 0.5 * fine.at(x, y);
                let cage = section.inside_cage(x, y);
                let mut value = tissue::soft(&section, x, y, body, cage, texture, edge);
                value = mix(value, tissue::BLOOD_HU + 3.0 * texture, covers.great[i]);
                value = skeleton::paint(&section, x, y, -cage, texture, edge, value);
                let inside = if cage > -edge { section.inside_lung(x, y) } else { cage };
                if inside > -edge {
                    let lesion = field.at(&section, x, y, inside);
                    let mut lung = self.lung_hu + 0.32 * y + 22.0 * texture;
                    lung = field.lay(lung, lesion, inside, self.levels[side_of(x)], texture);
                    lung = mix(lung, lung.max(tissue::BLOOD_HU), covers.lung[i]);
                    value = mix(value, lung, math::cover(inside, edge));
                    if inside > 0.0 {
                        labels[i] = self.label(x, lesion);
                    }
                }
                value = mix(value, value.max(20.0), covers.wall[i]);
                value = mix(value, -985.0, covers.lumen[i]);
                hu[i] = mix(outside, value, math::cover(body, edge));
            }
        }
        // Thin slices are noisier: half the thickness, √2 the noise.
        let sigma = self.noise_hu * (2.0 / self.spacing().slice_mm as f32).sqrt().clamp(0.6, 1.4);
        let mut random = Random::new(self.spec.seed, 1000 + k as u64);
        scanner::reconstruct(&mut hu, &noise, grid.size, self.pixel_mm as f32, sigma, &mut random);
        // 12 bits, as scanners store.
        let hu =
            hu.iter().map(|&v| (v + 4096.5) as i32 - 4096).map(|v| v.clamp(-1024, 3071) as i16).collect();
        Slice { hu, labels }
    }

    fn label(&self, x: f32, field: f32) -> u8 {
        let side = side_of(x);
        let lesion = if field >= self.levels[side].lesion { LESION } else { 0 };
        [RIGHT_LUNG, LEFT_LUNG][side] + lesion
    }

    /// Values of the lesion field over the right and the left lung.
    fn lesion_field(&self, threads: usize) -> [Histogram; 2] {
        let grid = self.grid();
        let shared = std::sync::Mutex::new([Histogram::default(), Histogram::default()]);
        let (merged, grid) = (&shared, &grid);
        over_slices(self.spec.slices, threads, || {
            let mut own = [Histogram::default(), Histogram::default()];
            move |k: Option<usize>| {
                let Some(k) = k else {
                    // A thread that panicked took the program's result with it: the scope passes the panic on.
                    let mut all = merged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    all.iter_mut().zip(&own).for_each(|(a, b)| a.merge(b));
                    return;
                };
                let section = self.section(k);
                let field = Field::new(&self.style, section.depth);
                self.each_lung_pixel(&section, grid, |_, x, y, inside| {
                    own[side_of(x)].add(field.at(&section, x, y, inside));
                });
            }
        });
        shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Calls `visit(index, x, y, inside_mm)` for each pixel whose centre is in a lung.
    fn each_lung_pixel(&self, section: &Section, grid: &Grid, mut visit: impl FnMut(usize, f32, f32, f32)) {
        let warp = Warp::new(self.spec.seed, section.depth);
        for row in 0..grid.size {
            for column in 0..grid.size {
                let [x, y] = warp.at(grid.at(row, column));
                if x.abs() < 150.0 && y.abs() < 125.0 {
                    let inside = section.inside_lung(x, y);
                    if inside > 0.0 {
                        visit(row * grid.size + column, x, y, inside);
                    }
                }
            }
        }
    }

    fn section(&self, k: usize) -> Section<'_> {
        assert!(k < self.spec.slices, "slice {k} of {}", self.spec.slices);
        Section::new(&self.anatomy, (k as f32 + 0.5) * self.thickness())
    }

    /// Distance between slices in the canonical chest.
    fn thickness(&self) -> f32 {
        HEIGHT_MM / self.spec.slices as f32
    }

    /// Width over which edges are soft, canonical mm: about a pixel.
    fn edge_mm(&self) -> f32 {
        (self.pixel_mm as f32).max(0.6)
    }

    fn grid(&self) -> Grid {
        let pixel = self.pixel_mm as f32;
        let [sine, cosine] = self.anatomy.rotation;
        let [sx, sy] = self.anatomy.scale;
        let half = 0.5 * (self.spec.size as f32 - 1.0) * pixel;
        let to_canonical = |x: f32, y: f32| [(cosine * x + sine * y) / sx, (cosine * y - sine * x) / sy];
        let [ox, oy] = self.anatomy.offset_mm;
        Grid {
            size: self.spec.size,
            origin: to_canonical(-half - ox, -half - oy),
            column: to_canonical(pixel, 0.0),
            row: to_canonical(0.0, pixel),
        }
    }
}

fn side_of(x: f32) -> usize {
    usize::from(x >= 0.0)
}

/// Threads to use: one a core.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs slices on `threads` threads. `worker` makes one thread's function, which is called with each slice that falls to the
/// thread and at last with `None`.
fn over_slices<W: FnMut(Option<usize>)>(slices: usize, threads: usize, worker: impl Fn() -> W + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(slices) {
            scope.spawn(|| {
                let mut work = worker();
                loop {
                    let k = next.fetch_add(1, Ordering::Relaxed);
                    if k >= slices {
                        break;
                    }
                    work(Some(k));
                }
                work(None);
            });
        }
    });
}

#[cfg(test)]
mod tests;
