"""The dbt models as Dagster assets, in three operations.

`dbt_reference` (views and dimensions, no partitions), `dbt_facts` (daily), `dbt_scores` (daily). Scores stand apart
because they come back from the model that reads the facts: in one operation the graph would have a circle.
"""
# No `from __future__ import annotations` here: Dagster resolves the operations' config class from its annotation.

import datetime as dt
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliInvocation, DbtCliResource, dbt_assets
from psycopg import sql

from resources.warehouse import WarehouseResource
from stripe_platform.partitions import DAILY, SINGLE_RUN, days_of
from stripe_platform.progress import drawing, stage
from stripe_platform.settings import load_settings
from stripe_platform.warehouse.certify import certified
from stripe_platform.warehouse.dbt_args import build_args
from stripe_platform.warehouse.dbt_project import load_manifest
from stripe_platform.warehouse.dbt_resource import dbt_resource
from stripe_platform.warehouse.inputs import raw_inputs, tagged
from stripe_platform.warehouse.translator import WarehouseTranslator

__all__ = ["DBT_ASSETS", "DbtRun", "dbt_resource"]

MAX_NAMED_DAYS = 100  # event days named in metadata; the count is always exact
_WRITER_LOCK = 7_203_115  # one dbt at a time per warehouse: two would drop each other's staging views

_MANIFEST = load_manifest(load_settings().warehouse)
_TRANSLATOR = WarehouseTranslator()


class DbtRun(dg.Config):
    """Run configuration of a dbt operation."""

    full_refresh: bool = False  # rebuild all days from raw, whatever days the run names


def _build(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, warehouse: WarehouseResource, config: DbtRun, tag: str,
    days: Sequence[dt.date] | None,
) -> Iterator[Any]:
    models = tagged(_MANIFEST, tag)
    with _writer(warehouse):
        with warehouse.connect() as conn:
            certified(conn, raw_inputs(_MANIFEST, models), days)
        folder = load_settings().home / "dbt" / f"{context.run.run_id}-{tag}"
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        invocation = dbt.cli(build_args(days, full_refresh=config.full_refresh), context=context, target_path=folder)
        with stage(f"dbt {tag}", total=len(models)) as advance:
            for event in _read(invocation):
                if isinstance(event, dg.Output):
                    advance(1)
                    event = event.with_metadata({**event.metadata, **_figures(warehouse, event, days)})
                yield event
        context.log.info("dbt %s: %d models in %.1f s", tag, len(models), time.monotonic() - started)
    shutil.rmtree(folder)  # kept, with dbt's log, only when something failed


def _read(invocation: DbtCliInvocation) -> Iterator[Any]:
    """The invocation's events. dagster-dbt prints dbt's lines as it reads: for a run's logs, not between bars."""
    if not drawing():
        yield from invocation.stream()
        return
    events = iter(invocation.stream())
    while True:
        with redirect_stdout(StringIO()):
            event = next(events, None)
        if event is None:
            return
        yield event


def _figures(
    warehouse: WarehouseResource, event: dg.Output[Any], days: Sequence[dt.date] | None
) -> dict[str, dg.MetadataValue]:
    """Rows of the model just built; for facts also rows per day of the run and the days it rewrote."""
    unique_id = event.metadata["unique_id"].value
    node = _MANIFEST["nodes"][unique_id]
    if node["fqn"][1] != "marts":
        return {}
    table = sql.Identifier("marts", node["name"])
    with warehouse.connect() as conn, conn.cursor() as cursor:
        if node["config"]["materialized"] != "incremental":
            cursor.execute(sql.SQL("select count(*) from {}").format(table))
            return {"dagster/row_count": dg.MetadataValue.int((cursor.fetchone() or (0,))[0])}
        cursor.execute(sql.SQL("select event_day, count(*) from {} group by event_day").format(table))
        rows = dict(cursor.fetchall())
        cursor.execute("select event_day from ops.touched_days where mart = %s order by event_day", [node["name"]])
        rewritten = [day.isoformat() for (day,) in cursor.fetchall()]
    return {
        "dagster/row_count": dg.MetadataValue.int(sum(rows.values())),
        "rows_by_day": dg.MetadataValue.json({day.isoformat(): rows.get(day, 0) for day in days or ()}),
        "event_days_rewritten": dg.MetadataValue.int(len(rewritten)),
        "event_days": dg.MetadataValue.json(rewritten[:MAX_NAMED_DAYS]),
    }


@contextmanager
def _writer(warehouse: WarehouseResource) -> Iterator[None]:
    """Hold the warehouse's dbt lock; a second run waits. Snowflake has no such lock: runs queue by pool there."""
    if warehouse.kind == "snowflake":
        yield
        return
    with warehouse.connect() as conn:
        conn.autocommit = True
        conn.execute("select pg_advisory_lock(%s)", [_WRITER_LOCK])
        yield


@dbt_assets(
    manifest=_MANIFEST, name="dbt_reference", select="tag:reference", dagster_dbt_translator=_TRANSLATOR,
    backfill_policy=SINGLE_RUN,  # no days, but a range of days may then run in one with them
    pool="dbt",
)
def reference(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, warehouse: WarehouseResource, config: DbtRun
) -> Iterator[Any]:
    """Staging views and dimensions."""
    yield from _build(context, dbt, warehouse, config, "reference", None)


@dbt_assets(
    manifest=_MANIFEST, name="dbt_facts", select="tag:facts", dagster_dbt_translator=_TRANSLATOR,
    partitions_def=DAILY, backfill_policy=SINGLE_RUN, pool="dbt",
)
def facts(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, warehouse: WarehouseResource, config: DbtRun
) -> Iterator[Any]:
    """Charges, refunds, disputes and their daily aggregate: the event days that the run's ledger days touch."""
    yield from _build(context, dbt, warehouse, config, "facts", days_of(context))


@dbt_assets(
    manifest=_MANIFEST, name="dbt_scores", select="tag:scores", dagster_dbt_translator=_TRANSLATOR,
    partitions_def=DAILY, backfill_policy=SINGLE_RUN, pool="dbt",
)
def scores(
    context: dg.AssetExecutionContext, dbt: DbtCliResource, warehouse: WarehouseResource, config: DbtRun
) -> Iterator[Any]:
    """Scores that came back through the OLTP."""
    yield from _build(context, dbt, warehouse, config, "scores", days_of(context))


DBT_ASSETS = [reference, facts, scores]
