//! The update's manifest: which version, for which boards, which files.
use crate::{Board, Variant, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Files of an update at the most, all boards together.
pub const FILES_MAX: usize = 64;
/// Bytes of a file at the most: FAT32 holds no longer one.
pub const FILE_BYTES_MAX: u64 = u32::MAX as u64;
/// Characters of a file's name at the most.
const NAME_CHARS_MAX: usize = 100;

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, or not these keys.
    #[error("the update's manifest can't be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// A version that can't be compared by all tools alike.
    #[error(
        "version {0} is not of three numbers alone: tools order what follows - or + differently; leave it out"
    )]
    NotPlain(Version),
    /// Not a commit.
    #[error("commit {0:?} is not 1 to 64 hexadecimal digits, nor \"unknown\"")]
    Commit(String),
    /// Nothing to install.
    #[error("the manifest names no file")]
    Empty,
    /// Too much to install.
    #[error("the manifest names {0} files; {FILES_MAX} are possible")]
    TooMany(usize),
    /// A path that could lead elsewhere, or that FAT can't keep.
    #[error(
        "path {path:?}: a file is named {folder}/NAME, NAME of letters, digits, and . _ - + @ (not first), at most {NAME_CHARS_MAX}"
    )]
    Path {
        /// As it is written.
        path: String,
        /// The folder of the file's board and variant.
        folder: String,
    },
    /// The same name twice, FAT not knowing capitals.
    #[error("path {0:?} is there twice (capitals don't count)")]
    Twice(String),
    /// A length that can't be.
    #[error("{path}: {bytes} bytes; 1 to {FILE_BYTES_MAX} are possible")]
    Bytes {
        /// Which file.
        path: String,
        /// As it is written.
        bytes: u64,
    },
}

/// A signed update, as `manifest.toml` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the box runs afterwards.
    pub version: Version,
    /// The commit that it was built from, or "unknown".
    pub commit: String,
    /// Whether a box with a newer version may take it.
    #[serde(default)]
    pub allow_older: bool,
    /// The files of all boards.
    #[serde(rename = "file")]
    pub files: Vec<UpdateFile>,
}

/// One file of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateFile {
    /// Who takes it.
    pub board: Board,
    /// Which of them: boxes of this variant alone.
    #[serde(default, skip_serializing_if = "Variant::is_plain")]
    pub variant: Variant,
    /// `FOLDER/NAME`, below the manifest's folder; FOLDER is [`Board::folder`].
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What it must be.
    pub sha256: Sha256,
}

impl UpdateFile {
    /// Its name without its folder.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// What an update would do to a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A newer version.
    Newer,
    /// The one that runs.
    Same,
    /// An older one, which the manifest allows.
    OlderAllowed,
    /// An older one, which it does not.
    OlderRefused,
}

impl Manifest {
    /// Reads and checks the text of a manifest whose signature was verified.
    ///
    /// # Errors
    /// [`ManifestError`] names the key and the value.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The text of the manifest, to be signed.
    ///
    /// # Errors
    /// [`ManifestError`]: what [`Manifest::parse`] would refuse.
    pub fn to_text(&self) -> Result<String, ManifestError> {
        self.check()?;
        // Strings, numbers and a list of tables: TOML holds them all.
        Ok(toml::to_string(self).expect("a checked manifest is TOML"))
    }

    /// The set for a board of a variant.
    pub fn files_of(&self, board: Board, variant: Variant) -> impl Iterator<Item = &UpdateFile> {
        self.files.iter().filter(move |file| file.board == board && file.variant == variant)
    }

    /// The variants of a board that it has files for.
    pub fn variants_of(&self, board: Board) -> BTreeSet<Variant> {
        self.files.iter().filter(|file| file.board == board).map(|file| file.variant).collect()
    }

    /// The boards that it has files for.
    pub fn boards(&self) -> BTreeSet<Board> {
        self.files.iter().map(|file| file.board).collect()
    }

