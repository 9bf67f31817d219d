//! Both roles against other implementations: DCMTK (`echoscu`, `storescu`, `storescp`) and pynetdicom. A test whose peer
//! is not installed says so and passes; `TRIAGED_PYTHON` names another interpreter than `python3`.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::peers::{assert_ok, dcmtk, free_port, pynetdicom, python, run, start};
use common::{Scp, data_set, file};
use dimse::acceptor::AcceptorConfig;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, ContextTable, Rejection, Status, uids};

const CT: &str = uids::CT_IMAGE_STORAGE;
const EXPLICIT: &str = uids::EXPLICIT_VR_LITTLE_ENDIAN;

/// A row for each transfer syntax: from one row with both, pynetdicom would choose implicit, in which we can't encode here.
const OURS: ContextTable<'static> = &[
    (uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
    (CT, &[EXPLICIT]),
    (CT, &[uids::IMPLICIT_VR_LITTLE_ENDIAN]),
];

fn connect(
    address: SocketAddr,
    called: &str,
    contexts: ContextTable<'_>,
) -> Result<Requestor, AssociationError> {
    let (calling, called) = (AeTitle::new("CT1").expect("valid"), AeTitle::new(called).expect("valid"));
    Requestor::connect(address, &calling, &called, contexts, &RequestorConfig::default())
}

/// Echoes, then stores `count` instances of about `pixel_bytes`.
fn send_all(address: SocketAddr, called: &str, count: usize, pixel_bytes: usize) {
    let mut scu = connect(address, called, OURS).expect("accepted");
    assert_eq!(scu.echo().expect("answered"), Status::SUCCESS);
    for i in 0..count {
        let uid = format!("2.25.100{i}");
        let bytes = data_set(&uid, pixel_bytes + 2 * i);
        let response = scu.store(CT, &uid, EXPLICIT, bytes.as_slice(), bytes.len() as u64).expect("answered");
        assert_eq!(response.status, Status::SUCCESS, "{:?}", response.error_comment);
    }
    scu.release().expect("released in order");
}

/// Every file that `send_all` sent is in `folder`, each data set to the byte at the file's end.
fn assert_filed(folder: &Path, count: usize, pixel_bytes: usize) {
    let files: Vec<Vec<u8>> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| fs::read(entry.expect("an entry").path()).expect("readable"))
        .collect();
    assert_eq!(files.len(), count);
    for i in 0..count {
        // Pixel data alone: providers may write the elements before it anew.
        let bytes = data_set("2.25.1", pixel_bytes + 2 * i);
        let pixels = &bytes[bytes.len() - pixel_bytes - 2 * i - 4..];
        assert!(files.iter().any(|file| file.ends_with(pixels)), "instance {i} is not there");
    }
}

#[test]
fn dcmtk_echoes_and_is_refused() {
    if !dcmtk("echoscu") {
        return;
    }
    let scp = Scp::start(4, AcceptorConfig::default());
    let port = scp.address.port().to_string();
    assert_ok(&run("echoscu", &["-aet", "CT1", "-aec", "TRIAGE", "--repeat", "3", "127.0.0.1", &port]));
    let refusals = [
        ("CT1", "WRONG", "Called AE Title Not Recognized"),
        ("STRANGER", "TRIAGE", "Calling AE Title Not Recognized"),
        ("CT1", "BUSY", "Temporary Congestion"),
    ];
    for (calling, called, words) in refusals {
        let output = run("echoscu", &["-aet", calling, "-aec", called, "127.0.0.1", &port]);
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(words), "{text}");
    }
    let ended = scp.finish();
    assert!(ended[0].1.is_ok(), "{:?}", ended[0].1);
    assert_eq!(ended[0].0.echoes.len(), 3);
    assert!(ended[1..].iter().all(|(_, result)| matches!(result, Err(AssociationError::Refused { .. }))));
}

