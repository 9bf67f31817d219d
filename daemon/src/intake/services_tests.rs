//! What peers are answered, over a socket.
use super::*;
use crate::config::Config;
use crate::database::Database;
use crate::dataset::Writer;
use crate::intake::spool::Spool;
use crate::pulse::{self, Pulse};
use dicom_dictionary_std::tags;
use dimse::requestor::{NResponse, Requestor, RequestorConfig};
use dimse::{RoleSelection, uids};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use study::StudyUid;

const MPPS: &str = MODALITY_PERFORMED_PROCEDURE_STEP;
const COMMITMENT: &str = STORAGE_COMMITMENT_PUSH_MODEL;
const WELL_KNOWN: &str = STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE;

struct Scene {
    intake: Arc<Intake>,
    database: Arc<Database>,
    events: Receiver<Event>,
    address: std::net::SocketAddr,
}

impl Scene {
    fn new(dir: &Path) -> Self {
        Self::with_free_mib(dir, 0)
    }

    /// With so much space to be kept free.
    fn with_free_mib(dir: &Path, min_free_mib: u64) -> Self {
        let toml = format!(
            "[dicom]\nae_title = \"T\"\nlisten = \"127.0.0.1:0\"\ncallers = [\"CT1\", \"CT2\"]\n[storage]\ndir = {dir:?}\n\
             [policy]\nmode = \"severity\"\noperating_point = 0.5\nseverity_min = 0.05\n\
             [[scanner]]\nae_title = \"CT1\"\naddress = \"127.0.0.1:1\"\n\
             [[destination]]\nprotocol = \"dicom\"\nname = \"pacs\"\nae_title = \"PACS\"\naddress = \"127.0.0.1:1\"\n\
             storage_commitment = true\n"
        );
        let spool = Arc::new(Spool::open(&dir.join("spool"), min_free_mib).unwrap());
        let database = Arc::new(Database::open(&dir.join("db")).unwrap());
        let (sender, events) = sync_channel(100);
        let intake = Intake::new(Config::parse(&toml).unwrap(), spool, Arc::clone(&database), sender);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listening = Arc::clone(&intake);
        std::thread::spawn(move || {
            listening.listen(&listener, None, &Pulse::default().beat("listener", pulse::TURN))
        });
        Self { intake, database, events, address }
    }

    fn associate(&self, calling: &str) -> Result<Requestor, AssociationError> {
        let implicit: &[&str] = &[uids::IMPLICIT_VR_LITTLE_ENDIAN];
        let role = RoleSelection { sop_class_uid: COMMITMENT.into(), scu: false, scp: calling == "PACS" };
        let roles = if calling == "PACS" { vec![role.clone()] } else { Vec::new() };
        let config = RequestorConfig { roles, ..RequestorConfig::default() };
        let (us, them) = (calling.parse().unwrap(), "T".parse().unwrap());
        let association = Requestor::connect(
            self.address,
            &us,
            &them,
            &[(MPPS, implicit), (COMMITMENT, implicit), (uids::CT_IMAGE_STORAGE, implicit)],
            &config,
        )?;
        if calling == "PACS" {
            assert_eq!(association.roles(), [role], "the archive may report");
        }
        Ok(association)
    }

    /// What the assembler is told of: so many instances, and what it drops when it has taken that.
    fn asked_about(&self) -> (usize, std::sync::mpsc::Sender<()>) {
        match self.events.recv_timeout(Duration::from_secs(10)) {
            Ok(Event::CommitmentRequested { instances, taken }) => (instances.len(), taken),
            _ => panic!("no request"),
        }
    }

    fn step_changed(&self) -> bool {
        matches!(self.events.try_recv(), Ok(Event::StepChanged { study }) if study.as_str() == "1.5")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.intake.stop(&[self.address]);
    }
}

fn state(state: &str) -> Writer {
    Writer::default().text(tags::PERFORMED_PROCEDURE_STEP_STATUS, state)
}

