//! The measurement groups (TID 1501) of the report: the answer first, then each lung, then the lesions in each.
//!
//! The answer is a group too, and not the template's container of qualitative evaluations: readers of TID 1500 look
//! into groups, and some nowhere else.
use super::code::{
    ACR_CATEGORY_2, BILATERAL, CT_CATEGORY, DIVIDE_BY_ZERO, FLAGGED, LESION_FRACTION, MILLILITRE, NO_UNITS,
    NOT_A_NUMBER, NOT_EVALUATED, NOT_FLAGGED, OUTCOME, PERCENT, PROBABILITY, REASON, WORSE_LESION_FRACTION,
    category, concept, reason,
};
use super::content::Relation::{Contains, HasConceptMod, HasObsContext};
use super::content::{Item, container, digits, text, uid_ref};
use crate::case::Case;
use crate::code::{Code, LEFT, LESION, LUNG, RIGHT};
use crate::uid;
use crate::words::{self, Number};
use study::{Findings, NotEvaluated, Verdict};

/// The groups of a case.
pub(super) fn of(case: &Case<'_>) -> Vec<Item> {
    let findings = match &case.outcome.verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => findings,
        Verdict::NotEvaluated(why) => return vec![unanswered(case, why)],
    };
    let mut groups = vec![answer(case, findings)];
    for side in [Side::right(findings), Side::left(findings)] {
        groups.push(lung(case, &side));
        // A method that finds none has nothing to say of lesions, and above all not that there are none.
        groups.extend(side.lesions_ml_and_fraction.map(|numbers| lesions(case, &side, numbers)));
    }
    groups
}

/// One lung and its numbers.
struct Side {
    lung: &'static str,
    lesions: &'static str,
    laterality: Code,
    lung_volume_ml: f64,
    lesions_ml_and_fraction: Option<(f64, f64)>,
}

impl Side {
    fn right(f: &Findings) -> Self {
        Self {
            lung: "Right lung",
            lesions: "Lesions of the right lung",
            laterality: RIGHT,
            lung_volume_ml: f.lung_volume_ml.right,
            lesions_ml_and_fraction: f.lesions.map(|l| (l.volume_ml.right, l.fraction.right)),
        }
    }

    fn left(f: &Findings) -> Self {
        Self {
            lung: "Left lung",
            lesions: "Lesions of the left lung",
            laterality: LEFT,
            lung_volume_ml: f.lung_volume_ml.left,
            lesions_ml_and_fraction: f.lesions.map(|l| (l.volume_ml.left, l.fraction.left)),
        }
    }

    /// The share of the lung. Where there is no lung, there is none.
    fn fraction(&self, fraction: f64) -> Item {
        if words::has_lung(self.lung_volume_ml) {
            measurement(LESION_FRACTION, words::percent(fraction), PERCENT)
        } else {
            Item::code(Contains, LESION_FRACTION, DIVIDE_BY_ZERO)
        }
    }
}

/// Flagged or not, by which numbers.
fn answer(case: &Case<'_>, findings: &Findings) -> Item {
    let flagged = matches!(case.outcome.verdict, Verdict::Flagged(_));
    // What the method doesn't measure is left out, and said in the comments.
    let severity = findings.severity();
    let mut items: Vec<Item> = severity
        .map(|s| measurement(WORSE_LESION_FRACTION, words::percent(s), PERCENT))
        .into_iter()
        .collect();
    items.extend(findings.probability.map(|p| measurement(PROBABILITY, words::score(p), NO_UNITS)));
    items.push(Item::code(Contains, OUTCOME, if flagged { FLAGGED } else { NOT_FLAGGED }));
    // ACR category 1 is for findings that threaten life within minutes, 2 for those to communicate within hours, 3
    // within days. Signs of COVID-19 are to be read, and the patient is to be isolated, before the scanner's next
    // patients: hours, not minutes. What is not flagged has no category: none of CID 7035 says "no finding", and the
    // triage doesn't either.
    if flagged {
        items.push(Item::code(Contains, concept::PRIORITY, ACR_CATEGORY_2));
    }
    items.extend(findings.category().map(|c| Item::code(Contains, CT_CATEGORY, category(c))));
    items.extend(comments(case));
    group(case, "Triage", None, Some(BILATERAL), items)
}

/// Not evaluated, and why. It has no category of CID 7035, since nothing was found, and no site: lungs may be what was
/// not found.
fn unanswered(case: &Case<'_>, why: &NotEvaluated) -> Item {
    let mut items =
        vec![Item::code(Contains, OUTCOME, NOT_EVALUATED), Item::code(Contains, REASON, reason(why))];
    items.extend(comments(case));
    group(case, "Triage", None, None, items)
}

/// The outcome in words, one comment a sentence. Bounds, `<` and `>`, are only here: a number has no place for them.
fn comments(case: &Case<'_>) -> impl Iterator<Item = Item> {
    let sentences = words::sentences(case.outcome, case.revision);
    sentences.into_iter().filter_map(|words| text(Contains, concept::COMMENT, &words))
}

fn lung(case: &Case<'_>, side: &Side) -> Item {
    let volume = measurement(concept::VOLUME, words::millilitres(side.lung_volume_ml, 1), MILLILITRE);
    group(case, side.lung, Some(LUNG), Some(side.laterality), vec![volume])
}

fn lesions(case: &Case<'_>, side: &Side, (volume_ml, fraction): (f64, f64)) -> Item {
    let items = vec![
        measurement(concept::VOLUME, words::millilitres(volume_ml, 1), MILLILITRE),
        side.fraction(fraction),
    ];
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

/// A number, of as many digits as are said elsewhere; where it is none, the code of CID 42 for that in its place. The
/// standard's own way, a number without a value, makes highdicom refuse the whole document.
fn measurement(name: Code, value: Option<Number>, unit: Code) -> Item {
    match value {
        Some(value) => digits(Contains, name, &value.digits, unit),
        None => Item::code(Contains, name, NOT_A_NUMBER),
    }
}
