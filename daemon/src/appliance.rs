//! The appliance: wires intake, assembler, pipeline, database and outbox, and owns their threads.
//!
//! ```text
//! associations ──Event──▶ assembler ──Job──▶ evaluator ──one transaction──▶ database ──▶ outbox, one thread a destination
//!      └────spool────────────┴──prepare──▶ pipeline workers
//! ```
//! A panic in one of these threads aborts the process, and the service manager restarts it: better than a box that
//! answers C-ECHO and evaluates nothing.
use crate::config::{self, Config, Destination};
use crate::database::{Database, Reception, ResultRow, StudyKey};
use crate::instance::Instance;
use crate::intake::assembler::{Assembly, Completed, QuietTimes};
use crate::intake::spool::Spool;
use crate::intake::{Event, Intake, now_ms};
use crate::janitor::{self, Janitor};
use crate::outbox::{self, Delivered};
use crate::pipeline::{Finished, Pipeline, Progress};
use crate::report;
use anyhow::Context;
use engine::{Analyzer, Choice, Zoo};
use log::{error, info, warn};
use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use study::{InputRange, NotEvaluated, Outcome, StudyUid, Verdict};

/// Evaluations that may begin before a study is given up: one that ends the process each time must not do so for ever.
const ATTEMPTS_MAX: u32 = 3;
/// Longest wait of the assembler: bounds the time until it sees that it should end.
const ASSEMBLER_WAIT: Duration = Duration::from_secs(1);

/// What the appliance tells whoever watches it.
pub enum Notice {
    /// A study is complete and its evaluation begins.
    Complete(StudyUid, Completed, usize),
    /// The evaluation goes on.
    Progress(Progress),
    /// A study has an outcome.
    Outcome(Box<Outcome>),
    /// A result was accepted.
    Delivered(Delivered),
}

/// A complete study on its way to the evaluator.
struct Job {
    reception: Reception,
    study: StudyUid,
    instances: Vec<Arc<Instance>>,
    completed: Completed,
    /// When its last instance arrived, if since the start.
    last_arrival: Option<Instant>,
}

/// A running appliance.
pub struct Appliance {
    /// Where it listens.
    pub address: SocketAddr,
    intake: Arc<Intake>,
    threads: Vec<JoinHandle<()>>,
    wakes: Arc<Mutex<Vec<Sender<()>>>>,
    stop_janitor: Sender<()>,
    /// Released when the appliance is gone.
    _lock: File,
}

/// Two daemons on one storage would evaluate and deliver everything twice.
fn lock(dir: &std::path::Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.try_lock().with_context(|| format!("storage.dir {} is in use by another triaged", dir.display()))?;
    Ok(file)
}

/// Loads the networks that the configuration names.
pub fn analyzer(
    zoo: Option<&std::path::Path>,
    choice: Choice,
    threads: usize,
) -> anyhow::Result<Arc<Analyzer>> {
    let dir = zoo.map_or_else(engine::default_zoo_dir, std::path::Path::to_path_buf);
    let zoo = Zoo::open(&dir).with_context(|| format!("models in {}", dir.display()))?;
    Ok(Arc::new(Analyzer::new(zoo, choice, threads)?))
}

