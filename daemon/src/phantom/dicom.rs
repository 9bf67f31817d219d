//! A slice of the phantom as a CT image.
//!
//! Owns: the attributes of a CT Image Storage instance (PS3.3 A.3) and its identifiers, which follow from the request
//! alone. Never writes files.

use super::{Phantom, PhantomSpec};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileDicomObject, FileMetaTableBuilder, InMemDicomObject, WithMetaError};
use sha2::{Digest, Sha256};

/// Stored values are HU less this.
const INTERCEPT_HU: i16 = -1024;

/// A UID of the request: the same part of the same request has the same one, everywhere.
pub fn uid(spec: &PhantomSpec, part: &str) -> String {
    let text = format!(
        "triaged phantom 1|{}|{}|{}|{}|{}|{part}",
        spec.slices, spec.size, spec.left_percent, spec.right_percent, spec.seed
    );
    let digest = Sha256::digest(text.as_bytes());
    let number = digest.iter().take(16).fold(0u128, |n, &b| (n << 8) | u128::from(b));
    // PS3.5 B.2: a UID under 2.25 is a 128-bit number in decimal.
    format!("2.25.{number}")
}

/// UID of the study of a request.
pub fn study_uid(spec: &PhantomSpec) -> String {
    uid(spec, "study")
}

/// UID of the series of a request.
pub fn series_uid(spec: &PhantomSpec) -> String {
    uid(spec, "series")
}

/// Slice `k` as a DICOM instance in explicit little endian, from its HU.
///
/// # Errors
/// When the file meta information can't be built, which would be a defect.
pub fn slice_object(
    phantom: &Phantom,
    k: usize,
    hu: &[i16],
) -> Result<FileDicomObject<InMemDicomObject>, WithMetaError> {
    let spec = phantom.spec();
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: &str| {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    identity(spec, k, &mut put);
    geometry(phantom, k, &mut put);
    let size = u16::try_from(spec.size).expect("size is at most 1024");
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, size),
        (tags::COLUMNS, size),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    let stored: Vec<u16> = hu.iter().map(|&v| (v.max(INTERCEPT_HU) - INTERCEPT_HU) as u16).collect();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(stored.into())));
    object.with_meta(
        FileMetaTableBuilder::new()
            .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(uids::CT_IMAGE_STORAGE)
            .media_storage_sop_instance_uid(uid(spec, &format!("instance {k}"))),
    )
}

/// Who, what, when.
fn identity(spec: &PhantomSpec, k: usize, put: &mut impl FnMut(Tag, VR, &str)) {
    let (date, time) = ("20200401", "120000");
    for (tag, vr, value) in [
        (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL"),
        (tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
        (tags::STUDY_DATE, VR::DA, date),
        (tags::SERIES_DATE, VR::DA, date),
        (tags::ACQUISITION_DATE, VR::DA, date),
        (tags::CONTENT_DATE, VR::DA, date),
        (tags::STUDY_TIME, VR::TM, time),
        (tags::SERIES_TIME, VR::TM, time),
        (tags::ACQUISITION_TIME, VR::TM, time),
        (tags::CONTENT_TIME, VR::TM, time),
        (tags::ACCESSION_NUMBER, VR::SH, ""),
        (tags::MODALITY, VR::CS, "CT"),
        (tags::MANUFACTURER, VR::LO, "triaged"),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        (tags::STUDY_DESCRIPTION, VR::LO, "Digital chest phantom"),
        (tags::SERIES_DESCRIPTION, VR::LO, "Chest phantom B40f"),
        (tags::MANUFACTURER_MODEL_NAME, VR::LO, "triaged phantom"),
        (tags::PATIENT_NAME, VR::PN, "PHANTOM^CHEST"),
        (tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        (tags::PATIENT_SEX, VR::CS, "O"),
        (tags::BODY_PART_EXAMINED, VR::CS, "CHEST"),
        (tags::BURNED_IN_ANNOTATION, VR::CS, "NO"),
        (tags::STUDY_ID, VR::SH, "1"),
        (tags::SERIES_NUMBER, VR::IS, "2"),
        (tags::ACQUISITION_NUMBER, VR::IS, "1"),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
    ] {
        put(tag, vr, value);
    }
    put(tags::PATIENT_ID, VR::LO, &format!("PHANTOM-{}", spec.seed));
    put(tags::SOP_INSTANCE_UID, VR::UI, &uid(spec, &format!("instance {k}")));
    put(tags::STUDY_INSTANCE_UID, VR::UI, &study_uid(spec));
    put(tags::SERIES_INSTANCE_UID, VR::UI, &series_uid(spec));
    put(tags::FRAME_OF_REFERENCE_UID, VR::UI, &uid(spec, "frame of reference"));
    put(tags::INSTANCE_NUMBER, VR::IS, &(k + 1).to_string());
}

/// How it was scanned, and where.
fn geometry(phantom: &Phantom, k: usize, put: &mut impl FnMut(Tag, VR, &str)) {
    let spacing = phantom.spacing();
    let number = |v: f64| {
        // A decimal string has at most 16 characters (PS3.5 6.2).
        let text = format!("{v:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    // PS3.3 C.7.6.2: x to the patient's left, y to the back, z to the head; slice 0 is the topmost.
    let corner = -0.5 * (phantom.spec().size as f64 - 1.0) * spacing.column_mm;
    let z = -(k as f64) * spacing.slice_mm;
    for (tag, vr, value) in [
        (tags::SCAN_OPTIONS, VR::CS, "HELICAL MODE"),
        (tags::PATIENT_POSITION, VR::CS, "HFS"),
        (tags::KVP, VR::DS, "120"),
        (tags::X_RAY_TUBE_CURRENT, VR::IS, "120"),
        (tags::EXPOSURE_TIME, VR::IS, "500"),
        (tags::CONVOLUTION_KERNEL, VR::SH, "B40f"),
        (tags::GANTRY_DETECTOR_TILT, VR::DS, "0"),
        (tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::RESCALE_SLOPE, VR::DS, "1"),
        (tags::RESCALE_TYPE, VR::LO, "HU"),
        (tags::WINDOW_CENTER, VR::DS, "-600\\40"),
        (tags::WINDOW_WIDTH, VR::DS, "1500\\400"),
        (tags::WINDOW_CENTER_WIDTH_EXPLANATION, VR::LO, "LUNG\\MEDIASTINUM"),
        (tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00"),
    ] {
        put(tag, vr, value);
    }
    put(tags::RESCALE_INTERCEPT, VR::DS, &INTERCEPT_HU.to_string());
    put(tags::SLICE_THICKNESS, VR::DS, &number(spacing.slice_mm));
    put(tags::PIXEL_SPACING, VR::DS, &format!("{}\\{}", number(spacing.row_mm), number(spacing.column_mm)));
    put(tags::IMAGE_POSITION_PATIENT, VR::DS, &[corner, corner, z].map(number).join("\\"));
    put(tags::SLICE_LOCATION, VR::DS, &number(z));
}
