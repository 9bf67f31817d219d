//! The trail from an event to a collector: messages judged by Python's XML reader, a listener that takes RFC 6587 apart,
//! TLS, and rsyslog.
use super::message::{Source, message};
use super::*;
use crate::config::Audit;
use crate::tls::Identity;
use rusqlite::Connection;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const AT_MS: i64 = 1_790_000_000_123;

fn who(user: &str) -> Who {
    Who { user: Some(user.to_owned()), peer: Some([10, 0, 0, 7].into()) }
}

fn event(action: Action) -> Event {
    Event { at_ms: AT_MS, who: who("ada"), action, outcome: Outcome::Success, text: String::new() }
}

fn subject(study_uid: &str, patient_id: &str) -> Subject {
    Subject { study_uid: study_uid.to_owned(), patient_id: Some(patient_id.to_owned()) }
}

fn view(user: &str, study_uid: &str, at_ms: i64) -> Event {
    Event { at_ms, who: who(user), ..event(Action::View(subject(study_uid, "P1"))) }
}

/// What the judge reads in messages; `None`, aloud, where there is no Python.
fn judged(messages: &[String]) -> Option<Vec<serde_json::Value>> {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    command.args(["-c", include_str!("check_message.py")]);
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no Python");
        println!("skipped: no Python");
        return None;
    };
    let lines: String = messages.iter().map(|message| format!("{message}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn source() -> Source {
    Source { ae_title: "TRIAGED".into(), host: "box.ct.example".into(), process_id: 4711 }
}

#[test]
fn every_event_is_a_message_that_the_standard_knows() {
    let hostile = "\"><b>&amp;' \u{1}\t\u{ffff}]]>ł 肺";
    let read_as = "\"><b>&amp;' \u{fffd} \u{fffd}]]>ł 肺";
    let events = [
        event(Action::Start),
        event(Action::Stop),
        event(Action::Login),
        Event {
            who: Who { user: None, ..who("") },
            outcome: Outcome::Minor,
            text: "a wrong password".into(),
            ..event(Action::Login)
        },
        Event { outcome: Outcome::Serious, ..event(Action::Logout) },
        event(Action::View(subject("1.2.3", "P 1"))),
        event(Action::View(Subject { study_uid: "1.2.3".into(), patient_id: None })),
        Event { text: hostile.into(), ..event(Action::Acknowledge(subject("1.2.3", hostile))) },
        Event {
            who: Who { user: Some(hostile.into()), peer: None },
            text: "removed ł".into(),
            ..event(Action::ChangeUser { name: hostile.into() })
        },
        Event {
            who: Who { user: None, peer: Some("2001:db8::1".parse().unwrap()) },
            ..event(Action::View(subject("1.2", "1")))
        },
        Event { text: "3 results for PACS".into(), ..event(Action::Resend { destination: "PACS".into() }) },
    ];
    let list = message(&event(Action::ViewList), &source());
    if let Some(judged) = judged(&[list]) {
        assert_eq!(
            (judged[0]["event"].as_str(), judged[0]["objects"][0].as_str()),
            (Some("110112"), Some("/"))
        );
    }
    let messages: Vec<String> = events.iter().map(|event| message(event, &source())).collect();
    assert!(messages.iter().all(|message| !message.contains('\n')));
    let Some(judged) = judged(&messages) else { return };
    let field = |n: usize, name: &str| judged[n][name].as_str().unwrap_or("none").to_owned();
    let of_all = |name: &str| (0..events.len()).map(|n| field(n, name)).collect::<Vec<_>>();
    let messages = [
        "110100", "110100", "110114", "110114", "110114", "110103", "110103", "110111", "110113", "110103",
        "110113",
    ];
    assert_eq!(of_all("event"), messages);
    assert_eq!(of_all("outcome"), ["0", "0", "0", "4", "8", "0", "0", "0", "0", "0", "0"]);
    assert_eq!(of_all("at"), ["2026-09-21T14:13:20.123Z"; 11]);
    let users = ["ada", "anonymous", "ada", "ada", "ada", "ada", read_as, "anonymous", "ada"];
    assert_eq!(of_all("user")[2..], users);
    assert_eq!(field(0, "user"), "4711");
    assert_eq!(
        [field(5, "point"), field(8, "point"), field(9, "point")],
        ["10.0.0.7", "box.ct.example", "2001:db8::1"]
    );
    assert_eq!(
        (field(3, "text"), field(10, "detail")),
        ("a wrong password".into(), "3 results for PACS".into())
    );
    assert_eq!(field(8, "detail"), "removed ł");
    let types: Vec<&str> =
        judged.iter().flat_map(|j| j["types"].as_array().unwrap()).map(|t| t.as_str().unwrap()).collect();
    assert_eq!(types, ["110120", "110121", "110122", "110122", "110123", "acknowledge", "110137", "110132"]);
    let objects: Vec<String> = judged.iter().map(|j| j["objects"].to_string()).collect();
    assert_eq!(objects[5], r#"["1.2.3","P 1"]"#);
    assert_eq!(objects[6], r#"["1.2.3","none"]"#);
    assert_eq!(judged[7]["objects"][1], read_as);
}

/// A trail on a database of its own.
struct Site {
    dir: tempfile::TempDir,
    database: Arc<Database>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        Self { dir, database }
    }

    fn trail(&self, sends: bool) -> (Trail, Receiver<()>) {
        Trail::new(Arc::clone(&self.database), sends)
    }

    fn collector(&self, syslog: &str, keep_days: f64, tls: Option<&Identity>) -> Collector {
        let settings = Audit { syslog: (!syslog.is_empty()).then(|| syslog.parse().unwrap()), keep_days };
        let tls = tls.map(|tls| Arc::clone(&tls.client));
        Collector::new(Arc::clone(&self.database), settings, tls, "TRIAGED")
            .hurried(Duration::from_millis(50))
    }

    /// The first column of every row.
    fn column(&self, sql: &str) -> Vec<String> {
        let connection = Connection::open(self.dir.path().join("db")).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn waiting(&self) -> usize {
        self.database.unsent_audit(10_000).unwrap().len()
    }
}

fn within_seconds(seconds: u64, what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !is() {
        assert!(Instant::now() < until, "{what} after {seconds} s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The messages of a stream (RFC 6587 section 3.4.1), without their syslog headers, which are checked.
fn unframed(mut stream: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while !stream.is_empty() {
        let space = stream.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&stream[..space]).unwrap().parse().unwrap();
        messages.push(text_of(&stream[space + 1..][..length]));
        stream = &stream[space + 1 + length..];
    }
    messages
}

/// What RFC 5424 section 6 and PS3.15 section A.6 say, and the text after it.
fn text_of(message: &[u8]) -> String {
    let text = std::str::from_utf8(message).unwrap();
    let fields: Vec<&str> = text.splitn(8, ' ').collect();
    let [priority, at, host, application, process, id, data, message] = fields[..] else { panic!("{text}") };
    assert!(["<85>1", "<84>1"].contains(&priority), "{text}");
    assert!(at.ends_with('Z') && at.len() == 24 && !host.is_empty(), "{text}");
    assert_eq!([application, id, data], ["triaged", "DICOM+RFC3881", "-"]);
    assert_eq!(process, std::process::id().to_string());
    message.strip_prefix('\u{feff}').unwrap().to_owned()
}

/// Takes one connection to its end.
fn receive(listener: &TcpListener) -> Vec<String> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    unframed(&bytes)
}

#[test]
fn a_collector_that_is_away_gets_it_all_later_and_once() {
    let site = Site::new();
    let (trail, woken) = site.trail(true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let collector = site.collector(&format!("tcp://{address}"), 2_192.0, None);
    let thread = std::thread::spawn(move || collector.run(&woken));
    for n in 0..450 {
        trail.record(&Event { at_ms: AT_MS + n, ..event(Action::Login) });
    }
    assert_eq!(site.waiting(), 450);
    // It comes back, and drops the first connection in the middle.
    let listener = TcpListener::bind(address).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 1_000]).unwrap();
    drop(stream);
    let sizes: Vec<usize> = (0..3).map(|_| receive(&listener).len()).collect();
    assert_eq!(sizes, [200, 200, 50]);
    within_seconds(20, "still waiting", || site.waiting() == 0);
    trail.record(&event(Action::Logout));
    let last = receive(&listener);
    assert!(last.len() == 1 && last[0].contains("110123"), "{last:?}");
    within_seconds(20, "still waiting", || site.waiting() == 0);
    trail.stop();
    thread.join().unwrap();
    assert_eq!(site.column("SELECT event FROM audit").len(), 451);
}

#[test]
fn the_end_of_the_daemon_is_told() {
    let site = Site::new();
    let (trail, woken) = site.trail(true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = site.collector(&format!("tcp://{}", listener.local_addr().unwrap()), 2_192.0, None);
    let thread = std::thread::spawn(move || collector.run(&woken));
    let listening = std::thread::spawn(move || [receive(&listener), receive(&listener)].concat());
    trail.record(&event(Action::Start));
    within_seconds(20, "still waiting", || site.waiting() == 0);
    trail.record(&event(Action::Stop));
    trail.stop();
    thread.join().unwrap();
    assert_eq!(site.waiting(), 0);
    let told = listening.join().unwrap();
    assert!(told[0].contains("110120") && told[1].contains("110121"), "{told:?}");
}

#[test]
fn a_dead_collector_holds_up_neither_an_event_nor_the_end() {
    let site = Site::new();
    let (trail, woken) = site.trail(true);
    // Nobody listens there any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let collector = site.collector(&format!("tcp://{address}"), 2_192.0, None);
    let thread = std::thread::spawn(move || collector.run(&woken));
    let start = Instant::now();
    for n in 0..100 {
        trail.record(&Event { at_ms: AT_MS + n, ..event(Action::Login) });
    }
    trail.stop();
    thread.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(site.waiting(), 100);
}

#[test]
fn a_datagram_is_a_message() {
    let site = Site::new();
    let (trail, woken) = site.trail(true);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    trail.record(&event(Action::Login));
    trail.record(&Event { outcome: Outcome::Minor, ..event(Action::Login) });
    trail.stop();
    site.collector(&format!("udp://{}", socket.local_addr().unwrap()), 2_192.0, None).run(&woken);
    let mut buffer = [0; 65_536];
    for want in [&b"<85>1 "[..], b"<84>1 "] {
        let n = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..n].starts_with(want));
        assert!(text_of(&buffer[..n]).ends_with("</AuditMessage>"));
    }
    assert_eq!(site.waiting(), 0);
}

/// An authority, and what it signed for `localhost`, as the configuration names them.
fn identity(folder: &Path) -> Identity {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let ours = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::from_params(&params, &authority_key))
        .unwrap();
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let tls = crate::config::Tls {
        certificate: write("box.pem", ours.pem()),
        key: write("box.key", key.serialize_pem()),
        authorities: write("authorities.pem", authority.pem()),
    };
    Identity::load(&tls).unwrap()
}

#[test]
fn over_tls_both_sides_show_their_certificates() {
    use dimse::rustls::{ServerConnection, StreamOwned};
    let site = Site::new();
    let (trail, woken) = site.trail(true);
    let [ours, others] = [(); 2].map(|()| identity(tempfile::tempdir().unwrap().path()));
    trail.record(&event(Action::Login));
    trail.stop();
    for (server, want) in [(&others, 0), (&ours, 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::clone(&server.server);
        let listening = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            let mut bytes = Vec::new();
            let all = stream.read_to_end(&mut bytes);
            stream.conn.send_close_notify();
            let _ = stream.flush();
            all.map(|_| unframed(&bytes)).unwrap_or_default()
        });
        let address = format!("tls://localhost:{port}");
        site.collector(&address, 2_192.0, Some(&ours)).run(&woken);
        assert_eq!((listening.join().unwrap().len(), site.waiting()), (want, 1 - want));
    }
}

