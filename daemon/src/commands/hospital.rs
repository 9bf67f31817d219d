//! The hospital of the demo and the benchmark, all on loopback: a scanner that sends, and those who get the results.
//!
//! Console, PACS, RIS and worklist manager accept everything; what they got they keep as files, if they are told where.
//! They stand for real peers, which the tests in `tests/` use.
use crate::config::{
    Audit, Completion, Config, Destination, Dicom, DicomDestination, Engine, Hl7Destination, ResultSettings,
    Screen, Storage, UpsDestination,
};
use crate::instance::Instance;
use anyhow::{Context, bail, ensure};
use dimse::acceptor::{
    AcceptedAssociation, AcceptorConfig, DataSetEnd, Message, NAnswer, NOperation, accept,
};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, FileHead, Status, uids, write_file_head};
use results::Kind;
use results::hl7::CharacterSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;
use study::{Mode, Policy, StudyUid};

/// The largest result that is taken: a segmentation of the longest series.
const RESULT_BYTES_MAX: u64 = 256 << 20;
/// How an MLLP frame begins and ends.
const FRAME: (u8, &[u8]) = (0x0b, b"\x1c\r");

/// Who gets what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Department {
    /// The scanner's console: the picture.
    Console,
    /// The archive: every result.
    Pacs,
    /// The radiology information system: a message.
    Ris,
    /// The worklist manager: a work item.
    Worklist,
}

impl Department {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Console, Self::Pacs, Self::Ris, Self::Worklist];

    /// Its name as a destination.
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Pacs => "pacs",
            Self::Ris => "ris",
            Self::Worklist => "worklist",
        }
    }

    /// Starts it; it ends with the process. `received` hears of each result in words.
    pub fn open(self, dir: Option<&Path>, received: Sender<String>) -> anyhow::Result<Destination> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let folder = dir.map(|dir| dir.join(self.name()));
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder)?;
        }
        let post = Post { department: self, folder, received };
        std::thread::Builder::new().name(self.name().into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = post.serve(stream) {
                    eprintln!("{:10} {error:#}", self.name());
                }
            }
        })?;
        let (name, ae_title) = (self.name().to_owned(), self.name().to_uppercase());
        let dicom = |results| {
            Destination::Dicom(DicomDestination {
                name: name.clone(),
                ae_title: ae_title.clone(),
                address: address.clone(),
                tls: false,
                results,
                storage_commitment: false,
            })
        };
        Ok(match self {
            Self::Console => dicom(vec![Kind::Picture]),
            Self::Pacs => dicom(vec![Kind::Picture, Kind::Slices, Kind::Report, Kind::Segmentation]),
            Self::Ris => Destination::Hl7(Hl7Destination {
                name,
                address,
                tls: false,
                sending_facility: String::new(),
                receiving_application: "RIS".into(),
                receiving_facility: String::new(),
                character_set: CharacterSet::default(),
            }),
            Self::Worklist => Destination::Ups(UpsDestination { name, ae_title, address, tls: false }),
        })
    }
}

/// The appliance beside it.
pub fn configuration(dir: &Path, destinations: Vec<Destination>) -> Config {
    Config {
        dicom: Dicom {
            ae_title: "TRIAGED".into(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            listen_tls: None,
            also_called: Vec::new(),
            callers: vec!["*".into()],
            associations_max: Dicom::ASSOCIATIONS_DEFAULT,
            idle_timeout_s: Dicom::IDLE_DEFAULT_S,
            association_request_timeout_s: Dicom::ARTIM_DEFAULT_S,
        },
        storage: Storage { dir: dir.to_owned(), min_free_mib: 64, keep_days: 1.0 },
        policy: Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 },
        completion: Completion::default(),
        engine: Engine::default(),
        results: ResultSettings::default(),
        screen: Some(Screen::on(SocketAddr::from(([127, 0, 0, 1], 0)))),
        tls: None,
        destinations,
        scanners: Vec::new(),
        worklist: None,
        audit: Audit::default(),
    }
}

/// Where a department's results go.
struct Post {
    department: Department,
    folder: Option<PathBuf>,
    received: Sender<String>,
}

