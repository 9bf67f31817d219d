//! `triaged evaluate`: methods compared on a prepared data set.
//!
//! Owns the command's arguments, progress and files; [`crate::evaluation`] does the work. It writes nothing but below `--out`.

use crate::appliance;
use crate::evaluation::dataset::{Dataset, Study};
use crate::evaluation::figures::{self, Named};
use crate::evaluation::leaderboard::Board;
use crate::evaluation::run::{self, Run, Speed};
use crate::evaluation::score::{self, By, Scored};
use crate::evaluation::table::{self, Bootstrap, Line};
use crate::evaluation::{Drawing, write};
use anyhow::{Context, bail};
use engine::{Analyzer, CardError, Choice, Method, Setup, Zoo};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Arguments of `triaged evaluate`.
#[derive(clap::Args)]
pub struct Args {
    /// The data set: the paper's layout, or a folder with labels.csv beside NIfTI files or folders of DICOM.
    dataset: PathBuf,
    /// A subset of the paper's layout (subsets/NAME/ids.json), or all.
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    /// A method; may be given several times. By default every method that has weights.
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<Method>,
    /// A folder with METHOD/card.toml inside: a set of weights. May be given several times; the table then has means and deviations.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    weights: Vec<PathBuf>,
    /// Predictions of somebody else's model: `DIR/ID/covid_proba.json` and `lesions_mask.npy`.
    #[arg(long, value_name = "NAME=DIR", value_parser = named_dir)]
    predictions: Vec<(String, PathBuf)>,
    /// Where tables, figures, the leaderboard and finished results go.
    #[arg(long, value_name = "DIR", default_value = "evaluation")]
    out: PathBuf,
    /// The engine: auto, tensorrt, cuda or cpu.
    #[arg(long, default_value = "auto")]
    engine: Choice,
    /// The models' folder; by default the one that was installed with the binary.
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
    /// Threads; by default one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Bootstrap samples of each 95 % interval; 0 for none.
    #[arg(long, default_value_t = 1000)]
    bootstrap: usize,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 2020)]
    seed: u64,
}

fn named_dir(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        _ => Err(format!("{text:?} is no NAME=DIR")),
    }
}

/// Evaluates. Success means that the tables are written; what is wrong with a study is a row of them.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dataset = Dataset::open(&args.dataset, args.subset.as_deref())?;
    let mut board = Board::open(&args.out.join("leaderboard.json"), &dataset)?;
    let threads = appliance::threads(args.threads);
    let runs = load(args, threads)?;
    let (results, speed) = evaluate(&dataset, &runs, &args.out, threads)?;
    let predicted: Vec<(String, Vec<Scored>)> = args
        .predictions
        .iter()
        .map(|(name, dir)| (name.clone(), predictions(&dataset, dir, threads)))
        .collect();

    let bootstrap = Bootstrap { rounds: args.bootstrap, seed: args.seed };
    let mut lines: Vec<Line> = Vec::new();
    for method in Method::ALL {
        let sets: Vec<&[Scored]> = runs
            .iter()
            .zip(&results)
            .filter(|(run, _)| run.method == method)
            .map(|(_, r)| r.as_slice())
            .collect();
        if !sets.is_empty() {
            lines.push(table::line(method.name(), &dataset, &sets, bootstrap));
            board.add(&lines[lines.len() - 1], "triaged");
        }
    }
    for (name, scored) in &predicted {
        lines.push(table::line(name, &dataset, &[scored], bootstrap));
        board.add(&lines[lines.len() - 1], "predictions");
    }
    let out = |name: &str| args.out.join(name);
    let text = table::markdown(&dataset, &lines, bootstrap);
    write(&out("table2.md"), text.as_bytes())?;
    write(&out("table2.csv"), &table::csv(&lines)?)?;
    let json = serde_json::json!({
        "dataset": dataset.name, "studies": dataset.studies.len(), "bootstrap": args.bootstrap, "seed": args.seed,
        "columns": table::COLUMNS.map(|(_, key, _)| key), "methods": lines, "not_for_diagnostic_use": true,
    });
    write(&out("table2.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    let named = runs.iter().zip(&results).map(|(run, results)| (run.name(), results.as_slice()));
    let others = predicted.iter().map(|(name, scored)| (name.clone(), scored.as_slice()));
    write(&out("studies.csv"), &table::studies_csv(&dataset, named.chain(others))?)?;
    write(&out("leaderboard.json"), serde_json::to_string_pretty(&board)?.as_bytes())?;
    write(&out("leaderboard.md"), board.markdown().as_bytes())?;
    draw(args, &dataset, &runs, &results, &predicted)?;
    println!("{text}");
    let named = runs.iter().zip(&results).map(|(run, results)| (run.name(), results.as_slice()));
    let others = predicted.iter().map(|(name, scored)| (name.clone(), scored.as_slice()));
    complain(&dataset, named.chain(others));
    say(runs.len(), speed, &args.out);
    Ok(ExitCode::SUCCESS)
}

/// The methods that were asked for, or all that have weights, each with each set of weights.
fn load(args: &Args, threads: usize) -> anyhow::Result<Vec<Run>> {
    let zoo = args.zoo.clone().unwrap_or_else(engine::default_zoo_dir);
    let setup = Setup::new(args.engine, threads);
    let wanted = if args.methods.is_empty() { &Method::ALL[..] } else { &args.methods };
    let mut runs = Vec::new();
    for &method in wanted {
        // A threshold has no weights; the lungs come from the zoo.
        let sets: Vec<Option<&PathBuf>> = match (args.weights.as_slice(), method.task()) {
            ([], _) | (_, None) => vec![None],
            (sets, Some(_)) => sets.iter().map(Some).collect(),
        };
        for weights in sets {
            let opened = Zoo::with_method(&zoo, method, weights.map(PathBuf::as_path));
            let opened = match opened {
                Ok(opened) => opened,
                Err(error) if args.methods.is_empty() && is_absent(&error) => {
                    eprintln!("{method} is left out: {error}");
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("method {method}")),
            };
            let name =
                weights.and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().into_owned());
            if runs.iter().any(|run: &Run| run.method == method && run.weights == name) {
                bail!(
                    "two sets of weights are named {:?}; the name is the folder's",
                    name.unwrap_or_default()
                );
            }
            let analyzer = Arc::new(Analyzer::new(opened, &setup)?);
            runs.push(Run { method, weights: name, analyzer });
        }
    }
    if runs.is_empty() && args.predictions.is_empty() {
        bail!("no method has weights in {}", zoo.display());
    }
    Ok(runs)
}

