//! From a finished study to the results that leave the box: for now, the Secondary Capture of the picture.
//!
//! It supplies what the pure `results` crate must not look for itself: the time, and the source's attributes.
use crate::database::ResultRow;
use crate::instance::Instance;
use crate::intake::now_ms;
use crate::pipeline::Finished;
use results::{Case, DateTime, Identity, Picture, RawElement, SourceStudy, Tag};
use std::sync::Arc;

/// The picture of an outcome.
pub fn picture(finished: &Finished) -> Picture {
    results::render(&finished.outcome, finished.evaluation.as_ref().map(|e| &e.projection), true)
}

/// The results of a revision of a study; `station` is our AE title.
pub fn results(
    finished: &Finished,
    instances: &[Arc<Instance>],
    revision: u32,
    station: &str,
) -> Vec<ResultRow> {
    let identity = Identity {
        manufacturer: "triaged".into(),
        model: "triaged".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
        station: station.into(),
    };
    let source = source(finished, instances);
    let case = Case {
        source: &source,
        series: None,
        outcome: &finished.outcome,
        identity: &identity,
        when: local_time(),
        revision,
    };
    let capture = results::secondary_capture::build(&case, &picture(finished));
    vec![ResultRow {
        sop_class_uid: capture.sop_class_uid.to_owned(),
        sop_instance_uid: capture.sop_instance_uid.clone(),
        transfer_syntax_uid: capture.transfer_syntax_uid.to_owned(),
        data_set: capture.data_set().to_vec(),
    }]
}

/// Patient and study attributes: of the evaluated series where there is one, else of any instance of the study.
fn source(finished: &Finished, instances: &[Arc<Instance>]) -> SourceStudy {
    let evaluated = finished.evaluation.as_ref().and_then(|e| e.chosen.order.first()).map(|i| &instances[*i]);
    let elements = evaluated.or(instances.first()).map_or_else(Vec::new, |instance| {
        let raw = |e: &crate::instance::RawElement| RawElement {
            tag: Tag(e.tag.group(), e.tag.element()),
            bytes: e.value.clone(),
        };
        instance.source.iter().map(raw).collect::<Vec<_>>()
    });
    SourceStudy::new(elements)
}

/// Scanners and consoles write local time (PS3.3 section C.12.1.1.8), so do we.
fn local_time() -> DateTime {
    DateTime::from_unix(now_ms() / 1000, chrono::Local::now().offset().local_minus_utc())
}
