//! Sticks and sites, with the real command and an installer that writes down its call: what is good is done, and whatever is not changes nothing.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::certificates::Authority;
use e2e::peers::{have, run, run_ok};
use e2e::stick::{SITE, Stick, TestBox, sign};
use e2e::wait_for;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use stick::{Board, MANIFEST, SIGNATURE_SUFFIX, Sha256};

const RESTART: i32 = 10;
const A: &str = "triaged/update/x86-64/a.efi";
const B: &str = "triaged/update/x86-64/b.root";

#[test]
fn an_update_and_a_site_are_installed_and_the_next_stick_has_nothing_new() {
    let test_box = TestBox::default();
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    stick.site(SITE, &test_box.site_key);
    // What desktop computers leave.
    stick.put("triaged/update/x86-64/._a.efi", b"x");
    stick.put("System Volume Information/x", b"x");
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, RESTART, "{said}");
    assert!(said.contains("Update from version 1.0.0 to 1.1.0 (commit 0123abc, 3 MiB)."), "{said}");
    // One thing on trial at a time: the settings come when the new version was found good.
    assert!(said.contains("Then: site settings of \"St Elsewhere\", serial 3."), "{said}");
    assert!(said.contains("Leave the stick in, or plug it in again"), "{said}");
    assert_eq!(fs::read_to_string(test_box.path("installed-version")).unwrap(), "1.1.0\n");
    for (installed, from) in [("installed/a.efi", A), ("installed/b.root", B)] {
        assert_eq!(fs::read(test_box.path(installed)).unwrap(), fs::read(stick.path(from)).unwrap());
    }
    assert_eq!(fs::read_dir(test_box.path("installed")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(test_box.path("var/lib/triaged-update/incoming")).unwrap().count(), 0);
    let site = test_box.path("var/lib/triaged-site/site.toml");
    assert!(!site.exists());
    assert_eq!(test_box.told("stick")["state"], "restart");

    // After the restart the same stick is still in.
    test_box.put("usr/lib/os-release", b"IMAGE_VERSION=1.1.0\n");
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, RESTART, "{said}");
    assert!(said.contains("Version 1.1.0 runs already") && said.contains("Site settings of"), "{said}");
    assert_eq!(fs::read_to_string(&site).unwrap(), SITE);
    assert_eq!(fs::metadata(&site).unwrap().permissions().mode() & 0o777, 0o600);
    let before = test_box.files();
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!((code, test_box.files() == before), (0, true), "{said}");
    assert!(
        said.contains("Version 1.1.0 runs already") && said.contains("serial 3, are in force already"),
        "{said}"
    );
    assert_eq!(test_box.told("stick")["state"], "done");

    // A newer site alone, the one before is kept.
    let newer = Stick::default();
    newer.site(&SITE.replace("serial = 3", "serial = 4"), &test_box.site_key);
    assert_eq!(test_box.plug(newer.dir.path()).0, RESTART);
    assert!(fs::read_to_string(&site).unwrap().contains("serial = 4"));
    let previous = test_box.path("var/lib/triaged-site/site.toml.previous");
    assert_eq!(fs::read_to_string(previous).unwrap(), SITE);
}

/// A name, what is done to a good stick and its box, and words of the refusal.
type Case = (&'static str, fn(&Stick, &TestBox), &'static str);

fn manifest(stick: &Stick) -> String {
    fs::read_to_string(stick.path(MANIFEST)).unwrap()
}

