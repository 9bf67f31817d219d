//! A site's settings on trial, with the real command: those with which the self-test never passes give way to those before.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::peers::run;
use e2e::stick::{SITE, Stick, TestBox};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const RESTART: i32 = 10;

/// Takes a site by a stick, as people do.
fn take(test_box: &TestBox, site: &str) {
    let stick = Stick::default();
    stick.site(site, &test_box.site_key);
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, RESTART, "{said}");
}

#[test]
fn settings_with_which_the_box_never_passes_its_self_test_give_way_to_those_before() {
    let test_box = TestBox::default();
    let exists = |path: &str| test_box.path(path).exists();
    let callers = || fs::read_to_string(test_box.path("run/triaged/triaged.toml")).unwrap();
    take(&test_box, SITE);
    assert!(exists("var/lib/triaged-site/trial") && !exists("run/triaged/site-on-trial"));
    let (ok, said) = test_box.boot();
    assert!(ok && said.contains("are on trial, start 1 of 3"), "{said}");
    assert_eq!(test_box.told("site")["state"], "on trial");
    // Its self-test passes.
    let (ok, said) = test_box.site(&["--passed"]);
    assert!(ok && said.contains("The settings of \"St Elsewhere\", serial 3 passed the self-test"), "{said}");
    assert_eq!(
        (test_box.told("site")["state"].as_str(), exists("var/lib/triaged-site/trial")),
        (Some("done"), false)
    );
    assert!(!test_box.boot().1.contains("trial"));

    // Others, with which the daemon does not come up, whatever the reason.
    let bad = SITE.replace("serial = 3", "serial = 4").replace("CT1", "CT9");
    take(&test_box, &bad);
    for start in 1..=3 {
        let (ok, said) = test_box.boot();
        assert!(ok && said.contains(&format!("on trial, start {start} of 3")), "{said}");
        assert!(callers().contains("CT9"));
    }
    let (ok, said) = test_box.boot();
    assert!(ok && said.contains("serial 4 are refused: the self-test passed in none of 3 starts"), "{said}");
    assert!(said.contains("went back to those before: of \"St Elsewhere\", serial 3"), "{said}");
    assert!(callers().contains("CT1") && !callers().contains("CT9"));
    assert!(!exists("var/lib/triaged-site/trial"));
    // Once, and it is said at each start.
    let files = test_box.files();
    let (_, said) = test_box.boot();
    assert!(said.contains("serial 4 are refused") && test_box.files() == files, "{said}");
    let told = test_box.told("site");
    assert!(told["state"] == "refused" && told.to_string().contains("raise the serial"), "{told}");
    // For the support bundle, without what is secret.
    let kept = fs::read_to_string(test_box.path("run/triaged/refused-site.toml")).unwrap();
    assert!(kept.contains("CT9") && kept.contains("left out") && !kept.contains("ABCD"), "{kept}");

    // The same stick is not tried again; one that was mended is, although it may break a second time.
    let stick = Stick::default();
    stick.site(&bad, &test_box.site_key);
    let (code, said) = test_box.plug(stick.dir.path());
    assert!(code == 0 && said.contains("were tried, and the box went back from them"), "{said}");
    take(&test_box, &bad.replace("serial = 4", "serial = 5"));
    assert!(test_box.boot().1.contains("serial 5 are on trial, start 1 of 3"));
    assert!(!exists("run/triaged/refused-site.toml"));
}

#[test]
fn the_first_settings_give_way_to_a_box_without_a_site() {
    let test_box = TestBox::default();
    take(&test_box, SITE);
    (0..3).for_each(|_| assert!(test_box.boot().0));
    let (ok, said) = test_box.boot();
    assert!(ok && said.contains("went back to those before: there were none"), "{said}");
    assert!(said.contains("this box has no site yet"), "{said}");
    let config = fs::read_to_string(test_box.path("run/triaged/triaged.toml")).unwrap();
    assert!(config.contains("ACCEPTANCE"));
    // Nor does its setup code count any more: the daemon draws its own, which the box's monitor shows.
    assert!(!test_box.path("var/lib/triaged/setup-code").exists());
}

#[test]
fn the_images_units_start_a_box_again_whose_settings_are_on_trial() {
    let image = e2e::daemon::workspace().join("image-build/rootfs/usr/lib");
    let unit = |name: &str| fs::read_to_string(image.join("systemd/system").join(name)).unwrap();
    assert!(
        unit("triaged-doctor.service")
            .contains("OnFailure=triaged-boot-failed.service\nOnFailure=triaged-site-failed.service\n")
    );
    assert!(unit("triaged-doctor.service").contains("ExecStartPost=-+/usr/bin/triaged site --passed\n"));
    assert!(unit("triaged-site-failed.service").contains("ExecStart=/usr/lib/triaged/site-failed\n"));
    let test_box = TestBox::default();
    test_box.put(
        "bin/systemctl",
        format!("#!/bin/sh\necho \"$@\" >>{}\n", test_box.path("called").display()).as_bytes(),
    );
    fs::set_permissions(test_box.path("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let fail = || {
        run(Command::new(image.join("triaged/site-failed"))
            .env("PATH", format!("{}:/usr/bin:/bin", test_box.path("bin").display()))
            .env("TRIAGED_RUN", test_box.path("run/triaged")))
    };
    assert!(fail().0 && !test_box.path("called").exists(), "settled: it stays up");
    take(&test_box, SITE);
    assert!(fail().0 && !test_box.path("called").exists(), "a start that was not counted: it stays up");
    test_box.boot();
    assert!(fail().0);
    assert_eq!(fs::read_to_string(test_box.path("called")).unwrap(), "--no-block reboot\n");
}
