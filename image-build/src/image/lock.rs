//! Which packages an image has: read from mkosi's manifests, compared with `packages.lock`.
//!
//! Owns: the lock file. Never does: install a package; no dated archive can be reached from everywhere, so a version that Debian
//! has replaced is gone, and the comparison says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::place::Place;
use super::x86::Built;

/// A Debian package in the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// amd64, or all.
    pub architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    packages: Vec<Package>,
}

/// The packages of root and first stage, by name.
pub fn packages(built: &Built) -> anyhow::Result<BTreeMap<String, Package>> {
    let mut packages = BTreeMap::new();
    for name in ["triaged.manifest", "initrd.manifest"] {
        let path = built.out.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let manifest: Manifest = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        for package in manifest.packages {
            let version = package.version.clone();
            if let Some(other) = packages.insert(package.name.clone(), package) {
                ensure!(
                    other.version == version,
                    "{}: {version} and {} in one image",
                    other.name,
                    other.version
                );
            }
        }
    }
    ensure!(!packages.is_empty(), "{}: an image without packages", built.out.display());
    Ok(packages)
}

fn file(place: &Place) -> PathBuf {
    place.root.join("image-build/packages.lock")
}

/// Writes the lock file.
pub fn write(place: &Place, packages: &BTreeMap<String, Package>) -> anyhow::Result<()> {
    let mut text = String::from(
        "# Written by `cargo xtask image build --update-lock`: the packages of the x86-64 image, root and first stage.\n",
    );
    for package in packages.values() {
        text += &format!("{}={}\n", package.name, package.version);
    }
    std::fs::write(file(place), text)?;
    Ok(())
}

/// Compares; a difference is an error when `strict`, else it is told.
pub fn check(place: &Place, packages: &BTreeMap<String, Package>, strict: bool) -> anyhow::Result<()> {
    let differences = differences(&read(&file(place))?, packages);
    if differences.is_empty() {
        return Ok(());
    }
    let told = format!(
        "{} packages differ from packages.lock (Debian keeps no old versions in its archive; `--update-lock` takes the new ones):\n  {}",
        differences.len(),
        differences.join("\n  ")
    );
    if strict {
        bail!("{told}");
    }
    println!("warning: {told}");
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, version) = line.split_once('=').with_context(|| format!("packages.lock: {line:?}"))?;
            Ok((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// One line for each package that is not as the lock has it.
fn differences(lock: &BTreeMap<String, String>, packages: &BTreeMap<String, Package>) -> Vec<String> {
    let mut lines: Vec<String> = packages
        .values()
        .filter_map(|package| match lock.get(&package.name) {
            Some(version) if *version == package.version => None,
            Some(version) => Some(format!("{}: locked {version}, got {}", package.name, package.version)),
            None => Some(format!("{}: not locked, got {}", package.name, package.version)),
        })
        .collect();
    let gone = lock.iter().filter(|(name, _)| !packages.contains_key(*name));
    lines.extend(gone.map(|(name, version)| format!("{name}: locked {version}, not in the image")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let lock =
            [("a", "1"), ("b", "2"), ("c", "3")].map(|(name, version)| (name.to_owned(), version.to_owned()));
        let got = [("a", "1"), ("b", "2+x"), ("d", "4")].map(|(name, version)| {
            let package = Package {
                name: name.to_owned(),
                version: version.to_owned(),
                architecture: "amd64".to_owned(),
            };
            (name.to_owned(), package)
        });
        let said = differences(&BTreeMap::from(lock), &BTreeMap::from(got));
        assert_eq!(said, ["b: locked 2, got 2+x", "d: not locked, got 4", "c: locked 3, not in the image"]);
    }
}
