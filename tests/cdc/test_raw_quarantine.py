"""A key that raw refuses is put aside: what stands beside it flows, a later good change heals it, and it is judged."""

from __future__ import annotations

import datetime as dt
import math

import psycopg
import pyarrow as pa
import pytest
from cdc_source import FIRST, account_id, accounts, close, long_text, owner, raw_all, raw_state, reference, source_state

import asset_checks
from asset_checks.judge import WHOLE, judge
from asset_checks.stores import Stores
from resources.warehouse import connect_postgres
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc import quarantined
from stripe_platform.cdc.capture import capture
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain
from stripe_platform.keys import key
from stripe_platform.settings import load_settings
from stripe_platform.warehouse import quarantine, raw, raw_tables, release
from stripe_platform.warehouse.raw import apply
from stripe_platform.warehouse.raw_tables import Target
from stripe_platform.warehouse.stream import RawStream

SECOND = FIRST + dt.timedelta(days=1)
BAD = "secret-4242424242424242"


@pytest.fixture
def raw_connection(source, warehouse):
    with connect_postgres(warehouse.need("warehouse_dsn")) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture(params=["days", "stream"])
def bring(request, source, store, raw_connection):
    """Carries what was committed to raw by one of the two ways; what was brought before stays."""
    def by_days() -> None:
        capture(source)
        chain = Chain.load(store)
        for day in chain.days_of("accounts", FIRST):
            compact_range(store, ["accounts"], [day], first_day=FIRST)
            apply(raw_connection, store, "accounts", [day], first_day=FIRST)

    def by_stream() -> None:
        capture(source)
        chain = Chain.load(store)
        RawStream(raw_connection, store, "oltp", FIRST).take(chain, chain.manifests)

    return by_days if request.param == "days" else by_stream


@pytest.fixture
def shops(source, bring):
    """Accounts 1 to 5 in the source and in raw."""
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 5)
        bring()
        yield connection


def entries(connection) -> list[tuple[str | None, str]]:
    return [(entry["id"], entry["rule"]) for entry in release.listing(connection)]


