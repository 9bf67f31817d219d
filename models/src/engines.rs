//! The engines of this box, fastest first, and the fall from one to the next.
//!
//! Owns: which engines there are, which of them are out and why, how often work fell, when lost ones are looked for again. Never does: work itself,
//! or open an engine; who makes the engines does.
//!
//! ```text
//! ready ── error ──▶ ready, the work at hand goes to the next engine
//!   │  └── third error of the device in a row, or the device is lost ──▶ out until the next start, or until it is opened anew
//!   └── success ──▶ ready, errors forgotten
//! lost, or no GPU at the start ── idle, at intervals ──▶ opened anew: ready, or missing
//! ```
//!
//! What an engine can't do for one study (a size, a value that is no number) falls, too, and counts for nothing.
//!
//! The last engine is never out: what it can't do is an error, and the study ends as not evaluated.

mod again;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{error, info, warn};

pub(crate) use again::{Again, Opened, Pauses};

use crate::backend::{Backend, EngineError};

/// Errors in a row after which an engine is out: one study may be to blame, three in a row are the engine.
const ERRORS_MAX: u32 = 3;
/// Errors within it are one: several slices are on an engine at once, and fail together.
const TOGETHER: Duration = Duration::from_secs(5);

/// What an engine is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// It takes work.
    Ready,
    /// It failed while the daemon ran and takes no work until it is opened anew, or until the next start.
    Out {
        /// Why.
        why: String,
    },
    /// It can't work on this box.
    Missing {
        /// Why.
        why: String,
    },
}

/// An engine as an engineer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// Its name: `tensorrt`, `cuda`, `cpu`.
    pub name: &'static str,
    /// What it runs on.
    pub detail: String,
    /// What it is doing.
    pub state: EngineState,
    /// How often work fell from it to the next engine.
    pub falls: u64,
}

/// An engine that works here.
struct Slot {
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    errors_in_a_row: u32,
    last_error: Option<Instant>,
    falls: u64,
    last: Option<String>,
    out: bool,
    /// It is out because its device is lost.
    lost: bool,
}

/// The engines, fastest first.
pub struct Engines {
    shared: Arc<Shared>,
    /// The thread that looks for the lost; it ends with this.
    _looking: Option<again::Looking>,
}

/// What the looking thread sees, too.
struct Shared {
    list: Mutex<List>,
    /// Pieces of work at hand, and when the last one ended.
    busy: AtomicUsize,
    idle_since: Mutex<Instant>,
    only_the_last: AtomicBool,
}

struct List {
    slots: Vec<Arc<Slot>>,
    missing: Vec<EngineStatus>,
}

