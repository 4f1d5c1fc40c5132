"""The write API for live use: one function, one ACID transaction. Refusals are `WriteError`, one sentence each.

Money is integer minor units with its currency beside it; ids and tokens are made here; clear names and e-mails are
sealed before they reach SQL.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.money import MAX_MINOR, exponent
from stripe_platform.oltp.ids import new_id, new_token
from stripe_platform.vault import new_keys, store_keys


class WriteError(ValueError):
    """A write the rules refuse; the message names the record and the rule, never an amount or a person."""


@dataclass(frozen=True)
class Payment:
    """Ids of what one payment wrote."""

    payment_intent_id: str
    charge_id: str


def create_account(
    conn: psycopg.Connection, *, name: str, country: str, currency: str, mcc: str, business_type: str = "company",
    type: str = "standard", created: dt.datetime | None = None,
) -> str:
    """A merchant; its id."""
    created = created or _now()
    account = new_id("acct", created)
    with conn.transaction():
        conn.execute(
            "insert into oltp.accounts (id, type, country, default_currency, business_type, mcc, name, token, created)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [account, type, country, currency, business_type, mcc, name, new_token("tok"), created],
        )
    return account


def create_terminal(
    conn: psycopg.Connection, *, account_id: str, label: str, device_type: str, country: str, latitude: str,
    longitude: str, created: dt.datetime | None = None,
) -> str:
    """A point of sale of a merchant; its id. Coordinates are decimal text."""
    created = created or _now()
    terminal = new_id("tmr", created)
    with conn.transaction():
        conn.execute(
            "insert into oltp.terminals (id, account_id, label, device_type, country, latitude, longitude, created)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [terminal, account_id, label, device_type, country, latitude, longitude, created],
        )
    return terminal


def create_customer(
    conn: psycopg.Connection, ring: Keyring, *, name: str | None, email: str | None, country: str, currency: str,
    account_id: str | None = None, created: dt.datetime | None = None,
) -> str:
    """A payer; its id. Name and e-mail are stored as ciphertext under a key of this payer alone."""
    created = created or _now()
    customer = new_id("cus", created)
    key = new_keys([customer])[0]
    sealed = {
        column: None if value is None else key.seal("oltp.customers", column, customer, value)
        for column, value in (("name_ciphertext", name), ("email_ciphertext", email))
    }
    with conn.transaction():
        store_keys(conn, ring, [key])
        conn.execute(
            "insert into oltp.customers"
            " (id, account_id, country, currency, name_ciphertext, email_ciphertext, token, created)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [customer, account_id, country, currency, sealed["name_ciphertext"], sealed["email_ciphertext"],
             new_token("tok"), created],
        )
    return customer


def create_payment_method(
    conn: psycopg.Connection, *, customer_id: str, brand: str, last4: str, exp_month: int, exp_year: int,
    funding: str, country: str, created: dt.datetime | None = None,
) -> str:
    """A card on file, without its number; its id. The fingerprint is a random token."""
    created = created or _now()
    method = new_id("pm", created)
    with conn.transaction():
        conn.execute(
            "insert into oltp.payment_methods (id, customer_id, type, card_brand, card_last4, card_exp_month,"
            " card_exp_year, card_funding, card_country, card_fingerprint, created)"
            " values (%s, %s, 'card', %s, %s, %s, %s, %s, %s, %s, %s)",
            [method, customer_id, brand, last4, exp_month, exp_year, funding, country, new_token("fpr"), created],
        )
    return method


def create_payment(
    conn: psycopg.Connection, *, account_id: str, customer_id: str, payment_method_id: str, amount: int, currency: str,
    terminal_id: str | None = None, device_type: str = "desktop", ip_country: str | None = None,
    declined: str | None = None, risk_level: str = "not_assessed", risk_score: int | None = None,
    created: dt.datetime | None = None,
) -> Payment:
    """Intent, charge and outcome of one attempt. `declined` is the issuer's failure code; None captures in full."""
    check_money(amount, currency)
    created = created or _now()
    payment = Payment(new_id("pi", created), new_id("ch", created))
    captured = 0 if declined else amount
    with conn.transaction():
        conn.execute(
            "insert into oltp.payment_intents"
            " (id, account_id, customer_id, payment_method_id, amount, amount_received, currency, status, created)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [payment.payment_intent_id, account_id, customer_id, payment_method_id, amount, captured, currency,
             "requires_payment_method" if declined else "succeeded", created],
        )
        conn.execute(
            "insert into oltp.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, terminal_id,"
            " amount, amount_captured, currency, status, failure_code, device_type, ip_country, created)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [payment.charge_id, payment.payment_intent_id, account_id, customer_id, payment_method_id, terminal_id,
             amount, captured, currency, "failed" if declined else "succeeded", declined, device_type, ip_country,
             created],
        )
        conn.execute(
            "insert into oltp.charge_outcomes (charge_id, type, network_status, reason, risk_level, risk_score)"
            " values (%s, %s, %s, %s, %s, %s)",
            [payment.charge_id, "issuer_declined" if declined else "authorized",
             "declined_by_network" if declined else "approved_by_network", declined, risk_level, risk_score],
        )
    return payment


