//! N-services, C-FIND and role selection against pynetdicom in both roles: performed procedure steps, storage
//! commitment, Unified Procedure Step, the modality worklist. Without it the tests say so and pass.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use common::element as data_element;
use common::peers::{assert_ok, free_port, pynetdicom, python, start};
use dimse::acceptor::{AcceptorConfig, DataSetEnd, Message, NAnswer, NOperation, accept};
use dimse::requestor::{FindLimits, Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, ContextTable, RoleSelection, Status, uids};

const EXPLICIT: &[&str] = &[uids::EXPLICIT_VR_LITTLE_ENDIAN];
const MPPS: &str = uids::MODALITY_PERFORMED_PROCEDURE_STEP;
const COMMITMENT: &str = uids::STORAGE_COMMITMENT_PUSH_MODEL;
const COMMITMENT_INSTANCE: &str = uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE;
const WORKLIST: &str = uids::MODALITY_WORKLIST_INFORMATION_MODEL_FIND;
const UPS: &str = uids::UNIFIED_PROCEDURE_STEP_PUSH;

/// Answers by the data set: an N-CREATE that says `DUPLICATE` is refused; a C-FIND has as many matches as it asks for.
const SCP: &str = r"
import sys, time
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep, ModalityWorklistInformationFind, StorageCommitmentPushModel,
    UnifiedProcedureStepPush)
log = open(sys.argv[2], 'w', buffering=1)
def create(event):
    attributes = event.attribute_list
    print('create', event.request.AffectedSOPClassUID, event.request.AffectedSOPInstanceUID,
          attributes.PerformedProcedureStepDescription, file=log)
    if attributes.PerformedProcedureStepDescription == 'DUPLICATE':
        status = Dataset()
        status.Status = 0x0111
        status.ErrorComment = 'is there already'
        return status, None
    if not event.request.AffectedSOPInstanceUID:
        attributes.AffectedSOPInstanceUID = '2.25.88'
    return 0x0000, attributes
def set_(event):
    print('set', event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID,
          event.modification_list.PerformedProcedureStepDescription, file=log)
    return 0x0000, event.modification_list
def action(event):
    print('action', event.request.RequestedSOPInstanceUID, event.action_type,
          event.action_information.TransactionUID, file=log)
    return 0x0000, None
def report(event):
    print('report', event.request.AffectedSOPInstanceUID, event.event_type,
          event.event_information.TransactionUID, file=log)
    return 0x0000, None
def find(event):
    wanted = int(str(event.identifier.PatientID))
    for i in range(wanted):
        if event.is_cancelled:
            print('cancelled', file=log)
            yield 0xFE00, None
            return
        match = Dataset()
        match.PatientID = str(i)
        match.RequestedProcedurePriority = 'STAT'
        yield 0xFF00, match
        # pynetdicom reads nothing as long as it has something to send, a C-CANCEL neither.
        time.sleep(0.01)
ae = AE(ae_title='PACS')
ae.add_supported_context(ModalityPerformedProcedureStep)
ae.add_supported_context(UnifiedProcedureStepPush)
ae.add_supported_context(ModalityWorklistInformationFind)
ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
ae.start_server(('127.0.0.1', int(sys.argv[1])), evt_handlers=[
    (evt.EVT_N_CREATE, create), (evt.EVT_N_SET, set_), (evt.EVT_N_ACTION, action),
    (evt.EVT_N_EVENT_REPORT, report), (evt.EVT_C_FIND, find)])
";

fn connect(address: SocketAddr, contexts: ContextTable<'_>, roles: Vec<RoleSelection>) -> Requestor {
    let (us, them) = ("TRIAGE".parse::<AeTitle>().expect("valid"), "PACS".parse().expect("valid"));
    let config = RequestorConfig { roles, ..RequestorConfig::default() };
    Requestor::connect(address, &us, &them, contexts, &config).expect("accepted")
}

fn description(text: &str) -> Vec<u8> {
    data_element((0x0040, 0x0254), "LO", text)
}