impl Post {
    fn serve(&self, stream: TcpStream) -> anyhow::Result<()> {
        match self.department {
            Department::Ris => self.serve_hl7(stream),
            _ => self.serve_dicom(stream),
        }
    }

    fn serve_dicom(&self, stream: TcpStream) -> anyhow::Result<()> {
        let syntaxes: &[&str] = &[uids::EXPLICIT_VR_LITTLE_ENDIAN];
        let contexts: &[(&str, &[&str])] = &[
            (uids::VERIFICATION, syntaxes),
            (uids::SECONDARY_CAPTURE_IMAGE_STORAGE, syntaxes),
            (uids::COMPREHENSIVE_SR_STORAGE, syntaxes),
            (uids::SEGMENTATION_STORAGE, syntaxes),
            (uids::UNIFIED_PROCEDURE_STEP_PUSH, syntaxes),
        ];
        let mut association = accept(stream, &AcceptorConfig::default(), contexts, |_| Ok(()))?;
        while let Some(message) = association.next()? {
            match message {
                Message::Echo(echo) => association.respond_echo(&echo, Status::SUCCESS)?,
                Message::Store(store) => {
                    let mut bytes = Vec::new();
                    let head = FileHead {
                        sop_class_uid: &store.sop_class_uid,
                        sop_instance_uid: &store.sop_instance_uid,
                        transfer_syntax: &store.context.transfer_syntax,
                        sending_ae_title: None,
                        receiving_ae_title: None,
                        implementation: &dimse::Implementation::default(),
                    };
                    write_file_head(&mut bytes, &head)?;
                    receive(&mut association, &mut bytes)?;
                    let what = match store.sop_class_uid.as_str() {
                        uids::COMPREHENSIVE_SR_STORAGE => "report, Comprehensive SR",
                        uids::SEGMENTATION_STORAGE => "segmentation",
                        _ => "picture, Secondary Capture",
                    };
                    self.keep(what, &format!("{}.dcm", store.sop_instance_uid), &bytes)?;
                    association.respond_store(&store, Status::SUCCESS, None)?;
                }
                Message::Normalized(request) => {
                    let status = match (self.department, request.operation) {
                        (Department::Worklist, NOperation::Create) => {
                            self.take_work_item(&mut association)?;
                            Status::SUCCESS
                        }
                        _ => Status::UNRECOGNIZED_OPERATION,
                    };
                    association.respond_normalized(&request, status, NAnswer::default())?;
                }
            }
        }
        Ok(())
    }

    fn take_work_item(&self, association: &mut AcceptedAssociation) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        receive(association, &mut bytes)?;
        self.keep("work item, Unified Procedure Step", "work-item.bin", &bytes)
    }

    /// One connection, any number of messages, each acknowledged (HL7 2.5.1 section 2.9.2, original mode).
    fn serve_hl7(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        let mut reader = BufReader::new(stream).take(RESULT_BYTES_MAX);
        loop {
            let mut message = Vec::new();
            while !message.ends_with(FRAME.1) {
                if reader.read_until(b'\r', &mut message)? == 0 {
                    return Ok(());
                }
            }
            let text = String::from_utf8_lossy(&message);
            let id = text.split('|').nth(9).context("a message without MSH-10")?;
            let answer = format!("MSH|^~\\&|RIS||TRIAGED||||ACK^R01^ACK|{id}|P|2.5.1\rMSA|AA|{id}\r");
            self.keep("message, HL7 ORU^R01", "message.hl7", &message)?;
            answers.write_all(&[&[FRAME.0], answer.as_bytes(), FRAME.1].concat())?;
        }
    }

    fn keep(&self, what: &str, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(folder) = &self.folder {
            std::fs::write(folder.join(name), bytes)?;
        }
        // Whoever watches may have ended.
        let _ = self.received.send(format!(
            "{:10} received a {what}, {} KiB",
            self.department.name(),
            bytes.len().div_ceil(1024)
        ));
        Ok(())
    }
}

/// Adds the data set that follows to `bytes`; what is too long ends the association without an answer.
fn receive(association: &mut AcceptedAssociation, bytes: &mut Vec<u8>) -> anyhow::Result<()> {
    match association.read_data_set(bytes, RESULT_BYTES_MAX)? {
        DataSetEnd::Complete { .. } => Ok(()),
        end => bail!("a result was not received whole: {end:?}"),
    }
}

