//! The image's tests in a virtual machine: what CI runs each time, and the longer ones before a release.
//!
//! Owns: their order, the versions that fail on purpose, the site that they play. Every machine is emulated, without KVM: times are of the
//! emulation, and patience is long. Serial logs stay in `target/image/logs`.

mod faults;
mod full_disk;
mod hospital;
mod rollback;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::keys::Keys;
use super::place::{Place, output};
use super::vm::{Machine, Running};
use super::x86::{self, Built, Recipe};
use super::{lock, sbom, stick, tools};
use hospital::Hospital;

/// An emulated boot takes one to two minutes on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(1500);
/// Versions of the tests: the first, a good one, and those that fail on purpose.
const FIRST: &str = "1.0.0";
const SECOND: &str = "1.1.0";
/// The unit's exposure at the most, in tenths, as `systemd-analyze security` counts it.
const EXPOSURE_TENTHS: &str = "15";

/// An emulated processor takes a minute for the self-test's phantom, and the full test boots some thirty times. So the updates of that test
/// only ask whether the daemon answers; the first version is as it is delivered, its self-test included.
const SHORT_SELF_TEST: (&str, &str) = (
    "usr/lib/systemd/system/triaged-doctor.service.d/50-emulated.conf",
    "[Service]\nExecStart=\nExecStart=/bin/bash -c 'exec 3<>/dev/tcp/127.0.0.1/11112'\n",
);

/// What all tests use.
struct Bench<'a> {
    place: &'a Place,
    keys: Keys,
    started: Instant,
}

impl Bench<'_> {
    fn tell(&self, what: &str) {
        println!("[{:>4} s] {what}", self.started.elapsed().as_secs());
    }

    /// An image with the short self-test; `over` are trees laid over it.
    fn short_image(&self, version: &str, over: &[PathBuf]) -> anyhow::Result<Built> {
        let short = self.place.folder("short-self-test")?;
        put(&short, SHORT_SELF_TEST.0, SHORT_SELF_TEST.1)?;
        let over: Vec<PathBuf> = std::iter::once(short).chain(over.iter().cloned()).collect();
        self.image(version, &over)
    }

    fn image(&self, version: &str, over: &[PathBuf]) -> anyhow::Result<Built> {
        let out = self.place.work.join(format!("test-{version}"));
        x86::build(self.place, &Recipe { version, keys: &self.keys, nvidia: None, over, out })
    }

    /// A stick with this image's update set.
    fn update_stick(&self, built: &Built, keys: &Keys, name: &str) -> anyhow::Result<PathBuf> {
        let set = x86::update_set(built)?;
        let (commit, _) = self.place.commit();
        let contents = stick::Contents {
            update: Some((&built.version, &commit)),
            sets: vec![(::stick::Board::X86_64, set)],
            ..stick::Contents::default()
        };
        self.stick(&contents, keys, name)
    }

    fn stick(&self, contents: &stick::Contents<'_>, keys: &Keys, name: &str) -> anyhow::Result<PathBuf> {
        let out = self.place.folder("sticks")?.join(format!("{name}.img"));
        stick::write(contents, keys, &self.place.work, &out)?;
        Ok(out)
    }
}

/// Runs the tests.
pub fn run(place: &Place, full: bool, only: &[String]) -> anyhow::Result<()> {
    tools::ensure(place)?;
    let bench = Bench { place, keys: Keys::throw_away(place, "keys")?, started: Instant::now() };
    x86::program(place)?;
    let first = bench.image(FIRST, &[])?;
    let packages = lock::packages(&first)?;
    lock::check(place, &packages, false)?;
    bench.tell(&format!("SBOM: {}", sbom::write(place, &first, &packages)?.display()));
    exposure(&bench)?;
    let hospital = Hospital::open(place)?;
    let mut machine = Machine::new(place, "box", &first.disk())?;
    let wanted = |name: &str| full && (only.is_empty() || only.iter().any(|only| name.contains(only)));
    // Two machines at a time: each emulated processor is one of this machine's.
    both(
        || faults::before_commissioning(&bench, &first, &wanted),
        || commission(&bench, &mut machine, &hospital),
    )?;
    both(
        || faults::run(&bench, &first, &machine, &hospital, &wanted),
        || rollback::run(&bench, &machine, &hospital, &wanted),
    )?;
    bench.tell("passed");
    Ok(())
}

