//! What the database remembers, and in which order it lets go.
use super::*;
use crate::database::UnderWay;
use crate::limits;
use crate::outbox::policy::{Failure, Fate};
use study::{NotEvaluated, Outcome, StudyUid, Verdict};

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
        kind: Kind::Picture,
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.7".into(),
        sop_instance_uid: uid.into(),
        transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
        data_set: Packed::new(&[1, 2, 3]),
    }
}

fn for_all(rows: &[ResultRow], to: &[&str]) -> Vec<Deliverable> {
    let destinations: Vec<String> = to.iter().map(|&name| name.to_owned()).collect();
    let deliverable = |row: &ResultRow| Deliverable { row: row.clone(), destinations: destinations.clone() };
    rows.iter().map(deliverable).collect()
}

fn names(to: &[&str]) -> Vec<String> {
    to.iter().map(|&name| name.to_owned()).collect()
}

fn refused() -> Failure {
    Failure::Refused { reason: "no".into(), permanent: false }
}

/// The UIDs of what is due.
fn due(database: &Database, destination: &str, now_ms: i64) -> Vec<String> {
    database.due(destination, now_ms, 100, &[]).unwrap().into_iter().map(|d| d.sop_instance_uid).collect()
}

/// The row of a result for a destination.
fn row(database: &Database, destination: &str, uid: &str) -> Entry {
    let entries = database.entries(true).unwrap();
    entries.into_iter().find(|e| e.destination == destination && e.sop_instance_uid == uid).unwrap()
}

#[test]
fn a_study_from_reception_to_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let study = StudyUid::new("1.2.3").unwrap();
    let key = database.receive(&study, 1).unwrap();
    assert_eq!(database.receive(&study, 2).unwrap(), key);
    assert_eq!(database.unfinished().unwrap(), [key]);
    assert_eq!(database.under_way().unwrap(), UnderWay { receiving: 1, evaluating: 0 });
    let reception = database.evaluate(key).unwrap();
    assert_eq!(database.under_way().unwrap(), UnderWay { receiving: 0, evaluating: 1 });
    let to = names(&["pacs", "console"]);
    let results = for_all(&[result("1.9")], &["pacs", "console"]);
    database
        .finish(reception, 1, &outcome(&study), &results, Some(&crate::database::View::default()), 10)
        .unwrap();
    assert!(database.unfinished().unwrap().is_empty() && database.under_way().unwrap().is_nothing());
    assert_eq!(database.next_revision(key).unwrap(), 2);
    assert!(database.expendable(1000, &to).unwrap().is_empty(), "results still wait");

    let first = database.due("pacs", 10, 9, &[]).unwrap().remove(0);
    assert_eq!((first.sop_instance_uid.as_str(), first.failures), ("1.9", 0));
    assert_eq!(database.payload(first.id).unwrap(), Payload::Bytes(vec![1, 2, 3]));
    database.failed(first.id, &refused(), Fate::Again { pause_ms: 490 }, 10).unwrap();
    assert!(due(&database, "pacs", 499).is_empty());
    assert_eq!(database.next_due_ms("pacs").unwrap(), Some(500));
    let again = database.due("pacs", 500, 9, &[]).unwrap().remove(0);
    assert_eq!((again.failures, again.refusals), (1, 1));
    database.accepted(first.id, false, 501).unwrap();
    database.accepted(row(&database, "console", "1.9").id, false, 501).unwrap();
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
    database.finish(first, 1, &outcome(&study), &[], Some(&crate::database::View::default()), 10).unwrap();
    assert!(!database.claim_images(key).unwrap());
    assert_eq!(database.unfinished().unwrap(), [key]);
    // The second evaluation waits for its turn while the first one ends: the study is not done.
    database.receive(&study, 3).unwrap();
    let second = database.evaluate(key).unwrap();
    database.finish(first, 2, &outcome(&study), &[], Some(&crate::database::View::default()), 11).unwrap();
    drop(database);
    // … nor by a restart.
    let database = Database::open(&path).unwrap();
    assert_eq!(database.unfinished().unwrap(), [key]);
    database.finish(second, 3, &outcome(&study), &[], Some(&crate::database::View::default()), 12).unwrap();
    assert!(database.unfinished().unwrap().is_empty());
}

