"""First answers to requests with an idempotency key: kept sealed for a day, in the transaction of what they tell."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.vault import open_values, subject_keys

_TABLE, _COLUMN = "oltp.idempotency_keys", "response_ciphertext"


@dataclass(frozen=True)
class Kept:
    """A first answer, byte for byte."""

    status: int
    body: bytes


def open_request(
    conn: psycopg.Connection, account_id: str, idempotency: Idempotency | None, request_id: str
) -> Kept | None:
    """Begin a request inside its transaction: the first answer where there is one, None where it is to be acted on.

    Raises `WriteError` when another request holds the key, or when it was used with other parameters.
    """
    digest = idempotency.digest("", {}) if idempotency else None
    row = conn.execute(
        "select state, status, body from payments.open_request(%s, %s, %s, %s)",
        [account_id, idempotency.key if idempotency else None, digest, request_id]).fetchone()
    assert row is not None  # noqa: S101 - a function always answers with one row
    state, status, body = row
    if state == "busy":
        raise WriteError("another request with this idempotency key is under way: repeat yours when it has ended",
                         kind="idempotency_error", code="idempotency_key_in_use")
    if state == "other":
        raise WriteError("this idempotency key was used before with other parameters: use a new key for a new request",
                         kind="idempotency_error", code="idempotency_key_reused")
    if state == "new" or idempotency is None:
        return None
    opened = open_values(conn, idempotency.ring, [(bytes(body), _TABLE, _COLUMN, _place(account_id, idempotency.key))])
    return None if opened[0] is None else Kept(int(status), opened[0])


def keep_answer(
    conn: psycopg.Connection, account_id: str, idempotency: Idempotency, operation: str, kept: Kept
) -> None:
    """Store the first answer, sealed under the merchant's key, in the request's own transaction."""
    key = subject_keys(conn, idempotency.ring, [account_id])[account_id]
    sealed = key.seal(_TABLE, _COLUMN, _place(account_id, idempotency.key), kept.body)
    conn.execute(
        "select payments.keep_answer(%s, %s, %s, %s, %s::smallint, %s)",
        [account_id, idempotency.key, idempotency.digest("", {}), operation, kept.status, sealed])


def _place(account_id: str, key: str) -> str:
    return f"{account_id} {key}"
