//! One destination's thread against peers that misbehave: nothing is lost, nothing goes out under another UID or with
//! other bytes.
mod peer;

use super::*;
use crate::config::{DicomDestination, Hl7Destination, UpsDestination};
use crate::database::{Deliverable, Entry, Kind, ResultRow, Selection};
use dimse::Status;
use peer::{Does, Given, SECONDARY_CAPTURE, UPS_PUSH, peer};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use study::{NotEvaluated, Outcome, StudyUid, Verdict};

/// A destination with results that wait, and a clock of its own.
struct Scene {
    _dir: tempfile::TempDir,
    database: Database,
    destination: Destination,
    line: Line,
    clock: Cell<i64>,
    studies: Cell<u32>,
    failures: Cell<u32>,
    away_until_ms: Cell<i64>,
}

impl Scene {
    fn new(destination: Destination) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let sender = Sender { calling: "TRIAGED".parse().unwrap(), tls: None };
        let mut line = Line::new(&destination, &sender).unwrap();
        if let Line::Dicom { peer, .. } = &mut line {
            peer.config.response_timeout = Duration::from_millis(200);
        }
        let (clock, studies) = (Cell::new(1_000_000), Cell::new(0));
        let (failures, away_until_ms) = (Cell::new(0), Cell::new(0));
        Self { _dir: dir, database, destination, line, clock, studies, failures, away_until_ms }
    }

    fn dicom(address: &str, storage_commitment: bool) -> Self {
        Self::new(Destination::Dicom(DicomDestination {
            name: "pacs".into(),
            ae_title: "PACS".into(),
            address: address.into(),
            tls: false,
            results: Vec::new(),
            storage_commitment,
        }))
    }

    /// Another study with a result.
    fn add(&self, kind: Kind, class: &str, uid: &str) {
        self.studies.set(self.studies.get() + 1);
        let study = StudyUid::new(&format!("1.2.{}", self.studies.get())).unwrap();
        let key = self.database.receive(&study, 1).unwrap();
        let reception = self.database.evaluate(key).unwrap();
        let verdict = Verdict::NotEvaluated(NotEvaluated::NoCt);
        let outcome = Outcome { study_uid: study, series_uid: None, verdict, timings_ms: Default::default() };
        let row = ResultRow {
            kind,
            sop_class_uid: class.into(),
            sop_instance_uid: uid.into(),
            transfer_syntax_uid: uids::EXPLICIT_VR_LITTLE_ENDIAN.into(),
            data_set: crate::database::Packed::new(&data_set(uid)),
        };
        let deliverable = Deliverable { row, destinations: vec![self.destination.name().to_owned()] };
        self.database
            .finish(
                reception,
                1,
                &outcome,
                &[deliverable],
                Some(&crate::database::View::default()),
                self.clock.get(),
            )
            .unwrap();
    }

    fn picture(&self, uid: &str) {
        self.add(Kind::Picture, SECONDARY_CAPTURE, uid);
    }

    fn courier<'a>(&'a self, wake: &'a mpsc::Receiver<()>, clock: &'a dyn Fn() -> i64) -> Courier<'a> {
        Courier {
            database: &self.database,
            destination: &self.destination,
            line: &self.line,
            wake,
            delivered: &|_| {},
            turn: &|| {},
            clock,
            failures: self.failures.get(),
            away_until_ms: self.away_until_ms.get(),
        }
    }

    /// What the thread does until it sleeps.
    fn round(&self) {
        let (_wake, woken) = mpsc::channel();
        let clock = || self.clock.get();
        let mut courier = self.courier(&woken, &clock);
        assert!(courier.round().unwrap());
        self.failures.set(courier.failures);
        self.away_until_ms.set(courier.away_until_ms);
    }

    /// Later than every pause.
    fn later(&self) {
        self.clock.set(self.clock.get() + crate::limits::DELIVERY_PAUSE_MAX_MS * 3 / 2);
    }

    fn rows(&self) -> Vec<Entry> {
        self.database.entries(true).unwrap()
    }

    fn states(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.state).collect()
    }
}

