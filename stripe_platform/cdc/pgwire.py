"""Encoder of pgoutput messages (protocol 4, text values): changes of another stream in the form that the decoder reads.

Whatever arrives in this form is decoded, typed, cut and landed by the code that lands the server's own stream.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from stripe_platform.cdc.catalogue import TableVersion
from stripe_platform.cdc.pgoutput import PG_EPOCH_US
from stripe_platform.cdc.pgtypes import FIRST_USER_OID, type_name

_HEADER = b"w" + bytes(24)
_MODIFIER = re.compile(r"\((\d+)(?:,(-?\d+))?\)")


class Unchanged:
    """The mark of a value that the update left out."""


UNCHANGED = Unchanged()
Cell = str | None | Unchanged


def begin(lsn: int, ts_us: int, xid: int) -> bytes:
    """A transaction begins; `lsn`: where its commit lies; `ts_us`: microseconds since 1970."""
    return _HEADER + struct.pack(">cQqI", b"B", lsn, ts_us - PG_EPOCH_US, xid & 0xFFFFFFFF)


def commit(lsn: int, end_lsn: int, ts_us: int) -> bytes:
    return _HEADER + struct.pack(">cBQQq", b"C", 0, lsn, end_lsn, ts_us - PG_EPOCH_US)


def change(op: str, oid: int, cells: Sequence[Cell], old: Sequence[Cell] | None = None) -> bytes:
    """One row: `op` is c, u or d; a delete has its key and nulls, `old` is the row before an update."""
    head = {"c": b"I%sN", "u": b"U%sN", "d": b"D%sK"}[op] % struct.pack(">I", oid)
    before = b"" if old is None else b"O" + _tuple(old)
    return _HEADER + head[:-1] + before + head[-1:] + _tuple(cells)


def truncate(oid: int) -> bytes:
    return _HEADER + struct.pack(">cIBI", b"T", 1, 0, oid)


def keepalive(lsn: int) -> bytes:
    """Everything up to `lsn` has been sent."""
    return b"k" + struct.pack(">QQB", lsn, 0, 0)


def relation(oid: int, version: TableVersion) -> list[bytes]:
    """The messages that announce a table: types of the database's own, then the table."""
    types = [_HEADER + struct.pack(">cI", b"Y", c.oid) + b"\0" + c.type.encode() + b"\0"
             for c in version.columns if c.oid >= FIRST_USER_OID]
    columns = b"".join(
        bytes([c.in_key]) + c.name.encode() + b"\0" + struct.pack(">Ii", c.oid, typmod(c.oid, c.type))
        for c in version.columns)
    head = struct.pack(">cI", b"R", oid) + version.schema.encode() + b"\0" + version.table.encode() + b"\0"
    return [*types, _HEADER + head + version.identity.encode() + struct.pack(">H", len(version.columns)) + columns]


def typmod(oid: int, kind: str) -> int:
    """The modifier that prints as this type; -1 where it has none."""
    found = _MODIFIER.search(kind)
    if found is None or oid >= FIRST_USER_OID:
        return -1
    first, second = int(found[1]), int(found[2] or 0)
    for candidate in (first + 4, first, (first << 16 | second & 0x7FF) + 4, 0x7FFF << 16 | first):
        if type_name(oid, candidate) == kind:
            return candidate
    return -1


def _tuple(cells: Sequence[Cell]) -> bytes:
    parts = [struct.pack(">H", len(cells))]
    for cell in cells:
        if isinstance(cell, str):
            data = cell.encode()
            parts.append(b"t" + struct.pack(">I", len(data)) + data)
        else:
            parts.append(b"n" if cell is None else b"u")
    return b"".join(parts)
