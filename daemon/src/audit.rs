//! The audit trail: who logged in, looked at a patient, acknowledged an alert, changed a user or had results sent again, and when the box ran.
//!
//! Owns what is an event, and that it is in the database before anything else happens with it; [`Collector`] sends it to the
//! site's audit repository as DICOM audit messages (PS3.15 section A.5) over syslog, later if need be. It names a patient
//! by ID, never by name, and never holds anything up: what can't be written is an error in the log, because a flagged
//! study must be seen whatever the trail does.
mod collector;
mod message;
mod syslog;
#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "the appliance does not collect yet")]
pub use collector::Collector;

use crate::database::Database;
use crate::intake::now_ms;
use log::error;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

/// Views of one study by one user within it are one event: the screen refreshes itself.
const SAME_VIEW_MS: i64 = 600_000;
/// Attempts of one peer to log in that are refused unseen are one event within it: they cost nothing to make.
const SAME_REFUSAL_MS: i64 = 60_000;
/// Events that are remembered as the same: 200 bytes each.
const RECENT_MAX: usize = 4_096;
/// Characters of a text that somebody else wrote: a patient ID has 64 (PS3.5 section 6.2), a UID too.
const FOREIGN_MAX: usize = 128;
/// Characters of an event's own text.
const TEXT_MAX: usize = 1_000;

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The user's name; `None` if nobody was logged in.
    pub user: Option<String>,
    /// From where; `None` at the box itself.
    pub peer: Option<IpAddr>,
}

/// A study, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Study Instance UID.
    pub study_uid: String,
    /// Patient ID, if the study has one.
    pub patient_id: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The daemon started.
    Start,
    /// The daemon stopped.
    Stop,
    /// Somebody logged in, or tried to.
    Login,
    /// Somebody logged out.
    Logout,
    /// Somebody looked at the list, and so at the patients on it.
    ViewList,
    /// Somebody looked at a patient's study.
    View(Subject),
    /// Somebody acknowledged the alert of a study.
    Acknowledge(Subject),
    /// Somebody added or removed a user, or changed a password.
    ChangeUser {
        /// Whose account.
        name: String,
    },
    /// Somebody had parked results sent again.
    Resend {
        /// To whom.
        destination: String,
    },
}

impl Action {
    /// Its name in the database.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::ViewList => "view_list",
            Self::View(_) => "view",
            Self::Acknowledge(_) => "acknowledge",
            Self::ChangeUser { .. } => "change_user",
            Self::Resend { .. } => "resend",
        }
    }
}

/// How it went (EventOutcomeIndicator, PS3.15 table A.5.2-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// Not done, as happens: a mistyped password.
    Minor,
    /// Not done, and worth a look: an attempt too many.
    Serious,
}

impl Outcome {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Minor => "minor",
            Self::Serious => "serious",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who did it.
    pub who: Who,
    /// What.
    pub action: Action,
    /// How it went.
    pub outcome: Outcome,
    /// What else there is to say; may be empty. Never a patient's name.
    pub text: String,
}

impl Event {
    /// Something that the daemon did by itself.
    pub fn of_the_daemon(action: Action) -> Self {
        Self { at_ms: now_ms(), who: Who::default(), action, outcome: Outcome::Success, text: String::new() }
    }
}

/// Takes events down.
pub struct Trail {
    database: Arc<Database>,
    /// Whether a collector is to get them.
    sends: bool,
    /// `None` when it is stopped.
    wake: Mutex<Option<SyncSender<()>>>,
    /// Events of which more of the same are no further ones, and when they were taken down.
    recent: Mutex<HashMap<(Who, Action), i64>>,
}

impl Trail {
    /// A trail, and what wakes the [`Collector`]. `sends`: whether the site has a collector; what is taken down without one
    /// is never sent.
    pub fn new(database: Arc<Database>, sends: bool) -> (Self, Receiver<()>) {
        // One is enough: awake, it takes all that waits.
        let (wake, woken) = mpsc::sync_channel(1);
        (Self { database, sends, wake: Mutex::new(Some(wake)), recent: Mutex::default() }, woken)
    }

    /// Takes an event down: on the disk when this returns, unless it is the same as one shortly before. Takes as long as a
    /// transaction, and never waits for the collector.
    pub fn record(&self, event: &Event) {
        if self.is_repeated(event) {
            return;
        }
        let event = bounded(event);
        if let Err(error) = self.database.record_audit(&event, self.sends) {
            error!(
                "the audit trail misses an event ({}, {}): {error}",
                event.action.name(),
                event.outcome.name()
            );
        }
        if let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner) {
            // Full: it is about to wake. Closed: nobody collects, and the row stays.
            let _ = wake.try_send(());
        }
    }

    /// Ends the collector, which first tries to send what waits.
    pub fn stop(&self) {
        self.wake.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_repeated(&self, event: &Event) -> bool {
        let (who, span_ms) = match (&event.action, event.outcome) {
            (Action::View(_) | Action::ViewList, Outcome::Success) if event.who.user.is_some() => {
                (Who { user: event.who.user.clone(), peer: None }, SAME_VIEW_MS)
            }
            (Action::View(_) | Action::ViewList, Outcome::Success) => (event.who.clone(), SAME_VIEW_MS),
            (Action::Login, Outcome::Serious) => (event.who.clone(), SAME_REFUSAL_MS),
            _ => return false,
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (who, event.action.clone());
        // A clock that was set back makes another event: one too many is better than one too few.
        if recent.get(&key).is_some_and(|at_ms| (0..span_ms).contains(&(event.at_ms - at_ms))) {
            return true;
        }
        if recent.len() >= RECENT_MAX {
            recent.retain(|_, at_ms| (0..SAME_VIEW_MS).contains(&(event.at_ms - *at_ms)));
            if recent.len() >= RECENT_MAX {
                recent.clear();
            }
        }
        recent.insert(key, event.at_ms);
        false
    }
}

/// With the texts of others cut: what is too long for their attribute is no worse for ending there.
fn bounded(event: &Event) -> Event {
    let cut = |text: &str, max: usize| text.chars().take(max).collect::<String>();
    let subject = |s: &Subject| Subject {
        study_uid: cut(&s.study_uid, FOREIGN_MAX),
        patient_id: s.patient_id.as_deref().filter(|id| !id.is_empty()).map(|id| cut(id, FOREIGN_MAX)),
    };
    let action = match &event.action {
        Action::View(s) => Action::View(subject(s)),
        Action::Acknowledge(s) => Action::Acknowledge(subject(s)),
        other => other.clone(),
    };
    Event { action, text: cut(&event.text, TEXT_MAX), ..event.clone() }
}
