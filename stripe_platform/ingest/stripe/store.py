"""One batch of landings into the database, in one transaction: raw, versions, rows, relations, drift.

Batches of all writers take turns (an advisory lock), so that rows are a function of what has landed and not of who was
first. Whatever the order: of two states of an object the newer one shows, by its time, its rank, then its content.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import psycopg

from stripe_platform.ingest.stripe.batch import ORDER, PLACE, SLOT, Batch, Claim, Order, Slot
from stripe_platform.ingest.stripe.history import keep_history
from stripe_platform.ingest.stripe.landing import Landing, again
from stripe_platform.ingest.stripe.rows import write_table
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.copies import STRIPES
from stripe_platform.vault import subject_keys

LOCK = 7_220_002  # advisory lock: batches take turns


class StoreError(RuntimeError):
    """The database refuses an object that our rules let pass; the message names rule and code, never a value."""


def store(conn: psycopg.Connection, ring: Keyring, found: Sequence[Landing], source: str) -> None:
    """Write the landings. A batch that the database refuses is halved until the object it refuses stands alone."""
    try:
        with conn.transaction():
            _store(conn, ring, found, source)
    except (psycopg.errors.IntegrityError, psycopg.errors.DataError, psycopg.errors.RaiseException) as error:
        if len(found) > 1:
            half = len(found) // 2
            store(conn, ring, found[:half], source)
            store(conn, ring, found[half:], source)
            return
        if found[0].mapped is None:
            raise StoreError(f"the database refuses an object as it landed ({_said(error)}): see its log") from None
        alone = found[0]
        alone.state, alone.mapped = "quarantined", None
        alone.reason = (f"{alone.kind} {alone.object_id}: the database refuses its row ({_said(error)}); "
                        "compare the object with that rule")  # fmt: skip
        store(conn, ring, [alone], source)


def leave_unchanged(conn: psycopg.Connection, ring: Keyring, found: Sequence[Landing]) -> list[Landing]:
    """Of objects fetched again, those that changed: what shows already keeps the landing it has, under that digest."""
    kept: list[Landing] = []
    work = Batch(conn, ring)
    slots = {(SLOT[one.mapped.mains[0].table], one.mapped.mains[0].key): one for one in found if one.mapped}
    standing = _versions(work, slots)
    for one in found:
        if one.mapped is not None:
            now = standing.get((SLOT[one.mapped.mains[0].table], one.mapped.mains[0].key))
            if now is not None and _fetched(work.payload(now[1])) == _fetched(one.canonical):
                one.digest, one.mapped = now[1], None
        kept.append(one)
    return kept


def _fetched(canonical: bytes) -> tuple[Any, ...]:
    """What an object says, without the time it was fetched."""
    arrival = again(canonical)
    return (arrival.kind, arrival.obj, {k: v for k, v in arrival.context.items() if k != "as_of"}, arrival.deleted)


def _said(error: psycopg.Error) -> str:
    """Rule and code of a refusal; its message may hold values."""
    rule = error.diag.constraint_name or error.diag.column_name or type(error).__name__
    return f"rule {rule}, SQLSTATE {error.sqlstate}"


def _store(conn: psycopg.Connection, ring: Keyring, found: Sequence[Landing], source: str) -> None:
    conn.execute("select pg_advisory_xact_lock(%s)", [LOCK])
    # Status triggers leave these rows alone: their history is written from the states that landed.
    # Plans: foreign keys into partitioned tables are looked up by cached ones (a fresh plan per row costs ten times
    # more), and young tables lack the statistics for anything but their indexes.
    conn.execute(
        "select set_config(name, value, true) from (values ('ingest.keeps_history', 'on'),"
        " ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'),"
        " ('enable_mergejoin', 'off')) as s (name, value)")
    fresh, judged_anew = _new(conn, found)
    if not fresh and not judged_anew:
        return
    work = Batch(conn, ring)
    moving = [landing for landing in (*fresh, *judged_anew) if landing.mapped is not None]
    subjects = {landing.subject for landing in (*fresh, *moving)}
    work.keys = subject_keys(conn, ring, subjects)
    _land(work, fresh, source)
    _judge_anew(work, judged_anew)
    _elect(work, moving)
    for table in ORDER:
        if work.rows[table] or work.sticky[table] or work.deletions[table] or work.affected[table]:
            write_table(work, table)
    _wait(work, moving)
    keep_history(conn, moving)
    _count_drift(conn, fresh)


def _new(conn: psycopg.Connection, found: Sequence[Landing]) -> tuple[list[Landing], list[Landing]]:
    """Landings that are new, and those kept apart before that are understood now."""
    by_digest = {landing.digest: landing for landing in reversed(found)}
    states: dict[bytes, str] = dict(conn.execute(
        "select digest, state from ingest.objects where digest = any(%s)", [list(by_digest)]).fetchall())  # fmt: skip
    fresh = [landing for digest, landing in by_digest.items() if digest not in states]
    kept_apart: tuple[str | None, ...] = ("quarantined", "unmodelled")
    anew = [landing for digest, landing in by_digest.items()
            if states.get(digest) in kept_apart and landing.mapped is not None]  # fmt: skip
    return fresh, anew


def _land(work: Batch, fresh: Sequence[Landing], source: str) -> None:
    columns = ("digest, kind, object_id, api_version, event_id, event_type, source, as_of, rank, status, state, reason,"
               " subject, payload_ciphertext")  # fmt: skip
    with work.conn.cursor() as cursor, cursor.copy(f"copy ingest.objects ({columns}) from stdin") as copy:
        for one in fresh:
            sealed = work.keys[one.subject].seal(*PLACE, one.digest.hex(), one.canonical)
            copy.write_row((
                one.digest, one.kind, one.object_id, one.api_version, one.event_id, one.event_type, source, one.as_of,
                one.rank, one.status, one.state, one.reason, one.subject, sealed))  # fmt: skip


def _judge_anew(work: Batch, anew: Sequence[Landing]) -> None:
    for one in anew:
        work.conn.execute(
            "update ingest.objects set state = 'normalised', reason = null, rank = %s, status = %s where digest = %s",
            [one.rank, one.status, one.digest])


def _elect(work: Batch, moving: Sequence[Landing]) -> None:
    """Who shows in each slot; the winners' rows, columns and deletions go to work."""
    claims: dict[Slot, list[Claim]] = defaultdict(list)
    for landing in moving:
        assert landing.mapped is not None  # noqa: S101 - moving landings are mapped
        for main in landing.mapped.mains:
            name = SLOT[main.table]
            order = (landing.as_of, main.rank)
            claim = Claim(order, landing, main)
            if not main.stub:
                claims[name, main.key].append(claim)
            if main.deleted and main.deletable:
                claims[f"{name}:deleted", main.key].append(claim)
            for column, value in main.sticky.items():
                claims[f"{name}:{column}", main.key].append(Claim(order, landing, main, value))
    standing = _versions(work, claims)
    winners: dict[Slot, Claim] = {}
    beaten: set[bytes] = set()
    for slot, entries in claims.items():
        best = max(entries, key=lambda claim: (claim.order, claim.landing.canonical))
        now = standing.get(slot)
        is_row = ":" not in slot[0]
        if now is not None:
            work.stood.add(slot)
            work.orders[slot] = now[0]
            if (best.order, best.landing.canonical) <= (now[0], _content(work, best, now)):
                if is_row:
                    beaten.update(c.landing.digest for c in entries if c.landing.digest != now[1])
                continue
            if is_row:
                beaten.add(now[1])
        winners[slot] = best
        work.orders[slot] = best.order
        if is_row:
            beaten.update(c.landing.digest for c in entries if c is not best)
    _leave_to_their_owners(work, winners)
    _keep_versions(work, winners)
    shown = {claim.landing.digest for slot, claim in winners.items() if ":" not in slot[0]}
    if beaten - shown:
        work.conn.execute(
            "update ingest.objects set state = 'superseded', reason = null where digest = any(%s)"
            " and state in ('normalised', 'received')", [list(beaten - shown)])
    tables = {name: table for table, name in SLOT.items()}
    for (name, key), claim in winners.items():
        slot_kind, _, column = name.partition(":")
        table = tables[slot_kind]
        if not column:
            work.rows[table][key] = claim
        elif column == "deleted":
            work.deletions[table][key] = claim
        else:
            work.sticky[table][key][column] = claim.value