const REFUSED: &[Case] = &[
    (
        "another update key",
        |s, b| s.put_signed(MANIFEST, &manifest(s), &b.site_key),
        "manifest.toml is not signed by this box's key",
    ),
    ("another site key", |s, b| s.site(SITE, &b.update_key), "site.toml is not signed by this box's key"),
    (
        "no signature",
        |s, _| fs::remove_file(s.path(&format!("{MANIFEST}{SIGNATURE_SUFFIX}"))).unwrap(),
        "has no signature",
    ),
    (
        "a changed manifest",
        |s, _| s.put(MANIFEST, manifest(s).replace("1.1.0", "1.2.0").as_bytes()),
        "is not signed",
    ),
    (
        "a signature of something else",
        |s, b| s.put(&format!("{MANIFEST}{SIGNATURE_SUFFIX}"), sign(&b.update_key, b"x").as_bytes()),
        "is not signed",
    ),
    (
        "a signature cut short",
        |s, _| s.put(&format!("{MANIFEST}{SIGNATURE_SUFFIX}"), b"untrusted comment: x\n"),
        "can't be read",
    ),
    ("an empty stick", |s, _| fs::remove_dir_all(s.path("triaged")).unwrap(), "the stick has neither"),
    (
        "another board",
        |s, b| s.update(Board::JetsonOrin, "1.1.0", &b.update_key, |_| {}),
        "the stick's update is for jetson-orin, this box is x86-64",
    ),
    (
        "an older version",
        |s, b| s.update(Board::X86_64, "0.9.0", &b.update_key, |_| {}),
        "0.9.0 is older than 1.0.0",
    ),
    (
        "a file cut short",
        |s, _| s.put(B, &[2; 2_999_999]),
        "b.root on the stick is cut short: 2999999 bytes of 3000000",
    ),
    ("a file that is too long", |s, _| s.put(B, &[2; 3_000_001]), "b.root on the stick is longer"),
    (
        "a changed byte",
        |s, _| s.put(A, &[[1; 299_999].as_slice(), &[0]].concat()),
        "a.efi on the stick is not what was signed",
    ),
    ("a missing file", |s, _| fs::remove_file(s.path(B)).unwrap(), "b.root is not on the stick"),
    (
        "a file that nobody signed",
        |s, _| s.put("triaged/update/x86-64/c.efi", b"x"),
        "x86-64/c.efi on the stick is not in the signed manifest",
    ),
    (
        "a path that leads out",
        |s, b| {
            s.update(Board::X86_64, "1.1.0", &b.update_key, |m| {
                m.files[0].path = "x86-64/../../../../etc/machine-id".into()
            })
        },
        "path \"x86-64/../../../../etc/machine-id\"",
    ),
    (
        "an absolute path",
        |s, b| {
            s.update(Board::X86_64, "1.1.0", &b.update_key, |m| m.files[0].path = "/etc/machine-id".into())
        },
        "path \"/etc/machine-id\"",
    ),
    (
        "a link in the place of a file",
        |s, b| {
            s.put("elsewhere", &[1; 300_000]);
            fs::remove_file(s.path(A)).unwrap();
            symlink(s.path("elsewhere"), s.path(A)).unwrap();
            let _ = b;
        },
        "a.efi on the stick is a link",
    ),
    (
        "a link in the place of a folder",
        |s, _| {
            fs::rename(s.path("triaged/update"), s.path("other")).unwrap();
            symlink(s.path("other"), s.path("triaged/update")).unwrap();
        },
        "is a link",
    ),
    (
        "a pipe in the place of a file",
        |s, _| {
            fs::remove_file(s.path(A)).unwrap();
            assert!(Command::new("mkfifo").arg(s.path(A)).status().unwrap().success());
        },
        "a.efi on the stick is no plain file",
    ),
    (
        "a manifest that is too long",
        |s, _| s.put(MANIFEST, &vec![b' '; 300 << 10]),
        "longer than 262144 bytes",
    ),
    (
        "a disk that is too full",
        |s, b| {
            s.update(Board::X86_64, "1.1.0", &b.update_key, |m| {
                // More files than any disk holds.
                let big = m.files[1].clone();
                m.files.extend((0..60).map(|n| stick::UpdateFile {
                    path: format!("x86-64/{n}"),
                    bytes: u64::from(u32::MAX),
                    ..big.clone()
                }));
            });
        },
        "the disk is too full",
    ),
    (
        "an installer that fails",
        |_, b| b.installer("echo 'no room in slot B' >&2; exit 3"),
        "no room in slot B",
    ),
    (
        "no installer",
        |_, b| fs::remove_file(b.path("usr/lib/triaged/install-update")).unwrap(),
        "the box's image is damaged",
    ),
    (
        "a site that the daemon refuses",
        |s, b| s.site(&SITE.replace("severity_min = 0.05", "severity_min = 5"), &b.site_key),
        "policy.severity_min is 5",
    ),
    (
        "a site whose certificates are none",
        |s, b| {
            let pem = "[certificates]\ncertificate = \"-----BEGIN A-----\"\nkey = \"-----BEGIN A-----\"\nauthorities = \"-----BEGIN A-----\"\n[triaged.dicom]";
            s.site(&SITE.replace("[triaged.dicom]", pem), &b.site_key)
        },
        "in [certificates]: certificates.certificate: ",
    ),
    (
        "a site whose key is another certificate's",
        |s, b| {
            let authority = Authority::new(&s.path("made"));
            let (ours, other) = (authority.issue("ours"), authority.issue("other"));
            let text = |path| fs::read_to_string(path).unwrap();
            let pem = format!(
                "[certificates]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\n[triaged.dicom]",
                text(ours.certificate),
                text(other.key),
                text(authority.certificate)
            );
            s.site(&SITE.replace("[triaged.dicom]", &pem), &b.site_key)
        },
        "certificates.certificate with certificates.key",
    ),
    (
        "a site with a method without weights",
        |s, b| {
            let engine = "[triaged.engine]\nmethod = \"unet3d\"\n[triaged.policy]";
            s.site(&SITE.replace("[triaged.policy]", engine), &b.site_key)
        },
        "engine.method is \"unet3d\", which this box can't run: choose another one",
    ),
    (
        "a site with two listeners on one port",
        |s, b| {
            let screen = "[triaged.screen]\nlisten = \"0.0.0.0:11112\"\ntls = true\n[triaged.policy]";
            s.site(&SITE.replace("[triaged.policy]", screen), &b.site_key)
        },
        "screen.listen is 0.0.0.0:11112, and dicom.listen is 0.0.0.0:11112: give each of them a port of its own",
    ),
    (
        "a site with an unknown key",
        |s, b| s.site(&SITE.replace("[time]", "[tiem]"), &b.site_key),
        "unknown field `tiem`",
    ),
    (
        "a site of another box",
        |s, b| s.site(&SITE.replace("serial = 3", "serial = 3\nbox = \"ct-7\""), &b.site_key),
        "for box \"ct-7\"",
    ),
    (
        "an older site",
        |s, b| {
            b.put("var/lib/triaged-site/site.toml", SITE.replace("serial = 3", "serial = 4").as_bytes());
            let _ = s;
        },
        "site.toml has serial 3, the box has 4",
    ),
    (
        "another site of the same serial",
        |_, b| b.put("var/lib/triaged-site/site.toml", SITE.replace("Elsewhere", "Somewhere").as_bytes()),
        "raise the serial",
    ),
];

