//! What is going on now: which study is being received, waits or is analysed, and how far. Everything else is in the database.
//!
//! Owns a number that grows with every change, by which browsers know that what they show is old. Never does: block whoever tells it something.
//!
//! ```text
//! receiving n ──▶ waiting ──▶ analysing k of n ──▶ (outcome: forgotten here)
//! ```
use crate::appliance::Notice;
use crate::pipeline::Progress;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use study::StudyUid;
use tokio::sync::watch;

/// What a study without an outcome is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// So many instances are there.
    Receiving(usize),
    /// Complete; others are evaluated first.
    Waiting(usize),
    /// Lungs, then lesions: so many percent.
    Analysing(u8),
}

/// The board.
pub struct Board {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By Study Instance UID.
    live: HashMap<String, Live>,
    /// The one that is evaluated: one at a time.
    evaluated: Option<String>,
}

impl Default for Board {
    fn default() -> Self {
        Self { state: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl Board {
    /// A number that grows with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Something changed that the database has.
    pub fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// What a study is doing.
    pub fn live(&self, study: &str) -> Option<Live> {
        self.lock().live.get(study).copied()
    }

    /// Studies that are received, wait, and are analysed.
    pub fn counts(&self) -> [usize; 3] {
        let state = self.lock();
        let count = |is: fn(&Live) -> bool| state.live.values().filter(|live| is(live)).count();
        [
            count(|live| matches!(live, Live::Receiving(_))),
            count(|live| matches!(live, Live::Waiting(_))),
            count(|live| matches!(live, Live::Analysing(_))),
        ]
    }

    /// A study is being received, and so many instances are there.
    pub fn receiving(&self, study: &StudyUid, instances: usize) {
        self.lock().live.insert(study.to_string(), Live::Receiving(instances));
        self.changed();
    }

    /// A study is complete.
    pub fn waiting(&self, study: &StudyUid, instances: usize) {
        self.lock().live.insert(study.to_string(), Live::Waiting(instances));
        self.changed();
    }

    /// Hears what the appliance tells whoever watches it.
    pub fn hear(&self, notice: &Notice) {
        let mut state = self.lock();
        match notice {
            Notice::Complete(study, ..) => {
                state.live.insert(study.to_string(), Live::Analysing(0));
                state.evaluated = Some(study.to_string());
            }
            Notice::Progress(progress) => {
                // The lungs are most often done during the reception.
                let percent = match *progress {
                    Progress::Prepared { done, of } => 50 * done / of.max(1),
                    Progress::Analysed { done, of } => 50 + 50 * done / of.max(1),
                };
                let Some(study) = state.evaluated.clone() else { return };
                let now = Live::Analysing(percent.min(100) as u8);
                if state.live.insert(study, now) == Some(now) {
                    return;
                }
            }
            Notice::Verdict => {}
            Notice::Outcome(outcome, _) => {
                // Not if a late slice began another reception meanwhile.
                if matches!(state.live.get(outcome.study_uid.as_str()), Some(Live::Analysing(_))) {
                    state.live.remove(outcome.study_uid.as_str());
                }
                state.evaluated = None;
            }
            Notice::Delivered(_) => {}
        }
        drop(state);
        self.changed();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use study::{NotEvaluated, Outcome, Verdict};

    #[test]
    fn a_study_goes_over_the_board() {
        let board = Board::default();
        let changes = board.changes();
        let study = StudyUid::new("1.2.3").unwrap();
        let outcome = Outcome {
            study_uid: study.clone(),
            series_uid: None,
            verdict: Verdict::NotEvaluated(NotEvaluated::NoCt),
            timings_ms: Default::default(),
        };
        let complete = crate::intake::assembler::Completed::LongQuiet;
        board.receiving(&study, 7);
        assert_eq!(board.live("1.2.3"), Some(Live::Receiving(7)));
        board.waiting(&study, 8);
        assert_eq!(board.counts(), [0, 1, 0]);
        board.hear(&Notice::Complete(study.clone(), complete, 8));
        board.hear(&Notice::Progress(Progress::Prepared { done: 4, of: 8 }));
        assert_eq!(board.live("1.2.3"), Some(Live::Analysing(25)));
        board.hear(&Notice::Progress(Progress::Analysed { done: 0, of: 0 }));
        assert_eq!(board.live("1.2.3"), Some(Live::Analysing(50)));
        let before = *changes.borrow();
        board.hear(&Notice::Progress(Progress::Analysed { done: 0, of: 9 }));
        assert_eq!(*changes.borrow(), before, "nothing that anybody sees");
        board.hear(&Notice::Outcome(Box::new(outcome.clone()), 0));
        assert_eq!(board.live("1.2.3"), None);
        board.receiving(&study, 9);
        board.hear(&Notice::Outcome(Box::new(outcome), 0));
        assert_eq!(board.live("1.2.3"), Some(Live::Receiving(9)), "a late slice began another reception");
    }
}
