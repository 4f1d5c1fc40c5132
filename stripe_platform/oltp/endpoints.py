"""Webhook endpoints of merchants, and the deliveries due to them.

A delivery is noted when its event is written. A worker leases it for a while, sends, and settles; a killed worker's
lease runs out and another sends again: at least once.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.ids import new_id
from stripe_platform.oltp.sealing import sealed_columns, write_row
from stripe_platform.vault import open_values

KEEP_TRYING = dt.timedelta(days=3)
_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_SEALED = ("description", "metadata")


@dataclass(frozen=True, repr=False)
class Due:
    """One delivery to make: to whom, of what, which attempt."""

    endpoint_id: str
    event_id: str
    event_type: str
    attempt: int
    account_id: str
    url: str
    secret: str
    created: dt.datetime


def create_endpoint(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, url: str, events: list[str], api_version: str,
    values: Mapping[str, Any],
) -> tuple[str, str]:
    """An endpoint that gets the named events (* for all); its id and its signing secret, shown once."""
    created = dt.datetime.now(dt.UTC)
    endpoint = new_id("we", created)
    secret = "whsec_" + "".join(secrets.choice(_LETTERS) for _ in range(32))
    with conn.transaction():
        sealed = sealed_columns(conn, ring, "webhook_endpoints", endpoint, account_id, {**values, "secret": secret})
        write_row(conn, "webhook_endpoints", {"id": endpoint}, {
            "account_id": account_id, "url": url, "status": "enabled", "enabled_events": events,
            "api_version": api_version, "created": created, **sealed}, upsert=True)
    return endpoint, secret


def update_endpoint(
    conn: psycopg.Connection, ring: Keyring, *, account_id: str, endpoint_id: str, values: Mapping[str, Any]
) -> None:
    """Replace the named values: url, status, enabled_events, deleted, description, metadata."""
    texts = {name: value for name, value in values.items() if name in _SEALED}
    clear = {name: value for name, value in values.items() if name not in _SEALED}
    with conn.transaction():
        sealed = sealed_columns(conn, ring, "webhook_endpoints", endpoint_id, account_id, texts) if texts else {}
        write_row(conn, "webhook_endpoints", {"id": endpoint_id, "account_id": account_id}, {**clear, **sealed})


def lease_due(conn: psycopg.Connection, ring: Keyring, most: int, lease: dt.timedelta) -> list[Due]:
    """Deliveries whose time has come, ours until the lease ends; racing workers never get the same one."""
    with conn.transaction():
        rows = conn.execute(
            """
            with due as (
                select d.webhook_endpoint_id, d.event_id, d.event_type, d.attempt from oltp.webhook_deliveries d
                where d.status = 'pending' and d.next_attempt_at <= clock_timestamp()
                order by d.next_attempt_at limit %s for no key update skip locked
            )
            update oltp.webhook_deliveries d set next_attempt_at = clock_timestamp() + %s
            from due join oltp.webhook_endpoints w on w.id = due.webhook_endpoint_id
            join oltp.events e on e.id = due.event_id and e.type = due.event_type
            where d.webhook_endpoint_id = due.webhook_endpoint_id and d.event_id = due.event_id
            and d.event_type = due.event_type and d.attempt = due.attempt
            returning d.webhook_endpoint_id, d.event_id, d.event_type, d.attempt, w.account_id, w.url,
                w.secret_ciphertext, e.created, w.status = 'enabled' and not w.deleted
            """, [most, lease]).fetchall()
        for row in rows:
            if not row[8]:  # switched off since: nothing is sent
                conn.execute(
                    "update oltp.webhook_deliveries set status = 'failed', next_attempt_at = null"
                    " where webhook_endpoint_id = %s and event_id = %s and event_type = %s and attempt = %s",
                    list(row[:4]))
    live = [row for row in rows if row[8]]
    opened = open_values(conn, ring, [(bytes(r[6]), "oltp.webhook_endpoints", "secret_ciphertext", r[0]) for r in live])
    return [Due(r[0], r[1], r[2], r[3], r[4], r[5], value.decode(), r[7])
            for r, value in zip(live, opened, strict=True) if value]


def settle(
    conn: psycopg.Connection, due: Due, *, delivered: bool, http_status: int | None, latency_ms: int,
    again_in: dt.timedelta | None,
) -> None:
    """Write down how an attempt went and, where it failed and time is left, when the next one is due."""
    with conn.transaction():
        done = conn.execute(
            "update oltp.webhook_deliveries set status = %s, http_status = %s, latency_ms = %s,"
            " attempted_at = clock_timestamp(), next_attempt_at = null"
            " where webhook_endpoint_id = %s and event_id = %s and event_type = %s and attempt = %s"
            " and status = 'pending'",
            ["delivered" if delivered else "failed", http_status, latency_ms, due.endpoint_id, due.event_id,
             due.event_type, due.attempt])
        if delivered or again_in is None or done.rowcount == 0:
            return
        conn.execute(
            "insert into oltp.webhook_deliveries (webhook_endpoint_id, event_id, event_type, attempt, status,"
            " next_attempt_at) values (%s, %s, %s, %s, 'pending', clock_timestamp() + %s) on conflict do nothing",
            [due.endpoint_id, due.event_id, due.event_type, due.attempt + 1, again_in])
