//! C-STORE over loopback: 200 instances of 0.5 MB, from DCMTK's `storescu` and from our requestor, into our acceptor
//! (without a file, with TLS, with files, with files synced) and into DCMTK's `storescp` (files, never synced), each several
//! times in turn, with TCP_NODELAY on both ends. Prints the best and the median of the wall times.
//!
//! `cargo bench -p dimse [-- FOLDER]`; FOLDER is on the disk to measure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, accept, accept_tls};
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::rustls::ServerConfig;
use dimse::{AeTitle, ContextTable, FileHead, Implementation, Status, TlsClient, uids, write_file_head};

#[path = "../tests/common/certificates.rs"]
#[allow(dead_code)]
mod certificates;

const INSTANCES: usize = 200;
const PIXEL_BYTES: usize = 512 * 512 * 2;
const ROUNDS: usize = 5;
const CONTEXTS: ContextTable<'static> = &[(uids::CT_IMAGE_STORAGE, &[uids::EXPLICIT_VR_LITTLE_ENDIAN])];

#[derive(Clone, Copy)]
enum Receiver {
    Nothing,
    /// Nothing, by TLS with mutual authentication.
    Tls,
    Files,
    /// New files, each synced, then the folder.
    Synced,
    /// New files, each synced: ext4 commits the name with the file, POSIX does not promise it.
    FileSynced,
    /// Files that were written and synced before, overwritten and their data synced: no metadata changes.
    Slots,
    Storescp,
}

#[derive(Clone, Copy)]
enum Sender {
    Ours,
    Storescu,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base =
        std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(base)?;
    let source = folder.path().join("source");
    fs::create_dir(&source)?;
    for i in 0..INSTANCES {
        let mut file = File::create(source.join(format!("{i}.dcm")))?;
        file.write_all(&head(&format!("2.25.{i}"))?)?;
        file.write_all(&data_set(&format!("2.25.{i}")))?;
    }
    let dcmtk = Command::new("storescp").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !dcmtk {
        println!("skipped: no storescp, no storescu");
    }
    let cases = [
        ("ours     -> ours, no file", Sender::Ours, Receiver::Nothing),
        ("ours     -> ours, no file, TLS", Sender::Ours, Receiver::Tls),
        ("ours     -> ours, files", Sender::Ours, Receiver::Files),
        ("ours     -> ours, files and folder synced", Sender::Ours, Receiver::Synced),
        ("ours     -> ours, slots synced", Sender::Ours, Receiver::Slots),
        ("ours     -> storescp", Sender::Ours, Receiver::Storescp),
        ("storescu -> ours, no file", Sender::Storescu, Receiver::Nothing),
        ("storescu -> ours, files", Sender::Storescu, Receiver::Files),
        ("storescu -> ours, files and folder synced", Sender::Storescu, Receiver::Synced),
        ("storescu -> ours, files synced", Sender::Storescu, Receiver::FileSynced),
        ("storescu -> ours, slots synced", Sender::Storescu, Receiver::Slots),
        ("storescu -> storescp", Sender::Storescu, Receiver::Storescp),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, sender, receiver), times) in cases.iter().zip(&mut times) {
            if dcmtk || !matches!((sender, receiver), (Sender::Storescu, _) | (_, Receiver::Storescp)) {
                times.push(round(*sender, *receiver, &source, folder.path())?);
            }
        }
    }
    for ((name, ..), times) in cases.iter().zip(&mut times) {
        times.sort();
        if let (Some(best), Some(median)) = (times.first(), times.get(times.len() / 2)) {
            println!("{name:44} best {:6.3} s  median {:6.3} s", best.as_secs_f64(), median.as_secs_f64());
        }
    }
    Ok(())
}

fn round(sender: Sender, receiver: Receiver, source: &Path, base: &Path) -> io::Result<Duration> {
    let target = tempfile::tempdir_in(base)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    if let Receiver::Storescp = receiver {
        drop(listener);
        let mut command = Command::new("storescp");
        command.env("TCP_NODELAY", "1").arg("-od").arg(target.path()).arg(address.port().to_string());
        let mut scp = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = send(sender, receiver, source, address);
        scp.kill()?;
        scp.wait()?;
        return took;
    }
    let folder = target.path().to_owned();
    if let Receiver::Slots = receiver {
        for i in 0..INSTANCES {
            let mut slot = File::create(folder.join(format!("2.25.{i}")))?;
            slot.write_all(&vec![0; PIXEL_BYTES + 4096])?;
            slot.sync_all()?;
        }
    }
    let provider = std::thread::spawn(move || receive(&listener, receiver, &folder));
    let took = send(sender, receiver, source, address)?;
    provider.join().map_err(|_| io::Error::other("the provider panicked"))??;
    Ok(took)
}

