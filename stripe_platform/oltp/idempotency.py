"""Idempotency as Stripe promises it: same key and parameters, same first answer; other parameters are refused.

The key is claimed in the payment's own transaction by a unique index: a call in flight is waited for, then repeated.
Refusals are answers too and are kept. Keys last a day.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.errors import WriteError, refused, rule_of

NAMESPACE = "idempotency"
MAX_KEY_BYTES = 255
NAMED_THOUGH_NULL = frozenset({"p_customer", "p_method"})  # a guest's payment: the functions have no default for them


@dataclass(frozen=True)
class Idempotency:
    """A caller's key, and the key ring that digests parameters: they may name people.

    `request` stands for the parameters when given: the HTTP front passes method, path and body as they came.
    """

    ring: Keyring
    key: str
    request: bytes | None = None

    def digest(self, operation: str, parameters: dict[str, Any]) -> bytes:
        """Keyed digest (32 bytes) of an operation and its parameters, whatever their order."""
        if not 1 <= len(self.key.encode()) <= MAX_KEY_BYTES:
            raise WriteError(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes: shorten it", kind="idempotency_error",
                             code="idempotency_key_invalid")
        canonical = self.request or json.dumps([operation, parameters], sort_keys=True, default=str).encode()
        return self.ring.mac(NAMESPACE, canonical)


def call(
    conn: psycopg.Connection, function: str, parameters: dict[str, Any], idempotency: Idempotency | None,
    created: dt.datetime | None,
) -> tuple[dict[str, Any], bool]:
    """Call a function of schema `payments` in one transaction and one round trip; its answer, and whether replayed.

    On a connection in autocommit mode the call is its own transaction; inside the caller's it is a savepoint.
    Raises `WriteError` for what the rules refuse.
    """
    arguments = {name: value for name, value in parameters.items() if value is not None or name in NAMED_THOUGH_NULL}
    if idempotency is not None:
        arguments |= {"p_key": idempotency.key, "p_hash": idempotency.digest(function, parameters)}
    if created is not None:
        arguments["p_created"] = created
    query = sql.SQL("select answer, replayed from {}({})").format(
        sql.Identifier("payments", function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}{}").format(sql.Identifier(name), sql.Placeholder(), _cast(name)) for name in arguments),
    )  # fmt: skip
    values = list(arguments.values())
    try:
        if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
            row = conn.execute(query, values).fetchone()
        else:
            with conn.transaction():
                row = conn.execute(query, values).fetchone()
    except psycopg.Error as error:
        known = rule_of(error)
        if known is None:
            raise
        raise known from None
    assert row is not None  # noqa: S101 - a function always answers with one row
    answer = json.loads(row[0])
    if "error" in answer:
        raise refused(answer["error"])
    return answer, bool(row[1])


def forget_keys(conn: psycopg.Connection, before: dt.datetime | None = None) -> int:
    """Delete the keys that expired before an instant (default: now); how many went."""
    row = conn.execute("select payments.forget_keys(%s)", [before]).fetchone()
    return int(row[0]) if row else 0


def _cast(name: str) -> sql.SQL:
    return sql.SQL({"p_amount": "::bigint", "p_risk_score": "::smallint"}.get(name, ""))
