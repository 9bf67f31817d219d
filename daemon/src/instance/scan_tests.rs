use super::*;
use crate::dataset::element::ITEM_END;
use crate::instance::header::wanted;
use crate::instance::testing::{SMALL, slice, write};
use crate::instance::{Instance, read_pixels};
use dicom_dictionary_std::tags;
use std::path::Path;

/// A file in `transfer_syntax`, as bytes.
fn file(transfer_syntax: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    write(slice(SMALL, "1.2.3.4"), transfer_syntax, &path);
    std::fs::read(path).unwrap()
}

/// Wanted elements in a test slice: all but Modality and Manufacturer.
const ELEMENTS: usize = 32;

/// Offset of the element with this tag, found by its bytes.
fn find(bytes: &[u8], tag: Tag) -> usize {
    let needle = [tag.group().to_le_bytes(), tag.element().to_le_bytes()].concat();
    PREAMBLE_BYTES + bytes[PREAMBLE_BYTES..].windows(4).position(|w| w == needle).unwrap()
}

/// Inserts `extra` before an element; the walk doesn't mind the order of tags.
fn insert(bytes: &[u8], before: Tag, extra: &[u8]) -> Vec<u8> {
    let at = find(bytes, before);
    [&bytes[..at], extra, &bytes[at..]].concat()
}

fn undefined(tag: Tag, vr: &[u8; 2]) -> Vec<u8> {
    [&tag.group().to_le_bytes()[..], &tag.element().to_le_bytes(), vr, &[0, 0], &[0xFF; 4]].concat()
}

fn delimiter(tag: Tag, length: u32) -> Vec<u8> {
    [&tag.group().to_le_bytes()[..], &tag.element().to_le_bytes(), &length.to_le_bytes()].concat()
}

#[test]
fn explicit_and_implicit_give_the_same_elements() {
    let explicit = scan(&file(EXPLICIT_LITTLE), &wanted()).unwrap();
    let implicit = scan(&file(IMPLICIT_LITTLE), &wanted()).unwrap();
    assert_eq!(explicit.elements, implicit.elements);
    assert_eq!(explicit.elements.len(), ELEMENTS);
    let length = 2 * usize::from(SMALL.rows) * usize::from(SMALL.columns);
    for scan in [&explicit, &implicit] {
        assert!(matches!(scan.location, PixelLocation::Native { length: l, .. } if l == length));
    }
    let kernel = explicit.get(tags::CONVOLUTION_KERNEL).unwrap();
    assert_eq!((kernel.vr, &kernel.value[..]), (VR::SH, &b"B40f\\2"[..]));
}

#[test]
fn a_bare_data_set_is_guessed() {
    for syntax in [EXPLICIT_LITTLE, IMPLICIT_LITTLE] {
        let bytes = file(syntax);
        let bare = scan(&bytes[find(&bytes, tags::SPECIFIC_CHARACTER_SET)..], &wanted()).unwrap();
        assert_eq!(bare.transfer_syntax, syntax);
        assert_eq!(bare.elements.len(), ELEMENTS);
        let meta = scan(&bytes[PREAMBLE_BYTES + 4..], &wanted()).unwrap();
        assert_eq!((meta.transfer_syntax.as_str(), meta.elements.len()), (syntax, ELEMENTS));
    }
}