/// A study with an evaluation, and so a revision, for each result, which waits for `to`.
fn finished(database: &Database, study: &str, results: &[&str], to: &[&str]) -> StudyKey {
    let study = StudyUid::new(study).unwrap();
    let key = database.receive(&study, 1).unwrap();
    for uid in results {
        let reception = database.evaluate(key).unwrap();
        let revision = database.next_revision(key).unwrap();
        let results = for_all(&[result(uid)], to);
        database
            .finish(
                reception,
                revision,
                &outcome(&study),
                &results,
                Some(&crate::database::View::default()),
                10,
            )
            .unwrap();
    }
    key
}

fn open() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    (dir, database)
}

#[test]
fn a_clock_that_was_ahead_delays_no_delivery() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9"], &["pacs"]);
    let id = row(&database, "pacs", "1.9").id;
    let longest = limits::DELIVERY_PAUSE_MAX_MS * 3 / 2;
    database.failed(id, &refused(), Fate::Again { pause_ms: longest }, 1000).unwrap();
    assert!(due(&database, "pacs", 1000).is_empty(), "an ordinary pause");
    assert_eq!(due(&database, "pacs", 999), ["1.9"], "nobody pauses for so long");
    // Nor does a peer that is away leave it so far ahead: it would be tried again at once, for ever.
    database.put_off("pacs", None, 1500, "off", 999, 999).unwrap();
    assert!(due(&database, "pacs", 1499).is_empty());
    assert_eq!(due(&database, "pacs", 1500), ["1.9"]);
}

#[test]
fn revisions_of_a_study_are_delivered_in_order() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9.1", "1.9.2"], &["pacs", "console"]);
    finished(&database, "1.2.4", &["1.8.1"], &["pacs", "console"]);
    assert_eq!(due(&database, "pacs", 10), ["1.9.1", "1.8.1"], "another study's result does not wait");
    // The peer is away: that says nothing about the first.
    database.put_off("pacs", None, 500, "off", 10, 10).unwrap();
    // What may not go yet must not make the outbox look at once, again and again.
    assert!(due(&database, "pacs", 499).is_empty());
    assert_eq!(database.next_due_ms("pacs").unwrap(), Some(500));
    assert_eq!(due(&database, "console", 10), ["1.9.1", "1.8.1"], "each destination on its own");
    database.accepted(row(&database, "pacs", "1.8.1").id, false, 400).unwrap();
    assert_eq!(due(&database, "pacs", 400), ["1.9.1"], "the peer is alive: due before its time");
    database.accepted(row(&database, "pacs", "1.9.1").id, false, 500).unwrap();
    assert_eq!(due(&database, "pacs", 500), ["1.9.2"]);
    // What is parked holds up no later revision.
    let console = row(&database, "console", "1.9.1").id;
    database.failed(console, &refused(), Fate::Parked, 500).unwrap();
    assert_eq!(due(&database, "console", 500), ["1.9.2", "1.8.1"]);
    assert_eq!(database.counts("console").unwrap(), Counts { waiting: 2, stored: 0, parked: 1 });
}

