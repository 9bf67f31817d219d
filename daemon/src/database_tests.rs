//! What the database remembers, and in which order it lets go.
use super::*;
use study::{NotEvaluated, Verdict};

fn outcome(study: &StudyUid) -> Outcome {
    Outcome {
        study_uid: study.clone(),
        series_uid: None,
        verdict: Verdict::NotEvaluated(NotEvaluated::NoCt),
        timings_ms: Default::default(),
    }
}

fn result(uid: &str) -> ResultRow {
    ResultRow {
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.7".into(),
        sop_instance_uid: uid.into(),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set: vec![1, 2, 3],
    }
}

#[test]
fn a_study_from_reception_to_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let study = StudyUid::new("1.2.3").unwrap();
    let key = database.receive(&study, 1).unwrap();
    assert_eq!(database.receive(&study, 2).unwrap(), key);
    assert_eq!(database.unfinished().unwrap(), [key]);
    let reception = database.evaluate(key).unwrap();
    let to = ["pacs".to_owned(), "console".to_owned()];
    database.finish(reception, 1, &outcome(&study), &[result("1.9")], &to, 10).unwrap();
    assert!(database.unfinished().unwrap().is_empty());
    assert_eq!(database.next_revision(key).unwrap(), 2);
    assert!(database.expendable(1000, &to).unwrap().is_empty(), "results still wait");

    let due = database.due("pacs", 10).unwrap().unwrap();
    assert_eq!((due.result, due.attempts), (result("1.9"), 0));
    database.put_off(due.result_id, "pacs", 500, "refused").unwrap();
    assert_eq!(database.due("pacs", 499).unwrap(), None);
    assert_eq!(database.next_due_ms("pacs").unwrap(), Some(500));
    assert_eq!(database.due("pacs", 500).unwrap().unwrap().attempts, 1);
    database.delivered(due.result_id, "pacs", 501).unwrap();
    database.delivered(due.result_id, "console", 501).unwrap();
    assert_eq!(database.next_due_ms("pacs").unwrap(), None);
    assert_eq!(database.expendable(1000, &to).unwrap(), [key]);
    assert!(database.claim_images(key).unwrap());
    assert!(database.expendable(1000, &to).unwrap().is_empty());
}

#[test]
fn a_slice_that_arrives_during_the_evaluation_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path).unwrap();
    let study = StudyUid::new("1.2.3").unwrap();
    let key = database.receive(&study, 1).unwrap();
    let first = database.evaluate(key).unwrap();
    database.receive(&study, 2).unwrap();
    database.finish(first, 1, &outcome(&study), &[], &[], 10).unwrap();
    assert!(!database.claim_images(key).unwrap());
    assert_eq!(database.unfinished().unwrap(), [key]);
    // The second evaluation waits for its turn while the first one ends: the study is not done.
    database.receive(&study, 3).unwrap();
    let second = database.evaluate(key).unwrap();
    database.finish(first, 2, &outcome(&study), &[], &[], 11).unwrap();
    drop(database);
    // … nor by a restart.
    let database = Database::open(&path).unwrap();
    assert_eq!(database.unfinished().unwrap(), [key]);
    database.finish(second, 3, &outcome(&study), &[], &[], 12).unwrap();
    assert!(database.unfinished().unwrap().is_empty());
}

/// A study with a finished evaluation whose result waits for `to`.
fn finished(database: &Database, study: &str, results: &[&str], to: &[String]) -> StudyKey {
    let study = StudyUid::new(study).unwrap();
    let key = database.receive(&study, 1).unwrap();
    for uid in results {
        let reception = database.evaluate(key).unwrap();
        let revision = database.next_revision(key).unwrap();
        database.finish(reception, revision, &outcome(&study), &[result(uid)], to, 10).unwrap();
    }
    key
}

#[test]
fn a_clock_that_was_ahead_delays_no_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let to = ["pacs".to_owned()];
    finished(&database, "1.2.3", &["1.9"], &to);
    let id = database.due("pacs", 10).unwrap().unwrap().result_id;
    let longest = limits::DELIVERY_PAUSE_MAX_MS * 3 / 2;
    database.put_off(id, "pacs", 1000 + longest, "refused").unwrap();
    assert_eq!(database.due("pacs", 1000).unwrap(), None, "an ordinary pause");
    assert_eq!(database.due("pacs", 999).unwrap().unwrap().result_id, id, "nobody pauses for so long");
}

