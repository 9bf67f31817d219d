//! The HL7 v2.5.1 message to the radiology information system: ORU^R01, an unsolicited observation.
//!
//! Owns what the message says, field by field. It frames and sends nothing, and decides no priority. Patient and order
//! identifiers come from the study's own header. Everything in it is preliminary (`P`): a machine reports, no reader.
//!
//! | segment | says |
//! |---|---|
//! | MSH | who to whom; MSH-10 follows from the content, so that a resend is the same message; MSH-18 the character set |
//! | PID, PV1 | patient; referring physician |
//! | ORC, OBR | placer, filler and accession number, requested procedure, times |
//! | NTE | the outcome in words: what it replaces, what it is not, what could not be read |
//! | OBX | outcome first, `AA` in OBX-8 when flagged; then the numbers, or the reason of none; then the UIDs |
mod encoding;
mod name;

pub use encoding::CharacterSet;

use crate::case::{Case, LO_MAX, ascii};
use crate::code::PRIVATE_SCHEME as SCHEME;
use crate::source::Tag;
use crate::uid;
use crate::words::{self, Number};
use encoding::{Encoder, Segment};
use study::lungs::Sides;
use study::{Findings, Verdict};

/// Longest NTE-3 that we write; the standard allows 65536.
const NOTE_MAX: usize = 500;

/// What is taken of the study as text and may be of any character set.
const TEXTS: &[(Tag, &str)] = &[
    (Tag(0x0010, 0x0010), "patient's name"),
    (Tag(0x0010, 0x0020), "patient ID"),
    (Tag(0x0010, 0x0021), "issuer of patient ID"),
    (Tag(0x0008, 0x0090), "referring physician's name"),
    (Tag(0x0008, 0x0050), "accession number"),
    (Tag(0x0008, 0x1030), "study description"),
    (Tag(0x0032, 0x1060), "requested procedure description"),
    (Tag(0x0040, 0x1001), "requested procedure ID"),
    (Tag(0x0040, 0x2016), "placer order number"),
    (Tag(0x0040, 0x2017), "filler order number"),
];

/// The two ends of the interface, as the site names them. A `^` separates the components of an HD (name, universal ID, its
/// type), as in `APP^1.2.3^ISO`; all else is text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// MSH-3.
    pub sending_application: String,
    /// MSH-4.
    pub sending_facility: String,
    /// MSH-5.
    pub receiving_application: String,
    /// MSH-6.
    pub receiving_facility: String,
    /// What the receiver reads. A message with a character outside of it goes out in UTF-8, and says so in MSH-18.
    pub character_set: CharacterSet,
}

/// A message, ready to be framed and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// MSH-10, 20 characters: one a site, study, source series, method, model version, station and revision. The
    /// acknowledgement repeats it in MSA-2.
    pub control_id: String,
    /// The segments, each ended by CR; without the framing of MLLP.
    pub bytes: Vec<u8>,
}

/// Says the outcome to a radiology information system.
pub fn oru(case: &Case<'_>, site: &Site) -> Message {
    let control_id = control_id(case, site);
    let encode = |character_set| {
        let writer = Writer { case, encoder: Encoder { character_set } };
        let text: String = writer.segments(site, &control_id).iter().map(Segment::write).collect();
        character_set.encode(&text)
    };
    // UTF-8 has them all; harming a name in silence is no choice.
    let bytes = encode(site.character_set).or_else(|| encode(CharacterSet::Utf8)).unwrap_or_default();
    Message { control_id, bytes }
}