#[test]
fn a_result_that_fails_by_itself_does_not_withhold_the_next_revision() {
    // The first failure, and whether the first revision goes to the same place or after the others.
    for failure in [Failure::Busy("full".into()), Failure::Broken("hung".into()), refused()] {
        let (_dir, database) = open();
        let key = finished(&database, "1.2.3", &["1.9.1", "1.9.2"], &["pacs"]);
        let first = row(&database, "pacs", "1.9.1").id;
        database.failed(first, &failure, Fate::Again { pause_ms: 490 }, 10).unwrap();
        assert_eq!(due(&database, "pacs", 10), ["1.9.2"], "{failure}: revision 2 may be the flag");
        let second = row(&database, "pacs", "1.9.2").id;
        assert_eq!(database.accepted(second, false, 20).unwrap(), 1, "{failure}");
        // Sent now it would pass for the latest: the receiver takes the last report.
        let entry = row(&database, "pacs", "1.9.1");
        assert_eq!(entry.state, "dropped");
        assert!(entry.last_error.unwrap().starts_with("a later revision was accepted; before: "));
        assert_eq!(database.payload(first).unwrap(), Payload::Gone, "not even when it is in a batch already");
        assert_eq!(database.retry(&Selection::Row(first), 30).unwrap(), 0);
        assert!(database.is_superseded(first).unwrap() && !database.is_superseded(second).unwrap());
        assert_eq!(database.next_revision(key).unwrap(), 3);
    }
}

#[test]
fn what_is_parked_is_not_retried_after_a_later_revision() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9.1", "1.9.2"], &["ris"]);
    let first = row(&database, "ris", "1.9.1").id;
    database.failed(first, &refused(), Fate::Parked, 10).unwrap();
    assert_eq!(database.parked_and_superseded(Some("ris")).unwrap(), 0);
    database.accepted(row(&database, "ris", "1.9.2").id, false, 20).unwrap();
    assert_eq!(row(&database, "ris", "1.9.1").state, "parked", "an operator sees it");
    for all in [Selection::Row(first), Selection::Destination("ris".into()), Selection::Parked] {
        assert_eq!(database.retry(&all, 30).unwrap(), 0, "{all:?}");
    }
    assert_eq!(database.parked_and_superseded(None).unwrap(), 1);
    assert_eq!(database.drop_rows(&Selection::Row(first)).unwrap(), 1);
}

#[test]
fn a_result_that_was_queued_during_an_attempt_is_not_put_off_with_the_others() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9.1"], &["pacs"]);
    // `finished` queues at 10; the connection was opened before that, and hung until 60,000.
    database.put_off("pacs", None, 90_000, "hung", 9, 60_000).unwrap();
    assert_eq!(due(&database, "pacs", 60_000), ["1.9.1"]);
    database.put_off("pacs", None, 90_000, "hung", 10, 60_000).unwrap();
    assert!(due(&database, "pacs", 60_000).is_empty());
    assert_eq!(due(&database, "pacs", 90_000), ["1.9.1"]);
    // Queued while the clock was ahead: it must not be tried again and again.
    database.put_off("pacs", None, 9, "hung", 5, 6).unwrap();
    assert!(due(&database, "pacs", 8).is_empty());
}

#[test]
fn a_row_that_can_not_be_read_is_parked_and_the_others_go_on() {
    let (_dir, database) = open();
    for n in 1..=4 {
        finished(&database, &format!("1.2.{n}"), &[&format!("1.9.{n}")], &["pacs"]);
    }
    let damage = |sql: &str| assert_eq!(database.lock().execute(sql, []).unwrap(), 1);
    damage("UPDATE results SET transfer_syntax_uid = x'ff00' WHERE sop_instance_uid = '1.9.1'");
    damage("UPDATE results SET unpacked_bytes = 1000 WHERE sop_instance_uid = '1.9.2'");
    damage("UPDATE results SET data_set = 7 WHERE sop_instance_uid = '1.9.3'");
    assert_eq!(due(&database, "pacs", 10), ["1.9.2", "1.9.3", "1.9.4"]);
    let first = row(&database, "pacs", "1.9.1");
    assert_eq!(first.state, "parked");
    assert!(first.last_error.unwrap().starts_with("damaged: "));
    let payload = |uid: &str| database.payload(row(&database, "pacs", uid).id).unwrap();
    assert!(matches!(payload("1.9.2"), Payload::Damaged(_)));
    assert!(matches!(payload("1.9.3"), Payload::Damaged(_)));
    assert_eq!(payload("1.9.4"), Payload::Bytes(vec![1, 2, 3]));
}

