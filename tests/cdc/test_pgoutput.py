"""The decoder against an encoder written from the protocol's description."""

from __future__ import annotations

import datetime as dt
import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_platform.cdc.pgoutput import DecodeError, Decoder, lsn_int, lsn_text

OID, TIME = 16_400, 823_000_000_000_000  # microseconds since 2000
TYPES = {"id": 25, "n": 20, "small": 21, "flag": 16, "rate": 1700, "at": 1184, "on": 1082, "blob": 17, "real": 701}
UNCHANGED = object()


def header(payload: bytes) -> bytes:
    return b"w" + struct.pack(">QQQ", 1, 2, 3) + payload


def relation(columns: dict[str, int] = TYPES, *, oid: int = OID, table: str = "probe", identity: str = "d") -> bytes:
    body = b"".join(bytes([name == "id"]) + name.encode() + b"\0" + struct.pack(">Ii", kind, -1)
                    for name, kind in columns.items())
    return header(b"R" + struct.pack(">I", oid) + b"oltp\0" + table.encode() + b"\0" + identity.encode()
                  + struct.pack(">H", len(columns)) + body)


def row(values: list[object]) -> bytes:
    cells = []
    for value in values:
        if value is None:
            cells.append(b"n")
        elif value is UNCHANGED:
            cells.append(b"u")
        else:
            text = str(value).encode()
            cells.append(b"t" + struct.pack(">I", len(text)) + text)
    return struct.pack(">H", len(values)) + b"".join(cells)


def insert(values: list[object], oid: int = OID) -> bytes:
    return header(b"I" + struct.pack(">I", oid) + b"N" + row(values))


def update(values: list[object], key: list[object] | None = None, kind: bytes = b"K") -> bytes:
    old = kind + row(key) if key else b""
    return header(b"U" + struct.pack(">I", OID) + old + b"N" + row(values))


def delete(values: list[object]) -> bytes:
    return header(b"D" + struct.pack(">I", OID) + b"K" + row(values))


def transaction(lsn: int, *messages: bytes) -> list[bytes]:
    return [header(b"B" + struct.pack(">QqI", lsn, TIME, 7)), *messages,
            header(b"C" + struct.pack(">BQQq", 0, lsn, lsn + 8, TIME))]


def decode(messages: list[bytes], **options: object) -> tuple[Decoder, pa.Table]:
    decoder = Decoder(source="oltp", epoch="000001-00000001", **options)  # type: ignore[arg-type]
    for message in messages:
        decoder.feed(message)
    tables = [table for _relation, table in decoder.flush()]
    return decoder, pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


EMPTY = [None] * len(TYPES)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
cells = st.tuples(
    text, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.integers(-(2**15), 2**15 - 1),
    st.none() | st.booleans(), st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=10),
    st.none() | st.datetimes(timezones=st.just(dt.UTC)),
    st.none() | st.dates(), st.none() | st.binary(max_size=30), st.none() | st.floats(allow_nan=False))


def as_text(values: tuple) -> list[object]:
    """Values as PostgreSQL's text output has them."""
    name, n, small, flag, rate, at, on, blob, real = values
    return [name, n, small, None if flag is None else "t" if flag else "f", None if rate is None else f"{rate:f}",
            None if at is None else at.strftime("%4Y-%m-%d %H:%M:%S.%f+00"), None if on is None else on.isoformat(),
            None if blob is None else "\\x" + blob.hex(),
            None if real is None else {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(real, repr(real))]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(cells, max_size=6), max_size=6))
def test_whatever_was_inserted_comes_out_typed_and_in_commit_order(transactions):
    messages, expected = [relation()], []
    for n, rows in enumerate(transactions, start=1):
        messages += transaction(n * 100, *(insert(as_text(values)) for values in rows))
        expected += [(values, n * 100, ordinal) for ordinal, values in enumerate(rows, start=1)]
    _decoder, table = decode(messages)
    assert table.num_rows == len(expected)
    for found, (values, lsn, ordinal) in zip(table.to_pylist(), expected, strict=True):
        assert (found["_commit_lsn"], found["_ord"], found["_op"]) == (lsn, ordinal, "c")
        wanted = dict(zip(TYPES, values, strict=True)) | {"rate": None if values[4] is None else f"{values[4]:f}"}
        assert {name: found[name] for name in TYPES} == wanted


def test_an_unchanged_value_is_named_and_not_taken_for_null():
    values = ["a", 1, UNCHANGED, *[None] * 5, UNCHANGED]
    _decoder, table = decode([relation(), *transaction(5, update(values), insert(["b", *EMPTY[1:]]))])
    first, second = table.to_pylist()
    assert first["_unchanged"] == ["small", "real"]
    assert first["small"] is None
    assert second["_unchanged"] == []


