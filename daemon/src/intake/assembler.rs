//! Which slices a study has, and when it is complete. Pure: the time is an argument.
//!
//! ```text
//! Receiving ──the scanner's procedure steps ended, and what they list is there──▶ complete
//!           ──a storage commitment request covers what is there────────────────▶ complete
//!           ──the announced count is there─────────────────────────────────────▶ complete
//!           ──contiguous or given up, associations released, short quiet time──▶ complete
//!           ──long quiet time──────────────────────────────────────────────────▶ complete
//! ```
//! A slice that arrives after that begins a new assembly, from everything that the spool has of the study.
//!
//! A scanner's word counts for what it speaks of, no more. A list (of a procedure step, of a commitment request) covers
//! the study only if every slice that is here is on it: a series that the list leaves out may still be arriving. A step
//! that ended without a list says nothing of what was sent: half of it may have been lost with an association, and a
//! sender that opens one for each image may be between two. Only that it was discontinued counts: then what came on
//! associations that were open by then need not be a whole series, and is waited for as one.
use crate::instance::Instance;
use crate::procedure_steps::{Step, StepState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use study::series::ImageKind;
use study::{InputRange, SeriesUid, SopInstanceUid};

/// The quiet times.
#[derive(Debug, Clone, Copy)]
pub struct QuietTimes {
    /// When the slices are contiguous and every association was released.
    pub short: Duration,
    /// Otherwise.
    pub long: Duration,
}

/// An association, as the intake numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssociationId(pub u64);

/// Why a study counts as complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// Every procedure step of the study has ended, at least one as completed (PS3.4 section F.7).
    #[expect(clippy::enum_variant_names, reason = "the state's name in the standard")]
    ProcedureStepCompleted,
    /// Every procedure step of the study was discontinued: no more will come.
    ProcedureStepDiscontinued,
    /// A storage commitment request covers what is there (PS3.4 annex J): the scanner has sent what it asks about.
    StorageCommitment,
    /// Every series has as many instances as its headers announce.
    AnnouncedCount,
    /// A whole series, no association open, and the short quiet time over.
    ContiguousAndQuiet,
    /// The long quiet time is over.
    LongQuiet,
}

/// A study that is being received.
pub struct Assembly {
    instances: BTreeMap<SopInstanceUid, Arc<Instance>>,
    open: BTreeSet<AssociationId>,
    aborted: bool,
    last_event: Instant,
    last_arrival: Option<Instant>,
    /// Whether a series passes the gate; judged anew when an instance arrives.
    contiguous: Option<bool>,
    /// What the scanner tells of its work on the study.
    steps: Steps,
    /// What the latest storage commitment request that concerns the study asks about.
    asked: BTreeSet<SopInstanceUid>,
}

/// The procedure steps of a study.
#[derive(Debug, Default)]
struct Steps {
    /// As what all of them ended; `None`: there is none, or one is in progress.
    ended: Option<Completed>,
    /// What they list.
    listed: BTreeSet<SopInstanceUid>,
    /// Whether the latest of them changed while the study was received, and no association that carries it began since.
    latest: bool,
}

impl Assembly {
    /// A study of which nothing is there yet.
    pub fn new(now: Instant) -> Self {
        Self {
            instances: BTreeMap::new(),
            open: BTreeSet::new(),
            aborted: false,
            last_event: now,
            last_arrival: None,
            contiguous: None,
            steps: Steps::default(),
            asked: BTreeSet::new(),
        }
    }

    /// Begins with the procedure steps that were told of before the study's first instance.
    pub fn with_steps(mut self, steps: &[Step]) -> Self {
        self.steps = Steps::new(steps);
        self
    }

    /// The scanner told of a step.
    pub fn steps_changed(&mut self, steps: &[Step]) {
        self.steps = Steps { latest: true, ..Steps::new(steps) };
    }

    /// Whether any of these is here.
    pub fn has_any_of(&self, instances: &BTreeSet<SopInstanceUid>) -> bool {
        self.instances.keys().any(|uid| instances.contains(uid))
    }

    /// The scanner asked for storage commitment of these; nothing changes if none of them is here.
    pub fn commitment_requested(&mut self, asked: &BTreeSet<SopInstanceUid>) {
        if self.has_any_of(asked) {
            self.asked.clone_from(asked);
        }
    }

    /// An instance arrived on an association (none: it was in the spool).
    pub fn arrived(&mut self, instance: Arc<Instance>, association: Option<AssociationId>, now: Instant) {
        self.instances.insert(instance.header.instance.clone(), instance);
        if let Some(association) = association {
            // If it is the sender of an aborted association, it came back.
            self.repeated(association, now);
            self.last_arrival = Some(now);
        }
        self.contiguous = None;
        self.last_event = now;
    }

