//! From raw elements to the facts by which an instance is judged (PS3.3 sections C.7.6.1 to C.7.6.3 and C.8.2.1).
//!
//! A missing or unreadable number becomes NaN, `None` or zero, which the gate refuses: it is never replaced by a default.
use super::Instance;
use super::error::Problem;
use super::scan::{PixelLocation, RawElement, Scan};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use std::path::Path;
use study::series::ImageKind;
use study::{SeriesUid, SliceGeometry, SliceHeader, SopInstanceUid, StudyUid, UidError};

/// PS3.4 annex B: CT Image Storage.
const CT_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.2";
/// PS3.4 annex B: Enhanced CT Image Storage and Legacy Converted Enhanced CT Image Storage.
const ENHANCED_CT: [&str; 2] = ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];
/// Values of Image Type that no slice of an axial acquisition bears.
const NO_SLICE: [&str; 7] = ["LOCALIZER", "SCOUT", "MIP", "MINIP", "MPR", "SCREEN SAVE", "PROJECTION IMAGE"];

/// Elements that decide.
pub(super) const FACT_TAGS: &[Tag] = &[
    tags::IMAGE_TYPE,
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::SLICE_THICKNESS,
    tags::KVP,
    tags::GANTRY_DETECTOR_TILT,
    tags::CONVOLUTION_KERNEL,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::INSTANCE_NUMBER,
    tags::IMAGE_POSITION_PATIENT,
    tags::IMAGE_ORIENTATION_PATIENT,
    tags::FRAME_OF_REFERENCE_UID,
    tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::PIXEL_SPACING,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::PIXEL_PADDING_VALUE,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::RESCALE_TYPE,
];

/// The elements that are copied from a file: those that decide, and those that the results repeat.
pub(super) fn wanted() -> Vec<Tag> {
    let source = results::SOURCE_TAGS.iter().map(|s| Tag(s.tag.0, s.tag.1));
    FACT_TAGS.iter().copied().chain(source).collect()
}

/// What the header says about the pixels; `None` and empty where it is silent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PixelFacts {
    pub samples: Option<u16>,
    pub photometric: String,
    pub bits_allocated: Option<u16>,
    pub bits_stored: Option<u16>,
    pub high_bit: Option<u16>,
    /// Pixel Representation: 0 unsigned, 1 two's complement.
    pub representation: Option<u16>,
    /// Pixel Padding Value, its 16 bits as the file holds them.
    pub padding: Option<u16>,
    pub slope: Option<f64>,
    pub intercept: Option<f64>,
}

/// Builds the instance; fails only where an identifier is missing or can't be echoed.
pub(super) fn instance(path: &Path, mut scan: Scan) -> Result<Instance, Problem> {
    let study = identifier(&scan, tags::STUDY_INSTANCE_UID, "Study Instance UID (0020,000D)", StudyUid::new)?;
    let series =
        identifier(&scan, tags::SERIES_INSTANCE_UID, "Series Instance UID (0020,000E)", SeriesUid::new)?;
    let instance =
        identifier(&scan, tags::SOP_INSTANCE_UID, "SOP Instance UID (0008,0018)", SopInstanceUid::new)?;
    let sop_class = text(&scan, tags::SOP_CLASS_UID);
    let geometry = geometry(&scan);
    let header = SliceHeader {
        study,
        series,
        instance,
        kind: kind(&scan, &sop_class, &geometry),
        geometry,
        kvp: numbers(&scan, tags::KVP).first().copied().flatten(),
        kernel: Some(first(&scan, tags::CONVOLUTION_KERNEL)).filter(|k| !k.is_empty()),
        slice_thickness_mm: numbers(&scan, tags::SLICE_THICKNESS).first().copied().flatten(),
    };
    let facts = pixel_facts(&scan);
    let announced_count = announced_count(&scan);
    let instance_number = first(&scan, tags::INSTANCE_NUMBER).parse().ok();
    let frame_of_reference =
        Some(text(&scan, tags::FRAME_OF_REFERENCE_UID)).filter(|uid| study::ids::is_standard_uid(uid));
    // What the results would not repeat need not be held for as long as the study is.
    let repeated = |e: &RawElement| {
        let tag = results::Tag(e.tag.group(), e.tag.element());
        results::SOURCE_TAGS.iter().any(|s| s.tag == tag && e.value.len() <= s.length_max)
    };
    scan.elements.retain(repeated);
    Ok(Instance {
        path: path.to_owned(),
        header,
        sop_class,
        transfer_syntax: scan.transfer_syntax,
        announced_count,
        instance_number,
        frame_of_reference,
        source: scan.elements,
        facts,
        location: scan.location,
    })
}

fn identifier<T>(
    scan: &Scan,
    tag: Tag,
    name: &'static str,
    parse: fn(&str) -> Result<T, UidError>,
) -> Result<T, Problem> {
    parse(&text(scan, tag)).map_err(|why| match &scan.location {
        // The file breaks off before it.
        PixelLocation::Damaged { what } if why == UidError::Empty => Problem::Broken { what: what.clone() },
        _ => Problem::Identifier { name, why },
    })
}

