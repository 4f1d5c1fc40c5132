"""Our batches as Debezium's events, so that the door opens both ways: what is read from them is what was written.

Envelopes are those of the profile in `deploy/debezium`, with `x` beside: {commit_lsn, tx_ord, unchanged, schema_id}.
Debezium's consumers ignore it; our reader takes the very identity from it.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from resources.lake import Lake
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.catalogue import TableVersion
from stripe_platform.cdc.columns import EXACT, TIMESTAMPTZ
from stripe_platform.cdc.columns import text as texts_of
from stripe_platform.cdc.compact import read_rows
from stripe_platform.cdc.daily import Source as BatchSource
from stripe_platform.cdc.debezium_schemas import declared_version
from stripe_platform.cdc.debezium_text import to_json
from stripe_platform.cdc.debezium_values import OURS
from stripe_platform.cdc.manifest import BatchFile, Chain, ChainError, Manifest
from stripe_platform.cdc.source import OLTP, Source

VERSION = "stripe_platform"


@dataclass(frozen=True)
class Event:
    """One message: topic, key and value as JSON values."""

    topic: str
    key: Any
    value: Any


def events(lake: Lake, prefix: str, source: Source = OLTP, *, first: int = 1,
           placeholder: str = OURS.placeholder) -> Iterator[Event]:
    """Every change from batch `first` on, transaction by transaction, with BEGIN and END around each.

    Rows of the calendar are in no batch: the day that a batch closes is written as a transaction of its own behind it.
    Raises `ChainError` on a broken chain, and for batches older than the catalogue.
    """
    writer = _Writer(prefix, source, placeholder)
    chain = Chain.load(lake)
    for manifest in chain.manifests[first - 1:]:
        yield from writer.batch(lake, chain, manifest)


class _Writer:
    """What is the same for every batch, and where the last transaction ended."""

    def __init__(self, prefix: str, source: Source, placeholder: str) -> None:
        self.prefix, self.source, self.placeholder = prefix, source, placeholder
        self.versions: dict[str, TableVersion] = {}
        self.previous: int | None = None

    def batch(self, lake: Lake, chain: Chain, manifest: Manifest) -> Iterator[Event]:
        """Events of one batch in commit order, and of the boundary that closed its day."""
        rows: list[_Rows] = []
        stamps = []
        for file in manifest.files:
            version = _version(lake, file, self.versions)
            table = read_rows(lake, chain, file.table, BatchSource(manifest.seq, file.path, file.sha256))
            stamps.append(np.stack([table["_commit_lsn"].to_numpy(), table["_ord"].to_numpy(),
                                    np.full(table.num_rows, len(rows)), np.arange(table.num_rows)]))
            rows.append(_Rows(version, table, self.placeholder))
        if stamps:
            merged = np.concatenate(stamps, axis=1)
            merged = merged[:, np.lexsort((merged[1], merged[0]))]
            for part in np.split(merged, np.flatnonzero(np.diff(merged[0])) + 1, axis=1):
                yield from self._transaction(part.T.tolist(), rows)
        if manifest.closes is not None and self.source.calendar is not None:
            day = _calendar(self.source, manifest)
            yield from self._transaction([(manifest.to_lsn - 1, 1, 0, 0)], [_Rows(day[0], day[1], self.placeholder)])

    def _transaction(self, places: Sequence[Sequence[int]], rows: list[_Rows]) -> Iterator[Event]:
        """BEGIN, the changes at (commit LSN, ordinal, file, row), END."""
        lsn, counts = places[0][0], Counter[str]()
        ts_us = rows[places[0][2]].ts_us(places[0][3])
        yield self._boundary("BEGIN", lsn, lsn, ts_us, None)
        for order, (_lsn, ordinal, file, row) in enumerate(places, start=1):
            counts[rows[file].version.qualified] += 1
            at = {"lsn": lsn, "ordinal": ordinal, "order": order, "ts_us": ts_us, "previous": self.previous,
                  "of_table": counts[rows[file].version.qualified], "db": self.source.name}
            yield rows[file].event(row, self.prefix, at)
        yield self._boundary("END", lsn, lsn + 1, ts_us, counts)
        self.previous = lsn + 1

    def _boundary(self, status: str, xid: int, lsn: int, ts_us: int, counts: Mapping[str, int] | None) -> Event:
        collections = [{"data_collection": name, "event_count": n} for name, n in sorted((counts or {}).items())]
        name = f"{xid}:{lsn}"
        return Event(f"{self.prefix}.transaction", {"id": name}, {
            "status": status, "id": name, "event_count": None if counts is None else sum(counts.values()),
            "data_collections": collections or None, "ts_ms": ts_us // 1000})


def _calendar(source: Source, manifest: Manifest) -> tuple[TableVersion, pa.Table]:
    """The row that closed the batch's day."""
    schema, _, table = str(source.calendar).partition(".")
    version = declared_version(schema, table, ("source", "day"), [("source", "text"), ("day", "date")])
    stamp = dt.datetime.fromisoformat(str(manifest.last_commit))
    row: dict[str, Any] = {"source": source.name, "day": manifest.closes, "_op": "c", "_commit_ts": stamp,
                           "_unchanged": []}
    return version, pa.Table.from_pylist([row], pa.schema([
        ("source", pa.string()), ("day", pa.date32()), ("_op", pa.string()), ("_commit_ts", TIMESTAMPTZ),
        ("_unchanged", pa.list_(pa.string()))]))


