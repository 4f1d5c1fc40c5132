"""Invoices by hand, credit notes, and payers' balances. One function, one ACID transaction.

What an invoice says adds up: the database checks lines, discounts, taxes, payments and credit when a transaction ends.
A payer's balance below zero is credit; invoices to come take it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.oltp.idempotency import Idempotency, call


@dataclass(frozen=True)
class Invoice:
    """An invoice after a call, and what a collection brought."""

    invoice_id: str
    status: str
    number: str | None = None
    subscription_id: str | None = None
    payment_intent_id: str | None = None
    charge_id: str | None = None
    failure_code: str | None = None
    replayed: bool = False


@dataclass(frozen=True)
class CreditNote:
    """A credit note after a call, and the refund it made."""

    credit_note_id: str
    status: str
    type: str
    invoice_id: str
    refund_id: str | None = None
    replayed: bool = False


def add_item(
    conn: psycopg.Connection, *, account_id: str, customer_id: str, amount: int | None = None,
    currency: str | None = None, price_id: str | None = None, quantity: int = 1, subscription_id: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """Something for a payer's next invoice: `quantity` of a one-time price, or an amount (minor units); its id."""
    answer, _ = call(
        conn, "add_invoice_item",
        {"p_account": account_id, "p_customer": customer_id, "p_amount": amount, "p_currency": currency,
         "p_price": price_id, "p_quantity": quantity, "p_subscription": subscription_id},
        idempotency, created)  # fmt: skip
    return str(answer["invoice_item"])


def create(
    conn: psycopg.Connection, *, account_id: str, customer_id: str, currency: str,
    collection_method: Literal["charge_automatically", "send_invoice"] = "charge_automatically",
    tax_rate_ids: Sequence[str] = (), subscription_id: str | None = None, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Invoice:
    """A draft with all items that wait for this payer (or this subscription) in this currency."""
    return _call(
        conn, "create_invoice",
        {"p_account": account_id, "p_customer": customer_id, "p_currency": currency,
         "p_collection_method": collection_method, "p_tax_rates": list(tax_rate_ids),
         "p_subscription": subscription_id}, idempotency, created)  # fmt: skip


def finalize(
    conn: psycopg.Connection, *, invoice_id: str, days_until_due: int | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Invoice:
    """Number a draft, apply the payer's balance and open it; it is paid at once where nothing is due."""
    return _call(conn, "finalize_invoice", {"p_invoice": invoice_id, "p_days_until_due": days_until_due}, idempotency,
                 created)  # fmt: skip


def pay(
    conn: psycopg.Connection, *, invoice_id: str, payment_method_id: str | None = None, declined: str | None = None,
    out_of_band: bool = False, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Invoice:
    """Collect what remains now, or note that it was paid elsewhere. A draft is finalised first."""
    return _call(
        conn, "pay_invoice",
        {"p_invoice": invoice_id, "p_method": payment_method_id, "p_declined": declined,
         "p_out_of_band": out_of_band or None}, idempotency, created)  # fmt: skip


def void(
    conn: psycopg.Connection, *, invoice_id: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Invoice:
    """End an open invoice for good; what it had taken of the payer's balance goes back."""
    return _call(conn, "void_invoice", {"p_invoice": invoice_id}, idempotency, created)


def mark_uncollectible(
    conn: psycopg.Connection, *, invoice_id: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Invoice:
    """Give an open invoice up; it can still be paid."""
    return _call(conn, "mark_uncollectible", {"p_invoice": invoice_id}, idempotency, created)


def delete(
    conn: psycopg.Connection, *, invoice_id: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> str:
    """Drop a draft; its items wait again. The id."""
    answer, _ = call(conn, "delete_invoice", {"p_invoice": invoice_id}, idempotency, created)
    return str(answer["invoice"])


def credit(
    conn: psycopg.Connection, *, invoice_id: str, amount: int | None = None, lines: Mapping[str, int] | None = None,
    refund_amount: int = 0, credit_amount: int = 0, out_of_band_amount: int = 0, reason: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> CreditNote:
    """A credit note of an amount, or of amounts by invoice line; minor units, taxes contained.

    On an open invoice it lowers what is due. On a paid one refund, credit to the balance and out-of-band parts must add
    up to it; the refund goes to the invoice's charge.
    """
    return _note(
        conn, "create_credit_note",
        {"p_invoice": invoice_id, "p_amount": amount,
         "p_lines": json.dumps([{"line": line, "amount": part} for line, part in (lines or {}).items()]),
         "p_refund_amount": refund_amount, "p_credit_amount": credit_amount,
         "p_out_of_band_amount": out_of_band_amount, "p_reason": reason}, idempotency, created)  # fmt: skip


def void_credit_note(
    conn: psycopg.Connection, *, credit_note_id: str, idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> CreditNote:
    """Take a credit note back while its invoice is open: what is due rises again."""
    return _note(conn, "void_credit_note", {"p_credit_note": credit_note_id}, idempotency, created)


def adjust_balance(
    conn: psycopg.Connection, *, account_id: str, customer_id: str, amount: int, currency: str,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> str:
    """Move a payer's balance by hand (minor units; below zero: more credit); the movement's id."""
    answer, _ = call(
        conn, "adjust_customer_balance",
        {"p_customer": customer_id, "p_account": account_id, "p_amount": amount, "p_currency": currency},
        idempotency, created)  # fmt: skip
    return str(answer["customer_balance_transaction"])


def _call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Invoice:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Invoice(answer["invoice"], answer["status"], answer["number"], answer["subscription"],
                   answer["payment_intent"], answer["charge"], answer["failure_code"], replayed)  # fmt: skip


def _note(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> CreditNote:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return CreditNote(answer["credit_note"], answer["status"], answer["type"], answer["invoice"], answer["refund"],
                      replayed)  # fmt: skip
