//! `triaged evaluate`: the paper's comparison of methods on a prepared data set.
//!
//! Owns what is done once a study or a data set: reading, scoring, tables, figures, the leaderboard. It never decides about a patient, and
//! leaves the data set as it is.
//!
//! ```text
//! dataset ─▶ volume ─▶ run (the networks) ─▶ score ─▶ table, figures, leaderboard
//!                           others' predictions ─▶ score ┘
//! ```

pub mod dataset;
mod drawing;
pub mod figures;
pub mod leaderboard;
pub mod lungs;
pub mod metrics;
pub mod others;
pub mod run;
pub mod score;
pub mod table;
mod volume;

use anyhow::Context;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use drawing::Drawing;

/// Writes a file whole, or leaves the old one: a run that ends in between loses nothing.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        // Others may read tables; and a name must not outlive a power cut without its bytes.
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}
