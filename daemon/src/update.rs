//! A stick's way onto the box: read, verified, told, waited for, copied, installed.
//!
//! Owns the order of things, which is what makes it safe: nothing is written before both signatures, the board, the versions, the serial and
//! the room were judged; nothing is installed before every byte was copied and is the one that was signed; the site's settings take their
//! place by a rename, and are then on trial ([`crate::site::trial`]). Whatever fails before leaves the box as it was. Of a stick with both the
//! settings come after the update was found good: one thing is on trial at a time. It never restarts the box: its caller does, on exit code 10,
//! which it is given when the daemon has nothing under way, or has had its time.
//!
//! ```text
//! checking ──▶ waiting ── pulled ──▶ refused
//!    │            └──▶ copying ──▶ installing ──▶ finishing ──▶ restart
//!    ├── nothing new ──▶ done
//!    └── anything wrong, here or later ──▶ refused, with what and what to do
//! ```
mod copy;
mod facts;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod under_way;

pub use facts::{Facts, image_version};
pub use plan::Plan;
pub use source::{Folder, Source};
pub use under_way::PATIENCE;

use crate::files;
use crate::layout;
use crate::site::trial;
use crate::status::Teller;
use anyhow::{Context, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use under_way::Waited;

/// How it ended, if nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The box has all of it already.
    NothingNew,
    /// The next start tries it.
    Restart,
}

/// One stick's turn.
pub struct Turn<'a> {
    /// The stick.
    pub source: &'a dyn Source,
    /// The box.
    pub facts: &'a Facts,
    /// `/var/lib`.
    pub state_dir: &'a Path,
    /// The board's installer.
    pub installer: &'a Path,
    /// How long people may pull it.
    pub wait: Duration,
    /// How long the restart waits for what the daemon has under way.
    pub patience: Duration,
}

impl Turn<'_> {
    /// Does it, telling what happens.
    ///
    /// # Errors
    /// What is wrong and what to do; the box is as it was.
    pub fn take(&self, teller: &mut Teller) -> anyhow::Result<Ended> {
        let mut say = |state: &str, lines: &[String]| {
            for line in lines {
                println!("{line}");
            }
            teller.tell(state, lines);
        };
        say("checking", &["A stick is in: it is being checked. Nothing is changed yet.".to_owned()]);
        let plan = Plan::make(self.source, self.facts)?;
        let lines = plan.lines();
        if plan.is_empty() {
            say("done", &lines);
            return Ok(Ended::NothingNew);
        }
        let incoming = layout::incoming(self.state_dir);
        let made = std::fs::create_dir_all(&incoming).with_context(|| incoming.display().to_string());
        made.and_then(|()| copy::empty(&incoming))?;
        copy::room(&plan, &incoming)?;
        say("waiting", &lines);
        self.wait(&plan, &lines, teller)?;
        let done = self.work(&plan, &incoming, &lines, teller);
        // What was staged is of no use any more, whatever came of it.
        if let Err(error) = copy::empty(&incoming) {
            log::warn!("{error:#}");
        }
        done?;
        self.let_it_finish(&lines, teller);
        let mut lines = lines;
        lines.push(match &plan.later {
            None => "Done. The box restarts now; leave the stick in or pull it.".to_owned(),
            Some(what) => format!("Done. The box restarts now. Leave the stick in, or plug it in again: {what} come when the new version has passed its self-test."),
        });
        println!("{}", lines[lines.len() - 1]);
        teller.tell("restart", &lines);
        Ok(Ended::Restart)
    }

    /// Gives people the time to pull the stick; what is pulled and put back in may be another one.
    fn wait(&self, plan: &Plan, lines: &[String], teller: &mut Teller) -> anyhow::Result<()> {
        let mut left = self.wait;
        while !left.is_zero() {
            let mut lines = lines.to_vec();
            lines.push(format!(
                "It begins in {} s. Pull the stick to stop it: nothing is changed then.",
                left.as_secs()
            ));
            teller.tell("waiting", &lines);
            let step = left.min(Duration::from_secs(1));
            std::thread::sleep(step);
            left -= step;
            if !plan.is_still_there(self.source) {
                bail!("the stick was pulled: plug it in again to do what it says");
            }
        }
        Ok(())
    }

    /// No study is lost when the daemon is stopped, but a scanner need not send again by itself what a restart cut off.
    fn let_it_finish(&self, lines: &[String], teller: &mut Teller) {
        let database = self.facts.layout.storage_dir().join("triaged.db");
        let mut said = None;
        let waited = under_way::wait(&database, self.patience, &mut |under_way, left| {
            if said != Some(under_way) {
                println!("the restart waits until the daemon is done; {under_way}");
                said = Some(under_way);
            }
            let line =
                format!("The box restarts when the daemon is done, or in {} s; {under_way}.", left.as_secs());
            teller.tell("finishing", &lines.iter().cloned().chain([line]).collect::<Vec<_>>());
        });
        if let Waited::Enough(under_way) = waited {
            println!(
                "the daemon is not done after {} s, the box restarts all the same; {under_way}. They are finished afterwards",
                self.patience.as_secs()
            );
        }
    }

    fn work(
        &self,
        plan: &Plan,
        incoming: &Path,
        lines: &[String],
        teller: &mut Teller,
    ) -> anyhow::Result<()> {
        let with = |line: String| lines.iter().cloned().chain([line]).collect::<Vec<_>>();
        if let Some(update) = &plan.update {
            copy::all(self.source, update, incoming, &mut |percent| {
                teller.tell(
                    "copying",
                    &with(format!("Copying and checking: {percent} %. The stick must stay in.")),
                );
            })?;
            println!("every file is copied and checked; installing");
            teller.tell(
                "installing",
                &with("Every file is copied and checked; installing. The stick may be pulled.".to_owned()),
            );
            let tried = files::prepare(&layout::tried(self.state_dir), update.hash.as_bytes(), 0o644)?;
            install(self.installer, incoming, &update.manifest.version.to_string())?;
            // It is installed, whatever becomes of the note.
            if let Err(error) = tried.commit() {
                log::warn!("{error:#}");
            }
        }
        if let Some(site) = &plan.site {
            trial::prepare(&layout::site_toml(self.state_dir), &site.text)?.commit()?;
        }
        Ok(())
    }
}

/// Calls the board's installer with the folder and the version.
fn install(installer: &Path, incoming: &Path, version: &str) -> anyhow::Result<()> {
    let mut command = Command::new(installer);
    command.arg(incoming).arg(version).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}: the box's image is damaged", installer.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    for line in String::from_utf8_lossy(&output.stdout).lines().chain(said.lines()) {
        println!("install-update: {line}");
    }
    if !output.status.success() {
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        bail!(
            "the update could not be installed ({}): {last}. The box goes on with the version that it has",
            output.status
        );
    }
    Ok(())
}
