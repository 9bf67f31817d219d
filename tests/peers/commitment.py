"""A scanner that wants its images committed, by pynetdicom. PORT OWN_PORT TITLE DELAY_S TRANSACTION FOLDER [UNKNOWN_UID]

Asks for the images of FOLDER (and for an instance that nobody has), listens on OWN_PORT after DELAY_S, and prints the
status of the N-ACTION and then the report as JSON. Not listening means not to be reachable.
"""
import json
import queue
import sys
import time
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, StorageCommitmentPushModelInstance

port, own_port, title, delay_s, transaction, folder = sys.argv[1:7]
wanted = [
    (image.SOPClassUID, image.SOPInstanceUID)
    for image in (dcmread(path, stop_before_pixels=True) for path in sorted(Path(folder).glob("*.dcm")))
]
wanted += [(CTImageStorage, uid) for uid in sys.argv[7:]]


def reference(pair):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = pair
    return item


request = Dataset()
request.TransactionUID = transaction
request.ReferencedSOPSequence = [reference(pair) for pair in wanted]
ae = AE(ae_title=title)
ae.add_requested_context(StorageCommitmentPushModel)
# On the association of the report the peer is the provider, though it requests it (PS3.7 section D.3.3.4).
ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
reports = queue.Queue()


def report(event):
    reports.put((event.event_type, event.event_information))
    return 0x0000, None


association = ae.associate("127.0.0.1", int(port), ae_title="TRIAGED")
assert association.is_established, "no association"
status, _ = association.send_n_action(
    request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
)
association.release()
print(f"{status.Status:04X}" if "Status" in status else "none", flush=True)
if "Status" not in status or status.Status != 0:
    sys.exit()
time.sleep(float(delay_s))
ae.start_server(("127.0.0.1", int(own_port)), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)])
kind, said = reports.get(timeout=120)
print(
    json.dumps(
        {
            "type": kind,
            "transaction": said.TransactionUID,
            "committed": [i.ReferencedSOPInstanceUID for i in said.get("ReferencedSOPSequence", [])],
            "failed": [[i.ReferencedSOPInstanceUID, i.FailureReason] for i in said.get("FailedSOPSequence", [])],
        }
    )
)
# Its answer is on its way.
time.sleep(0.5)