#[test]
fn what_decides_goes_before_what_illustrates() {
    let (_dir, database) = open();
    for study in ["1.2.3", "1.2.4"] {
        let uid = StudyUid::new(study).unwrap();
        let key = database.receive(&uid, 1).unwrap();
        let reception = database.evaluate(key).unwrap();
        let made: Vec<ResultRow> = [Kind::Segmentation, Kind::Slices, Kind::Picture, Kind::Report]
            .map(|kind| ResultRow { kind, ..result(&format!("{study}.{kind}")) })
            .to_vec();
        database
            .finish(
                reception,
                1,
                &outcome(&uid),
                &for_all(&made, &["pacs"]),
                Some(&crate::database::View::default()),
                10,
            )
            .unwrap();
    }
    let order: Vec<(Kind, String)> =
        database.due("pacs", 10, 5, &[]).unwrap().into_iter().map(|d| (d.kind, d.study_uid)).collect();
    let want = [
        (Kind::Report, "1.2.3"),
        (Kind::Report, "1.2.4"),
        (Kind::Picture, "1.2.3"),
        (Kind::Picture, "1.2.4"),
        (Kind::Slices, "1.2.3"),
    ];
    assert_eq!(order, want.map(|(kind, study)| (kind, study.to_owned())));
}

#[test]
fn what_broke_a_connection_goes_last_and_counts_only_while_others_get_through() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.3"], &["pacs"]);
    let poison = row(&database, "pacs", "1.3").id;
    let broke = || {
        let failure = Failure::Broken("hung".into());
        database.failed(poison, &failure, Fate::Again { pause_ms: 1 }, 10).unwrap();
    };
    // The peer hangs for everybody: it says nothing about this result.
    for _ in 0..20 {
        broke();
    }
    assert_eq!(database.due("pacs", 11, 1, &[]).unwrap()[0].history(11).broken, 0);
    for n in 1..=3 {
        finished(&database, &format!("1.4.{n}"), &[&format!("1.5.{n}")], &["pacs"]);
        assert_eq!(due(&database, "pacs", 11), [format!("1.5.{n}"), "1.3".into()], "last");
        broke();
        database.accepted(row(&database, "pacs", &format!("1.5.{n}")).id, false, 11).unwrap();
        assert_eq!(database.due("pacs", 11, 1, &[]).unwrap()[0].history(11).broken, n);
    }
}

#[test]
fn a_dead_destination_is_put_off_as_one() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.3"], &["pacs", "console"]);
    finished(&database, "1.2.4", &["1.4"], &["pacs"]);
    let failure = Failure::Busy("full".into());
    database.failed(row(&database, "pacs", "1.3").id, &failure, Fate::Again { pause_ms: 90 }, 10).unwrap();
    database.put_off("pacs", None, 500, "off", 10, 10).unwrap();
    assert!(due(&database, "pacs", 499).is_empty());
    assert_eq!(due(&database, "pacs", 500), ["1.4", "1.3"], "what found no room goes last");
    assert_eq!(row(&database, "pacs", "1.4").attempts, 1);
    assert_eq!(due(&database, "console", 10), ["1.3"], "another destination does not notice");
}

#[test]
fn a_refused_result_keeps_its_pause_when_others_are_accepted() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.3"], &["pacs"]);
    finished(&database, "1.2.4", &["1.4"], &["pacs"]);
    let refused_row = row(&database, "pacs", "1.3").id;
    database.failed(refused_row, &refused(), Fate::Again { pause_ms: 2_000 }, 10).unwrap();
    database.accepted(row(&database, "pacs", "1.4").id, false, 20).unwrap();
    assert!(due(&database, "pacs", 20).is_empty(), "five refusals within a second would park it");
}

