//! `jetson-test`: the overlay on Debian 11 for arm64 in QEMU, which must answer C-ECHO and take an update from a stick.
//!
//! Owns: the machine, its disks, what stands in for NVIDIA's parts. Never does: prove anything of NVIDIA's: kernel, drivers, GPU, UEFI with
//! its tries, `nvbootctrl`. Debian 11 is older than either JetPack's Ubuntu in glibc and as old in RAUC, so that what runs there is not too new.
//!
//! No program of the machine runs while it is put together (packages are unpacked, not configured), so that nothing emulates arm64 then.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{
    Board, Keys, bundle, copy_tree, execute, must_be_root, overlay, source, test_stick, toolchain, work,
};

/// What NVIDIA's rootfs has, and the kernel that QEMU starts.
const PACKAGES: &str = "base-files,base-passwd,bash,coreutils,dash,dbus,e2fsprogs,findutils,grep,gzip,hostname,iproute2,kmod,\
    libc6,libgcc-s1,linux-image-arm64,mawk,mount,nftables,passwd,procps,rauc,rauc-service,sed,systemd,systemd-sysv,\
    systemd-timesyncd,tar,udev,util-linux";
/// Drivers that this machine has devices for; the rest of them would only take memory.
const DRIVERS: [&str; 6] = ["block", "cdrom", "char", "net", "scsi", "virtio"];
/// L4T's release that the machine says it has.
const L4T: &str = "R36.4.3";
const MEMORY_MIB: &str = "2048";
/// Of the data partition, in the order of the layout.
const PARTITIONS: &str = "label: gpt\n\
    size=64MiB, name=APP, uuid=11111111-1111-4111-8111-111111111111\n\
    size=64MiB, name=APP_b, uuid=22222222-2222-4222-8222-222222222222\n\
    name=triaged_data, uuid=33333333-3333-4333-8333-333333333333\n";
/// Where APP_b begins: after the first MiB and APP.
const APP_B_OFFSET_MIB: u64 = 65;
const APP_B_MIB: u64 = 64;
/// Sparse; the daemon wants 2 GiB free.
const DISK_MIB: u64 = 4096;
/// What the new slot's file system holds, to be found on the disk afterwards.
const MARK: &str = "the next version";

/// Builds the machine, runs it, judges.
pub fn test(daemon: &Path, wait_s: u64) -> anyhow::Result<()> {
    must_be_root("putting a machine together")?;
    let board = Board::find("jetson-orin")?;
    let keys = Keys { keys: None }.folder()?;
    let dir = work().join("vm");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let rootfs = dir.join("rootfs");
    machine(&board, daemon, &keys, &rootfs)?;
    let kernel = kernel(&rootfs)?;
    let (initrd, disk) = (dir.join("initrd"), dir.join("disk"));
    archive(&rootfs, &initrd)?;
    partitions(&disk)?;
    let stick = update(&board, &keys, &dir)?;

    let log = dir.join("serial.log");
    println!("{}", log.display());
    let port = free_port()?;
    let mut vm = Vm::start(&[&kernel, &initrd, &disk, &stick], port, &log)?;
    vm.answers(port, wait_s)?;
    vm.takes_the_update(&disk, wait_s)?;
    fs::remove_dir_all(&rootfs)?;
    Ok(fs::remove_file(&initrd)?)
}

