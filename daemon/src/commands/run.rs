//! `triaged run`: the daemon.
//!
//! Under systemd (`Type=notify`) it says READY=1 when it listens, STATUS= what it is doing, STOPPING=1 when it ends, and WATCHDOG=1 while every
//! thread turns ([`crate::pulse`]).
use crate::appliance::Appliance;
use crate::config::Config;
use crate::pulse::Late;
use crate::screen::Recent;
use log::{error, info, warn};
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// How often threads are looked at where systemd does not say.
const LOOK: Duration = Duration::from_secs(10);

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
    tell(&[NotifyState::Ready]);
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
    watch(&appliance, &stopped);
    info!("stopping");
    tell(&[NotifyState::Stopping]);
    appliance.stop();
    Ok(ExitCode::SUCCESS)
}

/// Tells the service manager that the daemon is well, while it is, until it is to stop.
fn watch(appliance: &Appliance, stopped: &mpsc::Receiver<()>) {
    let mut usec = 0;
    // A third of its patience: one message that is late is not the end.
    let period =
        if sd_notify::watchdog_enabled(false, &mut usec) { Duration::from_micros(usec) / 3 } else { LOOK };
    let (mut status, mut late) = (String::new(), None::<Late>);
    loop {
        let was_late = late.take();
        late = appliance.late();
        match (&was_late, &late) {
            (None, Some(Late { name, away })) => error!(
                "the thread {name} has not turned for {} s: systemd, which is told nothing now, restarts the daemon",
                away.as_secs()
            ),
            (Some(was), None) => warn!("the thread {} turns again", was.name),
            _ => {}
        }
        if late.is_none() {
            tell(&[NotifyState::Watchdog]);
        }
        let now = match &late {
            None => appliance.describe(),
            Some(late) => format!("stuck: {}", late.name),
        };
        if now != status {
            tell(&[NotifyState::Status(&now)]);
            status = now;
        }
        match stopped.recv_timeout(period) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Without a service manager, nobody.
fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(false, state) {
        warn!("the service manager is not told {state:?}: {error}");
    }
}
