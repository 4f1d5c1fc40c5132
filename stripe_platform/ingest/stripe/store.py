"""One batch of landings into the database, in one transaction: raw, versions, rows, relations, drift.

Batches of all writers take turns (an advisory lock), so that rows are a function of what has landed and not of who was
first. Whatever the order: of two states of an object the newer one shows, by its time, its rank, then its content.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from stripe_platform.ingest.stripe import links
from stripe_platform.ingest.stripe.arrivals import FIRST
from stripe_platform.ingest.stripe.history import keep_history
from stripe_platform.ingest.stripe.hooks import after_rows, booked
from stripe_platform.ingest.stripe.kinds import ALL
from stripe_platform.ingest.stripe.landing import Landing, again
from stripe_platform.ingest.stripe.links import HOT, Pending
from stripe_platform.ingest.stripe.mapping import MADE_HERE, SEPARATOR, Main, RefusedError, Row, map_arrival
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.copies import STRIPES
from stripe_platform.oltp.ids import tokens
from stripe_platform.oltp.schema import load_schema
from stripe_platform.vault import SubjectKey, open_value, subject_keys

LOCK = 7_220_002  # advisory lock: batches take turns
PLACE = ("ingest.objects", "payload_ciphertext")

# Parents first; a relation that points backwards is queued and settled within the same batch.
ORDER = (
    "accounts", "capabilities", "customers", "bank_accounts", "products", "prices", "coupons", "promotion_codes",
    "tax_rates", "payment_methods", "mandates", "setup_intents", "payment_intents", "charges", "refunds", "disputes",
    "early_fraud_warnings", "reviews", "payment_evaluations", "value_lists", "value_list_items",
    "balance_transactions", "payouts", "transfers", "transfer_reversals", "application_fees", "fee_refunds", "topups",
    "reserve_plans", "reserve_holds", "reserve_releases", "subscriptions", "subscription_items", "invoices",
    "invoice_previews", "invoice_items", "invoice_lines", "invoice_payments", "credit_notes", "credit_note_lines",
    "discounts", "tax_ids", "customer_balance_transactions", "webhook_endpoints", "events",
)  # fmt: skip
# The object a table's rows are, where several kinds share it.
SLOT = {kind.table: kind.name for kind in ALL.values() if kind.preference and " as " not in kind.name} | {
    "payment_methods": "payment_method", "bank_accounts": "bank_account", "prices": "price",
    "invoice_previews": "invoice_preview"}  # fmt: skip
_NEEDS_PARENT = {"capabilities": ("account_id", "accounts")}

Slot = tuple[str, str]
Order = tuple[int, str]


class StoreError(RuntimeError):
    """The database refuses an object that our rules let pass; the message names rule and code, never a value."""


@dataclass
class Claim:
    """A state that may show in a slot."""

    order: Order
    landing: Landing
    main: Main
    value: Any = None


@dataclass
class Batch:
    """What one transaction works on."""

    conn: psycopg.Connection
    ring: Keyring
    keys: dict[str, SubjectKey] = field(default_factory=dict)
    rows: dict[str, dict[str, Claim]] = field(default_factory=lambda: defaultdict(dict))
    sticky: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))
    deletions: dict[str, dict[str, Claim]] = field(default_factory=lambda: defaultdict(dict))
    stood: set[Slot] = field(default_factory=set)  # slots that had a version before
    affected: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    orders: dict[Slot, Order] = field(default_factory=dict)
    waiting: list[bytes] = field(default_factory=list)


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
            if now is not None and _fetched(_payload(work, now[1])) == _fetched(one.canonical):
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
            _write_table(work, table)
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
    return _payload(work, now[1])


def _payload(work: Batch, digest: bytes) -> bytes:
    row = work.conn.execute(
        "select payload_ciphertext, subject from ingest.objects where digest = %s", [digest]).fetchone()
    assert row is not None  # noqa: S101 - versions refer to objects
    return open_value(work.conn, work.ring, bytes(row[0]), *PLACE, digest.hex(), row[1])


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


def _write_table(work: Batch, table: str) -> None:
    """One table's rows, the rows beside them, and whatever waited for them."""
    claims = work.rows[table]
    if table in _NEEDS_PARENT:
        claims = _with_parent(work, table, claims)
    touched = sorted(set(claims) | set(work.sticky[table]))
    before = booked(work.conn, table, touched)
    if table in HOT:
        _write_hot(work, table, claims)
    elif claims or work.sticky[table]:
        _write_plain(work, table, claims)
    _delete(work, table)
    for beside in {name for claim in claims.values() for name in claim.main.beside}:
        _write_beside(work, table, beside, claims)
    # An older state changes a row too where it alone names an owner: what was unlinked for that is looked at again.
    _settle(work, table, set(touched) | (work.affected[table] if table in HOT else set()))
    if touched:
        after_rows(work.conn, table, touched, before)