/// HL7 v2.5.1 section 2.15.9.10: at most 20 characters; 103 bits of the derived UID.
fn control_id(case: &Case<'_>, site: &Site) -> String {
    let Site { sending_application, sending_facility, receiving_application, receiving_facility, .. } = site;
    let uid = uid::derive(&[
        &case.instance_uid("hl7"),
        sending_application,
        sending_facility,
        receiving_application,
        receiving_facility,
        site.character_set.name(),
    ]);
    let mut bits: u128 = uid.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    let mut digits = [b'0'; 20];
    for digit in &mut digits {
        *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[(bits % 36) as usize];
        bits /= 36;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// What the segments are made with.
struct Writer<'a> {
    case: &'a Case<'a>,
    encoder: Encoder,
}

impl Writer<'_> {
    fn segments(&self, site: &Site, control_id: &str) -> Vec<Segment> {
        let mut segments = vec![self.msh(site, control_id), self.pid(), self.pv1(), self.orc(), self.obr()];
        let mut notes = words::sentences(self.case.outcome, self.case.revision);
        notes.extend(self.left_out());
        segments.extend(notes.iter().zip(1..).map(|(note, number)| self.nte(number, note)));
        segments.extend(self.observations());
        segments
    }

    /// An attribute of the study, escaped; empty where a part of it can't be read.
    fn source(&self, group: u16, element: u16) -> String {
        let text = self.case.source.text(Tag(group, element));
        if is_damaged(&text) { String::new() } else { self.encoder.escape(&text) }
    }

    /// Says what was left out because it can't be read in the character set that the study declares.
    fn left_out(&self) -> Option<String> {
        let damaged = |(tag, _): &&(Tag, &str)| is_damaged(&self.case.source.text(*tag));
        let names: Vec<&str> = TEXTS.iter().filter(damaged).map(|(_, name)| *name).collect();
        let set = self.case.source.text(Tag(0x0008, 0x0005)).replace('\\', "/");
        let set = if set.is_empty() { "no character set".to_owned() } else { format!("character set {set}") };
        (!names.is_empty()).then(|| {
            format!(
                "Left out, wholly or in part, as not readable: {}. The study declares {set}.",
                names.join(", ")
            )
        })
    }

    /// Our own text: it must not force another character set upon the patient's name.
    fn own(&self, text: &str, length_max: usize) -> String {
        self.encoder.escape(&ascii(text, length_max))
    }

    /// The moment of the outcome (data type TS). Its time zone is the appliance's, as that of the study is the scanner's.
    fn when(&self) -> String {
        self.case.when.da() + &self.case.when.tm()
    }

    fn msh(&self, site: &Site, control_id: &str) -> Segment {
        // Data type HD: a `^` of the site's own separates name, universal ID and its type.
        let text = |text: &str| {
            let components: Vec<String> = text.split('^').map(|part| self.encoder.escape(part)).collect();
            components.join("^")
        };
        Segment::new("MSH")
            .put(2, "^~\\&")
            .put(3, text(&site.sending_application))
            .put(4, text(&site.sending_facility))
            .put(5, text(&site.receiving_application))
            .put(6, text(&site.receiving_facility))
            .put(7, self.when())
            .put(9, "ORU^R01^ORU_R01")
            .put(10, control_id)
            .put(11, "P") // Processing ID: production
            .put(12, "2.5.1")
            .put(18, self.encoder.character_set.name())
    }

    fn pid(&self) -> Segment {
        let (id, issuer) = (self.source(0x0010, 0x0020), self.source(0x0010, 0x0021));
        // CX: id, check digit and its scheme, assigning authority, type (table 0203: PI, patient internal).
        let id = if id.is_empty() { id } else { format!("{id}^^^{issuer}^PI") };
        // Table 0001 has DICOM's three values.
        let sex = self.case.source.text(Tag(0x0010, 0x0040));
        let sex = if matches!(sex.as_str(), "M" | "F" | "O") { sex } else { String::new() };
        let name = self.case.source.text(Tag(0x0010, 0x0010));
        Segment::new("PID")
            .put(1, "1")
            .put(3, id)
            .put(5, name::xpn(&name, &self.encoder))
            .put(7, digits(&self.case.source.text(Tag(0x0010, 0x0030)), 8))
            .put(8, sex)
    }

    fn pv1(&self) -> Segment {
        let referring = self.case.source.text(Tag(0x0008, 0x0090));
        // Table 0004, patient class: U, unknown. It is required, and the header doesn't tell.
        Segment::new("PV1").put(1, "1").put(2, "U").put(8, name::xcn(&referring, &self.encoder))
    }

    /// Placer and filler order number. Without the latter the accession number stands for it, as it does at most sites.
    fn order(&self) -> (String, String) {
        let (placer, filler) = (self.source(0x0040, 0x2016), self.source(0x0040, 0x2017));
        (placer, if filler.is_empty() { self.source(0x0008, 0x0050) } else { filler })
    }

    fn orc(&self) -> Segment {
        let (placer, filler) = self.order();
        // Table 0119: RE, observations to follow.
        Segment::new("ORC").put(1, "RE").put(2, placer).put(3, filler)
    }

    fn obr(&self) -> Segment {
        let (placer, filler) = self.order();
        let source = &self.case.source;
        let procedure = [self.source(0x0032, 0x1060), self.source(0x0008, 0x1030)];
        let procedure = procedure.iter().find(|text| !text.is_empty()).map_or("CT", String::as_str);
        let date = digits(&source.text(Tag(0x0008, 0x0020)), 8);
        let time = digits(&source.text(Tag(0x0008, 0x0030)), 6);
        Segment::new("OBR")
            .put(1, "1")
            .put(2, placer)
            .put(3, filler)
            .put(4, format!("^{procedure}")) // Universal Service Identifier: its text, there is no code
            .put(7, if date.len() == 8 { date + &time } else { String::new() })
            // IHE RAD TF-2 appendix B: these two carry the accession number and the requested procedure.
            .put(18, self.source(0x0008, 0x0050))
            .put(19, self.source(0x0040, 0x1001))
            .put(22, self.when())
            .put(24, "CT") // Table 0074
            .put(25, "P") // Table 0123: preliminary
    }

    fn nte(&self, number: u32, text: &str) -> Segment {
        Segment::new("NTE").put(1, number.to_string()).put(2, "L").put(3, self.own(text, NOTE_MAX))
    }

    fn observations(&self) -> Vec<Segment> {
        let outcome = self.case.outcome;
        let coded = |code: &str, text: &str| format!("{code}^{}^{SCHEME}", self.own(text, LO_MAX));
        // Table 0078: AA, very abnormal, the highest for what is no number. Not flagged is no "normal": it has none.
        let (code, flag) = match &outcome.verdict {
            Verdict::Flagged(_) => ("flagged", "AA"),
            Verdict::NotFlagged(_) => ("not-flagged", ""),
            Verdict::NotEvaluated(_) => ("not-evaluated", ""),
        };
        let verdict = words::verdict(&outcome.verdict);
        let mut rows = vec![
            self.obx("CWE", &coded("outcome", "Triage outcome"), coded(code, verdict)).put(8, flag),
            self.obx(
                "ST",
                &coded("priority", "Reading priority"),
                words::priority(outcome.priority()).to_owned(),
            ),
        ];
        match &outcome.verdict {
            Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => {
                rows.extend(self.measurements(findings));
            }
            Verdict::NotEvaluated(reason) => rows.push(self.obx(
                "TX",
                &coded("reason", "Reason of no evaluation"),
                self.own(&reason.to_string(), 500),
            )),
        }
        let uid = |code: &str, text: &str, uid: &str| {
            self.obx("ST", &format!("{code}^{text}^DCM"), self.encoder.escape(uid))
        };
        rows.push(uid("110180", "Study Instance UID", outcome.study_uid.as_str()));
        if let Some(series) = &outcome.series_uid {
            rows.push(uid("112002", "Series Instance UID", series.as_str()));
        }
        rows.into_iter().zip(1..).map(|(row, number)| row.put(1, number.to_string())).collect()
    }

    fn measurements(&self, findings: &Findings) -> Vec<Segment> {
        let method = format!(
            "^{}^{SCHEME}",
            self.own(&format!("{} version {}", findings.method, findings.model_version), 200)
        );
        let number = |code: &str, text: &str, value: Option<Number>, unit: &str| {
            let identifier = format!("{code}^{text}^{SCHEME}");
            let (value_type, value, status) = match value {
                // SN, structured numeric: comparator and number.
                Some(Number { comparator, digits }) if !comparator.is_empty() => {
                    ("SN", format!("{comparator}^{digits}"), "P")
                }
                Some(Number { digits, .. }) => ("NM", digits, "P"),
                // Table 0085: X, no result can be obtained.
                None => ("NM", String::new(), "X"),
            };
            self.obx(value_type, &identifier, value).put(6, unit).put(11, status)
        };
        let both = |code: &str, text: &str, sides: Sides<Option<Number>>, unit: &str| {
            [("right", sides.right), ("left", sides.left)].map(|(side, value)| {
                number(&format!("{code}-{side}"), &format!("{text}, {side}"), value, unit)
            })
        };
        let probability = |p| number("probability", words::SCORE, words::score(p), "1^no units^UCUM");
        let mut rows: Vec<Segment> = findings.probability.map(probability).into_iter().collect();
        let category =
            findings.category().map_or(words::NOT_MEASURED.to_owned(), |category| category.to_string());
        rows.push(self.obx(
            "ST",
            &format!("ct-category^CT category of the more affected lung^{SCHEME}"),
            self.own(&category, LO_MAX),
        ));
        let (percent, millilitre) = ("%^percent^UCUM", "mL^milliliter^UCUM");
        let fraction = "Lesion volume as percent of lung volume";
        let lung_ml = findings.lung_volume_ml;
        // Of no lung there is no share, and above all none of 0 %.
        let share = |share, lung_ml| words::percent(share).filter(|_| words::has_lung(lung_ml));
        let shares = |of: Sides<f64>| Sides {
            right: share(of.right, lung_ml.right),
            left: share(of.left, lung_ml.left),
        };
        let volumes = |sides: Sides<f64>| sides.map(|ml| words::millilitres(ml, 1));
        // What the method doesn't measure is left out; the category says so.
        if let Some(lesions) = findings.lesions {
            rows.extend(both("lesion-fraction", fraction, shares(lesions.fraction), percent));
        }
        rows.extend(both("lung-volume", "Lung volume", volumes(lung_ml), millilitre));
        if let Some(lesions) = findings.lesions {
            rows.extend(both("lesion-volume", "Lesion volume", volumes(lesions.volume_ml), millilitre));
        }
        rows.into_iter().map(|row| row.put(17, method.as_str())).collect()
    }

    /// An observation; `value` is escaped.
    fn obx(&self, value_type: &str, identifier: &str, value: String) -> Segment {
        let identity = self.case.identity;
        let equipment =
            format!("{}^{}", self.own(&identity.station, LO_MAX), self.own(&identity.model, LO_MAX));
        Segment::new("OBX")
            .put(2, value_type)
            .put(3, identifier)
            .put(5, value)
            .put(11, "P") // Table 0085: preliminary
            .put(14, self.when())
            .put(18, equipment)
    }
}

/// Whether bytes of it have no meaning in the character set that the study declares, most often Latin-1 beside none. What
/// is left must not be filed as a name, and U+FFFD would force UTF-8 upon a site that reads another set.
fn is_damaged(text: &str) -> bool {
    text.contains(char::REPLACEMENT_CHARACTER)
}

/// The digits at the beginning of a date or time of DICOM, at most `most` and an even number of them. Dates of before
/// DICOM have points and times colons (PS3.5 section 6.2, notes to DA and TM).
fn digits(value: &str, most: usize) -> String {
    let mut digits: String = value
        .chars()
        .filter(|c| !matches!(c, ':' | '.' | '-'))
        .take_while(char::is_ascii_digit)
        .take(most)
        .collect();
    digits.truncate(digits.len() / 2 * 2);
    digits
}

#[cfg(test)]
mod tests;
