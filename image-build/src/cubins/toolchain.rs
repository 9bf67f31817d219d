//! The pinned compilers: wheels from PyPI, unpacked under `target/`.
//!
//! Owns: their versions (`requirements-cubins.txt`), their installation and where their parts lie. Never does: use a CUDA that the machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::manifest::sha256;

/// Versions and hashes.
pub const REQUIREMENTS: &str = include_str!("../../requirements-cubins.txt");

/// A compiler and its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolkit {
    /// 11.8.
    Cuda11,
    /// 12.9.
    Cuda12,
    /// 13.0.
    Cuda13,
}

impl Toolkit {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Cuda11, Self::Cuda12, Self::Cuda13];

    /// Major and minor number of its CUDA.
    pub fn release(self) -> (u32, u32) {
        match self {
            Self::Cuda11 => (11, 8),
            Self::Cuda12 => (12, 9),
            Self::Cuda13 => (13, 0),
        }
    }

    /// The folder of its wheels: those of 11 and 12 have the same paths inside.
    fn folder(self) -> &'static str {
        if self == Self::Cuda11 { "wheels-cu11/nvidia" } else { "wheels/nvidia" }
    }

    /// The compiler's package and version, as pinned.
    pub fn compiler(self) -> String {
        let package = match self {
            Self::Cuda11 => "nvidia-cuda-nvrtc-cu11==",
            Self::Cuda12 => "nvidia-cuda-nvrtc-cu12==",
            Self::Cuda13 => "nvidia-cuda-nvrtc==",
        };
        let line = REQUIREMENTS.lines().find(|line| line.starts_with(package)).unwrap_or(package);
        line.split(" --hash").next().unwrap_or_default().replace("==", " ")
    }
}

/// The folder of the unpacked wheels.
pub struct Compilers(PathBuf);

impl Compilers {
    /// The compiler.
    pub fn library(&self, toolkit: Toolkit) -> anyhow::Result<PathBuf> {
        self.shared_object(toolkit, "libnvrtc.so.")
    }

    /// Its built-in functions.
    pub fn builtins(&self, toolkit: Toolkit) -> anyhow::Result<PathBuf> {
        self.shared_object(toolkit, "libnvrtc-builtins.so.")
    }

    /// Folders of headers.
    pub fn includes(&self, toolkit: Toolkit) -> Vec<PathBuf> {
        let parts: &[&str] = match toolkit {
            Toolkit::Cuda11 | Toolkit::Cuda12 => &["cuda_runtime", "cuda_nvcc"],
            Toolkit::Cuda13 => &["cu13"],
        };
        parts.iter().map(|part| self.0.join(toolkit.folder()).join(part).join("include")).collect()
    }

    fn shared_object(&self, toolkit: Toolkit, prefix: &str) -> anyhow::Result<PathBuf> {
        let dir = self.0.join(toolkit.folder()).join(match toolkit {
            Toolkit::Cuda11 | Toolkit::Cuda12 => "cuda_nvrtc/lib",
            Toolkit::Cuda13 => "cu13/lib",
        });
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
                return Ok(path);
            }
        }
        bail!("no {prefix} in {}", dir.display());
    }
}

/// Installs the compilers unless these very versions are there.
pub fn install(root: &Path) -> anyhow::Result<Compilers> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the pinned compilers are for x86-64 Linux; the committed cubins need none"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = target.join("cubins");
    let stamp = dir.join("installed");
    let wanted = sha256(REQUIREMENTS.as_bytes());
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Compilers(dir));
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    std::fs::create_dir_all(&dir)?;
    eprintln!("fetching the CUDA compilers into {}", dir.display());
    let venv = dir.join("venv");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv), "python3 with its module venv is needed")?;
    for (wheels, cu11) in [("wheels-cu11", true), ("wheels", false)] {
        let lines: Vec<&str> = REQUIREMENTS.lines().filter(|line| line.contains("-cu11==") == cu11).collect();
        let requirements = dir.join(wheels).with_extension("txt");
        std::fs::write(&requirements, lines.join("\n"))?;
        run(
            Command::new(venv.join("bin/python"))
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--require-hashes",
                    "--only-binary=:all:",
                ])
                .args(["--no-compile", "--disable-pip-version-check", "--target"])
                .arg(dir.join(wheels))
                .arg("--requirement")
                .arg(&requirements),
            "the CUDA compilers come from PyPI, so this command needs the network once; nothing else does, the committed cubins are used as they are",
        )?;
    }
    std::fs::remove_dir_all(&venv)?;
    // Written last: an interrupted installation is done again.
    std::fs::write(&stamp, wanted)?;
    Ok(Compilers(dir))
}

fn run(command: &mut Command, otherwise: &str) -> anyhow::Result<()> {
    let output =
        command.output().with_context(|| format!("{}: {otherwise}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{otherwise}\n{} ended with {}:\n{}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
