"""Judges DICOM audit messages by PS3.15 section A.5: the schema of A.5.1 and the tables of A.5.3, as far as they bind us.

Reads one message a line from standard input; prints what each says, one JSON object a line. Python's own library only.
"""

import base64
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

CODED = {"csd-code", "codeSystemName", "originalText"}
PARTICIPANT = {"UserID", "AlternativeUserID", "UserName", "UserIsRequestor"} | {
    "NetworkAccessPointID",
    "NetworkAccessPointTypeCode",
}
OBJECT = {f"ParticipantObject{name}" for name in ("ID", "TypeCode", "TypeCodeRole", "DataLifeCycle", "Sensitivity")}
# Section A.5.3: the message, its actions, the types that it must have, how many participants, which objects.
STUDY, PATIENT, ACCOUNT, PAGE = ("2", "3", "110180"), ("1", "1", "2"), ("2", "13", "11"), ("2", "3", "12")
NODE = ("2", "13", "110182")
MESSAGES = {
    "110100": ("Application Activity", "E", {"110120", "110121"}, (1,), []),
    "110103": ("DICOM Instances Accessed", "CRUD", None, (1, 2), [STUDY, PATIENT]),
    "110111": ("Procedure Record", "CRUD", None, (1, 2), [STUDY, PATIENT]),
    "110112": ("Query", "E", None, (2,), [PAGE]),
    "110113": ("Security Alert", "E", {"110132", "110137"}, (1, 2), [ACCOUNT]),
    "110114": ("User Authentication", "E", {"110122", "110123"}, (1, 2), []),
}


def attributes(element, required, optional=frozenset()):
    names = set(element.attrib)
    assert required <= names <= required | set(optional), (element.tag, names)
    for name, value in element.attrib.items():
        assert value, (element.tag, name)


def coded(element):
    attributes(element, CODED)
    return element.get("csd-code")


def order(element, *tags):
    """The children are these, in this order: (tag, least, most)."""
    rest = [child.tag for child in element]
    for tag, least, most in tags:
        n = 0
        while rest[n : n + 1] == [tag]:
            n += 1
        assert least <= n <= most, (element.tag, tag, n)
        del rest[:n]
    assert not rest, (element.tag, rest)


def judge(text):
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "AuditMessage" and not root.attrib
    many = 1 << 30
    order(
        root,
        ("EventIdentification", 1, 1),
        ("ActiveParticipant", 1, many),
        ("AuditSourceIdentification", 1, 1),
        ("ParticipantObjectIdentification", 0, many),
    )
    event = root.find("EventIdentification")
    attributes(event, {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"})
    order(event, ("EventID", 1, 1), ("EventTypeCode", 0, many), ("EventOutcomeDescription", 0, 1))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", event.get("EventDateTime"))
    assert event.get("EventOutcomeIndicator") in ("0", "4", "8", "12")
    event_id = coded(event.find("EventID"))
    meaning, actions, types, participants, objects = MESSAGES[event_id]
    assert event.find("EventID").get("originalText") == meaning
    assert event.find("EventID").get("codeSystemName") == "DCM"
    assert event.get("EventActionCode") in actions
    found_types = [coded(element) for element in event.iter("EventTypeCode")]
    assert types is None or (len(found_types) == 1 and found_types[0] in types)
    people = root.findall("ActiveParticipant")
    assert len(people) in participants
    for person in people:
        attributes(person, {"UserID", "UserIsRequestor"}, PARTICIPANT)
        order(person, ("RoleIDCode", 0, many), ("MediaIdentifier", 0, 1))
        assert person.get("UserIsRequestor") in ("true", "false")
        assert person.get("NetworkAccessPointTypeCode") in ("1", "2")
        assert person.get("NetworkAccessPointID")
        list(map(coded, person.iter("RoleIDCode")))
    roles = [role.get("csd-code") for person in people for role in person]
    assert roles == {"110100": ["110150"], "110112": ["110153", "110152"]}.get(event_id, [])
    source = root.find("AuditSourceIdentification")
    attributes(source, {"AuditSourceID"}, {"AuditEnterpriseSiteID"})
    assert [code.get("csd-code") for code in source] == ["4"]
    found = []
    detail = None
    for thing in root.iter("ParticipantObjectIdentification"):
        attributes(thing, {"ParticipantObjectID"}, OBJECT)
        order(
            thing,
            ("ParticipantObjectIDTypeCode", 1, 1),
            # Section A.5.1: a name or a query.
            ("ParticipantObjectQuery" if event_id == "110112" else "ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, many),
        )
        kind = coded(thing.find("ParticipantObjectIDTypeCode"))
        found.append((thing.get("ParticipantObjectTypeCode"), thing.get("ParticipantObjectTypeCodeRole"), kind))
        for element in thing.iter("ParticipantObjectDetail"):
            assert set(element.attrib) == {"type", "value"}
            detail = base64.b64decode(element.get("value"), validate=True).decode()
    if found_types == ["110132"]:
        objects = [NODE]
    assert found == objects, (event_id, found)
    assert (event_id == "110113") == (detail is not None)
    description = event.find("EventOutcomeDescription")
    return {
        "event": event_id,
        "types": found_types,
        "at": event.get("EventDateTime"),
        "outcome": event.get("EventOutcomeIndicator"),
        "user": people[0].get("UserID"),
        "point": people[0].get("NetworkAccessPointID"),
        "objects": [thing.get("ParticipantObjectID") for thing in root.iter("ParticipantObjectIdentification")],
        "text": None if description is None else description.text,
        "detail": detail,
    }


for line in sys.stdin.buffer.read().decode().split("\n")[:-1]:
    print(json.dumps(judge(line), sort_keys=True))
