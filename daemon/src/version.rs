//! What exactly this is: the version, the commit, the image that it runs in, the models.
use crate::layout::Layout;
use crate::update::image_version;
use serde::Deserialize;
use std::fmt;
use std::path::Path;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from, or "unknown".
pub const COMMIT: &str = env!("TRIAGED_BUILT_FROM");
/// Hexadecimal digits of a hash that are shown.
const HASH_DIGITS: usize = 12;

/// What is read of a model's card: a version is shown of whatever is there, good or not.
#[derive(Deserialize)]
struct Card {
    name: String,
    version: String,
    #[serde(default)]
    sha256: Option<Hashes>,
}

#[derive(Deserialize)]
struct Hashes {
    model: String,
}

/// The image that this runs in: its version is what sticks, slots and the boot loader compare, and not the program's.
pub struct Image {
    /// `IMAGE_VERSION`.
    pub version: stick::Version,
    /// The board that it is for, and its variant unless that is plain.
    pub board: String,
}

impl Image {
    /// What the box says of itself; `None` where this runs in no image of ours.
    pub fn read(layout: &Layout) -> Option<Self> {
        let text = |path| std::fs::read_to_string(path).ok();
        let version = image_version(&text(layout.os_release())?).ok()?;
        let mut board = text(layout.board())?.trim().to_owned();
        if let Some(variant) = text(layout.variant()) {
            board += &format!(", {}", variant.trim());
        }
        Some(Self { version, board })
    }

    /// That of this box.
    pub fn here() -> Option<Self> {
        Self::read(&Layout::at(Path::new("/")))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {} for {}", self.version, self.board)
    }
}

/// The first digits of a hash.
pub fn short(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

/// Version and commit, the image if there is one, and a line for each model in a folder.
pub fn describe(zoo: &Path) -> String {
    let mut text = format!("triaged {VERSION} (commit {COMMIT})\n");
    if let Some(image) = Image::here() {
        text += &format!("{image}\n");
    }
    let folders =
        std::fs::read_dir(zoo).into_iter().flatten().flatten().map(|entry| entry.path().join("card.toml"));
    let mut models: Vec<String> = folders.filter_map(|card| line(&card)).collect();
    models.sort();
    if models.is_empty() {
        text += &format!("no models in {}\n", zoo.display());
    }
    models.into_iter().for_each(|line| text += &line);
    text
}

fn line(card: &Path) -> Option<String> {
    let Card { name, version, sha256 } = toml::from_str(&std::fs::read_to_string(card).ok()?).ok()?;
    let hash = sha256.as_ref().map_or("untrained", |sha256| short(&sha256.model));
    Some(format!("model {name} {version} {hash}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_that_ship_are_named_with_their_hashes() {
        let text = describe(&engine::default_zoo_dir());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("triaged {VERSION} (commit {COMMIT})"));
        assert!(COMMIT == "unknown" || COMMIT.len() >= 7, "{COMMIT}");
        let lungs = lines.iter().find(|line| line.starts_with("model lungs ")).unwrap();
        assert_eq!(lungs.rsplit(' ').next().unwrap().len(), 12, "{lungs}");
        assert!(describe(Path::new("/nowhere")).contains("no models in /nowhere"));
    }

    #[test]
    fn an_image_says_its_own_version_and_its_board() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let put = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let said = || Image::read(&layout).map(|image| image.to_string());
        assert_eq!(said(), None);
        put(layout.os_release(), "ID=debian\nIMAGE_ID=triaged\nIMAGE_VERSION=1.2.0\n");
        assert_eq!(said(), None);
        put(layout.board(), "x86-64\n");
        assert_eq!(said().unwrap(), "image 1.2.0 for x86-64");
        put(layout.variant(), "nvidia\n");
        assert_eq!(said().unwrap(), "image 1.2.0 for x86-64, nvidia");
    }
}
