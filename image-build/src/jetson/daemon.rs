//! `jetson-daemon`: `triaged` for arm64, linked against an old C library, and the proof that it asks for no newer one.
//!
//! Owns: how cargo is called and the check of the program. Never does: run it; it is another machine's.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use super::{Board, execute, finish, must_be_root, toolchain, work};
use crate::cubins::{elf, workspace};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where the C library lies, below the library's folder and for whoever is in the compiler's.
const LIBRARY: &str = "/sysroot";

/// Whose Rust builds.
#[derive(Clone, Copy, ValueEnum)]
pub enum Rust {
    /// Debian's, in a folder of its own: as root.
    Debian,
    /// The pinned toolchain's, where it has the target; Debian's cross compiler is on the machine.
    Rustup,
}

/// Builds, checks, strips. Returns the program's path.
pub fn build(rust: Rust) -> anyhow::Result<PathBuf> {
    let library = toolchain::library()?;
    // Another compiler's products are not mixed with these.
    let target = work().join(match rust {
        Rust::Debian => "target-debian",
        Rust::Rustup => "target-rustup",
    });
    std::fs::create_dir_all(&target)?;
    match rust {
        Rust::Debian => in_debian(&library, &target)?,
        Rust::Rustup => with_rustup(&library, &target)?,
    }
    let built = target.join(TARGET).join("release/triaged");
    let program = work().join("triaged");
    execute(
        "aarch64-linux-gnu-strip",
        "binutils-aarch64-linux-gnu",
        ["-o".as_ref(), program.as_os_str(), built.as_os_str()],
    )?;
    check(&program)?;
    Ok(program)
}

/// What cargo, rustc and `cc` are told, with the C library at `library`.
fn settings(library: &str) -> [(&'static str, String); 4] {
    let multiarch = "aarch64-linux-gnu";
    let link = ["--sysroot={}", "-B{}/usr/lib/M", "-L{}/usr/lib/M", "-L{}/lib/M"]
        .map(|argument| format!("-C link-arg={}", argument.replace('M', multiarch).replace("{}", library)));
    [
        ("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc".to_owned()),
        (
            "CFLAGS_aarch64_unknown_linux_gnu",
            format!(
                "--sysroot={library} -isystem {library}/usr/include/{multiarch} -isystem {library}/usr/include"
            ),
        ),
        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc".to_owned()),
        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", link.join(" ")),
    ]
}

const CARGO: [&str; 7] = ["build", "--release", "--locked", "--target", TARGET, "--package", "triaged"];

fn with_rustup(library: &Path, target: &Path) -> anyhow::Result<()> {
    let library = library.to_str().context("the target folder's name is not UTF-8")?;
    let mut cargo = Process::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(CARGO).current_dir(workspace()).env("CARGO_TARGET_DIR", target);
    cargo.envs(settings(library));
    finish(&mut cargo, "rustup's cargo and `rustup target add aarch64-unknown-linux-gnu`")
}

/// In the compiler's folder, with mounts that nobody else sees and that go with the process. Sources of crates are fetched outside.
fn in_debian(library: &Path, target: &Path) -> anyhow::Result<()> {
    must_be_root("Debian's compiler")?;
    let compiler = toolchain::compiler()?;
    let mut fetch = Process::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    finish(fetch.args(["fetch", "--locked"]).current_dir(workspace()), "cargo")?;
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );

    let mounts = [
        (workspace(), "/src"),
        (library.to_owned(), LIBRARY),
        (target.to_owned(), "/target"),
        (home.join("registry"), "/cargo"),
    ];
    let mut script = String::from("set -e\n");
    for (from, to) in &mounts {
        let inside = compiler.join(to.trim_start_matches('/'));
        std::fs::create_dir_all(&inside)?;
        script += &format!("mount --bind {} {}\n", quoted(from)?, quoted(&inside)?);
    }
    let root = quoted(&compiler)?;
    script +=
        &format!("mount -t proc proc {root}/proc\nmount --bind /dev {root}/dev\nmkdir -p {root}/cargohome\n");
    script += &format!("ln -sfn /cargo {root}/cargohome/registry\nexec chroot {root} \"$@\"\n");

    let mut process = Process::new("unshare");
    process.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", "env", "-i"]);
    process.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "CARGO_HOME=/cargohome"]);
    process.args(["CARGO_TARGET_DIR=/target", "CARGO_NET_OFFLINE=true"]);
    process.args(settings(LIBRARY).map(|(name, value)| format!("{name}={value}")));
    // There is no git in that folder.
    process.arg(format!("TRIAGED_COMMIT={}", commit()));
    process.args(["sh", "-c", &format!("cd /src && exec cargo {}", CARGO.join(" "))]);
    finish(&mut process, "util-linux")
}

