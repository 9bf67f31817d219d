//! What exactly this is: the version, the commit, the models.
use serde::Deserialize;
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

/// The first digits of a hash.
pub fn short(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

/// Version and commit, and a line for each model in a folder.
pub fn describe(zoo: &Path) -> String {
    let mut text = format!("triaged {VERSION} (commit {COMMIT})\n");
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
}