/// A data set with its own UID in it.
fn data_set(uid: &str) -> Vec<u8> {
    let mut value = uid.to_owned().into_bytes();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    [b"\x08\0\x18\0UI".as_slice(), &(value.len() as u16).to_le_bytes(), &value].concat()
}

/// All that a peer was given has the bytes that its UID stands for.
fn assert_unchanged(given: &[Given]) {
    for (uid, bytes) in given {
        assert_eq!(*bytes, data_set(uid), "{uid}");
    }
}

#[test]
fn a_peer_that_misbehaves_for_a_while_gets_everything_in_the_end() {
    use Does::{Aborts, Closes, Drops, Garbage, Good, Hangs, NoContext, Says};
    // What it does, and how many rounds of it the results survive.
    let cases: &[(&[Does], usize)] = &[
        (&[Good], 1),
        (&[Closes, Closes, Good], 3),
        (&[Garbage, Garbage, Garbage, Good], 4),
        (&[Drops, Good], 2),
        (&[Drops, Drops, Drops, Good], 4),
        (&[Aborts, Good], 2),
        (&[Hangs, Good], 2),
        (&[Says(Status::OUT_OF_RESOURCES), Says(Status::OUT_OF_RESOURCES), Good], 3),
        (&[Says(Status(0xC000)), Says(Status(0xC000)), Good], 3),
        (&[NoContext, NoContext, Good], 3),
    ];
    for (does, rounds) in cases {
        let (address, received) = peer(does);
        let scene = Scene::dicom(&address, false);
        let uids = ["1.9.1", "1.9.2", "1.9.3"];
        for uid in uids {
            scene.picture(uid);
        }
        for _ in 0..*rounds {
            scene.round();
            scene.later();
        }
        assert_eq!(scene.states(), ["delivered"; 3], "{does:?}: {:?}", scene.rows());
        let given: Vec<Given> = received.try_iter().collect();
        assert_unchanged(&given);
        for uid in uids {
            assert!(given.iter().any(|(g, _)| g == uid), "{does:?}: {uid} was lost");
        }
        scene.round();
        assert!(received.try_recv().is_err(), "{does:?}: delivered, and sent again");
    }
}

#[test]
fn what_is_refused_for_good_is_parked_and_can_be_retried() {
    for (does, refusals) in [(Does::Says(Status(0xC000)), 5), (Does::NoContext, 3)] {
        let (address, _received) = peer(&[does]);
        let scene = Scene::dicom(&address, false);
        scene.picture("1.9.1");
        for n in 0..refusals {
            assert_eq!(scene.states(), ["waiting"], "{does:?} {n}");
            scene.round();
            scene.later();
        }
        assert_eq!(scene.states(), ["parked"], "{does:?}");
        let row = scene.rows().remove(0);
        assert_eq!(row.attempts, refusals);
        assert!(row.last_error.unwrap().starts_with("refused: "));
        scene.round();
        assert_eq!(scene.rows()[0].attempts, refusals, "not tried any more");
        assert_eq!(scene.database.retry(&Selection::Parked, scene.clock.get()).unwrap(), 1);
        scene.round();
        assert_eq!((scene.states().remove(0).as_str(), scene.rows()[0].attempts), ("waiting", refusals + 1));
    }
}

#[test]
fn one_poison_result_delays_no_other_and_is_parked() {
    let (address, received) = peer(&[Does::Poisoned("1.9.0")]);
    let scene = Scene::dicom(&address, false);
    scene.picture("1.9.0");
    scene.picture("1.9.1");
    let mut rounds = 0;
    while scene.rows()[0].state == "waiting" {
        scene.round();
        let others = scene.rows().into_iter().skip(1);
        assert!(others.map(|row| row.state).all(|state| state == "delivered"), "{:?}", scene.rows());
        rounds += 1;
        assert!(rounds < 20, "never parked: {:?}", scene.rows()[0]);
        scene.picture(&format!("1.8.{rounds}"));
    }
    assert_eq!(scene.rows()[0].state, "parked");
    let given: Vec<Given> = received.try_iter().collect();
    assert_unchanged(&given);
    assert!(given.iter().filter(|(uid, _)| uid == "1.9.0").count() >= 8);
}

