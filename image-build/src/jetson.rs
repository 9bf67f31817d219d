//! `cargo xtask image jetson-…`: the appliance on NVIDIA's Jetsons.
//!
//! Owns: the daemon for arm64, what is laid over NVIDIA's root file system, update bundles, and the test of both without a board. Never
//! does: ship or fetch anything of NVIDIA's; its BSP comes from the operator, who flashes with NVIDIA's own tools.
//!
//! ```text
//! jetson-daemon ──▶ triaged (arm64) ──▶ jetson-overlay ──▶ triaged-BOARD-VERSION.tar.gz ──▶ Linux_for_Tegra: prepare.sh, flash.sh
//!                                                                                               │ rootfs/
//!                                                                             jetson-bundle ◀───┘──▶ .raucb, for the stick
//! ```

mod bundle;
mod daemon;
mod keys;
mod overlay;
mod test_stick;
mod toolchain;
mod vm;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde::Deserialize;

use crate::cubins::workspace;

/// What `cargo xtask image` can do for Jetsons.
#[derive(Subcommand)]
pub enum Command {
    /// The daemon for arm64, by Debian's cross compiler; fails if it asks for a newer glibc than the boards have.
    #[command(name = "jetson-daemon")]
    Daemon {
        /// Whose Rust: "debian" (backports, in a folder of its own) or "rustup" (the pinned toolchain and its target).
        #[arg(long, default_value = "debian")]
        rust: daemon::Rust,
    },
    /// What is unpacked over NVIDIA's Linux_for_Tegra: `target/jetson/triaged-BOARD-VERSION.tar.gz`.
    #[command(name = "jetson-overlay")]
    Overlay {
        /// jetson-orin or jetson-xavier.
        #[arg(long)]
        board: String,
        /// Version of the image; by default the workspace's. A box takes an update whose version is higher than its own.
        #[arg(long, default_value = overlay::VERSION)]
        version: stick::Version,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        program: Program,
    },
    /// An update: NVIDIA's rootfs, with the overlay in it, whose version it has, as a signed RAUC bundle. As root.
    #[command(name = "jetson-bundle")]
    Bundle {
        #[arg(long)]
        board: String,
        /// `Linux_for_Tegra/rootfs` after `triaged/prepare.sh`.
        #[arg(long, value_name = "DIR")]
        rootfs: PathBuf,
        #[command(flatten)]
        keys: Keys,
        /// The bundle; must not exist.
        out: PathBuf,
    },
    /// The overlay on Debian 11 in QEMU: C-ECHO from outside, an update by RAUC, a refused one. As root; no CI run has it.
    #[command(name = "jetson-test")]
    Test {
        #[command(flatten)]
        program: Program,
        /// Seconds until the box must answer, and again until it must have taken the update: no computer is slower than an emulated one.
        #[arg(long, default_value_t = 900)]
        wait_s: u64,
    },
}

/// Which daemon.
#[derive(clap::Args, Clone)]
pub struct Program {
    /// As for jetson-daemon.
    #[arg(long, default_value = "debian")]
    rust: daemon::Rust,
    /// One that jetson-daemon made before, instead of building it.
    #[arg(long, value_name = "FILE", conflicts_with = "rust")]
    daemon: Option<PathBuf>,
}

impl Program {
    fn get(&self) -> anyhow::Result<PathBuf> {
        match &self.daemon {
            Some(path) => daemon::check(path).map(|()| path.clone()),
            None => daemon::build(self.rust),
        }
    }
}

/// Where signatures come from.
#[derive(clap::Args, Clone)]
pub struct Keys {
    /// Folder with update.pub, site.pub, rauc.crt and, to sign, rauc.key; without it, throw-away keys are made.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

/// Runs one.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Daemon { rust } => {
            let daemon = daemon::build(rust)?;
            println!("{}", daemon.display());
            Ok(())
        }
        Command::Overlay { board, version, keys, program } => {
            let board = Board::find(&board)?;
            let made = overlay::archive(&board, &version, &program.get()?, &keys)?;
            println!("{}", made.display());
            Ok(())
        }
        Command::Bundle { board, rootfs, keys, out } => {
            bundle::of_rootfs(&Board::find(&board)?, &rootfs, &keys, &out)
        }
        Command::Test { program, wait_s } => vm::test(&program.get()?, wait_s),
    }
}

/// `image-build/jetson/boards.toml`.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Its name, the table's.
    #[serde(skip)]
    name: String,
    soc: String,
    l4t: String,
    glibc_max: String,
    /// RAUC is Debian 11's: Ubuntu's own knows no boot backends but its own.
    #[serde(default)]
    rauc_of_debian: bool,
    devkits: Vec<Devkit>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Devkit {
    name: String,
    qspi: Option<String>,
}

impl Board {
    fn all() -> anyhow::Result<BTreeMap<String, Self>> {
        let path = source("boards.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut boards: BTreeMap<String, Self> =
            toml::from_str(&text).with_context(|| path.display().to_string())?;
        for (name, board) in &mut boards {
            board.name.clone_from(name);
        }
        Ok(boards)
    }

    fn find(name: &str) -> anyhow::Result<Self> {
        let mut boards = Self::all()?;
        let names = boards.keys().cloned().collect::<Vec<_>>().join(", ");
        boards.remove(name).with_context(|| format!("no board {name:?}; there are {names}"))
    }
}

/// A file or folder of ours below `image-build/jetson`.
fn source(path: &str) -> PathBuf {
    workspace().join("image-build/jetson").join(path)
}

/// Where all that is made lies.
fn work() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    // Without "..": systemctl --root takes none.
    target.canonicalize().unwrap_or(target).join("jetson")
}

/// Runs a program to its end. `hint` is what to install where there is none.
fn execute(
    program: &str,
    hint: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> anyhow::Result<()> {
    let mut process = Process::new(program);
    process.args(arguments);
    finish(&mut process, hint)
}

fn finish(process: &mut Process, hint: &str) -> anyhow::Result<()> {
    let name = process.get_program().to_string_lossy().into_owned();
    // Where Debian has depmod and mkfs, which not every shell looks through.
    let path = std::env::var("PATH").unwrap_or_default();
    process.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let status = match process.status() {
        Ok(status) => status,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("no {name}: install {hint}"),
        Err(error) => return Err(error).context(name),
    };
    ensure!(status.success(), "{process:?}: {status}");
    Ok(())
}

/// Root makes device nodes, chroots and file systems with root's files in them.
fn must_be_root(what: &str) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "{what} must be run as root");
    Ok(())
}

/// Copies a tree as it is: modes and links.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    execute("cp", "coreutils", [OsStr::new("-a"), OsStr::new("-T"), from.as_os_str(), to.as_os_str()])
}

#[cfg(test)]
mod rauc_tests;
