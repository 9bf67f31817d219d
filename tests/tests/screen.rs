//! The technician's screen in a real browser: a study comes from DCMTK, alerts, is acknowledged; and whatever may go wrong meanwhile.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::browser::Browser;
use e2e::certificates::Authority;
use e2e::daemon::{Daemon, Settings, triaged};
use e2e::http::{PASSWORD, get, http, post, user};
use e2e::peers::{free_port, have, run, storescu};
use e2e::slices::{self, phantom, renamed};
use rusqlite::{Connection, params};
use serde_json::json;

fn settings(screen: &str) -> Settings {
    Settings { tables: format!("[screen]\nlisten = \"127.0.0.1:0\"\n{screen}\n"), ..Settings::default() }
}

#[test]
fn a_study_appears_alerts_and_is_acknowledged_in_all_browsers() {
    const STUDY: &str = "2.25.1601";
    if !have(&["storescu"]) {
        return;
    }
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), &settings("escalate_after_s = 2"));
    let base = format!("http://127.0.0.1:{}", daemon.screen_port());
    user(dir.path(), "Chief", "engineer");
    user(dir.path(), "4711", "technician");
    browser.open("desk", &format!("{base}/"));
    browser.open("console", &format!("{base}/"));
    browser.wait("desk", ".empty", "No study has arrived yet");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());

    let slices = renamed(&phantom(&dir.path().join("phantom"), "40,20"), STUDY, "2.25.1601.1");
    storescu(&daemon, &[], &slices::write(&slices, &dir.path().join("study")));
    for page in ["desk", "console"] {
        browser.wait(page, ".alert .count", "1 flagged study waits for you");
        browser.wait(page, &format!("tr.flagged[data-study='{STUDY}'] .word"), "FLAGGED");
        browser.wait(page, ".arrival li.flagged", "FLAGGED");
        // Nobody came for two seconds.
        browser.wait(page, ".alert.escalated .count", "NOT ACKNOWLEDGED");
        browser.until(page, "document.title.startsWith('(1) ')");
    }
    browser.picture("desk", "alert.png");
    browser.eval("desk", "(document.body.style.minHeight = '5000px', window.scrollTo(0, 4000))");
    let top = "document.querySelector('.alert .count').getBoundingClientRect().top";
    assert!(
        (0.0..400.0).contains(&browser.eval("desk", top).as_f64().unwrap()),
        "it is seen wherever one has scrolled to"
    );
    browser.eval("desk", "(document.body.style.minHeight = '', window.scrollTo(0, 0))");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());

    // A wrong password is refused, and the alert stays.
    browser.click("desk", ".alert a.primary");
    browser.fill("desk", "#name", "4711");
    browser.fill("desk", "#password", "not my password");
    browser.picture("desk", "acknowledge.png");
    browser.click("desk", "form.login button");
    browser.wait("desk", ".error", "name or the password is wrong");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());
    browser.fill("desk", "#name", "4711");
    browser.fill("desk", "#password", PASSWORD);
    browser.click("desk", "form.login button");
    // Both browsers know, and nobody is logged in at the desk for that.
    for page in ["desk", "console"] {
        browser.wait(page, &format!("tr[data-study='{STUDY}'] .acknowledged"), "4711");
        browser.wait_gone(page, ".alert");
    }
    assert_eq!(browser.count("desk", "form[action='/logout']"), 0);

    // The study's page: picture, slices by keyboard and slider, numbers, card.
    browser.click("console", "th.patient a");
    browser.wait("console", "h1.study", "FLAGGED");
    browser.until("console", "document.querySelector('.picture img').naturalWidth > 500");
    browser.until("console", "document.getElementById('slice').naturalWidth === 256");
    let middle = browser.text("console", "#slice-number")[0].parse::<u32>().unwrap();
    browser.ask("press", "console", json!({ "key": "ArrowDown" }));
    browser
        .until("console", &format!("document.getElementById('slice-number').textContent == {}", middle + 1));
    let before = browser.eval("console", "document.getElementById('slice').src");
    browser.ask("press", "console", json!({ "key": "s" }));
    browser.until("console", "document.querySelector('input[value=soft]').checked");
    browser.until("console", &format!("document.getElementById('slice').src !== {before}"));
    assert!(browser.text("console", "footer")[0].contains("NOT FOR DIAGNOSTIC USE"));
    assert!(browser.text("console", ".numbers")[0].contains("no accuracy is claimed"));
    assert!(browser.text("console", ".history, .numbers")[0].contains("4711"));
    assert_eq!(browser.count("console", "#outlines"), 0, "outlines are off unless the site allows them");
    browser.picture("console", "study.png");
    assert_eq!(browser.faults("console"), Vec::<serde_json::Value>::new());

    // The box, and what only an engineer sees.
    browser.goto("desk", &format!("{base}/box"));
    browser.wait("desk", ".good th", "cpu");
    browser.picture("desk", "box.png");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());
    browser.goto("desk", &format!("{base}/users"));
    browser.fill("desk", "#name", "chief");
    browser.fill("desk", "#password", PASSWORD);
    browser.click("desk", "form.login button");
    browser.wait("desk", "h1", "Users");
    browser.fill("desk", "#name", "0815");
    browser.fill("desk", "#password", PASSWORD);
    browser.click("desk", "button[value=add]");
    browser.wait("desk", "[role=status]", "Done");
    assert_eq!(browser.text("desk", "tbody th").len(), 3);
    browser.picture("desk", "users.png");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());
    browser.click("desk", "form[action='/logout'] button");
    browser.wait("desk", "nav a[href='/login']", "Log in");

    let database = Connection::open(dir.path().join("storage/triaged.db")).unwrap();
    let events: Vec<(String, Option<String>, Option<String>)> = database
        .prepare(
            "SELECT event, user, study_uid FROM audit WHERE event IN ('view', 'acknowledge') ORDER BY id",
        )
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let of = |event: &str, user: Option<&str>| {
        events.contains(&(event.into(), user.map(str::to_owned), Some(STUDY.into())))
    };
    assert!(of("view", None) && of("acknowledge", Some("4711")), "{events:?}");
}

