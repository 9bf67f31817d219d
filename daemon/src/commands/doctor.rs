//! `triaged doctor`: is this box well? A table for people, `--json` for machines, `--status` for the box's page.
//!
//! Exit code 0: every essential check passed; 1: one did not, and a fresh update is rolled back.
use crate::doctor::{self, State};
use crate::status::Teller;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `triaged doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = "/run/triaged/triaged.toml")]
    config: PathBuf,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// File that the box's page shows.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut teller = Teller::new(args.status.as_deref());
    teller.tell("checking", &[]);
    let report = doctor::examine(&args.config, &mut |check| {
        if !args.json {
            print!("{}", check.line());
        }
    });
    let table = report.table();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if let Some(verdict) = table.lines().last() {
        println!("{verdict}");
    }
    // What is well needs no reader.
    let wrong = report.checks.iter().filter(|check| check.state != State::Ok);
    let lines: Vec<String> = wrong.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    teller.tell(if report.passed { "well" } else { "not well" }, &lines);
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
