//! The codes that the report uses: PS3.16's own where there is one, and the private ones.
use study::{Category, NotEvaluated};

/// The coding scheme of [`PRIVATE_CODES`]. PS3.16 section 8.2: private designators begin with 99.
pub const PRIVATE_SCHEME: &str = "99TRIAGED";

/// A coded entry (PS3.3 section 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Code Value, at most 16 characters.
    pub value: &'static str,
    /// Coding Scheme Designator.
    pub scheme: &'static str,
    /// Code Meaning, at most 64 characters.
    pub meaning: &'static str,
}

const fn dcm(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "DCM", meaning }
}

/// SNOMED CT.
const fn sct(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "SCT", meaning }
}

const fn ucum(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: "UCUM", meaning }
}

const fn private(value: &'static str, meaning: &'static str) -> Code {
    Code { value, scheme: PRIVATE_SCHEME, meaning }
}

/// Names of content items.
pub(super) mod concept {
    use super::{Code, dcm, sct};

    pub const IMAGING_MEASUREMENT_REPORT: Code = dcm("126000", "Imaging Measurement Report");
    pub const LANGUAGE: Code = dcm("121049", "Language of Content Item and Descendants");
    pub const OBSERVER_TYPE: Code = dcm("121005", "Observer Type");
    pub const DEVICE_UID: Code = dcm("121012", "Device Observer UID");
    pub const DEVICE_NAME: Code = dcm("121013", "Device Observer Name");
    pub const DEVICE_MANUFACTURER: Code = dcm("121014", "Device Observer Manufacturer");
    pub const DEVICE_MODEL: Code = dcm("121015", "Device Observer Model Name");
    pub const PROCEDURE_REPORTED: Code = dcm("121058", "Procedure Reported");
    pub const IMAGE_LIBRARY: Code = dcm("111028", "Image Library");
    pub const IMAGE_LIBRARY_GROUP: Code = dcm("126200", "Image Library Group");
    pub const MODALITY: Code = dcm("121139", "Modality");
    pub const FRAME_OF_REFERENCE_UID: Code = dcm("112227", "Frame of Reference UID");
    pub const PIXEL_DATA_ROWS: Code = dcm("110910", "Pixel Data Rows");
    pub const PIXEL_DATA_COLUMNS: Code = dcm("110911", "Pixel Data Columns");
    pub const HORIZONTAL_PIXEL_SPACING: Code = dcm("111026", "Horizontal Pixel Spacing");
    pub const VERTICAL_PIXEL_SPACING: Code = dcm("111066", "Vertical Pixel Spacing");
    pub const SPACING_BETWEEN_SLICES: Code = dcm("112226", "Spacing between slices");
    pub const IMAGING_MEASUREMENTS: Code = dcm("126010", "Imaging Measurements");
    pub const MEASUREMENT_GROUP: Code = dcm("125007", "Measurement Group");
    pub const TRACKING_IDENTIFIER: Code = dcm("112039", "Tracking Identifier");
    pub const TRACKING_UID: Code = dcm("112040", "Tracking Unique Identifier");
    pub const FINDING: Code = dcm("121071", "Finding");
    pub const FINDING_SITE: Code = sct("363698007", "Finding Site");
    pub const LATERALITY: Code = sct("272741003", "Laterality");
    pub const ALGORITHM_NAME: Code = dcm("111001", "Algorithm Name");
    pub const ALGORITHM_VERSION: Code = dcm("111003", "Algorithm Version");
    pub const ALGORITHM_MANUFACTURER: Code = dcm("122405", "Algorithm Manufacturer");
    pub const ALGORITHM_PARAMETERS: Code = dcm("111002", "Algorithm Parameters");
    pub const VOLUME: Code = sct("118565006", "Volume");
    pub const DERIVATION: Code = dcm("121401", "Derivation");
    pub const PRIORITY: Code = sct("260870009", "Priority");
    pub const COMMENT: Code = dcm("121106", "Comment");
}

pub(super) const ENGLISH: Code = Code { value: "en", scheme: "RFC5646", meaning: "English" };
pub(super) const DEVICE: Code = dcm("121007", "Device");
pub(super) const CT_OF_CHEST: Code = sct("169069000", "CT of chest");
pub(super) const IMAGING_PROCEDURE: Code = sct("363679005", "Imaging procedure");
pub(super) const COMPUTED_TOMOGRAPHY: Code = dcm("CT", "Computed Tomography");
pub(super) const LUNG: Code = sct("39607008", "Lung");
pub(super) const LESION: Code = sct("52988006", "Lesion");
pub(super) const RIGHT: Code = sct("24028007", "Right");
pub(super) const LEFT: Code = sct("7771000", "Left");
/// CID 244's code for both sides.
pub(super) const BILATERAL: Code = sct("51440002", "Bilateral");
pub(super) const MAXIMUM: Code = sct("56851009", "Maximum");
pub(super) const NOT_EVALUATED: Code = sct("373121007", "Not Evaluated");
/// CID 7035 "Actionable Finding Classification".
pub(super) const ACR_CATEGORY_2: Code =
    Code { value: "RID49481", scheme: "RADLEX", meaning: "ACR Category 2 Actionable Finding" };
/// CID 42 "Numeric Value Qualifier".
pub(super) const NOT_A_NUMBER: Code = dcm("114000", "Not a number");
pub(super) const DIVIDE_BY_ZERO: Code = dcm("114003", "Divide by zero");
pub(super) const MILLIMETRE: Code = ucum("mm", "millimeter");
pub(super) const MILLILITRE: Code = ucum("ml", "milliliter");
pub(super) const PERCENT: Code = ucum("%", "Percent");
pub(super) const NO_UNITS: Code = ucum("1", "no units");
pub(super) const PIXELS: Code = ucum("{pixels}", "Pixels");

