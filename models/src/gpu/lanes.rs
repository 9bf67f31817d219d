//! Lanes, lent to one caller each.
//!
//! Owns: how many there are at most, and that one whose work failed is never lent again. Never does: know what a lane is.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Up to `max` lanes, made when they are first needed.
pub(super) struct Lanes<L> {
    state: Mutex<State<L>>,
    returned: Condvar,
}

struct State<L> {
    /// Fewer, once the device had no room for one more.
    max: usize,
    free: Vec<L>,
    lent: usize,
}

/// A lane that is lent; it is dropped with its borrower unless it is given back.
struct Lent<'a, L> {
    lanes: &'a Lanes<L>,
    lane: Option<L>,
}

impl<L> Lanes<L> {
    pub(super) fn new(max: usize) -> Self {
        let state = State { max: max.max(1), free: Vec::new(), lent: 0 };
        Self { state: Mutex::new(state), returned: Condvar::new() }
    }

    /// Lends a lane to `work`: the one returned last, a new one, or, if there are enough, the next one that is returned.
    /// After an error or a panic the lane is dropped: what its device was told to do is not known.
    pub(super) fn with<T, E>(
        &self,
        make: impl Fn() -> Result<L, E>,
        work: impl FnOnce(&mut L) -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let none = |state: &mut State<L>| state.free.is_empty() && state.lent >= state.max;
            let mut state =
                self.returned.wait_while(self.lock(), none).unwrap_or_else(PoisonError::into_inner);
            state.lent += 1;
            let lane = state.free.pop();
            drop(state);
            // From here on the guard counts it as returned, whatever happens.
            let mut lent = Lent { lanes: self, lane };
            let mut lane = match lent.lane.take().map_or_else(&make, Ok) {
                Ok(lane) => lane,
                Err(error) => {
                    let mut state = self.lock();
                    let others = state.lent - 1 + state.free.len();
                    if others == 0 {
                        return Err(error);
                    }
                    // The device has no room for one more: there are as many as there are, and this caller waits for one of them.
                    state.max = others;
                    continue;
                }
            };
            let result = work(&mut lane);
            if result.is_ok() {
                lent.lane = Some(lane);
            }
            return result;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        // Counts and whole lanes: valid after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Drop for Lent<'_, L> {
    fn drop(&mut self) {
        let mut state = self.lanes.lock();
        state.lent -= 1;
        state.free.extend(self.lane.take());
        drop(state);
        self.lanes.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lane_that_failed_is_never_lent_again() {
        let lanes = Lanes::new(1);
        let made = AtomicUsize::new(0);
        let make = || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed));
        assert_eq!(lanes.with(make, |lane| Ok(*lane)), Ok(0));
        assert_eq!(lanes.with(make, |lane| Ok(*lane)), Ok(0));
        assert_eq!(lanes.with(make, |_| Err::<usize, _>(())), Err(()));
        assert_eq!(lanes.with(make, |lane| Ok(*lane)), Ok(1));
        let panicked =
            catch_unwind(AssertUnwindSafe(|| lanes.with(make, |_| -> Result<(), ()> { panic!("x") })));
        assert!(panicked.is_err());
        assert_eq!(lanes.with(make, |lane| Ok(*lane)), Ok(2));
        // A lane that can't be made blocks none of the next callers.
        let lanes = Lanes::<usize>::new(1);
        assert_eq!(lanes.with(|| Err(5), |_| Ok(())), Err(5));
        assert_eq!(lanes.with(|| Ok::<_, i32>(7), |lane| Ok(*lane)), Ok(7));
    }

    #[test]
    fn a_caller_for_whom_there_is_no_room_waits_for_a_lane_that_exists() {
        let lanes = Lanes::new(4);
        let made = AtomicUsize::new(0);
        // The device has room for one.
        let make = || if made.fetch_add(1, Ordering::SeqCst) == 0 { Ok(1) } else { Err("out of memory") };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = 0;
                        for _ in 0..10 {
                            let work = |_: &mut i32| {
                                std::thread::yield_now();
                                Ok(())
                            };
                            done += usize::from(lanes.with(make, work).is_ok());
                        }
                        done
                    })
                })
                .collect();
            let done: usize = workers.into_iter().map(|worker| worker.join().expect("nothing panics")).sum();
            assert_eq!(done, 40);
        });
    }

    #[test]
    fn no_more_lanes_than_allowed_are_lent_at_once() {
        let lanes = Lanes::new(2);
        let (made, busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let make = || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed));
                        let work = |_: &mut usize| {
                            most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            busy.fetch_sub(1, Ordering::SeqCst);
                            Ok(())
                        };
                        lanes.with(make, work).expect("nothing fails");
                    }
                });
            }
        });
        assert!(most.into_inner() <= 2 && made.into_inner() <= 2);
    }
}