#[test]
fn a_page_says_that_it_is_old_and_recovers_when_the_daemon_is_back() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let listen = settings("").tables.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let settings = Settings { tables: listen, ..Settings::default() };
    let mut daemon = Daemon::start(dir.path(), &settings);
    assert_eq!(daemon.screen_port(), port);
    browser.open("desk", &format!("http://127.0.0.1:{port}/"));
    browser.until("desk", "document.getElementById('clock').textContent !== ''");
    daemon.kill();
    browser.wait("desk", "#stale", "NOT CURRENT");
    browser.picture("desk", "stale.png");
    assert_eq!(browser.eval("desk", "document.body.className"), "is-stale");
    let mut daemon = Daemon::start(dir.path(), &settings);
    daemon.screen_port();
    browser.wait_gone("desk", "#stale");
    // Without a reload it shows what came meanwhile.
    let database = Connection::open(dir.path().join("storage/triaged.db")).unwrap();
    insert(&database, 1, "Late^Arrival", now_ms());
    drop(database);
    daemon.kill();
    let _daemon = Daemon::start(dir.path(), &settings);
    browser.wait("desk", "tr .name", "Late, Arrival");
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A finished study, flagged every tenth time and acknowledged.
fn insert(database: &Connection, number: i64, name: &str, arrived_ms: i64) {
    let study = format!("2.25.99.{number}");
    let flagged = number % 10 == 0;
    let outcome = json!({
        "study_uid": study, "outcome": if flagged { "flagged" } else { "not_flagged" }, "reason": null,
        "priority": if flagged { "high" } else { "low" }, "probability": 0.3,
        "severity": { "left": 0.1, "right": 0.2, "max": 0.2 }, "category": "CT-1",
        "lung_volume_ml": { "left": 2000.0, "right": 2300.0 }, "lesion_volume_ml": { "left": 1.0, "right": 2.0 },
        "method": "m", "engine": "cpu", "model_version": "1", "timings_ms": { "last_slice_to_outcome": 1234.5 }
    });
    let sql = "INSERT INTO studies (study_uid, state, arrived_ms, done_ms) VALUES (?1, 'done', ?2, ?2) RETURNING id";
    let id: i64 = database.query_row(sql, params![study, arrived_ms], |row| row.get(0)).unwrap();
    database
        .execute(
            "INSERT INTO listing (study_id, arrived_ms, patient_name, patient_id, revision, outcome, outcome_ms, rank, severity,
                 acknowledged_ms, acknowledged_by) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?2, ?6, 0.2, ?2, 'x')",
            params![id, arrived_ms, name, format!("P{number}"), outcome.to_string(), if flagged { 1 } else { 4 }],
        )
        .unwrap();
}

