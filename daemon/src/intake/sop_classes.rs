//! The SOP classes that the intake accepts: the services, and what may be stored. The conformance statement is made of
//! these tables.
use crate::{dataset, instance};
use dimse::uids;

/// A service that is not storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceClass {
    /// SOP Class UID.
    pub uid: &'static str,
    /// Its name in PS3.6 table A-1.
    pub name: &'static str,
    /// In our order.
    pub transfer_syntaxes: &'static [&'static str],
    /// What we do as its provider.
    pub as_provider: &'static [&'static str],
    /// What we take from a peer that is its provider (by role selection, PS3.7 section D.3.3.4).
    pub as_user: &'static [&'static str],
}

/// The services beside storage.
pub const SERVICE_CLASSES: &[ServiceClass] = &[
    ServiceClass {
        uid: uids::VERIFICATION,
        name: "Verification",
        transfer_syntaxes: instance::TRANSFER_SYNTAXES,
        as_provider: &["C-ECHO"],
        as_user: &[],
    },
    ServiceClass {
        uid: uids::MODALITY_PERFORMED_PROCEDURE_STEP,
        name: "Modality Performed Procedure Step",
        transfer_syntaxes: dataset::TRANSFER_SYNTAXES,
        as_provider: &["N-CREATE", "N-SET"],
        as_user: &[],
    },
    ServiceClass {
        uid: uids::STORAGE_COMMITMENT_PUSH_MODEL,
        name: "Storage Commitment Push Model",
        transfer_syntaxes: dataset::TRANSFER_SYNTAXES,
        as_provider: &["N-ACTION"],
        as_user: &["N-EVENT-REPORT"],
    },
];

/// Everything that an association may be about, each with its transfer syntaxes in our order.
pub fn contexts() -> Vec<(&'static str, &'static [&'static str])> {
    let services = SERVICE_CLASSES.iter().map(|service| (service.uid, service.transfer_syntaxes));
    let storage = STORAGE_CLASSES.iter().map(|class| (*class, instance::TRANSFER_SYNTAXES));
    services.chain(storage).collect()
}

/// The classes of which a peer may be provider.
pub fn peer_may_provide() -> Vec<String> {
    let classes = SERVICE_CLASSES.iter().filter(|service| !service.as_user.is_empty());
    classes.map(|service| service.uid.to_owned()).collect()
}

/// What a CT scanner or its workstation may send in a study's association: CT, and the scouts, dose reports, captures,
/// presentation states and other modalities' images beside it. A sender whose context is refused may drop the whole
/// study; what is no CT image is kept and named in the outcome's reason. An association proposes at most 128 contexts
/// (PS3.8 section 9.3.2.2), so this list needs no bound.
pub const STORAGE_CLASSES: &[&str] = &[
    uids::CT_IMAGE_STORAGE,
    uids::ENHANCED_CT_IMAGE_STORAGE,
    uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
    uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    uids::MR_IMAGE_STORAGE,
    uids::ENHANCED_MR_IMAGE_STORAGE,
    uids::NUCLEAR_MEDICINE_IMAGE_STORAGE,
    uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
    uids::ENHANCED_PET_IMAGE_STORAGE,
    uids::ULTRASOUND_IMAGE_STORAGE,
    uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
    uids::X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE,
    uids::X_RAY_RADIOFLUOROSCOPIC_IMAGE_STORAGE,
    uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_SINGLE_BIT_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE,
    uids::COLOR_SOFTCOPY_PRESENTATION_STATE_STORAGE,
    uids::BLENDING_SOFTCOPY_PRESENTATION_STATE_STORAGE,
    uids::SEGMENTATION_STORAGE,
    uids::PARAMETRIC_MAP_STORAGE,
    uids::RAW_DATA_STORAGE,
    uids::SPATIAL_REGISTRATION_STORAGE,
    uids::BASIC_TEXT_SR_STORAGE,
    uids::ENHANCED_SR_STORAGE,
    uids::COMPREHENSIVE_SR_STORAGE,
    uids::COMPREHENSIVE3_DSR_STORAGE,
    uids::KEY_OBJECT_SELECTION_DOCUMENT_STORAGE,
    uids::CHEST_CADSR_STORAGE,
    uids::X_RAY_RADIATION_DOSE_SR_STORAGE,
    uids::ENHANCED_X_RAY_RADIATION_DOSE_SR_STORAGE,
    uids::PATIENT_RADIATION_DOSE_SR_STORAGE,
    uids::ENCAPSULATED_PDF_STORAGE,
    uids::CT_PERFORMED_PROCEDURE_PROTOCOL_STORAGE,
    uids::RT_STRUCTURE_SET_STORAGE,
    uids::RT_DOSE_STORAGE,
    uids::RT_PLAN_STORAGE,
];
