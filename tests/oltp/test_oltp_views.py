"""The business's own names: its queries run on the views as they stand, amounts read in major units."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from oltp_rows import AT, insert, insert_all
from psycopg import sql

from stripe_platform.settings import Settings

VIEWS = {
    "currency": {"currency_id", "currency_code", "currency_name", "decimals"},
    "customer": {"customer_id", "customer_token", "country", "currency_id", "created_at"},
    "device": {"device_id", "customer_id", "device_type", "platform", "browser"},
    "location": {"location_id", "country", "region", "city", "latitude", "longitude"},
    "merchant": {"merchant_id", "merchant_name", "country", "category_code", "currency_id", "active", "created_at"},
    "payment_method": {"payment_method_id", "customer_id", "type", "brand", "funding", "last4"},
    "product": {"product_id", "merchant_id", "product_name", "category", "active"},
    "status": {"status_id", "meaning"},
    "transaction": {
        "transaction_id", "merchant_id", "customer_id", "payment_method_id", "amount", "amount_minor", "currency_id",
        "transaction_date", "location_id", "device_id", "location_country", "device_type", "status_id", "risk_level",
        "risk_score", "anomaly_score", "tax", "tax_currency_id"},
}  # fmt: skip


def charge(conn: psycopg.Connection, number: int, currency: str, amount: int, **changes: Any) -> str:
    """A charge with its intent; returns its id."""
    intent, name = f"pi_{number}x", f"ch_{number}x"
    insert(conn, "payment_intents", id=intent, amount=amount, amount_received=0, currency=currency)
    row = {"amount": amount, "amount_captured": amount, "currency": currency, "terminal_id": None, **changes}
    insert(conn, "charges", id=name, payment_intent_id=intent, **row)
    return name


@pytest.fixture
def conn(oltp: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        insert_all(conn, until="payment_intents")
        for code, exponent in (("jpy", 0), ("kwd", 3), ("isk", 2), ("ugx", 2)):
            insert(conn, "currencies", code=code, name=code, stripe_exponent=exponent, iso_exponent=0)
        conn.execute("insert into oltp.locations (id, country, region, city, latitude, longitude, created)"
                     " values ('loc_1', 'FR', 'Île-de-France', 'Paris', 48.85, 2.35, %s)", [AT])
        conn.execute("insert into oltp.devices (id, customer_id, type, platform, browser, token, created)"
                     " values ('dev_1', 'cus_1', 'mobile', 'ios', 'safari', 'tok_d', %s)", [AT])
        conn.execute("insert into oltp.products (id, account_id, name, category) values"
                     " ('prod_1', 'acct_1', 'Tea', 'food'), ('prod_2', 'acct_1', 'Gone', 'food')")
        conn.execute("update oltp.products set deleted = id = 'prod_2'")
        yield conn
        conn.rollback()


def test_the_business_finds_its_transactions_above_a_hundred(conn: psycopg.Connection):
    charge(conn, 1, "eur", 10_001)
    charge(conn, 2, "eur", 10_000)
    charge(conn, 3, "jpy", 101)
    charge(conn, 4, "jpy", 100)
    charge(conn, 5, "kwd", 100_010)
    charge(conn, 6, "kwd", 99_990)
    charge(conn, 7, "isk", 10_100)
    charge(conn, 8, "ugx", 10_000)
    found = conn.execute("SELECT * FROM compat.transaction WHERE amount > 100")
    assert found.description is not None
    names = [column.name for column in found.description]
    rows = {row["transaction_id"]: row for row in (dict(zip(names, r, strict=True)) for r in found)}
    assert {name: (str(row["amount"]), row["amount_minor"], row["currency_id"]) for name, row in rows.items()} == {
        "ch_1x": ("100.01", 10_001, "eur"), "ch_3x": ("101", 101, "jpy"), "ch_5x": ("100.010", 100_010, "kwd"),
        "ch_7x": ("101.00", 10_100, "isk"),
    }  # fmt: skip


def test_an_amount_of_64_bits_keeps_every_digit(conn: psycopg.Connection):
    charge(conn, 1, "kwd", 2**63 - 1)
    assert conn.execute("select amount from compat.transaction").fetchone() == (Decimal("9223372036854775.807"),)


def test_a_transaction_is_what_came_of_it(conn: psycopg.Connection):
    charge(conn, 1, "eur", 500)
    charge(conn, 2, "eur", 500, status="failed", failure_code="card_declined", amount_captured=0)
    charge(conn, 3, "eur", 500, status="pending", amount_captured=0)
    charge(conn, 4, "eur", 500, amount_refunded=500)
    charge(conn, 5, "eur", 500, amount_refunded=499)
    insert(conn, "early_fraud_warnings", charge_id=charge(conn, 6, "eur", 500))
    insert(conn, "disputes", charge_id=charge(conn, 7, "eur", 500, amount_refunded=500), status="lost")
    insert(conn, "disputes", id="dp_2", charge_id=charge(conn, 8, "eur", 500), status="won")
    insert(conn, "disputes", id="dp_3", charge_id=charge(conn, 9, "eur", 500), status="lost", reason="duplicate")
    charge(conn, 10, "eur", 500, amount_captured=0)
    rows = conn.execute("select transaction_id, status_id from compat.transaction").fetchall()
    assert {int(name[3:-1]): status for name, status in rows} == {
        1: "successful", 2: "failed", 3: "pending", 4: "refunded", 5: "successful", 6: "fraudulent", 7: "fraudulent",
        8: "successful", 9: "successful", 10: "pending",
    }  # fmt: skip
    known = {row[0] for row in conn.execute("select status_id from compat.status")}
    assert known == {status for _, status in rows}


def test_place_device_tax_and_indicators_stand_beside_a_transaction(conn: psycopg.Connection):
    name = charge(conn, 1, "jpy", 1000)
    insert(conn, "charge_outcomes", charge_id=name, risk_level="elevated", risk_score=70)
    insert(conn, "fraud_assessments", charge_id=name, model_version="v1", score=0.25)
    insert(conn, "fraud_assessments", charge_id=name, model_version="v2", score=0.75, assessed_at="2026-06-02")
    conn.execute("insert into oltp.charge_details (charge_id, location_id, device_id, tax_amount, tax_currency)"
                 " values (%s, 'loc_1', 'dev_1', 1650, 'eur')", [name])
    charge(conn, 2, "jpy", 1000)
    rows = conn.execute(
        "select anomaly_score, risk_level, risk_score, tax, tax_currency_id, l.city, d.platform, s.meaning is not null"
        " from compat.transaction t left join compat.location l using (location_id)"
        " left join compat.device d using (device_id) join compat.status s using (status_id) order by transaction_id"
    ).fetchall()
    assert rows == [(0.75, "elevated", 70, Decimal("16.50"), "eur", "Paris", "ios", True), (None,) * 7 + (True,)]


def test_a_guests_transaction_is_not_lost(conn: psycopg.Connection):
    insert(conn, "charges", id="ch_9", payment_intent_id=None, account_id=None, customer_id=None,
           payment_method_id=None, terminal_id=None)  # fmt: skip
    assert conn.execute("select transaction_id, merchant_id, amount from compat.transaction").fetchone() == (
        "ch_9", None, Decimal("10.00"))  # fmt: skip


def test_every_name_of_the_business_has_its_view_and_its_columns(conn: psycopg.Connection):
    found: dict[str, set[str]] = {}
    for view, column in conn.execute(
        "select table_name, column_name from information_schema.columns where table_schema = 'compat'"
    ):
        found.setdefault(view, set()).add(column)
    assert found == VIEWS
    charge(conn, 1, "eur", 500)
    for view in VIEWS:
        row = conn.execute(sql.SQL("select * from {}").format(sql.Identifier("compat", view))).fetchone()
        assert row is not None, view
    assert conn.execute("select product_name, category from compat.product").fetchall() == [("Tea", "food")]
    assert conn.execute("select currency_code, decimals from compat.currency where currency_id = 'kwd'").fetchone() == (
        "KWD", 3)  # fmt: skip


def test_a_session_that_asks_for_it_uses_the_names_alone(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as owner:
        insert_all(owner)
    with psycopg.connect(oltp.need("oltp_dsn"), options="-c search_path=compat") as conn:
        assert conn.execute("SELECT transaction_id FROM transaction WHERE amount > 5").fetchall() == [("ch_1",)]
        conn.rollback()
