//! What follows from a delivery that failed: another attempt, when, or none. Pure: no clock, no I/O, no database.
use crate::limits::DELIVERY_PAUSE_MAX_MS;
use sha2::{Digest, Sha256};
use std::fmt;

/// The first pause after a failure; each further one is twice as long.
const BACKOFF_FIRST_MS: i64 = 2_000;

/// After so many refusals a result is parked, if they took [`PARKED_AFTER_MS`] at least.
pub const REFUSALS_MAX: u32 = 5;

/// An archive that restarts, or whose database is away, answers for some minutes that it can't take what it takes
/// otherwise.
pub const PARKED_AFTER_MS: i64 = 600_000;

/// After so many refusals that only a changed configuration could turn: the same kind of result will be refused again.
pub const PERMANENT_REFUSALS_MAX: u32 = 3;

/// A result on which the connection broke so often, while others got through in between, is poison for its peer.
pub const BROKEN_MAX: u32 = 8;

/// A result for which there was no room as often, while there was for others, and for a day, is too much for its peer.
/// Until then somebody may have made room.
pub const NO_ROOM_MAX_MS: i64 = 86_400_000;

/// Why a delivery failed: in our words, and in the peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Codes and conditions: fit for the log.
    pub what: String,
    /// The peer's free text. Interface engines repeat what they choke on in it, names and numbers of patients: it goes
    /// into the database, for `triaged outbox`, and never into the log.
    pub said: Option<String>,
}

impl<T: Into<String>> From<T> for Reason {
    fn from(what: T) -> Self {
        Self { what: what.into(), said: None }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{}: {said}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What a delivery that failed says about the result itself. Displayed, it repeats what the peer said: not for the log,
/// see [`Failure::for_log`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing: no connection, no association, no trust.
    Unreachable(Reason),
    /// The connection broke while this result was under way: abort, silence, garbage, or an end before the response.
    Broken(Reason),
    /// The peer said no to this very result.
    Refused {
        /// Why.
        reason: Reason,
        /// Whether only a changed configuration could turn it.
        permanent: bool,
    },
    /// The peer has no room now.
    Busy(Reason),
    /// Our own copy of it can't be read.
    Damaged(Reason),
}

impl Failure {
    fn parts(&self) -> (&'static str, &Reason) {
        match self {
            Self::Unreachable(reason) => ("not reached", reason),
            Self::Broken(reason) => ("no answer", reason),
            Self::Refused { reason, .. } => ("refused", reason),
            Self::Busy(reason) => ("busy", reason),
            Self::Damaged(reason) => ("damaged", reason),
        }
    }

    /// Without the peer's free text.
    pub fn for_log(&self) -> String {
        let (kind, reason) = self.parts();
        format!("{kind}: {}", reason.what)
    }

    /// The same failure, saying what was wanted.
    pub fn about(mut self, what: &str) -> Self {
        let (Self::Unreachable(reason)
        | Self::Broken(reason)
        | Self::Refused { reason, .. }
        | Self::Busy(reason)
        | Self::Damaged(reason)) = &mut self;
        reason.what = format!("{what}: {}", reason.what);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, reason) = self.parts();
        write!(f, "{kind}: {reason}")
    }
}

/// What happened to a result before, since an operator last wiped its record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts that failed and said something about it, or broke on it: no absence of its peer is in it.
    pub failures: u32,
    /// How often the peer said no to it.
    pub refusals: u32,
    /// How often the connection broke on it, or there was no room for it, and another result was accepted afterwards.
    pub broken: u32,
    /// How long ago the first of the failures was.
    pub failing_ms: i64,
}

/// What becomes of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is tried again.
    Again {
        /// After so long.
        pause_ms: i64,
    },
    /// It is not tried again until an operator says so.
    Parked,
}

/// What follows from a failure; `history` is what happened before it, `uid` spreads the pauses.
pub fn fate(failure: &Failure, history: History, uid: &str) -> Fate {
    let History { failures, refusals, broken, failing_ms } = history;
    let parked = match failure {
        Failure::Unreachable(_) => false,
        Failure::Broken(_) => broken >= BROKEN_MAX,
        Failure::Busy(_) => broken >= BROKEN_MAX && failing_ms >= NO_ROOM_MAX_MS,
        Failure::Refused { permanent: true, .. } => refusals + 1 >= PERMANENT_REFUSALS_MAX,
        Failure::Refused { .. } => refusals + 1 >= REFUSALS_MAX && failing_ms >= PARKED_AFTER_MS,
        Failure::Damaged(_) => true,
    };
    if parked { Fate::Parked } else { Fate::Again { pause_ms: backoff_ms(failures, uid) } }
}

/// When a peer that has accepted a result and says that it does not keep it is asked again: archives index what they
/// take some time later, and know nothing of it before. `None`: it had [`PARKED_AFTER_MS`], and it is sent again.
/// `accepted_ms` is how long ago it accepted it; the pauses double with it.
pub fn ask_again_ms(accepted_ms: i64) -> Option<i64> {
    (accepted_ms < PARKED_AFTER_MS).then(|| accepted_ms.clamp(BACKOFF_FIRST_MS, DELIVERY_PAUSE_MAX_MS))
}

