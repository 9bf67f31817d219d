//! What a GPU can answer instead of a result, and which of it is final.

use std::ffi::CStr;

use cudarc::driver::sys;
use thiserror::Error;

/// Errors of a device and of its streams. Every message ends with what to do where there is something to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// libcuda is absent or does not start.
    #[error("no CUDA driver ({what}): install NVIDIA's driver, or name the cpu engine in the configuration")]
    NoDriver {
        /// What was looked for, or the driver's own answer.
        what: String,
    },
    /// The driver is older than the functions that we call.
    #[error(
        "CUDA driver {version} is older than {oldest}: update NVIDIA's driver (JetPack 5 or newer on a Jetson)"
    )]
    OldDriver {
        /// The driver's version: 1000 × major + 10 × minor.
        version: u32,
        /// The oldest that serves, in the same form.
        oldest: u32,
    },
    /// There is no GPU of that number.
    #[error(
        "no GPU number {ordinal}: the driver shows {count} (nvidia-smi -L lists them; CUDA_VISIBLE_DEVICES hides some)"
    )]
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// Our kernels were not built for this GPU.
    #[error(
        "no kernels for compute capability {}.{}: built are {built} (add it to `cargo xtask cubins`)",
        compute_capability.0, compute_capability.1
    )]
    NoKernels {
        /// Major and minor number of the GPU.
        compute_capability: (u32, u32),
        /// The architectures that are there.
        built: String,
    },
    /// The loaded module has no kernel of this name.
    #[error(
        "no kernel {kernel} in the loaded module: the cubins are older than the program (`cargo xtask cubins`)"
    )]
    NoKernel {
        /// Its name.
        kernel: String,
    },
    /// An allocation would exceed the memory that this device was opened with.
    #[error(
        "device memory: {asked} bytes asked with {used} of {max} in use: raise the engine's memory limit or lower its batch"
    )]
    Budget {
        /// Bytes asked for.
        asked: u64,
        /// Bytes in use.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The GPU has no memory left for an allocation within our own limit.
    #[error(
        "device memory: the GPU refused {asked} bytes with {used} in use by us: another program holds the rest (nvidia-smi)"
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes in use by this device object.
        used: u64,
    },
    /// A copy or launch does not fit what it was given.
    #[error("{what}")]
    Usage {
        /// The sizes, or the call that may not happen now.
        what: String,
    },
    /// The device did not finish in time, or the driver did not return.
    #[error("{call}: the GPU does not answer since {:.1} s: it hangs, and is given up", *waited_ms as f64 / 1e3)]
    Hung {
        /// What was waited for.
        call: &'static str,
        /// How long.
        waited_ms: u64,
    },
    /// The GPU was lost before; no call is made on it any more.
    #[error("the GPU was lost ({why}){}", if *for_good { ": restart the daemon; if that does not help, the machine" } else { "" })]
    Gone {
        /// How it was lost.
        why: String,
        /// A reset did not help, or not for long: only a new process may get it back.
        for_good: bool,
    },
    /// The driver can't load our kernels.
    #[error(
        "CUDA driver {}.{} can't load kernels that CUDA {}.{} built for compute capability {}.{}: update NVIDIA's driver to one for CUDA {}.0 or newer",
        driver.0, driver.1, built_by.0, built_by.1, compute_capability.0, compute_capability.1, built_by.0
    )]
    OldDriverForKernels {
        /// CUDA release of the driver, major and minor.
        driver: (u32, u32),
        /// CUDA release of the kernels' compiler.
        built_by: (u32, u32),
        /// Major and minor number of the GPU.
        compute_capability: (u32, u32),
    },
    /// Any other answer of the driver.
    #[error("{call}: {what} (CUDA error {code}){}", if lost(*code) { ": the GPU is lost" } else { "" })]
    Driver {
        /// The driver function.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
        /// The driver's text for it.
        what: String,
    },
}

impl DeviceError {
    /// True if the context is lost (ECC error, illegal address, failed launch, device removed, a hang): nothing else
    /// will work in it. [`Device::open`](super::Device::open) makes a new one once everything of the old one is dropped.
    pub fn is_lost(&self) -> bool {
        match self {
            DeviceError::Driver { code, .. } => lost(*code),
            DeviceError::Hung { .. } | DeviceError::Gone { .. } => true,
            _ => false,
        }
    }
}

/// Results after which CUDA demands that "the process must be terminated and relaunched", and those of a device or
/// driver that is gone (CUDA driver API, `CUresult`).
fn lost(code: u32) -> bool {
    match code {
        4 => true,               // deinitialised: the driver is shutting down
        46 => true,              // device unavailable
        201 | 709 => true,       // invalid context, context destroyed
        214 | 220 | 226 => true, // uncorrectable ECC, NVLink, contained hardware error
        304 => true,             // operating system call failed
        700 | 702 => true,       // illegal address, launch timeout
        710 | 714..=719 => true, // assert, stack, instruction, alignment, address space, program counter, launch
        721 => true,             // tensor memory leak
        999 => true,             // unknown
        _ => false,
    }
}

/// The driver's answer as a result; `call` names the function for the message.
pub(super) fn check(call: &'static str, code: u32) -> Result<(), DeviceError> {
    if code == 0 { Ok(()) } else { Err(DeviceError::Driver { call, code, what: error_text(code) }) }
}

/// Name and explanation of a `CUresult` by the driver itself, which knows codes newer than our headers.
fn error_text(code: u32) -> String {
    type Text = unsafe extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32;
    let ask = |function: &[u8]| {
        // SAFETY: a result code exists, so the library is loaded; both functions have this signature in every CUDA
        // release (a code is a C enum, passed as u32), and store a pointer to a static string, or null.
        unsafe {
            let function = sys::culib().get::<Text>(function).ok()?;
            let mut text = std::ptr::null();
            if function(code, &mut text) != 0 || text.is_null() {
                return None;
            }
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    match (ask(b"cuGetErrorName\0"), ask(b"cuGetErrorString\0")) {
        (Some(name), Some(text)) => format!("{name}: {text}"),
        (Some(name), None) => name,
        _ => "a code that the driver has no name for".into(),
    }
}

/// Calls a driver function and turns its answer into `Result<(), DeviceError>`.
///
/// The answer is made a number at once: a newer driver may know codes that cudarc's enum of CUDA 11.4 lacks.
macro_rules! driver {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::device::error::check(stringify!($function), $crate::device::error::answer!($function($($argument),*)))
    };
}
pub(super) use driver;

/// Calls a driver function; its answer as a number.
macro_rules! answer {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: every use passes live handles that its own object owns, and pointers to locals or to memory whose
        // bounds it checked; the context was made current on this thread before.
        unsafe { cudarc::driver::sys::$function($($argument),*) as u32 }
    }};
}
pub(super) use answer;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_final_errors_lose_the_device() {
        let cases = [
            (1, false),
            (2, false),
            (100, false),
            (201, true),
            (214, true),
            (500, false),
            (700, true),
            (719, true),
            (900, false),
            (999, true),
        ];
        for (code, expected) in cases {
            let error = DeviceError::Driver { call: "cuLaunchKernel", code, what: "x".into() };
            assert_eq!(error.is_lost(), expected, "{code}");
        }
        assert!(!DeviceError::OutOfMemory { asked: 1, used: 0 }.is_lost());
        assert!(DeviceError::Hung { call: "cuMemFree", waited_ms: 1 }.is_lost());
        assert!(DeviceError::Gone { why: "x".into(), for_good: false }.is_lost());
    }
}
