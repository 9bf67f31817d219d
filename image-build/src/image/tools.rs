//! The tools: Debian trixie in a folder, with mkosi, QEMU and their friends.
//!
//! Owns: making that folder (`mmdebstrap`), and running a program in it with the workspace at its usual path. Never does: change the
//! machine outside that folder.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::place::{Place, logged};

/// What the tools were made from, beside them.
const STAMP: &str = "triaged-tools";
const RELEASE: &str = "trixie";
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// Makes the tools, unless they are there and as `tools.packages` says.
pub fn ensure(place: &Place) -> anyhow::Result<()> {
    let list = std::fs::read_to_string(place.root.join("image-build/tools.packages"))?;
    if std::fs::read_to_string(place.tools.join(STAMP)).is_ok_and(|made| made == list) {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "the image is built as root (mounts); this is not root");
    if place.tools.exists() {
        std::fs::remove_dir_all(&place.tools).with_context(|| place.tools.display().to_string())?;
    }
    std::fs::create_dir_all(place.tools.parent().context("no folder for the tools")?)?;
    let packages: Vec<&str> =
        list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=apt", "--format=directory"])
        .args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .arg(format!("--include={}", packages.join(",")))
        .arg(RELEASE)
        .arg(&place.tools)
        .arg(ARCHIVE);
    logged("tools: Debian trixie with mkosi and QEMU", &mut command, &place.work.join("logs/tools.log"))
        .context("needs Debian's package mmdebstrap")?;
    std::fs::write(place.tools.join(STAMP), list)?;
    Ok(())
}

/// Folders that the tools see beside the workspace.
static SEEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Lets the tools see a folder: the operator's keys.
pub fn show(folder: &Path) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(folder.to_owned());
}

/// A program of the tools. It sees the workspace, `target` and `/dev` where they are, and nothing else of this machine.
pub fn command(program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["image", "inside"]);
    for folder in SEEN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        command.arg("--see").arg(folder);
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// `cargo xtask image inside`: becomes that program.
pub fn inside(place: &Place, see: &[PathBuf], program: &[OsString]) -> anyhow::Result<()> {
    const NONE: Option<&str> = None;
    let folder = std::env::current_dir()?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace: needs root")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let bind = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to)?;
        mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .with_context(|| format!("{} at {}", from.display(), to.display()))
    };
    let tools = &place.tools;
    bind(tools, tools)?;
    for name in ["dev", "proc", "sys"] {
        bind(&Path::new("/").join(name), &tools.join(name))?;
    }
    for shared in [&place.root, &place.work, &place.cache].into_iter().chain(see) {
        std::fs::create_dir_all(shared)?;
        bind(shared, &tools.join(shared.strip_prefix("/").context("a path that is not absolute")?))?;
    }
    mount(Some("tmpfs"), &tools.join("run"), Some("tmpfs"), MsFlags::empty(), NONE)?;
    // Names are looked up as on this machine.
    let names = tools.join("etc/resolv.conf");
    if std::fs::read("/etc/resolv.conf").ok() != std::fs::read(&names).ok() {
        std::fs::copy("/etc/resolv.conf", &names)?;
    }
    let old = tools.join("old");
    std::fs::create_dir_all(&old)?;
    nix::unistd::pivot_root(tools, &old)?;
    std::env::set_current_dir(&folder).or_else(|_| std::env::set_current_dir("/"))?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    let (first, rest) = program.split_first().context("no program")?;
    let error = Command::new(first)
        .args(rest)
        .env_clear()
        .envs([("PATH", "/usr/sbin:/usr/bin:/usr/lib/systemd"), ("HOME", "/root"), ("LANG", "C.UTF-8")])
        .exec();
    Err(error).with_context(|| format!("{}: not among the tools?", first.display()))
}
