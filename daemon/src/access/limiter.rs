//! How often somebody may try: growing pauses after failures, for each name and for each address.
//!
//! Pure, and the time is an argument. Bounded: at [`ENTRIES_MAX`] names, addresses and pairs of them, so that guessing
//! fills no memory. No pause is longer than [`PAUSE_MAX_MS`], and who logged in from an address before is not held up by
//! what others try under their name from elsewhere: nobody can lock a technician out at the console.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// The name of attempts at the setup code; no user's.
pub const SETUP: &str = "\n";
/// The name of attempts under what is no name; no user's.
pub const NO_NAME: &str = "";

/// Failures under a name before there are pauses: people mistype.
const FREE_OF_NAME: u32 = 4;
/// Failures from an address before there are pauses: several people at one console mistype.
const FREE_OF_PEER: u32 = 10;
/// The longest pause: 1,440 guesses a day under a name. A password of 10 characters is safe from that.
const PAUSE_MAX_MS: i64 = 60_000;
/// Without attempts for so long the failures are forgotten.
const FORGET_MS: i64 = 900_000;
/// Names, addresses, and pairs of them, each: 100 bytes.
const ENTRIES_MAX: usize = 4_096;

/// Who tries: under which name, folded, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    name: String,
    peer: IpAddr,
}

impl Attempt {
    /// An IPv6 host chooses its last 64 bits as it likes: they do not count.
    pub fn new(name: &str, peer: IpAddr) -> Self {
        let peer = match peer.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        Self { name: name.to_owned(), peer }
    }
}

/// Failures of one name or address.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last_ms: i64,
    /// Until then nothing is looked at.
    until_ms: i64,
}

/// Names are counted apart from those who logged in from there before.
type NameKey = (String, Option<IpAddr>);

/// All failures that count.
#[derive(Default)]
pub struct Limits {
    names: HashMap<NameKey, Failures>,
    peers: HashMap<IpAddr, Failures>,
    /// Who logged in from where, and when.
    known: HashMap<(String, IpAddr), i64>,
}

impl Limits {
    /// Whether an attempt is looked at now: it counts as failed until [`Limits::succeeded`] is called.
    ///
    /// # Errors
    /// Seconds to wait.
    pub fn admit(&mut self, attempt: &Attempt, now_ms: i64) -> Result<(), u64> {
        let name = self.name_key(attempt);
        let until_ms = [self.names.get(&name), self.peers.get(&attempt.peer)];
        let until_ms = until_ms.into_iter().flatten().map(|failures| failures.until_ms).max().unwrap_or(0);
        if until_ms > now_ms {
            return Err((until_ms - now_ms).unsigned_abs().div_ceil(1_000));
        }
        count(&mut self.names, name, FREE_OF_NAME, now_ms);
        count(&mut self.peers, attempt.peer, FREE_OF_PEER, now_ms);
        Ok(())
    }

    /// The attempt was right after all.
    pub fn succeeded(&mut self, attempt: &Attempt, now_ms: i64) {
        self.names.remove(&self.name_key(attempt));
        // Not forgotten: one's own password is no cover for guessing others'.
        if let Some(failures) = self.peers.get_mut(&attempt.peer) {
            failures.count = failures.count.saturating_sub(1);
            failures.until_ms = 0;
        }
        let pair = (attempt.name.clone(), attempt.peer);
        if self.known.len() >= ENTRIES_MAX && !self.known.contains_key(&pair) {
            let oldest = self.known.iter().min_by_key(|(_, at_ms)| **at_ms).map(|(pair, _)| pair.clone());
            oldest.map(|pair| self.known.remove(&pair));
        }
        self.known.insert(pair, now_ms);
    }

    fn name_key(&self, attempt: &Attempt) -> NameKey {
        let pair = (attempt.name.clone(), attempt.peer);
        let from = self.known.contains_key(&pair).then_some(attempt.peer);
        (pair.0, from)
    }
}

