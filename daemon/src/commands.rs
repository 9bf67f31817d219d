//! One module a command; each has `Args` (parsed by clap) and `run`.
pub mod analyze;
pub mod bench;
pub mod conformance;
pub mod demo;
pub mod hospital;
pub mod outbox;
pub mod phantom;
pub mod provision;
pub mod run;
pub mod users;

use study::{Outcome, Verdict};

/// An outcome in words, for people.
pub fn describe(outcome: &Outcome) -> String {
    let mut text = match &outcome.verdict {
        Verdict::Flagged(_) => format!("FLAGGED        study {}\n", outcome.study_uid),
        Verdict::NotFlagged(_) => format!("NOT FLAGGED    study {}\n", outcome.study_uid),
        Verdict::NotEvaluated(reason) => {
            format!("NOT EVALUATED  study {}\n  reason: {reason}\n", outcome.study_uid)
        }
    };
    if let Some(f) = outcome.findings() {
        text += &format!(
            "  {}, severity left {:.1} %, right {:.1} %; identification probability {:.3} (demonstration)\n",
            f.category(),
            100.0 * f.severity.left,
            100.0 * f.severity.right,
            f.probability
        );
        text += &format!(
            "  lungs left {:.0} ml, right {:.0} ml; lesions left {:.0} ml, right {:.0} ml\n",
            f.lung_volume_ml.left, f.lung_volume_ml.right, f.lesion_volume_ml.left, f.lesion_volume_ml.right
        );
        text += &format!("  {} version {}, engine {}\n", f.method, f.model_version, f.engine);
    }
    text + "  not for diagnostic use"
}
