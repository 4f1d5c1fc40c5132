"""Debezium's events by hand: a small table, its transactions, and what a lake holds of them afterwards."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from resources.lake import LocalLake
from stripe_platform.cdc.compact import read_batch_file
from stripe_platform.cdc.daily import Source as BatchSource
from stripe_platform.cdc.debezium import Record
from stripe_platform.cdc.debezium_schemas import declared_version
from stripe_platform.cdc.debezium_values import Encoding
from stripe_platform.cdc.intake import IntakeReport, intake
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.source import Source
from stripe_platform.settings import load_settings

LEFT_OUT = "__left_out"
ENCODING = Encoding(placeholder=LEFT_OUT)
VERSION = declared_version("shop", "orders", ("id",), [
    ("id", "bigint"), ("note", "text"), ("amount", "numeric(18,2)"), ("words", "text[]"), ("raw", "bytea"),
    ("at", "timestamp with time zone")])
CATALOGUE = {("shop", "orders"): VERSION}
SOURCE = Source("shop", "shop", "cdc_dsn", "cdc_slot", "cdc_publication", {"orders": ("id",)}, declared=False)
TS_US = 1_780_000_000_000_000
SOURCE_TYPE = "__debezium.source.column."
DATA, BOUNDARIES = "pay.shop.orders", "pay.transaction"


def row(key: int, note: str | None = "n", **more: Any) -> dict[str, Any]:
    return {"id": key, "note": note, "amount": "1.50", "words": ["a", None], "raw": "AAE=",
            "at": "2026-06-01T00:00:00.5Z"} | more


def unchanged(key: int, amount: str) -> dict[str, Any]:
    """An update that left every long value out."""
    return row(key, LEFT_OUT, amount=amount, words=[LEFT_OUT], raw=base64.b64encode(LEFT_OUT.encode()).decode())


def event(op: str, values: dict[str, Any] | None, *, xid: int = 1, lsn: int = 100, order: int | None = 1,
          previous: int | None = None, **more: Any) -> dict[str, Any]:
    """One change event as the topic of its table has it."""
    key = None if values is None else {"id": values["id"]}
    value = {
        "before": None if op != "d" or values is None else dict.fromkeys(VERSION_NAMES) | values,
        "after": values if op in "cur" else None, "op": op, "ts_ms": 0,
        "source": {"schema": "shop", "table": "orders", "txId": xid, "lsn": lsn, "ts_us": TS_US + lsn,
                   "ts_ms": (TS_US + lsn) // 1000, "snapshot": "true" if op == "r" else "false",
                   "sequence": json.dumps([None if previous is None else str(previous), str(lsn)])},
        "transaction": None if order is None else {"id": f"{xid}:{lsn}", "total_order": order}}
    return {"topic": DATA, "key": key, "value": value | more}


VERSION_NAMES = [c.name for c in VERSION.columns]


def boundary(status: str, xid: int, lsn: int, count: int | None = None) -> dict[str, Any]:
    return {"topic": BOUNDARIES, "key": {"id": f"{xid}:{lsn}"}, "value": {
        "status": status, "id": f"{xid}:{lsn}", "event_count": count, "data_collections": None,
        "ts_ms": (TS_US + lsn) // 1000}}


def transaction(xid: int, lsn: int, *changes: tuple[str, dict[str, Any] | None],
                previous: int | None = None) -> list[dict[str, Any]]:
    """BEGIN, the changes, and an END whose commit ends 50 behind `lsn`."""
    told = [event(op, values, xid=xid, lsn=lsn + n, order=n, previous=previous)
            for n, (op, values) in enumerate(changes, start=1)]
    return [boundary("BEGIN", xid, lsn), *told, boundary("END", xid, lsn + 50, len(changes))]


def column(name: str, kind: str, named: str | None = None, *, told: Sequence[Any] = (), **more: Any) -> dict:
    """A field of an envelope's schema; `told`: the type that the connector passes on, with length and scale."""
    passed = {f"{SOURCE_TYPE}{what}": str(part) for what, part in zip(("type", "length", "scale"), told, strict=False)}
    parameters = passed | more.pop("parameters", {})
    return ({"field": name, "type": kind, "optional": True} | ({"name": named} if named else {})
            | ({"parameters": parameters} if parameters else {}) | more)


