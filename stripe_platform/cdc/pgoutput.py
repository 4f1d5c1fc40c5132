"""Decoder of PostgreSQL's pgoutput stream (protocol 4, text values, streaming off) into Arrow tables.

Per message only the tag is read and the bytes are kept; tuples are decoded column by column with numpy and Arrow
when a chunk is flushed. Text, not binary: every type arrives readable, Arrow parses 20-50 ns a value, and the
server's share of the work runs on its own core.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stripe_platform.cdc import columns as values
from stripe_platform.cdc.pgtypes import type_name

HEADER = 25  # XLogData: 'w', start, end, server clock
TUPLE = HEADER + 6  # tag, relation oid, 'N' or 'K'
PG_EPOCH_US = 946_684_800_000_000
_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
INSERT, UPDATE, DELETE, TRUNCATE, BEGIN, COMMIT, RELATION, TYPE, MESSAGE = b"IUDTBCRYM"
CHANGES = frozenset(b"IUD")
NEW, KEY, OLD = b"NKO"
ORIGIN = ord("O")
PREFIX = b"stripe_platform."  # of the logical messages that mean something to us


class DecodeError(RuntimeError):
    """The stream holds what this decoder does not know; nothing of it was acknowledged."""


@dataclass(frozen=True)
class Column:
    """One column as the Relation message names it. `in_key`: part of the replica identity; `type`: as printed."""

    name: str
    oid: int
    typmod: int
    in_key: bool
    type: str


@dataclass(frozen=True)
class Relation:
    """A published table as of one point of the log."""

    oid: int
    schema: str
    table: str
    identity: str  # d(efault), f(ull), i(ndex), n(othing)
    columns: tuple[Column, ...]
    told: bytes | None = None  # what the source said of its newest DDL in the log

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Message:
    """A transactional logical message of ours."""

    prefix: str
    content: bytes


class Commit(NamedTuple):
    """A transaction that ended: changes 1..`changes` of it are in the decoder's buffers (none when it was skipped)."""

    lsn: int
    end_lsn: int
    ts_us: int
    changes: int
    skipped: bool
    messages: tuple[Message, ...] = ()


@dataclass
class _Buffer:
    """Raw messages of one relation (one definition), in commit order."""

    relation: Relation
    messages: list[bytes] = field(default_factory=list)
    ords: list[int] = field(default_factory=list)
    transactions: list[int] = field(default_factory=list)  # index into the decoder's commits


