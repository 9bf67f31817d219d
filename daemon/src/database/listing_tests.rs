//! The list: its order, its days, its alerts, whatever the clock said.

use super::*;
use std::collections::BTreeMap;
use study::{Findings, Lesions, Mode, NotEvaluated, Policy, Sides, StudyUid};

const DAY_MS: i64 = 86_400_000;

fn outcome(study: &StudyUid, verdict: Verdict) -> Outcome {
    Outcome { study_uid: study.clone(), series_uid: None, verdict, timings_ms: BTreeMap::new() }
}

fn findings(probability: f32, severity: f64) -> Findings {
    Findings {
        probability: Some(probability),
        lesions: Some(Lesions {
            fraction: Sides { left: severity, right: 0.0 },
            volume_ml: Sides { left: 2000.0 * severity, right: 0.0 },
        }),
        lung_volume_ml: Sides { left: 2000.0, right: 2300.0 },
        method: "m".into(),
        engine: "cpu".into(),
        model_version: "1".into(),
    }
}

const POLICY: Policy = Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 };

struct Box {
    database: Database,
    _dir: tempfile::TempDir,
}

impl Box {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { database: Database::open(&dir.path().join("db")).unwrap(), _dir: dir }
    }

    /// A study that arrived then, and what it ended as.
    fn study(&self, uid: &str, arrived_ms: i64, verdict: Option<Verdict>) -> StudyKey {
        let study = StudyUid::new(uid).unwrap();
        let key = self.database.receive(&study, arrived_ms).unwrap();
        self.database.list(key, &Subject { patient_name: uid.into(), ..Subject::default() }).unwrap();
        if let Some(verdict) = verdict {
            self.end(key, &study, verdict, arrived_ms + 10);
        }
        key
    }

    fn end(&self, key: StudyKey, study: &StudyUid, verdict: Verdict, now_ms: i64) {
        let outcome = outcome(study, verdict);
        let rank = Some(Rank::of(&outcome, &POLICY));
        let view = View { rank, alerts: true, picture: vec![7], ..View::default() };
        let reception = self.database.evaluate(key).unwrap();
        let revision = self.database.next_revision(key).unwrap();
        self.database.finish(reception, revision, &outcome, &[], Some(&view), now_ms).unwrap();
    }

    fn names(&self, period: Period, order: Order) -> Vec<String> {
        let listed = self.database.listed(period, order, 0, 100).unwrap();
        assert_eq!(self.database.listed_count(period).unwrap(), listed.len());
        listed.into_iter().map(|study| study.subject.patient_name).collect()
    }
}

fn flagged(probability: f32, severity: f64) -> Option<Verdict> {
    Some(Verdict::Flagged(findings(probability, severity)))
}

#[test]
fn the_order_is_that_of_the_policy_with_what_is_open_before_what_is_not_flagged() {
    let all = Box::new();
    all.study("1.1", 1, Some(Verdict::NotFlagged(findings(0.1, 0.0))));
    all.study("1.2", 2, flagged(0.4, 0.6));
    all.study("1.3", 3, None);
    all.study("1.4", 4, Some(Verdict::NotEvaluated(NotEvaluated::NoCt)));
    all.study("1.5", 5, flagged(0.9, 0.1));
    all.study("1.6", 6, flagged(0.9, 0.3));
    all.study("1.7", 7, flagged(0.9, 0.3));
    let triage = ["1.6", "1.7", "1.5", "1.2", "1.4", "1.3", "1.1"];
    assert_eq!(all.names(Period::Since(0), Order::Triage), triage);
    let arrival = ["1.7", "1.6", "1.5", "1.4", "1.3", "1.2", "1.1"];
    assert_eq!(all.names(Period::Since(0), Order::Arrival), arrival);
    let second = all.database.listed(Period::Since(0), Order::Triage, 2, 2).unwrap();
    assert_eq!(second.iter().map(|s| s.study_uid.as_str()).collect::<Vec<_>>(), ["1.5", "1.2"]);
}

#[test]
fn a_clock_that_jumped_hides_no_open_study_no_alert_and_not_the_last_ones() {
    let all = Box::new();
    let today = 20_000 * DAY_MS;
    // The clock stood at 1970, or at 2100; or it is an old day.
    let old = all.study("1.1", 5, flagged(0.9, 0.3));
    all.study("1.2", 5, None);
    all.study("1.3", 2 * today, Some(Verdict::NotFlagged(findings(0.1, 0.0))));
    for n in 0..LAST_ONES {
        all.study(&format!("2.{n}"), 6, Some(Verdict::NotFlagged(findings(0.1, 0.0))));
    }
    let now = Period::Since(today);
    let names = all.names(now, Order::Triage);
    for name in ["1.1", "1.2", "1.3", "2.0", "2.19"] {
        assert!(names.contains(&name.to_owned()), "{name} is not in {names:?}");
    }
    assert!(all.database.acknowledge(old, 1, "4711", 9).unwrap());
    assert!(!all.names(now, Order::Triage).contains(&"1.1".to_owned()), "acknowledged, and of another day");
    assert_eq!(all.names(Period::Between(0, DAY_MS), Order::Triage).len(), 2 + LAST_ONES as usize);
}

