//! The build of the software device by g++.
//!
//! Owns: its folder in the target folder, one for each state of the sources. Never does: load what it built.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

/// Sources of the device itself; the kernels' unit is made from `kernels/cu/all.cu`.
const UNITS: [&str; 4] = ["driver", "memory", "streams", "threads"];
/// The one that is a library of its own.
const POSITION: &str = "position";
/// As fast as this machine allows, because whole networks run on it; contraction would change sums that the GPU
/// rounds step by step (`__fmul_rn`).
const FLAGS: [&str; 11] = [
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
];
/// Of the kernels: a GPU refuses accesses at addresses that are no multiple of their alignment, x86 does not.
const FLAGS_OF_KERNELS: [&str; 2] = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"];
/// Builds that nobody has made for so long are removed.
const KEPT_S: u64 = 3600;

/// Builds the device unless its sources are built already. Returns the path of its `libcuda.so.1`, whose folder a
/// program can be given as `LD_LIBRARY_PATH`. Errors and panics as for [`load`](super::load).
pub fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("../target"), PathBuf::from);
    let target = target.join("shim");
    let own = fingerprint(&files(&[root.join("shim")], &["cpp", "h"]));
    let sources = [root.join("shim"), root.join("shim/include"), root.join("cu")];
    let folder = target.join(fingerprint(&files(&sources, &["cpp", "h", "cu", "cuh"])));
    let library = folder.join("libcuda.so.1");
    if library.exists() {
        return Ok(library);
    }
    if Command::new("g++").arg("--version").stdout(Stdio::null()).status().is_err() {
        let required = std::env::var_os("TRIAGED_REQUIRE_PEERS").is_some();
        assert!(!required, "TRIAGED_REQUIRE_PEERS is set, and there is no g++");
        return Err("skipped: no g++".into());
    }
    // Tests run in several threads and processes: the first builds, the others wait.
    std::fs::create_dir_all(&target).expect("the target folder can be written");
    let lock = std::fs::File::create(target.join("lock")).expect("the target folder can be written");
    lock.lock().expect("the target folder's files can be locked");
    if !library.exists() {
        remove_old(&target);
        // Under another name until it is complete. The device's own part is kept while kernels change.
        let work = target.join("part");
        compile_device(root, &work, &target.join(format!("device-{own}")));
        compile_kernels(root, &work);
        link(&work, &target.join(format!("device-{own}")));
        std::fs::rename(&work, &folder).expect("the target folder can be written");
    }
    Ok(library)
}

fn remove_old(target: &Path) {
    for old in std::fs::read_dir(target).into_iter().flatten().flatten() {
        let age = old.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if old.file_name() == "part" || age.is_some_and(|age| age.as_secs() > KEPT_S) {
            // A folder that another process still uses stays readable to it; the lock is no folder.
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
}

fn files(folders: &[PathBuf], extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).expect("the sources are in the tree") {
            let path = entry.expect("a folder can be read").path();
            if path.extension().is_some_and(|extension| extensions.iter().any(|e| extension == *e)) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Of files, the flags, and the processor that `-march=native` means.
fn fingerprint(files: &[PathBuf]) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let mut hash = Sha256::new();
    hash.update([&FLAGS[..], &FLAGS_OF_KERNELS].concat().join(" "));
    hash.update(cpu.unwrap_or_default());
    for path in files {
        let content = std::fs::read(path).expect("a source can be read");
        hash.update(path.file_name().expect("files have names").as_encoded_bytes());
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn compiler(root: &Path) -> Command {
    let mut command = Command::new("g++");
    command.args(FLAGS);
    for folder in ["shim", "shim/include", "cu"] {
        command.arg("-I").arg(root.join(folder));
    }
    command
}

fn compile_device(root: &Path, work: &Path, objects: &Path) {
    let _ = std::fs::remove_dir_all(work);
    std::fs::create_dir_all(work).expect("the target folder can be written");
    if objects.exists() {
        return;
    }
    let units: Vec<&str> = UNITS.into_iter().chain([POSITION]).collect();
    let running = units.iter().map(|unit| {
        let mut command = compiler(root);
        command.arg("-c").arg(root.join("shim").join(unit).with_extension("cpp"));
        command.arg("-o").arg(work.join(unit).with_extension("o"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("g++ is there")
    });
    for (child, unit) in running.collect::<Vec<_>>().into_iter().zip(&units) {
        finished(unit, child.wait_with_output());
    }
    std::fs::rename(work, objects).expect("the target folder can be written");
    std::fs::create_dir_all(work).expect("the target folder can be written");
}

fn compile_kernels(root: &Path, work: &Path) {
    let mut unit = String::from("#include \"cuda_shim.h\"\n#include \"all.cu\"\n#include \"selftest.cu\"\n");
    let source = work.join("kernels.cpp");
    std::fs::write(&source, &unit).expect("the target folder can be written");
    let list = compiler(root).args(["-E", "-P", "-DTRIAGED_SHIM_LIST"]).arg(&source).output();
    let kernels = kernels(&finished("listing the kernels", list));
    unit.push_str("#include \"kernel_table.h\"\nnamespace shim {\nconst Kernel kernels[] = {\n");
    for (name, bounds) in &kernels {
        let comma = if bounds.is_empty() { "" } else { ", " };
        unit.push_str(&format!("    SHIM_KERNEL({name}{comma}{bounds})\n"));
    }
    unit.push_str(&format!("}};\nconst unsigned kernel_count = {};\n}}  // namespace shim\n", kernels.len()));
    std::fs::write(&source, unit).expect("the target folder can be written");
    let object = work.join("kernels.o");
    let mut command = compiler(root);
    command.args(FLAGS_OF_KERNELS).arg("-c").arg(source).arg("-o").arg(object);
    finished("kernels", command.output());
}

fn link(work: &Path, objects: &Path) {
    let library = |name: &str| {
        let mut command = Command::new("g++");
        // A program that closes the library must not take the code of other threads' stacks away.
        command.args(["-shared", "-pthread", "-Wl,-z,nodelete", "-Wl,--no-undefined", "-Wl,--no-as-needed"]);
        command.arg(format!("-Wl,-soname,{name}")).arg("-o").arg(work.join(name));
        command
    };
    let object = |unit| objects.join(unit).with_extension("o");
    let position = work.join("libshim_position.so");
    finished("linking", library("libshim_position.so").arg(object(POSITION)).output());
    let mut first = library("libcuda.so.1");
    first.arg("-Wl,-rpath,$ORIGIN").args(UNITS.map(object)).arg(work.join("kernels.o")).arg(position);
    finished("linking", first.output());
    // Some ask for the library without a version: an empty one of that name leads to the first.
    let first = work.join("libcuda.so.1");
    finished("linking", library("libcuda.so").arg("-Wl,-rpath,$ORIGIN").arg(first).output());
}

/// The output of a compiler that succeeded.
fn finished(what: &str, output: std::io::Result<Output>) -> String {
    let output = output.expect("g++ runs");
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
