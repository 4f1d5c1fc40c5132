"""A database with the rows a payment needs, and a connection of the app's role."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from billing_desk import START, Desk
from oltp_shop import Shop

from stripe_platform.keyring import open_keyring
from stripe_platform.oltp import catalogue, write
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings


@pytest.fixture
def shop(oltp: Settings) -> Iterator[Shop]:
    ring = open_keyring(oltp)
    with psycopg.connect(oltp.need("oltp_owner_dsn"), autocommit=True) as owner:
        seed_reference(owner)
        account = write.create_account(owner, name="Shop", country="FR", currency="eur", mcc="5411")
    with psycopg.connect(oltp.need("oltp_dsn"), autocommit=True) as conn:
        customer = write.create_customer(
            conn, ring, name="Ada Example", email="ada@mail.example", country="FR", currency="eur")
        method = write.create_payment_method(
            conn, customer_id=customer, brand="visa", last4="4242", exp_month=1, exp_year=2030, funding="credit",
            country="FR")  # fmt: skip
        yield Shop(conn, ring, oltp, account, customer, method)


@pytest.fixture
def desk(shop: Shop) -> Desk:
    product = catalogue.create_product(shop.conn, account_id=shop.account, name="Plan", created=START)
    price = catalogue.create_price(shop.conn, product_id=product, currency="eur", unit_amount=1000, interval="month",
                                   created=START)
    return Desk(shop, product, price)
