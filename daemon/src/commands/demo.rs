//! `triaged demo`: all of it on loopback. A scanner that sends, the appliance, a console that receives.
use crate::appliance::{Appliance, Notice};
use crate::config::{
    Completion, Config, Destination, Dicom, DicomDestination, Engine, ResultSettings, Storage,
};
use crate::instance::Instance;
use crate::phantom::{self, Phantom, PhantomSpec};
use crate::pipeline::Progress;
use anyhow::{Context, bail, ensure};
use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, NAnswer, accept};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, FileHead, Status, uids, write_file_head};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use study::{Mode, Outcome, Policy, StudyUid};

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
    /// Keep what the demo makes (study, database, what the console received) in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the demonstration.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let dir = args.keep.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(dir)?;
    let study = match &args.study {
        Some(study) => study.clone(),
        None => make_phantom(&dir.join("phantom"), args.slices)?,
    };
    let (received_sender, received) = mpsc::channel();
    let console = start_console(&dir.join("console"), received_sender)?;
    let (notice_sender, notices) = mpsc::channel();
    let appliance = Appliance::start(&configuration(&dir.join("appliance"), console), notice_sender)?;
    println!("appliance  listening as TRIAGED on {}", appliance.address);

    let sent = send_study(&study, appliance.address, args.study.is_some())?;
    let outcomes = watch(&notices, &received, &sent)?;
    for outcome in &outcomes {
        print_outcome(outcome, sent.last_slice);
    }
    if !args.once {
        println!("\nThe appliance goes on listening as TRIAGED on {}; Ctrl-C ends it.", appliance.address);
        let (stop, stopped) = mpsc::channel();
        ctrlc::set_handler(move || {
            // A second signal finds the channel closed; the first one counts.
            let _ = stop.send(());
        })?;
        while stopped.try_recv().is_err() {
            match notices.recv_timeout(Duration::from_millis(200)) {
                Ok(Notice::Outcome(outcome)) => print_outcome(&outcome, Instant::now()),
                Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
    }
    appliance.stop();
    Ok(ExitCode::SUCCESS)
}

fn configuration(dir: &Path, console: SocketAddr) -> Config {
    Config {
        dicom: Dicom {
            ae_title: "TRIAGED".into(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            listen_tls: None,
            also_called: Vec::new(),
            callers: vec!["*".into()],
            associations_max: 16,
            idle_timeout_s: 60.0,
            association_request_timeout_s: 10.0,
        },
        storage: Storage { dir: dir.to_owned(), min_free_mib: 64, keep_days: 1.0 },
        policy: Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 },
        completion: Completion::default(),
        engine: Engine::default(),
        results: ResultSettings::default(),
        tls: None,
        destinations: vec![Destination::Dicom(DicomDestination {
            name: "console".into(),
            ae_title: "CONSOLE".into(),
            address: console.to_string(),
            tls: false,
            results: vec![results::Kind::Picture],
            storage_commitment: false,
        })],
        scanners: Vec::new(),
        worklist: None,
    }
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

/// What the scanner sent.
struct Sent {
    studies: Vec<StudyUid>,
    last_slice: Instant,
}

/// The scanner: one association, one C-STORE for each file.
fn send_study(dir: &Path, appliance: SocketAddr, report_others: bool) -> anyhow::Result<Sent> {
    let mut instances = Vec::new();
    for path in files(dir)? {
        match Instance::read(&path) {
            Ok(instance) => instances.push(instance),
            Err(error) if report_others => eprintln!("scanner    leaves out {error}"),
            // The phantom's truth.
            Err(_) => {}
        }
    }
    ensure!(!instances.is_empty(), "no DICOM file in {}", dir.display());
    // As the scanner reconstructs: in the order of the position.
    instances.sort_by(|a, b| b.header.geometry.position_mm[2].total_cmp(&a.header.geometry.position_mm[2]));
    let mut contexts: Vec<(&str, &str)> =
        instances.iter().map(|i| (i.sop_class.as_str(), i.transfer_syntax.as_str())).collect();
    contexts.sort_unstable();
    contexts.dedup();
    let syntaxes: Vec<[&str; 1]> = contexts.iter().map(|(_, syntax)| [*syntax]).collect();
    let offered: Vec<(&str, &[&str])> =
        contexts.iter().zip(&syntaxes).map(|((class, _), syntax)| (*class, syntax.as_slice())).collect();
    let (scanner, called): (AeTitle, AeTitle) = ("CT_SCANNER".parse()?, "TRIAGED".parse()?);
    let address = appliance.to_string();
    let mut association =
        Requestor::connect(&address, &scanner, &called, &offered, &RequestorConfig::default())?;
    let progress = bar(instances.len(), "scanner").with_message("sending by C-STORE");
    let start = Instant::now();
    for instance in &instances {
        if !association.accepts(&instance.sop_class, &instance.transfer_syntax) {
            progress.println(format!(
                "scanner    leaves out {}: the appliance does not take its kind or compression",
                instance.path.display()
            ));
            progress.inc(1);
            continue;
        }
        let mut file = File::open(&instance.path)?;
        let offset = data_set_offset(&mut file)
            .with_context(|| format!("{} can't be sent", instance.path.display()))?;
        let length = file.metadata()?.len() - offset;
        file.seek(SeekFrom::Start(offset))?;
        let uid = instance.header.instance.as_str();
        let answer = association.store(
            &instance.sop_class,
            uid,
            &instance.transfer_syntax,
            file.take(length),
            length,
        )?;
        if !answer.status.is_success() {
            bail!("the appliance answered {} to {}", answer.status, instance.path.display());
        }
        progress.inc(1);
    }
    let last_slice = Instant::now();
    association.release()?;
    progress.finish_and_clear();
    println!(
        "scanner    sent {} instances in {:.1} s, each acknowledged after it was on disk",
        instances.len(),
        start.elapsed().as_secs_f64()
    );
    let mut studies: Vec<StudyUid> = instances.into_iter().map(|i| i.header.study).collect();
    studies.sort();
    studies.dedup();
    Ok(Sent { studies, last_slice })
}

/// Where the data set of a file begins: after the preamble and the file meta information, whose first element is the
/// length of the rest (PS3.10 section 7.1); at once in a file without them.
fn data_set_offset(file: &mut File) -> anyhow::Result<u64> {
    let mut head = [0; 144];
    file.read_exact(&mut head)?;
    if &head[128..132] != b"DICM" {
        return Ok(0);
    }
    ensure!(&head[132..140] == b"\x02\0\0\0UL\x04\0", "the file meta information has no group length");
    Ok(144 + u64::from(u32::from_le_bytes([head[140], head[141], head[142], head[143]])))
}

/// Waits until every study has its outcome and the console has a result for each.
fn watch(
    notices: &Receiver<Notice>,
    received: &Receiver<String>,
    sent: &Sent,
) -> anyhow::Result<Vec<Outcome>> {
    let progress = bar(1, "appliance");
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut delivered = 0;
    while outcomes.len() < sent.studies.len() || delivered < sent.studies.len() {
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
            Notice::Outcome(outcome) => outcomes.push(*outcome),
            Notice::Delivered(result) => {
                progress.println(format!(
                    "appliance  result of study {} accepted by {}",
                    result.study_uid, result.destination
                ));
                delivered += 1;
            }
        }
    }
    progress.finish_and_clear();
    for line in received.try_iter() {
        println!("console    received {line}");
    }
    Ok(outcomes)
}

fn print_outcome(outcome: &Outcome, last_slice: Instant) {
    println!("\n{}", crate::commands::describe(outcome));
    println!("  last slice to flag and delivery: {:.1} s", last_slice.elapsed().as_secs_f64());
}

/// The console: accepts associations and keeps what it gets as files.
fn start_console(dir: &Path, received: Sender<String>) -> anyhow::Result<SocketAddr> {
    std::fs::create_dir_all(dir)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let dir = dir.to_owned();
    std::thread::Builder::new().name("console".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = console_association(stream, &dir, &received) {
                eprintln!("console    {error:#}");
            }
        }
    })?;
    Ok(address)
}

