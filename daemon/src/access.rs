//! Who may do what on the screen: users with roles, passwords, sessions, and the code that sets a new box up.
//!
//! Owns the rules and their order, and tells the audit trail of every login, logout and change of a user, so that no
//! caller can forget to. It never speaks HTTP, never logs a password, a token or a setup code, and has no default
//! password: a new box lets nobody in but who read the code at the box.
//!
//! ```text
//! no user ──setup code, or `triaged users add`──▶ an engineer ──▶ more users; never again without an engineer
//!   a setup code of the site's that was not used before ──▶ a further engineer, once: for who lost the only password
//! login ──▶ session ──8 h unused, 24 h old, logout, a new password, the user removed──▶ gone
//! ```
//! Names are compared without regard to case, by Unicode's lower case mapping (`str::to_lowercase`).
mod clock;
mod error;
mod limiter;
mod password;
mod setup_code;
#[cfg(test)]
mod tests;

pub use error::AccessError;
pub use setup_code::{
    Setup, line as setup_code_line, of_now as read_setup_code, remove_sites as remove_sites_setup_code,
};

use crate::audit::{Action, Event, Outcome, Trail, Who};
use crate::database::{Added, By, Database, Removed};
use base64ct::{Base64UrlUnpadded, Encoding};
use clock::Clock;
use limiter::Limits;
use log::warn;
use password::Passwords;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use subtle::ConstantTimeEq;

/// Characters of a user's name at the most.
pub const NAME_CHARS_MAX: usize = 64;
/// Users of a box at the most: every technician and engineer of a large department, many times over.
pub const USERS_MAX: u32 = 1_000;
/// Sessions of one user at the most; beyond it the one that was used least recently ends. A console, a few browsers.
pub const SESSIONS_PER_USER_MAX: u32 = 16;
/// How long a session lasts unused: a technician's shift.
pub const SESSION_IDLE_MS: i64 = 8 * 3_600_000;
/// How long a session lasts at the most.
pub const SESSION_MAX_MS: i64 = 24 * 3_600_000;
/// How often the use of a session is written down: the screen asks every few seconds, and each write is synced.
const SEEN_EVERY_MS: i64 = 60_000;

/// What a user may do. Each may what those before it may: compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Sees studies and acknowledges alerts.
    Technician,
    /// Also changes users.
    Engineer,
}

impl Role {
    /// Its name in the database and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Technician => "technician",
            Self::Engineer => "engineer",
        }
    }
}

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// 1 to [`NAME_CHARS_MAX`] letters, digits, spaces and ASCII punctuation, as it was written when the user was added; may
    /// be a badge number.
    pub name: String,
    /// What this user may do.
    pub role: Role,
}

/// Somebody who is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub user: User,
    /// What every form of this session must carry.
    pub csrf: String,
    /// When it ends if it is not used, by the clock that the caller goes by, in milliseconds since 1970.
    pub expires_ms: i64,
}

/// The door.
pub struct Access {
    database: Arc<Database>,
    trail: Arc<Trail>,
    setup_code: PathBuf,
    passwords: Passwords,
    limits: Mutex<Limits>,
    clock: Mutex<Clock>,
}

impl Access {
    /// `setup_code_path` is where the code of a new box is kept: beside the database. Takes the time of one password's hash.
    ///
    /// # Errors
    /// [`AccessError`]: the operating system gives no random numbers, or the database can't be read.
    pub fn new(
        database: Arc<Database>,
        setup_code_path: PathBuf,
        trail: Arc<Trail>,
    ) -> Result<Self, AccessError> {
        let clock = Mutex::new(Clock::starting_after(database.newest_session_ms()?));
        let limits = Mutex::new(Limits::default());
        Ok(Self { database, trail, setup_code: setup_code_path, passwords: Passwords::new()?, limits, clock })
    }

