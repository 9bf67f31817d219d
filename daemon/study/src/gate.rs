//! The input gate: what a series must be before the networks may judge it, and why a study was not evaluated.
//!
//! Comparable triage devices refuse missing or misordered slices and unsuitable acquisitions in the same way.
use crate::geometry::SliceGeometry;
use crate::series::SliceHeader;
use serde::{Deserialize, Serialize};

/// Widest field of view: large-bore scanners reconstruct up to 820 mm (extended).
pub const FIELD_OF_VIEW_MAX_MM: f64 = 850.0;
/// Neighbouring slices closer than this lie at the same position.
const DUPLICATE_MM: f64 = 0.01;
/// A distance beyond this many median distances is a gap: at least half a slice is missing.
const GAP_FACTOR: f64 = 1.5;
/// Distances may differ from the median by this share of it: scanners round positions to 0.1 mm.
const UNEVEN_FACTOR: f64 = 0.1;
/// … and at least by this much.
const UNEVEN_MM: f64 = 0.11;
/// Planes tilted less than this against the axial plane count as axial.
const TILT_MAX_DEG: f64 = 0.5;
/// A row may be turned by this much against the patient's left-right axis.
const TURN_MAX_DEG: f64 = 15.0;
/// Orientations of one series agree to this (direction cosines).
const ORIENTATION_TOLERANCE: f64 = 1e-3;
/// Pixel spacing and in-plane position of one series agree to this.
const GRID_TOLERANCE_MM: f64 = 0.01;
/// The in-plane position may wander by this over the series (a table that is not quite straight).
const SHIFT_MAX_MM: f64 = 5.0;
/// Share of its largest slice area from which a lung that meets the volume's edge counts as cut.
pub const CUT_AREA_SHARE_MAX: f64 = 0.25;

/// What the model card says the networks were made for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRange {
    /// Tube voltage (0018,0060), lowest and highest. A header without it is accepted: the element may be empty.
    pub kvp: [f64; 2],
    /// Distance between slices, lowest and highest.
    pub slice_spacing_mm: [f64; 2],
    /// Pixel spacing, lowest and highest.
    pub pixel_spacing_mm: [f64; 2],
    /// Fewest slices.
    pub min_slices: usize,
    /// Reconstruction kernels (0018,1210), best first.
    pub preferred_kernels: Vec<String>,
    /// Slice thickness (0018,0050) that is preferred, lowest and highest.
    pub preferred_slice_thickness_mm: [f64; 2],
}