/// The root file system: Debian's, the overlay's, and stand-ins.
fn machine(board: &Board, daemon: &Path, keys: &Path, rootfs: &Path) -> anyhow::Result<()> {
    let base = work().join("debian-11-machine");
    let include = format!("--include={PACKAGES}");
    toolchain::made(
        &base,
        &["--variant=extract", "--architectures=arm64", &include],
        "bullseye",
        &["bullseye"],
    )?;
    copy_tree(&base, rootfs)?;
    // What packages' scripts would have done.
    for name in ["passwd", "group"] {
        fs::copy(rootfs.join(format!("usr/share/base-passwd/{name}.master")), rootfs.join("etc").join(name))?;
    }
    fs::write(rootfs.join("etc/machine-id"), "")?;
    let _ = fs::remove_dir_all(rootfs.join("var/run"));
    std::os::unix::fs::symlink("/run", rootfs.join("var/run"))?;

    overlay::rootfs(board, daemon, keys, rootfs)?;
    copy_tree(&source("test"), rootfs)?;
    fs::write(
        rootfs.join("usr/lib/os-release"),
        format!("ID=debian\nVERSION_ID=11\nIMAGE_ID=triaged\nIMAGE_VERSION={}\n", overlay::VERSION),
    )?;
    let name = rootfs.to_str().context("the target folder's name is not UTF-8")?;
    // systemd's own tools work on a folder; what they run of it is nothing.
    execute("systemd-sysusers", "systemd", [format!("--root={name}")])?;
    execute("systemctl", "systemd", [format!("--root={name}"), "preset-all".into(), "--quiet".into()])?;
    // Nothing is to be brought up to date at the first boot: rebuilding tables takes an emulated machine minutes.
    for stamp in ["etc/.updated", "var/.updated"] {
        fs::write(rootfs.join(stamp), "")?;
    }
    execute(
        "systemctl",
        "systemd",
        [format!("--root={name}"), "set-default".into(), "--quiet".into(), "multi-user.target".into()],
    )
}

fn kernel(rootfs: &Path) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(rootfs.join("boot"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("no kernel in {}", rootfs.join("boot").display())
}

/// The root file system as one archive that the kernel unpacks into memory: no disk driver, no initrd of its own.
fn archive(rootfs: &Path, initrd: &Path) -> anyhow::Result<()> {
    let mut prune: Vec<PathBuf> =
        ["doc", "locale", "man", "i18n", "zoneinfo"].map(|name| rootfs.join("usr/share").join(name)).into();
    let mut releases = Vec::new();
    for modules in fs::read_dir(rootfs.join("usr/lib/modules"))? {
        let modules = modules?;
        releases.push(modules.file_name());
        for driver in fs::read_dir(modules.path().join("kernel/drivers"))? {
            let path = driver?.path();
            if !DRIVERS.iter().any(|name| path.ends_with(name)) {
                prune.push(path);
            }
        }
    }
    for path in prune {
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        }
    }
    for release in &releases {
        execute("depmod", "kmod", ["-b".as_ref(), rootfs.as_os_str(), release.as_os_str()])?;
    }
    let script = "cd \"$1\" && find . -path ./boot/'*' -prune -o -print0 | cpio --null --create --format=newc --quiet >\"$2\"";
    execute(
        "sh",
        "cpio",
        ["-c".as_ref(), script.as_ref(), "sh".as_ref(), rootfs.as_os_str(), initrd.as_os_str()],
    )?;
    // For the kernel, the first program.
    ensure!(rootfs.join("usr/lib/systemd/systemd").is_file(), "no systemd in {}", rootfs.display());
    Ok(())
}

fn partitions(disk: &Path) -> anyhow::Result<()> {
    File::create(disk)?.set_len(DISK_MIB << 20)?;
    let table = disk.with_extension("table");
    fs::write(&table, PARTITIONS)?;
    let mut sfdisk = Process::new("sfdisk");
    sfdisk.arg("--quiet").arg(disk).stdin(File::open(&table)?);
    super::finish(&mut sfdisk, "fdisk")
}

