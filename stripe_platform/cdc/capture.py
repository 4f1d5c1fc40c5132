"""Drains the slot into durable batches: files, then manifest, then acknowledgement, in that order always.

A batch holds whole transactions. It ends at a commit: at every day boundary, at a size, and where the drain ends.
A kill at any point loses nothing (not acknowledged, so sent again) and doubles nothing (commits before the last
durable LSN are skipped).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa

from resources.lake import Lake
from stripe_platform import progress
from stripe_platform.cdc import ddl
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.batches import BatchWriter, clear_leftovers, table_name
from stripe_platform.cdc.catalogue import Details, Registrar
from stripe_platform.cdc.describe import describer, refuse_unnamed_rows, source_tells
from stripe_platform.cdc.manifest import Epoch, Manifest, Position
from stripe_platform.cdc.pgoutput import Commit, Decoder, Message, Relation, commit_time, lsn_int, lsn_text
from stripe_platform.cdc.sealing import Sealer
from stripe_platform.cdc.slot import (
    DATA,
    CaptureError,
    Stream,
    ensure_slot,
    follow_promotion,
    inspect,
    read_keepalive,
    refuse_a_foreign_slot,
    replication,
)
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.settings import Settings, load_settings

__all__ = ["CaptureBusyError", "CaptureError", "CaptureReport", "capture", "ensure_slot", "ledger_day_open"]

Advance = Callable[[float], None]
Announce = Callable[[int], None]
CHUNK_BYTES = 8 << 20  # decoded at once: numpy works in cache; with 32 MB a capture took 447 MB, now 278 at any size
BATCH_ROWS, BATCH_BYTES = 500_000, 128 << 20
IDLE_STEP = 1 << 20  # log without content is acknowledged in steps, not at every tick


class CaptureBusyError(CaptureError):
    """Another capture holds the writer lock."""


@dataclass(frozen=True)
class Following:
    """How a capture goes on with the log: a batch every `every` seconds while there are commits, until `stop` is set.

    `landed` hears of each batch once it is durable; what it does holds nothing up if it only takes note.
    """

    stop: threading.Event
    landed: Callable[[Manifest], None]
    every: float = 0.2


@dataclass
class CaptureReport:
    """What one capture made durable. `reached_end`: the log was read up to where it ended at the start."""

    batches: list[int] = field(default_factory=list)
    transactions: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    days_closed: list[dt.date] = field(default_factory=list)
    open_day: dt.date | None = None
    reached_end: bool = False
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    @property
    def rows_per_second(self) -> float:
        return self.total / self.seconds if self.seconds else 0.0


@contextmanager
def writer_lock(settings: Settings, wait_seconds: float, source: Source = OLTP) -> Iterator[Announce]:
    """One writer per slot on this machine; the kernel frees the lock of a killed process.

    The holder may announce in it the position before which nothing is left to make durable.
    """
    slot, path = source.slot_name(settings), _lock_path(settings, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise CaptureBusyError(
                        f"another capture of slot {slot} is running: wait until it ends") from None
                time.sleep(0.1)
                continue
            break
        file.truncate(0)
        yield partial(_announce, file)


def _announce(file: TextIO, lsn: int) -> None:
    file.truncate(0)
    file.write(lsn_text(lsn))
    file.flush()


def _lock_path(settings: Settings, source: Source) -> Path:
    return settings.home / "locks" / f"cdc-{source.slot_name(settings)}.lock"


def capture(settings: Settings, until: dt.date | None = None, *, lake: Lake | None = None,
            wait_seconds: float = 60.0, budget_seconds: float | None = None, source: Source = OLTP,
            following: Following | None = None) -> CaptureReport:
    """Drain the slot into batches until the boundary of ledger day `until` is durable, or the log seen at start ends.

    A day that is not closed yet is no error here: the report's `days_closed` and `open_day` say how far it went.
    `wait_seconds`: patience with another writer, whose work counts as ours when it reaches as far; `budget_seconds`:
    stop at a commit after that time; `lake`: the source's part of it; `following`: do not end with the log.
    Raises `CaptureBusyError`, `CaptureError` (slot lost, foreign or busy), `LakeError`, `ChainError`.
    """
    lake = lake or source.lake(settings)
    begun = time.monotonic()
    target: int | None = None
    while True:
        try:
            report = _capture(settings, until, lake, wait_seconds, budget_seconds, source, following)
            break
        except CaptureBusyError:
            if target is None:
                with replication(settings, source) as connection:
                    target = inspect(connection, source.slot_name(settings)).wal_end
            if following is None and _reached(settings, until, lake, target, source):
                report = CaptureReport(reached_end=True)
                break
            if time.monotonic() >= begun + wait_seconds:
                raise
            time.sleep(0.1)
    report.open_day = ledger_day_open(lake, settings.first_day) if source.calendar else None
    report.seconds = time.monotonic() - begun
    return report


def _reached(settings: Settings, until: dt.date | None, lake: Lake, target: int, source: Source) -> bool:
    """Whether the capture that holds the slot made durable what this one was asked for; it may be following the log."""
    if until is not None and (manifests.last_closed(lake) or dt.date.min) >= until:
        return True
    announced = _lock_path(settings, source).read_text()
    return bool(announced) and lsn_int(announced) >= target


def _capture(settings: Settings, until: dt.date | None, lake: Lake, wait_seconds: float,
             budget_seconds: float | None, source: Source, following: Following | None) -> CaptureReport:
    begun = time.monotonic()
    patience = min(wait_seconds, 1.0)  # then it is looked at what the other has done meanwhile
    with (writer_lock(settings, patience, source) as announce, replication(settings, source) as connection,
          Sealer(lake) as sealer):
        if not source.declared:
            refuse_unnamed_rows(settings, source, lake)
        epoch = ensure_slot(settings, lake, source, connection=connection)
        clear_leftovers(lake)
        deadline = begun + budget_seconds if budget_seconds else None
        drain = Drain(settings, lake, epoch, until, deadline, source, following=following, announce=announce,
                      sealer=sealer)
        if until is None or drain.last_closed is None or drain.last_closed < until:
            with progress_bar(source) as advance:
                state = inspect(connection, drain.slot)
                refuse_a_foreign_slot(epoch, state, drain.durable_lsn)
                if state.timeline != epoch.timeline:  # a standby was promoted, and the slot with it
                    epoch = follow_promotion(lake, epoch, state, drain.durable_lsn)
                    drain = Drain(settings, lake, epoch, until, deadline, source, following=following,
                                  announce=announce, sealer=sealer)
                stream = Stream(connection, drain.slot, source.publication_name(settings), drain.durable_lsn,
                                min(wait_seconds, 10.0))
                drain.run(stream, state.wal_end, advance)
    return drain.report


def drain_before(settings: Settings, lake: Lake, source: Source, lsn: int) -> None:
    """Make every commit before a log position durable, and none behind it; only for the holder of the writer lock."""
    with replication(settings, source) as connection:
        epoch = ensure_slot(settings, lake, source, connection=connection)
        drain = Drain(settings, lake, epoch, None, None, source, before=lsn)
        if drain.durable_lsn < lsn:
            refuse_a_foreign_slot(epoch, inspect(connection, drain.slot), drain.durable_lsn)
            stream = Stream(connection, drain.slot, source.publication_name(settings), drain.durable_lsn, 10.0)
            drain.run(stream, lsn, lambda _amount: None)


def progress_bar(source: Source) -> AbstractContextManager[Advance]:
    """A source without days is small and read often: no bar."""
    return progress.stage("capture changes") if source.calendar else nullcontext(lambda _amount: None)


def ledger_day_open(lake: Lake, first_day: dt.date | None = None) -> dt.date:
    """Ledger day that newly captured commits belong to: the one after the last closed, the first one before any."""
    closed = manifests.last_closed(lake)
    return closed + dt.timedelta(days=1) if closed else first_day or load_settings().first_day


def durable_position(lake: Lake) -> tuple[Epoch, int]:
    """The slot's life and the log position up to which the lake needs nothing sent again."""
    epochs, newest = manifests.load_epochs(lake), manifests.last(lake)
    if not epochs:
        raise CaptureError("the lake knows no slot yet: run `stripe-platform up` or `stripe-platform cdc capture`")
    begun = newest is not None and newest.epoch == epochs[-1].name
    reached = newest.to_lsn if newest and begun else epochs[-1].consistent_lsn
    return epochs[-1], max(reached, _idle_position(lake, epochs[-1]).lsn)