/// Why a study was not evaluated, in words for the technician.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotEvaluated {
    /// Nothing in the study is a CT image.
    #[error("the study holds no CT image series")]
    NoCt,
    /// Localizers, derived or secondary images, but no original axial image.
    #[error("the study holds only localizer or derived CT images")]
    LocalizerOrDerivedOnly,
    /// Enhanced (multi-frame) CT, which this version does not read.
    #[error("the study holds enhanced (multi-frame) CT only; send it as single slices")]
    MultiFrame,
    /// The series is not axial.
    #[error("no axial CT series: image orientation {orientation:?} is not a supine axial one")]
    NotAxial {
        /// Image Orientation (Patient).
        orientation: [f64; 6],
    },
    /// The gantry was tilted.
    #[error("gantry tilt of {tilt_deg:.1}°; at most {TILT_MAX_DEG}° is evaluated")]
    GantryTilt {
        /// Angle between the slices and the axial plane.
        tilt_deg: f64,
    },
    /// Too few slices.
    #[error("{slices} slices; at least {min} are needed")]
    TooFewSlices {
        /// Slices in the series.
        slices: usize,
        /// The model card's least.
        min: usize,
    },
    /// More slices than the appliance holds.
    #[error("{slices} slices; at most {max} fit the appliance's memory bound")]
    TooManySlices {
        /// Slices in the series.
        slices: usize,
        /// The bound.
        max: usize,
    },
    /// Slices with different orientations in one series.
    #[error("slices of the series have different orientations")]
    MixedOrientations,
    /// Slices with different matrix, pixel spacing or in-plane position in one series.
    #[error("slices of the series have different grids: {what} differs")]
    MixedGrid {
        /// What differs.
        what: &'static str,
    },
    /// Two slices at the same position.
    #[error("two slices of the series lie at the same position, {position_mm:.1} mm")]
    DuplicatePosition {
        /// Position along the patient.
        position_mm: f64,
    },
    /// A slice is missing.
    #[error("slices are missing: a gap of {gap_mm:.2} mm where slices are {spacing_mm:.2} mm apart")]
    Gap {
        /// The largest distance.
        gap_mm: f64,
        /// The median distance.
        spacing_mm: f64,
    },
    /// Slices are not evenly spaced.
    #[error("uneven slice spacing: {found_mm:.2} mm where slices are {spacing_mm:.2} mm apart")]
    UnevenSpacing {
        /// The distance that differs most.
        found_mm: f64,
        /// The median distance.
        spacing_mm: f64,
    },
    /// A value of the header is outside of what the model card allows.
    #[error("{what} {value} is outside of {min} to {max}, for which the networks were made")]
    OutOfRange {
        /// What, with its unit.
        what: &'static str,
        /// The value found.
        value: f64,
        /// Lowest value allowed.
        min: f64,
        /// Highest value allowed.
        max: f64,
    },
    /// An instance could not be read.
    #[error("an image could not be read: {what}")]
    Unreadable {
        /// Which, and why.
        what: String,
    },
    /// The lung network found nothing, or too little to be lungs.
    #[error("no lungs found: {volume_ml:.0} ml, less than {LUNG_VOLUME_MIN_ML} ml")]
    NoLungs {
        /// What it found.
        volume_ml: f64,
    },
    /// What was found lies on one side: k-means would cut the one lung into two halves.
    #[error("only one lung found: the two halves lie {distance_mm:.0} mm apart")]
    OneLung {
        /// Distance between the centres of the "left" and the "right" lung along the columns.
        distance_mm: f64,
    },
    /// The lungs reach the edge of the reconstructed field or of the scanned range.
    #[error("the lungs are cut by the field of view at the {edge}")]
    LungsCut {
        /// Which edge.
        edge: &'static str,
    },
    /// No backend could run the networks.
    #[error("the networks could not be run: {what}")]
    Engine {
        /// What the last backend said.
        what: String,
    },
}

/// A series that passed: its slices' order and spacing.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// Indices into the slices given, from head to feet.
    pub order: Vec<usize>,
    /// Median distance between slices.
    pub slice_spacing_mm: f64,
}

/// Judges the slices of one series (localizers and derived images already left out).
///
/// # Errors
/// [`NotEvaluated`], the first reason that applies.
pub fn judge(slices: &[SliceHeader], range: &InputRange) -> Result<Passed, NotEvaluated> {
    let first = &slices.first().ok_or(NotEvaluated::NoCt)?.geometry;
    let same_orientation = |g: &SliceGeometry| {
        g.orientation.iter().zip(first.orientation).all(|(a, b)| (a - b).abs() <= ORIENTATION_TOLERANCE)
    };
    if !slices.iter().all(|s| same_orientation(&s.geometry)) {
        return Err(NotEvaluated::MixedOrientations);
    }
    for slice in slices {
        axial(&slice.geometry)?;
    }
    if slices.len() < range.min_slices {
        return Err(NotEvaluated::TooFewSlices { slices: slices.len(), min: range.min_slices });
    }
    same_grid(slices)?;
    within("pixel spacing in mm", first.row_spacing_mm, range.pixel_spacing_mm)?;
    within("pixel spacing in mm", first.column_spacing_mm, range.pixel_spacing_mm)?;
    // Beyond it a slice on the networks' grid has no bound.
    within("field of view in mm", first.rows as f64 * first.row_spacing_mm, [0.0, FIELD_OF_VIEW_MAX_MM])?;
    within(
        "field of view in mm",
        first.columns as f64 * first.column_spacing_mm,
        [0.0, FIELD_OF_VIEW_MAX_MM],
    )?;
    for kvp in slices.iter().filter_map(|s| s.kvp) {
        within("tube voltage in kVp", kvp, range.kvp)?;
    }
    stack(slices, range)
}

