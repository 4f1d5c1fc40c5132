"""Days whose batch files went: their daily files are the durable truth, and give each batch's rows back.

`cdc/retained/<day>.json` is written once, before the first file goes: it holds the hash of each daily file, of the
day's last manifest (so of all before it) and of the record before. Which files may be missing, it alone says.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake, LakeError
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.columns import FENCE
from stripe_platform.cdc.daily import Daily
from stripe_platform.cdc.manifest import Chain, ChainError, Manifest, canonical

FOLDER = "cdc/retained"
CACHE_BYTES = 256 << 20  # rows of daily files that a process keeps while it goes through their batches
REMEDY = "restore it from a backup"


@dataclass(frozen=True)
class Kept:
    """One daily file as it was when its batches' files went."""

    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Retained:
    """The record of one day. `last`: number of its last batch, `digest`: of that batch's manifest, `previous`: of the
    record before.
    """

    day: dt.date
    last: int
    digest: str
    previous: str | None
    tables: dict[str, Kept]

    def encode(self) -> bytes:
        return canonical(dataclasses.asdict(self) | {"day": self.day.isoformat()})

    @property
    def own_digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()


def path_of(day: dt.date) -> str:
    return f"{FOLDER}/{day.isoformat()}.json"


def days(lake: Lake) -> list[dt.date]:
    """Days that have a record, ascending."""
    return sorted(dt.date.fromisoformat(path.rpartition("/")[2].removesuffix(".json")) for path in lake.list(FOLDER))


def read(lake: Lake, day: dt.date | None) -> Retained | None:
    """The record of a day, None where its batches' files all stand; `ChainError` when it cannot be read."""
    if day is None or lake.size(path_of(day)) is None:
        return None
    try:
        content: dict[str, Any] = json.loads(lake.read(path_of(day)))
        tables = {name: Kept(**kept) for name, kept in content.pop("tables").items()}
        return Retained(**(content | {"day": dt.date.fromisoformat(content["day"]), "tables": tables}))
    except (ValueError, KeyError, TypeError) as error:
        raise ChainError(f"{path_of(day)} cannot be read: {REMEDY}") from error


def data_of(lake: Lake, record: Retained, table: str) -> bytes:
    """A daily file's bytes; `ChainError` when they are not those of the record."""
    path = dailies.data_path(table, record.day)
    try:
        data = lake.read(path)
    except LakeError:
        raise ChainError(f"{path} is missing, and its batches' files are gone: {REMEDY}") from None
    if hashlib.sha256(data).hexdigest() != record.tables[table].sha256:
        raise ChainError(f"{path} is not what {path_of(record.day)} says, and its batches' files are gone: {REMEDY}")
    return data


def standing(lake: Lake, chain: Chain, table: str, day: dt.date, first_day: dt.date) -> Daily | None:
    """The manifest of a retained day's file, written again where it is not as it was; None where the day has no record.

    Raises `ChainError` when the file is not the record's: from what could it be made?
    """
    record = read(lake, day)
    if record is None or table not in record.tables:
        return None
    data_of(lake, record, table)
    sources = dailies.sources_of(chain, table, day, first_day)
    ops: dict[str, int] = {}
    for manifest in chain.batches(day, first_day):
        for file in manifest.files_of(table):
            for op, count in file.ops.items():
                ops[op] = ops.get(op, 0) + count
    kept = record.tables[table]
    made = Daily(table, day, True, record.last, kept.rows, dict(sorted(ops.items())), kept.size, kept.sha256, sources)
    if dailies.read(lake, table, day) != made:
        lake.put(dailies.manifest_path(table, day), made.encode())
    return made


def rows_of(lake: Lake, chain: Chain, table: str, seq: int, *, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A table's changes of one batch from its day's file, in commit order; None where they cannot come from there.

    `columns`: those to read; by default those that the batch file had.
    """
    record, files = read(lake, chain.day_of(seq)), chain.manifests[seq - 1].files_of(table)
    if record is None or table not in record.tables or len(files) != 1:
        return None
    own = _day_rows(lake, record, table, columns).of(chain.manifests[seq - 1])
    return own.select([name for name in own.column_names if name in (columns or files[0].columns)])


def slice_of(lake: Lake, chain: Chain, table: str, seq: int) -> Path:
    """A local file with what `rows_of` gives, for readers that know only files."""
    rows = rows_of(lake, chain, table, seq)
    if rows is None:
        raise ChainError(f"the changes of {table} in batch {seq} are neither in its file nor in a record: {REMEDY}")
    path = lake.scratch() / f"{table}-{seq}-{chain.manifests[seq - 1].digest[:16]}.parquet"
    if not path.exists():
        temporary = path.with_suffix(f".{uuid.uuid4().hex}")
        pq.write_table(rows, temporary)
        temporary.replace(path)
    return path


class DayRows:
    """A table's changes of a day in commit order, and which of them are a batch's."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows.sort_by([(name, "ascending") for name in FENCE]).combine_chunks()
        self._lsn = self.rows["_commit_lsn"].to_numpy()
        runs = pc.run_end_encode(self.rows["_epoch"].combine_chunks()) if rows.num_rows else None
        ends = runs.run_ends.to_pylist() if runs is not None else []
        names = runs.values.to_pylist() if runs is not None else []
        self._epochs = dict(zip(names, pairwise([0, *ends]), strict=True))

    def of(self, manifest: Manifest) -> pa.Table:
        """Rows whose commits lie in the stretch that a batch names: whole transactions, and in no other batch."""
        first, last = self._epochs.get(manifest.epoch, (0, 0))
        begin, end = first + np.searchsorted(self._lsn[first:last], [manifest.from_lsn, manifest.to_lsn])
        return self.rows.slice(begin, end - begin)


_cache: dict[tuple[str, str, tuple[str, ...] | None], DayRows] = {}  # those used last, oldest use first
_reading = Lock()


def _day_rows(lake: Lake, record: Retained, table: str, columns: Sequence[str] | None) -> DayRows:
    names = None if columns is None else tuple(dict.fromkeys((*FENCE, *columns)))
    key = (f"{lake.url}/{dailies.data_path(table, record.day)}", record.tables[table].sha256, names)
    with _reading:
        found = _cache.pop(key, None)
        if found is None:
            data = pa.BufferReader(data_of(lake, record, table))
            found = DayRows(pq.read_table(data, columns=None if names is None else list(names)))
        _cache[key] = found
        while len(_cache) > 1 and sum(each.rows.nbytes for each in _cache.values()) > CACHE_BYTES:
            _cache.pop(next(iter(_cache)))
    return found


def problems(lake: Lake, chain: Chain) -> list[str]:
    """What is wrong with the records and the files they name: a sentence each."""
    found, previous = [], None
    for day in days(lake):
        record = read(lake, day)
        if record is None:
            continue
        if record.day != day or record.previous != previous:
            found.append(f"{path_of(day)} does not follow the record before it (its hash differs): {REMEDY}")
        if record.last > len(chain.manifests) or chain.manifests[record.last - 1].digest != record.digest:
            found.append(f"{path_of(day)} names another batch {record.last} than the chain has: {REMEDY}")
        for table in record.tables:
            try:
                data_of(lake, record, table)
            except ChainError as error:
                found.append(str(error))
        previous = record.own_digest
    return found
