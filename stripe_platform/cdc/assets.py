"""The change log and its states as assets: `cdc/batches`, `cdc/<table>`, `snapshots/<table>`, by ledger day.

The fraud scores' tables are ops of their own: their changes come after the marts that the model was trained on, and
one op for all tables would close a circle.
"""

import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from resources.lake import Lake, LakeResource
from stripe_platform import pictures
from stripe_platform.cdc import dashboard, quarantined
from stripe_platform.cdc import snapshots as states
from stripe_platform.cdc.canary import emit
from stripe_platform.cdc.capture import CaptureError, CaptureReport, capture
from stripe_platform.cdc.compact import compact, compact_range
from stripe_platform.cdc.daily import schema_of
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.metrics import sealing_metrics, slot_metrics
from stripe_platform.cdc.proof import verified
from stripe_platform.cdc.source import OLTP
from stripe_platform.keys import DATED, PLATFORM, SCORES, TABLES, UNDATED, Table, key
from stripe_platform.oltp.schema import load_schema
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of
from stripe_platform.settings import load_settings

BATCHES = key("cdc", "batches")


@dg.asset(
    key=BATCHES, group_name="cdc", owners=[PLATFORM], kinds={"postgres", "parquet"}, partitions_def=DAILY,
    backfill_policy=SINGLE_RUN, freshness_policy=FRESHNESS, deps=[key("oltp", name) for name in (*DATED, *UNDATED)],
    description="Change batches read from the write-ahead log, in commit order, cut at ledger-day boundaries; each is"
    " a set of Parquet files and a hash-chained manifest, durable before the slot is acknowledged.",
)
def batches(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Drain the slot up to the boundary of the range's last day; the open day takes what is committed so far."""
    days = days_of(context)
    emit(load_settings(), OLTP, lake.open())
    report = _capture_until(lake, days[-1])
    chain = Chain.load(lake.open())
    by_day = {d.isoformat(): sum(m.changes for m in chain.batches(d, load_settings().first_day)) for d in days}
    return dg.MaterializeResult(metadata=_dashboard(lake.open(), chain, report) | {
        "rows": sum(by_day.values()), "rows_by_day": dg.MetadataValue.json(by_day),
        "captured_now": report.total, "batches_now": len(report.batches), "transactions_now": report.transactions,
        "rows_per_second": round(report.rows_per_second), "open_day": str(report.open_day),
        "through_seq": chain.manifests[-1].seq if chain.manifests else 0, "seconds": round(report.seconds, 3),
    })


def _dashboard(lake: Lake, chain: Chain, report: CaptureReport) -> dict[str, Any]:
    """How the log does: numbers that Dagster plots over the asset's materializations, and a picture of them."""
    settings = load_settings()
    slot, known = slot_metrics(settings, OLTP, lake), verified(lake)
    as_text = sum(sum(m.unrepresentable.values()) for m in chain.manifests)
    apart, sealing = quarantined.by_store(settings), sealing_metrics(settings, OLTP, lake)
    seen = dashboard.add(lake, dashboard.Sample(
        dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), slot.seconds_behind or 0.0, slot.unacknowledged_bytes,
        slot.kept_bytes, round(report.rows_per_second, 1), as_text, apart["raw"],
        apart["documents"]))
    drawn = dashboard.picture(seen, dashboard.changes_by_day(chain, settings.first_day),
                              dashboard.unproven(lake, chain, [*DATED, SCORES, *UNDATED]))
    return {
        "dashboard": dg.MetadataValue.md(pictures.as_markdown(drawn, "lag, log kept, put aside, days, proofs")),
        "slot_unacknowledged_bytes": slot.unacknowledged_bytes, "slot_kept_bytes": slot.kept_bytes,
        "slot_status": slot.wal_status, "seconds_behind": slot.seconds_behind or 0.0,
        "values_kept_as_text": as_text, "sealing_failures": sealing.sealing_failures,
        **{f"{store}_put_aside": count for store, count in apart.items() if count is not None},
        "tables_verified": sum("verified_through" in facts for facts in known.values()),
        "tables_differing": sum("differs_at" in facts for facts in known.values()),
        "verified_through": dg.MetadataValue.json(
            {table: facts.get("verified_through", "never") for table, facts in known.items()}),
    }


def _capture_until(lake: LakeResource, day: dt.date) -> CaptureReport:
    """Capture to a day's boundary; a day that lies beyond the open one is refused."""
    report = capture(load_settings(), day, lake=lake.open())
    if report.open_day is not None and day > report.open_day:
        raise CaptureError(f"ledger day {day} has not begun at the source, the open day is {report.open_day}:"
                           " materialize its oltp assets first, days close in order")
    return report


def change_columns(table: Table) -> dg.TableSchema:
    """Columns of a table's change files: its own, with their tags, and the envelope."""
    own = {c.name: c for c in load_schema()[table.name].columns}
    sensitive = load_schema()[table.name].sensitive
    return dg.TableSchema([
        dg.TableColumn(
            field.name, str(field.type), description=own[field.name].comment if field.name in own else None,
            tags={"sensitive": "ciphertext"} if field.name in sensitive else {})
        for field in schema_of(table.name)
    ])


