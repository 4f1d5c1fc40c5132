"""What the CDC captured across promotions, counted and folded, against what the source holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.lake import Lake
from stripe_platform.cdc import fold
from stripe_platform.cdc.compact import in_commit_order, read_rows, sort_by_key
from stripe_platform.cdc.daily import Source
from stripe_platform.cdc.manifest import Chain


@dataclass
class Comparison:
    """Rows and hash of each table on both sides. `lost`, `doubled`: inserts of a load that deletes nothing."""

    changes: int = 0
    lost: int = 0
    doubled: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)  # rows by table
    tables: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return bool(self.tables) and all(table["equal"] for table in self.tables.values())


def published(connection: psycopg.Connection, publication: str) -> list[str]:
    """Tables of schema `oltp` in the publication that hold rows."""
    names = connection.execute("select tablename from pg_publication_tables where pubname = %s and schemaname = 'oltp'"
                               " order by 1", [publication]).fetchall()
    return [name for (name,) in names if connection.execute(
        sql.SQL("select exists (select from {})").format(sql.Identifier("oltp", name))).fetchone() == (True,)]


def compare(lake: Lake, connection: psycopg.Connection, tables: Iterable[str]) -> Comparison:
    """Fold every captured change of `tables` and compare the result with the source's rows, value by value."""
    chain, found = Chain.load(lake), Comparison()
    for name in tables:
        key = _key(connection, name)
        files = [Source(manifest.seq, file.path, file.sha256)
                 for manifest in chain.manifests for file in manifest.files_of(name)]
        if not files:
            found.sources[name] = _count(connection, name)
            found.lost += found.sources[name]
            found.tables[name] = {"source": found.sources[name], "captured": 0, "equal": False}
            continue
        changes = in_commit_order([read_rows(lake, chain, name, file) for file in files], files)
        newest = fold.collapse(sort_by_key(changes, key), key)
        columns = [column for column in newest.column_names if not column.startswith("_")]
        rows = [row for row, op in zip(_rows(newest, columns), newest["_op"].to_pylist(), strict=True) if op != "d"]
        there = _source_rows(connection, name, newest.schema, columns)
        ops = Counter(changes["_op"].to_pylist())
        found.changes += changes.num_rows
        found.updates[name], found.sources[name] = ops["u"], len(there)
        keys = [tuple(row[columns.index(k)] for k in key) for row in there]
        inserted = Counter(_rows(changes.filter(pa.compute.equal(changes["_op"], "c")), key))
        found.lost += sum(k not in inserted for k in keys)
        found.doubled += sum(times - 1 for times in inserted.values()) + _repeated(changes)
        ours, theirs = _digest(rows), _digest(there)
        found.tables[name] = {"source": len(there), "captured": len(rows), "equal": ours == theirs}
    return found


def _repeated(changes: pa.Table) -> int:
    """Changes whose place in the log is there already: a promotion keeps the log before it, so places stay unique."""
    places = set(zip(changes["_commit_lsn"].to_pylist(), changes["_ord"].to_pylist(), strict=True))
    return int(changes.num_rows - len(places))


def _rows(table: pa.Table, columns: Sequence[str]) -> list[tuple[object, ...]]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _source_rows(connection: psycopg.Connection, name: str, schema: pa.Schema,
                 columns: Sequence[str]) -> list[tuple[object, ...]]:
    """The source's rows in the types of the lake: what the lake keeps as text is asked for as text."""
    picks = [sql.SQL("{}::text" if pa.types.is_string(schema.field(column).type) else "{}").format(
        sql.Identifier(column)) for column in columns]
    return connection.execute(sql.SQL("select {} from {}").format(
        sql.SQL(", ").join(picks), sql.Identifier("oltp", name))).fetchall()


def _count(connection: psycopg.Connection, name: str) -> int:
    row = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier("oltp", name))).fetchone()
    return int(row[0]) if row else 0


def _key(connection: psycopg.Connection, name: str) -> tuple[str, ...]:
    rows = connection.execute(
        "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
        " where i.indrelid = %s::regclass and i.indisprimary order by array_position(i.indkey::int2[], a.attnum)",
        [f"oltp.{name}"]).fetchall()
    return tuple(row[0] for row in rows)


def _digest(rows: Iterable[tuple[object, ...]]) -> str:
    """One hash of a set of rows, whatever their order."""
    texts = sorted(repr(tuple(_plain(value) for value in row)) for row in rows)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, memoryview):
        return bytes(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else value
