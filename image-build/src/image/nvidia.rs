//! NVIDIA's parts, from the operator's own folder.
//!
//! Owns: the check of that folder against its list (`nvidia.toml`), and the signatures of kernel modules. Never does: fetch or keep
//! anything of NVIDIA's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::keys::Keys;
use super::place::{Place, output, sha256};
use super::tools;

/// The list's name in the folder.
const LIST: &str = "nvidia.toml";
/// What the kernel looks for at a signed module's end (Linux, `scripts/sign-file.c`).
const MODULE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// `enum pkey_id_type`: PKCS#7.
const PKEY_ID_PKCS7: u8 = 2;

/// The list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// The kernel that the modules are for.
    kernel: Option<String>,
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
    #[serde(default, rename = "module")]
    modules: Vec<Module>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    name: String,
    version: String,
    file: String,
    sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    file: String,
    sha256: String,
}

impl List {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LIST);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Every file that is listed, with its sum.
    fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let packages = self.packages.iter().map(|package| (package.file.as_str(), package.sha256.as_str()));
        packages.chain(self.modules.iter().map(|module| (module.file.as_str(), module.sha256.as_str())))
    }

    /// Names and sums, both ways.
    fn check(&self, folder: &Path) -> anyhow::Result<()> {
        let mut listed = BTreeSet::from([LIST.to_owned()]);
        for (file, sum) in self.files() {
            ensure!(!file.contains('/') && !file.starts_with('.'), "{LIST}: {file:?} is not a file's name");
            let found = sha256(&folder.join(file))?;
            ensure!(found == sum, "{file}: its SHA-256 is {found}, {LIST} says {sum}");
            ensure!(listed.insert(file.to_owned()), "{LIST}: {file} is there twice");
        }
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(
                listed.contains(&name),
                "{name} lies in {} and {LIST} does not list it",
                folder.display()
            );
        }
        ensure!(
            self.modules.is_empty() || self.kernel.is_some(),
            "{LIST}: modules, and no `kernel` that they are for"
        );
        Ok(())
    }
}

/// mkosi's arguments that add what the folder holds, which is checked first.
pub fn arguments(place: &Place, folder: &Path, keys: &Keys) -> anyhow::Result<Vec<String>> {
    let list = List::read(folder)?;
    list.check(folder)?;
    let work = place.folder("nvidia")?;
    std::fs::remove_dir_all(&work)?;
    let (packages, tree) = (work.join("packages"), work.join("tree"));
    std::fs::create_dir_all(&packages)?;
    let mut arguments = vec![
        format!("--package-directory={}", packages.display()),
        format!("--extra-tree={}:/", place.recipes().join("nvidia").display()),
        "--kernel-modules-include=^nvidia".to_owned(),
    ];
    for package in &list.packages {
        let copy = packages.join(&package.file);
        std::fs::copy(folder.join(&package.file), &copy)?;
        let said = output(
            tools::command("dpkg-deb")?.args(["-W", "--showformat=${Package} ${Version}"]).arg(&copy),
        )?;
        let wanted = format!("{} {}", package.name, package.version);
        ensure!(said == wanted, "{}: it is {said}, {LIST} says {wanted}", package.file);
        arguments.push(format!("--package={}", package.name));
    }
    if let Some(kernel) = list.kernel.as_deref().filter(|_| !list.modules.is_empty()) {
        let updates = tree.join("usr/lib/modules").join(kernel).join("updates");
        std::fs::create_dir_all(&updates)?;
        for module in &list.modules {
            std::fs::write(updates.join(&module.file), signed(&folder.join(&module.file), keys)?)?;
        }
        arguments.push(format!("--extra-tree={}:/", tree.display()));
    }
    Ok(arguments)
}

/// A module with its signature: under Secure Boot the kernel takes no other. Debian's kernel trusts the firmware's own keys for it.
fn signed(module: &PathBuf, keys: &Keys) -> anyhow::Result<Vec<u8>> {
    let mut content = std::fs::read(module)?;
    ensure!(!content.ends_with(MODULE_MAGIC), "{}: is signed already", module.display());
    // Inside the tools' root only `target` and the workspace can be seen.
    let folder = tempfile::tempdir_in(keys.scratch())?;
    let (plain, signature) = (folder.path().join("module"), folder.path().join("signature"));
    std::fs::write(&plain, &content)?;
    output(
        tools::command("openssl")?
            .args([
                "cms",
                "-sign",
                "-binary",
                "-noattr",
                "-nocerts",
                "-nosmimecap",
                "-md",
                "sha512",
                "-outform",
                "DER",
            ])
            .args(["-in".as_ref(), plain.as_os_str(), "-out".as_ref(), signature.as_os_str()])
            .args([
                "-signer".into(),
                keys.file("secureboot", "crt"),
                "-inkey".into(),
                keys.file("secureboot", "key"),
            ]),
    )?;
    let signature = std::fs::read(signature)?;
    let bytes = u32::try_from(signature.len()).context("a signature of 4 GiB")?;
    content.extend_from_slice(&signature);
    // struct module_signature: algorithm, hash, id_type, signer_len, key_id_len, three bytes of padding, sig_len.
    content.extend_from_slice(&[0, 0, PKEY_ID_PKCS7, 0, 0, 0, 0, 0]);
    content.extend_from_slice(&bytes.to_be_bytes());
    content.extend_from_slice(MODULE_MAGIC);
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder with `a.deb` and a list that names it with `sum`, and what else is written.
    fn folder(sum: &str, more: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.deb"), "abc").unwrap();
        let list = format!(
            "[[package]]\nname = \"a\"\nversion = \"1\"\nfile = \"a.deb\"\nsha256 = \"{sum}\"\n{more}"
        );
        std::fs::write(folder.path().join(LIST), list).unwrap();
        folder
    }

    fn checked(folder: &Path) -> Result<(), String> {
        List::read(folder).and_then(|list| list.check(folder)).map_err(|error| format!("{error:#}"))
    }

    /// SHA-256 of "abc" (FIPS 180-2).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_folder_is_what_its_list_says() {
        assert_eq!(checked(folder(ABC, "").path()), Ok(()));
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            ("another sum", folder(&ABC.replace("ba", "bb"), ""), "its SHA-256 is"),
            ("missing", folder(ABC, "[[module]]\nfile = \"b.ko\"\nsha256 = \"0\"\n"), "b.ko"),
            ("a path", folder(ABC, "[[module]]\nfile = \"../b.ko\"\nsha256 = \"0\"\n"), "not a file's name"),
            ("unknown key", folder(ABC, "url = \"x\"\n"), "unknown field"),
        ];
        for (name, folder, want) in cases {
            let said = checked(folder.path()).unwrap_err();
            assert!(said.contains(want), "{name}: {said}");
        }
        let unlisted = folder(ABC, "");
        std::fs::write(unlisted.path().join("c.deb"), "c").unwrap();
        assert!(checked(unlisted.path()).unwrap_err().contains("does not list it"));
        let no_kernel = folder(ABC, &format!("[[module]]\nfile = \"m.ko\"\nsha256 = \"{ABC}\"\n"));
        std::fs::write(no_kernel.path().join("m.ko"), "abc").unwrap();
        assert!(checked(no_kernel.path()).unwrap_err().contains("no `kernel`"));
    }

    #[test]
    fn the_example_is_a_list() {
        let text = include_str!("../../nvidia.toml");
        let list: List = toml::from_str(text).unwrap();
        assert_eq!((list.packages.len(), list.modules.len()), (2, 2));
    }
}