fn console_association(stream: TcpStream, dir: &Path, received: &Sender<String>) -> anyhow::Result<()> {
    let contexts: &[(&str, &[&str])] =
        &[(uids::SECONDARY_CAPTURE_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN])];
    let mut association = accept(stream, &AcceptorConfig::default(), contexts, |_| Ok(()))?;
    while let Some(message) = association.next()? {
        match message {
            Message::Echo(echo) => association.respond_echo(&echo, Status::SUCCESS)?,
            Message::Normalized(request) => association.respond_normalized(
                &request,
                Status::UNRECOGNIZED_OPERATION,
                NAnswer::default(),
            )?,
            Message::Store(store) => {
                let path = dir.join("result.dcm");
                let mut file = File::create(&path)?;
                let head = FileHead {
                    sop_class_uid: &store.sop_class_uid,
                    sop_instance_uid: &store.sop_instance_uid,
                    transfer_syntax: &store.context.transfer_syntax,
                    sending_ae_title: None,
                    receiving_ae_title: None,
                    implementation: &dimse::Implementation::default(),
                };
                write_file_head(&mut file, &head)?;
                let end = association.read_data_set(&mut file, 64 << 20)?;
                let DataSetEnd::Complete { length_bytes } = end else { bail!("result not received whole") };
                // The demo may have ended.
                let _ = received.send(format!(
                    "a Secondary Capture of {} KiB, instance {}",
                    length_bytes / 1024,
                    store.sop_instance_uid
                ));
                association.respond_store(&store, Status::SUCCESS, None)?;
            }
        }
    }
    Ok(())
}

fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