#[test]
fn results_that_have_an_end_everywhere_are_emptied() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9"], &["pacs", "console"]);
    let (pacs, console) = (row(&database, "pacs", "1.9").id, row(&database, "console", "1.9").id);
    database.accepted(pacs, true, 10).unwrap();
    database.failed(console, &refused(), Fate::Parked, 10).unwrap();
    assert_eq!(database.empty_results(1000).unwrap(), 0, "stored here, parked there");
    database.settle_stored("pacs", 10).unwrap();
    assert_eq!(database.empty_results(1000).unwrap(), 0, "an operator is still to decide");
    assert_eq!(database.retry(&Selection::Parked, 20).unwrap(), 1);
    assert_eq!(database.payload(console).unwrap(), Payload::Bytes(vec![1, 2, 3]));
    assert_eq!(database.drop_rows(&Selection::Row(console)).unwrap(), 1);
    assert_eq!(database.empty_results(10).unwrap(), 0, "not before its time");
    assert_eq!(database.empty_results(11).unwrap(), 1);
    assert_eq!(database.empty_results(11).unwrap(), 0);
    assert_eq!(database.retry(&Selection::Row(console), 20).unwrap(), 0, "there is nothing to send any more");
    assert!(database.is_result("1.9").unwrap(), "it may still come back");
    assert!(!database.is_result("1.8").unwrap());
}

#[test]
fn only_named_destinations_that_are_still_to_get_it_keep_images() {
    let (_dir, database) = open();
    let key = finished(&database, "1.2.3", &["1.9"], &["old"]);
    assert!(database.expendable(1000, &names(&["old"])).unwrap().is_empty());
    assert_eq!(database.expendable(1000, &names(&["new"])).unwrap(), [key]);
    assert_eq!(database.expendable(1000, &[]).unwrap(), [key]);
    assert_eq!(database.waiting_for_others(&names(&["new"])).unwrap(), [("old".to_owned(), 1)]);
    assert!(database.waiting_for_others(&names(&["old"])).unwrap().is_empty());
    let id = row(&database, "old", "1.9").id;
    database.failed(id, &refused(), Fate::Parked, 20).unwrap();
    assert_eq!(database.expendable(1000, &names(&["old"])).unwrap(), [key], "parked: whole in the database");
}

#[test]
fn what_an_operator_may_do() {
    let (dir, database) = open();
    finished(&database, "1.2.3", &["1.3"], &["pacs"]);
    finished(&database, "1.2.4", &["1.4"], &["pacs", "ris"]);
    let operator = Database::open_beside_the_daemon(&dir.path().join("db")).unwrap();
    let (a, b) = (row(&database, "pacs", "1.3").id, row(&database, "pacs", "1.4").id);
    for _ in 0..4 {
        database.failed(a, &refused(), Fate::Again { pause_ms: 500 }, 10).unwrap();
    }
    database.failed(a, &refused(), Fate::Parked, 10).unwrap();
    let entry = row(&operator, "pacs", "1.3");
    assert_eq!((entry.state.as_str(), entry.attempts, entry.next_attempt_ms), ("parked", 5, None));
    assert_eq!(entry.last_error.as_deref(), Some("refused: no"));
    assert!(due(&database, "pacs", 10_000) == ["1.4"], "parked");
    assert_eq!(operator.retry(&Selection::Row(a), 600).unwrap(), 1);
    assert_eq!(due(&database, "pacs", 600), ["1.3", "1.4"]);
    assert_eq!(database.due("pacs", 600, 1, &[]).unwrap()[0].history(11).refusals, 0, "a clean record");
    assert_eq!(operator.drop_rows(&Selection::Row(b)).unwrap(), 1);
    assert_eq!(database.payload(b).unwrap(), Payload::Gone, "not even when it is in a batch already");
    assert_eq!(operator.drop_rows(&Selection::Row(b)).unwrap(), 0);
    // A failure of the attempt that was under way does not bring it back.
    database.failed(b, &refused(), Fate::Again { pause_ms: 1 }, 700).unwrap();
    assert_eq!(due(&database, "pacs", 701), ["1.3"]);
    assert_eq!(operator.retry(&Selection::Row(b), 700).unwrap(), 1, "but the operator may");
    database.accepted(a, false, 700).unwrap();
    assert_eq!(operator.retry(&Selection::Row(a), 700).unwrap(), 0, "delivered is delivered");
    assert_eq!(operator.retry(&Selection::Destination("ris".into()), 700).unwrap(), 1);
    assert_eq!(operator.retry(&Selection::ParkedFor("ris".into()), 700).unwrap(), 0, "it waits now");
    let open: Vec<i64> = operator.entries(false).unwrap().into_iter().map(|e| e.id).collect();
    assert!(!open.contains(&a) && open.contains(&b) && open.len() == 2, "{open:?}");
}

