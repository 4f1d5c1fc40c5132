"""Taking tables from the source: at the beginning, or anew, while their changes go on.

Rounds. Each takes a snapshot at a position L, makes every commit before L durable, and only then appends the rows it
reads there (`op = r`) as batches of the same chain: the log's order stays the order of its positions, whatever the
stream changes later wins by coming later. A round ends after some seconds, so that the stream never waits for long,
and a kill ends it: the next round reads the remaining chunks at a newer position. When all chunks are in, rows whose
updates left values out meanwhile are read once more, and one truncation dated at the first round takes what no round
found: rows that were deleted unseen. A table without a key has no row to find again, so it is read in one round.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql

from resources.lake import Lake
from stripe_platform import progress
from stripe_platform.cdc import copying
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.batches import BatchWriter, clear_leftovers, table_name
from stripe_platform.cdc.capture import drain_before, writer_lock
from stripe_platform.cdc.catalogue import Registrar
from stripe_platform.cdc.columns import TIMESTAMPTZ, text
from stripe_platform.cdc.copying import CopyError, Leaf, RewrittenError, Session, Subject
from stripe_platform.cdc.describe import describer, refuse_unnamed_rows
from stripe_platform.cdc.manifest import Epoch, Manifest, canonical
from stripe_platform.cdc.slot import create_slot, ensure_slot, inspect, replication
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.settings import Settings

LEDGER = "cdc/backfill"
CHUNK_BLOCKS = 16_384  # 128 MB of a table's own file: some seconds of work that a kill may cost
FEW_BLOCKS = 256  # 2 MB: not worth a second connection
ROUND_SECONDS = 60.0
KEYS_AT_ONCE = 1000
PATIENCE = 5  # rounds in a row in which somebody rewrites the table that is being read


@dataclass
class Ledger:
    """How far one table is. `begun`: (epoch, position) of the first round; `chunks`: [leaf, file, first block, block
    behind the last or none]; `done`: how many of them are durable; `since`: the last batch before the first round.
    """

    table: str
    begun: tuple[str, int] | None = None
    since: int = 0
    chunks: list[tuple[str, int, int, int | None]] = field(default_factory=list)
    done: int = 0
    rows: int = 0

    def save(self, lake: Lake) -> None:
        lake.put(path_of(self.table), canonical(dataclasses.asdict(self)))


def path_of(table: str) -> str:
    return f"{LEDGER}/{table}.json"


def unfinished(lake: Lake) -> list[Ledger]:
    """Tables that are not wholly taken, in the order of their names."""
    found = []
    for path in lake.list(LEDGER):
        content: dict[str, Any] = json.loads(lake.read(path))
        content |= {"begun": content["begun"] and tuple(content["begun"]),
                    "chunks": [tuple(chunk) for chunk in content["chunks"]]}
        found.append(Ledger(**content))
    return found


@dataclass
class BackfillReport:
    """Rows by table, rounds and seconds of one call."""

    rows: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0


def backfill(settings: Settings, source: ConfiguredSource, tables: Sequence[str] | None = None, *,
             lake: Lake | None = None, new_slot: bool = False, workers: int | None = None,
             round_seconds: float = ROUND_SECONDS, wait_seconds: float = 60.0) -> BackfillReport:
    """Take tables from the source (all published ones by default), going on with those that a kill left unfinished.

    `new_slot`: the old one is lost; begin a new epoch and take every table, since changes in between are gone.
    Raises `CopyError`, and what `capture` raises.
    """
    begun, report = time.monotonic(), BackfillReport()
    lake = lake or source.lake(settings)
    names = [each.name for each in source.published] if tables is None else list(tables)
    if new_slot and tables is not None:
        raise CopyError("a new slot leaves a gap in every table's changes: take all of them, without --table")
    with writer_lock(settings, wait_seconds, source):
        clear_leftovers(lake)
        refuse_unnamed_rows(settings, source, lake)
        waiting = {ledger.table for ledger in unfinished(lake)}
        for name in names:
            if name not in waiting or new_slot:
                Ledger(name).save(lake)
        if new_slot:
            _renew(settings, source, lake)
        ensure_slot(settings, lake, source)
        with progress.stage("take tables", len(unfinished(lake))) as advance:
            rewritten = 0
            while ledgers := unfinished(lake):
                with copying.session(settings, source) as session:
                    drain_before(settings, lake, source, session.lsn)
                    round_ = _Round(session, lake, workers or min(4, os.cpu_count() or 1), report)
                    try:
                        round_.run(ledgers, time.monotonic() + round_seconds, advance)
                        rewritten = 0
                    except RewrittenError:  # the next round's snapshot shows the table as it is now
                        rewritten += 1
                        if rewritten == PATIENCE:
                            raise
                report.rounds += 1
    report.seconds = time.monotonic() - begun
    return report


def _renew(settings: Settings, source: ConfiguredSource, lake: Lake) -> None:
    """A new life of the slot: what lies between the last durable commit and it cannot be read any more."""
    slot = source.slot_name(settings)
    with replication(settings, source) as connection:
        state = inspect(connection, slot)
        if state.exists:
            connection.execute(sql.SQL("DROP_REPLICATION_SLOT {} WAIT").format(sql.Identifier(slot)))
        known, consistent = manifests.load_epochs(lake), create_slot(connection, slot)
        manifests.save_epoch(lake, Epoch(
            len(known) + 1, slot, state.system_identifier, state.timeline, consistent))


class _Round:
    """One snapshot and the batches of what is read in it."""

    def __init__(self, session: Session, lake: Lake, workers: int, report: BackfillReport) -> None:
        self.session, self.lake, self.workers, self.report = session, lake, workers, report
        self.source, self.settings = session.source, session.settings
        self.epoch = manifests.load_epochs(lake)[-1]
        self.position = session.lsn - 1
        self.ordinal = 0
        self.registrar = Registrar(lake, describer(self.settings, self.source))
        self.lock = Lock()

    def run(self, ledgers: Sequence[Ledger], until: float, advance: Callable[[float], None]) -> None:
        """Take what the time allows, at least one group of chunks."""
        with self.session.connect() as connection:
            for ledger in ledgers:
                table = copying.subject(connection, self.source, self.source.publication_name(self.settings),
                                        ledger.table)
                if not self._table(table, ledger, until):
                    return
                advance(1)
                if time.monotonic() > until:
                    return

    def _table(self, table: Subject, ledger: Ledger, until: float) -> bool:
        """Go on with one table; whether it is finished."""
        key = self.registrar.version_of(table.relation).key
        self._plan(table, ledger, whole=not key)
        first = ledger.begun == (self.epoch.name, self.position)
        while ledger.done < len(ledger.chunks):
            group = ledger.chunks[ledger.done:ledger.done + self.workers]
            with self._batch() as batch:
                if not key and not ledger.done:
                    batch.add(table, self._sweep(table, self.position, 0))
                rows = self._copy(batch, table, group, key)
            ledger.done, ledger.rows = ledger.done + len(group), ledger.rows + rows
            ledger.save(self.lake)
            if key and time.monotonic() > until and ledger.done < len(ledger.chunks):
                return False
        if key:
            with self._batch() as batch:
                if not first:
                    with self.session.reader() as reader:
                        ledger.rows += self._repair(reader, batch, table, ledger, key)
                assert ledger.begun is not None  # noqa: S101 - _plan set it
                batch.add(table, self._sweep(table, ledger.begun[1], 0))
        self.report.rows[ledger.table] = ledger.rows
        self.lake.delete(path_of(ledger.table))
        return True

    def _plan(self, table: Subject, ledger: Ledger, *, whole: bool) -> None:
        """Cut the table into chunks; anew where a leaf was rewritten: its rows lie elsewhere, unseen by the log."""
        files = {f"{leaf.schema}.{leaf.name}": leaf for leaf in table.leaves}
        known = {(name, filenode) for name, filenode, _start, _end in ledger.chunks}
        same = known == {(name, leaf.filenode) for name, leaf in files.items()}
        this = (self.epoch.name, self.position)
        if ledger.begun is not None and same and ledger.begun[0] == this[0] and not (whole and ledger.begun != this):
            return
        if ledger.begun is None or ledger.begun[0] != this[0]:
            newest = manifests.last(self.lake)
            ledger.begun, ledger.since = this, newest.seq if newest else 0
        if whole:
            ledger.begun = this
        ledger.done = ledger.rows = 0
        ledger.chunks = [chunk for name, leaf in files.items() for chunk in _chunks(name, leaf, self.workers)]
        ledger.save(self.lake)

    def _copy(self, batch: _Batch, table: Subject, group: Sequence[tuple[str, int, int, int | None]],
              key: tuple[str, ...]) -> int:
        """Read chunks side by side, each on a connection of its own in the same snapshot; rows read."""
        leaves = {f"{leaf.schema}.{leaf.name}": leaf for leaf in table.leaves}

        def one(chunk: tuple[str, int, int, int | None]) -> int:
            with self.session.reader() as reader:
                name, filenode, start, end = chunk
                leaf, count = leaves[name], 0
                for piece in copying.rows(reader, table, key, leaf.identifier, copying.blocks(start, end)):
                    count += len(piece[0][0])
                    self._land(batch, table, piece)
                if copying.filenode(reader, leaf) != filenode:
                    raise RewrittenError(f"{name} was rewritten while it was read: call again")
                return count

        with ThreadPoolExecutor(self.workers) as pool:
            return sum(pool.map(one, group))

    def _land(self, batch: _Batch, table: Subject, piece: copying.Piece) -> None:
        with self.lock:
            first, self.ordinal = self.ordinal + 1, self.ordinal + len(piece[0][0])
        batch.add(table, copying.landed(table, piece, self._envelope("r", self.position), first))

    def _envelope(self, operation: str, position: int) -> dict[str, pa.Scalar]:
        now = time.time_ns() // 1000
        return {"_op": pa.scalar(operation), "_commit_lsn": pa.scalar(position, pa.int64()),
                "_commit_ts": pa.scalar(now, pa.int64()).cast(TIMESTAMPTZ), "_epoch": pa.scalar(self.epoch.name),
                "_source": pa.scalar(self.source.name)}

    def _sweep(self, table: Subject, position: int, ordinal: int) -> pa.Table:
        """A truncation at a snapshot's position: rows older than it go."""
        key = self.registrar.version_of(table.relation).key
        return copying.landed(table, copying.nothing(table, key), self._envelope("t", position), ordinal)

    def _repair(self, reader: Any, batch: _Batch, table: Subject, ledger: Ledger,
                key: tuple[str, ...]) -> int:
        """Read rows again whose changes between the rounds left values out: no earlier row of theirs may be there."""
        found: set[tuple[str, ...]] = set()
        newest = manifests.last(self.lake)
        name = table_name(table.relation, self.source.schema)
        for seq in range(ledger.since + 1, (newest.seq if newest else 0) + 1):
            for file in manifests.read(self.lake, seq).files_of(name):
                if not set(key) <= file.columns.keys():
                    raise CopyError(f"{ledger.table} was given other key columns while it was taken: delete"
                                    f" {path_of(ledger.table)} in the source's lake, then call again")
                read = pq.read_table(self.lake.open(file.path), columns=[*key, "_unchanged"])
                left_out = read.filter(pc.greater(pc.list_value_length(read["_unchanged"]), 0))
                found |= set(zip(*(text(left_out[k].combine_chunks()).to_pylist() for k in key), strict=True))
        origin = {landed.name: own for landed, own in zip(table.relation.columns, table.names, strict=True)}
        names = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(origin[k])) for k in key)
        count, listed = 0, sorted(found)
        root = sql.Identifier(table.relation.schema, table.relation.table)
        for start in range(0, len(listed), KEYS_AT_ONCE):
            wanted = sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, each)))
                                        for each in listed[start:start + KEYS_AT_ONCE])
            condition = sql.SQL("({}) in (values {})").format(names, wanted)
            for piece in copying.rows(reader, table, key, root, condition):
                count += len(piece[0][0])
                self._land(batch, table, piece)
        return count

    def _batch(self) -> _Batch:
        return _Batch(self)


