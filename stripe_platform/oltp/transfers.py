"""Money between merchants and held back: transfers, application fees, top-ups, reserves. One function, one transaction.

Amounts are minor units. A side that needs money it has not is refused (`balance_insufficient`). What belongs to a
charge whose money is pending becomes available with it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.oltp.idempotency import Idempotency, call


@dataclass(frozen=True)
class Movement:
    """An object that moved money: its balance transaction, and the other side's where there are two."""

    id: str
    balance_transaction_id: str
    other_balance_transaction_id: str | None = None
    replayed: bool = False


@dataclass(frozen=True)
class Topup:
    """A top-up after a call."""

    topup_id: str
    status: str
    balance_transaction_id: str | None = None
    replayed: bool = False


def transfer(
    conn: psycopg.Connection, *, account_id: str, destination_id: str, amount: int, currency: str,
    source_charge_id: str | None = None, transfer_group: str | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Movement:
    """Move money to a connected account. With `source_charge_id`: at most what it brought, and not before it."""
    return _call(
        conn, "create_transfer", "transfer",
        {"p_account": account_id, "p_destination": destination_id, "p_amount": amount, "p_currency": currency,
         "p_source_charge": source_charge_id, "p_group": transfer_group}, idempotency, created)  # fmt: skip


def reverse_transfer(
    conn: psycopg.Connection, *, transfer_id: str, amount: int | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Movement:
    """Take back part of a transfer, or all that is left of it, from what the destination has available."""
    return _call(conn, "reverse_transfer", "transfer_reversal", {"p_transfer": transfer_id, "p_amount": amount},
                 idempotency, created)  # fmt: skip


def take_application_fee(
    conn: psycopg.Connection, *, charge_id: str, account_id: str, amount: int, application: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Movement:
    """What a platform (`account_id`) keeps of a charge, once per charge, in the currency the charge is settled in.

    The first balance transaction is the platform's; the other is the merchant's fee, of an amount of nothing.
    """
    return _call(
        conn, "create_application_fee", "application_fee",
        {"p_charge": charge_id, "p_account": account_id, "p_amount": amount, "p_application": application},
        idempotency, created)  # fmt: skip


def refund_application_fee(
    conn: psycopg.Connection, *, application_fee_id: str, amount: int | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Movement:
    """Give back part of an application fee, or all that is left of it."""
    return _call(conn, "refund_application_fee", "fee_refund", {"p_fee": application_fee_id, "p_amount": amount},
                 idempotency, created)  # fmt: skip


def create_topup(
    conn: psycopg.Connection, *, account_id: str, amount: int, currency: str, expected: dt.datetime | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Topup:
    """Announce money that a merchant adds; it moves when the top-up succeeds."""
    return _topup(conn, "create_topup", {"p_account": account_id, "p_amount": amount, "p_currency": currency,
                                         "p_expected": expected}, idempotency, created)  # fmt: skip


def set_topup_status(
    conn: psycopg.Connection, *, topup_id: str, status: Literal["succeeded", "failed", "canceled", "reversed"],
    failure_code: str | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Topup:
    """Move a top-up on; one that is reversed takes back exactly what it brought."""
    return _topup(conn, "set_topup_status", {"p_topup": topup_id, "p_status": status, "p_failure_code": failure_code},
                  idempotency, created)  # fmt: skip


def hold_reserve(
    conn: psycopg.Connection, *, account_id: str, amount: int, currency: str, reason: str | None = None,
    release_after: dt.datetime | None = None, reserve_plan_id: str | None = None, source_charge_id: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Movement:
    """Hold available money of a merchant back against losses."""
    return _call(
        conn, "hold_reserve", "reserve_hold",
        {"p_account": account_id, "p_amount": amount, "p_currency": currency, "p_reason": reason,
         "p_release_after": release_after, "p_plan": reserve_plan_id, "p_source_charge": source_charge_id},
        idempotency, created)  # fmt: skip


def release_reserve(
    conn: psycopg.Connection, *, reserve_hold_id: str, amount: int | None = None, reason: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Movement:
    """Let part of a hold go, or all that is left of it."""
    return _call(conn, "release_reserve", "reserve_release",
                 {"p_hold": reserve_hold_id, "p_amount": amount, "p_reason": reason}, idempotency, created)  # fmt: skip


def release_due_reserves(conn: psycopg.Connection, until: dt.datetime) -> int:
    """Let go the holds whose `release_after` has come, each dated then; how many. Part of the nightly close."""
    with conn.transaction():
        row = conn.execute("select payments.release_due_reserves(%s)", [until]).fetchone()
    return int(row[0]) if row else 0


def _call(
    conn: psycopg.Connection, function: str, kind: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Movement:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Movement(answer[kind], answer["balance_transaction"], answer["other_balance_transaction"], replayed)


def _topup(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Topup:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Topup(answer["topup"], answer["status"], answer["balance_transaction"], replayed)