fn references(tag: dicom_core::Tag, uids: &[&str]) -> Writer {
    let item = |uid: &&str| {
        Writer::default()
            .uid(tags::REFERENCED_SOP_CLASS_UID, uids::CT_IMAGE_STORAGE)
            .uid(tags::REFERENCED_SOP_INSTANCE_UID, uid)
    };
    Writer::default().uid(tags::TRANSACTION_UID, "1.7").sequence(tag, uids.iter().map(item))
}

fn said(answer: Result<NResponse, AssociationError>) -> (Status, String) {
    let answer = answer.unwrap();
    (answer.status, answer.error_comment.unwrap_or_default())
}

#[test]
fn a_step_is_created_once_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path());
    let mut ct = scene.associate("CT1").unwrap();
    let study = Writer::default().uid(tags::STUDY_INSTANCE_UID, "1.5");
    let new = state("IN PROGRESS").sequence(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, [study]).finish();
    let no_study = state("IN PROGRESS").finish();
    assert_eq!(said(ct.create(MPPS, Some("1.9"), &no_study)).0, Status::MISSING_ATTRIBUTE);
    assert_eq!(said(ct.create(MPPS, None, &new)).0, Status::MISSING_ATTRIBUTE);
    assert_eq!(said(ct.create(MPPS, Some("1.9"), &new[..9])).0, Status::PROCESSING_FAILURE);
    assert!(
        !scene.step_changed() && scene.database.steps_of(&StudyUid::new("1.5").unwrap()).unwrap().is_empty()
    );
    assert_eq!(said(ct.create(MPPS, Some("1.9"), &new)).0, Status::SUCCESS);
    assert!(scene.step_changed());
    assert_eq!(said(ct.create(MPPS, Some("1.9"), &new)).0, Status::DUPLICATE_SOP_INSTANCE);
    let done = state("COMPLETED").finish();
    assert_eq!(said(ct.set(MPPS, "1.8", &done)).0, Status::NO_SUCH_SOP_INSTANCE);
    assert_eq!(said(ct.set(MPPS, "1.9", &state("DONE").finish())).0, Status::INVALID_ATTRIBUTE_VALUE);
    assert!(!scene.step_changed());
    assert_eq!(said(ct.set(MPPS, "1.9", &done)).0, Status::SUCCESS);
    assert!(scene.step_changed());
    let (status, comment) = said(ct.set(MPPS, "1.9", &done));
    assert_eq!(status, Status::PROCESSING_FAILURE);
    assert_eq!(comment, "Performed Procedure Step Object may no longer be updated");
    assert_eq!(said(ct.action(MPPS, "1.9", 1, &done)).0, Status::UNRECOGNIZED_OPERATION);
    // What is too long is refused, and the association goes on.
    let long = vec![0; limits::SERVICE_DATA_SET_BYTES_MAX as usize + 2];
    assert_eq!(said(ct.set(MPPS, "1.9", &long)).0, Status::RESOURCE_LIMITATION);
    ct.release().unwrap();
}

#[test]
fn a_nearly_full_disk_takes_no_more_than_images_would_find() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::with_free_mib(dir.path(), u64::MAX);
    let mut ct = scene.associate("CT1").unwrap();
    let study = Writer::default().uid(tags::STUDY_INSTANCE_UID, "1.5");
    let new = state("IN PROGRESS").sequence(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, [study]).finish();
    let full = (Status::RESOURCE_LIMITATION, "disk nearly full".to_owned());
    assert_eq!(said(ct.create(MPPS, Some("1.9"), &new)), full);
    assert_eq!(said(ct.set(MPPS, "1.9", &state("COMPLETED").finish())), full);
    let request = references(tags::REFERENCED_SOP_SEQUENCE, &["1.1", "1.2"]).finish();
    assert_eq!(said(ct.action(COMMITMENT, WELL_KNOWN, 1, &request)), full);
    assert!(scene.events.try_recv().is_err() && scene.database.awaiting_reports().unwrap().is_empty());
    ct.release().unwrap();
}

