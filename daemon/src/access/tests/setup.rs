//! Setup codes: what makes the first engineer, and a further one.
use super::*;

#[test]
fn the_code_makes_one_engineer_and_is_void() {
    let site = Box::new();
    let access = site.open();
    assert!(access.needs_setup().unwrap());
    assert_eq!(access.read_setup_code().unwrap(), None, "it is the daemon's to draw");
    let (_, code) = access.setup_code().unwrap().unwrap();
    assert_eq!(access.read_setup_code().unwrap(), Some((Setup::First, code.clone())));
    assert_eq!(
        site.open().setup_code().unwrap(),
        Some((Setup::First, code.clone())),
        "the same after a restart"
    );
    let setup = |code: &str, name: &str, password: &str| access.setup(code, name, password, peer(1), NOW_MS);
    let wrong = setup("AAAA-AAAA-AAAA-AAAA", "ada", "engine number 1");
    assert!(matches!(wrong, Err(AccessError::WrongSetupCode)));
    // Who has the code mistypes as often as it takes.
    for _ in 0..20 {
        assert!(matches!(setup(&code, "ada", "short"), Err(AccessError::ShortPassword)));
        assert!(matches!(setup(&code, "a\u{202e}da", "engine number 1"), Err(AccessError::BadName)));
    }
    let (token, session) = setup(&code.to_lowercase(), " Ada ", "engine number 1").unwrap();
    assert_eq!(session.user, User { name: "Ada".into(), role: Role::Engineer });
    assert_eq!(access.session(&token, NOW_MS).unwrap().map(|now| now.csrf), Some(session.csrf));
    assert!(!access.needs_setup().unwrap());
    assert!(!site.code_path().exists());
    assert_eq!((access.setup_code().unwrap(), access.read_setup_code().unwrap()), (None, None));
    assert!(matches!(setup(&code, "bob", "engine number 2"), Err(AccessError::SetUpAlready)));
    let trail = site.trail();
    let rows: Vec<[&str; 4]> = trail.iter().map(|row| row.each_ref().map(String::as_str)).collect();
    assert_eq!(
        rows,
        [
            ["-", "login", "minor", "-"],
            ["-", "change_user", "success", "Ada"],
            ["Ada", "login", "success", "-"]
        ]
    );
}

/// What `triaged site` does at each boot with what the site says.
fn boot(site: &Box, code: &str) -> Access {
    let line = setup_code_line(&stick::setup_code_sha256(code).unwrap());
    std::fs::write(site.code_path(), line).unwrap();
    site.open()
}

#[test]
fn a_new_code_of_the_sites_makes_one_further_engineer() {
    const CODES: [&str; 3] = ["AAAA-AAAA-AAAA-AAAA", "BBBB-BBBB-BBBB-BBBB", "CCCC-CCCC-CCCC-CCCC"];
    let site = Box::new();
    let now = |access: &Access| access.setup_code().unwrap().map(|(setup, _)| setup);
    let setup = |access: &Access, code: &str, name: &str| {
        access.setup(code, name, "engine number 1", peer(1), NOW_MS).map(|(_, session)| session.user.role)
    };
    let access = boot(&site, CODES[0]);
    assert_eq!(now(&access), Some(Setup::First));
    setup(&access, CODES[0], "Ada").unwrap();
    // The same code, over restarts and raised serials.
    for _ in 0..2 {
        let access = boot(&site, CODES[0]);
        assert_eq!((now(&access), site.code_path().exists()), (None, false));
        assert!(matches!(setup(&access, CODES[0], "eve"), Err(AccessError::SetUpAlready)));
    }
    // A new one stays until it is used, over restarts too.
    for _ in 0..2 {
        assert_eq!(now(&boot(&site, CODES[1])), Some(Setup::Another));
    }
    let access = boot(&site, CODES[1]);
    now(&access);
    assert!(matches!(setup(&access, CODES[0], "eve"), Err(AccessError::WrongSetupCode)));
    assert!(
        matches!(setup(&access, CODES[1], "ada"), Err(AccessError::Exists { .. })),
        "existing users stay"
    );
    assert_eq!(setup(&access, CODES[1], "Bob").unwrap(), Role::Engineer);
    assert!(matches!(setup(&access, CODES[1], "eve"), Err(AccessError::SetUpAlready)));
    // Nor does either of them again, when the box goes back to earlier settings, say.
    for code in [CODES[1], CODES[0]] {
        assert_eq!(now(&boot(&site, code)), None);
    }
    assert!(access.login("ada", "engine number 1", peer(1), NOW_MS).is_ok());
    assert!(access.add_user("carol", Role::Technician, "plain old ct", &by(), NOW_MS).is_ok());
    assert_eq!(now(&boot(&site, CODES[2])), Some(Setup::Another), "a user of theirs uses no code up");
    let changes: Vec<[String; 2]> =
        site.rows("SELECT account, text FROM audit WHERE event = 'change_user' ORDER BY id");
    assert_eq!(
        changes.iter().map(|row| row.join(" ")).collect::<Vec<_>>()[..2],
        ["Ada added as engineer", "Bob added as engineer, by a new setup code of the site's"]
    );
}

