//! What is filed, what is refused, and what a study hears of it.
use super::*;
use crate::config::Config;
use crate::database::{Database, Deliverable, Kind, ResultRow};
use crate::instance::testing::{Object, SMALL, slice, write};
use crate::intake::spool::Spool;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::tags;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use study::{NotEvaluated, Outcome, Verdict};

const ID: AssociationId = AssociationId(1);

struct Scene {
    dir: tempfile::TempDir,
    intake: Arc<Intake>,
    database: Arc<Database>,
    spool: Arc<Spool>,
    events: Receiver<Event>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let toml = format!(
            "[dicom]\nae_title = \"T\"\nlisten = \"127.0.0.1:0\"\ncallers = [\"*\"]\n[storage]\ndir = {:?}\n\
             [policy]\nmode = \"severity\"\noperating_point = 0.5\nseverity_min = 0.05\n",
            dir.path()
        );
        let spool = Arc::new(Spool::open(&dir.path().join("spool"), 0).unwrap());
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        let (sender, events) = sync_channel(100);
        let config = Config::parse(&toml).unwrap();
        let intake = Intake::new(config, Arc::clone(&spool), Arc::clone(&database), sender);
        Self { dir, intake, database, spool, events }
    }

    /// Receives an object as instance `uid`.
    fn keep(&self, object: Object, uid: &str) -> Result<(), StoreError> {
        let file = self.dir.path().join("sent.dcm");
        write(object, "1.2.840.10008.1.2.1", &file);
        let mut part = self.spool.begin()?;
        part.write_all(&fs::read(&file).unwrap()).unwrap();
        self.intake.keep(part, uid, ID)
    }

    /// The study of all test slices, evaluated, with a result that was made of it.
    fn evaluated(&self, result: &str) -> StudyKey {
        self.keep(slice(SMALL, "1.2.3.4"), "1.2.3.4").unwrap();
        assert!(matches!(self.events.try_recv().unwrap(), Event::Arrived { .. }));
        let study = StudyUid::new("1.2.3").unwrap();
        let (key, _) = self.database.known(&study).unwrap().unwrap();
        self.intake.taken(&study);
        let reception = self.intake.evaluation_begins(&study, key).unwrap().unwrap();
        let outcome = Outcome {
            study_uid: study,
            series_uid: None,
            verdict: Verdict::NotEvaluated(NotEvaluated::NoCt),
            timings_ms: Default::default(),
        };
        let row = ResultRow {
            kind: Kind::Picture,
            sop_class_uid: String::new(),
            sop_instance_uid: result.into(),
            transfer_syntax_uid: String::new(),
            data_set: crate::database::Packed::new(&[1]),
        };
        let sent = Deliverable { row, destinations: Vec::new() };
        self.database
            .finish(reception, 1, &outcome, &[sent], Some(&crate::database::View::default()), 10)
            .unwrap();
        key
    }

    fn study_is_done(&self) -> bool {
        self.database.unfinished().unwrap().is_empty()
    }

    /// Files that lie in the slots, not empty.
    fn unfiled(&self) -> Vec<PathBuf> {
        let slots = fs::read_dir(self.dir.path().join("spool/slots")).unwrap().map(|e| e.unwrap().path());
        slots.filter(|path| fs::metadata(path).unwrap().len() > 0).collect()
    }
}

fn with(uid: &str, tag: dicom_core::Tag, vr: VR, value: &str) -> Object {
    let mut object = slice(SMALL, uid);
    object.put(DataElement::new(tag, vr, value));
    object
}

const CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";