def _versions(work: Batch, slots: Collection[Slot]) -> dict[Slot, tuple[Order, bytes]]:
    rows = work.conn.execute(
        "select v.kind, v.object_id, v.as_of, v.rank, v.digest from ingest.versions v"
        " join unnest(%s::text[], %s::text[]) as s (kind, object_id) using (kind, object_id)",
        [[slot[0] for slot in slots], [slot[1] for slot in slots]])
    found = {(kind, key): ((as_of, rank), bytes(digest)) for kind, key, as_of, rank, digest in rows}
    # A row is deleted when its deletion is not older than what it shows: both are needed to say so.
    other = [(n, k) for name, k in slots for n in (f"{name}:deleted", name.removesuffix(":deleted"))
             if n != name and n.count(":") < 2 and (n, k) not in found and name.partition(":")[2] in ("", "deleted")]
    if other:
        rows = work.conn.execute(
            "select v.kind, v.object_id, v.as_of, v.rank from ingest.versions v"
            " join unnest(%s::text[], %s::text[]) as s (kind, object_id) using (kind, object_id)",
            [[slot[0] for slot in other], [slot[1] for slot in other]])
        for kind, key, as_of, rank in rows:
            work.orders[kind, key] = (as_of, rank)
            work.stood.add((kind, key))
    return found


