"""A small, known history in the raw tables, and the warehouse it is told to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import psycopg
from raw_tables import Change

from stripe_platform.warehouse import dbt_command
from stripe_platform.warehouse.dbt_args import build_args

MARTS = ("fct_charges", "fct_refunds", "fct_disputes", "agg_daily_revenue", "dim_account", "dim_customer", "dim_date")
FIRST = dt.date(2026, 6, 1)


def day(number: int) -> dt.date:
    """The n-th day of June 2026."""
    return FIRST + dt.timedelta(days=number - 1)


class Store:
    """The warehouse under test: raw changes in, dbt runs, marts out."""

    def __init__(self, conn: psycopg.Connection, logs: Path) -> None:
        self.conn, self.logs = conn, logs

    def on(self, number: int) -> Change:
        """Changes that arrive on ledger day `number` of June."""
        return Change(self.conn, day(number))

    def dbt(self, *arguments: str) -> int:
        return dbt_command.run([*arguments, "--quiet", "--target-path", str(self.logs), "--log-path", str(self.logs)])

    def build(self, days: Sequence[int] | None, *, tags: Sequence[str] = ("facts",),
              full_refresh: bool = False, tests: bool = False) -> None:
        """Build what a run over these days builds (models alone unless `tests`); fails the test when dbt does."""
        window = None if days is None else [day(n) for n in days]
        select = ["--select", *(f"tag:{tag}" for tag in tags)]
        arguments = build_args(window, full_refresh=full_refresh)
        command = arguments if tests else ["run", *arguments[4:]]
        assert self.dbt(*command, *select) == 0

    def rows(self, query: str, *values: object) -> list[tuple]:
        return self.conn.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> tuple:
        (row,) = self.rows(query, *values)
        return row


def reference(first: Change) -> None:
    """Four currencies with rates of ten days (none for usd on the 9th), two merchants, two payers, two cards."""
    for code, exponent in (("eur", 2), ("usd", 2), ("jpy", 0), ("kwd", 3)):
        first.put("currencies", code=code, name=code, stripe_exponent=exponent, iso_exponent=exponent)
    for number in range(1, 11):
        for code, rate in (("usd", "0.9137"), ("jpy", "0.0061"), ("kwd", "2.9871")):
            if (code, number) != ("usd", 9):
                first.put("exchange_rates", day=day(number), from_currency=code, to_currency="eur", rate=rate)
    for name in ("a", "b"):
        first.put("accounts", id=f"acct_{name}", token=f"merchant_{name}", name=f"secret name {name}", country="FR",
                  created="2025-01-01T00:00:00Z")
        first.put("customers", id=f"cus_{name}", token=f"payer_{name}", country="FR", currency="eur",
                  created="2025-01-01T00:00:00Z")
        first.put("payment_methods", id=f"pm_{name}", customer_id=f"cus_{name}", card_brand="visa", card_country="FR",
                  card_funding="credit", card_last4="4242")


def charge(change: Change, identity: str, on: int, amount: int, *, who: str = "a", currency: str = "eur",
           status: str = "succeeded", **more: object) -> None:
    """One charge created at noon of day `on`, with its outcome, as both stand on the change's ledger day."""
    captured = amount if status == "succeeded" else 0
    row = {"payment_intent_id": f"pi_{identity}", "account_id": f"acct_{who}", "customer_id": f"cus_{who}",
           "payment_method_id": f"pm_{who}", "amount": amount, "amount_captured": captured, "amount_refunded": 0,
           "currency": currency, "status": status, "disputed": False, "device_type": "mobile",
           "created": dt.datetime.combine(day(on), dt.time(12), dt.UTC)}
    change.put("charges", id=f"ch_{identity}", **(row | more))
    change.put("charge_outcomes", charge_id=f"ch_{identity}", risk_level="normal", risk_score=7,
               network_status="approved_by_network")


def refund(change: Change, identity: str, of: str, on: int, amount: int, *, currency: str = "eur",
           status: str = "succeeded") -> None:
    change.put("refunds", id=f"re_{identity}", charge_id=f"ch_{of}", amount=amount, currency=currency, status=status,
               created=dt.datetime.combine(day(on), dt.time(13), dt.UTC))


def dispute(change: Change, identity: str, of: str, on: int, amount: int, *, currency: str = "eur",
            status: str = "needs_response") -> None:
    change.put("disputes", id=f"dp_{identity}", charge_id=f"ch_{of}", amount=amount, currency=currency, status=status,
               reason="fraudulent", created=dt.datetime.combine(day(on), dt.time(14), dt.UTC))


def story(store: Store, days: Sequence[int] = range(1, 11)) -> None:
    """Ten ledger days of two merchants: charges in four currencies, a refund, a late dispute, a failure, a deletion."""
    happened = {
        1: lambda now: [charge(now, "1", 1, 1050), charge(now, "2", 1, 999, who="b", currency="usd"),
                        charge(now, "3", 1, 1000, currency="jpy"), charge(now, "4", 1, 12340, currency="kwd")],
        2: lambda now: [charge(now, "5", 2, 500, status="failed", failure_code="card_declined"),
                        charge(now, "6", 2, 0)],
        4: lambda now: [charge(now, "7", 4, 70_000_000_000), charge(now, "1", 1, 1050, amount_refunded=50),
                        refund(now, "1", "1", 4, 50)],
        6: lambda now: [charge(now, "8", 6, 333)],
        8: lambda now: [charge(now, "2", 1, 999, who="b", currency="usd", disputed=True),
                        dispute(now, "1", "2", 8, 999, currency="usd")],
        9: lambda now: [charge(now, "9", 9, 10_000, currency="usd")],
        10: lambda now: [now.put("charges", id="ch_8", deleted=True)],
    }
    for number in days:
        if number in happened:
            happened[number](store.on(number))