    /// An association sends again what is there already: it is alive, and perhaps on its way to what is not.
    pub fn repeated(&mut self, association: AssociationId, now: Instant) {
        // What comes on a new association, a step that ended before did not speak of.
        self.steps.latest &= !self.open.insert(association);
        self.aborted = false;
        self.last_event = now;
    }

    /// An association ended: released, or aborted half-way.
    pub fn ended(&mut self, association: AssociationId, released: bool, now: Instant) {
        if self.open.remove(&association) {
            self.aborted |= !released;
            self.last_event = now;
        }
    }

    /// How many UIDs it holds of what scanners listed.
    pub fn listed(&self) -> usize {
        self.steps.listed.len() + self.asked.len()
    }

    /// The instances so far.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    /// When the last instance arrived; `None` if all were in the spool.
    pub fn last_arrival(&self) -> Option<Instant> {
        self.last_arrival
    }

    /// Whether the study is complete; else, when to ask again if nothing happens.
    pub fn completed(
        &mut self,
        now: Instant,
        quiet: QuietTimes,
        range: &InputRange,
    ) -> Result<Completed, Instant> {
        if let Some(rule) = self.steps.ended
            && self.is_covered_by(&self.steps.listed)
        {
            return Ok(rule);
        }
        if self.is_covered_by(&self.asked) && self.is_asked_as_a_whole(range) {
            return Ok(Completed::StorageCommitment);
        }
        if self.announced_count_is_there() && self.is_contiguous(range) {
            return Ok(Completed::AnnouncedCount);
        }
        let released = self.open.is_empty() && !self.aborted;
        let (rule, after) = if released && self.is_contiguous(range) {
            (Completed::ContiguousAndQuiet, quiet.short)
        } else if released && self.steps.were_given_up() {
            // It need not be whole: the gate will say so.
            (Completed::ProcedureStepDiscontinued, quiet.short)
        } else {
            (Completed::LongQuiet, quiet.long)
        };
        let due = self.last_event + after;
        if now >= due { Ok(rule) } else { Err(due) }
    }

    /// Whether a series passes the gate as far as headers go. Asked only when it matters: it sorts the slices.
    fn is_contiguous(&mut self, range: &InputRange) -> bool {
        let instances = &self.instances;
        *self.contiguous.get_or_insert_with(|| {
            let headers: Vec<_> = instances.values().map(|i| i.header.clone()).collect();
            study::series::rank(&headers, range).is_ok()
        })
    }

    /// Whether a commitment request looks like one for a whole series. Some scanners ask for each image, right after it:
    /// the first of them covers what is here, too.
    fn is_asked_as_a_whole(&mut self, range: &InputRange) -> bool {
        self.is_contiguous(range) || (self.open.is_empty() && self.asked.len() > 1)
    }

    /// Whether everything on a list is here, and every slice that is here on the list; an empty list covers nothing. A
    /// list of scouts alone does not either: the slices are yet to come.
    fn is_covered_by(&self, list: &BTreeSet<SopInstanceUid>) -> bool {
        // Cheap while slices are missing, which is when it is asked most.
        if list.is_empty() || self.instances.len() < list.len() {
            return false;
        }
        let slice = |i: &Arc<Instance>| matches!(i.header.kind, ImageKind::Axial | ImageKind::MultiFrame);
        let mut slices = self.instances.iter().filter(|(_, i)| slice(i)).peekable();
        slices.peek().is_some()
            && slices.all(|(uid, _)| list.contains(uid))
            && list.iter().all(|uid| self.instances.contains_key(uid))
    }

    /// Every axial series has the count that its headers announce (0020,1209). Few senders announce it.
    fn announced_count_is_there(&self) -> bool {
        let mut series: BTreeMap<&SeriesUid, (usize, Option<u32>)> = BTreeMap::new();
        for instance in self.instances.values().filter(|i| i.header.kind == ImageKind::Axial) {
            let (count, announced) = series.entry(&instance.header.series).or_default();
            *count += 1;
            *announced = (*announced).max(instance.announced_count);
        }
        !series.is_empty()
            && series.values().all(|(count, announced)| announced.is_some_and(|a| *count >= a as usize))
    }
}

impl Steps {
    fn new(steps: &[Step]) -> Self {
        let all = |state: StepState| steps.iter().all(|step| step.state == state);
        let ended = if steps.is_empty() || steps.iter().any(|step| step.state == StepState::InProgress) {
            None
        } else if all(StepState::Discontinued) {
            Some(Completed::ProcedureStepDiscontinued)
        } else {
            Some(Completed::ProcedureStepCompleted)
        };
        let listed = steps.iter().flat_map(|step| step.instances.iter().cloned()).collect();
        Self { ended, listed, latest: false }
    }

    /// Whether no more of them comes, and they don't say what came.
    fn were_given_up(&self) -> bool {
        self.latest && self.listed.is_empty() && self.ended == Some(Completed::ProcedureStepDiscontinued)
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