#[test]
fn rsyslog_takes_it() {
    if Command::new("rsyslogd").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no rsyslogd");
        println!("skipped: no rsyslogd");
        return;
    }
    let site = Site::new();
    let dir = site.dir.path();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = dir.join("log");
    let template = "%pri%|%timegenerated:::date-rfc3339%|%app-name%|%msgid%|%msg%\\n";
    let config = format!(
        "global(workDirectory=\"{0}\" maxMessageSize=\"64k\")\nmodule(load=\"imtcp\")\ninput(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\n\
         template(name=\"t\" type=\"string\" string=\"{template}\")\naction(type=\"omfile\" file=\"{1}\" template=\"t\")\n",
        dir.display(),
        log.display()
    );
    fs::write(dir.join("conf"), config).unwrap();
    let mut command = Command::new("rsyslogd");
    command.arg("-n").arg("-f").arg(dir.join("conf")).arg("-i").arg(dir.join("pid"));
    let mut rsyslog = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (trail, woken) = site.trail(true);
    let long = "ł".repeat(900);
    for n in 0..300 {
        trail.record(&Event {
            at_ms: AT_MS + n,
            text: format!("{n} {long}"),
            ..event(Action::ChangeUser { name: "bob".into() })
        });
    }
    let collector = site.collector(&format!("tcp://127.0.0.1:{port}"), 2_192.0, None);
    let thread = std::thread::spawn(move || collector.run(&woken));
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(60);
    while (site.waiting() > 0 || read().lines().count() < 300) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    trail.stop();
    thread.join().unwrap();
    rsyslog.kill().unwrap();
    rsyslog.wait().unwrap();
    let text = read();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(5, '|').collect()).collect();
    assert_eq!((lines.len(), site.waiting()), (300, 0));
    assert!(
        lines.iter().all(|l| l[0] == "85" && l[2] == "triaged" && l[3] == "DICOM+RFC3881"),
        "{:?}",
        lines[0]
    );
    let messages: Vec<String> =
        lines.iter().map(|line| line[4].trim_start_matches('\u{feff}').to_owned()).collect();
    let Some(judged) = judged(&messages) else { return };
    assert!(judged.iter().enumerate().all(|(n, j)| j["detail"].as_str().unwrap() == format!("{n} {long}")));
}