#[test]
fn nested_elements_are_skipped() {
    let bytes = file(EXPLICIT_LITTLE);
    // An UN element whose content is implicit VR, although the file is explicit (PS3.5 section 6.2.2 note 2), with a
    // nested sequence that holds a study UID of its own.
    let inner_uid = [&delimiter(tags::STUDY_INSTANCE_UID, 4)[..], b"9.9\0"].concat();
    let private = Tag(0x0009, 0x1010);
    let implicit_sequence = [
        &delimiter(Tag(0x0008, 0x1140), UNDEFINED)[..],
        &delimiter(ITEM, UNDEFINED),
        &inner_uid,
        &delimiter(ITEM_END, 0),
        &delimiter(SEQUENCE_END, 0),
    ]
    .concat();
    let un = [
        &undefined(private, b"UN")[..],
        &delimiter(ITEM, UNDEFINED),
        &implicit_sequence,
        &inner_uid,
        &delimiter(ITEM_END, 0),
        &delimiter(ITEM, inner_uid.len() as u32),
        &inner_uid,
        &delimiter(SEQUENCE_END, 0),
    ]
    .concat();
    // The same as an explicit sequence.
    let explicit_uid = [&delimiter(tags::STUDY_INSTANCE_UID, 0)[..4], b"UI\x04\0", b"9.9\0"].concat();
    let sq = [
        &undefined(private, b"SQ")[..],
        &delimiter(ITEM, UNDEFINED),
        &explicit_uid,
        &delimiter(ITEM_END, 0),
        &delimiter(SEQUENCE_END, 0),
    ]
    .concat();
    let plain = scan(&bytes, &wanted()).unwrap();
    for extra in [un, sq] {
        let with = scan(&insert(&bytes, tags::PATIENT_NAME, &extra), &wanted()).unwrap();
        assert_eq!(with.elements, plain.elements);
        assert!(matches!(with.location, PixelLocation::Native { .. }), "{:?}", with.location);
    }
}

/// A text element in explicit VR, or in implicit VR.
fn text(tag: Tag, vr: Option<&[u8; 2]>, value: &str) -> Vec<u8> {
    let length = value.len() as u16;
    let length =
        vr.map_or(u32::from(length).to_le_bytes().to_vec(), |vr| [&vr[..], &length.to_le_bytes()].concat());
    [&tag.group().to_le_bytes()[..], &tag.element().to_le_bytes(), &length, value.as_bytes()].concat()
}

/// A sequence of items of defined or undefined length.
fn sequence(vr: &[u8; 2], defined: bool, items: &[Vec<u8>]) -> Vec<u8> {
    let item = |content: &Vec<u8>| match defined {
        true => [&delimiter(ITEM, content.len() as u32)[..], content].concat(),
        false => [&delimiter(ITEM, UNDEFINED)[..], content, &delimiter(ITEM_END, 0)].concat(),
    };
    let items = items.iter().flat_map(item).collect::<Vec<u8>>();
    let mut element = undefined(REQUEST_ATTRIBUTES, vr);
    if defined {
        element.truncate(8);
        return [element, (items.len() as u32).to_le_bytes().to_vec(), items].concat();
    }
    [element, items, delimiter(SEQUENCE_END, 0)].concat()
}

const DESCRIPTION: Tag = REQUESTED[0];
const ID: Tag = REQUESTED[1];

/// What is found of the order: description and ID.
fn order(bytes: &[u8]) -> (String, String) {
    let found = scan(bytes, &wanted()).unwrap();
    assert!(matches!(found.location, PixelLocation::Native { .. }), "{:?}", found.location);
    let of = |tag| {
        let values: Vec<_> = found.elements.iter().filter(|e| e.tag == tag).collect();
        assert!(values.len() < 2, "{tag} twice");
        values.first().map_or(String::new(), |e| String::from_utf8(e.value.clone()).unwrap())
    };
    (of(DESCRIPTION), of(ID))
}

