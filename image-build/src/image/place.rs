//! Where things lie, and how programs are run.
//!
//! Owns: the folders of the build, the throw-away workspace. Never does: anything with what lies in them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::cubins;

/// Names a built program: the tests of the workspace know it, too.
pub const PROGRAM: &str = "TRIAGED_BIN";

/// The folders of one workspace.
#[derive(Debug, Clone)]
pub struct Place {
    /// The workspace's root.
    pub root: PathBuf,
    /// `target/image`: all that is built.
    pub work: PathBuf,
    /// The chroot with the tools; `$TRIAGED_IMAGE_TOOLS` names one that outlives `target`.
    pub tools: PathBuf,
    /// mkosi's cache of unpacked packages; `$TRIAGED_IMAGE_CACHE` names one that outlives `target`.
    pub cache: PathBuf,
}

impl Place {
    /// The folders of this workspace; they need not exist.
    pub fn find() -> Self {
        let root = cubins::workspace();
        // Its path as the tools see it.
        let root = root.canonicalize().unwrap_or(root);
        let work = target(&root).join("image");
        let named = |name: &str, default: &str| {
            std::env::var_os(name).map_or_else(|| work.join(default), PathBuf::from)
        };
        let (tools, cache) = (named("TRIAGED_IMAGE_TOOLS", "tools"), named("TRIAGED_IMAGE_CACHE", "cache"));
        Self { root, work, tools, cache }
    }

    /// The recipes of the x86-64 image.
    pub fn recipes(&self) -> PathBuf {
        self.root.join("image-build/x86-64")
    }

    /// A folder under `target/image`, made.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.work.join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// The release build of `triaged`; `$TRIAGED_BIN` names one that is there already.
    pub fn program(&self) -> PathBuf {
        std::env::var_os(PROGRAM).map_or_else(|| target(&self.root).join("release/triaged"), PathBuf::from)
    }

    /// The commit, and its time in seconds since 1970; without git "unknown" and a fixed time.
    pub fn commit(&self) -> (String, u64) {
        let git = |arguments: &[&str]| {
            let said = Command::new("git").arg("-C").arg(&self.root).args(arguments).output().ok()?;
            said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let time_s = git(&["log", "-1", "--format=%ct"]).and_then(|text| text.parse().ok());
        (commit, time_s.unwrap_or(1_700_000_000))
    }
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Runs a program with its output in a log file, and says how long it took; an error shows the log's end.
pub fn logged(what: &str, command: &mut Command, log: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    print!("{what} … ");
    std::io::stdout().flush()?;
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("{command:?}"))?;
    println!("{} s", started.elapsed().as_secs());
    if !status.success() {
        let text = std::fs::read(log)?;
        let end = String::from_utf8_lossy(&text[text.len().saturating_sub(3000)..]).into_owned();
        bail!("{what} failed ({status}); {} ends with\n{end}", log.display());
    }
    Ok(())
}

/// Runs a program and gives what it wrote to its standard output.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let said = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(
        said.status.success(),
        "{command:?}: {}\n{}{}",
        said.status,
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(String::from_utf8(said.stdout)?)
}

/// SHA-256 of a file, in hexadecimal digits.
pub fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    std::io::copy(&mut file, &mut hash).with_context(|| path.display().to_string())?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
