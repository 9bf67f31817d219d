//! One module a command; each has `Args` (parsed by clap) and `run`.
pub mod analyze;
pub mod bench;
pub mod conformance;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod hospital;
pub mod outbox;
pub mod phantom;
pub mod provision;
pub mod run;
pub mod site;
pub mod stick;
pub mod support_bundle;
pub mod users;

use crate::config::Config;
use crate::database::Database;
use anyhow::{Context, bail};
use std::path::Path;
use study::{Lesions, Outcome, Verdict};

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
        text += &match f.lesions.zip(f.category()) {
            Some((lesions, category)) => format!(
                "  {category}, severity left {:.1} %, right {:.1} %",
                100.0 * lesions.fraction.left,
                100.0 * lesions.fraction.right
            ),
            None => "  severity not measured by this method".to_owned(),
        };
        text += &match f.probability {
            Some(probability) => format!("; identification probability {probability:.3} (demonstration)\n"),
            None => "; identified by severity alone\n".to_owned(),
        };
        text +=
            &format!("  lungs left {:.0} ml, right {:.0} ml", f.lung_volume_ml.left, f.lung_volume_ml.right);
        if let Some(Lesions { volume_ml, .. }) = f.lesions {
            text += &format!("; lesions left {:.0} ml, right {:.0} ml", volume_ml.left, volume_ml.right);
        }
        text += "\n";
        text += &format!("  {} version {}, engine {}\n", f.method, f.model_version, f.engine);
    }
    text + "  not for diagnostic use"
}

/// The daemon's configuration, and its database, which it may have open.
fn beside_the_daemon(file: Option<&Path>) -> anyhow::Result<(Config, Database)> {
    let file = file.context("--config FILE is missing: the daemon's configuration")?;
    let config = Config::load(file)?;
    let path = config.storage.dir.join("triaged.db");
    if !path.exists() {
        bail!(
            "there is no {}: the daemon has not run with {} yet, or as another user",
            path.display(),
            file.display()
        );
    }
    let database = Database::open_beside_the_daemon(&path)
        .with_context(|| format!("{}; run this as the daemon's user", path.display()))?;
    Ok((config, database))
}
