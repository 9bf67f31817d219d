use super::*;
use crate::source::{RawElement, SourceStudy};
use crate::testing::{case, findings, identity, not_evaluated, outcome, python, source};
use study::Outcome;

fn site(character_set: CharacterSet) -> Site {
    Site {
        sending_application: "triaged".into(),
        sending_facility: "CT1".into(),
        receiving_application: "RIS".into(),
        receiving_facility: "St. Mary & Co".into(),
        character_set,
    }
}

fn study(elements: &[(u16, u16, &[u8])]) -> SourceStudy {
    SourceStudy::new(
        elements.iter().map(|(g, e, bytes)| RawElement { tag: Tag(*g, *e), bytes: bytes.to_vec() }),
    )
}

fn ordered() -> SourceStudy {
    study(&[
        (0x0008, 0x0005, b"ISO_IR 100"),
        (0x0008, 0x0020, b"20261123"),
        (0x0008, 0x0030, b"065958.1234 "),
        (0x0008, 0x0050, b"ACC-1 "),
        (0x0008, 0x0090, b"Dupont^Ren\xe9"),
        (0x0010, 0x0010, b"Buc^J\xe9r\xf4me^Paul^Dr.^jr."),
        (0x0010, 0x0020, b"12345678"),
        (0x0010, 0x0021, b"St. Mary"),
        (0x0010, 0x0030, b"1958.02.17"),
        (0x0010, 0x0040, b"M "),
        (0x0032, 0x1060, b"CT chest"),
        (0x0040, 0x1001, b"RP7 "),
        (0x0040, 0x2016, b"P100"),
        (0x0040, 0x2017, b"F200"),
    ])
}

fn message(source: &SourceStudy, outcome: &Outcome, character_set: CharacterSet) -> Message {
    oru(&case(source, None, outcome, &identity()), &site(character_set))
}

/// Segments and fields by HL7's numbers; those of MSH are one further.
fn fields<'a>(text: &'a str, segment: &str) -> Vec<Vec<&'a str>> {
    text.split_terminator('\r')
        .map(|s| s.split('|').collect::<Vec<_>>())
        .filter(|f| f[0] == segment)
        .collect()
}

#[test]
fn a_flagged_study_word_by_word() {
    let message = message(&ordered(), &outcome(Verdict::Flagged(findings())), CharacterSet::Utf8);
    let control_id = &message.control_id;
    let obx = |row: &str| format!("{row}|||20261123070509|||METHOD|CT1-TRIAGE^triaged\r");
    let unmeasured = |row: &str| format!("{row}|||20261123070509||||CT1-TRIAGE^triaged\r");
    let want = [
        &format!(
            "MSH|^~\\&|triaged|CT1|RIS|St. Mary \\T\\ Co|20261123070509||ORU^R01^ORU_R01|{control_id}|P|2.5.1||||||UNICODE UTF-8\r"
        ),
        "PID|1||12345678^^^St. Mary^PI||Buc^Jérôme^Paul^jr.^Dr.^^L^A||19580217|M\r",
        "PV1|1|U||||||^Dupont^René^^^^^^^L^^^^^A\r",
        "ORC|RE|P100|F200\r",
        "OBR|1|P100|F200|^CT chest|||20261123065958|||||||||||ACC-1|RP7|||20261123070509||CT|P\r",
        "NTE|1|L|FLAGGED: read this study first. Reading priority HIGH.\r",
        "NTE|2|L|NOT FOR DIAGNOSTIC USE. A machine's result, preliminary, verified by nobody.\r",
        "NTE|3|L|CT-3; affected share of the lungs: right 61.8 %, left 34.2 %; identification score 0.87.\r",
        "NTE|4|L|The identification score is a demonstration: no accuracy is claimed, it does not tell COVID-19 from \
            other pneumonia, and it must not decide about a patient.\r",
        &unmeasured("OBX|1|CWE|outcome^Triage outcome^99TRIAGED||flagged^FLAGGED^99TRIAGED|||AA|||P"),
        &unmeasured("OBX|2|ST|priority^Reading priority^99TRIAGED||HIGH||||||P"),
        &obx(
            "OBX|3|NM|probability^Identification score (demonstration, no accuracy claimed)^99TRIAGED||0.87|1^no units^UCUM|||||P",
        ),
        &obx("OBX|4|ST|ct-category^CT category of the more affected lung^99TRIAGED||CT-3||||||P"),
        &obx(
            "OBX|5|NM|lesion-fraction-right^Lesion volume as percent of lung volume, right^99TRIAGED||61.8|%^percent^UCUM|||||P",
        ),
        &obx(
            "OBX|6|NM|lesion-fraction-left^Lesion volume as percent of lung volume, left^99TRIAGED||34.2|%^percent^UCUM|||||P",
        ),
        &obx("OBX|7|NM|lung-volume-right^Lung volume, right^99TRIAGED||2315.0|mL^milliliter^UCUM|||||P"),
        &obx("OBX|8|NM|lung-volume-left^Lung volume, left^99TRIAGED||2021.4|mL^milliliter^UCUM|||||P"),
        &obx("OBX|9|NM|lesion-volume-right^Lesion volume, right^99TRIAGED||1430.7|mL^milliliter^UCUM|||||P"),
        &obx("OBX|10|NM|lesion-volume-left^Lesion volume, left^99TRIAGED||691.3|mL^milliliter^UCUM|||||P"),
        &unmeasured("OBX|11|ST|110180^Study Instance UID^DCM||1.2.826.0.1.3680043.8.498.1||||||P"),
        &unmeasured("OBX|12|ST|112002^Series Instance UID^DCM||1.2.826.0.1.3680043.8.498.2||||||P"),
    ];
    let want =
        want.concat().replace("METHOD", "^Multitask-Spatial-1, Goncharov et al. 2020 version 1^99TRIAGED");
    assert_eq!(String::from_utf8(message.bytes).unwrap(), want);
    assert_eq!(message.control_id.len(), 20);
}