/// Two things at once. Each goes on to its end, whatever becomes of the other.
fn both(
    one: impl FnOnce() -> anyhow::Result<()> + Send,
    other: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one.join().map_err(|_| anyhow::anyhow!("a test panicked"))?;
        other.and(one)
    })
}

/// Both forms of the daemon's unit are as closed as they should be.
fn exposure(bench: &Bench<'_>) -> anyhow::Result<()> {
    for gpu in [false, true] {
        let root = tempfile::tempdir_in(&bench.place.work)?;
        crate::bundle::copy_dir(&bench.place.root.join("image-build/rootfs"), root.path())?;
        if gpu {
            crate::bundle::copy_dir(&bench.place.recipes().join("nvidia"), root.path())?;
        }
        let said = output(
            tools::command("systemd-analyze")?
                .args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_TENTHS])
                .arg(format!("--root={}", root.path().display()))
                .arg("triaged.service"),
        )?;
        let score = said.lines().last().unwrap_or_default();
        bench.tell(&format!("unit{}: {score}", if gpu { " with GPU" } else { "" }));
    }
    Ok(())
}

/// From flashed to ready without a keyboard: keys, data partition, the site from a stick; then a study goes through.
fn commission(bench: &Bench<'_>, machine: &mut Machine, hospital: &Hospital) -> anyhow::Result<()> {
    let site = hospital.site(bench.place)?;
    let contents = stick::Contents { site: Some(&site), ..stick::Contents::default() };
    let stick = bench.stick(&contents, &bench.keys, "site")?;
    let mut running = machine.start(Some(&stick))?;
    let at = running.wait("The box restarts now", 0, PATIENCE)?;
    bench.tell(&format!(
        "first boot: site settings from the stick after {} s (emulated)",
        running.since.elapsed().as_secs()
    ));
    let restarted = Instant::now();
    good(bench, &mut running, FIRST, at)?;
    bench.tell(&format!(
        "restart with the site's settings: ready in {} s (emulated)",
        restarted.elapsed().as_secs()
    ));
    study(bench, &mut running, hospital, 1)?;
    running.shut_down(PATIENCE)?;
    bench.tell("shut down");
    Ok(())
}

/// Waits until a boot of this version is good: the self-test passed, and C-ECHO is answered. Gives the place in the log.
fn good(bench: &Bench<'_>, running: &mut Running, version: &str, from: usize) -> anyhow::Result<usize> {
    let at = running.wait(&format!("image triaged {version}"), from, PATIENCE)?;
    let at = running.wait("Finished triaged-doctor.service", at, PATIENCE)?;
    running.echo(PATIENCE)?;
    bench.tell(&format!("version {version}: self-test passed, C-ECHO answered"));
    Ok(at)
}

/// A phantom from outside comes back flagged.
fn study(bench: &Bench<'_>, running: &mut Running, hospital: &Hospital, seed: u32) -> anyhow::Result<()> {
    let started = Instant::now();
    hospital.send(bench.place, running.port, seed)?;
    let verdict = hospital.verdict(seed, PATIENCE).with_context(|| running.serial.display().to_string())?;
    ensure!(verdict == "flagged", "the phantom with lesions came back {verdict}");
    bench.tell(&format!(
        "phantom {seed}: sent, and back flagged after {} s (emulated)",
        started.elapsed().as_secs()
    ));
    Ok(())
}

/// A file of a tree that is laid over an image.
fn put(tree: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = tree.join(name);
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}