#[test]
fn results_of_a_study_are_delivered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let to = ["pacs".to_owned(), "console".to_owned()];
    finished(&database, "1.2.3", &["1.9.1", "1.9.2"], &to);
    finished(&database, "1.2.4", &["1.8.1"], &to);
    let uid = |destination: &str, now_ms| {
        database.due(destination, now_ms).unwrap().map(|d| (d.result_id, d.result.sop_instance_uid))
    };
    let (first, name) = uid("pacs", 10).unwrap();
    assert_eq!(name, "1.9.1");
    database.put_off(first, "pacs", 500, "refused").unwrap();
    let (other, name) = uid("pacs", 10).unwrap();
    assert_eq!(name, "1.8.1", "another study's result does not wait");
    database.put_off(other, "pacs", 900, "refused").unwrap();
    // What may not go yet must not make the outbox look at once, again and again.
    assert_eq!((uid("pacs", 499), database.next_due_ms("pacs").unwrap()), (None, Some(500)));
    assert_eq!(uid("console", 10).unwrap().1, "1.9.1", "each destination on its own");
    database.delivered(first, "pacs", 500).unwrap();
    assert_eq!(uid("pacs", 500).unwrap().1, "1.9.2");
    database.delivered(uid("pacs", 500).unwrap().0, "pacs", 500).unwrap();
    assert_eq!(uid("pacs", 500).unwrap().1, "1.8.1", "the peer is alive: due before its time");
}

#[test]
fn results_that_every_destination_has_are_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let to = ["pacs".to_owned(), "console".to_owned()];
    finished(&database, "1.2.3", &["1.9"], &to);
    let due = database.due("pacs", 10).unwrap().unwrap();
    database.delivered(due.result_id, "pacs", 10).unwrap();
    assert_eq!(database.empty_results(1000).unwrap(), 0, "the console has none yet");
    assert_eq!(database.due("console", 10).unwrap().unwrap().result, due.result);
    database.delivered(due.result_id, "console", 10).unwrap();
    assert_eq!(database.empty_results(10).unwrap(), 0, "not before its time");
    assert_eq!(database.empty_results(11).unwrap(), 1);
    assert_eq!(database.empty_results(11).unwrap(), 0);
    assert!(database.is_result("1.9").unwrap(), "it may still come back");
    assert!(!database.is_result("1.8").unwrap());
}

#[test]
fn only_named_destinations_keep_images() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let key = finished(&database, "1.2.3", &["1.9"], &["old".to_owned()]);
    assert!(database.expendable(1000, &["old".to_owned()]).unwrap().is_empty());
    assert_eq!(database.expendable(1000, &["new".to_owned()]).unwrap(), [key]);
    assert_eq!(database.expendable(1000, &[]).unwrap(), [key]);
    assert_eq!(database.waiting_for_others(&["new".to_owned()]).unwrap(), [("old".to_owned(), 1)]);
    assert!(database.waiting_for_others(&["old".to_owned()]).unwrap().is_empty());
}

#[test]
fn an_evaluation_stands_when_its_images_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let study = StudyUid::new("1.2.3").unwrap();
    let to: [String; 0] = [];
    let key = finished(&database, "1.2.3", &[], &to);
    let evaluated = Outcome {
        verdict: Verdict::NotFlagged(study::Findings {
            probability: 0.1,
            severity: Default::default(),
            lung_volume_ml: Default::default(),
            lesion_volume_ml: Default::default(),
            method: String::new(),
            engine: String::new(),
            model_version: String::new(),
        }),
        ..outcome(&study)
    };
    let reception = database.evaluate(key).unwrap();
    database.finish(reception, 1, &evaluated, &[], &to, 10).unwrap();
    assert_eq!(database.known(&study).unwrap(), Some((key, true)));
    database.receive(&study, 11).unwrap();
    assert_eq!(database.known(&study).unwrap(), Some((key, false)));
    assert!(!database.earlier_evaluation_stands(key).unwrap(), "its images are still there");
    let reception = database.evaluate(key).unwrap();
    database.finish(reception, 2, &outcome(&study), &[], &to, 12).unwrap();
    assert!(database.claim_images(key).unwrap() && database.images_are_deleted(key).unwrap());
    // Late slices, one after the other: none of them brings the images back.
    for _ in 0..2 {
        database.receive(&study, 13).unwrap();
        assert!(database.earlier_evaluation_stands(key).unwrap());
        assert!(!database.images_are_deleted(key).unwrap());
    }
    let reception = database.evaluate(key).unwrap();
    database.finish(reception, 3, &outcome(&study), &[], &to, 14).unwrap();
    assert_eq!(database.expendable(1000, &to).unwrap(), [key], "the late slices may go, too");
    // A study that was never evaluated has nothing that could stand.
    let other = StudyUid::new("1.2.4").unwrap();
    let key = finished(&database, "1.2.4", &["1.9"], &to);
    database.claim_images(key).unwrap();
    database.has_files(key).unwrap();
    database.receive(&other, 20).unwrap();
    assert!(!database.earlier_evaluation_stands(key).unwrap());
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(Database::open(&path).err().unwrap().to_string().contains("schema 99"));
}
