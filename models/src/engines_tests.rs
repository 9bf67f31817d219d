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
        engines.shared.list().slots[0].lock().last_error = None;
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
                engines.shared.list().slots[0].lock().last_error = None;
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
    engines.shared.list().slots[0].lock().out = true;
    for _ in 0..4 {
        assert!(matches!(ask(&engines), Err(EngineError::Device { lost: true, .. })));
    }
    assert_eq!(calls[1].load(Ordering::Relaxed), 4);
}

/// Engines whose GPU comes only after some tries; `opens` counts them.
fn looking(first: Vec<Box<dyn Backend>>, again: Again, opens: Arc<AtomicU32>, comes_at: u32) -> Engines {
    let missing =
        if again == Again::NotThereYet { vec![("cuda", "no driver".to_owned())] } else { Vec::new() };
    let reopen = move |cpu: &dyn Backend, lost: bool| {
        assert_eq!((cpu.name(), lost), ("cpu", again != Again::NotThereYet));
        if opens.fetch_add(1, Ordering::SeqCst) + 1 < comes_at {
            let again = if lost { Again::Lost } else { Again::NotThereYet };
            return Opened { engines: Vec::new(), missing: vec![("cuda", "not yet".into())], again };
        }
        let back = Fake { name: "cuda", act: Act::Work, calls: Arc::default() };
        Opened { engines: vec![Box::new(back)], missing: Vec::new(), again: Again::No }
    };
    let pauses = Pauses {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(40),
        idle: Duration::from_millis(10),
    };
    Engines::new(first, missing).looking(again, Box::new(reopen), pauses)
}

fn fake(name: &'static str, act: Act) -> Box<dyn Backend> {
    Box::new(Fake { name, act, calls: Arc::default() })
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_gpu_that_was_not_there_at_the_start_is_used_when_it_comes() {
    let opens = Arc::default();
    let engines = looking(vec![fake("cpu", Act::Work)], Again::NotThereYet, Arc::clone(&opens), 3);
    assert_eq!(ask(&engines).unwrap(), "cpu");
    until("it comes", || engines.first().name() == "cuda");
    assert_eq!(ask(&engines).unwrap(), "cuda");
    assert_eq!(opens.load(Ordering::SeqCst), 3);
    let names: Vec<_> = engines.status().into_iter().map(|status| (status.name, status.state)).collect();
    assert_eq!(names, [("cuda", EngineState::Ready), ("cpu", EngineState::Ready)]);
    // Nothing more to look for.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(opens.load(Ordering::SeqCst), 3);
}

#[test]
fn a_lost_gpu_is_opened_anew_and_its_falls_stay_counted() {
    let opens = Arc::default();
    let first = vec![fake("cuda", Act::Lose), fake("cpu", Act::Work)];
    let engines = looking(first, Again::No, Arc::clone(&opens), 2);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(opens.load(Ordering::SeqCst), 0, "nothing is lost");
    assert_eq!(ask(&engines).unwrap(), "cpu (cuda failed)");
    until("a first try", || opens.load(Ordering::SeqCst) > 0);
    until("it is back", || engines.first().name() == "cuda");
    assert_eq!(ask(&engines).unwrap(), "cuda");
    let status = engines.status().remove(0);
    assert_eq!((status.name, status.state, status.falls), ("cuda", EngineState::Ready, 1));
}

#[test]
fn a_gpu_that_stays_lost_is_told_as_out() {
    let opens: Arc<AtomicU32> = Arc::default();
    let first = vec![fake("cuda", Act::Lose), fake("cpu", Act::Work)];
    let engines = looking(first, Again::No, Arc::clone(&opens), u32::MAX);
    ask(&engines).unwrap();
    until("two tries", || opens.load(Ordering::SeqCst) > 1);
    let status = engines.status().remove(1);
    let why = "not yet".to_owned();
    assert_eq!((status.name, status.state, status.falls), ("cuda", EngineState::Out { why }, 1));
    assert_eq!(ask(&engines).unwrap(), "cpu");
}

#[test]
fn while_there_is_work_nothing_is_opened() {
    let opens: Arc<AtomicU32> = Arc::default();
    let engines = looking(vec![fake("cpu", Act::Work)], Again::NotThereYet, Arc::clone(&opens), 1);
    engines
        .run(|_| {
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        })
        .unwrap();
    assert_eq!(opens.load(Ordering::SeqCst), 0);
    until("it comes", || engines.first().name() == "cuda");
}

#[test]
fn after_a_crash_nothing_is_opened_anew() {
    let opens: Arc<AtomicU32> = Arc::default();
    let engines = looking(vec![fake("cpu", Act::Work)], Again::NotThereYet, Arc::clone(&opens), 1);
    engines.leave_only_the_last("an evaluation ended the daemon");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(opens.load(Ordering::SeqCst), 0);
}
