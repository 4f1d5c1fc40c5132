"""Billing: subscriptions, invoices, dunning, credit. Every total is a sum of lines, every period is billed once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from oltp_shop import Shop

from stripe_platform.oltp import billing, catalogue
from stripe_platform.oltp.billing import Item
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError

START = dt.datetime(2024, 1, 31, 10, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Desk:
    """A shop with a product and a monthly price, and what a test asks of them."""

    shop: Shop
    product: str
    monthly: str

    @property
    def conn(self) -> psycopg.Connection:
        return self.shop.conn

    def price(self, amount: int = 1000, interval: catalogue.Interval = "month", **more: Any) -> str:
        return catalogue.create_price(self.conn, product_id=self.product, currency=more.pop("currency", "eur"),
                                      unit_amount=amount, interval=interval, created=START, **more)

    def subscribe(self, *items: Item, **more: Any) -> billing.Subscription:
        return billing.subscribe(
            self.conn, account_id=self.shop.account, customer_id=self.shop.customer,
            items=items or [Item(self.monthly)],
            **{"payment_method_id": self.shop.method, "created": START, **more})  # fmt: skip

    def coupon(self, duration: Any = "forever", **more: Any) -> str:
        return catalogue.create_coupon(self.conn, account_id=self.shop.account, duration=duration, **more)

    def tax(self, percentage: int | Decimal, inclusive: bool = False) -> str:
        return catalogue.create_tax_rate(self.conn, account_id=self.shop.account, display_name="VAT",
                                         percentage=percentage, inclusive=inclusive)

    def row(self, table: str, key: str | None, column: str = "id") -> dict[str, Any]:
        with self.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute(f"select * from oltp.{table} where {column} = %s", [key]).fetchone()
        assert row is not None
        return row

    def one(self, query: str, *values: Any) -> Any:
        row = self.conn.execute(query, values).fetchone()
        return row[0] if row else None


@pytest.fixture
def desk(shop: Shop) -> Desk:
    product = catalogue.create_product(shop.conn, account_id=shop.account, name="Plan", created=START)
    price = catalogue.create_price(shop.conn, product_id=product, currency="eur", unit_amount=1000, interval="month",
                                   created=START)
    return Desk(shop, product, price)


def test_a_subscription_bills_its_first_period_and_is_active(desk: Desk):
    done = desk.subscribe(Item(desk.monthly, 3))
    assert (done.status, done.invoice_status, done.failure_code) == ("active", "paid", None)
    invoice = desk.row("invoices", done.invoice_id)
    assert (invoice["total"], invoice["amount_due"], invoice["amount_paid"], invoice["amount_remaining"]) == (
        3000, 3000, 3000, 0)
    assert desk.row("charges", done.charge_id)["amount"] == 3000


def test_a_declined_subscription_is_incomplete(desk: Desk):
    done = desk.subscribe(declined="insufficient_funds")
    assert (done.status, done.invoice_status, done.failure_code) == ("incomplete", "open", "insufficient_funds")


def test_the_same_key_subscribes_once(desk: Desk):
    key = Idempotency(desk.shop.ring, "k1")
    first, again = (desk.subscribe(idempotency=key) for _ in range(2))
    assert (first.subscription_id, again.replayed) == (again.subscription_id, True)
    with pytest.raises(WriteError, match="other parameters"):
        desk.subscribe(Item(desk.monthly, 2), idempotency=key)
    assert desk.one("select count(*) from oltp.subscriptions") == 1


def test_a_canceled_subscription_ends_at_once_and_is_not_canceled_again(desk: Desk):
    done = desk.subscribe()
    gone = billing.cancel(desk.conn, subscription_id=done.subscription_id, created=START + DAY)
    assert gone.status == "canceled"
    with pytest.raises(WriteError, match="cannot be canceled"):
        billing.cancel(desk.conn, subscription_id=done.subscription_id)


def test_taxes_and_discounts_come_to_a_total(desk: Desk):
    coupon = desk.coupon("forever", percent_off=Decimal("33.3"))
    tax = desk.tax(20)
    done = desk.subscribe(Item(desk.price(999)), Item(desk.price(1001)), coupon_id=coupon, tax_rate_ids=[tax])
    invoice = desk.row("invoices", done.invoice_id)
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == (2000, 267, 1601)
