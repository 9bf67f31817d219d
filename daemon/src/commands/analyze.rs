//! `triaged analyze`: studies from files, by the same pipeline as the daemon's.
//!
//! Owns the command's arguments, progress and answers: a table or one JSON object a study on stdout, everything else on
//! stderr. It never sends or stores anything but what `--out` names, and never alters a source file.
pub(crate) mod collect;
pub(crate) mod files;
mod nifti;

use crate::appliance;
use crate::instance::Instance;
use crate::pipeline::{Evaluation, Pipeline, Progress};
use crate::report;
use anyhow::{Context, bail};
use collect::Collection;
use engine::{Choice, Method, Setup};
use indicatif::{ProgressBar, ProgressStyle};
use nifti::Grid;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use study::policy::triage_order;
use study::{Mode, Outcome, Policy, Verdict};

/// Severity from which a study is flagged, where nothing else is asked for: CT-1 by more than a few stray voxels.
pub(super) const SEVERITY_MIN: f64 = 0.05;

/// Arguments of `triaged analyze`.
#[derive(clap::Args)]
pub struct Args {
    /// Folders with DICOM files, at any depth, of any number of studies; other files among them are left out.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The method: threshold, unet2d, unet2d-plus, unet3d, resnet50, multitask-latent, multitask-spatial-1 or multitask-spatial-4.
    #[arg(long, default_value_t)]
    method: Method,
    /// The engine: auto, tensorrt, cuda or cpu.
    #[arg(long, default_value = "auto")]
    engine: Choice,
    /// Write masks (NIfTI), the picture (PNG) and the outcome (JSON) of each study into a folder of its own here.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON object a study on stdout, instead of the table.
    #[arg(long)]
    json: bool,
    /// The models' folder; by default the one that was installed with the binary.
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
    /// Threads; by default one a core.
    #[arg(long)]
    threads: Option<usize>,
}

