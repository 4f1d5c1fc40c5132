"""Debezium's events in the form of the server's own stream, for the drain that lands both.

With transaction metadata a change is named as the log names it: (commit LSN, ordinal). Without, by its place in the
topics alone: the order of each key is the source's, nothing more is proven, and every manifest says so.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from resources.lake import Lake
from stripe_platform.cdc import pgwire
from stripe_platform.cdc.catalogue import TableVersion
from stripe_platform.cdc.debezium import Boundary, Change, Reader, Record, RefusedError
from stripe_platform.cdc.manifest import canonical
from stripe_platform.cdc.slot import CaptureError
from stripe_platform.cdc.spool import Spool
from stripe_platform.cdc.transactions import Assembler, GapError, Refused, Transaction, message_of

Order = Literal["total", "per key only"]
QUARANTINE = "cdc/quarantine"


class Deliveries(Protocol):
    """Where records come from: Kafka topics, or files."""

    def poll(self, seconds: float) -> list[Record | Refused]:
        """What has arrived, waiting at most that long; `Refused` for what is no JSON."""

    def exhausted(self) -> bool:
        """Whether nothing more is there now."""

    def commit(self, positions: dict[str, int]) -> None:
        """Everything before these offsets is durable, by place."""


class EventStream:
    """Messages of pgoutput made from deliveries. `order`: as the lake's manifests have it, None before the first."""

    def __init__(self, deliveries: Deliveries, reader: Reader, lake: Lake, *, durable_lsn: int, last_ts_us: int,
                 order: Order | None) -> None:
        self.deliveries, self.reader, self.lake, self.order = deliveries, reader, lake, order
        self._spool = Spool(lake.scratch())
        self.assembler = Assembler(self._spool, durable_lsn, last_ts_us)
        self.refused = 0  # of the whole run
        self.skipped = 0  # tombstones, heartbeats and logical messages
        self._seq, self._lsn, self._batch_refused = 0, durable_lsn, list[Refused]()
        self._ready: Iterator[bytes] = iter(())
        self._single: deque[tuple[Record, Transaction | Refused | None]] = deque()
        self._next: dict[str, int] = {}
        self._settled: dict[str, int] | None = None
        self._told: dict[tuple[str, str], TableVersion] = {}
        self._versions: dict[tuple[str, str], list[TableVersion]] = {}

    def get(self, _asynchronous: int) -> tuple[int, bytes | None]:
        """The next message; a keepalive when everything delivered so far has been given."""
        message = next(self._ready, None)
        while message is None:
            transaction = self._take()
            if transaction is None:
                if not self.deliveries.exhausted():
                    return 0, None
                transaction = self.assembler.take(exhausted=True)
                if transaction is None:
                    self._refuse(self.assembler.strays())
                    self._write_quarantine(self._seq + 1)
                    message = pgwire.keepalive(self._lsn)
                    break
            self._ready = self._messages(transaction)
            message = next(self._ready, None)
        return len(message), message

    def wait(self, seconds: float) -> None:
        for record in self.deliveries.poll(seconds):
            try:
                self._accept(record)
            except GapError as error:
                raise CaptureError(str(error)) from None

    def status(self, durable_lsn: int, *, ask: bool = False) -> None:  # noqa: ARG002 - the server's stream needs both
        if self._settled is not None:
            self.deliveries.commit(self._settled)
            self._settled = None

    def begin(self, seq: int, positions: dict[str, int]) -> None:
        """Where the lake's batches end: repeats the commit that a crash may have kept back."""
        self._seq, self._next, self._settled = seq, dict(positions), positions or None

    def close(self) -> None:
        """Let go of what waited: it is read again."""
        self._spool.close()

    def reason(self) -> str:
        """Events end where the input does."""
        return ""

    def settle(self, seq: int) -> dict[str, Any]:
        """Quarantine what the batch refused, durably; where to read on once the batch is durable."""
        refused = self._write_quarantine(seq)
        self._batch_refused.clear()
        self._seq, self._settled = seq, self.positions()
        return {"order": self.order, "positions": dict(sorted(self._settled.items())), "refused": refused,
                "duplicates": self.assembler.duplicates}

    def positions(self) -> dict[str, int]:
        return self._next | (self.assembler.positions() if self.order == "total" else {})

    def versions(self, schema: str, table: str) -> list[TableVersion]:
        """The versions that the table was announced with, newest first."""
        return self._versions[schema, table]

    def _accept(self, record: Record | Refused) -> None:
        if isinstance(record, Refused):
            self._unreadable(record.record, record)
            return
        try:
            found = self.reader.read(record)
            message = message_of(found) if isinstance(found, Change) else None
        except RefusedError as error:
            refused = Refused(record, str(error))
            if error.stamp is not None and error.stamp.order is not None:
                self.assembler.event(record, error.stamp, refused)
            else:
                self._unreadable(record, refused)
            return
        if found is None:
            self.skipped += 1
            self._pass_over(record)
        elif isinstance(found, Boundary):
            self._decide("total", record)
            self.assembler.boundary(record, found)
        elif found.stamp.order is not None:
            self._decide("total", record)
            self.assembler.event(record, found.stamp, found, message)
        elif found.snapshot and self.order == "total":
            raise CaptureError(f"{record.place} at {record.offset}: rows of a snapshot have no place in the log: set"
                               " snapshot.mode=no_data, and take the first copy with our own snapshot")
        else:
            self._decide("per key only", record)
            self._single.append((record, Transaction.of_one(found, message)))

    def _decide(self, order: Order, record: Record) -> None:
        if self.order is None:
            self.order = order
        if self.order != order:
            raise CaptureError(
                f"{record.place} at {record.offset}: events with and without transaction metadata, or a lake that was"
                " begun with the other: read the topics of one connector, into a lake of their own")

    def _unreadable(self, record: Record, refused: Refused) -> None:
        if self.order == "total":
            self.assembler.skip(record, refused)
        else:
            self._single.append((record, refused))

    def _pass_over(self, record: Record) -> None:
        if self.order == "total":
            self.assembler.skip(record)
        else:
            self._single.append((record, None))

    def _refuse(self, refused: list[Refused]) -> None:
        self._batch_refused += refused
        self.refused += len(refused)

    def _take(self) -> Transaction | None:
        while self._single:  # in the order of arrival: an offset counts as read when its turn has come
            record, found = self._single.popleft()
            self._next[record.place] = record.offset + 1
            if isinstance(found, Refused):
                self._refuse([found])
            elif found is not None:
                self._lsn += 1
                return dataclasses.replace(found, lsn=self._lsn)
        try:
            return self.assembler.take()
        except GapError as error:
            raise CaptureError(str(error)) from None

    def _messages(self, transaction: Transaction) -> Iterator[bytes]:
        """One transaction as the server would send it; what it refused goes to the quarantine of its batch."""
        self._refuse(transaction.refused)
        self._lsn = transaction.lsn
        self.skipped += transaction.unlanded
        yield pgwire.begin(transaction.commit_lsn, transaction.ts_us, transaction.xid)
        for version, message in transaction.changes:
            name = (version.schema, version.table)
            told = self._told.get(name)
            if told is not version and told != version:
                self._announce(name, version)
                yield from pgwire.relation(version.oid, version)
            self._told[name] = version
            yield message
        yield pgwire.commit(transaction.commit_lsn, transaction.lsn, transaction.ts_us)

    def _announce(self, name: tuple[str, str], version: TableVersion) -> None:
        known = self._versions.setdefault(name, [])
        if version in known:
            known.remove(version)
        known.insert(0, version)

    def _write_quarantine(self, seq: int) -> int:
        """Records refused since the last batch: place, rule and remedy; the record itself stays where it was."""
        entries = [{"place": r.record.place, "offset": r.record.offset, "topic": r.record.topic, "rule": r.rule}
                   for r in self._batch_refused]
        if entries:
            self.lake.put(f"{QUARANTINE}/{seq:012d}.json", canonical(entries))
        return len(entries)
