//! Small CT files for tests, written with dicom-object.
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use std::path::Path;

pub(crate) type Object = InMemDicomObject;

/// How a test slice stores its pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub rows: u16,
    pub columns: u16,
    pub bits_stored: u16,
    pub signed: bool,
    pub intercept: &'static str,
}

pub(crate) const SMALL: Layout =
    Layout { rows: 24, columns: 33, bits_stored: 12, signed: false, intercept: "-1024" };

/// HU of the test slice: a ramp with steps and a checkerboard, over the range of a CT.
pub(crate) fn expected_hu(layout: Layout) -> Vec<f32> {
    let columns = usize::from(layout.columns);
    (0..usize::from(layout.rows) * columns)
        .map(|i| {
            let (row, column) = (i / columns, i % columns);
            let ramp = -1000 + (row * 90 + column * 7) as i32;
            let bright = if (row / 5 + column / 7) % 3 == 0 { 900 } else { 0 };
            (ramp + bright).min(3000) as f32
        })
        .collect()
}

/// A CT slice with the pixels of [`expected_hu`].
pub(crate) fn slice(layout: Layout, uid: &str) -> Object {
    let intercept: f32 = layout.intercept.parse().unwrap();
    let mask = (1u32 << layout.bits_stored) - 1;
    let cells: Vec<u16> =
        expected_hu(layout).iter().map(|hu| (((hu - intercept) as i32) as u32 & mask) as u16).collect();
    let mut object = InMemDicomObject::new_empty();
    let texts: [(_, VR, &str); 27] = [
        (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL"),
        (tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.2"),
        (tags::SOP_INSTANCE_UID, VR::UI, uid),
        (tags::STUDY_DATE, VR::DA, "20260101"),
        (tags::STUDY_TIME, VR::TM, "120000"),
        (tags::ACCESSION_NUMBER, VR::SH, "A1"),
        (tags::MODALITY, VR::CS, "CT"),
        (tags::MANUFACTURER, VR::LO, "Test"),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        (tags::PATIENT_NAME, VR::PN, "Phantom^Test"),
        (tags::PATIENT_ID, VR::LO, "P1"),
        (tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        (tags::PATIENT_SEX, VR::CS, "O"),
        (tags::SLICE_THICKNESS, VR::DS, "2 "),
        (tags::KVP, VR::DS, "120"),
        (tags::GANTRY_DETECTOR_TILT, VR::DS, "0"),
        (tags::CONVOLUTION_KERNEL, VR::SH, "B40f\\2"),
        (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        (tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3.1"),
        (tags::STUDY_ID, VR::SH, "1"),
        (tags::IMAGE_POSITION_PATIENT, VR::DS, "-10.5\\-20\\ 30.25"),
        (tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::PIXEL_SPACING, VR::DS, "0.7\\0.8"),
        (tags::RESCALE_INTERCEPT, VR::DS, layout.intercept),
        (tags::RESCALE_SLOPE, VR::DS, "1"),
    ];
    for (tag, vr, value) in texts {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    let words = [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, layout.rows),
        (tags::COLUMNS, layout.columns),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, layout.bits_stored),
        (tags::HIGH_BIT, layout.bits_stored - 1),
        (tags::PIXEL_REPRESENTATION, u16::from(layout.signed)),
    ];
    for (tag, value) in words {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(cells.into())));
    object
}

/// Writes an object as a Part 10 file.
pub(crate) fn write(object: Object, transfer_syntax: &str, path: &Path) {
    let meta = FileMetaTableBuilder::new().transfer_syntax(transfer_syntax);
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}
