"""Small objects of Stripe's shape, made here, and ways to import them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.ingest.stripe.arrivals import Delivery
from stripe_platform.ingest.stripe.importing import Report, import_records
from stripe_platform.ingest.stripe.reading import Record, unpack
from stripe_platform.keyring import Keyring
from stripe_platform.oltp import world

Json = dict[str, Any]
T0 = 1_700_000_000
CARD = "4242 4242 4242 4242"
SECRET = "Ada Canary"


def customer(key: str = "cus_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "customer",
        "created": T0,
        "livemode": False,
        "email": "ada@mail.example",
        "name": SECRET,
        "balance": 0,
        "currency": "eur",
        "metadata": {},
        **more,
    }


def account(key: str = "acct_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "account",
        "created": T0,
        "type": "standard",
        "country": "FR",
        "default_currency": "eur",
        "charges_enabled": True,
        "payouts_enabled": True,
        "details_submitted": True,
        **more,
    }


def method(key: str = "pm_1", owner: str | None = "cus_1", **more: Any) -> Json:
    card = {
        "brand": "visa",
        "last4": "4242",
        "exp_month": 1,
        "exp_year": 2030,
        "funding": "credit",
        "country": "FR",
        "fingerprint": "fpr",
        "checks": {"cvc_check": "pass"},
    }
    return {
        "id": key,
        "object": "payment_method",
        "created": T0,
        "type": "card",
        "customer": owner,
        "card": card,
        "billing_details": {"name": SECRET, "email": None, "phone": None, "address": None},
        **more,
    }


def intent(key: str = "pi_1", owner: str | None = "cus_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "payment_intent",
        "created": T0,
        "amount": 1000,
        "amount_received": 0,
        "currency": "eur",
        "status": "requires_payment_method",
        "customer": owner,
        "payment_method": "pm_1",
        "capture_method": "automatic",
        **more,
    }


def charge(key: str = "ch_1", owner: str | None = "cus_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "charge",
        "created": T0,
        "amount": 1000,
        "amount_captured": 1000,
        "amount_refunded": 0,
        "currency": "eur",
        "status": "succeeded",
        "paid": True,
        "captured": True,
        "refunded": False,
        "disputed": False,
        "customer": owner,
        "payment_intent": "pi_1",
        "payment_method": "pm_1",
        "balance_transaction": "txn_1",
        "failure_code": None,
        "livemode": False,
        "billing_details": {"name": SECRET, "email": "ada@mail.example"},
        "description": SECRET,
        "outcome": {
            "type": "authorized",
            "network_status": "approved_by_network",
            "risk_level": "normal",
            "risk_score": 3,
        },
        "payment_method_details": {"type": "card", "card": {"brand": "visa", "last4": "4242"}},
        "metadata": {"note": SECRET},
        **more,
    }


def movement(key: str = "txn_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "balance_transaction",
        "created": T0,
        "available_on": T0,
        "amount": 1000,
        "fee": 59,
        "net": 941,
        "currency": "eur",
        "status": "available",
        "type": "charge",
        "reporting_category": "charge",
        "source": "ch_1",
        "fee_details": [
            {"amount": 59, "currency": "eur", "type": "stripe_fee", "application": None, "description": "fees"}
        ],
        **more,
    }


def event(obj: Json, kind: str, at: int = T0, key: str = "evt_1", **more: Any) -> Json:
    return {
        "id": key,
        "object": "event",
        "type": kind,
        "created": at,
        "api_version": "2024-06-20",
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "data": {"object": copy.deepcopy(obj)},
        **more,
    }


def take(conn: psycopg.Connection, ring: Keyring, *found: Any, account: str | None = None) -> Report:
    """Import values as one file would."""
    return import_records(conn, ring, records(found), Delivery("test", account))


def records(found: Iterable[Any]) -> list[Record]:
    return [record for value in found for record in unpack(value)]


def rows(conn: psycopg.Connection, query: str, *values: Any) -> list[Any]:
    return conn.execute(query, values or None).fetchall()  # type: ignore[call-overload]


def bring_world(owner: psycopg.Connection) -> None:
    """What the copier brings from the reference."""
    for table, rows in (("currencies", world.currencies()), ("countries", world.countries())):
        owner.execute(sql.SQL(
            "insert into {0} ({1}) select {1} from json_populate_recordset(null::{0}, %s::json)").format(
                sql.Identifier("oltp", table), sql.SQL(", ").join(map(sql.Identifier, rows[0]))), [json.dumps(rows)])