def _idle_position(lake: Lake, epoch: Epoch) -> Position:
    position = Position.load(lake)
    return position if position and position.epoch == epoch.name else Position(epoch.name, 0)


def waiting_canaries(lake: Lake) -> tuple[tuple[int, int], ...]:
    """Canaries that arrived after the newest batch."""
    newest, position = manifests.last(lake), Position.load(lake)
    beyond = position is not None and (newest is None or (newest.epoch, newest.to_lsn) < (position.epoch, position.lsn))
    return position.canaries if position is not None and beyond else ()


class Messages(Protocol):
    """What a drain reads: the server's stream, or another in its form."""

    def get(self, asynchronous: int) -> tuple[int, Any]:
        """(length, message): 0 where none is there yet, -1 where none will come."""

    def wait(self, seconds: float) -> None:
        """Sleep until something may be there, or the time is over."""

    def status(self, durable_lsn: int, *, ask: bool = False) -> None:
        """Everything before this position is durable."""

    def settle(self, seq: int) -> dict[str, Any] | None:
        """Make durable what belongs to the batch beside its rows; what its manifest keeps of the stream."""

    def reason(self) -> str:
        """Why the stream ended, in brackets; empty where nothing is known."""


class Drain:
    """State of one drain: the open batch, what is durable, where to stop. `describe`: what is known of a table."""

    def __init__(self, settings: Settings, lake: Lake, epoch: Epoch, until: dt.date | None, deadline: float | None,
                 source: Source, *, before: int | None = None,
                 describe: Callable[[Relation], Details] | None = None, following: Following | None = None,
                 announce: Announce | None = None, sealer: Sealer | None = None) -> None:
        self.slot, self.source = source.slot_name(settings), source
        self.following, self.announce, self.sealer = following, announce, sealer
        self.lake, self.epoch, self.until, self.deadline = lake, epoch, until, deadline
        self.report = CaptureReport()
        self.last = manifests.last(lake)
        self.last_closed = manifests.last_closed(lake) if source.calendar else None
        begun = self.last is not None and self.last.epoch == epoch.name
        self.to_lsn = self.last.to_lsn if self.last and begun else epoch.consistent_lsn
        self.durable_lsn = max(self.to_lsn, _idle_position(lake, epoch).lsn)
        self.canaries = waiting_canaries(lake)
        self.recorded = self.canaries  # what of them is durable
        self.registrar = Registrar(lake, describe or describer(settings, source))
        self.decoder = Decoder(
            durable_lsn=self.to_lsn, before_lsn=before, source=source.name, epoch=epoch.name, watch=source.calendar,
            key_of=lambda relation: self.registrar.version_of(relation).key, typed_keys=source.declared,
            ddl=(ddl.PREFIX, ddl.table_of),
            told=ddl.remembered(lake, self.to_lsn) if describe is None and source_tells(settings, source) else None)
        self._begin_batch()

    def _begin_batch(self) -> None:
        self.seq = (self.last.seq if self.last else 0) + 1
        self.writer = BatchWriter(self.lake, self.seq, self.source.schema, self.registrar)
        self.transactions = self.changes = self.boundaries = self.batch_bytes = 0
        self.first_ts = self.last_ts = 0
        self.day: dt.date | None = None  # closed by the newest transaction
        self.rows: dict[str, int] = {}
        self.end_lsn = self.to_lsn
        self.opened: float | None = None  # when the first commit of the batch came

    def run(self, stream: Messages, target: int, advance: Advance) -> None:
        """Read until a stop; everything that was committed before it is durable and acknowledged afterwards."""
        get, feed = stream.get, self.decoder.feed
        stream.status(self.durable_lsn, ask=True)
        asked = time.monotonic()
        while True:
            size, data = get(1)
            if size > 0:
                if data[0] == DATA:
                    commit = feed(data)
                    if commit is not None:
                        if self.decoder.passed:
                            self._finish(stream, self.end_lsn, advance)
                            return
                        if commit.skipped or not (commit.changes or commit.messages):
                            continue
                        self._take(commit.messages)
                        self.end_lsn = commit.end_lsn
                        if commit.changes and self._commit(commit, stream, advance):
                            return
                    elif self.decoder.buffered_bytes > CHUNK_BYTES:
                        self._flush()
                    continue
                seen, wants_reply = read_keepalive(data)
                if wants_reply:
                    stream.status(self.durable_lsn)
                # Sent in order: every commit up to the position it names has been sent before it.
                if seen >= target and not self.decoder.in_transaction:
                    if self.following is None:
                        self._finish(stream, seen, advance)
                        return
                    if not self.changes:
                        self._pass_idle_log(stream, seen)
                        if self.announce is not None:
                            self.announce(seen)
            elif size == 0:
                stream.wait(0.25 if self.following is None else self.following.every / 4)
                if self.following is not None and not self.decoder.in_transaction:
                    if self.following.stop.is_set():
                        self._close(stream, None, advance)
                        return
                    if self._due():
                        self._close(stream, None, advance)
                if time.monotonic() - asked > 0.25:
                    stream.status(self.durable_lsn, ask=True)
                    asked = time.monotonic()
                if self.deadline and time.monotonic() > self.deadline and not self.decoder.in_transaction:
                    self._close(stream, None, advance)
                    return
            else:
                raise CaptureError(
                    f"the server ended the stream of slot {self.slot}{stream.reason()}: start the capture again")

    def _commit(self, commit: Commit, stream: Messages, advance: Advance) -> bool:
        """Take a transaction into the open batch; True when the drain is to stop behind it."""
        self.transactions += 1
        self.changes += commit.changes
        self.first_ts = self.first_ts or commit.ts_us
        self.last_ts = commit.ts_us
        if self.decoder.watched_changed:
            self._flush()
        day = self.day
        full = self.changes >= BATCH_ROWS or self.batch_bytes + self.decoder.buffered_bytes >= BATCH_BYTES
        late = self.deadline is not None and time.monotonic() > self.deadline
        self.opened = self.opened or time.monotonic()
        if day or full or late or self._due():
            self._close(stream, day, advance)
        if self.following is not None and self.following.stop.is_set():
            self._close(stream, None, advance)
            return True
        return late or (day is not None and self.until is not None and day >= self.until)

    def _due(self) -> bool:
        """Whether the open batch has waited as long as it may while the log is followed."""
        return (self.following is not None and self.opened is not None
                and time.monotonic() - self.opened >= self.following.every)

    def _take(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if message.prefix == manifests.CANARY_PREFIX:
                self.canaries = manifests.with_canary(self.canaries, int(json.loads(message.content)["number"]))

    def _flush(self) -> None:
        self.batch_bytes += self.decoder.buffered_bytes
        chunks = []
        for relation, chunk in self.decoder.flush():
            if relation.qualified == self.source.calendar:
                self.boundaries += chunk.num_rows
                self.day = _closed_day(chunk, self.source) or self.day
                continue
            chunks.append((relation, chunk))
            name = table_name(relation, self.source.schema)
            self.rows[name] = self.rows.get(name, 0) + chunk.num_rows
        self.writer.add(chunks)

    def _close(self, stream: Messages, day: dt.date | None, advance: Advance) -> None:
        """Make the open batch durable, then acknowledge it."""
        if not self.changes:
            if self.canaries != self.recorded:
                self._step(stream, max(self.end_lsn, self.durable_lsn))
            return
        self._flush()
        batch = Manifest(
            self.seq, self.last.digest if self.last else None, self.source.name, self.slot,
            self.epoch.system_identifier, self.epoch.timeline, self.epoch.ordinal, self.epoch.name, self.to_lsn,
            self.end_lsn, self.transactions, self.changes, self.boundaries,
            commit_time(self.first_ts).isoformat(), commit_time(self.last_ts).isoformat(), day,
            self.writer.finish(), dict(sorted(self.decoder.unrepresentable.items())), self.canaries,
            stream.settle(self.seq)).hashed()
        self.decoder.unrepresentable = {}
        self._remember()
        if not self.lake.put_if_absent(batch.path, batch.encode()):
            raise CaptureError(f"{batch.path} was written by another process: stop it, one capture may run at a time")
        self.canaries = self.recorded = ()
        self.last, self.to_lsn, self.durable_lsn = batch, batch.to_lsn, max(self.durable_lsn, batch.to_lsn)
        self.decoder.durable_lsn = batch.to_lsn
        stream.status(self.durable_lsn)
        self.report.batches.append(batch.seq)
        self.report.transactions += batch.transactions
        for table, rows in self.rows.items():
            self.report.rows[table] = self.report.rows.get(table, 0) + rows
        if day:
            self.last_closed = day
            self.report.days_closed.append(day)
        advance(batch.changes)
        if self.sealer is not None:
            self.sealer.landed(batch)
        self._begin_batch()
        if self.following is not None:
            self.following.landed(batch)

    def _finish(self, stream: Messages, seen: int, advance: Advance) -> None:
        """The log's end: close the open batch, and let an idle slot advance over log that holds nothing of ours."""
        self._close(stream, None, advance)
        if self._pass_idle_log(stream, seen):
            stream.wait(0.25)  # the connection closes next: let the server take the message first
        self.report.reached_end = True

    def _pass_idle_log(self, stream: Messages, seen: int) -> bool:
        """Acknowledge log that no batch names, in steps, so that the server may remove it; a canary is a step."""
        if seen - self.durable_lsn < IDLE_STEP and self.canaries == self.recorded:
            return False
        self._step(stream, seen)
        return True

    def _remember(self) -> None:
        ddl.remember(self.lake, self.decoder.told)
        self.decoder.told = []

    def _step(self, stream: Messages, lsn: int) -> None:
        """Let the slot advance over log that no batch names, with the canaries that were in it."""
        self._remember()
        Position(self.epoch.name, lsn, self.canaries).save(self.lake)
        self.durable_lsn, self.recorded = lsn, self.canaries
        stream.status(lsn, ask=True)


def _closed_day(chunk: pa.Table, source: Source) -> dt.date | None:
    days = [dt.date.fromisoformat(str(row["day"])) for row in chunk.select(["source", "day", "_op"]).to_pylist()
            if row["_op"] == "c" and row["source"] == source.name]
    return max(days) if days else None