/// What the instance is.
///
/// PS3.3 section C.7.6.1.1.2: value 1 of Image Type is ORIGINAL or DERIVED, value 2 PRIMARY or SECONDARY; section
/// C.8.2.1.1.1: value 3 is AXIAL or LOCALIZER. A DERIVED\PRIMARY\AXIAL image with a whole axial geometry is a slice: this
/// is how several makers label what their iterative or learned reconstruction gives, often the only series sent; a study
/// of theirs would else never be evaluated. The gate still judges its geometry, and what is averaged, projected or
/// reformatted says so in a further value ([`NO_SLICE`]) or is SECONDARY.
fn kind(scan: &Scan, sop_class: &str, geometry: &SliceGeometry) -> ImageKind {
    let frames = numbers(scan, tags::NUMBER_OF_FRAMES).first().copied().flatten();
    if ENHANCED_CT.contains(&sop_class) || (sop_class == CT_IMAGE && frames.is_some_and(|n| n > 1.0)) {
        return ImageKind::MultiFrame;
    }
    if sop_class != CT_IMAGE {
        return ImageKind::Other;
    }
    let image_type = values(scan, tags::IMAGE_TYPE);
    let value = |i: usize| image_type.get(i).map_or("", String::as_str);
    let no_slice = image_type.iter().any(|v| NO_SLICE.contains(&v.as_str()));
    let placed = geometry.position_mm.iter().chain(&geometry.orientation).all(|v| v.is_finite())
        && geometry.row_spacing_mm.is_finite();
    // PS3.3 section C.11.1.1.2: material densities, effective atomic numbers and the like of spectral CT say so here.
    let no_hu = !matches!(first(scan, tags::RESCALE_TYPE).to_ascii_uppercase().as_str(), "" | "HU" | "US");
    let derived = value(0) == "DERIVED" && !(value(1) == "PRIMARY" && value(2) == "AXIAL" && placed);
    if no_slice || no_hu || derived || value(1) == "SECONDARY" {
        ImageKind::LocalizerOrDerived
    } else {
        ImageKind::Axial
    }
}

fn geometry(scan: &Scan) -> SliceGeometry {
    let spacing = numbers(scan, tags::PIXEL_SPACING);
    let position = numbers(scan, tags::IMAGE_POSITION_PATIENT);
    let orientation = numbers(scan, tags::IMAGE_ORIENTATION_PATIENT);
    let at = |list: &[Option<f64>], i: usize| list.get(i).copied().flatten().unwrap_or(f64::NAN);
    SliceGeometry {
        rows: usize::from(word(scan, tags::ROWS).unwrap_or(0)),
        columns: usize::from(word(scan, tags::COLUMNS).unwrap_or(0)),
        row_spacing_mm: at(&spacing, 0),
        column_spacing_mm: at(&spacing, 1),
        position_mm: std::array::from_fn(|i| at(&position, i)),
        orientation: std::array::from_fn(|i| at(&orientation, i)),
        gantry_tilt_deg: numbers(scan, tags::GANTRY_DETECTOR_TILT).first().copied().flatten(),
    }
}

fn pixel_facts(scan: &Scan) -> PixelFacts {
    let number = |tag| numbers(scan, tag).first().copied().flatten();
    PixelFacts {
        samples: word(scan, tags::SAMPLES_PER_PIXEL),
        photometric: text(scan, tags::PHOTOMETRIC_INTERPRETATION),
        bits_allocated: word(scan, tags::BITS_ALLOCATED),
        bits_stored: word(scan, tags::BITS_STORED),
        high_bit: word(scan, tags::HIGH_BIT),
        representation: word(scan, tags::PIXEL_REPRESENTATION),
        padding: word(scan, tags::PIXEL_PADDING_VALUE),
        slope: number(tags::RESCALE_SLOPE),
        intercept: number(tags::RESCALE_INTERCEPT),
    }
}

/// (0020,1209). Not (0020,1002), Images in Acquisition: a series may hold several acquisitions, and a study that counts
/// as complete after the first would be flagged twice.
fn announced_count(scan: &Scan) -> Option<u32> {
    first(scan, tags::NUMBER_OF_SERIES_RELATED_INSTANCES).parse().ok().filter(|n| *n > 0)
}

/// The value as text: ASCII attributes only, so anything else is kept visible as replacement characters.
fn text(scan: &Scan, tag: Tag) -> String {
    let value = scan.get(tag).map_or(&[][..], |e: &RawElement| &e.value);
    String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned()
}

/// PS3.5 section 6.4: values are separated by a backslash.
fn values(scan: &Scan, tag: Tag) -> Vec<String> {
    text(scan, tag).split('\\').map(|v| v.trim_matches(['\0', ' ']).to_owned()).collect()
}

fn first(scan: &Scan, tag: Tag) -> String {
    values(scan, tag).swap_remove(0)
}

/// Decimal and integer strings (PS3.5 section 6.2: DS, IS); `None` for a value that is no finite number.
fn numbers(scan: &Scan, tag: Tag) -> Vec<Option<f64>> {
    values(scan, tag).iter().map(|v| v.parse().ok().filter(|n: &f64| n.is_finite())).collect()
}

/// An unsigned short.
fn word(scan: &Scan, tag: Tag) -> Option<u16> {
    scan.get(tag)?.value.first_chunk().map(|b| u16::from_le_bytes(*b))
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