class Decoder:
    """Feed it every XLogData message; take Arrow tables out with `flush` and commits as they end.

    `durable_lsn`: transactions that committed before it were landed by an earlier run and are skipped whole.
    `before_lsn`: so are those that committed at or after it; `passed` tells that one did.
    `key_of`: the columns that name a row of a relation, needed where the replica identity is FULL; none: whole rows.
    `typed_keys`: dates and times that name rows are typed as any other column, not kept as text. `ddl`: prefix of the
    messages that tell DDL, and how to read the table's name out of one; `told`: by table what they said before.
    `watch`: qualified name of one table whose arrival the caller wants to know at once.
    """

    def __init__(self, *, durable_lsn: int = 0, before_lsn: int | None = None, source: str, epoch: str,
                 watch: str | None = None, key_of: Callable[[Relation], Sequence[str]] | None = None,
                 typed_keys: bool = True, ddl: tuple[str, Callable[[bytes], str]] | None = None,
                 told: Mapping[str, bytes] | None = None) -> None:
        self.durable_lsn, self.source, self.epoch = durable_lsn, source, epoch
        self._before, self.passed = before_lsn, False
        self._key_of, self._typed_keys = key_of or _identity, typed_keys
        self.buffered_bytes = 0
        self.unrepresentable: dict[str, int] = {}
        self._ddl, self._told = ddl, dict(told or {})
        self.told: list[tuple[int, bytes]] = []  # by commits since the caller last emptied it
        self._types: dict[int, str] = {}  # those that the server did not bring along, by OID
        self._relations: dict[int, Relation] = {}
        self._open: dict[int, _Buffer] = {}
        self._replaced: list[_Buffer] = []
        self._watch = watch
        self._watched: _Buffer | None = None
        self._messages: list[Message] = []  # of the open transaction
        self._commits: list[tuple[int, int]] = []  # (lsn, time) of the transactions in the buffers
        self._current = self._ord = 0
        self._in_transaction = self._skip = False

    @property
    def in_transaction(self) -> bool:
        return self._in_transaction

    @property
    def watched_changed(self) -> bool:
        """Whether changes of the watched table are buffered."""
        return self._watched is not None and bool(self._watched.messages)

    def feed(self, data: memoryview | bytes) -> Commit | None:
        """Take one XLogData message (25 bytes of header first); a `Commit` when it ends a transaction."""
        tag = data[HEADER]
        if tag in CHANGES:
            if self._skip:
                return None
            buffer = self._open.get(_U32.unpack_from(data, HEADER + 1)[0])
            if buffer is None:
                raise DecodeError("a change came before its Relation message: start the capture again")
            if tag == UPDATE and data[HEADER + 5] != NEW:
                self._update_with_old(buffer, bytes(data))
                return None
            self._ord += 1
            # Copied: the collector would go through a million views again and again, a third of all time.
            buffer.messages.append(bytes(data))
            buffer.ords.append(self._ord)
            buffer.transactions.append(self._current)
            self.buffered_bytes += len(data)
            return None
        if tag == BEGIN:
            lsn, ts, _xid = _BEGIN.unpack_from(data, HEADER + 1)
            self.passed = self._before is not None and lsn >= self._before
            self._ord, self._in_transaction, self._skip = 0, True, lsn < self.durable_lsn or self.passed
            self._current = len(self._commits)
            self._commits.append((lsn, ts + PG_EPOCH_US))
        elif tag == COMMIT:
            _flags, lsn, end_lsn, ts = _COMMIT.unpack_from(data, HEADER + 1)
            self._in_transaction = False
            messages, self._messages = tuple(self._messages), []
            return Commit(lsn, end_lsn, ts + PG_EPOCH_US, self._ord, self._skip, messages)
        elif tag == RELATION:
            self._define(_relation(bytes(data), self._types))
        elif tag == TYPE:
            oid, name = _type(bytes(data))
            self._types[oid] = name
        elif tag == TRUNCATE:
            self._truncate(bytes(data))
        elif tag == MESSAGE:
            self._message(bytes(data))
        elif tag != ORIGIN:
            raise DecodeError(f"pgoutput message {chr(tag)!r} is not known: use proto_version 4 without streaming")
        return None

    def _message(self, data: bytes) -> None:
        """Keep a message that is ours and whose transaction committed; others belong to other programs."""
        transactional, start = data[HEADER + 1] & 1, HEADER + 10
        end = data.index(0, start)
        if transactional and not self._skip and data.startswith(PREFIX, start):
            (length,) = _U32.unpack_from(data, end + 1)
            message = Message(data[start:end].decode(), data[end + 5:end + 5 + length])
            if self._ddl is not None and message.prefix == self._ddl[0]:
                self._told[self._ddl[1](message.content)] = message.content
                self.told.append((self._commits[-1][0], message.content))
            else:
                self._messages.append(message)

    def _define(self, relation: Relation) -> None:
        relation = replace(relation, told=self._told.get(relation.qualified))
        if self._relations.get(relation.oid) == relation:
            return
        replaced = self._open.get(relation.oid)
        if replaced is not None and replaced.messages:
            self._replaced.append(replaced)
        self._relations[relation.oid] = relation
        self._start(relation)

    def _start(self, relation: Relation) -> None:
        buffer = self._open[relation.oid] = _Buffer(relation)
        if relation.qualified == self._watch:
            self._watched = buffer

    def _put(self, buffer: _Buffer, tag: bytes, tuple_data: bytes) -> None:
        self._ord += 1
        message = bytes(HEADER) + tag + _U32.pack(buffer.relation.oid) + b"N" + tuple_data
        buffer.messages.append(message)
        buffer.ords.append(self._ord)
        buffer.transactions.append(self._current)
        self.buffered_bytes += len(message)

    def _update_with_old(self, buffer: _Buffer, data: bytes) -> None:
        """An update that carries the old key or row: a key change becomes `d` (old key) and `c`, as in Debezium.

        What the new row leaves out and the old one holds is taken from there: all of it under FULL, else long keys.
        A table without a key has nothing but its whole row to name one.
        """
        relation = buffer.relation
        spans, middle = _spans(data, TUPLE)
        old = [data[slice(*span)] for span in spans]
        new = [data[slice(*span)] for span in _spans(data, middle + 1)[0]]
        full = data[HEADER + 5] == OLD
        new = [was if now == b"u" and was != b"n" and (full or column.in_key) else now
               for was, now, column in zip(old, new, relation.columns, strict=True)]
        after = _U16.pack(len(new)) + b"".join(new)
        key = self._key_of(relation)
        where = [n for n, c in enumerate(relation.columns) if c.name in key]
        if where and all(old[n] == new[n] for n in where):
            self._put(buffer, b"U", after)
            return
        self._put(buffer, b"D", data[TUPLE:middle])
        self._put(buffer, b"I", after)

    def _truncate(self, data: bytes) -> None:
        if self._skip:
            return
        (count,) = _U32.unpack_from(data, HEADER + 1)
        for oid in struct.unpack_from(f">{count}I", data, HEADER + 6):
            buffer = self._open[oid]
            width = len(buffer.relation.columns)
            self._put(buffer, b"T", _U16.pack(width) + b"n" * width)

    def flush(self) -> list[tuple[Relation, pa.Table]]:
        """Decode and hand over everything buffered, also of a transaction that is still open."""
        buffers = [*self._replaced, *(b for b in self._open.values() if b.messages)]
        tables = [(b.relation, self._decode(b)) for b in buffers]
        self._replaced = []
        for buffer in list(self._open.values()):
            self._start(buffer.relation)
        self._commits = self._commits[-1:] if self._in_transaction else []
        self._current = self.buffered_bytes = 0
        return tables

    def _decode(self, buffer: _Buffer) -> pa.Table:
        relation, rows = buffer.relation, len(buffer.messages)
        names, arrays, unchanged, beyond = [], [], [], {}
        text_keys = () if self._typed_keys else self._key_of(relation)
        data = b"".join(buffer.messages) + bytes(8)
        starts = np.zeros(rows, np.int64)
        np.cumsum(np.fromiter(map(len, buffer.messages), np.int64, rows)[:-1], out=starts[1:])
        raw = np.frombuffer(data, np.uint8)
        lengths = np.ndarray((len(data) - 3,), ">u4", data, strides=(1,))  # a big-endian u32 at any offset
        position = starts + TUPLE
        width = np.ndarray((len(data) - 1,), ">u2", data, strides=(1,))[position]
        if not (width == len(relation.columns)).all():
            raise DecodeError(f"a row of {relation.qualified} does not have the columns its Relation message named")
        position += 2
        for column in relation.columns:
            kind = raw[position]
            present = kind == ord("t")
            length = np.where(present, lengths[position + 1], 0).astype(np.int64)
            text = values.gather(data, position + 5, length, present)
            array, exact = values.typed(text, column.oid, in_key=column.name in text_keys)
            if exact is not None:
                name = f"{relation.qualified}.{column.name}"
                self.unrepresentable[name] = self.unrepresentable.get(name, 0) + rows - exact.null_count
                beyond[values.exact(column.name)] = exact
            names.append(column.name)
            arrays.append(array)
            unchanged.append(kind == ord("u"))
            position += np.where(present, length + 5, 1)
        operations = values.OPERATIONS[raw[starts + HEADER]]
        commits = np.array(self._commits, np.int64)[buffer.transactions]
        envelope = {
            "_op": pa.array(["c", "u", "d", "t"]).take(pa.array(operations)),
            "_commit_lsn": pa.array(commits[:, 0]),
            "_ord": pa.array(np.array(buffer.ords, np.int64)),
            "_commit_ts": pa.array(commits[:, 1]).cast(values.TIMESTAMPTZ),
            "_epoch": pa.repeat(self.epoch, rows),
            "_source": pa.repeat(self.source, rows),
            "_unchanged": values.name_lists(names, np.array(unchanged).reshape(len(names), rows)),
        }
        return pa.table([*arrays, *beyond.values(), *envelope.values()], names=[*names, *beyond, *envelope])


