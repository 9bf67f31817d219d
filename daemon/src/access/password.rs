//! Passwords: what may be one, and their hashes by Argon2id.
//!
//! The parameters are OWASP's (Password Storage Cheat Sheet): 19 MiB, two passes, one lane. A hash takes 22 ms of a core on
//! the machine of the tests. One hash is made at a time: logins must not take memory and cores from an evaluation.
use super::AccessError;
use argon2::password_hash::Error as HashError;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Characters of a password at least.
pub const CHARS_MIN: usize = 10;
/// Bytes of a password at the most: whole sentences, and no burden to hash.
pub const BYTES_MAX: usize = 256;
/// Those who wait for their hash at the most.
const WAITING_MAX: u32 = 16;

/// Makes and compares hashes.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// A hash of nobody's password: what an unknown name is compared with, so that it takes as long as a known one.
    nobodys: String,
    one_at_a_time: Mutex<()>,
    waiting: AtomicU32,
}

impl Passwords {
    /// Takes the time of one hash.
    pub fn new() -> Result<Self, AccessError> {
        let params = Params::new(19 * 1024, 2, 1, None).map_err(|error| AccessError::Hash(error.into()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let (one_at_a_time, waiting) = (Mutex::new(()), AtomicU32::new(0));
        let mut passwords = Self { argon2, nobodys: String::new(), one_at_a_time, waiting };
        let mut nobody_knows = [0; 32];
        getrandom::fill(&mut nobody_knows)?;
        passwords.nobodys = passwords.hash_bytes(&nobody_knows)?;
        Ok(passwords)
    }

    /// A hash of a password, with salt and parameters, as a PHC string.
    pub fn hash(&self, password: &str) -> Result<String, AccessError> {
        self.hash_bytes(password.as_bytes())
    }

    fn hash_bytes(&self, password: &[u8]) -> Result<String, AccessError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        let hash: Result<PasswordHash, HashError> =
            self.alone(|| self.argon2.hash_password_with_salt(password, &salt))?;
        Ok(hash.map_err(AccessError::Hash)?.to_string())
    }

    /// Whether a password is the one of this hash. Without a hash it is not, and that takes as long.
    pub fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, AccessError> {
        let bytes = password.as_bytes();
        let fits = bytes.len() <= BYTES_MAX;
        let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
        match self.alone(|| self.argon2.verify_password(bytes, hash.unwrap_or(&self.nobodys)))? {
            Ok(()) => Ok(fits && hash.is_some()),
            Err(HashError::PasswordInvalid) => Ok(false),
            Err(error) => Err(AccessError::Hash(error)),
        }
    }

    /// Does one thing at a time, and turns away who would wait for long.
    fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<T, AccessError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(AccessError::Wait { seconds: 1 });
        }
        let alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work();
        drop(alone);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(done)
    }
}

/// Whether it may be the password of the user of this name, which is folded.
pub fn check(key: &str, password: &str) -> Result<(), AccessError> {
    if password.chars().count() < CHARS_MIN {
        return Err(AccessError::ShortPassword);
    }
    if password.len() > BYTES_MAX {
        return Err(AccessError::LongPassword);
    }
    if password.trim().to_lowercase() == key {
        return Err(AccessError::PasswordIsName);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn what_may_be_a_password() {
        let cases: &[(&str, bool)] = &[
            ("", false),
            ("123456789", false),
            ("1234567890", true),
            ("äöüäöüäöü", false),
            ("äöüäöüäöüä", true),
            ("badge 4711 X", false),
            ("BADGE 4711 x ", false),
            ("badge 4711 Y", true),
        ];
        for (password, want) in cases {
            assert_eq!(check("badge 4711 x", password).is_ok(), *want, "{password:?}");
        }
        assert!(check("x", &"x".repeat(BYTES_MAX)).is_ok());
        assert!(matches!(check("x", &"x".repeat(BYTES_MAX + 1)), Err(AccessError::LongPassword)));
    }

    #[test]
    fn a_hash_knows_its_password_and_says_its_parameters() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse").unwrap(), "salted");
        for (password, want) in [("correct horse", true), ("correct horsE", false), ("", false)] {
            assert_eq!(passwords.verify(password, Some(&hash)).unwrap(), want, "{password}");
            assert!(!passwords.verify(password, None).unwrap());
        }
        let long = "x".repeat(BYTES_MAX + 1);
        let cut = passwords.hash(&long[..BYTES_MAX]).unwrap();
        assert!(!passwords.verify(&long, Some(&cut)).unwrap(), "not by its first bytes");
        assert!(matches!(passwords.verify("x", Some("x")), Err(AccessError::Hash(_))));
    }

    #[test]
    fn an_unknown_name_takes_as_long_as_a_known_one() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse").unwrap();
        let time = |hash: Option<&str>| {
            let start = Instant::now();
            passwords.verify("wrong password", hash).unwrap();
            start.elapsed()
        };
        // The quickest of some, in turns: other tests run beside this one. Without a hash it would take microseconds.
        let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
        for _ in 0..8 {
            known = known.min(time(Some(&hash)));
            unknown = unknown.min(time(None));
        }
        println!("a password's hash: {known:?}, of nobody {unknown:?}");
        assert!(unknown > known / 4 && unknown < known * 4, "{known:?}, {unknown:?}");
        assert!(known > Duration::from_millis(5), "{known:?} is no work for a guesser");
    }

    #[test]
    fn a_crowd_is_turned_away() {
        let passwords = Passwords::new().unwrap();
        let refused = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let held = passwords.one_at_a_time.lock().unwrap();
            for _ in 0..WAITING_MAX + 4 {
                scope.spawn(|| {
                    if let Err(AccessError::Wait { seconds: 1 }) = passwords.verify("wrong", None) {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while refused.load(Ordering::Relaxed) < 4 {
                std::thread::yield_now();
            }
            drop(held);
        });
        assert_eq!((refused.into_inner(), passwords.waiting.into_inner()), (4, 0));
    }
}
