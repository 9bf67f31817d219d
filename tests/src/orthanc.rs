//! Orthanc as an archive, and its REST interface.
use crate::daemon::{AE_TITLE, Daemon};
use crate::peers::{Process, free_port};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

/// A running Orthanc, whose AE title is `ORTHANC` and who knows the daemon as `triaged`.
pub struct Orthanc {
    /// Where it listens for DICOM.
    pub dicom: u16,
    http: u16,
    _process: Process,
}

impl Orthanc {
    /// The name of the program.
    pub const PROGRAM: &'static str = "Orthanc";

    /// Starts one that keeps its files below `dir`. It must know the daemon's port, and the daemon its: so `dicom` was chosen
    /// before.
    pub fn start(dir: &Path, dicom: u16, daemon: &Daemon) -> Self {
        let http = free_port();
        let configuration = json!({
            "StorageDirectory": dir.join("orthanc"), "IndexDirectory": dir.join("orthanc"),
            "Plugins": [], "DicomPort": dicom, "DicomAet": "ORTHANC", "DicomCheckCalledAet": true, "HttpPort": http,
            "RemoteAccessAllowed": false, "DicomModalities": { "triaged": [AE_TITLE, "127.0.0.1", daemon.port] },
        });
        let file = dir.join("orthanc.json");
        fs::write(&file, configuration.to_string()).unwrap();
        let mut command = Command::new(Self::PROGRAM);
        let process = Process::listening(command.arg(&file).env("TCP_NODELAY", "1"), http);
        Self { dicom, http, _process: process }
    }

    /// The body of the answer to a request.
    ///
    /// # Panics
    /// Where its status is not 200.
    pub fn bytes(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end =
            answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer:?}"));
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        assert!(
            head.split(' ').nth(1) == Some("200"),
            "{method} {path}: {}",
            String::from_utf8_lossy(&answer)
        );
        answer.split_off(end + 4)
    }

    /// The answer to a request; null where it is no JSON.
    pub fn rest(&self, method: &str, path: &str, body: &str) -> Value {
        serde_json::from_slice(&self.bytes(method, path, body)).unwrap_or(Value::Null)
    }

    /// What it has of a study at a level: `Study`, `Series` or `Instance`.
    pub fn find(&self, level: &str, study: &str) -> Vec<Value> {
        let query = json!({ "Level": level, "Query": { "StudyInstanceUID": study }, "Expand": true });
        let found = self.rest("POST", "/tools/find", &query.to_string());
        found.as_array().unwrap_or_else(|| panic!("{found}")).clone()
    }
}
