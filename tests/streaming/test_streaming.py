"""Following the log: payments are seen in raw and in the documents while they are made, whoever dies meanwhile."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from beside import beside
from company import TABLES, differing, followed_to_the_end
from oltp_shop import Shop
from typer.testing import CliRunner

from asset_checks.judge import ROWS, judge
from asset_checks.stores import Stores
from asset_checks.suites import documents as document_checks
from asset_checks.suites import raw as raw_checks
from resources.lake import Lake, open_lake
from resources.mongo import MongoResource
from resources.warehouse import connect_postgres
from stripe_platform import put_aside, streaming
from stripe_platform.cdc.canary import gaps
from stripe_platform.cdc.capture import capture, waiting_canaries
from stripe_platform.cdc.compact import compact_range
from stripe_platform.cdc.manifest import Chain
from stripe_platform.cdc.snapshots import snapshot_range
from stripe_platform.cli import app
from stripe_platform.documents import transactions
from stripe_platform.documents.schemas import LOADS, STREAMS
from stripe_platform.documents.setup import ensure_collections
from stripe_platform.oltp import write
from stripe_platform.reference.database import connect
from stripe_platform.reference.write import rename_merchant
from stripe_platform.settings import Settings
from stripe_platform.warehouse import raw, release

pytestmark = pytest.mark.servers
PATIENCE = 30.0
SEED = 20261122


@contextmanager
def followed(settings: Settings) -> Iterator[streaming.StreamReport]:
    """The platform follows its log while the block runs; the report is complete afterwards."""
    stop, done = threading.Event(), streaming.StreamReport()
    with beside(lambda: done.__dict__.update(streaming.follow(settings, stop=stop, every=0.05).__dict__), stop):
        yield done


def soon(found: Callable[[], object], wanted: object) -> None:
    end = time.monotonic() + PATIENCE
    while (seen := found()) != wanted:
        assert time.monotonic() < end, f"{seen!r} instead of {wanted!r}"
        time.sleep(0.02)


def in_raw(settings: Settings, query: str) -> object:
    try:
        with connect_postgres(settings.need("warehouse_dsn")) as conn:
            return conn.execute(query).fetchone()  # type: ignore[call-overload]
    except psycopg.errors.UndefinedTable:
        return None


def document(charge: str) -> dict:
    with MongoResource().database() as db:
        return db["transactions"].find_one({"_id": charge}) or {}


def merchant(account: str) -> dict:
    with MongoResource().database() as db:
        return db["merchants"].find_one({"_id": account}) or {}


def test_a_payment_its_refund_and_its_dispute_are_seen_in_both_stores(shop: Shop):
    with followed(shop.settings) as report:
        first, second = shop.pay(1000), shop.pay(2000)
        soon(lambda: in_raw(shop.settings, "select count(*), sum(amount)::bigint from raw.charges"), (2, 3000))
        soon(lambda: document(second.charge_id).get("status"), "succeeded")
        write.create_refund(shop.conn, charge_id=first.charge_id, amount=1000, currency="eur")
        dispute = write.create_dispute(shop.conn, charge_id=second.charge_id, amount=2000, currency="eur",
                                       reason="fraudulent")
        soon(lambda: document(first.charge_id).get("status"), "refunded")
        soon(lambda: document(second.charge_id).get("status"), "fraudulent")
        write.set_dispute_status(shop.conn, dispute_id=dispute.dispute_id, status="lost")
        soon(lambda: document(second.charge_id)["dispute"]["status"], "lost")
    assert document(first.charge_id)["customer"].startswith("cus_tok") or document(first.charge_id)["customer"]
    assert differing(shop.settings) == []
    assert report.failures == {}
    assert report.as_json()["lag_seconds"].keys() == {"raw", "documents", "reference_documents"}


def test_a_change_of_the_reference_reaches_all_stores(shop: Shop):
    with followed(shop.settings):
        with connect(shop.settings) as conn:
            rename_merchant(conn, shop.account, "Boutique")
        soon(lambda: shop.conn.execute("select name from oltp.accounts where id = %s", [shop.account]).fetchone(),
             ("Boutique",))
        soon(lambda: in_raw(shop.settings, f"select name from raw.accounts where id = '{shop.account}'"),
             ("Boutique",))
        soon(lambda: merchant(shop.account).get("name"), "Boutique")


def test_the_days_find_what_was_streamed_and_the_checks_hold_while_it_goes_on(shop: Shop):
    """The open day's checks are judged at one position, though the stream is ahead of what was compacted."""
    settings, stores, over = shop.settings, Stores.of_settings(), threading.Event()
    day = Chain.load(Stores.of_settings().lake()).open_day(settings.first_day)

    def pay() -> None:
        with psycopg.connect(settings.need("oltp_dsn"), autocommit=True) as conn:
            while not over.is_set():
                write.create_payment(conn, account_id=shop.account, customer_id=shop.customer,
                                     payment_method_id=shop.method, amount=700, currency="eur")

    with followed(settings):
        payer = threading.Thread(target=pay)
        payer.start()
        try:
            soon(lambda: (in_raw(settings, "select count(*) > 20 from raw.charges")), (True,))
            for _ in range(3):
                compact_range(stores.lake(), ["charges", "charge_outcomes", "disputes"], [day])
                with connect_postgres(settings.need("warehouse_dsn")) as conn:
                    raw.apply(conn, stores.lake(), "charges", [day])
                for suite, table in ((raw_checks._profile("charges", stores, [day]), "raw"),
                                     (document_checks._transactions(stores, [dt.datetime.now(dt.UTC).date()]), "doc")):
                    found = suite.iloc[0]
                    assert found[ROWS] > 20
                    if table == "raw":
                        assert (found[ROWS], found["days_altered"]) == (found["keys_in_the_log"], 0)
                    else:
                        assert found[ROWS] == found["in_the_log"]
                        assert (found["currencies_with_other_sums"], found["statuses_with_other_sums"]) == (0, 0)
        finally:
            over.set()
            payer.join()
    followed_to_the_end(settings)
    assert differing(settings) == []


