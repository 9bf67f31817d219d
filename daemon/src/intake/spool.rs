//! The spool: received instances as files, synced before they are acknowledged.
//!
//! Owns the folder `spool/`. A data set is collected in memory and written to a slot, a file whose name is already
//! on disk, sealed and synced: one `fdatasync` an instance. Only then it is moved to its study's folder. A crash
//! leaves it in one place or the other; an unsealed slot was never acknowledged and is dropped.
//!
//! ```text
//! slots/N.part ──write, seal, sync──▶ acknowledged ──rename──▶ studies/<key>/<hash of SOP Instance UID>-N.dcm
//! ```
//! A peer's text never becomes a path: names are our own numbers and hashes.
use crate::database::StudyKey;
use crate::dataset::DataSet;
use crate::limits;
use dicom_dictionary_std::tags;
use dimse::uids;
use log::{info, warn};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Slots that are made at a time: their names are synced together.
const SLOTS: usize = 32;
/// The seal lies in the file's preamble, which PS3.10 section 7.1 leaves to the application.
const PREAMBLE: usize = 128;
/// Memory that is kept for the next instance: a slice of 1024² in 16 bits; larger instances are rare.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// More than any head that the intake writes.
const HEAD_BYTES_MAX: u64 = 4096;
const MAGIC: [u8; 16] = *b"triaged sealed 1";

/// Why an instance could not be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk said no.
    #[error("spool {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Less space is free than the configuration keeps.
    #[error("spool: {free_mib} MiB free, storage.min_free_mib is {min_free_mib}")]
    Full {
        /// What is free.
        free_mib: u64,
        /// What is kept.
        min_free_mib: u64,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, source }
}

/// The folder.
pub struct Spool {
    slots_dir: PathBuf,
    studies_dir: PathBuf,
    min_free_mib: u64,
    sequence: AtomicU64,
    slots: Arc<Mutex<Vec<Slot>>>,
    /// Memory of parts that were sealed, for the next ones.
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The files of the studies that are being received, by the hash of their instance: a folder of thousands is
    /// listed once, not for every instance.
    receiving: Mutex<HashMap<StudyKey, HashMap<String, PathBuf>>>,
}

struct Slot {
    path: PathBuf,
    file: File,
}

/// An instance that is being received: a sink for its head and data set. It is collected in memory, where its header
/// is read from too, and goes to the disk in one write when it is sealed.
pub struct Part {
    slot: Option<Slot>,
    home: Arc<Mutex<Vec<Slot>>>,
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    head_bytes: usize,
    bytes: Vec<u8>,
}

/// The length and checksum of a data set, as they are sealed into its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seal {
    head_bytes: u64,
    data_set_bytes: u64,
    checksum: u32,
}

/// Where a filed instance ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filed {
    /// It is new to the study.
    New(PathBuf),
    /// Another data set had the same SOP Instance UID; the newer one took its place.
    Replaced(PathBuf),
    /// The same data set was there; nothing changed.
    Duplicate,
}

