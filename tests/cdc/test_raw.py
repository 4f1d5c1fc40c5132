"""From the source to raw tables and snapshots: equal states, fenced, in order, repeatable."""

from __future__ import annotations

import datetime as dt
import random

import dagster as dg
import psycopg
import pytest
from cdc_source import (
    FIRST,
    account_id,
    accounts,
    close,
    long_text,
    owner,
    rate,
    raw_all,
    raw_state,
    reference,
    source_state,
)

import asset_checks
from asset_checks.judge import judge
from asset_checks.stores import Stores
from resources.lake import LakeResource, open_lake
from resources.warehouse import WarehouseResource, connect_postgres
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import snapshots
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.columns import FENCE
from stripe_platform.cdc.compact import compact, compact_range
from stripe_platform.cdc.daily import NotContiguousError
from stripe_platform.cdc.manifest import ChainError
from stripe_platform.cdc.snapshots import ResnapshotError, snapshot_range, state_at
from stripe_platform.keys import OLTP_TABLES, key
from stripe_platform.oltp.schema import load_schema
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import raw
from stripe_platform.warehouse.raw import UnknownStateError, apply
from stripe_platform.warehouse.raw_assets import RAW_ASSETS

TABLES = ("currencies", "countries", "accounts", "exchange_rates")


def days(count: int) -> list[dt.date]:
    return [FIRST + dt.timedelta(days=n) for n in range(count)]


@pytest.fixture
def raw_connection(source, warehouse):
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        connection.autocommit = True
        yield connection


def random_day(connection: psycopg.Connection, dice: random.Random, day: dt.date) -> None:
    """Forty statements on accounts and rates: long texts left out of updates, key changes, deletes, truncates."""
    for n in range(40):
        known = [r[0] for r in connection.execute("select id from oltp.accounts order by id")]
        new = account_id(dice.randrange(10**12))
        kind = dice.choice("iiiuuuukd") if known else "i"
        if kind == "i":
            connection.execute(
                "insert into oltp.accounts values (%s, 'standard', 'FR', 'eur', 'company', '5411', %s, true, true, %s,"
                " '2026-06-01')", [new, long_text(new) if n % 3 else "short", f"t{new}"])
        elif kind == "u":
            column = dice.choice(["mcc", "name"])
            value = f"{dice.randrange(10_000):04d}" if column == "mcc" else long_text(str(dice.random()))
            connection.execute(f"update oltp.accounts set {column} = %s where id = %s", [value, dice.choice(known)])
        elif kind == "k":
            connection.execute("update oltp.accounts set id = %s, charges_enabled = not charges_enabled where id = %s",
                               [new, dice.choice(known)])
        else:
            connection.execute("delete from oltp.accounts where id = %s", [dice.choice(known)])
        if n % 20 == 7:
            connection.execute("truncate oltp.exchange_rates")
        rate(connection, day, f"{dice.randrange(1, 10**6)}.{dice.randrange(10**10):010d}")
    close(connection, day)


def test_a_random_history_is_equal_in_source_raw_and_snapshot_after_every_day(source, store, raw_connection):
    dice, states = random.Random(7), {}  # noqa: S311 - a replayable history
    with owner(source) as connection:
        reference(connection)
        for day in days(5):
            if day.day % 2:
                random_day(connection, dice, day)
            else:
                with connection.transaction():
                    random_day(connection, dice, day)
            states[day] = {table: source_state(connection, table) for table in TABLES}
    capture(source)
    compact_range(store, TABLES, days(5))
    for day in days(5):
        for table in TABLES:
            apply(raw_connection, store, table, [day])
            assert raw_state(raw_connection, table) == states[day][table]
            hidden = [*FENCE, *load_schema()[table].sensitive]
            kept = state_at(store, table, day).drop_columns(hidden).to_pylist()
            assert len(kept) == len(states[day][table])
            if table == "accounts":
                assert [tuple(r.values()) for r in kept] == states[day][table]
    single = {table: raw_all(raw_connection, table) for table in TABLES}
    raw_connection.execute("drop schema raw cascade")
    for table in TABLES:
        apply(raw_connection, store, table, days(5))
        assert raw_all(raw_connection, table) == single[table]


@pytest.fixture
def three_days(source, store):
    """Three closed days: day 1 makes two accounts, day 2 changes one and adds one, day 3 deletes one."""
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 2)
        close(connection, FIRST)
        connection.execute("update oltp.accounts set mcc = '0002' where id = %s", [account_id(1)])
        accounts(connection, 3, 1)
        close(connection, days(2)[1])
        connection.execute("delete from oltp.accounts where id = %s", [account_id(2)])
        close(connection, days(3)[2])
    capture(source)
    compact_range(store, [t.name for t in OLTP_TABLES if t.dated], days(3))
    return store