def _settle(work: Batch, table: str, arrived: Collection[str]) -> None:
    plain, revived = [], []
    for pending in links.waiting_for(work.conn, table, arrived):
        if pending.table in HOT:
            work.affected[pending.table].add(pending.key)
        elif pending.table in _NEEDS_PARENT:
            revived.append(pending)
        else:
            plain.append(pending)
    links.settle(work.conn, plain)
    after_rows(work.conn, "balance_transactions", [
        p.key for p in plain if p.table == "balance_transactions" and p.column == "account_id"])  # fmt: skip
    owners = [p.key for p in plain if p.table == "payment_methods" and p.column == "customer_id"]
    for pending in links.waiting_for(work.conn, "payment_methods", owners):
        if pending.table in HOT:
            work.affected[pending.table].add(pending.key)
    for pending in revived:
        _revive(work, pending)


def _revive(work: Batch, pending: Pending) -> None:
    """Write a row that could not stand without the row that just arrived."""
    name = SLOT[pending.table]
    key = pending.key
    rows = work.conn.execute(
        "select kind, digest from ingest.versions where object_id = %s and (kind = %s or starts_with(kind, %s))",
        [key, name, f"{name}:"]).fetchall()
    for slot, digest in rows:
        landing_main = next(
            main for main in map_arrival(again(_payload(work, bytes(digest))), Counter()).mains
            if main.table == pending.table)
        if slot == name:
            blank = Landing("", bytes(digest), b"", FIRST, "", top=False)
            work.rows[pending.table].setdefault(key, Claim((FIRST, ""), blank, landing_main))
            work.conn.execute(
                "update ingest.objects set state = 'normalised', reason = null"
                " where digest = %s and state = 'received'", [digest])
        else:
            column = slot.partition(":")[2]
            work.sticky[pending.table][key].setdefault(column, landing_main.sticky[column])
    links.forget(work.conn, pending.table, [key], [pending.column])


def _with_parent(work: Batch, table: str, claims: dict[str, Claim]) -> dict[str, Claim]:
    """The rows whose other end stands; the others wait as landed objects."""
    column, parent = _NEEDS_PARENT[table]
    there = links.existing(work.conn, parent, {claim.main.clear[column] for claim in claims.values()})
    here = {key: claim for key, claim in claims.items() if claim.main.clear[column] in there}
    late = {key: claim for key, claim in claims.items() if key not in here}
    links.queue(work.conn, [Pending(table, key, column, parent, c.main.clear[column]) for key, c in late.items()])
    work.waiting += [claim.landing.digest for claim in late.values()]
    for key in late:
        work.sticky[table].pop(key, None)
    return here


def _write_plain(work: Batch, table: str, claims: dict[str, Claim]) -> None:
    rows = [_copy(claim.main) for claim in claims.values()]
    parents = _parents(table)
    alone = []
    for key, columns in work.sticky[table].items():
        target = next((row for row in rows if row.key == key), None) if key in claims else None
        if target is None:
            target = Row(table, key)
            alone.append(target)
        for column, value in columns.items():
            if column in parents:
                target.refs[column] = value
            else:
                target.clear[column] = value
    _resolve(work, table, [*rows, *alone])
    if table == "payment_methods":
        _free_cards(work, [*rows, *alone])
    _upsert(work, table, rows, {c.main.key: c.landing.subject for c in claims.values()})
    _update(work.conn, table, alone)


def _copy(main: Main) -> Row:
    return Row(main.table, main.key, dict(main.clear), dict(main.sealed), dict(main.refs))


