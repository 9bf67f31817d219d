//! Studies to send: the phantom, as files and as objects that a test may alter.
use crate::daemon::triaged;
use crate::peers::run_ok;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject, OpenFileOptions, open_file};
use std::fs;
use std::path::{Path, PathBuf};

/// A data set.
pub type Object = InMemDicomObject;

/// Slices of the phantom: few, for the networks' sake; at least 8 pass the gate.
pub const SLICES: usize = 16;

/// Makes a phantom in the new folder `dir` and gives its slices, head first. `lesions` is `LEFT,RIGHT` in per cent.
///
/// Its pixels are 1.236 mm: with fewer than 256 columns they would be outside of the model card's range.
pub fn phantom(dir: &Path, lesions: &str) -> Vec<Object> {
    phantom_of(SLICES, dir, lesions)
}

/// The same of so many slices.
pub fn phantom_of(slices: usize, dir: &Path, lesions: &str) -> Vec<Object> {
    let slices = slices.to_string();
    let arguments = ["phantom", "--slices", &slices, "--size", "256", "--lesions", lesions, "--seed", "3"];
    run_ok(triaged(&arguments).arg(dir));
    files(dir).iter().map(|path| open_file(path).unwrap().into_inner()).collect()
}

/// The `.dcm` files of a folder and its subfolders, by name.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "dcm") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The header of a file, without its pixels.
pub fn header(path: &Path) -> Object {
    OpenFileOptions::new().read_until(tags::PIXEL_DATA).open_file(path).unwrap().into_inner()
}

/// Writes objects as files of the new folder `dir`, explicit VR little endian.
pub fn write(objects: &[Object], dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    for (i, object) in objects.iter().enumerate() {
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let file = object.clone().with_meta(meta).unwrap();
        file.write_to_file(dir.join(format!("{i:04}.dcm"))).unwrap();
    }
    dir.to_owned()
}

/// Sets an attribute to a text.
pub fn set(object: &mut Object, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

/// Sets an attribute to an unsigned short.
pub fn set_word(object: &mut Object, tag: Tag, value: u16) {
    object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
}

/// An attribute as text, without its padding.
pub fn text(object: &Object, tag: Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().trim_end_matches(['\0', ' ']).to_owned()
}

/// The objects as series `series` of study `study`; instances are numbered below the series.
pub fn renamed(objects: &[Object], study: &str, series: &str) -> Vec<Object> {
    let mut objects = objects.to_vec();
    for (i, object) in objects.iter_mut().enumerate() {
        set(object, tags::STUDY_INSTANCE_UID, VR::UI, study);
        set(object, tags::SERIES_INSTANCE_UID, VR::UI, series);
        set(object, tags::SOP_INSTANCE_UID, VR::UI, &format!("{series}.{i}"));
    }
    objects
}

/// A localizer, as scanners put them into the series of the slices; small, for tests that need many.
pub fn scout(slice: &Object, number: usize) -> Object {
    let mut object = slice.clone();
    let uid = format!("{}.88.{number}", text(slice, tags::SOP_INSTANCE_UID));
    set(&mut object, tags::SOP_INSTANCE_UID, VR::UI, &uid);
    set(&mut object, tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\LOCALIZER");
    set(&mut object, tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\0\\-1");
    for tag in [tags::ROWS, tags::COLUMNS] {
        set_word(&mut object, tag, 16);
    }
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(vec![1000; 256].into())));
    object
}
