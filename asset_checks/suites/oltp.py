"""The OLTP, day by day: read through the primary keys, whose ids carry their day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from asset_checks.judge import PARTITION, Check
from asset_checks.rules import none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import counted
from stripe_platform.fraud.model import assessed_days
from stripe_platform.keys import TABLES, key
from stripe_platform.money import THREE_DECIMAL, ZERO_DECIMAL
from stripe_platform.oltp.calendar import SOURCE
from stripe_platform.oltp.feed import PREFIXES
from stripe_platform.oltp.ids import boundary_id

if TYPE_CHECKING:
    import pandas as pd

# A day may bring no charge (the tail of a simulation brings disputes only), so the witnesses of work are the closed
# day and a table that is not empty: for refunds and disputes the charges, a merchant may never have refunded.
FLOORS = {"days_closed": 1, "table_filled": 1}

_PROFILE = """
with days as (
    select * from unnest(%(days)s::date[], %(low)s::text[], %(high)s::text[]) as d (day, low, high)
)
select d.day::text as partition, t.*,
    (select count(*) from ops.day_ledger l where l.source = %(source)s and l.day = d.day) as days_closed,
    (select count(*) from (select 1 from {witness} limit 1) s) as table_filled
from days d
cross join lateral (
    select count(*) as rows_scanned, {counts}
    from {table} as r {joins}
    where r.{key} collate "C" >= d.low and r.{key} collate "C" < d.high
) t
"""

_MONEY = {
    "negative_amounts": "r.amount < 0",
    "unknown_currencies": "not exists (select 1 from oltp.currencies c where c.code = r.currency)",
    "misdated_ids": "(r.created at time zone 'UTC')::date <> d.day",
}
_OF_CHARGE = "left join oltp.charges as c on c.id = r.charge_id"

_RULES: dict[str, tuple[dict[str, str], str]] = {
    "payment_intents": (_MONEY | {"received_beyond_amount": "r.amount_received > r.amount"}, ""),
    "charges": (_MONEY | {
        "captured_beyond_amount": "r.amount_captured > r.amount",
        "refunded_beyond_capture": "r.amount_refunded > r.amount_captured",
        "failed_but_captured": "r.status = 'failed' and r.amount_captured > 0",
    }, ""),
    "refunds": (_MONEY | {
        "without_charge": "c.id is null", "other_currency": "r.currency <> c.currency",
        "beyond_capture": "r.amount > c.amount_captured", "before_charge": "r.created < c.created",
    }, _OF_CHARGE),
    "disputes": (_MONEY | {
        "without_charge": "c.id is null", "other_currency": "r.currency <> c.currency",
        "before_charge": "r.created < c.created",
    }, _OF_CHARGE),
}


def _day_profile(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    counts, joins = _RULES[table]
    query = sql.SQL(_PROFILE).format(
        table=sql.Identifier("oltp", table), witness=sql.Identifier("oltp", "charges" if joins else table),
        key=sql.Identifier(TABLES[table].key[0]), joins=sql.SQL(joins),
        counts=sql.SQL(", ").join(
            sql.SQL("count(*) filter (where {}) as {}").format(sql.SQL(condition), sql.Identifier(name))
            for name, condition in counts.items()))
    prefix, next_day = PREFIXES[table], dt.timedelta(days=1)
    with stores.oltp() as connection:
        return counted(
            connection, query, days, source=SOURCE, low=[boundary_id(prefix, day) for day in days],
            high=[boundary_id(prefix, day + next_day) for day in days])


def _money_check(table: str) -> Check:
    return Check(
        key("oltp", table), "rows_of_the_day_hold_their_rules",
        f"Every row of {table} of the day: money, currency, dates and references as declared.",
        partial(_day_profile, table), none_of(*_RULES[table][0]), FLOORS)


_EXPONENTS = """
select d.day::text as partition, c.*
from unnest(%(days)s::date[]) as d (day)
cross join (
    select count(*) as rows_scanned,
        count(*) filter (where stripe_exponent <> case
            when code = any(%(zero)s) then 0 when code = any(%(three)s) then 3 else 2 end) as other_exponents
    from oltp.currencies
) c
"""


def _exponents(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as connection:
        return counted(connection, _EXPONENTS, days, zero=sorted(ZERO_DECIMAL), three=sorted(THREE_DECIMAL))


_SCORES = """
select d.day::text as partition, t.*,
    (select count(*) from ops.day_ledger l where l.source = %(source)s and l.day = d.day) as days_closed
from unnest(%(days)s::date[]) as d (day)
cross join lateral (
    select count(*) as rows_scanned,
        count(*) filter (where not (r.score >= 0 and r.score <= 1)) as scores_outside,
        count(*) filter (where c.id is null) as without_charge,
        count(*) filter (where r.assessed_at < c.created) as assessed_before_charge,
        (count(distinct r.model_version) > 1)::int as mixed_models
    from oltp.fraud_assessments r left join oltp.charges c on c.id = r.charge_id
    where (r.assessed_at at time zone 'UTC')::date = d.day
) t
"""


def _scores(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.oltp() as connection:
        found = counted(connection, _SCORES, days, source=SOURCE)
        versions = dict(connection.execute(_VERSIONS, {"days": list(days)}).fetchall())
    return found.assign(charges_left_out=[
        _left_out(stores, versions[day]) if day in versions else 0 for day in found[PARTITION]])


# By day, the versions that wrote on it with all their scores: a batch repeated on a later day writes only the rest.
_VERSIONS = """
select s.day::text, jsonb_object_agg(s.model_version,
    (select count(*) from oltp.fraud_assessments a where a.model_version = s.model_version))
from (
    select distinct (assessed_at at time zone 'UTC')::date as day, model_version from oltp.fraud_assessments
    where (assessed_at at time zone 'UTC')::date = any(%(days)s::date[])
) s group by s.day
"""


def _left_out(stores: Stores, scored: Mapping[str, int]) -> int:
    """Charges of the models' test days without a score, or scores beyond them."""
    difference = 0
    for version, rows in scored.items():
        first, last = assessed_days(stores.models().load(version).signature)
        with stores.warehouse() as connection:
            row = connection.execute(
                "select count(*) from features.charge where event_day between %s and %s", [first, last]).fetchone()
        difference += abs(rows - (row[0] if row else 0))
    return difference


CHECKS = [
    *(_money_check(table) for table in _RULES),
    Check(
        key("oltp", "currencies"), "exponents_are_stripes",
        "Decimal digits of every currency's minor unit are those that money is computed with.",
        _exponents, none_of("other_exponents")),
    Check(
        key("oltp", "fraud_assessments"), "scores_are_probabilities",
        "Scores written on the day lie in [0, 1], follow their charge, come from one model and leave no charge out.",
        _scores, none_of("scores_outside", "without_charge", "assessed_before_charge", "mixed_models",
                         "charges_left_out"),
        {"days_closed": 1}),
]
