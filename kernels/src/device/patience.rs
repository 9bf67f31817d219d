//! Waiting for the driver, but never for ever.
//!
//! Owns: how long a wait may take, and how it is made: work on the device by asking again and again, with sleeps between, so that a thread that
//! waits takes no core; calls that may wait inside the driver on a thread of their own, which is left behind if they do not return.
//! Never does: retry, or touch a device that was given up.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Device, DeviceError};

/// Longest wait for a device before it counts as hung. The longest piece of work that is waited for is a batch of 32 slices, about a second on two
/// processor cores (models/README.md) and less on any GPU; twenty times that leaves room for other programs on the same GPU.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Of CUDA's results: "not an error, but must be indicated differently than success".
const NOT_READY: u32 = 600;
/// Short work is done within this, and a sleep takes as long.
const SPIN: Duration = Duration::from_micros(50);
/// Sleeps are this part of the time waited so far: a wait is prolonged by no more.
const SLEEP_PART: u32 = 16;
/// Bounds of a sleep: the timer's own slack, and what nobody notices.
const SLEEP: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// Asks until the answer is not "not ready". `call` names what is waited for.
pub(super) fn poll(device: &Device, call: &'static str, ask: impl Fn() -> u32) -> Result<(), DeviceError> {
    let start = Instant::now();
    loop {
        let answer = device.with(|| match ask() {
            NOT_READY => Ok(false),
            code => super::error::check(call, code).map(|()| true),
        })?;
        if answer {
            return Ok(());
        }
        let (waited, max) = (start.elapsed(), device.wait_max());
        if waited >= max {
            return device.with(|| Err(hung(call, max)));
        }
        if waited < SPIN {
            thread::yield_now();
        } else {
            thread::sleep((waited / SLEEP_PART).clamp(SLEEP[0], SLEEP[1]));
        }
    }
}

/// Makes a call that may wait inside the driver, such as one that frees memory. It does not return within `max`: neither does its thread, which is
/// left to it.
pub(super) fn apart<T: Send + 'static>(
    call: &'static str,
    max: Duration,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<T, DeviceError> {
    let (done, answer) = mpsc::sync_channel(1);
    let run = move || {
        // Nobody may be waiting any more.
        let _ = done.send(work());
    };
    if let Err(error) = thread::Builder::new().name("driver call".into()).spawn(run) {
        return Err(DeviceError::Usage { what: format!("no thread for {call}: {error}") });
    }
    match answer.recv_timeout(max) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(hung(call, max)),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(DeviceError::Usage { what: format!("{call} ended its thread") })
        }
    }
}

fn hung(call: &'static str, max: Duration) -> DeviceError {
    DeviceError::Hung { call, waited_ms: u64::try_from(max.as_millis()).unwrap_or(u64::MAX) }
}
