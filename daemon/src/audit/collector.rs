//! Brings what the trail took down to the site's collector, and lets go of what is too old. One thread; the database is its
//! queue, so that a collector that is away for a week gets it all later, in order, each event once or, after a broken
//! connection, twice.
use super::message::{Source, message};
use super::{Outcome, syslog};
use crate::config::Audit;
use crate::database::{Database, DatabaseError};
use crate::intake::now_ms;
use dimse::rustls::ClientConfig;
use log::{error, info, warn};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Messages of one connection: 1.5 KB each.
const BATCH_MAX: usize = 200;
/// How often it looks without being woken: `triaged users` writes beside the daemon.
const PERIOD: Duration = Duration::from_secs(30);
/// The pauses after failures: the first one, twice as long each time, and the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// Rows that are kept at the most, whatever `audit.keep_days` says: 300 bytes each, 3 GB. A department of 20 people makes
/// some 2,000 a day, 4 million in six years.
const ROWS_MAX: i64 = 10_000_000;

/// See the module.
pub struct Collector {
    database: Arc<Database>,
    settings: Audit,
    tls: Option<Arc<ClientConfig>>,
    source: Source,
    pause_first: Duration,
}

impl Collector {
    /// `tls` is our side of it, for a collector that speaks TLS; `ae_title` is what the messages call this box by.
    pub fn new(
        database: Arc<Database>,
        settings: Audit,
        tls: Option<Arc<ClientConfig>>,
        ae_title: &str,
    ) -> Self {
        let source = Source {
            ae_title: ae_title.to_owned(),
            host: syslog::host_name(),
            process_id: std::process::id(),
        };
        Self { database, settings, tls, source, pause_first: PAUSE_FIRST }
    }

    /// The same with other pauses.
    #[cfg(test)]
    pub(super) fn hurried(self, pause_first: Duration) -> Self {
        Self { pause_first, ..self }
    }

    /// Runs until the trail stops; then tries once more, for what was taken down at last.
    ///
    /// # Errors
    /// There is none: whatever goes wrong is tried again, and is no reason to end the daemon.
    pub fn run(&self, woken: &Receiver<()>) {
        let mut pause: Option<Duration> = None;
        let mut pruned: Option<Instant> = None;
        loop {
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
                self.prune();
                pruned = Some(Instant::now());
            }
            pause = self.round(pause);
            let until = Instant::now() + pause.unwrap_or(PERIOD);
            loop {
                match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    // A collector that is away is not asked at every event.
                    Ok(()) if pause.is_some() => {}
                    Ok(()) | Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.round(pause);
                        return;
                    }
                }
            }
        }
    }

    /// Sends what waits; the pause to make if that failed.
    fn round(&self, before: Option<Duration>) -> Option<Duration> {
        match (self.send_waiting(), before) {
            (Ok(sent), Some(_)) => {
                info!("the audit collector is back, {sent} messages were sent");
                None
            }
            (Ok(_), None) => None,
            (Err(error), before) => {
                if before.is_none() {
                    warn!("audit messages wait: {error}; tried again until they are sent");
                }
                Some(before.map_or(self.pause_first, |pause| (2 * pause).min(PAUSE_MAX)))
            }
        }
    }

    /// How many.
    fn send_waiting(&self) -> Result<usize, String> {
        let Some(to) = &self.settings.syslog else { return Ok(0) };
        let failed = |error: DatabaseError| error.to_string();
        let mut sent = 0;
        loop {
            let events = self.database.unsent_audit(BATCH_MAX).map_err(failed)?;
            if events.is_empty() {
                return Ok(sent);
            }
            let line = |event: &super::Event| {
                let notable = event.outcome != Outcome::Success;
                let Source { host, process_id, .. } = &self.source;
                syslog::line(event.at_ms, notable, host, *process_id, &message(event, &self.source))
            };
            let messages: Vec<String> = events.iter().map(|(_, event)| line(event)).collect();
            syslog::send(to, self.tls.as_ref(), &messages).map_err(|error| format!("{to}: {error}"))?;
            let ids: Vec<i64> = events.iter().map(|(id, _)| *id).collect();
            self.database.sent_audit(&ids).map_err(failed)?;
            sent += ids.len();
        }
    }

    fn prune(&self) {
        let before_ms = now_ms() - (self.settings.keep_days * 86_400_000.0) as i64;
        match self.database.prune_audit(before_ms, ROWS_MAX) {
            Ok((0, _)) => {}
            Ok((rows, 0)) => info!("{rows} rows of the audit trail were kept long enough"),
            Ok((rows, unsent)) => {
                error!(
                    "{rows} rows of the audit trail are deleted, {unsent} of which the collector never got"
                );
            }
            Err(error) => error!("old rows of the audit trail stay: {error}"),
        }
    }
}
