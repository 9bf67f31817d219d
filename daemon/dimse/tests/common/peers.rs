//! Programs of others, found on the machine or said to be missing; `TRIAGED_REQUIRE_PEERS=1` makes that a failure, and
//! `TRIAGED_PYTHON` names another interpreter than `python3`.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Whether `program` starts; says so when it does not.
fn installed(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        let required = std::env::var("TRIAGED_REQUIRE_PEERS").is_ok_and(|value| value == "1");
        assert!(!required, "no {program} {}, and TRIAGED_REQUIRE_PEERS=1", arguments.join(" "));
        println!("skipped: no {program} {}", arguments.join(" "));
    }
    found
}

/// Whether DCMTK's `program` is there.
pub fn dcmtk(program: &str) -> bool {
    installed(program, &["--version"])
}

/// The interpreter.
pub fn python() -> String {
    std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether the interpreter has pynetdicom.
pub fn pynetdicom() -> bool {
    installed(&python(), &["-c", "import pynetdicom"])
}

/// An address that nobody listens on.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// A peer's process, ended with the test.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a provider and waits until it listens on `address`.
pub fn start(command: &mut Command, address: SocketAddr) -> Process {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
    let process = Process(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{command:?} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    process
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env("TCP_NODELAY", "1").output().expect("it is installed")
}

/// Fails with the program's words if it did.
pub fn assert_ok(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}
