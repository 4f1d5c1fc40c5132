"""Snapshots: a table's state at a ledger day's closing LSN, folded from the daily files, never read from the source.

Reference and mutable tables get one every day; growing tables a checkpoint every Sunday, other days are checkpoint
plus log on demand (`state_at`): a full copy a day of a growing table would cost the square of its life.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake
from stripe_platform import keys, progress
from stripe_platform.cdc import catalogue, columns, fold
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.catalogue import Lineage
from stripe_platform.cdc.columns import FENCE
from stripe_platform.cdc.compact import encode, gather, joined, sort_by_key
from stripe_platform.cdc.evolution import Path, multiset
from stripe_platform.cdc.manifest import Chain, ChainError, canonical
from stripe_platform.settings import load_settings

FOLDER = "snapshots"
SUNDAY = 6
FOLD_ROWS = 500_000  # changes folded at once between two checkpoints


class ResnapshotError(RuntimeError):
    """A snapshot of a past day exists with other content; the message says how to replace it knowingly."""


@dataclass(frozen=True)
class Snapshot:
    """Manifest of one snapshot. `state`: hash over the digests of every change folded into it.

    `version`: number of the table's version whose columns it has, 0 of a declared table.
    """

    table: str
    day: dt.date
    rows: int
    size: int
    sha256: str
    state: str
    version: int = 0

    def encode(self) -> bytes:
        content = dataclasses.asdict(self) | {"day": self.day.isoformat()}
        return canonical({k: v for k, v in content.items() if (k, v) != ("version", 0)})


def data_path(table: str, day: dt.date) -> str:
    return f"{FOLDER}/{table}/{day.isoformat()}.parquet"


def manifest_path(table: str, day: dt.date) -> str:
    return f"{FOLDER}/{table}/{day.isoformat()}.json"


def is_due(table: str, day: dt.date) -> bool:
    """Whether a table has a snapshot of this day."""
    return table not in keys.TABLES or keys.TABLES[table].growth != "growing" or day.weekday() == SUNDAY


def read(lake: Lake, table: str, day: dt.date) -> Snapshot | None:
    """Manifest of a snapshot, None where there is none."""
    if lake.size(manifest_path(table, day)) is None:
        return None
    content = json.loads(lake.read(manifest_path(table, day)))
    return Snapshot(**(content | {"day": dt.date.fromisoformat(content["day"])}))


def newest(lake: Lake, table: str) -> Snapshot | None:
    """The table's last snapshot, None before the first."""
    days = [PurePosixPath(path).stem for path in lake.list(f"{FOLDER}/{table}/") if path.endswith(".json")]
    return read(lake, table, dt.date.fromisoformat(max(days))) if days else None


def snapshot_range(lake: Lake, tables: Iterable[str], days: Sequence[dt.date], *, allow_resnapshot: bool = False,
                   chain: Chain | None = None, first_day: dt.date | None = None) -> dict[str, dict[dt.date, Snapshot]]:
    """Snapshots of closed ledger days, those that are due; what stands with the same content is left alone.

    Raises `NotContiguousError` where a day is not compacted or not closed, `ResnapshotError` where other content
    stands.
    """
    chain = chain or Chain.load(lake)
    first_day = first_day or load_settings().first_day
    newest = chain.open_day(first_day)
    if days and max(days) >= newest:
        raise ChainError(f"ledger day {max(days)} is not closed: a snapshot is the state at a day's closing; the open"
                         f" day is {newest}")
    names = list(tables)
    made: dict[str, dict[dt.date, Snapshot]] = {}
    with progress.stage("fold snapshots", len(names) * len(days)) as advance:
        for name in names:
            folder = _Folder(lake, chain, name, first_day, allow_resnapshot)
            made[name] = {}
            for day in sorted(days):
                if is_due(name, day):
                    made[name][day] = folder.snapshot(day)
                advance(1)
    return made


