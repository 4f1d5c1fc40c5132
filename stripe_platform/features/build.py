"""Builds features.charge for a range of event days: delete and insert in one transaction, history read as needed.

The same days give the same rows whether built one by one or at once, and whatever was built before: the table is
derived from marts.fct_charges and marts.fct_disputes alone.
"""

from __future__ import annotations

import datetime as dt

import psycopg
from psycopg import sql

from stripe_platform.features.declarations import feature_set_hash, history_days
from stripe_platform.features.sql import column_types, select_features

TABLE = sql.Identifier("features", "charge")
CHARGES, DISPUTES = sql.Identifier("marts", "fct_charges"), sql.Identifier("marts", "fct_disputes")
SESSION = (
    "set local timezone = 'UTC'",
    "set local work_mem = '384MB'",  # one sort of a 65-day range stays in memory
    "set local maintenance_work_mem = '256MB'",
    "set local jit = off",
    "set local enable_nestloop = off",  # right after a load statistics are missing: one guessed row would cost minutes
    "set local max_parallel_workers_per_gather = 0",  # gathered rows would have to be sorted once more
)


class OtherFeatureSetError(RuntimeError):
    """features.charge holds another feature set than the one declared; the message names the remedy."""


def build(connection: psycopg.Connection, first: dt.date, last: dt.date) -> dict[dt.date, int]:
    """Rebuild event days `first`..`last`, both included; rows by day (a day without charges has none).

    Needs marts.fct_charges and marts.fct_disputes `history_days()` back; days missing there count as empty. Commits.
    """
    if last < first:
        raise ValueError(f"features from {first} to {last}: the range must run forward")
    if not isinstance(connection, psycopg.Connection):
        raise TypeError("the feature SQL is generated for PostgreSQL: set STRIPE_PLATFORM_WAREHOUSE=postgres")
    with connection.transaction():
        for setting in SESSION:
            connection.execute(setting)
        _ensure_table(connection)
        # One writer per table: two overlapping rebuilds would each delete before the other inserts.
        connection.execute("lock table features.charge in share row exclusive mode")
        connection.execute("delete from features.charge where event_day between %s and %s", [first, last])
        connection.execute(
            sql.SQL('insert into {} ({})\n{}\norder by event_ts, charge_id').format(
                TABLE, sql.SQL(", ").join(map(sql.Identifier, column_types())), select_features(CHARGES, DISPUTES)),
            {"first": first, "last": last, "history": first - dt.timedelta(days=history_days())},
        )
        rows = connection.execute(
            "select event_day, count(*) from features.charge where event_day between %s and %s group by 1 order by 1",
            [first, last]).fetchall()
    return {row[0]: row[1] for row in rows}


def _ensure_table(connection: psycopg.Connection) -> None:
    connection.execute("create schema if not exists features")
    stands = connection.execute(
        "select obj_description(to_regclass('features.charge'), 'pg_class'), to_regclass('features.charge')").fetchone()
    comment = f"Fraud features of a charge, point in time; feature set {feature_set_hash()}"
    if stands is None or stands[1] is None:
        columns = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
                   for name, kind in column_types().items()]
        connection.execute(sql.SQL("create table {} ({}, primary key (charge_id))").format(
            TABLE, sql.SQL(", ").join(columns)))
        connection.execute("create index charge_event_day on features.charge (event_day)")
        connection.execute(sql.SQL("comment on table {} is {}").format(TABLE, sql.Literal(comment)))
    elif stands[0] != comment:
        raise OtherFeatureSetError(
            "features.charge was built with other feature declarations: drop it with `drop table features.charge`, "
            "then materialize features/charge for all days")
