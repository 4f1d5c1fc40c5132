"""Merchants, their points of sale, payers and cards on file.

Clear names and e-mails are sealed before they reach SQL; tokens and fingerprints are random.
"""

from __future__ import annotations

import datetime as dt

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.ids import new_id, new_token
from stripe_platform.vault import new_keys, store_keys


def create_account(
    conn: psycopg.Connection, *, name: str, country: str, currency: str, mcc: str, business_type: str = "company",
    type: str = "standard", created: dt.datetime | None = None,
) -> str:
    """A merchant; its id."""
    created = created or now()
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
    created = created or now()
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
    created = created or now()
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
    created = created or now()
    method = new_id("pm", created)
    with conn.transaction():
        conn.execute(
            "insert into oltp.payment_methods (id, customer_id, type, card_brand, card_last4, card_exp_month,"
            " card_exp_year, card_funding, card_country, card_fingerprint, created)"
            " values (%s, %s, 'card', %s, %s, %s, %s, %s, %s, %s, %s)",
            [method, customer_id, brand, last4, exp_month, exp_year, funding, country, new_token("fpr"), created],
        )
    return method


def now() -> dt.datetime:
    """The writer's clock, aware."""
    return dt.datetime.now(dt.UTC)
