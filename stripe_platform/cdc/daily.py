"""Daily files: one sorted Parquet file per table and ledger day, with a manifest naming the batches it came from.

They are derived: any of them can be made again from the batches, so they are replaced atomically but not fsynced;
a reader checks the digest and a torn file is made anew.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from resources.lake import Lake
from stripe_platform.cdc import catalogue
from stripe_platform.cdc.manifest import Chain, ChainError, canonical

FOLDER = "cdc/daily"


class NotContiguousError(ChainError):
    """A day's changes are not all there; the message names table, day and what to materialize."""


@dataclass(frozen=True)
class Source:
    """One batch file that a daily file was made from."""

    seq: int
    path: str
    sha256: str


@dataclass(frozen=True)
class Daily:
    """Manifest of one daily file. `closed`: the day's boundary was durable when it was made.

    `through_seq`: the day's last batch at that time, of any table; 0 where the day had none.
    """

    table: str
    day: dt.date
    closed: bool
    through_seq: int
    rows: int
    ops: dict[str, int]
    size: int
    sha256: str
    sources: tuple[Source, ...]

    @property
    def digest(self) -> str:
        """Identity of the content."""
        return digest_of(self.table, self.day, self.sources)

    def encode(self) -> bytes:
        return canonical(dataclasses.asdict(self) | {"day": self.day.isoformat()})


def digest_of(table: str, day: dt.date, sources: Sequence[Source]) -> str:
    """Identity of a daily file's content: which batch files it was made from, by their hashes."""
    return hashlib.sha256(canonical([table, day.isoformat(), [[s.seq, s.sha256] for s in sources]])).hexdigest()


def data_path(table: str, day: dt.date) -> str:
    return f"{FOLDER}/{table}/{day.isoformat()}.parquet"


def manifest_path(table: str, day: dt.date) -> str:
    return f"{FOLDER}/{table}/{day.isoformat()}.json"


def read(lake: Lake, table: str, day: dt.date) -> Daily | None:
    """The manifest of a daily file, None where the day was not compacted or a power cut tore the manifest."""
    if lake.size(manifest_path(table, day)) is None:
        return None
    try:
        content = json.loads(lake.read(manifest_path(table, day)))
        content |= {"day": dt.date.fromisoformat(content["day"]),
                    "sources": tuple(Source(**s) for s in content["sources"])}
        return Daily(**content)
    except (ValueError, KeyError, TypeError):
        return None


def sources_of(chain: Chain, table: str, day: dt.date, first_day: dt.date) -> tuple[Source, ...]:
    """The batch files that hold a table's changes of a ledger day; `ChainError` when the day has not begun."""
    return tuple(Source(m.seq, f.path, f.sha256)
                 for m in chain.batches(day, first_day) for f in m.files_of(table))


def current(lake: Lake, chain: Chain, table: str, day: dt.date, first_day: dt.date) -> Daily:
    """The manifest of a daily file that readers may use; `NotContiguousError` with the remedy.

    A closed day must hold all its batches; the open one any first part of them, since more arrive meanwhile.
    """
    found = read(lake, table, day)
    if found is None:
        raise NotContiguousError(f"cdc/{table} of {day} is missing: materialize cdc/{table} for {day} first")
    expected = sources_of(chain, table, day, first_day)
    if day == chain.open_day(first_day):
        expected = expected[:len(found.sources)]
    if found.sources != expected:
        raise NotContiguousError(
            f"cdc/{table} of {day} lacks batches captured since: materialize cdc/{table} for {day} again")
    return found


def read_changes(lake: Lake, daily: Daily, names: Sequence[str] | None = None) -> pa.Table:
    """Rows of a daily file, sorted by (key, commit LSN, ordinal); `ChainError` when its bytes are not as named."""
    data = lake.read(data_path(daily.table, daily.day))
    if hashlib.sha256(data).hexdigest() != daily.sha256:
        raise ChainError(f"{data_path(daily.table, daily.day)} is not what its manifest says: "
                         f"materialize cdc/{daily.table} for {daily.day} again")
    return pq.read_table(pa.BufferReader(data), columns=list(names) if names else None)


def change_files(lake: Lake, table: str, days: Sequence[dt.date]) -> list[str]:
    """Local file paths of a table's changes, one per day in order, also where a day has no rows.

    For readers that know only files (DuckDB). Days that were not compacted are a `NotContiguousError`.
    """
    for day in days:
        if lake.size(data_path(table, day)) is None:
            raise NotContiguousError(f"cdc/{table} of {day} is missing: materialize cdc/{table} for {day} first")
    return [str(lake.local_path(data_path(table, day))) for day in days]


def schema_of(table: str) -> pa.Schema:
    """Columns of a declared table's change files."""
    return catalogue.declared(table).schema


def key_of(table: str) -> tuple[str, ...]:
    """Primary key columns of a declared table."""
    return catalogue.declared(table).key
