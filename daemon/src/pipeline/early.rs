//! The evaluation ahead of completeness: while the quiet time of a study runs, the box has nothing better to do.
//!
//! Owns at most one result, and hands it out only for exactly the instances that it was made from. It never decides that a
//! study is complete.
//!
//! ```text
//! Idle ──run──▶ Running ──done──▶ Done ──take, the same instances──▶ Idle
//!   ▲              └─────take, the same instances: waits─────────────┘
//!   └── another study or other instances: what was found is dropped
//! ```
use super::Evaluated;
use crate::instance::Instance;
use log::error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use study::StudyUid;

#[derive(Default)]
pub(super) struct Early {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running(Subject),
    Done(Subject, Box<Evaluated>),
}

/// What is evaluated.
#[derive(Clone)]
struct Subject {
    study: StudyUid,
    instances: Vec<Arc<Instance>>,
}

impl Subject {
    /// Whether these are the very instances: one that was replaced is another.
    fn is(&self, study: &StudyUid, instances: &[Arc<Instance>]) -> bool {
        self.study == *study
            && self.instances.len() == instances.len()
            && self.instances.iter().zip(instances).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Early {
    /// Runs `evaluate` for these instances and keeps what it finds. Called by one thread.
    pub(super) fn run(
        &self,
        study: &StudyUid,
        instances: &[Arc<Instance>],
        evaluate: impl FnOnce() -> Evaluated,
    ) {
        let subject = Subject { study: study.clone(), instances: instances.to_vec() };
        *self.lock() = State::Running(subject.clone());
        let evaluated = catch_unwind(AssertUnwindSafe(evaluate));
        let mut state = self.lock();
        // Whoever no longer wants it has set it aside.
        let wanted = matches!(&*state, State::Running(s) if s.is(study, instances));
        *state = match evaluated {
            Ok(evaluated) if wanted => State::Done(subject, Box::new(evaluated)),
            Ok(_) => State::Idle,
            Err(_) => {
                error!(
                    "study {study}: the early evaluation panicked; it is evaluated again when it is complete"
                );
                State::Idle
            }
        };
        self.changed.notify_all();
    }

    /// What was found for exactly these instances, waiting for it if that is under way. What was found for others of the
    /// study is dropped.
    pub(super) fn take(&self, study: &StudyUid, instances: &[Arc<Instance>]) -> Option<Evaluated> {
        let mut state = self.lock();
        while matches!(&*state, State::Running(s) if s.is(study, instances)) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::take(&mut *state) {
            State::Done(subject, evaluated) if subject.is(study, instances) => Some(*evaluated),
            State::Running(subject) | State::Done(subject, _) if subject.study == *study => None,
            other => {
                *state = other;
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::testing::{SMALL, slice, write};
    use std::collections::BTreeMap;
    use std::sync::mpsc;
    use study::NotEvaluated;
    use study::series::NoSeries;

    fn instances(count: usize) -> Vec<Arc<Instance>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.dcm");
        let read = |n: usize| {
            write(slice(SMALL, &format!("1.2.3.{n}")), "1.2.840.10008.1.2.1", &file);
            Arc::new(Instance::read(&file).unwrap())
        };
        (0..count).map(read).collect()
    }

    fn found(n: f64) -> Evaluated {
        let none = NoSeries { reason: NotEvaluated::NoCt, series: None };
        (Err(none), BTreeMap::from([("n".to_owned(), n)]))
    }

    #[test]
    fn a_result_is_for_its_own_instances_only_and_once() {
        let (early, three) = (Early::default(), instances(3));
        let (study, other) = (StudyUid::new("1.2").unwrap(), StudyUid::new("1.3").unwrap());
        early.run(&study, &three, || found(1.0));
        assert!(early.take(&other, &three).is_none(), "another study");
        assert_eq!(early.take(&study, &three).unwrap().1["n"], 1.0);
        assert!(early.take(&study, &three).is_none(), "taken");
        early.run(&study, &three[..2], || found(2.0));
        assert!(early.take(&study, &three).is_none(), "a slice more");
        assert!(early.take(&study, &three[..2]).is_none(), "dropped");
        early.run(&study, &three, || found(3.0));
        let replaced = [&three[..2], &instances(1)].concat();
        assert!(early.take(&study, &replaced).is_none(), "a slice that was replaced");
        early.run(&study, &three, || panic!("an engine"));
        assert!(early.take(&study, &three).is_none(), "panicked");
    }

    #[test]
    fn what_is_under_way_is_waited_for_if_it_is_wanted() {
        let (early, three) = (&Early::default(), &instances(3));
        let study = &StudyUid::new("1.2").unwrap();
        for wanted in [true, false] {
            let ((begun, begins), (go, may_go)) = (mpsc::channel(), mpsc::channel());
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    early.run(study, three, || {
                        begun.send(()).unwrap();
                        may_go.recv().unwrap();
                        found(1.0)
                    });
                });
                begins.recv().unwrap();
                if wanted {
                    let taken = scope.spawn(|| early.take(study, three));
                    go.send(()).unwrap();
                    assert!(taken.join().unwrap().is_some());
                } else {
                    assert!(early.take(study, &three[..2]).is_none(), "not waited for");
                    go.send(()).unwrap();
                }
            });
            assert!(early.take(study, three).is_none(), "{wanted}");
        }
    }
}