def test_stream_and_days_leave_the_same_rows_whichever_comes_last(shop: Shop):
    settings, stores = shop.settings, Stores.of_settings()
    day = Chain.load(stores.lake()).open_day(settings.first_day)
    first, second = shop.pay(1000), shop.pay(2000)
    write.create_refund(shop.conn, charge_id=first.charge_id, amount=400, currency="eur")
    write.create_dispute(shop.conn, charge_id=second.charge_id, amount=2000, currency="eur", reason="fraudulent")
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("insert into ops.day_ledger values ('oltp', %s)", [day])
    capture(settings)

    def by_days() -> None:
        compact_range(stores.lake(), [*TABLES, "customers", "accounts", "terminals"], [day])
        snapshot_range(stores.lake(), ["customers", "accounts", "terminals"], [day])
        with connect_postgres(settings.need("warehouse_dsn")) as conn, MongoResource().database() as db:
            for table in TABLES:
                raw.apply(conn, stores.lake(), table, [day], reapply=True)
            ensure_collections(db)
            db[LOADS].delete_many({})
            transactions.load(db, stores.lake(), [day])

    def by_stream() -> None:
        with connect_postgres(settings.need("warehouse_dsn")) as conn, MongoResource().database() as db:
            if conn.execute("select to_regclass('raw._streamed')").fetchone() != (None,):
                conn.execute("truncate raw._streamed, raw._applied")  # from the first batch on, what stands or not
            db[STREAMS].delete_many({})
            db[LOADS].delete_many({})
        followed_to_the_end(settings)

    found = []
    for ways in ((by_days, by_stream), (by_stream, by_days)):
        with connect_postgres(settings.need("warehouse_dsn")) as conn, MongoResource().database() as db:
            conn.execute("drop schema if exists raw cascade")
            db["transactions"].delete_many({})
        for way in ways:
            way()
            with connect_postgres(settings.need("warehouse_dsn")) as conn, MongoResource().database() as db:
                found.append(([conn.execute(f"select * from raw.{table} order by 1, 2").fetchall() for table in TABLES],
                              list(db["transactions"].find(sort=[("_id", 1)]))))
        assert differing(settings) == []
    assert found[0][1][0]["_id"] == first.charge_id
    assert found.count(found[0]) == 4


