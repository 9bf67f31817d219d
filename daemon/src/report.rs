//! From a finished study to the results that leave the box, and who gets which.
//!
//! It supplies what the pure `results` crate must not look for itself: the time, and the source's attributes.
use crate::config::{Config, Destination};
use crate::database::{self, Deliverable, Packed, ResultRow, Subject};
use crate::evidence;
use crate::instance::Instance;
use crate::intake::now_ms;
use crate::pipeline::Finished;
use log::{error, warn};
use results::{Case, DateTime, DicomResult, Identity, Kind, Picture, RawElement, SourceStudy, Tag};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use study::StudyUid;

/// The picture of a revision of an outcome.
pub fn picture(finished: &Finished, colours: bool, revision: u32) -> Picture {
    let projection = finished.evaluation.as_ref().map(|e| &e.projection);
    results::render(&finished.outcome, projection, colours, revision)
}

/// The results of a revision of a study, each with the destinations that get it. What nobody gets is not made.
///
/// They are made side by side, since the flag waits for all of them, and one that can't be made costs itself only: much
/// of a result is text of peers, and a fault in one place must not hold up the flag in all others. It is logged.
pub fn deliverables(
    finished: &Finished,
    instances: &[Arc<Instance>],
    revision: u32,
    config: &Config,
    installation: &str,
) -> Vec<Deliverable> {
    let identity = Identity {
        manufacturer: "triaged".into(),
        model: "triaged".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
        station: config.dicom.ae_title.clone(),
        installation: installation.to_owned(),
    };
    let source = source(finished, instances);
    let series = evidence::series(finished, instances);
    let case = Case {
        source: &source,
        series: series.as_ref(),
        outcome: &finished.outcome,
        identity: &identity,
        when: local_time(),
        revision,
    };
    let make = |kind, destinations: &[String]| -> Vec<Deliverable> {
        let objects = objects(kind, &case, finished, instances, config);
        let deliverable = |o| Deliverable { row: row(&o), destinations: destinations.to_vec() };
        objects.into_iter().map(deliverable).collect()
    };
    let study = &finished.outcome.study_uid;
    let mut deliverables = guarded(study, "HL7 message", || messages(&case, config));
    deliverables.extend(guarded(study, "work item", || work_item(&case, config).into_iter().collect()));
    std::thread::scope(|scope| {
        let making: Vec<_> = [Kind::Report, Kind::Picture, Kind::Slices, Kind::Segmentation]
            .map(|kind| (kind, takers(kind, config)))
            .into_iter()
            .filter(|(_, destinations)| !destinations.is_empty())
            .map(|(kind, destinations)| {
                scope.spawn(move || guarded(study, kind.name(), || make(kind, &destinations)))
            })
            .collect();
        for made in making {
            deliverables.extend(made.join().expect("what panics in it is caught in it"));
        }
    });
    deliverables
}

/// What `make` makes; nothing, said aloud, where it panics.
fn guarded<T>(study: &StudyUid, what: &str, make: impl FnOnce() -> Vec<T>) -> Vec<T> {
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
        error!("study {study}: its {what} could not be made, and nobody gets it: a fault of this program");
        Vec::new()
    })
}

/// The DICOM destinations that get a kind of result.
fn takers(kind: Kind, config: &Config) -> Vec<String> {
    let takes = |d: &&Destination| matches!(d, Destination::Dicom(d) if d.results.contains(&kind));
    config.destinations.iter().filter(takes).map(|d| d.name().to_owned()).collect()
}

fn objects(
    kind: Kind,
    case: &Case<'_>,
    finished: &Finished,
    instances: &[Arc<Instance>],
    config: &Config,
) -> Vec<DicomResult> {
    let evaluated = finished.evaluation.as_ref().zip(case.series);
    match kind {
        Kind::Report => vec![results::structured_report::build(case)],
        Kind::Picture => {
            let colours = config.results.picture_colours;
            // The words are the flag; the projection illustrates it.
            let drawn = guarded(&finished.outcome.study_uid, "projection", || {
                vec![picture(finished, colours, case.revision)]
            });
            let plain = || results::render(&finished.outcome, None, false, case.revision);
            let picture = drawn.into_iter().next().unwrap_or_else(plain);
            vec![results::secondary_capture::build(case, &picture)]
        }
        Kind::Slices => {
            let Some((evaluation, series)) = evaluated else { return Vec::new() };
            let pictures = evidence::slices(evaluation, instances, series, &config.results, case.revision);
            (1..)
                .zip(pictures)
                .map(|(number, (index, picture))| {
                    results::secondary_capture::slice(case, &picture, &series.images[index], number)
                })
                .collect()
        }
        Kind::Segmentation => {
            let Some((evaluation, _)) = evaluated else { return Vec::new() };
            let built = results::segmentation::build(case, &evidence::masks(evaluation));
            if built.is_none() {
                warn!("study {}: no segmentation: its masks are empty", finished.outcome.study_uid);
            }
            built.into_iter().collect()
        }
    }
}

