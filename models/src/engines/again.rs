//! Engines that were lost, or whose GPU was not there yet, are looked for again.
//!
//! Owns: when that is tried, and what comes of the list of engines. Never does: interrupt work, or try while there is any: opening an engine takes
//! the processor's time, too.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{debug, error, info};

use super::{EngineState, EngineStatus, Engines, Shared, Slot, missing_status};
use crate::backend::Backend;

/// Whether what is missing may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Not in this process.
    No,
    /// There is no GPU yet: the driver may be loaded after the daemon.
    NotThereYet,
    /// The GPU was lost; its context may be made anew.
    Lost,
}

/// What came of opening engines.
pub(crate) struct Opened {
    /// Those that work, fastest first.
    pub(crate) engines: Vec<Box<dyn Backend>>,
    /// Those that don't, and why.
    pub(crate) missing: Vec<(&'static str, String)>,
    /// Whether to look again.
    pub(crate) again: Again,
}

/// Opens the engines that are faster than the processor's, which is given to check them against. True: a GPU was lost before.
pub(crate) type Reopen = Box<dyn Fn(&dyn Backend, bool) -> Opened + Send>;

/// When to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    /// After the start or a loss; each further pause is twice as long.
    pub(crate) first: Duration,
    /// Not longer than this.
    pub(crate) longest: Duration,
    /// Only when no engine has worked for so long: a study's slices come more often.
    pub(crate) idle: Duration,
}

impl Default for Pauses {
    /// A driver is loaded within a minute of a start, if it was only late; later tries are for who repairs the box.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(30),
            longest: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(5),
        }
    }
}

/// The thread that looks.
pub(super) struct Looking {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // It hears of it at once, unless it is opening an engine.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been logged; it costs no more than the looking.
            let _ = thread.join();
        }
    }
}

impl Engines {
    /// Looks again for what is missing, and for what is lost from now on.
    pub(crate) fn looking(mut self, again: Again, reopen: Reopen, pauses: Pauses) -> Self {
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::downgrade(&self.shared);
        if again != Again::No {
            info!("the GPU is looked for again, at first after {} s", pauses.first.as_secs());
        }
        let look = move || {
            let mut looker =
                Looker { again, reopen, pauses, pause: pauses.first, due: Instant::now() + pauses.first };
            // Often enough to find an idle moment.
            let tick = pauses.idle.min(pauses.first);
            while matches!(stopped.recv_timeout(tick), Err(RecvTimeoutError::Timeout)) && looker.look(&shared)
            {
            }
        };
        let thread = thread::Builder::new().name("engines".into()).spawn(look);
        match thread {
            Ok(thread) => self._looking = Some(Looking { stop: Some(stop), thread: Some(thread) }),
            Err(error) => error!("lost engines are not looked for: {error}"),
        }
        self
    }
}

struct Looker {
    again: Again,
    reopen: Reopen,
    pauses: Pauses,
    pause: Duration,
    due: Instant,
}

impl Looker {
    /// False when there is nobody to look for.
    fn look(&mut self, shared: &Weak<Shared>) -> bool {
        let Some(shared) = shared.upgrade() else { return false };
        if shared.only_the_last.load(Ordering::SeqCst) {
            return false;
        }
        if self.again != Again::Lost && shared.list().slots.iter().any(|slot| slot.lock().lost) {
            (self.again, self.pause) = (Again::Lost, self.pauses.first);
            self.due = Instant::now() + self.pause;
            info!("the GPU is opened anew when there is no work, at first after {} s", self.pause.as_secs());
        }
        let idle_since = *shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = shared.busy.load(Ordering::SeqCst) == 0 && idle_since.elapsed() >= self.pauses.idle;
        if self.again == Again::No || Instant::now() < self.due || !idle {
            return true;
        }
        let lost = self.again == Again::Lost;
        let cpu = shared.give_up_lost();
        let opened = (self.reopen)(&*cpu.backend, lost);
        self.again = opened.again;
        self.pause = if opened.engines.is_empty() {
            (2 * self.pause).min(self.pauses.longest)
        } else {
            self.pauses.first
        };
        self.due = Instant::now() + self.pause;
        shared.take_in(opened);
        true
    }
}

impl Shared {
    /// Takes the engines of a lost device off the list, so that what they hold can go; they are told as out. Returns the last engine.
    fn give_up_lost(&self) -> Arc<Slot> {
        let mut list = self.list();
        let cpu = Arc::clone(list.slots.last().expect("there is an engine"));
        if list.slots.iter().any(|slot| slot.lock().lost) {
            // All others share that device.
            let others = list.slots.len() - 1;
            let gone: Vec<_> = list.slots.drain(..others).collect();
            for slot in &gone {
                let status = slot.status();
                let why = match status.state {
                    EngineState::Out { why } => why,
                    EngineState::Ready | EngineState::Missing { .. } => "its GPU was lost".to_owned(),
                };
                list.missing.push(EngineStatus {
                    detail: String::new(),
                    state: EngineState::Out { why },
                    ..status
                });
            }
            // Without the lock: a library may take its time.
            drop(list);
            drop(gone);
        }
        cpu
    }

    fn take_in(&self, opened: Opened) {
        let mut list = self.list();
        for (name, why) in opened.missing {
            match list.missing.iter_mut().find(|status| status.name == name) {
                Some(status) => match &mut status.state {
                    // Told in one word until it is back: a monitor is to see it.
                    EngineState::Out { why: old } => *old = why,
                    state => *state = EngineState::Missing { why },
                },
                None => list.missing.push(missing_status(name, why)),
            }
            debug!("engine {name} was looked for again");
        }
        for (place, backend) in opened.engines.into_iter().enumerate() {
            let slot = Slot::new(backend);
            let name = slot.backend.name();
            if let Some(at) = list.missing.iter().position(|status| status.name == name) {
                slot.lock().falls = list.missing.remove(at).falls;
            }
            info!("engine {name} takes work: {}", slot.backend.detail());
            let place = place.min(list.slots.len() - 1);
            list.slots.insert(place, Arc::new(slot));
        }
    }
}