#[test]
fn the_screen_refreshes_itself_and_is_one_view() {
    let site = Site::new();
    let (trail, _woken) = site.trail(false);
    let minute = 60_000;
    for at_ms in [0, 5 * minute, 9 * minute, 10 * minute, 15 * minute, 20 * minute, 14 * minute] {
        trail.record(&view("ada", "1.2", AT_MS + at_ms));
    }
    trail.record(&view("ada", "1.3", AT_MS));
    trail.record(&view("bob", "1.2", AT_MS));
    let elsewhere = Who { user: Some("bob".into()), peer: Some([10, 0, 0, 8].into()) };
    trail.record(&Event { who: elsewhere, ..view("bob", "1.2", AT_MS + 1) });
    let nobody =
        |n: u8| Event { who: Who { user: None, peer: Some([10, 0, 0, n].into()) }, ..view("", "1.2", AT_MS) };
    for n in [1, 1, 2] {
        trail.record(&nobody(n));
    }
    let seen = site.column("SELECT COALESCE(user, peer) || ' ' || study_uid || ' ' || ((at_ms - 1790000000123) / 60000) FROM audit");
    let want = [
        "ada 1.2 0",
        "ada 1.2 10",
        "ada 1.2 20",
        "ada 1.2 14",
        "ada 1.3 0",
        "bob 1.2 0",
        "10.0.0.1 1.2 0",
        "10.0.0.2 1.2 0",
    ];
    assert_eq!(seen, want, "the clock was set back by six minutes: another event");
    // Acknowledgements are never the same.
    for _ in 0..2 {
        trail.record(&event(Action::Acknowledge(subject("1.2", "P1"))));
    }
    assert_eq!(site.column("SELECT event FROM audit WHERE event = 'acknowledge'").len(), 2);
    assert_eq!(site.waiting(), 0, "nobody collects");
    for n in 0..3 * RECENT_MAX as i64 {
        trail.is_repeated(&view("ada", &n.to_string(), AT_MS));
    }
    assert!(trail.recent.lock().unwrap().len() <= RECENT_MAX);
}

