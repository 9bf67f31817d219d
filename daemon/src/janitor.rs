//! The janitor: lets go of what is no longer needed, on its own thread.
//!
//! Owns when images and results' data sets go: after their time, images also when space runs short. It never touches
//! a study that is being received or evaluated, nor a result that a destination is still to get or an operator to judge,
//! unless more is kept for one destination than [`KEPT_FOR_ONE_MAX`]: then its oldest pictures go, never its messages
//! and reports.
use crate::database::{Database, Kept, StudyKey};
use crate::intake::now_ms;
use crate::intake::spool::{Spool, SpoolError};
use crate::limits::KEPT_FOR_ONE_MAX;
use log::{error, info, warn};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(60);

/// Lets go of the images and the results' data sets of finished studies.
pub struct Janitor {
    database: Arc<Database>,
    spool: Arc<Spool>,
    keep_ms: i64,
    /// Who is to have the results before the images go.
    destinations: Vec<String>,
    kept_max_bytes: i64,
}

impl Janitor {
    /// Keeps everything for `keep_ms`, and images until `destinations` have the results, while there is space.
    pub fn new(database: Arc<Database>, spool: Arc<Spool>, keep_ms: i64, destinations: Vec<String>) -> Self {
        Self { database, spool, keep_ms, destinations, kept_max_bytes: KEPT_FOR_ONE_MAX }
    }

    /// Looks again and again until `stop` is closed.
    pub fn run(&self, stop: &Receiver<()>) -> anyhow::Result<()> {
        loop {
            // A folder that can't be deleted must not keep studies from being evaluated.
            if let Err(error) = self.round() {
                error!("janitor: {error:#}; again in {} s", PERIOD.as_secs());
            }
            if !matches!(stop.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                return Ok(());
            }
        }
    }

    /// Deletes after their time; images also when space runs short, oldest first.
    fn round(&self) -> anyhow::Result<()> {
        let emptied = self.database.empty_results(now_ms() - self.keep_ms)?;
        if emptied > 0 {
            info!("the data sets of {emptied} results that are delivered or dropped are no longer kept");
        }
        self.database.delete_views(now_ms() - self.keep_ms)?;
        for key in self.database.expendable(now_ms() - self.keep_ms, &self.destinations)? {
            self.delete_images(key);
        }
        self.shed(self.kept_max_bytes)?;
        if !self.spool.is_short()? {
            return Ok(());
        }
        for kept in self.database.kept_for()? {
            let Kept { destination, results, bytes, since_ms } = kept;
            let days = (now_ms() - since_ms) / 86_400_000;
            error!(
                "storage runs short; {results} results ({} MiB) are kept for {destination}, the oldest for {days} days: \
                 mend that destination",
                bytes >> 20
            );
        }
        // Results that wait are whole in the database: a dead destination must not fill the disk with images.
        for key in self.database.expendable(now_ms(), &[])? {
            if !self.spool.is_short()? {
                break;
            }
            warn!("storage runs short: the images of study {} go before their time", key.0);
            self.delete_images(key);
        }
        Ok(())
    }

    /// A destination that never comes back must not fill the disk with what illustrates.
    fn shed(&self, max_bytes: i64) -> anyhow::Result<()> {
        for Kept { destination, bytes, .. } in self.database.kept_for()? {
            if bytes > max_bytes {
                let dropped = self.database.shed(&destination, bytes - max_bytes)?;
                error!(
                    "{destination}: {} MiB of results waited; its {dropped} oldest pictures, slices and segmentations are \
                     dropped",
                    bytes >> 20
                );
            }
        }
        Ok(())
    }

    /// One study's trouble is not the next one's.
    fn delete_images(&self, key: StudyKey) {
        match self.spool.delete(key, || self.database.claim_images(key).map_err(anyhow::Error::from)) {
            Ok(true) => info!("images of study {} deleted", key.0),
            Ok(false) => {}
            Err(error) => error!("images of study {} not deleted: {error:#}", key.0),
        }
    }
}

