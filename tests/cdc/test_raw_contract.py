"""One contract for raw tables: the same log gives equal rows, fences and tombstones in PostgreSQL and in Snowflake.

Emulated: this proves SQL, types and the order of steps, not Snowflake's transactions, locks, rights or speed.
"""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import dagster as dg
import pytest
from cdc_source import FIRST, account_id, accounts, close, long_text, owner, reference
from killing import die, in_child
from test_raw import random_day
from two_warehouses import DAYS, FENCE, TABLES, connect, pair, told

from resources.lake import LakeResource
from resources.warehouse import WarehouseResource
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.daily import NotContiguousError
from stripe_platform.keys import key
from stripe_platform.warehouse import raw, raw_assets, raw_snowflake
from stripe_platform.warehouse.raw import UnknownStateError

__all__ = ["pair", "told"]


@pytest.mark.parametrize("at_once", [True, False], ids=["days at once", "day by day"])
def test_a_history_gives_equal_rows_in_both_and_a_repeat_or_a_stale_day_changes_none(told, pair, at_once):
    for table in TABLES:
        for days in [DAYS] if at_once else [[day] for day in DAYS]:
            pair.apply(table, days)
    before = {table: pair.rows(table) for table in TABLES}
    assert sum(len(rows) for rows in before.values()) > 10
    names = [name for name, _kind in raw.columns_of("accounts")]
    by_id = {row[0]: dict(zip([*names, *FENCE], row, strict=True)) for row in before["accounts"]}
    assert by_id[account_id(9)]["_deleted"]
    assert by_id[account_id(9)]["name"] == f"{long_text('x')}2"  # left out twice, kept by its tombstone
    assert not by_id[account_id(3)]["_deleted"]
    for table in TABLES:
        pair.apply(table, DAYS)
    for day in DAYS:
        pair.forget([day])
        for table in TABLES:
            pair.apply(table, [day])
            assert pair.rows(table) == before[table]


def test_a_random_history_gives_equal_rows_in_both_after_every_day(source, store, pair):
    dice = random.Random(5)  # noqa: S311 - a replayable history
    with owner(source) as connection:
        reference(connection)
        for day in DAYS[:3]:
            random_day(connection, dice, day)
    capture(source)
    compact_range(store, TABLES, DAYS[:3])
    for day in DAYS[:3]:
        for table in TABLES:
            pair.apply(table, [day])
            pair.rows(table)


@pytest.mark.parametrize("point", ["between COPY and MERGE", "between two parts' COPY"])
def test_a_load_killed_before_its_merge_converges(told, pair, monkeypatch, point):
    pair.apply("exchange_rates", DAYS[:1])
    standing = pair.rows("exchange_rates")

    def work() -> None:
        if point == "between COPY and MERGE":
            monkeypatch.setattr(raw_snowflake._Truncate, "run", die)
        else:
            load, left = raw_snowflake.load, iter(range(1))
            monkeypatch.setattr(raw_snowflake, "load", lambda *a: load(*a) if next(left, None) is not None else die())
        raw_snowflake.apply(connect(pair.port), told, "exchange_rates", DAYS[1:])

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert pair.rows("exchange_rates") == standing
    pair.apply("exchange_rates", DAYS[1:])
    assert len(pair.rows("exchange_rates")) == 3
    with pair.snowflake.cursor() as cursor:
        assert cursor.execute("select table_name from information_schema.tables where table_name like '%STAGE%'"
                              ).fetchall() == []


def test_a_load_that_fails_after_its_merge_leaves_neither_rows_nor_the_days(told, pair, monkeypatch):
    pair.apply("accounts", DAYS[:1])
    standing = pair.rows("accounts")
    with monkeypatch.context() as patch:
        patch.setattr(raw_snowflake, "_record", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            raw_snowflake.apply(pair.snowflake, told, "accounts", DAYS)
    assert pair.rows("accounts") == standing
    with pytest.raises(NotContiguousError, match="2026-06-02 is not applied"):
        raw_snowflake.apply(pair.snowflake, told, "accounts", DAYS[2:])
    pair.apply("accounts", DAYS)
    pair.rows("accounts")


def test_a_value_left_out_of_a_row_nobody_knows_is_refused_and_nothing_applied(told, pair):
    pair.apply("accounts", DAYS[:1])
    with pair.snowflake.cursor() as cursor:
        cursor.execute("delete from RAW.accounts where id = %s", (account_id(1),))
    with pytest.raises(UnknownStateError, match="leaves values out and no earlier state of its row is known"):
        raw_snowflake.apply(pair.snowflake, told, "accounts", DAYS[1:])
    with pair.snowflake.cursor() as cursor:
        assert cursor.execute("select count(*) from RAW.accounts where _ledger_day > '2026-06-01'").fetchone() == (0,)


def test_a_value_beyond_snowflakes_types_is_null_and_counted(source, store, pair):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 0, 3)
        connection.execute("update oltp.accounts set created = '294276-12-31' where id = %s", [account_id(1)])
        close(connection, FIRST)
    capture(source)
    compact_range(store, TABLES, DAYS[:1])
    report = raw_snowflake.apply(pair.snowflake, store, "accounts", DAYS[:1])
    assert (report.unheld, report.total) == (1, 3)
    with pair.snowflake.cursor() as cursor:
        assert cursor.execute("select id from RAW.accounts where created is null").fetchall() == [(account_id(1),)]


def test_a_table_that_stands_gets_the_columns_of_later_migrations(told, pair):
    pair.apply("accounts", DAYS[:1])
    with pair.snowflake.cursor() as cursor:
        cursor.execute("alter table RAW.accounts drop column mcc")
    raw_snowflake.apply(pair.snowflake, told, "accounts", DAYS)
    with pair.snowflake.cursor() as cursor:
        assert cursor.execute("select mcc from RAW.accounts where id = %s", (account_id(1),)).fetchall() == [("0001",)]


def test_the_assets_load_snowflake_through_dagsters_resource_and_mend_nothing_there(told, pair, monkeypatch):
    from dagster_snowflake import SnowflakeResource

    monkeypatch.setenv("STRIPE_PLATFORM_WAREHOUSE", "snowflake")
    monkeypatch.setattr("resources.warehouse.snowflake", lambda _settings: SnowflakeResource(
        account="e", user="e", password="e", database="STRIPE_PLATFORM",
        additional_snowflake_connection_args={"host": "localhost", "port": pair.port, "protocol": "http"}))

    def materialize(**config: Any) -> Any:
        return dg.materialize(
            raw_assets.RAW_ASSETS, selection=[key("raw", "accounts")], raise_on_error=False,
            tags={f"dagster/asset_partition_range_{end}": str(day) for end, day in (
                ("start", DAYS[0]), ("end", DAYS[-1]))},
            resources={"lake": LakeResource(), "warehouse": WarehouseResource()},
            run_config={"ops": {"raw_tables": {"config": config}}})

    assert materialize().success
    raw.apply(pair.postgres, told, "accounts", DAYS)
    assert len(pair.rows("accounts")) == 7
    failed = materialize(reapply=True)
    assert not failed.success
    assert "spoilt rows are mended in PostgreSQL only" in str(failed.all_events)