/// The pause after an attempt that failed: doubling, capped, and spread by a quarter either way so that what failed
/// together doesn't come back together. The spread follows from the name, so that tests can repeat it.
pub fn backoff_ms(failures: u32, name: &str) -> i64 {
    let pause = BACKOFF_FIRST_MS.saturating_mul(1 << failures.min(16)).min(DELIVERY_PAUSE_MAX_MS);
    let digest = Sha256::digest(format!("{name} {failures}"));
    let spread = i64::from(digest[0]) - 128;
    pause + pause * spread / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        for failures in 0..40 {
            let plain = (BACKOFF_FIRST_MS << failures.min(16)).min(DELIVERY_PAUSE_MAX_MS);
            let pause = backoff_ms(failures, "1.2.3");
            assert!((plain - plain / 4..=plain + plain / 4).contains(&pause), "{failures}: {pause}");
        }
        assert_ne!(backoff_ms(3, "1.2.3"), backoff_ms(3, "1.2.4"));
    }

    #[test]
    fn only_what_was_said_about_a_result_parks_it() {
        let refused = |permanent| Failure::Refused { reason: "no".into(), permanent };
        let history =
            |refusals, broken, failing_ms| History { failures: 1_000, refusals, broken, failing_ms };
        const DAY_MS: i64 = NO_ROOM_MAX_MS;
        // failure, history before it, parked
        let cases = [
            (Failure::Unreachable("off".into()), history(4, 7, DAY_MS), false),
            (Failure::Busy("full".into()), history(4, 7, DAY_MS), false),
            (Failure::Busy("full".into()), history(0, 100, DAY_MS - 1), false),
            (Failure::Busy("full".into()), history(0, 8, DAY_MS), true),
            (Failure::Broken("hung".into()), history(0, 0, DAY_MS), false),
            (Failure::Broken("hung".into()), history(0, 7, 0), false),
            (Failure::Broken("hung".into()), history(0, 8, 0), true),
            (refused(false), history(3, 0, DAY_MS), false),
            (refused(false), history(100, 0, PARKED_AFTER_MS - 1), false),
            (refused(false), history(4, 0, PARKED_AFTER_MS), true),
            (refused(true), history(1, 0, DAY_MS), false),
            (refused(true), history(2, 0, 0), true),
            (Failure::Damaged("torn".into()), History::default(), true),
        ];
        for (failure, history, parked) in cases {
            let fate = fate(&failure, history, "1.2.3");
            assert_eq!(fate == Fate::Parked, parked, "{failure} after {history:?}");
        }
    }

    #[test]
    fn refusals_are_spaced_over_minutes_before_they_park() {
        let (mut failing_ms, mut refusals) = (0, 0);
        loop {
            let history = History { failures: refusals, refusals, broken: 0, failing_ms };
            match fate(&Failure::Refused { reason: "no".into(), permanent: false }, history, "1.2.3") {
                Fate::Again { pause_ms } => failing_ms += pause_ms,
                Fate::Parked => break,
            }
            refusals += 1;
        }
        assert!((PARKED_AFTER_MS..2 * PARKED_AFTER_MS).contains(&failing_ms), "{failing_ms}");
        assert!((7..12).contains(&refusals), "{refusals}");
    }

    #[test]
    fn a_first_failure_is_asked_again_soon_however_long_the_silence_before() {
        for failure in [
            Failure::Refused { reason: "".into(), permanent: false },
            Failure::Busy("".into()),
            Failure::Broken("".into()),
        ] {
            let Fate::Again { pause_ms } = fate(&failure, History::default(), "1.2.3") else {
                panic!("parked");
            };
            assert!(pause_ms < 3_000, "{pause_ms}");
        }
    }

    #[test]
    fn the_log_never_has_what_the_peer_said() {
        let reason = Reason { what: "AE, condition 204".into(), said: Some("no patient DOE^JANE".into()) };
        let failure = Failure::Refused { reason, permanent: false }.about("order");
        assert_eq!(failure.to_string(), "refused: order: AE, condition 204: no patient DOE^JANE");
        assert_eq!(failure.for_log(), "refused: order: AE, condition 204");
    }

    #[test]
    fn an_archive_that_indexes_later_is_asked_again_for_minutes() {
        let (mut accepted_ms, mut questions) = (0, 0);
        while let Some(pause_ms) = ask_again_ms(accepted_ms) {
            (accepted_ms, questions) = (accepted_ms + pause_ms, questions + 1);
        }
        assert!((PARKED_AFTER_MS..2 * PARKED_AFTER_MS).contains(&accepted_ms) && questions < 12);
        assert_eq!(ask_again_ms(-5), Some(BACKOFF_FIRST_MS), "the clock was put back");
    }
}
