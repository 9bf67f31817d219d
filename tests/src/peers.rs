//! The peers: programs of others, found on the machine or said to be missing.
use crate::daemon::{AE_TITLE, Daemon};
use crate::wait_for;
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Says that a test can't run here; a failure where `TRIAGED_REQUIRE_PEERS=1`.
pub fn skip(what: &str) {
    assert!(
        std::env::var("TRIAGED_REQUIRE_PEERS").as_deref() != Ok("1"),
        "no {what}, and TRIAGED_REQUIRE_PEERS=1"
    );
    println!("skipped: no {what}");
}

/// Whether every program is installed; says which is not.
pub fn have(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
        if !found {
            skip(program);
        }
        found
    })
}

/// The Python interpreter.
pub fn python() -> Command {
    Command::new(std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".into()))
}

/// A script of `tests/peers`, still without arguments.
pub fn script(name: &str) -> Command {
    let mut command = python();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name));
    command
}

/// Whether Python has a module; says so if not.
pub fn have_python(module: &str) -> bool {
    let found = python().args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success());
    if !found {
        skip(&format!("Python with {module}"));
    }
    found
}

/// Runs a program to its end; whether it succeeded, and all that it said.
pub fn run(command: &mut Command) -> (bool, String) {
    // Debian's DCMTK leaves Nagle's algorithm on, which costs 45 ms an image.
    let output = command.env("TCP_NODELAY", "1").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Runs a program that must succeed; all that it said.
pub fn run_ok(command: &mut Command) -> String {
    let (ok, text) = run(command);
    assert!(ok, "{command:?}: {text}");
    text
}

/// DCMTK's `program` as CT1, on its way to the daemon: options and files are still to be added.
pub fn dcmtk(program: &str, daemon: &Daemon) -> Command {
    let mut command = Command::new(program);
    command.args(["-aet", "CT1", "-aec", AE_TITLE, "127.0.0.1", &daemon.port.to_string()]);
    command
}

/// Sends the files of a folder, each of which must be accepted.
pub fn storescu(daemon: &Daemon, options: &[&str], folder: &Path) {
    run_ok(dcmtk("storescu", daemon).args(options).arg("+sd").arg(folder));
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port()
}

/// A peer's process, ended with the test.
pub struct Process(pub Child);

impl Process {
    /// Starts a provider and waits until it listens.
    pub fn listening(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}")));
        wait_for(&format!("{command:?} to listen"), || TcpStream::connect(("127.0.0.1", port)).ok());
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A peer of `tests/peers` that keeps what it gets as files in a folder.
pub struct Collector {
    /// Where it listens.
    pub port: u16,
    folder: PathBuf,
    _process: Process,
}

impl Collector {
    /// Starts `script PORT FOLDER [arguments]` on a port of its own.
    pub fn start(name: &str, folder: &Path, arguments: &[&Path]) -> Self {
        fs::create_dir_all(folder).unwrap();
        let port = free_port();
        let mut command = script(name);
        command.arg(port.to_string()).arg(folder).args(arguments);
        Self { port, folder: folder.to_owned(), _process: Process::listening(&mut command, port) }
    }

    /// What its `.json` files say, by name.
    pub fn received(&self) -> Vec<Value> {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        files.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }
}

/// DCMTK's `storescp` as a console or a PACS.
pub struct Storescp {
    /// Where it listens.
    pub port: u16,
    folder: PathBuf,
    _process: Process,
}

impl Storescp {
    /// Starts one that keeps what it gets, byte by byte, in `folder`.
    pub fn start(folder: &Path, port: u16) -> Self {
        Self::start_with(folder, port, &[])
    }

    /// The same with further options.
    pub fn start_with(folder: &Path, port: u16, options: &[&str]) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut command = Command::new("storescp");
        command.env("TCP_NODELAY", "1").args(options).args(["+B", "-od"]).arg(folder).arg(port.to_string());
        Self { port, folder: folder.to_owned(), _process: Process::listening(&mut command, port) }
    }

    /// What it has received: SOP Instance UID and file.
    pub fn received(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        // DCMTK names files by modality and UID.
        let uid = |path: &Path| Some(path.file_name()?.to_str()?.split_once('.')?.1.to_owned());
        let mut files: Vec<_> = entries.filter_map(|path| Some((uid(&path)?, path))).collect();
        files.sort();
        files
    }
}