def refund_charge(
    conn: psycopg.Connection, *, charge_id: str, amount: int, currency: str, reason: str = "requested_by_customer",
    created: dt.datetime | None = None,
) -> str:
    """Give back part or all of what a charge captured; the refund's id. Concurrent refunds never exceed it."""
    check_money(amount, currency)
    if amount == 0:
        raise WriteError(f"refund of {charge_id}: the amount must be above zero")
    created = created or _now()
    refund = new_id("re", created)
    with conn.transaction():
        left = _charge(conn, charge_id, currency, "refund")
        if amount > left:
            raise WriteError(f"refund of {charge_id} exceeds what is left of its captured amount: refund less")
        conn.execute(
            "update oltp.charges set amount_refunded = amount_refunded + %s where id = %s", [amount, charge_id]
        )
        conn.execute(
            "insert into oltp.refunds (id, charge_id, amount, currency, status, reason, created)"
            " values (%s, %s, %s, %s, 'succeeded', %s, %s)",
            [refund, charge_id, amount, currency, reason, created],
        )
    return refund


def open_dispute(
    conn: psycopg.Connection, *, charge_id: str, amount: int, currency: str, reason: str,
    status: str = "needs_response", created: dt.datetime | None = None,
) -> str:
    """The card holder's bank questions a charge; the dispute's id. The charge is marked in the same transaction."""
    check_money(amount, currency)
    created = created or _now()
    dispute = new_id("dp", created)
    with conn.transaction():
        _charge(conn, charge_id, currency, "dispute")
        conn.execute("update oltp.charges set disputed = true where id = %s", [charge_id])
        conn.execute(
            "insert into oltp.disputes (id, charge_id, amount, currency, status, reason, created)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            [dispute, charge_id, amount, currency, status, reason, created],
        )
    return dispute


def set_dispute_status(conn: psycopg.Connection, *, dispute_id: str, status: str) -> None:
    """Move a dispute on; a closed one (won, lost, prevented, warning_closed) stays closed."""
    with conn.transaction():
        row = conn.execute("select status from oltp.disputes where id = %s for update", [dispute_id]).fetchone()
        if row is None:
            raise WriteError(f"dispute {dispute_id} is unknown: check the id")
        if row[0] in ("won", "lost", "prevented", "warning_closed") and status != row[0]:
            raise WriteError(f"dispute {dispute_id} is closed as {row[0]}: a closed dispute does not move")
        conn.execute("update oltp.disputes set status = %s where id = %s", [status, dispute_id])


def record_early_fraud_warning(
    conn: psycopg.Connection, *, charge_id: str, fraud_type: str, actionable: bool = True,
    created: dt.datetime | None = None,
) -> str:
    """The issuer's earliest notice of a fraud; its id."""
    created = created or _now()
    warning = new_id("issfr", created)
    with conn.transaction():
        _charge(conn, charge_id, None, "early fraud warning")
        conn.execute(
            "insert into oltp.early_fraud_warnings (id, charge_id, fraud_type, actionable, created)"
            " values (%s, %s, %s, %s, %s)",
            [warning, charge_id, fraud_type, actionable, created],
        )
    return warning


def check_money(amount: int, currency: str) -> None:
    """Refuse what is no amount of minor units in this currency."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise WriteError("an amount is an integer of minor units: convert it with money.to_minor")
    if not 0 <= amount <= MAX_MINOR:
        raise WriteError("an amount lies between zero and 2^63-1 minor units")
    if exponent(currency) == 3 and amount % 10:
        raise WriteError(f"the last digit of a {currency} amount must be 0")


def _charge(conn: psycopg.Connection, charge_id: str, currency: str | None, what: str) -> int:
    """Lock a charge and return the minor units left to refund."""
    row = conn.execute(
        "select currency, amount_captured - amount_refunded from oltp.charges where id = %s for update", [charge_id]
    ).fetchone()
    if row is None:
        raise WriteError(f"{what} of {charge_id}: no such charge; check the id")
    if currency is not None and row[0] != currency:
        raise WriteError(f"{what} of {charge_id} is in {currency}, the charge in {row[0]}: use the charge's currency")
    return int(row[1])


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
