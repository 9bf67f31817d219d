//! Persons' names: from DICOM's component groups (PS3.5 section 6.2, PN) to HL7's repetitions (data types XPN and XCN).
use super::encoding::Encoder;

/// The component groups of DICOM, in their order, as HL7 table 4000 calls them.
const REPRESENTATIONS: [&str; 3] = ["A", "I", "P"];

/// `PN` as XPN: family, given, middle, suffix, prefix, degree, type (legal), representation. One repetition a group
/// that is not empty.
pub(super) fn xpn(name: &str, encoder: &Encoder) -> String {
    groups(name, encoder, |parts, representation| {
        let [family, given, middle, prefix, suffix] = parts;
        format!("{family}^{given}^{middle}^{suffix}^{prefix}^^L^{representation}")
    })
}

/// `PN` as XCN: the same after an id, which DICOM doesn't give; type in 10, representation in 15.
pub(super) fn xcn(name: &str, encoder: &Encoder) -> String {
    groups(name, encoder, |parts, representation| {
        let [family, given, middle, prefix, suffix] = parts;
        format!("^{family}^{given}^{middle}^{suffix}^{prefix}^^^^L^^^^^{representation}")
    })
}

fn groups(name: &str, encoder: &Encoder, write: impl Fn([String; 5], &str) -> String) -> String {
    let repetitions: Vec<String> = name
        .split('=')
        .zip(REPRESENTATIONS)
        .map(|(group, representation)| (components(group, encoder), representation))
        .filter(|(parts, _)| parts.iter().any(|part| !part.is_empty()))
        .map(|(parts, representation)| write(parts, representation))
        .collect();
    repetitions.join("~")
}

/// Family, given, middle, prefix, suffix. What follows a fifth component stays with the suffix.
fn components(group: &str, encoder: &Encoder) -> [String; 5] {
    let mut parts = group.splitn(5, '^').map(|part| encoder.escape(part.trim_matches(' ')));
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