def state_at(lake: Lake, table: str, day: dt.date, *, chain: Chain | None = None,
             first_day: dt.date | None = None) -> pa.Table:
    """A table's rows at the closing LSN of any closed day: the nearest snapshot before it plus the log since.

    Of the open day: as far as its daily file goes.
    """
    chain = chain or Chain.load(lake)
    first_day = first_day or load_settings().first_day
    return _Folder(lake, chain, table, first_day, allow_resnapshot=False).state_of(day)


def state_before(lake: Lake, table: str, lsn: int, *, chain: Chain, first_day: dt.date) -> pa.Table:
    """A table's rows as the newest epoch's commits before a log position left them, the open day's among them.

    Folded from the nearest snapshot and the batches since: days need not be compacted.
    """
    return _Folder(lake, chain, table, first_day, allow_resnapshot=False).state_before(lsn)


class _Folder:
    """One table's state, moved forward day by day; rows are kept sorted by key."""

    def __init__(self, lake: Lake, chain: Chain, table: str, first_day: dt.date, allow_resnapshot: bool) -> None:
        self.lake, self.chain, self.table, self.first_day = lake, chain, table, first_day
        self.allow_resnapshot = allow_resnapshot
        self.declared = catalogue.is_declared(chain, table)
        self.key: Sequence[str] = catalogue.declared(table).key if self.declared else ()
        self.path = None if self.declared else Path(Lineage.load(lake, chain, table))
        self.version = 0  # whose columns `rows` have; 0 before the first
        self.day: dt.date | None = None  # folded up to and with this day
        self.digest = ""
        self.rows: pa.Table | None = None
        self.data: Snapshot | None = None  # the snapshot whose bytes `rows` still equal
        self.waiting: list[pa.Table] = []
        begun = {d for d in (*chain.closed, chain.open_day(first_day)) if chain.batches(d, first_day)}
        self.changed = {d: sources for d in begun if (sources := dailies.sources_of(chain, table, d, first_day))}

    def snapshot(self, day: dt.date) -> Snapshot:
        """The snapshot of a day, written unless it stands with the same content."""
        digest = self._digest_at(day)
        standing = read(self.lake, self.table, day)
        path = data_path(self.table, day)
        if standing and standing.state == digest and self.lake.size(path) == standing.size:
            return standing
        if standing and standing.state != digest and not self.allow_resnapshot:
            raise ResnapshotError(
                f"snapshots/{self.table} of {day} stands with other content: past days are not re-taken; set"
                " allow_resnapshot to replace it")
        rows = self.state_of(day)
        if self.data is None:
            data = encode(rows)
            made = Snapshot(self.table, day, rows.num_rows, len(data), hashlib.sha256(data).hexdigest(), digest,
                            self.version)
        else:  # nothing changed since: the same bytes under the new day's name
            data = self.lake.read(data_path(self.table, self.data.day))
            made = dataclasses.replace(self.data, day=day, state=digest)
        self.lake.put(path, data, durable=False)
        self.lake.put(manifest_path(self.table, day), made.encode(), durable=False)
        self.data = made
        return made

    def state_of(self, day: dt.date) -> pa.Table:
        """Rows at the closing of `day`, which must not lie before the last call's."""
        if self.rows is None:
            self._start(day)
        for changed in sorted(d for d in self.changed if d <= day and (self.day is None or d > self.day)):
            self._take(changed)
        self._fold()
        self.day = day
        assert self.rows is not None  # noqa: S101 - _start set it
        return self.rows

    def state_before(self, lsn: int) -> pa.Table:
        """Rows before a position of the newest epoch, straight from the batches behind the snapshot begun at."""
        epoch = self.chain.manifests[-1].epoch if self.chain.manifests else ""
        durable = [m for m in self.chain.manifests if m.epoch != epoch or m.to_lsn <= lsn]
        self._start(max((m.closes for m in durable if m.closes), default=dt.date.min))
        for manifest, day in zip(self.chain.manifests, self.chain.days, strict=True):
            if (self.day is not None and day is not None and day <= self.day) or (
                    manifest.epoch == epoch and manifest.from_lsn >= lsn):
                continue
            files = tuple(dailies.Source(manifest.seq, f.path, f.sha256) for f in manifest.files_of(self.table))
            if files:
                changes = gather(self.lake, self.table, files, self.chain)
                beyond = manifest.epoch == epoch and manifest.to_lsn > lsn
                self.waiting.append(changes.filter(pc.less(changes["_commit_lsn"], lsn)) if beyond else changes)
            if sum(t.num_rows for t in self.waiting) >= FOLD_ROWS:
                self._fold()
        self._fold()
        assert self.rows is not None  # noqa: S101 - _start set it
        return self.rows

    def _start(self, day: dt.date) -> None:
        """Begin at the newest usable snapshot at or before the day, else at nothing."""
        stored = [dt.date.fromisoformat(p.rpartition("/")[2].removesuffix(".json"))
                  for p in self.lake.list(f"{FOLDER}/{self.table}") if p.endswith(".json")]
        for candidate in sorted((d for d in stored if d <= day), reverse=True):
            standing = read(self.lake, self.table, candidate)
            if standing is None or standing.state != self._digest_at(candidate):
                continue
            data = self.lake.read(data_path(self.table, candidate))
            if hashlib.sha256(data).hexdigest() != standing.sha256:
                continue
            self.day, self.data = candidate, standing
            self.rows = pq.read_table(pa.BufferReader(data))
            self.version = standing.version
            if self.path is not None and self.version:
                self.key = self.path.version(self.version).key
            return
        schema = catalogue.declared(self.table).schema if self.declared else pa.schema([
            pa.field(name, columns.ENVELOPE.field(name).type) for name in FENCE])
        self.rows = pa.schema([f for f in schema if columns.is_own(f.name) or f.name in FENCE]).empty_table()

    def _digest_at(self, day: dt.date) -> str:
        """Hash over every day's changes up to `day`: equal hash, equal state."""
        parts = [[d.isoformat(), [s.sha256 for s in self.changed[d]]] for d in sorted(self.changed) if d <= day]
        return hashlib.sha256(canonical(parts)).hexdigest()

    def _take(self, day: dt.date) -> None:
        daily = dailies.current(self.lake, self.chain, self.table, day, self.first_day)
        self.waiting.append(dailies.read_changes(self.lake, daily))
        if sum(t.num_rows for t in self.waiting) >= FOLD_ROWS:
            self._fold()

    def _fold(self) -> None:
        if not self.waiting:
            return
        changes = joined(self.waiting)
        self.waiting, self.data = [], None
        if self.path is None:
            self._fold_in(changes)
            return
        for version, part in self.path.stretches(changes):
            cut = fold.last_cut(part)
            if cut is not None and self.version and not self.path.passable(self.version, version):
                self._truncate(cut)
            self._evolve(version)
            self._fold_in(part)

    def _truncate(self, cut: tuple[str, int, int]) -> None:
        assert self.rows is not None  # noqa: S101 - _start set it
        self.rows = fold.survivors(self.rows, cut) if self.key else self.rows.slice(0, 0)
        if not self.rows.num_rows and self.path is not None:
            self.version = 0

    def _evolve(self, version: int) -> None:
        """Bring the state into the columns of a version, and order it by that version's key."""
        assert self.path is not None  # noqa: S101 - only tables of the catalogue have versions
        assert self.rows is not None  # noqa: S101 - _start set it
        self.key = self.path.version(version).key
        if self.version and self.path.rekeyed(self.version, version):
            self.rows = sort_by_key(self.path.carry(self.rows, self.version, version), self.key)
        elif self.version:
            self.rows = self.path.carry(self.rows, self.version, version)
        else:
            own = pa.schema([(c.name, c.arrow) for c in self.path.version(version).columns]).empty_table()
            fences = pa.schema([columns.ENVELOPE.field(name) for name in FENCE]).empty_table()
            self.rows = pa.concat_tables([own, fences], promote_options="default")
        self.version = version

    def _fold_in(self, changes: pa.Table) -> None:
        assert self.rows is not None  # noqa: S101 - _start set it
        for part, doomed in fold.doomed(fold.segments(changes)):
            if isinstance(part, fold.Truncation):
                self.rows = fold.survivors(self.rows, part.fence) if self.key else self.rows.slice(0, 0)
            elif part.num_rows and self.key:
                newest = fold.collapse(sort_by_key(part, self.key), self.key)
                self.rows = merge(self.rows, newest, self.key, doomed=doomed)
            elif part.num_rows:
                self._refuse_unnamed()
                self.rows = multiset(self.rows.drop_columns([n for n in FENCE if n in self.rows.column_names]), part)

    def _refuse_unnamed(self) -> None:
        """Only whole rows can stand for a key: without one, and without FULL, updates and deletes name nothing."""
        assert self.path is not None  # noqa: S101 - declared tables have keys
        if self.path.version(self.version).identity != "f":
            raise ChainError(f"{self.table} has lost what names its rows: give it a primary key or `replica identity"
                             " full`, then take it anew with `stripe-platform cdc snapshot`")