def change(columns: list[dict] | None, op: str, row: dict | None, *, lsn: int, key: Sequence[str] = ("id",),
           before: dict | None = None) -> list[dict]:
    """A transaction of one change, with the schema of its columns where they are given."""
    value: Any = {
        "before": row if op == "d" else before, "after": row if op in "cur" else None, "op": op, "ts_ms": 0,
        "source": {"schema": "shop", "table": "orders", "txId": lsn, "lsn": lsn, "ts_us": TS_US + lsn,
                   "snapshot": "false"},
        "transaction": {"id": f"{lsn}:{lsn}", "total_order": 1}}
    if columns is not None:
        value = {"schema": {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": columns}]},
                 "payload": value}
    told = None if row is None or not key else {name: row[name] for name in key}
    return [boundary("BEGIN", lsn, lsn), {"topic": DATA, "key": told, "value": value},
            boundary("END", lsn, lsn + 50, 1)]


class Delivered:
    """Records of several partitions in the very order given, in pieces; keeps what was committed."""

    def __init__(self, records: list[Record], positions: dict[str, int]) -> None:
        self.waiting = [r for r in records if r.offset >= positions.get(r.place, 0)]
        self.committed: dict[str, int] = {}

    def poll(self, seconds: float) -> list[Record]:  # noqa: ARG002 - everything is there at once
        piece, self.waiting = self.waiting[:3], self.waiting[3:]
        return piece

    def exhausted(self) -> bool:
        return not self.waiting

    def commit(self, positions: dict[str, int]) -> None:
        self.committed = dict(positions)


def records(told: list[dict[str, Any]], partitions: int = 1) -> list[Record]:
    """Events in their topics: changes spread over partitions by key, each partition with offsets of its own."""
    ends: dict[str, int] = {}
    found = []
    for item in told:
        number = (item["key"] or {"id": 0})["id"] % partitions if item["topic"] == DATA else 0
        place = f"{item['topic']}/{number}"
        found.append(Record(place, ends.get(place, 0), item["topic"], item["key"], item["value"]))
        ends[place] = ends.get(place, 0) + 1
    return found


def read(lake: LocalLake, told: list[dict[str, Any]] | list[Record], *, partitions: int = 1,
         encoding: Encoding = ENCODING, catalogue: Any = CATALOGUE, stream: str = "pay") -> IntakeReport:
    """Land events that were delivered so."""
    found = told if told and isinstance(told[0], Record) else records(told, partitions)  # type: ignore[arg-type]
    return intake(load_settings(), lambda positions: Delivered(found, positions), stream=stream, catalogue=catalogue,
                  encoding=encoding, lake=lake, source=SOURCE)


def write_lines(path: Path, told: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in told))
    return path


def landed(lake: LocalLake, table: str = "orders") -> list[dict[str, Any]]:
    """Every landed change in commit order."""
    parts = [read_batch_file(lake, BatchSource(m.seq, f.path, f.sha256))
             for m in Chain.load(lake).manifests for f in m.files_of(table)]
    return pa.concat_tables(parts, promote_options="default").to_pylist() if parts else []


def delivered(found: Sequence[Record], dice: random.Random) -> list[Record]:
    """Records as partitions deliver them: each keeps its order, nothing else does."""
    queues: dict[str, list[Record]] = {}
    for record in found:
        queues.setdefault(record.place, []).append(record)
    told = []
    while queues:
        place = dice.choice(sorted(queues))
        told.append(queues[place].pop(0))
        queues = {name: left for name, left in queues.items() if left}
    return told
