"""Bills of subscriptions: invoice, line, tax and intent, then attempts to collect until one comes through.

The book keeps what falls on each day. Days on which nothing is sold take nothing: what would fall there never
happens.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from stripe_platform.oltp.ids import day_us, uuid7_named
from stripe_platform.simulation.members import Members
from stripe_platform.simulation.merchants import TAXES
from stripe_platform.simulation.payments import DECLINES
from stripe_platform.simulation.traffic import DAY_US

HOUR = 3_600_000_000
Row = dict[str, Any]


class Day:
    """What subscriptions bring on one day: new rows and changes by table."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[Row]] = defaultdict(list)
        self.changes: defaultdict[str, list[Row]] = defaultdict(list)


class Book:
    """Rows and changes by day, from the first day to `last`."""

    def __init__(self, first: dt.date, last: dt.date, sold: Callable[[dt.date], bool]) -> None:
        self._first, self._sold = first, sold
        self.end = day_us(last) + DAY_US
        self._days: defaultdict[int, Day] = defaultdict(Day)

    def day(self, day: dt.date) -> Day:
        """What falls on `day`."""
        number = (day - self._first).days
        return self._days[number] if number in self._days else Day()

    def stands(self, us: int) -> bool:
        """Whether an instant lies on a day on which something is sold."""
        return us < self.end and self._sold(dt.date(1970, 1, 1) + dt.timedelta(days=us // DAY_US))

    def on(self, us: int) -> Day:
        """The day of an instant."""
        return self._days[(us - day_us(self._first)) // DAY_US]

    def change(self, table: str, us: int, **values: Any) -> None:
        """A row gets new values at an instant."""
        if self.stands(us):
            self.on(us).changes[table].append({"at": us, **values})


class Bills:
    """Writes the bills of members into the book."""

    def __init__(self, members: Members, book: Book) -> None:
        self._members, self._book = members, book

    def draft(
        self, member: int, subscription: str, item: str, invoice: str, period: tuple[int, int], begins: bool,
        rng: np.random.Generator,
    ) -> Row:
        """The invoice with its line and tax. It comes as a draft: lines of a finalised one are final."""
        members, us = self._members, period[0]
        account, currency = members.account[member], members.currency(member)
        country, unit = str(members.world.account_country[account]), members.smallest(member)
        subtotal = int(members.quantity[member]) * members.unit_amount(member)
        exact = Decimal(subtotal) * Decimal(TAXES[country]) / 100 / unit
        tax = int(exact.quantize(Decimal(1), ROUND_HALF_UP)) * unit
        rows = self._book.on(us).rows
        bill = {
            "id": invoice, "account_id": members.accounts[account], "customer_id": members.customers[member],
            "subscription_id": subscription, "number": f"M{member:06d}-{us // HOUR:06d}", "status": "draft",
            "billing_reason": "subscription_create" if begins else "subscription_cycle",
            "collection_method": "charge_automatically", "currency": currency, "amount_due": subtotal + tax,
            "amount_paid": 0, "amount_remaining": subtotal + tax, "amount_overpaid": 0, "subtotal": subtotal,
            "tax": tax, "total": subtotal + tax, "starting_balance": 0, "ending_balance": 0, "attempt_count": 0,
            "attempted": False, "auto_advance": True, "period_start": us, "period_end": period[1], "created": us,
        }
        rows["invoices"].append(bill)
        rows["invoice_lines"].append({
            "id": new_id("il", us, rng), "invoice_id": invoice, "subscription_item_id": item,
            "price_id": members.price(member), "type": "subscription", "amount": subtotal, "subtotal": subtotal,
            "currency": currency, "quantity": int(members.quantity[member]), "proration": False, "discountable": True,
            "period_start": us, "period_end": period[1],
        })
        rows["invoice_taxes"].append({
            "invoice_id": invoice, "position": 0, "tax_rate_id": members.tax(country), "amount": tax,
            "inclusive": False, "taxable_amount": subtotal,
        })
        return bill

    def intend(self, member: int, intent: str, bill: Row, us: int) -> None:
        """The intent that every attempt to collect shares."""
        self._book.on(us).rows["payment_intents"].append({
            "id": intent, "account_id": bill["account_id"], "customer_id": bill["customer_id"],
            "payment_method_id": self._members.methods[member], "amount": bill["total"], "amount_received": 0,
            "currency": bill["currency"], "status": "requires_payment_method", "capture_method": "automatic",
            "created": us,
        })

    def attempt(self, member: int, intent: str, bill: Row, at: int, done: bool, rng: np.random.Generator) -> str:
        """One charge; its id."""
        charge = new_id("ch", at, rng)
        why = None if done else str(DECLINES[int(rng.integers(0, 3))])
        shared = {"account_id": bill["account_id"], "customer_id": bill["customer_id"], "currency": bill["currency"]}
        rows = self._book.on(at).rows
        rows["charges"].append({
            "id": charge, "payment_intent_id": intent, **shared,
            "payment_method_id": self._members.methods[member], "amount": bill["total"],
            "amount_captured": bill["total"] if done else 0, "status": "succeeded" if done else "failed",
            "failure_code": why, "device_type": "desktop",
            "ip_country": None, "created": at,
        })
        rows["charge_outcomes"].append({
            "charge_id": charge, "type": "authorized" if done else "issuer_declined",
            "network_status": "approved_by_network" if done else "declined_by_network", "reason": why,
            "risk_level": "normal", "risk_score": int(rng.beta(1.2, 8.0) * 65),
        })
        return charge

    def paid(
        self, invoice: str, intent: str, charge: str, bill: Row, at: int, upon: Row, rng: np.random.Generator
    ) -> None:
        """A charge came through: intent and invoice say so."""
        self._book.change("payment_intents", at, id=intent, status="succeeded", amount_received=bill["total"])
        self._book.change("invoices", at, **upon, status="paid", paid_at=at, amount_paid=bill["total"],
                          amount_remaining=0)
        self._book.on(at).rows["invoice_payments"].append({
            "id": new_id("inpay", at, rng), "invoice_id": invoice, "payment_intent_id": intent, "charge_id": charge,
            "type": "payment_intent", "amount_requested": bill["total"], "amount_paid": bill["total"],
            "currency": bill["currency"], "is_default": True, "status": "paid", "paid_at": at, "created": at,
        })


def new_id(prefix: str, us: int, rng: np.random.Generator) -> str:
    """One id from a member's own stream."""
    return uuid7_named(prefix, np.array([us]), rng.integers(0, 2**62, 1, dtype=np.uint64))[0]
