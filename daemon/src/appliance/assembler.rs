//! The driver of the assembler: one thread owns every assembly, hears what arrives, and hands over what is complete.
//!
//! It never reads pixels, and never waits for the evaluator or for a peer.
use super::Job;
use crate::database::{Database, StudyKey};
use crate::instance::Instance;
use crate::intake::assembler::{Assembly, QuietTimes};
use crate::intake::spool::Spool;
use crate::intake::{Event, Intake};
use crate::limits::LISTED_HELD_MAX;
use crate::pipeline::Pipeline;
use crate::procedure_steps::Step;
use crate::pulse::Beat;
use crate::queue::Queue;
use crate::report;
use crate::screen::board::Board;
use crate::worklist::Urgencies;
use log::{info, warn};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};
use study::{InputRange, StudyUid};

/// Longest wait: bounds the time until it sees that it should end.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A study that is most likely complete, and what is there of it.
pub(super) type Likely = (StudyUid, Vec<Arc<Instance>>);

/// Runs the assembler: one thread owns every assembly.
pub(super) struct AssemblerDriver {
    pub range: InputRange,
    pub quiet: QuietTimes,
    pub database: Arc<Database>,
    pub spool: Arc<Spool>,
    pub intake: Arc<Intake>,
    pub pipeline: Arc<Pipeline>,
    pub jobs: Arc<Queue<Job>>,
    pub early: SyncSender<Likely>,
    pub urgencies: Urgencies,
    pub board: Arc<Board>,
    pub beat: Beat,
    pub assemblies: HashMap<StudyUid, (StudyKey, Assembly)>,
}

impl AssemblerDriver {
    /// Runs until the intake stops; the queue is closed then.
    pub fn run(mut self, events: &Receiver<Event>) -> anyhow::Result<()> {
        let result = self.drive(events);
        self.jobs.close();
        result
    }

