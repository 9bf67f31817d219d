//! The x86-64 image: the staged tree, mkosi, the update set.
//!
//! Owns: what goes into the image beside the recipes in `image-build/x86-64`. Never does: start it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;
use stick::{Board, Variant};

use super::keys::Keys;
use super::place::{PROGRAM, Place, logged, output, sha256};
use super::stick::VARIANT;
use super::{nvidia, tools};
use crate::bundle::copy_dir;

/// Bytes that mkosi's workspace wants; where memory has less to spare, it works on the disk.
const WORKSPACE_BYTES: u64 = 6 << 30;

/// A slot's root, in MiB. Both slots of a box have this size for good, so it leaves room.
const SLOT_MIB: u64 = 1024;
/// The same with NVIDIA's libraries: CUDA, cuDNN and TensorRT take gigabytes.
const SLOT_NVIDIA_MIB: u64 = 8192;

/// What is to be built.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// The image's version, which `sysupdate`, the boot loader and the stick compare.
    pub version: &'a str,
    /// Who signs.
    pub keys: &'a Keys,
    /// The operator's folder with NVIDIA's packages.
    pub nvidia: Option<&'a Path>,
    /// Trees laid over the image: how the tests make a version that fails.
    pub over: &'a [PathBuf],
    /// Where the outcome goes.
    pub out: PathBuf,
}

/// A built image.
#[derive(Debug, Clone)]
pub struct Built {
    /// Folder of all that was built.
    pub out: PathBuf,
    /// Its version.
    pub version: String,
    /// With NVIDIA's parts, or plain.
    pub variant: Variant,
}

impl Built {
    /// The whole disk, to be written to a box.
    pub fn disk(&self) -> PathBuf {
        self.file("raw")
    }

    /// `triaged.KIND`.
    pub fn file(&self, kind: &str) -> PathBuf {
        self.out.join(format!("triaged.{kind}"))
    }
}

/// The variant of an image that is built with NVIDIA's packages, or without.
pub fn variant(nvidia: bool) -> Variant {
    if nvidia { Variant::Nvidia } else { Variant::Plain }
}

/// Where an image of this version and variant goes.
pub fn folder(place: &Place, version: &str, variant: Variant) -> PathBuf {
    place.work.join(format!("{}-{version}", Board::X86_64.folder(variant)))
}

/// The release build of the daemon.
pub fn program(place: &Place) -> anyhow::Result<()> {
    if std::env::var_os(PROGRAM).is_some() {
        return Ok(());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&place.root).args(["build", "--release", "--locked", "--package", "triaged"]);
    logged("triaged, release build", &mut command, &place.work.join("logs/cargo.log"))
}

/// Builds the image.
pub fn build(place: &Place, recipe: &Recipe<'_>) -> anyhow::Result<Built> {
    tools::ensure(place)?;
    let stage = stage(place, recipe)?;
    let workspace = workspace(place)?;
    std::fs::create_dir_all(&recipe.out)?;
    std::fs::create_dir_all(&place.cache)?;
    let mut command = tools::command("mkosi")?;
    command
        .current_dir(&place.root)
        .arg("--directory")
        .arg(place.recipes())
        .arg("--force")
        .arg("--output-directory")
        .arg(&recipe.out)
        .arg("--cache-directory")
        .arg(&place.cache)
        .arg("--workspace-directory")
        .arg(workspace.path())
        .arg("--repart-directory")
        .arg(layout(place, recipe)?)
        .args(["--image-version", recipe.version])
        .args(["--source-date-epoch", &place.commit().1.to_string()])
        .args([
            "--secure-boot=yes",
            "--secure-boot-auto-enroll=yes",
            "--verity=yes",
            "--sign-expected-pcr=yes",
        ]);
    for (option, key) in [("secure-boot", "secureboot"), ("verity", "verity"), ("sign-expected-pcr", "pcr")] {
        command.arg(format!("--{option}-key")).arg(recipe.keys.file(key, "key"));
        command.arg(format!("--{option}-certificate")).arg(recipe.keys.file(key, "crt"));
    }
    if let Some(folder) = recipe.nvidia {
        for argument in nvidia::arguments(place, folder, recipe.keys)? {
            command.arg(argument);
        }
    }
    for tree in std::iter::once(&stage).chain(recipe.over) {
        command.arg("--extra-tree").arg(format!("{}:/", tree.display()));
    }
    command.arg("build");
    let log = place.work.join(format!("logs/mkosi-{}.log", recipe.version));
    logged(&format!("image {}", recipe.version), &mut command, &log)?;
    let variant = variant(recipe.nvidia.is_some());
    Ok(Built { out: recipe.out.clone(), version: recipe.version.to_owned(), variant })
}