fn row(object: &DicomResult) -> ResultRow {
    ResultRow {
        kind: object.kind.into(),
        sop_class_uid: object.sop_class_uid.to_owned(),
        sop_instance_uid: object.sop_instance_uid.clone(),
        transfer_syntax_uid: object.transfer_syntax_uid.to_owned(),
        data_set: Packed::new(object.data_set()),
    }
}

/// HL7 messages: one a site, since each names its receiver.
fn messages(case: &Case<'_>, config: &Config) -> Vec<Deliverable> {
    let mut messages: Vec<Deliverable> = Vec::new();
    for destination in &config.destinations {
        let Destination::Hl7(hl7) = destination else { continue };
        let site = results::hl7::Site {
            sending_application: config.dicom.ae_title.clone(),
            sending_facility: hl7.sending_facility.clone(),
            receiving_application: hl7.receiving_application.clone(),
            receiving_facility: hl7.receiving_facility.clone(),
            character_set: hl7.character_set,
        };
        let message = results::hl7::oru(case, &site);
        // Two interfaces of one site get the same message.
        if let Some(same) = messages.iter_mut().find(|m| m.row.sop_instance_uid == message.control_id) {
            same.destinations.push(hl7.name.clone());
            continue;
        }
        let row = ResultRow {
            kind: database::Kind::Hl7,
            sop_class_uid: String::new(),
            sop_instance_uid: message.control_id,
            transfer_syntax_uid: String::new(),
            data_set: Packed::new(&message.bytes),
        };
        messages.push(Deliverable { row, destinations: vec![hl7.name.clone()] });
    }
    messages
}

/// The worklist item, where somebody manages a worklist.
fn work_item(case: &Case<'_>, config: &Config) -> Option<Deliverable> {
    let destinations: Vec<String> = config
        .destinations
        .iter()
        .filter(|d| matches!(d, Destination::Ups(_)))
        .map(|d| d.name().to_owned())
        .collect();
    if destinations.is_empty() {
        return None;
    }
    let item = results::procedure_step::build(case, config.results.archive_ae_title.as_deref());
    let row = ResultRow {
        kind: database::Kind::Ups,
        sop_class_uid: results::procedure_step::UPS_PUSH.to_owned(),
        sop_instance_uid: item.sop_instance_uid,
        transfer_syntax_uid: dimse::uids::EXPLICIT_VR_LITTLE_ENDIAN.to_owned(),
        data_set: Packed::new(&item.data_set),
    };
    Some(Deliverable { row, destinations })
}

/// Patient and study attributes: of the evaluated series where there is one, else of any instance of the study.
fn source(finished: &Finished, instances: &[Arc<Instance>]) -> SourceStudy {
    let evaluated = finished.evaluation.as_ref().and_then(|e| e.chosen.order.first()).map(|i| &instances[*i]);
    evaluated.or(instances.first()).map_or_else(SourceStudy::default, |instance| attributes(instance))
}

fn attributes(instance: &Instance) -> SourceStudy {
    let raw = |e: &crate::instance::RawElement| RawElement {
        tag: Tag(e.tag.group(), e.tag.element()),
        bytes: e.value.clone(),
    };
    SourceStudy::new(instance.source.iter().map(raw))
}

/// Whose study an instance belongs to, for people.
pub fn subject(instance: &Instance) -> Subject {
    let source = attributes(instance);
    let text = |group, element| source.text(Tag(group, element));
    Subject {
        patient_name: text(0x0010, 0x0010),
        patient_id: text(0x0010, 0x0020),
        birth_date: text(0x0010, 0x0030),
        accession: text(0x0008, 0x0050),
        description: text(0x0008, 0x1030),
    }
}

/// Scanners and consoles write local time (PS3.3 section C.12.1.1.8), so do we.
fn local_time() -> DateTime {
    DateTime::from_unix(now_ms() / 1000, chrono::Local::now().offset().local_minus_utc())
}
