//! What every result of an outcome is made from, and what all of them share: patient, study and equipment attributes,
//! UIDs, and the finished object. It draws and decides nothing.
use crate::dataset::{self, DataSet};
use crate::source::{SOURCE_TAGS, SourceSeries, SourceStudy, Tag};
use crate::time::DateTime;
use crate::uid;
use study::Outcome;

/// Longest LO value (PS3.5 section 6.2).
pub(crate) const LO_MAX: usize = 64;
/// Longest SH value.
pub(crate) const SH_MAX: usize = 16;
/// Longest ST value.
pub(crate) const ST_MAX: usize = 1024;

/// Who made the result: the appliance, as its configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Manufacturer (0008,0070).
    pub manufacturer: String,
    /// Manufacturer's Model Name (0008,1090).
    pub model: String,
    /// Software Versions (0018,1020).
    pub software_version: String,
    /// Station Name (0008,1010).
    pub station: String,
    /// Device Serial Number (0018,1000): of this installation, drawn once with its database. Part of the UIDs: neither two
    /// appliances of the same name may share any, nor an appliance before and after its disk was replaced.
    pub installation: String,
}

/// One revision of one study's outcome, with all that its results repeat.
///
/// With the same case every byte of a result is the same, so a receiver that got it twice has it once.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Patient and study attributes, as received.
    pub source: &'a SourceStudy,
    /// The evaluated series; `None` where there is none.
    pub series: Option<&'a SourceSeries>,
    /// The answer.
    pub outcome: &'a Outcome,
    /// Who gives it.
    pub identity: &'a Identity,
    /// The moment of the outcome, not of the sending.
    pub when: DateTime,
    /// Counts the outcomes of a study from 1: a late slice reopens it.
    pub revision: u32,
}

/// What a result is: by this, destinations choose what they get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The coronal picture, a Secondary Capture.
    Picture,
    /// The most affected axial slices, a series of Secondary Captures.
    Slices,
    /// The Comprehensive SR.
    Report,
    /// Lungs and lesions, a Segmentation.
    Segmentation,
}

impl Kind {
    /// Its name, as the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Picture => "picture",
            Self::Slices => "slices",
            Self::Report => "report",
            Self::Segmentation => "segmentation",
        }
    }
}

/// A DICOM object, ready to be stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DicomResult {
    /// What it is.
    pub kind: Kind,
    /// SOP Class UID.
    pub sop_class_uid: &'static str,
    /// SOP Instance UID: one a kind (of slices, one a slice), study, source series, method, model version, appliance,
    /// revision and moment.
    pub sop_instance_uid: String,
    /// The UID of its series: one a kind, study and appliance, so that revisions lie side by side.
    pub series_uid: String,
    /// Explicit VR Little Endian.
    pub transfer_syntax_uid: &'static str,
    /// The Part-10 file.
    pub bytes: Vec<u8>,
    /// Where in `bytes` the bare data set begins that a C-STORE carries.
    pub data_set_offset: usize,
}

impl DicomResult {
    /// The bare data set, as a C-STORE request carries it.
    pub fn data_set(&self) -> &[u8] {
        &self.bytes[self.data_set_offset..]
    }
}

