//! Patients' names in the character sets of the world, in every kind of result, as pydicom and a reader of HL7 decode them.
#![allow(clippy::unwrap_used)] // Test code throughout.
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use e2e::daemon::{Daemon, Settings};
use e2e::peers::{Collector, Storescp, free_port, have, have_python, run_ok, script, storescu};
use e2e::slices::{self, Object, header, phantom, renamed, set, text};
use e2e::tables;
use serde_json::Value;
use std::path::PathBuf;

/// Specific Character Set, the bytes of the name, and the name.
type Case = (&'static str, &'static [u8], &'static str);

/// The multi-byte ones are the examples of PS3.5, annexes H to J.
const CASES: &[Case] = &[
    ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    ("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
    ("ISO_IR 144", b"\xbb\xee\xda\xe1\xd5\xdc\xd1\xe3\xe0\xd3^\xc0\xde\xd7\xd0", "Люксембург^Роза"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东".as_bytes(), "Wang^XiaoDong=王^小东"),
    ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"),
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
];

fn study(case: usize) -> String {
    format!("2.25.{}", 1100 + case)
}

#[test]
fn names_of_all_character_sets_pass_through_every_result() {
    if !have(&["storescu", "storescp"]) || !have_python("pydicom, pynetdicom, hl7") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let console = Storescp::start(&dir.path().join("console"), free_port());
    let [ris, cyrillic_ris] =
        ["ris", "cyrillic"].map(|n| Collector::start("mllp.py", &dir.path().join(n), &[]));
    let worklist = Collector::start("ups.py", &dir.path().join("worklist"), &[]);
    let settings = Settings {
        tables: [
            tables::dicom("CONSOLE", console.port, &["picture", "report", "segmentation"]),
            tables::hl7("ris", ris.port),
            tables::hl7("cyrillic", cyrillic_ris.port) + "character_set = \"iso-8859-5\"\n",
            tables::ups("WORKLIST", worklist.port),
        ]
        .concat(),
        ..Settings::default()
    };
    let daemon = Daemon::start(dir.path(), &settings);
    let phantom = phantom(&dir.path().join("phantom"), "40,20");
    let sources: Vec<PathBuf> = (0..CASES.len())
        .map(|i| {
            let mut slices = renamed(&phantom, &study(i), &format!("{}.1", study(i)));
            slices.iter_mut().for_each(|slice| rename_patient(slice, &CASES[i]));
            let folder = slices::write(&slices, &dir.path().join(study(i)));
            storescu(&daemon, &[], &folder);
            folder.join("0000.dcm")
        })
        .collect();
    (0..CASES.len()).for_each(|i| daemon.wait_done(&study(i)));
    daemon.wait_delivered();

    let received: Vec<PathBuf> = console.received().into_iter().map(|(_, path)| path).collect();
    assert_eq!(received.len(), 3 * CASES.len());
    let (of_sources, of_received) = (names(&sources), names(&received));
    for (i, (set, bytes, want)) in CASES.iter().enumerate() {
        let source = &of_sources[i];
        assert_eq!(
            (&source["name"], &source["name_hex"]),
            (&(*want).into(), &hex(bytes).into()),
            "{set}: source"
        );
        let own = received
            .iter()
            .zip(&of_received)
            .filter(|(path, _)| text(&header(path), tags::STUDY_INSTANCE_UID) == study(i));
        let mut objects = 0;
        for (path, name) in own {
            assert_eq!(name, source, "{set}: {}", path.display());
            objects += 1;
        }
        assert_eq!(objects, 3, "{set}");
        let steps = worklist.received();
        let step = steps.iter().find(|step| step["study"] == *study(i)).unwrap();
        assert_eq!((&step["name"], &step["name_hex"]), (&source["name"], &source["name_hex"]), "{set}: UPS");
        message_names(&ris, i, "UNICODE UTF-8");
        // What the message's own set has no letters for goes out in another one, and says so.
        let fits = want.chars().all(|c| c.is_ascii() || ('А'..='я').contains(&c));
        message_names(&cyrillic_ris, i, if fits { "8859/5" } else { "UNICODE UTF-8" });
    }
}

fn rename_patient(slice: &mut Object, (character_set, name, _): &Case) {
    set(slice, tags::SPECIFIC_CHARACTER_SET, VR::CS, character_set);
    // As bytes: their meaning is the receiver's.
    let mut bytes = name.to_vec();
    bytes.resize(bytes.len().next_multiple_of(2), b' ');
    slice.put(DataElement::new(tags::PATIENT_NAME, VR::PN, PrimitiveValue::U8(bytes.into())));
}

/// The names in files, as pydicom reads them.
fn names(files: &[PathBuf]) -> Vec<Value> {
    serde_json::from_str(&run_ok(script("names.py").args(files))).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The message about a study declares its character set, and in it names the patient.
fn message_names(ris: &Collector, case: usize, character_set: &str) {
    let messages = ris.received();
    let segment = |message: &Value, name: &str| {
        message.as_array().unwrap().iter().find(|segment| segment[0] == name).unwrap().clone()
    };
    let of_study = |message: &&Value| message.to_string().contains(&format!("\"{}\"", study(case)));
    let message = messages.iter().find(of_study).unwrap();
    let name = segment(message, "PID")[5].as_str().unwrap().to_owned();
    // Family and given name of each repetition, of which there is one a component group.
    let groups = name.split('~').map(|group| {
        let parts: Vec<&str> = group.split('^').take(2).collect();
        parts.join("^").trim_end_matches('^').to_owned()
    });
    assert_eq!(groups.collect::<Vec<_>>().join("="), CASES[case].2, "{name}");
    assert_eq!(segment(message, "MSH")[18], character_set, "{name}");
}
