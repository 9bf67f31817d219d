//! The bill of materials: CycloneDX 1.5, one file for Debian's packages, the crates, and the models.
//!
//! Owns: its form. Never does: judge a licence (that is `deny.toml`'s).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::lock::Package;
use super::place::{Place, output, sha256};
use super::x86::Built;

/// The daemon's crate.
const PROGRAM: &str = "triaged";
/// What the crates are compiled for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None: a normal one; else "build" or "dev".
    kind: Option<String>,
}

/// Writes `sbom.cdx.json` beside the image.
pub fn write(place: &Place, built: &Built, packages: &BTreeMap<String, Package>) -> anyhow::Result<PathBuf> {
    let mut components: Vec<Value> = packages.values().map(debian).collect();
    components.extend(crates(place)?);
    components.extend(models(place)?);
    let (commit, _) = place.commit();
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system", "bom-ref": "image", "name": "triaged", "version": built.version,
                "properties": [{ "name": "commit", "value": commit }],
            },
        },
        "components": components,
    });
    check(&sbom)?;
    let path = built.out.join("sbom.cdx.json");
    std::fs::write(&path, serde_json::to_string_pretty(&sbom)?)?;
    Ok(path)
}

/// A character of a version as a package URL writes it.
fn quoted(text: &str) -> String {
    text.chars()
        .map(
            |c| {
                if c == '+' || c == ':' || c == '~' {
                    format!("%{:02X}", u32::from(c))
                } else {
                    c.to_string()
                }
            },
        )
        .collect()
}

fn debian(package: &Package) -> Value {
    let Package { name, version, architecture } = package;
    let purl =
        format!("pkg:deb/debian/{}@{}?arch={architecture}&distro=trixie", quoted(name), quoted(version));
    json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl })
}

/// The crates that are in the program, not those that build or test it.
fn crates(place: &Place) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&place.root).args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        PLATFORM,
    ]);
    let metadata: Metadata = serde_json::from_str(&output(&mut command)?).context("cargo metadata")?;
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let first =
        metadata.packages.iter().find(|package| package.name == PROGRAM).context("no crate triaged")?;
    let (mut found, mut open) = (BTreeSet::new(), vec![first.id.as_str()]);
    while let Some(id) = open.pop() {
        if found.insert(id) {
            let node = nodes.get(id).with_context(|| format!("cargo metadata has no node {id}"))?;
            let normal = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            open.extend(normal.map(|dep| dep.pkg.as_str()));
        }
    }
    Ok(metadata
        .packages
        .iter()
        .filter(|package| found.contains(package.id.as_str()))
        .map(component)
        .collect())
}

fn component(package: &Crate) -> Value {
    let Crate { name, version, license, source, .. } = package;
    let purl = format!("pkg:cargo/{name}@{}", quoted(version));
    let mut value = json!({ "type": "library", "bom-ref": purl, "name": name, "version": version });
    // Our own crates are in no registry.
    if source.is_some() {
        value["purl"] = json!(purl);
    }
    if let Some(license) = license {
        // "MIT/Apache-2.0" is how expressions were written before SPDX.
        value["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    value
}

/// Every file of every model, by its sum.
fn models(place: &Place) -> anyhow::Result<Vec<Value>> {
    let zoo = place.root.join("models/zoo");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&zoo)? {
        let folder = entry?.path();
        if folder.is_dir() {
            files.extend(onnx(&folder)?);
        }
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(&zoo)?.display().to_string();
            Ok(json!({
                "type": "machine-learning-model", "bom-ref": format!("model:{name}"), "name": name,
                "hashes": [{ "alg": "SHA-256", "content": sha256(file)? }],
            }))
        })
        .collect()
}

fn onnx(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let files: Result<Vec<PathBuf>, std::io::Error> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    Ok(files?.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "onnx")).collect())
}

/// The form, as far as tools stumble over it: names and versions are there, references are unique, all three kinds are there.
pub fn check(sbom: &Value) -> anyhow::Result<()> {
    ensure!(sbom["bomFormat"] == "CycloneDX" && sbom["specVersion"] == "1.5", "not CycloneDX 1.5");
    let components = sbom["components"].as_array().context("no components")?;
    let (mut references, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for component in components {
        let reference = component["bom-ref"].as_str().with_context(|| format!("no bom-ref: {component}"))?;
        ensure!(references.insert(reference), "{reference} is there twice");
        ensure!(component["name"].as_str().is_some_and(|name| !name.is_empty()), "no name: {component}");
        ensure!(
            component["version"].is_string() || component["hashes"].is_array(),
            "neither version nor hash: {component}"
        );
        kinds.insert(
            reference.split(['/', ':']).take(2).collect::<Vec<_>>().join(":").replace("model:", "model "),
        );
    }
    for kind in ["pkg:deb", "pkg:cargo"] {
        ensure!(kinds.contains(kind), "no component of {kind}");
    }
    ensure!(kinds.iter().any(|kind| kind.starts_with("model ")), "no model");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_crates_of_the_program_are_listed() {
        let listed = crates(&Place::find()).unwrap();
        let has = |name: &str| listed.iter().any(|component| component["name"] == name);
        assert!(has("triaged") && has("rusqlite") && has("engine"));
        assert!(!has("e2e") && !has("image-build"), "tests and tools are not in the program");
    }

    #[test]
    fn a_damaged_form_is_noticed() {
        let package = Package { name: "a".into(), version: "1:2+b".into(), architecture: "all".into() };
        let good = json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5",
            "components": [
                debian(&package),
                { "bom-ref": "pkg:cargo/b@1", "name": "b", "version": "1" },
                { "bom-ref": "model:c/d.onnx", "name": "c", "hashes": [] },
            ],
        });
        assert_eq!(good["components"][0]["purl"], "pkg:deb/debian/a@1%3A2%2Bb?arch=all&distro=trixie");
        check(&good).unwrap();
        for (path, value) in [
            ("/bomFormat", json!("SPDX")),
            ("/components/0/name", json!("")),
            ("/components/1/version", json!(null)),
            ("/components/1/bom-ref", json!("model:c/d.onnx")),
            ("/components/2/bom-ref", json!("pkg:cargo/c@1")),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            assert!(check(&bad).is_err(), "{path}");
        }
    }
}
