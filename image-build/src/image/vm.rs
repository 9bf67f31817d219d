//! A box that is emulated: QEMU without KVM, OVMF with Secure Boot, a software TPM, a watchdog.
//!
//! Owns: its files, its processes (ended when it is dropped), its serial log, and the wires to it: DICOM, QMP, a USB stick. Never does:
//! judge what it says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::place::{Place, output};
use super::tools;

/// Size of a box's disk: two slots, and a data partition of 5 GiB.
const DISK_BYTES: u64 = 8 << 30;
/// The firmware's serial number, from which the machine-id is made.
const SERIAL: &str = "7f0a3c52-2d34-4d6b-9b1e-0c7d6b1f5a10";
/// AE title of the box in the tests.
pub const AE_TITLE: &str = "TRIAGED";
/// Who calls: the one that a box without a site lets in, and the tests' site, too.
pub const CALLER: &str = "ACCEPTANCE";

/// A box; the files outlive its power.
#[derive(Debug)]
pub struct Machine {
    /// Its files.
    pub folder: PathBuf,
    logs: PathBuf,
    name: String,
    /// Port of this machine that leads to the box's DICOM port.
    pub port: u16,
    boots: u32,
}

/// A box that has power.
#[derive(Debug)]
pub struct Running {
    qemu: Child,
    tpm: Child,
    qmp: UnixStream,
    /// What it writes to its serial line.
    pub serial: PathBuf,
    /// Port of this machine that leads to the box's DICOM port.
    pub port: u16,
    /// When it got power.
    pub since: Instant,
}

