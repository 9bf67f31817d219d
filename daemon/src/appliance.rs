//! The appliance: wires intake, assembler, pipeline, database and outbox, and owns their threads.
//!
//! ```text
//! associations ──Event──▶ assembler ──Job, most urgent first──▶ evaluator ──one transaction──▶ database ──▶ outbox, one thread a destination
//!      └────spool────────────┴──prepare──▶ pipeline workers
//! ```
//! A panic in one of these threads aborts the process, and the service manager restarts it: better than a box that
//! answers C-ECHO and evaluates nothing.
mod assembler;
mod services;

use crate::config::{self, Config};
use crate::database::{Database, Reception};
use crate::instance::Instance;
use crate::intake::assembler::{Completed, QuietTimes};
use crate::intake::spool::Spool;
use crate::intake::{Intake, now_ms};
use crate::janitor::{self, Janitor};
use crate::outbox;
use crate::pipeline::{Finished, Pipeline, Progress};
use crate::pulse::{self, Beat, Late, Pulse};
use crate::queue::Queue;
use crate::screen::board::Board;
use crate::screen::{self, Recent};
use crate::worklist::Urgencies;
use crate::{audit, evidence, report, tls};
use anyhow::Context;
use assembler::AssemblerDriver;
use engine::{Analyzer, Method, Setup, Zoo};
use log::{error, info, warn};
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use study::{NotEvaluated, Outcome, StudyUid, Verdict};

/// Evaluations that may begin before a study is given up: one that ends the process each time must not do so for ever.
const ATTEMPTS_MAX: u32 = 3;
/// How long the outbox may take to finish what is under way when the appliance stops.
const OUTBOX_PATIENCE: Duration = Duration::from_secs(2);

/// What the appliance tells whoever watches it.
pub enum Notice {
    /// A study is complete and its evaluation begins.
    Complete(StudyUid, Completed, usize),
    /// The evaluation goes on.
    Progress(Progress),
    /// The evaluation has its answer; the results are made now.
    Verdict,
    /// A study has an outcome, and so many results are on their way: each to each of its destinations.
    Outcome(Box<Outcome>, usize),
    /// The destination of this name accepted a result.
    Delivered(String),
}

/// A complete study on its way to the evaluator.
struct Job {
    reception: Reception,
    study: StudyUid,
    instances: Vec<Arc<Instance>>,
    completed: Completed,
    /// When its last instance arrived, if since the start.
    last_arrival: Option<Instant>,
    /// Since when it waits.
    since: Instant,
}

/// The addresses that an appliance listens on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listening {
    /// Without encryption.
    pub plain: Option<SocketAddr>,
    /// With TLS.
    pub tls: Option<SocketAddr>,
}

/// Those who hear what happens: whoever started the appliance, and the screen.
#[derive(Clone)]
struct Watchers {
    notices: Sender<Notice>,
    board: Arc<Board>,
}

impl Watchers {
    fn tell(&self, notice: Notice) {
        self.board.hear(&notice);
        // Nobody may be watching.
        let _ = self.notices.send(notice);
    }
}

/// A running appliance.
pub struct Appliance {
    /// Where it listens: without encryption, with TLS.
    pub listening: Listening,
    intake: Arc<Intake>,
    threads: Vec<JoinHandle<()>>,
    /// Those that call peers: the outbox, the reports of storage commitment, the worklist, the audit trail's collector.
    outbox: Vec<JoinHandle<()>>,
    wakes: Arc<Mutex<Vec<Sender<()>>>>,
    stop_janitor: Sender<()>,
    screen: Option<screen::Server>,
    trail: Arc<audit::Trail>,
    pulse: Pulse,
    board: Arc<Board>,
    /// Released when the appliance is gone, and its outbox, which may outlive it.
    _lock: Arc<File>,
}

/// Two daemons on one storage would evaluate and deliver everything twice.
fn lock(dir: &std::path::Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.try_lock().with_context(|| format!("storage.dir {} is in use by another triaged", dir.display()))?;
    Ok(file)
}

