//! The slices of a study as their headers describe them, and the choice of the series that is evaluated.
use crate::gate::{self, InputRange, NotEvaluated};
use crate::geometry::SliceGeometry;
use crate::ids::{SeriesUid, SopInstanceUid, StudyUid};
use std::collections::BTreeMap;

/// What an instance is, as far as the choice of a series is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// A CT image that may be part of an axial series.
    Axial,
    /// A localizer (scout, topogram), derived or secondary image: PS3.3 section C.8.2.1.1.1, Image Type.
    LocalizerOrDerived,
    /// Enhanced (multi-frame) CT.
    MultiFrame,
    /// No CT image at all: a dose report, a secondary capture, a presentation state.
    Other,
}

/// The facts of one instance's header that decide whether and how it is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceHeader {
    /// Its study.
    pub study: StudyUid,
    /// Its series.
    pub series: SeriesUid,
    /// Itself.
    pub instance: SopInstanceUid,
    /// What it is.
    pub kind: ImageKind,
    /// Where it lies.
    pub geometry: SliceGeometry,
    /// Tube voltage (0018,0060).
    pub kvp: Option<f64>,
    /// Reconstruction kernel (0018,1210), first value.
    pub kernel: Option<String>,
    /// Slice thickness (0018,0050).
    pub slice_thickness_mm: Option<f64>,
}

/// The series that will be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenSeries {
    /// Its UID.
    pub series: SeriesUid,
    /// Indices into the study's headers, from head to feet.
    pub order: Vec<usize>,
    /// Distance between slices.
    pub slice_spacing_mm: f64,
}

/// A study without a series that passes the gate: the reason, and the series that came closest.
#[derive(Debug, Clone, PartialEq)]
pub struct NoSeries {
    /// The reason.
    pub reason: NotEvaluated,
    /// The CT series with the most slices, if there is one.
    pub series: Option<SeriesUid>,
}

/// Ranks a study's series: of those that pass the gate, the model card's preferred kernel first, then its preferred
/// thickness, then the most slices; the UID decides between equals, so that the choice is repeatable. Never empty.
///
/// # Errors
/// [`NoSeries`], with the reason of the CT series that has the most slices.
pub fn rank(headers: &[SliceHeader], range: &InputRange) -> Result<Vec<ChosenSeries>, NoSeries> {
    let mut by_series: BTreeMap<&SeriesUid, Vec<usize>> = BTreeMap::new();
    for (i, header) in headers.iter().enumerate().filter(|(_, h)| h.kind == ImageKind::Axial) {
        by_series.entry(&header.series).or_default().push(i);
    }
    if by_series.is_empty() {
        let has = |kind| headers.iter().any(|h| h.kind == kind);
        let reason = if has(ImageKind::MultiFrame) {
            NotEvaluated::MultiFrame
        } else if has(ImageKind::LocalizerOrDerived) {
            NotEvaluated::LocalizerOrDerivedOnly
        } else {
            NotEvaluated::NoCt
        };
        return Err(NoSeries { reason, series: None });
    }
    let mut passed = Vec::new();
    let mut refused = Vec::new();
    for (series, indices) in by_series {
        let slices: Vec<SliceHeader> = indices.iter().map(|i| headers[*i].clone()).collect();
        match gate::judge(&slices, range) {
            Ok(p) => {
                let order: Vec<usize> = p.order.iter().map(|k| indices[*k]).collect();
                let rank = (kernel_rank(&slices[0], range), !thickness_preferred(&slices[0], range));
                let chosen =
                    ChosenSeries { series: series.clone(), order, slice_spacing_mm: p.slice_spacing_mm };
                passed.push((rank, std::cmp::Reverse(slices.len()), chosen));
            }
            Err(reason) => refused.push((slices.len(), series.clone(), reason)),
        }
    }
    if !passed.is_empty() {
        passed.sort_by(|a, b| (a.0, a.1, &a.2.series).cmp(&(b.0, b.1, &b.2.series)));
        return Ok(passed.into_iter().map(|(_, _, chosen)| chosen).collect());
    }
    let closest = refused.into_iter().max_by_key(|(slices, _, _)| *slices);
    let (series, reason) =
        closest.map_or((None, NotEvaluated::NoCt), |(_, series, reason)| (Some(series), reason));
    Err(NoSeries { reason, series })
}