#[test]
fn ten_thousand_studies_and_names_with_markup() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &settings(""));
    daemon.kill();
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut database = Connection::open(dir.path().join("storage/triaged.db")).unwrap();
    let transaction = database.transaction().unwrap();
    for number in 1..=9_998 {
        insert(&transaction, number, &format!("Patient^{number}"), now_ms);
    }
    let hostile = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(2)>\u{202e}^'x\u{0}"];
    for (number, name) in hostile.iter().enumerate() {
        insert(&transaction, 20_000 + 10 * number as i64, name, now_ms);
    }
    transaction.commit().unwrap();
    drop(database);
    let mut daemon = Daemon::start(dir.path(), &settings(""));
    let base = format!("http://127.0.0.1:{}", daemon.screen_port());
    browser.open("desk", &format!("{base}/"));
    browser.wait("desk", ".pages", "10000 studies");
    assert_eq!(browser.count("desk", ".triage tbody tr"), 50);
    let bytes = browser.eval("desk", "document.documentElement.outerHTML.length").as_u64().unwrap();
    assert!(bytes < 300_000, "a page of {bytes} bytes");
    let paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime";
    println!(
        "10,000 studies: first contentful paint after {} ms, {bytes} bytes",
        browser.eval("desk", paint)
    );
    browser.goto("desk", &format!("{base}/?page=20"));
    let names = browser.text("desk", ".arrival li bdi");
    assert!(names.iter().any(|name| name.contains("<script>alert(1)</script>")), "{names:?}");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new(), "no script of a name ran");
    // Of all pages the last one has what is left.
    browser.goto("desk", &format!("{base}/?page=999999"));
    browser.wait("desk", ".pages", "Page 200 of 200");
    for odd in ["/?day=2026-02-31", "/?day=%00", "/study/9223372036854775807", "/nowhere"] {
        browser.goto("desk", &format!("{base}{odd}"));
        assert_eq!(browser.count("desk", "footer"), 1, "{odd}");
    }
}

#[test]
fn nobody_changes_anything_without_a_login_nor_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), &settings(""));
    let port = daemon.screen_port();
    let (status, head, _) = get(port, "/", "");
    assert_eq!(status, 200, "a browser on the box itself sees the list");
    for header in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "referrer-policy: same-origin",
        "x-frame-options: deny",
    ] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    let from_elsewhere = "GET / HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n";
    assert_eq!(http(port, from_elsewhere).0, 303, "a name that was made to point here is not the box itself");
    for path in ["/users", "/study/1"] {
        let status = get(port, path, "").0;
        assert!(status == 303 || status == 404, "{path}: {status}");
    }
    // The first user needs the code; the daemon wrote it where only root reads it.
    let code_path = dir.path().join("storage/setup-code");
    let code = std::fs::read_to_string(&code_path).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&code_path).unwrap().permissions().mode() & 0o777, 0o600);
    let setup = |code: &str| format!("code={code}&name=Chief&password=long+enough+1&again=long+enough+1");
    assert_eq!(post(port, "/setup", "", &setup("WRON-GCOD-EWRO-NGCO")).0, 401);
    assert_eq!(post(port, "/setup", "Sec-Fetch-Site: cross-site\r\n", &setup(code.trim())).0, 403);
    assert_eq!(post(port, "/setup", "Origin: http://elsewhere\r\n", &setup(code.trim())).0, 403);
    let (status, head, _) = post(port, "/setup", "", &setup(code.trim()));
    assert_eq!(status, 303, "{head}");
    assert!(!code_path.exists(), "the code is void");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    assert!(!cookie.contains("max-age"), "it ends with the browser: {cookie}");
    assert_eq!(post(port, "/setup", "", &setup(code.trim())).0, 401, "once");
    // A session alone is not enough: the form must be ours.
    let (_, raw, _) = post(port, "/login", "", "name=chief&password=long+enough+1");
    assert!(raw.contains("location: /"), "{raw}");
    assert_eq!(post(port, "/users", "", "action=remove&name=Chief").0, 303, "to the login");
    assert_eq!(post(port, "/study/1/acknowledge", "", "revision=1").0, 404);
    // From elsewhere not even whether there is such a study, whatever is posted.
    let form = "revision=1&name=x&password=y";
    let elsewhere = format!(
        "POST /study/1/acknowledge HTTP/1.1\r\nHost: box.hospital\r\nConnection: close\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    assert_eq!(http(port, &elsewhere).0, 303);
    for forwarded in ["X-Forwarded-For: 10.0.0.9", "Via: 1.1 proxy"] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n{forwarded}\r\n\r\n");
        assert_eq!(http(port, &request).0, 303, "{forwarded}: nobody sits at this box");
    }
    // Guessing becomes slow, and says so.
    let guesses: Vec<(u16, String)> = (0..12)
        .map(|_| post(port, "/login", "", "name=chief&password=guess+guess+guess"))
        .map(|(status, _, body)| (status, body))
        .collect();
    assert!(guesses.iter().all(|(status, _)| *status == 401));
    assert!(guesses.last().unwrap().1.contains("too many attempts"), "{}", guesses.last().unwrap().1);
    assert_eq!(post(port, "/login", "", &format!("name={}", "x".repeat(100_000))).0, 413);
    // For monitors, without a login and without a patient.
    let (status, _, health) = get(port, "/health", "");
    assert_eq!((status, health.trim()), (200, "ok"));
    let (_, _, metrics) = get(port, "/metrics", "");
    assert!(metrics.contains("triaged_engine_up{engine=\"cpu\"} 1"), "{metrics}");
    assert!(metrics.contains("triaged_last_slice_to_outcome_seconds_bucket{le=\"+Inf\"} 0"), "{metrics}");
}