fn listener(name: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let bind =
        |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {name} {address}"));
    address.map(bind).transpose()
}

/// The models of a method, each verified against its card.
pub fn models(zoo: Option<&std::path::Path>, method: Method) -> anyhow::Result<Zoo> {
    let dir = zoo.map_or_else(engine::default_zoo_dir, std::path::Path::to_path_buf);
    let opened = Zoo::with_method(&dir, method, None);
    opened.with_context(|| format!("method {method}, models in {}", dir.display()))
}

/// Loads the networks that the configuration names.
pub fn analyzer(
    zoo: Option<&std::path::Path>,
    method: Method,
    setup: &Setup,
) -> anyhow::Result<Arc<Analyzer>> {
    Ok(Arc::new(Analyzer::new(models(zoo, method)?, setup)?))
}

/// The same for the daemon. Drivers and TensorRT are foreign code, whose crash ends the process: one that did so at the last start is not opened
/// again, so that the box receives and evaluates on its processor. Once may have been the power: it takes two in a row, of one version.
fn guarded_analyzer(config: &Config, threads: usize) -> anyhow::Result<Arc<Analyzer>> {
    let trying = trying(&config.storage.dir);
    let mut setup = config.engines(threads);
    if gpu_is_given_up(&config.storage.dir) {
        error!(
            "the daemon ended twice while it opened the GPU's engines: they are not used until the next version (where there is a shell, delete {} to try them again)",
            trying.display()
        );
        setup.choice = engine::Choice::Cpu;
    }
    let tries = setup.choice != engine::Choice::Cpu;
    if tries {
        let file = File::options().create(true).append(true).open(&trying);
        file.and_then(|mut file| writeln!(file, "{THIS_BUILD}").and_then(|()| file.sync_all()))
            .with_context(|| trying.display().to_string())?;
    }
    let opened = analyzer(config.engine.zoo.as_deref(), config.engine.method, &setup);
    if tries {
        std::fs::remove_file(&trying).with_context(|| trying.display().to_string())?;
    }
    opened
}

/// A line of the file [`trying`].
const THIS_BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("TRIAGED_BUILT_FROM"));

/// Whether this version ended twice while it opened the GPU's engines.
pub fn gpu_is_given_up(storage: &std::path::Path) -> bool {
    let tried = std::fs::read_to_string(trying(storage)).unwrap_or_default();
    tried.lines().filter(|line| *line == THIS_BUILD).count() >= 2
}

/// The file that is there while foreign code is opened: a line for each start that did not come to its end.
pub fn trying(storage: &std::path::Path) -> std::path::PathBuf {
    storage.join("engine.trying")
}

