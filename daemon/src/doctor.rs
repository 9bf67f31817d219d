//! Is this box well? Checks that take seconds, each with what it saw.
//!
//! Owns the checks and their order. It changes nothing, and runs beside the daemon or without it. *Essential* is what going back to the version
//! before may cure: a fresh update whose essential checks fail is rolled back. What only people can cure (a PACS that is down, a clock
//! without a time server, a full disk, a GPU that died) is a warning, and never sends a box back.
//!
//! | check | essential |
//! |---|---|
//! | configuration, models, engine, phantom | yes |
//! | storage: made, written, synced | yes |
//! | database: opens, no fault in the first seconds | yes |
//! | self: the daemon answers C-ECHO where it listens | yes |
//! | space, clock, Secure Boot, engines that were wanted and are missing, destinations, worklist | no |
mod disk;
mod firmware;
mod peers;
mod phantom;

use crate::appliance;
use crate::config::Config;
use engine::{Analyzer, Choice, EngineState, Zoo};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Well.
    Ok,
    /// Somebody should look.
    Warning,
    /// Not well.
    Failed,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether the box is not well without it.
    pub essential: bool,
    /// How it came out.
    pub state: State,
    /// What was seen, and what to do.
    pub detail: String,
    /// How long it took.
    pub ms: u64,
}

/// All of them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every essential check is well.
    pub passed: bool,
    /// The program's version.
    pub version: &'static str,
    /// The commit that it was built from.
    pub commit: &'static str,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// What a check saw, or what is wrong and what to do.
type Seen = Result<String, String>;

/// Makes checks and hears about each.
struct Round<'a> {
    checks: Vec<Check>,
    tell: &'a mut dyn FnMut(&Check),
}

impl Round<'_> {
    fn check(&mut self, name: &str, essential: bool, look: impl FnOnce() -> Seen) -> bool {
        let begun = Instant::now();
        let seen = look();
        self.add(name, essential, seen, begun)
    }

    fn add(&mut self, name: &str, essential: bool, seen: Seen, begun: Instant) -> bool {
        let (state, detail) = match seen {
            Ok(detail) => (State::Ok, detail),
            Err(detail) if essential => (State::Failed, detail),
            Err(detail) => (State::Warning, detail),
        };
        let ms = begun.elapsed().as_millis() as u64;
        let check = Check { name: name.to_owned(), essential, state, detail, ms };
        (self.tell)(&check);
        self.checks.push(check);
        state == State::Ok
    }
}

/// Examines the box whose daemon has this configuration; `tell` hears of each check when it is made.
pub fn examine(config: &Path, tell: &mut dyn FnMut(&Check)) -> Report {
    let mut round = Round { checks: Vec::new(), tell };
    let begun = Instant::now();
    match Config::load(config) {
        Ok(loaded) => {
            round.add("configuration", true, Ok(config.display().to_string()), begun);
            all(&mut round, &loaded);
        }
        Err(error) => {
            let why = format!("{error:#}; what follows it is not checked");
            round.add("configuration", true, Err(why), begun);
        }
    }
    let passed = round.checks.iter().all(|check| check.state != State::Failed);
    Report { passed, version: crate::version::VERSION, commit: crate::version::COMMIT, checks: round.checks }
}

fn all(round: &mut Round<'_>, config: &Config) {
    let storage = &config.storage;
    if round.check("storage", true, || disk::writable(&storage.dir)) {
        round.check("space", false, || disk::space(storage));
    }
    round.check("database", true, || disk::database(&storage.dir.join("triaged.db")));
    round.check("clock", false, disk::clock);
    round.check("secure boot", false, || firmware::secure_boot(Path::new(firmware::EFI_VARIABLES)));
    let zoo_dir = config.engine.zoo.clone().unwrap_or_else(engine::default_zoo_dir);
    let mut zoo = None;
    round.check("models", true, || {
        let opened = appliance::models(Some(&zoo_dir), config.engine.method);
        let opened = opened.map_err(|error| format!("{error:#}"))?;
        let found = format!("{} and {} in {}", opened.lungs.name, opened.method(), zoo_dir.display());
        zoo = Some(opened);
        Ok(found)
    });
    if let Some(zoo) = zoo {
        engines(round, config, zoo);
    }
    round.check("self", true, || peers::ourselves(config));
    // Each waits for its peer at most as long as the slowest.
    let begun = Instant::now();
    for (name, seen) in peers::others(config) {
        round.add(&name, false, seen, begun);
    }
}

