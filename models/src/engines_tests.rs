//! The fall from engine to engine, with engines that fail on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::backend::{Emit, Plane};

/// What an engine of these tests does next.
#[derive(Clone, Copy)]
enum Act {
    Work,
    Fail,
    Lose,
    Panic,
    Unsuited,
    BlameInput,
}

struct Fake {
    name: &'static str,
    act: Act,
    calls: Arc<AtomicU32>,
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lungs(&self, _: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let device = |lost| EngineError::Device { engine: self.name, what: "ECC error".into(), lost };
        match self.act {
            Act::Work => Ok(vec![0.5]),
            Act::Fail => Err(device(false)),
            Act::Lose => Err(device(true)),
            Act::Panic => panic!("a missing symbol"),
            Act::Unsuited => Err(EngineError::Unsuited { engine: self.name, what: "too large".into() }),
            Act::BlameInput => Err(EngineError::Input { row: 1, column: 2 }),
        }
    }

    fn multitask(&self, _: &[Plane<'_>], _: Emit<'_>) -> Result<f32, EngineError> {
        unreachable!("the tests ask for lungs")
    }
}

fn engines(first: Act, last: Act) -> (Engines, [Arc<AtomicU32>; 2]) {
    let calls = [Arc::default(), Arc::default()];
    let fake = |name, act, calls: &Arc<AtomicU32>| -> Box<dyn Backend> {
        Box::new(Fake { name, act, calls: Arc::clone(calls) })
    };
    let list = vec![fake("cuda", first, &calls[0]), fake("cpu", last, &calls[1])];
    (Engines::new(list, vec![("tensorrt", "libnvinfer.so is not installed".into())]), calls)
}

fn ask(engines: &Engines) -> Result<String, EngineError> {
    let values = [0.0];
    engines.run(|backend| backend.lungs(Plane::new(&values, 1, 1, 1))).map(|(_, engine)| engine)
}

#[test]
fn the_fastest_engine_does_the_work() {
    let (engines, calls) = engines(Act::Work, Act::Work);
    assert_eq!(ask(&engines).unwrap(), "cuda");
    assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [1, 0]);
    let states: Vec<_> = engines.status().into_iter().map(|s| (s.name, s.state, s.falls)).collect();
    let why = "libnvinfer.so is not installed".to_owned();
    assert_eq!(
        states,
        [
            ("cuda", EngineState::Ready, 0),
            ("cpu", EngineState::Ready, 0),
            ("tensorrt", EngineState::Missing { why }, 0)
        ]
    );
}

#[test]
fn a_lost_device_is_asked_once_and_the_work_is_finished() {
    for act in [Act::Lose, Act::Panic] {
        let (engines, calls) = engines(act, Act::Work);
        assert_eq!(ask(&engines).unwrap(), "cpu (cuda failed)");
        assert_eq!(ask(&engines).unwrap(), "cpu");
        assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [1, 2]);
        assert!(matches!(
            &engines.status()[0],
            EngineStatus { state: EngineState::Out { .. }, falls: 1, .. }
        ));
        assert_eq!(engines.first().name(), "cpu");
    }
}

#[test]
fn an_engine_is_out_after_three_errors_in_a_row() {
    let (engines, calls) = engines(Act::Fail, Act::Work);
    for _ in 0..5 {
        ask(&engines).unwrap();
        // As if time had passed.
        engines.slots[0].lock().last_error = None;
    }
    assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [3, 5]);
    assert_eq!(engines.status()[0].falls, 3);
}

#[test]
fn errors_at_once_are_one_and_what_does_not_suit_is_none() {
    for act in [Act::Fail, Act::Unsuited] {
        let (engines, calls) = engines(act, Act::Work);
        for _ in 0..5 {
            assert_eq!(ask(&engines).unwrap(), "cpu (cuda failed)");
            if matches!(act, Act::Unsuited) {
                engines.slots[0].lock().last_error = None;
            }
        }
        assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [5, 5]);
        assert_eq!(engines.status()[0].state, EngineState::Ready);
    }
}

#[test]
fn after_a_crash_only_the_last_engine_works() {
    let (engines, calls) = engines(Act::Work, Act::Work);
    engines.leave_only_the_last("an evaluation ended the daemon");
    assert_eq!(ask(&engines).unwrap(), "cpu");
    assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [0, 1]);
}

#[test]
fn bad_input_is_no_engines_fault() {
    let (engines, calls) = engines(Act::BlameInput, Act::Work);
    assert!(matches!(ask(&engines), Err(EngineError::Input { row: 1, column: 2 })));
    assert_eq!(calls.map(|c| c.load(Ordering::Relaxed)), [1, 0]);
    assert_eq!(engines.status()[0].falls, 0);
}

#[test]
fn the_last_engine_is_never_out() {
    let (engines, calls) = engines(Act::Work, Act::Lose);
    engines.slots[0].lock().out = true;
    for _ in 0..4 {
        assert!(matches!(ask(&engines), Err(EngineError::Device { lost: true, .. })));
    }
    assert_eq!(calls[1].load(Ordering::Relaxed), 4);
}