#[test]
fn two_who_know_a_new_code_make_one_engineer() {
    let site = Box::new();
    drop(site.set_up());
    let access = boot(&site, "BBBB-BBBB-BBBB-BBBB");
    assert!(access.setup_code().unwrap().is_some());
    let made = std::thread::scope(|scope| {
        let setup = |name| {
            let access = &access;
            scope.spawn(move || {
                access.setup("BBBB-BBBB-BBBB-BBBB", name, "engine number 1", peer(1), NOW_MS).is_ok()
            })
        };
        let threads = ["bob", "eve", "mallory"].map(setup);
        threads.map(|thread| u32::from(thread.join().unwrap())).iter().sum::<u32>()
    });
    assert_eq!((made, access.users().unwrap().len()), (1, 2));
}

#[test]
fn the_code_of_a_box_that_kept_none_before_does_not_count_as_new() {
    let site = Box::new();
    drop(site.set_up());
    let connection = Connection::open(site.dir.path().join("db")).unwrap();
    // As the step of the schema leaves a database that has users.
    connection.execute("INSERT INTO setup_codes VALUES ('unknown')", []).unwrap();
    assert_eq!(boot(&site, "AAAA-AAAA-AAAA-AAAA").setup_code().unwrap(), None);
    assert_eq!(boot(&site, "AAAA-AAAA-AAAA-AAAA").setup_code().unwrap(), None);
    assert!(boot(&site, "BBBB-BBBB-BBBB-BBBB").setup_code().unwrap().is_some());
    // What the box drew itself is for its first user alone.
    std::fs::write(site.code_path(), "AAAA-BBBB-CCCC-DDDD\n").unwrap();
    assert_eq!(site.open().setup_code().unwrap(), None);
    // An engineer who is made at the box uses the site's code up, too.
    let other = Box::new();
    let access = boot(&other, "AAAA-AAAA-AAAA-AAAA");
    access.add_user("Ada", Role::Engineer, "engine number 1", &by(), NOW_MS).unwrap();
    assert_eq!(boot(&other, "AAAA-AAAA-AAAA-AAAA").setup_code().unwrap(), None);
}

#[test]
fn a_code_by_which_an_older_version_made_the_first_engineer_counts_as_used() {
    let site = Box::new();
    assert!(boot(&site, "AAAA-AAAA-AAAA-AAAA").setup_code().unwrap().is_some());
    // The box goes back to a version that writes down no code, and comes back after that one has made its first user.
    let connection = Connection::open(site.dir.path().join("db")).unwrap();
    connection.execute("INSERT INTO users VALUES ('ada', 'Ada', 'engineer', 'x')", []).unwrap();
    assert_eq!(boot(&site, "AAAA-AAAA-AAAA-AAAA").setup_code().unwrap(), None);
    assert!(boot(&site, "BBBB-BBBB-BBBB-BBBB").setup_code().unwrap().is_some());
}

#[test]
fn setup_is_as_hard_to_guess_at_as_a_password() {
    let site = Box::new();
    let access = site.open();
    let (_, code) = access.setup_code().unwrap().unwrap();
    let guess = |n| access.setup("AAAA-AAAA-AAAA-AAAA", "ada", "engine number 1", peer(n), NOW_MS);
    let held = (0..9).map(guess).filter(|r| matches!(r, Err(AccessError::Wait { seconds: 1..=2 }))).count();
    assert_eq!(held, 4, "the code has one name, from wherever it is tried");
    assert!(access.setup(&code, "ada", "engine number 1", peer(9), NOW_MS + 5_000).is_ok());
}

#[test]
fn two_who_know_the_code_make_one_engineer() {
    let site = Box::new();
    let access = site.open();
    let (_, code) = access.setup_code().unwrap().unwrap();
    let made = std::thread::scope(|scope| {
        let setup = |name| {
            let (access, code) = (&access, &code);
            scope.spawn(move || access.setup(code, name, "engine number 1", peer(1), NOW_MS).is_ok())
        };
        let threads = ["ada", "bob", "eve"].map(setup);
        threads.map(|thread| u32::from(thread.join().unwrap())).iter().sum::<u32>()
    });
    assert_eq!((made, access.users().unwrap().len()), (1, 1));
}
