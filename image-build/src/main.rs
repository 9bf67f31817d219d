//! `cargo xtask`: what is built around the workspace.
//!
//! Owns: the command line. Never does: anything that `cargo build` or `cargo test` needs.

mod bundle;
mod cubins;
mod image;
mod jetson;

use std::path::PathBuf;
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
    /// Makes a folder that checks and measures kernels and engines on a machine with a GPU, without Rust or a network.
    GpuBundle {
        /// New or empty folder.
        #[arg(default_value = "target/gpu-bundle")]
        dir: PathBuf,
        /// A folder that `triaged phantom` made; by default one is made.
        #[arg(long, value_name = "DIR")]
        phantom: Option<PathBuf>,
    },
    /// The appliance image: build it, write sticks, test it in a virtual machine.
    #[command(subcommand)]
    Image(Image),
}

#[derive(Subcommand)]
enum Image {
    #[command(flatten)]
    X86(image::Command),
    #[command(flatten)]
    Jetson(jetson::Command),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Cubins { check: true, .. } => cubins::check(),
        Command::Cubins { report: true, .. } => cubins::report(),
        Command::Cubins { .. } => cubins::build(),
        Command::GpuBundle { dir, phantom } => bundle::make(&dir, phantom.as_deref()),
        Command::Image(Image::X86(command)) => image::run(command),
        Command::Image(Image::Jetson(command)) => jetson::run(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stick_names_variants_of_a_version_alone() {
        let variants = |arguments: &str| {
            let all = "cargo-xtask image stick --out x".split(' ').chain(arguments.split(' '));
            match Cli::try_parse_from(all).map(|cli| cli.command) {
                Ok(Command::Image(Image::X86(image::Command::Stick { variant, .. }))) => variant,
                Ok(_) => panic!("{arguments}: another command"),
                Err(error) => panic!("{arguments}: {error}"),
            }
        };
        let (plain, nvidia) = (stick::Variant::Plain, stick::Variant::Nvidia);
        assert_eq!(variants("--set jetson-orin=DIR"), [plain]);
        assert_eq!(variants("--version 1.0.0"), [plain]);
        assert_eq!(variants("--version 1.0.0 --variant nvidia --variant plain"), [nvidia, plain]);
        let alone = "cargo-xtask image stick --out x --variant nvidia".split(' ');
        assert!(Cli::try_parse_from(alone).is_err());
        assert_eq!(variants("--set jetson-orin=DIR --set-version 1.1.0"), [plain]);
        for wrong in ["--set-version 1.1.0", "--set jetson-orin=DIR --set-version 1.1.0 --version 1.1.0"] {
            let all = "cargo-xtask image stick --out x".split(' ').chain(wrong.split(' '));
            assert!(Cli::try_parse_from(all).is_err(), "{wrong}");
        }
    }
}
