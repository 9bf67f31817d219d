//! Studies as the field sends them: incomplete, doubled, mixed, mislabelled. Each ends in an outcome with its reason, and
//! nothing is lost.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use e2e::daemon::{AE_TITLE, Daemon, Settings};
use e2e::peers::{Storescp, dcmtk, free_port, have, run_ok, storescu};
use e2e::slices::{self, Object, SLICES, header, phantom, renamed, scout, set, set_word, text};
use e2e::wait_for;
use serde_json::json;
use std::process::Command;

/// A case: its name, what becomes of a whole series, the outcome, and words of its reason.
type Case = (&'static str, fn(&mut Vec<Object>), &'static str, &'static str);

const CASES: &[Case] = &[
    ("as it should be", |_| {}, "flagged", ""),
    ("no CT", |s| *s = vec![capture(&s[0])], "not_evaluated", "no CT image series"),
    ("scouts alone", |s| *s = vec![scout(&s[0], 1)], "not_evaluated", "only localizer or derived"),
    (
        "a scout and a dose report among the slices",
        |s| {
            let (scout, report) = (scout(&s[0], 1), dose_report(&s[0]));
            s.insert(5, report);
            s.insert(2, scout);
        },
        "flagged",
        "",
    ),
    (
        "a slice missing in the middle",
        |s| drop(s.remove(7)),
        "not_evaluated",
        "slices are missing: a gap of 20.00 mm",
    ),
    (
        "two slices at one place",
        |s| {
            let mut twin = s[7].clone();
            let uid = text(&twin, tags::SOP_INSTANCE_UID) + ".1";
            set(&mut twin, tags::SOP_INSTANCE_UID, VR::UI, &uid);
            s.push(twin);
        },
        "not_evaluated",
        "two slices of the series lie at the same position",
    ),
    (
        "two orientations",
        |s| {
            s[3..]
                .iter_mut()
                .for_each(|o| set(o, tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\0\\-1"))
        },
        "not_evaluated",
        "different orientations",
    ),
    (
        "pixels without a size",
        |s| s.iter_mut().for_each(|o| set(o, tags::PIXEL_SPACING, VR::DS, "0\\0")),
        "not_evaluated",
        "pixel spacing in mm 0 is outside of",
    ),
    (
        "no rescale",
        |s| {
            s.iter_mut().for_each(|o| {
                o.remove_element(tags::RESCALE_SLOPE);
                o.remove_element(tags::RESCALE_INTERCEPT);
            });
        },
        "not_evaluated",
        "Rescale",
    ),
    ("seven slices", |s| s.truncate(7), "not_evaluated", "7 slices; at least 8"),
    ("signed pixels of 16 bits", |s| s.iter_mut().for_each(signed), "flagged", ""),
    (
        "pixels cut off",
        |s| {
            let half = PrimitiveValue::U16(vec![0; 256 * 128].into());
            s[4].put(DataElement::new(tags::PIXEL_DATA, VR::OW, half));
        },
        "not_evaluated",
        "could not be read",
    ),
];

/// A Secondary Capture in the study of a slice.
fn capture(slice: &Object) -> Object {
    let mut object = slice.clone();
    for tag in [tags::IMAGE_POSITION_PATIENT, tags::IMAGE_ORIENTATION_PATIENT, tags::KVP] {
        object.remove_element(tag);
    }
    other_series(&mut object, uids::SECONDARY_CAPTURE_IMAGE_STORAGE, 77);
    set(&mut object, tags::MODALITY, VR::CS, "OT");
    object
}

/// A dose report: no image at all.
fn dose_report(slice: &Object) -> Object {
    let mut object = slice.clone();
    for tag in
        [tags::PIXEL_DATA, tags::ROWS, tags::COLUMNS, tags::IMAGE_POSITION_PATIENT, tags::PIXEL_SPACING]
    {
        object.remove_element(tag);
    }
    other_series(&mut object, uids::X_RAY_RADIATION_DOSE_SR_STORAGE, 99);
    set(&mut object, tags::MODALITY, VR::CS, "SR");
    object
}

fn other_series(object: &mut Object, class: &str, number: u32) {
    let series = format!("{}.{number}", text(object, tags::STUDY_INSTANCE_UID));
    set(object, tags::SOP_CLASS_UID, VR::UI, class);
    set(object, tags::SERIES_INSTANCE_UID, VR::UI, &series);
    set(object, tags::SOP_INSTANCE_UID, VR::UI, &format!("{series}.1"));
}

/// The same Hounsfield units in two's complement, without an intercept.
fn signed(object: &mut Object) {
    let stored = object.element(tags::PIXEL_DATA).unwrap().to_multi_int::<u16>().unwrap();
    let hu: Vec<u16> = stored.iter().map(|value| value.wrapping_sub(1024)).collect();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(hu.into())));
    set(object, tags::RESCALE_INTERCEPT, VR::DS, "0");
    for (tag, value) in [(tags::PIXEL_REPRESENTATION, 1), (tags::BITS_STORED, 16), (tags::HIGH_BIT, 15)] {
        set_word(object, tag, value);
    }
}

#[test]
fn every_study_ends_in_an_outcome_with_its_reason() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let destinations = vec![("CONSOLE", console.port)];
    let daemon = Daemon::start(dir.path(), &Settings { destinations, ..Settings::default() });
    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    let study = |i: usize| format!("2.25.{}", 500 + i);
    for (i, (_, alter, ..)) in CASES.iter().enumerate() {
        let mut slices = renamed(&phantom, &study(i), &format!("{}.1", study(i)));
        alter(&mut slices);
        storescu(&daemon, &[], &slices::write(&slices, &dir.path().join(study(i))));
    }
    let outcomes: Vec<_> = (0..CASES.len()).map(|i| daemon.outcome(&study(i))).collect();
    for ((name, _, want, words), outcome) in CASES.iter().zip(&outcomes) {
        assert_eq!(outcome["outcome"], *want, "{name}: {outcome}");
        assert!(outcome["reason"].as_str().unwrap_or_default().contains(words), "{name}: {outcome}");
        assert!(outcome["timings_ms"]["last_slice_to_outcome"].is_number(), "{name}: {outcome}");
        if *want == "flagged" {
            assert_eq!(outcome["severity"], outcomes[0]["severity"], "{name}");
            assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64), "{name}");
        }
    }
    // Silence is no answer: the console hears of those that were not evaluated, too.
    daemon.wait_delivered();
    assert_eq!(console.received().len(), CASES.len());
}

