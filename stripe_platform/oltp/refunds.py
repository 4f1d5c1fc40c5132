"""Refunds: money given back, and what becomes of it. Racing refunds of a charge queue on its row."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency, call
from stripe_platform.oltp.payments import check_money


@dataclass(frozen=True)
class Refund:
    """A refund after a call, and whether it is the first answer repeated."""

    refund_id: str
    charge_id: str
    status: str
    balance_transaction_id: str | None = None
    failure_reason: str | None = None
    replayed: bool = False


def create_refund(
    conn: psycopg.Connection, *, charge_id: str, amount: int | None = None, currency: str | None = None,
    reason: str | None = "requested_by_customer",
    status: Literal["pending", "requires_action", "succeeded"] = "succeeded",
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Refund:
    """Give back part of what a charge captured, or all that is left (no `amount`). Its money moves at once.

    A pending refund counts against the charge; only a succeeded one against its `amount_refunded`.
    """
    if amount is not None:
        if currency is not None:
            check_money(amount, currency)
        if amount == 0:
            raise WriteError(f"refund of {charge_id}: the amount must be above zero", code="amount_too_small",
                             param="amount")
    return _call(conn, "refund_charge",
                 {"p_charge": charge_id, "p_amount": amount, "p_currency": currency, "p_reason": reason,
                  "p_status": status}, idempotency, created)  # fmt: skip


def refund_charge(
    conn: psycopg.Connection, *, charge_id: str, amount: int, currency: str, reason: str = "requested_by_customer",
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """As `create_refund`, with an amount; the refund's id. Concurrent refunds never exceed what was captured."""
    return create_refund(conn, charge_id=charge_id, amount=amount, currency=currency, reason=reason,
                         idempotency=idempotency, created=created).refund_id


def set_refund_status(
    conn: psycopg.Connection, *, refund_id: str, status: str, failure_reason: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Refund:
    """Move a refund on. One that failed or was canceled returns exactly what it took."""
    return _call(conn, "set_refund_status",
                 {"p_refund": refund_id, "p_status": status, "p_failure_reason": failure_reason}, idempotency, created)


def _call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Refund:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Refund(answer["refund"], answer["charge"], answer["status"], answer["balance_transaction"],
                  answer["failure_reason"], replayed)