impl Machine {
    /// A new box with what is on `disk`.
    pub fn new(place: &Place, name: &str, disk: &Path) -> anyhow::Result<Self> {
        let folder = place.work.join("vm").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("tpm"))?;
        let logs = place.folder("logs")?;
        let convert = |from: &Path, to: &str| {
            output(
                tools::command("qemu-img")?
                    .args(["convert", "-O", "qcow2", "-f", "raw"])
                    .arg(from)
                    .arg(folder.join(to)),
            )
        };
        convert(disk, "disk.qcow2")?;
        convert(Path::new("/usr/share/OVMF/OVMF_VARS_4M.fd"), "firmware.qcow2")?;
        output(
            tools::command("qemu-img")?
                .arg("resize")
                .arg(folder.join("disk.qcow2"))
                .arg(DISK_BYTES.to_string()),
        )?;
        Ok(Self { folder, logs, name: name.to_owned(), port: free_port()?, boots: 0 })
    }

    /// A copy of a box that has no power, firmware and TPM included.
    pub fn copy(&self, place: &Place, name: &str) -> anyhow::Result<Self> {
        let folder = place.work.join("vm").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(self.folder.join(".")).arg(&folder))?;
        Ok(Self { folder, logs: self.logs.clone(), name: name.to_owned(), port: free_port()?, boots: 0 })
    }

    /// A box whose disk and firmware go on from this one's, and leave them as they are.
    pub fn overlay(&self, place: &Place, name: &str) -> anyhow::Result<Self> {
        let folder = place.work.join("vm").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        for file in ["disk.qcow2", "firmware.qcow2"] {
            output(
                tools::command("qemu-img")?
                    .args(["create", "-f", "qcow2", "-F", "qcow2", "-b"])
                    .arg(self.folder.join(file))
                    .arg(folder.join(file)),
            )?;
        }
        output(Command::new("cp").arg("-a").arg(self.folder.join("tpm")).arg(&folder))?;
        Ok(Self { folder, logs: self.logs.clone(), name: name.to_owned(), port: free_port()?, boots: 0 })
    }

    /// Gives it power; `stick` is in a USB port then.
    pub fn start(&mut self, stick: Option<&Path>) -> anyhow::Result<Running> {
        self.power(stick, None)
    }

    /// Goes on where [`Running::save`] was called, with the same stick.
    pub fn resume(&mut self, snapshot: &str, stick: &Path) -> anyhow::Result<Running> {
        self.power(Some(stick), Some(snapshot))
    }

    fn power(&mut self, stick: Option<&Path>, snapshot: Option<&str>) -> anyhow::Result<Running> {
        self.boots += 1;
        let serial = self.logs.join(format!("{}-{}.serial.log", self.name, self.boots));
        let file = |name: &str| self.folder.join(name).display().to_string();
        // A socket's path has at most 107 bytes, so they are named from within the folder.
        let _ = std::fs::remove_file(self.folder.join("tpm.sock"));
        let _ = std::fs::remove_file(self.folder.join("qmp.sock"));
        let messages =
            || std::fs::File::create(self.logs.join(format!("{}-{}.qemu.log", self.name, self.boots)));
        let tpm = tools::command("swtpm")?
            .current_dir(&self.folder)
            .args([
                "socket",
                "--tpm2",
                "--tpmstate",
                "dir=tpm",
                "--ctrl",
                "type=unixio,path=tpm.sock",
                "--terminate",
            ])
            .stdin(Stdio::null())
            .spawn()?;
        wait_for(&self.folder.join("tpm.sock"), Duration::from_secs(60))?;
        let mut command = tools::command("qemu-system-x86_64")?;
        command
            .current_dir(&self.folder)
            .args([
                "-machine",
                "q35,smm=on",
                "-accel",
                "tcg,tb-size=512",
                "-cpu",
                "max",
                "-smp",
                "1",
                "-m",
                "2048",
            ])
            .args(["-nodefaults", "-display", "none", "-uuid", SERIAL])
            .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
            .args([
                "-drive",
                "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
            ])
            .args(["-drive", "if=pflash,format=qcow2,unit=1,file=firmware.qcow2"])
            .args(["-drive", "if=none,id=disk,format=qcow2,discard=unmap,file=disk.qcow2"])
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"])
            .arg("-netdev")
            .arg(format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:11112", self.port))
            .args(["-device", "virtio-net-pci,netdev=net"])
            .args(["-chardev", "socket,id=tpm,path=tpm.sock", "-tpmdev", "emulator,id=tpm,chardev=tpm"])
            .args(["-device", "tpm-crb,tpmdev=tpm"])
            // The chipset's watchdog, which restarts the machine only where a strap on the board lets it.
            .args(["-global", "ICH9-LPC.noreboot=off", "-action", "watchdog=reset"])
            .args(["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"])
            .args(["-device", "qemu-xhci,id=usb"])
            .arg("-chardev")
            .arg(format!("file,id=serial,path={}", serial.display()))
            .args(["-serial", "chardev:serial", "-monitor", "none"])
            .args(["-qmp", "unix:qmp.sock,server=on,wait=off"]);
        if let Some(stick) = stick {
            // As `plug` does it, so that it can be pulled.
            command.arg("-blockdev").arg(format!(
                "driver=raw,node-name=stick,read-only=on,file.driver=file,file.read-only=on,file.filename={}",
                stick.display()
            ));
            command.args(["-device", "usb-storage,drive=stick,id=usbstick,removable=on"]);
        }
        if let Some(snapshot) = snapshot {
            command.args(["-loadvm", snapshot]);
        }
        let since = Instant::now();
        let qemu = command.stdin(Stdio::null()).stdout(messages()?).stderr(messages()?).spawn()?;
        let socket = file("qmp.sock");
        wait_for(Path::new(&socket), Duration::from_secs(60))?;
        let qmp = connect(&self.folder)?;
        let mut running = Running { qemu, tpm, qmp, serial, port: self.port, since };
        running.greet()?;
        Ok(running)
    }
}

/// Connects to `qmp.sock` in a folder whose path may be too long for a socket's.
fn connect(folder: &Path) -> anyhow::Result<UnixStream> {
    let handle = std::fs::File::open(folder)?;
    let short = format!("/proc/self/fd/{}/qmp.sock", std::os::fd::AsRawFd::as_raw_fd(&handle));
    UnixStream::connect(short).context("QMP")
}

impl Running {
    fn greet(&mut self) -> anyhow::Result<()> {
        self.qmp.set_read_timeout(Some(Duration::from_secs(600)))?;
        let mut line = String::new();
        BufReader::new(&self.qmp).read_line(&mut line)?;
        self.qmp("qmp_capabilities", &json!({})).map(drop)
    }