fn axial(g: &SliceGeometry) -> Result<(), NotEvaluated> {
    let not_axial = NotEvaluated::NotAxial { orientation: g.orientation };
    let unit = |v: &[f64]| (v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-2;
    let finite = g.orientation.iter().chain(&g.position_mm).all(|v| v.is_finite());
    if !finite || !unit(&g.orientation[..3]) || !unit(&g.orientation[3..]) {
        return Err(not_axial);
    }
    // Rows run to the patient's left and columns to the back: a supine image, as the networks know it.
    let turn = TURN_MAX_DEG.to_radians().cos();
    if g.orientation[0] < turn || g.orientation[4] < 0.5 {
        return Err(not_axial);
    }
    let tilt_deg = g.normal()[2].clamp(-1.0, 1.0).acos().to_degrees();
    let tilt_deg = tilt_deg.max(g.gantry_tilt_deg.unwrap_or(0.0).abs());
    if tilt_deg > TILT_MAX_DEG {
        return Err(NotEvaluated::GantryTilt { tilt_deg });
    }
    if g.orientation[4] < turn { Err(not_axial) } else { Ok(()) }
}

fn same_grid(slices: &[SliceHeader]) -> Result<(), NotEvaluated> {
    let a = &slices[0].geometry;
    let near = |x: f64, y: f64| (x - y).abs() <= GRID_TOLERANCE_MM;
    for b in slices.iter().map(|s| &s.geometry) {
        let what = if (a.rows, a.columns) != (b.rows, b.columns) {
            "the matrix"
        } else if !near(a.row_spacing_mm, b.row_spacing_mm) || !near(a.column_spacing_mm, b.column_spacing_mm)
        {
            "the pixel spacing"
        } else if (0..2).any(|i| (a.position_mm[i] - b.position_mm[i]).abs() > SHIFT_MAX_MM) {
            "the position in the plane"
        } else {
            continue;
        };
        return Err(NotEvaluated::MixedGrid { what });
    }
    Ok(())
}

fn stack(slices: &[SliceHeader], range: &InputRange) -> Result<Passed, NotEvaluated> {
    let normal = slices[0].geometry.normal();
    let offset = |i: usize| slices[i].geometry.offset_mm(normal);
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by(|a, b| offset(*b).total_cmp(&offset(*a)));
    let steps: Vec<f64> = order.windows(2).map(|w| offset(w[0]) - offset(w[1])).collect();
    if let Some(i) = steps.iter().position(|s| *s < DUPLICATE_MM) {
        return Err(NotEvaluated::DuplicatePosition { position_mm: offset(order[i]) });
    }
    let mut sorted = steps.clone();
    sorted.sort_by(f64::total_cmp);
    let spacing_mm = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let largest = sorted.last().copied().unwrap_or(0.0);
    if largest > GAP_FACTOR * spacing_mm {
        return Err(NotEvaluated::Gap { gap_mm: largest, spacing_mm });
    }
    let tolerance = UNEVEN_MM.max(UNEVEN_FACTOR * spacing_mm);
    let worst =
        steps.iter().copied().max_by(|a, b| (a - spacing_mm).abs().total_cmp(&(b - spacing_mm).abs()));
    if let Some(found_mm) = worst.filter(|w| (w - spacing_mm).abs() > tolerance) {
        return Err(NotEvaluated::UnevenSpacing { found_mm, spacing_mm });
    }
    within("slice spacing in mm", spacing_mm, range.slice_spacing_mm)?;
    Ok(Passed { order, slice_spacing_mm: spacing_mm })
}

fn within(what: &'static str, value: f64, [min, max]: [f64; 2]) -> Result<(), NotEvaluated> {
    // Written so that NaN is out of range.
    if value >= min && value <= max {
        Ok(())
    } else {
        Err(NotEvaluated::OutOfRange { what, value, min, max })
    }
}

/// Least volume of both lungs. Adults have 2 to 7 litres, a shrunken diseased pair over one; bowel gas, sinuses or a
/// trachea that the network took for lung have less.
pub const LUNG_VOLUME_MIN_ML: f64 = 400.0;
/// Least distance between the centres of the lungs along the columns. Adults have 130 to 180 mm; the halves of a single
/// lung, 50 to 60 mm.
pub const LUNG_DISTANCE_MIN_MM: f64 = 80.0;

/// How large the lung mask is and how far it reaches to the edges of the volume; areas in voxels of the source grid.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LungExtent {
    /// Area in the first slice.
    pub first_slice_area: usize,
    /// Area in the last slice.
    pub last_slice_area: usize,
    /// Largest area in a slice.
    pub largest_slice_area: usize,
    /// Area of the mask on the four lateral borders, summed over the slices.
    pub border_area: usize,
    /// Voxels of the mask.
    pub volume: usize,
    /// Volume of the mask.
    pub volume_ml: f64,
    /// Distance between the centres of the left and the right lung along the columns.
    pub distance_mm: f64,
}

