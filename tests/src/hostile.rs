//! Files that are made to cost memory.
use dimse::uids;

/// An explicit-VR element with a short length.
fn element(group: u16, number: u16, vr: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = [group.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.extend(vr.as_bytes());
    bytes.extend((value.len() as u16).to_le_bytes());
    bytes.extend(value);
    bytes
}

const UNDEFINED: [u8; 4] = [0xFF; 4];
const ITEM: [u8; 4] = [0xFE, 0xFF, 0x00, 0xE0];

const ITEM_END: [u8; 8] = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0];
const SEQUENCE_END: [u8; 8] = [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
/// A private element, as its tag in little endian.
const PRIVATE: [u8; 4] = [0x09, 0x00, 0x01, 0x10];

/// A CT header with a private UN element of undefined length, half a megabyte of `content`, then `end`.
/// dicom-rs took 1.78 GB and 7.4 s for one (its issue 169).
fn bomb(uid: &str, content: &[u8], end: &[u8]) -> Vec<u8> {
    let text = |value: &str| {
        let mut bytes = value.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    };
    let mut bytes = element(0x0008, 0x0016, "UI", &text(uids::CT_IMAGE_STORAGE));
    bytes.extend(element(0x0008, 0x0018, "UI", &text(uid)));
    bytes.extend([&PRIVATE[..], b"UN\0\0", &UNDEFINED].concat());
    let times = 500_000 / (content.len() + end.len());
    bytes.extend(content.repeat(times));
    // Items that nest end as often as they begin.
    bytes.extend(end.repeat(if end.is_empty() { 0 } else { times }));
    bytes.extend(SEQUENCE_END);
    bytes.extend(element(0x0020, 0x000D, "UI", &text(uid)));
    bytes.extend(element(0x0020, 0x000E, "UI", &text(&format!("{uid}.1"))));
    bytes
}

/// The bombs: UID, data set, and whether it can be filed.
pub fn bombs() -> [(&'static str, Vec<u8>, bool); 3] {
    // PS3.5 section 6.2.2: the content of such a UN element is implicit VR little endian, and may nest.
    let nested = [&ITEM[..], &UNDEFINED, &PRIVATE, &UNDEFINED].concat();
    let nested_end = [SEQUENCE_END, ITEM_END].concat();
    let empty_items = [&ITEM[..], &[0; 4]].concat();
    let small_elements = [&ITEM[..], &10u32.to_le_bytes(), &PRIVATE, &[2, 0, 0, 0, b'a', b'b']].concat();
    [
        ("2.25.801", bomb("2.25.801", &nested, &nested_end), false),
        ("2.25.802", bomb("2.25.802", &empty_items, &[]), true),
        ("2.25.803", bomb("2.25.803", &small_elements, &[]), true),
    ]
}
