//! `triaged bench`: a whole study by stage, its results on their way to four destinations, and the intake against
//! DCMTK's `storescp`. A table, or JSON.
//!
//! Figures of one run on one machine: compare ratios within a run, not seconds between machines.
use crate::appliance::{self, Appliance, Notice};
use crate::commands::hospital::{self, Department};
use crate::config::Config;
use crate::database::Database;
use crate::instance::Instance;
use crate::intake::Intake;
use crate::intake::spool::Spool;
use crate::phantom::{self, Phantom, PhantomSpec};
use crate::pipeline::Pipeline;
use crate::pulse::{self, Pulse};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use study::{Mode, Policy};

/// Longest time that the benchmark waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `triaged bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Slices of the phantom that is evaluated and sent.
    #[arg(long, default_value_t = 150)]
    slices: usize,
    /// Evaluate the DICOM series of this folder instead of a phantom.
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// Rounds; of each figure the median is given.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads; by default one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// The engine: auto, tensorrt, cuda or cpu.
    #[arg(long, default_value = "auto")]
    engine: engine::Choice,
    /// The models' folder; by default the one that was installed with the binary.
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    study: StudyReport,
    delivery: DeliveryReport,
    intake: Option<IntakeReport>,
}

/// A study from its files to the outcome.
#[derive(Serialize)]
struct StudyReport {
    slices: usize,
    threads: usize,
    engine: String,
    /// Median over the rounds.
    study_from_files_s: f64,
    /// Median over the rounds, by the names of the outcome's `timings_ms`.
    stages_ms: BTreeMap<String, f64>,
    /// Peak resident memory of the process after the evaluations (`VmHWM`).
    peak_resident_mib: Option<f64>,
}

/// From the verdict to the results that were accepted, on loopback: results are made, written to the disk in one
/// transaction, sent, and their acceptance is written too. Medians over the rounds.
#[derive(Serialize)]
struct DeliveryReport {
    /// From the last slice's acknowledgement to the verdict; the quiet time is part of it.
    last_slice_to_verdict_ms: f64,
    /// From the verdict to the first result that any destination accepted.
    first_ms: f64,
    /// From the verdict to the first and to the last result of each destination.
    destinations_ms: BTreeMap<String, [f64; 2]>,
    /// From the verdict to the last of all.
    all_ms: f64,
    /// Results, each counted for each of its destinations.
    deliveries: usize,
}

/// The same files sent by the same `storescu`, in turn.
#[derive(Serialize)]
struct IntakeReport {
    triaged_synced_s: f64,
    dcmtk_storescp_unsynced_s: f64,
    ratio: f64,
}

/// Runs the benchmark.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(args.rounds > 0, "--rounds is 0");
    let scratch = tempfile::tempdir()?;
    let dir = match &args.study {
        Some(dir) => dir.clone(),
        None => {
            let dir = scratch.path().join("phantom");
            let spec = PhantomSpec { slices: args.slices, ..PhantomSpec::default() };
            eprintln!("making a phantom of {} slices", args.slices);
            phantom::write_series(&Phantom::new(&spec)?, &dir, || {})?;
            std::fs::remove_dir_all(dir.join("truth"))?;
            dir
        }
    };
    let threads = appliance::threads(args.threads);
    let report = Report {
        study: study(&dir, threads, args)?,
        delivery: delivery(&dir, scratch.path(), args)?,
        intake: intake(&dir, scratch.path(), args.rounds)?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    let study = &report.study;
    println!("{} slices, {} threads, engine {}", study.slices, study.threads, study.engine);
    println!("  whole study from files        {:>9.2} s", study.study_from_files_s);
    for (stage, ms) in &study.stages_ms {
        println!("  {stage:<30}{ms:>9.1}{}", if stage.starts_with("slices") { "" } else { " ms" });
    }
    if let Some(mib) = study.peak_resident_mib {
        println!("  peak resident memory          {mib:>9.0} MiB");
    }
    let d = &report.delivery;
    println!("{} results to {} destinations, on loopback", d.deliveries, d.destinations_ms.len());
    println!("  last slice to verdict         {:>9.1} ms", d.last_slice_to_verdict_ms);
    println!("  verdict to first accepted     {:>9.1} ms", d.first_ms);
    for (name, [first, last]) in &d.destinations_ms {
        println!("    {name:<28}{first:>9.1} ms to {last:.1} ms");
    }
    println!("  verdict to all accepted       {:>9.1} ms", d.all_ms);
    match &report.intake {
        Some(intake) => println!(
            "intake by storescu, TCP_NODELAY=1 on both ends\n  triaged, each instance synced {:>9.2} s\n  \
             DCMTK storescp, never synced  {:>9.2} s\n  ratio                         {:>9.2}",
            intake.triaged_synced_s, intake.dcmtk_storescp_unsynced_s, intake.ratio
        ),
        None => println!("intake: skipped: no DCMTK (storescu, storescp)"),
    }
}

