//! `triaged stick`: what a box does with a field engineer's stick that was mounted. Run by the image when one is plugged in.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | nothing new on it |
//! | 1 | refused or failed: nothing was changed; the last line says what and what to do |
//! | 2 | the command line is wrong |
//! | 10 | done: the caller restarts the box |
use crate::layout::Layout;
use crate::status::{OTHER_STICK, Teller};
use crate::update::{Ended, Facts, Folder, PATIENCE, Turn};
use anyhow::{Context, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The caller restarts the box.
const RESTART: u8 = 10;

/// Arguments of `triaged stick`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the stick is mounted.
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Folder of the box's state; by default var/lib below the root.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// File that the box's page shows; by default run/triaged/status/stick.json below the root.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Folder of update.pub and site.pub; by default usr/share/triaged/keys below the root.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// How long people may pull the stick before anything is done.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait_s: u64,
    /// How long the restart waits, at most, for studies that are received or evaluated.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(), value_parser = clap::value_parser!(u64).range(0..=3600))]
    patience_s: u64,
    /// Folder below which the box's files are; / on the box.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let layout = Layout::at(&args.root);
    let status = args.status.clone().unwrap_or_else(|| layout.status_dir().join("stick.json"));
    let other = status.with_file_name(OTHER_STICK);
    let Some(_lock) = lock(&layout.stick_lock())? else {
        let why = "another stick is being worked on: nothing was done with this one. Wait until that one is done, then plug it in again";
        // Whoever has the lock tells the page; this one must not talk over it.
        Teller::new(Some(&other)).tell("refused", &[format!("Refused: {why}.")]);
        bail!("{why}");
    };
    // What was said of one that came too early is over; there may be nothing.
    let _ = std::fs::remove_file(&other);
    let mut teller = Teller::new(Some(&status));
    match turn(args, &layout, &mut teller) {
        Ok(Ended::NothingNew) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Restart) => Ok(ExitCode::from(RESTART)),
        Err(error) => {
            let why = format!("Refused: {error:#}.");
            teller.tell("refused", &[why, "Nothing was changed.".to_owned()]);
            Err(error.context("nothing was changed"))
        }
    }
}

fn turn(args: &Args, layout: &Layout, teller: &mut Teller) -> anyhow::Result<Ended> {
    let state_dir = args.state.clone().unwrap_or_else(|| layout.state_dir());
    let keys_dir = args.keys.clone().unwrap_or_else(|| layout.keys_dir());
    let facts = Facts::read(layout, &keys_dir, &state_dir)?;
    let turn = Turn {
        source: &Folder::at(&args.mount),
        facts: &facts,
        state_dir: &state_dir,
        installer: &layout.installer(),
        wait: Duration::from_secs(args.wait_s),
        patience: Duration::from_secs(args.patience_s),
    };
    turn.take(teller)
}

/// `None` if another one has it. It goes with the process.
fn lock(path: &Path) -> anyhow::Result<Option<File>> {
    let what = || path.display().to_string();
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(what)?;
    let file = File::create(path).with_context(what)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(what),
    }
}
