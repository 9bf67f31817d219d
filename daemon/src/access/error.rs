//! What people are told when the door stays shut.
use super::{NAME_CHARS_MAX, password};
use crate::database::DatabaseError;
use std::path::PathBuf;

/// Why something was not done. The messages are fit for people, and never tell whether it was the name or the password.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No such user, or not this password.
    #[error("the name or the password is wrong")]
    WrongNameOrPassword,
    /// Too many attempts under this name or from this address.
    #[error("too many attempts; try again in {seconds} s")]
    Wait {
        /// After how many seconds the next one is looked at.
        seconds: u64,
    },
    /// Not the code of this box.
    #[error(
        "the setup code is wrong: it is the one in the site's stick; without one, the box's own monitor shows it"
    )]
    WrongSetupCode,
    /// There is a user already, and so no setup code.
    #[error("this box is set up already; log in")]
    SetUpAlready,
    /// What was given is no name.
    #[error(
        "a name has 1 to {NAME_CHARS_MAX} letters, digits, punctuation marks and single spaces between them"
    )]
    BadName,
    /// Too short.
    #[error("a password has at least {} characters", password::CHARS_MIN)]
    ShortPassword,
    /// Too long.
    #[error("a password has at most {} bytes", password::BYTES_MAX)]
    LongPassword,
    /// The name itself.
    #[error("a password must not be the name")]
    PasswordIsName,
    /// A user of this name is there.
    #[error("there is a user {name:?} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// No user of this name is there.
    #[error("there is no user {name:?}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Without an engineer nobody could add users.
    #[error("{name:?} is the last engineer; add another one first")]
    LastEngineer {
        /// The name.
        name: String,
    },
    /// Without an engineer nobody could add users.
    #[error("the first user must be an engineer")]
    FirstIsEngineer,
    /// Enough.
    #[error("there are {max} users already")]
    TooManyUsers {
        /// How many may be.
        max: u32,
    },
    /// The file of the setup code.
    #[error("{}: {source}", path.display())]
    SetupCodeFile {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is kept of a password is no hash of one.
    #[error("the password's hash: {0}")]
    Hash(argon2::password_hash::Error),
    /// The operating system gives no random numbers.
    #[error("random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
