"""Marts against what they were made from: the same rows, values and money, to the cent, per event day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from asset_checks.judge import ROWS, Check
from asset_checks.rules import equal, none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import counted
from stripe_platform.keys import key

if TYPE_CHECKING:
    import pandas as pd

# Both sides per event day and currency, joined in full: a currency on one side only is a difference too. `content` sums
# a hash of every column that the mart takes as it is.
_FACTS = """
with mart as (
    select event_day as day, currency, count(*) as n, sum(amount) as money, count(*) filter (where {gaps}) as gaps,
        sum(hash_record_extended(row({copied}), 0)) as content
    from {mart} where event_day = any(%(days)s::date[]) group by 1, 2
),
source as (
    select (created at time zone 'UTC')::date as day, currency, count(*) as n, sum(amount) as money,
        sum(hash_record_extended(row({original}), 0)) as content
    from {raw} where not _deleted
        and created >= %(first)s::date::timestamp at time zone 'UTC'
        and created < (%(last)s::date + 1)::timestamp at time zone 'UTC'
    group by 1, 2
),
sides as (
    select day, m.n, s.n as raw_n, m.gaps, (m.money is distinct from s.money)::int as other,
        (m.content is distinct from s.content)::int as altered
    from mart m full join source s using (day, currency)
)
select d.day::text as partition, coalesce(sum(b.n), 0) as rows_scanned, coalesce(sum(b.raw_n), 0) as raw_rows,
    coalesce(sum(b.gaps), 0) as gaps, coalesce(sum(b.other), 0) as currencies_with_other_sums,
    coalesce(sum(b.altered), 0) as currencies_with_altered_rows,
    (select count(*) from (select 1 from raw.charges limit 1) s) as charges_filled
from unnest(%(days)s::date[]) as d (day) left join sides b on b.day = d.day group by d.day
"""

_GAPS = {
    "charges": "account_token is null or customer_token is null",
    "refunds": "account_token is null or customer_token is null or charge_created is null",
    "disputes": "account_token is null or customer_token is null or charge_created is null",
}

_COPIED = {  # columns that the mart takes from raw as they are; the key, `id` there, comes first
    "charges": ("charge_id", "payment_intent_id", "account_id", "terminal_id", "created", "amount", "amount_captured",
                "amount_refunded", "currency", "status", "disputed", "device_type", "ip_country"),
    "refunds": ("refund_id", "charge_id", "created", "amount", "currency", "status", "reason"),
    "disputes": ("dispute_id", "charge_id", "created", "amount", "currency", "status", "reason"),
}


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _facts(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    query = sql.SQL(_FACTS).format(
        mart=sql.Identifier("marts", f"fct_{table}"), raw=sql.Identifier("raw", table), gaps=sql.SQL(_GAPS[table]),
        copied=_names(_COPIED[table]), original=_names(["id", *_COPIED[table][1:]]))
    with stores.warehouse() as connection:
        return counted(connection, query, days, first=min(days), last=max(days))


_REVENUE = """
with facts as (
    select event_day as day, currency, count(*) as charges, sum(amount_captured) as gross, 0::numeric as refunds,
        0::numeric as disputes
    from marts.fct_charges where event_day = any(%(days)s::date[]) group by 1, 2
    union all
    select event_day, currency, 0, 0, sum(amount), 0 from marts.fct_refunds
    where event_day = any(%(days)s::date[]) and status in ('succeeded', 'pending', 'requires_action') group by 1, 2
    union all
    select event_day, currency, 0, 0, 0, sum(amount) from marts.fct_disputes
    where event_day = any(%(days)s::date[]) and status in ('needs_response', 'under_review', 'lost') group by 1, 2
),
expected as (
    select day, currency, sum(charges) as charges, sum(gross) as gross, sum(refunds) as refunds,
        sum(disputes) as disputes
    from facts group by 1, 2
),
mart as (
    select event_day as day, currency, count(*) as n, sum(charges) as charges, sum(gross) as gross,
        sum(refunds) as refunds, sum(disputes) as disputes,
        count(*) filter (where net <> gross - refunds - disputes) as wrong_nets
    from marts.agg_daily_revenue where event_day = any(%(days)s::date[]) group by 1, 2
),
sides as (
    select day, m.n, m.wrong_nets,
        ((m.charges, m.gross, m.refunds, m.disputes) is distinct from (e.charges, e.gross, e.refunds, e.disputes))::int
            as other
    from mart m full join expected e using (day, currency)
)
select d.day::text as partition, coalesce(sum(b.n), 0) as rows_scanned, coalesce(sum(b.wrong_nets), 0) as wrong_nets,
    coalesce(sum(b.other), 0) as currencies_with_other_sums,
    (select count(*) from (select 1 from marts.fct_charges limit 1) s) as facts_filled