Deps = Mapping[str, list[dg.AssetKey]]


def _specs(layer: str, names: Sequence[str], sentence: str, deps: Deps) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            key(layer, name), deps=deps[name], group_name=layer, owners=[PLATFORM], kinds={"parquet"},
            partitions_def=DAILY if TABLES[name].dated else None, freshness_policy=FRESHNESS,
            description=f"{TABLES[name].description}: {sentence}",
            metadata={"dagster/column_schema": change_columns(TABLES[name])}, tags={"growth": TABLES[name].growth})
        for name in names
    ]


def _compacted(op: str, names: Sequence[str], deps: Deps, *,
               captures: bool = False) -> dg.AssetsDefinition:
    """One op that compacts the selected tables. `captures`: it drains the slot first, having no batches run for it."""

    @dg.multi_asset(
        name=op, can_subset=True, partitions_def=DAILY, backfill_policy=SINGLE_RUN,
        specs=_specs("cdc", names, "its changes of one ledger day, sorted by key, in commit order within a key.", deps))
    def compacted(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult]:
        """Make the days' files of the selected tables from their batches."""
        days, begun = days_of(context), time.monotonic()
        if captures:
            _capture_until(lake, days[-1])
        opened, settings = lake.open(), load_settings()
        chosen = sorted(k.path[-1] for k in context.selected_asset_keys)
        made, proven = compact_range(opened, chosen, days, first_day=settings.first_day), verified(opened)
        seconds = round(time.monotonic() - begun, 3)
        for name in chosen:
            by_day = {d.day.isoformat(): d.rows for d in made[name]}
            yield dg.MaterializeResult(asset_key=key("cdc", name), metadata={
                "rows": sum(by_day.values()), "rows_by_day": dg.MetadataValue.json(by_day), "seconds": seconds,
                "dagster/uri": f"{opened.url}/cdc/daily/{name}",
                "verified_through": proven.get(name, {}).get("verified_through", "never"),
                "open_days": sum(not d.closed for d in made[name])})

    return compacted


@dg.multi_asset(
    name="cdc_undated", can_subset=True,
    specs=_specs("cdc", UNDATED, "its changes by ledger day, sorted by key.", {name: [BATCHES] for name in UNDATED}))
def undated(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult]:
    """Compact the ledger days on which these tables changed: most days they do not."""
    begun, opened, first_day = time.monotonic(), lake.open(), load_settings().first_day
    chain = Chain.load(opened)
    for name in [name for name in UNDATED if key("cdc", name) in context.selected_asset_keys]:
        days = chain.days_of(name, first_day)
        made = [compact(opened, name, day, chain=chain, first_day=first_day) for day in days]
        yield dg.MaterializeResult(asset_key=key("cdc", name), metadata={
            "rows": sum(d.rows for d in made), "days": len(made), "seconds": round(time.monotonic() - begun, 3),
            "dagster/uri": f"{opened.url}/cdc/daily/{name}"})


class SnapshotConfig(dg.Config):
    """`allow_resnapshot`: replace a past day's snapshot that stands with other content."""

    allow_resnapshot: bool = False


def _snapshots(op: str, names: Sequence[str]) -> dg.AssetsDefinition:
    deps = {name: [key("cdc", name)] for name in names}

    @dg.multi_asset(
        name=op, can_subset=True, partitions_def=DAILY, backfill_policy=SINGLE_RUN,
        specs=_specs("snapshots", names, "its state at the ledger day's closing LSN.", deps))
    def snapshots(
        context: dg.AssetExecutionContext, lake: LakeResource, config: SnapshotConfig,
    ) -> Iterator[dg.MaterializeResult]:
        days, begun, opened = days_of(context), time.monotonic(), lake.open()
        chosen = sorted(k.path[-1] for k in context.selected_asset_keys)
        made = states.snapshot_range(opened, chosen, days, allow_resnapshot=config.allow_resnapshot)
        seconds = round(time.monotonic() - begun, 3)
        for name in chosen:
            by_day = {day.isoformat(): snapshot.rows for day, snapshot in made[name].items()}
            yield dg.MaterializeResult(asset_key=key("snapshots", name), metadata={
                "rows": list(by_day.values())[-1] if by_day else 0, "rows_by_day": dg.MetadataValue.json(by_day),
                "days_left_to_the_log": len(days) - len(by_day), "seconds": seconds,
                "dagster/uri": f"{opened.url}/snapshots/{name}"})

    return snapshots


CDC_ASSETS = [
    batches,
    undated,
    _compacted("cdc_tables", DATED, {name: [BATCHES] for name in DATED}),
    _compacted("cdc_fraud_assessments", [SCORES], {SCORES: [BATCHES, key("oltp", SCORES)]}, captures=True),
    _snapshots("snapshots_tables", DATED),
    _snapshots("snapshots_fraud_assessments", [SCORES]),
]