#[test]
fn only_a_flag_is_abnormal_and_nothing_is_normal() {
    let cases = [
        (outcome(Verdict::Flagged(findings())), "flagged^FLAGGED^99TRIAGED", "AA", "HIGH"),
        (outcome(Verdict::NotFlagged(findings())), "not-flagged^NOT FLAGGED^99TRIAGED", "", "LOW"),
        (not_evaluated(), "not-evaluated^NOT EVALUATED^99TRIAGED", "", "MEDIUM"),
    ];
    for (outcome, value, flag, priority) in cases {
        let message = message(&source(), &outcome, CharacterSet::Utf8);
        let text = String::from_utf8(message.bytes).unwrap();
        let rows = fields(&text, "OBX");
        assert_eq!((rows[0][5], rows[0][8], rows[1][5]), (value, flag, priority));
        assert!(rows[1..].iter().all(|row| row[8].is_empty()), "{text}");
        assert!(rows.iter().all(|row| row[11] == "P"), "{text}");
        assert_eq!(fields(&text, "OBR")[0][25], "P");
        assert_eq!(text.matches("NOT FOR DIAGNOSTIC USE").count(), 1);
        assert_eq!(text.contains("does not say normal"), priority == "LOW");
    }
    let text = String::from_utf8(message(&source(), &not_evaluated(), CharacterSet::Utf8).bytes).unwrap();
    assert_eq!(fields(&text, "OBX")[2][5], "gantry tilt of 5.0 deg; at most 0.5 deg is evaluated");
}

/// Value type, value and result status of an observation.
fn observation<'a>(text: &'a str, code: &str) -> (&'a str, &'a str, &'a str) {
    let row = fields(text, "OBX").into_iter().find(|row| row[3].starts_with(code)).unwrap();
    (row[2], row[5], row[11])
}

#[test]
fn what_is_not_measured_is_left_out_and_said() {
    let findings = study::Findings { lesions: None, ..findings() };
    let message = message(&source(), &outcome(Verdict::Flagged(findings)), CharacterSet::Utf8);
    let text = String::from_utf8(message.bytes).unwrap();
    assert_eq!(observation(&text, "ct-category"), ("ST", "not measured by this method", "P"));
    assert_eq!(observation(&text, "lung-volume-left").0, "NM");
    assert!(!fields(&text, "OBX").iter().any(|row| row[3].starts_with("lesion-")), "{text}");
}

