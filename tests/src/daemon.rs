//! The daemon as a process: built once, configured, started, killed, and asked by way of its database.
use crate::peers::run_ok;
use crate::{tables, wait_for};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// The daemon's AE title in every test.
pub const AE_TITLE: &str = "TRIAGED";

/// The binary under test, built in the profile of the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TRIAGED_BIN") {
            return given.into();
        }
        // target/<profile>/deps/<test>
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // The whole workspace is selected, and with a test, so that the dependencies have the features that they have in
        // `cargo test --workspace` and are not built again.
        let arguments = ["build", "--workspace", "--bin", "triaged", "--test", "daemon"];
        cargo.args(arguments).current_dir(workspace());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&built.stderr));
        profile.join("triaged")
    })
}

/// The root of the checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// `triaged` with arguments.
pub fn triaged(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a test may set; the rest is the same in all of them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Calling AE titles that are let in.
    pub callers: &'static [&'static str],
    /// Associations at a time.
    pub associations_max: usize,
    /// Time that a connection has to request its association.
    pub association_request_timeout_s: f64,
    /// Silence after which an association is aborted.
    pub idle_timeout_s: f64,
    /// Free space that is kept.
    pub min_free_mib: u64,
    /// Quiet time of a whole series.
    pub quiet_short_s: f64,
    /// Quiet time of any other. Long enough for a sender to be started meanwhile.
    pub quiet_long_s: f64,
    /// AE titles (also their names) and ports of destinations, on loopback, that get the picture.
    pub destinations: Vec<(&'static str, u16)>,
    /// Whether it listens without encryption.
    pub plain: bool,
    /// The port without encryption; 0: the system chooses.
    pub plain_port: u16,
    /// The port with TLS.
    pub tls_port: Option<u16>,
    /// Further tables of the configuration; see [`crate::tables`].
    pub tables: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            callers: &["*"],
            associations_max: 16,
            association_request_timeout_s: 10.0,
            idle_timeout_s: 60.0,
            min_free_mib: 16,
            quiet_short_s: 0.5,
            quiet_long_s: 4.0,
            destinations: Vec::new(),
            plain: true,
            plain_port: 0,
            tls_port: None,
            tables: String::new(),
        }
    }
}

impl Settings {
    fn toml(&self, storage: &Path) -> String {
        let plain =
            if self.plain { format!("listen = \"127.0.0.1:{}\"", self.plain_port) } else { String::new() };
        let tls = self.tls_port.map(|port| format!("listen_tls = \"127.0.0.1:{port}\"")).unwrap_or_default();
        let mut text = format!(
            r#"
[dicom]
ae_title = "{AE_TITLE}"
{plain}
{tls}
callers = {:?}
associations_max = {}
association_request_timeout_s = {:?}
idle_timeout_s = {:?}
[storage]
dir = {storage:?}
min_free_mib = {}
[policy]
mode = "both"
operating_point = 0.5
severity_min = 0.05
[completion]
quiet_short_s = {:?}
quiet_long_s = {:?}
"#,
            self.callers,
            self.associations_max,
            self.association_request_timeout_s,
            self.idle_timeout_s,
            self.min_free_mib,
            self.quiet_short_s,
            self.quiet_long_s,
        );
        for (name, port) in &self.destinations {
            text += &tables::dicom(name, *port, &["picture"]);
        }
        text + &self.tables
    }
}

/// A result and a destination, as the outbox has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Name of the destination.
    pub destination: String,
    /// What the result is: a kind of DICOM object, `hl7` or `ups`.
    pub kind: String,
    /// SOP Instance UID, or the control id of a message.
    pub uid: String,
    /// `waiting`, `stored`, `delivered`, `parked` or `dropped`.
    pub state: String,
    /// Attempts that failed or succeeded.
    pub attempts: u32,
    /// What the last one that failed was told.
    pub error: String,
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    /// Open until the end: the daemon may write to it.
    stdout: BufReader<ChildStdout>,
    dir: PathBuf,
    /// The port that it listens on.
    pub port: u16,
}

impl Daemon {
    /// Starts the daemon on `dir`, where an earlier one may have left its storage, and waits until it listens.
    pub fn start(dir: &Path, settings: &Settings) -> Self {
        Self::start_in(dir, settings, &[])
    }