/// What is built: as it is said, or git's word.
fn commit() -> String {
    let said = std::env::var("TRIAGED_COMMIT").ok().filter(|commit| !commit.is_empty());
    said.unwrap_or_else(|| {
        let git = Process::new("git").args(["rev-parse", "HEAD"]).current_dir(workspace()).output();
        git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    })
}

/// For a shell.
fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("a folder's name is not UTF-8")?;
    ensure!(!text.contains('\''), "{text}: a quote in a folder's name");
    Ok(format!("'{text}'"))
}

/// A program for arm64 that asks for no newer glibc than any board has.
pub fn check(program: &Path) -> anyhow::Result<()> {
    let file = std::fs::read(program).with_context(|| program.display().to_string())?;
    ensure!(elf::number(&file, 18, 2)? == AARCH64, "{} is not for arm64", program.display());
    let needs = needs(&file)?;
    let newest = newest(&needs).context("the program names no glibc: it is not linked as it should be")?;
    for (name, board) in Board::all()? {
        let max = version(&board.glibc_max).with_context(|| format!("{name}: glibc_max"))?;
        ensure!(
            newest <= max,
            "{}: asks for glibc {}.{}, and {name} has {}; all that it asks for: {}",
            program.display(),
            newest[0],
            newest[1],
            board.glibc_max,
            needs.join(" ")
        );
    }
    eprintln!("{}: glibc {}.{} or newer, {} bytes", program.display(), newest[0], newest[1], file.len());
    Ok(())
}

/// `e_machine` of arm64.
const AARCH64: u64 = 183;

/// Versions of symbols that a program needs of its libraries, from `.gnu.version_r` (Linux Standard Base, section "Symbol Versioning").
fn needs(file: &[u8]) -> anyhow::Result<Vec<String>> {
    let Some(table) = elf::section(file, ".gnu.version_r")? else { return Ok(Vec::new()) };
    let names = elf::section(file, ".dynstr")?.context("no section .dynstr")?;
    let field =
        |at: usize, bytes| -> anyhow::Result<usize> { Ok(usize::try_from(elf::number(table, at, bytes)?)?) };
    let mut all = Vec::new();
    let mut library = 0;
    loop {
        // vn_cnt, vn_aux, vn_next; of each version: vna_name, vna_next.
        let mut at = library + field(library + 8, 4)?;
        for _ in 0..field(library + 2, 2)? {
            let name = names.get(field(at + 8, 4)?..).context("a version's name is outside its section")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            all.push(String::from_utf8_lossy(name).into_owned());
            at += field(at + 12, 4)?;
        }
        match field(library + 12, 4)? {
            0 => break,
            next => library += next,
        }
    }
    all.sort();
    Ok(all)
}

fn newest(needs: &[String]) -> Option<[u32; 2]> {
    needs.iter().filter_map(|need| version(need.strip_prefix("GLIBC_")?)).max()
}

/// `2.31` or `2.2.5`, the first two numbers.
fn version(text: &str) -> Option<[u32; 2]> {
    let mut numbers = text.split('.').map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let needs =
            ["GLIBC_2.9", "GLIBC_2.31", "GCC_4.2.0", "GLIBC_2.2.5", "GLIBC_PRIVATE"].map(str::to_owned);
        assert_eq!(newest(&needs), Some([2, 31]));
        assert_eq!(newest(&[]), None);
        assert!(version("2.4") < version("2.31"));
    }

    /// This test's own program: what it needs is what its machine's linker wrote, and the C library is among it.
    #[test]
    fn a_programs_needs_are_read_from_its_version_table() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&program).unwrap();
        let newest = newest(&needs).unwrap();
        assert!(newest >= [2, 17], "{needs:?}");
        // Weak references of newer functions stand in the text of the program, not in the table.
        assert!(needs.iter().all(|need| need.starts_with("GLIBC_") || need.starts_with("GCC_")), "{needs:?}");
    }
}
