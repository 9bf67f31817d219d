//! Which slices a study has, and when it is complete. Pure: the time is an argument.
//!
//! ```text
//! Receiving ──the announced count is there──────────────────────────▶ complete
//!           ──contiguous, associations released, short quiet time───▶ complete
//!           ──long quiet time───────────────────────────────────────▶ complete
//! ```
//! A slice that arrives after that begins a new assembly, from everything that the spool has of the study.
use crate::instance::Instance;
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
        self.open.insert(association);
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
        if self.announced_count_is_there() && self.is_contiguous(range) {
            return Ok(Completed::AnnouncedCount);
        }
        let released = self.open.is_empty() && !self.aborted;
        let (rule, after) = if released && self.is_contiguous(range) {
            (Completed::ContiguousAndQuiet, quiet.short)
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

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