#[test]
fn over_tls_with_a_login_for_everything() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("certificates"));
    let mut settings = settings("tls = true\nview_without_login = \"nobody\"");
    settings.tables += &authority.table();
    let mut daemon = Daemon::start(dir.path(), &settings);
    let base = format!("https://127.0.0.1:{}", daemon.screen_port());
    browser.open("desk", &format!("{base}/"));
    browser.wait("desk", "h1", "First user of this box");
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());
    user(dir.path(), "Chief", "engineer");
    browser.goto("desk", &format!("{base}/"));
    browser.wait("desk", "h1", "Log in");
    browser.picture("desk", "login.png");
    assert_eq!(browser.count("desk", "#live"), 0);
    browser.fill("desk", "#name", "Chief");
    browser.fill("desk", "#password", PASSWORD);
    browser.click("desk", "form.login button");
    browser.wait("desk", ".empty", "No study has arrived yet");
    browser.until("desk", "document.getElementById('clock').textContent !== ''");
    let cookies = browser.ask("cookies", "desk", json!({}));
    assert_eq!(cookies[0]["name"], "__Host-triaged");
    assert_eq!((&cookies[0]["secure"], &cookies[0]["httpOnly"]), (&json!(true), &json!(true)));
    assert_eq!(browser.faults("desk"), Vec::<serde_json::Value>::new());
    // The session outlives the daemon.
    let port = base.rsplit(':').next().unwrap().to_owned();
    daemon.kill();
    let settings =
        Settings { tables: settings.tables.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")), ..settings };
    let _daemon = Daemon::start(dir.path(), &settings);
    browser.wait_gone("desk", "#stale");
    browser.goto("desk", &format!("{base}/"));
    browser.wait("desk", ".empty", "No study has arrived yet");
}

#[test]
fn a_screen_for_others_without_encryption_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("triaged.toml");
    let daemon = Daemon::start(dir.path(), &settings(""));
    daemon.kill();
    let text = std::fs::read_to_string(&config).unwrap();
    let open = text.replace("[screen]\nlisten = \"127.0.0.1:0\"", "[screen]\nlisten = \"0.0.0.0:0\"");
    assert_ne!(open, text);
    std::fs::write(&config, open).unwrap();
    let (done, said) = run(triaged(&["run", "--config"]).arg(&config));
    assert!(!done && said.contains("screen.tls = true"), "{said}");
}
