"""Evidence with which merchants answer disputes: receipts as PDF and delivery notes as PNG, byte for byte the same.

They are small and real: any reader opens them. Pixels are stored, not compressed, so that no library's version shows.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from stripe_platform.money import to_major
from stripe_platform.oltp.ids import day_us, seeded
from stripe_platform.simulation.aftermath import INQUIRY_REVIEW, REVIEW
from stripe_platform.simulation.days import Days

MOST = 4  # answered disputes a day whose files land
_SIDE = 24


@dataclass(frozen=True)
class File:
    """One file of evidence."""

    name: str
    dispute: str
    kind: str
    media_type: str
    content: bytes


def files(days: Days, day: dt.date) -> list[File]:
    """The day's files: a receipt for each of the first answers, a note for every other one."""
    answered = [
        (str(found.ids[row]), str(found.charge[row]), int(found.amount[row]), str(found.currency[row]))
        for found, moved in days.moved(day, disputes=True) for row, step in moved
        if found.steps[row, step] in (REVIEW, INQUIRY_REVIEW)
    ]
    found: list[File] = []
    for number, (dispute, charge, amount, currency) in enumerate(sorted(answered)[:MOST]):
        text = (f"Receipt of {day}", f"Charge {charge}", f"{to_major(amount, currency)} {currency.upper()}")
        found.append(File(f"{dispute}_receipt.pdf", dispute, "receipt", "application/pdf", pdf(text)))
        if number % 2 == 0:
            rng = seeded(days.options.seed, "evidence", dispute)
            image = rng.integers(0, 256, (_SIDE, _SIDE), dtype=np.uint8)
            found.append(File(f"{dispute}_delivery.png", dispute, "shipping_documentation", "image/png", png(image)))
    return found


def manifest(found: list[File], day: dt.date) -> bytes:
    """What landed, with sizes and digests."""
    rows = [
        {"file": f"{day}/{each.name}", "dispute": each.dispute, "kind": each.kind, "media_type": each.media_type,
         "bytes": len(each.content), "sha256": hashlib.sha256(each.content).hexdigest()}
        for each in found
    ]  # fmt: skip
    stamp = dt.datetime.fromtimestamp(day_us(day) / 1e6, dt.UTC).isoformat()
    return (json.dumps({"day": day.isoformat(), "created": stamp, "files": rows}, indent=1) + "\n").encode()


def pdf(text: tuple[str, ...]) -> bytes:
    """One page with lines of text."""
    shown = " ".join(f"({line}) Tj 0 -18 Td" for line in text)
    stream = f"BT /F1 12 Tf 48 780 Td {shown} ET".encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>", b"<< /Font << /F1 5 0 R >> >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + (b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
                  % (len(objects) + 1, table, len(objects) + 1, len(out)))


def png(gray: np.ndarray) -> bytes:
    """A picture in shades of gray, eight bits each."""
    height, width = gray.shape
    raw = b"".join(b"\x00" + row.tobytes() for row in gray)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", _stored(raw)) + _chunk(b"IEND", b""))


def _stored(raw: bytes) -> bytes:
    """A zlib stream of one stored block."""
    return (b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw
            + struct.pack(">I", zlib.adler32(raw)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