def test_a_key_change_is_a_delete_of_the_old_and_a_create_of_the_new_key():
    message = update(["new", 2, *EMPTY[2:]], key=["old", *EMPTY[1:]])
    _decoder, table = decode([relation(), *transaction(5, message, insert(["z", *EMPTY[1:]]))])
    found = [(r["_op"], r["id"], r["_ord"]) for r in table.to_pylist()]
    assert found == [("d", "old", 1), ("c", "new", 2), ("c", "z", 3)]


def test_an_update_with_a_full_old_row_is_an_update_unless_the_key_differs():
    same = update(["a", 2, *EMPTY[2:]], key=["a", 1, *EMPTY[2:]], kind=b"O")
    other = update(["b", 2, *EMPTY[2:]], key=["a", 2, *EMPTY[2:]], kind=b"O")
    _decoder, table = decode([relation(identity="f"), *transaction(5, same, other)],
                            key_of=lambda _relation: ("id",))
    assert [(r["_op"], r["id"]) for r in table.to_pylist()] == [("u", "a"), ("d", "a"), ("c", "b")]


def test_a_delete_carries_only_its_key_and_a_truncate_carries_none():
    truncate = header(b"T" + struct.pack(">IBI", 1, 0, OID))
    _decoder, table = decode([relation(), *transaction(5, delete(["a", *EMPTY[1:]]), truncate)])
    assert [(r["_op"], r["id"], r["_ord"]) for r in table.to_pylist()] == [("d", "a", 1), ("t", None, 2)]


def test_transactions_before_the_durable_position_are_skipped_whole():
    messages = [relation(), *transaction(100, insert(["a", *EMPTY[1:]])), *transaction(200, insert(["b", *EMPTY[1:]]))]
    decoder = Decoder(source="oltp", epoch="e", durable_lsn=108)
    commits = [c for c in map(decoder.feed, messages) if c]
    assert [c.skipped for c in commits] == [True, False]
    ((_relation, table),) = decoder.flush()
    assert table["id"].to_pylist() == ["b"]


def test_columns_that_change_in_mid_stream_give_a_second_table():
    wider = TYPES | {"extra": 25}
    decoder, _none = decode([])
    for message in [relation(), *transaction(1, insert(["a", *EMPTY[1:]])),
                    relation(wider), *transaction(2, insert(["b", *EMPTY[1:], "x"]))]:
        decoder.feed(message)
    tables = [table for _relation, table in decoder.flush()]
    assert [t["id"].to_pylist() for t in tables] == [["a"], ["b"]]
    assert [t["_commit_lsn"].to_pylist() for t in tables] == [[1], [2]]
    assert tables[1]["extra"].to_pylist() == ["x"]


def test_a_flush_inside_a_transaction_loses_no_stamp():
    decoder = Decoder(source="oltp", epoch="e")
    parts = []
    messages = [*transaction(1, insert(["a", *EMPTY[1:]])),
                *transaction(2, insert(["b", *EMPTY[1:]]), insert(["c", *EMPTY[1:]]))]
    for message in [relation(), *messages]:
        decoder.feed(message)
        parts += [table for _relation, table in decoder.flush()]
    stamps = [(r["id"], r["_commit_lsn"], r["_ord"]) for t in parts for r in t.to_pylist()]
    assert stamps == [("a", 1, 1), ("b", 2, 1), ("c", 2, 2)]


@pytest.mark.parametrize(("name", "value"), [
    ("at", "infinity"), ("at", "-infinity"), ("at", "0044-03-15 00:00:00+00 BC"), ("on", "infinity"),
    ("at", "294276-12-31 23:59:59+00")])
def test_what_no_arrow_value_can_hold_is_null_and_counted(name, value):
    values = [value if column == name else None for column in TYPES]
    values[0] = "a"
    decoder, table = decode([relation(), *transaction(1, insert(values), insert(["b", *EMPTY[1:]]))])
    assert table[name].to_pylist() == [None, None]
    assert decoder.unrepresentable == {f"oltp.probe.{name}": 1}


def test_an_unknown_message_stops_the_decoder():
    with pytest.raises(DecodeError, match="'S' is not known"):
        decode([header(b"S" + struct.pack(">IB", 1, 1))])


def test_a_row_that_does_not_fit_its_relation_stops_the_decoder():
    with pytest.raises(DecodeError, match=r"oltp\.probe"):
        decode([relation(), *transaction(1, insert(["a"]))])


@given(st.integers(0, 2**64 - 1))
def test_a_log_position_survives_its_text(lsn):
    assert lsn_int(lsn_text(lsn)) == lsn