#[test]
fn a_commitment_is_promised_to_those_who_can_be_called_back() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path());
    let (wake, woken) = std::sync::mpsc::channel();
    scene.intake.wake_reporter("CT1", wake);
    let request = references(tags::REFERENCED_SOP_SEQUENCE, &["1.1", "1.2"]).finish();
    let mut stranger = scene.associate("CT2").unwrap();
    let (status, comment) = said(stranger.action(COMMITMENT, WELL_KNOWN, 1, &request));
    assert_eq!(status, Status::PROCESSING_FAILURE);
    assert!(comment.contains("no [[scanner]]") && comment.len() <= 64, "{comment}");

    let mut ct = scene.associate("CT1").unwrap();
    assert_eq!(said(ct.action(COMMITMENT, "1.2.3", 1, &request)).0, Status::NO_SUCH_SOP_INSTANCE);
    assert_eq!(said(ct.action(COMMITMENT, WELL_KNOWN, 2, &request)).0, Status::NO_SUCH_ACTION_TYPE);
    let nothing = references(tags::REFERENCED_SOP_SEQUENCE, &[]).finish();
    assert_eq!(said(ct.action(COMMITMENT, WELL_KNOWN, 1, &nothing)).0, Status::INVALID_ARGUMENT_VALUE);
    assert!(scene.database.awaiting_reports().unwrap().is_empty() && scene.events.try_recv().is_err());
    assert_eq!(said(ct.action(COMMITMENT, WELL_KNOWN, 1, &request)).0, Status::SUCCESS);
    woken.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(scene.database.awaiting_reports().unwrap(), [("CT1".to_owned(), 1)]);
    let (instances, taken) = scene.asked_about();
    assert_eq!(instances, 2);
    // The assembler is busy with it: the next request of this association waits, so that lists do not heap up.
    let again = std::thread::spawn(move || {
        assert_eq!(said(ct.action(COMMITMENT, WELL_KNOWN, 1, &request)).0, Status::SUCCESS);
        ct.release().unwrap();
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(scene.events.try_recv().is_err() && !again.is_finished());
    drop(taken);
    assert_eq!(scene.asked_about().0, 2);
    again.join().unwrap();
}

#[test]
fn an_archive_that_keeps_our_results_may_call_to_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path());
    let mut pacs = scene.associate("PACS").unwrap();
    let kept = references(tags::REFERENCED_SOP_SEQUENCE, &["1.1"]).finish();
    assert_eq!(said(pacs.event_report(COMMITMENT, WELL_KNOWN, 3, &kept)).0, Status::NO_SUCH_EVENT_TYPE);
    assert_eq!(said(pacs.event_report(COMMITMENT, "1.2", 1, &kept)).0, Status::NO_SUCH_SOP_INSTANCE);
    // The outbox's tests have one that is known.
    assert_eq!(said(pacs.event_report(COMMITMENT, WELL_KNOWN, 1, &kept)).0, Status::SUCCESS);
    // Let in for that alone.
    let new = state("IN PROGRESS").sequence(tags::SCHEDULED_STEP_ATTRIBUTES_SEQUENCE, []).finish();
    assert_eq!(said(pacs.create(MPPS, Some("1.9"), &new)).0, Status::NOT_AUTHORIZED);
    let stored =
        pacs.store(uids::CT_IMAGE_STORAGE, "1.5.1", uids::IMPLICIT_VR_LITTLE_ENDIAN, &b"slice!"[..], 6);
    assert_eq!(stored.unwrap().status, Status::NOT_AUTHORIZED);
    assert!(scene.events.try_recv().is_err(), "nothing came of it");
    pacs.release().unwrap();
    assert!(scene.associate("STRANGER").is_err());
}
