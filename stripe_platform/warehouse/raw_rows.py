"""Rows of raw by the values of one column."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import sql


class PostgresRows:
    """What `documents.stream.RawRows` asks for. `conn`: the PostgreSQL warehouse."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._standing: set[str] = set()

    def of(self, table: str, columns: Sequence[str], by: str, values: Collection[str],
           texts: Collection[str] = ()) -> list[tuple[Any, ...]]:
        if not values or not self._stands(table):
            return []
        wanted = sql.SQL(", ").join(sql.SQL("{}::text" if name in texts else "{}").format(sql.Identifier(name))
                                    for name in columns)
        return self._conn.execute(sql.SQL("select {} from {} where {} = any(%s)").format(
            wanted, sql.Identifier("raw", table), sql.Identifier(by)), [sorted(values)]).fetchall()

    def _stands(self, table: str) -> bool:
        if table not in self._standing and self._conn.execute(
                "select to_regclass(%s)", [f"raw.{table}"]).fetchone() != (None,):
            self._standing.add(table)
        return table in self._standing
