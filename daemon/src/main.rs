//! `triaged`: parses the command line and runs one command.
mod access;
mod appliance;
mod audit;
mod commands;
mod commitment;
mod config;
mod database;
mod dataset;
mod doctor;
mod evaluation;
mod evidence;
mod files;
mod instance;
mod intake;
mod janitor;
mod layout;
mod limits;
mod outbox;
mod phantom;
mod pipeline;
mod procedure_steps;
mod pulse;
mod queue;
mod report;
mod screen;
mod site;
mod status;
mod support;
mod tls;
mod update;
mod version;
mod worklist;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Triage daemon of an appliance beside a CT scanner. Not for diagnostic use.
#[derive(Parser)]
#[command(about, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Print the version, the commit that it was built from, and the models that it finds.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The daemon: receive, evaluate, deliver.
    Run(commands::run::Args),
    /// All of it on loopback: a scanner that sends, the appliance, a console that receives.
    Demo(commands::demo::Args),
    /// Studies from files: a table, or one JSON object a study.
    Analyze(commands::analyze::Args),
    /// Methods compared on a prepared data set: the paper's Table 2 and figures, a leaderboard.
    Evaluate(commands::evaluate::Args),
    /// Time a whole study by stage, and the intake against DCMTK's storescp.
    Bench(commands::bench::Args),
    /// What is on its way to the destinations: list, retry, drop; works while the daemon runs.
    Outbox(commands::outbox::Args),
    /// Who may log in to the screen: list, add, password, remove; works while the daemon runs.
    Users(commands::users::Args),
    /// Print the DICOM conformance statement.
    Conformance(commands::conformance::Args),
    /// Write a digital chest phantom as a DICOM CT series, with its truth beside it.
    Phantom(commands::phantom::Args),
    /// Build the networks' TensorRT plans for this box's GPU. Exit codes: 0 all are there, 1 failed, 2 wrong arguments, 3 no GPU, 4 no TensorRT.
    Provision(commands::provision::Args),
    /// At boot: put the files in place that the site's settings ask for (network, time, firewall, the daemon's configuration).
    Site(commands::site::Args),
    /// Do what a field engineer's stick says. Exit codes: 0 nothing new, 1 refused or failed and nothing changed, 10 done, restart the box.
    Stick(commands::stick::Args),
    /// Is this box well? Exit codes: 0 every essential check passed, 1 one did not.
    Doctor(commands::doctor::Args),
    /// One file for whoever is asked for help: versions, health, configuration, logs; no patient's data.
    SupportBundle(commands::support_bundle::Args),
    /// What the box's own monitor shows: addresses, the setup code, what a stick does.
    Console(commands::console::Args),
}

fn main() -> ExitCode {
    let Some(command) = Cli::parse().command else {
        print!("{}", version::describe(&engine::default_zoo_dir()));
        return ExitCode::SUCCESS;
    };
    // The daemon's log is its voice; the other commands speak for themselves and warn only. OpenJPEG warns of much.
    let filter = if matches!(command, Command::Run(_)) { "info,jpeg2k=error" } else { "warn,jpeg2k=error" };
    let log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter)).build();
    log::set_max_level(log.filter());
    let recent = screen::Recent::default();
    // Nothing has set one before.
    let _ = log::set_boxed_logger(Box::new(recent.beside(log)));
    let result = match command {
        Command::Run(args) => commands::run::run(&args, recent),
        Command::Demo(args) => commands::demo::run(&args, recent),
        Command::Analyze(args) => commands::analyze::run(&args),
        Command::Evaluate(args) => commands::evaluate::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Outbox(args) => commands::outbox::run(&args),
        Command::Users(args) => commands::users::run(&args),
        Command::Conformance(args) => commands::conformance::run(&args),
        Command::Phantom(args) => commands::phantom::run(&args),
        Command::Provision(args) => commands::provision::run(&args),
        Command::Site(args) => commands::site::run(&args),
        Command::Stick(args) => commands::stick::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::SupportBundle(args) => commands::support_bundle::run(&args),
        Command::Console(args) => commands::console::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("triaged: {error:#}");
            ExitCode::FAILURE
        }
    }
}