#[test]
fn the_order_is_what_the_first_item_says_else_the_top_level() {
    let bytes = file(EXPLICIT_LITTLE);
    let item = |vr: bool, description: &str, id: &str| {
        let vr = |name| vr.then_some(name);
        [text(DESCRIPTION, vr(b"LO"), description), text(ID, vr(b"SH"), id)].concat()
    };
    let top = item(true, "TOP ", "T1");
    let said =
        |sequence: &[u8], top: &[u8]| order(&insert(&bytes, tags::PIXEL_DATA, &[sequence, top].concat()));
    let of = |description: &str, id: &str| (description.to_owned(), id.to_owned());
    assert_eq!(order(&bytes), of("", ""));
    assert_eq!(said(&[], &top), of("TOP ", "T1"));
    for defined in [true, false] {
        let both = sequence(b"SQ", defined, &[item(true, "CT chest", "RP"), item(true, "SECOND", "R2")]);
        assert_eq!(said(&both, &[]), of("CT chest", "RP"));
        // Before the sequence or behind it: what it says goes before.
        assert_eq!(said(&both, &top), of("CT chest", "RP"));
        assert_eq!(said(&top, &both), of("CT chest", "RP"));
        let again = sequence(b"SQ", defined, &[item(true, "AGAIN ", "R3")]);
        assert_eq!(said(&both, &again), of("CT chest", "RP"), "the first of two sequences");
        // Nested once more, it is another's; an UN element is implicit inside.
        let code =
            [undefined(Tag(0x0032, 0x1064), b"SQ"), delimiter(ITEM, UNDEFINED), item(true, "NO", "NO")]
                .concat();
        let code = [code, delimiter(ITEM_END, 0), delimiter(SEQUENCE_END, 0)].concat();
        let nested = sequence(b"SQ", defined, &[[code, text(ID, Some(b"SH"), "RP")].concat()]);
        assert_eq!(said(&nested, &top), of("TOP ", "RP"));
        let un = sequence(b"UN", defined, &[item(false, "CT chest", "RP")]);
        assert_eq!(said(&un, &top), of("CT chest", "RP"));
        for nothing in [vec![], vec![vec![]], vec![item(true, "", "  ")]] {
            assert_eq!(said(&sequence(b"SQ", defined, &nothing), &top), of("TOP ", "T1"));
        }
        // A character set of its own: the results have the data set's.
        for (set, want) in [("ISO_IR 100", "J\u{fffd}"), ("ISO_IR 192", "TOP ")] {
            let mut own = text(tags::SPECIFIC_CHARACTER_SET, Some(b"CS"), set);
            own.extend(text(DESCRIPTION, Some(b"LO"), "J\u{fffd}"));
            own.extend(text(ID, Some(b"SH"), "RP"));
            assert_eq!(said(&sequence(b"SQ", defined, &[own]), &top), of(want, "RP"));
        }
    }
    // What is broken inside of a length breaks nothing behind it.
    let broken = [text(ID, Some(b"SH"), "RP"), b"\x40\0\0\x20LO\xff\xffab".to_vec()].concat();
    assert_eq!(said(&sequence(b"SQ", true, &[broken]), &top), of("TOP ", "RP"));
    let long = sequence(b"SQ", true, &[item(true, &"x".repeat(VALUE_BYTES_MAX + 2), "RP")]);
    assert_eq!(said(&long, &[]), of("", "RP"));
}

/// Regression: dicom-rs took 1.78 GB for such a file of 0.5 MB.
#[test]
fn an_undefined_length_un_element_takes_no_memory() {
    let bytes = file(EXPLICIT_LITTLE);
    let private = Tag(0x2001, 0x105F);
    let start = undefined(private, b"UN");
    let item = delimiter(ITEM, UNDEFINED);
    let sequence = delimiter(Tag(0x2005, 0x1080), UNDEFINED);
    // As deep as half a megabyte allows, and as many empty items, and no end at all.
    let deep = [&item[..], &sequence].concat().repeat(32_000);
    let wide = [delimiter(ITEM, 0).repeat(64_000), delimiter(SEQUENCE_END, 0)].concat();
    let endless = delimiter(ITEM, 0).repeat(64_000);
    let cases = [
        ("deep", deep, Some("nested")),
        ("wide", wide, None),
        ("endless", endless, Some("between the items")),
    ];
    for (name, content, want) in cases {
        let hostile = insert(&bytes, Tag(0x0028, 0x0002), &[&start[..], &content].concat());
        assert!(hostile.len() > 500_000);
        let found = scan(&hostile, &wanted()).unwrap();
        let held: usize = found.elements.iter().map(|e| e.value.capacity()).sum();
        assert!(held < 2048 && found.elements.capacity() <= 64, "{name}: {held} bytes");
        match (want, &found.location) {
            (None, PixelLocation::Native { .. }) => assert_eq!(found.elements.len(), ELEMENTS),
            (Some(words), PixelLocation::Damaged { what }) => assert!(what.contains(words), "{name}: {what}"),
            (_, location) => panic!("{name}: {location:?}"),
        }
    }
}