#[test]
fn a_number_that_is_none_is_no_number_and_a_bound_says_so() {
    let mut findings = findings();
    findings.lung_volume_ml.left = 0.0;
    let lesions = findings.lesions.as_mut().unwrap();
    lesions.volume_ml.left = f64::NAN;
    lesions.fraction = Sides { left: 0.0, right: 0.0002 };
    findings.probability = Some(0.9999);
    let message = message(&source(), &outcome(Verdict::Flagged(findings)), CharacterSet::Utf8);
    let text = String::from_utf8(message.bytes).unwrap();
    for (code, want) in [
        ("lesion-fraction-left", ("NM", "", "X")),
        ("lesion-fraction-right", ("SN", "<^0.1", "P")),
        ("lung-volume-left", ("NM", "0.0", "P")),
        ("lesion-volume-left", ("NM", "", "X")),
        ("probability", ("SN", ">^0.99", "P")),
    ] {
        assert_eq!(observation(&text, code), want, "{code}");
    }
    assert!(text.contains("right <0.1 %, left no lung; identification score >0.99."), "{text}");
}

#[test]
fn a_later_revision_says_what_it_replaces() {
    let (source, outcome, identity) = (source(), not_evaluated(), identity());
    let later = Case { revision: 2, ..case(&source, None, &outcome, &identity) };
    let text = String::from_utf8(oru(&later, &site(CharacterSet::Utf8)).bytes).unwrap();
    assert_eq!(fields(&text, "NTE")[0], ["NTE", "1", "L", "REVISION 2 - REPLACES EARLIER RESULTS."]);
}

#[test]
fn a_name_that_can_not_be_read_is_left_out_and_the_sites_set_stays() {
    let damaged: &[(&[u8], &[u8], &str, &str)] = &[
        // Latin-1 beside no character set: the frequent case.
        (b"", b"Buc^J\xe9r\xf4me", "", "no character set"),
        (b"ISO_IR 192", b"Buc^J\xe9r\xf4me=\xe5\xb1\xb1", "", "character set ISO_IR 192"),
        (b"ISO_IR 192", b"Yamada^Tarou=\xe5\xb1", "Yamada^Tarou^^^^^L^A", "character set ISO_IR 192"),
    ];
    for (set, name, want, declared) in damaged {
        let source = study(&[
            (0x0008, 0x0005, set),
            (0x0010, 0x0010, name),
            (0x0010, 0x0020, b"17"),
            (0x0008, 0x0090, b"\xe9"),
            (0x0008, 0x1030, b"Thorax"),
            (0x0032, 0x1060, b"Sch\xe4del"),
        ]);
        let site_set = if name.ends_with(b"\xb1\xb1") { CharacterSet::Utf8 } else { CharacterSet::Iso8859_1 };
        let message = message(&source, &not_evaluated(), site_set);
        let text = String::from_utf8(message.bytes).unwrap();
        assert!(!text.contains('\u{fffd}'), "{text}");
        assert_eq!(fields(&text, "MSH")[0][17], site_set.name());
        let pid = &fields(&text, "PID")[0];
        assert_eq!(pid[3], "17^^^^PI");
        let group = if name.ends_with(b"\xb1\xb1") { "\u{5c71}^^^^^^L^I" } else { want };
        assert_eq!(pid.get(5).copied().unwrap_or_default(), group);
        assert_eq!(fields(&text, "PV1")[0].len(), 3, "no referring physician");
        assert_eq!(fields(&text, "OBR")[0][4], "^Thorax");
        let note = format!(
            "Left out, wholly or in part, as not readable: patient's name, referring physician's name, requested \
            procedure description. The study declares {declared}."
        );
        assert_eq!(fields(&text, "NTE").last().unwrap()[3], note);
    }
}

#[test]
fn a_site_separates_the_components_of_its_names_and_nothing_else() {
    let named = Site {
        sending_application: "APP^1.2.3^ISO".into(),
        receiving_facility: "St. Mary & Co|~\\^x".into(),
        ..site(CharacterSet::Utf8)
    };
    let (source, outcome, identity) = (source(), not_evaluated(), identity());
    let text = String::from_utf8(oru(&case(&source, None, &outcome, &identity), &named).bytes).unwrap();
    let msh = &fields(&text, "MSH")[0];
    assert_eq!((msh[2], msh[5]), ("APP^1.2.3^ISO", "St. Mary \\T\\ Co\\F\\\\R\\\\E\\^x"));
}