#[test]
fn dcmtk_stores() {
    if !dcmtk("storescu") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // The second is over the provider's limit; storescu goes on with the third.
    for (i, pixel_bytes) in [300_000, common::LIMIT_BYTES as usize, 524_288].into_iter().enumerate() {
        fs::write(folder.path().join(format!("{i}.dcm")), file(&format!("2.25.3{i}"), pixel_bytes))
            .expect("written");
    }
    for options in [&["-xe"][..], &["-xi"], &["-xe", "--max-send-pdu", "4096"]] {
        let scp = Scp::start(1, AcceptorConfig::default());
        let port = scp.address.port().to_string();
        let path = folder.path().to_str().expect("a plain path");
        let mut arguments = options.to_vec();
        arguments.extend(["--no-halt", "-aet", "CT1", "-aec", "TRIAGE", "127.0.0.1", &port, "+sd", path]);
        let output = run("storescu", &arguments);
        let (log, result) = scp.finish().pop().expect("one association");
        result.unwrap_or_else(|e| panic!("{options:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!((log.stores.len(), log.over_limit), (2, 1), "{options:?}");
        for (store, bytes) in &log.stores {
            assert_eq!(store.sop_class_uid, CT);
            let pixel_bytes = if store.sop_instance_uid == "2.25.30" { 300_000 } else { 524_288 };
            let sent = data_set(&store.sop_instance_uid, pixel_bytes);
            if store.context.transfer_syntax == EXPLICIT {
                assert!(*bytes == sent, "{options:?}: the data sets differ");
            } else {
                assert!(bytes.ends_with(&sent[sent.len() - pixel_bytes..]), "{options:?}: the pixels differ");
            }
        }
    }
}

#[test]
fn dcmtk_receives() {
    if !dcmtk("storescp") {
        return;
    }
    for options in [&[][..], &["--max-pdu", "4096"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_port();
        let _scp = start(
            Command::new("storescp")
                .args(options)
                .arg("-od")
                .arg(folder.path())
                .arg(address.port().to_string()),
            address,
        );
        send_all(address, "ANYSCP", 3, 524_288);
        assert_filed(folder.path(), 3, 524_288);
    }
}

#[test]
fn dcmtk_refuses_and_aborts() {
    if !dcmtk("storescp") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = data_set("2.25.1", 100_000);
    for option in ["--refuse", "--abort-during", "--abort-after"] {
        let address = free_port();
        let _scp = start(
            Command::new("storescp")
                .arg(option)
                .arg("-od")
                .arg(folder.path())
                .arg(address.port().to_string()),
            address,
        );
        let error = connect(address, "ANYSCP", OURS)
            .and_then(|mut scu| {
                scu.store(CT, "2.25.1", EXPLICIT, bytes.as_slice(), bytes.len() as u64)?;
                scu.store(CT, "2.25.1", EXPLICIT, bytes.as_slice(), bytes.len() as u64)
            })
            .expect_err(option);
        match (option, &error) {
            ("--refuse", AssociationError::Rejected(rejection)) => assert!(!rejection.transient()),
            ("--refuse", other) => panic!("{other}"),
            (_, AssociationError::Aborted { .. } | AssociationError::Closed { .. }) => {
                assert!(error.retryable())
            }
            (_, other) => panic!("{option}: {other}"),
        }
    }
}

const PYNETDICOM_SCP: &str = r"
import sys
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification
ae = AE(ae_title='PACS')
ae.require_called_aet = True
ae.require_calling_aet = ['CT1']
ae.maximum_pdu_size = 8192
ae.add_supported_context(Verification)
ae.add_supported_context(CTImageStorage)
count = 0
def store(event):
    global count
    count += 1
    if count == 3:
        return 0xA700
    with open(f'{sys.argv[2]}/{count}.dcm', 'wb') as out:
        out.write(event.request.DataSet.getvalue())
    return 0x0000
ae.start_server(('127.0.0.1', int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, store)])
";

#[test]
fn pynetdicom_receives_and_refuses() {
    if !pynetdicom() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let address = free_port();
    let port = address.port().to_string();
    let _scp = start(Command::new(python()).args(["-c", PYNETDICOM_SCP, &port]).arg(folder.path()), address);
    send_all(address, "PACS", 2, 300_000);
    assert_filed(folder.path(), 2, 300_000);

    let mut scu = connect(address, "PACS", OURS).expect("accepted");
    let bytes = data_set("2.25.1", 1000);
    let response = scu.store(CT, "2.25.1", EXPLICIT, bytes.as_slice(), bytes.len() as u64).expect("answered");
    assert_eq!(response.status, Status::OUT_OF_RESOURCES);
    scu.release().expect("released in order");

    match connect(address, "WRONG", OURS).expect_err("refused") {
        AssociationError::Rejected(rejection) => assert_eq!(rejection, Rejection::CALLED_AE_NOT_RECOGNIZED),
        other => panic!("{other}"),
    }
    let unknown: ContextTable<'_> = &[(uids::MR_IMAGE_STORAGE, &[EXPLICIT])];
    match connect(address, "PACS", unknown) {
        // All contexts refused: pynetdicom accepts the association without any, or aborts it.
        Ok(scu) => assert!(scu.contexts().is_empty()),
        Err(error) => assert!(matches!(error, AssociationError::Aborted { .. }), "{error}"),
    }
}

const PYNETDICOM_SCU: &str = r"
import sys
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification
ae = AE(ae_title='CT1')
ae.add_requested_context(Verification)
ae.add_requested_context(CTImageStorage)
assoc = ae.associate('127.0.0.1', int(sys.argv[1]), ae_title='TRIAGE')
assert assoc.is_established
for msg_id in (1, 77):
    assert assoc.send_c_echo(msg_id=msg_id).Status == 0
for path in sys.argv[2:]:
    answer = assoc.send_c_store(dcmread(path))
    print(f'{answer.Status:04X}', getattr(answer, 'ErrorComment', ''))
assoc.release()
refused = ae.associate('127.0.0.1', int(sys.argv[1]), ae_title='BUSY')
assert refused.is_rejected
print(refused.acceptor.primitive.result_str, '/', refused.acceptor.primitive.reason_str)
";

#[test]
fn pynetdicom_stores() {
    if !pynetdicom() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let paths = [100_000, common::LIMIT_BYTES as usize, 500_000].map(|pixel_bytes| {
        let path = folder.path().join(format!("{pixel_bytes}.dcm"));
        fs::write(&path, file(&format!("2.25.{pixel_bytes}"), pixel_bytes)).expect("written");
        path
    });
    let scp = Scp::start(2, AcceptorConfig::default());
    let port = scp.address.port().to_string();
    let output =
        Command::new(python()).args(["-c", PYNETDICOM_SCU, &port]).args(&paths).output().expect("installed");
    assert_ok(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines[..3], ["0000", "A700 instance too large", "0000"]);
    assert!(lines[3].contains("Transient") && lines[3].to_lowercase().contains("congestion"), "{text}");
    let ended = scp.finish();
    assert!(ended[0].1.is_ok(), "{:?}", ended[0].1);
    assert_eq!(ended[0].0.echoes, [1, 77]);
    for (store, bytes) in &ended[0].0.stores {
        assert_eq!(store.context.transfer_syntax, EXPLICIT);
        let pixel_bytes = store.sop_instance_uid[5..].parse().expect("a number");
        assert!(*bytes == data_set(&store.sop_instance_uid, pixel_bytes), "the data sets differ");
    }
}
