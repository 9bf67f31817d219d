//! The queue of the evaluator: complete studies, the most urgent first, those of the same urgency by arrival.
//!
//! How urgent a study is may become known while it waits, or change with the time that it has waited, so that it is
//! asked for when one is taken. What is taken is
//! never interrupted. The number that waits is bounded by the instances that the intake lets in.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a wait lasts before its taker shows that it is there.
const TURN: Duration = Duration::from_secs(1);

/// The queue.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// By arrival.
    waiting: Vec<T>,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State { waiting: Vec::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Adds to the end; `false`, and nothing is added, if the queue is closed.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.waiting.push(item);
        self.changed.notify_one();
        true
    }

    /// Waits for one, and takes that with the least `rank`; of several, the first. `None` once the queue is closed:
    /// what still waits is in the database. `turn` is called at least every second of the waiting.
    pub fn take<R: Ord>(&self, rank: impl Fn(&T) -> R, turn: impl Fn()) -> Option<T> {
        let mut state = self.lock();
        loop {
            turn();
            if state.closed {
                return None;
            }
            let ranks = state.waiting.iter().map(&rank).enumerate();
            if let Some((first, _)) = ranks.min_by(|(_, a), (_, b)| a.cmp(b)) {
                return Some(state.waiting.remove(first));
            }
            state = self.changed.wait_timeout(state, TURN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the waiting of [`Queue::take`].
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_most_urgent_goes_first_and_the_same_by_arrival() {
        let queue = Queue::default();
        for item in [(2, 'a'), (1, 'b'), (2, 'c'), (0, 'd'), (1, 'e')] {
            assert!(queue.push(item));
        }
        let order: String = (0..5).map(|_| queue.take(|(rank, _)| *rank, || ()).unwrap().1).collect();
        assert_eq!(order, "dbeac");
    }

    #[test]
    fn a_rank_counts_as_it_is_when_one_is_taken() {
        let queue = Queue::default();
        queue.push('a');
        queue.push('b');
        assert_eq!(queue.take(|item| *item != 'b', || ()), Some('b'));
    }

    #[test]
    fn a_closed_queue_lets_its_taker_go_and_takes_nothing() {
        let queue = Arc::new(Queue::<u8>::default());
        let taker = Arc::clone(&queue);
        let thread = std::thread::spawn(move || taker.take(|_| 0, || ()));
        queue.close();
        assert_eq!(thread.join().unwrap(), None);
        assert!(!queue.push(1));
    }
}
