"""Debezium's JSON change events, one at a time: what happened to which row, in PostgreSQL's text, or why it is refused.

Taken are envelopes without and with schemas, and flattened records. An event that cannot be read exactly is refused by
a rule with its remedy; the caller quarantines it, and nothing here ever puts a value into a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stripe_platform.cdc import pgwire
from stripe_platform.cdc.catalogue import TableVersion
from stripe_platform.cdc.debezium_values import ValueRefusedError, is_placeholder, writer_of
from stripe_platform.cdc.stream_tables import Form, RefusedTableError, Tables

OPERATIONS = {"c": "c", "u": "u", "d": "d", "t": "t", "r": "c"}
_FLAT = "__op"


class RefusedError(ValueError):
    """An event that cannot be landed: the rule it broke and the remedy, without any value.

    `stamp`: its place in a transaction, as far as it can be told.
    """

    stamp: Stamp | None = None


@dataclass(frozen=True)
class Stamp:
    """Which event of which transaction this is: `order` from 1, None without transaction metadata."""

    xid: int
    lsn: int
    order: int | None
    ts_us: int
    previous: int | None = None  # where the commit before this transaction ended, when the connector knew


@dataclass(frozen=True)
class Record:
    """One message as it was delivered. `place`: topic and partition, or file; `offset`: its number there."""

    place: str
    offset: int
    topic: str
    key: Any
    value: Any


@dataclass(frozen=True)
class Change:
    """One row's change; `cells`: by column of `version`, none where the table is None (a logical message).

    `old`: the row before it, where the replica identity is FULL.
    """

    stamp: Stamp
    version: TableVersion | None
    op: str
    cells: tuple[pgwire.Cell, ...]
    snapshot: bool = False
    old: tuple[pgwire.Cell, ...] | None = None
    commit_lsn: int | None = None  # where the commit begins, as our own envelopes say


@dataclass(frozen=True)
class Boundary:
    """BEGIN or END of a transaction; `lsn` of an END is where its commit ends; `ts_us`: commit time."""

    begins: bool
    xid: int
    lsn: int
    events: int
    ts_us: int


@dataclass
class Reader:
    """Reads events with the versions that `tables` finds for them."""

    tables: Tables
    _plans: dict[int, _Plan] = field(default_factory=dict)

    def read(self, record: Record) -> Change | Boundary | None:
        """What a record says; None for tombstones, heartbeats and messages. Raises `RefusedError`."""
        value = record.value
        if value is None:
            return None
        if not isinstance(value, dict):
            raise RefusedError("the value is no JSON object: is another converter than JsonConverter at work?")
        schema = None
        if value.keys() == {"schema", "payload"}:
            schema, value = value["schema"], value["payload"]
            if value is None:
                return None
        key = record.key
        if isinstance(key, dict) and key.keys() == {"schema", "payload"}:
            key = key["payload"]
        try:
            if "status" in value and "event_count" in value:
                return _boundary(value)
            if _FLAT in value:
                return self._flat(record.topic, value)
            if "op" not in value:
                if value.keys() <= {"ts_ms", "ts_us", "ts_ns"}:
                    return None  # a heartbeat
                raise RefusedError("no change event: neither op nor __op is there; set add.fields=op,table,lsn,source"
                                   ".txId,transaction.id where the events are flattened")
            return self._envelope(value, key, schema)
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedError("the event lacks a field of Debezium's envelope:"
                               f" {error.args[0] if isinstance(error, KeyError) else 'source'}") from None

    def _envelope(self, value: dict[str, Any], key: Any, schema: Any) -> Change | None:
        source = value["source"]
        stamp = _stamp(source, value.get("transaction"))
        if value["op"] == "m":
            return Change(stamp, None, "m", ())
        try:
            op, extra = _operation(value["op"]), value.get("x") or {}
            row = value["before"] if op == "d" else value["after"]
            return self._row(stamp, (source["schema"], source["table"]), schema, key, op, row, value, extra)
        except RefusedTableError as error:
            refused = RefusedError(str(error))
            refused.stamp = stamp
            raise refused from None
        except RefusedError as error:
            error.stamp = stamp
            raise

    def _row(self, stamp: Stamp, table: tuple[str, str], schema: Any, key: Any, op: str, row: Any,
             value: dict[str, Any], extra: dict[str, Any]) -> Change:
        form = self.tables.form(table, schema, tuple(key) if isinstance(key, dict) else (),
                                row if isinstance(row, dict) and op != "t" else None)
        if form is None and op == "t":
            return Change(stamp, None, op, ())  # nothing of the table is in the log: there is nothing to empty
        if form is None:
            raise RefusedError(f"an event of {'.'.join(table)} has no row: is its replica identity nothing?")
        version, left_out = form.version, extra.get("unchanged")
        full = version.identity == "f" and op == "u"
        if full and not version.key and not value["before"]:
            raise RefusedError(f"nothing names the changed rows of {version.qualified}: set `replica identity full`")
        try:
            cells = self._cells(form, op, key if op == "d" and row is None else row, left_out)
            old = self._cells(form, "d", value["before"], None) if full and value["before"] else None
        except RefusedError as error:
            if not schema and self.tables.other(table, str(error)):
                return self._row(stamp, table, schema, key, op, row, value, extra)
            raise
        return Change(stamp, version, op, cells, value["op"] == "r", old, extra.get("commit_lsn"))

    def _flat(self, topic: str, value: dict[str, Any]) -> Change:
        """A flattened record: no transaction metadata worth its name, so the order of its key is all there is."""
        schema, table = topic.split(".")[-2:]
        op = "d" if value.get("__deleted") in (True, "true") else _operation(value[_FLAT])
        row = {name: cell for name, cell in value.items() if not name.startswith("__")}
        try:
            form = self.tables.form((schema, table), None, (), row)
        except RefusedTableError as error:
            raise RefusedError(str(error)) from None
        assert form is not None  # noqa: S101 - there is a row
        stamp = value.get("__source_ts_us") or int(value.get("__source_ts_ms") or value.get("__ts_ms") or 0) * 1000
        lsn = int(value.get("__source_lsn") or value.get("__lsn") or 0)
        return Change(Stamp(int(value.get("__source_txId") or 0), lsn, None, int(stamp)), form.version, op,
                      self._cells(form, op, row, None))

    def _cells(self, form: Form, op: str, row: Any, left_out: Sequence[str] | None) -> tuple[pgwire.Cell, ...]:
        if op == "t":
            return ()
        version = form.version
        if not isinstance(row, dict):
            raise RefusedError(f"an event of {version.qualified} has no row: is its replica identity nothing?")
        plan = self._plan(form)
        if not row.keys() <= plan.names:
            raise RefusedError(f"{version.qualified} has the column {min(row.keys() - plan.names)} that the catalogue"
                               " does not know: bring the catalogue up to date, then read again")
        whole, cells = op != "d" or version.identity == "f", list[pgwire.Cell]()
        for name, kind, in_key, write in plan.columns:
            if not (whole or in_key):
                cells.append(None)
                continue
            if name not in row:
                raise RefusedError(f"an event of {version.qualified} lacks the column {name}: set"
                                   " include.unknown.datatypes=true, or leave the column out of the publication")
            value = row[name]
            if value is None and not left_out:
                cells.append(None)
            elif name in left_out if left_out is not None else is_placeholder(value, kind, plan.placeholder):
                cells.append(pgwire.UNCHANGED)
            elif value is None:
                cells.append(None)
            else:
                try:
                    cells.append(write(value))
                except ValueRefusedError as error:
                    raise RefusedError(f"{version.qualified}.{name}: {error}") from None
        return tuple(cells)

    def _plan(self, form: Form) -> _Plan:
        """How the rows of a form are written; found by the object itself, hashing it costs a row's time."""
        found = self._plans.get(id(form))
        if found is None:
            told = self.tables.encoding
            found = self._plans[id(form)] = _Plan(
                form, frozenset(form.names), told.placeholder,
                [(name, c.type, c.in_key, writer_of(c.type, c.oid, form.encodings.get(name, told)))
                 for name, c in zip(form.names, form.version.columns, strict=True)])
        return found


