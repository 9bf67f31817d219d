//! The door as a whole: on a database in a folder, with its trail.
mod setup;

use super::*;
use rusqlite::Connection;

const NOW_MS: i64 = 1_790_000_000_000;
const HOUR_MS: i64 = 3_600_000;

struct Box {
    dir: tempfile::TempDir,
}

impl Box {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// As after a start of the daemon.
    fn open(&self) -> Access {
        let database = Arc::new(Database::open(&self.dir.path().join("db")).unwrap());
        let (trail, _) = Trail::new(Arc::clone(&database), false);
        Access::new(database, self.code_path(), Arc::new(trail)).unwrap()
    }

    /// With an engineer, ada.
    fn set_up(&self) -> Access {
        let access = self.open();
        let (_, code) = access.setup_code().unwrap().unwrap();
        access.setup(&code, "Ada", "engine number 1", peer(1), NOW_MS).unwrap();
        access
    }

    fn code_path(&self) -> PathBuf {
        self.dir.path().join("setup-code")
    }

    /// User, event, outcome and account of every row of the trail.
    fn trail(&self) -> Vec<[String; 4]> {
        self.rows("SELECT COALESCE(user, '-'), event, outcome, COALESCE(account, '-') FROM audit ORDER BY id")
    }

    fn rows<const N: usize>(&self, sql: &str) -> Vec<[String; N]> {
        let connection = Connection::open(self.dir.path().join("db")).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok(std::array::from_fn(|n| row.get::<_, String>(n).unwrap()));
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    }
}

