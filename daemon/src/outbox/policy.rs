//! What follows from a delivery that failed: another attempt, when, or none. Pure: no clock, no I/O, no database.
use crate::limits::DELIVERY_PAUSE_MAX_MS;
use sha2::{Digest, Sha256};
use std::fmt;

/// The first pause after a failure; each further one is twice as long.
const BACKOFF_FIRST_MS: i64 = 2_000;

/// After so many refusals a result is parked: half a minute of them, so that a peer that is just starting and does not
/// know its own mind gets another chance.
pub const REFUSALS_MAX: u32 = 5;

/// After so many refusals that only a changed configuration could turn: the same kind of result will be refused again.
pub const PERMANENT_REFUSALS_MAX: u32 = 3;

/// A result on which the connection broke so often, while others got through in between, is poison for its peer.
pub const BROKEN_MAX: u32 = 8;

/// Why a delivery failed, by what that says about the result itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was said about this result: no connection, no association, no trust.
    Unreachable(String),
    /// The connection broke while this result was under way: abort, silence, garbage, or an end before the response.
    Broken(String),
    /// The peer said no to this very result.
    Refused {
        /// In its words.
        reason: String,
        /// Whether only a changed configuration could turn it.
        permanent: bool,
    },
    /// The peer has no room now.
    Busy(String),
}

impl Failure {
    /// The same failure, saying what was wanted.
    pub fn about(self, what: &str) -> Self {
        let say = |reason: String| format!("{what}: {reason}");
        match self {
            Self::Unreachable(reason) => Self::Unreachable(say(reason)),
            Self::Broken(reason) => Self::Broken(say(reason)),
            Self::Refused { reason, permanent } => Self::Refused { reason: say(reason), permanent },
            Self::Busy(reason) => Self::Busy(say(reason)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => write!(f, "not reached: {reason}"),
            Self::Broken(reason) => write!(f, "no answer: {reason}"),
            Self::Refused { reason, .. } => write!(f, "refused: {reason}"),
            Self::Busy(reason) => write!(f, "busy: {reason}"),
        }
    }
}

/// What happened to a result before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts.
    pub attempts: u32,
    /// How often the peer said no to it.
    pub refusals: u32,
    /// How often the connection broke on it and another result was accepted afterwards.
    pub broken: u32,
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
    let (parked, failures) = match failure {
        Failure::Unreachable(_) | Failure::Busy(_) => (false, history.attempts),
        Failure::Broken(_) => (history.broken >= BROKEN_MAX, history.attempts),
        Failure::Refused { permanent, .. } => {
            let max = if *permanent { PERMANENT_REFUSALS_MAX } else { REFUSALS_MAX };
            (history.refusals + 1 >= max, history.refusals)
        }
    };
    if parked { Fate::Parked } else { Fate::Again { pause_ms: backoff_ms(failures, uid) } }
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
        let history = |attempts, refusals, broken| History { attempts, refusals, broken };
        // failure, history before it, parked
        let cases = [
            (Failure::Unreachable("off".into()), history(1_000, 4, 7), false),
            (Failure::Busy("full".into()), history(1_000, 4, 7), false),
            (Failure::Broken("hung".into()), history(1_000, 0, 0), false),
            (Failure::Broken("hung".into()), history(8, 0, 7), false),
            (Failure::Broken("hung".into()), history(9, 0, 8), true),
            (refused(false), history(1_000, 3, 0), false),
            (refused(false), history(4, 4, 0), true),
            (refused(true), history(1, 1, 0), false),
            (refused(true), history(2, 2, 0), true),
        ];
        for (failure, history, parked) in cases {
            let fate = fate(&failure, history, "1.2.3");
            assert_eq!(fate == Fate::Parked, parked, "{failure} after {history:?}");
        }
    }

    #[test]
    fn a_refusal_after_a_long_silence_is_asked_again_soon() {
        let history = History { attempts: 300, refusals: 0, broken: 0 };
        let Fate::Again { pause_ms } =
            fate(&Failure::Refused { reason: String::new(), permanent: false }, history, "1.2.3")
        else {
            panic!("parked");
        };
        assert!(pause_ms < 3_000, "{pause_ms}");
    }
}