/// What the scanner sent.
pub struct Sent {
    /// The studies.
    pub studies: Vec<StudyUid>,
    /// Instances that were acknowledged.
    pub instances: usize,
    /// When the last instance was acknowledged.
    pub last_slice: Instant,
}

/// The scanner: one association, one C-STORE for each file. `tell` hears of what is left out; `step` is called for each
/// instance, with how many there are.
pub fn send_study(
    dir: &Path,
    appliance: SocketAddr,
    tell: &dyn Fn(String),
    step: &dyn Fn(usize),
) -> anyhow::Result<Sent> {
    let mut instances = Vec::new();
    for path in files(dir)? {
        match Instance::read(&path) {
            Ok(instance) => instances.push(instance),
            Err(error) => tell(format!("leaves out {error}")),
        }
    }
    ensure!(!instances.is_empty(), "no DICOM file in {}", dir.display());
    // As the scanner reconstructs: in the order of the position.
    instances.sort_by(|a, b| b.header.geometry.position_mm[2].total_cmp(&a.header.geometry.position_mm[2]));
    let mut association = associate(&instances, appliance)?;
    let mut sent = 0;
    for instance in &instances {
        step(instances.len());
        if !association.accepts(&instance.sop_class, &instance.transfer_syntax) {
            let path = instance.path.display();
            tell(format!("leaves out {path}: the appliance does not take its kind or compression"));
            continue;
        }
        store(&mut association, instance)?;
        sent += 1;
    }
    let last_slice = Instant::now();
    association.release()?;
    let mut studies: Vec<StudyUid> = instances.into_iter().map(|i| i.header.study).collect();
    studies.sort();
    studies.dedup();
    Ok(Sent { studies, instances: sent, last_slice })
}

/// An association for all that the instances need.
fn associate(instances: &[Instance], appliance: SocketAddr) -> anyhow::Result<Requestor> {
    let mut contexts: Vec<(&str, &str)> =
        instances.iter().map(|i| (i.sop_class.as_str(), i.transfer_syntax.as_str())).collect();
    contexts.sort_unstable();
    contexts.dedup();
    let syntaxes: Vec<[&str; 1]> = contexts.iter().map(|(_, syntax)| [*syntax]).collect();
    let offered: Vec<(&str, &[&str])> =
        contexts.iter().zip(&syntaxes).map(|((class, _), syntax)| (*class, syntax.as_slice())).collect();
    let (scanner, called): (AeTitle, AeTitle) = ("CT_SCANNER".parse()?, "TRIAGED".parse()?);
    let address = appliance.to_string();
    Ok(Requestor::connect(&address, &scanner, &called, &offered, &RequestorConfig::default())?)
}

fn store(association: &mut Requestor, instance: &Instance) -> anyhow::Result<()> {
    let path = instance.path.display();
    let mut file = File::open(&instance.path)?;
    let offset = data_set_offset(&mut file).with_context(|| format!("{path} can't be sent"))?;
    let length = file.metadata()?.len() - offset;
    file.seek(SeekFrom::Start(offset))?;
    let uid = instance.header.instance.as_str();
    let answer =
        association.store(&instance.sop_class, uid, &instance.transfer_syntax, file.take(length), length)?;
    if !answer.status.is_success() {
        bail!("the appliance answered {} to {path}", answer.status);
    }
    Ok(())
}

/// Where the data set of a file begins: after the preamble and the file meta information, whose first element is the
/// length of the rest (PS3.10 section 7.1); at once in a file without them.
fn data_set_offset(file: &mut File) -> anyhow::Result<u64> {
    let mut head = [0; 144];
    file.read_exact(&mut head)?;
    if &head[128..132] != b"DICM" {
        return Ok(0);
    }
    ensure!(&head[132..140] == b"\x02\0\0\0UL\x04\0", "the file meta information has no group length");
    Ok(144 + u64::from(u32::from_le_bytes([head[140], head[141], head[142], head[143]])))
}

fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
