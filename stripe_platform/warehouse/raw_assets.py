"""`raw/<table>`: the OLTP's rows in the warehouse, by ledger day."""

import datetime as dt
import time
from collections.abc import Iterator, Sequence

import dagster as dg

from resources.lake import Lake, LakeResource
from resources.warehouse import WarehouseResource
from stripe_platform import progress
from stripe_platform.cdc.manifest import Chain
from stripe_platform.keys import DATED, PLATFORM, SCORES, TABLES, UNDATED, key
from stripe_platform.oltp.schema import load_schema
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import raw, raw_snowflake
from stripe_platform.warehouse.raw import ApplyReport

FENCE_COLUMNS = (
    ("_source", "text", "Source of the change"),
    ("_epoch", "text", "Life of the replication slot; positions compare only within one"),
    ("_commit_lsn", "bigint", "Log position of the commit that last changed the row"),
    ("_ord", "bigint", "Ordinal of that change in its transaction"),
    ("_deleted", "boolean", "Tombstone: the row is gone at the source"),
    ("_ledger_day", "date", "Ledger day of that change"),
)


class UnsupportedWarehouseError(RuntimeError):
    """The warehouse of this deployment cannot do what was asked; the message says what it can."""


class RawConfig(dg.Config):
    """`reapply`: write days that stand once more, over rows that were spoilt since."""

    reapply: bool = False


def _columns(table: str) -> dg.TableSchema:
    own = load_schema()[table]
    return dg.TableSchema([
        *(dg.TableColumn(name, kind, description=own.column(name).comment,
                         constraints=dg.TableColumnConstraints(unique=own.key == (name,)))
          for name, kind in raw.columns_of(table)),
        *(dg.TableColumn(name, kind, description=text) for name, kind, text in FENCE_COLUMNS),
    ])


def _spec(name: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        key("raw", name), deps=[key("cdc", name)], group_name="raw", owners=[PLATFORM], kinds={"postgres", "table"},
        partitions_def=DAILY if TABLES[name].dated else None, freshness_policy=FRESHNESS,
        tags={"growth": TABLES[name].growth},
        description=f"{TABLES[name].description}: the rows as the change log leaves them, tombstones included.",
        metadata={"dagster/column_schema": _columns(name), "dagster/table_name": f"raw.{name}"})


def _apply(warehouse: WarehouseResource, lake: Lake, table: str, days: Sequence[dt.date], chain: Chain,
           config: RawConfig) -> ApplyReport:
    first_day = load_settings().first_day
    with warehouse.connect() as connection:
        if warehouse.kind == "postgres":
            return raw.apply(connection, lake, table, days, chain=chain, first_day=first_day, reapply=config.reapply)
        if config.reapply:
            raise UnsupportedWarehouseError(
                f"spoilt rows are mended in PostgreSQL only, this deployment's warehouse is {warehouse.kind}: drop"
                f" RAW.{table} and its rows of RAW._APPLIED, then materialize its days again")
        return raw_snowflake.apply(connection, lake, table, days, chain=chain, first_day=first_day)


def _raw(op: str, names: Sequence[str]) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=op, can_subset=True, partitions_def=DAILY, backfill_policy=SINGLE_RUN,
        specs=[_spec(name) for name in names])
    def loaded(
        context: dg.AssetExecutionContext, lake: LakeResource, warehouse: WarehouseResource, config: RawConfig,
    ) -> Iterator[dg.MaterializeResult]:
        """Bring the ledger days' changes into the raw tables, behind the fence."""
        days, opened = days_of(context), lake.open()
        chain = Chain.load(opened)
        chosen = sorted(k.path[-1] for k in context.selected_asset_keys)
        for name in chosen:
            begun = time.monotonic()
            report = _apply(warehouse, opened, name, days, chain, config)
            by_day = {day.isoformat(): rows for day, rows in report.rows.items()}
            yield dg.MaterializeResult(asset_key=key("raw", name), metadata={
                "rows": sum(by_day.values()), "rows_by_day": dg.MetadataValue.json(by_day),
                "dagster/row_count": report.total, "days_applied": len(report.days), "keys_changed": report.keys,
                "values_without_type": report.unheld,
                "quarantined": report.quarantined,
                "through_seq": dg.MetadataValue.json({d.isoformat(): n for d, n in report.through_seq.items()}),
                "seconds": round(time.monotonic() - begun, 3)})

    return loaded


@dg.multi_asset(name="raw_undated", can_subset=True, specs=[_spec(name) for name in UNDATED])
def undated(
    context: dg.AssetExecutionContext, lake: LakeResource, warehouse: WarehouseResource, config: RawConfig,
) -> Iterator[dg.MaterializeResult]:
    """Bring every ledger day on which these tables changed into raw, behind the same fence."""
    opened, first_day = lake.open(), load_settings().first_day
    chain = Chain.load(opened)
    chosen = [name for name in UNDATED if key("raw", name) in context.selected_asset_keys]
    with progress.stage("apply raw: tables without days", len(chosen)) as advance:
        for name in chosen:
            report = _apply(warehouse, opened, name, chain.days_of(name, first_day), chain, config)
            yield dg.MaterializeResult(asset_key=key("raw", name), metadata={
                "rows": sum(report.rows.values()), "dagster/row_count": report.total, "keys_changed": report.keys,
                "values_without_type": report.unheld, "quarantined": report.quarantined,
                "days_applied": len(report.days), "seconds": round(report.seconds, 3)})
            advance(1)


RAW_ASSETS = [_raw("raw_tables", DATED), undated, _raw("raw_fraud_assessments", [SCORES])]
