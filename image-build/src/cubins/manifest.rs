//! What the committed cubins were built from and with.
//!
//! Owns: the manifest's form and its hashes. Never does: compile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ARCHITECTURES, OPTIONS, Sources};
use crate::cubins::toolchain::{REQUIREMENTS, Toolkit};

const HEADER: &str = "# Written by `cargo xtask cubins`; not to be edited. `cargo test -p image-build` compares it with the sources.\n\n";

/// `kernels/cubins/manifest.toml`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Options of the compiler beside the architecture.
    options: Vec<String>,
    /// SHA-256 of the list of compilers and of each source file.
    sources: BTreeMap<String, String>,
    cubins: BTreeMap<String, Cubin>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cubin {
    bytes: usize,
    compiler: String,
    sha256: String,
}

impl Manifest {
    /// Of these sources and the cubins that were built from them.
    pub fn of<'a>(sources: &Sources, cubins: impl Iterator<Item = (u32, &'a [u8])>) -> Self {
        let hash = |(name, text): (&String, &String)| (name.clone(), sha256(text.as_bytes()));
        let mut hashes: BTreeMap<_, _> = sources.iter().map(hash).collect();
        hashes.insert("requirements-cubins.txt".to_owned(), sha256(REQUIREMENTS.as_bytes()));
        let cubin = |(architecture, image): (u32, &[u8])| {
            let toolkit =
                ARCHITECTURES.iter().find(|(known, _)| *known == architecture).map(|(_, toolkit)| *toolkit);
            let compiler = toolkit.map_or_else(String::new, Toolkit::compiler);
            (format!("sm_{architecture}"), Cubin { bytes: image.len(), compiler, sha256: sha256(image) })
        };
        Self {
            options: OPTIONS.map(str::to_owned).to_vec(),
            sources: hashes,
            cubins: cubins.map(cubin).collect(),
        }
    }

    /// Reads a manifest.
    #[cfg(test)]
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{HEADER}{}", toml::to_string(self)?))
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
