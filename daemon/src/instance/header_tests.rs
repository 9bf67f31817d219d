use crate::instance::Instance;
use crate::instance::testing::{Object, SMALL, slice, write};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use study::series::ImageKind;

fn read(object: Object) -> Result<Instance, crate::instance::InstanceError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.dcm");
    write(object, "1.2.840.10008.1.2.1", &path);
    Instance::read(&path)
}

/// An element that is put in place of the slice's own.
type Change<'a> = (Tag, VR, &'a str);

fn with(changes: &[Change<'_>]) -> Object {
    let mut object = slice(SMALL, "1.2.3.4");
    for (tag, vr, value) in changes {
        object.put(DataElement::new(*tag, *vr, PrimitiveValue::from(*value)));
    }
    object
}

#[test]
fn the_facts_of_a_slice() {
    let count = (tags::NUMBER_OF_SERIES_RELATED_INSTANCES, VR::IS, " 148");
    let instance = read(with(&[count, (tags::IMAGES_IN_ACQUISITION, VR::IS, "7")])).unwrap();
    let header = &instance.header;
    assert_eq!(header.study.as_str(), "1.2.3");
    assert_eq!(header.series.as_str(), "1.2.3.1");
    assert_eq!(header.instance.as_str(), "1.2.3.4");
    assert_eq!(header.kind, ImageKind::Axial);
    assert_eq!((header.kvp, header.slice_thickness_mm), (Some(120.0), Some(2.0)));
    assert_eq!(header.kernel.as_deref(), Some("B40f"));
    let g = &header.geometry;
    assert_eq!((g.rows, g.columns, g.row_spacing_mm, g.column_spacing_mm), (24, 33, 0.7, 0.8));
    assert_eq!(g.position_mm, [-10.5, -20.0, 30.25]);
    assert_eq!(g.orientation, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(g.gantry_tilt_deg, Some(0.0));
    assert_eq!(instance.announced_count, Some(148));
    assert_eq!(instance.sop_class, "1.2.840.10008.5.1.4.1.1.2");
    let name = instance.source.iter().find(|e| e.tag == tags::PATIENT_NAME).unwrap();
    assert_eq!((name.vr, &name.value[..]), (VR::PN, &b"Phantom^Test"[..]));
    assert!(instance.source.iter().all(|e| e.tag != tags::ROWS));
}

#[test]
fn missing_numbers_are_not_invented() {
    let mut object = with(&[(tags::KVP, VR::DS, ""), (tags::PIXEL_SPACING, VR::DS, "0,7\\inf")]);
    for tag in [tags::IMAGE_POSITION_PATIENT, tags::IMAGE_ORIENTATION_PATIENT, tags::GANTRY_DETECTOR_TILT] {
        object.remove_element(tag);
    }
    let header = read(object).unwrap().header;
    assert_eq!((header.kvp, header.geometry.gantry_tilt_deg), (None, None));
    let g = header.geometry;
    let all = g.position_mm.iter().chain(&g.orientation).chain([&g.row_spacing_mm, &g.column_spacing_mm]);
    assert!(all.into_iter().all(|v| v.is_nan()), "{g:?}");
}

#[test]
fn kinds() {
    use ImageKind::{Axial, LocalizerOrDerived, MultiFrame, Other};
    let image_type = |v| (tags::IMAGE_TYPE, VR::CS, v);
    let class = |v| (tags::SOP_CLASS_UID, VR::UI, v);
    let unplaced = (tags::IMAGE_POSITION_PATIENT, VR::DS, "");
    let cases: &[(&[Change<'_>], ImageKind)] = &[
        (&[image_type("ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI")], Axial),
        (&[image_type("")], Axial),
        (&[image_type("ORIGINAL\\PRIMARY\\LOCALIZER")], LocalizerOrDerived),
        (&[image_type("ORIGINAL\\SECONDARY\\AXIAL")], LocalizerOrDerived),
        (&[image_type("DERIVED\\PRIMARY\\AXIAL")], Axial),
        (&[image_type("DERIVED\\PRIMARY\\AXIAL"), unplaced], LocalizerOrDerived),
        (&[image_type("DERIVED\\PRIMARY\\AXIAL\\MIP")], LocalizerOrDerived),
        (&[image_type("DERIVED\\PRIMARY\\MPR")], LocalizerOrDerived),
        (&[image_type("DERIVED\\SECONDARY\\AXIAL")], LocalizerOrDerived),
        (&[(tags::RESCALE_TYPE, VR::LO, "HU")], Axial),
        (&[(tags::RESCALE_TYPE, VR::LO, "MGML")], LocalizerOrDerived),
        (&[class("1.2.840.10008.5.1.4.1.1.2.1")], MultiFrame),
        (&[(tags::NUMBER_OF_FRAMES, VR::IS, "60")], MultiFrame),
        (&[(tags::NUMBER_OF_FRAMES, VR::IS, "1")], Axial),
        (&[class("1.2.840.10008.5.1.4.1.1.88.67")], Other),
        (&[class("1.2.840.10008.5.1.4.1.1.128")], Other),
    ];
    for (changes, want) in cases {
        assert_eq!(read(with(changes)).unwrap().header.kind, *want, "{changes:?}");
    }
}

#[test]
fn identifiers_as_archives_hold_them() {
    let study = |v| (tags::STUDY_INSTANCE_UID, VR::UI, v);
    let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
    assert_eq!(read(with(&[study(uuid)])).unwrap().header.study.as_str(), uuid);
    let cases =
        [("", "the UID is empty"), ("1.2\\1.3", "cannot be echoed"), (&"1".repeat(200), "200 characters")];
    for (uid, want) in cases {
        let error = read(with(&[study(uid)])).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("(0020,000D)") && error.contains("a.dcm"), "{error}");
    }
}
