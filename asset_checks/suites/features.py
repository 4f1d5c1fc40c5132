"""Features by event day: one row per charge that may be scored, and counts that grow with their window."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psycopg import sql

from asset_checks.judge import ROWS, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import counted
from stripe_platform.features.declarations import FEATURES, Rolling
from stripe_platform.keys import key

if TYPE_CHECKING:
    import pandas as pd

_PROFILE = """
with built as (
    select event_day as day, count(*) as n, {counts}
    from features.charge where event_day = any(%(days)s::date[]) group by 1
),
expected as (
    select event_day as day, count(*) as n from marts.fct_charges
    where event_day = any(%(days)s::date[]) and status <> 'failed' group by 1
)
select d.day::text as partition, coalesce(b.n, 0) as rows_scanned, coalesce(e.n, 0) as charges, {filled},
    (select count(*) from (select 1 from marts.fct_charges limit 1) s) as facts_filled
from unnest(%(days)s::date[]) as d (day) left join built b on b.day = d.day left join expected e on e.day = d.day
"""


def _conditions() -> dict[str, sql.Composable]:
    """Violations from the declarations: windows of one entity and aggregate must nest, shares lie in [0, 1]."""
    rolling = [f for f in FEATURES if isinstance(f, Rolling)]
    counts = [f for f in rolling if f.aggregate == "count"]
    nested = [
        sql.SQL("{} > {}").format(sql.Identifier(short.name), sql.Identifier(long.name))
        for short in counts for long in counts
        if (short.entity, short.delay_days) == (long.entity, long.delay_days) and short.window_days < long.window_days]
    shares = [sql.SQL("not ({0} >= 0 and {0} <= 1)").format(sql.Identifier(f.name))
              for f in rolling if f.aggregate == "fraud_share"]
    either = sql.SQL(" or ").join
    return {
        "null_keys": sql.SQL("customer_token is null or event_ts is null"),
        "null_counts": either([sql.SQL("{} is null").format(sql.Identifier(f.name))
                               for f in counts if f.entity == "customer"]),
        "negative_counts": either([sql.SQL("{} < 0").format(sql.Identifier(f.name)) for f in counts]),
        "shrinking_windows": either(nested),
        "shares_outside": either(shares),
    }


def _profile(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    conditions = _conditions()
    query = sql.SQL(_PROFILE).format(
        counts=sql.SQL(", ").join(
            sql.SQL("count(*) filter (where {}) as {}").format(condition, sql.Identifier(name))
            for name, condition in conditions.items()),
        filled=sql.SQL(", ").join(
            sql.SQL("coalesce(b.{0}, 0) as {0}").format(sql.Identifier(name)) for name in conditions))
    with stores.warehouse() as connection:
        return counted(connection, query, days)


CHECKS = [
    Check(
        key("features", "charge"), "features_are_complete_and_nested",
        "One row per charge that did not fail; no missing key or count; longer windows hold shorter ones.",
        _profile, (equal(ROWS, "charges"), *none_of(
            "null_keys", "null_counts", "negative_counts", "shrinking_windows", "shares_outside")),
        {"facts_filled": 1}),
]