#[test]
fn a_study_uid_that_is_none_is_evaluated_and_echoed() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    const STUDY: &str = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let destinations = vec![("CONSOLE", console.port)];
    let daemon = Daemon::start(dir.path(), &Settings { destinations, ..Settings::default() });
    let phantom = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.600");
    storescu(&daemon, &[], &slices::write(&phantom, &dir.path().join("study")));
    assert_eq!(daemon.outcome(STUDY)["outcome"], "flagged");
    daemon.wait_delivered();
    let received = console.received();
    assert_eq!(received.len(), 1);
    assert_eq!(text(&header(&received[0].1), tags::STUDY_INSTANCE_UID), STUDY);
}

#[test]
fn of_two_kernels_the_soft_one_is_evaluated() {
    if !have(&["storescu"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings::default());
    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    let mut both = Vec::new();
    // The sharp one has the lower UID and comes first.
    for (series, kernel) in [("2.25.610.1", "B70f"), ("2.25.610.2", "B40f")] {
        let mut slices = renamed(&phantom, "2.25.610", series);
        slices.iter_mut().for_each(|o| set(o, tags::CONVOLUTION_KERNEL, VR::SH, kernel));
        both.extend(slices);
    }
    storescu(&daemon, &[], &slices::write(&both, &dir.path().join("study")));
    let outcome = daemon.outcome("2.25.610");
    assert_eq!(outcome["series_uid"], "2.25.610.2");
    assert_eq!(outcome["outcome"], "flagged", "{outcome}");
}

/// Waits longer than the daemon would for another slice, and asserts that nothing new came of what was sent.
fn assert_nothing_new(daemon: &Daemon, study: &str, revisions: usize) {
    std::thread::sleep(std::time::Duration::from_secs(2));
    daemon.wait_done(study);
    assert_eq!((daemon.outcomes(study).len(), daemon.results(study).len()), (revisions, revisions));
}

#[test]
fn doubles_change_nothing_and_a_late_slice_makes_a_new_revision() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    const STUDY: &str = "2.25.620";
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let destinations = vec![("CONSOLE", console.port)];
    let settings = Settings { destinations, quiet_short_s: 1.5, ..Settings::default() };
    let daemon = Daemon::start(dir.path(), &settings);
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.620.1");
    let folder = |name: &str, slices: &[Object]| slices::write(slices, &dir.path().join(name));
    let first = folder("first", &slices[..SLICES - 1]);
    let late = folder("late", &slices[SLICES - 1..]);

    // Twice within the quiet time: one outcome.
    storescu(&daemon, &[], &first);
    storescu(&daemon, &[], &first);
    let outcome = daemon.outcome(STUDY);
    assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64 - 1.0), "{outcome}");
    // Again after the outcome, also from another sender: nothing new.
    storescu(&daemon, &[], &first);
    let mut pacs = Command::new("storescu");
    pacs.args(["-aet", "ANOTHER_SENDER", "-aec", AE_TITLE, "127.0.0.1", &daemon.port.to_string(), "+sd"]);
    run_ok(pacs.arg(&first));
    assert_nothing_new(&daemon, STUDY, 1);
    // A late slice: the whole series again, as revision 2.
    storescu(&daemon, &[], &late);
    wait_for("a second outcome", || (daemon.outcomes(STUDY).len() == 2).then_some(()));
    assert_eq!(daemon.outcomes(STUDY)[1]["timings_ms"]["slices"], json!(SLICES as f64));
    daemon.wait_delivered();
    let results = daemon.results(STUDY);
    assert_ne!(results[0], results[1]);
    assert_eq!(console.received().len(), 2, "each revision is an instance of its own");
}