RULES = {
    "a check": ("alter table raw.accounts add constraint no_bad check (name not like 'secret%')",
                {"name": BAD}, "23514 no_bad"),
    "a unique index": ("create unique index one_name on raw.accounts (name)", {"name": "shop4"}, "23505 one_name"),
    "too long for an index": ("create index names on raw.accounts (name)", {"name": long_text("x")}, "54000"),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_poison_row_is_put_aside_while_others_flow(shops, bring, raw_connection, kind, capfd):
    rule, values, named = RULES[kind]
    raw_connection.execute(rule)
    ((column, value),) = values.items()
    with shops.transaction():
        shops.execute("update oltp.accounts set name = 'new' || id where id not in (%s, %s)",
                      [account_id(3), account_id(4)])
        shops.execute(f"update oltp.accounts set {column} = %s where id = %s", [value, account_id(3)])
    bring()
    found = release.listing(raw_connection)
    assert [(entry["rule"], entry["table"], entry["source"]) for entry in found] == [(named, "accounts", "oltp")]
    assert found[0]["id"] == account_id(3)
    assert quarantined.by_store(load_settings()) == {"raw": 1, "documents": None}
    standing = {row[0]: row[6] for row in raw_state(raw_connection, "accounts")}
    assert standing == {row[0]: row[6] for row in source_state(shops, "accounts")} | {account_id(3): "shop3"}
    told = "".join(capfd.readouterr()) + repr(found)
    assert BAD not in told


def test_a_later_good_change_heals_and_a_repeat_changes_nothing(shops, bring, raw_connection):
    raw_connection.execute(RULES["a check"][0])
    shops.execute("update oltp.accounts set name = %s where id = %s", [BAD, account_id(3)])
    bring()
    before = raw_all(raw_connection, "accounts")
    raw_connection.execute("delete from raw._applied")
    raw_connection.execute("update raw._streamed set seq = 0") if _streams(raw_connection) else None
    (entry,) = release.listing(raw_connection)
    bring()
    assert raw_all(raw_connection, "accounts") == before
    assert release.listing(raw_connection) == [entry]
    shops.execute("update oltp.accounts set name = 'good again' where id = %s", [account_id(3)])
    bring()
    assert entries(raw_connection) == []
    assert raw_state(raw_connection, "accounts") == source_state(shops, "accounts")
    raw_connection.execute("delete from raw._applied")
    raw_connection.execute("update raw._streamed set seq = 0") if _streams(raw_connection) else None
    bring()  # the poison once more, now older than what stands
    assert entries(raw_connection) == []
    assert raw_state(raw_connection, "accounts") == source_state(shops, "accounts")


def _streams(connection) -> bool:
    return connection.execute("select to_regclass('raw._streamed')").fetchone() != (None,)


def test_of_several_changes_the_newest_good_one_stands_whichever_way_they_come(shops, bring, raw_connection):
    raw_connection.execute(RULES["a check"][0])
    for name in ("good", BAD, BAD + "2"):
        shops.execute("update oltp.accounts set name = %s where id = %s", [name, account_id(3)])
    bring()
    assert entries(raw_connection) == [(account_id(3), "23514 no_bad")]
    assert {row[0]: row[6] for row in raw_state(raw_connection, "accounts")}[account_id(3)] == "good"


def test_a_change_that_leaves_the_refused_value_out_is_held_and_retry_folds_it(shops, bring, raw_connection, store):
    raw_connection.execute("alter table raw.accounts add constraint short check (length(name) < 100)")
    shops.execute("update oltp.accounts set name = %s where id = %s", [long_text("x"), account_id(3)])
    bring()
    shops.execute("update oltp.accounts set mcc = '0001' where id = %s", [account_id(3)])
    shops.execute("update oltp.accounts set mcc = '0002' where id = %s", [account_id(4)])
    bring()
    standing = {row[0]: row for row in raw_state(raw_connection, "accounts")}
    assert (standing[account_id(3)][5], standing[account_id(3)][6]) == ("5411", "shop3")
    assert standing[account_id(4)][5] == "0002"
    assert entries(raw_connection) == [(account_id(3), "23514 short")]
    assert release.retry(raw_connection, store, FIRST) == 0
    raw_connection.execute("alter table raw.accounts drop constraint short")
    assert release.retry(raw_connection, store, FIRST) == 1
    assert entries(raw_connection) == []
    assert raw_state(raw_connection, "accounts") == source_state(shops, "accounts")


def test_a_key_renamed_while_it_is_put_aside_is_held_under_its_new_name(shops, bring, raw_connection, store):
    raw_connection.execute("alter table raw.accounts add constraint short check (length(name) < 100)")
    shops.execute("update oltp.accounts set name = %s where id = %s", [long_text("x"), account_id(3)])
    bring()
    shops.execute("update oltp.accounts set id = %s where id = %s", [account_id(9), account_id(3)])
    bring()
    assert entries(raw_connection) == [(account_id(9), "23514 short")]
    assert account_id(3) not in {row[0] for row in raw_state(raw_connection, "accounts")}
    raw_connection.execute("alter table raw.accounts drop constraint short")
    assert release.retry(raw_connection, store, FIRST) == 1
    assert raw_state(raw_connection, "accounts") == source_state(shops, "accounts")


def test_a_deleted_key_is_put_aside_no_longer(shops, bring, raw_connection):
    raw_connection.execute(RULES["a check"][0])
    shops.execute("update oltp.accounts set name = %s where id = %s", [BAD, account_id(3)])
    shops.execute("update oltp.accounts set name = %s where id = %s", [BAD, account_id(4)])
    shops.execute("delete from oltp.accounts where id = %s", [account_id(4)])
    bring()
    assert entries(raw_connection) == [(account_id(3), "23514 no_bad")]
    shops.execute("delete from oltp.accounts where id = %s", [account_id(3)])
    bring()
    assert entries(raw_connection) == []
    assert raw_state(raw_connection, "accounts") == source_state(shops, "accounts")


def test_keys_that_move_while_another_is_refused_keep_the_values_they_had(shops, bring, raw_connection):
    """Two rows swap their keys and leave long values out: halves of them must not read what halves have written."""
    for n in (1, 5):
        shops.execute("update oltp.accounts set name = %s where id = %s", [long_text(str(n)), account_id(n)])
    bring()
    raw_connection.execute(RULES["a check"][0])
    with shops.transaction():
        for old, new in ((1, 7), (5, 1), (7, 5)):
            shops.execute("update oltp.accounts set id = %s where id = %s", [account_id(new), account_id(old)])
        shops.execute("update oltp.accounts set name = %s where id = %s", [BAD, account_id(3)])
    expected = [row for row in source_state(shops, "accounts") if row[0] != account_id(3)]
    bring()
    assert entries(raw_connection) == [(account_id(3), "23514 no_bad")]
    assert [row for row in raw_state(raw_connection, "accounts") if row[0] != account_id(3)] == expected


def made(names: dict[int, str], lsn: int = 5_000) -> pa.Table:
    """New accounts as the change log has them."""
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    rows = [{"id": account_id(n), "type": "standard", "country": "FR", "default_currency": "eur", "name": name,
             "token": f"t{n}", "created": now, "_op": "c", "_commit_lsn": lsn, "_ord": n, "_commit_ts": now,
             "_epoch": "000001-00000001", "_source": "oltp", "_unchanged": []} for n, name in names.items()]
    return pa.Table.from_pylist(rows, dailies.schema_of("accounts")).append_column(
        "_ledger_day", pa.repeat(pa.scalar(FIRST), len(rows)))


@pytest.fixture
def run(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        capture(source)
    run = raw.run_of(store, Chain.load(store), "accounts")
    with raw_connection.transaction():
        raw.create(raw_connection, run)
    return run


def test_a_number_out_of_range_is_put_aside_under_the_hash_of_its_key(run, store, raw_connection):
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    rows = [{"day": FIRST, "from_currency": "usd", "to_currency": to, "rate": rate, "_op": "c",
             "_commit_lsn": 5_000, "_ord": n, "_commit_ts": now, "_epoch": "000001-00000001", "_source": "oltp",
             "_unchanged": []} for n, (to, rate) in enumerate([("eur", "1.5"), ("jpy", "9" * 30), ("gbp", "0.8")])]
    changes = pa.Table.from_pylist(rows, dailies.schema_of("exchange_rates")).append_column(
        "_ledger_day", pa.repeat(pa.scalar(FIRST), 3))
    rates = raw.run_of(store, Chain.load(store), "exchange_rates")
    with raw_connection.transaction():
        raw.create(raw_connection, rates)
        assert raw.take(raw_connection, rates, changes) == 2
    assert entries(raw_connection) == [(None, "22003")]
    with raw_connection.transaction():  # the same key, found again by its hash
        raw.take(raw_connection, rates, changes.set_column(changes.column_names.index("rate"), "rate", pa.array(
            ["1.5", "130.25", "0.8"])).set_column(changes.column_names.index("_commit_lsn"), "_commit_lsn", pa.array(
                [6_000] * 3)))
    assert (entries(raw_connection), raw.count(raw_connection, "exchange_rates")) == ([], 3)


@pytest.mark.parametrize("count", [10, 5_000], ids=["in the statement", "by COPY"])
def test_a_nul_in_a_text_is_refused_by_the_same_rule_on_every_way(run, raw_connection, count):
    names = {n: f"shop{n}" for n in range(count)} | {count // 3: "half\x00half"}
    with raw_connection.transaction():
        assert raw.take(raw_connection, run, made(names)) == count - 1
    assert entries(raw_connection) == [(account_id(count // 3), "22021")]
    assert raw.count(raw_connection, "accounts") == count - 1


def test_one_poison_among_100_000_rows_is_found_in_some_dozen_statements(run, raw_connection, monkeypatch):
    count, asked, merged = 100_000, [], []
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    real, execute = raw._merge, raw_connection.execute
    monkeypatch.setattr(raw, "_merge", lambda *a, **k: (merged.append(1), real(*a, **k))[1])
    monkeypatch.setattr(raw_connection, "execute", lambda *a, **k: (asked.append(1), execute(*a, **k))[1])
    changes = made({n: f"shop{n}" for n in range(count)} | {61_803: BAD})
    with raw_connection.transaction():
        assert raw.take(raw_connection, run, changes) == count - 1
    assert entries(raw_connection) == [(account_id(61_803), "23514 no_bad")]
    assert len(merged) <= 2 * math.ceil(math.log2(count)) + 1
    assert len(asked) <= 8 * len(merged) + 20


def test_a_rule_that_refuses_everything_stops_the_table_with_a_sentence(run, raw_connection, monkeypatch):
    monkeypatch.setattr(quarantined, "MOST", 20)
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    with pytest.raises(quarantine.RuleRefusesTooManyError, match=r"more than 20 keys .* 23514 no_bad") as caught, \
            raw_connection.transaction():  # fmt: skip
        raw.take(raw_connection, run, made(dict.fromkeys(range(50), BAD)))
    assert BAD not in str(caught.value)
    assert (raw.count(raw_connection, "accounts"), entries(raw_connection)) == (0, [])


def test_a_poison_that_comes_again_behind_its_remedy_is_no_longer_one(run, raw_connection):
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    for name, lsn in (("good", 7_000), (BAD, 6_000)):
        with raw_connection.transaction():
            raw.take(raw_connection, run, made({1: name}, lsn))
    assert entries(raw_connection) == []


def test_data_and_quarantine_commit_together(run, raw_connection):
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    with raw_connection.transaction() as transaction:
        raw.take(raw_connection, run, made({1: "good", 2: BAD}))
        assert len(entries(raw_connection)) == 1
        raise psycopg.Rollback(transaction)
    assert (raw.count(raw_connection, "accounts"), entries(raw_connection)) == (0, [])


def test_an_id_that_may_say_something_is_shown_as_its_hash_alone(run, raw_connection):
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    changes = made({1: BAD})
    changes = changes.set_column(0, "id", pa.array(["ada@example.test"]))
    with raw_connection.transaction():
        raw.take(raw_connection, run, changes)
    (entry,) = release.listing(raw_connection)
    assert (entry["id"], len(entry["key_hash"])) == (None, 64)
    assert "ada" not in repr(entry)


def test_a_truncation_takes_what_was_put_aside(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        connection.execute("insert into oltp.exchange_rates values ('2026-06-01', 'usd', 'eur', 1.5)")
        capture(source)
        rates = raw.run_of(store, Chain.load(store), "exchange_rates")
        with raw_connection.transaction():
            raw.create(raw_connection, rates)
        raw_connection.execute("alter table raw.exchange_rates add constraint low check (rate < 1)")
        stream = RawStream(raw_connection, store, "oltp", FIRST)
        stream.take(Chain.load(store), Chain.load(store).manifests)
        assert entries(raw_connection) == [(None, "23514 low")]
        connection.execute("truncate oltp.exchange_rates")
        capture(source)
        stream.take(Chain.load(store), Chain.load(store).manifests)
    assert (entries(raw_connection), raw.count(raw_connection, "exchange_rates")) == ([], 0)


def test_of_a_table_without_a_key_each_change_is_put_aside_by_its_place_in_the_log(run, raw_connection):
    target = Target("words", (), (("word", "text"),))
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    changes = pa.Table.from_pylist([
        {"word": word, "_op": "c", "_commit_lsn": 9_000, "_ord": n, "_commit_ts": now, "_epoch": "000001-00000001",
         "_source": "oltp", "_unchanged": [], "_ledger_day": FIRST} for n, word in enumerate(["a", BAD, "b", "a"])])
    with raw_connection.transaction():
        raw_tables.create(raw_connection, target)
    raw_connection.execute("alter table raw.words add constraint no_bad check (word not like 'secret%')")
    for _ in range(2):
        with raw_connection.transaction():
            raw._take_part(raw_connection, target, changes, doomed=False)
        assert raw_connection.execute("select array_agg(word order by _ord) from raw.words").fetchone() == (
            ["a", "b", "a"],)
        assert [(e["table"], e["ord"], e["rule"]) for e in release.listing(raw_connection)] == [
            ("words", 1, "23514 no_bad")]
    raw_connection.execute("alter table raw.words drop constraint no_bad")
    with raw_connection.transaction():
        raw._take_part(raw_connection, target, changes, doomed=False)
    assert (entries(raw_connection), raw_connection.execute("select count(*) from raw.words").fetchone()) == ([], (4,))


def verdict(name: str, table: str, days: list[str]):
    (check,) = (c for c in asset_checks.declared() if (c.asset, c.name) == (key("raw", table), name))
    return judge(check, Stores.of_settings(), days)


def test_the_checks_count_quarantined_keys_apart_and_one_of_them_is_red(source, store, raw_connection):
    with owner(source) as connection:
        reference(connection)
        accounts(connection, 1, 5)
        close(connection, FIRST)
        connection.execute("update oltp.accounts set name = %s where id = %s", [BAD, account_id(3)])
        connection.execute("update oltp.accounts set name = 'x' where id = %s", [account_id(4)])
        close(connection, SECOND)
    capture(source)
    compact_range(store, ["accounts"], [FIRST, SECOND])
    apply(raw_connection, store, "accounts", [FIRST])
    assert verdict("nothing_is_quarantined", "charges", [WHOLE])[0].outcome == "passed"
    raw_connection.execute("alter table raw.accounts add constraint no_bad check (name not like 'secret%')")
    report = apply(raw_connection, store, "accounts", [SECOND])
    assert report.quarantined == 1
    days = [FIRST.isoformat(), SECOND.isoformat()]
    assert [v.outcome for v in verdict("rows_are_the_logs", "accounts", days)] == ["passed", "passed"]
    red = verdict("nothing_is_quarantined", "charges", [WHOLE])[0]
    assert (red.outcome, red.reasons) == ("failed", ("no_keys_quarantined",))
    raw_connection.execute("update raw.accounts set name = 'y' where id = %s", [account_id(4)])
    assert [v.outcome for v in verdict("rows_are_the_logs", "accounts", days)] == ["passed", "failed"]
    raw_connection.execute("update raw.accounts set name = 'x' where id = %s", [account_id(4)])
    raw_connection.execute("delete from raw._quarantine")  # an entry that is lost is a key that is lost
    assert [v.outcome for v in verdict("rows_are_the_logs", "accounts", days)] != ["passed", "passed"]


def test_psycopg_refusals_that_are_no_rows_fault_are_raised(run, raw_connection):
    def write(_rows, _origins):
        raise psycopg.errors.LockNotAvailable

    with pytest.raises(psycopg.errors.LockNotAvailable), raw_connection.transaction():
        quarantine.merge(raw_connection, raw.raw_tables.declared("accounts"), made({1: "a", 2: "b"}), write)
