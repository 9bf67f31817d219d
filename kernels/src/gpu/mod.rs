//! Launchers of the kernels in `kernels/cu/`.
//!
//! Owns: the sizes of grids and blocks, and the check of every buffer against what a kernel touches. Never does: allocate more than its own tables,
//! wait, or compute what the CPU reference computes otherwise. Each has a function of the bytes that it must move, for the GPU suite.

pub mod ingest;
pub mod layers;
pub mod masks;
pub mod pyramid;

use crate::device::{Buffer, DeviceError};

/// Most blocks along the second or third dimension of a grid (CUDA programming guide, compute capabilities).
const GRID_YZ_MAX: usize = 65_535;

/// Checks that `buffer` has the bytes that a kernel touches.
fn holds(what: &str, buffer: &Buffer, bytes: usize) -> Result<(), DeviceError> {
    if buffer.bytes() >= bytes {
        return Ok(());
    }
    Err(usage(format!("{what}: a buffer of {} bytes where {bytes} are needed", buffer.bytes())))
}

fn usage(what: String) -> DeviceError {
    DeviceError::Usage { what }
}

/// A size as a kernel takes it.
fn int(value: usize) -> Result<i32, DeviceError> {
    i32::try_from(value).map_err(|_| usage(format!("a size of {value}")))
}

fn blocks(count: usize, each: usize) -> u32 {
    count.div_ceil(each) as u32
}