#[test]
fn an_operator_finds_no_database_where_none_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    assert!(Database::open_beside_the_daemon(&path).is_err());
    assert!(!path.exists(), "it makes none");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 1).unwrap();
    let error = Database::open_beside_the_daemon(&path).err().unwrap().to_string();
    assert!(error.contains("start this version's daemon once"), "{error}");
}

#[test]
fn a_commitment_ends_a_delivery_or_sends_it_again() {
    let (_dir, database) = open();
    for n in 1..=4 {
        finished(&database, &format!("1.2.{n}"), &[&format!("1.9.{n}")], &["pacs"]);
        database.accepted(row(&database, "pacs", &format!("1.9.{n}")).id, true, 20).unwrap();
    }
    assert!(due(&database, "pacs", 1000).is_empty(), "accepted");
    let asked = database.uncommitted("pacs", 20, 3).unwrap();
    let ids: Vec<i64> = asked.iter().map(|u| u.delivery.id).collect();
    assert_eq!((ids.len(), asked[0].unanswered), (3, false));
    database.asking(&ids, "2.25.1", 20).unwrap();
    assert_eq!(database.uncommitted("pacs", 20, 9).unwrap().len(), 1, "the others are asked for");
    let pacs = names(&["pacs"]);
    let (none, lost): (&[String], _) = (&[], [("1.9.2".to_owned(), 0x0112)]);
    assert_eq!(database.committed(&pacs, "2.25.2", none, &lost, 30).unwrap(), None, "not asked");
    let other = database.committed(&names(&["console"]), "2.25.1", &names(&["1.9.1"]), &lost, 30).unwrap();
    assert_eq!(other, None, "each speaks for itself");
    let answer = database.committed(&pacs, "2.25.1", &names(&["1.9.1", "1.9.7"]), &lost, 30).unwrap();
    assert_eq!(answer, Some(Answered { kept: 1, lost: 1 }));
    let state = |uid: &str| row(&database, "pacs", uid).state;
    assert_eq!(state("1.9.1"), "delivered");
    // It may index what it took later: it is asked again, for some minutes.
    let entry = row(&database, "pacs", "1.9.2");
    assert_eq!((entry.state.as_str(), entry.refusals, entry.next_attempt_ms), ("stored", 0, Some(2_030)));
    assert!(entry.last_error.unwrap().contains("0x0112"));
    database.asking(&[entry.id], "2.25.3", 600_020).unwrap();
    database.committed(&pacs, "2.25.3", &[], &lost, 600_020).unwrap();
    let entry = row(&database, "pacs", "1.9.2");
    assert_eq!((entry.state.as_str(), entry.refusals), ("waiting", 1), "it is sent again");
    assert_eq!((state("1.9.3"), state("1.9.4")), ("stored".into(), "stored".into()), "not in the answers");
    // No answer about the third, and the clock goes on.
    let late = database.uncommitted("pacs", 20 + limits::COMMITMENT_WAIT_MS, 9).unwrap();
    let unanswered: Vec<(bool, &str)> =
        late.iter().map(|u| (u.unanswered, u.delivery.sop_instance_uid.as_str())).collect();
    assert_eq!(unanswered, [(true, "1.9.3"), (false, "1.9.4")]);
    database.failed(late[0].delivery.id, &refused(), Fate::Again { pause_ms: 0 }, 40).unwrap();
    assert!(!database.uncommitted("pacs", 40, 9).unwrap()[0].unanswered, "asked for anew");
    // A slow archive answers the first question, after the second was asked.
    database.asking(&[late[0].delivery.id], "2.25.4", 50).unwrap();
    let answer = database.committed(&pacs, "2.25.1", &names(&["1.9.3"]), &[], 60).unwrap();
    assert_eq!((answer, state("1.9.3").as_str()), (Some(Answered { kept: 1, lost: 0 }), "delivered"));
}

