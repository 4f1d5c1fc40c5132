"""Reference rows reach the OLTP through the log: every kind of change, once, with its values."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import die, in_child
from reference_states import differing, one, state

from stripe_platform.cdc import capture as capturing
from stripe_platform.cdc.batches import BatchWriter
from stripe_platform.cdc.capture import capture, ensure_slot
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.verify import verify
from stripe_platform.oltp.world import COUNTRY_CODES, CURRENCY_CODES
from stripe_platform.reference import copies, write
from stripe_platform.reference.copies import CopyError, copy
from stripe_platform.reference.database import REFERENCE, connect
from stripe_platform.reference.sync import sync
from stripe_platform.settings import Settings

pytestmark = pytest.mark.servers
DAY = dt.date(2026, 6, 1)
AT = dt.datetime(2026, 6, 1, 12, 0, 0, 123456, dt.UTC)
SHOP = {"name": "Shop", "country": "FR", "currency": "eur", "mcc": "5411", "created": AT}


def lake(settings: Settings):
    return REFERENCE.lake(settings)


def test_the_seeds_stand_on_both_sides_and_a_second_sync_moves_nothing(ready: Settings):
    assert differing(ready) == []
    found = state(ready)
    assert (len(found["currencies"][1]), len(found["countries"][1])) == (len(CURRENCY_CODES), len(COUNTRY_CODES))
    again = sync(ready)
    assert (again.captured, again.copied) == ({}, {})


def test_changes_of_a_batch_whose_values_need_several_files_are_copied_in_the_order_of_their_commits(
        ready: Settings, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch):
    """A value that no typed column holds has a file of its own in its batch; what came after it stands in the other."""
    monkeypatch.setattr(capturing, "CHUNK_BYTES", 1)
    shop = write.register_merchant(conn, **SHOP)
    with psycopg.connect(ready.need("reference_owner_dsn"), autocommit=True) as owner:
        owner.execute("alter table reference.merchants drop constraint merchants_created_check")
        for name, created in (("First", "2026-06-01"), ("Second", "infinity"), ("Third", "2026-06-01")):
            owner.execute("update reference.merchants set name = %s, created = %s where id = %s", [name, created, shop])
    sync(ready)
    newest = Chain.load(lake(ready)).manifests[-1]
    assert len(newest.files_of("merchants")) == 2
    assert differing(ready) == []
    assert one(ready, f"select name from oltp.accounts where id = '{shop}'") == ("Third",)


def test_every_kind_of_change_arrives_with_its_values(ready: Settings, conn: psycopg.Connection):
    shop = write.register_merchant(conn, **SHOP, url="https://shop.example")
    write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.9123456789")
    write.put_product(conn, id="prod_1", merchant_id=shop, name="Café \"crème\"", category="drinks", tax_code="txcd_1")
    assert sync(ready).copied == {"accounts": 1, "exchange_rates": 1, "products": 1}
    assert one(ready, "select rate from oltp.exchange_rates") == (Decimal("0.9123456789"),)
    assert one(ready, "select account_id, name, active, deleted from oltp.products") == (
        shop, "Café \"crème\"", True, False)
    write.rename_merchant(conn, shop, "Boutique")
    write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.8")
    write.retire_product(conn, "prod_1")
    sync(ready)
    assert one(ready, "select name, url, charges_enabled, created from oltp.accounts") == (
        "Boutique", "https://shop.example", True, AT)
    assert one(ready, "select active, deleted from oltp.products") == (False, True)
    assert write.remove_rate(conn, day=DAY, from_currency="usd", to_currency="eur")
    sync(ready)
    assert one(ready, "select count(*) from oltp.exchange_rates") == (0,)
    assert differing(ready) == []


def test_the_reference_leaves_alone_what_the_oltp_owns_of_a_merchant(ready: Settings, conn: psycopg.Connection):
    shop = write.register_merchant(conn, **SHOP)
    sync(ready)
    with psycopg.connect(ready.need("oltp_dsn")) as app:
        app.execute("update oltp.accounts set charges_enabled = false, payouts_enabled = false")
    write.rename_merchant(conn, shop, "Boutique")
    sync(ready)
    assert one(ready, "select name, charges_enabled, payouts_enabled from oltp.accounts") == ("Boutique", False, False)


def test_a_row_deleted_at_the_source_stays_as_deleted_and_comes_back(ready: Settings, conn: psycopg.Connection):
    shop = write.register_merchant(conn, **SHOP)
    sync(ready)
    token = one(ready, "select token from oltp.accounts")[0]
    with psycopg.connect(ready.need("reference_owner_dsn"), autocommit=True) as owner:
        owner.execute("delete from reference.merchants")
        owner.execute("delete from reference.countries where code = 'UG'")
    sync(ready)
    assert one(ready, "select id, name, deleted from oltp.accounts") == (shop, "Shop", True)
    assert one(ready, "select deleted from oltp.countries where code = 'UG'") == (True,)
    assert differing(ready) == []
    write.put_merchants(conn, [{"id": shop, "name": "Shop again", "token": token}])
    sync(ready)
    assert one(ready, "select name, deleted, country from oltp.accounts") == ("Shop again", False, None)


def test_a_long_value_that_an_update_left_out_stays(ready: Settings, conn: psycopg.Connection):
    """Stored out of line, an unchanged value is not in the log: unknown is not null."""
    long = "".join(chr(33 + (n * 7919 + n // 91) % 90) for n in range(60_000))
    shop = write.register_merchant(conn, **{**SHOP, "name": long})
    sync(ready)
    write.put_merchants(conn, [{"id": shop, "mcc": "5812"}])
    sync(ready)
    assert one(ready, "select mcc, name from oltp.accounts") == ("5812", long)


def test_a_put_that_changes_nothing_is_no_change(ready: Settings, conn: psycopg.Connection):
    rows = [{"id": f"acct_{n}", "name": "Shop", "country": "FR"} for n in range(3)]
    assert write.put_merchants(conn, rows) == 3
    assert write.put_merchants(conn, rows) == 0
    assert write.put_merchants(conn, [{"id": "acct_1", "url": "https://a.example"}]) == 1
    assert sync(ready).copied == {"accounts": 3}
    assert one(ready, "select name, url from oltp.accounts where id = 'acct_1'") == ("Shop", "https://a.example")


@pytest.mark.parametrize(("row", "message"), [
    ({"id": "acct_1", "country": "XX"}, "break the rule merchants_country_fkey"),
    ({"id": "acct_1", "mcc": "grocery 4242"}, "break the rule merchants_mcc_check"),
    ({"id": "acct_1", "nmae": "Shop"}, "has no column nmae"),
    ({"name": "4242"}, "lacks its id"),
])
def test_a_refused_write_names_the_rule_and_no_value(conn: psycopg.Connection, row: dict, message: str):
    with pytest.raises(write.ReferenceRefusedError, match=message) as refused:
        write.put_merchants(conn, [{"id": "acct_good", "name": "Good"}, row])
    assert "4242" not in str(refused.value)
    assert conn.execute("select count(*) from reference.merchants").fetchone() == (0,)


@pytest.mark.parametrize("statement", [
    "update reference.merchants set id = 'acct_2'", "update reference.merchants set token = 'tok_2'",
    "update reference.currencies set code = 'eux' where code = 'eur'", "truncate reference.exchange_rates",
])
def test_keys_and_tokens_never_change_and_tables_are_not_truncated(
        ready: Settings, conn: psycopg.Connection, statement: str):
    write.register_merchant(conn, **SHOP)
    with (psycopg.connect(ready.need("reference_owner_dsn")) as owner,
          pytest.raises(psycopg.errors.RaiseException, match=r"never changes|is not truncated")):
        owner.execute(statement)  # type: ignore[call-overload]


def test_a_change_has_its_source_in_its_name_and_the_two_logs_are_apart(ready: Settings, conn: psycopg.Connection):
    ensure_slot(ready)
    write.register_merchant(conn, **SHOP)
    sync(ready)
    capture(ready)
    here = Chain.load(lake(ready))
    assert {m.source for m in here.manifests} == {"reference"}
    assert here.closed == []
    report = verify(ready, source=REFERENCE)
    assert (report.problems, report.batches) == ([], len(here.manifests))
    assert verify(ready).problems == []
    first = ready.home / "lake" / "cdc" / "manifests" / "000000000001.json"
    assert json.loads(first.read_text())["source"] == "oltp"
    assert (ready.home / "lake" / "reference" / "cdc" / "manifests" / "000000000001.json").exists()


def test_the_copies_changes_are_captured_like_all_others(ready: Settings, conn: psycopg.Connection):
    ensure_slot(ready)
    write.register_merchant(conn, **SHOP)
    sync(ready)
    assert capture(ready).rows["accounts"] == 1
    sync(ready)
    assert capture(ready).rows == {}


def test_a_batch_that_comes_again_is_behind_the_fence(ready: Settings, conn: psycopg.Connection):
    shop = write.register_merchant(conn, **SHOP)
    sync(ready)
    with psycopg.connect(ready.need("oltp_owner_dsn"), autocommit=True) as owner:
        known = copies.position(owner)
        assert known is not None
        before = owner.execute("select xmin::text from oltp.accounts").fetchone()
        previous = Chain.load(lake(ready)).manifests[known.seq - 2]
        owner.execute("update ops.copied set seq = %s, digest = %s", [previous.seq, previous.digest])
        assert copy(ready, lake(ready)).rows == {}
        assert owner.execute("select xmin::text from oltp.accounts").fetchone() == before
        assert copies.position(owner) == known
    assert shop


def test_a_log_that_does_not_go_on_from_what_was_copied_is_refused(ready: Settings, conn: psycopg.Connection):
    own = lake(ready)
    with psycopg.connect(ready.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("update ops.copied set digest = 'other'")
        write.register_merchant(conn, **SHOP)
        with pytest.raises(CopyError, match="its hash differs"):
            sync(ready)
        owner.execute("update ops.copied set seq = 99")
        with pytest.raises(CopyError, match="does not follow batch 99"):
            copy(ready, own)
    assert one(ready, "select count(*) from oltp.accounts") == (0,)


POINTS = ["before the manifest", "between capture and copy", "during the copy", "before its commit"]


@pytest.mark.parametrize("point", POINTS)
def test_a_sync_killed_at_each_step_goes_on_where_it_stood(
        ready: Settings, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, point: str):
    shop = write.register_merchant(conn, **SHOP)
    write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.9")

    def work() -> None:
        if point == "before the manifest":
            monkeypatch.setattr(BatchWriter, "finish", die)
        elif point == "between capture and copy":
            monkeypatch.setattr("stripe_platform.reference.sync.copy", die)
        elif point == "during the copy":
            real = copies._write
            monkeypatch.setattr(copies, "_write", lambda c, each, rows: die() if each.table == "accounts"
                                else real(c, each, rows))
        else:
            real_apply = copies._apply
            monkeypatch.setattr(copies, "_apply", lambda *args: (real_apply(*args), die()))
        sync(ready)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    assert one(ready, "select count(*) from oltp.accounts") == (0,)
    assert one(ready, "select count(*) from oltp.exchange_rates") == (0,)
    write.rename_merchant(conn, shop, "Boutique")
    sync(ready)
    assert differing(ready) == []
    assert one(ready, "select count(*), min(name) from oltp.accounts") == (1, "Boutique")
    assert verify(ready, source=REFERENCE).problems == []


STEPS = st.lists(st.one_of(
    st.tuples(st.just("merchant"), st.integers(0, 3), st.sampled_from(["A", "B", "Ünïcödé"])),
    st.tuples(st.just("retire"), st.integers(0, 3), st.none()),
    st.tuples(st.just("delete"), st.integers(0, 3), st.none()),
    st.tuples(st.just("product"), st.integers(0, 3), st.sampled_from(["x", "y"])),
    st.tuples(st.just("rate"), st.integers(0, 2), st.sampled_from(["0.5", "0.25"])),
    st.tuples(st.just("no rate"), st.integers(0, 2), st.none()),
    st.tuples(st.sampled_from(["capture", "copy", "killed capture", "killed copy"]), st.none(), st.none()),
), max_size=14)


@settings(max_examples=6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_interleaving_of_changes_captures_copies_and_kills_ends_equal(ready: Settings, steps: list):
    with connect(ready) as conn:
        for what, n, value in steps:
            _step(ready, conn, what, n, value)
    sync(ready)
    assert differing(ready) == []
    assert sync(ready).copied == {}


def _step(ready: Settings, conn: psycopg.Connection, what: str, n: int | None, value: str | None) -> None:
    merchant = f"acct_{n}"
    if what == "merchant":
        write.put_merchants(conn, [{"id": merchant, "name": value, "token": f"tok_{n}", "deleted": False}])
    elif what == "retire":
        conn.execute("update reference.merchants set deleted = true where id = %s", [merchant])
    elif what == "delete":
        conn.execute("delete from reference.products where merchant_id = %s", [merchant])
        conn.execute("delete from reference.merchants where id = %s", [merchant])
    elif what == "product":
        known = conn.execute("select 1 from reference.merchants where id = %s", [merchant]).fetchone()
        write.put_product(conn, id=f"prod_{n}", name=value, merchant_id=merchant if known else None, deleted=False)
    elif what == "rate":
        write.put_rates(conn, [{"day": DAY + dt.timedelta(days=n or 0), "from_currency": "usd", "to_currency": "eur",
                                "rate": value}])
    elif what == "no rate":
        write.remove_rate(conn, day=DAY + dt.timedelta(days=n or 0), from_currency="usd", to_currency="eur")
    elif what == "capture":
        capture(ready, lake=lake(ready), source=REFERENCE)
    elif what == "copy":
        copy(ready, lake(ready))
    else:
        in_child(lambda: _killed(ready, what))


def _killed(ready: Settings, what: str) -> None:
    if what == "killed capture":
        BatchWriter.finish = die  # type: ignore[method-assign,assignment]
    else:
        real = copies._apply
        copies._apply = lambda *args: (real(*args), die())  # type: ignore[assignment]
    sync(ready)
