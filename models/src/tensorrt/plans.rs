//! Plans on disk.
//!
//! Owns: what a plan is good for (its key), and that no other is ever given to TensorRT, which trusts what it deserialises. Never does: build.
//!
//! A file is its key as text, one line a fact, then the length and SHA-256 of what follows, an empty line, and TensorRT's bytes. A plan of another
//! TensorRT, another card, another model or other sizes has another key; a damaged one another digest. Both are built anew. Files are replaced
//! whole: the power may fail at any time.
//!
//! A plan is code, and its digest proves no author: one that others than this user and root could have written is not read, wherever it lies.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::builder::Recipe;
use super::library::Version;
use super::networks::Network;

/// Of the file; a change makes all older plans stale.
const FORMAT: u32 = 1;
/// Largest file that is read: the largest network of the zoo is 20 MB, and TensorRT adds kernels.
const BYTES_MAX: u64 = 1 << 30;

/// What a plan is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    /// The key of a network's plan on a card.
    pub(super) fn new(
        version: Version,
        (device, capability): (&str, (u32, u32)),
        network: &Network,
        recipe: &Recipe<'_>,
    ) -> Self {
        let mut sizes = String::new();
        for bound in &network.range.sizes {
            let text: Vec<_> = bound.iter().map(ToString::to_string).collect();
            let _ = write!(sizes, " {}", text.join("x"));
        }
        let dla = recipe.dla.map_or_else(|| "none".to_owned(), |core| core.to_string());
        let (major, minor) = capability;
        // A name is the driver's word: it must not end a line.
        let device: String = device.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self(format!(
            "triaged plan {FORMAT}\nlibrary {version}\ndevice {device}\ncompute capability {major}.{minor}\nnetwork {}\nmodel {}\nsizes{sizes}\n\
             profiles {}\nsingle precision {}\ndla {dla}\n",
            network.name, network.model_sha256, recipe.profiles, network.sensitive
        ))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

/// Why there is no plan to use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was never built.
    #[error("{path} is not there")]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// It is of another TensorRT, card, model or program.
    #[error("{path} is stale: it is for `{has}`, needed is `{needs}`")]
    Stale {
        /// The file.
        path: PathBuf,
        /// First fact that differs.
        has: String,
        /// As it should be.
        needs: String,
    },
    /// It is damaged.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Others could have written it; a plan is code.
    #[error("{path} {why}: a plan is code, so only this user and root may be able to write it")]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// Who could.
        why: String,
    },
    /// It can't be read or written.
    #[error("{path}: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// The folder of plans.
#[derive(Debug, Clone)]
pub(super) struct Plans {
    dir: PathBuf,
}

impl Plans {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    /// The file of a network's plan.
    pub(super) fn path(&self, network: &str) -> PathBuf {
        self.dir.join(format!("{network}.plan"))
    }

    /// The plan of a network, if it has this key and is whole.
    pub(super) fn read(&self, network: &str, key: &Key) -> Result<Vec<u8>, PlanError> {
        let path = self.path(network);
        let bytes = self.read_own(&path)?;
        let Some(rest) = bytes.strip_prefix(key.0.as_bytes()) else {
            return Err(differing(path, &bytes, key));
        };
        match payload(rest) {
            Ok(plan) => Ok(plan.to_vec()),
            Err(why) => Err(PlanError::Damaged { path, why }),
        }
    }

    /// Replaces the plan of a network.
    pub(super) fn write(&self, network: &str, key: &Key, plan: &[u8]) -> Result<(), PlanError> {
        let header = format!("{}bytes {} sha256 {}\n\n", key.0, plan.len(), hex(plan));
        self.replace(&self.path(network), &[header.as_bytes(), plan])
    }

    /// What earlier builds measured, if it is of this library and card. A cache: TensorRT checks it itself, and an unreadable one is none.
    pub(super) fn timings(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = self.read_own(&self.timings_path()).ok()?;
        let rest = bytes.strip_prefix(timings_key(key).as_bytes())?;
        payload(rest).ok().map(<[u8]>::to_vec)
    }

    /// Keeps what was measured.
    pub(super) fn keep_timings(&self, key: &Key, timings: &[u8]) -> Result<(), PlanError> {
        let header = format!("{}bytes {} sha256 {}\n\n", timings_key(key), timings.len(), hex(timings));
        self.replace(&self.timings_path(), &[header.as_bytes(), timings])
    }

    fn timings_path(&self) -> PathBuf {
        self.dir.join("timings.cache")
    }