def merge(state: pa.Table, newest: pa.Table, key: Sequence[str], *, doomed: bool = False) -> pa.Table:
    """A state (sorted by key) after the collapsed changes: replaced in place, new keys sorted in, deleted keys gone.

    `doomed`: a truncation takes these rows at once, so that values they left out need not be known.
    """
    names = [n for n in newest.column_names if n in (*state.column_names, *FENCE) or columns.is_own(n)]
    gone = pc.equal(newest["_op"], "d")
    touched = fold.key_text(newest, key)
    own = fold.key_text(state, key)
    newest_rows = (newest if doomed else _filled(newest, state, own, key)).select(names)
    kept = joined([state, newest_rows])
    place = pc.index_in(own, value_set=touched.combine_chunks()).to_numpy(zero_copy_only=False)
    order = np.arange(state.num_rows)
    hit = ~np.isnan(place) if place.dtype.kind == "f" else np.ones(len(place), bool)
    order[hit] = state.num_rows + place[hit].astype(np.int64)
    known = np.zeros(newest.num_rows, bool)
    known[place[hit].astype(np.int64)] = True
    added = np.flatnonzero(~known)
    drop = gone.to_numpy(zero_copy_only=False)
    order = order[~np.append(np.zeros(state.num_rows, bool), drop)[order]]
    added = added[~drop[added]]
    result = kept.take(pa.array(np.append(order, state.num_rows + added)))
    in_order = not len(added) or not len(order) or _key(kept, key, order[-1]) < _key(newest, key, added[0])
    return result.combine_chunks() if in_order else sort_by_key(result, key)


