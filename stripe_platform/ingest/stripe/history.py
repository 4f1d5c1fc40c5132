"""The history of an object's status, from the states that landed: the same whatever their order of arrival."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from stripe_platform.ingest.stripe.landing import Landing

WATCHED = frozenset({
    "payment_intent", "charge", "refund", "dispute", "setup_intent", "payout", "subscription", "invoice", "topup",
    "credit_note", "mandate",
})  # fmt: skip


def keep_history(conn: psycopg.Connection, moving: Sequence[Landing]) -> None:
    """Write anew the status history of the objects these landings are states of."""
    named = {(one.kind, one.object_id) for one in moving if one.kind in WATCHED and one.status}
    if not named:
        return
    kinds, ids = [kind for kind, _ in named], [object_id for _, object_id in named]
    conn.execute(
        "create temporary table if not exists moved (object_kind text, object_id text collate \"C\", from_status text,"
        " to_status text, as_of bigint, rank text collate \"C\", event_id text) on commit delete rows")
    conn.execute("delete from moved")
    conn.execute(
        "insert into moved select s.kind, s.object_id, s.before, s.status, s.as_of, s.rank, s.event_id from ("
        "  select o.kind, o.object_id, o.status, o.as_of, o.rank, o.event_id,"
        "    lag(o.status) over (partition by o.kind, o.object_id order by o.as_of, o.rank, o.event_id) as before"
        "  from ingest.objects o"
        "  join unnest(%s::text[], %s::text[]) as n (kind, object_id) using (kind, object_id)"
        "  where o.status is not null and o.state in ('normalised', 'superseded')) s"
        " where s.before is distinct from s.status and s.before is not null", [kinds, ids])
    conn.execute("delete from oltp.status_history where object_id = any(%s)", [ids])
    conn.execute(
        "insert into oltp.status_history (object_id, at, object_kind, from_status, to_status, event_id)"
        " select object_id, to_timestamp(greatest(as_of, 0)), object_kind, from_status, to_status, event_id"
        " from moved order by object_id, as_of, rank")
