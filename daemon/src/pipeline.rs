//! The one driver of the networks: slices in as they arrive, an outcome out when their study is complete.
//!
//! Owns the worker threads that prepare slices during the reception (decode, 2 mm grid, lung net) and what they have
//! prepared, within [`limits::PREPARED_SLICES_MAX`]. It never fails: whatever goes wrong becomes a reason in the
//! outcome. It never touches the network, the spool's order or the database.
//!
//! A study that is most likely complete is evaluated [`early`], while its quiet time runs.
mod early;
mod masks;

use crate::instance::{self, Instance};
use crate::limits;
use crate::pulse::{self, Beat, Pulse};
use early::Early;
use engine::{Analysis, AnalysisError, Analyzer, Pixels, PreparedSlice, SourceSlice, SpacingMm};
use log::{info, warn};
pub use masks::judge_lungs;
use masks::project;
use results::CoronalProjection;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use study::series::{self, ChosenSeries, ImageKind};
use study::{Findings, NotEvaluated, Outcome, Policy, SliceHeader, StudyUid, Verdict};

/// What [`Pipeline::finish`] reports while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Slices of the chosen series that are prepared.
    Prepared {
        /// So many are.
        done: usize,
        /// Of so many.
        of: usize,
    },
    /// Steps of the analysis that follows.
    Analysed {
        /// So many are done.
        done: usize,
        /// Of so many.
        of: usize,
    },
}

/// The end of a study: its outcome and, when it was evaluated, what the results are made from.
pub struct Finished {
    /// The answer.
    pub outcome: Outcome,
    /// What was seen.
    pub evaluation: Option<Evaluation>,
}

/// What the networks saw in the chosen series.
pub struct Evaluation {
    /// The chosen series: `order` indexes the instances given to [`Pipeline::finish`].
    pub chosen: ChosenSeries,
    /// Masks and numbers.
    pub analysis: Analysis,
    /// The picture's input.
    pub projection: CoronalProjection,
}

type Prepared = Result<PreparedSlice, String>;

/// What becomes of prepared slices when an evaluation has used them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Another evaluation may need them.
    Prepared,
    /// The study is complete.
    Nothing,
}

/// What is prepared, and for which study.
struct Ready {
    study: StudyUid,
    prepared: Prepared,
}

impl Ready {
    fn bytes(&self) -> usize {
        self.prepared.as_ref().map_or(0, PreparedSlice::bytes)
    }
}

/// What is being prepared, and whether anybody still wants it.
struct Running {
    study: StudyUid,
    wanted: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Instance>>,
    running: HashMap<PathBuf, Running>,
    ready: HashMap<PathBuf, Ready>,
    ready_bytes: usize,
    stopping: bool,
}

struct Shared {
    analyzer: Arc<Analyzer>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The driver; dropping it ends its threads.
pub struct Pipeline {
    shared: Arc<Shared>,
    policy: Policy,
    threads: usize,
    workers: Vec<JoinHandle<()>>,
    early: Early,
    /// The evaluator's: each slice shows that it is not stuck.
    beat: Beat,
}

/// What an evaluation found, or why there is none, and where the time went.
type Evaluated = (Result<Evaluation, series::NoSeries>, BTreeMap<String, f64>);

impl Pipeline {
    /// Starts `threads` workers.
    pub fn new(analyzer: Arc<Analyzer>, policy: Policy, threads: usize) -> std::io::Result<Arc<Self>> {
        Self::with_beat(analyzer, policy, threads, Pulse::default().beat("evaluator", pulse::STAGE))
    }

