//! The janitor: lets go of what is no longer needed, on its own thread.
//!
//! Owns when images and results' data sets go: after their time, images also when space runs short. It never touches
//! a study that is being received or evaluated, nor a result that a destination has not accepted.
use crate::database::{Database, StudyKey};
use crate::intake::now_ms;
use crate::intake::spool::{Spool, SpoolError};
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
}

impl Janitor {
    /// Keeps everything for `keep_ms`, and images until `destinations` have the results, while there is space.
    pub fn new(database: Arc<Database>, spool: Arc<Spool>, keep_ms: i64, destinations: Vec<String>) -> Self {
        Self { database, spool, keep_ms, destinations }
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
            info!("{emptied} results that every destination has are no longer kept");
        }
        for key in self.database.expendable(now_ms() - self.keep_ms, &self.destinations)? {
            self.delete_images(key);
        }
        if !self.spool.is_short()? {
            return Ok(());
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
