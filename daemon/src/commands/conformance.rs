//! `triaged conformance`: the DICOM conformance statement, from a template and the code's own tables.
use crate::config::{Completion, Dicom, ResultSettings, Storage};
use crate::instance::TRANSFER_SYNTAXES;
use crate::intake::sop_classes::{SERVICE_CLASSES, STORAGE_CLASSES};
use crate::limits;
use crate::outbox::policy::{BROKEN_MAX, PERMANENT_REFUSALS_MAX, REFUSALS_MAX};
use clap::Parser;
use dicom_core::dictionary::UidDictionary;
use dicom_dictionary_std::StandardSopClassDictionary;
use dimse::acceptor::AcceptorConfig;
use dimse::requestor::RequestorConfig;
use dimse::{Implementation, uids};
use std::fmt::Write;
use std::process::ExitCode;

const TEMPLATE: &str = include_str!("conformance/template.md");

/// Options.
#[derive(Parser)]
pub struct Args {}

/// Prints the statement, in Markdown.
pub fn run(_: &Args) -> anyhow::Result<ExitCode> {
    print!("{}", statement());
    Ok(ExitCode::SUCCESS)
}

/// The statement. Every name in double braces of the template has its value here, and every value its name.
fn statement() -> String {
    let mut text = TEMPLATE.to_owned();
    for (name, value) in bounds().into_iter().chain(tables()) {
        text = text.replace(&format!("{{{{{name}}}}}"), &value);
    }
    text
}

/// Numbers and names.
fn bounds() -> Vec<(&'static str, String)> {
    let (acceptor, requestor) = (AcceptorConfig::default(), RequestorConfig::default());
    let (completion, implementation) = (Completion::default(), Implementation::default());
    vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("quiet_short_s", completion.quiet_short_s.to_string()),
        ("quiet_long_s", completion.quiet_long_s.to_string()),
        ("associations", Dicom::ASSOCIATIONS_DEFAULT.to_string()),
        ("associations_max", limits::ASSOCIATIONS_MAX.to_string()),
        ("acceptor_pdu", acceptor.max_pdu_length.to_string()),
        ("requestor_pdu", requestor.max_pdu_length.to_string()),
        ("implementation_uid", implementation.class_uid),
        ("implementation_version", implementation.version_name),
        ("artim_s", Dicom::ARTIM_DEFAULT_S.to_string()),
        ("idle_s", Dicom::IDLE_DEFAULT_S.to_string()),
        ("pdu_s", acceptor.pdu_timeout.as_secs().to_string()),
        ("association_timeout_s", requestor.association_timeout.as_secs().to_string()),
        ("response_s", requestor.response_timeout.as_secs().to_string()),
        ("keep_days", Storage::KEEP_DAYS_DEFAULT.to_string()),
        ("instance_mib", (limits::INSTANCE_BYTES_MAX >> 20).to_string()),
        ("instances_per_study", limits::INSTANCES_PER_STUDY_MAX.to_string()),
        ("slices_per_series", limits::SLICES_PER_SERIES_MAX.to_string()),
        ("pause_max_s", (limits::DELIVERY_PAUSE_MAX_MS / 1000).to_string()),
        ("slices", ResultSettings::default().slices.to_string()),
        ("steps_per_study", limits::STEPS_PER_STUDY_MAX.to_string()),
        ("commitments_max", limits::COMMITMENTS_MAX.to_string()),
        ("references_max", limits::REFERENCES_MAX.to_string()),
        ("refusals", REFUSALS_MAX.to_string()),
        ("permanent_refusals", PERMANENT_REFUSALS_MAX.to_string()),
        ("broken", BROKEN_MAX.to_string()),
        ("commitment_wait_min", (limits::COMMITMENT_WAIT_MS / 60_000).to_string()),
    ]
}

/// The SOP classes of the results that are stored.
const RESULT_CLASSES: [&str; 3] = [
    results::secondary_capture::SOP_CLASS_UID,
    results::structured_report::SOP_CLASS_UID,
    results::segmentation::SOP_CLASS_UID,
];

