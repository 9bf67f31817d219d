//! The screen's part of the configuration.
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The technician's screen.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Screen {
    /// Address and port to listen on. Beyond loopback it needs `tls`, or `unencrypted = true`.
    pub listen: SocketAddr,
    /// Whether it is served over TLS, with the certificate of `[tls]`; browsers need none of their own.
    #[serde(default)]
    pub tls: bool,
    /// Whether names and pictures of patients may cross the network without TLS: where another box in front of this one
    /// encrypts, or the network is nobody else's.
    #[serde(default)]
    pub unencrypted: bool,
    /// Who sees the list and the studies without a login. Whatever changes anything needs one.
    #[serde(default)]
    pub view_without_login: Viewers,
    /// How much of the patient is shown.
    #[serde(default)]
    pub patient: Patient,
    /// Whether alerts sound, where the browser lets them; each browser can turn it off for itself.
    #[serde(default = "yes")]
    pub sound: bool,
    /// Seconds after which an alert that nobody has acknowledged is escalated.
    #[serde(default = "default_escalation")]
    pub escalate_after_s: f64,
    /// A file with the screen's words in another language; what it leaves out stays English.
    #[serde(default)]
    pub strings: Option<PathBuf>,
}

impl Screen {
    /// A screen at an address, everything else as where nothing is configured.
    pub fn on(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: false,
            unencrypted: false,
            view_without_login: Viewers::default(),
            patient: Patient::default(),
            sound: true,
            escalate_after_s: default_escalation(),
            strings: None,
        }
    }
}

/// Who sees without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Viewers {
    /// Nobody.
    Nobody,
    /// A browser on the box itself.
    #[default]
    Local,
    /// Everybody who reaches the address.
    Everybody,
}

/// How much of the patient is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Patient {
    /// Name, ID and date of birth.
    #[default]
    Full,
    /// Initials and the last digits of the ID.
    Initials,
    /// Nothing: the accession number must do.
    None,
}

fn yes() -> bool {
    true
}
fn default_escalation() -> f64 {
    300.0
}
