//! The real RAUC with our boot backend, hook and scripts, on files for partitions; a stand-in for `nvbootctrl`, which is a board's.
//!
//! What is not shown: UEFI, which counts tries and gives slots up, and NVIDIA's `nvbootctrl` itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{bundle, copy_tree, keys, source};

const GUID: &str = "781e084c-a330-417c-b678-38e696380cb9";
const L4T: &str = "R36.4.3";
/// What tells that a slot is on trial, in the slot.
const MARK: &str = "etc/triaged-trial";
/// What a failure on trial asks for.
const REBOOT: &str = "systemctl --no-block reboot";

/// A box's folders, its bus and its RAUC.
struct Jetson {
    dir: tempfile::TempDir,
    bus: Child,
    address: String,
    service: Option<Child>,
}

impl Drop for Jetson {
    fn drop(&mut self) {
        for child in self.service.iter_mut().chain([&mut self.bus]) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn missing() -> bool {
    let absent = ["rauc", "mksquashfs", "dbus-daemon", "mkfs.ext4"]
        .into_iter()
        .find(|name| {
            Command::new("sh")
                .args(["-c", &format!("command -v {name} >/dev/null")])
                .status()
                .is_ok_and(|s| !s.success())
        })
        .or((!nix::unistd::geteuid().is_root()).then_some("root (RAUC mounts)"));
    let Some(absent) = absent else { return false };
    println!("skipped: no {absent}");
    assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no {absent}, and peers are required");
    true
}

impl Jetson {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["fakes", "efivars", "state", "run", "mount", "keys", "nv", "etc"] {
            fs::create_dir(at(path)).unwrap();
        }
        // As the overlay lays them over each other.
        for scripts in ["../rootfs/usr/lib/triaged", "rootfs/usr/lib/triaged"] {
            copy_tree(&source(scripts), &at("lib")).unwrap();
        }
        keys::throw_away(&at("keys")).unwrap();
        script(
            &at("fakes/nvbootctrl"),
            r#"nv=${0%/*}/../nv
echo "$*" >>$nv/calls
case "$*" in
  "-t rootfs get-current-slot") cat $nv/current ;;
  "dump-slots-info") printf 'Current version: 36.4.3\nCapsule update status: 0\nCurrent bootloader slot: A\nActive bootloader slot: %s\nnum_slots: 2\n' "$(cat $nv/active)" ;;
  "-t rootfs set-active-boot-slot 0") echo A >$nv/active ;;
  "-t rootfs set-active-boot-slot 1") echo B >$nv/active ;;
  verify) ;;
  *) exit 1 ;;