class _Batch:
    """One batch of read rows, durable when its block ends without an error."""

    def __init__(self, round_: _Round) -> None:
        self.round, self.last, self.rows = round_, manifests.last(round_.lake), 0
        self.seq = (self.last.seq if self.last else 0) + 1
        self.writer = BatchWriter(round_.lake, self.seq, round_.source.schema, round_.registrar)

    def __enter__(self) -> _Batch:
        return self

    def add(self, table: Subject, rows: pa.Table) -> None:
        with self.round.lock:
            self.rows += rows.num_rows
            self.writer.add([(table.relation, rows)])

    def __exit__(self, kind: type[BaseException] | None, *_more: object) -> None:
        if kind is not None or not self.rows:
            return
        own, now = self.round, dt.datetime.now(dt.UTC).isoformat()
        begun = self.last is not None and self.last.epoch == own.epoch.name
        start = self.last.to_lsn if self.last and begun else own.epoch.consistent_lsn
        batch = Manifest(
            self.seq, self.last.digest if self.last else None, own.source.name, own.epoch.slot,
            own.epoch.system_identifier, own.epoch.timeline, own.epoch.ordinal, own.epoch.name, start,
            max(start, own.session.lsn), 0, self.rows, 0, now, now, None, self.writer.finish(),
            {}).hashed()
        if not own.lake.put_if_absent(batch.path, batch.encode()):
            raise CopyError(f"{batch.path} was written by another process: stop it, one capture may run at a time")


def _chunks(name: str, leaf: Leaf, workers: int) -> Iterator[tuple[str, int, int, int | None]]:
    size = min(CHUNK_BLOCKS, max(FEW_BLOCKS, -(-leaf.blocks // workers)))
    starts = list(range(0, max(leaf.blocks, 1), size))
    for start in starts:
        yield name, leaf.filenode, start, None if start == starts[-1] else start + size