def test_applying_twice_changes_nothing(three_days, raw_connection):
    first = apply(raw_connection, three_days, "accounts", days(3))
    before = raw_all(raw_connection, "accounts")
    again = apply(raw_connection, three_days, "accounts", days(3))
    assert (len(first.days), again.days, again.total) == (3, [], 2)
    raw_connection.execute("delete from raw._applied")  # as if the fence row alone had been lost
    for day in days(3):
        apply(raw_connection, three_days, "accounts", [day])
    assert raw_all(raw_connection, "accounts") == before


def test_a_stale_day_replayed_does_not_bring_back_what_is_newer(three_days, raw_connection):
    apply(raw_connection, three_days, "accounts", days(3))
    before = raw_all(raw_connection, "accounts")
    raw_connection.execute("delete from raw._applied where day = %s", [FIRST])
    report = apply(raw_connection, three_days, "accounts", [FIRST])
    assert report.days == [FIRST]
    assert raw_all(raw_connection, "accounts") == before
    (gone,) = [r for r in before if r[0] == account_id(2)]
    assert gone[-2:] == (True, days(3)[2])  # the tombstone stands, with its last values and the day it went
    assert gone[6] == "shop2"


SPOILT = [
    "update raw.accounts set mcc = '9999' where id = %(changed)s",
    "delete from raw.accounts where id = %(changed)s",
    "update raw.accounts set _deleted = true, mcc = null where id = %(changed)s",
    "update raw.accounts set _commit_lsn = _commit_lsn + 1, mcc = '9999' where id = %(changed)s",
    "update raw.accounts set id = %(planted)s where id = %(changed)s",
    ("insert into raw.accounts (id, name, token, created, _source, _epoch, _commit_lsn, _ord, _deleted, _ledger_day)"
    " select %(planted)s, name, token, created, _source, _epoch, _commit_lsn, _ord, _deleted, _ledger_day"
    " from raw.accounts where id = %(changed)s"),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_row_is_mended_by_applying_its_day_again_and_not_otherwise(three_days, raw_connection, spoil):
    apply(raw_connection, three_days, "accounts", days(3))
    before = raw_all(raw_connection, "accounts")
    raw_connection.execute(spoil, {"changed": account_id(1), "planted": account_id(77)})
    spoilt = raw_all(raw_connection, "accounts")
    assert spoilt != before
    assert apply(raw_connection, three_days, "accounts", days(3)).days == []
    assert raw_all(raw_connection, "accounts") == spoilt
    assert apply(raw_connection, three_days, "accounts", [days(2)[1]], reapply=True).days == [days(2)[1]]
    assert raw_all(raw_connection, "accounts") == before


def test_the_asset_applies_standing_days_again_where_its_config_says_so(three_days, raw_connection):
    apply(raw_connection, three_days, "accounts", days(3))
    before = raw_all(raw_connection, "accounts")
    raw_connection.execute(SPOILT[0], {"changed": account_id(1)})
    for again in (False, True):
        assert (raw_all(raw_connection, "accounts") == before) is False
        dg.materialize(
            RAW_ASSETS, selection=[key("raw", "accounts")], partition_key="2026-06-02",
            resources={"lake": LakeResource(), "warehouse": WarehouseResource()},
            run_config={"ops": {"raw_tables": {"config": {"reapply": again}}}})
    assert raw_all(raw_connection, "accounts") == before


def test_a_day_applied_again_overwrites_nothing_newer(three_days, raw_connection):
    apply(raw_connection, three_days, "accounts", days(3))
    before = raw_all(raw_connection, "accounts")
    for day in (FIRST, days(2)[1], days(3)[2]):
        apply(raw_connection, three_days, "accounts", [day], reapply=True)
        assert raw_all(raw_connection, "accounts") == before
    apply(raw_connection, three_days, "accounts", days(3), reapply=True)
    assert raw_all(raw_connection, "accounts") == before


def test_a_spoilt_value_that_its_change_left_out_is_mended_from_the_days_before(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 1, name=long_text("x"))
        close(connection, FIRST)
        connection.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(1)])
        close(connection, days(2)[1])
        expected = source_state(connection, "accounts")
    capture(source)
    compact_range(store, ["accounts"], days(2))
    apply(raw_connection, store, "accounts", days(2))
    raw_connection.execute("update raw.accounts set name = 'spoilt'")
    apply(raw_connection, store, "accounts", [days(2)[1]], reapply=True)
    assert raw_state(raw_connection, "accounts") == expected


def test_a_random_history_applied_again_is_the_same(source, store, raw_connection):
    dice = random.Random(11)  # noqa: S311 - a replayable history
    with owner(source) as connection:
        reference(connection)
        for day in days(3):
            random_day(connection, dice, day)
    capture(source)
    compact_range(store, TABLES, days(3))
    for table in TABLES:
        apply(raw_connection, store, table, days(3))
        assert not_passed(table, days(3)) == []
        before = raw_all(raw_connection, table)
        for day in days(3):
            apply(raw_connection, store, table, [day], reapply=True)
        assert raw_all(raw_connection, table) == before


