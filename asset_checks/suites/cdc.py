"""The change log: batches follow each other, and the daily files hold what their batches held."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from asset_checks.judge import ROWS, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.manifest import Chain, ChainError
from stripe_platform.keys import OLTP_TABLES, key
from stripe_platform.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from resources.lake import Lake


DAILY_COUNTS = (ROWS, "files", "columns_read", "manifest_rows", "batch_rows", "columns_missing",
                "rows_without_identity", "altered_files", "left_open")


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
        }
    return frame(counts)


def _broken() -> dict[str, int]:
    return {ROWS: 0, "batches": 1, "broken_chains": 1, "rows_in_files": 0, "files_missing_or_resized": 0,
            "closed_more_than_once": 0}


def _daily(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    lake = stores.lake()
    open_day = Chain.load(lake).open_day(load_settings().first_day)
    return frame({day.isoformat(): _daily_counts(lake, table, day, open_day) for day in days})


def _daily_counts(lake: Lake, table: str, day: dt.date, open_day: dt.date) -> Counter[str]:
    """Counts of one daily file, against its manifest and its batches; a missing file leaves all of them 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = Counter(dict.fromkeys(DAILY_COUNTS, 0))
    manifest = dailies.read(lake, table, day)
    if manifest is None or lake.size(dailies.data_path(table, day)) is None:
        return found
    data = lake.read(dailies.data_path(table, day))
    content = pq.read_table(pa.BufferReader(data))
    expected = set(dailies.schema_of(table).names)
    identity = [content[name] for name in ("_epoch", "_commit_lsn", "_ord", "_op") if name in content.column_names]
    found.update({
        ROWS: content.num_rows, "files": 1, "columns_read": len(content.column_names),
        "manifest_rows": manifest.rows, "batch_rows": sum(manifest.ops.values()),
        "columns_missing": len(expected - set(content.column_names)),
        "rows_without_identity": sum(column.null_count for column in identity),
        "altered_files": int(hashlib.sha256(data).hexdigest() != manifest.sha256),
        "left_open": int(not manifest.closed and day < open_day),
    })
    return found


CHECKS = [
    Check(
        key("cdc", "batches"), "chain_is_unbroken",
        "Manifests follow each other by hash; their files stand and hold every change that was read.",
        _batches,
        (equal(ROWS, "rows_in_files"), *none_of("broken_chains", "files_missing_or_resized", "closed_more_than_once")),
        {"batches": 1}),
    *(Check(
        key("cdc", table.name), "file_holds_its_batches",
        "The daily file is the one its manifest names, complete, with an identity on every change.",
        partial(_daily, table.name),
        (equal(ROWS, "manifest_rows"), equal("manifest_rows", "batch_rows"),
         *none_of("columns_missing", "rows_without_identity", "altered_files", "left_open")),
        {"files": 1, "columns_read": 1}) for table in OLTP_TABLES),
]
