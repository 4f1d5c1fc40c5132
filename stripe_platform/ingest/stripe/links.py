"""Relations between rows: set when both ends stand, queued until then, and always a function of the rows that stand.

Charges and intents are tied to payer, merchant and card by composite keys. A relation that would break one is left
null and marked as a conflict in the queue: it is looked at again whenever either end changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from stripe_platform.oltp.schema import load_schema

Desired = dict[str, str | None]  # relation column -> id of the other end

HOT: dict[str, dict[str, str]] = {
    "payment_intents": {
        "account_id": "accounts", "customer_id": "customers", "payment_method_id": "payment_methods"},
    "charges": {
        "account_id": "accounts", "customer_id": "customers", "payment_method_id": "payment_methods",
        "payment_intent_id": "payment_intents"},
}  # fmt: skip


@dataclass(frozen=True)
class Pending:
    """One relation whose other end is missing, or is somebody else's."""

    table: str
    key: str
    column: str
    parent: str
    parent_id: str
    conflict: bool = False


@dataclass
class World:
    """What of the other ends stands: ids by table, owners of cards, keys of intents."""

    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    cards: dict[str, str | None] = field(default_factory=dict)
    intents: dict[str, tuple[str | None, str | None, str]] = field(default_factory=dict)


def link(table: str, key: str, desired: Desired, currency: str, world: World) -> tuple[Desired, list[Pending]]:
    """The relations of a charge or intent as its row may show them, and those that wait. Pure."""
    shown: Desired = {}
    waiting: list[Pending] = []

    def keep(column: str, conflict: bool) -> None:
        wanted = desired[column]
        assert wanted is not None  # noqa: S101 - only wanted relations are kept waiting
        shown[column] = None
        waiting.append(Pending(table, key, column, HOT[table][column], wanted, conflict))

    for column in ("account_id", "customer_id"):
        wanted = desired.get(column)
        shown[column] = wanted
        if wanted is not None and wanted not in world.ids[HOT[table][column]]:
            keep(column, conflict=False)
    card = desired.get("payment_method_id")
    shown["payment_method_id"] = card
    if card is not None:
        if card not in world.cards:
            keep("payment_method_id", conflict=False)
        elif shown["customer_id"] is not None and world.cards[card] != shown["customer_id"]:
            keep("payment_method_id", conflict=True)
    if table == "charges":
        intent = desired.get("payment_intent_id")
        shown["payment_intent_id"] = intent
        if intent is not None:
            if intent not in world.intents:
                keep("payment_intent_id", conflict=False)
            elif (shown["account_id"] is not None and shown["customer_id"] is not None
                  and world.intents[intent] != (shown["account_id"], shown["customer_id"], currency)):  # fmt: skip
                keep("payment_intent_id", conflict=True)
    return shown, waiting


def existing(conn: psycopg.Connection, table: str, ids: Collection[str]) -> set[str]:
    """Which of these ids have a row."""
    if not ids:
        return set()
    statement = sql.SQL("select id from {} where id = any(%s)").format(sql.Identifier("oltp", table))
    return {row[0] for row in conn.execute(statement, [list(ids)])}


def look(conn: psycopg.Connection, table: str, wanted: Iterable[Desired]) -> World:
    """The part of the world that these relations name."""
    named: dict[str, set[str]] = defaultdict(set)
    for desired in wanted:
        for column, parent_id in desired.items():
            if parent_id is not None:
                named[HOT[table][column]].add(parent_id)
    world = World()
    for parent in ("accounts", "customers"):
        world.ids[parent] = existing(conn, parent, named[parent])
    if named["payment_methods"]:
        world.cards = dict(conn.execute(
            "select id, customer_id from oltp.payment_methods where id = any(%s)", [list(named["payment_methods"])]
        ).fetchall())  # fmt: skip
    if named["payment_intents"]:
        world.intents = {row[0]: (row[1], row[2], row[3]) for row in conn.execute(
            "select id, account_id, customer_id, currency from oltp.payment_intents where id = any(%s)",
            [list(named["payment_intents"])])}  # fmt: skip
    return world


@dataclass
class Standing:
    """A charge or intent as it stands: its relations as shown and as wanted, and its currency."""

    shown: Desired
    wanted: Desired
    currency: str


