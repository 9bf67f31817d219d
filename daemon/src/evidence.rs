//! What the results show and refer to: the evaluated series, its masks, and its most affected slices.
//!
//! Owns the way from instances and an analysis to what the pure `results` crate is given. It reads the few slices that
//! are shown again from the spool; one that can't be read is left out and said so: a flag does not wait for a picture.
use crate::instance::Instance;
use crate::pipeline::Evaluation;
use results::{SourceImage, SourceSeries};
use std::sync::Arc;

/// The evaluated series, head to feet, as its masks lie on it.
pub fn series(evaluation: &Evaluation, instances: &[Arc<Instance>]) -> Option<SourceSeries> {
    let slices: Vec<&Arc<Instance>> = evaluation.chosen.order.iter().map(|i| &instances[*i]).collect();
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
        series_uid: evaluation.chosen.series.to_string(),
        frame_of_reference_uid: first.frame_of_reference.clone(),
        rows: geometry.rows,
        columns: geometry.columns,
        pixel_spacing_mm: [geometry.row_spacing_mm, geometry.column_spacing_mm],
        slice_spacing_mm: evaluation.chosen.slice_spacing_mm,
        orientation: geometry.orientation,
        images: slices.iter().map(image).collect(),
    })
}
