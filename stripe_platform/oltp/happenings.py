"""Events of changes that no function of schema `payments` makes: written in the change's own transaction."""

from __future__ import annotations

import datetime as dt

import psycopg

from stripe_platform.oltp.ids import new_id


def record_event(
    conn: psycopg.Connection, event_type: str, account_id: str, kind: str, object_id: str, key: str | None = None
) -> str:
    """Append an event; its id. Which request made it stands in the transaction's settings."""
    created = dt.datetime.now(dt.UTC)
    event = new_id("evt", created)
    conn.execute(
        "insert into oltp.events (id, type, account_id, object_kind, object_id, idempotency_key, created)"
        " values (%s, %s, %s, %s, %s, %s, %s)", [event, event_type, account_id, kind, object_id, key, created])
    return event
