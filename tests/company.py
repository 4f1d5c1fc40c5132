"""A payments company in small: both databases, warehouse, documents, lake, and a shop that takes payments."""

from __future__ import annotations

import datetime as dt
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent / "oltp"))
from oltp_shop import Shop

from resources.mongo import MongoResource
from resources.warehouse import connect_postgres
from stripe_platform import streaming
from stripe_platform.cdc.capture import capture, ensure_slot
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_books
from stripe_platform.reference.database import connect
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.reference.write import register_merchant
from stripe_platform.settings import Settings, load_settings
from stripe_platform.warehouse import raw


@pytest.fixture
def company(both: Settings, warehouse: Settings, mongo: Settings, lake: Path,
            monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Every store, the slots made before the first row; its calendar begins today, as a live one has."""
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", dt.datetime.now(dt.UTC).date().isoformat())
    settings = load_settings()
    ensure_slot(settings)
    prepare(settings)
    return settings


@pytest.fixture
def shop(company: Settings) -> Iterator[Shop]:
    with connect(company) as conn:
        account = register_merchant(conn, name="Shop", country="FR", currency="eur", mcc="5411")
    sync(company)
    ring = open_keyring(company)
    with psycopg.connect(company.need("oltp_dsn"), autocommit=True) as conn:
        with conn.transaction():
            seed_books(conn)
        customer = write.create_customer(conn, ring, name="Ada", email=None, country="FR", currency="eur")
        method = write.create_payment_method(conn, customer_id=customer, brand="visa", last4="4242", exp_month=1,
                                             exp_year=2030, funding="credit", country="FR")
        yield Shop(conn, ring, company, account, customer, method)


def pay(conn: psycopg.Connection, shop: Shop, dice: random.Random) -> str | None:
    """A payment, refunded in part three times in ten; the charge where it was not."""
    payment = write.create_payment(
        conn, account_id=shop.account, customer_id=shop.customer, payment_method_id=shop.method,
        amount=dice.randrange(200, 9_000), currency="eur")
    if dice.random() >= 0.3:
        return payment.charge_id
    write.create_refund(conn, charge_id=payment.charge_id, amount=100, currency="eur")
    return None


TABLES = ("charges", "charge_outcomes", "refunds", "disputes", "balance_transactions", "events")


def raw_differing(settings: Settings, tables: Sequence[str] = TABLES) -> list[str]:
    """Raw tables that do not equal what the OLTP says."""
    wrong = []
    with psycopg.connect(settings.need("oltp_dsn")) as there, connect_postgres(settings.need("warehouse_dsn")) as here:
        for table in tables:
            names = ", ".join(name for name, _kind in raw.columns_of(table))
            query = "select {} from {}.{} order by 1, 2"
            rows = there.execute(query.format(names, "oltp", table)).fetchall()
            stands = here.execute("select to_regclass(%s)", [f"raw.{table}"]).fetchone() != (None,)
            found = here.execute(query.format(names, "raw", table)).fetchall() if stands else []
            wrong += [table] if rows != found else []
    return wrong


def differing(settings: Settings) -> list[str]:
    """Raw tables and documents that do not equal what the OLTP says."""
    with psycopg.connect(settings.need("oltp_dsn")) as there:
        charges = there.execute("select id, amount, amount_refunded from oltp.charges order by 1").fetchall()
    with MongoResource().database() as db:
        seen = [(d["_id"], int(d["amount"]), int(d["amount_refunded"]))
                for d in db["transactions"].find().sort("_id", 1)]
    return raw_differing(settings) + (["documents"] if seen != charges else [])


def followed_to_the_end(settings: Settings) -> None:
    """A follower that is stopped lands what it has read; this carries what was committed until now."""
    capture(settings)
    stop = threading.Event()
    stop.set()
    streaming.follow(settings, stop=stop)
