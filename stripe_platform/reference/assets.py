"""The reference database's tables as assets: what stands in them, after the copies were brought up to it."""

from collections.abc import Iterator

import dagster as dg

from stripe_platform.keys import REFERENCE_TABLES, key
from stripe_platform.oltp.assets import column_schema
from stripe_platform.partitions import FRESHNESS
from stripe_platform.reference.database import schemas
from stripe_platform.reference.outbox import relay
from stripe_platform.reference.sync import prepare
from stripe_platform.settings import load_settings


@dg.multi_asset(
    name="reference", required_resource_keys={"reference"}, can_subset=True,
    specs=[
        dg.AssetSpec(
            key("reference", table.name), group_name="reference", owners=[table.owner], kinds={"postgres", "table"},
            description=f"{table.description}. Source of truth; the OLTP holds a copy, fed by this database's log.",
            metadata={"dagster/column_schema": column_schema(table, schemas()[table.name])}, freshness_policy=FRESHNESS,
            tags={"growth": table.growth})
        for table in REFERENCE_TABLES
    ],
)  # fmt: skip
def reference(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Capture the reference's changes, bring the copies up to them, deliver what waits in the outbox, count."""
    settings = load_settings()
    prepare(settings)
    report = relay(settings)
    if report.problems:
        context.log.warning("; ".join(report.problems))
    counts = context.resources.reference.count([table.name for table in REFERENCE_TABLES])
    for name, rows in counts.items():
        if key("reference", name) in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key("reference", name), metadata={
                "rows": rows, "dagster/row_count": rows, "position": report.sync.position or "nothing yet",
                "captured_now": report.sync.captured.get(name, 0), "outbox_done": report.done,
                "outbox_waiting": len(report.problems)})


REFERENCE_ASSETS = [reference]
