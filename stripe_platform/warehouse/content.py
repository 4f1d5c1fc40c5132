"""A hash of what a table holds, whatever the order of its rows: equal between two clean runs on the same input."""

from __future__ import annotations

import hashlib

import psycopg
from psycopg import sql

_COLUMNS = """
select attname, format_type(atttypid, atttypmod)
from pg_attribute
where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped and left(attname, 1) <> '_'
order by attname
"""

# Each row's SHA-256, cut to two signed 64-bit halves; sums are exact (numeric) and do not depend on the order.
_SUMS = sql.SQL("""
select
    count(*),
    coalesce(sum(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint), 0),
    coalesce(sum(('x' || encode(substr(digest, 9, 8), 'hex'))::bit(64)::bigint), 0)
from (select sha256(convert_to(row({columns})::text, 'UTF8')) as digest from {table}) as hashed
""")


def content_hash(conn: psycopg.Connection, table: str) -> str:
    """Hash (hex) of `schema.table`: names, types and values of the columns that do not begin with `_`.

    Instants are hashed as UTC text. Raises `LookupError` when there is no such table.
    """
    schema, _, name = table.partition(".")
    columns = conn.execute(_COLUMNS, [table]).fetchall()
    if not columns:
        raise LookupError(f"{table} does not exist in the warehouse: materialize it first")
    with conn.transaction():
        conn.execute("set local timezone = 'UTC'")
        conn.execute("set local datestyle = 'ISO, YMD'")
        conn.execute("set local extra_float_digits = 1")
        query = _SUMS.format(
            columns=sql.SQL(", ").join(sql.Identifier(c[0]) for c in columns), table=sql.Identifier(schema, name)
        )
        sums = conn.execute(query).fetchone()
    return hashlib.sha256(repr((columns, [str(value) for value in sums or ()])).encode()).hexdigest()