/// A whole study from files: read, decode, lungs, lesions, outcome.
fn study(dir: &Path, threads: usize, args: &Args) -> anyhow::Result<StudyReport> {
    let analyzer = appliance::analyzer(
        args.zoo.as_deref(),
        engine::Method::default(),
        &engine::Setup::new(args.engine, threads),
    )?;
    let engine = analyzer.engines().first().name().to_owned();
    let policy = Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 };
    let pipeline = Pipeline::new(analyzer, policy, threads)?;
    let (mut totals, mut stages) = (Vec::new(), BTreeMap::<String, Vec<f64>>::new());
    let mut slices = 0;
    for round in 1..=args.rounds {
        eprintln!("study, round {round} of {}", args.rounds);
        let start = Instant::now();
        let mut instances = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let instance = Arc::new(Instance::read(&entry?.path())?);
            pipeline.prepare(Arc::clone(&instance));
            instances.push(instance);
        }
        let study = instances.first().context("the folder is empty")?.header.study.clone();
        let finished = pipeline.finish(&study, &instances, &|_| {});
        totals.push(start.elapsed().as_secs_f64());
        if let study::Verdict::NotEvaluated(reason) = &finished.outcome.verdict {
            anyhow::bail!("the study was not evaluated: {reason}");
        }
        slices = finished.evaluation.map_or(0, |e| e.chosen.order.len());
        for (stage, ms) in finished.outcome.timings_ms {
            stages.entry(stage).or_default().push(ms);
        }
    }
    Ok(StudyReport {
        slices,
        threads,
        engine,
        study_from_files_s: median(&mut totals),
        stages_ms: stages.into_iter().map(|(stage, mut ms)| (stage, median(&mut ms))).collect(),
        peak_resident_mib: peak_resident_mib(),
    })
}

fn peak_resident_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The whole appliance, with a console, a PACS, a RIS and a worklist manager.
fn delivery(dir: &Path, scratch: &Path, args: &Args) -> anyhow::Result<DeliveryReport> {
    let (mut verdicts, mut firsts, mut alls) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_each: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    let mut deliveries = 0;
    for round in 1..=args.rounds {
        eprintln!("delivery, round {round} of {}", args.rounds);
        let (received, _departments) = mpsc::channel();
        let open = |department: &Department| department.open(None, received.clone());
        let destinations = Department::ALL.iter().map(open).collect::<Result<_, _>>()?;
        let mut config = hospital::configuration(&scratch.join(format!("delivery-{round}")), destinations);
        config.engine.zoo.clone_from(&args.zoo);
        config.engine.threads = args.threads;
        let (sender, notices) = mpsc::channel();
        let appliance = Appliance::start(&config, sender, crate::screen::Recent::default())?;
        let address = appliance.listening.plain.context("the benchmark listens without TLS")?;
        let sent = hospital::send_study(dir, address, &|_| {}, &|_| {})?;
        let (verdict, times) = accepted(&notices)?;
        appliance.stop();
        let ms = |at: &Instant| at.duration_since(verdict).as_secs_f64() * 1e3;
        verdicts.push(verdict.duration_since(sent.last_slice).as_secs_f64() * 1e3);
        firsts.push(times.first().map_or(0.0, |(at, _)| ms(at)));
        alls.push(times.last().map_or(0.0, |(at, _)| ms(at)));
        deliveries = times.len();
        for department in Department::ALL {
            let own = || times.iter().filter(|(_, name)| name == department.name()).map(|(at, _)| ms(at));
            let [first, last] = of_each.entry(department.name().to_owned()).or_default();
            first.extend(own().next());
            last.extend(own().next_back());
        }
    }
    let of_each = of_each.into_iter().filter(|(_, [first, _])| !first.is_empty());
    Ok(DeliveryReport {
        last_slice_to_verdict_ms: median(&mut verdicts),
        first_ms: median(&mut firsts),
        destinations_ms: of_each
            .map(|(name, mut times)| (name, times.each_mut().map(|t| median(t))))
            .collect(),
        all_ms: median(&mut alls),
        deliveries,
    })
}