    /// Makes the folder, if there is none, and locks it against another program that builds; the lock ends with the file.
    ///
    /// # Errors
    /// [`PlanError::Unsafe`]; [`PlanError::Io`]. `None` if another program has it.
    pub(super) fn lock(&self) -> Result<Option<File>, PlanError> {
        let path = self.lock_path();
        let failed = |error: io::Error| PlanError::Io { path: path.clone(), why: error.to_string() };
        // Not what a umask of 002 would make of it.
        DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).map_err(failed)?;
        self.check_dir()?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The file of the lock.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn check_dir(&self) -> Result<(), PlanError> {
        match fs::metadata(&self.dir) {
            Ok(metadata) => own(&self.dir, &metadata),
            Err(error) => Err(PlanError::Io { path: self.dir.clone(), why: error.to_string() }),
        }
    }

    /// A file that nobody else could have written.
    fn read_own(&self, path: &Path) -> Result<Vec<u8>, PlanError> {
        let failed = |error: io::Error| PlanError::Io { path: path.to_path_buf(), why: error.to_string() };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PlanError::Absent { path: path.to_path_buf() });
            }
            opened => opened.map_err(failed)?,
        };
        self.check_dir()?;
        let metadata = file.metadata().map_err(failed)?;
        own(path, &metadata)?;
        read_bounded(file, metadata.len()).map_err(failed)
    }

    /// Writes a file beside the old one, then puts it in its place.
    fn replace(&self, path: &Path, parts: &[&[u8]]) -> Result<(), PlanError> {
        // Two programs may build at once: each has a file of its own.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o755).create(&self.dir)?;
            // One that is left from a process of the same number is not ours to write into.
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error: io::Error| {
            // Half a file is of no use; that it can't be removed either adds nothing.
            let _ = fs::remove_file(&new);
            PlanError::Io { path: path.to_path_buf(), why: error.to_string() }
        })
    }
}

/// The facts of a key that timings depend on: format, library, device, compute capability.
fn timings_key(key: &Key) -> String {
    key.0.lines().take(4).fold(String::new(), |text, line| text + line + "\n")
}

