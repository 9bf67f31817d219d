//! `cargo xtask gpu-bundle`: one folder that runs the GPU suite on a bare machine: an NVIDIA driver, Python with NumPy and PyTorch.
//!
//! Owns: what lies in the folder, its size, and what the program in it needs of the machine. Never does: run it.
//!
//! ```text
//! run.sh  gpu-suite.gz  zoo/  data/{phantom.json, phantom.cells.gz, occupancy.json}  pytorch_pipeline.py  zoo_weights.py  nets.py
//! ```

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde::Deserialize;

use crate::cubins;

/// Most bytes of a bundle.
const BYTES_MAX: u64 = 60_000_000;
/// The phantom of the bundle; the suite makes studies of any size of it.
const PHANTOM: [&str; 8] = ["--slices", "32", "--size", "256", "--lesions", "30,10", "--seed", "7"];
/// Rescale Intercept of the phantom, which the suite expects.
const INTERCEPT_HU: i32 = -1024;

/// `truth/truth.json` of a phantom, the part that is used.
#[derive(Deserialize)]
struct Truth {
    /// Slices, rows, columns.
    shape: [usize; 3],
    spacing: Spacing,
}

#[derive(Deserialize)]
struct Spacing {
    slice_mm: f64,
    row_mm: f64,
    column_mm: f64,
}

/// Makes the bundle.
pub fn make(dir: &Path, phantom: Option<&Path>) -> anyhow::Result<()> {
    let root = cubins::workspace();
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; a bundle is made in a new or empty folder", dir.display());
    }
    let data = dir.join("data");
    std::fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
    cargo(&root, &["build", "--release", "--package", "gpu-suite"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let suite = dir.join("gpu-suite");
    copy(&target.join("release/gpu-suite"), &suite)?;
    strip(&suite)?;
    let program = std::fs::read(&suite)?;
    // The zoo takes 52 MB of the 60: `run.sh` unpacks the program.
    pack(&program, &dir.join("gpu-suite.gz"))?;
    std::fs::remove_file(&suite)?;

    let scripts = root.join("kernels/suite/bundle");
    for name in ["run.sh", "pytorch_pipeline.py", "zoo_weights.py"] {
        copy(&scripts.join(name), &dir.join(name))?;
    }
    copy(&root.join("models/training/triage_models/nets.py"), &dir.join("nets.py"))?;
    copy_dir(&root.join("models/zoo"), &dir.join("zoo"))?;
    std::fs::write(data.join("occupancy.json"), serde_json::to_string(&cubins::occupancies()?)?)?;
    match phantom {
        Some(phantom) => cells(phantom, &data)?,
        None => {
            let made = dir.join("phantom");
            let name = made.to_str().context("the folder's name is not UTF-8")?;
            let mut arguments = vec!["run", "--release", "--package", "triaged", "--", "phantom", name];
            arguments.extend(PHANTOM);
            cargo(&root, &arguments)?;
            cells(&made, &data)?;
            std::fs::remove_dir_all(&made)?;
        }
    }

    let bytes = size(dir)?;
    ensure!(bytes <= BYTES_MAX, "the bundle has {bytes} bytes, more than {BYTES_MAX}");
    let glibc = glibc(&program).map_or_else(|| "none".to_owned(), |[a, b]| format!("{a}.{b}"));
    println!(
        "{}: {:.1} MB; needs an x86-64 Linux with glibc {glibc} and an NVIDIA driver.\nThere: bash run.sh OUT",
        dir.display(),
        bytes as f64 / 1e6
    );
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Folders in the arguments are the caller's: cargo stays where it is and is told where the workspace is.
    let manifest = root.join("Cargo.toml");
    let (verb, rest) = arguments.split_first().context("a verb")?;
    let status = Command::new(program).arg(verb).arg("--manifest-path").arg(&manifest).args(rest).status()?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

/// Removes symbols and line tables: ten times the program's own size.
fn strip(program: &Path) -> anyhow::Result<()> {
    let status = Command::new("strip").arg(program).status().context("strip, of binutils, is needed")?;
    ensure!(status.success(), "strip {}: {status}", program.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

pub fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let (path, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() { copy_dir(&path, &target)? } else { copy(&path, &target)? }
    }
    Ok(())
}

fn pack(content: &[u8], path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    // No time, so that the same content gives the same bytes.
    let mut out = GzBuilder::new().mtime(0).write(file, Compression::best());
    out.write_all(content)?;
    out.finish()?;
    Ok(())
}

/// A phantom's files → `phantom.json` and `phantom.cells.gz`: 16-bit cells, slices head to feet.
fn cells(phantom: &Path, data: &Path) -> anyhow::Result<()> {
    let path = phantom.join("truth/truth.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let Truth { shape: [slices, rows, columns], spacing } = serde_json::from_str(&text)?;
    let mut cells = Vec::new();
    for slice in 1..=slices {
        let path = phantom.join(format!("IM{slice:04}.dcm"));
        let file = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let pixels = pixel_data(&file, 2 * rows * columns).with_context(|| path.display().to_string())?;
        cells.extend_from_slice(pixels);
    }
    pack(&cells, &data.join("phantom.cells.gz"))?;
    let Spacing { slice_mm, row_mm, column_mm } = spacing;
    let header = serde_json::json!({
        "slices": slices, "rows": rows, "columns": columns,
        "slice_mm": slice_mm, "row_mm": row_mm, "column_mm": column_mm, "intercept": INTERCEPT_HU,
    });
    Ok(std::fs::write(data.join("phantom.json"), serde_json::to_string_pretty(&header)?)?)
}

/// Native pixel data of `bytes` bytes, the last element of a file in Explicit VR Little Endian, as our phantoms are (PS3.5 section 7.1.2).
fn pixel_data(file: &[u8], bytes: usize) -> anyhow::Result<&[u8]> {
    let start = file.len().checked_sub(bytes + 12).context("a file without pixels")?;
    let mut head = b"\xe0\x7f\x10\x00OW\x00\x00".to_vec();
    head.extend(u32::try_from(bytes)?.to_le_bytes());
    ensure!(file[start..].starts_with(&head), "the last element is not native pixel data of {bytes} bytes");
    Ok(&file[start + 12..])
}

fn size(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// The newest glibc that a program asks for: the names of symbol versions stand in it as text.
fn glibc(program: &[u8]) -> Option<[u32; 2]> {
    const PREFIX: &[u8] = b"GLIBC_";
    let versions = program.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    versions
        .filter_map(|(at, _)| {
            let text = &program[at + PREFIX.len()..];
            let text = std::str::from_utf8(text.split(|byte| *byte == 0).next()?).ok()?;
            let mut numbers = text.split('.').map_while(|number| number.parse().ok());
            Some([numbers.next()?, numbers.next()?])
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found() {
        let program = b"x\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.4\0";
        assert_eq!(glibc(program), Some([2, 34]));
        assert_eq!(glibc(b"static"), None);
    }

    #[test]
    fn pixels_are_the_last_element() {
        let mut file = b"DICM....\xe0\x7f\x10\x00OW\x00\x00\x04\x00\x00\x00".to_vec();
        file.extend([1, 2, 3, 4]);
        assert_eq!(pixel_data(&file, 4).expect("pixels"), [1, 2, 3, 4]);
        assert!(pixel_data(&file, 6).is_err());
        assert!(pixel_data(&file[..10], 4).is_err());
    }
}