#[test]
fn an_alert_ends_with_one_name_and_a_new_revision_is_a_new_alert() {
    let all = Box::new();
    let key = all.study("1.1", 1, flagged(0.9, 0.3));
    assert_eq!(all.database.alert_counts().unwrap(), (1, 0));
    assert!(!all.database.acknowledge(key, 2, "x", 5).unwrap(), "no such revision");
    assert!(all.database.acknowledge(key, 1, "4711", 20).unwrap());
    assert!(!all.database.acknowledge(key, 1, "0815", 21).unwrap(), "somebody was faster");
    let study = all.database.listed_one(key).unwrap().unwrap();
    assert_eq!((study.alert, study.acknowledged), (None, Some(("4711".into(), 20))));
    // A late slice.
    let uid = StudyUid::new("1.1").unwrap();
    all.database.receive(&uid, 30).unwrap();
    assert_eq!(all.database.listed_one(key).unwrap().unwrap().revision, Some(1), "the result so far stands");
    all.end(key, &uid, Verdict::Flagged(findings(0.9, 0.5)), 40);
    assert_eq!(all.database.alerts(9).unwrap()[0].alert, Some(2));
    assert!(all.database.acknowledge(key, 2, "0815", 50).unwrap());
    let history = [(1, "4711".into(), 20), (2, "0815".into(), 50)];
    assert_eq!(all.database.acknowledgements(key).unwrap(), history);
}

#[test]
fn alerts_escalate_once_and_one_from_the_future_at_once() {
    let all = Box::new();
    let (soon, far) =
        (all.study("1.1", 1_000, flagged(0.9, 0.3)), all.study("1.2", 10 * DAY_MS, flagged(0.9, 0.3)));
    assert_eq!(all.database.escalate(500, 2_000).unwrap(), [(far, "1.2".into())]);
    assert_eq!(all.database.escalate(1_010, 3_000).unwrap(), [(soon, "1.1".into())]);
    assert_eq!(all.database.escalate(1_010, 3_000).unwrap(), []);
    assert_eq!(all.database.alert_counts().unwrap(), (2, 2));
    all.database.acknowledge(soon, 1, "x", 4_000).unwrap();
    assert_eq!(all.database.alert_counts().unwrap(), (1, 1));
}

#[test]
fn an_outcome_that_does_not_stand_changes_nothing_on_the_screen() {
    let all = Box::new();
    let key = all.study("1.1", 1, flagged(0.9, 0.3));
    let uid = StudyUid::new("1.1").unwrap();
    all.database.receive(&uid, 30).unwrap();
    let reception = all.database.evaluate(key).unwrap();
    let nothing = outcome(&uid, Verdict::NotEvaluated(NotEvaluated::NoCt));
    all.database.finish(reception, 2, &nothing, &[], None, 40).unwrap();
    assert_eq!(all.database.listed_one(key).unwrap().unwrap().alert, Some(1));
    assert_eq!(all.database.picture(key).unwrap(), Some(vec![7]));
    all.database.delete_views(50).unwrap();
    assert_eq!(all.database.picture(key).unwrap(), Some(vec![7]), "nobody has acknowledged it");
    all.database.acknowledge(key, 1, "4711", 60).unwrap();
    all.database.delete_views(50).unwrap();
    assert_eq!(all.database.picture(key).unwrap(), None);
    assert_eq!(all.database.listed_one(key).unwrap().unwrap().subject, Subject::default());
}

#[test]
fn a_later_revision_without_a_flag_ends_no_alert() {
    let all = Box::new();
    let key = all.study("1.1", 1, flagged(0.9, 0.3));
    all.study("1.2", 2, flagged(0.9, 0.2));
    let uid = StudyUid::new("1.1").unwrap();
    for (revision, verdict) in
        [(2, Verdict::NotEvaluated(NotEvaluated::NoCt)), (3, Verdict::NotFlagged(findings(0.1, 0.0)))]
    {
        all.database.receive(&uid, 30).unwrap();
        all.end(key, &uid, verdict, 40);
        let study = all.database.listed_one(key).unwrap().unwrap();
        assert_eq!((study.revision, study.alert, study.flagged), (Some(revision), Some(1), false));
        assert_eq!(all.database.alert_counts().unwrap().0, 2);
        assert!(
            all.names(Period::Since(0), Order::Triage)[..2].contains(&"1.1".to_owned()),
            "it does not sink"
        );
    }
    assert_eq!(all.database.escalate(11, 50).unwrap().len(), 1, "since the first revision");
    assert!(all.database.acknowledge(key, 1, "4711", 60).unwrap());
    assert_eq!(all.database.alert_counts().unwrap(), (1, 0));
}

#[test]
fn without_a_screen_a_flag_alerts_nobody() {
    let all = Box::new();
    let key = all.study("1.1", 1, None);
    let outcome = outcome(&StudyUid::new("1.1").unwrap(), flagged(0.9, 0.3).unwrap());
    let reception = all.database.evaluate(key).unwrap();
    all.database.finish(reception, 1, &outcome, &[], Some(&View::default()), 9).unwrap();
    assert_eq!(all.database.alert_counts().unwrap(), (0, 0));
    assert!(all.database.listed_one(key).unwrap().unwrap().flagged);
}