class _Rows:
    """Rows of one batch file with their values as text, column by column."""

    def __init__(self, version: TableVersion, table: pa.Table, placeholder: str) -> None:
        self.version, self._placeholder = version, placeholder
        self._cells = {c.name: _texts(table, c.name) for c in version.columns if c.name in table.column_names}
        self._ops, self._left_out = table["_op"].to_pylist(), table["_unchanged"].to_pylist()
        self._ts = table["_commit_ts"].cast(pa.int64()).to_pylist()

    def ts_us(self, row: int) -> int:
        return self._ts[row]

    def event(self, row: int, prefix: str, at: Mapping[str, Any]) -> Event:
        """Debezium's envelope of one row, with `x`. `at`: its place in the log and in its transaction."""
        op, left_out = self._ops[row], self._left_out[row]
        topic = f"{prefix}.{self.version.schema}.{self.version.table}"
        values = None if op == "t" else {
            c.name: self._left(c.type) if c.name in left_out else to_json(self._cells[c.name][row], c.type, c.oid)
            for c in self.version.columns if c.name in self._cells}
        key = None if values is None or not self.version.key else {n: values[n] for n in self.version.key}
        return Event(topic, key, {
            "before": values if op == "d" else None, "after": values if op in "cur" else None,
            "source": {
                "version": VERSION, "connector": "postgresql", "name": prefix, "ts_ms": at["ts_us"] // 1000,
                "ts_us": at["ts_us"], "ts_ns": at["ts_us"] * 1000, "snapshot": "false", "db": at["db"],
                "sequence": json.dumps([None if at["previous"] is None else str(at["previous"]), str(at["lsn"])]),
                "schema": self.version.schema, "table": self.version.table, "txId": at["lsn"], "lsn": at["lsn"],
                "xmin": None},
            "transaction": {"id": f"{at['lsn']}:{at['lsn']}", "total_order": at["order"],
                            "data_collection_order": at["of_table"]},
            "op": op, "ts_ms": at["ts_us"] // 1000,
            "x": {"commit_lsn": at["lsn"], "tx_ord": at["ordinal"], "unchanged": left_out,
                  "schema_id": self.version.schema_id},
        })

    def _left(self, kind: str) -> Any:
        if kind.endswith("[]"):
            return [self._placeholder]
        if kind == "bytea":
            return base64.b64encode(self._placeholder.encode()).decode()
        return self._placeholder


def _texts(table: pa.Table, name: str) -> list[str | None]:
    """A column's values as the server wrote them; what its Arrow type could not hold stands beside it."""
    exact = name + EXACT
    texts = texts_of(table[name].combine_chunks()).to_pylist()
    if exact not in table.column_names:
        return texts
    return [own if own is not None else kept for own, kept in zip(texts, table[exact].to_pylist(), strict=True)]


def _version(lake: Lake, file: BatchFile, known: dict[str, TableVersion]) -> TableVersion:
    if file.schema_id is None:
        raise ChainError(f"{file.path} was written before the log described its tables: replay from a later batch")
    if file.schema_id not in known:
        known[file.schema_id] = catalogue.read(lake, file.schema_id)
    return known[file.schema_id]
