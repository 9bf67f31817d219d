//! `triaged run`: the daemon.
use crate::appliance::Appliance;
use crate::config::Config;
use crate::screen::Recent;
use log::{info, warn};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// Arguments of `triaged run`.
#[derive(clap::Args)]
pub struct Args {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &Args, recent: Recent) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    info!("effective configuration:\n{}", toml::to_string(&config)?);
    if config.dicom.callers.iter().any(|c| c == "*") {
        warn!("dicom.callers is [\"*\"]: every AE title may send");
    }
    if config.destinations.is_empty() {
        warn!("no [[destination]]: outcomes are kept in the database and the log, and sent to nobody");
    }
    let (stop, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // A second signal finds the channel closed; the first one counts.
        let _ = stop.send(());
    })?;
    let (notices, ignored) = mpsc::channel();
    drop(ignored);
    let appliance = Appliance::start(&config, notices, recent)?;
    let ready = [sd_notify::NotifyState::Ready];
    if let Err(error) = sd_notify::notify(false, &ready) {
        warn!("service manager not told that we are ready: {error}");
    }
    // The lines that scripts wait for; the ports may have been chosen by the system.
    if let Some(address) = appliance.listening.plain {
        println!("listening on {address}");
    }
    if let Some(address) = appliance.listening.tls {
        println!("listening on TLS {address}");
    }
    if let Some(address) = appliance.screen_address() {
        println!("screen on {address}");
    }
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(3600)) {}
    info!("stopping");
    appliance.stop();
    Ok(ExitCode::SUCCESS)
}
