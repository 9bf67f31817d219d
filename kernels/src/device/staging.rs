//! The page-locked memory through which a stream uploads ordinary memory.
//!
//! Two halves take turns: one is filled by the host while the device still reads the other.

use cudarc::driver::sys;

use super::memory::Pinned;
use super::stream::Event;
use super::{Device, DeviceError};

/// Large enough that a copy costs more than queueing it, small enough to have one per stream.
const HALF_BYTES: usize = 4 << 20;
/// Pieces start at cache lines.
const ALIGNMENT: usize = 64;

pub(super) struct Staging {
    memory: Pinned,
    /// The half being filled, and how far.
    half: usize,
    filled: usize,
    /// When the device has read each half.
    read: [Option<Event>; 2],
}

/// Room for part of an upload.
pub(super) struct Piece {
    pub(super) start: *mut u8,
    pub(super) bytes: usize,
}

impl Staging {
    pub(super) fn new(device: &Device) -> Result<Staging, DeviceError> {
        Ok(Staging { memory: device.pinned(2 * HALF_BYTES)?, half: 0, filled: 0, read: [None, None] })
    }

    /// The next room for up to `bytes` (more than none), that no copy queued on `stream` still reads. May wait.
    pub(super) fn place(
        &mut self,
        bytes: usize,
        device: &Device,
        stream: sys::CUstream,
    ) -> Result<Piece, DeviceError> {
        if self.filled >= HALF_BYTES {
            self.read[self.half] = Some(Event::record(device, stream)?);
            self.half = 1 - self.half;
            self.filled = 0;
            if let Some(read) = self.read[self.half].take() {
                read.synchronize()?;
            }
        }
        let bytes = bytes.min(HALF_BYTES - self.filled);
        let start = self.memory.as_ptr().wrapping_add(self.half * HALF_BYTES + self.filled);
        self.filled = (self.filled + bytes).next_multiple_of(ALIGNMENT);
        Ok(Piece { start, bytes })
    }

    /// The stream is idle: all of it is free.
    pub(super) fn reset(&mut self) {
        self.half = 0;
        self.filled = 0;
        self.read = [None, None];
    }
}