#[test]
fn pynetdicom_performs() {
    if !pynetdicom() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let address = free_port();
    let port = address.port().to_string();
    let _scp = start(Command::new(python()).args(["-c", SCP, &port]).arg(&log), address);

    let contexts: ContextTable<'_> =
        &[(MPPS, EXPLICIT), (UPS, EXPLICIT), (COMMITMENT, EXPLICIT), (WORKLIST, EXPLICIT)];
    let mut scu = connect(address, contexts, Vec::new());
    assert_eq!(scu.transfer_syntax_of(WORKLIST), Some(EXPLICIT[0]));
    assert!(scu.roles().is_empty());

    let chest = description("CHEST");
    let created = scu.create(MPPS, Some("2.25.1"), &chest).expect("answered");
    assert_eq!((created.status, created.sop_instance_uid.as_deref()), (Status::SUCCESS, Some("2.25.1")));
    assert_eq!(created.data_set, chest);
    let duplicate = scu.create(UPS, Some("2.25.2"), &description("DUPLICATE")).expect("answered");
    assert_eq!(duplicate.status, Status::DUPLICATE_SOP_INSTANCE);
    assert_eq!(duplicate.error_comment.as_deref(), Some("is there already"));
    let named = scu.create(UPS, None, &chest).expect("answered");
    assert_eq!((named.status, named.sop_instance_uid.as_deref()), (Status::SUCCESS, Some("2.25.88")));
    let set = scu.set(MPPS, "2.25.1", &description("ABDOMEN")).expect("answered");
    assert_eq!((set.status, set.data_set), (Status::SUCCESS, description("ABDOMEN")));
    let transaction = data_element((0x0008, 0x1195), "UI", "2.25.3");
    let acted = scu.action(COMMITMENT, COMMITMENT_INSTANCE, 1, &transaction).expect("answered");
    assert_eq!(acted.status, Status::SUCCESS);

    let limits = FindLimits { matches_max: 50, bytes_max: 1 << 20 };
    let found = scu.find(WORKLIST, &data_element((0x0010, 0x0020), "LO", "2"), limits).expect("answered");
    let expected = |id: &str| {
        [data_element((0x0010, 0x0020), "LO", id), data_element((0x0040, 0x1003), "SH", "STAT")].concat()
    };
    assert_eq!((found.status, found.truncated), (Status::SUCCESS, false));
    assert_eq!(found.matches, [expected("0"), expected("1")]);
    let found = scu.find(WORKLIST, &data_element((0x0010, 0x0020), "LO", "3000"), limits).expect("answered");
    assert_eq!((found.status, found.truncated, found.matches.len()), (Status::CANCEL, true, 50));
    scu.release().expect("released in order");

    // As the provider of storage commitment, which has to be agreed on.
    let role = RoleSelection { sop_class_uid: COMMITMENT.to_owned(), scu: false, scp: true };
    let mut scp = connect(address, &[(COMMITMENT, EXPLICIT)], vec![role.clone()]);
    assert_eq!(scp.roles(), [role]);
    let reported = scp.event_report(COMMITMENT, COMMITMENT_INSTANCE, 2, &transaction).expect("answered");
    assert_eq!(reported.status, Status::SUCCESS);
    scp.release().expect("released in order");

    let log = fs::read_to_string(log).expect("written");
    let want = [
        format!("create {MPPS} 2.25.1 CHEST"),
        format!("create {UPS} 2.25.2 DUPLICATE"),
        format!("create {UPS} None CHEST"),
        format!("set {MPPS} 2.25.1 ABDOMEN"),
        format!("action {COMMITMENT_INSTANCE} 1 2.25.3"),
        "cancelled".to_owned(),
        format!("report {COMMITMENT_INSTANCE} 2 2.25.3"),
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), want);
}

/// A scanner: tells of its step, asks for a commitment; then a PACS that reports one on an association of its own.
const SCU: &str = r"
import sys
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel
def dataset(**values):
    result = Dataset()
    for name, value in values.items():
        setattr(result, name, value)
    return result
def show(name, answer):
    status, reply = answer
    print(name, f'{status.Status:04X}', getattr(status, 'ErrorComment', '-'),
          reply.PerformedProcedureStepDescription if reply else '-')
