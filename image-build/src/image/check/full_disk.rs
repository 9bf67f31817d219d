//! A box whose data partition is nearly full: it refuses images instead of losing them, refuses an update, and comes up all the same.

use super::hospital::Hospital;
use super::{Bench, PATIENCE, good, put};
use crate::image::stick;
use crate::image::vm::Machine;
use crate::image::x86::Built;

/// A version before the first, so that the first is an update.
const BEFORE: &str = "0.9.0";
/// Leaves less than the site's `min_free_mib`, each time the daemon starts.
const FILL: (&str, &str) = (
    "usr/lib/systemd/system/triaged.service.d/fill.conf",
    "[Service]\nExecStartPre=+/bin/sh -c 'free=$$(df --output=avail -B1M /var | tail -n 1); [ $$free -lt 250 ] || fallocate -l $$((free - 200))M /var/filled-$$(date +%%s)'\n",
);

/// Its site comes from a stick, then the disk fills up, then an update comes, then the power goes.
pub fn run(bench: &Bench<'_>, first: &Built, hospital: &Hospital) -> anyhow::Result<()> {
    let tree = bench.place.work.join("fill");
    put(&tree, FILL.0, FILL.1)?;
    let built = bench.short_image(BEFORE, &[tree])?;
    let site = hospital.site(bench.place)?;
    let contents = stick::Contents { site: Some(&site), ..stick::Contents::default() };
    let stick = bench.stick(&contents, &bench.keys, "site-full-disk")?;
    let mut machine = Machine::new(bench.place, "full-disk", &built.disk())?;
    std::fs::remove_dir_all(&built.out)?;
    let mut running = machine.start(Some(&stick))?;
    let at = running.wait("The box restarts now", 0, PATIENCE)?;
    let at = good(bench, &mut running, BEFORE, at)?;
    hospital.refused(bench.place, running.port, 4)?;
    bench.tell("a box without room refuses images, and says why to the scanner");
    running.unplug(PATIENCE)?;
    // An update is copied before it is installed.
    running.plug(&bench.update_stick(first, &bench.keys, "full-disk")?)?;
    running.wait("nothing was changed: the disk is too full", at, PATIENCE)?;
    running.echo(PATIENCE)?;
    bench.tell("nor does it take an update, and goes on as before");
    running.cut()?;
    let mut running = machine.start(None)?;
    good(bench, &mut running, BEFORE, 0)?;
    // The callers are the site's: it is still there.
    hospital.refused(bench.place, running.port, 5)?;
    bench.tell("it comes up after a power cut, with its site's settings");
    running.cut()
}