/// Share of the lung volume that may lie on the lateral border: speckle, not a lung.
const BORDER_SHARE_MAX: f64 = 0.002;

/// Judges whether the lungs are inside the reconstructed field and the scanned range.
///
/// # Errors
/// [`NotEvaluated::NoLungs`], [`NotEvaluated::OneLung`], [`NotEvaluated::LungsCut`].
pub fn judge_lungs(extent: &LungExtent) -> Result<(), NotEvaluated> {
    if extent.volume_ml < LUNG_VOLUME_MIN_ML {
        return Err(NotEvaluated::NoLungs { volume_ml: extent.volume_ml });
    }
    if extent.distance_mm < LUNG_DISTANCE_MIN_MM {
        return Err(NotEvaluated::OneLung { distance_mm: extent.distance_mm });
    }
    let cut = |area: usize| area as f64 > CUT_AREA_SHARE_MAX * extent.largest_slice_area as f64;
    let edge = if cut(extent.first_slice_area) {
        "first slice"
    } else if cut(extent.last_slice_area) {
        "last slice"
    } else if extent.border_area as f64 > BORDER_SHARE_MAX * extent.volume as f64 {
        "border of the image"
    } else {
        return Ok(());
    };
    Err(NotEvaluated::LungsCut { edge })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ids::{SeriesUid, SopInstanceUid, StudyUid};
    use crate::series::ImageKind;

    pub(crate) fn range() -> InputRange {
        InputRange {
            kvp: [80.0, 140.0],
            slice_spacing_mm: [0.5, 10.0],
            pixel_spacing_mm: [0.3, 1.5],
            min_slices: 8,
            preferred_kernels: vec!["B30f".into(), "B40f".into()],
            preferred_slice_thickness_mm: [1.0, 3.0],
        }
    }

    /// A series of `n` even slices, 2 mm apart, in scrambled order.
    pub(crate) fn series(uid: &str, n: usize) -> Vec<SliceHeader> {
        (0..n)
            .map(|i| {
                let at = (i * 7 + 3) % n;
                SliceHeader {
                    study: StudyUid::new("1.2").unwrap(),
                    series: SeriesUid::new(uid).unwrap(),
                    instance: SopInstanceUid::new(&format!("{uid}.{at}")).unwrap(),
                    kind: ImageKind::Axial,
                    geometry: SliceGeometry {
                        rows: 512,
                        columns: 512,
                        row_spacing_mm: 0.7,
                        column_spacing_mm: 0.7,
                        position_mm: [-180.0, -180.0, 100.0 - 2.0 * at as f64],
                        orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
                        gantry_tilt_deg: Some(0.0),
                    },
                    kvp: Some(120.0),
                    kernel: Some("B40f".into()),
                    slice_thickness_mm: Some(2.0),
                }
            })
            .collect()
    }

    #[test]
    fn an_even_series_passes_head_first() {
        let slices = series("1", 20);
        let passed = judge(&slices, &range()).unwrap();
        let z: Vec<f64> = passed.order.iter().map(|i| slices[*i].geometry.position_mm[2]).collect();
        assert!(z.windows(2).all(|w| w[0] > w[1]), "{z:?}");
        assert!((passed.slice_spacing_mm - 2.0).abs() < 1e-9);
    }

    /// A case: its name, the change to an even series, the words expected in the reason.
    type Case = (&'static str, fn(&mut Vec<SliceHeader>), &'static str);

    #[test]
    fn every_reason_is_reached() {
        let sin = 20f64.to_radians().sin();
        assert!(sin > 0.3);
        let cases: &[Case] = &[
            ("few", |s| s.truncate(7), "7 slices; at least 8"),
            ("missing", |s| s.retain(|h| h.geometry.position_mm[2] != 80.0), "slices are missing"),
            ("twice", |s| s[3].geometry.position_mm[2] = s[5].geometry.position_mm[2], "same position"),
            ("uneven", |s| s[3].geometry.position_mm[2] += 0.6, "uneven slice spacing"),
            (
                "mixed",
                |s| s[2].geometry.orientation = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
                "different orientations",
            ),
            (
                "coronal",
                |s| s.iter_mut().for_each(|h| h.geometry.orientation = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]),
                "no axial CT series",
            ),
            (
                "prone",
                |s| s.iter_mut().for_each(|h| h.geometry.orientation = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0]),
                "no axial CT series",
            ),
            (
                "tilted plane",
                |s| {
                    let (sin, cos) = 20f64.to_radians().sin_cos();
                    s.iter_mut().for_each(|h| h.geometry.orientation = [1.0, 0.0, 0.0, 0.0, cos, -sin]);
                },
                "gantry tilt of 20.0",
            ),
            ("tilt stated", |s| s[0].geometry.gantry_tilt_deg = Some(-12.5), "gantry tilt of 12.5"),
            (
                "zero spacing",
                |s| s.iter_mut().for_each(|h| h.geometry.row_spacing_mm = 0.0),
                "pixel spacing in mm 0",
            ),
            (
                "NaN spacing",
                |s| s.iter_mut().for_each(|h| h.geometry.row_spacing_mm = f64::NAN),
                "the pixel spacing",
            ),
            ("wide", |s| s.iter_mut().for_each(|h| h.geometry.columns = 2048), "field of view in mm 1433"),
            ("matrix", |s| s[4].geometry.rows = 256, "the matrix differs"),
            ("shift", |s| s[4].geometry.position_mm[0] += 30.0, "position in the plane"),
            ("kvp", |s| s[4].kvp = Some(70.0), "tube voltage in kVp 70"),
            (
                "far apart",
                |s| s.iter_mut().for_each(|h| h.geometry.position_mm[2] *= 10.0),
                "slice spacing in mm 20",
            ),
            ("NaN position", |s| s[1].geometry.position_mm[2] = f64::NAN, "no axial CT series"),
            ("none", Vec::clear, "no CT image series"),
        ];
        for (name, change, want) in cases {
            let mut slices = series("1", 20);
            change(&mut slices);
            let reason = judge(&slices, &range()).unwrap_err().to_string();
            assert!(reason.contains(want), "{name}: {reason}");
        }
    }

    #[test]
    fn lungs_at_the_edges() {
        let whole = LungExtent {
            first_slice_area: 0,
            last_slice_area: 100,
            largest_slice_area: 5000,
            border_area: 3,
            volume: 400_000,
            volume_ml: 3200.0,
            distance_mm: 150.0,
        };
        let cases = [
            (whole, None),
            (LungExtent { volume_ml: 0.0, ..whole }, Some("no lungs")),
            (LungExtent { volume_ml: 40.0, ..whole }, Some("no lungs found: 40 ml")),
            (LungExtent { distance_mm: 55.0, ..whole }, Some("only one lung")),
            (LungExtent { first_slice_area: 2000, ..whole }, Some("first slice")),
            (LungExtent { last_slice_area: 2000, ..whole }, Some("last slice")),
            (LungExtent { border_area: 4000, ..whole }, Some("border")),
        ];
        for (extent, want) in cases {
            let got = judge_lungs(&extent).err().map(|e| e.to_string());
            match want {
                None => assert_eq!(got, None),
                Some(want) => assert!(got.as_deref().is_some_and(|g| g.contains(want)), "{got:?}"),
            }
        }
    }
}
