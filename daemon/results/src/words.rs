//! What results say alike: verdicts, numbers, and what must be said beside them. Every picture, report, message and work
//! item takes its words from here, so that no two say different things.
//!
//! All in ASCII. It decides nothing, and rounds no number to a certainty or to nothing.
use study::lungs::Sides;
use study::{Findings, Outcome, Priority, Verdict};

/// In every result.
pub(crate) const WARNING: &str = "NOT FOR DIAGNOSTIC USE";
/// Whose the result is.
pub(crate) const MACHINE: &str = "A machine's result, preliminary, verified by nobody.";
/// The name of the identification probability. What the network was trained on can't carry more: see its model card.
pub(crate) const SCORE: &str = "Identification score (demonstration, no accuracy claimed)";
/// Wherever the score is said in words.
pub(crate) const CAVEAT: &str = "The identification score is a demonstration: no accuracy is claimed, it does not tell \
    COVID-19 from other pneumonia, and it must not decide about a patient.";
/// Where a lung has no volume: it has no affected share either, and least of all one of 0 %.
pub(crate) const NO_LUNG: &str = "no lung";
/// In the place of what the method doesn't measure: that is no statement that there is none.
pub(crate) const NOT_MEASURED: &str = "not measured by this method";
/// In the place of what is no number.
pub(crate) const NOT_AVAILABLE: &str = "n/a";

/// The verdict in a word or two.
pub(crate) fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Flagged(_) => "FLAGGED",
        Verdict::NotFlagged(_) => "NOT FLAGGED",
        Verdict::NotEvaluated(_) => "NOT EVALUATED",
    }
}

/// What the verdict means.
pub(crate) fn meaning(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Flagged(_) => "read this study first",
        Verdict::NotFlagged(_) => "read in turn; this does not say normal",
        Verdict::NotEvaluated(_) => "triage has no answer for this study",
    }
}

/// The values of Scheduled Procedure Step Priority (0074,1200).
pub(crate) fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "HIGH",
        Priority::Medium => "MEDIUM",
        Priority::Low => "LOW",
    }
}

/// Verdict, meaning and priority in one sentence.
pub(crate) fn answer(outcome: &Outcome) -> String {
    let (word, meaning) = (verdict(&outcome.verdict), meaning(&outcome.verdict));
    format!("{word}: {meaning}. Reading priority {}.", priority(outcome.priority()))
}

/// From the second revision on: that earlier results are out of date.
pub(crate) fn replaces(revision: u32) -> Option<String> {
    (revision > 1).then(|| format!("REVISION {revision} - REPLACES EARLIER RESULTS"))
}

/// Why there is no answer, or the numbers in one sentence and what they are not.
pub(crate) fn details(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => {
            let severity = match findings.category() {
                Some(category) => {
                    let Sides { right, left } = affected(findings);
                    format!("{category}; affected share of the lungs: right {right}, left {left}")
                }
                None => format!("Severity {NOT_MEASURED}"),
            };
            match findings.probability {
                Some(probability) => {
                    let score = text(score(probability), "");
                    vec![format!("{severity}; identification score {score}."), CAVEAT.to_owned()]
                }
                None => vec![
                    format!("{severity}; identified by severity alone."),
                    "The severity does not tell COVID-19 from other diseases, and it must not decide about a patient.".to_owned(),
                ],
            }
        }
        Verdict::NotEvaluated(reason) => {
            vec![format!("Reason: {reason}."), "Read this study as if there were no triage.".to_owned()]
        }
    }
}

/// The whole outcome in sentences, the most important first.
pub(crate) fn sentences(outcome: &Outcome, revision: u32) -> Vec<String> {
    let mut sentences: Vec<String> = replaces(revision).map(|words| words + ".").into_iter().collect();
    sentences.extend([answer(outcome), format!("{WARNING}. {MACHINE}")]);
    sentences.extend(details(&outcome.verdict));
    sentences
}

/// A number as results say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    /// `<` or `>` where the digits are a bound, else empty.
    pub comparator: &'static str,
    /// Decimal digits, with a point where there are decimals.
    pub digits: String,
}

/// A number with its unit.
pub(crate) fn text(number: Option<Number>, unit: &str) -> String {
    number.map_or(NOT_AVAILABLE.to_owned(), |n| format!("{}{}{unit}", n.comparator, n.digits))
}

/// A share of 0 to 1 in percent; `None` for what is no number. A lesion that rounds to nothing is not said to be none.
pub(crate) fn percent(share: f64) -> Option<Number> {
    rounded(share * 100.0, 1)
}

/// A volume; like [`percent`].
pub(crate) fn millilitres(ml: f64, decimals: usize) -> Option<Number> {
    rounded(ml, decimals)
}

/// A probability of 0 to 1: never rounded to certainty.
pub(crate) fn score(p: f32) -> Option<Number> {
    match p {
        p if !p.is_finite() => None,
        p if p > 0.99 => Some(Number { comparator: ">", digits: "0.99".to_owned() }),
        p if p < 0.01 => Some(Number { comparator: "<", digits: "0.01".to_owned() }),
        p => Some(Number { comparator: "", digits: format!("{p:.2}") }),
    }
}

