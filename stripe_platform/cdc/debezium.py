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
from stripe_platform.cdc.debezium_schemas import described, encodings
from stripe_platform.cdc.debezium_values import OURS, Encoding, ValueRefusedError, is_placeholder, writer_of

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
    """Reads events with the types of `catalogue` (by schema and table), or of the schemas they bring along."""

    catalogue: Mapping[tuple[str, str], TableVersion]
    encoding: Encoding = OURS
    _described: dict[str, tuple[TableVersion, Mapping[str, Encoding]]] = field(default_factory=dict)
    _plans: dict[tuple[int, int], _Plan] = field(default_factory=dict)

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
            version, written = self._version(source["schema"], source["table"], schema, key)
            row = value["before"] if op == "d" else value["after"]
            cells = self._cells(version, written, op, key if op == "d" and row is None else row,
                                extra.get("unchanged"))
            full = version.identity == "f" and op == "u"
            old = self._cells(version, written, "d", value["before"], None) if full and value["before"] else None
        except RefusedError as error:
            error.stamp = stamp
            raise
        return Change(stamp, version, op, cells, value["op"] == "r", old, extra.get("commit_lsn"))

    def _flat(self, topic: str, value: dict[str, Any]) -> Change:
        """A flattened record: no transaction metadata worth its name, so the order of its key is all there is."""
        schema, table = topic.split(".")[-2:]
        version, written = self._version(schema, table, None, None)
        op = "d" if value.get("__deleted") in (True, "true") else _operation(value[_FLAT])
        row = {name: cell for name, cell in value.items() if not name.startswith("__")}
        stamp = value.get("__source_ts_us") or int(value.get("__source_ts_ms") or value.get("__ts_ms") or 0) * 1000
        lsn = int(value.get("__source_lsn") or value.get("__lsn") or 0)
        return Change(Stamp(int(value.get("__source_txId") or 0), lsn, None, int(stamp)), version, op,
                      self._cells(version, written, op, row, None))

    def _version(self, schema: str, table: str, described_by: Any, key: Any,
                 ) -> tuple[TableVersion, Mapping[str, Encoding]]:
        """The table, and how its columns are written where that is not as the reader was told."""
        known = self.catalogue.get((schema, table))
        if described_by is None:
            if known is None:
                raise RefusedError(f"{schema}.{table} is in no catalogue: name one that knows it, or set"
                                   " value.converter.schemas.enable=true; types are not guessed")
            return known, _AS_TOLD
        if known is None and not isinstance(key, dict):
            raise RefusedError(f"{schema}.{table} has events without a key: give it a primary key")
        name = json.dumps([schema, table, list(key or ()), described_by], sort_keys=True)
        if name not in self._described:
            version = known or described(schema, table, tuple(key), described_by)
            self._described[name] = version, encodings(described_by, self.encoding)
        return self._described[name]

    def _cells(self, version: TableVersion, encodings: Mapping[str, Encoding], op: str, row: Any,
               left_out: Sequence[str] | None) -> tuple[pgwire.Cell, ...]:
        if op == "t":
            return ()
        if not isinstance(row, dict):
            raise RefusedError(f"an event of {version.qualified} has no row: is its replica identity nothing?")
        plan = self._plan(version, encodings)
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

    def _plan(self, version: TableVersion, encodings: Mapping[str, Encoding]) -> _Plan:
        """How the rows of a version are written; found by the objects themselves, hashing them costs a row's time."""
        found = self._plans.get((id(version), id(encodings)))
        if found is None:
            found = self._plans[id(version), id(encodings)] = _Plan(
                version, encodings, frozenset(c.name for c in version.columns), self.encoding.placeholder,
                [(c.name, c.type, c.in_key, writer_of(c.type, c.oid, encodings.get(c.name, self.encoding)))
                 for c in version.columns])
        return found


@dataclass(frozen=True)
class _Plan:
    """Columns of a version as (name, type, whether in the key, writer of its values); keeps what its place is named by
    alive.
    """

    version: TableVersion
    encodings: Mapping[str, Encoding]
    names: frozenset[str]
    placeholder: str
    columns: list[tuple[str, str, bool, Callable[[Any], str]]]


_AS_TOLD: Mapping[str, Encoding] = {}


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