    /// Whether there is no user yet.
    pub fn needs_setup(&self) -> Result<bool, AccessError> {
        Ok(!self.database.has_users()?)
    }

    /// The code that makes an engineer now, drawn if there is no user and no code; `None`, and no file is left, where none does.
    /// For the daemon, at its start; [`Access::read_setup_code`] reads it beside the daemon.
    pub fn setup_code(&self) -> Result<Option<(Setup, String)>, AccessError> {
        if self.needs_setup()? {
            return Ok(Some((Setup::First, setup_code::read_or_draw(&self.setup_code)?)));
        }
        let there = setup_code::read(&self.setup_code)?;
        self.database.settle_setup_codes(there.as_deref().filter(|code| setup_code::is_sites(code)))?;
        let code = self.read_setup_code()?;
        if code.is_none() {
            self.forget_setup_code();
        }
        Ok(code)
    }

    /// The code that is there, and what it is good for; `None` if for nothing.
    pub fn read_setup_code(&self) -> Result<Option<(Setup, String)>, AccessError> {
        read_setup_code(&self.database, &self.setup_code)
    }

    /// Where the code is kept.
    pub fn setup_code_path(&self) -> &Path {
        &self.setup_code
    }

    /// Makes an engineer, the first one or by a new code of the site's a further one, for whoever knows the code, and logs them in: the token of
    /// their session, and the session. The code is void afterwards.
    pub fn setup(
        &self,
        code: &str,
        name: &str,
        password: &str,
        peer: IpAddr,
        now_ms: i64,
    ) -> Result<(String, Session), AccessError> {
        let nobody = Who { user: None, peer: Some(peer) };
        let attempt = limiter::Attempt::new(limiter::SETUP, peer);
        self.admit(&attempt, &nobody, now_ms)?;
        let there = self.read_setup_code()?;
        if there.is_none() && !self.needs_setup()? {
            return Err(AccessError::SetUpAlready);
        }
        let Some((setup, known)) = there.filter(|(_, known)| setup_code::matches(known, code)) else {
            self.tell(&nobody, Action::Login, Outcome::Minor, "a wrong setup code", now_ms);
            return Err(AccessError::WrongSetupCode);
        };
        // Whoever has the code may choose a name and a password as often as it takes.
        self.limits().succeeded(&attempt, self.steady(now_ms));
        let by = match setup {
            Setup::First => By::FirstCode,
            Setup::Another => By::NewCode(known),
        };
        self.add(name, Role::Engineer, password, &nobody, &by, now_ms)?;
        self.login(name, password, peer, now_ms)
    }

    /// Logs somebody in: the token of their session, 43 characters of base64url, and the session. An unknown name takes as
    /// long as a known one.
    pub fn login(
        &self,
        name: &str,
        password: &str,
        peer: IpAddr,
        now_ms: i64,
    ) -> Result<(String, Session), AccessError> {
        let key = fold(name);
        let attempt = limiter::Attempt::new(key.as_deref().unwrap_or(limiter::NO_NAME), peer);
        let nobody = Who { user: None, peer: Some(peer) };
        self.admit(&attempt, &nobody, now_ms)?;
        let found = match &key {
            Some(key) => self.database.password_of(key)?,
            None => None,
        };
        let right = self.passwords.verify(password, found.as_ref().map(|(_, hash)| hash.as_str()))?;
        // Not the name that was typed, unless it is a user's: people type their password there.
        let who = Who { user: found.as_ref().map(|(user, _)| user.name.clone()), peer: Some(peer) };
        let (Some(key), Some((user, hash)), true) = (key, found, right) else {
            let what = if who.user.is_some() { "a wrong password" } else { "an unknown name" };
            self.tell(&who, Action::Login, Outcome::Minor, what, now_ms);
            return Err(AccessError::WrongNameOrPassword);
        };
        let token = new_token()?;
        let now = self.steady(now_ms);
        let oldest = (now - SESSION_MAX_MS, now - SESSION_IDLE_MS);
        if !self.database.begin_session(&digest(&token), &key, &hash, now, oldest, SESSIONS_PER_USER_MAX)? {
            // The password was changed, or the user removed, meanwhile.
            return Err(AccessError::WrongNameOrPassword);
        }
        self.limits().succeeded(&attempt, now);
        self.tell(&who, Action::Login, Outcome::Success, "", now_ms);
        let session = Session { user, csrf: csrf(&token), expires_ms: now_ms + SESSION_IDLE_MS };
        Ok((token, session))
    }