#[test]
fn what_others_write_is_bounded() {
    let site = Site::new();
    let (trail, _woken) = site.trail(true);
    let long = "肺".repeat(1 << 20);
    trail.record(&Event { text: long.clone(), ..event(Action::View(subject(&long, &long))) });
    trail.record(&event(Action::View(subject("1.2", ""))));
    let events = site.database.unsent_audit(9).unwrap();
    // PS3.15 section A.6: receivers take 32,768 bytes.
    assert!(message(&events[0].1, &source()).len() < 32_768 - 512);
    assert_eq!(events[1].1.action, Action::View(Subject { study_uid: "1.2".into(), patient_id: None }));
}

#[test]
fn rows_go_when_they_are_old_or_too_many() {
    let site = Site::new();
    let (trail, _woken) = site.trail(true);
    let now_ms = crate::intake::now_ms();
    for days in [40, 30, 20, 10] {
        trail.record(&Event { at_ms: now_ms - days * 86_400_000, ..event(Action::Login) });
    }
    let old = now_ms - 35 * 86_400_000;
    assert_eq!(site.database.prune_audit(old, 1_000).unwrap(), (0, 0), "the collector has not got it");
    site.database.sent_audit(&[1, 3]).unwrap();
    assert_eq!(site.database.prune_audit(old, 1_000).unwrap(), (1, 0));
    assert_eq!(site.database.prune_audit(0, 1_000).unwrap(), (0, 0));
    assert_eq!(site.database.prune_audit(0, 2).unwrap(), (1, 1));
    let (silent, woken) = site.trail(false);
    silent.stop();
    site.collector("", 15.0, None).run(&woken);
    assert_eq!(site.column("SELECT id || '' FROM audit"), ["4"], "20 days old");
}

#[test]
fn a_row_that_is_damaged_holds_up_no_other() {
    let site = Site::new();
    let (trail, _woken) = site.trail(true);
    for n in 0..3 {
        trail.record(&Event { at_ms: AT_MS + n, ..event(Action::Login) });
    }
    let connection = Connection::open(site.dir.path().join("db")).unwrap();
    connection.execute("UPDATE audit SET peer = 'nowhere' WHERE id = 1", []).unwrap();
    connection.execute("UPDATE audit SET text = x'ff' WHERE id = 2", []).unwrap();
    let ids: Vec<i64> = site.database.unsent_audit(9).unwrap().iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [3]);
}
