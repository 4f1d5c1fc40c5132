"""Retention: batch files of old, proven days go; their rows stay in the daily files, their hashes in the manifests.

A day goes when it is closed, older than the days to keep, compacted for every table with changes, and proven equal to
its source (level C) at or behind its closing position. Days go oldest first. In this order, so that a kill anywhere
costs nothing: each batch file is compared with what will be read in its place; the daily files are made durable; the
record is committed; files go.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from resources.lake import Lake, LakeError
from stripe_platform import progress
from stripe_platform.cdc import batches, catalogue, columns, retained
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import joined, read_batch_file
from stripe_platform.cdc.daily import Daily, Source
from stripe_platform.cdc.manifest import BatchFile, Chain, ChainError
from stripe_platform.cdc.pgoutput import lsn_int, lsn_text
from stripe_platform.cdc.proof import verified
from stripe_platform.cdc.retained import DayRows, Kept, Retained


class RetentionError(RuntimeError):
    """A day's batch files may not go; the message names table, what is missing and the remedy."""


@dataclass(frozen=True)
class DayPlan:
    """What goes of one day: files still there and their bytes. `begun`: a killed call recorded it already."""

    day: dt.date
    files: int
    bytes: int
    begun: bool


@dataclass
class RetentionReport:
    """Days whose batch files went (or would go), oldest first. `refused`: why the day after them may not."""

    days: list[DayPlan] = field(default_factory=list)
    refused: str | None = None
    removed: bool = False

    @property
    def bytes(self) -> int:
        return sum(day.bytes for day in self.days)


def retain(lake: Lake, keep_days: int, first_day: dt.date, *, dry_run: bool = False) -> RetentionReport:
    """Let the batch files of days go that lie `keep_days` or more before the newest closed one; repeated, it goes on.

    Raises `ChainError` where the log is broken. What may not go is named in the report, and nothing behind it goes.
    """
    chain, report = Chain.load(lake), RetentionReport(removed=not dry_run)
    if not chain.closed:
        return report
    newest = chain.closed[-1] - dt.timedelta(days=keep_days)
    wanted = sorted({day for day in chain.closed if day <= newest})
    standing, recorded = set(lake.list(batches.FOLDER)), set(retained.days(lake))
    with progress.stage("retain batches", len(wanted)) as advance:
        for day in wanted:
            files = [file for file in _going(chain, day, first_day) if file.path in standing]
            if files:
                try:
                    _refuse(lake, chain, day, first_day)
                    if not dry_run:
                        _take_away(lake, chain, day, first_day)
                except (RetentionError, ChainError) as error:
                    report.refused = str(error)
                    return report
                report.days.append(DayPlan(day, len(files), sum(f.bytes for f in files), day in recorded))
            advance(1)
    return report


def _tables(chain: Chain, day: dt.date, first_day: dt.date) -> list[str]:
    return sorted({f.table for m in chain.batches(day, first_day) for f in m.files})


def _going(chain: Chain, day: dt.date, first_day: dt.date) -> Iterator[BatchFile]:
    """Files whose rows the daily file gives back as they are.

    Not those of a batch in which their table changed (several files), nor of tables that no release declares: which
    row was in which file, or under which version, a daily file does not say.
    """
    for manifest in chain.batches(day, first_day):
        for file in manifest.files:
            if catalogue.is_declared(chain, file.table) and len(manifest.files_of(file.table)) == 1:
                yield file


def _refuse(lake: Lake, chain: Chain, day: dt.date, first_day: dt.date) -> None:
    """`RetentionError` for the first table that is not proven, `NotContiguousError` for one that is not compacted."""
    closing, known = chain.batches(day, first_day)[-1], verified(lake)
    for table in _tables(chain, day, first_day):
        daily = dailies.current(lake, chain, table, day, first_day)
        if not daily.closed:
            raise RetentionError(f"cdc/{table} of {day} was compacted while the day was open: materialize cdc/{table}"
                                 f" for {day} again")
        facts = known.get(table, {})
        if "differs_at" in facts:
            raise RetentionError(f"{table} differs from its source since {facts['differs_at']}, so the batches of {day}"
                                 " stay: `stripe-platform cdc verify` names the rows and the remedy")
        through = (facts.get("epoch", ""), lsn_int(facts.get("whole_through", "0/0")))
        if through < (closing.epoch, closing.to_lsn):
            raise RetentionError(f"{table} is not verified up to the end of {day}, {lsn_text(closing.to_lsn)}: run"
                                 " `stripe-platform cdc verify`")


