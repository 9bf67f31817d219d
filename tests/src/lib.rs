//! The real daemon against real DICOM peers: what the tests share.
//!
//! Owns starting and ending processes (the daemon, DCMTK, Orthanc, Python), and making studies for them to send. It
//! never looks into the daemon: what a test knows comes from its database, its log and what its peers received.
//!
//! The environment: `TRIAGED_BIN` names a binary to test instead of building one, `TRIAGED_PYTHON` a Python with pydicom
//! and pynetdicom, `TRIAGED_DATA` the folder with real CT; `TRIAGED_REQUIRE_PEERS=1` makes a missing peer a failure.
#![allow(clippy::unwrap_used)] // Test code throughout.
pub mod browser;
pub mod certificates;
pub mod daemon;
pub mod hostile;
pub mod http;
pub mod misbehaving;
pub mod orthanc;
pub mod peers;
pub mod slices;
pub mod stick;
pub mod tables;

use std::time::{Duration, Instant};

/// Longest wait for anything: a loaded machine is slow, but a hang must end.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Asks until there is an answer.
///
/// # Panics
/// After [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