    /// The same with further variables of the environment.
    pub fn start_in(dir: &Path, settings: &Settings, variables: &[(&str, &str)]) -> Self {
        let config = dir.join("triaged.toml");
        fs::write(&config, settings.toml(&dir.join("storage"))).unwrap();
        let log = File::options().create(true).append(true).open(dir.join("triaged.log")).unwrap();
        // The service manager names the process that the watchdog is for.
        let mut child = Command::new("sh")
            .args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"])
            .arg(binary())
            .args(["run", "--config"])
            .arg(&config)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary().display()));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        // Without a plain listener the line names the one with TLS.
        let Some(port) = port.filter(|_| line.starts_with("listening on ")) else {
            panic!(
                "the daemon said {line:?}; its log:\n{}",
                fs::read_to_string(dir.join("triaged.log")).unwrap()
            )
        };
        Self { child, stdout, dir: dir.to_owned(), port }
    }

    /// The port of the screen, which `tables` must configure.
    pub fn screen_port(&mut self) -> u16 {
        let mut line = String::new();
        while !line.starts_with("screen on ") {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "no screen; the log:\n{}", self.log());
        }
        line.trim().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Ends it as a power failure does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as the service manager does.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// Everything that it has logged, earlier runs on the same folder included.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("triaged.log")).unwrap()
    }

    /// The most memory that it has had resident, MiB.
    pub fn peak_mib(&self) -> u64 {
        peak_mib(self.child.id()).unwrap()
    }

    /// Files that the spool holds under its studies.
    pub fn filed(&self) -> usize {
        let files = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        files(&self.dir.join("storage/spool/studies"))
            .flat_map(|study| files(&study).collect::<Vec<_>>())
            .count()
    }

    fn database(&self) -> Connection {
        let path = self.dir.join("storage/triaged.db");
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.busy_timeout(crate::PATIENCE).unwrap();
        connection
    }

    fn texts(&self, sql: &str, study: &str) -> Vec<String> {
        let database = self.database();
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([study], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    /// The outcomes of a study, revision by revision.
    pub fn outcomes(&self, study: &str) -> Vec<Value> {
        let sql = "SELECT outcome FROM outcomes JOIN studies ON id = study_id WHERE study_uid = ?1 ORDER BY revision";
        self.texts(sql, study).iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// SOP Instance UIDs of the results of a study, in the order of their making.
    pub fn results(&self, study: &str) -> Vec<String> {
        let sql = "SELECT sop_instance_uid FROM results r JOIN studies s ON s.id = study_id WHERE study_uid = ?1 ORDER BY r.id";
        self.texts(sql, study)
    }

    /// What the outbox has, in the order of the making.
    pub fn outbox(&self) -> Vec<Delivery> {
        let database = self.database();
        let sql = "SELECT destination, kind, sop_instance_uid, state, attempts, COALESCE(last_error, '')
            FROM outbox o JOIN results r ON r.id = o.result_id ORDER BY r.id, destination";
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok(Delivery {
                destination: row.get(0)?,
                kind: row.get(1)?,
                uid: row.get(2)?,
                state: row.get(3)?,
                attempts: row.get(4)?,
                error: row.get(5)?,
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// What the outbox has for one destination.
    pub fn outbox_of(&self, destination: &str) -> Vec<Delivery> {
        self.outbox().into_iter().filter(|row| row.destination == destination).collect()
    }

    /// The bytes that the outbox sends for a result.
    pub fn result_bytes(&self, uid: &str) -> Vec<u8> {
        let sql = "SELECT data_set, unpacked_bytes FROM results WHERE sop_instance_uid = ?1";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<usize>>(1)?));
        match self.database().query_row(sql, [uid], row).unwrap() {
            (bytes, None) => bytes,
            (packed, Some(length)) => lz4_flex::decompress(&packed, length).unwrap(),
        }
    }

    /// Transactions of the storage commitment requests whose report is still owed.
    pub fn commitments(&self) -> Vec<String> {
        self.texts("SELECT transaction_uid FROM commitments WHERE ?1 = '' ORDER BY id", "")
    }

    /// Studies in the order of their outcomes.
    pub fn order(&self) -> Vec<String> {
        self.texts(
            "SELECT study_uid FROM outcomes o JOIN studies ON id = study_id WHERE ?1 = '' ORDER BY o.rowid",
            "",
        )
    }

    /// `triaged outbox` on this daemon's configuration, while it runs: what it said. It must succeed.
    pub fn outbox_command(&self, arguments: &[&str]) -> String {
        let mut command = triaged(&["outbox"]);
        run_ok(command.args(arguments).arg("--config").arg(self.dir.join("triaged.toml")))
    }

    /// The state of a study.
    pub fn state(&self, study: &str) -> Option<String> {
        let sql = "SELECT state FROM studies WHERE study_uid = ?1";
        self.database().query_row(sql, [study], |row| row.get(0)).optional().unwrap()
    }

    /// Results that wait for a destination, or for its commitment.
    pub fn waiting(&self) -> usize {
        let sql = "SELECT COUNT(*) FROM outbox WHERE state IN ('waiting', 'stored')";
        self.database().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Waits until a study is done, and gives its only outcome.
    pub fn outcome(&self, study: &str) -> Value {
        self.wait_done(study);
        let mut outcomes = self.outcomes(study);
        assert_eq!(outcomes.len(), 1, "study {study}: {outcomes:?}");
        outcomes.remove(0)
    }

    /// Waits until a study has an outcome for all of its slices.
    pub fn wait_done(&self, study: &str) {
        wait_for(&format!("an outcome of study {study}"), || {
            (self.state(study).as_deref() == Some("done")).then_some(())
        });
    }

    /// Waits until every result was accepted by every destination.
    pub fn wait_delivered(&self) {
        wait_for("the delivery of all results", || (self.waiting() == 0).then_some(()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The most memory that a process has had resident, MiB; `None` once it has ended.
pub fn peak_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? / 1024)
}
