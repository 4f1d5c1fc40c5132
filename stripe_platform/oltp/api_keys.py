"""Keys by which merchants' programs come in. The secret is shown once; what is kept is its keyed hash."""

from __future__ import annotations

import datetime as dt
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.ids import new_id
from stripe_platform.oltp.lookup import Lookup

NAMESPACE = "api_key"
RESOURCES = (
    "balance", "balance_transactions", "charges", "customers", "disputes", "events", "invoices", "payment_intents",
    "payment_methods", "prices", "products", "refunds", "subscriptions", "webhook_endpoints",
)
_FORM = re.compile(r"sk_(?:test|live)_[A-Za-z]{24,64}")
_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"  # no digits: a key is never taken for a card number
_LENGTH = 32


@dataclass(frozen=True)
class ApiKey:
    """Who calls: merchant, scopes (`customers:write`, `*:read`, ...) and mode."""

    id: str
    account_id: str
    scopes: frozenset[str]
    livemode: bool
    expires_at: dt.datetime | None
    secret_mac: bytes

    def may(self, resource: str, action: str) -> bool:
        """Whether a scope covers it; who may write may read."""
        actions = ("write",) if action == "write" else ("read", "write")
        return any(f"{name}:{kind}" in self.scopes for name in (resource, "*") for kind in actions)

    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= dt.datetime.now(dt.UTC)


def create_key(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, scopes: list[str],
    expires_at: dt.datetime | None = None,
) -> tuple[str, str]:
    """A new key of a merchant: its id, and the secret, which nobody can show again. Keys are made for test mode."""
    for scope in scopes:
        resource, _, action = scope.partition(":")
        if (resource != "*" and resource not in RESOURCES) or action not in ("read", "write"):
            raise WriteError("a scope is a resource or *, a colon, and read or write: for example customers:write",
                             param="scopes")
    if not scopes:
        raise WriteError("a key without scopes opens nothing: name one, for example --scope '*:write'", param="scopes")
    if conn.execute("select 1 from oltp.accounts where id = %s and not deleted", [account_id]).fetchone() is None:
        raise WriteError(f"account {account_id} does not exist: check the id", code="resource_missing", param="account")
    secret = "sk_test_" + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    key_id = new_id("key")
    conn.execute(
        "insert into ops.api_keys (id, account_id, secret_mac, prefix, last4, scopes, livemode, expires_at)"
        " values (%s, %s, %s, %s, %s, %s, false, %s)",
        [key_id, account_id, ring.mac(NAMESPACE, secret.encode()), "sk_test_", secret[-4:], scopes, expires_at])
    return key_id, secret


def list_keys(conn: psycopg.Connection, account_id: str | None = None) -> list[dict[str, Any]]:
    """Every key (of a merchant), as it may be shown."""
    rows = conn.cursor(row_factory=dict_row).execute(
        "select id, account_id, prefix || '...' || last4 as key, scopes, created, expires_at, revoked_at, last_used_at"
        " from ops.api_keys where account_id = %s::text or %s::text is null order by created, id",
        [account_id, account_id])
    return list(rows)


def revoke_key(conn: psycopg.Connection, key_id: str) -> None:
    """The key opens nothing from here on; twice is harmless."""
    done = conn.execute(
        "update ops.api_keys set revoked_at = coalesce(revoked_at, clock_timestamp()) where id = %s", [key_id])
    if done.rowcount == 0:
        raise WriteError(f"key {key_id} does not exist: see `api-key list`", code="resource_missing")


def mac_of(ring: Keyring, secret: str) -> bytes | None:
    """The keyed hash by which a secret is found; None for what cannot be a key."""
    return ring.mac(NAMESPACE, secret.encode()) if _FORM.fullmatch(secret) else None


def key_lookup() -> Lookup[ApiKey]:
    """The cache of keys by keyed hash; a revocation is announced like any other change."""
    return Lookup("api_keys", frozenset({"api_keys", "accounts"}), _load)


def _load(conn: psycopg.Connection, mac: Any) -> ApiKey | None:
    row = conn.execute(
        "select k.id, k.account_id, k.scopes, k.livemode, k.expires_at, k.secret_mac from ops.api_keys k"
        " join oltp.accounts a on a.id = k.account_id and not a.deleted"
        " where k.secret_mac = %s and k.revoked_at is null", [mac]).fetchone()
    if row is None:
        return None
    key = ApiKey(row[0], row[1], frozenset(row[2]), row[3], row[4], bytes(row[5]))
    return key if hmac.compare_digest(key.secret_mac, mac) else None


def touch(conn: psycopg.Connection, key_id: str) -> None:
    """Note that a key is in use, to the hour."""
    conn.execute(
        "update ops.api_keys set last_used_at = clock_timestamp() where id = %s"
        " and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 hour')", [key_id])