def _type(data: bytes) -> tuple[int, str]:
    """(OID, name) of a Type message; a name of the server's own schema goes without it."""
    (oid,) = _U32.unpack_from(data, HEADER + 1)
    schema, name = data[HEADER + 5:].split(b"\0")[:2]
    return oid, name.decode() if schema in (b"", b"pg_catalog") else f"{schema.decode()}.{name.decode()}"


def _identity(relation: Relation) -> tuple[str, ...]:
    """Columns of the replica identity; FULL names none, it has them all."""
    return tuple(c.name for c in relation.columns if c.in_key) if relation.identity in "di" else ()


def _relation(data: bytes, types: Mapping[int, str]) -> Relation:
    (oid,) = _U32.unpack_from(data, HEADER + 1)
    end = data.index(0, HEADER + 5)
    schema = data[HEADER + 5:end].decode() or "pg_catalog"
    start, end = end + 1, data.index(0, end + 1)
    table, identity = data[start:end].decode(), chr(data[end + 1])
    (count,) = _U16.unpack_from(data, end + 2)
    position, found = end + 4, []
    for _ in range(count):
        end = data.index(0, position + 1)
        column_oid, typmod = struct.unpack_from(">Ii", data, end + 1)
        name, kind = values.landed(data[position + 1:end].decode()), types.get(column_oid)
        found.append(Column(name, column_oid, typmod, bool(data[position] & 1), type_name(column_oid, typmod, kind)))
        position = end + 9
    return Relation(oid, schema, table, identity, tuple(found))


def _spans(data: bytes, position: int) -> tuple[list[tuple[int, int]], int]:
    """Byte ranges of a tuple's columns (kind byte included) and the position behind it."""
    (count,) = _U16.unpack_from(data, position)
    position, spans = position + 2, []
    for _ in range(count):
        start = position
        position += 5 + _U32.unpack_from(data, position + 1)[0] if data[position] in b"tb" else 1
        spans.append((start, position))
    return spans, position


def lsn_text(lsn: int) -> str:
    """A log position as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_int(text: str) -> int:
    """A log position from PostgreSQL's text form."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def commit_time(ts_us: int) -> dt.datetime:
    """Commit time of microseconds since 1970, UTC."""
    return dt.datetime.fromtimestamp(ts_us / 1e6, dt.UTC)
