//! Destinations that misbehave as a test tells them to: `tests/peers/misbehaving.py`.
use crate::daemon::{Daemon, Delivery};
use crate::peers::{Process, script};
use crate::tables;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What a destination speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// C-STORE.
    Dicom,
    /// HL7 over MLLP.
    Hl7,
    /// N-CREATE of a Unified Procedure Step.
    Ups,
}

/// Something that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// SOP Instance UID or control id.
    pub uid: String,
    /// SHA-256 of the bytes, in hexadecimal.
    pub hash: String,
    /// Whether it was accepted, as far as the peer knows.
    pub acknowledged: bool,
}

/// The running destinations; all in one process.
pub struct Misbehaving {
    folder: PathBuf,
    /// Their tables in the daemon's configuration.
    pub tables: String,
    _process: Process,
}

impl Misbehaving {
    /// Starts one for each name, which does at first what its last column says.
    pub fn start(folder: &Path, peers: &[(&str, Protocol, &str)]) -> Self {
        let mut spec = serde_json::Map::new();
        let mut text = String::new();
        // Free at the same time: one after the other the same port may come twice.
        let listeners: Vec<TcpListener> =
            (0..=peers.len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port());
        for (name, protocol, behaviour) in peers {
            let port = ports.next().unwrap();
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("behaviour"), behaviour).unwrap();
            let (table, kind) = match protocol {
                Protocol::Dicom => (tables::dicom(name, port, &["picture"]), "dicom"),
                Protocol::Hl7 => (tables::hl7(name, port), "mllp"),
                Protocol::Ups => (tables::ups(name, port), "dicom"),
            };
            text += &table;
            spec.insert((*name).to_owned(), json!([port, kind]));
        }
        let last = ports.next().unwrap();
        drop(listeners);
        let mut command = script("misbehaving.py");
        command.arg(folder).arg(Value::Object(spec).to_string()).arg(last.to_string());
        // It listens there when all the others listen.
        let process = Process::listening(command.stderr(Stdio::inherit()), last);
        Self { folder: folder.to_owned(), tables: text, _process: process }
    }

    /// From now on `name` does this; `"ok"` is to behave.
    pub fn behave(&self, name: &str, behaviour: &str) {
        let file = self.folder.join(name).join("behaviour");
        let part = file.with_extension("part");
        fs::write(&part, behaviour).unwrap();
        fs::rename(part, file).unwrap();
    }

    /// What came to `name`, attempt by attempt.
    pub fn arrivals(&self, name: &str) -> Vec<Arrival> {
        let text = fs::read_to_string(self.folder.join(name).join("arrivals.jsonl")).unwrap_or_default();
        let arrival = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| value[key].as_str().unwrap().to_owned();
            Arrival { uid: text("uid"), hash: text("hash"), acknowledged: value["acknowledged"] == true }
        };
        text.lines().map(arrival).collect()
    }

    /// Whatever came to `name` was, at every attempt, a result for it as the daemon's database has it.
    pub fn assert_unchanged(&self, daemon: &Daemon, name: &str) {
        let results = daemon.outbox_of(name);
        let want: Vec<(String, String)> = results
            .iter()
            .map(|Delivery { uid, .. }| (uid.clone(), hash(&daemon.result_bytes(uid))))
            .collect();
        for Arrival { uid, hash, .. } in self.arrivals(name) {
            assert!(
                want.contains(&(uid.clone(), hash.clone())),
                "{name} got {uid} with {hash}, not {want:?}"
            );
        }
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
