//! The triage policy: from findings to flagged or not, and the order of the list. Pure; thresholds are explicit.
use crate::outcome::{Findings, Outcome, Verdict};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// What decides (the paper's three uses of its two outputs, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The identification probability alone.
    Identification,
    /// The severity alone.
    Severity,
    /// Either of the two.
    Both,
}

/// The thresholds of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What decides.
    pub mode: Mode,
    /// Identification probability from which a study is flagged, 0 to 1.
    pub operating_point: f64,
    /// Severity (larger lesion fraction of the two lungs, 0 to 1) from which a study is flagged.
    pub severity_min: f64,
}

impl Policy {
    /// Whether the findings put the study to the front of the list.
    pub fn flags(&self, findings: &Findings) -> bool {
        let severe = findings.severity().is_some_and(|severity| severity >= self.severity_min);
        match self.mode {
            Mode::Identification => self.identifies(findings),
            Mode::Severity => severe,
            Mode::Both => self.identifies(findings) || severe,
        }
    }

    /// Whether the findings count as COVID-19: by their probability, or, where the method gives none, by their severity (paper, section 2.3).
    pub fn identifies(&self, findings: &Findings) -> bool {
        match findings.probability {
            Some(probability) => f64::from(probability) >= self.operating_point,
            None => findings.severity().is_some_and(|severity| severity >= self.severity_min),
        }
    }
}

/// How urgently a study should be read, as the worklist services put it (PS3.4 section CC.2.1, UPS priority).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Flagged: read first.
    High,
    /// Not evaluated: the machine has no answer, so it must not sink below the studies that have one.
    Medium,
    /// Not flagged: in turn. Never "do not read".
    Low,
}

impl Priority {
    /// The priority of a verdict.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Flagged(_) => Self::High,
            Verdict::NotEvaluated(_) => Self::Medium,
            Verdict::NotFlagged(_) => Self::Low,
        }
    }
}

/// Order of the triage list: by priority; among the flagged those above the operating point first, then by
/// descending severity. Equal ones keep their order of arrival (the caller sorts stably).
pub fn triage_order(policy: &Policy, a: &Outcome, b: &Outcome) -> Ordering {
    let key = |outcome: &Outcome| {
        let identified = outcome.findings().is_some_and(|findings| policy.identifies(findings));
        (Priority::of(&outcome.verdict), !identified)
    };
    let severity = |outcome: &Outcome| outcome.findings().and_then(Findings::severity).unwrap_or(0.0);
    key(a).cmp(&key(b)).then_with(|| severity(b).total_cmp(&severity(a)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::NotEvaluated;
    use crate::ids::StudyUid;
    use crate::lungs::Sides;
    use crate::outcome::Lesions;

    fn findings(probability: f32, severity: f64) -> Findings {
        Findings {
            probability: Some(probability),
            lesions: Some(Lesions {
                fraction: Sides { left: severity, right: severity / 2.0 },
                volume_ml: Sides { left: 2000.0 * severity, right: 1150.0 * severity },
            }),
            lung_volume_ml: Sides { left: 2000.0, right: 2300.0 },
            method: "Multitask-Spatial-1".into(),
            engine: "cpu".into(),
            model_version: "1".into(),
        }
    }

    #[test]
    fn three_modes() {
        let cases = [
            (Mode::Identification, 0.6, 0.0, true),
            (Mode::Identification, 0.4, 0.9, false),
            (Mode::Severity, 0.9, 0.04, false),
            (Mode::Severity, 0.1, 0.05, true),
            (Mode::Both, 0.5, 0.0, true),
            (Mode::Both, 0.1, 0.3, true),
            (Mode::Both, 0.1, 0.01, false),
        ];
        for (mode, probability, severity, want) in cases {
            let policy = Policy { mode, operating_point: 0.5, severity_min: 0.05 };
            assert_eq!(
                policy.flags(&findings(probability, severity)),
                want,
                "{mode:?} {probability} {severity}"
            );
        }
    }

    #[test]
    fn what_a_method_does_not_measure_flags_nothing() {
        let policy = |mode| Policy { mode, operating_point: 0.5, severity_min: 0.05 };
        let by_severity = Findings { probability: None, ..findings(0.0, 0.06) };
        let by_probability = Findings { lesions: None, ..findings(0.6, 0.0) };
        for mode in [Mode::Identification, Mode::Severity, Mode::Both] {
            assert!(policy(mode).flags(&by_severity), "{mode:?}");
            assert_eq!(policy(mode).flags(&by_probability), mode != Mode::Severity, "{mode:?}");
        }
        let little = Findings { probability: None, ..findings(0.0, 0.04) };
        assert!(!policy(Mode::Both).flags(&little));
    }

    #[test]
    fn the_list_shows_flagged_first_and_never_hides_the_unevaluated() {
        let policy = Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 };
        let outcome = |uid: &str, verdict| Outcome {
            study_uid: StudyUid::new(uid).unwrap(),
            series_uid: None,
            verdict,
            timings_ms: Default::default(),
        };
        let mut list = [
            outcome("low", Verdict::NotFlagged(findings(0.1, 0.01))),
            outcome("none", Verdict::NotEvaluated(NotEvaluated::NoCt)),
            outcome("severe", Verdict::Flagged(findings(0.2, 0.6))),
            outcome("likely", Verdict::Flagged(findings(0.9, 0.1))),
            outcome("likely-severe", Verdict::Flagged(findings(0.8, 0.3))),
        ];
        list.sort_by(|a, b| triage_order(&policy, a, b));
        let order: Vec<&str> = list.iter().map(|o| o.study_uid.as_str()).collect();
        assert_eq!(order, ["likely-severe", "likely", "severe", "none", "low"]);
    }
}