esac
"#,
        );
        script(&at("fakes/systemctl"), "echo \"systemctl $*\" >>${0%/*}/../nv/calls\n");
        script(&at("fakes/blkid"), "echo 11111111-2222-3333-4444-555555555555\n");
        for slot in ["A", "B"] {
            assert!(Command::new("mkfs.ext4").arg("-q").arg(at(slot)).arg("24M").status().unwrap().success());
        }
        fs::write(at("nv/current"), "0\n").unwrap();
        fs::write(at("nv/active"), "A\n").unwrap();
        fs::write(at("l4t"), "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n")
            .unwrap();
        let conf = fs::read_to_string(source("rootfs/etc/rauc/system.conf")).unwrap();
        let conf = conf
            .replace("@BOARD@", "jetson-orin")
            .replace("/var/lib/triaged-update", at("state").to_str().unwrap())
            .replace("/run/rauc", at("mount").to_str().unwrap())
            .replace("/etc/rauc/keyring.pem", at("keys").join(keys::RAUC_CERTIFICATE).to_str().unwrap())
            .replace("/usr/lib/triaged", at("lib").to_str().unwrap())
            .replace("/dev/disk/by-partlabel/APP_b", at("B").to_str().unwrap())
            .replace("/dev/disk/by-partlabel/APP", at("A").to_str().unwrap());
        fs::write(at("system.conf"), conf).unwrap();

        let socket = format!("unix:path={}", at("bus").display());
        let bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile"])
            .arg(format!("--address={socket}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the bus", || at("bus").exists());
        let mut this = Self { dir, bus, address: socket, service: None };
        this.boot("A");
        this
    }

    /// One whose next boot tries the update v2 in slot B.
    fn updated() -> Self {
        let this = Self::new();
        let staged = this.bundle("v2", "jetson-orin", L4T, &this.at("keys"));
        assert!(this.install(&staged).status.success());
        this
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// RAUC starts in a slot, as after a boot of it; the slot's mark is where it is looked for.
    fn boot(&mut self, slot: &str) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
        fs::write(self.at("nv/current"), if slot == "A" { "0\n" } else { "1\n" }).unwrap();
        let _ = fs::remove_file(self.at(MARK));
        let mark = self.file(slot, MARK);
        if !mark.is_empty() {
            fs::write(self.at(MARK), mark).unwrap();
        }
        let mut service = self.command("rauc");
        service.arg("--conf").arg(self.at("system.conf")).args(["service", "--override-boot-slot", slot]);
        self.service = Some(
            service
                .stdout(Stdio::null())
                .stderr(fs::File::create(self.at("service.log")).unwrap())
                .spawn()
                .unwrap(),
        );
        until("RAUC's service", || self.rauc(&["status"]).status.success());
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.at("fakes").display());
        command.env("PATH", path).env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        command.env("TRIAGED_EFIVARS", self.at("efivars")).env("TRIAGED_L4T_RELEASE", self.at("l4t"));
        command.env("TRIAGED_UPDATE_STATE", self.at("state")).env("TRIAGED_RUN", self.at("run"));
        command.env("TRIAGED_BOOT_BACKEND", self.at("lib/rauc-nvbootctrl"));
        command.env("TRIAGED_TRIAL_MARK", self.at(MARK));
        command
    }

    fn rauc(&self, arguments: &[&str]) -> Output {
        self.command("rauc").args(arguments).output().unwrap()
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        self.command(self.at("lib").join(name)).args(arguments).output().unwrap()
    }

    /// A bundle in a folder of its own, as `triaged stick` stages it.
    fn bundle(&self, name: &str, board: &str, l4t: &str, keys: &Path) -> PathBuf {
        let (content, tree, staged) =
            (self.at(&format!("{name}.d")), self.at(&format!("{name}.tree")), self.at(name));
        for dir in [&content, &staged, &tree.join("etc"), &tree.join("boot/extlinux")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(tree.join("name"), name).unwrap();
        let line = "      APPEND ${cbootargs} root=PARTUUID=00000000-0000-0000-0000-000000000000 rw rootwait panic=10\n";
        fs::write(tree.join("boot/extlinux/extlinux.conf"), line).unwrap();
        let image = content.join("rootfs.ext4");
        let made =
            Command::new("mkfs.ext4").args(["-q", "-d"]).args([&tree, &image]).arg("16M").status().unwrap();
        assert!(made.success());
        bundle::make(board, "1.1.0", l4t, &content, keys, &staged.join("update.raucb")).unwrap();
        staged
    }

    fn install(&self, staged: &Path) -> Output {
        self.script("install-update", &[staged.to_str().unwrap(), "0.2.0"])
    }

    fn status(&self, slot: &str) -> Option<u8> {
        fs::read(self.at(&format!("efivars/RootfsStatusSlot{slot}-{GUID}"))).ok().map(|bytes| {
            assert_eq!((bytes.len(), &bytes[..4]), (8, &[7, 0, 0, 0][..]));
            bytes[4]
        })
    }

    fn active(&self) -> String {
        fs::read_to_string(self.at("nv/active")).unwrap().trim().to_owned()
    }

    fn calls(&self, call: &str) -> usize {
        fs::read_to_string(self.at("nv/calls"))
            .unwrap_or_default()
            .lines()
            .filter(|line| *line == call)
            .count()
    }

    /// A file of a slot that is not mounted.
    fn file(&self, slot: &str, path: &str) -> String {
        let out =
            Command::new("debugfs").args(["-R", &format!("cat {path}")]).arg(self.at(slot)).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come up");
        sleep(Duration::from_millis(50));
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_update_is_installed_tried_and_blessed() {
    if missing() {
        return;
    }
    let mut jetson = Jetson::new();
    let staged = jetson.bundle("v2", "jetson-orin", L4T, &jetson.at("keys"));
    let done = jetson.install(&staged);
    assert!(
        done.status.success(),
        "{}\n{}",
        text(&done),
        fs::read_to_string(jetson.at("service.log")).unwrap()
    );
    assert_eq!(jetson.file("B", "/name"), "v2");
    let boot = jetson.file("B", "/boot/extlinux/extlinux.conf");
    assert!(boot.contains("root=PARTUUID=11111111-2222-3333-4444-555555555555 rw"), "{boot}");
    assert_eq!(
        (jetson.active().as_str(), jetson.status("B"), jetson.file("A", "/name").as_str()),
        ("B", Some(0), "")
    );
    assert_eq!(fs::read_to_string(jetson.at("state/trial")).unwrap(), "B 0.2.0\n");
    assert!(!jetson.script("on-trial", &[]).status.success(), "the slot that runs is none on trial");

    // The new slot boots: not verified before it has proved itself.
    jetson.boot("B");
    assert!(jetson.script("on-trial", &[]).status.success());
    assert!(jetson.script("boot-slot", &["early"]).status.success());
    assert_eq!(jetson.calls("verify"), 0);
    assert_eq!(jetson.calls("systemctl --no-block start triaged-boot-good.service"), 1);
    let good = jetson.script("boot-slot", &["good"]);
    assert!(good.status.success(), "{}", text(&good));
    assert_eq!(jetson.calls("verify"), 1);
    assert!(!jetson.script("on-trial", &[]).status.success() && !jetson.at("state/trial").exists());
    assert_eq!(fs::read_dir(jetson.at("etc")).unwrap().count(), 0, "nothing is left of the mark");

    // From then on it is verified at each boot, whatever the health check will say.
    assert!(jetson.script("boot-slot", &["early"]).status.success());
    assert_eq!(jetson.calls("verify"), 2);
    let status = text(&jetson.rauc(&["status", "--output-format=shell"]));
    assert!(status.contains("RAUC_BOOT_PRIMARY='rootfs.1'"), "{status}");
}

#[test]
fn a_version_that_does_not_come_up_is_told_and_forgotten() {
    if missing() {
        return;
    }
    let mut jetson = Jetson::updated();
    // UEFI gave slot B up after its tries, and booted A.
    fs::write(jetson.at("nv/active"), "A\n").unwrap();
    jetson.boot("A");
    let early = jetson.script("boot-slot", &["early"]);
    assert!(early.status.success(), "{}", text(&early));
    assert!(text(&early).contains("version 0.2.0 in slot B did not come up"), "{}", text(&early));
    assert_eq!(jetson.calls("verify"), 1);
    assert!(!jetson.at("state/trial").exists() && !jetson.script("on-trial", &[]).status.success());
    assert_eq!(fs::read_to_string(jetson.at("state/refused")).unwrap(), "0.2.0\n");
}

#[test]
fn a_slot_without_its_data_partition_goes_back_while_on_trial_and_stays_up_otherwise() {
    if missing() {
        return;
    }
    let mut jetson = Jetson::updated();
    fs::rename(jetson.at("state"), jetson.at("data")).unwrap();
    for tries in 1..=3 {
        jetson.boot("B");
        let mount = jetson.script("mount-data", &[jetson.at("no partition").to_str().unwrap()]);
        assert!(!mount.status.success() && text(&mount).contains("can not be mounted: nothing is received."));
        assert!(jetson.script("boot-slot", &["early"]).status.success());
        assert!(text(&jetson.script("boot-failed", &[])).contains("failed while on trial: restarting"));
        assert_eq!((jetson.calls(REBOOT), jetson.calls("verify")), (tries, 0));
    }
    // The monitor shows it: `triaged console` reads this file.
    let told = fs::read(jetson.at("run/triaged/status/doctor.json")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    let line = told["lines"][0].as_str().unwrap();
    assert!(told["state"] == "not well" && line.contains("change its disk"), "{told}");

    // The slot before has the same partition: it stays up, and is verified, or UEFI would give it up, too.
    jetson.boot("A");
    assert!(jetson.script("boot-slot", &["early"]).status.success());
    assert!(text(&jetson.script("boot-failed", &[])).contains("found good: no restart"));
    assert_eq!((jetson.calls(REBOOT), jetson.calls("verify")), (3, 1));
    // Once the partition is back, it says what did not come up.
    fs::rename(jetson.at("data"), jetson.at("state")).unwrap();
    assert!(
        text(&jetson.script("boot-slot", &["early"])).contains("version 0.2.0 in slot B did not come up")
    );
}

#[test]
fn a_slot_that_can_not_be_blessed_stays_on_trial() {
    if missing() {
        return;
    }
    let mut jetson = Jetson::updated();
    jetson.boot("B");
    fs::rename(jetson.at("efivars"), jetson.at("no efivars")).unwrap();
    assert!(!jetson.script("boot-slot", &["good"]).status.success());
    assert!(jetson.script("on-trial", &[]).status.success());
    // No word of the backend, and it is still known for one on trial.
    fs::write(jetson.at("nv/current"), "7\n").unwrap();
    assert!(jetson.script("boot-slot", &["early"]).status.success());
    assert!(jetson.script("boot-failed", &[]).status.success() && jetson.calls(REBOOT) == 1);
}

#[test]
fn what_is_not_for_this_box_changes_nothing() {
    if missing() {
        return;
    }
    let jetson = Jetson::new();
    let foreign = jetson.at("foreign");
    keys::throw_away(&foreign).unwrap();
    let own = jetson.at("keys");
    let cases = [
        ("foreign-signature", "jetson-orin", L4T, &foreign),
        ("other-board", "jetson-xavier", L4T, &own),
        ("other-l4t", "jetson-orin", "R36.3.0", &own),
    ];
    let before = fs::read(jetson.at("B")).unwrap();
    for (name, board, l4t, keys) in cases {
        let staged = jetson.bundle(name, board, l4t, keys);
        let done = jetson.install(&staged);
        assert!(!done.status.success(), "{name} was installed");
        assert_eq!(jetson.active(), "A", "{name}");
        assert!(!jetson.at("state/trial").exists(), "{name}");
        assert!(fs::read(jetson.at("B")).unwrap() == before, "{name}: the other slot was written");
    }
    let staged = jetson.bundle("flipped-bit", "jetson-orin", L4T, &own);
    let file = staged.join("update.raucb");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(!jetson.install(&staged).status.success());
    assert!(fs::read(jetson.at("B")).unwrap() == before, "a damaged bundle was written");
    assert!(!jetson.install(&jetson.at("run")).status.success(), "a folder without a bundle");
}

#[test]
fn slots_are_marked_through_uefis_variables() {
    if missing() {
        return;
    }
    let jetson = Jetson::new();
    assert!(jetson.rauc(&["status", "mark-bad", "other"]).status.success());
    assert_eq!((jetson.status("A"), jetson.status("B")), (None, Some(0xff)));
    let status = text(&jetson.rauc(&["status", "--output-format=shell"]));
    let slots = |state: &str| status.matches(&format!("='{state}'")).count();
    assert_eq!((slots("good"), slots("bad")), (1, 1), "{status}");
    assert_eq!(text(&jetson.script("rauc-nvbootctrl", &["get-state", "B"])), "bad\n");
    assert!(jetson.rauc(&["status", "mark-good", "booted"]).status.success());
    assert_eq!((jetson.status("A"), jetson.calls("verify")), (Some(0), 1));
    // By hand back to the other slot: it is bootable again, or UEFI would not try it.
    assert!(jetson.rauc(&["status", "mark-active", "other"]).status.success());
    assert_eq!((jetson.active().as_str(), jetson.status("B")), ("B", Some(0)));

    for bad in [&["get-state", "C"][..], &["set-state", "A", "maybe"], &["set-primary", ""], &["format"], &[]]
    {
        assert!(!jetson.script("rauc-nvbootctrl", bad).status.success(), "{bad:?}");
    }
}