impl Spool {
    /// Opens or creates the spool under `dir`.
    pub fn open(dir: &Path, min_free_mib: u64) -> Result<Self, SpoolError> {
        let (slots_dir, studies_dir) = (dir.join("slots"), dir.join("studies"));
        for folder in [&slots_dir, &studies_dir] {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        sync_dir(dir)?;
        let used =
            files(&slots_dir)?.into_iter().chain(study_files(&studies_dir)?).filter_map(|p| number(&p));
        let next = used.max().map_or(0, |n| n + 1);
        Ok(Self {
            slots_dir,
            studies_dir,
            min_free_mib,
            sequence: AtomicU64::new(next),
            slots: Arc::default(),
            buffers: Arc::default(),
            receiving: Mutex::default(),
        })
    }

    /// Instances that were sealed, and so perhaps acknowledged, but not filed when the power failed; in the order in
    /// which they were received. What is not sealed was not acknowledged and is removed. A file that can't be read
    /// stays where it is and holds up nothing.
    pub fn recover(&self) -> Result<Vec<PathBuf>, SpoolError> {
        let mut sealed = Vec::new();
        for path in files(&self.slots_dir)? {
            let dropped = match read_seal(&path) {
                Ok(None) => fs::remove_file(&path).map_err(at(&path)),
                Ok(Some(_)) => {
                    let written = fs::metadata(&path).and_then(|meta| meta.modified());
                    written.map(|time| sealed.push((time, path.clone()))).map_err(at(&path))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = dropped {
                warn!("left where it is: {error}");
            }
        }
        sealed.sort();
        Ok(sealed.into_iter().map(|(_, path)| path).collect())
    }

    /// A fresh part to receive into.
    ///
    /// # Errors
    /// [`SpoolError::Full`] below the configured free space.
    pub fn begin(&self) -> Result<Part, SpoolError> {
        self.room()?;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            for _ in 0..SLOTS {
                let path =
                    self.slots_dir.join(format!("{}.part", self.sequence.fetch_add(1, Ordering::Relaxed)));
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)
                    .map_err(at(&path))?;
                slots.push(Slot { path, file });
            }
            sync_dir(&self.slots_dir)?;
        }
        let slot = slots.pop();
        let bytes = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let (home, buffers) = (Arc::clone(&self.slots), Arc::clone(&self.buffers));
        Ok(Part { slot, home, buffers, head_bytes: 0, bytes })
    }

    /// Whether there is space for anything more that a peer sends.
    ///
    /// # Errors
    /// [`SpoolError::Full`] below the configured free space.
    pub fn room(&self) -> Result<(), SpoolError> {
        let (free_mib, min_free_mib) = (self.free_mib()?, self.min_free_mib);
        if free_mib < min_free_mib { Err(SpoolError::Full { free_mib, min_free_mib }) } else { Ok(()) }
    }

    /// Space left for the spool.
    pub fn free_mib(&self) -> Result<u64, SpoolError> {
        let stat = nix::sys::statvfs::statvfs(&self.slots_dir).map_err(|e| at(&self.slots_dir)(e.into()))?;
        Ok((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64) >> 20)
    }

    /// Whether less than twice the configured space is free: time to let go of old images, before instances are
    /// refused.
    pub fn is_short(&self) -> Result<bool, SpoolError> {
        Ok(self.free_mib()? < self.min_free_mib.saturating_mul(2))
    }

    /// Moves a sealed file to its study. `sop_instance` names it within the study, by its hash.
    pub fn file(&self, sealed: &Path, key: StudyKey, sop_instance: &str) -> Result<Filed, SpoolError> {
        let dir = self.study_dir(key);
        let hash = instance_hash(sop_instance);
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(at(&dir))?;
            sync_dir(&self.studies_dir)?;
        }
        let known = match receiving.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let files = self.instances(key)?;
                vacant.insert(files.into_iter().filter_map(|path| Some((hash_of(&path)?, path))).collect())
            }
        };
        let earlier = known.get(&hash);
        if let Some(earlier) = earlier
            && same_data_set(earlier, sealed)?
        {
            fs::remove_file(sealed).map_err(at(sealed))?;
            return Ok(Filed::Duplicate);
        }
        // A number of its own: slots are not used in the order of theirs, and the higher one is to be the newer content.
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{hash}-{number}.dcm"));
        fs::rename(sealed, &path).map_err(at(&path))?;
        match known.insert(hash, path.clone()) {
            Some(earlier) => {
                // Should it stay, the one with the higher number counts.
                if let Err(error) = fs::remove_file(&earlier) {
                    warn!("the earlier content stays: {}", at(&earlier)(error));
                }
                Ok(Filed::Replaced(path))
            }
            None => Ok(Filed::New(path)),
        }
    }

    /// Removes a sealed file if its study has the same data set; whether it had.
    pub fn drop_duplicate(
        &self,
        sealed: &Path,
        key: StudyKey,
        sop_instance: &str,
    ) -> Result<bool, SpoolError> {
        let hash = Some(instance_hash(sop_instance));
        let earlier = self.instances(key)?.into_iter().find(|path| hash_of(path) == hash);
        let duplicate = match earlier {
            Some(earlier) => same_data_set(&earlier, sealed)?,
            None => false,
        };
        if duplicate {
            self.discard(sealed)?;
        }
        Ok(duplicate)
    }

    /// Removes a sealed file that is not to be filed.
    pub fn discard(&self, sealed: &Path) -> Result<(), SpoolError> {
        fs::remove_file(sealed).map_err(at(sealed))
    }

    /// A study's reception is over for now: its list of files need not be kept in memory.
    pub fn received(&self, key: StudyKey) {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// The studies that have a folder.
    pub fn studies(&self) -> Result<Vec<StudyKey>, SpoolError> {
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok().map(StudyKey);
        Ok(files(&self.studies_dir)?.into_iter().filter_map(name).collect())
    }

    /// The files of a study, one an instance: where a crash left two, the newer one.
    pub fn instances(&self, key: StudyKey) -> Result<Vec<PathBuf>, SpoolError> {
        let mut paths = files(&self.study_dir(key))?;
        let hash = |p: &Path| {
            p.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('-').next()).map(str::to_owned)
        };
        paths.sort_by_key(|p| (hash(p), std::cmp::Reverse(number(p))));
        paths.dedup_by_key(|p| hash(p));
        Ok(paths)
    }

    /// The files of a study's instances, `None` for each that is not there.
    pub fn files_of(
        &self,
        key: StudyKey,
        sop_instances: &[String],
    ) -> Result<Vec<Option<PathBuf>>, SpoolError> {
        let filed: HashMap<String, PathBuf> =
            self.instances(key)?.into_iter().filter_map(|path| Some((hash_of(&path)?, path))).collect();
        Ok(sop_instances.iter().map(|uid| filed.get(&instance_hash(uid)).cloned()).collect())
    }

    /// Those of `sop_instances` that are filed, with the SOP class that they were stored as. A file that is shorter than its
    /// seal says holds nothing. The newest studies are looked at first, and no more once all are found.
    pub fn filed<'a>(
        &self,
        sop_instances: impl Iterator<Item = &'a str>,
    ) -> Result<HashMap<&'a str, String>, SpoolError> {
        let wanted: HashMap<String, &str> = sop_instances.map(|uid| (instance_hash(uid), uid)).collect();
        let mut filed = HashMap::new();
        let mut studies = self.studies()?;
        studies.sort_unstable_by(|a, b| b.cmp(a));
        for study in studies {
            if filed.len() == wanted.len() {
                break;
            }
            let paths = files(&self.study_dir(study)).unwrap_or_else(|error| {
                warn!("left as it is: {error}");
                Vec::new()
            });
            for path in paths {
                let Some(uid) = hash_of(&path).and_then(|hash| wanted.get(&hash).copied()) else { continue };
                match sop_class(&path) {
                    Ok(Some(class)) => drop(filed.insert(uid, class)),
                    Ok(None) => warn!("{} is damaged", path.display()),
                    // The janitor may have been faster.
                    Err(error) => info!("not there any more: {}", at(&path)(error)),
                }
            }
        }
        Ok(filed)
    }

    /// Deletes the images of a study, if `claim` agrees; whether it did. No instance is filed in between: one that
    /// arrives is either seen by `claim` or filed after the deletion.
    pub fn delete<E: From<SpoolError>>(
        &self,
        key: StudyKey,
        claim: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if !claim()? {
            return Ok(false);
        }
        receiving.remove(&key);
        let dir = self.study_dir(key);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(&dir)(e).into()),
            _ => Ok(true),
        }
    }

    fn study_dir(&self, key: StudyKey) -> PathBuf {
        self.studies_dir.join(format!("{:08}", key.0))
    }
}