fn peer(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn by() -> Who {
    Who { user: Some("Ada".into()), peer: Some(peer(1)) }
}

#[test]
fn who_gets_in() {
    let site = Box::new();
    let access = site.set_up();
    access.add_user("Łukasz 4711", Role::Technician, "zażółć gęślą jaźń", &by(), NOW_MS).unwrap();
    let cases: &[(&str, &str, Option<Role>)] = &[
        ("Ada", "engine number 1", Some(Role::Engineer)),
        (" ADA ", "engine number 1", Some(Role::Engineer)),
        ("łUKASZ 4711", "zażółć gęślą jaźń", Some(Role::Technician)),
        ("Ada", "Engine number 1", None),
        ("Ada", "engine number 1 ", None),
        ("Ada", "", None),
        ("Łukasz 4711", "engine number 1", None),
        ("bob", "engine number 1", None),
        ("", "engine number 1", None),
        ("ada\0", "engine number 1", None),
        ("ada'; DROP TABLE users; --", "engine number 1", None),
    ];
    for (n, (name, password, want)) in cases.iter().enumerate() {
        let result = access.login(name, password, peer(100 + n as u8), NOW_MS + n as i64 * HOUR_MS / 2);
        match (result, want) {
            (Ok((_, session)), Some(role)) => assert_eq!(session.user.role, *role, "{name}"),
            (Err(error), None) => {
                assert_eq!(error.to_string(), "the name or the password is wrong", "{name}")
            }
            (result, want) => panic!("{name}: {result:?}, not {want:?}"),
        }
    }
    assert!(Role::Engineer > Role::Technician);
    // What was typed for a name may be a password: the trail has users' names only.
    let users: Vec<[String; 1]> = site.rows("SELECT DISTINCT COALESCE(user, '-') FROM audit ORDER BY 1");
    assert_eq!(users.concat(), ["-", "Ada", "Łukasz 4711"]);
    let kept: Vec<[String; 1]> = site.rows("SELECT password FROM users");
    assert!(kept.concat().iter().all(|hash| hash.starts_with("$argon2id$") && !hash.contains("engine")));
}

#[test]
fn guesses_are_slowed_down_and_the_trail_is_not_flooded() {
    let site = Box::new();
    let access = site.set_up();
    let mut waits = 0;
    for n in 0..200 {
        match access.login("ada", "guess after guess", peer(2), NOW_MS + n * 200) {
            Err(AccessError::Wait { seconds }) => {
                assert!((1..=60).contains(&seconds));
                waits += 1;
            }
            Err(AccessError::WrongNameOrPassword) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(waits > 150, "{waits}");
    assert!(
        access.login("Ada", "engine number 1", peer(1), NOW_MS + 40_000).is_ok(),
        "where she logged in before"
    );
    assert!(access.login("Ada", "engine number 1", peer(3), NOW_MS + 40_000).is_err());
    assert!(access.login("Ada", "engine number 1", peer(3), NOW_MS + 200_000).is_ok(), "later anywhere");
    let refusals: Vec<[String; 1]> = site.rows("SELECT peer FROM audit WHERE outcome = 'serious'");
    assert_eq!(refusals.concat(), ["10.0.0.2", "10.0.0.3"]);
}

#[test]
fn sessions_end() {
    // Hours after the login at which it is used, and whether it still is a session.
    let cases: &[&[(f64, bool)]] = &[
        &[(0.0, true), (7.9, true), (15.8, true), (23.7, true), (24.1, false), (1.0, false)],
        &[(7.9, true), (15.8, true), (23.9, false)],
        &[(8.1, false), (0.0, false)],
        // The clock is set back: the session is no younger for that.
        &[
            (7.0, true),
            (-100.0, true),
            (14.9, true),
            (-100.0, true),
            (22.8, true),
            (24.1, false),
            (0.0, false),
        ],
        // It is set far ahead.
        &[(100_000.0, false), (0.0, false)],
    ];
    for case in cases {
        let site = Box::new();
        let access = site.set_up();
        let (token, _) = access.login("ada", "engine number 1", peer(1), NOW_MS).unwrap();
        for (hours, want) in *case {
            let now_ms = NOW_MS + (hours * HOUR_MS as f64) as i64;
            let session = access.session(&token, now_ms).unwrap();
            assert_eq!(session.is_some(), *want, "{hours} h of {case:?}");
            if let Some(session) = session {
                let left_ms = session.expires_ms - now_ms;
                assert!((1..=SESSION_IDLE_MS).contains(&left_ms), "{left_ms} ms left at {hours} h");
            }
        }
    }
}

#[test]
fn what_the_page_does_by_itself_keeps_no_session_alive() {
    let site = Box::new();
    let access = site.set_up();
    let (token, _) = access.login("ada", "engine number 1", peer(1), NOW_MS).unwrap();
    for minutes in 0..470 {
        assert!(access.peek(&token, NOW_MS + minutes * 60_000).unwrap().is_some(), "{minutes} min");
    }
    assert_eq!(access.peek(&token, NOW_MS + SESSION_IDLE_MS + HOUR_MS).unwrap(), None);
}

#[test]
fn a_session_survives_a_restart_and_a_clock_a_little_behind() {
    for (behind_ms, want) in [(0, true), (240_000, true), (360_000, false), (1_000 * HOUR_MS, false)] {
        let site = Box::new();
        let (token, session) = site.set_up().login("ada", "engine number 1", peer(1), NOW_MS).unwrap();
        let after = site.open().session(&token, NOW_MS - behind_ms).unwrap();
        assert_eq!(after.is_some(), want, "{behind_ms} ms behind");
        if let Some(after) = after {
            assert_eq!((after.user, after.csrf), (session.user, session.csrf));
        }
    }
}

#[test]
fn nobody_elses_token_is_a_session() {
    let site = Box::new();
    let access = site.set_up();
    let (token, session) = access.login("ada", "engine number 1", peer(1), NOW_MS).unwrap();
    assert_eq!(token.len(), 43);
    let kept: Vec<[String; 1]> = site.rows("SELECT hex(digest) FROM sessions");
    assert!(kept.concat().iter().all(|digest| digest.len() == 64));
    for other in
        ["", "x", &token[1..], &token.to_lowercase(), &format!("{token} "), &kept[0][0], &session.csrf]
    {
        assert_eq!(access.session(other, NOW_MS).unwrap(), None, "{other}");
        access.logout(other, peer(1), NOW_MS).unwrap();
    }
    assert!(access.session(&token, NOW_MS).unwrap().is_some());
    let (other_token, other) = access.login("ada", "engine number 1", peer(1), NOW_MS).unwrap();
    assert!(Access::csrf_matches(&session, &session.csrf));
    for given in ["", &other.csrf, &token, &other_token, &session.csrf[1..]] {
        assert!(!Access::csrf_matches(&session, given), "{given}");
    }
    access.logout(&token, peer(1), NOW_MS).unwrap();
    assert_eq!(access.session(&token, NOW_MS).unwrap(), None);
    assert!(access.session(&other_token, NOW_MS).unwrap().is_some());
    assert_eq!(site.trail().iter().filter(|row| row[1] == "logout").count(), 1);
}

#[test]
fn a_user_has_so_many_sessions_and_the_least_used_one_ends() {
    let site = Box::new();
    let access = site.set_up();
    let login =
        |n: u32| access.login("ada", "engine number 1", peer(1), NOW_MS + 1 + i64::from(n)).unwrap().0;
    let tokens: Vec<String> = (0..SESSIONS_PER_USER_MAX + 2).map(login).collect();
    let alive: Vec<bool> =
        tokens.iter().map(|token| access.session(token, NOW_MS + 100).unwrap().is_some()).collect();
    assert!(!alive[0] && !alive[1] && alive[2..].iter().all(|alive| *alive), "{alive:?}");
}

#[test]
fn users_come_and_go_and_an_engineer_stays() {
    let site = Box::new();
    let access = site.open();
    let add = |name: &str, role, password: &str| access.add_user(name, role, password, &by(), NOW_MS);
    assert!(matches!(add("bob", Role::Technician, "plain old ct"), Err(AccessError::FirstIsEngineer)));
    access.setup_code().unwrap();
    add("Ada", Role::Engineer, "engine number 1").unwrap();
    assert!(!site.code_path().exists(), "void");
    add("bob", Role::Technician, "plain old ct").unwrap();
    let long = "n".repeat(NAME_CHARS_MAX + 1);
    let refused: &[(&str, &str, &str)] = &[
        ("BOB", "plain old ct", "there is a user \"BOB\" already"),
        ("carol", "short", "a password has at least 10 characters"),
        ("carol.smith", "Carol.Smith", "a password must not be the name"),
        ("", "plain old ct", "a name has 1 to 64"),
        ("car  ol", "plain old ct", "a name has 1 to 64"),
        ("car\nol", "plain old ct", "a name has 1 to 64"),
        ("car\u{200b}ol", "plain old ct", "a name has 1 to 64"),
        (&long, "plain old ct", "a name has 1 to 64"),
    ];
    for (name, password, want) in refused {
        let error = add(name, Role::Technician, password).unwrap_err().to_string();
        assert!(error.starts_with(want), "{name:?}: {error}");
    }
    let (token, _) = access.login("bob", "plain old ct", peer(1), NOW_MS).unwrap();
    access.set_password("Bob", "another old ct", &by(), NOW_MS).unwrap();
    assert_eq!(access.session(&token, NOW_MS).unwrap(), None, "a new password ends the sessions");
    assert!(access.login("bob", "plain old ct", peer(1), NOW_MS).is_err());
    let (token, _) = access.login("bob", "another old ct", peer(1), NOW_MS).unwrap();
    access.remove_user("BOB", &by(), NOW_MS).unwrap();
    assert_eq!(access.session(&token, NOW_MS).unwrap(), None, "a removed user's sessions end");
    let error = |result: Result<(), AccessError>| result.unwrap_err().to_string();
    assert_eq!(error(access.remove_user("bob", &by(), NOW_MS)), "there is no user \"bob\"");
    assert_eq!(error(access.set_password("bob", "plain old ct", &by(), NOW_MS)), "there is no user \"bob\"");
    assert!(matches!(access.remove_user("ada", &by(), NOW_MS), Err(AccessError::LastEngineer { .. })));
    assert_eq!(access.users().unwrap(), [User { name: "Ada".into(), role: Role::Engineer }]);
    add("Eve", Role::Engineer, "engine number 2").unwrap();
    access.remove_user("ada", &by(), NOW_MS).unwrap();
    assert_eq!(access.users().unwrap().len(), 1);
    let changes: Vec<[String; 2]> =
        site.rows("SELECT account, text FROM audit WHERE event = 'change_user' ORDER BY id");
    let changes: Vec<String> = changes.iter().map(|row| row.join(" ")).collect();
    let want = ["Ada added as engineer", "bob added as technician", "bob a new password", "bob removed"];
    assert_eq!(changes, [&want[..], &["Eve added as engineer", "Ada removed"]].concat());
}

#[test]
fn another_process_beside_the_daemon_is_heard_at_once() {
    let site = Box::new();
    let (daemon, beside) = (site.set_up(), site.open());
    beside.add_user("bob", Role::Technician, "plain old ct", &by(), NOW_MS).unwrap();
    let (token, _) = daemon.login("bob", "plain old ct", peer(1), NOW_MS).unwrap();
    beside.remove_user("bob", &by(), NOW_MS).unwrap();
    assert_eq!(daemon.session(&token, NOW_MS).unwrap(), None);
}
