"""Reference rows in the document store: every kind of change, once, as the reference's log says them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import psycopg
import pytest
from bson import Decimal128, Int64

from asset_checks.judge import WHOLE, judge
from asset_checks.stores import Stores
from asset_checks.suites import documents as checks
from resources.mongo import MongoResource
from stripe_platform.documents import control, quarantine, reference_rows
from stripe_platform.documents.schemas import STREAMS
from stripe_platform.documents.setup import ensure_collections
from stripe_platform.reference import write
from stripe_platform.reference.database import REFERENCE, connect
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.settings import Settings, load_settings

pytestmark = pytest.mark.servers
DAY = dt.date(2026, 6, 1)
AT = dt.datetime(2026, 6, 1, 12, 0, 0, 123_000, dt.UTC)
SHOP = {"name": "Shop", "country": "FR", "currency": "eur", "mcc": "5411", "created": AT}


@pytest.fixture
def ready(both: Settings, mongo: Settings) -> Settings:
    settings = load_settings()
    prepare(settings)
    return settings


@pytest.fixture
def db(ready: Settings):
    with MongoResource().database() as found:
        ensure_collections(found)
        yield found


@pytest.fixture
def conn(ready: Settings):
    with connect(ready) as connection:
        yield connection


def load(settings: Settings, db) -> dict[str, tuple[int, int]]:
    sync(settings)
    reports = reference_rows.load(db, REFERENCE.lake(settings))
    return {name: (r.inserted, r.updated) for name, r in reports.items() if r.inserted or r.updated}


def outcomes(name: str = "documents_are_the_references") -> dict[str, str]:
    return {check.asset.path[-1]: judge(check, Stores.of_settings(), [WHOLE])[0].outcome
            for check in checks.CHECKS if check.name == name}


def shop_with_all(conn: psycopg.Connection) -> str:
    shop = write.register_merchant(conn, **SHOP, url="https://shop.example")
    write.put_rate(conn, day=DAY, from_currency="usd", to_currency="eur", rate="0.9123456789")
    write.put_product(conn, id="prod_1", merchant_id=shop, name="Café", category="drinks")
    return shop


def test_every_kind_of_change_arrives_with_its_values(ready, db, conn):
    shop = shop_with_all(conn)
    load(ready, db)
    merchant = db.merchants.find_one({"_id": shop})
    token = merchant.pop("token")
    assert token.startswith("tok_")
    merchant.pop("fence")
    assert merchant == {
        "_id": shop, "type": "standard", "country": "FR", "currency": "eur", "business_type": "company", "mcc": "5411",
        "name": "Shop", "url": "https://shop.example", "created": AT, "deleted": False}
    rate = db.currency_exchange_rates.find_one({"_id": "2026-06-01:usd:eur"})
    assert (rate["day"], rate["from"], rate["to"], rate["rate"]) == (
        "2026-06-01", "usd", "eur", Decimal128(Decimal("0.9123456789")))
    assert db.country_region_codes.find_one({"_id": "FR"})["currency"] == "eur"
    assert db.products.find_one({"_id": "prod_1"})["merchant"] == shop
    write.rename_merchant(conn, shop, "Boutique")
    write.retire_product(conn, "prod_1")
    write.remove_rate(conn, day=DAY, from_currency="usd", to_currency="eur")
    assert load(ready, db) == {"merchants": (0, 1), "products": (0, 1), "currency_exchange_rates": (0, 1)}
    assert (db.merchants.find_one({"_id": shop})["name"], db.products.find_one({})["deleted"]) == ("Boutique", True)
    gone = db.currency_exchange_rates.find_one({})
    assert (gone["deleted"], gone["rate"]) == (True, Decimal128("0.9123456789"))
    assert set(outcomes().values()) == {"passed"}


def test_a_repeat_from_any_position_changes_nothing_and_brings_nothing_back(ready, db, conn):
    shop = shop_with_all(conn)
    load(ready, db)
    write.rename_merchant(conn, shop, "Boutique")
    write.remove_rate(conn, day=DAY, from_currency="usd", to_currency="eur")
    load(ready, db)
    names = [each.collection for each in reference_rows.SERVED]
    before = {name: sorted(db[name].find(), key=lambda row: row["_id"]) for name in names}
    newest = control.streamed(db, REFERENCE.name)[0]
    for position in range(newest):
        control.streaming(db, REFERENCE.name, position, position)
        reference_rows.take(db, REFERENCE.lake(ready), [_manifest(ready, position + 1)])
        assert {name: sorted(db[name].find(), key=lambda row: row["_id"]) for name in names} == before
    assert load(ready, db) == {}


def _manifest(settings: Settings, seq: int):
    from stripe_platform.cdc.manifest import Chain

    return Chain.load(REFERENCE.lake(settings)).manifests[seq - 1]


def test_a_load_that_dies_between_its_collections_ends_alike(ready, db, conn, monkeypatch):
    shop_with_all(conn)
    sync(ready)
    real, met = reference_rows.insert_new, []

    def die(collection, documents):
        if collection.name == "merchants":
            met.append(collection.name)
            raise KeyboardInterrupt
        return real(collection, documents)

    with monkeypatch.context() as patch:
        patch.setattr(reference_rows, "insert_new", die)
        with pytest.raises(KeyboardInterrupt):
            reference_rows.load(db, REFERENCE.lake(ready))
    done, applying = control.streamed(db, REFERENCE.name)
    assert (done, applying > done, met) == (0, True, ["merchants"])
    assert set(outcomes().values()) == {"not_evaluated"}
    load(ready, db)
    assert set(outcomes().values()) == {"passed"}


@pytest.mark.parametrize(("collection", "change"), [
    ("merchants", {"$set": {"mcc": "9999"}}), ("merchants", {"$set": {"deleted": True}}),
    ("currency_exchange_rates", {"$set": {"rate": Decimal128("0.9123456788")}}),
    ("products", {"$set": {"merchant": None}}), ("country_region_codes", {"$set": {"region": "x"}})])
def test_a_document_that_is_not_as_the_log_says_turns_its_check_red(ready, db, conn, collection, change):
    shop_with_all(conn)
    load(ready, db)
    db[collection].update_one({"deleted": False}, change)
    assert {name: outcome for name, outcome in outcomes().items() if outcome != "passed"} == {collection: "failed"}


def test_a_lost_document_and_a_lost_validator_turn_their_check_red(ready, db, conn):
    shop_with_all(conn)
    load(ready, db)
    db.products.delete_many({})
    db.command("collMod", "merchants", validator={})
    found = outcomes()
    assert (found["products"], found["merchants"]) == ("failed", "failed")
    db.country_region_codes.delete_one({"_id": "FR"})
    assert outcomes()["country_region_codes"] == "failed"


def test_a_poison_row_is_put_aside_healed_by_a_later_one_and_released_by_retry(ready, db, conn):
    shop = shop_with_all(conn)
    other = write.register_merchant(conn, **SHOP)
    write.put_merchants(conn, [{"id": shop, "url": "https://" + "x" * 3_000}])
    load(ready, db)
    assert db.merchants.find_one({"_id": other}) is not None
    (entry,) = quarantine.listing(db)
    assert (entry["table"], entry["id"], entry["rule"], entry["source"]) == (
        "merchants", shop, "121 validator", "reference")
    assert set(outcomes().values()) == {"passed"}
    assert outcomes("nothing_is_quarantined") == {"transactions": "failed"}
    assert reference_rows.retry(db, REFERENCE.lake(ready)) == 0
    db.command("collMod", "merchants", validator={})
    assert reference_rows.retry(db, REFERENCE.lake(ready)) == 1
    assert quarantine.listing(db) == []
    ensure_collections(db)
    write.put_merchants(conn, [{"id": other, "url": "https://" + "y" * 3_000}])
    load(ready, db)
    assert [e["id"] for e in quarantine.listing(db)] == [other]
    write.put_merchants(conn, [{"id": other, "url": None}])
    load(ready, db)
    assert quarantine.listing(db) == []
    assert db.merchants.find_one({"_id": other})["url"] is None


def test_a_key_that_may_say_something_is_shown_as_its_hash_however_long_it_is(ready, db, conn):
    name = "ada@example.test" + "x" * 200
    write.put_products(conn, [{"id": name, "name": "y" * 2_000}])
    load(ready, db)
    (entry,) = quarantine.listing(db)
    assert (entry["id"], len(entry["key_hash"]), entry["table"]) == (None, 64, "products")


def test_a_change_that_leaves_out_the_refused_value_is_held(ready, db, conn):
    long = "".join(f"{n:07d}" for n in range(2_000))  # stored out of line: an update leaves it out
    with psycopg.connect(ready.need("reference_owner_dsn"), autocommit=True) as owner:
        owner.execute("alter table reference.merchants alter column url set storage external")
    shop = write.register_merchant(conn, **SHOP, url=f"https://{long}")
    load(ready, db)
    write.rename_merchant(conn, shop, "Boutique")
    load(ready, db)
    assert db.merchants.find_one({"_id": shop}) is None
    (entry,) = quarantine.listing(db)
    assert entry["rule"] == reference_rows.HELD
    db.command("collMod", "merchants", validator={})
    assert reference_rows.retry(db, REFERENCE.lake(ready)) == 1
    found = db.merchants.find_one({"_id": shop})
    assert (found["name"], found["url"]) == ("Boutique", f"https://{long}")


def test_an_undeclared_field_and_a_float_for_a_rate_are_refused(ready, db):
    from pymongo.errors import WriteError

    good = {"_id": "a", "day": "2026-06-01", "from": "usd", "to": "eur", "rate": Decimal128("1.5"), "deleted": False,
            "fence": {"row": "1"}}
    for bad in ({"rate": 1.5}, {"more": Int64(1)}, {"day": None}):
        with pytest.raises(WriteError):
            db.currency_exchange_rates.insert_one(good | bad)
    assert db[STREAMS].count_documents({"_id": REFERENCE.name}) == 0
