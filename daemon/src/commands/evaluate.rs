//! `triaged evaluate`: methods compared on a prepared data set.
//!
//! Owns the command's arguments, progress and files; [`crate::evaluation`] does the work. It writes nothing but below `--out`.

use crate::appliance;
use crate::evaluation::Drawing;
use crate::evaluation::dataset::Dataset;
use crate::evaluation::figures::{self, Named};
use crate::evaluation::leaderboard::Board;
use crate::evaluation::lungs::Lungs;
use crate::evaluation::others::Others;
use crate::evaluation::run::{self, Run, Speed};
use crate::evaluation::score::{By, Scored};
use crate::evaluation::table::{self, Bootstrap, Line, Weights};
use crate::{files, version};
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
    /// A method; may be given several times. By default every method that has weights, or, where predictions are given and no weights, none.
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<Method>,
    /// A folder with METHOD/card.toml inside: a set of weights. May be given several times; the table then has means and deviations.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    weights: Vec<PathBuf>,
    /// Predictions of somebody else's model: `DIR/ID/covid_proba.json`, a number, or `DIR/ID/lesions_mask.npy`, an array of 0 and 1 with rows
    /// (front to back), columns (patient's right to left) and slices (head to feet), or both.
    #[arg(long, value_name = "NAME=DIR", value_parser = others)]
    predictions: Vec<Others>,
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

fn others(text: &str) -> Result<Others, String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
            Ok(Others { name: name.to_owned(), dir: dir.into() })
        }
        _ => Err(format!("{text:?} is no NAME=DIR")),
    }
}

/// Evaluates. Success means that the tables are written; what is wrong with a study is a row of them.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dataset = Dataset::open(&args.dataset, args.subset.as_deref())?;
    Others::check(&args.predictions, &dataset)?;
    let mut board = Board::open(&args.out, &dataset)?;
    let threads = appliance::threads(args.threads);
    let runs = load(args, threads)?;
    let (results, predicted, speed) = evaluate(args, &dataset, &runs, threads)?;

    let bootstrap = Bootstrap { rounds: args.bootstrap, seed: args.seed };
    let mut lines: Vec<Line> = Vec::new();
    board.learn_unread(&dataset, &results);
    for method in Method::ALL {
        let of_method = runs.iter().zip(&results).filter(|(run, _)| run.method == method);
        let (weights, sets): (Vec<Weights>, Vec<&[Scored]>) =
            of_method.map(|(run, results)| (run.weights(), results.as_slice())).unzip();
        if !sets.is_empty() {
            lines.push(table::line(method.name(), &dataset, weights, &sets, bootstrap));
            board.add(&lines[lines.len() - 1], "triaged");
        }
    }
    for (name, scored) in &predicted {
        lines.push(table::line(name, &dataset, Vec::new(), &[scored], bootstrap));
        board.add(&lines[lines.len() - 1], "predictions");
    }
    let write = |name: &str, bytes: &[u8]| files::write(&args.out.join(name), bytes, 0o644);
    let text = table::markdown(&dataset, &lines, bootstrap);
    write("table2.md", text.as_bytes())?;
    write("table2.csv", &table::csv(&lines)?)?;
    let json = serde_json::json!({
        "dataset": dataset.name, "studies": dataset.studies.len(), "bootstrap": args.bootstrap, "seed": args.seed,
        "columns": table::COLUMNS.map(|(_, key, _)| key), "methods": lines,
        "version": version::VERSION, "commit": version::COMMIT, "not_for_diagnostic_use": true,
    });
    write("table2.json", serde_json::to_string_pretty(&json)?.as_bytes())?;
    let named = runs.iter().zip(&results).map(|(run, results)| (run.name(), results.as_slice()));
    let others = predicted.iter().map(|(name, scored)| (name.clone(), scored.as_slice()));
    write("studies.csv", &table::studies_csv(&dataset, named.chain(others))?)?;
    board.save(&args.out)?;
    draw(args, &dataset, &runs, &results, &predicted)?;
    println!("{text}");
    let named = runs.iter().zip(&results).map(|(run, results)| (run.name(), results.as_slice()));
    let others = predicted.iter().map(|(name, scored)| (name.clone(), scored.as_slice()));
    complain(&dataset, named.chain(others));
    say(speed, &board.path(&args.out, "md"));
    Ok(ExitCode::SUCCESS)
}

/// The methods that were asked for, or all that have weights, each with each set of weights.
fn load(args: &Args, threads: usize) -> anyhow::Result<Vec<Run>> {
    let zoo = zoo_dir(args);
    let setup = Setup::new(args.engine, threads);
    let wanted = match args.methods.as_slice() {
        [] if !args.predictions.is_empty() && args.weights.is_empty() => &[],
        [] => &Method::ALL[..],
        some => some,
    };
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

/// Results of the methods, and of each of the predictions under its name.
type Evaluated = (run::Results, Vec<(String, Vec<Scored>)>, Speed);

fn evaluate(args: &Args, dataset: &Dataset, runs: &[Run], threads: usize) -> anyhow::Result<Evaluated> {
    let bar = ProgressBar::new((dataset.studies.len() * (runs.len() + args.predictions.len())) as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{pos}/{len} [{bar:30}] {elapsed_precise}, {eta} left  {msg}")
    {
        bar.set_style(style);
    }
    let progress = |id: &str| {
        bar.set_message(id.to_owned());
        bar.inc(1);
    };
    let folder = args.out.join("results");
    let (results, speed) = run::evaluate(dataset, runs, &folder, threads, &progress)?;
    let lungs = Lungs::new(&folder, lung_net(args, dataset, runs, threads)?, threads);
    let score = |others: &Others| (others.name.clone(), others.evaluate(dataset, &lungs, threads, &progress));
    let predicted = args.predictions.iter().map(score).collect();
    bar.finish_and_clear();
    Ok((results, predicted, speed))
}

/// What finds the lungs for other people's masks, where the data set doesn't have them all.
fn lung_net(
    args: &Args,
    dataset: &Dataset,
    runs: &[Run],
    threads: usize,
) -> anyhow::Result<Option<Arc<Analyzer>>> {
    if args.predictions.is_empty() || dataset.without_lungs() == 0 {
        return Ok(None);
    }
    if let Some(run) = runs.first() {
        return Ok(Some(Arc::clone(&run.analyzer)));
    }
    // The method that needs nothing but the lung net.
    let zoo = Zoo::with_method(&zoo_dir(args), Method::Threshold, None)?;
    Ok(Some(Arc::new(Analyzer::new(zoo, &Setup::new(args.engine, threads))?)))
}

fn zoo_dir(args: &Args) -> PathBuf {
    args.zoo.clone().unwrap_or_else(engine::default_zoo_dir)
}

fn draw(
    args: &Args,
    dataset: &Dataset,
    runs: &[Run],
    results: &run::Results,
    predicted: &[(String, Vec<Scored>)],
) -> anyhow::Result<()> {
    let save = |name: &str, drawing: &Drawing| -> anyhow::Result<()> {
        files::write(&args.out.join(format!("{name}.svg")), drawing.svg().as_bytes(), 0o644)?;
        files::write(&args.out.join(format!("{name}.png")), &drawing.png()?, 0o644)
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
fn say(speed: Speed, board: &Path) {
    if speed.answers > 0 {
        eprintln!(
            "{} answers about {} studies in {:.0} s: {:.0} studies an hour",
            speed.answers,
            speed.studies,
            speed.seconds,
            speed.studies as f64 * 3600.0 / speed.seconds.max(1e-3)
        );
    }
    eprintln!("tables and figures are beside the leaderboard, {}", board.display());
}
