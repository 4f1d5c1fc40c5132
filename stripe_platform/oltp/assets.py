"""The OLTP tables as assets: one run brings a range of business days, each in its own transaction."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from stripe_platform import progress
from stripe_platform.keys import DATED, TABLES, UNDATED, Table, key
from stripe_platform.oltp.copies import BY_TABLE as COPIES
from stripe_platform.oltp.feed import DayLoad, Feed, count_rows
from stripe_platform.oltp.schema import TableSchema, load_schema
from stripe_platform.oltp.turns import Turns
from stripe_platform.partitions import DAILY, FRESHNESS, SINGLE_RUN, days_of

CONNECTIONS = 2  # a third gains nothing on two cores


def column_schema(table: Table, schema: TableSchema) -> dg.TableSchema:
    """Columns for the catalogue; ciphertext columns carry the tag that travels with lineage."""
    return dg.TableSchema([
        dg.TableColumn(
            c.name, c.type, description=c.comment,
            tags={"sensitive": "ciphertext"} if c.name in schema.sensitive else {},
            constraints=dg.TableColumnConstraints(nullable=c.nullable, unique=table.key == (c.name,)),
        )
        for c in schema.columns
    ])  # fmt: skip


def _spec(table: Table) -> dg.AssetSpec:
    return dg.AssetSpec(
        key("oltp", table.name), group_name="oltp", description=table.description, owners=[table.owner],
        kinds={"postgres", "table"}, partitions_def=DAILY if table.dated else None, freshness_policy=FRESHNESS,
        deps=_deps(table),
        metadata={"dagster/column_schema": column_schema(table, load_schema()[table.name])},
        tags={"growth": table.growth},
    )  # fmt: skip


def _deps(table: Table) -> list[dg.AssetKey]:
    """A copy follows its source; tables without days are brought by the days of the others, and counted after them."""
    source = [key("reference", COPIES[table.name].origin)] if table.name in COPIES else []
    return source if table.dated else [key("oltp", "accounts"), *source]


@dg.multi_asset(
    name="oltp", specs=[_spec(TABLES[name]) for name in DATED], partitions_def=DAILY, backfill_policy=SINGLE_RUN,
    required_resource_keys={"feed"},
)  # fmt: skip
def oltp(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Bring each day of the range through the write API (production: observe it), in order."""
    feed: Feed = context.resources.feed.feed()
    started = time.monotonic()
    loads = bring(feed, days_of(context), context.resources.feed.relieve)
    seconds = round(time.monotonic() - started, 3)
    for name in DATED:
        by_day = {load.day.isoformat(): load.rows.get(name, 0) for load in loads}
        yield dg.MaterializeResult(
            asset_key=key("oltp", name),
            metadata={
                "rows": sum(by_day.values()), "rows_by_day": dg.MetadataValue.json(by_day), "seconds": seconds,
                "days_skipped": sum(load.skipped for load in loads),
                "quarantined": sum(load.quarantined for load in loads), "feed": feed.name,
            },
        )  # fmt: skip


@dg.multi_asset(
    name="oltp_undated", specs=[_spec(TABLES[name]) for name in UNDATED], can_subset=True,
    required_resource_keys={"oltp"},
)
def oltp_undated(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Tables without days of their own: what stands in them now."""
    chosen = [name for name in UNDATED if key("oltp", name) in context.selected_asset_keys]
    with context.resources.oltp.connect() as connection:
        counts = count_rows(connection, chosen)
    for name, rows in counts.items():
        yield dg.MaterializeResult(asset_key=key("oltp", name), metadata={"rows": rows, "dagster/row_count": rows})


def bring(feed: Feed, days: list[dt.date], behind: Callable[[], None] = lambda: None) -> list[DayLoad]:
    """Bring the days, closed in order, with one bar. Days of the feed's own calendar are loaded two at a time.

    `behind` is called after each day's commit, when later days go on.
    """
    calendar = feed.calendar()
    beside = [day for day in days if calendar is not None and day in calendar]
    with progress.stage(f"oltp: {feed.name} days", len(days)) as advance:
        loads = {load.day: load for load in _side_by_side(feed, beside, behind, advance)}
        for day in days:
            if day not in loads:
                loads[day] = feed.bring(day)
                behind()
                advance(1)
    return [loads[day] for day in days]


def _side_by_side(feed: Feed, days: list[dt.date], behind: Callable[[], None],
                  advance: Callable[[float], None]) -> list[DayLoad]:
    """Two connections; the error of the first day that failed, the days before it stand."""
    turns = Turns(days)

    def one(day: dt.date) -> DayLoad:
        with turns.of(day) as turn:
            load = feed.bring(day, turn)
        behind()
        advance(1)
        return load

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="days") as pool:
        tasks = [pool.submit(one, day) for day in days]
    return [task.result() for task in tasks]


OLTP_ASSETS = [oltp, oltp_undated]