/// Analyses every study in the folders. Success means that every study has an outcome, "not evaluated" included.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let threads = appliance::threads(args.threads);
    let paths = files::under(&args.dirs)?;
    let reading = bar(paths.len(), "reading headers");
    let collection = collect::collect(&paths, threads, &|| reading.inc(1));
    reading.finish_and_clear();
    report_left_out(&collection, paths.len());
    if collection.studies.is_empty() {
        bail!("no DICOM study among {} files in {}", paths.len(), names(&args.dirs));
    }
    let analyzer = appliance::analyzer(args.zoo.as_deref(), args.method, &Setup::new(args.engine, threads))?;
    let operating_point = analyzer.zoo().card().thresholds.operating_point.unwrap_or(0.5);
    let policy =
        Policy { mode: Mode::Both, operating_point: operating_point.into(), severity_min: SEVERITY_MIN };
    let pipeline = Pipeline::new(analyzer, policy, threads)?;
    let studies = collection.studies.len();
    let mut outcomes = Vec::new();
    for (number, (study, instances)) in collection.studies.iter().enumerate() {
        let progress = bar(instances.len(), &format!("study {} of {studies}", number + 1));
        let finished = pipeline.finish(study, instances, &|step| show(&progress, step));
        progress.finish_and_clear();
        if let Some(out) = &args.out {
            let dir = out.join(files::folder_name(study.as_str()));
            let picture = report::picture(&finished, true, 1).to_png();
            write_results(&dir, &finished.outcome, finished.evaluation.as_ref(), instances, &picture)
                .with_context(|| format!("results of study {study} in {}", dir.display()))?;
        }
        if args.json {
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&finished.outcome)?)?;
        }
        outcomes.push(finished.outcome);
    }
    if !args.json {
        outcomes.sort_by(|a, b| triage_order(&policy, a, b));
        write!(std::io::stdout(), "{}", table(&outcomes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn names(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn bar(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_prefix(what.to_owned());
    match ProgressStyle::with_template("{prefix:20} {msg:8} [{bar:30}] {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, step: Progress) {
    let (stage, done, of) = match step {
        Progress::Prepared { done, of } => ("lungs", done, of),
        Progress::Analysed { done, of } => ("lesions", done, of),
    };
    bar.set_message(stage);
    bar.set_length(of as u64);
    bar.set_position(done as u64);
}

/// What was not analysed, on stderr.
fn report_left_out(collection: &Collection, files: usize) {
    for warning in &collection.warnings {
        eprintln!("warning: {warning}");
    }
    if collection.more_warnings > 0 {
        eprintln!("warning: … and {} files more", collection.more_warnings);
    }
    if collection.not_dicom > 0 {
        eprintln!("{} of {files} files are not DICOM images and were left out", collection.not_dicom);
    }
    if collection.repeated > 0 {
        eprintln!("{} files repeat another one and were counted once", collection.repeated);
    }
}

/// The masks where there are some, the picture and the outcome.
fn write_results(
    dir: &Path,
    outcome: &Outcome,
    evaluation: Option<&Evaluation>,
    instances: &[Arc<Instance>],
    picture: &[u8],
) -> anyhow::Result<()> {
    use engine::LabelVolume as Labels;
    std::fs::create_dir_all(dir)?;
    if let Some(evaluation) = evaluation {
        let order = &evaluation.chosen.order;
        let labels = &evaluation.analysis.labels;
        let geometry = |i: Option<&usize>| i.map(|i| &instances[*i].header.geometry);
        let (Some(first), Some(last)) = (geometry(order.first()), geometry(order.last())) else {
            bail!("the chosen series is empty");
        };
        let grid = Grid::of(labels.shape, first, last);
        // 1 is the right lung, 2 the left one, as the bits are.
        nifti::write(&dir.join("lungs.nii.gz"), &grid, &labels.voxels, |label| label & Labels::LUNGS)?;
        // Only what counts: lesions inside the lungs. No file where the method looks for none: an empty one would say that there are none.
        if outcome.findings().is_some_and(|findings| findings.lesions.is_some()) {
            nifti::write(&dir.join("lesions.nii.gz"), &grid, &labels.voxels, |label| {
                u8::from(label & Labels::LESION != 0 && label & Labels::LUNGS != 0)
            })?;
        }
    }
    std::fs::write(dir.join("picture.png"), picture)?;
    std::fs::write(dir.join("outcome.json"), serde_json::to_string_pretty(outcome)? + "\n")?;
    Ok(())
}

/// The studies in the order in which they should be read.
fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:14} {:5} {:>7} {:>7} {:>12}  {}\n",
        "OUTCOME", "CT", "RIGHT %", "LEFT %", "PROBABILITY", "STUDY"
    );
    for outcome in outcomes {
        let verdict = match outcome.verdict {
            Verdict::Flagged(_) => "flagged",
            Verdict::NotFlagged(_) => "not flagged",
            Verdict::NotEvaluated(_) => "not evaluated",
        };
        text += &match outcome.findings() {
            Some(f) => {
                let percent =
                    |share: Option<f64>| share.map_or("-".to_owned(), |s| format!("{:.1}", 100.0 * s));
                format!(
                    "{verdict:14} {:5} {:>7} {:>7} {:>12}  {}\n",
                    f.category().map_or("-".to_owned(), |category| category.to_string()),
                    percent(f.lesions.map(|lesions| lesions.fraction.right)),
                    percent(f.lesions.map(|lesions| lesions.fraction.left)),
                    f.probability.map_or("-".to_owned(), |probability| format!("{probability:.3}")),
                    outcome.study_uid
                )
            }
            None => {
                format!("{verdict:14} {:5} {:>7} {:>7} {:>12}  {}\n", "-", "-", "-", "-", outcome.study_uid)
            }
        };
        if let Verdict::NotEvaluated(reason) = &outcome.verdict {
            text += &format!("  {reason}\n");
        }
    }
    text + "Not for diagnostic use. The probability is a demonstration without an accuracy claim.\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use study::{Findings, Lesions, NotEvaluated, Sides, StudyUid};

    #[test]
    fn the_table_holds_every_study_and_reason() {
        let findings = Findings {
            probability: Some(0.75),
            lesions: Some(Lesions {
                fraction: Sides { left: 0.25, right: 0.5 },
                volume_ml: Sides::default(),
            }),
            lung_volume_ml: Sides::default(),
            method: "m".into(),
            engine: "e".into(),
            model_version: "1".into(),
        };
        let outcome = |uid: &str, verdict| Outcome {
            study_uid: StudyUid::new(uid).unwrap(),
            series_uid: None,
            verdict,
            timings_ms: Default::default(),
        };
        let text = table(&[
            outcome("1.2", Verdict::Flagged(findings)),
            outcome("1.3", Verdict::NotEvaluated(NotEvaluated::NoCt)),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("CT-2") && lines[1].contains("50.0    25.0        0.750  1.2"), "{text}");
        assert!(lines[2].starts_with("not evaluated") && lines[2].ends_with("1.3"), "{text}");
        assert_eq!(lines[3], "  the study holds no CT image series");
    }
}
