"""Payouts to merchants' banks, and their reconciliation with bank lines. One function, one ACID transaction.

An automatic payout is the sum of its balance transactions; what a bank cannot pay (forint have no fillér) stays for the
next. Amounts are minor units of the balance's currency; a bank account in another currency is paid in its own.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.oltp.errors import rule_of
from stripe_platform.oltp.idempotency import Idempotency, call


@dataclass(frozen=True)
class Payout:
    """A payout after a call; `movements`: how many balance transactions an automatic one paid out."""

    payout_id: str
    status: str
    balance_transaction_id: str | None = None
    movements: int = 0
    replayed: bool = False


@dataclass(frozen=True)
class Reconciliation:
    """A day's matching: bank lines matched now, payouts paid or returned by them, and what stays open, with why."""

    day: dt.date
    matched: int
    paid: int
    returned: int
    open: dict[str, str]


def create_payout(
    conn: psycopg.Connection, *, account_id: str, currency: str, amount: int, bank_account_id: str | None = None,
    payout_currency: str | None = None, method: Literal["instant", "standard"] = "standard",
    arrival_date: dt.datetime | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payout:
    """Pay out part of the available balance by hand; refused (`balance_insufficient`) where it does not suffice."""
    done = _create(conn, account_id, currency, amount, bank_account_id, payout_currency, method, None, arrival_date,
                   None, idempotency, created)  # fmt: skip
    assert done is not None  # noqa: S101 - only an automatic payout may find nothing
    return done


def pay_out_available(
    conn: psycopg.Connection, *, account_id: str, currency: str, bank_account_id: str | None = None,
    payout_currency: str | None = None, minimum: int = 1, arrival_date: dt.datetime | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payout | None:
    """An automatic payout of every available movement that none has paid out yet; None below `minimum`.

    Reads all movements of the merchant in that currency: its cost grows with them.
    """
    return _create(conn, account_id, currency, None, bank_account_id, payout_currency, "standard", minimum,
                   arrival_date, None, idempotency, created)  # fmt: skip


def set_payout_status(
    conn: psycopg.Connection, *, payout_id: str, status: Literal["in_transit", "paid", "failed", "canceled"],
    failure_code: str | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payout:
    """Move a payout on. Failed or canceled, even after it was paid, it gives back exactly what it took."""
    answer, replayed = call(
        conn, "set_payout_status",
        {"p_payout": payout_id, "p_status": status, "p_failure_code": failure_code}, idempotency, created)  # fmt: skip
    return _payout(answer, replayed)


def set_schedule(
    conn: psycopg.Connection, *, account_id: str, currency: str,
    recurrence: Literal["daily", "manual", "monthly", "weekly"], weekly_anchor: int | None = None,
    monthly_anchor: int | None = None, minimum: int = 1, bank_account_id: str | None = None,
) -> None:
    """When a merchant is paid out by itself: on a weekday (1 is Monday) or a day of the month (31: its last)."""
    with conn.transaction():
        conn.execute(
            "insert into oltp.payout_schedules (account_id, currency, recurrence, weekly_anchor, monthly_anchor,"
            " minimum, bank_account_id) values (%s, %s, %s, %s, %s, %s, %s)"
            " on conflict (account_id, currency) do update set recurrence = excluded.recurrence,"
            " weekly_anchor = excluded.weekly_anchor,"
            " monthly_anchor = excluded.monthly_anchor, minimum = excluded.minimum,"
            " bank_account_id = excluded.bank_account_id",
            [account_id, currency, recurrence, weekly_anchor, monthly_anchor, minimum, bank_account_id],
        )


def run_payouts(conn: psycopg.Connection, day: dt.date) -> list[Payout]:
    """The automatic payouts whose schedule names `day`, each in a transaction of its own and once a day."""
    at = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    made = []
    for account, currency, minimum, bank in conn.execute("select * from payments.due_payouts(%s)", [day]).fetchall():
        done = _create(conn, account, currency, None, bank, None, "standard", minimum, None, day, None, at)
        if done is not None:
            made.append(done)
    return made


def reconcile(conn: psycopg.Connection, day: dt.date) -> Reconciliation:
    """Match bank lines booked up to `day` with payouts by reference, amount and currency, and list what stays open.

    Runs nightly after the day's statements are imported; twice is harmless. A payout whose money left is paid; one
    whose money came back has failed. An automatic payout is `completed` when bank line and movements both agree.
    """
    try:
        with conn.transaction():
            row = conn.execute("select * from payments.match_bank_lines(%s)", [day]).fetchone()
            left = conn.execute("select id, problem from payments.unreconciled(%s)", [day]).fetchall()
    except psycopg.Error as error:
        known = rule_of(error)
        if known is None:
            raise
        raise known from None
    assert row is not None  # noqa: S101 - the function always answers with one row
    return Reconciliation(day, row[0], row[1], row[2], dict(left))


def _create(
    conn: psycopg.Connection, account_id: str, currency: str, amount: int | None, bank: str | None,
    payout_currency: str | None, method: str, minimum: int | None, arrival: dt.datetime | None, day: dt.date | None,
    idempotency: Idempotency | None, created: dt.datetime | None,
) -> Payout | None:
    answer, replayed = call(
        conn, "create_payout",
        {"p_account": account_id, "p_currency": currency, "p_amount": amount, "p_bank_account": bank,
         "p_payout_currency": payout_currency, "p_method": method, "p_minimum": minimum, "p_arrival": arrival,
         "p_day": day}, idempotency, created)  # fmt: skip
    return None if answer["payout"] is None else _payout(answer, replayed)


def _payout(answer: dict[str, Any], replayed: bool) -> Payout:
    return Payout(answer["payout"], answer["status"], answer["balance_transaction"], answer["movements"], replayed)
