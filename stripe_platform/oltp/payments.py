"""Payments: intents, their attempts, captures and cancellations. One function, one ACID transaction, one round trip.

The database's functions do the work (schema `payments`): intent, charge, outcome, balance transaction, fee, ledger
entry and idempotency key commit together or not at all. Amounts are minor units with their currency beside them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from stripe_platform.money import MAX_MINOR, exponent
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency, call

CaptureMethod = Literal["automatic", "automatic_async", "manual"]
OutcomeType = Literal["authorized", "blocked", "invalid", "issuer_declined", "manual_review"]


@dataclass(frozen=True)
class Payment:
    """An intent after a call: what the call wrote, and whether it is the first answer repeated."""

    payment_intent_id: str
    charge_id: str
    status: str = "succeeded"
    balance_transaction_id: str | None = None
    failure_code: str | None = None
    outcome: str | None = None
    replayed: bool = False

    def error(self) -> WriteError | None:
        """The card error a declined attempt means to an HTTP caller; None when it went well."""
        if self.failure_code is None:
            return None
        return WriteError(
            f"charge {self.charge_id} was declined ({self.failure_code}): ask the payer for another card",
            kind="card_error", code="card_declined", decline_code=self.failure_code,
        )  # fmt: skip


def create_payment(
    conn: psycopg.Connection, *, account_id: str, customer_id: str | None, payment_method_id: str | None, amount: int,
    currency: str, terminal_id: str | None = None, device_type: str = "desktop", ip_country: str | None = None,
    declined: str | None = None, outcome: OutcomeType | None = None, risk_level: str = "not_assessed",
    risk_score: int | None = None, capture_method: CaptureMethod = "automatic", settlement_currency: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payment:
    """Create and confirm an intent at once. `declined` is the issuer's failure code; None takes the money.

    `settlement_currency`: where the merchant's balance is kept, by default the charge's own currency.
    """
    check_money(amount, currency)
    return _call(
        conn, "create_payment",
        {"p_account": account_id, "p_customer": customer_id, "p_method": payment_method_id, "p_amount": amount,
         "p_currency": currency, "p_capture_method": capture_method, "p_declined": declined, "p_outcome": outcome,
         "p_terminal": terminal_id, "p_device": device_type, "p_ip_country": ip_country, "p_risk_level": risk_level,
         "p_risk_score": risk_score, "p_settlement": settlement_currency},
        idempotency, created,
    )  # fmt: skip


def create_intent(
    conn: psycopg.Connection, *, account_id: str, customer_id: str | None = None, payment_method_id: str | None = None,
    amount: int, currency: str, capture_method: CaptureMethod = "automatic", idempotency: Idempotency | None = None,
    created: dt.datetime | None = None,
) -> Payment:
    """The intent alone: it waits for a payment method, or for confirmation where it names one. `charge_id` is empty."""
    check_money(amount, currency)
    return _call(
        conn, "create_intent",
        {"p_account": account_id, "p_customer": customer_id, "p_method": payment_method_id, "p_amount": amount,
         "p_currency": currency, "p_capture_method": capture_method},
        idempotency, created,
    )  # fmt: skip


def confirm_intent(
    conn: psycopg.Connection, *, payment_intent_id: str, payment_method_id: str | None = None,
    requires_action: bool = False, declined: str | None = None, outcome: OutcomeType | None = None,
    terminal_id: str | None = None, device_type: str = "desktop", ip_country: str | None = None,
    risk_level: str = "not_assessed", risk_score: int | None = None, settlement_currency: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payment:
    """One attempt to collect. With `requires_action` the payer must authenticate first and no charge is made."""
    return _call(
        conn, "confirm_intent",
        {"p_intent": payment_intent_id, "p_method": payment_method_id, "p_action": requires_action or None,
         "p_declined": declined, "p_outcome": outcome, "p_terminal": terminal_id, "p_device": device_type,
         "p_ip_country": ip_country, "p_risk_level": risk_level, "p_risk_score": risk_score,
         "p_settlement": settlement_currency},
        idempotency, created,
    )  # fmt: skip


def capture_intent(
    conn: psycopg.Connection, *, payment_intent_id: str, amount: int | None = None,
    settlement_currency: str | None = None, idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payment:
    """Take what was authorised, or part of it (`amount`, minor units): the rest is released."""
    return _call(conn, "capture_intent",
                 {"p_intent": payment_intent_id, "p_amount": amount, "p_settlement": settlement_currency},
                 idempotency, created)


def cancel_intent(
    conn: psycopg.Connection, *, payment_intent_id: str, reason: str | None = None,
    idempotency: Idempotency | None = None, created: dt.datetime | None = None,
) -> Payment:
    """End an intent that took no money; an authorisation is released whole."""
    return _call(conn, "cancel_intent", {"p_intent": payment_intent_id, "p_reason": reason}, idempotency, created)


def check_money(amount: int, currency: str) -> None:
    """Refuse what is no amount of minor units in this currency."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise WriteError("an amount is an integer of minor units: convert it with money.to_minor",
                         code="parameter_invalid_integer", param="amount")
    if not 0 <= amount <= MAX_MINOR:
        raise WriteError("an amount lies between zero and 2^63-1 minor units", code="amount_too_large", param="amount")
    if exponent(currency) == 3 and amount % 10:
        raise WriteError(f"the last digit of a {currency} amount must be 0", code="amount_invalid", param="amount")


def _call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> Payment:
    answer, replayed = call(conn, function, parameters, idempotency, created)
    return Payment(
        answer["payment_intent"], answer["charge"] or "", answer["status"], answer["balance_transaction"],
        answer["failure_code"], answer["outcome"], replayed,
    )  # fmt: skip