fn read_bounded(file: File, size: u64) -> io::Result<Vec<u8>> {
    if size > BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are more than any plan has ({BYTES_MAX})")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether only this user and root can write a file or folder.
fn own(path: &Path, metadata: &Metadata) -> Result<(), PlanError> {
    // /proc/self belongs to the process's effective user (proc(5)).
    let us = fs::metadata("/proc/self").map_or(0, |me| me.uid());
    let unsafe_for = |why: String| Err(PlanError::Unsafe { path: path.to_path_buf(), why });
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != us && owner != 0 {
        return unsafe_for(format!("belongs to user {owner}, not to user {us} or root"));
    }
    if mode & 0o022 != 0 {
        return unsafe_for(format!("may be written by others (mode {mode:o}; chmod go-w)"));
    }
    Ok(())
}

/// The first line of the key that a file does not have.
fn differing(path: PathBuf, bytes: &[u8], key: &Key) -> PlanError {
    if !bytes.starts_with(b"triaged plan ") {
        return PlanError::Damaged { path, why: "it does not start as a plan".to_owned() };
    }
    // The facts are short; a plan may hold anything.
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
    let mut lines = head.lines();
    for needs in key.0.lines() {
        let has = lines.next().unwrap_or("nothing");
        if has != needs {
            let has = has.chars().take(120).collect();
            return PlanError::Stale { path, has, needs: needs.to_owned() };
        }
    }
    PlanError::Damaged { path, why: "its first lines are cut short".to_owned() }
}

/// The bytes that a line `bytes N sha256 D` promises, and no others.
fn payload(rest: &[u8]) -> Result<&[u8], String> {
    let end = rest.windows(2).take(256).position(|pair| pair == b"\n\n").ok_or("its header has no end")?;
    let line = String::from_utf8_lossy(&rest[..end]);
    let plan = &rest[end + 2..];
    let fields: Vec<_> = line.split(' ').collect();
    let ["bytes", len, "sha256", digest] = fields[..] else {
        return Err("its header is not one".to_owned());
    };
    if len.parse() != Ok(plan.len()) {
        return Err(format!("{} bytes where {len} were written", plan.len()));
    }
    if digest != hex(plan) {
        return Err("its digest is not that of its bytes".to_owned());
    }
    Ok(plan)
}

/// SHA-256, in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::builder::Range;
    use super::super::library::Flavour;
    use super::*;

    fn network() -> Network {
        let sizes = [vec![1, 1, 1, 1], vec![8, 1, 192, 192], vec![8, 1, 384, 384]];
        Network {
            name: "lungs",
            onnx: Vec::new(),
            model_sha256: "ab12".to_owned(),
            range: Range { input: "slice".to_owned(), sizes },
            sensitive: "lungs",
        }
    }

    fn key(change: impl FnOnce(&mut Version, &mut Network), device: &str) -> Key {
        let mut version = Version { flavour: Flavour::Full, major: 10, minor: 3, patch: 0 };
        let mut network = network();
        change(&mut version, &mut network);
        Key::new(version, (device, (8, 7)), &network, &network.recipe())
    }

    #[test]
    fn only_a_whole_plan_of_the_same_key_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let plans = Plans::new(&dir.path().join("plans"));
        let path = plans.path("lungs");
        let mine = key(|_, _| {}, "Orin");
        assert_eq!(plans.read("lungs", &mine), Err(PlanError::Absent { path: path.clone() }));
        let plan: Vec<u8> = (0..5000_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        plans.write("lungs", &mine, &plan).unwrap();
        assert_eq!(plans.read("lungs", &mine).as_deref(), Ok(&plan[..]));
        for (other, needs) in [
            (key(|version, _| version.minor = 4, "Orin"), "library TensorRT 10.4.0"),
            (
                key(|version, _| version.flavour = Flavour::Lean, "Orin"),
                "library TensorRT lean runtime 10.3.0",
            ),
            (key(|_, _| {}, "Thor\nlibrary"), "device Thor library"),
            (key(|_, network| network.model_sha256 = "ab13".into(), "Orin"), "model ab13"),
            (
                key(|_, network| network.range.sizes[2][0] = 4, "Orin"),
                "sizes 1x1x1x1 8x1x192x192 4x1x384x384",
            ),
        ] {
            match plans.read("lungs", &other) {
                Err(PlanError::Stale { needs: said, .. }) => assert_eq!(said, needs),
                result => panic!("{needs}: {result:?}"),
            }
        }
        let whole = fs::read(&path).unwrap();
        let header = whole.len() - plan.len();
        for len in [0, 5, 40, header - 70, header - 1, header, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            let error = plans.read("lungs", &mine).unwrap_err();
            assert!(
                matches!(error, PlanError::Damaged { .. } | PlanError::Stale { .. }),
                "cut at {len}: {error}"
            );
        }
        for at in [header - 10, header, whole.len() - 1] {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            fs::write(&path, &wrong).unwrap();
            let error = plans.read("lungs", &mine).unwrap_err();
            assert!(matches!(error, PlanError::Damaged { .. }), "byte {at}: {error}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(matches!(plans.read("lungs", &mine), Err(PlanError::Damaged { .. })));
    }

    #[test]
    fn a_plan_that_others_could_have_written_is_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let plans = Plans::new(&dir.path().join("plans"));
        let mine = key(|_, _| {}, "Orin");
        plans.write("lungs", &mine, b"plan").unwrap();
        let path = plans.path("lungs");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (file, mode, good) in [(&path, 0o664, 0o644), (&path, 0o646, 0o600), (&plans.dir, 0o777, 0o755)] {
            set(file, mode);
            match plans.read("lungs", &mine) {
                Err(PlanError::Unsafe { path, why }) => {
                    assert!(path == *file && why.contains("chmod go-w"), "{path:?} {why}");
                }
                result => panic!("{mode:o}: {result:?}"),
            }
            set(file, good);
            assert_eq!(plans.read("lungs", &mine).as_deref(), Ok(&b"plan"[..]));
        }
        // Of somebody else: only root can make such a file.
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            let error = plans.read("lungs", &mine).unwrap_err();
            assert!(error.to_string().contains("belongs to user 12345"), "{error}");
        } else {
            println!("skipped: not root, so no file of another user");
        }
    }

    #[test]
    fn the_folder_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let plans = Plans::new(&dir.path().join("plans"));
        let first = plans.lock().unwrap();
        assert!(first.is_some() && plans.lock().unwrap().is_none());
        drop(first);
        assert!(plans.lock().unwrap().is_some());
    }

    #[test]
    fn timings_are_kept_for_a_library_and_a_card() {
        let dir = tempfile::tempdir().unwrap();
        let plans = Plans::new(dir.path());
        plans.keep_timings(&key(|_, _| {}, "Orin"), b"measured").unwrap();
        let other_model = key(|_, network| network.model_sha256 = "cd".into(), "Orin");
        assert_eq!(plans.timings(&other_model).as_deref(), Some(&b"measured"[..]));
        assert_eq!(plans.timings(&key(|_, _| {}, "Thor")), None);
        assert_eq!(plans.timings(&key(|version, _| version.patch = 1, "Orin")), None);
    }
}
