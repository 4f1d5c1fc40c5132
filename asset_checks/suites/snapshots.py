"""Snapshots of tables that are copied whole every day; growing tables are checkpoint and log, judged there."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from asset_checks.judge import ROWS, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import snapshots as states
from stripe_platform.keys import OLTP_TABLES, key

if TYPE_CHECKING:
    import pandas as pd

    from resources.lake import Lake

# Reference tables that are never empty; a company of one currency may quote no exchange rate.
SEEDED = ("currencies", "countries")


def _profile(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    lake = stores.lake()
    return frame({day.isoformat(): _counts(lake, table, day) for day in days})


def _counts(lake: Lake, table: str, day: dt.date) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = (ROWS, "files", "columns_read", "manifest_rows", "lost_rows", "repeated_keys", "altered_files")
    state = states.read(lake, table, day)
    if state is None or lake.size(states.data_path(table, day)) is None:
        return dict.fromkeys(names, 0)
    key_columns = list(dailies.key_of(table))
    data = lake.read(states.data_path(table, day))
    content = pq.read_table(pa.BufferReader(data), columns=key_columns)
    previous = states.read(lake, table, day - dt.timedelta(days=1))
    log = dailies.read(lake, table, day)
    gone = sum((log.ops.get("d", 0), log.ops.get("t", 0) * content.num_rows)) if log else 0
    return {
        ROWS: content.num_rows, "files": 1, "columns_read": len(content.column_names), "manifest_rows": state.rows,
        "lost_rows": max(0, (previous.rows if previous else 0) - gone - content.num_rows),
        "repeated_keys": content.num_rows - content.group_by(key_columns).aggregate([]).num_rows,
        "altered_files": int(hashlib.sha256(data).hexdigest() != state.sha256),
    }


CHECKS = [
    Check(
        key("snapshots", table.name), "state_lost_nothing",
        "The file is the one its manifest names; it has every row of the day before that the log did not delete.",
        partial(_profile, table.name),
        (equal(ROWS, "manifest_rows"), *none_of("lost_rows", "repeated_keys", "altered_files")),
        {"files": 1, "columns_read": 1} | ({ROWS: 1} if table.name in SEEDED else {}))
    for table in OLTP_TABLES if table.dated and table.growth != "growing"
]