    fn drive(&mut self, events: &Receiver<Event>) -> anyhow::Result<()> {
        for key in self.database.unfinished()? {
            self.reopen(key, Instant::now())?;
        }
        loop {
            // Whatever still arrives is in the spool for the next start.
            if self.intake.is_stopping() {
                return Ok(());
            }
            self.beat.beat();
            let wait = self.complete()?;
            self.intake.assembled(self.assemblies.values().map(|(_, a)| a.instances().len()).sum());
            match events.recv_timeout(wait.min(WAIT_MAX)) {
                Ok(event) => self.take(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        let now = Instant::now();
        match event {
            Event::Ended { association, released } => {
                for (_, assembly) in self.assemblies.values_mut() {
                    assembly.ended(association, released, now);
                }
            }
            Event::Repeated { association, study } => {
                if let Some((_, assembly)) = self.assemblies.get_mut(&study) {
                    assembly.repeated(association, now);
                }
            }
            Event::Unchanged { key, study } => {
                if !self.assemblies.contains_key(&study) {
                    self.reopen(key, now)?;
                }
                self.intake.taken(&study);
                if !self.assemblies.contains_key(&study) {
                    self.intake.nothing_came(&study, key)?;
                }
            }
            Event::Arrived { association, key, instance } => {
                let study = instance.header.study.clone();
                if !self.assemblies.contains_key(&study) {
                    // The first slice, or a late one: whatever the spool has belongs to it.
                    self.reopen(key, now)?;
                }
                self.pipeline.prepare(Arc::clone(&instance));
                let assembly = self.assembly(&instance, key, now)?;
                assembly.arrived(instance, association, now);
                let count = assembly.instances().len();
                self.board.receiving(&study, count);
                self.intake.taken(&study);
            }
            Event::StepChanged { study } => {
                if self.assemblies.contains_key(&study) {
                    let steps = self.steps_of(&study)?;
                    if let Some((_, assembly)) = self.assemblies.get_mut(&study) {
                        assembly.steps_changed(&steps);
                    }
                }
            }
            Event::CommitmentRequested { instances, taken } => {
                let mut listed = self.listed();
                let concerned = |(_, a): &&mut (StudyKey, Assembly)| a.has_any_of(&instances);
                for (_, assembly) in self.assemblies.values_mut().filter(concerned) {
                    listed -= assembly.listed();
                    if is_room(listed, instances.len()) {
                        assembly.commitment_requested(&instances);
                    }
                    listed += assembly.listed();
                }
                drop(taken);
            }
        }
        Ok(())
    }

    /// The assembly of an instance's study; a new one begins with what the scanner told before, and the worklist is asked.
    fn assembly(
        &mut self,
        instance: &Instance,
        key: StudyKey,
        now: Instant,
    ) -> anyhow::Result<&mut Assembly> {
        let study = &instance.header.study;
        let steps = if self.assemblies.contains_key(study) { Vec::new() } else { self.steps_of(study)? };
        let (_, assembly) = match self.assemblies.entry(study.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                self.urgencies.ask(instance);
                self.database.list(key, &report::subject(instance))?;
                vacant.insert((key, Assembly::new(now).with_steps(&steps)))
            }
        };
        Ok(assembly)
    }

    /// What the scanner told of a study; nothing if there is no room for its lists.
    fn steps_of(&self, study: &StudyUid) -> anyhow::Result<Vec<Step>> {
        let steps = self.database.steps_of(study)?;
        let held = self.assemblies.get(study).map_or(0, |(_, assembly)| assembly.listed());
        let more = steps.iter().map(|step| step.instances.len()).sum();
        Ok(if is_room(self.listed() - held, more) { steps } else { Vec::new() })
    }

    fn listed(&self) -> usize {
        self.assemblies.values().map(|(_, assembly)| assembly.listed()).sum()
    }

    /// Begins an assembly from what the spool has of a study.
    fn reopen(&mut self, key: StudyKey, now: Instant) -> anyhow::Result<()> {
        for path in self.spool.instances(key)? {
            self.beat.beat();
            match Instance::read(&path) {
                Ok(instance) => {
                    let instance = Arc::new(instance);
                    let study = instance.header.study.clone();
                    let assembly = self.assembly(&instance, key, now)?;
                    assembly.arrived(instance, None, now);
                    let count = assembly.instances().len();
                    self.board.receiving(&study, count);
                }
                Err(error) => warn!("spooled instance can't be read: {error}"),
            }
        }
        Ok(())
    }

    /// Hands over every study that is complete; returns the time until the next may be.
    fn complete(&mut self) -> anyhow::Result<Duration> {
        let now = Instant::now();
        let mut wait = WAIT_MAX;
        let mut complete = Vec::new();
        for (study, (_, assembly)) in &mut self.assemblies {
            match assembly.completed(now, self.quiet, &self.range) {
                Ok(why) => complete.push((study.clone(), why)),
                Err(due) => wait = wait.min(due.saturating_duration_since(now)),
            }
            // One at a time, and only when the evaluator has nothing to do: it goes first.
            match assembly.likely_complete(now, self.quiet, &self.range) {
                Some(Ok(())) if self.intake.is_idle() => {
                    let instances = assembly.instances().cloned().collect();
                    if self.early.try_send((study.clone(), instances)).is_ok() {
                        assembly.evaluated_early();
                    }
                }
                Some(Err(due)) => wait = wait.min(due.saturating_duration_since(now)),
                Some(Ok(())) | None => {}
            }
        }
        for (study, completed) in complete {
            let Some((key, _)) = self.assemblies.get(&study) else { continue };
            // An instance that was acknowledged but has not come through the channel yet belongs to this revision.
            let Some(reception) = self.intake.evaluation_begins(&study, *key)? else {
                wait = Duration::ZERO;
                continue;
            };
            let Some((_, assembly)) = self.assemblies.remove(&study) else { continue };
            let instances: Vec<_> = assembly.instances().cloned().collect();
            info!("study {study}: complete with {} instances ({completed:?})", instances.len());
            let last_arrival = assembly.last_arrival();
            self.intake.evaluation_waits(instances.len());
            self.board.waiting(&study, instances.len());
            let job = Job { reception, study, instances, completed, last_arrival, since: now };
            // The evaluator ends first, maybe: then the study is finished after the next start.
            if !self.jobs.push(job) && !self.intake.is_stopping() {
                anyhow::bail!("the evaluator has stopped");
            }
        }
        Ok(wait)
    }
}

/// Whether so many more UIDs of scanners' lists may be held.
fn is_room(listed: usize, more: usize) -> bool {
    let room = more == 0 || listed + more <= LISTED_HELD_MAX;
    if !room {
        warn!(
            "a list of {more} instances does not count: {listed} are held of others, the most is {LISTED_HELD_MAX}"
        );
    }
    room
}
