//! The hospital around the box: a scanner that sends a phantom, an archive that receives, and the site's settings that name them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::image::place::{Place, output};
use crate::image::tools;
use crate::image::vm::{AE_TITLE, CALLER, free_port};

/// Slices of the phantom: few, since an emulated processor evaluates them.
const SLICES: &str = "10";
/// The host, as QEMU's network shows it to the guest.
const HOST: &str = "10.0.2.2";

/// The archive, DCMTK's storescp; ended when dropped.
pub struct Hospital {
    archive: Child,
    port: u16,
    received: PathBuf,
    phantoms: PathBuf,
}

impl Hospital {
    /// Opens it.
    pub fn open(place: &Place) -> anyhow::Result<Self> {
        let (received, phantoms) = (place.work.join("received"), place.folder("phantoms")?);
        let _ = std::fs::remove_dir_all(&received);
        std::fs::create_dir_all(&received)?;
        let port = free_port()?;
        let archive = tools::command("storescp")?
            .args(["-aet", "PACS", "-od"])
            .arg(&received)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { archive, port, received, phantoms })
    }

    /// The settings of a site with this archive.
    pub fn site(&self, place: &Place) -> anyhow::Result<PathBuf> {
        let text = format!(
            r#"[site]
name = "virtual machine"
serial = 1
hostname = "triage-test"

[triaged.dicom]
ae_title = "{AE_TITLE}"
callers = ["{CALLER}"]

[triaged.storage]
min_free_mib = 256

[triaged.policy]
mode = "severity"
operating_point = 0.5
severity_min = 0.05

[triaged.engine]
backend = "cpu"

[[triaged.destination]]
protocol = "dicom"
name = "pacs"
ae_title = "PACS"
address = "{HOST}:{}"
results = ["report"]
"#,
            self.port
        );
        let path = place.folder("sticks")?.join("site.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Sends a phantom with lesions to the box behind `port`.
    pub fn send(&self, place: &Place, port: u16, seed: u32) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.received)? {
            std::fs::remove_file(entry?.path())?;
        }
        output(&mut self.scanner(place, port, seed)?).map(drop)
    }

    /// The same to a box that has no room: it must refuse, and say so.
    pub fn refused(&self, place: &Place, port: u16, seed: u32) -> anyhow::Result<()> {
        let said = self.scanner(place, port, seed)?.arg("-v").output()?;
        let text = String::from_utf8_lossy(&said.stderr) + String::from_utf8_lossy(&said.stdout);
        ensure!(!said.status.success(), "a phantom was taken by a box that has no room:\n{text}");
        ensure!(text.contains("OutOfResources"), "refused, but not for its resources (A700):\n{text}");
        Ok(())
    }

    /// `storescu` with a phantom, ready to be run.
    fn scanner(&self, place: &Place, port: u16, seed: u32) -> anyhow::Result<Command> {
        let phantom = self.phantoms.join(seed.to_string());
        let _ = std::fs::remove_dir_all(&phantom);
        output(Command::new(place.program()).arg("phantom").arg(&phantom).args([
            "--slices",
            SLICES,
            "--lesions",
            "30,10",
            "--size",
            "256",
            "--seed",
            &seed.to_string(),
        ]))?;
        let mut command = tools::command("storescu")?;
        command
            .args(["-ta", "600", "-td", "600", "-aet", CALLER, "-aec", AE_TITLE, "+sd", "+r", "+sp", "*.dcm"])
            .args(["127.0.0.1", &port.to_string()])
            .arg(&phantom);
        Ok(command)
    }

    /// What the report says that the archive received: "flagged", "not-flagged" or "not-evaluated".
    pub fn verdict(&self, seed: u32, patience: Duration) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            for entry in std::fs::read_dir(&self.received)? {
                if let Some(verdict) = verdict(&entry?.path())? {
                    return Ok(verdict);
                }
            }
            if started.elapsed() > patience {
                bail!("no report on phantom {seed} in {} s", patience.as_secs());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn verdict(report: &Path) -> anyhow::Result<Option<String>> {
    let said = tools::command("dcmdump")?.args(["+P", "0008,0100", "+p"]).arg(report).output()?;
    // A file that is still being written can't be read yet.
    if !said.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let found = ["not-flagged", "not-evaluated", "flagged"]
        .into_iter()
        .find(|code| said.contains(&format!("[{code}]")));
    ensure!(found.is_some() || said.is_empty(), "{}: a report without a verdict:\n{said}", report.display());
    Ok(found.map(str::to_owned))
}

impl Drop for Hospital {
    fn drop(&mut self) {
        let _ = self.archive.kill();
        let _ = self.archive.wait();
    }
}
