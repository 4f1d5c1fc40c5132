"""What a database says after imports, comparable across databases: opened, without random names and clocks."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from stripe_platform.ingest.stripe.kinds import ALL
from stripe_platform.keyring import Keyring
from stripe_platform.oltp.schema import load_schema
from stripe_platform.vault import open_value

NOT_COMPARED = {"token", "position"}  # drawn at random, or drawn from a sequence
LEDGER_MADE = {"ledger_entry_id", "available_entry_id"}
IMPORTED = (
    {kind.table for kind in ALL.values()}
    | {c.table for kind in ALL.values() for c in kind.children}
    | {"status_history", "currencies", "countries"}
)


def opened(conn: psycopg.Connection, ring: Keyring, table: str, column: str, key: str, sealed: bytes | None) -> Any:
    """The clear value of a ciphertext column; its subject stands beside its key."""
    if sealed is None:
        return None
    subject = conn.execute("select subject from vault.subject_keys where id = %s", [bytes(sealed)[2:18]]).fetchone()
    assert subject is not None
    return open_value(conn, ring, bytes(sealed), f"oltp.{table}", column, key, subject[0]), subject[0]


def snapshot(conn: psycopg.Connection, ring: Keyring) -> dict[str, list[Any]]:
    """Every row of every table an import may touch, sorted."""
    found: dict[str, list[Any]] = {}
    for name, schema in load_schema().items():
        if name not in IMPORTED:
            continue
        compared = [
            c
            for c in schema.names
            if c not in LEDGER_MADE and (c not in NOT_COMPARED or (c == "position" and name != "status_history"))
        ]
        statement = sql.SQL("select {} from {}").format(
            sql.SQL(", ").join(map(sql.Identifier, compared)), sql.Identifier("oltp", name)
        )
        rows = []
        for row in conn.execute(statement).fetchall():
            values = dict(zip(compared, row, strict=True))
            key = " ".join(str(values[c]) for c in schema.key if c in values)
            for column in schema.sensitive:
                values[column] = opened(conn, ring, name, column, key, values[column])
            rows.append(values)
        found[name] = sorted(rows, key=repr)
    for name, columns in {
        "pending_references": "table_name, row_key, column_name, parent_table, parent_id, conflict",
        "drift": "kind, path, rule, first_version, last_version, seen",
        "objects": "kind, object_id, api_version, event_id, event_type, as_of, rank, status, state, reason, subject",
        "versions": "kind, object_id, as_of, rank",
    }.items():
        rows = conn.execute(f"select {columns} from ingest.{name}").fetchall()  # type: ignore[call-overload]
        found[f"ingest.{name}"] = sorted(rows, key=repr)
    found["books"] = conn.execute(
        "select p.ledger_account_id, p.currency, sum(p.amount) from oltp.ledger_postings p"
        " group by 1, 2 having sum(p.amount) <> 0 order by 1, 2"  # what was taken back leaves entries, and no balance
    ).fetchall()
    return found


def differences(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> list[str]:
    """Where two snapshots differ, by table, with the first rows that stand on one side only."""
    out = []
    for name in one:
        if one[name] != other[name]:
            here = [row for row in one[name] if row not in other[name]][:3]
            there = [row for row in other[name] if row not in one[name]][:3]
            out.append(f"{name}: {len(one[name])} rows and {len(other[name])}; only here {here}; only there {there}")
    return out
