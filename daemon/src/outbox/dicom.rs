//! Delivery over DICOM: C-STORE to consoles and archives, N-CREATE to worklist managers, and asking for storage
//! commitment. Owns the association and what its answers mean; decides nothing about the next attempt.
use super::implicit;
use super::policy::Failure;
use crate::database::{Delivery, Kind};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, Status, uids};

/// A peer, as its destination names it.
pub struct Peer {
    /// `host:port`.
    pub address: String,
    /// Its AE title.
    pub called: AeTitle,
    /// Ours.
    pub calling: AeTitle,
    /// Deadlines and TLS.
    pub config: RequestorConfig,
}

/// An association with a peer.
pub struct Association(Requestor);

/// The peer's answer to a request, whichever service it was.
struct Answer {
    status: Status,
    comment: Option<String>,
}

impl Association {
    /// Associates for these SOP classes. Explicit VR is preferred; every peer must take Implicit VR (PS3.5 section 10.1).
    pub fn open<'a>(peer: &Peer, sop_classes: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        const SYNTAXES: [&[&str]; 2] =
            [&[uids::EXPLICIT_VR_LITTLE_ENDIAN], &[uids::IMPLICIT_VR_LITTLE_ENDIAN]];
        let mut classes: Vec<&str> = sop_classes.collect();
        classes.sort_unstable();
        classes.dedup();
        // A context for each syntax: in a common one the peer would choose.
        let contexts: Vec<(&str, &[&str])> =
            classes.iter().flat_map(|class| SYNTAXES.map(|syntax| (*class, syntax))).collect();
        Requestor::connect(&peer.address, &peer.calling, &peer.called, &contexts, &peer.config)
            .map(Self)
            .map_err(|error| Failure::Unreachable(error.to_string()))
    }

    /// Sends one result and waits for the answer.
    pub fn send(&mut self, delivery: &Delivery, data_set: Vec<u8>) -> Result<(), Failure> {
        let class = delivery.sop_class_uid.as_str();
        let (syntax, data_set) = self.encoded(class, &delivery.transfer_syntax_uid, data_set)?;
        let uid = delivery.sop_instance_uid.as_str();
        let answer = if delivery.kind == Kind::Ups {
            self.0
                .create(class, Some(uid), &data_set)
                .map(|r| Answer { status: r.status, comment: r.error_comment })
        } else {
            self.0
                .store(class, uid, &syntax, data_set.as_slice(), data_set.len() as u64)
                .map(|r| Answer { status: r.status, comment: r.error_comment })
        };
        let answer = answer.map_err(broken)?;
        // It had arrived, and the answer was lost.
        if delivery.kind == Kind::Ups && answer.status == Status::DUPLICATE_SOP_INSTANCE {
            return Ok(());
        }
        judge(&answer)
    }

    /// Asks the peer to commit to keep instances (PS3.4 section J.3.2); its answer comes on another association.
    pub fn ask_for_commitment(
        &mut self,
        transaction_uid: &str,
        instances: &[(&str, &str)],
    ) -> Result<(), Failure> {
        let data_set = commitment_request(transaction_uid, instances);
        let class = uids::STORAGE_COMMITMENT_PUSH_MODEL;
        let (_, data_set) = self.encoded(class, uids::EXPLICIT_VR_LITTLE_ENDIAN, data_set)?;
        let instance = uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE;
        let answer = self.0.action(class, instance, COMMITMENT_ACTION, &data_set).map_err(broken)?;
        judge(&Answer { status: answer.status, comment: answer.error_comment })
    }

    /// Ends the association. What was answered counts, however it ends.
    pub fn close(self, destination: &str) {
        if let Err(error) = self.0.release() {
            log::info!("{destination}: release: {error}");
        }
    }

    /// A data set in a transfer syntax that the peer takes for this SOP class.
    fn encoded(&self, class: &str, syntax: &str, data_set: Vec<u8>) -> Result<(String, Vec<u8>), Failure> {
        if self.0.transfer_syntax_of(class) == Some(syntax) {
            return Ok((syntax.to_owned(), data_set));
        }
        let refused = |reason: String| Failure::Refused { reason, permanent: true };
        if syntax != uids::EXPLICIT_VR_LITTLE_ENDIAN
            || self.0.transfer_syntax_of(class) != Some(uids::IMPLICIT_VR_LITTLE_ENDIAN)
        {
            return Err(refused(format!("it does not take {class}")));
        }
        let data_set = implicit::from_explicit(&data_set).map_err(|error| refused(error.to_string()))?;
        Ok((uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned(), data_set))
    }
}

/// Action type: request storage commitment (PS3.4 section J.3.2.1).
const COMMITMENT_ACTION: u16 = 1;

