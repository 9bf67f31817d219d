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
use anyhow::Context;
use dimse::TlsClient;
use log::warn;
use std::fs::File;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Our side of TLS for who wants it.
///
/// # Errors
/// There is none: nobody who wants TLS is spoken to without. `Config` was checked, so that this is a mistake of ours.
fn client(identity: Option<&Identity>, wanted: bool, peer: &str) -> anyhow::Result<Option<TlsClient>> {
    if !wanted {
        return Ok(None);
    }
    let identity = identity.with_context(|| format!("{peer} wants TLS, and there is no [tls]"))?;
    Ok(Some(TlsClient { config: Arc::clone(&identity.client), server_name: None }))
}

/// Starts the reports to scanners. Whatever was sealed must be filed by then: what is on its way to its study's folder
/// would be reported as not there.
pub(super) fn report(
    config: &Config,
    identity: Option<&Identity>,
    database: &Arc<Database>,
    spool: &Arc<Spool>,
    intake: &Arc<Intake>,
    lock: &Arc<File>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
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
        let tls = client(identity, scanner.tls, &scanner.ae_title)?;
        let reporter = Reporter { database: Arc::clone(database), spool: Arc::clone(spool), scanner, tls };
        let lock = Arc::clone(lock);
        threads.push(critical("commitment", move || {
            reporter.run(&woken)?;
            drop(lock);
            Ok(())
        })?);
    }
    Ok(threads)
}

/// Starts the questions to the worklist, if there is one.
pub(super) fn ask(
    config: &Config,
    identity: Option<&Identity>,
) -> anyhow::Result<(Urgencies, Option<JoinHandle<()>>)> {
    let Some(worklist) = config.worklist.clone() else { return Ok((Urgencies::default(), None)) };
    let (urgencies, questions) = Urgencies::asking();
    let calling = config.dicom.ae_title.parse()?;
    let tls = client(identity, worklist.tls, &worklist.ae_title)?;
    let thread =
        critical("worklist", move || worklist::answer(&questions, &worklist, &calling, tls.as_ref()))?;
    Ok((urgencies, Some(thread)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_wants_tls_is_spoken_to_without() {
        assert!(client(None, false, "CT1").unwrap().is_none());
        let Err(error) = client(None, true, "CT1") else { panic!("in the clear") };
        assert_eq!(error.to_string(), "CT1 wants TLS, and there is no [tls]");
    }
}
