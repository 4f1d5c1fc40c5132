"""Raw tables: what stands in the warehouse is what the change log says, key by key, for every ledger day."""

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
from stripe_platform.cdc import daily as dailies
from stripe_platform.keys import OLTP_TABLES, key

if TYPE_CHECKING:
    import pandas as pd

_MONEY = {"negative_amounts": "amount < 0", "odd_currencies": "currency is null or currency !~ '^[a-z]{3}$'"}
_VALUES: dict[str, dict[str, str]] = {
    "payment_intents": _MONEY,
    "charges": _MONEY | {
        "refunded_beyond_capture": "amount_refunded > amount_captured",
        "captured_beyond_amount": "amount_captured > amount"},
    "refunds": _MONEY,
    "disputes": _MONEY,
    "exchange_rates": {"odd_rates": "not (rate > 0 and rate < 'Infinity')"},
    "customers": {"without_token": "token is null"},
    "accounts": {"without_token": "token is null"},
    "fraud_assessments": {"scores_outside": "not (score >= 0 and score <= 1)"},
}

_PROFILE = """
with t as (
    select _ledger_day, count(*) as n, {counts} from {table} where _ledger_day = any(%(days)s::date[]) group by 1
)
select d.day::text as partition, coalesce(t.n, 0) as rows_scanned, {filled},
    (select count(*) from raw._applied a where a.table_name = %(table)s and a.day = d.day) as days_applied
from unnest(%(days)s::date[]) as d (day) left join t on t._ledger_day = d.day
"""


def _violations(table: str) -> dict[str, str]:
    # A tombstone may know no more than its key: the rules are for living rows.
    living = {name: f"not _deleted and ({condition})" for name, condition in _VALUES.get(table, {}).items()}
    return {"null_keys": " or ".join(f"{column} is null" for column in dailies.key_of(table)), **living}


def _profile(table: str, stores: Stores, days: Sequence[dt.date]) -> pd.DataFrame:
    query = sql.SQL(_PROFILE).format(
        table=sql.Identifier("raw", table),
        counts=sql.SQL(", ").join(
            sql.SQL("count(*) filter (where {}) as {}").format(sql.SQL(condition), sql.Identifier(name))
            for name, condition in _violations(table).items()),
        filled=sql.SQL(", ").join(
            sql.SQL("coalesce(t.{0}, 0) as {0}").format(sql.Identifier(name)) for name in _violations(table)))
    with stores.warehouse() as connection:
        found = counted(connection, query, days, table=table)
        applied = [row[0] for row in connection.execute(
            "select day from raw._applied where table_name = %s and day >= %s order by day", [table, min(days)])]
    expected = _newest_changes(stores, table, applied)
    return found.assign(keys_in_the_log=[expected.get(day, 0) for day in found["partition"]])


def _newest_changes(stores: Stores, table: str, applied: Sequence[dt.date]) -> dict[str, int]:
    """By ledger day: keys whose newest change, among the days applied so far, is of that day."""
    if not applied:
        return {}
    keys = ", ".join(f'"{column}"' for column in dailies.key_of(table))
    files = dailies.change_files(stores.lake(), table, applied)
    with stores.duck() as duck:
        rows = duck.execute(
            f"""select _ledger, count(*) from (
                select {keys}, max(regexp_extract(filename, '([0-9-]{{10}})[.]parquet$', 1)) as _ledger
                from read_parquet($files, filename = true) where _op <> 't' group by {keys}
            ) group by _ledger""", {"files": files}).fetchall()  # noqa: S608 (column names of the catalogue)
    return dict(rows)


CHECKS = [
    Check(
        key("raw", table.name), "rows_are_the_logs",
        "Each key of the change log stands once, at its newest change; values are in their range.",
        partial(_profile, table.name),
        (equal(ROWS, "keys_in_the_log"), *none_of(*_violations(table.name))),
        {"days_applied": 1})  # a day may change nothing in a table: the witness is the applied day
    for table in OLTP_TABLES
]