    /// The same, beating with each slice and stage.
    pub fn with_beat(
        analyzer: Arc<Analyzer>,
        policy: Policy,
        threads: usize,
        beat: Beat,
    ) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { analyzer, state: Mutex::default(), changed: Condvar::new() });
        let workers = (0..threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name("prepare".into()).spawn(move || shared.work())
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { shared, policy, threads: threads.max(1), workers, early: Early::default(), beat }))
    }

    /// What the networks were made for.
    pub fn input_range(&self) -> study::InputRange {
        self.shared.analyzer.zoo().card().input.range()
    }

    /// Queues an instance for preparation in the background. Never blocks: when memory for prepared slices is used
    /// up, the slice is prepared by [`Pipeline::finish`] instead.
    pub fn prepare(&self, instance: Arc<Instance>) {
        if instance.header.kind != ImageKind::Axial {
            return;
        }
        let mut state = self.shared.lock();
        let held = state.ready.len() + state.running.len() + state.waiting.len();
        if held < limits::PREPARED_SLICES_MAX && state.ready_bytes < limits::PREPARED_BYTES_MAX {
            state.waiting.push_back(instance);
            self.shared.changed.notify_all();
        }
    }

    /// Evaluates a study that is most likely complete, so that [`Pipeline::finish`] finds the work done if no further
    /// instance comes. Nothing is lost if one does, but the time. One study at a time; the latest counts.
    pub fn evaluate_early(&self, study: &StudyUid, instances: &[Arc<Instance>]) {
        self.early.run(study, instances, || self.evaluate(instances, Keep::Prepared, &|_| {}));
    }

    /// Evaluates a complete study. `progress` is called from several threads.
    pub fn finish(
        &self,
        study: &StudyUid,
        instances: &[Arc<Instance>],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Finished {
        let start = Instant::now();
        let early = self.early.take(study, instances);
        let (evaluated, mut timings) =
            early.unwrap_or_else(|| self.evaluate(instances, Keep::Nothing, progress));
        self.shared.forget(study);
        let (verdict, series_uid, evaluation) = match evaluated {
            Ok(evaluation) => {
                let findings = self.findings(&evaluation.analysis);
                let flagged = self.policy.flags(&findings);
                let verdict =
                    if flagged { Verdict::Flagged(findings) } else { Verdict::NotFlagged(findings) };
                (verdict, Some(evaluation.chosen.series.clone()), Some(evaluation))
            }
            Err(refused) => (Verdict::NotEvaluated(refused.reason), refused.series, None),
        };
        timings.insert("finish".to_owned(), milliseconds(start));
        let outcome = Outcome { study_uid: study.clone(), series_uid, verdict, timings_ms: timings };
        Finished { outcome, evaluation }
    }

    fn findings(&self, analysis: &Analysis) -> Findings {
        let zoo = self.shared.analyzer.zoo();
        let card = zoo.card();
        Findings {
            probability: analysis.probability,
            lesions: analysis.lesions,
            lung_volume_ml: analysis.lung_volume_ml,
            method: zoo.method().name().to_owned(),
            engine: analysis.engine.clone(),
            model_version: card.version.clone(),
        }
    }

    fn evaluate(
        &self,
        instances: &[Arc<Instance>],
        keep: Keep,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Evaluated {
        let start = Instant::now();
        let mut timings = BTreeMap::new();
        let progress = |step| {
            self.beat.beat();
            progress(step);
        };
        let evaluated = self.evaluate_best(instances, keep, &progress, &mut timings);
        timings.insert("evaluation".to_owned(), milliseconds(start));
        (evaluated, timings)
    }

    fn evaluate_best(
        &self,
        instances: &[Arc<Instance>],
        keep: Keep,
        progress: &(dyn Fn(Progress) + Sync),
        timings: &mut BTreeMap<String, f64>,
    ) -> Result<Evaluation, series::NoSeries> {
        let headers: Vec<SliceHeader> = instances.iter().map(|i| i.header.clone()).collect();
        let ranked = series::rank(&headers, &self.input_range())
            .map_err(|refused| blame_damage(refused, instances))?;
        // The headers can't tell whether a series shows the lungs whole: the next best one may.
        let mut first_refused = None;
        for chosen in ranked {
            match self.evaluate_series(&chosen, instances, keep, progress, timings) {
                Ok(evaluation) => return Ok(evaluation),
                Err(reason) => {
                    info!("study {}: series {} not evaluated: {reason}", headers[0].study, chosen.series);
                    first_refused.get_or_insert(series::NoSeries { reason, series: Some(chosen.series) });
                }
            }
        }
        Err(first_refused.unwrap_or(series::NoSeries { reason: NotEvaluated::NoCt, series: None }))
    }

    fn evaluate_series(
        &self,
        chosen: &ChosenSeries,
        instances: &[Arc<Instance>],
        keep: Keep,
        progress: &(dyn Fn(Progress) + Sync),
        timings: &mut BTreeMap<String, f64>,
    ) -> Result<Evaluation, NotEvaluated> {
        let slices: Vec<Arc<Instance>> = chosen.order.iter().map(|i| Arc::clone(&instances[*i])).collect();
        if slices.len() > limits::SLICES_PER_SERIES_MAX {
            return Err(NotEvaluated::TooManySlices {
                slices: slices.len(),
                max: limits::SLICES_PER_SERIES_MAX,
            });
        }
        let start = Instant::now();
        let prepared = self.prepare_rest(&slices, keep, progress, timings)?;
        timings.insert("prepare_rest".to_owned(), milliseconds(start));
        let g = &slices[0].header.geometry;
        let spacing =
            SpacingMm { slice: chosen.slice_spacing_mm, row: g.row_spacing_mm, column: g.column_spacing_mm };
        self.beat.beat();
        let report = |done, of| progress(Progress::Analysed { done, of });
        // A panic in an engine must not leave the study without an answer.
        let analysed =
            catch_unwind(AssertUnwindSafe(|| self.shared.analyzer.finish(&prepared, spacing, &report)));
        let analysis = match analysed {
            Ok(Ok(analysis)) => analysis,
            Ok(Err(AnalysisError::NoLungs { .. })) => return Err(NotEvaluated::NoLungs { volume_ml: 0.0 }),
            Ok(Err(error)) => return Err(NotEvaluated::Engine { what: error.to_string() }),
            Err(_) => {
                return Err(NotEvaluated::Engine { what: "the engine panicked; see the log".into() });
            }
        };
        judge_lungs(&analysis, spacing)?;
        for (stage, time_ms) in [
            ("resample_slices", analysis.timings.resample_ms),
            ("lung_net_slices", analysis.timings.lungs_ms),
            ("multitask_net", analysis.timings.multitask_ms),
            ("paste_lungs", analysis.timings.paste_ms),
            ("split_lungs", analysis.timings.split_ms),
        ] {
            timings.insert(stage.to_owned(), time_ms);
        }
        let projection = project(&prepared, &analysis.labels, spacing);
        Ok(Evaluation { chosen: chosen.clone(), analysis, projection })
    }

    /// Collects the prepared slices, head to feet, and prepares those that are missing on all threads.
    fn prepare_rest(
        &self,
        slices: &[Arc<Instance>],
        keep: Keep,
        progress: &(dyn Fn(Progress) + Sync),
        timings: &mut BTreeMap<String, f64>,
    ) -> Result<Vec<PreparedSlice>, NotEvaluated> {
        let shared = &self.shared;
        if keep == Keep::Nothing {
            // Nothing else of this study is worth preparing now: other series would only be in the way.
            shared.cancel(&slices[0].header.study);
        }
        let of = slices.len();
        let done = AtomicUsize::new(shared.count_ready(slices));
        timings.insert("slices".to_owned(), of as f64);
        timings.insert("slices_prepared_during_reception".to_owned(), done.load(Ordering::Relaxed) as f64);
        progress(Progress::Prepared { done: done.load(Ordering::Relaxed), of });
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    for slice in slices {
                        if shared.claim(slice) {
                            shared.put(slice, shared.prepare_guarded(slice));
                            progress(Progress::Prepared {
                                done: done.fetch_add(1, Ordering::Relaxed) + 1,
                                of,
                            });
                        }
                    }
                });
            }
        });
        slices
            .iter()
            .map(|slice| shared.wait_for(&slice.path, keep).map_err(|what| NotEvaluated::Unreadable { what }))
            .collect()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so in the log.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker: prepares what waits, until the pipeline is dropped.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let instance = loop {
                if state.stopping {
                    return;
                }
                match state.waiting.pop_front() {
                    Some(instance) if state.start(&instance) => break instance,
                    Some(_) => {}
                    None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            let prepared = self.prepare_guarded(&instance);
            self.put(&instance, prepared);
        }
    }

    /// Decodes a slice and runs the lung net on it; a hostile file costs an error, not the thread.
    fn prepare_guarded(&self, instance: &Instance) -> Prepared {
        let prepare = || -> Prepared {
            let image = instance::read_pixels(instance).map_err(|error| {
                warn!("{error}");
                // Not the path: the reason travels to consoles.
                format!("instance {}: {}", instance.header.instance, error.problem)
            })?;
            let g = &instance.header.geometry;
            let slice = SourceSlice {
                rows: image.rows,
                columns: image.columns,
                row_spacing_mm: g.row_spacing_mm,
                column_spacing_mm: g.column_spacing_mm,
                pixels: Pixels::Stored { cells: &image.cells, stored: &image.stored },
            };
            self.analyzer.prepare(slice).map_err(|e| e.to_string())
        };
        catch_unwind(AssertUnwindSafe(prepare))
            .unwrap_or_else(|_| Err(format!("instance {}: the decoder panicked", instance.header.instance)))
    }

    fn put(&self, instance: &Instance, prepared: Prepared) {
        let mut state = self.lock();
        if let Some(Running { study, wanted: true }) = state.running.remove(&instance.path) {
            let ready = Ready { study, prepared };
            state.ready_bytes += ready.bytes();
            state.ready.insert(instance.path.clone(), ready);
        }
        self.changed.notify_all();
    }

    /// Takes a slice that nobody has prepared or is preparing.
    fn claim(&self, instance: &Instance) -> bool {
        self.lock().start(instance)
    }

    fn wait_for(&self, path: &Path, keep: Keep) -> Prepared {
        let mut state = self.lock();
        loop {
            if keep == Keep::Prepared
                && let Some(ready) = state.ready.get(path)
            {
                // Its planes are shared, not copied.
                return ready.prepared.clone();
            }
            if let Some(ready) = state.ready.remove(path) {
                state.ready_bytes -= ready.bytes();
                return ready.prepared;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn count_ready(&self, slices: &[Arc<Instance>]) -> usize {
        let state = self.lock();
        slices.iter().filter(|s| state.ready.contains_key(&s.path)).count()
    }

    /// Takes a study's instances out of the queue.
    fn cancel(&self, study: &StudyUid) {
        self.lock().waiting.retain(|i| i.header.study != *study);
    }

    /// Drops whatever is prepared of a study, or will be: other series, and images that were replaced.
    fn forget(&self, study: &StudyUid) {
        let mut state = self.lock();
        state.waiting.retain(|i| i.header.study != *study);
        state.ready.retain(|_, ready| ready.study != *study);
        state.ready_bytes = state.ready.values().map(Ready::bytes).sum();
        for running in state.running.values_mut().filter(|running| running.study == *study) {
            running.wanted = false;
        }
    }
}

impl State {
    /// Marks an instance as being prepared; `false` when it is, or was, already.
    fn start(&mut self, instance: &Instance) -> bool {
        if self.ready.contains_key(&instance.path) {
            return false;
        }
        if let Some(running) = self.running.get_mut(&instance.path) {
            running.wanted = true;
            return false;
        }
        let running = Running { study: instance.header.study.clone(), wanted: true };
        self.running.insert(instance.path.clone(), running);
        true
    }
}

/// A file that breaks off before its geometry makes its series look mixed: name the file instead.
fn blame_damage(refused: series::NoSeries, instances: &[Arc<Instance>]) -> series::NoSeries {
    let in_series = |i: &&Arc<Instance>| Some(&i.header.series) == refused.series.as_ref();
    let broken = instances.iter().filter(in_series).find_map(|i| Some((i, i.damage()?)));
    match broken {
        Some((i, what)) => {
            let what = format!("instance {}: {what}", i.header.instance);
            series::NoSeries { reason: NotEvaluated::Unreadable { what }, ..refused }
        }
        None => refused,
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
