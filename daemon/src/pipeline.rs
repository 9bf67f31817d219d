//! The one driver of the networks: slices in as they arrive, an outcome out when their study is complete.
//!
//! Owns the worker threads that prepare slices during the reception (decode, 2 mm grid, lung net) and what they have
//! prepared, within [`limits::PREPARED_SLICES_MAX`]. It never fails: whatever goes wrong becomes a reason in the
//! outcome. It never touches the network, the spool's order or the database.
use crate::instance::{self, Instance};
use crate::limits;
use engine::{Analysis, AnalysisError, Analyzer, LabelVolume, PreparedSlice, SourceSlice, SpacingMm};
use log::{info, warn};
use results::CoronalProjection;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use study::gate::{self, LungExtent};
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
}

impl Pipeline {
    /// Starts `threads` workers.
    pub fn new(analyzer: Arc<Analyzer>, policy: Policy, threads: usize) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { analyzer, state: Mutex::default(), changed: Condvar::new() });
        let workers = (0..threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name("prepare".into()).spawn(move || shared.work())
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { shared, policy, threads: threads.max(1), workers }))
    }

    /// What the networks were made for.
    pub fn input_range(&self) -> study::InputRange {
        self.shared.analyzer.zoo().multitask.input.range()
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

    /// Evaluates a complete study. `progress` is called from several threads.
    pub fn finish(
        &self,
        study: &StudyUid,
        instances: &[Arc<Instance>],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Finished {
        let start = Instant::now();
        let mut timings = BTreeMap::new();
        let evaluated = self.evaluate(instances, progress, &mut timings);
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
        timings.insert("evaluation".to_owned(), milliseconds(start));
        let outcome = Outcome { study_uid: study.clone(), series_uid, verdict, timings_ms: timings };
        Finished { outcome, evaluation }
    }

    fn findings(&self, analysis: &Analysis) -> Findings {
        let card = &self.shared.analyzer.zoo().multitask;
        Findings {
            probability: analysis.probability,
            severity: analysis.severity,
            lung_volume_ml: analysis.lung_volume_ml,
            lesion_volume_ml: analysis.lesion_volume_ml,
            method: card.name.clone(),
            engine: self.shared.analyzer.backend().name().to_owned(),
            model_version: card.version.clone(),
        }
    }

    fn evaluate(
        &self,
        instances: &[Arc<Instance>],
        progress: &(dyn Fn(Progress) + Sync),
        timings: &mut BTreeMap<String, f64>,
    ) -> Result<Evaluation, series::NoSeries> {
        let headers: Vec<SliceHeader> = instances.iter().map(|i| i.header.clone()).collect();
        let ranked = series::rank(&headers, &self.input_range())
            .map_err(|refused| blame_damage(refused, instances))?;
        // The headers can't tell whether a series shows the lungs whole: the next best one may.
        let mut first_refused = None;
        for chosen in ranked {
            match self.evaluate_series(&chosen, instances, progress, timings) {
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
        let prepared = self.prepare_rest(&slices, progress, timings)?;
        timings.insert("prepare_rest".to_owned(), milliseconds(start));
        let g = &slices[0].header.geometry;
        let spacing =
            SpacingMm { slice: chosen.slice_spacing_mm, row: g.row_spacing_mm, column: g.column_spacing_mm };
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
        gate::judge_lungs(&lung_extent(&analysis, spacing))?;
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
        progress: &(dyn Fn(Progress) + Sync),
        timings: &mut BTreeMap<String, f64>,
    ) -> Result<Vec<PreparedSlice>, NotEvaluated> {
        let shared = &self.shared;
        // Nothing else of this study is worth preparing now: other series would only be in the way.
        shared.cancel(&slices[0].header.study);
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
            .map(|slice| shared.wait_for(&slice.path).map_err(|what| NotEvaluated::Unreadable { what }))
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
            let image = instance::read_hu(instance).map_err(|error| {
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
                hu: &image.hu,
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

    fn wait_for(&self, path: &Path) -> Prepared {
        let mut state = self.lock();
        loop {
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

/// How large the lungs are and how far they reach to the edges of the source grid.
fn lung_extent(analysis: &Analysis, spacing: SpacingMm) -> LungExtent {
    let labels = &analysis.labels;
    let [slices, rows, columns] = labels.shape;
    let is_lung = |label: &&u8| **label & LabelVolume::LUNGS != 0;
    let lungs = analysis.lung_volume_ml;
    let mut extent = LungExtent { volume_ml: lungs.left + lungs.right, ..LungExtent::default() };
    // Sums of columns and counts, for the centres of the right and the left lung.
    let mut centres = [(LabelVolume::RIGHT_LUNG, 0u64, 0u64), (LabelVolume::LEFT_LUNG, 0, 0)];
    for k in 0..slices {
        let slice = labels.slice(k);
        let area = slice.iter().filter(is_lung).count();
        let sides =
            (1..rows.saturating_sub(1)).flat_map(|r| [&slice[r * columns], &slice[(r + 1) * columns - 1]]);
        let border = slice[..columns].iter().chain(&slice[(rows - 1) * columns..]).chain(sides);
        extent.border_area += border.filter(is_lung).count();
        extent.volume += area;
        extent.largest_slice_area = extent.largest_slice_area.max(area);
        if k == 0 {
            extent.first_slice_area = area;
        }
        if k + 1 == slices {
            extent.last_slice_area = area;
        }
        for row in slice.chunks_exact(columns) {
            for (column, label) in row.iter().enumerate() {
                for (bit, sum, count) in &mut centres {
                    let inside = u64::from(label & *bit != 0);
                    *sum += inside * column as u64;
                    *count += inside;
                }
            }
        }
    }
    let [right, left] = centres.map(|(_, sum, count)| sum as f64 / count.max(1) as f64);
    let both = centres.iter().all(|(_, _, count)| *count > 0);
    extent.distance_mm = if both { (left - right) * spacing.column } else { 0.0 };
    extent
}

/// The coronal projection: mean density along the rows, and lung and lesion voxels on each ray.
fn project(prepared: &[PreparedSlice], labels: &LabelVolume, spacing: SpacingMm) -> CoronalProjection {
    let [slices, rows, columns] = labels.shape;
    let grid_columns = prepared.first().map_or(0, |p| p.windowed().columns());
    let mut projection = CoronalProjection {
        slices,
        columns: grid_columns,
        slice_spacing_mm: spacing.slice,
        column_spacing_mm: spacing.column * columns as f64 / grid_columns.max(1) as f64,
        mean_density: vec![0.0; slices * grid_columns],
        lung: vec![0.0; slices * grid_columns],
        lesion: vec![0.0; slices * grid_columns],
    };
    // Corners of both grids coincide.
    let scale = (grid_columns.max(1) - 1) as f64 / (columns.max(2) - 1) as f64;
    let grid_column: Vec<usize> = (0..columns).map(|c| (c as f64 * scale).round() as usize).collect();
    for (k, slice) in prepared.iter().enumerate() {
        let ray = k * grid_columns..(k + 1) * grid_columns;
        let plane = slice.windowed();
        let share = 1.0 / plane.rows() as f32;
        for row in plane.iter_rows() {
            for (sum, value) in projection.mean_density[ray.clone()].iter_mut().zip(row) {
                *sum += value * share;
            }
        }
        let (lung, lesion) = (&mut projection.lung[ray.clone()], &mut projection.lesion[ray]);
        for row in labels.slice(k).chunks_exact(columns).take(rows) {
            for (label, c) in row.iter().zip(&grid_column) {
                let inside = label & LabelVolume::LUNGS != 0;
                lung[*c] += f32::from(u8::from(inside));
                lesion[*c] += f32::from(u8::from(inside && label & LabelVolume::LESION != 0));
            }
        }
    }
    projection
}