def _parents(table: str) -> dict[str, str]:
    return {spec.column: spec.parent for kind in ALL.values() if kind.table == table for spec in kind.fields
            if spec.parent and spec.parent != "countries"}  # fmt: skip


def _resolve(work: Batch, table: str, rows: Sequence[Row]) -> None:
    """Relations to columns: the id where the other end stands, else null and a place in the queue."""
    named: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for wanted in row.refs.values():
            if wanted is not None:
                named[wanted[0]].add(wanted[1])
    there = {parent: links.existing(work.conn, parent, ids) for parent, ids in named.items()}
    waiting: list[Pending] = []
    stale: dict[frozenset[str], list[str]] = defaultdict(list)
    for row in rows:
        if row.refs:
            stale[frozenset(row.refs)].append(row.key)
        for column, wanted in row.refs.items():
            if wanted is not None and wanted[1] not in there[wanted[0]]:
                waiting.append(Pending(table, row.key, column, *wanted))
                wanted = None
            row.clear[column] = wanted[1] if wanted else None
    for columns, keys in stale.items():
        links.forget(work.conn, table, keys, columns)
    links.queue(work.conn, waiting)


def _free_cards(work: Batch, rows: Sequence[Row]) -> None:
    """Cards that go to another payer: what paid with them is looked at again."""
    owners = {row.key: row.clear["customer_id"] for row in rows if "customer_id" in row.clear}
    if not owners:
        return
    before = work.conn.execute(
        "select id, customer_id from oltp.payment_methods where id = any(%s) and customer_id is not null",
        [list(owners)]).fetchall()
    links.unlink(work.conn, "payment_methods", [key for key, owner in before if owners[key] != owner])


def _write_hot(work: Batch, table: str, claims: dict[str, Claim]) -> None:
    """Charges and intents: all relations at once, for the composite keys bind them together."""
    touched = set(claims) | set(work.sticky[table])
    before = links.standing(work.conn, table, touched)
    wanted: dict[str, links.Desired] = {}
    currency: dict[str, str] = {}
    for key in touched:
        desired: links.Desired = dict(before[key].wanted) if key in before else dict.fromkeys(HOT[table])
        if key in claims:
            main = claims[key].main
            for column, ref in main.refs.items():
                desired[column] = ref[1] if ref else None
            currency[key] = main.clear["currency"]
        else:
            currency[key] = before[key].currency
        for column, ref in work.sticky[table].get(key, {}).items():
            desired[column] = ref[1]
        wanted[key] = desired
    world = links.look(work.conn, table, wanted.values())
    rows, waiting, freed = {}, [], []
    for key, desired in wanted.items():
        shown, waits = links.link(table, key, desired, currency[key], world)
        waiting += waits
        row = _copy(claims[key].main) if key in claims else Row(table, key)
        row.clear.update(shown)
        rows[key] = row
        if table == "payment_intents" and key in before:
            old = before[key]
            if (old.shown["account_id"], old.shown["customer_id"], old.currency) != (
                    shown["account_id"], shown["customer_id"], currency[key]):  # fmt: skip
                freed.append(key)
    links.unlink(work.conn, "payment_intents", freed)
    links.forget(work.conn, table, list(before), list(HOT[table]))
    links.queue(work.conn, waiting)
    _upsert(work, table, [rows[key] for key in claims], {k: c.landing.subject for k, c in claims.items()})
    _update(work.conn, table, [row for key, row in rows.items() if key not in claims])
    again_due = work.affected[table] - touched
    links.relink(work.conn, table, again_due)


