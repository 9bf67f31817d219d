//! What engineers do on the screen because an appliance has no shell: a further engineer by the site's new setup code, results sent again.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::{Daemon, Settings};
use e2e::http::{csrf, get, login, post, user};
use e2e::peers::{Storescp, free_port, have, storescu};
use e2e::slices::{self, phantom, renamed};
use e2e::wait_for;
use rusqlite::Connection;
use std::fs;
use std::path::Path;

fn settings(destinations: Vec<(&'static str, u16)>) -> Settings {
    Settings {
        destinations,
        quiet_long_s: 0.3,
        tables: "[screen]\nlisten = \"127.0.0.1:0\"\n".into(),
        ..Settings::default()
    }
}

fn audit(dir: &Path, event: &str) -> Vec<String> {
    let database = Connection::open(dir.join("storage/triaged.db")).unwrap();
    let sql = "SELECT COALESCE(user, '-') || ' ' || account || ': ' || text FROM audit
        WHERE CASE WHEN resend THEN 'resend' ELSE event END = ?1 ORDER BY id";
    let mut rows = database.prepare(sql).unwrap();
    rows.query_map([event], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn who_lost_the_only_password_gets_in_by_a_new_setup_code_of_the_sites() {
    const CODES: [&str; 2] = ["AAAA-AAAA-AAAA-AAAA", "BBBB-BBBB-BBBB-BBBB"];
    let dir = tempfile::tempdir().unwrap();
    let code_path = dir.path().join("storage/setup-code");
    // What `triaged site` writes at each boot.
    let start = |code: &str| {
        fs::create_dir_all(code_path.parent().unwrap()).unwrap();
        let hash = stick::setup_code_sha256(code).unwrap();
        fs::write(&code_path, format!("sha256:{hash}\n")).unwrap();
        let mut daemon = Daemon::start(dir.path(), &settings(Vec::new()));
        let port = daemon.screen_port();
        (daemon, port)
    };
    let form = |code: &str, name: &str| {
        format!("code={code}&name={name}&password=long+enough+1&again=long+enough+1")
    };
    let (daemon, port) = start(CODES[0]);
    assert!(get(port, "/setup", "").2.contains("First user of this box"));
    assert_eq!(post(port, "/setup", "", &form(CODES[0], "Ada")).0, 303);
    daemon.kill();

    // The same code over a restart: closed.
    let (daemon, port) = start(CODES[0]);
    assert!(get(port, "/setup", "").1.contains("location: /login"));
    assert!(!get(port, "/login", "").2.contains("href=\"/setup\""));
    assert_eq!(post(port, "/setup", "", &form(CODES[0], "Eve")).0, 401);
    daemon.kill();

    let (daemon, port) = start(CODES[1]);
    assert!(daemon.log().contains("the site brought a new setup code"), "{}", daemon.log());
    assert!(get(port, "/login", "").2.contains("href=\"/setup\""));
    assert!(get(port, "/setup", "").2.contains("A further engineer of this box"));
    assert_eq!(post(port, "/setup", "", &form(CODES[0], "Eve")).0, 401, "the old code");
    assert_eq!(post(port, "/setup", "Sec-Fetch-Site: cross-site\r\n", &form(CODES[1], "Eve")).0, 403);
    assert_eq!(post(port, "/setup", "", &form(CODES[1], "Bob")).0, 303);
    assert_eq!(post(port, "/setup", "", &form(CODES[1], "Eve")).0, 401, "once");
    for name in ["ada", "bob"] {
        assert_eq!(post(port, "/login", "", &format!("name={name}&password=long+enough+1")).0, 303, "{name}");
    }
    daemon.kill();
    let (_daemon, port) = start(CODES[1]);
    assert!(get(port, "/setup", "").1.contains("location: /login"));
    assert_eq!(
        audit(dir.path(), "change_user"),
        ["- Ada: added as engineer", "- Bob: added as engineer, by a new setup code of the site's"]
    );
}

#[test]
fn an_engineer_has_parked_results_sent_again() {
    const STUDY: &str = "2.25.2101";
    if !have(&["storescu", "storescp"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let absent = free_port();
    let mut daemon = Daemon::start(dir.path(), &settings(vec![("PACS", absent)]));
    let port = daemon.screen_port();
    user(dir.path(), "Chief", "engineer");
    user(dir.path(), "4711", "technician");
    let slices = renamed(&phantom(&dir.path().join("phantom"), "0,0")[..3], STUDY, "2.25.2101.1");
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    daemon.wait_done(STUDY);
    let database = Connection::open(dir.path().join("storage/triaged.db")).unwrap();
    // As after a PACS that refused it for good; not in the middle of an attempt.
    wait_for("an attempt", || (daemon.outbox()[0].attempts > 0).then_some(()));
    assert_eq!(database.execute("UPDATE outbox SET state = 'parked', parked_ms = 1", []).unwrap(), 1);
    let (chief, technician) = (login(port, "chief"), login(port, "4711"));
    let page = |headers: &str| get(port, "/box", headers).2;
    assert!(!page("").contains("/box/retry") && !page(&technician).contains("/box/retry"));
    let form = format!("csrf={}&destination=PACS", csrf(page(&chief).split("/box/retry").nth(1).unwrap()));
    let retry = |headers: &str, form: &str| post(port, "/box/retry", headers, form);
    assert_eq!(retry("", &form).0, 303, "to the login");
    assert_eq!(retry(&technician, &form).0, 403);
    assert_eq!(retry(&chief, "csrf=x&destination=PACS").0, 403);
    assert_eq!(retry(&format!("{chief}Sec-Fetch-Site: cross-site\r\n"), &form).0, 403);
    assert_eq!(retry(&chief, &form.replace("PACS", "NOBODY")).0, 404);
    assert_eq!(daemon.outbox()[0].state, "parked");
    assert_eq!(audit(dir.path(), "resend"), Vec::<String>::new());
    let pacs = Storescp::start(&dir.path().join("pacs"), absent);
    let (status, _, body) = retry(&chief, &form);
    assert!(status == 200 && body.contains("Results that are sent again now: 1"), "{body}");
    daemon.wait_delivered();
    assert_eq!(pacs.received().len(), 1);
    assert_eq!(audit(dir.path(), "resend"), ["Chief PACS: 1 results for PACS"]);
    assert!(!page(&chief).contains("/box/retry"), "nothing is parked");
}
