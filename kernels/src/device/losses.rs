//! Which GPUs this process has lost, and the one way back.
//!
//! Owns: the count of the objects that are left of a lost context, and its reset once there are none. Never does: touch a context that somebody
//! still holds: a reset frees all memory of it, that of the host included.
//!
//! ```text
//! in use ── an error that is final ──▶ lost ── last object dropped, opened again ──▶ reset ── done ──▶ in use
//!                                                                                    └── refused, hung, or too often ──▶ lost for good
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys;

use super::DeviceError;
use super::error::driver;
use super::patience::apart;

/// Resets of one GPU within a [`DAY`]: a GPU that is lost more often is broken, or its driver is.
const RESETS_MAX: u32 = 3;
/// A daemon runs for months.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What this process knows of a GPU.
#[derive(Default)]
struct Record {
    /// Opened devices, lost or not: all share the primary context.
    devices: usize,
    lost: Option<String>,
    resets: u32,
    last_reset: Option<Instant>,
    /// No way back.
    for_good: bool,
}

static RECORDS: Mutex<BTreeMap<sys::CUdevice, Record>> = Mutex::new(BTreeMap::new());

fn records() -> MutexGuard<'static, BTreeMap<sys::CUdevice, Record>> {
    // Counts and texts: whole after any panic.
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a device that is being opened; the context of one that was lost is reset first.
///
/// # Errors
/// [`DeviceError::Gone`] if the GPU was lost and can't be had back, or not yet.
pub(super) fn enter(handle: sys::CUdevice, wait_max: Duration) -> Result<(), DeviceError> {
    let why = {
        let mut records = records();
        let record = records.entry(handle).or_default();
        let Some(why) = record.lost.clone() else {
            record.devices += 1;
            return Ok(());
        };
        if record.for_good {
            return Err(DeviceError::Gone { why, for_good: true });
        }
        if record.devices > 0 {
            let why = format!("{why}; work of before still holds it");
            return Err(DeviceError::Gone { why, for_good: false });
        }
        // Nobody else resets it meanwhile.
        record.devices = 1;
        if record.last_reset.is_some_and(|at| at.elapsed() >= DAY) {
            record.resets = 0;
        }
        record.resets += 1;
        record.last_reset = Some(Instant::now());
        record.for_good = record.resets > RESETS_MAX;
        if record.for_good {
            record.devices = 0;
            return Err(DeviceError::Gone { why, for_good: true });
        }
        why
    };
    let call = "cuDevicePrimaryCtxReset";
    let reset = apart(call, wait_max, move || driver!(cuDevicePrimaryCtxReset_v2(handle)));
    let mut records = records();
    let record = records.entry(handle).or_default();
    match reset {
        Ok(()) => {
            record.lost = None;
            Ok(())
        }
        Err(error) => {
            record.devices = 0;
            record.for_good = true;
            let why = format!("{why}; it can't be reset: {error}");
            record.lost = Some(why.clone());
            Err(DeviceError::Gone { why, for_good: true })
        }
    }
}

/// Notes that a GPU is lost.
pub(super) fn note(handle: sys::CUdevice, why: &str) {
    records().entry(handle).or_default().lost.get_or_insert_with(|| why.to_owned());
}

/// A device is dropped.
pub(super) fn leave(handle: sys::CUdevice) {
    let mut records = records();
    let record = records.entry(handle).or_default();
    record.devices = record.devices.saturating_sub(1);
}