#[test]
fn our_own_result_and_a_late_dose_report_make_no_revision() {
    if !have(&["storescu", "storescp"]) {
        return;
    }
    const STUDY: &str = "2.25.627";
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let destinations = vec![("CONSOLE", console.port)];
    let daemon =
        Daemon::start(dir.path(), &Settings { destinations, quiet_long_s: 0.5, ..Settings::default() });
    let slices = renamed(&phantom(&dir.path().join("phantom"), "0,0"), STUDY, "2.25.627.1");
    // Fewer than the networks take: no time is spent in them.
    storescu(&daemon, &[], &slices::write(&slices[..3], &dir.path().join("three")));
    daemon.wait_done(STUDY);
    daemon.wait_delivered();
    // An archive that forwards what is new in a CT study.
    let back = dir.path().join("back");
    std::fs::create_dir(&back).unwrap();
    std::fs::copy(&console.received()[0].1, back.join("capture.dcm")).unwrap();
    storescu(&daemon, &[], &back);
    assert_nothing_new(&daemon, STUDY, 1);
    assert_eq!(daemon.filed(), 3, "a result of ours is not kept");
    let late = [dose_report(&slices[0]), scout(&slices[0], 1)];
    storescu(&daemon, &[], &slices::write(&late, &dir.path().join("late")));
    assert_nothing_new(&daemon, STUDY, 1);
    assert_eq!(daemon.filed(), 5, "what was acknowledged is kept");
}

#[test]
fn a_slice_that_comes_during_the_evaluation_is_evaluated_too() {
    if !have(&["storescu"]) {
        return;
    }
    const STUDY: &str = "2.25.625";
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { quiet_short_s: 0.1, ..Settings::default() });
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.625.1");
    let late = slices::write(&slices[SLICES - 1..], &dir.path().join("late"));
    storescu(&daemon, &[], &slices::write(&slices[..SLICES - 1], &dir.path().join("first")));
    wait_for("the evaluation", || (daemon.state(STUDY).as_deref() != Some("receiving")).then_some(()));
    storescu(&daemon, &[], &late);
    wait_for("a second outcome", || (daemon.outcomes(STUDY).len() == 2).then_some(()));
    daemon.wait_done(STUDY);
    let slices: Vec<_> = daemon.outcomes(STUDY).iter().map(|o| o["timings_ms"]["slices"].clone()).collect();
    assert_eq!(slices, [json!(SLICES as f64 - 1.0), json!(SLICES as f64)]);
}

#[test]
fn an_aborted_association_waits_for_the_rest() {
    if !have(&["storescu"]) {
        return;
    }
    const STUDY: &str = "2.25.630";
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &Settings { quiet_long_s: 8.0, ..Settings::default() });
    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.630.1");
    // Ten slices would pass the gate, had the association been released.
    let half = slices::write(&slices[..10], &dir.path().join("half"));
    let whole = slices::write(&slices, &dir.path().join("whole"));
    run_ok(dcmtk("storescu", &daemon).args(["--abort", "+sd"]).arg(&half));
    storescu(&daemon, &[], &whole);
    let outcome = daemon.outcome(STUDY);
    assert_eq!(outcome["outcome"], "flagged", "{outcome}");
    assert_eq!(outcome["timings_ms"]["slices"], json!(SLICES as f64));
    assert_eq!(daemon.filed(), SLICES, "each instance is kept once");
}
