"""A payments company in small: both databases, warehouse, documents, lake, and a shop that takes payments."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "oltp"))
from oltp_shop import Shop

from stripe_platform.cdc.capture import ensure_slot
from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import write
from stripe_platform.oltp.reference import seed_books
from stripe_platform.reference.database import connect
from stripe_platform.reference.sync import prepare, sync
from stripe_platform.reference.write import register_merchant
from stripe_platform.settings import Settings, load_settings


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