#[test]
fn a_peer_that_hangs_for_everybody_parks_nothing_and_costs_two_connections_a_round() {
    let (address, received) = peer(&[Does::Drops]);
    let scene = Scene::dicom(&address, false);
    for n in 0..20 {
        scene.picture(&format!("1.9.{n}"));
    }
    for _ in 0..40 {
        scene.round();
        scene.later();
    }
    assert_eq!(scene.states(), ["waiting"; 20]);
    assert!(received.try_iter().count() <= 2 + 40);
}

#[test]
fn a_peer_that_is_away_costs_one_connection_a_round() {
    let (address, _received) = peer(&[Does::Closes]);
    let scene = Scene::dicom(&address, false);
    for n in 0..50 {
        scene.picture(&format!("1.9.{n}"));
    }
    for n in 1..=5 {
        scene.round();
        assert!(scene.rows().iter().all(|row| row.attempts == n), "{:?}", scene.rows()[0]);
        scene.later();
    }
    assert_eq!(scene.failures.get(), 5, "one connection each");
}

#[test]
fn results_that_come_while_a_peer_is_away_do_not_lengthen_its_absence() {
    let (address, received) = peer(&[Does::Closes; 20].into_iter().chain([Does::Good]).collect::<Vec<_>>());
    let scene = Scene::dicom(&address, false);
    for n in 0..20 {
        scene.picture(&format!("1.9.{n}"));
        scene.round();
    }
    let next: Vec<i64> = scene.rows().iter().map(|row| row.next_attempt_ms.unwrap()).collect();
    let pause_ms = next[0] - scene.clock.get();
    assert!(pause_ms < 3_000 && next.iter().all(|at| *at == next[0]), "{next:?}");
    scene.clock.set(next[0]);
    scene.round();
    assert_eq!(scene.states(), ["delivered"; 20]);
    assert_eq!(received.try_iter().count(), 20);
}

#[test]
fn a_kind_that_finds_no_room_does_not_starve_the_others() {
    let (address, received) = peer(&[Does::NoRoomFor(SECONDARY_CAPTURE)]);
    let scene = Scene::dicom(&address, false);
    for n in 0..20 {
        // Reports go first.
        scene.add(Kind::Report, SECONDARY_CAPTURE, &format!("1.8.{n}"));
        scene.add(Kind::Picture, UPS_PUSH, &format!("1.9.{n}"));
    }
    scene.round();
    let pictures = || scene.rows().into_iter().filter(|row| row.kind == Kind::Picture);
    assert!(pictures().all(|row| row.state == "delivered"), "{:?}", scene.rows());
    assert_eq!(
        received.try_iter().count(),
        20 + BUSY_MAX as usize,
        "two reports showed that there is no room"
    );
    // Nor do they hold up a new one; and no round ends in a tight loop.
    scene.add(Kind::Picture, UPS_PUSH, "1.9.99");
    scene.round();
    assert!(pictures().all(|row| row.state == "delivered"));
    scene.round();
    let next = scene.database.next_due_ms("pacs").unwrap().unwrap();
    assert!(next > scene.clock.get() + 1_000, "{next}");
    assert_eq!(scene.database.counts("pacs").unwrap().waiting, 20, "they are tried again");
}

#[test]
fn a_result_that_comes_while_the_peer_hangs_is_not_put_off_with_the_others() {
    let (address, _received) = peer(&[Does::Hangs, Does::Hangs, Does::Good]);
    let scene = Scene::dicom(&address, false);
    scene.picture("1.9.1");
    scene.picture("1.9.2");
    // The clock goes on with each look at it; the second connection opens, and another result is queued.
    let (looks, added) = (Cell::new(0), Cell::new(false));
    let clock = || {
        looks.set(looks.get() + 1);
        scene.clock.set(scene.clock.get() + 10);
        let tried = scene.rows().iter().filter(|row| row.attempts > 0).count();
        if tried == 2 && !added.replace(true) {
            scene.picture("1.9.3");
            scene.clock.set(scene.clock.get() + 60_000);
        }
        scene.clock.get()
    };
    let (_wake, woken) = mpsc::channel();
    scene.courier(&woken, &clock).round().unwrap();
    assert!(added.get());
    assert_eq!(scene.rows()[2].state, "delivered", "{:?}", scene.rows());
}