impl Case<'_> {
    /// SOP Instance UID of the result `name`, of which there is one a revision.
    ///
    /// The moment is part of it: revisions are counted by the appliance's database, and where that was lost or restored,
    /// another content must not come under a UID that an archive knows.
    pub(crate) fn instance_uid(&self, name: &str) -> String {
        let outcome = self.outcome;
        let source_series = outcome.series_uid.as_ref().map_or("", |uid| uid.as_str());
        let (method, version) =
            outcome.findings().map_or(("", ""), |f| (f.method.as_str(), f.model_version.as_str()));
        let study = outcome.study_uid.as_str();
        let (revision, when) = (self.revision.to_string(), self.when.da() + &self.when.tm());
        let [station, installation] = self.of_the_box();
        let of_the_answer = [study, source_series, version, method, &revision, &when];
        uid::derive(&[&[name, "instance", station, installation], &of_the_answer[..]].concat())
    }

    /// Series Instance UID of the results `name`.
    pub(crate) fn series_uid(&self, name: &str) -> String {
        let [station, installation] = self.of_the_box();
        uid::derive(&[name, "series", self.outcome.study_uid.as_str(), station, installation])
    }

    fn of_the_box(&self) -> [&str; 2] {
        [&self.identity.station, &self.identity.installation]
    }

    /// A data set with the attributes that all results share: the Patient and General Study modules as received, the
    /// equipment, SOP Common, and the series of our own. `modality` and the rest is the caller's.
    pub(crate) fn data_set(&self, series_uid: &str) -> DataSet {
        let mut set = DataSet::default();
        for wanted in SOURCE_TAGS.iter().filter(|wanted| wanted.repeated) {
            match self.source.get(wanted.tag) {
                Some(bytes) => set.put(wanted.tag, &wanted.vr, bytes),
                None if wanted.required => set.put(wanted.tag, &wanted.vr, ""),
                None => {}
            }
        }
        // As received, even if it is no UID in the standard's sense: any other would be another study.
        set.put(Tag(0x0020, 0x000d), b"UI", self.outcome.study_uid.as_str());
        set.put(Tag(0x0020, 0x000e), b"UI", series_uid);
        let identity = self.identity;
        set.put(Tag(0x0008, 0x0070), b"LO", ascii(&identity.manufacturer, LO_MAX));
        set.put(Tag(0x0008, 0x1010), b"SH", ascii(&identity.station, SH_MAX));
        set.put(Tag(0x0008, 0x1090), b"LO", ascii(&identity.model, LO_MAX));
        set.put(Tag(0x0018, 0x1000), b"LO", ascii(&identity.installation, LO_MAX)); // Device Serial Number
        set.put(Tag(0x0018, 0x1020), b"LO", ascii(&identity.software_version, LO_MAX));
        // No Timezone Offset: it would also be applied to the study's own date and time, which are the scanner's.
        set.put(Tag(0x0008, 0x0012), b"DA", self.when.da()); // Instance Creation Date
        set.put(Tag(0x0008, 0x0013), b"TM", self.when.tm()); // Instance Creation Time
        set.put(Tag(0x0008, 0x0023), b"DA", self.when.da()); // Content Date
        set.put(Tag(0x0008, 0x0033), b"TM", self.when.tm()); // Content Time
        set
    }
}

/// Finishes a data set into an object.
pub(crate) fn finish(
    kind: Kind,
    sop_class_uid: &'static str,
    sop_instance_uid: String,
    series_uid: String,
    mut set: DataSet,
) -> DicomResult {
    set.put(Tag(0x0008, 0x0016), b"UI", sop_class_uid);
    set.put(Tag(0x0008, 0x0018), b"UI", sop_instance_uid.as_str());
    let mut bytes = dataset::file_head(sop_class_uid, &sop_instance_uid);
    let data_set_offset = bytes.len();
    bytes.extend(set.write());
    DicomResult {
        kind,
        sop_class_uid,
        sop_instance_uid,
        series_uid,
        transfer_syntax_uid: dataset::EXPLICIT_LITTLE_ENDIAN,
        bytes,
        data_set_offset,
    }
}

/// Our own text beside the source's character set: printable ASCII is the same in all of them (PS3.3 section
/// C.12.1.1.2), except for the backslash, which separates values.
pub(crate) fn ascii(text: &str, length_max: usize) -> String {
    let plain = text.replace('°', " deg").replace('±', "+/-");
    let legal = |c: char| if (c.is_ascii_graphic() && c != '\\') || c == ' ' { c } else { '?' };
    plain.chars().map(legal).take(length_max).collect()
}
