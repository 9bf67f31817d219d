//! The measurement groups (TID 1501) of the report: the answer first, then each lung, then the lesions in each.
//!
//! The answer is a group too, and not the template's container of qualitative evaluations: readers of TID 1500 look
//! into groups, and some nowhere else.
use super::code::{
    ACR_CATEGORY_2, BILATERAL, CT_CATEGORY, Code, DIVIDE_BY_ZERO, FLAGGED, LEFT, LESION, LESION_FRACTION,
    LUNG, MAXIMUM, MILLILITRE, NO_UNITS, NOT_A_NUMBER, NOT_EVALUATED, NOT_FLAGGED, OUTCOME, PERCENT,
    PROBABILITY, REASON, RIGHT, category, concept, reason,
};
use super::content::Relation::{Contains, HasConceptMod, HasObsContext};
use super::content::{Item, container, number, text, uid_ref};
use crate::case::Case;
use crate::uid;
use study::{Findings, NotEvaluated, Verdict};

/// In every report.
const WARNING: &str = "NOT FOR DIAGNOSTIC USE. A machine's result, verified by nobody.";

/// The groups of a case.
pub(super) fn of(case: &Case<'_>) -> Vec<Item> {
    let findings = match &case.outcome.verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => findings,
        Verdict::NotEvaluated(why) => return vec![unanswered(case, why)],
    };
    let mut groups = vec![answer(case, findings)];
    for side in [Side::right(findings), Side::left(findings)] {
        groups.push(lung(case, &side));
        groups.push(lesions(case, &side));
    }
    groups
}

/// One lung and its numbers.
struct Side {
    lung: &'static str,
    lesions: &'static str,
    laterality: Code,
    lung_volume_ml: f64,
    lesion_volume_ml: f64,
    fraction: f64,
}

impl Side {
    fn right(f: &Findings) -> Self {
        Self {
            lung: "Right lung",
            lesions: "Lesions of the right lung",
            laterality: RIGHT,
            lung_volume_ml: f.lung_volume_ml.right,
            lesion_volume_ml: f.lesion_volume_ml.right,
            fraction: f.severity.right,
        }
    }

    fn left(f: &Findings) -> Self {
        Self {
            lung: "Left lung",
            lesions: "Lesions of the left lung",
            laterality: LEFT,
            lung_volume_ml: f.lung_volume_ml.left,
            lesion_volume_ml: f.lesion_volume_ml.left,
            fraction: f.severity.left,
        }
    }

    /// The share of the lung. Where there is no lung, there is none.
    fn fraction(&self) -> Item {
        if self.lung_volume_ml > 0.0 {
            measurement(LESION_FRACTION, self.fraction * 100.0, PERCENT)
        } else {
            Item::code(Contains, LESION_FRACTION, DIVIDE_BY_ZERO)
        }
    }
}

/// Flagged or not, by which numbers.
fn answer(case: &Case<'_>, findings: &Findings) -> Item {
    let flagged = matches!(case.outcome.verdict, Verdict::Flagged(_));
    let larger_lung = Item::code(HasConceptMod, concept::DERIVATION, MAXIMUM);
    let mut items = vec![
        measurement(LESION_FRACTION, findings.severity() * 100.0, PERCENT).with([larger_lung]),
        measurement(PROBABILITY, f64::from(findings.probability), NO_UNITS),
        Item::code(Contains, OUTCOME, if flagged { FLAGGED } else { NOT_FLAGGED }),
    ];
    // ACR category 1 is for findings that threaten life within minutes, 2 for those to communicate within hours, 3
    // within days. Signs of COVID-19 are to be read, and the patient is to be isolated, before the scanner's next
    // patients: hours, not minutes. What is not flagged has no category: none of CID 7035 says "no finding", and the
    // triage doesn't either.
    if flagged {
        items.push(Item::code(Contains, concept::PRIORITY, ACR_CATEGORY_2));
    }
    items.push(Item::code(Contains, CT_CATEGORY, category(findings.category())));
    let words = if flagged {
        "FLAGGED: read this study first."
    } else {
        "NOT FLAGGED: read in turn. This does not say that the study is normal."
    };
    items.extend(comments([words, WARNING]));
    group(case, "Triage", None, Some(BILATERAL), items)
}

