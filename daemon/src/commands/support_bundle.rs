//! `triaged support-bundle`: one file for whoever is asked for help, without patients.
use crate::config::Config;
use crate::files;
use crate::support::{self, Sources};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `triaged support-bundle`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = "/run/triaged/triaged.toml")]
    config: PathBuf,
    /// The site's settings.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/triaged-site/site.toml")]
    site: PathBuf,
    /// A further log, beside the journal.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// The file to write: .tar.gz.
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config);
    let sources = Sources {
        config: config.as_ref().map_err(|error| format!("{error:#}")),
        examine: Some(&args.config),
        site: &args.site,
        logs: &args.log,
        texts: Vec::new(),
    };
    let (bytes, missing) = support::bundle(&sources)?;
    for what in missing {
        eprintln!("not in it: {what}");
    }
    files::write(&args.out, &bytes, 0o600)?;
    println!("{}: {} KiB, without patients' data", args.out.display(), bytes.len() >> 10);
    Ok(ExitCode::SUCCESS)
}
