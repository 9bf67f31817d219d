//! The other commands of the binary, as a user runs them.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_dictionary_std::tags;
use e2e::daemon::{peak_mib, triaged};
use e2e::hostile::bombs;
use e2e::peers::{have_python, python, run_ok};
use e2e::slices::{self, phantom, renamed, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Every key of a line of `analyze --json`.
const KEYS: [&str; 14] = [
    "category",
    "engine",
    "lesion_volume_ml",
    "lung_volume_ml",
    "method",
    "model_version",
    "outcome",
    "priority",
    "probability",
    "reason",
    "series_uid",
    "severity",
    "study_uid",
    "timings_ms",
];

/// What a command said on standard output and error; it must succeed.
fn output(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}\n{complained}");
    (said, complained)
}

/// The outcomes that `analyze --json` printed, by study.
fn outcomes(said: &str) -> Vec<Value> {
    let mut outcomes: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    outcomes.sort_by_key(|outcome| outcome["study_uid"].to_string());
    for outcome in &outcomes {
        // serde_json sorts keys.
        assert_eq!(outcome.as_object().unwrap().keys().collect::<Vec<_>>(), KEYS, "{outcome}");
    }
    outcomes
}

/// A folder as people keep them: three studies at several depths, one of them short and one with a cut file, a repeated
/// file, and files that are no images. Gives the UID of the whole study.
fn mixed_folder(dir: &Path) -> String {
    let slices = phantom(&dir.join("whole/deep/deeper"), "40,20");
    slices::write(&renamed(&slices[..5], "2.25.902", "2.25.902.1"), &dir.join("short"));
    let cut = slices::write(&renamed(&slices, "2.25.903", "2.25.903.1"), &dir.join("cut"));
    let broken = cut.join("0007.dcm");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() - 1000]).unwrap();
    fs::write(dir.join("stub.dcm"), &bytes[..300]).unwrap();
    fs::copy(dir.join("short/0001.dcm"), dir.join("again.dcm")).unwrap();
    fs::write(dir.join("notes.txt"), "not a slice").unwrap();
    fs::write(dir.join("short/report.pdf"), "%PDF-1.4\n%%EOF\n").unwrap();
    text(&slices[0], tags::STUDY_INSTANCE_UID)
}

#[test]
fn analyze_answers_for_every_study_of_a_mixed_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    let whole = mixed_folder(&input);
    let (said, complained) = output(triaged(&["analyze", "--json", "--out"]).arg(&out).arg(&input));
    let outcomes = outcomes(&said);
    assert_eq!(outcomes.len(), 3, "{said}");
    let of =
        |study: &str| outcomes.iter().find(|o| o["study_uid"] == *study).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(of(&whole)["outcome"], "flagged", "{said}");
    for (study, words) in [
        ("2.25.902", "5 slices; at least 8"),
        ("2.25.903", "could not be read"),
        ("2.25.903", "2.25.903.1.7"),
    ] {
        assert!(of(study)["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{words}: {said}");
    }
    // The reason travels to consoles, so it names the instance; here the file is named too.
    assert!(complained.contains("stub.dcm") && complained.contains("0007.dcm"), "{complained}");
    // The text, the PDF, and the two files of the phantom's truth.
    assert!(complained.contains("4 of ") && complained.contains("not DICOM images"), "{complained}");
    assert!(complained.contains("1 files repeat another one"), "{complained}");

    let mut folders: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 3, "{folders:?}");
    for folder in &folders {
        let picture = fs::read(folder.join("picture.png")).unwrap();
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n") && picture.len() > 1000);
        let outcome: Value = serde_json::from_slice(&fs::read(folder.join("outcome.json")).unwrap()).unwrap();
        assert!(outcomes.contains(&outcome));
        let evaluated = outcome["outcome"] != "not_evaluated";
        for (name, key) in [("lungs.nii.gz", "lung_volume_ml"), ("lesions.nii.gz", "lesion_volume_ml")] {
            let mask = folder.join(name);
            assert_eq!(mask.exists(), evaluated);
            if evaluated {
                check_mask(&mask, &outcome[key]);
            }
        }
    }
}

/// An independent reader of NIfTI-1: prints the volume of the mask.
const READ_NIFTI: &str = "
import gzip, struct, sys
b = gzip.open(sys.argv[1]).read()
assert struct.unpack_from('<i', b, 0)[0] == 348 and b[344:348] == b'n+1\\0'
dim = struct.unpack_from('<8h', b, 40)
assert dim[:4] == (3, 256, 256, 16) and struct.unpack_from('<h', b, 70)[0] == 2, dim
voxel = struct.unpack_from('<8f', b, 76)
data = b[int(struct.unpack_from('<f', b, 108)[0]):]
assert len(data) == dim[1] * dim[2] * dim[3]
print(sum(v != 0 for v in data) * voxel[1] * voxel[2] * voxel[3] / 1000)
";

/// The mask's volume is the one that the outcome tells.
fn check_mask(mask: &Path, volumes_ml: &Value) {
    if have_python("gzip") {
        let volume_ml: f64 = run_ok(python().args(["-c", READ_NIFTI]).arg(mask)).trim().parse().unwrap();
        let told_ml = volumes_ml["left"].as_f64().unwrap() + volumes_ml["right"].as_f64().unwrap();
        assert!((volume_ml / told_ml - 1.0).abs() < 1e-3, "{volume_ml} ml and {told_ml} ml");
    }
}

#[test]
fn analyze_tells_people_why() {
    let dir = tempfile::tempdir().unwrap();
    let slices = phantom(&dir.path().join("phantom"), "0,0");
    let few = slices::write(&slices[..4], &dir.path().join("few"));
    let (said, _) = output(triaged(&["analyze"]).arg(&few));
    assert!(said.contains("not evaluated") && said.contains("4 slices; at least 8"), "{said}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("notes.txt"), "not a slice").unwrap();
    for folder in [empty, dir.path().join("nowhere")] {
        let refused = triaged(&["analyze"]).arg(&folder).output().unwrap();
        let complained = String::from_utf8_lossy(&refused.stderr).into_owned();
        let named = complained.contains(folder.to_str().unwrap());
        assert!(!refused.status.success() && named, "{complained}");
    }
}

#[test]
fn analyze_takes_a_memory_bomb_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    for (uid, data_set, _) in bombs() {
        // A bare data set, as old archives keep them.
        fs::write(dir.path().join(uid), data_set).unwrap();
    }
    let mut command = triaged(&["analyze", "--json"]);
    let mut child = command.arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_mib(child.id()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let said = child.wait_with_output().unwrap();
    let outcomes = outcomes(&String::from_utf8(said.stdout).unwrap());
    assert!(said.status.success() && outcomes.len() == 2, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome["outcome"] == "not_evaluated"), "{outcomes:?}");
    assert!((1..300).contains(&peak), "{peak} MiB");
}

#[test]
fn the_demo_shows_an_outcome_and_what_the_console_received() {
    let said = run_ok(&mut triaged(&["demo", "--once", "--slices", "24"]));
    assert!(
        said.lines().any(|line| line.starts_with("FLAGGED") || line.starts_with("NOT FLAGGED")),
        "{said}"
    );
    assert!(said.contains("console    received"), "{said}");
}