#[test]
fn the_control_id_is_the_content() {
    let (source, outcome, identity) = (source(), not_evaluated(), identity());
    let first = case(&source, None, &outcome, &identity);
    let later = Case { revision: 2, ..first };
    let utf8 = site(CharacterSet::Utf8);
    assert_eq!(oru(&first, &utf8), oru(&first, &utf8));
    let other = Site { receiving_facility: "B".into(), ..utf8.clone() };
    let ids = [oru(&first, &utf8), oru(&later, &utf8), oru(&first, &other)].map(|m| m.control_id);
    assert!(ids[0] != ids[1] && ids[0] != ids[2], "{ids:?}");
    let legal =
        |id: &String| id.len() == 20 && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    assert!(ids.iter().all(legal), "{ids:?}");
}

#[test]
fn an_accession_number_stands_for_a_missing_order() {
    let source = study(&[(0x0008, 0x0050, b"ACC-1 "), (0x0008, 0x1030, b"Thorax")]);
    let message = message(&source, &not_evaluated(), CharacterSet::Utf8);
    let text = String::from_utf8(message.bytes).unwrap();
    let obr = &fields(&text, "OBR")[0];
    assert_eq!((obr[2], obr[3], obr[4], obr[7], obr[18]), ("", "ACC-1", "^Thorax", "", "ACC-1"));
    let pid = &fields(&text, "PID")[0];
    assert_eq!(pid.len(), 2, "nothing is made up: {pid:?}");
}

/// Names in the character set of the header, the set of the site, the set of the message, PID-5.
const NAMES: &[(&str, &[u8], CharacterSet, &str, &str)] = &[
    ("ISO_IR 100", b"Buc^J\xe9r\xf4me", CharacterSet::Iso8859_1, "8859/1", "Buc^Jérôme^^^^^L^A"),
    ("ISO_IR 101", b"Wa\xb3\xeasa^Lech", CharacterSet::Iso8859_2, "8859/2", "Wałęsa^Lech^^^^^L^A"),
    ("ISO_IR 109", b"Borg^\xa1ad", CharacterSet::Iso8859_3, "8859/3", "Borg^Ħad^^^^^L^A"),
    ("ISO_IR 110", b"B\xbarzi\xf2\xb9", CharacterSet::Iso8859_4, "8859/4", "Bērziōš^^^^^^L^A"),
    ("ISO_IR 144", b"\xbb\xee\xda", CharacterSet::Iso8859_5, "8859/5", "Люк^^^^^^L^A"),
    ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea", CharacterSet::Iso8859_6, "8859/6", "قباني^^^^^^L^A"),
    ("ISO_IR 126", b"\xc4\xe9\xef\xed", CharacterSet::Iso8859_7, "8859/7", "Διον^^^^^^L^A"),
    ("ISO_IR 138", b"\xf9\xf8\xe5\xef", CharacterSet::Iso8859_8, "8859/8", "שרון^^^^^^L^A"),
    ("ISO_IR 148", b"\xdd\xfe\xf0", CharacterSet::Iso8859_9, "8859/9", "İşğ^^^^^^L^A"),
    // What the site's set can't write goes out in UTF-8.
    ("ISO_IR 144", b"\xbb\xee\xda", CharacterSet::Iso8859_1, "UNICODE UTF-8", "Люк^^^^^^L^A"),
    ("ISO_IR 100", b"J\xe9", CharacterSet::Iso8859_5, "UNICODE UTF-8", "Jé^^^^^^L^A"),
    ("ISO_IR 100", b"\xde", CharacterSet::Iso8859_9, "UNICODE UTF-8", "Þ^^^^^^L^A"),
    (
        "GB18030",
        b"Wang=\xcd\xf5^\xd0\xa1\xb6\xab",
        CharacterSet::Utf8,
        "UNICODE UTF-8",
        "Wang^^^^^^L^A~王^小东^^^^^L^I",
    ),
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        CharacterSet::Utf8,
        "UNICODE UTF-8",
        "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P",
    ),
    (
        "\\ISO 2022 IR 149",
        b"=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        CharacterSet::Utf8,
        "UNICODE UTF-8",
        "洪^吉洞^^^^^L^I~홍^길동^^^^^L^P",
    ),
    ("", b"\"\"^A^B", CharacterSet::Utf8, "UNICODE UTF-8", "^A^B^^^^L^A"),
];

/// What a peer could put into a name to write segments of its own.
const INJECTION: &[u8] = b"A|B&C~D\\E\r\nOBX|1|CWE|outcome^Triage\x0b\x1c\r\xc2\x85\xe2\x80\xa8\x7fend";