def not_passed(table: str, judged: list[dt.date]) -> list[tuple[str, tuple[str, ...]]]:
    """Days and reasons that the check of a raw table gives."""
    (check,) = (c for c in asset_checks.declared() if c.asset == key("raw", table))
    verdicts = judge(check, Stores.of_settings(), [day.isoformat() for day in judged])
    return [(v.partition, v.reasons) for v in verdicts if not v.passed]


def test_a_left_out_value_is_judged_by_the_day_that_had_it(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 2, name=long_text("x"))
        close(connection, FIRST)
        connection.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(1)])
        connection.execute("update oltp.accounts set id = %s where id = %s", [account_id(9), account_id(2)])
        close(connection, days(2)[1])
    capture(source)
    compact_range(store, ["accounts"], days(2))
    apply(raw_connection, store, "accounts", days(2))
    assert not_passed("accounts", days(2)) == not_passed("accounts", days(2)[1:]) == []
    for name in (1, 9):
        raw_connection.execute("update raw.accounts set name = name || '!' where id = %s", [account_id(name)])
        assert not_passed("accounts", days(2)) == [("2026-06-02", ("no_days_altered",))]
        apply(raw_connection, store, "accounts", days(2)[1:], reapply=True)


@pytest.mark.parametrize("spoil", [
    "rate = rate + 0.0000000001", "_deleted = true", "_commit_lsn = _commit_lsn + 1", "to_currency = 'usd'"])
def test_a_row_of_a_truncated_table_is_not_altered_unseen(source, store, raw_connection, spoil):
    with owner(source) as connection:
        reference(connection)
        connection.execute("insert into oltp.exchange_rates values ('2026-06-01', 'usd', 'eur', 1.5)")
        close(connection, FIRST)
        connection.execute("truncate oltp.exchange_rates")
        connection.execute("insert into oltp.exchange_rates values ('2026-06-02', 'usd', 'eur', 1.25)")
        close(connection, days(2)[1])
    capture(source)
    compact_range(store, ["exchange_rates"], days(2))
    apply(raw_connection, store, "exchange_rates", days(2))
    assert not_passed("exchange_rates", days(2)) == []
    raw_connection.execute(f"update raw.exchange_rates set {spoil} where day = '2026-06-02'")
    assert not_passed("exchange_rates", days(2)) == [("2026-06-02", ("no_days_altered",))]


def test_a_day_out_of_order_is_refused_with_the_range_to_materialize(three_days, raw_connection):
    with pytest.raises(NotContiguousError, match=r"2026-06-02 needs the days before it, 2026-06-01 is not applied"):
        apply(raw_connection, three_days, "accounts", [days(2)[1]])
    assert apply(raw_connection, three_days, "currencies", [FIRST]).days == [FIRST]
    assert apply(raw_connection, three_days, "currencies", [days(3)[2]]).rows == {days(3)[2]: 0}


def test_a_day_that_is_not_compacted_or_not_begun_is_refused(three_days, raw_connection):
    three_days.delete(dailies.manifest_path("accounts", FIRST))
    with pytest.raises(NotContiguousError, match="cdc/accounts of 2026-06-01 is missing: materialize"):
        apply(raw_connection, three_days, "accounts", [FIRST])
    with pytest.raises(ChainError, match="ledger day 2026-06-09 has not begun"):
        compact(three_days, "accounts", dt.date(2026, 6, 9))


def test_a_broken_chain_stops_the_apply(three_days, raw_connection):
    three_days.delete("cdc/manifests/000000000002.json")
    with pytest.raises(ChainError, match="is missing: nothing after it may be applied"):
        apply(raw_connection, three_days, "accounts", days(3))


def test_the_open_day_is_applied_again_as_it_grows(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        for n in range(3):
            accounts(connection, n, 1)
            capture(source)
            compact_range(store, ["accounts"], [FIRST])
            assert apply(raw_connection, store, "accounts", [FIRST]).total == n + 1
        accounts(connection, 9, 1)
        capture(source)
        assert apply(raw_connection, store, "accounts", [FIRST]).total == 3  # compacted before the newest batch
        close(connection, FIRST)
        capture(source)
        with pytest.raises(NotContiguousError, match="lacks batches captured since"):
            apply(raw_connection, store, "accounts", [FIRST])


def test_an_update_of_a_row_from_before_the_slot_is_refused_not_nulled(oltp, lake, warehouse, monkeypatch):
    with owner(oltp) as connection:
        reference(connection)
        accounts(connection, 1, 1, name=long_text("x"))
        capture(oltp)
        connection.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(1)])
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", "2026-06-01")
    capture(oltp)
    store = open_lake(load_settings())
    compact_range(store, ["accounts"], [FIRST])
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        with pytest.raises(UnknownStateError, match="leaves values out and no earlier state"):
            apply(connection, store, "accounts", [FIRST])
        connection.rollback()
        assert connection.execute("select count(*) from raw.accounts").fetchone() == (0,)
        assert connection.execute("select count(*) from raw._applied").fetchone() == (0,)