#[test]
fn whatever_is_wrong_with_a_stick_changes_nothing_and_is_said() {
    for (name, spoil, words) in REFUSED {
        let test_box = TestBox::default();
        let stick = Stick::default();
        stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
        stick.site(SITE, &test_box.site_key);
        spoil(&stick, &test_box);
        let before = test_box.files();
        let (code, said) = test_box.plug(stick.dir.path());
        assert_eq!(code, 1, "{name}: {said}");
        assert!(said.contains(words), "{name}: {said}");
        assert!(said.contains("nothing was changed"), "{name}: {said}");
        assert!(test_box.files() == before, "{name}: changed {:?}", test_box.files().keys());
        let told = test_box.told("stick");
        assert_eq!(told["state"], "refused", "{name}: {told}");
        assert!(
            told.to_string().contains(&serde_json::json!(words).to_string().trim_matches('"').to_owned()),
            "{name}: {told}"
        );
    }
}

#[test]
fn an_older_version_is_taken_where_the_signed_manifest_allows_it() {
    let test_box = TestBox::default();
    let stick = Stick::default();
    stick.update(Board::X86_64, "0.9.0", &test_box.update_key, |manifest| manifest.allow_older = true);
    // The x86-64 board's boot loader takes the newest version that came up, so that an older one would never start.
    let (code, said) = test_box.plug(stick.dir.path());
    assert!(code == 1 && said.contains("under a version above 1.0.0"), "{said}");
    assert!(!test_box.path("installed").exists());
    test_box.put("usr/lib/triaged/board", b"jetson-orin\n");
    let stick = Stick::default();
    stick.update(Board::JetsonOrin, "0.9.0", &test_box.update_key, |manifest| manifest.allow_older = true);
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, RESTART, "{said}");
    assert!(said.contains("OLDER version"), "{said}");
    assert_eq!(fs::read_to_string(test_box.path("installed-version")).unwrap(), "0.9.0\n");
}

