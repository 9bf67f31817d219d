//! Whether the daemon's threads turn: the truth behind the watchdog.
//!
//! Owns one beat a thread: when it last went round, and how long it may be away. The service manager is told that the daemon is well only while every
//! one of them is within its time; a bare timer would go on ticking in a daemon that evaluates nothing. It never ends a thread: systemd ends
//! the process, and what was acknowledged is finished after the restart.
//!
//! ```text
//! thread ──beat, at each round and each slice──▶ Beat ◀──late?── main thread ── WATCHDOG=1, while none is late ──▶ systemd
//! ```
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A thread that waits for its next work a second at a time may be away so long: a disk that is slow, and no more.
pub const TURN: Duration = Duration::from_secs(20);
/// The evaluator, from one slice or stage to the next: a slice of 1024² takes the slowest processor seconds.
pub const STAGE: Duration = Duration::from_secs(300);
/// A delivery, from one result to the next: the longest that `dimse` waits for a peer, one step after the other (connection 10 s, association 30 s,
/// each write 30 s, the answer 60 s), and a segmentation of a long series over a slow line. A peer that is slow is no fault of ours.
pub const DELIVERY: Duration = Duration::from_secs(1200);

/// All beats.
#[derive(Clone)]
pub struct Pulse {
    begun: Instant,
    beats: Arc<Mutex<Vec<Beat>>>,
}

/// The beat of one thread; clones share it.
#[derive(Clone)]
pub struct Beat {
    name: Arc<str>,
    limit: Duration,
    begun: Instant,
    /// Milliseconds after the beginning.
    last_ms: Arc<AtomicU64>,
}

/// A thread that is away for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// Which.
    pub name: String,
    /// Since when.
    pub away: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), beats: Arc::default() }
    }
}

impl Pulse {
    /// A thread that beats from now on, and may be away for `limit`.
    pub fn beat(&self, name: &str, limit: Duration) -> Beat {
        let beat = Beat { name: name.into(), limit, begun: self.begun, last_ms: Arc::default() };
        beat.beat();
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).push(beat.clone());
        beat
    }

    /// The thread that is late, if one is: of several, the one that is away longest.
    pub fn late(&self) -> Option<Late> {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let away =
            |beat: &Beat| Duration::from_millis(now_ms.saturating_sub(beat.last_ms.load(Ordering::Relaxed)));
        let late = beats.iter().map(|beat| (beat, away(beat))).filter(|(beat, away)| *away > beat.limit);
        late.max_by_key(|(_, away)| *away).map(|(beat, away)| Late { name: beat.name.to_string(), away })
    }
}

impl Beat {
    /// The thread has gone round.
    pub fn beat(&self) {
        self.last_ms.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wedged_thread_is_enough_and_is_named() {
        let pulse = Pulse::default();
        let limit = Duration::from_millis(50);
        let (turning, wedged) = (pulse.beat("evaluator", limit), pulse.beat("assembler", limit));
        pulse.beat("outbox pacs", Duration::from_secs(60));
        assert_eq!(pulse.late(), None);
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(10));
            turning.beat();
        }
        let late = pulse.late().unwrap();
        assert_eq!(late.name, "assembler");
        assert!(late.away >= Duration::from_millis(100), "{late:?}");
        wedged.beat();
        turning.beat();
        assert_eq!(pulse.late(), None, "it came back");
    }
}
