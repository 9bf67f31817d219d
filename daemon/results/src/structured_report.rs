//! The outcome as a Comprehensive SR (PS3.3 section A.35.3) on TID 1500 "Measurement Report": what was measured, the
//! priority, or why there is no answer, with references to the source images, in a series of our own.
//!
//! It diagnoses nothing and verifies nothing: the document is a machine's, unverified and preliminary. Codes are
//! standard ones where there is one; the others are in [`PRIVATE_CODES`].
use crate::case::{self, Case, DicomResult, Kind};
use crate::dataset::DataSet;
use crate::references;
use crate::source::{SourceSeries, Tag};
use crate::uid;
use code::{
    COMPUTED_TOMOGRAPHY, CT_OF_CHEST, DEVICE, ENGLISH, IMAGING_PROCEDURE, MILLIMETRE, PIXELS, concept,
};
use content::Relation::{Contains, HasAcqContext, HasConceptMod, HasObsContext};
use content::{Item, container, image, number, text, uid_ref};

mod code;
mod content;
mod groups;

pub use code::{Code, PRIVATE_CODES, PRIVATE_SCHEME};

/// Comprehensive SR Storage.
pub const SOP_CLASS_UID: &str = "1.2.840.10008.5.1.4.1.1.88.33";
const SERIES_NUMBER: &str = "9003";
const SERIES_DESCRIPTION: &str = "Triage report NOT FOR DIAGNOSTIC USE";
/// What its UIDs are derived from.
const NAME: &str = "structured report";

/// Builds the report. The revision becomes the instance number.
///
/// Without a source series the document references no image, and is valid all the same.
pub fn build(case: &Case<'_>) -> DicomResult {
    let series_uid = case.series_uid(NAME);
    let mut set = case.data_set(&series_uid);
    let source = case.series.filter(|series| !series.images.is_empty());
    put_document(&mut set, case);
    if let Some(series) = source {
        put_evidence(&mut set, case, series);
    }
    let parts = parts(case, source);
    let set = content::document(set, concept::IMAGING_MEASUREMENT_REPORT, Some("1500"), parts);
    case::finish(Kind::Report, SOP_CLASS_UID, case.instance_uid(NAME), series_uid, set)
}

/// SR Document Series and SR Document General modules (PS3.3 sections C.17.1 and C.17.2).
///
/// There is no Referenced Request Sequence: this document fulfils no requested procedure, the radiologist's report
/// does. There is no predecessor: a later revision is measured anew and takes over no content.
fn put_document(set: &mut DataSet, case: &Case<'_>) {
    set.put(Tag(0x0008, 0x0060), b"CS", "SR"); // Modality
    set.put(Tag(0x0008, 0x103e), b"LO", SERIES_DESCRIPTION);
    set.put_sequence(Tag(0x0008, 0x1111), []); // Referenced Performed Procedure Step: none
    set.put(Tag(0x0020, 0x0011), b"IS", SERIES_NUMBER);
    set.put(Tag(0x0020, 0x0013), b"IS", case.revision.to_string()); // Instance Number
    set.put_sequence(Tag(0x0040, 0xa372), []); // Performed Procedure Code: not known
    // Complete: nothing will be added to this document. Preliminary: a person's report is yet to come.
    set.put(Tag(0x0040, 0xa491), b"CS", "COMPLETE"); // Completion Flag
    set.put(Tag(0x0040, 0xa493), b"CS", "UNVERIFIED"); // Verification Flag
    set.put(Tag(0x0040, 0xa496), b"CS", "PRELIMINARY"); // Preliminary Flag
    let mut scheme = DataSet::default();
    scheme.put(Tag(0x0008, 0x0102), b"SH", PRIVATE_SCHEME); // Coding Scheme Designator
    scheme.put(Tag(0x0008, 0x0115), b"ST", "Codes of the triage appliance"); // Coding Scheme Name
    set.put_sequence(Tag(0x0008, 0x0110), [scheme]); // Coding Scheme Identification
}

