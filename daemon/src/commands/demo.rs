//! `triaged demo`: all of it on loopback. A scanner that sends, the appliance, and a console, a PACS, a RIS and a
//! worklist manager that get the results.
use crate::appliance::{Appliance, Notice};
use crate::commands::hospital::{self, Department, Sent};
use crate::phantom::{self, Phantom, PhantomSpec};
use crate::pipeline::Progress;
use crate::screen::Recent;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use study::Outcome;

/// Longest time that the demo waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `triaged demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Send the DICOM files of this folder instead of a phantom.
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// End after the outcome; else the appliance goes on listening until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Slices of the phantom.
    #[arg(long, default_value_t = 150)]
    slices: usize,
    /// Keep what the demo makes (study, database, what each department received) in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the demonstration.
pub fn run(args: &Args, recent: Recent) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let dir = args.keep.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(dir)?;
    // What an earlier demo kept would be known already: nothing would be evaluated.
    let storage = dir.join("appliance");
    if storage.exists() {
        std::fs::remove_dir_all(&storage).with_context(|| storage.display().to_string())?;
    }
    let study = match &args.study {
        Some(study) => study.clone(),
        None => make_phantom(&dir.join("phantom"), args.slices)?,
    };
    let (received_sender, received) = mpsc::channel();
    let destinations = Department::ALL
        .iter()
        .map(|department| department.open(args.keep.as_deref(), received_sender.clone()))
        .collect::<Result<_, _>>()?;
    let (notice_sender, notices) = mpsc::channel();
    let config = hospital::configuration(&storage, destinations);
    let appliance = Appliance::start(&config, notice_sender, recent)?;
    let address = appliance.listening.plain.context("the demo listens without TLS")?;
    println!("appliance  listening as TRIAGED on {address}");
    if let Some(screen) = appliance.screen_address() {
        println!("screen     http://{screen}/");
    }

    let sent = send(&study, address, args.study.is_some())?;
    let outcomes = watch(&notices, &received, &sent)?;
    for outcome in &outcomes {
        print_outcome(outcome);
        println!("  last slice to all results accepted: {:.1} s", sent.last_slice.elapsed().as_secs_f64());
    }
    if !args.once {
        println!("\nThe appliance goes on listening as TRIAGED on {address}; Ctrl-C ends it.");
        let (stop, stopped) = mpsc::channel();
        ctrlc::set_handler(move || {
            // A second signal finds the channel closed; the first one counts.
            let _ = stop.send(());
        })?;
        while stopped.try_recv().is_err() {
            match notices.recv_timeout(Duration::from_millis(200)) {
                Ok(Notice::Outcome(outcome, _)) => print_outcome(&outcome),
                Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
    }
    appliance.stop();
    Ok(ExitCode::SUCCESS)
}

fn bar(length: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:10} {msg:22} [{bar:30}] {pos}/{len}");
    let bar = ProgressBar::new(length as u64).with_prefix(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn make_phantom(dir: &Path, slices: usize) -> anyhow::Result<PathBuf> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let spec = PhantomSpec { slices, ..PhantomSpec::default() };
    let progress = bar(slices, "scanner").with_message("making a phantom");
    let truth = phantom::write_series(&Phantom::new(&spec)?, dir, || progress.inc(1))?;
    progress.finish_and_clear();
    println!(
        "scanner    made a phantom of {slices} slices; true lesion fraction: left {:.1} %, right {:.1} %",
        100.0 * truth.lesion_fraction.left,
        100.0 * truth.lesion_fraction.right
    );
    Ok(dir.to_owned())
}

/// The scanner sends; `report_others` names the files that it leaves out.
fn send(dir: &Path, appliance: SocketAddr, report_others: bool) -> anyhow::Result<Sent> {
    let progress = bar(1, "scanner").with_message("sending by C-STORE");
    let start = Instant::now();
    let tell = |what| {
        if report_others {
            progress.println(format!("scanner    {what}"));
        }
    };
    let step = |of: usize| {
        progress.set_length(of as u64);
        progress.inc(1);
    };
    let sent = hospital::send_study(dir, appliance, &tell, &step)?;
    progress.finish_and_clear();
    println!(
        "scanner    sent {} instances in {:.1} s, each acknowledged after it was on disk",
        sent.instances,
        start.elapsed().as_secs_f64()
    );
    Ok(sent)
}

/// Waits until every study has its outcome, and every result was accepted.
fn watch(
    notices: &Receiver<Notice>,
    received: &Receiver<String>,
    sent: &Sent,
) -> anyhow::Result<Vec<Outcome>> {
    let progress = bar(1, "appliance");
    let mut outcomes: Vec<Outcome> = Vec::new();
    let (mut wanted, mut delivered) = (0, 0);
    while outcomes.len() < sent.studies.len() || delivered < wanted {
        match notices.recv_timeout(PATIENCE).context("the appliance has said nothing for too long")? {
            Notice::Complete(study, why, instances) => {
                progress
                    .println(format!("appliance  study {study}: complete, {instances} instances ({why:?})"));
            }
            Notice::Progress(Progress::Prepared { done, of }) => {
                progress.set_message("lungs");
                progress.set_length(of as u64);
                progress.set_position(done as u64);
            }
            Notice::Progress(Progress::Analysed { done, of }) => {
                progress.set_message("lesions");
                progress.set_length(of as u64);
                progress.set_position(done as u64);
            }
            Notice::Verdict => progress.set_message("results"),
            Notice::Outcome(outcome, deliveries) => {
                wanted += deliveries;
                outcomes.push(*outcome);
            }
            Notice::Delivered(_) => delivered += 1,
        }
    }
    progress.finish_and_clear();
    for line in received.try_iter() {
        println!("{line}");
    }
    Ok(outcomes)
}

fn print_outcome(outcome: &Outcome) {
    println!("\n{}", crate::commands::describe(outcome));
    if let Some(ms) = outcome.timings_ms.get("last_slice_to_outcome") {
        println!("  last slice to outcome: {:.1} s", ms / 1e3);
    }
}
