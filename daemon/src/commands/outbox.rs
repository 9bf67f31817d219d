//! `triaged outbox`: what is on its way to the destinations, and what an operator may do about it.
//!
//! Works beside the running daemon, on the same database; the daemon notices within seconds. It names no patient, but for
//! what destinations said: the last error repeats it, and they may. The daemon's log does not have it.
use crate::config::Config;
use crate::database::{Database, Entry, Selection};
use crate::intake::now_ms;
use anyhow::bail;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `triaged outbox`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML).
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// One line a result and destination: what waits, is stored but not yet committed, or is parked.
    List {
        /// Also what is delivered or dropped.
        #[arg(long)]
        all: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Try again now, with a clean record: parked, waiting or, by number, dropped rows.
    Retry(Which),
    /// Give rows up for good. By number, a dropped row can be retried as long as its bytes are kept.
    Drop(Which),
}

/// Which rows.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Numbers of rows, as `list` shows them.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All of this destination that is not delivered.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// All that is parked.
    #[arg(long)]
    all_parked: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, database) = super::beside_the_daemon(args.config.as_deref())?;
    match &args.action {
        Action::List { all, json } => list(&database, &config, *all, *json),
        Action::Retry(which) => {
            let now_ms = now_ms();
            let code = act(&database, which, "sent now", |rows| Ok(database.retry(rows, now_ms)?))?;
            if which.ids.is_empty() {
                let left = database.parked_and_superseded(which.destination.as_deref())?;
                if left > 0 {
                    println!(
                        "{left} are not: a later revision was accepted, and they would pass for the latest; drop them"
                    );
                }
            }
            Ok(code)
        }
        Action::Drop(which) => act(&database, which, "dropped", |rows| Ok(database.drop_rows(rows)?)),
    }
}

fn list(database: &Database, config: &Config, all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let entries = database.entries(all)?;
    if json {
        for entry in &entries {
            println!("{}", serde_json::to_string(entry)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        println!("nothing is on its way{}", if all { ", and nothing was" } else { "; --all shows what was" });
        return Ok(ExitCode::SUCCESS);
    }
    let now_ms = now_ms();
    let width = |text: fn(&Entry) -> &str, title: &str| {
        entries.iter().map(|e| text(e).len()).chain([title.len()]).max().unwrap_or_default()
    };
    let destination = width(|e| &e.destination, "DESTINATION");
    let study = width(|e| &e.study_uid, "STUDY");
    println!(
        "{:>6}  {:destination$}  {:12}  {:study$}  {:9}  {:>8}  {:>5}  {:>6}  LAST ERROR",
        "ID", "DESTINATION", "KIND", "STUDY", "STATE", "ATTEMPTS", "AGE", "NEXT"
    );
    for e in &entries {
        let next = e.next_attempt_ms.map_or("-".to_owned(), |at| span(at - now_ms));
        println!(
            "{:>6}  {:destination$}  {:12}  {:study$}  {:9}  {:>8}  {:>5}  {next:>6}  {}",
            e.id,
            e.destination,
            e.kind,
            e.study_uid,
            e.state,
            e.attempts,
            span(now_ms - e.queued_ms),
            e.last_error.as_deref().unwrap_or("-"),
        );
    }
    for name in unknown(&entries, config) {
        eprintln!("{name} is no [[destination]] of the configuration: nobody delivers to it; drop its rows");
    }
    Ok(ExitCode::SUCCESS)
}

/// Destinations of open rows that the configuration does not name (any more).
fn unknown<'a>(entries: &'a [Entry], config: &Config) -> Vec<&'a str> {
    let open = entries.iter().filter(|e| ["waiting", "stored", "parked"].contains(&e.state.as_str()));
    let mut names: Vec<&str> = open.map(|e| e.destination.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| config.destinations.iter().all(|d| d.name() != *name));
    names
}

/// Does something to rows, and says what became of them; `done` is what they are then.
fn act(
    database: &Database,
    which: &Which,
    done: &str,
    change: impl Fn(&Selection) -> anyhow::Result<usize>,
) -> anyhow::Result<ExitCode> {
    if let Some(name) = &which.destination {
        let changed = change(&Selection::Destination(name.clone()))?;
        if changed == 0 && database.entries(true)?.iter().all(|e| e.destination != *name) {
            bail!("the outbox has nothing for {name:?}; see the destinations in `list --all`");
        }
        println!("{changed} results of {name} are {done}");
        return Ok(ExitCode::SUCCESS);
    }
    if which.all_parked {
        println!("{} parked results are {done}", change(&Selection::Parked)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for &id in &which.ids {
        if change(&Selection::Row(id))? > 0 {
            println!("{id} is {done}");
        } else {
            eprintln!("{id} {}", why_not(database, id)?);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Why a row was not changed.
fn why_not(database: &Database, id: i64) -> anyhow::Result<String> {
    Ok(match database.row_state(id)? {
        None => "is no row of the outbox; see `list --all`".to_owned(),
        Some((_, false)) => "has no bytes any more: storage.keep_days is over".to_owned(),
        Some((state, _)) if state != "delivered" && database.is_superseded(id)? => {
            format!("is {state}, and a later revision was accepted: sent now it would pass for the latest")
        }
        Some((state, _)) if state == "stored" => {
            "is accepted, and its storage commitment awaited; it is sent again if that fails".to_owned()
        }
        Some((state, _)) => format!("is {state} already"),
    })
}

/// A span of time in one unit; what is over is `now`.
fn span(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        ..=0 => "now".to_owned(),
        1..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let line = format!("outbox --config triaged.toml {line}");
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args)
    }

    #[test]
    fn a_retry_says_exactly_one_thing() {
        for line in [
            "list",
            "list --all --json",
            "retry 1 2",
            "retry --destination pacs",
            "retry --all-parked",
            "drop 3",
            "drop --destination pacs --config other.toml",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in
            ["", "retry", "drop", "retry 1 --all-parked", "retry --destination pacs --all-parked", "drop x"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn spans_have_one_unit() {
        let cases = [(-5, "now"), (999, "now"), (1_000, "1 s"), (119_999, "119 s"), (120_000, "2 min")];
        let later = [(7_200_000, "2 h"), (172_800_000, "2 d")];
        for (ms, want) in cases.into_iter().chain(later) {
            assert_eq!(span(ms), want);
        }
    }
}
