"""A RIS: HL7 over MLLP by the library `hl7`, which is not ours. PORT FOLDER [CERTIFICATE KEY AUTHORITY]

Keeps every message that it accepts as FOLDER/<n>.hl7, byte by byte, and FOLDER/<n>.json: a list of segments, each a list
whose index is the number of the field (MSH-1 is the separator).
"""
import asyncio
import json
import ssl
import sys
from pathlib import Path

import hl7
from hl7.mllp import start_hl7_server

CODECS = {"UNICODE UTF-8": "utf-8", "": "ascii", "ASCII": "ascii", "GB 18030-2000": "gb18030"}
CODECS |= {f"8859/{part}": f"iso8859_{part}" for part in range(1, 16) if part != 12}
port, folder = int(sys.argv[1]), Path(sys.argv[2])
count = 0


def codec(message):
    """What MSH-18 declares; the header itself is ASCII up to there."""
    header = message.split(b"\r")[0].split(b"|")
    return CODECS[header[17].decode() if len(header) > 17 else ""]


async def connected(reader, writer):
    global count
    try:
        while True:
            block = await reader.readblock()
            message = hl7.parse(block, encoding=codec(block))
            ack = message.create_ack("AA")
            (folder / f"{count}.hl7").write_bytes(block)
            fields = [[str(field) for field in segment] for segment in message]
            part = folder / f"{count}.part"
            part.write_text(json.dumps(fields))
            part.rename(folder / f"{count}.json")
            count += 1
            writer.writeblock(str(ack).encode(codec(block)))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    tls = None
    if len(sys.argv) > 3:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=sys.argv[5])
        tls.load_cert_chain(sys.argv[3], sys.argv[4])
        tls.verify_mode = ssl.CERT_REQUIRED
    server = await start_hl7_server(connected, "127.0.0.1", port, ssl=tls)
    async with server:
        await server.serve_forever()


asyncio.run(main())