#[test]
fn our_own_result_and_what_is_no_slice_reopen_no_study() {
    let scene = Scene::new();
    let key = scene.evaluated("1.9");
    scene.keep(with("1.9", tags::SOP_CLASS_UID, VR::UI, CAPTURE), "1.9").unwrap();
    assert_eq!(scene.spool.instances(key).unwrap().len(), 1, "it is not kept");
    scene.keep(with("1.7", tags::SOP_CLASS_UID, VR::UI, CAPTURE), "1.7").unwrap();
    let scout = with("1.6", tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\LOCALIZER");
    scene.keep(scout, "1.6").unwrap();
    assert_eq!(scene.spool.instances(key).unwrap().len(), 3, "these are kept");
    assert!(scene.study_is_done() && scene.events.try_recv().is_err() && scene.unfiled().is_empty());
    scene.keep(slice(SMALL, "1.2.3.5"), "1.2.3.5").unwrap();
    assert!(matches!(scene.events.try_recv().unwrap(), Event::Arrived { .. }));
    assert!(!scene.study_is_done());
}

#[test]
fn a_full_study_stays_done() {
    let scene = Scene::new();
    let key = scene.evaluated("1.9");
    let folder = scene.spool.instances(key).unwrap()[0].parent().unwrap().to_owned();
    for i in 1..limits::INSTANCES_PER_STUDY_MAX {
        fs::write(folder.join(format!("{i}-0.dcm")), "").unwrap();
    }
    let refused = scene.keep(slice(SMALL, "1.2.3.5"), "1.2.3.5");
    assert!(matches!(refused, Err(StoreError::TooManyInstances)), "{refused:?}");
    assert!(scene.study_is_done() && scene.unfiled().is_empty());
}

#[test]
fn what_can_not_be_filed_leaves_nothing_behind_and_its_study_is_evaluated_again() {
    let scene = Scene::new();
    let key = scene.evaluated("1.9");
    // A file where the folder of the next study will be: what is filed there fails after the study was made due.
    let folder = scene.spool.instances(key).unwrap()[0].parent().unwrap().to_owned();
    let next = folder.with_file_name(format!("{:08}", key.0 + 1));
    fs::write(&next, "").unwrap();
    let mut object = slice(SMALL, "1.2.4.1");
    object.put(DataElement::new(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.4"));
    let refused = scene.keep(object.clone(), "1.2.4.1");
    assert!(matches!(refused, Err(StoreError::Spool(_))), "{refused:?}");
    assert!(scene.unfiled().is_empty(), "it was not acknowledged");
    let Event::Unchanged { key: due, .. } = scene.events.try_recv().unwrap() else { panic!("the assembler") };
    assert_eq!(scene.database.unfinished().unwrap(), [due]);
    // No evaluation begins before the assembler has looked.
    let uid = StudyUid::new("1.2.4").unwrap();
    assert!(scene.intake.evaluation_begins(&uid, due).unwrap().is_none());
    // It has nothing of the study: nothing was acknowledged, and nothing is due.
    scene.intake.taken(&uid);
    scene.intake.nothing_came(&uid, due).unwrap();
    assert!(scene.study_is_done());
    assert_eq!(scene.database.known(&uid).unwrap(), None);
    scene.keep(object, "1.2.4.1").unwrap();
    assert!(matches!(scene.events.try_recv().unwrap(), Event::Arrived { .. }));
    // The first study, of which only an outcome is left, stays done.
    let uid = StudyUid::new("1.2.3").unwrap();
    scene.database.receive(&uid, 20).unwrap();
    scene.database.nothing_came(key).unwrap();
    assert_eq!(scene.database.known(&uid).unwrap(), Some((key, true)));
}

#[test]
fn too_many_instances_held_are_refused() {
    let scene = Scene::new();
    scene.intake.assembled(limits::INSTANCES_HELD_MAX - 10);
    scene.intake.evaluation_waits(9);
    scene.intake.room().unwrap();
    scene.intake.evaluation_waits(1);
    let error = scene.intake.room().unwrap_err();
    assert_eq!(error.status(), (Status::OUT_OF_RESOURCES, "too many instances wait for evaluation"));
    scene.intake.evaluated(1);
    scene.intake.room().unwrap();
}

#[test]
fn silent_connections_are_no_associations() {
    let scene = Scene::new();
    let max = 16;
    let _silent: Vec<_> = (0..max).map(|_| super::super::Open::new(&scene.intake.connections, 128)).collect();
    let let_in: Vec<_> = (0..max).map(|_| scene.intake.policy("CT1", "T").ok()).collect();
    assert!(let_in.iter().all(Option::is_some));
    assert!(scene.intake.policy("CT1", "T").is_err());
    drop(let_in);
    assert!(scene.intake.policy("CT1", "T").is_ok());
}