/// An error while a result was under way.
fn broken(error: AssociationError) -> Failure {
    match error {
        AssociationError::NoContext { .. } => Failure::Refused { reason: error.to_string(), permanent: true },
        error => Failure::Broken(error.to_string()),
    }
}

/// What a status says about the result.
fn judge(answer: &Answer) -> Result<(), Failure> {
    let status = answer.status;
    if status.is_success() || status.is_warning() {
        return Ok(());
    }
    let reason = match &answer.comment {
        Some(comment) => format!("{status}: {comment}"),
        None => status.to_string(),
    };
    if status.is_retryable() {
        return Err(Failure::Busy(reason));
    }
    let permanent = [
        Status::SOP_CLASS_NOT_SUPPORTED,
        Status::NO_SUCH_SOP_CLASS,
        Status::NOT_AUTHORIZED,
        Status::UNRECOGNIZED_OPERATION,
        Status::NO_SUCH_ACTION_TYPE,
    ]
    .contains(&status);
    Err(Failure::Refused { reason, permanent })
}

/// Action Information of a storage commitment request (PS3.4 table J.3-1), Explicit VR Little Endian. `instances` are
/// SOP class and SOP instance.
fn commitment_request(transaction_uid: &str, instances: &[(&str, &str)]) -> Vec<u8> {
    let mut items = Vec::new();
    for (class, instance) in instances {
        let item = [uid(0x0008, 0x1150, class), uid(0x0008, 0x1155, instance)].concat();
        items.extend([0xfe, 0xff, 0x00, 0xe0]); // Item (FFFE,E000)
        items.extend((item.len() as u32).to_le_bytes());
        items.extend(item);
    }
    let mut data_set = uid(0x0008, 0x1195, transaction_uid);
    data_set.extend([0x08, 0x00, 0x99, 0x11]); // Referenced SOP Sequence (0008,1199)
    data_set.extend(b"SQ\0\0");
    data_set.extend((items.len() as u32).to_le_bytes());
    data_set.extend(items);
    data_set
}

/// An element of VR UI; a UID has at most 64 characters.
fn uid(group: u16, element: u16, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    let length = value.len() as u16;
    [&group.to_le_bytes(), &element.to_le_bytes(), b"UI".as_slice(), &length.to_le_bytes(), &value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom_dictionary_std::tags;
    use dicom_object::InMemDicomObject;
    use dicom_object::mem::InMemElement;

    #[test]
    fn statuses_say_what_they_say_about_the_result() {
        // code, accepted, busy, permanent
        let cases = [
            (0x0000, true, false, false),
            (0xB000, true, false, false),
            (0xA700, false, true, false),
            (0x0110, false, true, false),
            (0xA900, false, false, false),
            (0xC123, false, false, false),
            (0x0122, false, false, true),
            (0x0124, false, false, true),
        ];
        for (code, accepted, busy, permanent) in cases {
            let got = judge(&Answer { status: Status(code), comment: None });
            assert_eq!(got.is_ok(), accepted, "{code:04X}");
            assert_eq!(matches!(got, Err(Failure::Busy(_))), busy, "{code:04X}");
            assert_eq!(matches!(got, Err(Failure::Refused { permanent: true, .. })), permanent, "{code:04X}");
        }
    }

    #[test]
    fn a_commitment_request_is_read_by_another_library() {
        let bytes =
            commitment_request("2.25.123", &[("1.2.840.10008.5.1.4.1.1.7", "1.9"), ("1.2.3", "1.10")]);
        let mut file = Vec::new();
        let head = dimse::FileHead {
            sop_class_uid: "1.2",
            sop_instance_uid: "1.2.3",
            transfer_syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
            sending_ae_title: None,
            receiving_ae_title: None,
            implementation: &dimse::Implementation::default(),
        };
        dimse::write_file_head(&mut file, &head).unwrap();
        file.extend(bytes);
        let object = dicom_object::from_reader(file.as_slice()).unwrap();
        assert_eq!(object.element(tags::TRANSACTION_UID).unwrap().to_str().unwrap(), "2.25.123");
        let sequence: &InMemElement = object.element(tags::REFERENCED_SOP_SEQUENCE).unwrap();
        let items: &[InMemDicomObject] = sequence.items().unwrap();
        let text = |i: usize, tag| items[i].element(tag).unwrap().to_str().unwrap().into_owned();
        assert_eq!(items.len(), 2);
        assert_eq!(text(0, tags::REFERENCED_SOP_CLASS_UID), "1.2.840.10008.5.1.4.1.1.7");
        assert_eq!(text(1, tags::REFERENCED_SOP_INSTANCE_UID), "1.10");
    }
}