/// Threads to use: as configured, else one a core.
pub fn threads(configured: Option<usize>) -> usize {
    configured.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl Appliance {
    /// Starts everything; `notices` hears what happens.
    pub fn start(config: &Config, notices: Sender<Notice>, recent: Recent) -> anyhow::Result<Self> {
        let threads = threads(config.engine.threads);
        std::fs::create_dir_all(&config.storage.dir)
            .with_context(|| format!("storage.dir {}", config.storage.dir.display()))?;
        let analyzer = guarded_analyzer(config, threads)?;
        let pulse = Pulse::default();
        let evaluates = pulse.beat("evaluator", pulse::STAGE);
        let pipeline = Pipeline::with_beat(Arc::clone(&analyzer), config.policy, threads, evaluates.clone())?;
        let lock = Arc::new(lock(&config.storage.dir)?);
        let tls = config.tls.as_ref().map(tls::Identity::load).transpose()?;
        let database = Arc::new(Database::open(&config.storage.dir.join("triaged.db"))?);
        let spool = Arc::new(Spool::open(&config.storage.dir.join("spool"), config.storage.min_free_mib)?);
        let plain = listener("dicom.listen", config.dicom.listen)?;
        let encrypted = listener("dicom.listen_tls", config.dicom.listen_tls)?;

        let (events, assembler_events) = mpsc::sync_channel(crate::limits::EVENTS_MAX);
        let intake = Intake::new(config.clone(), Arc::clone(&spool), Arc::clone(&database), events);
        let destinations: Vec<String> = config.destinations.iter().map(|d| d.name().to_owned()).collect();
        for (name, waiting) in database.waiting_for_others(&destinations)? {
            warn!("{waiting} results wait for {name}, which is no [[destination]]: nobody delivers them");
        }
        let mut threads = Vec::new();
        let wakes = Arc::new(Mutex::new(Vec::new()));
        let sender = outbox::Sender {
            calling: config.dicom.ae_title.parse()?,
            tls: tls.as_ref().map(|tls| Arc::clone(&tls.client)),
        };
        let watchers = Watchers { notices, board: Arc::default() };
        let mut outbox = start_outbox(config, &sender, &database, &intake, &lock, &wakes, &watchers, &pulse)?;

        let jobs = Arc::new(Queue::default());
        let (urgencies, asking) = services::ask(config, tls.as_ref())?;
        outbox.extend(asking);
        let evaluator = Evaluator {
            database: Arc::clone(&database),
            pipeline: Arc::clone(&pipeline),
            analyzer: Arc::clone(&analyzer),
            intake: Arc::clone(&intake),
            jobs: Arc::clone(&jobs),
            urgencies: urgencies.clone(),
            config: config.clone(),
            installation: database.installation()?,
            wakes: Arc::clone(&wakes),
            watchers: watchers.clone(),
            beat: evaluates,
        };
        threads.push(critical("evaluator", move || evaluator.run())?);
        // Without room: what is handed over is begun at once, or not at all.
        let (early, likely) = mpsc::sync_channel::<assembler::Likely>(0);
        let ahead = Arc::clone(&pipeline);
        threads.push(critical("early", move || {
            likely.iter().for_each(|(study, instances)| ahead.evaluate_early(&study, &instances));
            Ok(())
        })?);
        let driver = AssemblerDriver {
            range: pipeline.input_range(),
            quiet: QuietTimes {
                short: config::seconds(config.completion.quiet_short_s),
                long: config::seconds(config.completion.quiet_long_s),
            },
            database: Arc::clone(&database),
            spool: Arc::clone(&spool),
            intake: Arc::clone(&intake),
            pipeline,
            jobs,
            early,
            urgencies,
            board: Arc::clone(&watchers.board),
            beat: pulse.beat("assembler", pulse::TURN),
            assemblies: Default::default(),
        };
        threads.push(critical("assembler", move || driver.run(&assembler_events))?);
        janitor::remove_leftovers(&database, &spool)?;
        intake.recover()?;
        outbox.extend(services::report(config, tls.as_ref(), &database, &spool, &intake, &lock)?);
        let (stop_janitor, janitor_stop) = mpsc::channel();
        let keep_ms = (config.storage.keep_days * 86_400_000.0) as i64;
        let janitor = Janitor::new(Arc::clone(&database), Arc::clone(&spool), keep_ms, destinations);
        threads.push(critical("janitor", move || janitor.run(&janitor_stop))?);
        let (trail, woken) = audit::Trail::new(Arc::clone(&database), config.audit.syslog.is_some());
        let trail = Arc::new(trail);
        let client = tls.as_ref().map(|tls| Arc::clone(&tls.client));
        let collector = audit::Collector::new(
            Arc::clone(&database),
            config.audit.clone(),
            client,
            &config.dicom.ae_title,
        );
        let held = Arc::clone(&lock);
        outbox.push(critical("audit", move || {
            collector.run(&woken);
            drop(held);
            Ok(())
        })?);
        trail.record(&audit::Event::of_the_daemon(audit::Action::Start));
        // A connection of its own: what a browser reads must not make the intake wait.
        let reader = Arc::new(Database::open_beside_the_daemon(&config.storage.dir.join("triaged.db"))?);
        let board = Arc::clone(&watchers.board);
        let parts = screen::Parts {
            reader,
            database: Arc::clone(&database),
            spool: Arc::clone(&spool),
            board: watchers.board,
            analyzer,
            trail: Arc::clone(&trail),
            recent,
        };
        let start = |screen| screen::Server::start(config, screen, tls.as_ref(), parts);
        let screen = config.screen.as_ref().map(start).transpose()?;
        let mut listening = Listening::default();
        if let Some(listener) = plain {
            let (address, intake) = (listener.local_addr()?, Arc::clone(&intake));
            let beat = pulse.beat("listener", pulse::TURN);
            threads.push(critical("listener", move || Ok(intake.listen(&listener, None, &beat)?))?);
            info!("listening as {} on {address}", config.dicom.ae_title);
            listening.plain = Some(address);
        }
        if let (Some(listener), Some(tls)) = (encrypted, tls) {
            let (address, intake) = (listener.local_addr()?, Arc::clone(&intake));
            let beat = pulse.beat("listener with TLS", pulse::TURN);
            threads.push(critical("listener", move || {
                Ok(intake.listen(&listener, Some(&tls.server), &beat)?)
            })?);
            info!("listening as {} on {address} with TLS", config.dicom.ae_title);
            listening.tls = Some(address);
        }
        Ok(Self {
            listening,
            intake,
            threads,
            outbox,
            wakes,
            stop_janitor,
            screen,
            trail,
            pulse,
            board,
            _lock: lock,
        })
    }

    /// The thread that has not turned for too long, if there is one.
    pub fn late(&self) -> Option<Late> {
        self.pulse.late()
    }

    /// What it is doing, in one line.
    pub fn describe(&self) -> String {
        let [receiving, waiting, analysing] = self.board.counts();
        format!("studies: {receiving} received, {waiting} waiting, {analysing} analysed now")
    }

    /// Where the screen is, if there is one.
    pub fn screen_address(&self) -> Option<SocketAddr> {
        self.screen.as_ref().map(|screen| screen.address)
    }

    /// Stops accepting and ends every thread. What is unfinished is finished after the next start.
    pub fn stop(mut self) {
        let addresses: Vec<SocketAddr> = self.listening.plain.into_iter().chain(self.listening.tls).collect();
        self.intake.stop(&addresses);
        if let Some(screen) = self.screen.take() {
            screen.stop();
        }
        self.trail.record(&audit::Event::of_the_daemon(audit::Action::Stop));
        self.trail.stop();
        drop(self.stop_janitor);
        self.wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        for thread in self.threads.drain(..) {
            // `critical` aborts on a panic, so there is none to report.
            let _ = thread.join();
        }
        // A peer that hangs must not hold up the end: what it has not answered waits in the database.
        let patience = Instant::now() + OUTBOX_PATIENCE;
        while self.outbox.iter().any(|thread| !thread.is_finished()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A thread whose end by error or panic ends the process.
fn critical(
    name: &'static str,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                error!("{name}: {error:#}; ending, so that the service manager restarts the daemon");
                std::process::abort();
            }
            Err(_) => std::process::abort(),
        }
    })
}

