"""Schemas and bookkeeping tables that the warehouse must hold before the first run."""

from __future__ import annotations

from typing import Any

import psycopg

from resources.warehouse import connect_postgres, snowflake
from stripe_platform.settings import Settings

SCHEMAS = ("raw", "staging", "marts", "features", "ops")

_STATEMENTS = (
    *(f"create schema if not exists {name}" for name in SCHEMAS),
    """create table if not exists ops.check_verdicts (
        asset_key varchar(200) not null,
        check_name varchar(200) not null,
        partition varchar(40) not null,
        outcome varchar(20) not null,
        blocking boolean not null,
        rows_scanned bigint not null,
        run_id varchar(64) not null,
        evaluated_at timestamp with time zone not null,
        primary key (asset_key, check_name, partition)
    )""",
    # Written by the dbt strategy `rewrite_days`: which event days the latest run of each mart rewrote.
    """create table if not exists ops.touched_days (
        mart varchar(100) not null,
        event_day date not null,
        ledger_from date not null,
        ledger_to date not null,
        primary key (mart, event_day)
    )""",
)
# Snowflake declares checks without enforcing them and refuses the word; PostgreSQL must enforce.
_POSTGRES_ONLY = (
    """do $$ begin
        alter table ops.check_verdicts add constraint known_outcome
            check (outcome in ('passed', 'failed', 'not_evaluated'));
    exception when duplicate_object then null; end $$""",
)
_LOCK = 7_203_114  # two processes may prepare the same warehouse at once; `create if not exists` alone races


def bootstrap(settings: Settings) -> None:
    """Create schemas and bookkeeping tables where they are missing; harmless when repeated."""
    if settings.warehouse == "snowflake":
        with snowflake(settings).get_connection() as conn:
            _run(conn.cursor(), _STATEMENTS)
        return
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        prepare(conn)


def prepare(conn: psycopg.Connection) -> None:
    """The same on an open PostgreSQL connection, inside its transaction."""
    conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
    with conn.cursor() as cursor:
        _run(cursor, (*_STATEMENTS, *_POSTGRES_ONLY))


def _run(cursor: Any, statements: tuple[str, ...]) -> None:
    for statement in statements:
        cursor.execute(statement)