def _content(work: Batch, best: Claim, now: tuple[Order, bytes]) -> bytes:
    """The content of the version that shows, read only where time and rank do not decide."""
    if best.order != now[0] or best.landing.digest == now[1]:
        return best.landing.canonical
    return work.payload(now[1])


def _leave_to_their_owners(work: Batch, winners: dict[Slot, Claim]) -> None:
    """Merchants and products that stand without ever having come from Stripe are somebody else's."""
    for table, kind in STRIPES.items():
        keys = [key for name, key in winners if name.partition(":")[0] == SLOT[table]]
        if keys:
            work.conn.execute("select ops.refuse_others_rows(%s, %s, %s)", [table, kind, keys])


def _keep_versions(work: Batch, winners: dict[Slot, Claim]) -> None:
    if winners:
        work.conn.execute(
            "insert into ingest.versions (kind, object_id, as_of, rank, digest)"
            " select * from unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::bytea[])"
            " on conflict (kind, object_id) do update set as_of = excluded.as_of, rank = excluded.rank,"
            " digest = excluded.digest",
            [[slot[0] for slot in winners], [slot[1] for slot in winners], [c.order[0] for c in winners.values()],
             [c.order[1] for c in winners.values()], [c.landing.digest for c in winners.values()]])  # fmt: skip


def _wait(work: Batch, moving: Sequence[Landing]) -> None:
    """Landings whose row waits for another row say so."""
    if work.waiting:
        waits = [one.digest for one in moving if one.digest in set(work.waiting)]
        work.conn.execute(
            "update ingest.objects set state = 'received', reason = kind || ' ' || object_id || ': its account has not"
            " arrived (rule parent_present); it becomes a row when the account does'"
            " where digest = any(%s) and state = 'normalised'", [waits])


def _count_drift(conn: psycopg.Connection, fresh: Sequence[Landing]) -> None:
    seen: Counter[tuple[str, str, str]] = Counter()
    versions: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for landing in fresh:
        for (path, rule), times in landing.drift.items():
            entry = (landing.kind, path, rule)
            seen[entry] += times
            if landing.api_version:
                versions[entry].append(landing.api_version)
    if not seen:
        return
    rows = [(*entry, min(versions[entry], default=None), max(versions[entry], default=None), times)
            for entry, times in sorted(seen.items())]  # fmt: skip
    conn.execute(
        "insert into ingest.drift as d (kind, path, rule, first_version, last_version, seen)"
        " select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])"
        " on conflict (kind, path, rule) do update set seen = d.seen + excluded.seen,"
        " first_version = least(d.first_version, excluded.first_version),"
        " last_version = greatest(d.last_version, excluded.last_version)",
        [list(column) for column in zip(*rows, strict=True)])
