"""Compaction: the batch files of a ledger day become one sorted file per table. Repeated, it gives the same bytes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake, LakeError
from stripe_platform import progress
from stripe_platform.cdc import catalogue, columns, retained
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.batches import PARQUET
from stripe_platform.cdc.catalogue import Shape
from stripe_platform.cdc.columns import FENCE
from stripe_platform.cdc.daily import Daily
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.settings import load_settings

SMALL = 1 << 20  # bytes of a file that waking threads would cost more than it saves


def compact(lake: Lake, table: str, day: dt.date, *, chain: Chain | None = None,
            first_day: dt.date | None = None) -> Daily:
    """Make the daily file of a table and ledger day, unless it is current; raises `ChainError` on a changed batch."""
    chain = chain or Chain.load(lake)
    first_day = first_day or load_settings().first_day
    sources = dailies.sources_of(chain, table, day, first_day)
    through = max((m.seq for m in chain.batches(day, first_day)), default=0)
    state = (sources, day < chain.open_day(first_day), through)
    path = dailies.data_path(table, day)
    before = dailies.read(lake, table, day)
    if before and (before.sources, before.closed, before.through_seq) == state and lake.size(path) == before.size:
        return before
    standing = retained.standing(lake, chain, table, day, first_day)
    if standing is not None:
        return standing
    if sources:
        changes = gather(lake, table, sources, chain)
        ops = {c["values"]: c["counts"] for c in sorted(
            pc.value_counts(changes["_op"]).to_pylist(), key=lambda c: c["values"])}
        rows, data = changes.num_rows, encode(changes)
    else:
        rows, data, ops = 0, _empty(catalogue.shape_of(lake, chain, table)), {}
    made = Daily(table, day, state[1], through, rows, ops, len(data), hashlib.sha256(data).hexdigest(), sources)
    lake.put(path, data, durable=False)
    lake.put(dailies.manifest_path(table, day), made.encode(), durable=False)
    return made


def compact_range(lake: Lake, tables: Iterable[str], days: Sequence[dt.date], *,
                  first_day: dt.date | None = None) -> dict[str, list[Daily]]:
    """Daily files of many tables and days; one reading of the chain serves all."""
    chain, first_day, names = Chain.load(lake), first_day or load_settings().first_day, list(tables)
    with progress.stage("compact changes", len(names) * len(days)) as advance:
        made: dict[str, list[Daily]] = {name: [] for name in names}
        for name in names:
            for day in days:
                made[name].append(compact(lake, name, day, chain=chain, first_day=first_day))
                advance(1)
    return made


def read_batch_file(lake: Lake, source: dailies.Source, names: Sequence[str] | None = None) -> pa.Table:
    """Rows of a batch file in commit order; `ChainError` when its bytes are not its manifest's."""
    data = lake.read(source.path)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ChainError(f"{source.path} is not what its manifest says: restore it from a backup")
    return pq.read_table(pa.BufferReader(data), columns=list(names) if names else None, use_threads=len(data) > SMALL)


def read_rows(lake: Lake, chain: Chain, table: str, source: dailies.Source,
              names: Sequence[str] | None = None) -> pa.Table:
    """Rows of a batch file in commit order, from its day's file where retention took it away. `names`: only these.

    Raises `LakeError` when they are nowhere, `ChainError` when their bytes are not as recorded.
    """
    try:
        return read_batch_file(lake, source, names)
    except LakeError:
        rows = retained.rows_of(lake, chain, table, source.seq, columns=names)
        if rows is None:
            raise
        return rows


def gather(lake: Lake, table: str, sources: Sequence[dailies.Source], chain: Chain) -> pa.Table:
    """Changes of these batch files as a daily file has them, by key and commit order."""
    parts = [read_rows(lake, chain, table, source) for source in sources]
    if catalogue.is_declared(chain, table):
        key: Sequence[str] = catalogue.declared(table).key
    else:
        lineage = catalogue.Lineage.load(lake, chain, table)
        numbers = [lineage.ordinals[source.path] for source in sources]
        parts = [part.append_column("_version", pa.repeat(pa.scalar(number, pa.int32()), part.num_rows))
                 for part, number in zip(parts, numbers, strict=True)]
        # Sorted where one version has all rows; between versions the order of the log alone says what came first.
        key = lineage.versions[numbers[0] - 1].key if len(set(numbers)) == 1 else ()
    return sort_by_key(in_commit_order(parts, sources), key)


def in_commit_order(parts: Sequence[pa.Table], sources: Sequence[dailies.Source]) -> pa.Table:
    """Rows of these batch files together. A batch has several of a table where its columns changed, or where values
    came that no typed column holds: such files interleave, only the fence says what came first.
    """
    changes = joined(parts)
    if len({source.seq for source in sources}) < len(sources):
        changes = changes.sort_by([(name, "ascending") for name in FENCE])
    return changes


def files_through(lake: Lake, chain: Chain, table: str, days: Sequence[dt.date], seq: int, since: dt.date,
                  first_day: dt.date) -> dict[str, dt.date]:
    """Local files with a table's changes and the ledger day of each, in log order: the daily files of `days`, and of
    other days from `since` on the batches up to `seq`, which a stream brought before their day was compacted.
    """
    newest, paths = chain.open_day(first_day), dict[str, dt.date]()
    found = dailies.read(lake, table, newest) if newest in days else None
    whole = [day for day in days if day != newest or (found is not None and found.through_seq >= seq)]
    for day, path in zip(whole, dailies.change_files(lake, table, whole), strict=True):
        paths[path] = day
    recorded = set(retained.days(lake))
    for manifest, closing in zip(chain.manifests[:seq], chain.days, strict=False):
        day = closing or newest
        if day >= since and day not in whole:
            for file in manifest.files_of(table):
                if day in recorded and lake.size(file.path) is None:
                    paths[str(retained.slice_of(lake, chain, table, manifest.seq))] = day
                else:
                    paths[str(lake.local_path(file.path))] = day
    return paths


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Parts with one another's columns; a column whose type differs between them is text in all."""
    if len(parts) == 1:
        return parts[0]
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for column in part.schema:
            types.setdefault(column.name, set()).add(column.type)
    torn = [name for name, found in types.items() if len(found) > 1]
    for name in torn:
        parts = [p.set_column(p.column_names.index(name), name, columns.text(p[name].combine_chunks()))
                 if name in p.column_names else p for p in parts]
    return pa.concat_tables(parts, promote_options="default")


def sort_by_key(changes: pa.Table, key: Sequence[str]) -> pa.Table:
    """Rows in commit order to rows by (key, commit order): the sort is stable; truncations (null key) come last."""
    if changes.num_rows < 2 or not key:
        return changes
    changes = changes.combine_chunks()
    if len(key) == 1:
        values = changes[key[0]]
        if not values.null_count and pc.all(pc.less_equal(values[:-1], values[1:])).as_py():
            return changes
    order = pc.sort_indices(changes, sort_keys=[(name, "ascending") for name in key])
    return changes.take(order)


def encode(rows: pa.Table) -> bytes:
    """Parquet bytes, equal for equal rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **PARQUET)
    return sink.getvalue().to_pybytes()


@cache
def _empty(shape: Shape) -> bytes:
    return encode(shape.schema.empty_table())

