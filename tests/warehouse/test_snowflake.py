"""The same project on Snowflake's dialect: compiled, parsed, run on an emulator, and equal to PostgreSQL's marts.

Emulated: this proves SQL and types, not Snowflake's transactions, rights, column comments or speed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated_snowflake
import pytest
import sqlglot
from history import FIRST, MARTS, Store, day, reference, story
from raw_tables import BOOKKEEPING, Change

from stripe_platform.oltp.schema import load_schema

TYPES = {"timestamp with time zone": "timestamp_tz", "double precision": "double"}


class SnowflakeChange(Change):
    """The same changes, written with Snowflake's statements (no `on conflict`)."""

    def _write(self, table: str, row: dict[str, Any]) -> None:
        key = load_schema()[table].key
        full = row | {"_source": "oltp", "_epoch": "1", "_commit_lsn": self.day.toordinal(), "_ord": 0,
                      "_ledger_day": self.day}
        values = [v if v is None or isinstance(v, int) else str(v) for v in full.values()]
        name, where = f"RAW.{table}", " and ".join(f"{k} = %s" for k in key)
        keys = [str(full[k]) for k in key]
        if self.conn.execute(f"select 1 from {name} where {where}", keys).fetchone():
            self.conn.execute(f"update {name} set {', '.join(f'{k} = %s' for k in full)} where {where}", values + keys)
        else:
            self.conn.execute(
                f"insert into {name} ({', '.join(full)}) values ({', '.join(['%s'] * len(full))})", values)


class Emulated(Store):
    """The emulated warehouse; dbt runs with its target."""

    def on(self, number: int) -> Change:
        return SnowflakeChange(self.conn, day(number))

    def dbt(self, *arguments: str) -> int:
        return super().dbt(*arguments, "--target", "snowflake_emulated")


@pytest.fixture
def emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    environment = dict(os.environ)
    try:
        with emulated_snowflake.served(tmp_path / "ledger") as port:
            for name, value in {"WAREHOUSE": "snowflake", "WAREHOUSE_EMULATED": "1", "DBT_HOST": "localhost",
                                "DBT_PORT": str(port)}.items():
                monkeypatch.setenv(f"STRIPE_PLATFORM_{name}", value)
            conn = _connect(port)
            _create_raw(conn)
            yield Emulated(conn, tmp_path / "dbt_snowflake")
            conn.close()
    finally:
        os.environ.clear()
        os.environ.update(environment)


def _connect(port: int) -> Any:
    import snowflake.connector

    return snowflake.connector.connect(
        user="emulated", password="emulated", account="emulated", host="localhost", port=port,
        protocol="http", database="STRIPE_PLATFORM", schema="RAW").cursor()


def _create_raw(cursor: Any) -> None:
    for schema in ("RAW", "STAGING", "MARTS", "OPS"):
        cursor.execute(f"create schema if not exists STRIPE_PLATFORM.{schema}")
    for table in load_schema().values():
        columns = {c.name: c.type for c in table.columns if c.name not in table.sensitive} | BOOKKEEPING
        cursor.execute(f"create table STRIPE_PLATFORM.RAW.{table.name} ("
                       + ", ".join(f'"{name.upper()}" {TYPES.get(kind, kind.replace("numeric", "number"))}'
                                   for name, kind in columns.items())
                       + ")")


def test_the_marts_on_snowflakes_dialect_equal_those_on_postgresql(store: Store, emulated: Emulated, tmp_path: Path):
    reference(SnowflakeChange(emulated.conn, FIRST))
    for days, tags in ((range(1, 8), ("reference", "facts")), (range(8, 11), ("facts",))):  # then incremental
        story(emulated, days)
        emulated.build(days, tags=tags)
    os.environ["STRIPE_PLATFORM_WAREHOUSE"] = "postgres"
    story(store)
    store.build(range(1, 11))
    for mart in MARTS:
        columns = [c for (c,) in store.rows(
            "select column_name from information_schema.columns where table_schema = 'marts' and table_name = %s "
            "order by column_name", mart)]
        query = f"select {', '.join(columns)} from {{}}.{mart}"
        ours = sorted(map(str, store.rows(query.format("marts"))))
        theirs = sorted(map(str, _like_postgres(emulated.rows(query.format("STRIPE_PLATFORM.MARTS")))))
        assert theirs == ours, mart
    _every_statement_parses(emulated)
    used = {json.loads(line)[0] for line in (tmp_path / "ledger").read_text().splitlines()}
    assert used == emulated_snowflake.DEVIATIONS


def _like_postgres(rows: list[tuple]) -> list[tuple]:
    """Instants compare by value: Snowflake gives them in another zone's clothes."""
    import datetime as dt

    return [tuple(v.astimezone(dt.UTC) if isinstance(v, dt.datetime) else v for v in row) for row in rows]


def _every_statement_parses(emulated: Emulated) -> None:
    """Compiled models and executed statements, as dbt wrote them, in Snowflake's grammar."""
    files = [*emulated.logs.glob("compiled/**/*.sql"), *emulated.logs.glob("run/**/*.sql")]
    assert len(files) > 30
    for file in files:
        assert sqlglot.parse(file.read_text(), dialect="snowflake"), file