def standing(conn: psycopg.Connection, table: str, ids: Collection[str]) -> dict[str, Standing]:
    """The rows of these ids that stand, with what they wait for."""
    if not ids:
        return {}
    columns = list(HOT[table])
    statement = sql.SQL("select id, currency, {} from {} where id = any(%s)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("oltp", table))
    found = {}
    for key, currency, *shown in conn.execute(statement, [list(ids)]):
        relations = dict(zip(columns, shown, strict=True))
        found[key] = Standing(relations, dict(relations), currency)
    waiting = conn.execute(
        "select row_key, column_name, parent_id from ingest.pending_references"
        " where table_name = %s and row_key = any(%s)", [table, list(found)])
    for key, column, parent_id in waiting:
        found[key].wanted[column] = parent_id
    return found


def relink(conn: psycopg.Connection, table: str, ids: Collection[str]) -> None:
    """Look at these rows again: something they name has arrived or changed."""
    rows = standing(conn, table, ids)
    if not rows:
        return
    world = look(conn, table, (row.wanted for row in rows.values()))
    moved, waiting = [], []
    for key, row in rows.items():
        shown, waits = link(table, key, row.wanted, row.currency, world)
        waiting += waits
        if shown != row.shown:
            moved.append((key, *(shown[column] for column in HOT[table])))
    columns = list(HOT[table])
    if moved:
        statement = sql.SQL(
            "update {table} t set {sets} from unnest({arrays}) as v ({names}) where t.id = v.id").format(
            table=sql.Identifier("oltp", table),
            sets=sql.SQL(", ").join(sql.SQL("{0} = v.{0}").format(sql.Identifier(c)) for c in columns),
            arrays=sql.SQL(", ").join([sql.SQL("%s::text[]")] * (len(columns) + 1)),
            names=sql.SQL(", ").join(map(sql.Identifier, ["id", *columns])),
        )  # fmt: skip
        conn.execute(statement, [list(column) for column in zip(*moved, strict=True)])
    forget(conn, table, list(rows), columns)
    queue(conn, waiting)


def unlink(conn: psycopg.Connection, parent: str, ids: Collection[str]) -> None:
    """Take back the relations to rows that are about to change hands: composite keys would refuse the change."""
    column = {"payment_methods": "payment_method_id", "payment_intents": "payment_intent_id"}[parent]
    for table, relations in HOT.items():
        if not ids or column not in relations:
            continue
        statement = sql.SQL("update {} set {column} = null where {column} = any(%s) returning id, old.{column}").format(
            sql.Identifier("oltp", table), column=sql.Identifier(column))
        freed = conn.execute(statement, [list(ids)]).fetchall()
        queue(conn, [Pending(table, key, column, parent, parent_id, True) for key, parent_id in freed])


def queue(conn: psycopg.Connection, waiting: Collection[Pending]) -> None:
    """Put relations into the queue; one that waits already keeps its place."""
    if not waiting:
        return
    rows = {(p.table, p.key, p.column): p for p in waiting}.values()
    conn.execute(
        "insert into ingest.pending_references (table_name, row_key, column_name, parent_table, parent_id, conflict)"
        " select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::boolean[])"
        " on conflict (table_name, row_key, column_name) do update set parent_table = excluded.parent_table,"
        " parent_id = excluded.parent_id, conflict = excluded.conflict",
        [[p.table for p in rows], [p.key for p in rows], [p.column for p in rows], [p.parent for p in rows],
         [p.parent_id for p in rows], [p.conflict for p in rows]])  # fmt: skip


def forget(conn: psycopg.Connection, table: str, keys: Collection[str], columns: Collection[str]) -> None:
    """Take relations of these rows out of the queue."""
    if keys and columns:
        conn.execute(
            "delete from ingest.pending_references"
            " where table_name = %s and row_key = any(%s) and column_name = any(%s)",
            [table, list(keys), list(columns)])


def waiting_for(conn: psycopg.Connection, parent: str, ids: Collection[str]) -> list[Pending]:
    """The relations that wait for these rows."""
    if not ids:
        return []
    rows = conn.execute(
        "select table_name, row_key, column_name, parent_table, parent_id, conflict from ingest.pending_references"
        " where parent_table = %s and parent_id = any(%s)", [parent, list(ids)])
    return [Pending(*row) for row in rows]


def settle(conn: psycopg.Connection, waiting: Collection[Pending]) -> None:
    """Set plain relations whose other end stands now, and take them out of the queue."""
    groups: dict[tuple[str, str], list[Pending]] = defaultdict(list)
    for pending in waiting:
        groups[pending.table, pending.column].append(pending)
    for (table, column), found in groups.items():
        key = load_schema()[table].key
        match = sql.SQL("t.{} = v.row_key").format(sql.Identifier(key[0])) if len(key) == 1 else sql.SQL(
            "t.{} = split_part(v.row_key, ' ', 1) and t.{}::text = split_part(v.row_key, ' ', 2)").format(
                sql.Identifier(key[0]), sql.Identifier(key[1]))  # fmt: skip
        statement = sql.SQL(
            "update {} t set {} = v.parent_id from unnest(%s::text[], %s::text[]) as v (row_key, parent_id) where {}"
        ).format(sql.Identifier("oltp", table), sql.Identifier(column), match)
        conn.execute(statement, [[p.key for p in found], [p.parent_id for p in found]])
        forget(conn, table, [p.key for p in found], [column])