def _take_away(lake: Lake, chain: Chain, day: dt.date, first_day: dt.date) -> None:
    record = retained.read(lake, day) or _record(lake, chain, day, first_day)
    schemas = {table: pq.read_schema(pa.BufferReader(retained.data_of(lake, record, table))) for table in record.tables}
    types = {table: _own_types({f.name: str(f.type) for f in schema}) for table, schema in schemas.items()}
    for file in _going(chain, day, first_day):
        # A type that changed within the day is text in its file: what the batch had, it does not say.
        if file.table in types and _own_types(file.columns) <= types[file.table]:
            lake.delete(file.path)
    lake.prune(batches.FOLDER)


def _own_types(kinds: Mapping[str, str]) -> set[tuple[str, str]]:
    """The source's columns with their types; lists, as the envelope has one, are named otherwise once they are read."""
    return {(name, kind) for name, kind in kinds.items() if columns.is_own(name)}


def _record(lake: Lake, chain: Chain, day: dt.date, first_day: dt.date) -> Retained:
    """Compare, make durable, commit."""
    kept: dict[str, Kept] = {}
    held = {table: _made_durable(lake, chain, table, day, first_day) for table in _tables(chain, day, first_day)
            if catalogue.is_declared(chain, table)}
    for table, daily in held.items():
        kept[table] = Kept(daily.rows, daily.size, daily.sha256)
    before = [known for known in retained.days(lake) if known < day]
    earlier = retained.read(lake, before[-1]) if before else None
    last = chain.batches(day, first_day)[-1]
    made = Retained(day, last.seq, last.digest, earlier.own_digest if earlier else None, kept)
    if not lake.put_if_absent(retained.path_of(day), made.encode()) and retained.read(lake, day) != made:
        raise RetentionError(f"{retained.path_of(day)} was written with other content: another call is running, or"
                             " restore it from a backup")
    return made


def _made_durable(lake: Lake, chain: Chain, table: str, day: dt.date, first_day: dt.date) -> Daily:
    """A daily file that holds exactly its batches' rows, on disk; `RetentionError` where it does not."""
    daily = dailies.current(lake, chain, table, day, first_day)
    path = dailies.data_path(table, day)
    try:
        data = lake.read(path)
    except LakeError:
        data = b""
    wrong = f"cdc/{table} of {day} differs from the batches it was made from, which stay: materialize it again"
    if hashlib.sha256(data).hexdigest() != daily.sha256:
        raise RetentionError(wrong)
    day_rows, found = DayRows(pq.read_table(pa.BufferReader(data))), 0
    for manifest in chain.batches(day, first_day):
        files = manifest.files_of(table)
        if files:
            own = day_rows.of(manifest)
            found += own.num_rows
            if not _same(own, [read_batch_file(lake, Source(manifest.seq, f.path, f.sha256)) for f in files]):
                raise RetentionError(wrong)
    if found != daily.rows or found != day_rows.rows.num_rows:
        raise RetentionError(wrong)
    lake.put(path, data)
    lake.put(dailies.manifest_path(table, day), daily.encode())
    return daily


def _same(own: pa.Table, files: list[pa.Table]) -> bool:
    """Whether these are the files' rows, value by value; what no file has is null in all."""
    theirs = DayRows(joined(files)).rows
    if own.num_rows != theirs.num_rows or not set(theirs.column_names) <= set(own.column_names):
        return False
    for name in own.column_names:
        mine = own[name].combine_chunks()
        if name not in theirs.column_names:
            if mine.null_count != len(mine):
                return False
            continue
        other = theirs[name].combine_chunks()
        if mine.type != other.type:
            mine, other = columns.text(mine), columns.text(other)
        if not _bits(mine).equals(_bits(other)):
            return False
    return True


def _bits(array: pa.Array) -> pa.Array:
    """Floats by their bits: NaN is NaN."""
    return array.view(f"int{array.type.bit_width}") if pa.types.is_floating(array.type) else array