    /// Whose session it is; `None` if it is nobody's (any more). Using it prolongs it: for what a person asked for.
    pub fn session(&self, token: &str, now_ms: i64) -> Result<Option<Session>, AccessError> {
        self.look_up(token, now_ms, true)
    }

    /// The same for what the page does by itself, which must not keep a session alive that nobody uses.
    pub fn peek(&self, token: &str, now_ms: i64) -> Result<Option<Session>, AccessError> {
        self.look_up(token, now_ms, false)
    }

    fn look_up(&self, token: &str, now_ms: i64, used: bool) -> Result<Option<Session>, AccessError> {
        let digest = digest(token);
        let Some((user, begun_ms, mut seen_ms)) = self.database.session(&digest)? else { return Ok(None) };
        let now = self.steady(now_ms);
        if left_ms(begun_ms, seen_ms, now).is_none() {
            self.database.end_session(&digest)?;
            return Ok(None);
        }
        if used && now - seen_ms >= SEEN_EVERY_MS {
            self.database.saw_session(&digest, now)?;
            seen_ms = now;
        }
        let left = left_ms(begun_ms, seen_ms, now);
        Ok(left.map(|left| Session { user, csrf: csrf(token), expires_ms: now_ms + left }))
    }

    /// Ends a session; one that is nobody's is left alone.
    pub fn logout(&self, token: &str, peer: IpAddr, now_ms: i64) -> Result<(), AccessError> {
        if let Some(name) = self.database.end_session(&digest(token))? {
            let who = Who { user: Some(name), peer: Some(peer) };
            self.tell(&who, Action::Logout, Outcome::Success, "", now_ms);
        }
        Ok(())
    }