#[test]
fn a_stick_that_is_pulled_while_the_box_waits_changes_nothing() {
    let test_box = TestBox::default();
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    let before = test_box.files();
    let child = test_box
        .stick_command(stick.dir.path(), 60)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the countdown", || {
        let told = fs::read_to_string(test_box.path("run/triaged/status/stick.json")).ok()?;
        (told.contains("Update from version 1.0.0 to 1.1.0") && told.contains("Pull the stick to stop it"))
            .then_some(())
    });

    // Another stick at the same time.
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another stick is being worked on"), "{said}");
    assert_eq!(test_box.told("stick")["state"], "waiting", "it does not talk over the first one");
    assert!(test_box.told("other-stick")["lines"][0].as_str().unwrap().contains("plug it in again"));

    fs::remove_dir_all(stick.path("triaged")).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the stick was pulled"), "{said}");
    assert!(test_box.files() == before);
    assert_eq!(test_box.told("stick")["state"], "refused");
}

#[test]
fn an_update_that_went_back_is_not_tried_again_from_the_same_stick() {
    let test_box = TestBox::default();
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    assert_eq!(test_box.plug(stick.dir.path()).0, RESTART);
    // It did not come up: 1.0.0 runs again, and the stick is still in.
    fs::remove_dir_all(test_box.path("installed")).unwrap();
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Version 1.1.0 of this stick was tried, and the box went back to 1.0.0"), "{said}");
    assert!(!test_box.path("installed").exists());
    // What was put right is another update.
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |manifest| manifest.commit = "0123abd".into());
    assert_eq!(test_box.plug(stick.dir.path()).0, RESTART);
    // One that could not be installed may be tried again.
    let other = TestBox::default();
    other.installer("exit 1");
    stick.update(Board::X86_64, "1.1.0", &other.update_key, |_| {});
    assert_eq!(other.plug(stick.dir.path()).0, 1);
    other.installer("true");
    assert_eq!(other.plug(stick.dir.path()).0, RESTART);
}

#[test]
fn what_a_power_cut_left_behind_is_not_installed() {
    let test_box = TestBox::default();
    test_box.put("var/lib/triaged-update/incoming/half.root", b"half of something");
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    assert_eq!(test_box.plug(stick.dir.path()).0, RESTART);
    assert!(!test_box.path("installed/half.root").exists());
}

