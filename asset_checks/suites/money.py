"""The same money in every store: what the OLTP charged on a day is what marts and documents say of it (ledger, L24)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from asset_checks.judge import ROWS, Check
from asset_checks.rules import none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.documents.slices import grouped
from stripe_platform.keys import key
from stripe_platform.oltp.calendar import SOURCE
from stripe_platform.oltp.ids import boundary_id

if TYPE_CHECKING:
    import pandas as pd

Sums = dict[tuple[str, str], tuple[int, int]]  # (day, currency) -> charges, minor units
OfLayer = Callable[[Stores, Sequence[dt.date]], Sums]

# Our own ids carry their instant; charges of other ids, which Stripe made, lie in the default partition.
_CHARGED = """
with days as (
    select * from unnest(%(days)s::date[], %(low)s::text[], %(high)s::text[]) as d (day, low, high)
)
select d.day::text, c.currency, count(*), sum(c.amount)
from days d cross join lateral (
    select c.currency, c.amount from oltp.charges c where c.id collate "C" >= d.low and c.id collate "C" < d.high
    union all
    select c.currency, c.amount from oltp.charges_default c
    where c.created >= d.day::timestamp at time zone 'UTC' and c.created < (d.day + 1)::timestamp at time zone 'UTC'
        and not (c.id collate "C" >= d.low and c.id collate "C" < d.high)
) c group by 1, 2
"""


def _charged(stores: Stores, days: Sequence[dt.date]) -> tuple[Sums, set[str], int]:
    """Charges of the OLTP, which of the days are closed, and 1 when there are charges at all."""
    following = [day + dt.timedelta(days=1) for day in days]
    with stores.oltp() as connection:
        rows = connection.execute(_CHARGED, {
            "days": list(days), "low": [boundary_id("ch", day) for day in days],
            "high": [boundary_id("ch", day) for day in following]}).fetchall()
        closed = connection.execute(
            "select day::text from ops.day_ledger where source = %s and day = any(%s)", [SOURCE, list(days)]).fetchall()
        filled = connection.execute("select 1 from oltp.charges limit 1").fetchall()
    sums = {(day, currency): (int(n), int(money)) for day, currency, n, money in rows}
    return sums, {day for (day,) in closed}, len(filled)


def _of_marts(stores: Stores, days: Sequence[dt.date]) -> Sums:
    query = ("select event_day::text, currency, count(*), sum(amount) from marts.fct_charges"
             " where event_day = any(%s) group by 1, 2")
    with stores.warehouse() as connection, connection.cursor() as cursor:
        cursor.execute(query, [list(days)])
        return {(day, currency): (int(n), int(money)) for day, currency, n, money in cursor.fetchall()}


def _of_documents(stores: Stores, days: Sequence[dt.date]) -> Sums:
    with stores.mongo() as database:
        rows = grouped(database, "transactions", days, {"day": "$day", "currency": "$currency"}, {"amount": "$amount"})
    return {(row["_id"]["day"], row["_id"]["currency"]): (int(row["n"]), int(row["amount"])) for row in rows}


def _equal(of_layer: OfLayer, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    there = of_layer(stores, days)
    charged, closed, filled = _charged(stores, days)
    counts = {}
    for day in (day.isoformat() for day in days):
        currencies = {currency for of, currency in charged.keys() | there.keys() if of == day}
        sides = [(charged.get((day, c), (0, 0)), there.get((day, c), (0, 0))) for c in currencies]
        counts[day] = {
            ROWS: sum(theirs[0] for _, theirs in sides), "charges_filled": filled,
            # An open day goes on while it is counted: then only more than was charged is a difference.
            "currencies_with_other_sums": sum(
                ours != theirs if day in closed else theirs[0] > ours[0] for ours, theirs in sides)}
    return frame(counts)


CHECKS = [
    Check(
        key(*asset), "money_equals_the_oltp",
        "Charges and their amounts by currency are those that the payments database charged on the day (ledger, L24).",
        partial(_equal, of_layer), none_of("currencies_with_other_sums"), {"charges_filled": 1}, blocking=False)
    for asset, of_layer in ((("marts", "fct_charges"), _of_marts), (("documents", "transactions"), _of_documents))
]