/// Not evaluated, and why. It has no priority, since none is known, and no site: lungs may be what was not found.
fn unanswered(case: &Case<'_>, why: &NotEvaluated) -> Item {
    let mut items =
        vec![Item::code(Contains, OUTCOME, NOT_EVALUATED), Item::code(Contains, REASON, reason(why))];
    let no_priority = "There is no answer and no priority: read the study as if there were no triage.";
    items.extend(comments([&format!("NOT EVALUATED: {why}"), no_priority, WARNING]));
    group(case, "Triage", None, None, items)
}

fn comments<const N: usize>(words: [&str; N]) -> impl Iterator<Item = Item> {
    words.into_iter().filter_map(|words| text(Contains, concept::COMMENT, words))
}

fn lung(case: &Case<'_>, side: &Side) -> Item {
    let volume = measurement(concept::VOLUME, side.lung_volume_ml, MILLILITRE);
    group(case, side.lung, Some(LUNG), Some(side.laterality), vec![volume])
}

fn lesions(case: &Case<'_>, side: &Side) -> Item {
    let items = vec![measurement(concept::VOLUME, side.lesion_volume_ml, MILLILITRE), side.fraction()];
    group(case, side.lesions, Some(LESION), Some(side.laterality), items)
}

/// TID 1501 "Measurement and Qualitative Evaluation Group", in the template's order. No source images are named: then
/// they are those of the image library.
fn group(
    case: &Case<'_>,
    identifier: &str,
    finding: Option<Code>,
    laterality: Option<Code>,
    mut items: Vec<Item>,
) -> Item {
    // The same in every revision, so that a reader can follow a measurement from one to the next.
    let study_uid = case.outcome.study_uid.as_str();
    let tracking_uid = uid::derive(&[
        identifier,
        "tracking",
        study_uid,
        &case.identity.station,
        &case.identity.installation,
    ]);
    let mut parts: Vec<Item> =
        text(HasObsContext, concept::TRACKING_IDENTIFIER, identifier).into_iter().collect();
    parts.push(uid_ref(HasObsContext, concept::TRACKING_UID, &tracking_uid));
    parts.extend(finding.map(|finding| Item::code(Contains, concept::FINDING, finding)));
    parts.extend(laterality.map(|laterality| {
        let side = Item::code(HasConceptMod, concept::LATERALITY, laterality);
        Item::code(HasConceptMod, concept::FINDING_SITE, LUNG).with([side])
    }));
    parts.extend(algorithm(case));
    items.sort_by_key(|item| !item.is_number()); // evaluations come after measurements
    parts.extend(items);
    container(Contains, concept::MEASUREMENT_GROUP, Some("1501"), parts)
}

/// TID 4019 "Algorithm Identification", of all measurements of a group. Where no network ran, it is the appliance's own gate.
fn algorithm(case: &Case<'_>) -> Vec<Item> {
    let identity = case.identity;
    let findings = case.outcome.findings();
    let (name, version) =
        findings.map_or((&identity.model, &identity.software_version), |f| (&f.method, &f.model_version));
    let software = format!("software {} {}", identity.model, identity.software_version);
    let parameters = findings.map_or(software.clone(), |f| format!("engine {}, {software}", f.engine));
    [
        text(HasConceptMod, concept::ALGORITHM_NAME, name),
        text(HasConceptMod, concept::ALGORITHM_VERSION, version),
        text(HasConceptMod, concept::ALGORITHM_MANUFACTURER, &identity.manufacturer),
        text(HasConceptMod, concept::ALGORITHM_PARAMETERS, &parameters),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A number; where it is none, the code of CID 42 for that in its place. The standard's own way, a number without a
/// value, makes highdicom refuse the whole document.
fn measurement(name: Code, value: f64, unit: Code) -> Item {
    if value.is_finite() {
        number(Contains, name, value, unit)
    } else {
        Item::code(Contains, name, NOT_A_NUMBER)
    }
}
