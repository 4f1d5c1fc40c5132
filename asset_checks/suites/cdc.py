"""The change log: whole by its own records (levels A, B, D), equal to the source (C), and its daily files its own."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from asset_checks.judge import PARTITION, ROWS, WHOLE, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from asset_checks.suites.equality import FLOORS, RULES, SAYS, proofs
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.canary import gaps
from stripe_platform.cdc.capture import waiting_canaries
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.source import OLTP
from stripe_platform.cdc.verify import problems_of, slot_problems
from stripe_platform.keys import OLTP_TABLES, SCORES, UNDATED, key
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.certify import PROVEN

if TYPE_CHECKING:
    import pandas as pd

    from resources.lake import Lake
    from stripe_platform.cdc.daily import Daily
    from stripe_platform.cdc.manifest import BatchFile


IDENTITY = ("_epoch", "_commit_lsn", "_ord", "_op")
DAILY_RULES = ("columns_missing", "rows_without_identity", "altered_files", "altered_batches", "other_batches",
               "other_operations", "other_contents", "left_open")
DAILY_COUNTS = (ROWS, "files", "columns_read", "manifest_rows", "batch_rows", *DAILY_RULES)


def _batches(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    lake, first_day = stores.lake(), load_settings().first_day
    try:
        chain = Chain.load(lake)
    except ChainError:  # judged, not hidden: a chain that does not follow is the violation this check looks for
        return frame({day.isoformat(): _broken() for day in days})
    counts = {}
    for day in days:
        batches = chain.batches(day, first_day)
        files = [file for manifest in batches for file in manifest.files]
        counts[day.isoformat()] = {
            ROWS: sum(m.changes for m in batches), "batches": len(batches), "broken_chains": 0,
            "rows_in_files": sum(file.rows for file in files) + sum(m.boundaries for m in batches),
            "files_missing_or_resized": sum(lake.size(file.path) != file.bytes for file in files),
            "closed_more_than_once": max(0, sum(m.closes == day for m in batches) - 1),
            "torn_batches": sum(bool(problems_of(lake, manifest)) for manifest in batches),
        }
    return frame(counts)


def _broken() -> dict[str, int]:
    return {ROWS: 0, "batches": 1, "broken_chains": 1, "rows_in_files": 0, "files_missing_or_resized": 0,
            "closed_more_than_once": 0, "torn_batches": 0}


def _slot(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    """Level A live and level D: the slot against what is durable, and the canaries that arrived."""
    lake, settings = stores.lake(), load_settings()
    chain, slot = Chain.load(lake), slot_metrics(settings, OLTP, lake)
    return frame({WHOLE: {
        ROWS: sum(last - first + 1 for m in chain.manifests for first, last in m.canaries),
        "batches_read": len(chain.manifests), "slots_not_kept": int(slot.wal_status not in ("reserved", "extended")),
        "acknowledged_beyond_the_log": len(slot_problems(settings, lake, OLTP)),
        "canaries_missing_or_repeated": len(gaps(chain, waiting_canaries(lake)))}})


_equal = partial(proofs, OLTP)


def _equal_alone(table: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    return _equal(stores, [table]).assign(**{PARTITION: WHOLE})


def _daily(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    lake, first_day = stores.lake(), load_settings().first_day
    chain = Chain.load(lake)
    manifests = {day: manifest for day in days if (manifest := dailies.read(lake, table, day)) is not None
                 and lake.size(dailies.data_path(table, day)) is not None}
    batches = {day: [file for batch in chain.batches(day, first_day) for file in batch.files_of(table)]
               for day in manifests}
    open_day = chain.open_day(first_day)
    if open_day in manifests:  # batches that came since its file was made are the next one's
        batches[open_day] = batches[open_day][:len(manifests[open_day].sources)]
    sums = _contents(stores, lake, table, batches)
    counts = {day: Counter(dict.fromkeys(DAILY_COUNTS, 0)) for day in days}  # a missing file leaves all of them 0
    for day, manifest in manifests.items():
        counts[day].update(_daily_counts(lake, manifest, batches[day]))
        counts[day].update({"other_contents": int(sums[day][0] != sums[day][1]),
                            "left_open": int(not manifest.closed and day < open_day)})
    return frame({day.isoformat(): row for day, row in counts.items()})


def _alone(table: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    return _undated(stores, [table]).assign(**{PARTITION: WHOLE})


def _daily_counts(lake: Lake, manifest: Daily, batches: Sequence[BatchFile]) -> dict[str, int]:
    """Counts of one daily file, against its manifest and the batch files of its day."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = lake.read(dailies.data_path(manifest.table, manifest.day))
    file = pq.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    identity = file.read([name for name in IDENTITY if name in names])
    operations: Counter[str] = Counter()
    for batch in batches:
        operations.update(batch.ops)
    return {
        ROWS: file.metadata.num_rows, "files": 1, "columns_read": len(names),
        "manifest_rows": manifest.rows, "batch_rows": sum(batch.rows for batch in batches),
        "columns_missing": len(set(dailies.schema_of(manifest.table).names) - set(names)),
        "rows_without_identity": sum(column.null_count for column in identity.columns),
        "altered_files": int(hashlib.sha256(data).hexdigest() != manifest.sha256),
        "altered_batches": sum(hashlib.sha256(lake.read(b.path)).hexdigest() != b.sha256 for b in batches),
        "other_batches": int([(s.path, s.sha256) for s in manifest.sources] != [(b.path, b.sha256) for b in batches]),
        "other_operations": int(operations != Counter(manifest.ops)),
    }


