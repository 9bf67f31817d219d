//! Updates, good and bad: what a box does with them, without a hand.

use anyhow::ensure;

use super::hospital::Hospital;
use super::{Bench, FIRST, PATIENCE, SECOND, good, put, study};
use crate::image::keys::Keys;
use crate::image::place::Place;
use crate::image::vm::{Machine, Running};

/// A version that does not come up, and what its serial line says each time.
struct Bad {
    name: &'static str,
    version: &'static str,
    /// Files laid over the image.
    files: &'static [(&'static str, &'static str)],
    /// Once for each of the two tries; `None` where the watchdog ends it and nobody can say anything.
    says: Option<&'static str>,
}

/// Run before anything of the daemon's.
const EARLY: &str = "usr/lib/systemd/system/triaged-site.service.d/bad.conf";

const BAD: [Bad; 5] = [
    Bad {
        name: "health",
        version: "1.2.0",
        files: &[(
            "usr/lib/systemd/system/triaged-doctor.service.d/60-bad.conf",
            "[Service]\nExecStart=\nExecStart=/bin/false\n",
        )],
        says: Some("failed while on trial: restarting"),
    },
    Bad {
        name: "panic",
        version: "1.3.0",
        files: &[(EARLY, "[Service]\nExecStartPre=/bin/sh -c 'echo c >/proc/sysrq-trigger'\n")],
        says: Some("Kernel panic"),
    },
    Bad {
        name: "crash",
        version: "1.4.0",
        files: &[(
            "usr/lib/systemd/system/triaged.service.d/bad.conf",
            "[Service]\nExecStart=\nExecStart=/bin/false\n",
        )],
        says: Some("failed while on trial: restarting"),
    },
    // PID 1 hangs, and nobody feeds the watchdog any more. Neither a crash of PID 1 nor a loop of the highest real-time priority would do: systemd
    // stops the watchdog before it freezes, and since Linux 6.12 PID 1 gets its share all the same.
    Bad {
        name: "hang",
        version: "1.5.0",
        files: &[(
            EARLY,
            "[Service]\nExecStartPre=/bin/sh -c 'echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze; sleep infinity'\n",
        )],
        says: None,
    },
    // A self-test that never ends; with 15 minutes, as delivered, this test would last longer than all the others.
    Bad {
        name: "stuck",
        version: "1.6.0",
        files: &[
            (
                "usr/lib/systemd/system/triaged-doctor.service.d/60-bad.conf",
                "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nTimeoutStartSec=infinity\n",
            ),
            ("usr/lib/systemd/system/boot-complete.target.d/zz-short.conf", "[Unit]\nJobTimeoutSec=2min\n"),
        ],
        says: None,
    },
];

/// One machine through all of them, one after the other.
pub fn run(
    bench: &Bench<'_>,
    commissioned: &Machine,
    hospital: &Hospital,
    wanted: &dyn Fn(&str) -> bool,
) -> anyhow::Result<()> {
    if !wanted("foreign") && !BAD.iter().any(|bad| wanted(bad.name)) {
        return Ok(());
    }
    let mut machine = commissioned.copy(bench.place, "updates")?;
    let second = bench.short_image(SECOND, &[])?;
    let stick = bench.update_stick(&second, &bench.keys, SECOND)?;
    let mut running = machine.start(None)?;
    let mut at = good(bench, &mut running, FIRST, 0)?;
    if wanted("foreign") {
        let foreign = Keys::throw_away(bench.place, "keys-foreign")?;
        let foreign = bench.update_stick(&second, &foreign, "foreign")?;
        running.plug(&foreign)?;
        at = running.wait("nothing was changed: triaged/update/manifest.toml is not signed", at, PATIENCE)?;
        bench.tell("a stick with foreign signatures is refused");
        unplug(&mut running)?;
    }
    running.plug(&stick)?;
    at = running.wait("The box restarts now", at, PATIENCE)?;
    at = good(bench, &mut running, SECOND, at)?;
    at = running.wait("Finished systemd-bless-boot.service", at, PATIENCE)?;
    bench.tell(&format!("{FIRST} to {SECOND} from the stick, found good"));
    // The site's settings lie on the data partition: without them the archive is unknown.
    study(bench, &mut running, hospital, 2)?;
    bench.tell("data survives the update");
    unplug(&mut running)?;
    for bad in BAD.iter().filter(|bad| wanted(bad.name)) {
        at = rolls_back(bench, bench.place, &mut running, bad, at)?;
    }
    running.echo(PATIENCE)?;
    study(bench, &mut running, hospital, 3)?;
    running.shut_down(PATIENCE)
}

fn unplug(running: &mut Running) -> anyhow::Result<()> {
    running.unplug(PATIENCE)
}

/// Two tries, then the version before, and nobody touches anything.
fn rolls_back(
    bench: &Bench<'_>,
    place: &Place,
    running: &mut Running,
    bad: &Bad,
    from: usize,
) -> anyhow::Result<usize> {
    let tree = place.work.join("bad").join(bad.name);
    for (name, text) in bad.files {
        put(&tree, name, text)?;
    }
    let built = bench.short_image(bad.version, &[tree])?;
    let stick = bench.update_stick(&built, &bench.keys, bad.version)?;
    std::fs::remove_dir_all(&built.out)?;
    running.plug(&stick)?;
    let mut at = running.wait("The box restarts now", from, PATIENCE)?;
    // Pulled, so that it is not offered again to the version that comes back.
    running.unplug(PATIENCE)?;
    for attempt in 1..=2 {
        let what = bad.says.unwrap_or("EFI stub: UEFI Secure Boot is enabled");
        at = running.wait(what, at, PATIENCE)?;
        bench.tell(&format!("{}: try {attempt} of the bad version {}", bad.name, bad.version));
    }
    let before = running.said();
    at = good(bench, running, SECOND, at)?;
    let tries = before.matches(&format!("image triaged {}", bad.version)).count();
    ensure!(tries <= 2, "{}: {} was started {tries} times, not two", bad.name, bad.version);
    bench.tell(&format!("{}: back to {SECOND} without a hand", bad.name));
    Ok(at)
}