fn send(sender: Sender, receiver: Receiver, source: &Path, address: SocketAddr) -> io::Result<Duration> {
    let began = Instant::now();
    match sender {
        Sender::Storescu => {
            let mut command = Command::new("storescu");
            command
                .env("TCP_NODELAY", "1")
                .args(["-xe", "127.0.0.1", &address.port().to_string(), "+sd"])
                .arg(source);
            if !command.status()?.success() {
                return Err(io::Error::other("storescu failed"));
            }
        }
        Sender::Ours => {
            let (us, them) = (AeTitle::new("BENCH").expect("valid"), AeTitle::new("ANYSCP").expect("valid"));
            let tls = matches!(receiver, Receiver::Tls).then(|| tls().0.clone());
            let config = RequestorConfig { tls, ..RequestorConfig::default() };
            let mut scu =
                Requestor::connect(address, &us, &them, CONTEXTS, &config).map_err(io::Error::other)?;
            let (ct, syntax) = CONTEXTS[0];
            for i in 0..INSTANCES {
                let uid = format!("2.25.{i}");
                let bytes = fs::read(source.join(format!("{i}.dcm")))?;
                let bytes = &bytes[head(&uid)?.len()..];
                let answer =
                    scu.store(ct, &uid, syntax[0], bytes, bytes.len() as u64).map_err(io::Error::other)?;
                assert_eq!(answer.status, Status::SUCCESS);
            }
            scu.release().map_err(io::Error::other)?;
        }
    }
    Ok(began.elapsed())
}

fn receive(listener: &TcpListener, receiver: Receiver, folder: &Path) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    let config = AcceptorConfig::default();
    let accepted = match receiver {
        Receiver::Tls => accept_tls(stream, &tls().1, &config, CONTEXTS, |_| Ok(())),
        _ => accept(stream, &config, CONTEXTS, |_| Ok(())),
    };
    let mut scp = accepted.map_err(io::Error::other)?;
    while let Some(Message::Store(store)) = scp.next().map_err(io::Error::other)? {
        let end = if let Receiver::Nothing | Receiver::Tls = receiver {
            scp.read_data_set(&mut io::sink(), u64::MAX)
        } else {
            let path = folder.join(&store.sop_instance_uid);
            let mut file = match receiver {
                Receiver::Slots => File::options().write(true).open(path)?,
                _ => File::create(path)?,
            };
            file.write_all(&head(&store.sop_instance_uid)?)?;
            let end = scp.read_data_set(&mut file, u64::MAX);
            match receiver {
                Receiver::Synced => {
                    file.sync_all()?;
                    File::open(folder)?.sync_all()?;
                }
                Receiver::FileSynced | Receiver::Slots => file.sync_data()?,
                _ => {}
            }
            end
        };
        assert!(matches!(end, Ok(DataSetEnd::Complete { .. })), "{end:?}");
        scp.respond_store(&store, Status::SUCCESS, None).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Both ends of TLS, with a certificate for each.
fn tls() -> &'static (TlsClient, Arc<ServerConfig>) {
    static TLS: OnceLock<(TlsClient, Arc<ServerConfig>)> = OnceLock::new();
    TLS.get_or_init(|| {
        let authority = certificates::Authority::new("bench");
        let identity = authority.certify("127.0.0.1");
        (certificates::client(&authority, Some(&identity)), certificates::server(&authority, &identity))
    })
}

fn head(sop_instance_uid: &str) -> io::Result<Vec<u8>> {
    let implementation = Implementation::default();
    let head = FileHead {
        sop_class_uid: uids::CT_IMAGE_STORAGE,
        sop_instance_uid,
        transfer_syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
        sending_ae_title: None,
        receiving_ae_title: None,
        implementation: &implementation,
    };
    let mut bytes = Vec::new();
    write_file_head(&mut bytes, &head)?;
    Ok(bytes)
}

/// SOP class, SOP instance and pixel data: what `storescu` needs to send.
fn data_set(sop_instance_uid: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PIXEL_BYTES + 128);
    for (element, uid) in [(0x16, uids::CT_IMAGE_STORAGE), (0x18, sop_instance_uid)] {
        let length = uid.len().next_multiple_of(2);
        bytes.extend_from_slice(&[8, 0, element, 0, b'U', b'I', length as u8, 0]);
        bytes.extend_from_slice(uid.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(2), 0);
    }
    bytes.extend_from_slice(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]);
    bytes.extend_from_slice(&(PIXEL_BYTES as u32).to_le_bytes());
    bytes.extend((0..PIXEL_BYTES).map(|i| ((i * 31) >> 3) as u8));
    bytes
}