def _upsert(work: Batch, table: str, rows: Sequence[Row], subjects: dict[str, str]) -> None:
    """Insert or replace rows, all columns of one shape at a time."""
    schema = load_schema()[table]
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    made_here = [name for name in schema.names if name in MADE_HERE]
    drawn = iter(tokens("tok", len(rows), np.random.default_rng(secrets.randbits(256))) if made_here else ())
    for row in rows:
        values = dict(row.clear)
        for column, text in row.sealed.items():
            key = work.keys[subjects[row.key]]
            sealed = key.seal(f"oltp.{table}", column, row.key, text.encode("utf-8", "replace"))
            values[column] = "\\x" + sealed.hex()
        for name in made_here:
            values[name] = next(drawn)
        shapes[tuple(sorted(values))].append(values)
    for columns, records in shapes.items():
        kept = [c for c in columns if c not in schema.key and c not in MADE_HERE]
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        action = sql.SQL("do update set ") + sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(c)) for c in kept) if kept else sql.SQL("do nothing")
        statement = sql.SQL(
            "insert into {table} ({names}) select {names} from json_populate_recordset(null::{table}, %s)"
            " on conflict ({key}) {action}"
        ).format(table=sql.Identifier("oltp", table), names=names, action=action,
                 key=sql.SQL(", ").join(map(sql.Identifier, schema.key)))  # fmt: skip
        work.conn.execute(statement, [json.dumps(records)])


def _update(conn: psycopg.Connection, table: str, rows: Iterable[Row]) -> None:
    """Set some columns of rows that stand."""
    key = load_schema()[table].key
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        columns = tuple(sorted(c for c in row.clear if c not in key))
        parts = row.key.split(SEPARATOR) if len(key) > 1 else [row.key]
        shapes[columns].append({**row.clear, **dict(zip(key, parts, strict=True))})
    for columns, values in shapes.items():
        statement = sql.SQL(
            "update {table} t set {sets} from json_populate_recordset(null::{table}, %s) as v where {match}"
        ).format(
            table=sql.Identifier("oltp", table),
            sets=sql.SQL(", ").join(sql.SQL("{0} = v.{0}").format(sql.Identifier(c)) for c in columns),
            match=sql.SQL(" and ").join(sql.SQL("t.{0} = v.{0}").format(sql.Identifier(c)) for c in key))
        conn.execute(statement, [json.dumps(values)])


def _write_beside(work: Batch, table: str, beside: str, claims: dict[str, Claim]) -> None:
    """Rows that belong to the rows just written: what is no longer said goes, what is said stands."""
    owner = next(child.key for kind in ALL.values() if kind.table == table
                 for child in kind.children if child.table == beside)  # fmt: skip
    name = SLOT[table]
    rows = [_copy_beside(row) for claim in claims.values() for row in claim.main.beside.get(beside, ())]
    said = {row.key for row in rows}
    old = [key for key in claims if (name, key) in work.stood]
    schema = load_schema()[beside]
    if old:
        listed = len(schema.key) > 1
        gone = old if listed else [key for key in old if key not in said]
        statement = sql.SQL("delete from {} where {} = any(%s)").format(
            sql.Identifier("oltp", beside), sql.Identifier(owner))
        if gone:
            work.conn.execute(statement, [gone])
        work.conn.execute(
            "delete from ingest.pending_references where table_name = %s and split_part(row_key, ' ', 1) = any(%s)",
            [beside, old])
    if rows:
        subjects = {row.key: claims[row.clear[owner]].landing.subject for row in rows}
        _resolve(work, beside, rows)
        _upsert(work, beside, rows, subjects)


def _copy_beside(row: Row) -> Row:
    return Row(row.table, row.key, dict(row.clear), dict(row.sealed), dict(row.refs))


def _delete(work: Batch, table: str) -> None:
    """Mark rows deleted whose deletion is not older than what they show; a deletion alone is a row too."""
    name = SLOT[table]
    keys = (set(work.rows[table]) | set(work.deletions[table])) if name else set()
    marks: dict[bool, list[str]] = {True: [], False: []}
    alone: list[tuple[str, Claim]] = []
    for key in keys:
        gone, shows = work.orders.get((f"{name}:deleted", key)), work.orders.get((name, key))
        if gone is None:
            continue
        if shows is None:
            alone.append((key, work.deletions[table][key]))
        else:
            marks[gone[0] >= shows[0]].append(key)
    for value, found in marks.items():
        if found:
            statement = sql.SQL("update {} set deleted = %s where id = any(%s) and deleted <> %s").format(
                sql.Identifier("oltp", table))
            work.conn.execute(statement, [value, found, value])
    rows = [_copy(claim.main) for _, claim in alone]
    for row in rows:
        row.clear["deleted"] = True
    if rows:
        _upsert(work, table, rows, {})
        _settle(work, table, [row.key for row in rows])


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


__all__ = ["RefusedError", "store"]
