//! A clock that never goes back, and never falls behind the time that really passed.
//!
//! Sessions and pauses go by it: an appliance's clock is set by whoever feels like it, and neither may a session last
//! longer nor a pause for ever because of that. A clock that is set ahead ends sessions early, which is safe.
use std::time::Instant;

/// How far before the last use of a session the clock may be when the daemon starts: the drift of the machine's clock
/// while it was off. Further back, and sessions are over.
const BEHIND_MAX_MS: i64 = 300_000;

/// See the module.
pub struct Clock {
    /// When a session was last used before the start.
    before_ms: Option<i64>,
    /// A moment, and what time it was then.
    base: Option<(Instant, i64)>,
}

impl Clock {
    /// One that goes on after `before_ms`, if the machine's clock is not far behind it.
    pub fn starting_after(before_ms: Option<i64>) -> Self {
        Self { before_ms, base: None }
    }

    /// The steady time of `instant`, when the machine's clock says `now_ms`; both in milliseconds.
    pub fn steady_ms(&mut self, instant: Instant, now_ms: i64) -> i64 {
        let least_ms = match self.base {
            Some((then, ms)) => ms + instant.saturating_duration_since(then).as_millis() as i64,
            None => self.before_ms.filter(|before| *before <= now_ms + BEHIND_MAX_MS).unwrap_or(now_ms),
        };
        let steady_ms = now_ms.max(least_ms);
        self.base = Some((instant, steady_ms));
        steady_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_goes_on_whatever_the_machines_clock_says() {
        let start = Instant::now();
        let mut clock = Clock::starting_after(None);
        // Seconds that really passed, what the clock says then, and what counts, in seconds.
        let cases = [
            (0, 1_000, 1_000),
            (10, 1_010, 1_010),
            (20, 100, 1_020),      // set back by 15 minutes
            (3_620, 3_700, 4_620), // an hour later
            (3_630, 9_000, 9_000), // set ahead
            (3_640, 3_720, 9_010), // and back again
        ];
        for (passed_s, says_s, want_s) in cases {
            let instant = start + Duration::from_secs(passed_s);
            assert_eq!(clock.steady_ms(instant, says_s * 1_000), want_s * 1_000, "after {passed_s} s");
        }
    }

    #[test]
    fn a_start_goes_on_where_the_last_run_was_unless_that_is_far_ahead() {
        for (before_ms, want_ms) in [
            (None, 1_000_000),
            (Some(900_000), 1_000_000),
            (Some(1_200_000), 1_200_000),
            (Some(1_300_001), 1_000_000),
        ] {
            assert_eq!(
                Clock::starting_after(before_ms).steady_ms(Instant::now(), 1_000_000),
                want_ms,
                "{before_ms:?}"
            );
        }
    }
}