/// Lists.
fn tables() -> Vec<(&'static str, String)> {
    let stored = RESULT_CLASSES.map(|uid| (uid, "SCU", "`protocol = \"dicom\"`"));
    let services = [
        (uids::STORAGE_COMMITMENT_PUSH_MODEL, "SCU", "the same, with `storage_commitment = true`"),
        (uids::STORAGE_COMMITMENT_PUSH_MODEL, "SCP", "`[[scanner]]`, to report"),
        (uids::MODALITY_WORKLIST_INFORMATION_MODEL_FIND, "SCU", "`[worklist]`"),
        (results::procedure_step::UPS_PUSH, "SCU", "`protocol = \"ups\"`"),
    ];
    let proposed = stored.into_iter().chain(services);
    let accepted = SERVICE_CLASSES.iter().map(|service| {
        let [provider, user] = [service.as_provider, service.as_user].map(|operations| operations.join(", "));
        row(&[service.name, service.uid, &provider, &user])
    });
    let codes = results::structured_report::PRIVATE_CODES.iter().map(|code| row(&[code.value, code.meaning]));
    vec![
        ("storage_count", STORAGE_CLASSES.len().to_string()),
        ("result_names", RESULT_CLASSES.map(name).join(", ")),
        ("transfer_syntaxes", lines(TRANSFER_SYNTAXES.iter().map(|uid| transfer_syntax(uid)))),
        ("storage_classes", lines(STORAGE_CLASSES.iter().map(|uid| row(&[&name(uid), uid])))),
        ("service_classes", lines(accepted)),
        ("proposed", lines(proposed.map(|(uid, role, to)| row(&[&name(uid), uid, role, to])))),
        ("private_scheme", results::structured_report::PRIVATE_SCHEME.to_owned()),
        ("private_codes", lines(codes)),
    ]
}

/// A transfer syntax of table 1: image data can be compressed, everything else is not.
fn transfer_syntax(uid: &str) -> String {
    let (name, what) = match uid {
        uids::EXPLICIT_VR_LITTLE_ENDIAN => ("Explicit VR Little Endian", "everything"),
        uids::IMPLICIT_VR_LITTLE_ENDIAN => ("Implicit VR Little Endian", "everything"),
        uids::JPEG_LOSSLESS_SV1 => ("JPEG Lossless, first-order prediction (process 14, SV1)", "images"),
        uids::JPEG_LOSSLESS => ("JPEG Lossless (process 14)", "images"),
        uids::RLE_LOSSLESS => ("RLE Lossless", "images"),
        uids::JPEGLS_LOSSLESS => ("JPEG-LS Lossless", "images"),
        uids::JPEGLS_NEAR_LOSSLESS => ("JPEG-LS Near-lossless", "images"),
        uids::JPEG2000_LOSSLESS => ("JPEG 2000, lossless only", "images"),
        uids::JPEG2000 => ("JPEG 2000", "images"),
        other => unreachable!("transfer syntax {other} has no name here"),
    };
    row(&[name, uid, what])
}

fn name(uid: &str) -> String {
    StandardSopClassDictionary.by_uid(uid).map_or_else(|| uid.to_owned(), |entry| entry.name.to_owned())
}

fn row(cells: &[&str]) -> String {
    cells.iter().fold("|".to_owned(), |mut row, cell| {
        write!(row, " {cell} |").expect("writing to memory can't fail");
        row
    })
}

fn lines(rows: impl Iterator<Item = String>) -> String {
    rows.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_template_has_a_value_and_the_other_way_round() {
        let statement = statement();
        assert!(!statement.contains("{{"), "{statement}");
        for (name, _) in bounds().into_iter().chain(tables()) {
            assert!(TEMPLATE.contains(&format!("{{{{{name}}}}}")), "{name} is not in the template");
        }
    }

    #[test]
    fn the_statement_in_the_documents_is_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../hw-docs/dicom-conformance.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == statement(),
            "hw-docs/dicom-conformance.md is not what the code does: `triaged conformance > hw-docs/dicom-conformance.md`"
        );
    }

    #[test]
    fn every_sop_class_has_a_name() {
        for uid in STORAGE_CLASSES.iter().chain(&RESULT_CLASSES) {
            assert_ne!(name(uid), *uid);
        }
    }
}