def _contents(
    stores: Stores, lake: Lake, table: str, batches: Mapping[dt.date, Sequence[BatchFile]]
) -> dict[dt.date, list[int]]:
    """By day the sums of every row's hash: in the daily file and in the batch files it was made from."""
    places = {str(lake.local_path(dailies.data_path(table, day))): (day, 0) for day in batches}
    places |= {str(lake.local_path(file.path)): (day, 1) for day, files in batches.items() for file in files}
    sums = {day: [0, 0] for day in batches}
    if not places:
        return sums
    columns = ", ".join(f'"{name}"' for name in dailies.schema_of(table).names)
    with stores.duck() as duck:
        duck.register("catalogue", dailies.schema_of(table).empty_table())  # columns younger than these files
        rows = duck.execute(f"""
            with rows as (
                select * from read_parquet($files, filename = true, union_by_name = true)
                union all by name select * from catalogue
            )
            select filename, sum(hash({columns})) from rows group by filename""",  # noqa: S608 (catalogue's names)
            {"files": list(places)}).fetchall()
    for name, content in rows:
        day, side = places[name]
        sums[day][side] += content
    return sums


def _undated(stores: Stores, tables: Sequence[str]) -> pd.DataFrame:
    """Tables without days of their own: all their daily files together. The witness is the chain that was read."""
    lake, first_day = stores.lake(), load_settings().first_day
    chain = Chain.load(lake)
    counts = {}
    for table in tables:
        days = chain.days_of(table, first_day)
        found = _daily(table, stores, days) if days else None
        sums = dict.fromkeys((*DAILY_COUNTS, "other_contents", "left_open"), 0) if found is None else {
            name: int(found[name].sum()) for name in found.columns if name != PARTITION}
        counts[table] = {**sums, "days": len(days), "batches_read": len(chain.manifests)}
    return frame(counts)


CHECKS = [
    Check(
        key("cdc", "batches"), "slot_and_canaries_follow",
        "The source keeps its log from where ours ends; nothing durable is missing before it, no canary is.",
        _slot, none_of("slots_not_kept", "acknowledged_beyond_the_log", "canaries_missing_or_repeated"),
        {"batches_read": 1}, partitioned=False),
    Check(
        key("cdc", "batches"), "chain_is_unbroken",
        "Manifests follow each other by hash; their files hold every change that was read, every transaction whole.",
        _batches,
        (equal(ROWS, "rows_in_files"),
         *none_of("broken_chains", "files_missing_or_resized", "closed_more_than_once", "torn_batches")),
        {"batches": 1}),
    *(Check(
        key("cdc", table.name), PROVEN, SAYS, partial(_equal_alone, table.name), RULES, FLOORS, partitioned=False,
        together=None if table.name == SCORES else _equal)
      for table in OLTP_TABLES),
    *(Check(
        key("cdc", table.name), "file_holds_its_batches",
        "The daily file is the one its manifest names and has every row of its batches, with an identity on each.",
        partial(_daily, table.name),
        (equal(ROWS, "manifest_rows"), equal("manifest_rows", "batch_rows"), *none_of(*DAILY_RULES)),
        {"files": 1, "columns_read": 1}) for table in OLTP_TABLES if table.dated),
    *(Check(
        key("cdc", name), "files_hold_their_batches",
        "Every daily file is the one its manifest names and has every row of its batches.",
        partial(_alone, name),
        (equal(ROWS, "manifest_rows"), equal("manifest_rows", "batch_rows"), equal("files", "days"),
         *none_of(*DAILY_RULES)),
        {"batches_read": 1}, partitioned=False, together=_undated) for name in UNDATED),
]