#[test]
fn what_is_damaged_is_parked_and_the_others_go_on() {
    let (address, received) = peer(&[Does::Good]);
    let scene = Scene::dicom(&address, false);
    scene.picture("1.9.1");
    scene.picture("1.9.2");
    let other = rusqlite::Connection::open(scene._dir.path().join("db")).unwrap();
    other.execute("UPDATE results SET unpacked_bytes = 99 WHERE sop_instance_uid = '1.9.1'", []).unwrap();
    scene.round();
    assert_eq!(scene.states(), ["parked", "delivered"]);
    assert!(scene.rows()[0].last_error.as_ref().unwrap().starts_with("damaged: "));
    assert_eq!(received.try_iter().count(), 1);
}

#[test]
fn who_wants_tls_never_gets_plain_text() {
    let destination = Destination::Dicom(DicomDestination {
        name: "pacs".into(),
        ae_title: "PACS".into(),
        address: "127.0.0.1:1".into(),
        tls: true,
        results: Vec::new(),
        storage_commitment: false,
    });
    let sender = Sender { calling: "TRIAGED".parse().unwrap(), tls: None };
    assert!(Line::new(&destination, &sender).err().unwrap().to_string().contains("TLS"));
}

#[test]
fn implicit_vr_is_written_for_who_takes_nothing_else() {
    let (address, received) = peer(&[Does::Implicit]);
    let scene = Scene::dicom(&address, false);
    scene.picture("1.9.1");
    scene.round();
    assert_eq!(scene.states(), ["delivered"]);
    assert_eq!(received.recv().unwrap().1, b"\x08\0\x18\0\x06\0\0\x001.9.1\0");
}

#[test]
fn a_worklist_item_that_is_there_already_has_arrived() {
    let (address, received) = peer(&[Does::Drops, Does::Says(Status::DUPLICATE_SOP_INSTANCE)]);
    let scene = Scene::new(Destination::Ups(UpsDestination {
        name: "worklist".into(),
        ae_title: "WORKLIST".into(),
        address,
        tls: false,
    }));
    scene.add(Kind::Ups, UPS_PUSH, "1.9.1");
    scene.round();
    assert_eq!(scene.states(), ["waiting"]);
    scene.later();
    scene.round();
    assert_eq!(scene.states(), ["delivered"]);
    assert_unchanged(&received.try_iter().collect::<Vec<_>>());
}

/// The first element of a request, in Implicit VR.
fn transaction_of(request: &[u8]) -> String {
    let length = usize::from(request[4]);
    std::str::from_utf8(&request[8..8 + length]).unwrap().trim_end_matches('\0').to_owned()
}

#[test]
fn commitment_is_asked_for_and_ends_the_delivery() {
    let (address, received) = peer(&[Does::Good]);
    let scene = Scene::dicom(&address, true);
    scene.picture("1.9.1");
    scene.picture("1.9.2");
    scene.round();
    assert_eq!(scene.states(), ["stored"; 2]);
    let (uid, request) = received.try_iter().last().unwrap();
    assert_eq!(uid, uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE);
    let transaction = transaction_of(&request);
    scene.round();
    assert_eq!(received.try_iter().count(), 0, "asked once");
    let (kept, lost) = (["1.9.1".to_owned()], [("1.9.2".to_owned(), 0x0112)]);
    let pacs = ["pacs".to_owned()];
    let answer = scene.database.committed(&pacs, &transaction, &kept, &lost, scene.clock.get()).unwrap();
    assert!(answer.is_some());
    assert_eq!(scene.states(), ["delivered", "stored"]);
    scene.later();
    scene.round();
    let again: Vec<Given> = received.try_iter().collect();
    assert_eq!(again.len(), 1, "asked for again, and not sent again");
    let transaction = transaction_of(&again[0].1);
    scene.later();
    scene.database.committed(&pacs, &transaction, &[], &lost, scene.clock.get()).unwrap();
    assert_eq!(scene.states(), ["delivered", "waiting"]);
    scene.later();
    scene.round();
    assert_eq!(scene.states(), ["delivered", "stored"], "sent again, and asked for again");
    let again: Vec<String> = received.try_iter().map(|(uid, _)| uid).collect();
    assert_eq!(again, ["1.9.2", uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE]);
}

