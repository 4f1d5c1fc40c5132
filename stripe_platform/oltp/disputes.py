"""Disputes and early fraud warnings: what card holders' banks say of a charge.

A dispute takes its amount and a fee from the merchant when it begins. Won, the amount comes back (the fee where the
policy says so); lost, it stays away; prevented, as if nothing had been. Inquiries (`warning_*`) move nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import psycopg

from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency, call
from stripe_platform.oltp.ids import new_id
from stripe_platform.oltp.payments import check_money


@dataclass(frozen=True)
class Dispute:
    """A dispute after a call, and whether it is the first answer repeated."""

    dispute_id: str
    charge_id: str
    status: str
    balance_transaction_id: str | None = None
    replayed: bool = False


def create_dispute(
    conn: psycopg.Connection, *, charge_id: str, amount: int, currency: str, reason: str,
    status: str = "needs_response", idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Dispute:
    """The card holder's bank questions a charge, which is marked in the same transaction."""
    check_money(amount, currency)
    return _call(conn, "open_dispute",
                 {"p_charge": charge_id, "p_amount": amount, "p_currency": currency, "p_reason": reason,
                  "p_status": status}, idempotency, created)  # fmt: skip


def open_dispute(
    conn: psycopg.Connection, *, charge_id: str, amount: int, currency: str, reason: str,
    status: str = "needs_response", idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """As `create_dispute`; the dispute's id."""
    return create_dispute(conn, charge_id=charge_id, amount=amount, currency=currency, reason=reason, status=status,
                          idempotency=idempotency, created=created).dispute_id


def set_dispute_status(
    conn: psycopg.Connection, *, dispute_id: str, status: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Dispute:
    """Move a dispute on; a closed one (won, prevented, warning_closed, lost but for an appeal) stays closed."""
    return _call(conn, "set_dispute_status", {"p_dispute": dispute_id, "p_status": status}, idempotency, created)


def record_early_fraud_warning(
    conn: psycopg.Connection, *, charge_id: str, fraud_type: str, actionable: bool = True,
    created: dt.datetime | None = None,
) -> str:
    """The issuer's earliest notice of a fraud; its id. It moves nothing."""
    created = created or dt.datetime.now(dt.UTC)
    warning = new_id("issfr", created)
    with conn.transaction():
        if conn.execute("select 1 from oltp.charges where id = %s", [charge_id]).fetchone() is None:
            raise WriteError(f"early fraud warning of {charge_id}: no such charge; check the id",
                             code="resource_missing", param="charge")
        conn.execute(
            "insert into oltp.early_fraud_warnings (id, charge_id, fraud_type, actionable, created)"
            " values (%s, %s, %s, %s, %s)",
            [warning, charge_id, fraud_type, actionable, created],
        )
    return warning


def _call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Dispute:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Dispute(answer["dispute"], answer["charge"], answer["status"], answer["balance_transaction"], replayed)
