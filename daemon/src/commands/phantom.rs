//! `triaged phantom`: a digital chest phantom as a DICOM series.
use std::process::ExitCode;

/// Arguments of `triaged phantom`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("phantom: being written")
}
