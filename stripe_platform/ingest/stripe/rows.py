"""The rows of a batch's winners, table by table: rows, rows beside them, relations, deletions, and what waited."""

from __future__ import annotations

import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from stripe_platform.ingest.stripe import links
from stripe_platform.ingest.stripe.arrivals import FIRST
from stripe_platform.ingest.stripe.batch import SLOT, Batch, Claim
from stripe_platform.ingest.stripe.hooks import after_rows, booked
from stripe_platform.ingest.stripe.kinds import ALL
from stripe_platform.ingest.stripe.landing import Landing, again
from stripe_platform.ingest.stripe.links import HOT, Pending
from stripe_platform.ingest.stripe.mapping import MADE_HERE, SEPARATOR, Main, Row, map_arrival
from stripe_platform.oltp.ids import tokens
from stripe_platform.oltp.schema import load_schema

_NEEDS_PARENT = {"capabilities": ("account_id", "accounts")}


def write_table(work: Batch, table: str) -> None:
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
            main for main in map_arrival(again(work.payload(bytes(digest))), Counter()).mains
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