/// The partitions' definitions, with their sizes. Verity's hashes take 1/128 of the data and a little more.
fn layout(place: &Place, recipe: &Recipe<'_>) -> anyhow::Result<PathBuf> {
    let slot_mib = if recipe.nvidia.is_some() { SLOT_NVIDIA_MIB } else { SLOT_MIB };
    let layout = place.folder(&format!("partitions-{}", recipe.version))?;
    for entry in std::fs::read_dir(place.recipes().join("partitions"))? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path())?;
        let text = text
            .replace("@SLOT@", &format!("{slot_mib}M"))
            .replace("@VERITY@", &format!("{}M", slot_mib / 64));
        std::fs::write(layout.join(entry.file_name()), text)?;
    }
    Ok(layout)
}

/// The daemon, the models and the public keys, as they lie in the root. A folder for each version: two may be built at once.
fn stage(place: &Place, recipe: &Recipe<'_>) -> anyhow::Result<PathBuf> {
    let stage = place.work.join(format!("stage-{}", recipe.version));
    let _ = std::fs::remove_dir_all(&stage);
    let (bin, share) = (stage.join("usr/bin"), stage.join("usr/share/triaged"));
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(share.join("keys"))?;
    let program = place.program();
    ensure!(program.is_file(), "{} is missing: cargo build --release", program.display());
    // Debug information would name this machine's folders.
    output(Command::new("strip").arg("-o").arg(bin.join("triaged")).arg(&program))?;
    copy_dir(&place.root.join("models/zoo"), &share.join("zoo"))?;
    for name in ["update", "site"] {
        std::fs::copy(recipe.keys.file(name, "pub"), share.join("keys").join(format!("{name}.pub")))?;
    }
    private_to_nobody(&stage)?;
    Ok(stage)
}

/// The image must not depend on the umask of who builds it.
fn private_to_nobody(folder: &Path) -> anyhow::Result<()> {
    let mode = |path: &Path, bits| std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits));
    mode(folder, 0o755)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            private_to_nobody(&path)?;
        } else {
            let runs = path.metadata()?.permissions().mode() & 0o100 != 0;
            mode(&path, if runs { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// In memory if there is room: mkosi copies whole trees.
fn workspace(place: &Place) -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory).map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim();
        line.strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let roomy = free.min(available.unwrap_or(0) << 10) >= WORKSPACE_BYTES;
    let folder = if roomy { memory.to_owned() } else { place.folder("workspace")? };
    tempfile::Builder::new().prefix("triaged-image-").tempdir_in(folder).context("a workspace")
}

/// What `sfdisk --json` says, as far as it is used.
#[derive(Deserialize)]
struct Table {
    partitiontable: Partitions,
}

#[derive(Deserialize)]
struct Partitions {
    partitions: Vec<Partition>,
}

/// A partition of a built disk; sectors have 512 bytes.
#[derive(Debug, Deserialize)]
pub struct Partition {
    /// First sector.
    pub start: u64,
    /// Label.
    #[serde(default)]
    pub name: String,
    /// Its own UUID: for the root and its verity data, halves of the root hash.
    pub uuid: String,
}

/// The partitions of a disk's file, in their order.
pub fn partitions(disk: &Path) -> anyhow::Result<Vec<Partition>> {
    let text = output(tools::command("sfdisk")?.arg("--json").arg(disk))?;
    let table: Table = serde_json::from_str(&text).context("sfdisk --json")?;
    Ok(table.partitiontable.partitions)
}

/// The update set of an image: what `sysupdate.d` looks for, by name; and for which variant it is. Made once.
pub fn update_set(built: &Built) -> anyhow::Result<PathBuf> {
    let set = built.out.join("update");
    let _ = std::fs::remove_dir_all(&set);
    std::fs::create_dir_all(&set)?;
    let partitions = partitions(&built.disk())?;
    let version = &built.version;
    let slot: Vec<&Partition> =
        partitions.iter().filter(|partition| partition.name == format!("triaged_{version}")).collect();
    ensure!(
        slot.len() == 3,
        "{}: {} partitions of version {version}, not 3",
        built.disk().display(),
        slot.len()
    );
    for (partition, kind) in slot.iter().zip(["root", "verity", "signature"]) {
        let from = built.file(&format!("{kind}.raw"));
        if kind == "signature" {
            // Nobody finds it by its UUID, and that of the seed is the same in each version.
            std::fs::copy(from, set.join(format!("triaged_{version}.{kind}")))?;
        } else {
            let name = format!("triaged_{version}_{}.{kind}.gz", partition.uuid.to_lowercase());
            let to = std::fs::File::create(set.join(name))?;
            let status = tools::command("gzip")?.args(["-1", "-n", "-c"]).arg(from).stdout(to).status()?;
            ensure!(status.success(), "gzip: {status}");
        }
    }
    std::fs::copy(built.file("efi"), set.join(format!("triaged_{version}.efi")))?;
    std::fs::write(set.join(VARIANT), format!("{}\n", built.variant))?;
    Ok(set)
}

/// What two builds of one commit must have in common: SHA-256 of each part.
pub fn fingerprints(built: &Built) -> anyhow::Result<BTreeMap<&'static str, String>> {
    ["root.raw", "verity.raw", "initrd"]
        .into_iter()
        .map(|part| Ok((part, sha256(&built.file(part))?)))
        .collect()
}
