//! The software CUDA device, for tests (feature `shim`): `kernels/shim` and `kernels/cu`, built by g++ into a
//! `libcuda.so.1` that this process, or one started with its folder in `LD_LIBRARY_PATH`, takes for the driver.
//!
//! Owns: the build, and the orders that only a software device takes. Never does: anything in a program that is
//! shipped; `kernels/README.md` says what the device can show and what not.

use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::device::{Arg, DeviceError};

mod build;

pub use build::build;

/// Builds the device and makes it this process's driver; call it before anything else touches CUDA.
///
/// Returns the library's path. The error is a line to print: `skipped: no g++`.
///
/// # Panics
/// If the sources don't compile, or if `TRIAGED_REQUIRE_PEERS` is set and there is no g++.
pub fn load() -> Result<PathBuf, String> {
    static LOADED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LOADED.get_or_init(load_once).clone()
}

fn load_once() -> Result<PathBuf, String> {
    let library = build()?;
    // cudarc asks for libcuda.so first, TensorRT for libcuda.so.1; glibc answers both with these, by their SONAMEs.
    for name in ["libcuda.so.1", "libcuda.so"] {
        let path = library.with_file_name(name);
        // SAFETY: our own library; its initialisers only read the environment.
        let opened = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        std::mem::forget(opened);
    }
    Ok(library)
}

/// The launch that is `launches` after those made so far fails with the CUDA error `code`, and so does every call
/// after it (but for 2, out of memory, which fails once). Of the whole process: a test that uses it has a file of its
/// own. Code 0 makes the device well again. Code −1 makes it hang: the launch never ends, and functions that wait for it
/// never return; −2 likewise, and so does a reset. No reset helps against 46.
pub fn fail_after(launches: u64, code: i32) {
    type Fail = unsafe extern "C" fn(u64, i32);
    // SAFETY: the signature in kernels/shim/driver.cpp.
    unsafe {
        function::<Fail>(b"triaged_shim_fail\0").expect("the software device is loaded")(launches, code)
    }
}

/// Kernels launched so far in this process, those of graphs included.
pub fn launches() -> u64 {
    type Launches = unsafe extern "C" fn() -> u64;
    // SAFETY: the signature in kernels/shim/driver.cpp.
    unsafe { function::<Launches>(b"triaged_shim_launches\0").expect("the software device is loaded")() }
}

/// Runs threads and blocks from the last to the first, or in order again. A kernel gives the same bits in both; one
/// that lacks a barrier, or adds floats with atomics, does not.
pub fn set_reverse(reverse: bool) {
    type Reverse = unsafe extern "C" fn(i32);
    // SAFETY: the signature in kernels/shim/driver.cpp.
    unsafe {
        function::<Reverse>(b"triaged_shim_reverse\0").expect("the software device is loaded")(reverse.into())
    }
}

/// Number and kinds of a launch's arguments against the kernel's parameters. A real driver can't be asked for them
/// (before CUDA 12.4); with one this passes everything.
pub(crate) fn check_arguments(kernel: &str, args: &[Arg]) -> Result<(), DeviceError> {
    type Signature = unsafe extern "C" fn(*const std::ffi::c_char) -> *const std::ffi::c_char;
    static SIGNATURE: OnceLock<Option<Signature>> = OnceLock::new();
    let Some(signature) = *SIGNATURE.get_or_init(|| function(b"triaged_shim_signature\0")) else {
        return Ok(());
    };
    let name = std::ffi::CString::new(kernel).map_err(|_| DeviceError::NoKernel { kernel: kernel.into() })?;
    // SAFETY: takes a name, returns null or a static string.
    let expected = unsafe {
        let text = signature(name.as_ptr());
        if text.is_null() {
            return Ok(()); // the launch itself will say that there is no such kernel
        }
        std::ffi::CStr::from_ptr(text).to_string_lossy()
    };
    let given: String = args
        .iter()
        .map(|arg| match arg {
            Arg::Ptr(_) => 'p',
            Arg::I32(_) => 'i',
            Arg::U32(_) => 'u',
            Arg::U64(_) => 'U',
            Arg::F32(_) => 'f',
            Arg::F64(_) => 'd',
        })
        .collect();
    if given == expected {
        return Ok(());
    }
    let what =
        format!("{kernel} takes {expected:?}, was given {given:?} (p address, i/u 32 bits, U 64 bits, f, d)");
    Err(DeviceError::Usage { what })
}

/// A function that only the software device has. Asks the library that cudarc uses, which must be there by now.
fn function<F: Copy>(name: &[u8]) -> Option<F> {
    // SAFETY: opens the driver's library, which has been loaded before; each caller names its function's own type.
    unsafe { sys::culib().get::<F>(name).ok().map(|function| *function) }
}
