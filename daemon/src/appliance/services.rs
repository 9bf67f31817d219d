//! The threads that speak with scanners and the worklist on our account: one for each `[[scanner]]` that is told what is
//! committed, one that asks the worklist. All end when the intake stops; one that waits for a peer may outlive the
//! appliance.
use super::critical;
use crate::commitment::Reporter;
use crate::config::Config;
use crate::database::Database;
use crate::intake::Intake;
use crate::intake::spool::Spool;
use crate::tls::Identity;
use crate::worklist::{self, Urgencies};
use dimse::TlsClient;
use log::warn;
use std::fs::File;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Starts them.
pub(super) fn start(
    config: &Config,
    identity: Option<&Identity>,
    database: &Arc<Database>,
    spool: &Arc<Spool>,
    intake: &Arc<Intake>,
    lock: &Arc<File>,
) -> anyhow::Result<(Urgencies, Vec<JoinHandle<()>>)> {
    // `Config` was checked: who wants TLS has an identity.
    let client = |tls: bool| {
        let config = identity.filter(|_| tls).map(|identity| Arc::clone(&identity.client));
        config.map(|config| TlsClient { config, server_name: None })
    };
    let mut threads = Vec::new();
    for (ae_title, waiting) in database.awaiting_reports()? {
        if !config.scanners.iter().any(|scanner| scanner.ae_title == ae_title) {
            warn!(
                "{waiting} storage commitment reports wait for {ae_title}, which is no [[scanner]] any more"
            );
        }
    }
    for scanner in config.scanners.clone() {
        let (wake, woken) = mpsc::channel();
        intake.wake_reporter(&scanner.ae_title, wake);
        let tls = client(scanner.tls);
        let reporter = Reporter { database: Arc::clone(database), spool: Arc::clone(spool), scanner, tls };
        let lock = Arc::clone(lock);
        threads.push(critical("commitment", move || {
            reporter.run(&woken)?;
            drop(lock);
            Ok(())
        })?);
    }
    let Some(worklist) = config.worklist.clone() else { return Ok((Urgencies::default(), threads)) };
    let (urgencies, questions) = Urgencies::asking();
    let (calling, tls) = (config.dicom.ae_title.parse()?, client(worklist.tls));
    threads
        .push(critical("worklist", move || worklist::answer(&questions, &worklist, &calling, tls.as_ref()))?);
    Ok((urgencies, threads))
}
