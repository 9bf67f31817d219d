"""A scanner's Modality Performed Procedure Step by pynetdicom. PORT create UID FOLDER | PORT set UID STATUS FOLDER

FOLDER has the images that the step is about; they may not have been sent yet.
"""
import sys
import time
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep

port, action, uid = int(sys.argv[1]), sys.argv[2], sys.argv[3]
images = [dcmread(path, stop_before_pixels=True) for path in sorted(Path(sys.argv[-1]).glob("*.dcm"))]
first = images[0]


def item(**attributes):
    data_set = Dataset()
    for name, value in attributes.items():
        setattr(data_set, name, value)
    return data_set


def created():
    step = item(
        StudyInstanceUID=first.StudyInstanceUID, ReferencedStudySequence=[], AccessionNumber="", RequestedProcedureID="1",
        RequestedProcedureDescription="", ScheduledProcedureStepID="1", ScheduledProcedureStepDescription="",
        ScheduledProtocolCodeSequence=[],
    )
    return item(
        ScheduledStepAttributesSequence=[step], PatientName=first.PatientName, PatientID=first.PatientID,
        PatientBirthDate="", PatientSex="O", ReferencedPatientSequence=[], PerformedProcedureStepID="1",
        PerformedStationAETitle="CT1", PerformedStationName="", PerformedLocation="",
        PerformedProcedureStepStartDate="20200401", PerformedProcedureStepStartTime="120000",
        PerformedProcedureStepStatus="IN PROGRESS", PerformedProcedureStepDescription="",
        PerformedProcedureTypeDescription="", ProcedureCodeSequence=[], PerformedProcedureStepEndDate="",
        PerformedProcedureStepEndTime="", Modality="CT", StudyID="1", PerformedProtocolCodeSequence=[],
        PerformedSeriesSequence=[],
    )


def ended():
    series = item(
        SeriesInstanceUID=first.SeriesInstanceUID, SeriesDescription="", PerformingPhysicianName="", OperatorsName="",
        ProtocolName="chest", RetrieveAETitle="", ReferencedNonImageCompositeSOPInstanceSequence=[],
        ReferencedImageSequence=[
            item(ReferencedSOPClassUID=i.SOPClassUID, ReferencedSOPInstanceUID=i.SOPInstanceUID) for i in images
        ],
    )
    return item(
        PerformedProcedureStepStatus=sys.argv[4], PerformedProcedureStepEndDate="20200401",
        PerformedProcedureStepEndTime="120500", PerformedSeriesSequence=[series],
    )


ae = AE(ae_title="CT1")
ae.add_requested_context(ModalityPerformedProcedureStep)
association = ae.associate("127.0.0.1", port, ae_title="TRIAGED")
assert association.is_established, "no association"
if action == "create":
    # The reader thread must have paused again before the next request, or it drops the answer.
    time.sleep(0.02)
    status, _ = association.send_n_create(created(), ModalityPerformedProcedureStep, uid)
else:
    time.sleep(0.02)
    status, _ = association.send_n_set(ended(), ModalityPerformedProcedureStep, uid)
association.release()
print(f"{status.Status:04X}")