pub(super) const OUTCOME: Code = private("outcome", "Triage outcome");
pub(super) const FLAGGED: Code = private("flagged", "Flagged");
pub(super) const NOT_FLAGGED: Code = private("not-flagged", "Not flagged; this does not say normal");
pub(super) const REASON: Code = private("reason", "Reason for no evaluation");
pub(super) const PROBABILITY: Code = private("probability", "Probability of signs of COVID-19");
pub(super) const LESION_FRACTION: Code =
    private("lesion-fraction", "Lesion volume as percent of lung volume");
pub(super) const CT_CATEGORY: Code = private("ct-category", "CT category of the more affected lung");

/// Every private code that a report may contain: first concept names and outcomes, then the CT categories, then the
/// reasons for no evaluation.
pub const PRIVATE_CODES: &[Code] = &[
    OUTCOME,
    FLAGGED,
    NOT_FLAGGED,
    REASON,
    PROBABILITY,
    LESION_FRACTION,
    CT_CATEGORY,
    CATEGORIES[0],
    CATEGORIES[1],
    CATEGORIES[2],
    CATEGORIES[3],
    CATEGORIES[4],
    NO_CT,
    NO_AXIAL_IMAGE,
    MULTI_FRAME,
    NOT_AXIAL,
    GANTRY_TILT,
    TOO_FEW_SLICES,
    TOO_MANY_SLICES,
    ORIENTATIONS,
    GRIDS,
    DUPLICATE,
    GAP,
    UNEVEN_SPACING,
    OUT_OF_RANGE,
    UNREADABLE,
    NO_LUNGS,
    ONE_LUNG,
    LUNGS_CUT,
    ENGINE,
];

const CATEGORIES: [Code; 5] = [
    private("CT-0", "CT-0, no lesion"),
    private("CT-1", "CT-1, up to 25 % of a lung"),
    private("CT-2", "CT-2, over 25 % and up to 50 % of a lung"),
    private("CT-3", "CT-3, over 50 % and up to 75 % of a lung"),
    private("CT-4", "CT-4, over 75 % of a lung"),
];

const NO_CT: Code = private("no-ct", "No CT image series");
const NO_AXIAL_IMAGE: Code = private("no-axial-image", "Localizer or derived images only");
const MULTI_FRAME: Code = private("multi-frame", "Enhanced (multi-frame) CT only");
const NOT_AXIAL: Code = private("not-axial", "No axial series");
const GANTRY_TILT: Code = private("gantry-tilt", "Gantry tilt");
const TOO_FEW_SLICES: Code = private("too-few-slices", "Too few slices");
const TOO_MANY_SLICES: Code = private("too-many-slices", "Too many slices");
const ORIENTATIONS: Code = private("orientations", "Different orientations in the series");
const GRIDS: Code = private("grids", "Different grids in the series");
const DUPLICATE: Code = private("duplicate", "Two slices at one position");
const GAP: Code = private("gap", "Slices are missing");
const UNEVEN_SPACING: Code = private("uneven-spacing", "Uneven slice spacing");
const OUT_OF_RANGE: Code = private("out-of-range", "Outside of what the networks were made for");
const UNREADABLE: Code = private("unreadable", "An image could not be read");
const NO_LUNGS: Code = private("no-lungs", "No lungs found");
const ONE_LUNG: Code = private("one-lung", "Only one lung found");
const LUNGS_CUT: Code = private("lungs-cut", "Lungs cut by the field of view");
const ENGINE: Code = private("engine", "The networks could not be run");

pub(super) fn category(category: Category) -> Code {
    CATEGORIES[category as usize]
}

pub(super) fn reason(reason: &NotEvaluated) -> Code {
    match reason {
        NotEvaluated::NoCt => NO_CT,
        NotEvaluated::LocalizerOrDerivedOnly => NO_AXIAL_IMAGE,
        NotEvaluated::MultiFrame => MULTI_FRAME,
        NotEvaluated::NotAxial { .. } => NOT_AXIAL,
        NotEvaluated::GantryTilt { .. } => GANTRY_TILT,
        NotEvaluated::TooFewSlices { .. } => TOO_FEW_SLICES,
        NotEvaluated::TooManySlices { .. } => TOO_MANY_SLICES,
        NotEvaluated::MixedOrientations => ORIENTATIONS,
        NotEvaluated::MixedGrid { .. } => GRIDS,
        NotEvaluated::DuplicatePosition { .. } => DUPLICATE,
        NotEvaluated::Gap { .. } => GAP,
        NotEvaluated::UnevenSpacing { .. } => UNEVEN_SPACING,
        NotEvaluated::OutOfRange { .. } => OUT_OF_RANGE,
        NotEvaluated::Unreadable { .. } => UNREADABLE,
        NotEvaluated::NoLungs { .. } => NO_LUNGS,
        NotEvaluated::OneLung { .. } => ONE_LUNG,
        NotEvaluated::LungsCut { .. } => LUNGS_CUT,
        NotEvaluated::Engine { .. } => ENGINE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_codes_fit_their_vrs_and_are_distinct() {
        for (i, code) in PRIVATE_CODES.iter().enumerate() {
            assert!(code.value.len() <= 16 && code.meaning.len() <= 64, "{code:?}");
            assert!(code.value.is_ascii() && code.meaning.is_ascii(), "{code:?}");
            assert!(PRIVATE_CODES[..i].iter().all(|c| c.value != code.value), "{code:?}");
        }
    }

    #[test]
    fn a_categorys_code_is_its_name() {
        for severity in [0.0, 0.2, 0.4, 0.6, 0.8] {
            let of = Category::of(severity);
            assert_eq!(category(of).value, of.to_string());
        }
    }
}
