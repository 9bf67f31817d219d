//! What the daemon has under way, which the box lets it finish before it restarts.
use crate::database::{Database, DatabaseError, UnderWay};
use std::path::Path;
use std::time::Duration;

/// How long the box puts a restart off. A study takes seconds to minutes; one that takes longer is finished after the restart.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);

/// How the waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// Nothing is under way.
    Idle,
    /// This still is.
    Enough(UnderWay),
    /// Nobody can say: the database can't be read.
    Unknown,
}

/// Waits until the daemon receives nothing and evaluates nothing, `patience` at most. `tell` hears each second what is waited for, and how long
/// at most. A daemon that is down finishes nothing: then the patience is what ends it.
pub fn wait(database: &Path, patience: Duration, tell: &mut dyn FnMut(UnderWay, Duration)) -> Waited {
    // A box that was never up has none.
    if !database.exists() {
        return Waited::Idle;
    }
    let mut left = patience;
    loop {
        let under_way = match look(database) {
            Ok(under_way) => under_way,
            Err(error) => {
                // It may be what the update mends.
                log::warn!("what is under way can't be told: {error}");
                return Waited::Unknown;
            }
        };
        if under_way.is_nothing() {
            return Waited::Idle;
        }
        if left.is_zero() {
            return Waited::Enough(under_way);
        }
        tell(under_way, left);
        let step = left.min(LOOK);
        std::thread::sleep(step);
        left -= step;
    }
}

/// Opened anew each time: the daemon may start meanwhile and bring the file up.
fn look(database: &Path) -> Result<UnderWay, DatabaseError> {
    Database::open_beside_the_daemon(database)?.under_way()
}