def _key(rows: pa.Table, key: Sequence[str], position: int) -> tuple[Any, ...]:
    return tuple(rows[name][int(position)].as_py() for name in key)


def _filled(newest: pa.Table, state: pa.Table, own: pa.ChunkedArray, key: Sequence[str]) -> pa.Table:
    """Values that changes left out, from the state under the key they had then; deleted rows need none."""
    left_out = pc.and_(pc.greater(pc.list_value_length(newest[fold.PENDING]), 0), pc.not_equal(newest["_op"], "d"))
    rows = np.flatnonzero(left_out.to_numpy(zero_copy_only=False))
    if not len(rows):
        return newest
    origin = newest.take(pa.array(rows)).select([f"_from_{name}" for name in key]).rename_columns(list(key))
    where = pc.index_in(fold.key_text(origin, key), value_set=own.combine_chunks())
    if where.null_count:
        raise ChainError("a change leaves values out and no earlier state of its row is in the log: load the table's"
                         " state from before the slot was made")
    source = dict(zip(rows.tolist(), where.to_pylist(), strict=True))
    lists = newest[fold.PENDING].to_pylist()
    for name in sorted({n for row in rows for n in lists[row]}):
        both = pa.chunked_array([*newest[name].chunks, *state[name].chunks])
        picks = np.arange(newest.num_rows)
        for row in rows:
            if name in lists[row]:
                picks[row] = newest.num_rows + source[int(row)]
        newest = newest.set_column(newest.column_names.index(name), name, both.take(pa.array(picks)))
    return newest
