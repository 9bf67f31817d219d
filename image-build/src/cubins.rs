//! `cargo xtask cubins`: `kernels/cu/all.cu` → `kernels/cubins/sm_XX.cubin.gz`, their manifest, and the table of them that the crate `kernels` includes.
//!
//! Owns: which architectures there are, the compiler's options, and the proof that what is committed was built from the sources
//! beside it. Never does: run at build time; the cubins are committed, so that nobody else needs a compiler or a network.
//!
//! The same sources give the same bytes in any folder: sources reach the compiler as text under names relative to `kernels/cu`,
//! and no option asks for line tables.

pub mod elf;
mod manifest;
mod nvrtc;
mod occupancy;
mod toolchain;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};

use manifest::Manifest;
use nvrtc::{Built, Nvrtc};
use toolchain::Toolkit;

/// Architectures, each with the toolkit that builds it: compute capability times ten. A driver loads the cubins of its own major release of CUDA and
/// of older ones, so the older architectures are built by 11.8: a Jetson with JetPack 5 has a driver for CUDA 11.4. 12.9 knows 89 and 90 best, and
/// 13 is the first for 110 (Thor). A cubin runs on devices of the same major and no lower minor.
const ARCHITECTURES: [(u32, Toolkit); 10] = [
    (52, Toolkit::Cuda11),
    (70, Toolkit::Cuda11),
    (72, Toolkit::Cuda11),
    (75, Toolkit::Cuda11),
    (80, Toolkit::Cuda11),
    (86, Toolkit::Cuda11),
    (87, Toolkit::Cuda11),
    (89, Toolkit::Cuda12),
    (90, Toolkit::Cuda12),
    (110, Toolkit::Cuda13),
];

/// Options for every architecture; `--gpu-architecture` is added.
const OPTIONS: [&str; 3] = ["-default-device", "-std=c++17", "--ptxas-options=-v"];

/// What is compiled; it includes the rest.
const ROOT: &str = "all.cu";

/// The kernels' sources by their path inside `kernels/cu`.
pub type Sources = BTreeMap<String, String>;

