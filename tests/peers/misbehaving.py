"""Destinations that misbehave. FOLDER SPEC PORT, where SPEC is JSON: {name: [port, "dicom" or "mllp"]}. It listens on
PORT when all the others do.

What a destination does is read from FOLDER/<name>/behaviour whenever somebody connects; "ok" is to behave. What arrives
is a line of FOLDER/<name>/arrivals.jsonl: UID (or control id), hash of the bytes, and whether it was acknowledged.

A DICOM destination is pynetdicom behind a relay: the relay sees to what pynetdicom would not do.
"""
import hashlib
import json
import logging
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import UnifiedProcedureStepPush, Verification

folder = Path(sys.argv[1])
# Behaviours that are a status of C-STORE or N-CREATE.
STATUSES = {"a700": 0xA700, "c000": 0xC000, "0122": 0x0122, "0111": 0x0111}
# PS3.8 table 9-21: result, source, reason.
REJECTIONS = {"reject-permanent": (1, 1, 7), "reject-transient": (2, 3, 2)}
# The response does not reach the daemon.
BROKEN = ("drop", "garbage", "hang")
# The first UID that came to a destination, and the latest.
seen = {}
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
lock = threading.Lock()


def behaviour(name):
    return (folder / name / "behaviour").read_text().strip()


def arrived(name, uid, data, acknowledged):
    line = {"uid": uid, "hash": hashlib.sha256(data).hexdigest(), "acknowledged": acknowledged}
    with lock, open(folder / name / "arrivals.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def store(event, name):
    does = behaviour(name)
    status = STATUSES.get(does, 0)
    request = event.request
    n_create = hasattr(request, "AttributeList")
    data = (request.AttributeList if n_create else request.DataSet).getvalue()
    uid = str(request.AffectedSOPInstanceUID)
    first, _ = seen.get(name, (uid, uid))
    seen[name] = (first, uid)
    poisoned = does == "poison" and uid == first
    arrived(name, uid, data, status in (0, 0x0111) and does not in BROKEN and not poisoned)
    return (status, None) if n_create else status


def end(connection):
    """Ends a connection, though another thread may be reading from it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


def receive_pdu(connection):
    """A PDU, or nothing at the end."""
    data = b""
    needed = 6
    while len(data) < needed:
        part = connection.recv(needed - len(data))
        if not part:
            return b""
        data += part
        if len(data) == 6:
            needed = 6 + struct.unpack(">I", data[2:6])[0]
    return data


def relay(name, does, client, contexts):
    inner = socket.create_connection(("127.0.0.1", contexts))
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def forth():
        try:
            while pdu := receive_pdu(client):
                inner.sendall(pdu)
        except OSError:
            pass
        end(inner)

    threading.Thread(target=forth, daemon=True).start()
    try:
        while pdu := receive_pdu(inner):
            if pdu[0] == 4 and (does == "drop" or does == "poison" and len(set(seen[name])) == 1):
                break
            if pdu[0] == 4 and does == "garbage":
                client.sendall(bytes([4, 0, 0, 0, 0, 9]) + b"no answer")
                continue
            if pdu[0] == 4 and does == "hang":
                while behaviour(name) == "hang":
                    time.sleep(0.1)
                break
            client.sendall(pdu)
    except OSError:
        pass
    end(client)


def dicom(name, port):
    handlers = [(evt.EVT_C_STORE, store, [name]), (evt.EVT_N_CREATE, store, [name])]
    full, bare = AE(ae_title=name), AE(ae_title=name)
    bare.add_supported_context(Verification)
    full.supported_contexts = AllStoragePresentationContexts
    full.add_supported_context(UnifiedProcedureStepPush)
    ports = [
        ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers).server_address[1]
        for ae in (full, bare)
    ]

    def serve(client):
        does = behaviour(name)
        if does in REJECTIONS:
            receive_pdu(client)
            client.sendall(struct.pack(">BBIBBBB", 3, 0, 4, 0, *REJECTIONS[does]))
            end(client)
        elif does == "noise":
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
            end(client)
        elif does == "silent":
            while behaviour(name) == "silent":
                time.sleep(0.1)
            end(client)
        else:
            relay(name, does, client, ports[does == "no-context"])

    listen(port, serve)


def mllp(name, port):
    def serve(client):
        data = b""
        while b"\x1c\r" not in data:
            part = client.recv(65536)
            if not part:
                return end(client)
            data += part
        does = behaviour(name)
        block = data[1 : data.index(b"\x1c\r")]
        header = block.split(b"\r")[0].split(b"|")
        control = header[9]
        arrived(name, control.decode(), block, does == "ok")
        code, about = {
            "ok": (b"AA", control),
            "ae": (b"AE", control),
            "ar": (b"AR", control),
            "wrong-control-id": (b"AA", b"NOT-YOURS"),
        }.get(does, (None, None))
        if code:
            ack = b"MSH|^~\\&|RIS||||20261123||ACK^R01^ACK|A1|P|2.5.1\rMSA|%s|%s|because\r" % (code, about)
            client.sendall(b"\x0b" + ack + b"\x1c\r")
            client.recv(1)
        elif does == "noise":
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        elif does == "silent":
            while behaviour(name) == "silent":
                time.sleep(0.1)
        end(client)

    listen(port, serve)


def listen(port, serve):
    server = socket.create_server(("127.0.0.1", port))

    def accept():
        while True:
            client, _ = server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded, args=[client], daemon=True).start()

    def guarded(client):
        try:
            serve(client)
        except OSError:
            end(client)

    threading.Thread(target=accept, daemon=True).start()


for name, (port, protocol) in json.loads(sys.argv[2]).items():
    {"dicom": dicom, "mllp": mllp}[protocol](name, port)
listen(int(sys.argv[3]), end)
threading.Event().wait()
