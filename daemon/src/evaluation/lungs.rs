//! The lungs of studies whose data set has none: those that the lung net finds, as in the paper. Kept beside the results, computed once.

use super::dataset::{Study, hex};
use super::run;
use crate::files;
use anyhow::{Context, bail};
use engine::{Analysis, Analyzer, LabelVolume};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kept lungs in a folder, and who finds those that are not kept yet.
pub struct Lungs {
    folder: PathBuf,
    /// `None` where the data set has all lungs.
    analyzer: Option<Arc<Analyzer>>,
    threads: usize,
}

impl Lungs {
    /// Lungs kept below `results`.
    pub fn new(results: &Path, analyzer: Option<Arc<Analyzer>>, threads: usize) -> Self {
        Self { folder: results.join("lungs"), analyzer, threads }
    }

    /// The lungs of a study of `shape` (slices, rows, columns).
    ///
    /// # Errors
    /// An image that can't be read, or has another shape; no lungs in it.
    pub fn of(&self, study: &Study, shape: [usize; 3]) -> anyhow::Result<Vec<bool>> {
        let analyzer = self.analyzer.as_deref().context("no lung net is loaded")?;
        let found = match self.kept(study, analyzer) {
            Some(kept) => kept,
            None => self.keep(study, analyzer, &run::analyse(study, analyzer, self.threads)?)?,
        };
        if found.0 != shape {
            bail!("a mask of {shape:?} slices, rows and columns for an image of {:?}", found.0);
        }
        Ok(found.1)
    }

    /// Keeps what an analysis found.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(
        &self,
        study: &Study,
        analyzer: &Analyzer,
        analysis: &Analysis,
    ) -> anyhow::Result<([usize; 3], Vec<bool>)> {
        let LabelVolume { shape, voxels } = &analysis.labels;
        let lungs: Vec<bool> = voxels.iter().map(|label| label & LabelVolume::LUNGS != 0).collect();
        let mut file = GzEncoder::new(Vec::new(), Compression::fast());
        file.write_all(key(study, analyzer).as_bytes())?;
        shape.iter().try_for_each(|side| file.write_all(&(*side as u64).to_le_bytes()))?;
        let bits =
            |eight: &[bool]| (0..).zip(eight).fold(0, |byte, (bit, inside)| byte | u8::from(*inside) << bit);
        file.write_all(&lungs.chunks(8).map(bits).collect::<Vec<u8>>())?;
        files::write(&self.path(study), &file.finish()?, 0o644)?;
        Ok((*shape, lungs))
    }

    /// What was kept of this study, by this lung net; a file that is anything else is written anew.
    fn kept(&self, study: &Study, analyzer: &Analyzer) -> Option<([usize; 3], Vec<bool>)> {
        let mut file = GzDecoder::new(File::open(self.path(study)).ok()?);
        let key = key(study, analyzer);
        let mut known = vec![0; key.len()];
        file.read_exact(&mut known).ok()?;
        if known != key.as_bytes() {
            return None;
        }
        let mut shape = [0; 3];
        for side in &mut shape {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes).ok()?;
            *side = usize::try_from(u64::from_le_bytes(bytes)).ok()?;
        }
        let voxels = shape.iter().try_fold(1_usize, |all, n| all.checked_mul(*n))?;
        let mut bytes = Vec::new();
        file.take(engine::limits::VOXELS_MAX as u64).read_to_end(&mut bytes).ok()?;
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 != 0));
        (bytes.len() == voxels.div_ceil(8)).then(|| (shape, bits.take(voxels).collect()))
    }

    fn path(&self, study: &Study) -> PathBuf {
        self.folder.join(&study.id).join("lungs.gz")
    }
}

/// What lungs are of.
fn key(study: &Study, analyzer: &Analyzer) -> String {
    let mut hasher = Sha256::new();
    for part in [&analyzer.zoo().lungs.text, analyzer.engines().first().name(), &study.fingerprint()] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize()[..16])
}