#[expect(clippy::too_many_arguments, reason = "what the threads share, each for itself")]
fn start_outbox(
    config: &Config,
    sender: &outbox::Sender,
    database: &Arc<Database>,
    intake: &Intake,
    lock: &Arc<File>,
    wakes: &Arc<Mutex<Vec<Sender<()>>>>,
    watchers: &Watchers,
    pulse: &Pulse,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for destination in config.destinations.clone() {
        let (wake, woken) = mpsc::channel();
        wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(wake.clone());
        intake.wake_deliverer(destination.name(), wake);
        let (database, watchers) = (Arc::clone(database), watchers.clone());
        let (sender, lock) = (sender.clone(), Arc::clone(lock));
        let beat = pulse.beat(&format!("outbox {}", destination.name()), pulse::DELIVERY);
        threads.push(critical("outbox", move || {
            let tell = |delivered| watchers.tell(Notice::Delivered(delivered));
            outbox::deliver(&database, &destination, &sender, &woken, &tell, &|| beat.beat())?;
            drop(lock);
            Ok(())
        })?);
    }
    Ok(threads)
}

/// Evaluates complete studies, one after the other.
struct Evaluator {
    database: Arc<Database>,
    pipeline: Arc<Pipeline>,
    analyzer: Arc<Analyzer>,
    intake: Arc<Intake>,
    jobs: Arc<Queue<Job>>,
    urgencies: Urgencies,
    config: Config,
    installation: String,
    wakes: Arc<Mutex<Vec<Sender<()>>>>,
    watchers: Watchers,
    beat: Beat,
}

