"""A worklist manager: Unified Procedure Step Push by pynetdicom. PORT FOLDER

Keeps every step as FOLDER/<uid>.bin, byte by byte, and FOLDER/<uid>.json. A step that it has is answered with 0x0111,
Duplicate SOP Instance, as the standard asks for.
"""
import json
import sys
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.sop_class import UnifiedProcedureStepPush

port, folder = int(sys.argv[1]), Path(sys.argv[2])


def create(event):
    uid, data_set = event.request.AffectedSOPInstanceUID, event.attribute_list
    file = folder / f"{uid}.bin"
    data = event.request.AttributeList.getvalue()
    if file.exists():
        assert file.read_bytes() == data, "another step under the same UID"
        return 0x0111, None
    file.write_bytes(data)
    name = data_set.PatientName
    said = {
        "uid": uid,
        "priority": data_set.ScheduledProcedureStepPriority,
        "state": data_set.ProcedureStepState,
        "label": data_set.ProcedureStepLabel,
        "transaction": str(data_set.get("TransactionUID", "")),
        "patient_id": data_set.PatientID,
        "name": str(name),
        "name_hex": name.original_string.hex(),
        "study": data_set.StudyInstanceUID,
        "comment": data_set.CommentsOnTheScheduledProcedureStep,
    }
    part = folder / f"{uid}.part"
    part.write_text(json.dumps(said))
    part.rename(folder / f"{uid}.json")
    data_set.SOPClassUID, data_set.SOPInstanceUID = UnifiedProcedureStepPush, uid
    return 0x0000, data_set


ae = AE(ae_title="WORKLIST")
ae.add_supported_context(UnifiedProcedureStepPush)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_N_CREATE, create)])