impl Part {
    /// Where the part lies.
    pub fn path(&self) -> &Path {
        self.slot.as_ref().map_or(Path::new(""), |slot| &slot.path)
    }

    /// What was received so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Ends the head (preamble and file meta information): the data set follows.
    pub fn head_is_written(&mut self) {
        self.head_bytes = self.bytes.len();
    }

    /// Seals, writes and syncs: when this returns, the instance may be acknowledged.
    pub fn seal(mut self) -> Result<PathBuf, SpoolError> {
        let Some(slot) = self.slot.take() else { return Ok(PathBuf::new()) };
        // What can't be sealed is not acknowledged. After a failed sync the file is not to be used again.
        self.try_seal(&slot).map_err(at(&slot.path)).inspect_err(|_| drop(fs::remove_file(&slot.path)))?;
        Ok(slot.path)
    }

    fn try_seal(&mut self, slot: &Slot) -> io::Result<()> {
        let seal = Seal {
            head_bytes: self.head_bytes as u64,
            data_set_bytes: (self.bytes.len() - self.head_bytes) as u64,
            checksum: crc32fast::hash(&self.bytes[self.head_bytes..]),
        };
        let preamble = self.bytes.get_mut(..PREAMBLE).ok_or(io::ErrorKind::InvalidData)?;
        preamble.copy_from_slice(&seal.encode());
        slot.file.write_all_at(&self.bytes, 0)?;
        slot.file.sync_data()
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the memory back, and the slot of a part that was not sealed: nothing was written to it.
impl Drop for Part {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.capacity() <= BUFFER_BYTES_MAX && buffers.len() < limits::ASSOCIATIONS_MAX {
            bytes.clear();
            buffers.push(bytes);
        }
        if let Some(slot) = self.slot.take() {
            self.home.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

impl Seal {
    fn encode(self) -> [u8; PREAMBLE] {
        let mut bytes = [0; PREAMBLE];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..24].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.data_set_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; PREAMBLE]) -> Option<Self> {
        let number =
            |range: std::ops::Range<usize>| bytes[range].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        (bytes[..16] == MAGIC).then(|| Self {
            head_bytes: number(16..24),
            data_set_bytes: number(24..32),
            checksum: number(32..36) as u32,
        })
    }
}

/// The SOP class in a sealed file's head; `None` if the file is not as long as its seal says.
fn sop_class(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
    let Some(seal) = head.first_chunk().and_then(Seal::decode) else { return Ok(None) };
    if seal.head_bytes.checked_add(seal.data_set_bytes) != Some(file.metadata()?.len()) {
        return Ok(None);
    }
    // PS3.10 section 7.1: the preamble, `DICM`, and the meta information in explicit VR little endian.
    let meta = head.get(PREAMBLE + 4..seal.head_bytes as usize).unwrap_or_default();
    let meta = DataSet::new(meta, uids::EXPLICIT_VR_LITTLE_ENDIAN);
    Ok(meta.and_then(|meta| meta.text(tags::MEDIA_STORAGE_SOP_CLASS_UID)).ok().flatten())
}

/// The seal of a file whose content agrees with it.
fn read_seal(path: &Path) -> Result<Option<Seal>, SpoolError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut preamble = [0; PREAMBLE];
    if file.metadata().map_err(at(path))?.len() < PREAMBLE as u64 {
        return Ok(None);
    }
    file.read_exact(&mut preamble).map_err(at(path))?;
    let Some(seal) = Seal::decode(&preamble) else { return Ok(None) };
    file.seek(SeekFrom::Start(seal.head_bytes)).map_err(at(path))?;
    let (mut checksum, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
    loop {
        let count = file.read(&mut buffer).map_err(at(path))?;
        if count == 0 {
            break;
        }
        checksum.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok((bytes == seal.data_set_bytes && checksum.finalize() == seal.checksum).then_some(seal))
}

/// Whether two files hold the same data set: same length and checksum, then byte by byte. The heads may differ, also in
/// length: they name the sender. An earlier one that can't be read any more holds nothing: the new one takes its place.
fn same_data_set(earlier: &Path, new: &Path) -> Result<bool, SpoolError> {
    let readable = read_seal(earlier).unwrap_or_else(|error| {
        warn!("an instance that was received before can't be read: {error}");
        None
    });
    let (Some(a), Some(b)) = (readable, read_seal(new)?) else { return Ok(false) };
    if (a.data_set_bytes, a.checksum) != (b.data_set_bytes, b.checksum) {
        return Ok(false);
    }
    let data_set = |path: &Path, seal: Seal| -> Result<Vec<u8>, SpoolError> {
        let mut bytes = fs::read(path).map_err(at(path))?;
        Ok(bytes.split_off(bytes.len().min(seal.head_bytes as usize)))
    };
    Ok(data_set(earlier, a)? == data_set(new, b)?)
}

fn instance_hash(sop_instance: &str) -> String {
    Sha256::digest(sop_instance.as_bytes()).iter().take(12).map(|b| format!("{b:02x}")).collect()
}

/// The hash in `hash-N.dcm`.
fn hash_of(path: &Path) -> Option<String> {
    path.file_name()?.to_str()?.split('-').next().map(str::to_owned)
}

/// The number in `N.part` or `hash-N.dcm`.
fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.rsplit('-').next()?.parse().ok()
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(at(dir)(e)),
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(at(dir))).collect(),
    }
}

fn study_files(studies_dir: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let mut all = Vec::new();
    for dir in files(studies_dir)? {
        match files(&dir) {
            Ok(files) => all.extend(files),
            Err(error) => warn!("left as it is: {error}"),
        }
    }
    Ok(all)
}

fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
