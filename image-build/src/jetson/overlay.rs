//! `jetson-overlay`: what is laid over NVIDIA's BSP.
//!
//! Owns: which files the root file system gets, and NVIDIA's release that they are for. Never does: touch NVIDIA's files; the scripts in
//! the archive do, on the operator's computer.
//!
//! ```text
//! triaged/rootfs/…          both boards' files (image-build/rootfs), then ours (image-build/jetson/rootfs), program, models, keys
//! triaged/board.env         L4T, SOC, DEVKITS, VERSION: for the scripts
//! triaged/{prepare,layout,flash}.sh
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::{Board, Keys, copy_tree, execute, keys, source, toolchain, work};
use crate::cubins::workspace;

/// The version, unless another one is named: the workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes the archive. Returns its path.
pub fn archive(
    board: &Board,
    version: &stick::Version,
    daemon: &Path,
    keys: &Keys,
) -> anyhow::Result<PathBuf> {
    let dir = work().join(&board.name);
    let top = dir.join("triaged");
    if top.exists() {
        std::fs::remove_dir_all(&top).with_context(|| top.display().to_string())?;
    }
    rootfs(board, daemon, &keys.folder()?, &top.join("rootfs"))?;
    std::fs::write(top.join("board.env"), environment(board, version))?;
    for script in ["prepare.sh", "layout.sh", "flash.sh"] {
        let from = source("l4t").join(script);
        std::fs::copy(&from, top.join(script)).with_context(|| from.display().to_string())?;
    }
    let archive = work().join(format!("triaged-{}-{version}.tar.gz", board.name));
    let (archive_name, dir_name) = (archive.as_os_str(), dir.as_os_str());
    // Whoever unpacks it as root gets root's files; the same files give the same bytes.
    let form = [
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--use-compress-program=gzip -n",
    ];
    let mut arguments: Vec<&std::ffi::OsStr> = form.iter().map(AsRef::as_ref).collect();
    arguments.extend([
        "--create".as_ref(),
        "--file".as_ref(),
        archive_name,
        "--directory".as_ref(),
        dir_name,
    ]);
    arguments.push("triaged".as_ref());
    execute("tar", "tar", arguments)?;
    Ok(archive)
}

/// The files of the root file system, into an empty folder.
pub fn rootfs(board: &Board, daemon: &Path, keys: &Path, to: &Path) -> anyhow::Result<()> {
    let shared = workspace().join("image-build/rootfs");
    ensure!(shared.is_dir(), "{} is missing: both boards' units", shared.display());
    copy_tree(&shared, to)?;
    copy_tree(&source("rootfs"), to)?;
    // What one board alone needs.
    let own = source(&board.name);
    if own.is_dir() {
        copy_tree(&own, to)?;
    }

    let place = |from: &Path, at: &str| -> anyhow::Result<()> {
        let path = to.join(at);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(from, &path).with_context(|| format!("{} to {}", from.display(), path.display()))?;
        Ok(())
    };
    place(daemon, "usr/bin/triaged")?;
    copy_tree(&workspace().join("models/zoo"), &to.join("usr/share/triaged/zoo"))?;
    for name in keys::MINISIGN {
        place(&keys.join(name), &format!("usr/share/triaged/keys/{name}"))?;
    }
    place(&keys.join(keys::RAUC_CERTIFICATE), "etc/rauc/keyring.pem")?;
    if board.rauc_of_debian {
        let debian = toolchain::library()?;
        for path in RAUC_OF_DEBIAN {
            place(&debian.join(path), path)?;
        }
    }
    std::fs::write(to.join("usr/lib/triaged/board"), format!("{}\n", board.name))?;
    let conf = to.join("etc/rauc/system.conf");
    let text = std::fs::read_to_string(&conf)?.replace("@BOARD@", &board.name);
    Ok(std::fs::write(conf, text)?)
}

/// Of Debian 11's packages rauc, rauc-service and libjson-glib-1.0-0 (LGPL-2.1), where Ubuntu's are too old for a boot backend.
const RAUC_OF_DEBIAN: [&str; 5] = [
    "usr/bin/rauc",
    "usr/lib/aarch64-linux-gnu/libjson-glib-1.0.so.0",
    "usr/share/dbus-1/system.d/de.pengutronix.rauc.conf",
    "usr/share/dbus-1/system-services/de.pengutronix.rauc.service",
    "usr/lib/systemd/system/rauc.service",
];

/// What the scripts are told.
fn environment(board: &Board, version: &stick::Version) -> String {
    let devkits: Vec<String> = board
        .devkits
        .iter()
        .map(|devkit| format!("{}={}", devkit.name, devkit.qspi.as_deref().unwrap_or_default()))
        .collect();
    format!("L4T={}\nSOC={}\nVERSION={version}\nDEVKITS=\"{}\"\n", board.l4t, board.soc, devkits.join(" "))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::source;

    /// Seen with systemd 252: started with the usual dependencies, `boot-failed` had the partition mounted again first, which failed and
    /// called it again, and local-fs.target was never reached.
    #[test]
    fn units_that_a_failed_data_partition_stops_end_in_boot_failed() {
        let lines = |path: &str| {
            let text = std::fs::read_to_string(source(path)).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let [ours, shared] = ["rootfs", "../rootfs"].map(|root| format!("{root}/usr/lib/systemd/system"));
        let on_failure = "OnFailure=triaged-boot-failed.service".to_owned();
        for unit in ["triaged-data", "triaged-boot-slot", "triaged-boot-good"] {
            assert!(lines(&format!("{ours}/{unit}.service")).contains(&on_failure), "{unit}");
        }
        assert!(lines(&format!("{shared}/triaged-doctor.service")).contains(&on_failure));
        let boot_failed = lines(&format!("{shared}/triaged-boot-failed.service"));
        assert!(boot_failed.contains(&"DefaultDependencies=no".to_owned()));
        let boot_slot = lines(&format!("{ours}/triaged-boot-slot.service"));
        let needs = |line: &&String| line.starts_with("Requires=") || line.starts_with("BindsTo=");
        assert_eq!(boot_slot.iter().find(needs), None);
        assert!(boot_slot.contains(&"Wants=triaged-data.service".to_owned()));
    }

    #[test]
    fn the_data_partition_comes_last_in_nvidias_layout() {
        let layout = |text: &str| {
            let mut child = Command::new("bash")
                .arg(source("l4t/layout.sh"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let of_nvidia = "<device>\n        <partition name=\"APP_b\" type=\"data\">\n        </partition>\n        <partition name=\"secondary_gpt\" type=\"secondary_gpt\">\n        </partition>\n</device>\n";
        let ours = String::from_utf8(layout(of_nvidia).stdout).unwrap();
        let at = |name: &str| ours.find(&format!("<partition name=\"{name}\"")).unwrap();
        assert!(at("APP_b") < at("triaged_data") && at("triaged_data") < at("secondary_gpt"), "{ours}");
        assert_eq!(ours.matches("<partition ").count(), ours.matches("</partition>").count());
        assert!(!layout("<device>\n</device>\n").status.success());
    }
}