#[test]
fn what_is_never_committed_is_sent_again_and_parked() {
    let (_dir, database) = open();
    finished(&database, "1.2.3", &["1.9"], &["pacs"]);
    let id = row(&database, "pacs", "1.9").id;
    let lost = [("1.9".to_owned(), 0x0110)];
    let mut now_ms = 20;
    for attempt in 1..=crate::outbox::policy::REFUSALS_MAX {
        now_ms += 400_000;
        assert_eq!(database.due("pacs", now_ms, 9, &[]).unwrap().len(), 1, "{attempt}");
        database.accepted(id, true, now_ms).unwrap();
        for _ in 0..2 {
            assert_eq!(row(&database, "pacs", "1.9").state, "stored", "{attempt}");
            database.asking(&[id], "2.25.1", now_ms).unwrap();
            now_ms += 599_999;
            database.committed(&names(&["pacs"]), "2.25.1", &[], &lost, now_ms).unwrap();
        }
    }
    assert_eq!(row(&database, "pacs", "1.9").state, "parked");
}

#[test]
fn an_evaluation_stands_when_its_images_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("db")).unwrap();
    let study = StudyUid::new("1.2.3").unwrap();
    let key = finished(&database, "1.2.3", &[], &[]);
    let evaluated = Outcome {
        verdict: Verdict::NotFlagged(study::Findings {
            probability: Some(0.1),
            lesions: Some(Default::default()),
            lung_volume_ml: Default::default(),
            method: String::new(),
            engine: String::new(),
            model_version: String::new(),
        }),
        ..outcome(&study)
    };
    let reception = database.evaluate(key).unwrap();
    database.finish(reception, 1, &evaluated, &[], Some(&crate::database::View::default()), 10).unwrap();
    assert_eq!(database.known(&study).unwrap(), Some((key, true)));
    database.receive(&study, 11).unwrap();
    assert_eq!(database.known(&study).unwrap(), Some((key, false)));
    assert!(!database.earlier_evaluation_stands(key).unwrap(), "its images are still there");
    let reception = database.evaluate(key).unwrap();
    database
        .finish(reception, 2, &outcome(&study), &[], Some(&crate::database::View::default()), 12)
        .unwrap();
    assert!(database.claim_images(key).unwrap() && database.images_are_deleted(key).unwrap());
    // Late slices, one after the other: none of them brings the images back.
    for _ in 0..2 {
        database.receive(&study, 13).unwrap();
        assert!(database.earlier_evaluation_stands(key).unwrap());
        assert!(!database.images_are_deleted(key).unwrap());
    }
    let reception = database.evaluate(key).unwrap();
    database
        .finish(reception, 3, &outcome(&study), &[], Some(&crate::database::View::default()), 14)
        .unwrap();
    assert_eq!(database.expendable(1000, &[]).unwrap(), [key], "the late slices may go, too");
    // A study that was never evaluated has nothing that could stand.
    let other = StudyUid::new("1.2.4").unwrap();
    let key = finished(&database, "1.2.4", &["1.9"], &[]);
    database.claim_images(key).unwrap();
    database.has_files(key).unwrap();
    database.receive(&other, 20).unwrap();
    assert!(!database.earlier_evaluation_stands(key).unwrap());
}