def test_poison_rows_hold_no_store_and_are_released_when_their_cause_is_mended(shop: Shop):
    """A payment that raw refuses, one that the documents refuse, one whose payer raw has put aside."""
    settings, stores = shop.settings, Stores.of_settings()
    shop.pay(1000)
    followed_to_the_end(settings)
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        conn.execute("alter table raw.charges add constraint small check (amount < 5000)")
        conn.execute("alter table raw.customers add constraint named check (country is distinct from 'DE')")
    stranger = write.create_customer(shop.conn, shop.ring, name="Bob", email=None, country="DE", currency="eur")
    card = write.create_payment_method(shop.conn, customer_id=stranger, brand="visa", last4="4242", exp_month=1,
                                       exp_year=2030, funding="credit", country="DE")
    with followed(settings) as report:
        large, odd, good = shop.pay(9000), shop.pay(2000), shop.pay(3000)
        strange, stranger_yet = (
            write.create_payment(shop.conn, account_id=shop.account, customer_id=stranger, payment_method_id=card,
                                 amount=amount, currency="eur") for amount in (700, 800))
        with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as owner:
            owner.execute("alter table oltp.charges drop constraint failure_code_only_if_failed")
            owner.execute("update oltp.charges set failure_code = repeat('4', 100) where id = %s", [odd.charge_id])
        last = shop.pay(4000)
        soon(lambda: document(last.charge_id).get("status"), "succeeded")
        soon(lambda: in_raw(settings, f"select amount from raw.charges where id = '{good.charge_id}'"), (3000,))
    assert report.failures == {}
    assert report.quarantined == {"raw": 2, "documents": 3, "reference_documents": 0}
    found = put_aside.listing(settings)
    assert {(row["store"], row["table"], row["id"], row["rule"]) for row in found} == {
        ("raw", "charges", large.charge_id, "23514 small"), ("raw", "customers", stranger, "23514 named"),
        ("documents", "transactions", odd.charge_id, "121 validator"),
        *(("documents", "transactions", name, "customer_id is not in raw.customers")
          for name in (strange.charge_id, stranger_yet.charge_id))}
    assert document(large.charge_id)["status"] == "succeeded"  # each store for itself
    today = dt.datetime.now(dt.UTC).date()
    day = Chain.load(stores.lake()).open_day(settings.first_day)
    compact_range(stores.lake(), ["charges", "charge_outcomes", "disputes"], [day])
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        raw.apply(conn, stores.lake(), "charges", [day])
    (of_raw,) = raw_checks._profile("charges", stores, [day]).to_dict("records")
    assert (of_raw["keys_quarantined"], of_raw["days_altered"], of_raw[ROWS]) == (1, 0, of_raw["keys_in_the_log"])
    (of_documents,) = document_checks._transactions(stores, [today]).to_dict("records")
    assert (of_documents["documents_quarantined"], of_documents["statuses_with_other_sums"]) == (3, 0)
    assert of_documents[ROWS] == of_documents["in_the_log"]
    assert [judge(check, stores, ["all"])[0].outcome for check in (*raw_checks.CHECKS, *document_checks.CHECKS)
            if check.name == "nothing_is_quarantined"] == ["failed", "failed"]
    with connect_postgres(settings.need("warehouse_dsn")) as conn:
        conn.execute("alter table raw.charges drop constraint small")
        conn.execute("alter table raw.customers drop constraint named")
        conn.commit()
        conn.autocommit = True
        assert release.retry(conn, stores.lake(), settings.first_day) == 2
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("update oltp.charges set ip_country = 'FR' where id = %s", [strange.charge_id])
    followed_to_the_end(settings)  # a later change heals, with the outcome that came in an earlier batch
    assert (document(strange.charge_id)["outcome"] or {}).get("type") == "authorized"
    told = CliRunner().invoke(app, ["cdc", "quarantine", "--retry", "--json"])
    assert json.loads(told.stdout.splitlines()[-1])["released"] == {"raw": 0, "documents": 1}
    assert [row["id"] for row in put_aside.listing(settings)] == [odd.charge_id]
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        owner.execute("update oltp.charges set failure_code = null where id = %s", [odd.charge_id])
    followed_to_the_end(settings)
    assert put_aside.listing(settings) == []
    assert differing(settings) == []


def test_a_store_that_is_away_is_caught_up_and_landing_goes_on(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "BACKOFF", (0.05,))
    real, away, refused = transactions.take, threading.Event(), threading.Event()
    away.set()

    def take(*given):
        if away.is_set():
            refused.set()
            raise ConnectionError("the document server is away")
        return real(*given)

    monkeypatch.setattr(transactions, "take", take)
    with followed(shop.settings) as report:
        payments = [shop.pay(100 + n) for n in range(5)]
        soon(lambda: in_raw(shop.settings, "select count(*) from raw.charges"), (5,))
        assert refused.wait(PATIENCE)
        assert document(payments[0].charge_id) == {}
        away.clear()
        soon(lambda: document(payments[-1].charge_id).get("status"), "succeeded")
    assert report.failures["documents"] >= 1
    assert "raw" not in report.failures
    assert differing(shop.settings) == []


def test_canaries_arrive_one_after_the_other_while_it_follows(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """Nothing is changed: they alone move the slot."""
    monkeypatch.setattr(streaming, "CANARY", 0.2)
    lake = open_lake(shop.settings)
    with followed(shop.settings):
        soon(lambda: sum(last - first + 1 for first, last in arrived(lake)) >= 3, True)
    assert gaps(Chain.load(lake), waiting_canaries(lake)) == []


def arrived(lake: Lake) -> list[tuple[int, int]]:
    return [*(each for batch in Chain.load(lake).manifests for each in batch.canaries), *waiting_canaries(lake)]