#[test]
fn a_wanted_element_is_kept_once_and_never_large() {
    let bytes = file(EXPLICIT_LITTLE);
    let twice = [&delimiter(tags::PATIENT_ID, 0)[..4], b"LO\x04\0evil"].concat().repeat(20_000);
    let found = scan(&insert(&bytes, tags::PATIENT_BIRTH_DATE, &twice), &wanted()).unwrap();
    assert_eq!(found.elements.len(), ELEMENTS);
    assert_eq!(found.get(tags::PATIENT_ID).unwrap().value, b"P1");
    let long =
        [&delimiter(tags::PATIENT_NAME, 0)[..4], b"UT\0\0", &100_000u32.to_le_bytes(), &[b'x'; 100_000]]
            .concat();
    let found = scan(&insert(&bytes, tags::PATIENT_NAME, &long), &wanted()).unwrap();
    assert_eq!(found.get(tags::PATIENT_NAME).unwrap().value, b"Phantom^Test");
}

#[test]
fn what_is_no_dicom_is_named() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "an empty file"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PK\x03\x04....", "ZIP"),
        (b"hello, this is a report\n", "a text"),
        (b"\x00\x01\x02\x03", "unknown data"),
        (b"\x08\x00\x05\x00", "broken DICOM"),
        (b"\x00\x08\x00\x05\x00\x00\x00\x00", "big endian"),
    ];
    for (bytes, want) in cases {
        let error = Instance::parse(Path::new("folder/file"), bytes).unwrap_err().to_string();
        assert!(error.contains(want) && error.starts_with("folder/file: "), "{error}");
    }
    let mut deflated = file(EXPLICIT_LITTLE);
    let at = find(&deflated, TRANSFER_SYNTAX) + 8;
    deflated.splice(at - 2..at + 20, [&[22, 0][..], b"1.2.840.10008.1.2.1.99"].concat());
    let error = scan(&deflated, &wanted()).unwrap_err().to_string();
    assert!(error.contains("deflated"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused_or_known_as_damaged() {
    let bytes = file(EXPLICIT_LITTLE);
    let (mut refused, mut damaged) = (0, 0);
    for end in 0..bytes.len() {
        match Instance::parse(Path::new("cut"), &bytes[..end]) {
            Err(_) => refused += 1,
            Ok(instance) => {
                // Cut between two elements, the file is whole but has no pixels: then they can't be read either.
                damaged += 1;
                assert!(read_pixels(&instance).is_err(), "cut at {end}");
            }
        }
    }
    assert!(refused > 300 && damaged > 1000, "{refused} {damaged}");
}

/// xorshift64*: repeatable, and no dependency.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> ELEMENTS) as usize % n
    }
}

#[test]
fn mutated_files_never_panic_nor_hold_more_than_the_table() {
    let mut random = Random(0x7269_6167_6564);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutant");
    for syntax in [EXPLICIT_LITTLE, IMPLICIT_LITTLE] {
        let original = file(syntax);
        let header_bytes = find(&original, tags::PIXEL_DATA) + 12;
        let mut whole = 0;
        for round in 0..5000 {
            let mut bytes = original.clone();
            for _ in 0..=random.below(6) {
                let at = PREAMBLE_BYTES + random.below(header_bytes - PREAMBLE_BYTES);
                bytes[at] = match random.below(3) {
                    0 => 0xFF,
                    1 => 0,
                    _ => random.below(256) as u8,
                };
            }
            if random.below(4) == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            let Ok(found) = scan(&bytes, &wanted()) else { continue };
            let held: usize = found.elements.iter().map(|e| e.value.capacity()).sum();
            assert!(held <= bytes.len(), "round {round}");
            if let Ok(instance) = Instance::parse(&path, &bytes) {
                // Every 20th also through the pixels: those need the file.
                if round % 20 == 0 {
                    std::fs::write(&path, &bytes).unwrap();
                    whole += usize::from(read_pixels(&instance).is_ok());
                }
            }
        }
        assert!(whole > 10, "{whole} of the mutants were still read");
    }
}