impl Evaluator {
    fn run(&self) -> anyhow::Result<()> {
        let rank = |job: &Job| self.urgencies.of(&job.study, job.since.elapsed());
        while let Some(job) = self.jobs.take(rank, || self.beat.beat()) {
            self.urgencies.forget(&job.study);
            // What is not evaluated now is after the next start.
            if self.intake.is_stopping() {
                break;
            }
            self.evaluate(&job)?;
            self.intake.evaluated(job.instances.len());
        }
        Ok(())
    }

    fn evaluate(&self, job: &Job) -> anyhow::Result<()> {
        self.watchers.tell(Notice::Complete(job.study.clone(), job.completed, job.instances.len()));
        let attempts = self.database.begin_attempt(job.reception.key)?;
        // The last try goes without foreign code; one before may have ended with the power.
        if attempts >= ATTEMPTS_MAX {
            let why = "evaluations ended the daemon, and the last try goes without this engine";
            self.analyzer.engines().leave_only_the_last(why);
        }
        let mut finished = if attempts > ATTEMPTS_MAX {
            Finished {
                outcome: Outcome {
                    study_uid: job.study.clone(),
                    series_uid: None,
                    verdict: Verdict::NotEvaluated(NotEvaluated::Engine {
                        what: format!("{} evaluations of this study ended the daemon", attempts - 1),
                    }),
                    timings_ms: Default::default(),
                },
                evaluation: None,
            }
        } else {
            let tell = Mutex::new(self.watchers.clone());
            self.pipeline.finish(&job.study, &job.instances, &|progress| {
                tell.lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .tell(Notice::Progress(progress));
            })
        };
        self.beat.beat();
        self.watchers.tell(Notice::Verdict);
        let revision = self.database.next_revision(job.reception.key)?;
        let (config, instances) = (&self.config, &job.instances);
        let (mut deliverables, view) = std::thread::scope(|scope| {
            let view = scope.spawn(|| evidence::view(&finished, instances, revision, config));
            let made = report::deliverables(&finished, instances, revision, config, &self.installation);
            (made, view.join().unwrap_or_default())
        });
        let mut shown = Some(&view);
        if matches!(finished.outcome.verdict, Verdict::NotEvaluated(_))
            && self.database.earlier_evaluation_stands(job.reception.key)?
        {
            warn!(
                "study {} revision {revision}: an earlier evaluation, whose images were deleted, stands; no result is sent",
                job.study
            );
            deliverables.clear();
            shown = None;
        }
        self.beat.beat();
        if let Some(arrival) = job.last_arrival {
            let ms = arrival.elapsed().as_secs_f64() * 1e3;
            finished.outcome.timings_ms.insert("last_slice_to_outcome".to_owned(), ms);
        }
        self.database.finish(job.reception, revision, &finished.outcome, &deliverables, shown, now_ms())?;
        let line = serde_json::to_string(&finished.outcome)?;
        info!("study {} revision {revision}: {line}", job.study);
        for wake in self.wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            // A closed channel means that the appliance stops; the rows wait in the database.
            let _ = wake.send(());
        }
        let deliveries = deliverables.iter().map(|d| d.destinations.len()).sum();
        self.watchers.tell(Notice::Outcome(Box::new(finished.outcome), deliveries));
        Ok(())
    }
}
