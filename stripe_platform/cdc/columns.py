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
# What readers add to rows on their way; no source column may have these names.
META = frozenset(ENVELOPE.names) | {"_deleted", "_ledger_day", "_pending", "_version", "_sign", "_sign_sum"}
UNTYPED_KEYS = frozenset({1082, 1114, 1184, 700, 701})  # infinity is a name as any other, and -0 is not 0
EXACT = "::text"  # suffix of the column with the text of values that their Arrow type cannot hold
_BEYOND = r"infinity|BC|^\d{5,}-"  # dates and times beyond Arrow's parser, as PostgreSQL writes them
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
    both = pa.BinaryArray.from_buffers(pa.binary(), 2 * rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    picks = np.arange(0, 2 * rows, 2, dtype=np.int32)
    return as_text(both.take(pa.array(picks, mask=None if present.all() else ~present)))


def as_text(raw: pa.BinaryArray) -> pa.StringArray:
    """Bytes as text; what is no UTF-8 (a database without an encoding may hold it) as PostgreSQL writes bytes."""
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in raw.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "\\x" + value.hex()


def is_own(name: str) -> bool:
    """Whether a column of a change file is the table's own, not the envelope's."""
    return name not in META and not name.startswith("_from_")


def landed(name: str) -> str:
    """Name of a source's column in the log: its own, unless the log needs that for itself."""
    return name if is_own(name) and EXACT not in name else f"source {name.replace('::', ': :')}"


def exact(name: str) -> str:
    """Name of the column that keeps the text of values which the column's Arrow type cannot hold."""
    return name + EXACT


def arrow_type_of(oid: int, *, in_key: bool) -> pa.DataType:
    """Arrow type of a landed column; dates, times and floats that name rows stay text."""
    return pa.string() if in_key and oid in UNTYPED_KEYS else BY_OID.get(oid, pa.string())


def typed(text: pa.StringArray, oid: int, *, in_key: bool = False) -> tuple[pa.Array, pa.StringArray | None]:
    """Values of one column in their Arrow type, and the text of those that have none there (infinity, BC, year 294276).

    Such values are null in the first array; the second is None where there are none.
    """
    arrow_type = arrow_type_of(oid, in_key=in_key)
    if pa.types.is_string(arrow_type):
        return text, None
    if oid == BOOL:
        return pc.equal(pc.utf8_slice_codeunits(text, 0, 1), "t"), None
    if oid == BYTEA:
        return pa.array([None if v is None else bytes.fromhex(v[2:]) for v in text.to_pylist()], pa.binary()), None
    try:
        return text.cast(arrow_type), None
    except pa.ArrowInvalid:
        beyond = pc.match_substring_regex(text, _BEYOND)
        kept = pc.if_else(beyond, None, text)
        try:
            array = kept.cast(arrow_type)
        except pa.ArrowInvalid:
            array = pa.array([_cell(value, arrow_type) for value in kept], arrow_type)
        return array, pc.if_else(pc.and_(pc.is_valid(text), pc.is_null(array)), text, None)


def _cell(value: pa.StringScalar, arrow_type: pa.DataType) -> object:
    try:
        return value.cast(arrow_type).as_py()
    except pa.ArrowInvalid:
        return None


def text(array: pa.Array) -> pa.StringArray:
    """Typed values as PostgreSQL reads them: the way back from `typed`."""
    if pa.types.is_boolean(array.type):
        return pc.if_else(array, "t", "f")
    if pa.types.is_binary(array.type):
        return pa.array([None if v is None else "\\x" + v.hex() for v in array.to_pylist()], pa.string())
    return array.cast(pa.string())


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