    /// What it would do to a box that runs `running`.
    pub fn step(&self, running: &Version) -> Step {
        match self.version.cmp_precedence(running) {
            std::cmp::Ordering::Greater => Step::Newer,
            std::cmp::Ordering::Equal => Step::Same,
            std::cmp::Ordering::Less if self.allow_older => Step::OlderAllowed,
            std::cmp::Ordering::Less => Step::OlderRefused,
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        // Boot loaders order 1.0.0-rc1 after 1.0.0, this crate before it: an update between the two would not start.
        if !self.version.build.is_empty() || !self.version.pre.is_empty() {
            return Err(ManifestError::NotPlain(self.version.clone()));
        }
        let hex = (1..=64).contains(&self.commit.len()) && self.commit.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex && self.commit != "unknown" {
            return Err(ManifestError::Commit(self.commit.clone()));
        }
        match self.files.len() {
            0 => return Err(ManifestError::Empty),
            n if n > FILES_MAX => return Err(ManifestError::TooMany(n)),
            _ => {}
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let folder = file.board.folder(file.variant);
            if !is_path(&file.path, &folder) {
                return Err(ManifestError::Path { path: file.path.clone(), folder });
            }
            if !(1..=FILE_BYTES_MAX).contains(&file.bytes) {
                return Err(ManifestError::Bytes { path: file.path.clone(), bytes: file.bytes });
            }
            if !seen.insert(file.path.to_ascii_lowercase()) {
                return Err(ManifestError::Twice(file.path.clone()));
            }
        }
        Ok(())
    }
}

/// `FOLDER/NAME` and nothing else: no absolute path, no `..`, no hidden file, no backslash, nothing that FAT changes.
fn is_path(path: &str, folder: &str) -> bool {
    let Some(name) = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        // FAT drops dots at the end of a name.
        && !name.ends_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
}

/// A SHA-256, 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no SHA-256: 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |board: Board, name: &str| UpdateFile {
            board,
            variant: Variant::Plain,
            path: format!("{board}/{name}"),
            bytes: 5,
            sha256: Sha256::of(b"bytes"),
        };
        Manifest {
            version: Version::new(1, 2, 0),
            commit: "0123abc".into(),
            allow_older: false,
            files: vec![
                file(Board::X86_64, "triaged_1.2.0.efi"),
                file(Board::JetsonOrin, "triaged_1.2.0.raucb"),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = manifest().to_text().unwrap();
        assert!(
            text.contains("[[file]]\nboard = \"x86-64\"\npath = \"x86-64/triaged_1.2.0.efi\"\nbytes = 5\n"),
            "{text}"
        );
        let read = Manifest::parse(&text).unwrap();
        assert_eq!(read, manifest());
        assert_eq!(
            read.files_of(Board::JetsonOrin, Variant::Plain).map(UpdateFile::name).collect::<Vec<_>>(),
            ["triaged_1.2.0.raucb"]
        );
        assert_eq!(read.files_of(Board::JetsonXavier, Variant::Plain).count(), 0);
    }

    #[test]
    fn both_variants_of_a_board_lie_beside_each_other() {
        let mut both = manifest();
        let plain = both.files[0].clone();
        both.files.push(UpdateFile {
            variant: Variant::Nvidia,
            path: "x86-64-nvidia/triaged_1.2.0.efi".into(),
            ..plain.clone()
        });
        let text = both.to_text().unwrap();
        // A box that knows no variants reads what is for it.
        assert_eq!(text.matches("variant = ").count(), 1, "{text}");
        let read = Manifest::parse(&text).unwrap();
        assert_eq!(read, both);
        let names =
            |variant| read.files_of(Board::X86_64, variant).map(|f| f.path.as_str()).collect::<Vec<_>>();
        assert_eq!(names(Variant::Plain), ["x86-64/triaged_1.2.0.efi"]);
        assert_eq!(names(Variant::Nvidia), ["x86-64-nvidia/triaged_1.2.0.efi"]);
        assert_eq!(read.variants_of(Board::X86_64), Variant::ALL.into());
        assert_eq!(read.variants_of(Board::JetsonOrin), [Variant::Plain].into());

        // Nobody's file lies in the other's folder, whatever the manifest calls it.
        for (variant, path) in [(Variant::Plain, "x86-64-nvidia/a"), (Variant::Nvidia, "x86-64/a")] {
            let mut tricked = manifest();
            tricked.files[0] = UpdateFile { variant, path: path.into(), ..plain.clone() };
            assert!(matches!(tricked.to_text(), Err(ManifestError::Path { .. })), "{path}");
        }
        let odd = text.replace("variant = \"nvidia\"", "variant = \"amd\"");
        assert!(Manifest::parse(&odd).unwrap_err().to_string().contains("unknown variant `amd`"));
    }

    #[test]
    fn versions_step_up_unless_the_manifest_lets_them_fall() {
        for (running, allow_older, want) in [
            ("1.1.9", false, Step::Newer),
            ("1.2.0-rc.1", false, Step::Newer),
            ("1.2.0", false, Step::Same),
            ("1.2.0", true, Step::Same),
            ("1.10.0", false, Step::OlderRefused),
            ("1.2.1-rc.1", false, Step::OlderRefused),
            ("1.10.0", true, Step::OlderAllowed),
        ] {
            let manifest = Manifest { allow_older, ..manifest() };
            assert_eq!(manifest.step(&running.parse().unwrap()), want, "{running}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_boards_folder() {
        for path in [
            "",
            "x86-64",
            "x86-64/",
            "/x86-64/a",
            "x86-64//a",
            "x86-64/../a",
            "x86-64/..",
            "x86-64/.",
            "x86-64/.hidden",
            "x86-64/a/b",
            "x86-64/a\\b",
            "x86-64/a b",
            "x86-64/a:b",
            "x86-64/a\0",
            "x86-64/ä",
            "x86-64/a.",
            "x86-64/-rf",
            "jetson-orin/a",
            "X86-64/a",
            "../x86-64/a",
        ] {
            let mut tricked = manifest();
            tricked.files[0].path = path.to_owned();
            assert!(matches!(tricked.to_text(), Err(ManifestError::Path { .. })), "{path:?}");
            let text = manifest().to_text().unwrap();
            let text = text.replace("\"x86-64/triaged_1.2.0.efi\"", &toml::Value::from(path).to_string());
            assert!(matches!(Manifest::parse(&text), Err(ManifestError::Path { .. })), "{path:?}");
        }
        let mut long = manifest();
        long.files[0].path = format!("x86-64/{}", "a".repeat(101));
        assert!(matches!(long.to_text(), Err(ManifestError::Path { .. })));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = manifest().to_text().unwrap();
        let hash = Sha256::of(b"bytes").to_string();
        for (from, to, want) in [
            ("version = \"1.2.0\"", "version = \"1.2\"", "unexpected end"),
            ("version = \"1.2.0\"", "version = \"1.2.0+7\"", "three numbers"),
            ("version = \"1.2.0\"", "version = \"1.2.0-rc1\"", "three numbers"),
            ("commit = \"0123abc\"", "commit = \"main\"", "commit \"main\""),
            ("bytes = 5", "bytes = 0", "0 bytes"),
            ("bytes = 5", "bytes = 4294967296", "4294967296 bytes"),
            ("bytes = 5", "bytes = -1", "invalid value"),
            (&hash, "00", "no SHA-256"),
            (&hash, &"g".repeat(64), "no SHA-256"),
            ("allow_older = false", "allow_odler = true", "unknown field `allow_odler`"),
            (
                "board = \"jetson-orin\"\npath = \"jetson-orin/triaged_1.2.0.raucb\"",
                "board = \"x86-64\"\npath = \"x86-64/Triaged_1.2.0.EFI\"",
                "twice",
            ),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Manifest::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
        let none = Manifest { files: Vec::new(), ..manifest() };
        assert!(matches!(none.to_text(), Err(ManifestError::Empty)));
        let many = Manifest { files: vec![manifest().files[0].clone(); 65], ..manifest() };
        assert!(matches!(many.to_text(), Err(ManifestError::TooMany(65))));
    }
}
