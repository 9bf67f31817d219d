//! What must not start, and what a power cut must not break.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::hospital::Hospital;
use super::{Bench, FIRST, PATIENCE, full_disk};
use crate::image::place::output;
use crate::image::reproducible;
use crate::image::tools;
use crate::image::vm::Machine;
use crate::image::x86::{self, Built, Recipe};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// How long `triaged stick` waits before it does anything.
const WAIT: Duration = Duration::from_secs(15);
/// Moments at which the power is cut, from the start of the copying to the restart.
const CUTS: u32 = 10;

/// Those that need no box that was set up.
pub fn before_commissioning(
    bench: &Bench<'_>,
    first: &Built,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> anyhow::Result<()> {
    if wanted("unsigned") {
        unsigned(bench, first)?;
    }
    if wanted("flipped") {
        flipped(bench, first)?;
    }
    if wanted("reproducible") {
        let recipe =
            Recipe { version: FIRST, keys: &bench.keys, nvidia: None, over: &[], out: first.out.clone() };
        reproducible(bench.place, recipe, first)?;
        bench.tell("built again, without the first build's cache: the same root, verity and first stage");
    }
    Ok(())
}

/// All others.
pub fn run(
    bench: &Bench<'_>,
    first: &Built,
    commissioned: &Machine,
    hospital: &Hospital,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> anyhow::Result<()> {
    if wanted("full-disk") {
        full_disk::run(bench, first, hospital)?;
    }
    if wanted("power") {
        power_cuts(bench, commissioned)?;
    }
    Ok(())
}

/// A copy of the disk, and where its partition `number` begins.
fn copied(
    bench: &Bench<'_>,
    first: &Built,
    name: &str,
    number: usize,
) -> anyhow::Result<(std::path::PathBuf, u64)> {
    let disk = bench.place.work.join(format!("{name}.raw"));
    output(Command::new("cp").args(["--sparse=always"]).arg(first.disk()).arg(&disk))?;
    let partition = x86::partitions(&disk)?.into_iter().nth(number).context("no such partition")?;
    Ok((disk, partition.start * SECTOR))
}

/// The kernel image without its signature, under Secure Boot.
fn unsigned(bench: &Bench<'_>, first: &Built) -> anyhow::Result<()> {
    let (disk, esp) = copied(bench, first, "unsigned", 0)?;
    let efi = bench.place.work.join("unsigned.efi");
    std::fs::copy(first.file("efi"), &efi)?;
    output(tools::command("sbattach")?.arg("--remove").arg(&efi))?;
    let volume = format!("{}@@{esp}", disk.display());
    let listed = output(tools::command("mdir")?.args(["-b", "-i", &volume, "::/EFI/Linux"]))?;
    let name = listed.lines().next().context("no kernel image in the ESP")?;
    output(tools::command("mcopy")?.args(["-o", "-i", &volume]).arg(&efi).arg(name))?;
    let mut machine = Machine::new(bench.place, "unsigned", &disk)?;
    std::fs::remove_file(&disk)?;
    let mut running = machine.start(None)?;
    let at = running.wait("successfully enrolled", 0, PATIENCE)?;
    // What OVMF and the boot loader say of it.
    let (which, _) = running.wait_any(&["Access denied", "Security", "EFI stub"], at, PATIENCE)?;
    ensure!(which < 2, "an unsigned kernel was started; {}", running.serial.display());
    bench.tell("an unsigned kernel is refused under Secure Boot");
    running.cut()
}

/// One bit of the root's first block, which verity's hashes cover.
fn flipped(bench: &Bench<'_>, first: &Built) -> anyhow::Result<()> {
    let (disk, root) = copied(bench, first, "flipped", 1)?;
    let file = File::options().read(true).write(true).open(&disk)?;
    // A byte of erofs's superblock that no check of its own looks at: the volume's name.
    let at = root + 1024 + 64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    drop(file);
    let mut machine = Machine::new(bench.place, "flipped", &disk)?;
    std::fs::remove_file(&disk)?;
    let mut running = machine.start(None)?;
    let started = format!("image triaged {FIRST}");
    let (which, _) = running.wait_any(&["is corrupted", &started], 0, PATIENCE)?;
    ensure!(which == 0, "a root with a flipped bit was started; {}", running.serial.display());
    bench.tell("a flipped bit in the root is noticed");
    running.cut()
}

/// The plug is pulled at ten moments of an update; each time the box comes up again, in the old version or the new one.
fn power_cuts(bench: &Bench<'_>, commissioned: &Machine) -> anyhow::Result<()> {
    // The same image under another number: what is in it is not the question.
    let built = bench.short_image("1.0.1", &[])?;
    let stick = bench.update_stick(&built, &bench.keys, "power")?;
    let mut machine = commissioned.copy(bench.place, "power")?;
    let mut running = machine.start(Some(&stick))?;
    let at = running.wait("Update from version", 0, PATIENCE)?;
    running.save("before")?;
    let copying = std::time::Instant::now();
    running.wait("The box restarts now", at, PATIENCE)?;
    let whole = copying.elapsed();
    running.cut()?;
    for cut in 1..=CUTS {
        let running = machine.resume("before", &stick)?;
        std::thread::sleep(WAIT + whole.saturating_sub(WAIT) * cut / CUTS);
        running.cut()?;
        let mut after = machine.overlay(bench.place, &format!("power-{cut}"))?;
        let mut running = after.start(None)?;
        running.echo(PATIENCE).with_context(|| format!("power cut {cut} of {CUTS}"))?;
        let version = if running.said().contains("image triaged 1.0.1") { "1.0.1" } else { FIRST };
        bench.tell(&format!("power cut {cut} of {CUTS}: comes up with {version}"));
        running.cut()?;
        std::fs::remove_dir_all(&after.folder)?;
    }
    Ok(())
}
