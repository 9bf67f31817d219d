//! `jetson-bundle`: an update as RAUC takes it.
//!
//! Owns: the bundle's manifest and content. Never does: change the root file system that it packs.
//!
//! Format "plain": the signature covers the whole file, which RAUC checks before anything is written. The other format needs
//! device-mapper's verity in the kernel, which NVIDIA's has not. Only root can write the staged file meanwhile.

use std::path::Path;

use anyhow::{Context, ensure};

use super::{Board, Keys, execute, keys, must_be_root, source, work};

/// Room in the slot's file system beyond its files: logs of a boot without its data partition, `/etc` of NVIDIA's first-boot scripts.
const SPARE_MIB: u64 = 512;

/// Packs NVIDIA's rootfs after `prepare.sh`.
pub fn of_rootfs(board: &Board, rootfs: &Path, keys: &Keys, out: &Path) -> anyhow::Result<()> {
    must_be_root("packing a root file system")?;
    let release = std::fs::read_to_string(rootfs.join("etc/nv_tegra_release"))
        .with_context(|| format!("{}: no NVIDIA rootfs", rootfs.display()))?;
    let l4t = l4t(&release).with_context(|| format!("{release:?} names no release of L4T"))?;
    ensure!(
        l4t.starts_with(&format!("{}.", board.l4t)),
        "{} is L4T {l4t}; {} needs {}",
        rootfs.display(),
        board.name,
        board.l4t
    );
    let is = std::fs::read_to_string(rootfs.join("usr/lib/triaged/board")).unwrap_or_default();
    ensure!(
        is.trim() == board.name,
        "{} is not prepared for {}: run prepare.sh there",
        rootfs.display(),
        board.name
    );
    // What the box will say that it runs, and the stick must say of it.
    let os_release = std::fs::read_to_string(rootfs.join("usr/lib/os-release"))?;
    let version =
        version(&os_release).context("usr/lib/os-release has no IMAGE_VERSION: run prepare.sh there")?;
    let content = work().join("bundle");
    if content.exists() {
        std::fs::remove_dir_all(&content)?;
    }
    std::fs::create_dir_all(&content)?;
    let image = content.join("rootfs.ext4");
    file_system(rootfs, &image)?;
    make(&board.name, version, &l4t, &content, &keys.folder()?, out)?;
    println!("version {version}: cargo xtask image stick --set {}=DIR --set-version {version}", board.name);
    Ok(std::fs::remove_dir_all(&content)?)
}

/// `IMAGE_VERSION` of os-release(5), as prepare.sh writes it.
fn version(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("IMAGE_VERSION="))
        .filter(|version| !version.is_empty())
}

/// `# R36 (release), REVISION: 4.3, GCID: …` → `R36.4.3`.
fn l4t(text: &str) -> Option<String> {
    let (release, rest) = text.strip_prefix("# ")?.split_once(" (release), REVISION: ")?;
    let revision = rest.split(',').next()?.trim();
    let number =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (number(release.strip_prefix('R')?) && number(revision)).then(|| format!("{release}.{revision}"))
}

/// An ext4 image of a folder, with its owners.
fn file_system(rootfs: &Path, image: &Path) -> anyhow::Result<()> {
    let out = std::process::Command::new("du").args(["-sm", "--apparent-size"]).arg(rootfs).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let used_mib: u64 = text.split_whitespace().next().unwrap_or_default().parse().context("du's answer")?;
    // Inodes, journal and the tails of files take a tenth.
    let size_mib = used_mib + used_mib / 10 + SPARE_MIB;
    // The label is the one NVIDIA's flashing gives neither slot: nothing looks for it.
    let size = format!("{size_mib}M");
    let arguments = ["-q".as_ref(), "-d".as_ref(), rootfs.as_os_str(), image.as_os_str(), size.as_ref()];
    execute("mkfs.ext4", "e2fsprogs", arguments)
}

/// `content` holds `rootfs.ext4`; hook, release and manifest are laid beside it, and all is signed.
pub fn make(
    board: &str,
    version: &str,
    l4t: &str,
    content: &Path,
    keys: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    ensure!(!out.exists(), "{} exists", out.display());
    let hook = source("bundle/hook");
    std::fs::copy(&hook, content.join("hook")).with_context(|| hook.display().to_string())?;
    std::fs::write(content.join("l4t-release"), format!("{l4t}\n"))?;
    std::fs::write(content.join("manifest.raucm"), manifest(board, version))?;
    let (certificate, key) = (keys.join(keys::RAUC_CERTIFICATE), keys.join(keys::RAUC_KEY));
    ensure!(key.is_file(), "{} has no {}: it signs", keys.display(), keys::RAUC_KEY);
    let options = ["--cert".as_ref(), certificate.as_os_str(), "--key".as_ref(), key.as_os_str()];
    let check = ["--keyring".as_ref(), certificate.as_os_str()];
    let files = ["bundle".as_ref(), content.as_os_str(), out.as_os_str()];
    execute("rauc", "rauc and squashfs-tools", options.into_iter().chain(check).chain(files))
}

fn manifest(board: &str, version: &str) -> String {
    format!(
        "[update]\ncompatible=triaged-{board}\nversion={version}\n\n[hooks]\nfilename=hook\nhooks=install-check\n\n\
         [image.rootfs]\nfilename=rootfs.ext4\nhooks=post-install\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_the_version_that_its_box_will_say() {
        assert_eq!(version("ID=ubuntu\nIMAGE_ID=triaged\nIMAGE_VERSION=1.2.0\n"), Some("1.2.0"));
        assert_eq!(version("ID=ubuntu\n"), None);
        assert!(manifest("jetson-orin", "1.2.0").contains("\nversion=1.2.0\n"));
    }

    #[test]
    fn the_release_of_l4t_is_read_from_nvidias_line() {
        let line = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n";
        assert_eq!(l4t(line).as_deref(), Some("R36.4.3"));
        assert_eq!(l4t("# R35 (release), REVISION: 6.1, GCID: 1\n").as_deref(), Some("R35.6.1"));
        for bad in ["", "# R36", "# R36 (release), REVISION: , GCID", "# Rx (release), REVISION: 4.3,"] {
            assert_eq!(l4t(bad), None, "{bad:?}");
        }
    }
}