/// When the verdict was there, and when which destination accepted each result.
fn accepted(notices: &mpsc::Receiver<Notice>) -> anyhow::Result<(Instant, Vec<(Instant, String)>)> {
    let (mut verdict, mut wanted, mut times) = (None, None, Vec::new());
    while wanted.is_none_or(|wanted| times.len() < wanted) {
        match notices.recv_timeout(PATIENCE).context("the appliance has said nothing for too long")? {
            Notice::Verdict => verdict = Some(Instant::now()),
            Notice::Outcome(_, deliveries) => wanted = Some(deliveries),
            Notice::Delivered(destination) => times.push((Instant::now(), destination)),
            Notice::Complete(..) | Notice::Progress(_) => {}
        }
    }
    Ok((verdict.context("an outcome without a verdict")?, times))
}

/// Our intake and DCMTK's receiver, in turn; `None` without DCMTK.
fn intake(dir: &Path, scratch: &Path, rounds: usize) -> anyhow::Result<Option<IntakeReport>> {
    let found = |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found("storescu") || !found("storescp") {
        return Ok(None);
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("intake, round {} of {rounds}", round + 1);
        let folder = scratch.join(format!("intake-{round}"));
        ours.push(time_ours(dir, &folder.join("triaged"))?);
        theirs.push(time_storescp(dir, &folder.join("storescp"))?);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    Ok(Some(IntakeReport { triaged_synced_s: ours, dcmtk_storescp_unsynced_s: theirs, ratio: ours / theirs }))
}

fn time_ours(dir: &Path, storage: &Path) -> anyhow::Result<f64> {
    std::fs::create_dir_all(storage)?;
    let config = Config::parse(&format!(
        "dicom = {{ ae_title = 'TRIAGED', listen = '127.0.0.1:0', callers = ['*'] }}\n\
         storage = {{ dir = {storage:?}, min_free_mib = 1 }}\n\
         policy = {{ mode = 'both', operating_point = 0.5, severity_min = 0.05 }}"
    ))?;
    let database = Arc::new(Database::open(&storage.join("triaged.db"))?);
    let spool = Arc::new(Spool::open(&storage.join("spool"), 1)?);
    let (events, assembler) = mpsc::sync_channel(crate::limits::EVENTS_MAX);
    // The assembler's part is not the intake's: only taken off the channel here.
    let drain = std::thread::spawn(move || assembler.iter().count());
    let intake = Intake::new(config, spool, database, events);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let listening = Arc::clone(&intake);
    let listen = std::thread::spawn(move || {
        listening.listen(&listener, None, &Pulse::default().beat("listener", pulse::TURN))
    });
    let time_s = time_storescu(dir, address)?;
    intake.stop(&[address]);
    drop(intake);
    listen.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    drop(drain);
    Ok(time_s)
}

fn time_storescp(dir: &Path, received: &Path) -> anyhow::Result<f64> {
    std::fs::create_dir_all(received)?;
    // A port that was free a moment ago: storescp takes no other way.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut storescp = Command::new("storescp")
        .args(["--accept-all", "--output-directory"])
        .arg(received)
        .arg(address.port().to_string())
        .env("TCP_NODELAY", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let waiting = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(waiting.elapsed() < Duration::from_secs(10), "storescp does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let time_s = time_storescu(dir, address);
    storescp.kill()?;
    storescp.wait()?;
    time_s
}

fn time_storescu(dir: &Path, address: SocketAddr) -> anyhow::Result<f64> {
    let any = std::fs::read_dir(dir)?.next().context("the folder is empty")??.path();
    // storescu sends files as they are, and proposes one kind of transfer syntax.
    let proposal = match Instance::read(&any)?.transfer_syntax.as_str() {
        dimse::uids::JPEG_LOSSLESS_SV1 => "--propose-lossless",
        _ => "--propose-uncompr",
    };
    let start = Instant::now();
    let status = Command::new("storescu")
        .args([proposal, "-aec", "TRIAGED", "--scan-directories"])
        .arg(address.ip().to_string())
        .arg(address.port().to_string())
        .arg(dir)
        .env("TCP_NODELAY", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "storescu failed: {status}");
    Ok(start.elapsed().as_secs_f64())
}