MPPS, COMMITMENT = ModalityPerformedProcedureStep, StorageCommitmentPushModel
INSTANCE = '1.2.840.10008.1.20.1.1'
ae = AE(ae_title='CT1')
ae.add_requested_context(MPPS)
ae.add_requested_context(COMMITMENT)
scanner = ae.associate('127.0.0.1', int(sys.argv[1]), ae_title='TRIAGE')
assert scanner.is_established
step = dataset(PerformedProcedureStepDescription='CHEST', PerformedProcedureStepStatus='IN PROGRESS')
show('create', scanner.send_n_create(step, MPPS, '2.25.1'))
show('create', scanner.send_n_create(step, MPPS, None))
show('set', scanner.send_n_set(dataset(PerformedProcedureStepStatus='COMPLETED'), MPPS, '2.25.1'))
show('set', scanner.send_n_set(dataset(PerformedProcedureStepStatus='COMPLETED'), MPPS, '2.25.404'))
show('action', scanner.send_n_action(dataset(TransactionUID='2.25.3'), 1, COMMITMENT, INSTANCE))
show('get', scanner.send_n_get([0x00100020], MPPS, '2.25.1'))
show('delete', (scanner.send_n_delete(MPPS, '2.25.1'), None))
scanner.release()
pacs = AE(ae_title='PACS')
pacs.add_requested_context(COMMITMENT)
roles = [build_role(COMMITMENT, scu_role=False, scp_role=True)]
reporter = pacs.associate('127.0.0.1', int(sys.argv[1]), ae_title='TRIAGE', ext_neg=roles)
assert reporter.is_established
context = reporter.accepted_contexts[0]
print('roles', context.as_scu, context.as_scp)
show('report', reporter.send_n_event_report(dataset(TransactionUID='2.25.3'), 1, COMMITMENT, INSTANCE))
reporter.release()
";

#[test]
fn pynetdicom_invokes() {
    if !pynetdicom() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let performer = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().expect("a connection");
            let config =
                AcceptorConfig { grant_scp: vec![COMMITMENT.to_owned()], ..AcceptorConfig::default() };
            let contexts: ContextTable<'_> = &[(MPPS, EXPLICIT), (COMMITMENT, EXPLICIT)];
            let mut association = accept(stream, &config, contexts, |_| Ok(()))?;
            while let Some(message) = association.next()? {
                let Message::Normalized(request) = message else { panic!("{message:?}") };
                let mut bytes = Vec::new();
                let end = association.read_data_set(&mut bytes, 1 << 20)?;
                assert!(matches!(end, DataSetEnd::Complete { .. }), "{end:?}");
                let reply = description("REPLY");
                let uid = request.sop_instance_uid.as_deref();
                let (status, answer) = match request.operation {
                    NOperation::Create if uid.is_none() => {
                        (Status::SUCCESS, NAnswer { sop_instance_uid: Some("2.25.99"), ..NAnswer::default() })
                    }
                    NOperation::Create => {
                        (Status::SUCCESS, NAnswer { data_set: Some(&reply), ..NAnswer::default() })
                    }
                    NOperation::Set if uid == Some("2.25.404") => {
                        let error_comment = Some("no such step");
                        (Status::NO_SUCH_SOP_INSTANCE, NAnswer { error_comment, ..NAnswer::default() })
                    }
                    NOperation::Get | NOperation::Delete => {
                        (Status::UNRECOGNIZED_OPERATION, NAnswer::default())
                    }
                    _ => (Status::SUCCESS, NAnswer::default()),
                };
                association.respond_normalized(&request, status, answer)?;
                heard.push((request.operation, request.sop_instance_uid, bytes));
            }
        }
        Ok::<_, AssociationError>(heard)
    });
    let output = Command::new(python()).args(["-c", SCU, &port]).output().expect("installed");
    assert_ok(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    let want = [
        "create 0000 - REPLY",
        "create 0000 - -",
        "set 0000 - -",
        "set 0112 no such step -",
        "action 0000 - -",
        "get 0211 - -",
        "delete 0211 - -",
        "roles False True",
        "report 0000 - -",
    ];
    assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), want);

    let heard = performer.join().expect("no panic").expect("ended in order");
    let status = |value: &str| data_element((0x0040, 0x0252), "CS", value);
    let step = [status("IN PROGRESS"), description("CHEST")].concat();
    let transaction = data_element((0x0008, 0x1195), "UI", "2.25.3");
    let row =
        |operation, uid: Option<&str>, bytes: &[u8]| (operation, uid.map(str::to_owned), bytes.to_vec());
    let want = [
        row(NOperation::Create, Some("2.25.1"), &step),
        row(NOperation::Create, None, &step),
        row(NOperation::Set, Some("2.25.1"), &status("COMPLETED")),
        row(NOperation::Set, Some("2.25.404"), &status("COMPLETED")),
        row(NOperation::Action { action_type_id: 1 }, Some(COMMITMENT_INSTANCE), &transaction),
        row(NOperation::Get, Some("2.25.1"), b""),
        row(NOperation::Delete, Some("2.25.1"), b""),
        row(NOperation::EventReport { event_type_id: 1 }, Some(COMMITMENT_INSTANCE), &transaction),
    ];
    assert_eq!(heard, want);
}
