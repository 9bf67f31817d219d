//! `cargo xtask`: what is built around the workspace.
//!
//! Owns: the command line. Never does: anything that `cargo build` or `cargo test` needs.

mod cubins;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What is built around the workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the GPU kernels ahead of time, one cubin an architecture; fetches pinned compilers from PyPI (230 MB, once).
    Cubins {
        /// Build, compare with what is committed, write nothing.
        #[arg(long, conflicts_with = "report")]
        check: bool,
        /// Build, print each kernel's registers, memory and theoretical occupancy, write nothing.
        #[arg(long)]
        report: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Cubins { check: true, .. } => cubins::check(),
        Command::Cubins { report: true, .. } => cubins::report(),
        Command::Cubins { .. } => cubins::build(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
