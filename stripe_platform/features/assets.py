"""features/charge as an asset: a daily partition by event day, a range is one run."""

import time

import dagster as dg

from resources.warehouse import WarehouseResource
from stripe_platform.features.build import build
from stripe_platform.features.declarations import FEATURES, feature_set_hash, history_days
from stripe_platform.features.sql import column_types
from stripe_platform.keys import RISK, key
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of
from stripe_platform.progress import stage

KEY_TEXTS = {
    "charge_id": "Charge that the features describe",
    "event_day": "UTC day of the charge; the partition",
    "event_ts": "When the charge was made: nothing known later is in its features",
    "customer_token": "Random name of the payer",
    "terminal_id": "Point of sale; null for charges without one",
}
# A day reads the days its longest window reaches back; before the first partition Dagster cuts the mapping off.
HISTORY = dg.TimeWindowPartitionMapping(start_offset=-history_days(), end_offset=0)


def column_schema() -> dg.TableSchema:
    """Columns of features.charge with what each means."""
    texts = KEY_TEXTS | {f.name: f.description for f in FEATURES}
    return dg.TableSchema([dg.TableColumn(name, kind, texts[name]) for name, kind in column_types().items()])


@dg.asset(
    key=key("features", "charge"),
    group_name="features",
    owners=[RISK],
    kinds={"postgres", "table"},
    description=f"Fifteen features of each charge that did not fail, point in time. A day reads {history_days()} days "
    "of charges and disputes before it; days before the first partition count as empty.",
    deps=[dg.AssetDep(key("marts", name), partition_mapping=HISTORY) for name in ("fct_charges", "fct_disputes")],
    metadata={"dagster/column_schema": column_schema(), "dagster/table_name": "features.charge"},
    code_version=feature_set_hash()[:12],
    partitions_def=DAILY,
    backfill_policy=SINGLE_RUN,
    freshness_policy=FRESHNESS,
)
def charge(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """Rebuild the run's event days."""
    days, started = days_of(context), time.monotonic()
    with stage("features", total=1) as advance:
        with warehouse.connect() as connection:
            rows = build(connection, days[0], days[-1])
        advance(1)
    return dg.MaterializeResult(metadata={
        "dagster/row_count": sum(rows.values()),
        "rows_by_day": dg.MetadataValue.json({day.isoformat(): rows.get(day, 0) for day in days}),
        "feature_set": feature_set_hash(),
        "history_days": history_days(),
        "seconds": round(time.monotonic() - started, 2),
    })


FEATURE_ASSETS = [charge]