/// What a build makes: path from the workspace root → bytes.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Builds and writes what changed.
pub fn build() -> anyhow::Result<()> {
    let root = workspace();
    let start = Instant::now();
    let (built, files) = compile(&root)?;
    let (mut bytes, mut changed) = (0, 0);
    for (path, content) in &files {
        bytes += content.len();
        let target = root.join(path);
        if !std::fs::read(&target).is_ok_and(|old| same(path, &old, content)) {
            std::fs::create_dir_all(target.parent().unwrap_or(&root))?;
            std::fs::write(&target, content).with_context(|| target.display().to_string())?;
            changed += 1;
        }
    }
    for path in stale(&root, &files)? {
        std::fs::remove_file(root.join(&path))?;
        println!("removed {}", path.display());
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{} cubins, {} KiB, {changed} files changed, {seconds:.1} s", built.len(), bytes / 1024);
    Ok(())
}

/// Builds and compares.
pub fn check() -> anyhow::Result<()> {
    let root = workspace();
    let start = Instant::now();
    let (_, files) = compile(&root)?;
    let mut wrong = Vec::new();
    for (path, content) in &files {
        match std::fs::read(root.join(path)) {
            Ok(committed) if same(path, &committed, content) => {}
            Ok(committed) => {
                wrong.push(format!(
                    "{}: {} bytes, differ from the {} built",
                    path.display(),
                    committed.len(),
                    content.len()
                ));
            }
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    wrong.extend(stale(&root, &files)?.iter().map(|path| format!("{}: nothing builds it", path.display())));
    if !wrong.is_empty() {
        bail!(
            "the committed cubins are not what the sources build; run `cargo xtask cubins` and commit:\n  {}",
            wrong.join("\n  ")
        );
    }
    println!(
        "cubins: {} files are what the sources build, {:.1} s",
        files.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Builds and prints what each kernel takes of the architectures that matter most.
pub fn report() -> anyhow::Result<()> {
    let (built, _) = compile(&workspace())?;
    for architecture in [70, 87, 90] {
        let built = built.get(&architecture).context("an architecture of the report is built")?;
        println!("{}", occupancy::table(architecture, built)?);
    }
    Ok(())
}

/// The theoretical occupancy of the committed cubins, by architecture: what [`occupancy::rows`] gives.
pub fn occupancies() -> anyhow::Result<BTreeMap<u32, Vec<[String; 6]>>> {
    let mut all = BTreeMap::new();
    for (architecture, _) in ARCHITECTURES {
        all.insert(architecture, occupancy::rows(architecture, &committed(&workspace(), architecture)?)?);
    }
    Ok(all)
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn compile(root: &Path) -> anyhow::Result<(BTreeMap<u32, Built>, Files)> {
    let sources = sources(root)?;
    ensure!(sources.contains_key(ROOT), "kernels/cu/{ROOT} is missing");
    let compilers = toolchain::install(root)?;
    let open = |toolkit| Nvrtc::open(&compilers.library(toolkit)?, &compilers.builtins(toolkit)?);
    let opened = Toolkit::ALL.map(open).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let compile_one = |architecture: u32, toolkit: Toolkit| -> anyhow::Result<Built> {
        let mut options = vec![format!("--gpu-architecture=sm_{architecture}")];
        options.extend(OPTIONS.map(str::to_owned));
        options.extend(compilers.includes(toolkit).iter().map(|dir| format!("-I{}", dir.display())));
        let built = opened[toolkit as usize].compile(ROOT, &sources, &options)?;
        let made_for = elf::architecture(&built.cubin)?;
        ensure!(made_for == architecture, "the compiler made a cubin for sm_{made_for}");
        Ok(built)
    };
    let results = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // Independent programs may be compiled at once (NVRTC guide, "Thread Safety").
                while let Some((architecture, toolkit)) =
                    ARCHITECTURES.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let result = compile_one(*architecture, *toolkit);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(*architecture, result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let built = results
        .into_iter()
        .map(|(architecture, result)| {
            Ok((architecture, result.with_context(|| format!("sm_{architecture}"))?))
        })
        .collect::<anyhow::Result<BTreeMap<u32, Built>>>()?;
    let images = built.iter().map(|(architecture, built)| (*architecture, built.cubin.as_slice()));
    let manifest = Manifest::of(&sources, images);
    let mut files = Files::new();
    files.insert("kernels/cubins/manifest.toml".into(), manifest.to_text()?.into_bytes());
    files.insert("kernels/cubins/table.rs".into(), table().into_bytes());
    for (architecture, built) in &built {
        files.insert(cubin_path(*architecture), pack(&built.cubin)?);
    }
    Ok((built, files))
}

/// Reads `kernels/cu`.
fn sources(root: &Path) -> anyhow::Result<Sources> {
    let dir = root.join("kernels/cu");
    let mut sources = Sources::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sources.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(sources)
}

/// Cubins on the disk that no build makes.
fn stale(root: &Path, files: &Files) -> anyhow::Result<Vec<PathBuf>> {
    let dir = PathBuf::from("kernels/cubins");
    let Ok(entries) = std::fs::read_dir(root.join(&dir)) else { return Ok(Vec::new()) };
    let mut stale = Vec::new();
    for entry in entries {
        let path = dir.join(entry?.file_name());
        if path.to_string_lossy().contains(".cubin") && !files.contains_key(&path) {
            stale.push(path);
        }
    }
    Ok(stale)
}

/// The Rust expression that includes the cubins.
fn table() -> String {
    let mut out = String::from(
        "// Written by `cargo xtask cubins`; not to be edited. Included by `src/device/cubins.rs`; ascending.\n&[\n",
    );
    for (architecture, toolkit) in ARCHITECTURES {
        let ((major, minor), (release, update)) = ((architecture / 10, architecture % 10), toolkit.release());
        let _ = writeln!(
            out,
            "    Cubin {{ architecture: ({major}, {minor}), cuda: ({release}, {update}), image: include_bytes!(\"sm_{architecture}.cubin.gz\") }},"
        );
    }
    out.push_str("]\n");
    out
}

/// Where an architecture's cubin lies.
fn cubin_path(architecture: u32) -> PathBuf {
    format!("kernels/cubins/sm_{architecture}.cubin.gz").into()
}

fn pack(cubin: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    out.write_all(cubin)?;
    Ok(out.finish()?)
}

fn unpack(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut out)?;
    Ok(out)
}

/// Reads a committed cubin.
fn committed(root: &Path, architecture: u32) -> anyhow::Result<Vec<u8>> {
    let path = root.join(cubin_path(architecture));
    std::fs::read(&path).and_then(|packed| unpack(&packed)).with_context(|| path.display().to_string())
}

/// Whether files say the same: of packed ones the content counts, another version of the packer may write other bytes.
fn same(path: &Path, a: &[u8], b: &[u8]) -> bool {
    let packed = path.extension().is_some_and(|e| e == "gz");
    a == b || packed && matches!((unpack(a), unpack(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No compiler is needed to see that somebody forgot to run it.
    #[test]
    fn committed_cubins_belong_to_the_sources_beside_them() {
        let root = workspace();
        let text = std::fs::read_to_string(root.join("kernels/cubins/manifest.toml"))
            .expect("the manifest is committed");
        let stated = Manifest::parse(&text).expect("a manifest");
        let images: Vec<(u32, Vec<u8>)> = ARCHITECTURES
            .iter()
            .map(|(architecture, _)| {
                (
                    *architecture,
                    committed(&root, *architecture).expect("every architecture's cubin is committed"),
                )
            })
            .collect();
        let tree =
            Manifest::of(&sources(&root).expect("sources"), images.iter().map(|(a, c)| (*a, c.as_slice())));
        assert_eq!(
            stated, tree,
            "kernels/cubins is not of these sources: run `cargo xtask cubins` and commit"
        );
        let rust = std::fs::read_to_string(root.join("kernels/cubins/table.rs")).expect("the table");
        assert_eq!(rust, table(), "run `cargo xtask cubins`");
    }
}