#[test]
fn a_site_is_rendered_at_boot_and_repeating_it_changes_nothing() {
    let test_box = TestBox::default();
    let (ok, said) = test_box.boot();
    assert!(ok && said.contains("this box has no site yet"), "{said}");
    let read = |path: &str| fs::read_to_string(test_box.path(path)).unwrap();
    assert!(read("run/systemd/network/10-site.network").contains("DHCP=yes"));
    assert!(read("run/triaged/triaged.toml").contains("callers = [\"ACCEPTANCE\"]"));
    // Its own certificate stays the same over boots.
    let certificate = read("run/triaged/tls/certificate.pem");
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(
        fs::metadata(test_box.path("run/triaged/tls/key.pem")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::remove_dir_all(test_box.path("run")).unwrap();
    assert!(test_box.boot().0);
    assert_eq!(read("run/triaged/tls/certificate.pem"), certificate);

    test_box.put("var/lib/triaged-site/site.toml", SITE.as_bytes());
    let (ok, said) = test_box.boot();
    assert!(ok && said.contains("site \"St Elsewhere\", serial 3"), "{said}");
    assert!(read("run/systemd/network/10-site.network").contains("Address=10.0.0.9/24\nDHCP=no"));
    assert!(read("run/systemd/network/10-site.network").contains("\nNTP=10.0.0.3\n"));
    assert_eq!(read("run/triaged/nftables.conf"), "add element inet triaged open { 8443, 11112 }\n");
    let code = format!("sha256:{}\n", Sha256::of(b"ABCDEFGH23456789"));
    assert_eq!(read("var/lib/triaged/setup-code"), code);
    assert!(
        !test_box
            .files()
            .values()
            .any(|bytes| bytes.windows(9).any(|w| w == b"ABCD-EFGH") && bytes != SITE.as_bytes())
    );
    let first = test_box.files();
    assert!(test_box.boot().0);
    assert!(test_box.files() == first);

    // What can't be used leaves the last boot's files alone.
    test_box.put(
        "var/lib/triaged-site/site.toml",
        SITE.replace("[triaged.policy]", "[triaged.polcy]").as_bytes(),
    );
    let (ok, said) = test_box.boot();
    assert!(!ok && said.contains("unknown field `polcy`"), "{said}");
    assert_eq!(read("run/triaged/nftables.conf"), "add element inet triaged open { 8443, 11112 }\n");
}

#[test]
fn the_images_firewall_takes_the_sites_ports() {
    if !have(&["nft"]) {
        return;
    }
    let test_box = TestBox::default();
    assert!(test_box.boot().0);
    let own = test_box.path("run/triaged/nftables.conf");
    let image = e2e::daemon::workspace().join("image-build/rootfs/usr/lib/triaged/nftables.conf");
    let rules =
        fs::read_to_string(image).unwrap().replace("/run/triaged/nftables*.conf", &own.display().to_string());
    test_box.put("rules", rules.as_bytes());
    let check = |file: &str| run(Command::new("nft").args(["-c", "-f"]).arg(test_box.path(file)));
    let (ok, said) = check("rules");
    if !ok && (said.contains("Operation not permitted") || said.contains("cache initialization failed")) {
        return println!("skipped: no right to ask the kernel about firewalls");
    }
    assert!(ok, "{said}");
    test_box.put("run/triaged/nftables.conf", b"add element inet triaged open { 70000 }\n");
    assert!(!check("rules").0);
}

#[test]
fn the_daemon_starts_with_what_the_box_renders() {
    let test_box = TestBox::default();
    assert!(test_box.boot().0);
    let config = test_box.path("run/triaged/triaged.toml");
    // Ports of this machine's choice.
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("0.0.0.0:11112", "127.0.0.1:0")
        .replace("0.0.0.0:8443", "127.0.0.1:0");
    fs::write(&config, text).unwrap();
    let mut daemon = e2e::daemon::triaged(&["run", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(daemon.stdout.take().unwrap()));
    let port = lines.next().unwrap().unwrap().rsplit(':').next().unwrap().to_owned();
    assert!(lines.next().unwrap().unwrap().starts_with("screen on "));
    if have(&["echoscu"]) {
        run_ok(Command::new("echoscu").args(["-aet", "ACCEPTANCE", "-aec", "TRIAGED", "127.0.0.1", &port]));
        assert!(!run(Command::new("echoscu").args(["-aet", "CT1", "-aec", "TRIAGED", "127.0.0.1", &port])).0);
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