/// A stick with a bundle on it: a root file system of one file.
fn update(board: &Board, keys: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let (tree, content, bundle_file) = (dir.join("next"), dir.join("bundle"), dir.join("triaged.raucb"));
    for path in [&tree.join("boot/extlinux"), &tree.join("etc"), &content] {
        fs::create_dir_all(path)?;
    }
    fs::write(tree.join("mark"), MARK)?;
    fs::write(
        tree.join("boot/extlinux/extlinux.conf"),
        "      APPEND ${cbootargs} root=PARTUUID=0 rw panic=10\n",
    )?;
    let image = content.join("rootfs.ext4");
    execute(
        "mkfs.ext4",
        "e2fsprogs",
        ["-q".as_ref(), "-d".as_ref(), tree.as_os_str(), image.as_os_str(), "16M".as_ref()],
    )?;
    bundle::make(&board.name, test_stick::NEXT, L4T, &content, keys, &bundle_file)?;
    test_stick::image(board, &bundle_file, keys, dir)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

struct Vm {
    qemu: Child,
    log: PathBuf,
    start: Instant,
}

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

impl Vm {
    fn start([kernel, initrd, disk, stick]: &[&Path; 4], port: u16, log: &Path) -> anyhow::Result<Self> {
        let mut qemu = Process::new("qemu-system-aarch64");
        // Orin's cores are Cortex-A78AE; this is the nearest that QEMU has. A restart ends the machine: the test looks at its disk then.
        qemu.args([
            "-M",
            "virt",
            "-cpu",
            "cortex-a76",
            "-smp",
            "1",
            "-m",
            MEMORY_MIB,
            "-display",
            "none",
            "-no-reboot",
        ]);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        qemu.args(["-append", "console=ttyAMA0 rdinit=/usr/lib/systemd/systemd rauc.slot=A panic=10 systemd.show_status=no systemd.journald.forward_to_console=1"]);
        for (id, file, read_only) in [("disk", disk, "off"), ("stick", stick, "on")] {
            qemu.arg("-drive")
                .arg(format!("file={},if=none,id={id},format=raw,readonly={read_only}", file.display()));
            qemu.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        qemu.args([
            "-netdev",
            &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:11112"),
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]);
        qemu.arg("-serial").arg(format!("file:{}", log.display())).stdin(Stdio::null());
        let qemu = qemu.spawn().context("no qemu-system-aarch64: install qemu-system-arm")?;
        Ok(Self { qemu, log: log.to_owned(), start: Instant::now() })
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What the machine said last, for whoever reads the failure.
    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// C-ECHO from outside, with DCMTK.
    fn answers(&mut self, port: u16, wait_s: u64) -> anyhow::Result<()> {
        loop {
            let echo = Process::new("echoscu")
                .args([
                    "-to",
                    "5",
                    "-ta",
                    "10",
                    "-td",
                    "10",
                    "-aet",
                    "ACCEPTANCE",
                    "-aec",
                    "TRIAGED",
                    "127.0.0.1",
                    &port.to_string(),
                ])
                .stderr(Stdio::null())
                .status()
                .context("no echoscu: install dcmtk")?;
            if echo.success() {
                println!("C-ECHO after {} s", self.start.elapsed().as_secs());
                return Ok(());
            }
            ensure!(self.qemu.try_wait()?.is_none(), "the machine ended:\n{}", self.tail());
            ensure!(
                self.start.elapsed() < Duration::from_secs(wait_s),
                "no C-ECHO in {wait_s} s:\n{}",
                self.tail()
            );
            sleep(Duration::from_secs(2));
        }
    }

    /// The stick's update lies in the other slot, which the next boot tries.
    fn takes_the_update(&mut self, disk: &Path, wait_s: u64) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.qemu.try_wait()?.is_none() {
            ensure!(
                start.elapsed() < Duration::from_secs(wait_s),
                "no restart in {wait_s} s:\n{}",
                self.tail()
            );
            sleep(Duration::from_secs(1));
        }
        let slot = disk.with_extension("b");
        let mut bytes = vec![0; usize::try_from(APP_B_MIB << 20)?];
        File::open(disk)?.read_exact_at(&mut bytes, APP_B_OFFSET_MIB << 20)?;
        fs::write(&slot, bytes)?;
        let cat = |path: &str| -> anyhow::Result<String> {
            let out = Process::new("debugfs")
                .args(["-R", &format!("cat {path}")])
                .arg(&slot)
                .output()
                .context("no debugfs: install e2fsprogs")?;
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        ensure!(cat("/mark")? == MARK, "slot B has not the update:\n{}", self.tail());
        let boot = cat("/boot/extlinux/extlinux.conf")?;
        ensure!(
            boot.contains("root=PARTUUID=22222222-2222-4222-8222-222222222222"),
            "slot B mounts another: {boot}"
        );
        ensure!(cat("/etc/triaged-trial")?.starts_with("on trial"), "slot B is not marked as on trial");
        let log = self.log();
        ensure!(
            log.contains("nvbootctrl: -t rootfs set-active-boot-slot 1"),
            "slot B is not tried next:\n{}",
            self.tail()
        );
        println!("update in slot B after {} s", self.start.elapsed().as_secs());
        Ok(())
    }
}
