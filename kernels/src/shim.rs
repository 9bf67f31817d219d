//! The software CUDA device, for tests (feature `shim`).

use crate::device::{Arg, DeviceError};

pub(crate) fn check_arguments(_kernel: &str, _args: &[Arg]) -> Result<(), DeviceError> {
    Ok(())
}