/// Whether there is nothing to run, rather than something broken.
fn is_absent(error: &CardError) -> bool {
    match error {
        CardError::Untrained { .. } => true,
        CardError::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn evaluate(
    dataset: &Dataset,
    runs: &[Run],
    out: &Path,
    threads: usize,
) -> anyhow::Result<(run::Results, Speed)> {
    let bar = ProgressBar::new((dataset.studies.len() * runs.len()) as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{pos}/{len} [{bar:30}] {elapsed_precise}, {eta} left  {msg}")
    {
        bar.set_style(style);
    }
    let progress = |id: &str| {
        bar.set_message(id.to_owned());
        bar.inc(1);
    };
    let done = run::evaluate(dataset, runs, &out.join("results"), threads, &progress);
    bar.finish_and_clear();
    done
}

fn predictions(dataset: &Dataset, dir: &Path, threads: usize) -> Vec<Scored> {
    let score = |study: &Study| match &study.group {
        Ok(_) => {
            score::prediction(dir, study, threads).unwrap_or_else(|why| Scored::broken(format!("{why:#}")))
        }
        Err(why) => Scored::broken(why),
    };
    dataset.studies.iter().map(score).collect()
}

fn draw(
    args: &Args,
    dataset: &Dataset,
    runs: &[Run],
    results: &run::Results,
    predicted: &[(String, Vec<Scored>)],
) -> anyhow::Result<()> {
    let save = |name: &str, drawing: &Drawing| -> anyhow::Result<()> {
        write(&args.out.join(format!("{name}.svg")), drawing.svg().as_bytes())?;
        write(&args.out.join(format!("{name}.png")), &drawing.png()?)
    };
    let named = |name: String, results| Named { name, rows: dataset.studies.iter().zip(results).collect() };
    let mut curves = Vec::new();
    for (run, results) in runs.iter().zip(results) {
        let card = run.analyzer.zoo().card();
        let (point, by) = match card.thresholds.operating_point {
            Some(point) if run.method.gives_probability() => {
                ((f64::from(point) * 1e6).round() / 1e6, By::Probability)
            }
            _ => (super::analyze::SEVERITY_MIN, By::Severity),
        };
        let method = named(run.name(), results);
        let file = run.name().replace('@', "-");
        if let Some(drawing) = figures::triage(&method, point, by) {
            save(&format!("figure5-{file}"), &drawing)?;
        }
        if let Some(drawing) = figures::by_category(&method) {
            save(&format!("figure6-{file}"), &drawing)?;
        }
        curves.push(method);
    }
    curves.extend(predicted.iter().map(|(name, results)| named(name.clone(), results)));
    save("roc", &figures::roc(&curves))
}

/// What went wrong or could not be measured: on stderr.
fn complain<'a>(dataset: &Dataset, runs: impl Iterator<Item = (String, &'a [Scored])>) {
    for (name, results) in runs {
        for (study, scored) in dataset.studies.iter().zip(results) {
            if let Some(why) = &scored.problem {
                eprintln!("no result: {name} of {}: {why}", study.id);
            }
            if let Some(what) = &scored.note {
                eprintln!("{name} of {}: {what}", study.id);
            }
        }
    }
}

/// How fast it was, where the files are: on stderr.
fn say(runs: usize, speed: Speed, out: &Path) {
    if speed.studies > 0 {
        eprintln!(
            "{} studies by {} methods in {:.0} s: {:.0} studies an hour",
            speed.studies,
            runs,
            speed.seconds,
            speed.studies as f64 * 3600.0 / speed.seconds.max(1e-3)
        );
    }
    eprintln!("tables, figures and the leaderboard are in {}", out.display());
}