/// Threads to use: as configured, else one a core.
pub fn threads(configured: Option<usize>) -> usize {
    configured.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl Appliance {
    /// Starts everything; `notices` hears what happens.
    pub fn start(config: &Config, notices: Sender<Notice>) -> anyhow::Result<Self> {
        let threads = threads(config.engine.threads);
        let analyzer = analyzer(config.engine.zoo.as_deref(), Choice::Auto, threads)?;
        let pipeline = Pipeline::new(analyzer, config.policy, threads)?;
        std::fs::create_dir_all(&config.storage.dir)
            .with_context(|| format!("storage.dir {}", config.storage.dir.display()))?;
        let lock = lock(&config.storage.dir)?;
        let database = Arc::new(Database::open(&config.storage.dir.join("triaged.db"))?);
        let spool = Arc::new(Spool::open(&config.storage.dir.join("spool"), config.storage.min_free_mib)?);
        let listen = config.dicom.listen.context("dicom.listen is not there")?;
        let listener =
            TcpListener::bind(listen).with_context(|| format!("cannot listen on dicom.listen {listen}"))?;
        let address = listener.local_addr()?;

        let (events, assembler_events) = mpsc::sync_channel(crate::limits::EVENTS_MAX);
        let intake = Intake::new(config.clone(), Arc::clone(&spool), Arc::clone(&database), events);
        let destinations: Vec<String> = config.destinations.iter().map(|d| d.name().to_owned()).collect();
        for (name, waiting) in database.waiting_for_others(&destinations)? {
            warn!("{waiting} results wait for {name}, which is no [[destination]]: nobody delivers them");
        }
        let mut threads = Vec::new();
        let wakes = Arc::new(Mutex::new(Vec::new()));
        threads.extend(start_outbox(config, &database, &wakes, &notices)?);

        let (jobs, evaluator_jobs) = mpsc::channel();
        let evaluator = Evaluator {
            database: Arc::clone(&database),
            pipeline: Arc::clone(&pipeline),
            intake: Arc::clone(&intake),
            destinations: destinations.clone(),
            station: config.dicom.ae_title.clone(),
            wakes: Arc::clone(&wakes),
            notices: notices.clone(),
        };
        threads.push(critical("evaluator", move || evaluator.run(&evaluator_jobs))?);
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
            assemblies: HashMap::new(),
        };
        threads.push(critical("assembler", move || driver.run(&assembler_events))?);
        janitor::remove_leftovers(&database, &spool)?;
        intake.recover()?;
        let (stop_janitor, janitor_stop) = mpsc::channel();
        let keep_ms = (config.storage.keep_days * 86_400_000.0) as i64;
        let janitor = Janitor::new(database, spool, keep_ms, destinations);
        threads.push(critical("janitor", move || janitor.run(&janitor_stop))?);
        let listening = Arc::clone(&intake);
        threads.push(critical("listener", move || Ok(listening.listen(&listener)?))?);
        info!("listening as {} on {address}", config.dicom.ae_title);
        Ok(Self { address, intake, threads, wakes, stop_janitor, _lock: lock })
    }

    /// Stops accepting and ends every thread. What is unfinished is finished after the next start.
    pub fn stop(mut self) {
        self.intake.stop(self.address);
        drop(self.stop_janitor);
        self.wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        for thread in self.threads.drain(..) {
            // `critical` aborts on a panic, so there is none to report.
            let _ = thread.join();
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

fn start_outbox(
    config: &Config,
    database: &Arc<Database>,
    wakes: &Arc<Mutex<Vec<Sender<()>>>>,
    notices: &Sender<Notice>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for destination in config.destinations.clone() {
        let Destination::Dicom(destination) = destination else { continue };
        let (wake, woken) = mpsc::channel();
        wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(wake);
        let (database, notices) = (Arc::clone(database), notices.clone());
        let calling = config.dicom.ae_title.parse()?;
        threads.push(critical("outbox", move || {
            // Nobody may be watching.
            let tell = |delivered| drop(notices.send(Notice::Delivered(delivered)));
            outbox::deliver(&database, &destination, &calling, &woken, &tell)
        })?);
    }
    Ok(threads)
}

/// Runs the assembler: one thread owns every assembly.
struct AssemblerDriver {
    range: InputRange,
    quiet: QuietTimes,
    database: Arc<Database>,
    spool: Arc<Spool>,
    intake: Arc<Intake>,
    pipeline: Arc<Pipeline>,
    jobs: Sender<Job>,
    assemblies: HashMap<StudyUid, (StudyKey, Assembly)>,
}

impl AssemblerDriver {
    fn run(mut self, events: &Receiver<Event>) -> anyhow::Result<()> {
        for key in self.database.unfinished()? {
            self.reopen(key, Instant::now())?;
        }
        loop {
            // Whatever still arrives is in the spool for the next start.
            if self.intake.is_stopping() {
                return Ok(());
            }
            let wait = self.complete()?;
            self.intake.assembled(self.assemblies.values().map(|(_, a)| a.instances().len()).sum());
            match events.recv_timeout(wait.min(ASSEMBLER_WAIT)) {
                Ok(event) => self.take(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        let now = Instant::now();
        match event {
            Event::Ended { association, released } => {
                for (_, assembly) in self.assemblies.values_mut() {
                    assembly.ended(association, released, now);
                }
            }
            Event::Repeated { association, study } => {
                if let Some((_, assembly)) = self.assemblies.get_mut(&study) {
                    assembly.repeated(association, now);
                }
            }
            Event::Unchanged { key, study } => {
                if !self.assemblies.contains_key(&study) {
                    self.reopen(key, now)?;
                }
                self.intake.taken(&study);
                if !self.assemblies.contains_key(&study) {
                    self.intake.nothing_came(&study, key)?;
                }
            }
            Event::Arrived { association, key, instance } => {
                let study = instance.header.study.clone();
                if !self.assemblies.contains_key(&study) {
                    // The first slice, or a late one: whatever the spool has belongs to it.
                    self.reopen(key, now)?;
                }
                self.pipeline.prepare(Arc::clone(&instance));
                let (_, assembly) =
                    self.assemblies.entry(study.clone()).or_insert_with(|| (key, Assembly::new(now)));
                assembly.arrived(instance, association, now);
                self.intake.taken(&study);
            }
        }
        Ok(())
    }

    /// Begins an assembly from what the spool has of a study.
    fn reopen(&mut self, key: StudyKey, now: Instant) -> anyhow::Result<()> {
        for path in self.spool.instances(key)? {
            match Instance::read(&path) {
                Ok(instance) => {
                    let instance = Arc::new(instance);
                    let study = instance.header.study.clone();
                    let (_, assembly) =
                        self.assemblies.entry(study).or_insert_with(|| (key, Assembly::new(now)));
                    assembly.arrived(instance, None, now);
                }
                Err(error) => warn!("spooled instance can't be read: {error}"),
            }
        }
        Ok(())
    }

    /// Hands over every study that is complete; returns the time until the next may be.
    fn complete(&mut self) -> anyhow::Result<Duration> {
        let now = Instant::now();
        let mut wait = ASSEMBLER_WAIT;
        let mut complete = Vec::new();
        for (study, (_, assembly)) in &mut self.assemblies {
            match assembly.completed(now, self.quiet, &self.range) {
                Ok(why) => complete.push((study.clone(), why)),
                Err(due) => wait = wait.min(due.saturating_duration_since(now)),
            }
        }
        for (study, completed) in complete {
            let Some((key, _)) = self.assemblies.get(&study) else { continue };
            // An instance that was acknowledged but has not come through the channel yet belongs to this revision.
            let Some(reception) = self.intake.evaluation_begins(&study, *key)? else {
                wait = Duration::ZERO;
                continue;
            };
            let Some((_, assembly)) = self.assemblies.remove(&study) else { continue };
            let instances: Vec<_> = assembly.instances().cloned().collect();
            info!("study {study}: complete with {} instances ({completed:?})", instances.len());
            let last_arrival = assembly.last_arrival();
            self.intake.evaluation_waits(instances.len());
            let job = Job { reception, study, instances, completed, last_arrival };
            // The evaluator ends first, maybe: then the study is finished after the next start.
            if self.jobs.send(job).is_err() && !self.intake.is_stopping() {
                anyhow::bail!("the evaluator has stopped");
            }
        }
        Ok(wait)
    }
}

/// Evaluates complete studies, one after the other.
struct Evaluator {
    database: Arc<Database>,
    pipeline: Arc<Pipeline>,
    intake: Arc<Intake>,
    destinations: Vec<String>,
    station: String,
    wakes: Arc<Mutex<Vec<Sender<()>>>>,
    notices: Sender<Notice>,
}

impl Evaluator {
    fn run(&self, jobs: &Receiver<Job>) -> anyhow::Result<()> {
        while let Ok(job) = jobs.recv() {
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
        self.tell(Notice::Complete(job.study.clone(), job.completed, job.instances.len()));
        let attempts = self.database.begin_attempt(job.reception.key)?;
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
            let tell = Mutex::new(self.notices.clone());
            self.pipeline.finish(&job.study, &job.instances, &|progress| {
                // Nobody may be watching.
                let _ = tell
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .send(Notice::Progress(progress));
            })
        };
        let revision = self.database.next_revision(job.reception.key)?;
        let mut results: Vec<ResultRow> = report::results(&finished, &job.instances, revision, &self.station);
        if matches!(finished.outcome.verdict, Verdict::NotEvaluated(_))
            && self.database.earlier_evaluation_stands(job.reception.key)?
        {
            warn!(
                "study {} revision {revision}: an earlier evaluation, whose images were deleted, stands; no result is sent",
                job.study
            );
            results.clear();
        }
        if let Some(arrival) = job.last_arrival {
            let ms = arrival.elapsed().as_secs_f64() * 1e3;
            finished.outcome.timings_ms.insert("last_slice_to_outcome".to_owned(), ms);
        }
        let (outcome, to) = (&finished.outcome, &self.destinations);
        self.database.finish(job.reception, revision, outcome, &results, to, now_ms())?;
        let line = serde_json::to_string(&finished.outcome)?;
        info!("study {} revision {revision}: {line}", job.study);
        for wake in self.wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            // A closed channel means that the appliance stops; the rows wait in the database.
            let _ = wake.send(());
        }
        self.tell(Notice::Outcome(Box::new(finished.outcome)));
        Ok(())
    }

    fn tell(&self, notice: Notice) {
        // Nobody may be watching.
        let _ = self.notices.send(notice);
    }
}