/// Work at hand.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engines {
    /// The engines that opened, fastest first; `missing` are those that did not, each with its reason.
    ///
    /// # Panics
    /// When there is none: the processor's engine opens everywhere, or the models are broken and nothing starts.
    pub fn new(backends: Vec<Box<dyn Backend>>, missing: Vec<(&'static str, String)>) -> Self {
        assert!(!backends.is_empty(), "no engine");
        for (name, why) in &missing {
            info!("engine {name} is not used: {why}");
        }
        let slots: Vec<_> = backends.into_iter().map(|backend| Arc::new(Slot::new(backend))).collect();
        info!("engine {}: {}", slots[0].backend.name(), slots[0].backend.detail());
        let missing = missing.into_iter().map(|(name, why)| missing_status(name, why)).collect();
        let shared = Shared {
            list: Mutex::new(List { slots, missing }),
            busy: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            only_the_last: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), _looking: None }
    }

    /// Does `work` on the fastest engine that takes it; an error that another engine may not have sends it to the next one. Returns what came
    /// of it, and which engine did it: its name, and the names of those that failed before it.
    ///
    /// # Errors
    /// The last engine's error, or one that is the input's fault.
    pub fn run<T>(
        &self,
        mut work: impl FnMut(&dyn Backend) -> Result<T, EngineError>,
    ) -> Result<(T, String), EngineError> {
        let _busy = self.shared.busy();
        let slots = self.shared.list().slots.clone();
        let (last, others) = slots.split_last().expect("there is an engine");
        let mut failed = Vec::new();
        for slot in others.iter().filter(|slot| !slot.lock().out) {
            // A panic of a foreign library's binding is that engine's end, not the study's.
            let error = match catch_unwind(AssertUnwindSafe(|| work(&*slot.backend))) {
                Ok(Ok(done)) => {
                    slot.lock().errors_in_a_row = 0;
                    return Ok((done, told(slot.backend.name(), &failed)));
                }
                Ok(Err(error)) if error.is_of_the_input() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => EngineError::Device {
                    engine: slot.backend.name(),
                    what: "it panicked".into(),
                    lost: true,
                },
            };
            slot.failed(&error);
            failed.push(slot.backend.name());
        }
        work(&*last.backend).map(|done| (done, told(last.backend.name(), &failed)))
    }

    /// From now on only the last engine works: an evaluation ended the daemon, and a library of another engine may be why.
    pub fn leave_only_the_last(&self, why: &str) {
        self.shared.only_the_last.store(true, Ordering::SeqCst);
        let slots = self.shared.list().slots.clone();
        let (_, others) = slots.split_last().expect("there is an engine");
        for slot in others {
            let mut state = slot.lock();
            if !state.out {
                error!("engine {} is out until the next start: {why}", slot.backend.name());
                state.out = true;
                state.last = Some(why.to_owned());
            }
        }
    }

    /// The fastest engine that takes work.
    pub fn first(&self) -> Arc<dyn Backend> {
        let list = self.shared.list();
        let ready = list.slots.iter().find(|slot| !slot.lock().out);
        Arc::clone(&ready.or(list.slots.last()).expect("there is an engine").backend)
    }

    /// All engines, fastest first, those that are missing here last.
    pub fn status(&self) -> Vec<EngineStatus> {
        let list = self.shared.list();
        list.slots.iter().map(|slot| slot.status()).chain(list.missing.iter().cloned()).collect()
    }
}

impl Shared {
    fn list(&self) -> MutexGuard<'_, List> {
        // Changed by whole entries only.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self)
    }
}

fn missing_status(name: &'static str, why: String) -> EngineStatus {
    EngineStatus { name, detail: String::new(), state: EngineState::Missing { why }, falls: 0 }
}

impl Slot {
    fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend: backend.into(), state: Mutex::default() }
    }

    fn status(&self) -> EngineStatus {
        let state = self.lock();
        let why = || state.last.clone().unwrap_or_default();
        EngineStatus {
            name: self.backend.name(),
            detail: self.backend.detail(),
            state: if state.out { EngineState::Out { why: why() } } else { EngineState::Ready },
            falls: state.falls,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers and a reason: whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, why: &EngineError) {
        let lost = matches!(why, EngineError::Device { lost: true, .. });
        let mut state = self.lock();
        let of_the_device = matches!(why, EngineError::Device { .. });
        if of_the_device && state.last_error.is_none_or(|at| at.elapsed() >= TOGETHER) {
            state.errors_in_a_row += 1;
            state.last_error = Some(Instant::now());
        }
        state.falls += 1;
        state.last = Some(why.to_string());
        let (name, falls) = (self.backend.name(), state.falls);
        if state.out {
            // Several threads may learn of one loss.
            return;
        }
        if lost || state.errors_in_a_row >= ERRORS_MAX {
            (state.out, state.lost) = (true, lost);
            error!("engine {name} is out, the work goes on without it (fall {falls}): {why}");
        } else {
            warn!("engine {name} failed, the work at hand goes to the next engine (fall {falls}): {why}");
        }
    }
}

/// The engine that did the work, and those that failed before it: `cpu (cuda failed)`.
fn told(name: &str, failed: &[&str]) -> String {
    if failed.is_empty() { name.to_owned() } else { format!("{name} ({} failed)", failed.join(", ")) }
}

#[cfg(test)]
#[path = "engines_tests.rs"]
mod tests;
