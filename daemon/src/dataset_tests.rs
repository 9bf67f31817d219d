//! Access by tag in both encodings, and hostile bytes.
use super::*;
use dicom_dictionary_std::tags;

const LIST: Tag = tags::REFERENCED_SOP_SEQUENCE;
const CLASS: Tag = tags::REFERENCED_SOP_CLASS_UID;
const INSTANCE: Tag = tags::REFERENCED_SOP_INSTANCE_UID;

fn implicit(bytes: &[u8]) -> DataSet<'_> {
    DataSet::new(bytes, uids::IMPLICIT_VR_LITTLE_ENDIAN).unwrap()
}

fn explicit(bytes: &[u8]) -> DataSet<'_> {
    DataSet::new(bytes, uids::EXPLICIT_VR_LITTLE_ENDIAN).unwrap()
}

fn tag(tag: Tag) -> Vec<u8> {
    [tag.group().to_le_bytes(), tag.element().to_le_bytes()].concat()
}

/// An explicit element with a 16-bit length.
fn short(of: Tag, vr: &[u8; 2], value: &str) -> Vec<u8> {
    [&tag(of)[..], vr, &(value.len() as u16).to_le_bytes(), value.as_bytes()].concat()
}

/// An explicit element with a 32-bit length.
fn long(of: Tag, vr: &[u8; 2], length: u32, value: &[u8]) -> Vec<u8> {
    [&tag(of)[..], vr, &[0, 0], &length.to_le_bytes(), value].concat()
}

fn item(length: u32, content: &[u8]) -> Vec<u8> {
    [&tag(ITEM)[..], &length.to_le_bytes(), content].concat()
}

fn end(of: Tag) -> Vec<u8> {
    [&tag(of)[..], &[0; 4]].concat()
}

#[test]
fn what_is_written_is_read() {
    let reference = |i: u32| Writer::default().uid(CLASS, "1.2.840").uid(INSTANCE, &format!("1.2.{i}"));
    let bytes = Writer::default()
        .text(tags::ACCESSION_NUMBER, "A1")
        .uid(tags::TRANSACTION_UID, "1.2.3")
        .u16(tags::FAILURE_REASON, 0x0112)
        .sequence(LIST, (0..3).map(reference))
        .finish();
    let set = implicit(&bytes);
    assert_eq!(set.text(tags::TRANSACTION_UID).unwrap().as_deref(), Some("1.2.3"));
    assert_eq!(set.value(tags::TRANSACTION_UID).unwrap(), Some(&b"1.2.3\0"[..]));
    assert_eq!(set.u16(tags::FAILURE_REASON).unwrap(), Some(0x0112));
    let items = set.items(LIST, 3).unwrap();
    let uids: Vec<_> = items.iter().map(|i| i.text(INSTANCE).unwrap().unwrap()).collect();
    assert_eq!(uids, ["1.2.0", "1.2.1", "1.2.2"]);
    assert_eq!(set.items(LIST, 2).unwrap_err(), DataSetError::TooManyItems { tag: LIST, max: 2 });
    assert!(set.items(tags::FAILED_SOP_SEQUENCE, 0).unwrap().is_empty());
    assert_eq!(set.text(tags::PATIENT_ID).unwrap(), None);
}