def test_a_deletion_of_a_row_from_before_the_slot_stands_as_a_bare_tombstone(oltp, lake, warehouse, monkeypatch):
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", "2026-06-01")
    with owner(oltp) as connection:
        reference(connection)
        accounts(connection, 1, 2)
        capture(oltp)
        connection.execute("delete from oltp.accounts where id = %s", [account_id(1)])
        capture(oltp)
        compact_range(open_lake(load_settings()), ["accounts"], [FIRST])
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        assert apply(connection, open_lake(load_settings()), "accounts", [FIRST]).keys == 1
        found = connection.execute("select id, name, _deleted from raw.accounts").fetchall()
    assert found == [(account_id(1), None, True)]


def test_ciphertext_never_reaches_raw():
    assert {"name_ciphertext", "email_ciphertext"}.isdisjoint(name for name, _kind in raw.columns_of("customers"))


def test_texts_that_look_like_csv_or_null_arrive_as_they_are(source, store, raw_connection):
    odd = ["", "null", "NULL", '"', '""', "a,b", "line\nbreak", "\\N", "\\.", "tab\there", "ünï€", " x "]
    with owner(source) as connection:
        reference(connection)
        for n, name in enumerate(odd):
            connection.execute(
                "insert into oltp.accounts values (%s, 'standard', 'FR', 'eur', 'company', '5411', %s, true, true, %s,"
                " '2026-06-01')", [account_id(n), name, f"t{n}"])
        close(connection, FIRST)
        expected = source_state(connection, "accounts")
    capture(source)
    compact_range(store, ["accounts"], [FIRST])
    apply(raw_connection, store, "accounts", [FIRST])
    assert raw_state(raw_connection, "accounts") == expected


def test_compaction_repeated_gives_the_same_bytes(three_days):
    paths = [p for t in TABLES for p in three_days.list(f"cdc/daily/{t}")]
    before = {p: three_days.read(p) for p in paths}
    for path in paths:
        three_days.delete(path)
    compact_range(three_days, TABLES, days(3))
    assert {p: three_days.read(p) for p in paths} == before


def test_compaction_refuses_a_changed_batch(three_days):
    path = "cdc/batches/000000000001/accounts.parquet"
    three_days.put(path, three_days.read(path)[:-1] + b"x")
    three_days.delete(dailies.manifest_path("accounts", FIRST))
    with pytest.raises(ChainError, match="is not what its manifest says"):
        compact(three_days, "accounts", FIRST)


def test_a_day_without_changes_still_has_a_file_with_every_column(three_days):
    empty = dailies.read(three_days, "refunds", FIRST)
    assert empty is not None
    assert empty.rows == 0
    assert dailies.read_changes(three_days, empty).schema.names == dailies.schema_of("refunds").names
    full = dailies.read_changes(three_days, dailies.current(
        three_days, _chain(three_days), "accounts", FIRST, FIRST))
    assert full.schema == dailies.schema_of("accounts")
    assert len(dailies.change_files(three_days, "refunds", days(3))) == 3


def _chain(store):
    from stripe_platform.cdc.manifest import Chain

    return Chain.load(store)


def test_a_past_snapshot_is_not_taken_again_with_other_content(three_days, source):
    made = snapshot_range(three_days, ["accounts", "charges"], days(3))
    assert [s.rows for s in made["accounts"].values()] == [2, 3, 2]
    assert made["charges"] == {}  # a growing table, and none of the days a Sunday
    again = snapshot_range(three_days, ["accounts"], days(3))
    assert again["accounts"] == made["accounts"]
    path = snapshots.manifest_path("accounts", FIRST)
    three_days.put(path, three_days.read(path).replace(made["accounts"][FIRST].state.encode(), b"0" * 64))
    with pytest.raises(ResnapshotError, match="stands with other content"):
        snapshot_range(three_days, ["accounts"], [FIRST])
    replaced = snapshot_range(three_days, ["accounts"], [FIRST], allow_resnapshot=True)
    assert replaced["accounts"][FIRST] == made["accounts"][FIRST]


def test_an_open_day_has_no_snapshot(three_days):
    with pytest.raises(ChainError, match="2026-06-04 is not closed"):
        snapshot_range(three_days, ["accounts"], [dt.date(2026, 6, 4)])