#[test]
fn a_commitment_that_never_comes_is_asked_for_again_and_then_parked() {
    let (address, received) = peer(&[Does::Good]);
    let scene = Scene::dicom(&address, true);
    scene.picture("1.9.1");
    let mut transactions = Vec::new();
    for _ in 0..policy::REFUSALS_MAX {
        scene.round();
        assert_eq!(scene.states(), ["stored"]);
        transactions.push(received.try_iter().last().unwrap().1);
        scene.clock.set(scene.clock.get() + crate::limits::COMMITMENT_WAIT_MS);
        scene.round();
        scene.later();
    }
    assert_eq!(scene.states(), ["parked"]);
    transactions.dedup();
    assert_eq!(transactions.len(), 5, "a transaction of its own each time");
}

#[test]
fn who_does_not_commit_is_shown() {
    let (address, _received) = peer(&[Does::Good, Does::NoContext]);
    let scene = Scene::dicom(&address, true);
    scene.picture("1.9.1");
    for _ in 0..policy::PERMANENT_REFUSALS_MAX {
        scene.round();
        scene.later();
    }
    assert_eq!(scene.states(), ["parked"]);
    assert!(scene.rows()[0].last_error.as_ref().unwrap().contains("storage commitment"));
}

#[test]
fn a_destination_that_is_not_asked_any_more_has_what_it_accepted() {
    let (address, _received) = peer(&[Does::Good, Does::NoContext]);
    let mut scene = Scene::dicom(&address, true);
    scene.picture("1.9.1");
    scene.round();
    assert_eq!(scene.states(), ["stored"]);
    let Line::Dicom { commitment, .. } = &mut scene.line else { panic!() };
    *commitment = false;
    let (_wake, woken) = mpsc::channel();
    scene.courier(&woken, &|| 0).greet().unwrap();
    assert_eq!(scene.states(), ["delivered"]);
}

#[test]
fn a_message_is_delivered_when_it_is_acknowledged() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It says no first, then falls silent at once, then has it.
    let receiver = std::thread::spawn(move || {
        let mut messages = Vec::new();
        for answer in [Some("AE"), None, Some("AE")] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut message = Vec::new();
            let mut byte = [0];
            while !message.ends_with(b"\x1c\r") && stream.read(&mut byte).unwrap() == 1 {
                message.push(byte[0]);
            }
            messages.push(message);
            if let Some(code) = answer {
                // 205: duplicate key. After the silence that means that the message had arrived.
                let ack = format!(
                    "\x0bMSH|^~\\&|RIS||||1||ACK|1|P|2.5.1\rMSA|{code}|CONTROL1\rERR|||205^DOE^JANE\r\x1c\r"
                );
                stream.write_all(ack.as_bytes()).unwrap();
            }
        }
        messages
    });
    let scene = Scene::new(Destination::Hl7(Hl7Destination {
        name: "ris".into(),
        address,
        tls: false,
        sending_facility: String::new(),
        receiving_application: String::new(),
        receiving_facility: String::new(),
        character_set: Default::default(),
    }));
    scene.add(Kind::Hl7, "", "CONTROL1");
    for want in ["waiting", "waiting", "delivered"] {
        scene.round();
        assert_eq!(scene.states(), [want], "{:?}", scene.rows());
        scene.later();
    }
    let messages = receiver.join().unwrap();
    assert!(messages.iter().all(|m| *m == messages[0]), "the same bytes at every attempt");
}

#[test]
fn the_thread_ends_when_the_appliance_stops() {
    let (address, _received) = peer(&[Does::Good]);
    let scene = Scene::dicom(&address, false);
    let (wake, woken) = mpsc::channel();
    drop(wake);
    let sender = Sender { calling: "TRIAGED".parse().unwrap(), tls: None };
    scene.picture("1.9.1");
    deliver(&scene.database, &scene.destination, &sender, &woken, &|_| {}, &|| {}).unwrap();
    assert_eq!(scene.states(), ["waiting"], "it was stopped before it began");
}
