"""Payers and their payment methods as merchants keep them: created, changed, attached and given up.

One function, one transaction (or the caller's). Personal data come in clear and are sealed before they reach SQL.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.card_vault import CardNumber, check_expiry, keep_number, remember_number
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.happenings import record_event
from stripe_platform.oltp.ids import new_id, new_token
from stripe_platform.oltp.lookup import Method
from stripe_platform.oltp.sealing import sealed_columns, write_row
from stripe_platform.vault import new_keys, store_keys

SEALED_OF_CUSTOMER = frozenset({"name", "email", "phone", "address", "description", "metadata"})


def create_payer(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, values: Mapping[str, Any], key: str | None = None
) -> str:
    """A customer of a merchant; its id. `values`: columns of customers, those to be sealed in clear."""
    created = dt.datetime.now(dt.UTC)
    customer = new_id("cus", created)
    with conn.transaction():
        store_keys(conn, ring, new_keys([customer]))
        clear = {name: value for name, value in values.items() if name not in SEALED_OF_CUSTOMER}
        sealed = sealed_columns(conn, ring, "customers", customer, customer, _sealed(values))
        write_row(conn, "customers", {"id": customer}, {
            "account_id": account_id, "token": new_token("tok"), "created": created, **clear, **sealed}, upsert=True)
        record_event(conn, "customer.created", account_id, "customer", customer, key)
    return customer


def update_payer(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, customer_id: str, values: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Replace the named values of a customer, who must be the merchant's."""
    with conn.transaction():
        clear = {name: value for name, value in values.items() if name not in SEALED_OF_CUSTOMER}
        sealed = sealed_columns(conn, ring, "customers", customer_id, customer_id, _sealed(values))
        write_row(conn, "customers", {"id": customer_id, "account_id": account_id}, {**clear, **sealed})
        record_event(conn, "customer.updated", account_id, "customer", customer_id, key)


def delete_payer(conn: psycopg.Connection, *, account_id: str, customer_id: str, key: str | None = None) -> None:
    """The customer is gone for the merchant, and its methods with it; what was paid keeps its record."""
    with conn.transaction():
        conn.execute("update oltp.customers set deleted = true, default_payment_method_id = null"
                     " where id = %s and account_id = %s", [customer_id, account_id])
        conn.execute("update oltp.payment_methods set detached = true where customer_id = %s and not detached",
                     [customer_id])
        record_event(conn, "customer.deleted", account_id, "customer", customer_id, key)


def create_card(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, number: CardNumber, exp_month: int, exp_year: int,
    funding: str, country: str | None, cvc_check: str | None, billing: Mapping[str, Any] | None = None,
    allow_redisplay: str = "unspecified", metadata: Mapping[str, str] | None = None,
) -> str:
    """A card that belongs to nobody yet; the method's id. Its security code is checked by the caller and not kept."""
    created = dt.datetime.now(dt.UTC)
    method = new_id("pm", created)
    year = check_expiry(exp_month, exp_year)
    with conn.transaction():
        key = new_keys([method])[0]
        store_keys(conn, ring, [key])
        fingerprint = remember_number(conn, ring, number)
        details = {name: (billing or {}).get(name) for name in ("name", "email", "phone", "address")}
        sealed = sealed_columns(conn, ring, "payment_methods", method, method, {**details, "metadata": metadata})
        write_row(conn, "payment_methods", {"id": method}, {
            "type": "card", "card_brand": number.brand, "card_last4": number.last4, "card_exp_month": exp_month,
            "card_exp_year": year, "card_funding": funding, "card_country": country, "card_fingerprint": fingerprint,
            "allow_redisplay": allow_redisplay, "created": created, **sealed}, upsert=True)
        keep_number(conn, ring, key, account_id, method, number)
        if cvc_check:
            conn.execute("insert into oltp.payment_method_cards (payment_method_id, cvc_check) values (%s, %s)",
                         [method, cvc_check])
    return method


def update_method(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, method_id: str, values: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Replace billing details, metadata, expiry or redisplay of a method that was found to be the merchant's."""
    sealing = frozenset({"name", "email", "phone", "address", "metadata"})
    with conn.transaction():
        clear = {name: value for name, value in values.items() if name not in sealing}
        texts = {name: value for name, value in values.items() if name in sealing}
        sealed = sealed_columns(conn, ring, "payment_methods", method_id, method_id, texts)
        write_row(conn, "payment_methods", {"id": method_id}, {**clear, **sealed})
        record_event(conn, "payment_method.updated", account_id, "payment_method", method_id, key)


def attach_method(
    conn: psycopg.Connection, *, account_id: str, method: Method, customer_id: str, key: str | None = None
) -> None:
    """The method becomes the payer's; the same again is harmless, and a method once given up stays so."""
    with conn.transaction():
        row = conn.execute("select customer_id, detached from oltp.payment_methods where id = %s for no key update",
                           [method.id]).fetchone()
        if row is None or row[1]:
            raise WriteError("the payment method was detached and cannot be used again: create a new one",
                             code="payment_method_unexpected_state", param="payment_method")
        if row[0] == customer_id:
            return
        if row[0] is not None:
            raise WriteError("the payment method belongs to another customer: detach it, and create a new one",
                             code="payment_method_unexpected_state", param="payment_method")
        conn.execute("update oltp.payment_methods set customer_id = %s where id = %s", [customer_id, method.id])
        record_event(conn, "payment_method.attached", account_id, "payment_method", method.id, key)


def detach_method(conn: psycopg.Connection, *, account_id: str, method: Method, key: str | None = None) -> None:
    """The method is given up; charges made with it keep naming it."""
    with conn.transaction():
        done = conn.execute("update oltp.payment_methods set detached = true where id = %s and not detached"
                            " and customer_id is not null", [method.id])
        if done.rowcount == 0:
            raise WriteError("the payment method is attached to nobody: there is nothing to detach",
                             code="payment_method_unexpected_state", param="payment_method")
        conn.execute("update oltp.customers set default_payment_method_id = null"
                     " where id = %s and default_payment_method_id = %s", [method.customer_id, method.id])
        record_event(conn, "payment_method.detached", account_id, "payment_method", method.id, key)


def _sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in SEALED_OF_CUSTOMER}
