//! The lanes: which slices run at once, and how many threads each may use.
//!
//! Owns: the workspaces, the threads that share slices, and the decision to share one. Never does: know what is run.
//!
//! A slice gets more than its own thread while fewer slices are under way than there are lanes, and no other is expected: at the end of a
//! study, or when slices come one by one. Sharing takes no lane away: whoever comes gets one at once, and from its next step on the slice
//! that was shared makes do with its part of the cores.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon_core::{ThreadPool, ThreadPoolBuilder};

use super::net::{Threads, Workspace};

/// More threads than this gain nothing for maps of these sizes.
const SHARED_MAX: usize = 8;
/// Calls that must have run without company, before the next one is expected to do so too.
const ALONE_MIN: usize = 2;

/// Workspaces, lent to one caller each. A caller waits while all are lent, which bounds the activations in memory.
pub(crate) struct Lanes {
    /// How many.
    pub(super) count: usize,
    /// For slices that are shared; asleep otherwise. None where there is one lane, or no thread to be had.
    pool: Option<ThreadPool>,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    free: Vec<Workspace>,
    /// Calls in a row that began while no other was under way, and ended so.
    alone: usize,
}

/// What a call may use.
pub(crate) struct Lane<'a> {
    /// Its buffers.
    pub(super) workspace: &'a mut Workspace,
    /// Most threads; plans are made for so many.
    pub(super) threads_max: usize,
    /// Threads that it may use now.
    pub(super) threads: Threads<'a>,
}

impl Lanes {
    pub(crate) fn new(count: usize) -> Self {
        let free = (0..count).map(|_| Workspace::default()).collect();
        let pool = if count > 1 { pool(count.min(SHARED_MAX)) } else { None };
        Self { count, pool, state: Mutex::new(State { free, alone: 0 }), returned: Condvar::new() }
    }

    /// Slices that are expected to be there at once, as far as the last calls tell: for callers that do not know.
    pub(super) fn expected(&self) -> usize {
        let state = self.state();
        if state.alone >= ALONE_MIN && state.free.len() == self.count { 1 } else { self.count }
    }

    /// Lends a lane. `slices`: how many there are to run, this one included, as far as the caller knows.
    pub(super) fn with<T: Send>(&self, slices: usize, work: impl FnOnce(Lane<'_>) -> T + Send) -> T {
        /// Gives the lane back even if the work panics; a workspace is valid whatever it holds.
        struct Lent<'a>(&'a Lanes, Workspace);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                let lane = std::mem::take(&mut self.1);
                self.0.state().free.push(lane);
                self.0.returned.notify_one();
            }
        }
        let mut state = self.state();
        state.alone = if state.free.len() == self.count { state.alone.saturating_add(1) } else { 0 };
        let mut state = self
            .returned
            .wait_while(state, |state| state.free.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let lane = state.free.pop().expect("waited until a lane was free");
        drop(state);
        let mut lent = Lent(self, lane);
        let workspace = &mut lent.1;
        match &self.pool {
            Some(pool) if slices < self.count => {
                let threads_max = pool.current_num_threads();
                pool.install(|| work(Lane { workspace, threads_max, threads: &|| self.share() }))
            }
            _ => work(Lane { workspace, threads_max: 1, threads: &|| 1 }),
        }
    }

    /// Threads for each of the slices that are under way.
    fn share(&self) -> usize {
        let busy = self.count - self.state().free.len();
        self.count / busy.max(1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Valid after any panic: each change is one push, pop or store.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that share the steps of a slice; `None` where the system gives no more.
pub(super) fn pool(threads: usize) -> Option<ThreadPool> {
    let name = |thread| format!("slice-{thread}");
    ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_shared_only_when_slices_are_few() {
        let lanes = Lanes::new(4);
        let most = |slices| lanes.with(slices, |lane| lane.threads_max);
        assert_eq!([most(300), most(4), most(3), most(1)], [1, 1, 4, 4]);
        lanes.with(1, |first| {
            assert_eq!((first.threads)(), 4);
            lanes.with(1, |second| assert_eq!([(first.threads)(), (second.threads)()], [2, 2]));
            assert_eq!((first.threads)(), 4, "after the second went");
        });
    }

    #[test]
    fn calls_without_company_are_expected_to_stay_so() {
        let lanes = Lanes::new(2);
        assert_eq!(lanes.expected(), 2, "nothing is known");
        (0..3).for_each(|_| lanes.with(2, |_| ()));
        assert_eq!(lanes.expected(), 1);
        lanes.with(1, |_| {
            assert_eq!(lanes.expected(), 2, "one is under way");
            lanes.with(2, |_| ());
        });
        assert_eq!(lanes.expected(), 2, "there was company");
    }
}
