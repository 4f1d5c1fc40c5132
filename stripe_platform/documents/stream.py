"""Batches into `transactions` as they land: the same documents behind the same fences as the load by days.

Tokens, places and a charge's other disputes are looked up in raw, which the same batches reached before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from psycopg import sql

from stripe_platform.cdc import catalogue
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.compact import gather
from stripe_platform.documents import change_log, transactions
from stripe_platform.documents.control import streamed, streaming

if TYPE_CHECKING:
    import duckdb
    import psycopg
    from pymongo.database import Database

    from resources.lake import Lake
    from stripe_platform.cdc.manifest import Chain, Manifest
    from stripe_platform.documents.writing import Document

_NAMED_BY = {"customers": "customer_id", "accounts": "account_id", "terminals": "terminal_id"}
_DISPUTES = """
select id, charge_id, reason, status, amount, created, _epoch, _commit_lsn, _ord,
    case when _deleted then 'd' else 'u' end as _op
from raw.disputes where charge_id = any(%s)
"""
_DISPUTE_TYPES = pa.schema([
    ("id", pa.string()), ("charge_id", pa.string()), ("reason", pa.string()), ("status", pa.string()),
    ("amount", pa.int64()), ("created", pa.timestamp("us", tz="UTC")), ("_epoch", pa.string()),
    ("_commit_lsn", pa.int64()), ("_ord", pa.int64()), ("_op", pa.string()), ("_ledger_day", pa.date32()),
])  # fmt: skip
_LOOKED_UP_TYPES = {"id": pa.string(), "token": pa.string(), "country": pa.string(), "latitude": pa.float64(),
                    "longitude": pa.float64()}  # fmt: skip


def take(db: Database[Document], conn: psycopg.Connection, duck: duckdb.DuckDBPyConnection, lake: Lake, chain: Chain,
         batches: Sequence[Manifest]) -> int:
    """Bring batches that raw holds already into `transactions`; documents written. `duck`: of `change_log.in_memory`.

    Repeated, killed or overtaken by a load of their day, they change nothing that is newer.
    """
    batches = [m for m in batches if m.seq > streamed(db, transactions.NAME)[0]]
    if not batches:
        return 0
    through = batches[-1].seq
    changes = {table: _changes(lake, chain, table, batches) for table in transactions.SOURCES}
    if not any(rows.num_rows for rows in changes.values()):
        streaming(db, transactions.NAME, through, through)
        return 0
    touched = {table: set(rows["id" if table == "charges" else "charge_id"].to_pylist())
               for table, rows in changes.items()}
    disputed = set(changes["disputes"]["id"].to_pylist())
    changes["disputes"] = _disputes(conn, sorted(set().union(*touched.values()) - {None}), disputed)
    looked_up = {table: _looked_up(conn, table, sorted(set(changes["charges"][column].to_pylist()) - {None}))
                 for table, column in _NAMED_BY.items()}
    log = change_log.of_rows(duck, changes, looked_up)
    streaming(db, transactions.NAME, batches[0].seq - 1, through)
    report = transactions.take(db, log)
    streaming(db, transactions.NAME, through, through)
    return report.inserted + report.updated


def _changes(lake: Lake, chain: Chain, table: str, batches: Sequence[Manifest]) -> pa.Table:
    files = tuple(dailies.Source(m.seq, f.path, f.sha256) for m in batches for f in m.files_of(table))
    return gather(lake, table, files, chain) if files else catalogue.declared(table).schema.empty_table()


def _disputes(conn: psycopg.Connection, charges: list[str], changed: set[str]) -> pa.Table:
    """Every dispute of these charges as raw has it."""
    rows = conn.execute(_DISPUTES, [charges]).fetchall() if charges and _stands(conn, "disputes") else []
    before = change_log.FRESH - dt.timedelta(days=1)
    return pa.Table.from_pylist([
        dict(zip(_DISPUTE_TYPES.names, (*row, change_log.FRESH if row[0] in changed else before), strict=True))
        for row in rows], _DISPUTE_TYPES)


def _looked_up(conn: psycopg.Connection, table: str, ids: list[str]) -> pa.Table:
    names = change_log.LOOKED_UP[table].split(", ")
    rows = conn.execute(sql.SQL("select {} from {} where id = any(%s)").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier("raw", table)), [ids]).fetchall() if ids else []
    made = {name: pa.array([row[n] for row in rows]).cast(_LOOKED_UP_TYPES[name]) if rows
            else pa.array([], _LOOKED_UP_TYPES[name]) for n, name in enumerate(names)}
    return pa.table(made)


def _stands(conn: psycopg.Connection, table: str) -> bool:
    return conn.execute("select to_regclass(%s)", [f"raw.{table}"]).fetchone() != (None,)
