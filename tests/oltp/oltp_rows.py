"""One good row per OLTP table, so that a test can spoil a single value of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.settings import Settings

AT = "2026-06-01T10:00:00Z"
GOOD: dict[str, dict[str, Any]] = {
    "currencies": {"code": "eur", "name": "Euro", "stripe_exponent": 2, "iso_exponent": 2, "payout_multiple": 1},
    "countries": {"code": "FR", "name": "France", "region": "EMEA", "currency": "eur"},
    "exchange_rates": {"day": "2026-06-01", "from_currency": "eur", "to_currency": "eur", "rate": "1"},
    "accounts": {"id": "acct_1", "type": "standard", "country": "FR", "default_currency": "eur",
                 "business_type": "company", "mcc": "5411", "name": "Shop", "token": "tok_a", "created": AT},
    "terminals": {"id": "tmr_1", "account_id": "acct_1", "label": "Till", "device_type": "pos", "country": "FR",
                  "latitude": "48.85", "longitude": "2.35", "created": AT},
    "customers": {"id": "cus_1", "account_id": "acct_1", "country": "FR", "currency": "eur", "token": "tok_c",
                  "created": AT},
    "payment_methods": {"id": "pm_1", "customer_id": "cus_1", "type": "card", "card_brand": "visa",
                        "card_last4": "4242", "card_exp_month": 12, "card_exp_year": 2030, "card_funding": "credit",
                        "card_country": "FR", "card_fingerprint": "fpr_1", "created": AT},
    "payment_intents": {"id": "pi_1", "account_id": "acct_1", "customer_id": "cus_1", "payment_method_id": "pm_1",
                        "amount": 1000, "amount_received": 1000, "currency": "eur", "status": "succeeded",
                        "created": AT},
    "charges": {"id": "ch_1", "payment_intent_id": "pi_1", "account_id": "acct_1", "customer_id": "cus_1",
                "payment_method_id": "pm_1", "terminal_id": "tmr_1", "amount": 1000, "amount_captured": 1000,
                "currency": "eur", "status": "succeeded", "device_type": "pos", "ip_country": "FR", "created": AT},
    "charge_outcomes": {"charge_id": "ch_1", "type": "authorized", "network_status": "approved_by_network",
                        "risk_level": "normal", "risk_score": 5},
    "refunds": {"id": "re_1", "charge_id": "ch_1", "amount": 100, "currency": "eur", "status": "succeeded",
                "reason": "duplicate", "created": AT},
    "disputes": {"id": "dp_1", "charge_id": "ch_1", "amount": 1000, "currency": "eur", "status": "needs_response",
                 "reason": "fraudulent", "created": AT},
    "early_fraud_warnings": {"id": "issfr_1", "charge_id": "ch_1", "fraud_type": "misc", "actionable": True,
                             "created": AT},
    "fraud_assessments": {"charge_id": "ch_1", "model_version": "v1", "score": 0.5, "decision": "allow",
                          "assessed_at": AT},
}  # fmt: skip


def insert(conn: psycopg.Connection, table: str, **changes: Any) -> None:
    """Insert the table's good row with some values changed."""
    row = {**GOOD[table], **changes}
    conn.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier("oltp", table), sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        ),
        list(row.values()),
    )  # fmt: skip


def insert_all(conn: psycopg.Connection, until: str | None = None) -> None:
    """Insert the good rows of all tables, or of those before `until`."""
    for table in GOOD:
        if table == until:
            return
        insert(conn, table)


def rows_with(settings: Settings, clear: Sequence[str]) -> list[str]:
    """Tables of all our schemas with a row that holds one of the texts, in clear or as hexadecimal bytes."""
    found = []
    needles = [*clear, *(text.encode().hex() for text in clear)]
    with psycopg.connect(settings.need("oltp_owner_dsn")) as conn:
        tables = conn.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('oltp', 'ops', 'vault')"
        ).fetchall()
        for (table,) in tables:
            query = sql.SQL("select exists (select 1 from {} t, unnest(%s::text[]) n where strpos(t::text, n) > 0)")
            name = sql.Identifier(*table.split("."))
            if conn.execute(query.format(name), [needles]).fetchone() == (True,):
                found.append(table)
    return found
