"""Batches streamed into Snowflake: equal to PostgreSQL's raw, each once, whoever dies or comes second.

Emulated: this proves SQL, types and the order of steps, not Snowflake's transactions, locks, rights or speed.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import random
import signal
from typing import Any

import pytest
from cdc_source import FIRST, accounts, close, owner, reference
from killing import die, in_child
from test_raw import random_day
from two_warehouses import DAYS, TABLES, Pair, connect, pair, told

from stripe_platform.cdc import catalogue
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain
from stripe_platform.warehouse import raw_snowflake, stream_snowflake
from stripe_platform.warehouse.stream_snowflake import (
    LEFT_AFTER,
    OvertakenError,
    SnowflakeRows,
    SnowflakeStream,
    position,
    streamed,
)

__all__ = ["pair", "told"]


def stages(pair: Pair) -> list[str]:
    with pair.snowflake.cursor() as cursor:
        return [name for name in raw_snowflake.tables_of_raw(cursor) if name.startswith("_STREAM_")]


@pytest.mark.parametrize("at_once", [True, False], ids=["all at once", "batch by batch"])
def test_a_history_streamed_gives_equal_rows_in_both_and_a_repeat_changes_none(told, pair, at_once):
    manifests = Chain.load(told).manifests
    for batches in [manifests] if at_once else [[manifest] for manifest in manifests]:
        pair.stream(batches)
    before = {table: pair.rows(table) for table in TABLES}
    assert sum(map(len, before.values())) > 10
    assert pair.stream() == 0
    assert {table: pair.rows(table) for table in TABLES} == before
    assert streamed(pair.snowflake, "oltp").seq == manifests[-1].seq
    assert stages(pair) == []


def test_a_random_history_streamed_while_it_grows_equals_the_days(source, store, pair):
    dice = random.Random(7)  # noqa: S311 - a replayable history
    with owner(source) as connection:
        reference(connection)
        for day in DAYS[:3]:
            random_day(connection, dice, day)
            capture(source)
            pair.stream()
    streamed_rows = {table: pair.rows(table) for table in TABLES}
    compact_range(store, TABLES, DAYS[:3])
    for table in TABLES:
        pair.apply(table, DAYS[:3])
        assert pair.rows(table) == streamed_rows[table]


def test_it_goes_on_where_days_have_ended(told, pair):
    chain = Chain.load(told)
    assert position(pair.snowflake, chain, "oltp", FIRST) == 0
    for table in TABLES:
        pair.apply(table, DAYS[:2])
    through = max(m.seq for m, day in zip(chain.manifests, chain.days, strict=True) if day == DAYS[1])
    assert position(pair.snowflake, chain, "oltp", FIRST) == through
    pair.stream(chain.manifests[through:])
    for table in TABLES:
        pair.rows(table)
    assert position(pair.snowflake, chain, "oltp", FIRST) == len(chain.manifests)


@pytest.mark.parametrize("point", ["before its transaction", "before its stages are dropped"])
def test_a_stream_killed_before_or_behind_its_transaction_converges(told, pair, monkeypatch, point):
    chain = Chain.load(told)
    pair.stream(chain.manifests[:1])

    def work() -> None:
        before = point == "before its transaction"
        monkeypatch.setattr(*((SnowflakeStream, "_move") if before else (raw_snowflake.Staged, "drop")), die)
        SnowflakeStream(connect(pair.port), told, "oltp", FIRST).take(chain, chain.manifests)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert stages(pair)
    reached = chain.manifests[0 if point == "before its transaction" else -1].seq
    assert streamed(pair.snowflake, "oltp").seq == reached
    for stream in (pair.here(), pair.there()):
        stream.take(chain, chain.manifests)
    for table in TABLES:
        pair.rows(table)


def test_a_stream_that_fails_before_its_commit_leaves_neither_rows_nor_position(told, pair, monkeypatch):
    chain = Chain.load(told)
    pair.stream(chain.manifests[:1])
    before = {table: pair.rows(table) for table in TABLES}
    with monkeypatch.context() as patch:
        patch.setattr(SnowflakeStream, "_rename_day", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pair.there().take(chain, chain.manifests)
    assert {table: pair.rows(table) for table in TABLES} == before
    assert streamed(pair.snowflake, "oltp").seq == chain.manifests[0].seq
    assert stages(pair) == []
    pair.stream()
    for table in TABLES:
        pair.rows(table)


def test_what_a_killed_follower_staged_is_dropped_an_hour_later_and_not_before(told, pair, monkeypatch):
    chain = Chain.load(told)
    with monkeypatch.context() as patch:
        patch.setattr(raw_snowflake.Staged, "drop", lambda *_: None)
        pair.stream()
    left = stages(pair)
    assert left
    pair.there()
    assert stages(pair) == left
    now = stream_snowflake.time.time()
    monkeypatch.setattr(stream_snowflake.time, "time", lambda: now + LEFT_AFTER + 60)
    pair.there().take(chain, chain.manifests)
    assert stages(pair) == []


def test_of_two_followers_the_second_is_told_and_writes_nothing(told, pair, monkeypatch):
    chain = Chain.load(told)
    late = SnowflakeStream(connect(pair.port), told, "oltp", FIRST)
    move = SnowflakeStream._move

    def overtaken(self: SnowflakeStream, *rest: Any) -> None:
        monkeypatch.setattr(SnowflakeStream, "_move", move)
        pair.stream()
        move(self, *rest)

    monkeypatch.setattr(SnowflakeStream, "_move", overtaken)
    with pytest.raises(OvertakenError, match="another follower has brought raw beyond batch 0"):
        late.take(chain, chain.manifests)
    assert stages(pair) == []
    assert late.take(chain, chain.manifests) == 0
    for table in TABLES:
        pair.rows(table)


def test_rows_of_an_open_day_get_the_day_that_the_boundary_says(source, pair):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 0, 2)
        capture(source)
        pair.stream()
        assert {row[-1] for row in pair.rows("accounts")} == {FIRST}
        close(connection, FIRST + dt.timedelta(days=3))  # the calendar began later than this deployment expected
        capture(source)
        pair.stream()
    assert {row[-1] for row in pair.rows("accounts")} == {FIRST + dt.timedelta(days=3)}


def test_a_table_of_no_release_stays_in_the_lake_and_is_told_once(told, pair, monkeypatch, caplog):
    known = catalogue.is_declared
    monkeypatch.setattr(catalogue, "is_declared", lambda chain, table: table != "accounts" and known(chain, table))
    chain = Chain.load(told)
    stream = pair.there()
    with caplog.at_level(logging.WARNING):
        for manifest in chain.manifests:
            stream.take(chain, [manifest])
    assert [r.message for r in caplog.records if "stay in the lake" in r.message] == [
        "accounts is not a table of this release: its changes stay in the lake"]
    with pair.snowflake.cursor() as cursor:
        assert "ACCOUNTS" not in raw_snowflake.tables_of_raw(cursor)
        assert cursor.execute("select count(*) from RAW.currencies").fetchone()[0] > 0


def test_rows_are_looked_up_by_many_names_at_once_and_none_where_no_table_stands(told, pair, monkeypatch):
    monkeypatch.setattr(stream_snowflake, "NAMED_AT_ONCE", 2)
    held = SnowflakeRows(pair.snowflake)
    assert held.of("accounts", ["id"], "id", ["acct_none"]) == []
    pair.stream()
    ids = [row[0] for row in pair.rows("accounts")]
    found = held.of("accounts", ["id", "_commit_lsn"], "id", [*ids, "acct_none"], ["_commit_lsn"])
    assert sorted(name for name, _lsn in found) == sorted(ids)
    assert all(isinstance(lsn, str) for _name, lsn in found)
    assert held.of("accounts", ["id"], "id", []) == []