#[test]
fn defined_and_undefined_lengths_and_unknown_vrs_are_read_alike() {
    let content = short(INSTANCE, b"UI", "1.2.9\0");
    let lengths = item(content.len() as u32, &content);
    let delimited = [item(UNDEFINED, &content), end(Tag(0xFFFE, 0xE00D))].concat();
    // PS3.5 section 6.2.2 note 2: what is nested in UN is implicit.
    let hidden = Writer::default().uid(INSTANCE, "1.2.9").finish();
    let unknown = item(hidden.len() as u32, &hidden);
    let unknown_delimited = [item(UNDEFINED, &hidden), end(Tag(0xFFFE, 0xE00D))].concat();
    let closed = |items: &[u8]| [items, &end(SEQUENCE_END)].concat();
    let cases = [
        long(LIST, b"SQ", lengths.len() as u32, &lengths),
        long(LIST, b"SQ", UNDEFINED, &closed(&lengths)),
        long(LIST, b"SQ", delimited.len() as u32, &delimited),
        long(LIST, b"SQ", UNDEFINED, &closed(&delimited)),
        long(LIST, b"UN", unknown.len() as u32, &unknown),
        long(LIST, b"UN", UNDEFINED, &closed(&unknown)),
        long(LIST, b"UN", UNDEFINED, &closed(&unknown_delimited)),
    ];
    for (i, sequence) in cases.iter().enumerate() {
        let bytes = [&sequence[..], &short(tags::PATIENT_ID, b"LO", "P1")].concat();
        let set = explicit(&bytes);
        let items = set.items(LIST, 1).unwrap();
        assert_eq!(items.len(), 1, "case {i}");
        assert_eq!(items[0].text(INSTANCE).unwrap().as_deref(), Some("1.2.9"), "case {i}");
        assert_eq!(set.text(tags::PATIENT_ID).unwrap().as_deref(), Some("P1"), "case {i}");
    }
}

#[test]
fn hostile_bytes_are_errors() {
    let content = short(INSTANCE, b"UI", "1.2.9\0");
    let deep = [item(UNDEFINED, &[]), long(LIST, b"SQ", UNDEFINED, &[])].concat().repeat(200);
    let cases: &[(&str, Vec<u8>)] = &[
        ("a length that lies", long(LIST, b"SQ", 0xFFFF_FFF0, &item(0, &[]))),
        ("an item that lies", long(LIST, b"SQ", 8, &item(u32::MAX - 1, &[]))),
        ("a sequence without an end", long(LIST, b"SQ", UNDEFINED, &item(0, &[]).repeat(1000))),
        ("an item without an end", long(LIST, b"SQ", UNDEFINED, &item(UNDEFINED, &content))),
        ("an UN without an end", long(LIST, b"UN", UNDEFINED, &[0; 64])),
        ("too deep", long(LIST, b"SQ", UNDEFINED, &deep)),
        ("an element among the items", long(LIST, b"SQ", content.len() as u32, &content)),
        ("a delimiter at the top", end(SEQUENCE_END)),
        ("no VR", [&tag(LIST)[..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat()),
        ("half a header", tag(LIST)),
    ];
    for (what, bytes) in cases {
        let result = explicit(bytes).items(LIST, 10_000);
        assert!(matches!(result, Err(DataSetError::Broken { .. })), "{what}: {result:?}");
    }
    let wide = item(0, &[]).repeat(100_000);
    let wide = long(LIST, b"SQ", wide.len() as u32, &wide);
    assert!(matches!(explicit(&wide).items(LIST, 10_000), Err(DataSetError::TooManyItems { .. })));
}

#[test]
fn no_truncation_and_no_flipped_byte_panics() {
    let content = [short(CLASS, b"UI", "1.2\0"), short(INSTANCE, b"UI", "1.2.9\0")].concat();
    let delimited = [item(UNDEFINED, &content), end(Tag(0xFFFE, 0xE00D)), end(SEQUENCE_END)].concat();
    let whole = [
        long(LIST, b"SQ", UNDEFINED, &delimited),
        long(Tag(0x0009, 0x1001), b"UN", UNDEFINED, &[item(0, &[]), end(SEQUENCE_END)].concat()),
        short(tags::PATIENT_ID, b"LO", "P1"),
    ]
    .concat();
    let walk = |bytes: &[u8]| {
        for syntax in TRANSFER_SYNTAXES {
            let set = DataSet::new(bytes, syntax).unwrap();
            for item in set.items(LIST, 10).unwrap_or_default() {
                let _ = item.text(INSTANCE);
            }
            let _ = set.text(tags::PATIENT_ID);
        }
    };
    for length in 0..whole.len() {
        walk(&whole[..length]);
    }
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            walk(&bytes);
        }
    }
    assert!(DataSet::new(&whole, "1.2.840.10008.1.2.2").is_err(), "big endian");
}