fn engines(round: &mut Round<'_>, config: &Config, zoo: Zoo) {
    let threads = appliance::threads(config.engine.threads);
    let mut setup = config.engines(threads);
    let wanted = setup.choice;
    // What ended the daemon must not end this, too.
    let trying = appliance::gpu_is_given_up(&config.storage.dir);
    if trying {
        setup.choice = Choice::Cpu;
    }
    let mut analyzer = None;
    round.check("engine", true, || {
        let opened = Analyzer::new(zoo, &setup).map_err(|error| error.to_string())?;
        let first = opened.engines().first();
        let found = format!("{}: {}", first.name(), first.detail());
        analyzer = Some(Arc::new(opened));
        Ok(found)
    });
    let Some(analyzer) = analyzer else { return };
    round.check("gpu", false, || {
        if trying {
            return Err(format!(
                "the daemon ended twice while it opened the GPU's engines, and works without them until the next version: update the box, or flash it (where there is a shell, delete {} to try again)",
                appliance::trying(&config.storage.dir).display()
            ));
        }
        let missing = analyzer.engines().status();
        let missing: Vec<String> = missing
            .iter()
            .filter_map(|engine| match &engine.state {
                EngineState::Missing { why } => Some(format!("{}: {why}", engine.name)),
                _ => None,
            })
            .collect();
        match wanted {
            Choice::Cpu => Ok("none is wanted (engine.backend is \"cpu\")".to_owned()),
            // Whatever is there is used.
            Choice::Auto if missing.is_empty() => Ok("every engine works".to_owned()),
            Choice::Auto => Ok(format!("not used: {}", missing.join("; "))),
            _ if missing.is_empty() => Ok("the wanted engine works".to_owned()),
            _ => Err(format!("{}; the processor works in its place", missing.join("; "))),
        }
    });
    round.check("phantom", true, || phantom::evaluate(&analyzer, &std::env::temp_dir(), threads));
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text: String = self.checks.iter().map(Check::line).collect();
        text += if self.passed { "This box is well" } else { "This box is NOT well" };
        let warnings = self.checks.iter().filter(|check| check.state == State::Warning).count();
        text + &if warnings == 0 { ".\n".to_owned() } else { format!("; {warnings} warnings.\n") }
    }
}

impl Check {
    /// For people.
    pub fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "WARNING",
            State::Failed => "FAILED",
        };
        format!("{:14} {state:8} {:>6} ms  {}\n", self.name, self.ms, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_essential_never_fails_a_box() {
        let mut heard = Vec::new();
        let mut tell = |check: &Check| heard.push(check.name.clone());
        let mut round = Round { checks: Vec::new(), tell: &mut tell };
        assert!(!round.check("pacs", false, || Err("down".into())));
        assert!(round.check("models", true, || Ok("there".into())));
        assert_eq!(round.checks[0].state, State::Warning);
        assert!(!round.check("database", true, || Err("broken".into())));
        let states: Vec<State> = round.checks.iter().map(|check| check.state).collect();
        assert_eq!(states, [State::Warning, State::Ok, State::Failed]);
        assert_eq!(heard, ["pacs", "models", "database"]);
    }

    #[test]
    fn without_a_configuration_nothing_else_is_said() {
        let report = examine(Path::new("/nowhere.toml"), &mut |_| {});
        assert!(!report.passed && report.checks.len() == 1);
        assert!(report.table().contains("configuration  FAILED"), "{}", report.table());
        assert!(report.table().ends_with("This box is NOT well.\n"));
    }
}