    /// Whether a form carries what the session's forms carry; in constant time.
    pub fn csrf_matches(session: &Session, given: &str) -> bool {
        session.csrf.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// All users, by name.
    pub fn users(&self) -> Result<Vec<User>, AccessError> {
        Ok(self.database.users()?)
    }

    /// Adds a user. The first one is an engineer, and makes the setup code void.
    pub fn add_user(
        &self,
        name: &str,
        role: Role,
        password: &str,
        by: &Who,
        now_ms: i64,
    ) -> Result<(), AccessError> {
        self.add(name, role, password, by, &By::User, now_ms)
    }

    fn add(
        &self,
        name: &str,
        role: Role,
        password: &str,
        who: &Who,
        by: &By,
        now_ms: i64,
    ) -> Result<(), AccessError> {
        let name = name.trim();
        let key = fold(name).ok_or(AccessError::BadName)?;
        password::check(&key, password)?;
        let hash = self.passwords.hash(password)?;
        let user = User { name: name.to_owned(), role };
        // Whoever is first makes the code void that the site brings at each start.
        let code = setup_code::read(&self.setup_code)?.filter(|code| setup_code::is_sites(code));
        match self.database.add_user(&key, &user, &hash, by, code.as_deref(), USERS_MAX)? {
            Added::Yes { code_is_void } => {
                if code_is_void {
                    self.forget_setup_code();
                }
            }
            Added::Exists => return Err(AccessError::Exists { name: name.to_owned() }),
            Added::Void => return Err(AccessError::SetUpAlready),
            Added::NoEngineer => return Err(AccessError::FirstIsEngineer),
            Added::TooMany => return Err(AccessError::TooManyUsers { max: USERS_MAX }),
        }
        let how = if matches!(by, By::NewCode(_)) { ", by a new setup code of the site's" } else { "" };
        let text = format!("added as {}{how}", role.name());
        self.tell(who, Action::ChangeUser { name: user.name }, Outcome::Success, &text, now_ms);
        Ok(())
    }

    /// Gives a user another password, and ends their sessions.
    pub fn set_password(&self, name: &str, password: &str, by: &Who, now_ms: i64) -> Result<(), AccessError> {
        let unknown = || AccessError::Unknown { name: name.trim().to_owned() };
        let key = fold(name).ok_or_else(unknown)?;
        password::check(&key, password)?;
        let hash = self.passwords.hash(password)?;
        let name = self.database.set_password(&key, &hash)?.ok_or_else(unknown)?;
        self.tell(by, Action::ChangeUser { name }, Outcome::Success, "a new password", now_ms);
        Ok(())
    }

    /// Removes a user, and ends their sessions; never the last engineer.
    pub fn remove_user(&self, name: &str, by: &Who, now_ms: i64) -> Result<(), AccessError> {
        let unknown = || AccessError::Unknown { name: name.trim().to_owned() };
        match self.database.remove_user(&fold(name).ok_or_else(unknown)?)? {
            Removed::Yes { name } => {
                self.tell(by, Action::ChangeUser { name }, Outcome::Success, "removed", now_ms);
                Ok(())
            }
            Removed::Unknown => Err(unknown()),
            Removed::LastEngineer => Err(AccessError::LastEngineer { name: name.trim().to_owned() }),
        }
    }

    /// Counts an attempt before it is made, so that many at a time are no way around.
    fn admit(&self, attempt: &limiter::Attempt, who: &Who, now_ms: i64) -> Result<(), AccessError> {
        let now = self.steady(now_ms);
        let admitted = self.limits().admit(attempt, now);
        admitted.map_err(|seconds| {
            self.tell(who, Action::Login, Outcome::Serious, "too many attempts", now_ms);
            AccessError::Wait { seconds }
        })
    }

    fn tell(&self, who: &Who, action: Action, outcome: Outcome, text: &str, now_ms: i64) {
        let text = text.to_owned();
        self.trail.record(&Event { at_ms: now_ms, who: who.clone(), action, outcome, text });
    }

    fn forget_setup_code(&self) {
        // It is void all the same: the database knows.
        if let Err(error) = setup_code::remove(&self.setup_code) {
            warn!("{} is of no use any more and not deleted: {error}", self.setup_code.display());
        }
    }

    fn steady(&self, now_ms: i64) -> i64 {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).steady_ms(Instant::now(), now_ms)
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What names are compared by; `None` for what is no name.
fn fold(name: &str) -> Option<String> {
    let name = name.trim();
    let legal = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_punctuation();
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    (fits && name.chars().all(legal) && !name.contains("  ")).then(|| name.to_lowercase())
}

/// How long a session lasts if it is not used; `None` if it is over. What began or was used ahead of our time did so before
/// the clock was set back: how long ago, nobody knows, and so it is over.
fn left_ms(begun_ms: i64, seen_ms: i64, now_ms: i64) -> Option<i64> {
    let left = (begun_ms + SESSION_MAX_MS).min(seen_ms + SESSION_IDLE_MS) - now_ms;
    (begun_ms <= now_ms && seen_ms <= now_ms && left > 0).then_some(left)
}

/// 256 bits.
fn new_token() -> Result<String, AccessError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Base64UrlUnpadded::encode_string(&bytes))
}

/// What the database has of a token: who reads it can't log in with it.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Of the token, which no page shows; nobody gets from it to the token.
fn csrf(token: &str) -> String {
    Base64UrlUnpadded::encode_string(&Sha256::new().chain_update("csrf ").chain_update(token).finalize())
}