from unnest(%(days)s::date[]) as d (day) left join sides b on b.day = d.day group by d.day
"""


def _revenue(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.warehouse() as connection:
        return counted(connection, _REVENUE, days)


# Scores are judged by the ledger day that carried them: their charges lie on earlier event days.
_SCORES = """
with carried as (
    select s._ledger_day as day, count(*) as n, count(*) filter (where f.charge_id is null) as missing,
        count(*) filter (where f.score is distinct from s.score and f.charge_id is not null) as altered
    from raw.fraud_assessments s
    left join marts.fct_fraud_scores f on f.charge_id = s.charge_id and f.model_version = s.model_version
    where s._ledger_day = any(%(days)s::date[]) and not s._deleted group by 1
)
select d.day::text as partition, coalesce(c.n, 0) as rows_scanned, coalesce(c.missing, 0) as missing_scores,
    coalesce(c.altered, 0) as altered_scores,
    (select count(*) from raw._applied a where a.table_name = 'fraud_assessments' and a.day = d.day) as days_applied
from unnest(%(days)s::date[]) as d (day) left join carried c on c.day = d.day
"""


def _scores(stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.warehouse() as connection:
        return counted(connection, _SCORES, days)


_DIMENSION = """
with mart as (select {columns} from {mart}),
source ({columns}) as ({source})
select 'all' as partition, count(*) as rows_scanned, count(*) - count(distinct {token}) as repeated_tokens,
    (select count(*) from source) as raw_rows,
    (select count(*) from (select * from mart except all select * from source) o) as altered_rows,
    (select count(*) from information_schema.columns where table_schema = 'marts' and table_name = %(name)s
        and column_name <> all(%(columns)s)) as columns_not_compared,
    (select count(*) from information_schema.columns
        where table_schema = 'marts' and table_name = %(name)s and column_name like '%%cipher%%') as ciphertext_columns
from mart
"""

# Each dimension once more from raw, column by column in the mart's names.
_DIMENSIONS = {
    "account": ("account_id", "account_token", "type", "country", "default_currency", "business_type", "mcc",
                "charges_enabled", "payouts_enabled", "created"),
    "customer": ("customer_token", "account_token", "country", "currency", "delinquent", "deleted", "created"),
}
_SOURCES = {
    "account": """
        select id, token, type, country, default_currency, business_type, mcc, charges_enabled, payouts_enabled, created
        from raw.accounts where not _deleted""",
    "customer": """
        select c.token, a.token, c.country, c.currency, c.delinquent, c.deleted, c.created
        from raw.customers c left join raw.accounts a on a.id = c.account_id and not a._deleted
        where not c._deleted""",
}


def _dimension(table: str, stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    name, columns = f"dim_{table}", _DIMENSIONS[table]
    query = sql.SQL(_DIMENSION).format(
        mart=sql.Identifier("marts", name), columns=_names(columns), source=sql.SQL(_SOURCES[table]),
        token=sql.Identifier(f"{table}_token"))
    with stores.warehouse() as connection:
        return counted(connection, query, name=name, columns=list(columns))


_CALENDAR = """
select 'all' as partition, count(*) as rows_scanned, count(distinct date_day) as distinct_days,
    max(date_day) - min(date_day) + 1 as days_spanned
from marts.dim_date
"""


def _calendar(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    with stores.warehouse() as connection:
        return counted(connection, _CALENDAR)


_FACT_RULES = (
    equal(ROWS, "raw_rows"), *none_of("currencies_with_other_sums", "currencies_with_altered_rows", "gaps"))

CHECKS = [
    *(Check(
        key("marts", f"fct_{table}"), "rows_and_money_are_raws",
        f"Per event day and currency the mart has raw's {table} with raw's values, and the same sum to the cent.",
        partial(_facts, table), _FACT_RULES, {"charges_filled": 1}) for table in _GAPS),
    Check(
        key("marts", "agg_daily_revenue"), "sums_are_the_facts",
        "Per event day and currency the aggregate has the sums of charges, refunds and disputes.",
        _revenue, none_of("currencies_with_other_sums", "wrong_nets"), {"facts_filled": 1}),
    Check(
        key("marts", "fct_fraud_scores"), "scores_arrive_unaltered",
        "Every score that the ledger day carried stands in the mart with its value.",
        _scores, none_of("missing_scores", "altered_scores"), {"days_applied": 1}),
    *(Check(
        key("marts", f"dim_{table}"), "rows_are_raws_without_ciphertext",
        "One row per living record of raw with raw's values, each token once, no ciphertext column.",
        partial(_dimension, table),
        (equal(ROWS, "raw_rows"),
         *none_of("repeated_tokens", "altered_rows", "columns_not_compared", "ciphertext_columns")),
        partitioned=False) for table in ("customer", "account")),
    Check(
        key("marts", "dim_date"), "calendar_has_no_gap",
        "Every day once, without a gap.", _calendar,
        (equal(ROWS, "distinct_days"), equal(ROWS, "days_spanned")), partitioned=False),
]
