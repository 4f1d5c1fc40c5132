"""Columns of text values to typed Arrow arrays: which PostgreSQL type becomes which Arrow type, vectorised."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMPTZ = pa.timestamp("us", tz="UTC")
BOOL, BYTEA = 16, 17
# Everything not listed stays the text PostgreSQL wrote: exact, and never dropped (numeric, uuid, json, arrays ...).
BY_OID: dict[int, pa.DataType] = {
    BOOL: pa.bool_(), BYTEA: pa.binary(), 20: pa.int64(), 21: pa.int16(), 23: pa.int32(), 26: pa.int64(),
    700: pa.float32(), 701: pa.float64(), 1082: pa.date32(), 1114: pa.timestamp("us"), 1184: TIMESTAMPTZ,
}
BY_NAME: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "bytea": pa.binary(), "bigint": pa.int64(), "smallint": pa.int16(), "integer": pa.int32(),
    "oid": pa.int64(), "real": pa.float32(), "double precision": pa.float64(), "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"), "timestamp with time zone": TIMESTAMPTZ,
}
ENVELOPE = pa.schema([
    ("_op", pa.string()), ("_commit_lsn", pa.int64()), ("_ord", pa.int64()), ("_commit_ts", TIMESTAMPTZ),
    ("_epoch", pa.string()), ("_source", pa.string()), ("_unchanged", pa.list_(pa.string())),
])
FENCE = ("_epoch", "_commit_lsn", "_ord")
OPERATIONS = np.full(256, -1, np.int8)
OPERATIONS[[ord(tag) for tag in "IUDT"]] = range(4)


def gather(data: bytes, starts: np.ndarray, lengths: np.ndarray, present: np.ndarray) -> pa.StringArray:
    """Strings at `starts` (ascending) of `data`, null where not `present`.

    The offsets alternate value and gap, so one Arrow array spans the buffer without a copy and `take` picks the values.
    """
    rows = len(starts)
    offsets = np.empty(2 * rows + 1, np.int32)
    offsets[0:-1:2] = starts
    offsets[1:-1:2] = starts + lengths
    offsets[-1] = len(data)
    # An absent value has no length field: its start may lie behind the next value, which offsets must not.
    np.minimum.accumulate(offsets[::-1], out=offsets[::-1])
    both = pa.StringArray.from_buffers(2 * rows, pa.py_buffer(offsets), pa.py_buffer(data))
    picks = np.arange(0, 2 * rows, 2, dtype=np.int32)
    return both.take(pa.array(picks, mask=None if present.all() else ~present))


def typed(text: pa.StringArray, oid: int) -> tuple[pa.Array, int]:
    """Values of one column in their Arrow type, and how many had none (infinity, BC, year 294276): those are null."""
    arrow_type = BY_OID.get(oid)
    if arrow_type is None:
        return text, 0
    if oid == BOOL:
        return pc.equal(text, "t"), 0
    if oid == BYTEA:
        return pa.array([None if v is None else bytes.fromhex(v[2:]) for v in text.to_pylist()], pa.binary()), 0
    try:
        return text.cast(arrow_type), 0
    except pa.ArrowInvalid:
        return _one_by_one(text, arrow_type)


def _one_by_one(text: pa.StringArray, arrow_type: pa.DataType) -> tuple[pa.Array, int]:
    cells, lost = [], 0
    for value in text:
        try:
            cells.append(value.cast(arrow_type))
        except pa.ArrowInvalid:
            cells.append(pa.scalar(None, arrow_type))
            lost += 1
    return pa.array([c.as_py() for c in cells], arrow_type), lost


def name_lists(names: list[str], marks: np.ndarray) -> pa.ListArray:
    """Per row the names whose mark (names x rows) is set."""
    rows = marks.shape[1]
    if not marks.any():
        return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.string()))
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(marks.sum(axis=0), out=offsets[1:])
    _row, column = np.nonzero(marks.T)
    picked = pa.array(np.array(names, dtype=object), pa.string()).take(pa.array(column))
    return pa.ListArray.from_arrays(pa.array(offsets), picked)
