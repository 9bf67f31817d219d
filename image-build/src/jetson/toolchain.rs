//! Two folders of Debian, made once and kept: a compiler to run, and an old C library to link against.
//!
//! Owns: their suites and packages. Never does: run what is in the C library's folder, which is arm64's.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{execute, must_be_root, work};

const MIRROR: &str = "http://deb.debian.org/debian";
/// Debian 13 with the backports' Rust: Debian's own is older than the workspace's `rust-version`.
const SUITE: &str = "trixie";
/// Debian 11 has glibc 2.31, as JetPack 5's Ubuntu has; what is linked against it runs on JetPack 6's 2.35 as well.
const LIBRARY_SUITE: &str = "bullseye";

/// The cross compiler's folder, to be used by `chroot`.
pub fn compiler() -> anyhow::Result<PathBuf> {
    let dir = work().join("debian-13");
    let backports = format!("{SUITE}-backports");
    let include = format!(
        "--include=gcc,libc6-dev,gcc-aarch64-linux-gnu,rustc/{backports},cargo/{backports},libstd-rust-dev:arm64/{backports}"
    );
    made(&dir, &["--variant=apt", "--architectures=amd64,arm64", &include], SUITE, &[SUITE, &backports])?;
    Ok(dir)
}

/// The C library's folder; RAUC lies in it, too, for boards whose Ubuntu has an older one.
pub fn library() -> anyhow::Result<PathBuf> {
    let dir = work().join("debian-11-arm64");
    let include = "--include=libc6-dev,libgcc-s1,rauc,rauc-service";
    made(&dir, &["--variant=extract", "--architectures=arm64", include], LIBRARY_SUITE, &[LIBRARY_SUITE])?;
    relink(&dir.join("usr/lib/aarch64-linux-gnu"))?;
    Ok(dir)
}

/// Links like `libdl.so` → `/lib/aarch64-linux-gnu/libdl.so.2` lead out of the folder; the linker would silently take the compiler's own,
/// newer library instead, in which these are empty.
fn relink(libraries: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(libraries).with_context(|| libraries.display().to_string())? {
        let link = entry?.path();
        let Ok(target) = std::fs::read_link(&link) else { continue };
        let Some(name) = target.file_name().filter(|_| target.is_absolute()) else { continue };
        if libraries.join(name).exists() {
            std::fs::remove_file(&link)?;
            std::os::unix::fs::symlink(name, &link)?;
        }
    }
    Ok(())
}

/// A Debian of `suites` in `dir`, unless it is there. Half a one is never taken for a whole one.
pub fn made(dir: &Path, options: &[&str], suite: &str, suites: &[&str]) -> anyhow::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    must_be_root("making a folder of Debian")?;
    let part = dir.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| part.display().to_string())?;
    }
    std::fs::create_dir_all(work())?;
    let name = part.to_str().context("the target folder's name is not UTF-8")?;
    // As Ubuntu's: /lib is a link to /usr/lib.
    let merged = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr";
    let mut arguments: Vec<String> = ["--mode=root", "--quiet", merged].map(str::to_owned).to_vec();
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    arguments.extend([suite.to_owned(), name.to_owned()]);
    arguments.extend(suites.iter().map(|suite| format!("deb {MIRROR} {suite} main")));
    execute("mmdebstrap", "mmdebstrap", arguments)?;
    std::fs::rename(&part, dir).with_context(|| dir.display().to_string())
}