#[test]
fn no_name_writes_a_segment() {
    for character_set in [CharacterSet::Utf8, CharacterSet::Iso8859_1] {
        let clean = message(&source(), &not_evaluated(), CharacterSet::Utf8);
        let hostile = study(&[(0x0008, 0x0005, b"ISO_IR 192"), (0x0010, 0x0010, INJECTION)]);
        let text = String::from_utf8(message(&hostile, &not_evaluated(), character_set).bytes).unwrap();
        assert_eq!(text.matches('\r').count(), clean.bytes.iter().filter(|b| **b == b'\r').count());
        assert!(text.chars().all(|c| c == '\r' || !(c.is_control() || c == '\u{2028}')), "{text:?}");
        let want = "A\\F\\B\\T\\C\\R\\D\\E\\E\\X0D\\\\X0A\\OBX\\F\\1\\F\\CWE\\F\\outcome^\
            Triage\\X0B\\\\X1C\\\\X0D\\\\XC285\\\\XE280A8\\\\X7F\\end^^^^^L^A";
        assert_eq!(fields(&text, "PID")[0][5], want);
    }
}

/// python-hl7 parses every message and finds the fields under their numbers.
#[test]
fn a_peer_reads_every_field() {
    let script = r#"
import sys, pathlib
import hl7

CODECS = {"UNICODE UTF-8": "utf-8"} | {f"8859/{n}": f"iso8859_{n}" for n in range(1, 10)}
folder = pathlib.Path(sys.argv[1])
count = 0
for path in sorted(folder.glob("*.hl7")):
    raw = path.read_bytes()
    name, message_set = path.with_suffix(".txt").read_text(encoding="utf-8").split("\n")
    declared = raw.split(b"\r")[0].split(b"|")[17].decode("ascii")
    assert declared == message_set, (path, declared)
    message = hl7.parse(raw.decode(CODECS[declared]))
    assert str(message[0][18]) == message_set and str(message[0][12]) == "2.5.1"
    assert str(message[0][9]) == "ORU^R01^ORU_R01" and len(str(message[0][10])) == 20
    assert str(message.segment("PID")[5]) == name, (path, str(message.segment("PID")[5]), name)
    first, *others = message.segments("OBX")
    assert str(first[8]) == "AA" and str(first[5][0][1]) == "FLAGGED"
    assert all(str(row[8]) == "" for row in others)
    assert all(str(row[11]) == "P" for row in [first, *others])
    assert [str(row[1]) for row in message.segments("OBX")] == [str(n + 1) for n in range(len(others) + 1)]
    assert [str(segment[0]) for segment in message][:10] == ["MSH", "PID", "PV1", "ORC", "OBR", *["NTE"] * 4, "OBX"]
    assert str(message.segment("OBR")[25]) == "P"
    count += 1
print(count)
"#;
    let folder = tempfile::tempdir().unwrap();
    let flagged = outcome(Verdict::Flagged(findings()));
    let mut count = 0;
    for (set, name, character_set, message_set, want) in NAMES {
        let source = study(&[(0x0008, 0x0005, set.as_bytes()), (0x0010, 0x0010, name)]);
        let message = message(&source, &flagged, *character_set);
        std::fs::write(folder.path().join(format!("{count:02}.hl7")), message.bytes).unwrap();
        std::fs::write(folder.path().join(format!("{count:02}.txt")), format!("{want}\n{message_set}"))
            .unwrap();
        count += 1;
    }
    if let Some(said) = python("hl7", script, &[folder.path()]) {
        assert_eq!(said.trim(), count.to_string());
    }
}

/// The same without Python: declared, and right.
#[test]
fn names_in_every_set() {
    for (set, name, character_set, message_set, want) in NAMES {
        let source = study(&[(0x0008, 0x0005, set.as_bytes()), (0x0010, 0x0010, name)]);
        let message = message(&source, &not_evaluated(), *character_set);
        let segments: Vec<&[u8]> = message.bytes.split(|byte| *byte == b'\r').collect();
        let field = |segment: usize, number: usize| {
            segments[segment].split(|byte| *byte == b'|').nth(number).unwrap().to_vec()
        };
        assert_eq!(field(0, 17), message_set.as_bytes());
        let declared = if *message_set == "UNICODE UTF-8" { CharacterSet::Utf8 } else { *character_set };
        assert_eq!(field(1, 5), declared.encode(want).unwrap(), "{want}");
    }
}
