//! What the results show and refer to: the evaluated series, its masks, and its most affected slices.
//!
//! Owns the way from instances and an analysis to what the pure `results` crate is given. It reads the few slices that
//! are shown again from the spool; one that can't be read is left out and said so: a flag does not wait for a picture.
use crate::config::{Config, ResultSettings};
use crate::database::{Packed, Rank, View};
use crate::instance::{self, Instance};
use crate::pipeline::{Evaluation, Finished};
use engine::LabelVolume;
use log::warn;
use results::slice_picture::{self, SliceView};
use results::{Masks, Picture, SourceImage, SourceSeries};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The evaluated series, head to feet, as its masks lie on it. Of a study that was not evaluated, the series that came
/// closest, in the order of its instance numbers: what its report refers to.
pub fn series(finished: &Finished, instances: &[Arc<Instance>]) -> Option<SourceSeries> {
    let (slices, slice_spacing_mm): (Vec<&Arc<Instance>>, f64) = match &finished.evaluation {
        Some(e) => (e.chosen.order.iter().map(|i| &instances[*i]).collect(), e.chosen.slice_spacing_mm),
        None => {
            let closest = finished.outcome.series_uid.as_ref()?;
            let mut slices: Vec<_> = instances.iter().filter(|i| i.header.series == *closest).collect();
            slices.sort_by_key(|i| i.instance_number);
            (slices, f64::NAN)
        }
    };
    let first = slices.first()?;
    let geometry = &first.header.geometry;
    let image = |slice: &&Arc<Instance>| SourceImage {
        sop_class_uid: slice.sop_class.clone(),
        sop_instance_uid: slice.header.instance.to_string(),
        position_mm: slice.header.geometry.position_mm,
        thickness_mm: slice.header.slice_thickness_mm,
        instance_number: slice.instance_number,
    };
    Some(SourceSeries {
        series_uid: first.header.series.to_string(),
        frame_of_reference_uid: first.frame_of_reference.clone(),
        rows: geometry.rows,
        columns: geometry.columns,
        pixel_spacing_mm: [geometry.row_spacing_mm, geometry.column_spacing_mm],
        slice_spacing_mm,
        orientation: geometry.orientation,
        images: slices.iter().map(image).collect(),
    })
}

/// Its lungs and lesions.
pub fn masks(evaluation: &Evaluation) -> Masks<'_> {
    Masks {
        labels: &evaluation.analysis.labels.voxels,
        right_lung: LabelVolume::RIGHT_LUNG,
        left_lung: LabelVolume::LEFT_LUNG,
        lesion: LabelVolume::LESION,
    }
}

/// What the screen shows of an outcome: the coronal picture, the evaluated slices, and the lesions where they may be outlined. A picture that
/// can't be made costs itself only.
pub fn view(finished: &Finished, instances: &[Arc<Instance>], revision: u32, config: &Config) -> View {
    let rank = Some(Rank::of(&finished.outcome, &config.policy));
    if config.screen.is_none() {
        return View { rank, ..View::default() };
    }
    let alerts = true;
    let draw = || crate::report::picture(finished, config.results.picture_colours, revision).to_png();
    let picture = catch_unwind(AssertUnwindSafe(draw)).unwrap_or_else(|_| {
        warn!("study {}: its picture could not be made for the screen", finished.outcome.study_uid);
        Vec::new()
    });
    let Some(evaluation) = &finished.evaluation else {
        return View { rank, alerts, picture, ..View::default() };
    };
    let slice = |index: &usize| instances[*index].header.instance.to_string();
    View {
        rank,
        alerts,
        picture,
        slices: evaluation.chosen.order.iter().map(slice).collect(),
        // Of a method that looks for none, nothing: an empty outline would say that there are none.
        lesions: (config.results.lesion_outlines && evaluation.analysis.lesions.is_some())
            .then(|| Packed::new(&lesion_bits(&evaluation.analysis.labels))),
    }
}

/// One bit a voxel, the first pixel in the lowest bit; each row starts a byte.
fn lesion_bits(labels: &LabelVolume) -> Vec<u8> {
    let bits = |eight: &[u8]| {
        eight
            .iter()
            .enumerate()
            .fold(0, |bits, (i, label)| bits | u8::from(label & LabelVolume::LESION != 0) << i)
    };
    labels.voxels.chunks(labels.shape[2].max(1)).flat_map(|row| row.chunks(8).map(bits)).collect()
}

/// Pictures of its most affected slices, head to feet, each with the index of its slice. They are read and drawn all at
/// once: compressed ones take a tenth of a second each.
pub fn slices(
    evaluation: &Evaluation,
    instances: &[Arc<Instance>],
    series: &SourceSeries,
    settings: &ResultSettings,
    revision: u32,
) -> Vec<(usize, Picture)> {
    let masks = masks(evaluation);
    let draw = |index: usize| {
        let instance = &instances[evaluation.chosen.order[index]];
        let image = instance::read_pixels(instance)
            .map_err(|error| warn!("a slice is left out of the pictures: {error}"))
            .ok()?;
        let outlines = settings.lesion_outlines;
        let view = SliceView { series, index, hu: &image.hu(), masks: &masks, outlines, revision };
        Some((index, slice_picture::render(&view)?))
    };
    std::thread::scope(|scope| {
        let chosen = slice_picture::most_affected(series, &masks, settings.slices);
        let drawing: Vec<_> = chosen.into_iter().map(|index| scope.spawn(move || draw(index))).collect();
        drawing
            .into_iter()
            .filter_map(|picture| {
                // A decoder that panics costs a picture, not the flag.
                picture.join().unwrap_or_else(|_| {
                    warn!("a slice is left out of the pictures: its decoder panicked");
                    None
                })
            })
            .collect()
    })
}
