//! The software CUDA device, for tests (feature `shim`): `kernels/shim` and `kernels/cu`, built by g++ into a
//! `libcuda.so.1` that this process, or one started with its folder in `LD_LIBRARY_PATH`, takes for the driver.
//!
//! Owns: the build, and the orders that only a software device takes. Never does: anything in a program that is
//! shipped; `kernels/README.md` says what the device can show and what not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use sha2::{Digest, Sha256};

use crate::device::{Arg, DeviceError};

/// Sources of the device itself; the kernels' unit is made from `kernels/cu/all.cu`.
const UNITS: [&str; 4] = ["driver", "memory", "streams", "threads"];
/// As fast as this machine allows, because whole networks run on it; contraction would change sums that the GPU
/// rounds step by step (`__fmul_rn`).
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-extern-tls-init",
    "-fno-strict-aliasing",
    "-pthread",
    "-Wall",
    "-Wno-unknown-pragmas",
    #[cfg(target_arch = "x86_64")]
    "-mtls-dialect=gnu2",
];

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

/// Builds the device unless its sources are built already. Returns the path of its `libcuda.so.1`, whose folder a
/// program can be given as `LD_LIBRARY_PATH`. Errors and panics as for [`load`].
pub fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("../target"), PathBuf::from);
    let folder = target.join("shim").join(fingerprint(root));
    let library = folder.join("libcuda.so.1");
    if library.exists() {
        return Ok(library);
    }
    if Command::new("g++").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(
            std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(),
            "TRIAGED_REQUIRE_PEERS is set, and there is no g++"
        );
        return Err("skipped: no g++".into());
    }
    // Tests run in several threads and processes: the first builds, the others wait.
    std::fs::create_dir_all(target.join("shim")).expect("the target folder can be written");
    let lock = std::fs::File::create(target.join("shim/lock")).expect("the target folder can be written");
    lock.lock().expect("the target folder's files can be locked");
    if library.exists() {
        return Ok(library);
    }
    // Under another name until it is complete.
    let work = folder.with_extension("part");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work).expect("the target folder can be written");
    compile(root, &work);
    for old in std::fs::read_dir(target.join("shim")).into_iter().flatten().flatten() {
        let age = old.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age.as_secs() > 3600) {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    std::fs::rename(&work, &folder).expect("the target folder can be written");
    Ok(library)
}

/// Of all that the library is made from, the processor included.
fn fingerprint(root: &Path) -> String {
    let mut files = BTreeMap::new();
    for folder in ["cu", "shim", "shim/include"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("the sources are in the tree");
        for path in
            entries.map(|entry| entry.expect("a folder can be read").path()).filter(|path| path.is_file())
        {
            files.insert(path.clone(), std::fs::read(path).expect("a source can be read"));
        }
    }
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let mut hash = Sha256::new();
    hash.update(FLAGS.join(" "));
    hash.update(cpu.unwrap_or_default());
    for (path, content) in &files {
        hash.update(path.file_name().expect("files have names").as_encoded_bytes());
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn compile(root: &Path, work: &Path) {
    let shim = root.join("shim");
    let compiler = || {
        let mut command = Command::new("g++");
        command
            .args(FLAGS)
            .arg("-I")
            .arg(&shim)
            .arg("-I")
            .arg(shim.join("include"))
            .arg("-I")
            .arg(root.join("cu"));
        command
    };
    let mut running: Vec<(String, Child)> = Vec::new();
    let mut start = |name: &str, command: &mut Command| {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("g++ is there");
        running.push((name.into(), child));
    };
    for unit in UNITS {
        let source = shim.join(unit).with_extension("cpp");
        start(unit, compiler().arg("-c").arg(source).arg("-o").arg(work.join(unit).with_extension("o")));
    }
    let mut unit = String::from("#include \"cuda_shim.h\"\n#include \"all.cu\"\n#include \"selftest.cu\"\n");
    let source = work.join("kernels.cpp");
    std::fs::write(&source, &unit).expect("the target folder can be written");
    let listed =
        compiler().args(["-E", "-P", "-DTRIAGED_SHIM_LIST"]).arg(&source).output().expect("g++ is there");
    let kernels = kernels(&finished("listing the kernels", listed));
    unit.push_str("#include \"kernel_table.h\"\n");
    unit.push_str("namespace shim {\nconst Kernel kernels[] = {\n");
    for (name, bounds) in &kernels {
        unit.push_str(&format!(
            "    SHIM_KERNEL({name}{}{bounds})\n",
            if bounds.is_empty() { "" } else { ", " }
        ));
    }
    unit.push_str(&format!("}};\nconst unsigned kernel_count = {};\n}}  // namespace shim\n", kernels.len()));
    std::fs::write(&source, unit).expect("the target folder can be written");
    start("kernels", compiler().arg("-c").arg(source).arg("-o").arg(work.join("kernels.o")));
    let objects: Vec<_> = running.iter().map(|(name, _)| work.join(name).with_extension("o")).collect();
    for (name, child) in running {
        finished(&name, child.wait_with_output().expect("g++ ends"));
    }
    // A program that closes the library must not take the code of other threads' stacks away.
    let link = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("g++");
        command.args(["-shared", "-pthread", "-Wl,-z,nodelete", "-Wl,--no-undefined"]);
        command.arg(format!("-Wl,-soname,{name}")).arg("-o").arg(work.join(name)).args(arguments);
        command
    };
    finished("linking", link("libcuda.so.1", &[]).args(&objects).output().expect("g++ is there"));
    // Some ask for the library without a version: an empty one of that name leads to the first.
    let empty = ["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"];
    let first = work.join("libcuda.so.1");
    finished("linking", link("libcuda.so", &empty).arg(first).output().expect("g++ is there"));
}

/// The output of a compiler that succeeded.
fn finished(what: &str, output: std::process::Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "g++, {what}:\n{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of the kernels with their launch bounds, from preprocessed sources in which `cuda_shim.h` marked them.
fn kernels(preprocessed: &str) -> Vec<(String, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut kernels = Vec::new();
    for declaration in preprocessed.split("TRIAGED_KERNEL").skip(1) {
        let (mut rest, mut bounds) = (declaration.trim_start(), "");
        loop {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            let after = after.trim_start();
            match word {
                "" => panic!("a kernel without a name: {declaration:.200}"),
                "void" => rest = after,
                "TRIAGED_BOUNDS" => {
                    let end = closing(after).expect("brackets are closed");
                    bounds = &after[1..end];
                    rest = after[end + 1..].trim_start();
                }
                name => {
                    kernels.push((name.to_owned(), bounds.split_whitespace().collect::<Vec<_>>().join(" ")));
                    break;
                }
            }
        }
    }
    kernels
}

/// Where the bracket that `text` opens with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The launch that is `launches` after those made so far fails with the CUDA error `code`, and so does every call
/// after it (but for 2, out of memory, which fails once). Of the whole process: a test that uses it has a file of its
/// own. Code 0 makes the device well again.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_in_preprocessed_sources() {
        let source = "extern \"C\" TRIAGED_KERNEL void TRIAGED_BOUNDS(f(2) * 32,\n 4)\n a_f16(const int* x) {}\n\
                      extern \"C\" TRIAGED_KERNEL void b_f32 (int y) {} extern \"C\" TRIAGED_KERNEL TRIAGED_BOUNDS(64) void c() {}";
        let expected = [("a_f16", "f(2) * 32, 4"), ("b_f32", ""), ("c", "64")];
        assert_eq!(kernels(source), expected.map(|(name, bounds)| (name.to_owned(), bounds.to_owned())));
    }
}
