"""A merchant who bills: a product with a monthly price, and what the tests of billing ask of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from oltp_shop import Shop

from stripe_platform.oltp import billing, catalogue, invoices, ledger
from stripe_platform.oltp.billing import Change, Item
from stripe_platform.oltp.billing_run import BillingRun, run_billing

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


def periods(desk: Desk, subscription: str) -> list[dt.datetime]:
    return [row[0] for row in desk.conn.execute(
        "select period_start from oltp.subscription_cycles where subscription_id = %s order by 1", [subscription])]


def invoices_of(desk: Desk, subscription: str, *columns: str) -> list[tuple[Any, ...]]:
    query = f"select {', '.join(columns)} from oltp.invoices where subscription_id = %s order by created, id"
    return desk.conn.execute(query, [subscription]).fetchall()


def run(desk: Desk, until: dt.datetime, decline: str | None = None) -> BillingRun:
    return run_billing(desk.conn, until, issuer=lambda _: decline)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{text}T10:00:00+00:00")


def everything_holds(desk: Desk) -> None:
    """Every invoice adds up, the ledger balances, nets are the merchant's balance, movements the payer's."""
    assert desk.one("""
        select count(*) from oltp.invoices i
        cross join lateral (select coalesce(sum(l.amount), 0) as lines from oltp.invoice_lines l
            where l.invoice_id = i.id) l
        cross join lateral (select coalesce(sum(d.amount), 0) as discounts from oltp.invoice_lines l
            join oltp.invoice_line_discounts d on d.invoice_line_id = l.id where l.invoice_id = i.id) d
        cross join lateral (select coalesce(sum(t.amount) filter (where not t.inclusive), 0) as taxes
            from oltp.invoice_taxes t where t.invoice_id = i.id) t
        cross join lateral (select coalesce(sum(c.amount_captured), 0) as charged from oltp.invoice_payments p
            join oltp.charges c on c.id = p.charge_id where p.invoice_id = i.id and p.status = 'paid') p
        where i.subtotal <> lines or i.total <> lines - discounts + taxes or i.amount_remaining < 0
        or i.amount_remaining <> i.amount_due - i.amount_paid or i.amount_paid <> charged""") == 0
    assert all(row.debit == row.credit for row in ledger.trial_balance(desk.conn))
    for currency in ("eur", "jpy", "kwd"):
        net = desk.one("select coalesce(sum(net), 0) from oltp.balance_transactions where currency = %s", currency)
        assert net == sum(ledger.balance(desk.conn, ledger.account_name(kind, currency, desk.shop.account))
                          for kind in ("merchant_available", "merchant_pending"))
    assert desk.one("select count(*) from oltp.customers c where balance <> coalesce((select sum(amount)"
                    " from oltp.customer_balance_transactions t where t.customer_id = c.id), 0)") == 0
    assert desk.one("select count(*) - count(distinct number) from oltp.invoices where number is not null") == 0


def item_of(desk: Desk, done: billing.Subscription) -> str:
    return str(desk.one("select id from oltp.subscription_items where subscription_id = %s and not deleted order by id"
                        " limit 1", done.subscription_id))


def change(desk: Desk, done: billing.Subscription, when: dt.datetime, *changes: Change, **more: Any):
    return billing.update(desk.conn, subscription_id=done.subscription_id, created=when,
                          changes=changes or [Change(item_of(desk, done), quantity=2)], **more)


def draft(desk: Desk, amount: int = 1000, **more: Any) -> invoices.Invoice:
    invoices.add_item(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=amount,
                      currency="eur")
    return invoices.create(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, currency="eur",
                           **more)
