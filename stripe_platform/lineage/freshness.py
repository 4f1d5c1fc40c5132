"""How far every asset lags behind the newest closed ledger day.

Dagster's own time-window policy judges by the wall clock and turns green when an old day is backfilled; here an
asset is fresh when the partition that is due has been materialized. Never materialized counts as failed.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg

WARN_DAYS, FAIL_DAYS = 1, 2


def freshness(defs: dg.Definitions, instance: dg.DagsterInstance, closed: dt.date) -> list[dict[str, Any]]:
    """One row per asset: newest partition, days behind `closed`, state in fresh|late|failed; worst first."""
    graph = defs.get_repository_def().asset_graph
    rows = []
    for key in sorted(graph.executable_asset_keys, key=lambda k: k.to_user_string()):
        node = graph.get(key)
        if node.partitions_def is None:
            newest = _written_on(instance, key)
        else:
            partitions = instance.get_materialized_partitions(key)
            newest = max((dt.date.fromisoformat(p) for p in partitions), default=None)
        # An unpartitioned asset is rebuilt by the runs of the day: it is fresh when it exists at all.
        lag = None if newest is None else 0 if node.partitions_def is None else max((closed - newest).days, 0)
        state = "failed" if lag is None or lag >= FAIL_DAYS else "late" if lag >= WARN_DAYS else "fresh"
        rows.append({"asset": key.to_user_string(), "newest": newest, "days_behind": lag, "state": state})
    order = {"failed": 0, "late": 1, "fresh": 2}
    return sorted(rows, key=lambda row: (order[row["state"]], row["asset"]))


def _written_on(instance: dg.DagsterInstance, key: dg.AssetKey) -> dt.date | None:
    event = instance.get_latest_materialization_event(key)
    return None if event is None else dt.datetime.fromtimestamp(event.timestamp, tz=dt.UTC).date()
