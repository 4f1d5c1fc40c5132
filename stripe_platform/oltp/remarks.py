"""What merchants write beside intents, refunds and disputes: notes, metadata, and changes before a confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.payments import check_money
from stripe_platform.oltp.sealing import sealed_columns, write_row

_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
_SEALED = ("description", "metadata", "receipt_email")


def annotate_intent(
    conn: psycopg.Connection, ring: Keyring, *, intent_id: str, subject: str, values: Mapping[str, Any]
) -> None:
    """Columns of `payment_intent_details`, sealed where they are free text or personal."""
    if not values:
        return
    sealed = sealed_columns(conn, ring, "payment_intent_details", intent_id, subject,
                            {name: values[name] for name in _SEALED if name in values})
    clear = {name: value for name, value in values.items() if name not in _SEALED}
    write_row(conn, "payment_intent_details", {"payment_intent_id": intent_id}, {**clear, **sealed}, upsert=True)


def annotate_charge(
    conn: psycopg.Connection, ring: Keyring, *, charge_id: str, subject: str, values: Mapping[str, Any]
) -> None:
    """Columns of `charge_details`: what an intent says goes with its charges, as it stood then."""
    texts = {name: values[name] for name in _SEALED if values.get(name)}
    if texts:
        sealed = sealed_columns(conn, ring, "charge_details", charge_id, subject, texts)
        write_row(conn, "charge_details", {"charge_id": charge_id}, sealed, upsert=True)


def annotate_refund(
    conn: psycopg.Connection, ring: Keyring, *, refund_id: str, subject: str, metadata: Mapping[str, str]
) -> None:
    """A refund's metadata."""
    sealed = sealed_columns(conn, ring, "refunds", refund_id, subject, {"metadata": metadata})
    write_row(conn, "refunds", {"id": refund_id}, sealed)


def annotate_dispute(
    conn: psycopg.Connection, ring: Keyring, *, dispute_id: str, subject: str, values: Mapping[str, Any]
) -> None:
    """A dispute's metadata and the count of its submissions."""
    texts = {name: values[name] for name in ("metadata",) if name in values}
    clear = {name: value for name, value in values.items() if name != "metadata"}
    sealed = sealed_columns(conn, ring, "disputes", dispute_id, subject, texts) if texts else {}
    write_row(conn, "disputes", {"id": dispute_id}, {**clear, **sealed})


def change_intent(
    conn: psycopg.Connection, *, account_id: str, intent_id: str, values: Mapping[str, Any]
) -> None:
    """Amount, currency, payer or method of an intent that took nothing yet; a method makes it ready to confirm."""
    with conn.transaction():
        row = conn.execute(
            "select status, amount, currency, payment_method_id from oltp.payment_intents"
            " where id = %s and account_id = %s for no key update", [intent_id, account_id]).fetchone()
        if row is None or row[0] not in _OPEN:
            raise WriteError("the payment intent can no longer be changed in this way: read its status first",
                             code="payment_intent_unexpected_state")
        check_money(values.get("amount", row[1]), values.get("currency", row[2]))
        method = values.get("payment_method_id", row[3])
        status = "requires_confirmation" if method and row[0] == "requires_payment_method" else row[0]
        changed = {**values, **({"status": status} if status != row[0] else {})}
        write_row(conn, "payment_intents", {"id": intent_id, "account_id": account_id}, changed)


def charge_of_intent(conn: psycopg.Connection, account_id: str, intent_id: str) -> str | None:
    """The charge that took an intent's money, which refunds of the intent go to."""
    row = conn.execute(
        "select id from oltp.charges where payment_intent_id = %s and account_id = %s and status = 'succeeded'"
        " order by created desc limit 1", [intent_id, account_id]).fetchone()
    return None if row is None else str(row[0])


def annotate_object(
    conn: psycopg.Connection, ring: Keyring, *, table: str, object_id: str, subject: str, values: Mapping[str, Any]
) -> None:
    """Notes and descriptive columns of a product, price, subscription or invoice; metadata and description sealed."""
    sealed = sealed_columns(conn, ring, table, object_id, subject,
                            {name: values[name] for name in _SEALED if name in values})
    clear = {name: value for name, value in values.items() if name not in _SEALED}
    write_row(conn, table, {"id": object_id}, {**clear, **sealed})
