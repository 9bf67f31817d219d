//! Updates from a stick, with the real command: which set a box takes; when it restarts, with the real daemon beside it.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::uids;
use e2e::daemon::{AE_TITLE, Daemon, Settings};
use e2e::slices::{self, Object, SLICES, phantom, renamed, text};
use e2e::stick::{Stick, TestBox};
use e2e::wait_for;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use stick::{Board, Variant};

const RESTART: i32 = 10;
const STUDY: &str = "2.25.1950";

#[test]
fn a_box_takes_the_set_of_its_own_variant_and_no_other() {
    // A box, the sets on the stick, and the words of the refusal.
    let (plain, nvidia) = (Variant::Plain, Variant::Nvidia);
    for (variant, sets, refused) in [
        (plain, &[plain][..], None),
        (plain, &[plain, nvidia], None),
        (nvidia, &[plain, nvidia], None),
        (nvidia, &[nvidia], None),
        (
            nvidia,
            &[plain],
            Some("this box has NVIDIA's parts (variant nvidia), the stick's update has none: use"),
        ),
        (plain, &[nvidia], Some("the stick's update has NVIDIA's parts (variant nvidia), this box has none")),
    ] {
        let test_box = TestBox::default();
        if variant == nvidia {
            test_box.put("usr/lib/triaged/variant", b"nvidia\n");
        }
        let stick = Stick::default();
        let files = sets.iter().flat_map(|variant| stick.set(Board::X86_64, *variant)).collect();
        stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |manifest| manifest.files = files);
        // What nobody signed for this box matters, what lies in others' folders does not.
        if sets.len() == 2 {
            let other = if variant == plain { "x86-64-nvidia" } else { "x86-64" };
            stick.put(&format!("triaged/update/{other}/b.root"), b"another");
        }
        let before = test_box.files();
        let (code, said) = test_box.plug(stick.dir.path());
        match refused {
            None => {
                assert_eq!(code, RESTART, "{variant} of {sets:?}: {said}");
                assert_eq!(fs::read(test_box.path("installed/b.root")).unwrap(), vec![2; 3_000_000]);
            }
            Some(words) => {
                assert!(code == 1 && said.contains(words), "{variant} of {sets:?}: {said}");
                assert!(test_box.files() == before, "{variant} of {sets:?}");
            }
        }
    }
    let odd = TestBox::default();
    odd.put("usr/lib/triaged/variant", b"cuda\n");
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &odd.update_key, |_| {});
    let (code, said) = odd.plug(stick.dir.path());
    assert!(code == 1 && said.contains("\"cuda\" is no variant"), "{said}");
}

/// A scanner that sends each slice when it has it, on one association.
struct Scanner(Requestor);

impl Scanner {
    fn new(daemon: &Daemon) -> Self {
        let contexts: dimse::ContextTable<'_> =
            &[(uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN])];
        let (calling, called) = ("CT1".parse().unwrap(), AE_TITLE.parse().unwrap());
        let address = format!("127.0.0.1:{}", daemon.port);
        let config = RequestorConfig::default();
        Self(Requestor::connect(address.as_str(), &calling, &called, contexts, &config).unwrap())
    }

    fn send(&mut self, objects: &[Object], folder: &Path) {
        slices::write(objects, folder);
        for (object, path) in objects.iter().zip(slices::files(folder)) {
            let file = fs::read(path).unwrap();
            // PS3.10 section 7.1: 128 bytes, "DICM", then a group whose first element, of 12 bytes, has the length of the rest.
            let meta = u32::from_le_bytes(file[140..144].try_into().unwrap()) as usize;
            let data_set = &file[144 + meta..];
            let (uid, syntax) = (text(object, tags::SOP_INSTANCE_UID), uids::EXPLICIT_VR_LITTLE_ENDIAN);
            let sent = self.0.store(uids::CT_IMAGE_STORAGE, &uid, syntax, data_set, data_set.len() as u64);
            assert!(sent.unwrap().status.is_success());
        }
    }
}

#[test]
fn the_restart_waits_for_a_study_that_is_received_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { quiet_long_s: 600.0, ..Settings::default() });
    let test_box = TestBox::default();
    fs::create_dir_all(test_box.path("var/lib")).unwrap();
    symlink(dir.path().join("storage"), test_box.path("var/lib/triaged")).unwrap();
    let objects = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.1950.1");
    let mut scanner = Scanner::new(&daemon);
    scanner.send(&objects[..SLICES / 2], &dir.path().join("first half"));
    assert_eq!(daemon.state(STUDY).as_deref(), Some("receiving"));

    // A box that has waited long enough restarts: what the daemon has is finished afterwards.
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    let output = test_box.stick_command(stick.dir.path(), 0).args(["--patience-s", "1"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(RESTART), "{said}");
    let under_way = "studies being received: 1, being evaluated: 0";
    assert!(said.contains(&format!("the restart waits until the daemon is done; {under_way}\n")), "{said}");
    assert!(
        said.contains(&format!("not done after 1 s, the box restarts all the same; {under_way}.")),
        "{said}"
    );
    assert_eq!(daemon.state(STUDY).as_deref(), Some("receiving"));

    // One that has not, waits; what is on the stick is installed meanwhile.
    fs::remove_dir_all(test_box.path("installed")).unwrap();
    stick.update(Board::X86_64, "1.2.0", &test_box.update_key, |_| {});
    let mut command = test_box.stick_command(stick.dir.path(), 0);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the box to wait for the daemon", || {
        let told = fs::read_to_string(test_box.path("run/triaged/status/stick.json")).ok()?;
        (told.contains("\"finishing\"") && told.contains(under_way)).then_some(())
    });
    assert!(test_box.path("installed/b.root").exists());
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    scanner.send(&objects[SLICES / 2..], &dir.path().join("second half"));
    scanner.0.release().unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(RESTART));
    // Nothing is left for after the restart.
    assert_eq!(daemon.state(STUDY).as_deref(), Some("done"));
    assert_eq!(daemon.outcome(STUDY)["outcome"], "flagged");
    assert_eq!(test_box.told("stick")["state"], "restart");
}

#[test]
fn a_database_that_can_not_be_read_does_not_keep_the_box_from_its_update() {
    let test_box = TestBox::default();
    test_box.put(
        "var/lib/triaged/triaged.db",
        b"no database, whatever its name says; long enough for a page's header",
    );
    let stick = Stick::default();
    stick.update(Board::X86_64, "1.1.0", &test_box.update_key, |_| {});
    let (code, said) = test_box.plug(stick.dir.path());
    assert_eq!(code, RESTART, "{said}");
    assert!(said.contains("what is under way can't be told"), "{said}");
}