fn rounded(value: f64, decimals: usize) -> Option<Number> {
    let least = 0.1f64.powi(decimals as i32);
    match value {
        v if !v.is_finite() => None,
        v if v > 0.0 && v < least => Some(Number { comparator: "<", digits: format!("{least:.decimals$}") }),
        v => Some(Number { comparator: "", digits: format!("{v:.decimals$}") }),
    }
}

/// A share of 0 to 1 for people: `4.7 %`.
pub fn share_text(share: f64) -> String {
    text(percent(share), " %")
}

/// A probability of 0 to 1 for people: `0.91`.
pub fn score_text(probability: f32) -> String {
    text(score(probability), "")
}

/// Affected share of each lung, or that there is none of which it would be a share.
pub(crate) fn affected(findings: &Findings) -> Sides<String> {
    let Some(lesions) = findings.lesions else {
        let none = || "not measured".to_owned();
        return Sides { left: none(), right: none() };
    };
    let of = |share: f64, lung_ml: f64| match has_lung(lung_ml) {
        true => text(percent(share), " %"),
        false => NO_LUNG.to_owned(),
    };
    let (severity, lung) = (lesions.fraction, findings.lung_volume_ml);
    Sides { left: of(severity.left, lung.left), right: of(severity.right, lung.right) }
}

/// Whether there is a lung at all.
pub(crate) fn has_lung(lung_ml: f64) -> bool {
    lung_ml > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{findings, not_evaluated, outcome};

    #[test]
    fn numbers_never_say_more_than_they_know() {
        let cases = [
            (0.0, "0.0 %"),
            (1e-9, "<0.1 %"),
            (0.00099, "<0.1 %"),
            (0.0011, "0.1 %"),
            (0.2504, "25.0 %"),
            (1.0, "100.0 %"),
            (f64::NAN, "n/a"),
            (f64::INFINITY, "n/a"),
        ];
        for (share, want) in cases {
            assert_eq!(text(percent(share), " %"), want);
        }
        for (p, want) in [(0.0, "<0.01"), (0.5, "0.50"), (0.9999, ">0.99"), (1.0, ">0.99"), (f32::NAN, "n/a")]
        {
            assert_eq!(text(score(p), ""), want);
        }
        for (ml, decimals, want) in
            [(0.3, 0, "<1 ml"), (0.3, 1, "0.3 ml"), (0.0, 1, "0.0 ml"), (1430.66, 0, "1431 ml")]
        {
            assert_eq!(text(millilitres(ml, decimals), " ml"), want);
        }
    }

    #[test]
    fn an_absent_lung_is_not_healthy() {
        let mut findings = findings();
        findings.lung_volume_ml.left = 0.0;
        findings.lesions.as_mut().unwrap().fraction.left = 0.0;
        findings.probability = Some(f32::NAN);
        let said = sentences(&outcome(Verdict::Flagged(findings)), 1).join(" ");
        assert!(said.contains("right 61.8 %, left no lung; identification score n/a."), "{said}");
        assert!(!said.contains("NaN") && !said.contains(" 0.0 %"), "{said}");
    }

    #[test]
    fn what_is_not_measured_is_not_said_to_be_nothing() {
        let said = |findings| sentences(&outcome(Verdict::Flagged(findings)), 1).join(" ");
        let without = said(Findings { lesions: None, ..findings() });
        assert!(
            without.contains("Severity not measured by this method; identification score 0.87."),
            "{without}"
        );
        assert!(!without.contains('%') && !without.contains("CT-"), "{without}");
        let without = said(Findings { probability: None, ..findings() });
        assert!(without.contains("left 34.2 %; identified by severity alone."), "{without}");
        assert!(!without.contains("score"), "{without}");
    }

    #[test]
    fn every_outcome_says_what_it_is_not() {
        let (flagged, not_flagged) =
            (outcome(Verdict::Flagged(findings())), outcome(Verdict::NotFlagged(findings())));
        for (outcome, words) in [
            (&flagged, "FLAGGED: read this study first. Reading priority HIGH."),
            (&not_flagged, "NOT FLAGGED: read in turn; this does not say normal. Reading priority LOW."),
            (
                &not_evaluated(),
                "NOT EVALUATED: triage has no answer for this study. Reading priority MEDIUM.",
            ),
        ] {
            let [first, later] = [1, 2].map(|revision| sentences(outcome, revision));
            assert_eq!(first[0], words);
            assert!(first[1].starts_with("NOT FOR DIAGNOSTIC USE."));
            assert_eq!(first.iter().any(|s| s == CAVEAT), outcome.findings().is_some());
            assert_eq!(later[0], "REVISION 2 - REPLACES EARLIER RESULTS.");
            assert_eq!(later[1..], first);
        }
    }
}