    /// One command to QEMU; events that come between are skipped.
    pub fn qmp(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        writeln!(self.qmp, "{}", json!({ "execute": command, "arguments": arguments }))?;
        let mut reader = BufReader::new(&self.qmp);
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "QMP ended at {command}");
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("QMP {command}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Puts a stick in.
    pub fn plug(&mut self, stick: &Path) -> anyhow::Result<()> {
        let file = json!({ "driver": "file", "filename": stick, "read-only": true });
        self.qmp(
            "blockdev-add",
            &json!({ "driver": "raw", "node-name": "stick", "read-only": true, "file": file }),
        )?;
        let device =
            json!({ "driver": "usb-storage", "id": "usbstick", "drive": "stick", "removable": true });
        self.qmp("device_add", &device).map(drop)
    }

    /// Pulls it.
    pub fn unplug(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.qmp("device_del", &json!({ "id": "usbstick" }))?;
        let started = Instant::now();
        while let Err(error) = self.qmp("blockdev-del", &json!({ "node-name": "stick" })) {
            ensure!(started.elapsed() < patience, "the stick can't be pulled: {error:#}");
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    /// Keeps the whole machine, memory included, in its disk.
    pub fn save(&mut self, snapshot: &str) -> anyhow::Result<()> {
        let said =
            self.qmp("human-monitor-command", &json!({ "command-line": format!("savevm {snapshot}") }))?;
        ensure!(said == "", "savevm: {said}");
        Ok(())
    }

    /// Everything that came over the serial line so far.
    pub fn said(&self) -> String {
        std::fs::read(&self.serial)
            .map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits until the serial line has said `what`, after byte `from` of it; gives the byte behind it.
    pub fn wait(&mut self, what: &str, from: usize, patience: Duration) -> anyhow::Result<usize> {
        self.wait_any(&[what], from, patience).map(|(_, at)| at)
    }

    /// The same for the first of several: which, and the byte behind it.
    pub fn wait_any(
        &mut self,
        whats: &[&str],
        from: usize,
        patience: Duration,
    ) -> anyhow::Result<(usize, usize)> {
        let started = Instant::now();
        loop {
            let said = self.said();
            let rest = said.get(from..).unwrap_or_default();
            let first = whats
                .iter()
                .enumerate()
                .filter_map(|(n, what)| rest.find(what).map(|at| (at + what.len(), n)))
                .min();
            if let Some((at, n)) = first {
                return Ok((n, from + at));
            }
            if let Some(status) = self.qemu.try_wait()? {
                bail!("QEMU ended ({status}) before {whats:?}; {}", self.serial.display());
            }
            if started.elapsed() > patience {
                let end: String = said
                    .lines()
                    .rev()
                    .take(12)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>()
                    .join("\n");
                bail!(
                    "not said in {} s: {whats:?}; {} ends with\n{end}",
                    patience.as_secs(),
                    self.serial.display()
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits for the answer to a C-ECHO.
    pub fn echo(&mut self, patience: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let port = self.port.to_string();
            let said = tools::command("echoscu")?
                .args([
                    "-to",
                    "20",
                    "-ta",
                    "20",
                    "-td",
                    "20",
                    "-aet",
                    CALLER,
                    "-aec",
                    AE_TITLE,
                    "127.0.0.1",
                    &port,
                ])
                .output()?;
            if said.status.success() {
                return Ok(());
            }
            if let Some(status) = self.qemu.try_wait()? {
                bail!("QEMU ended ({status}); {}", self.serial.display());
            }
            ensure!(
                started.elapsed() < patience,
                "no C-ECHO in {} s: {}",
                patience.as_secs(),
                String::from_utf8_lossy(&said.stderr)
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Pulls the power plug.
    pub fn cut(mut self) -> anyhow::Result<()> {
        self.stop()
    }

    /// Presses the power button and waits.
    pub fn shut_down(mut self, patience: Duration) -> anyhow::Result<()> {
        self.qmp("system_powerdown", &json!({}))?;
        let started = Instant::now();
        while self.qemu.try_wait()?.is_none() {
            ensure!(
                started.elapsed() < patience,
                "no shutdown in {} s; {}",
                patience.as_secs(),
                self.serial.display()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
        self.stop()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let _ = self.qemu.kill();
        self.qemu.wait()?;
        // It ends by itself when QEMU lets go; a moment, so that its state is written.
        let started = Instant::now();
        while self.tpm.try_wait()?.is_none() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.tpm.kill();
        self.tpm.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn wait_for(file: &Path, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    while !file.exists() {
        ensure!(started.elapsed() < patience, "{} did not appear", file.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A port that nobody listens on.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