@dataclass(frozen=True)
class _Plan:
    """Columns of a form as (name in the row, type, whether in the key, writer of its values); keeps what its place is
    named by alive.
    """

    form: Form
    names: frozenset[str]
    placeholder: str
    columns: list[tuple[str, str, bool, Callable[[Any], str]]]


def _operation(told: Any) -> str:
    if told not in OPERATIONS:
        raise RefusedError("the operation is none of c, u, d, r, t, m")
    return OPERATIONS[told]


def _stamp(source: Mapping[str, Any], place: Mapping[str, Any] | None) -> Stamp:
    sequence = json.loads(source.get("sequence") or "[]")
    previous = int(sequence[0]) if sequence and sequence[0] is not None else None
    order = int(place["total_order"]) if place else None
    if order is not None and not 0 < order < 1 << 63:
        raise RefusedError("total_order is no place in a transaction: count from 1, as the connector does")
    return Stamp(int(source.get("txId") or 0), int(source.get("lsn") or 0), order,
                 int(source.get("ts_us") or int(source["ts_ms"]) * 1000), previous)


def _boundary(value: dict[str, Any]) -> Boundary:
    xid, _, lsn = str(value["id"]).partition(":")
    begins = value["status"] == "BEGIN"
    return Boundary(begins, int(xid), int(lsn or 0), int(value["event_count"] or 0), int(value["ts_ms"]) * 1000)