/// Current Requested Procedure Evidence Sequence: every image that the content references (PS3.3 section C.17.2.3).
fn put_evidence(set: &mut DataSet, case: &Case<'_>, source: &SourceSeries) {
    let images = source.images.iter().map(references::instance);
    let mut series = DataSet::default();
    series.put_sequence(Tag(0x0008, 0x1199), images); // Referenced SOP
    series.put(Tag(0x0020, 0x000e), b"UI", source.series_uid.as_str());
    let mut study = DataSet::default();
    study.put_sequence(Tag(0x0008, 0x1115), [series]); // Referenced Series
    study.put(Tag(0x0020, 0x000d), b"UI", case.outcome.study_uid.as_str());
    set.put_sequence(Tag(0x0040, 0xa375), [study]);
}

/// The parts of TID 1500 "Measurement Report", in the template's order.
fn parts(case: &Case<'_>, source: Option<&SourceSeries>) -> Vec<Item> {
    // TID 1204 "Language of Content Item and Descendants".
    let mut parts = vec![Item::code(HasConceptMod, concept::LANGUAGE, ENGLISH)];
    parts.extend(observer(case));
    // Only where lungs were found is it certain that it was a chest CT.
    let evaluated = case.outcome.findings().is_some();
    let procedure = if evaluated { CT_OF_CHEST } else { IMAGING_PROCEDURE };
    parts.push(Item::code(HasConceptMod, concept::PROCEDURE_REPORTED, procedure));
    parts.extend(source.map(image_library));
    parts.push(container(Contains, concept::IMAGING_MEASUREMENTS, None, groups::of(case)));
    parts
}

/// TID 1001 "Observation Context", with a device as its observer (TID 1002, TID 1004). The subject is the patient of
/// the header.
fn observer(case: &Case<'_>) -> Vec<Item> {
    let identity = case.identity;
    let (manufacturer, model, station) = (&identity.manufacturer, &identity.model, &identity.station);
    let device_uid = uid::derive(&["device", manufacturer, model, station, &identity.installation]);
    let mut items = vec![
        Item::code(HasObsContext, concept::OBSERVER_TYPE, DEVICE),
        uid_ref(HasObsContext, concept::DEVICE_UID, &device_uid),
    ];
    let names = [
        (concept::DEVICE_NAME, station),
        (concept::DEVICE_MANUFACTURER, manufacturer),
        (concept::DEVICE_MODEL, model),
    ];
    items.extend(names.into_iter().filter_map(|(name, value)| text(HasObsContext, name, value)));
    items
}

/// TID 1600 "Image Library": one group with what all slices share (TID 1602, TID 1604), and a bare reference for each
/// slice; positions are in the images themselves.
fn image_library(source: &SourceSeries) -> Item {
    let mut parts = vec![Item::code(HasAcqContext, concept::MODALITY, COMPUTED_TOMOGRAPHY)];
    parts.extend(
        source
            .frame_of_reference_uid
            .as_ref()
            .map(|uid| uid_ref(HasAcqContext, concept::FRAME_OF_REFERENCE_UID, uid)),
    );
    let geometry = [
        (concept::PIXEL_DATA_ROWS, source.rows as f64, PIXELS),
        (concept::PIXEL_DATA_COLUMNS, source.columns as f64, PIXELS),
        (concept::HORIZONTAL_PIXEL_SPACING, source.pixel_spacing_mm[1], MILLIMETRE),
        (concept::VERTICAL_PIXEL_SPACING, source.pixel_spacing_mm[0], MILLIMETRE),
        (concept::SPACING_BETWEEN_SLICES, source.slice_spacing_mm, MILLIMETRE),
    ];
    // A series that was not evaluated may have no geometry to speak of.
    let known = geometry.into_iter().filter(|(_, value, _)| value.is_finite());
    parts.extend(known.map(|(name, value, unit)| number(HasAcqContext, name, value, unit)));
    parts.extend(source.images.iter().map(|slice| image(Contains, slice)));
    let group = container(Contains, concept::IMAGE_LIBRARY_GROUP, None, parts);
    container(Contains, concept::IMAGE_LIBRARY, Some("1600"), vec![group])
}

#[cfg(test)]
mod tests;