/// Counts a failure, and makes room for it.
fn count<K: Clone + Eq + std::hash::Hash>(map: &mut HashMap<K, Failures>, key: K, free: u32, now_ms: i64) {
    if map.len() >= ENTRIES_MAX && !map.contains_key(&key) {
        map.retain(|_, failures| now_ms - failures.last_ms < FORGET_MS);
        if map.len() >= ENTRIES_MAX {
            // Those who failed most are kept.
            let least = map.iter().min_by_key(|(_, f)| (f.count, f.last_ms)).map(|(key, _)| key.clone());
            least.map(|key| map.remove(&key));
        }
    }
    let failures = map.entry(key).or_insert(Failures { count: 0, last_ms: now_ms, until_ms: 0 });
    if now_ms - failures.last_ms >= FORGET_MS {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last_ms = now_ms;
    failures.until_ms = now_ms + pause_ms(failures.count, free);
}

/// 2, 4, 8 ... seconds after those that are free.
fn pause_ms(failures: u32, free: u32) -> i64 {
    match failures.saturating_sub(free) {
        0 => 0,
        more => (1_000 << more.min(10)).min(PAUSE_MAX_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(name: &str, peer: &str) -> Attempt {
        Attempt::new(name, peer.parse().unwrap())
    }

    #[test]
    fn pauses_grow_to_a_minute_and_no_further() {
        let mut limits = Limits::default();
        let ada = attempt("ada", "10.0.0.1");
        let mut now_ms = 1_000_000;
        for pause_s in [0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(limits.admit(&ada, now_ms), Ok(()));
            if pause_s > 0 {
                assert_eq!(limits.admit(&ada, now_ms), Err(pause_s));
                assert_eq!(limits.admit(&ada, now_ms + pause_s as i64 * 1_000 - 1), Err(1));
            }
            now_ms += pause_s as i64 * 1_000;
        }
        assert_eq!(
            limits.admit(&attempt("ada", "10.0.0.2"), now_ms - 1),
            Err(1),
            "the name is held, from anywhere"
        );
        assert_eq!(limits.admit(&attempt("bob", "10.0.0.2"), now_ms - 1), Ok(()));
        now_ms += FORGET_MS;
        for _ in 0..4 {
            assert_eq!(limits.admit(&ada, now_ms), Ok(()), "forgotten");
        }
    }

    #[test]
    fn an_address_that_tries_many_names_is_held() {
        let mut limits = Limits::default();
        let names: Vec<String> = (0..12).map(|n| format!("user{n}")).collect();
        let held = names.iter().position(|name| limits.admit(&attempt(name, "10.0.0.1"), 0).is_err());
        assert_eq!(held, Some(11));
        // The last 64 bits of IPv6 are the host's to choose; an IPv4 address in IPv6 is itself.
        for (n, name) in names.iter().take(11).enumerate() {
            limits.admit(&attempt(name, &format!("2001:db8::{n}")), 0).unwrap();
        }
        assert!(limits.admit(&attempt("x", "2001:db8::ffff:1"), 0).is_err());
        assert!(limits.admit(&attempt("x", "2001:db8:0:1::1"), 0).is_ok());
        assert!(limits.admit(&attempt("y", "::ffff:10.0.0.1"), 0).is_err());
    }

    #[test]
    fn nobody_locks_a_technician_out_of_the_console() {
        let mut limits = Limits::default();
        let console = attempt("ada", "10.0.0.1");
        limits.admit(&console, 0).unwrap();
        limits.succeeded(&console, 0);
        let mut refused = 0;
        for n in 0..100 {
            refused += u32::from(limits.admit(&attempt("ada", &format!("10.0.1.{n}")), n).is_err());
        }
        assert!(refused >= 90);
        assert_eq!(limits.admit(&console, 100), Ok(()));
    }

    #[test]
    fn a_success_clears_the_name_and_not_the_address() {
        let mut limits = Limits::default();
        let ada = attempt("ada", "10.0.0.1");
        for round in 0..10 {
            for n in 0..9 {
                let other = attempt(&format!("user{round}.{n}"), "10.0.0.1");
                if limits.admit(&other, 0).is_err() {
                    assert_eq!(round, 1);
                    return;
                }
            }
            limits.admit(&ada, 0).unwrap();
            limits.succeeded(&ada, 0);
        }
        panic!("never held");
    }

    #[test]
    fn many_at_a_time_are_no_way_around() {
        let mut limits = Limits::default();
        let admitted = (0..100).filter(|_| limits.admit(&attempt("ada", "10.0.0.1"), 5).is_ok()).count();
        assert_eq!(admitted, 5);
    }

    #[test]
    fn guessing_fills_no_memory_and_the_worst_are_remembered() {
        let mut limits = Limits::default();
        for _ in 0..5 {
            limits.admit(&attempt("ada", "10.0.0.1"), 0).unwrap();
        }
        for n in 0..10_000_u32 {
            let peer = IpAddr::from((0x0b00_0000 + n).to_be_bytes());
            limits.admit(&Attempt::new(&format!("user{n}"), peer), 1).unwrap();
            limits.succeeded(&Attempt::new(&format!("well{n}"), peer), 1);
        }
        let sizes = [limits.names.len(), limits.peers.len(), limits.known.len()];
        assert!(sizes.iter().all(|size| *size <= ENTRIES_MAX), "{sizes:?}");
        assert!(limits.admit(&attempt("ada", "10.0.0.9"), 1).is_err(), "its failures count still");
    }
}
