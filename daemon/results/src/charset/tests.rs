use super::*;
use crate::testing::python;
use std::fmt::Write;

/// Specific Character Set, the bytes of a name, the name. Those of three component groups and most others are the
/// examples of PS3.5 annexes H to K and of the standard's own test values.
const NAMES: &[(&str, &[u8], &str)] = &[
    ("", b"Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams^John Robert Quincy^^Rev.^B.A. M.Div."),
    ("ISO_IR 100", b"\xc4neas^R\xfcdiger", "Äneas^Rüdiger"),
    ("ISO_IR 100 ", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    ("ISO_IR 101", b"Wa\xb3\xeasa^Lech", "Wałęsa^Lech"),
    ("ISO_IR 109", b"Borg^\xa1ad", "Borg^Ħad"),
    ("ISO_IR 110", b"B\xbarzi\xf2\xb9", "Bērziōš"),
    ("ISO_IR 144", b"\xbb\xee\xda\x63\x65\xdc\xd1yp\xd3", "Люкceмбypг"),
    ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"),
    ("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
    ("ISO_IR 138", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"),
    ("ISO_IR 148", b"\xc7avu\xfeo\xf0lu^I\xfe\xfdl \xddsmet", "Çavuşoğlu^Işıl İsmet"),
    ("ISO_IR 166", b"\xb9\xd2\xc2\xca\xc1\xaa\xd2\xc2", "นายสมชาย"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東=".as_bytes(), "Wang^XiaoDong=王^小東="),
    ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东="),
    ("GB18030", b"\x95\x32\x82\x36^\xcd\xf5", "𠀀^王"),
    ("GBK", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东="),
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    // PS3.5 section 6.2.1.2: JIS X 0212 beside JIS X 0208.
    ("ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 159", b"A=\x1b$(D\x30\x21\x1b$B;3\x1b(B^B", "A=丂山^B"),
    (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    (
        "ISO 2022 IR 6\\ISO 2022 IR 126\\ISO 2022 IR 144",
        b"Dionysios^\x1b-F\xc4\xe9\xef^\x1b-L\xbb\xee\xda",
        "Dionysios^Διο^Люк",
    ),
    // The initial set comes back at the delimiter.
    ("ISO 2022 IR 100\\ISO 2022 IR 144", b"\xc4\x1b-L\xbb^\xc4=\x1b-L\xee\x1b-A\xc4", "ÄЛ^Ä=юÄ"),
];

/// What the standard forbids, or what means nothing.
const HOSTILE: &[(&str, &[u8], &str)] = &[
    // Allowed, but pydicom takes the bytes of a character that look like ^, = and \ for delimiters.
    ("\\ISO 2022 IR 87", b"A=\x1b$B=U\x3b\x5e0\x5c\x1b(B^B", "A=春枝移^B"),
    ("", b"\xff\xfe^J\x80", "\u{fffd}\u{fffd}^J\u{fffd}"),
    ("no such set", b"A\xe9", "A\u{fffd}"),
    ("ISO_IR 100\\", b"\x1b", "\u{fffd}"),
    ("ISO_IR 100", b"\x1b$Z\xe9", "\u{fffd}$Zé"),
    ("\\ISO 2022 IR 87", b"\x1b$B;", "\u{fffd}"),
    ("\\ISO 2022 IR 87", b"\x1b$B;3E\xff", "山\u{fffd}\u{fffd}"),
    ("\\ISO 2022 IR 87", b"\x1b$B;3\nA", "山\nA"),
    ("\\ISO 2022 IR 149", b"\x1b$)C\xfbA^\xff", "\u{fffd}A^\u{fffd}"),
    ("\\ISO 2022 IR 149", b"\x1b$)C\xfb", "\u{fffd}"),
    ("ISO_IR 192", b"A\xc3", "A\u{fffd}"),
    ("ISO_IR 192", b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
    ("GB18030", b"A\x81", "A\u{fffd}"),
    // Escape sequences that the sender forgot, and one that it did not announce.
    ("\\ISO 2022 IR 149", b"\xfb\xf3^\xd1\xce\xd4\xd7", "洪^吉洞"),
    ("ISO 2022 IR 149", b"\xfb\xf3^\xd1\xce\xd4\xd7", "洪^吉洞"),
    ("ISO-IR 100", b"\x1b$B;3\x1b(B\xe9", "山é"),
    ("ISO_IR 13", b"~\xb1\xe0", "\u{203e}ｱ\u{fffd}"),
];

#[test]
fn names() {
    for (set, bytes, want) in NAMES.iter().chain(HOSTILE) {
        assert_eq!(decode_name(bytes, set), *want, "{set} {}", bytes.escape_ascii());
    }
}

#[test]
fn only_names_have_components() {
    let greek = b"\x1b-F\xc4=\xe9^\xef\\\xc4";
    assert_eq!(decode(greek, "ISO 2022 IR 100\\ISO 2022 IR 126"), "Δ=ι^ο\\Ä");
    assert_eq!(decode_name(greek, "ISO 2022 IR 100\\ISO 2022 IR 126"), "Δ=é^ï\\Ä");
}

#[test]
fn pydicom_reads_the_same() {
    let script = r#"
import sys
from pydicom.charset import convert_encodings
from pydicom.valuerep import PersonName
for line in open(sys.argv[1], encoding="ascii"):
    terms, raw, text = (bytes.fromhex(word) for word in line.rstrip("\n").split("|"))
    encodings = convert_encodings(terms.decode().strip().split("\\"))
    theirs = str(PersonName(raw, encodings).decode())
    # It leaves the escape sequences of GB 2312 in the text, where Python 3.11 does not strip them.
    theirs = theirs.replace("\x1b$)A", "")
    # It leaves out empty component groups at the end.
    assert theirs == text.decode().rstrip("="), (terms, raw, theirs, text.decode())
print("same")
"#;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    };
    let lines: Vec<String> = NAMES
        .iter()
        .map(|(set, bytes, _)| {
            [hex(set.as_bytes()), hex(bytes), hex(decode_name(bytes, set).as_bytes())].join("|")
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    if let Some(said) = python("pydicom", script, &[file.path()]) {
        assert_eq!(said.trim(), "same");
    }
}

/// Every byte after every escape sequence, and bytes at random: no panic, and no more text than was promised.
#[test]
fn any_bytes_are_some_text() {
    let sets =
        ["", "\\ISO 2022 IR 87", "ISO_IR 13", "ISO_IR 192", "GB18030", "GBK", "ISO 2022 IR 58", "\\\\\\"];
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for set in sets {
        for (sequence, ..) in ESCAPES {
            for _ in 0..64 {
                let mut bytes: Vec<u8> = (0..usize::from(random() % 9)).map(|_| random()).collect();
                bytes.push(ESCAPE);
                bytes.extend(*sequence);
                bytes.extend((0..usize::from(random() % 40)).map(|_| random()));
                let text = decode_name(&bytes, set);
                assert!(text.len() <= 3 * bytes.len(), "{set} {}", bytes.escape_ascii());
            }
        }
    }
}