/// Removes the folders that a power failure left while their images were deleted.
pub fn remove_leftovers(database: &Database, spool: &Spool) -> anyhow::Result<()> {
    for key in spool.studies()? {
        if database.images_are_deleted(key)?
            && let Err(error) = spool.delete(key, || Ok::<bool, SpoolError>(true))
        {
            warn!("the deleted images of study {} are still there: {error}", key.0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use study::{NotEvaluated, Outcome, StudyUid, Verdict};

    /// A finished study with an image, whose result waits for `to`.
    fn finished(database: &Database, spool: &Spool, study: &str, to: &[String]) -> StudyKey {
        let study = StudyUid::new(study).unwrap();
        let key = database.receive(&study, 1).unwrap();
        let mut part = spool.begin().unwrap();
        part.write_all(&[0; 300]).unwrap();
        part.head_is_written();
        spool.file(&part.seal().unwrap(), key, study.as_str()).unwrap();
        spool.received(key);
        let outcome = Outcome {
            study_uid: study.clone(),
            series_uid: None,
            verdict: Verdict::NotEvaluated(NotEvaluated::NoCt),
            timings_ms: Default::default(),
        };
        let row = crate::database::ResultRow {
            kind: crate::database::Kind::Picture,
            sop_class_uid: String::new(),
            sop_instance_uid: format!("{study}.9"),
            transfer_syntax_uid: String::new(),
            data_set: crate::database::Packed::new(&[1]),
        };
        let reception = database.evaluate(key).unwrap();
        let sent = crate::database::Deliverable { row, destinations: to.to_vec() };
        database
            .finish(reception, 1, &outcome, &[sent], Some(&crate::database::View::default()), now_ms() - 1000)
            .unwrap();
        key
    }

    fn janitor(dir: &Path, min_free_mib: u64, keep_ms: i64) -> Janitor {
        Janitor {
            database: Arc::new(Database::open(&dir.join("db")).unwrap()),
            spool: Arc::new(Spool::open(dir, min_free_mib).unwrap()),
            keep_ms,
            destinations: vec!["pacs".into()],
            kept_max_bytes: KEPT_FOR_ONE_MAX,
        }
    }

    #[test]
    fn results_that_wait_keep_images_while_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let roomy = janitor(dir.path(), 0, 100);
        let here = finished(&roomy.database, &roomy.spool, "1.2.3", &["pacs".into()]);
        let renamed = finished(&roomy.database, &roomy.spool, "1.2.4", &["old name".into()]);
        roomy.round().unwrap();
        assert_eq!(roomy.spool.instances(here).unwrap().len(), 1);
        assert!(roomy.spool.instances(renamed).unwrap().is_empty(), "nobody delivers to it");
        // Nothing is old, and the destination is dead; but the disk is full.
        janitor(dir.path(), u64::MAX, i64::from(u32::MAX)).round().unwrap();
        assert!(roomy.spool.instances(here).unwrap().is_empty());
        assert!(
            !roomy.database.due("pacs", now_ms(), 1, &[]).unwrap().is_empty(),
            "the result is whole all the same"
        );
    }

    #[test]
    fn a_destination_that_never_comes_back_keeps_its_latest_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let mut janitor = janitor(dir.path(), 0, i64::from(u32::MAX));
        // A byte each.
        for n in 0..5 {
            finished(&janitor.database, &janitor.spool, &format!("1.2.{n}"), &["pacs".into(), "dead".into()]);
        }
        let pacs = janitor.database.due("pacs", now_ms(), 9, &[]).unwrap();
        for delivery in &pacs[1..] {
            janitor.database.accepted(delivery.id, false, now_ms()).unwrap();
        }
        janitor.round().unwrap();
        assert_eq!(janitor.database.counts("dead").unwrap().waiting, 5);
        janitor.kept_max_bytes = 3;
        janitor.round().unwrap();
        let due = janitor.database.due("dead", now_ms(), 9, &[]).unwrap();
        let left: Vec<&str> = due.iter().map(|delivery| delivery.sop_instance_uid.as_str()).collect();
        assert_eq!(left, ["1.2.2.9", "1.2.3.9", "1.2.4.9"], "the oldest go");
        assert_eq!(janitor.database.counts("pacs").unwrap().waiting, 1, "another destination keeps its own");
        let bytes = janitor.database.payload(pacs[0].id).unwrap();
        assert_eq!(bytes, crate::database::Payload::Bytes(vec![1]), "what it is still to get is whole");
        let dropped = janitor.database.entries(true).unwrap().into_iter().filter(|e| e.state == "dropped");
        assert!(dropped.clone().all(|e| e.last_error.unwrap().starts_with("too much waited")));
        assert_eq!(dropped.count(), 2);
    }

    #[test]
    fn leftovers_of_a_deletion_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let janitor = janitor(dir.path(), 0, i64::from(u32::MAX));
        let cut_short = finished(&janitor.database, &janitor.spool, "1.2.3", &[]);
        let whole = finished(&janitor.database, &janitor.spool, "1.2.4", &[]);
        assert!(janitor.database.claim_images(cut_short).unwrap());
        remove_leftovers(&janitor.database, &janitor.spool).unwrap();
        assert!(janitor.spool.instances(cut_short).unwrap().is_empty());
        assert_eq!(janitor.spool.instances(whole).unwrap().len(), 1);
    }

    #[test]
    fn one_study_that_can_not_be_deleted_is_not_the_next_ones_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let janitor = janitor(dir.path(), 0, 100);
        let keys = ["1.2.3", "1.2.4"].map(|s| finished(&janitor.database, &janitor.spool, s, &[]));
        let folder = janitor.spool.instances(keys[0]).unwrap()[0].parent().unwrap().to_owned();
        fs::remove_dir_all(&folder).unwrap();
        // No folder, and so an error of the deletion.
        fs::write(&folder, "").unwrap();
        janitor.round().unwrap();
        assert!(janitor.spool.instances(keys[1]).unwrap().is_empty());
    }
}