/// Place of the kernel in the card's list, then its sharpness: of two that the card does not name, the softer comes first.
fn kernel_rank(slice: &SliceHeader, range: &InputRange) -> (usize, u32) {
    let kernel = slice.kernel.as_deref().unwrap_or("");
    let named = range.preferred_kernels.iter().position(|k| k.eq_ignore_ascii_case(kernel));
    // Makers number their kernels by sharpness: B30f to B80f, Br40d to Bl57d, I26f to I70f, FC03 to FC52.
    let digits: String =
        kernel.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    (named.unwrap_or(usize::MAX), digits.parse().unwrap_or(u32::MAX))
}

fn thickness_preferred(slice: &SliceHeader, range: &InputRange) -> bool {
    let [min, max] = range.preferred_slice_thickness_mm;
    slice.slice_thickness_mm.is_some_and(|t| t >= min && t <= max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::{range, series};

    fn kernel(mut slices: Vec<SliceHeader>, kernel: &str, thickness_mm: f64) -> Vec<SliceHeader> {
        for slice in &mut slices {
            slice.kernel = Some(kernel.into());
            slice.slice_thickness_mm = Some(thickness_mm);
        }
        slices
    }

    #[test]
    fn the_preferred_series_is_chosen() {
        let soft = kernel(series("1", 20), "B40f", 5.0);
        let sharp = kernel(series("2", 40), "B70f", 2.0);
        let thin = kernel(series("3", 20), "b40F", 2.0);
        let longer = kernel(series("4", 30), "B40f", 2.0);
        let (unnamed_sharp, unnamed_soft) =
            (kernel(series("5", 30), "Bl57d", 2.0), kernel(series("6", 20), "Br40d", 2.0));
        let cases: &[(&[&[SliceHeader]], &str)] = &[
            (&[&sharp, &soft], "1"),
            (&[&sharp], "2"),
            (&[&soft, &thin], "3"),
            (&[&thin, &longer], "4"),
            (&[&unnamed_sharp, &unnamed_soft], "6"),
        ];
        for (parts, want) in cases {
            let study: Vec<SliceHeader> = parts.concat();
            assert_eq!(rank(&study, &range()).unwrap()[0].series.as_str(), *want);
        }
    }

    #[test]
    fn a_broken_preferred_series_gives_way_to_a_whole_one() {
        let mut soft = kernel(series("1", 20), "B40f", 2.0);
        soft.retain(|h| h.geometry.position_mm[2] != 80.0);
        let study = [soft, kernel(series("2", 12), "B70f", 2.0)].concat();
        assert_eq!(rank(&study, &range()).unwrap()[0].series.as_str(), "2");
    }

    #[test]
    fn localizers_and_reports_do_not_disturb() {
        let mut study = series("1", 20);
        for (kind, rows) in [(ImageKind::LocalizerOrDerived, 900), (ImageKind::Other, 0)] {
            let mut extra = study[0].clone();
            extra.kind = kind;
            extra.geometry.rows = rows;
            study.push(extra);
        }
        let ranked = rank(&study, &range()).unwrap();
        assert_eq!((ranked.len(), ranked[0].order.len()), (1, 20));
        let without: Vec<SliceHeader> = study[20..].to_vec();
        let refused = rank(&without, &range()).unwrap_err();
        assert_eq!(refused.reason, NotEvaluated::LocalizerOrDerivedOnly);
        assert_eq!(rank(&study[21..], &range()).unwrap_err().reason, NotEvaluated::NoCt);
    }
}
