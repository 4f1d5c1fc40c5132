"""Rows on their way into PostgreSQL: exact values, the fence beside them, COPY as CSV."""

from __future__ import annotations

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from psycopg import sql

from stripe_platform.cdc.columns import EXACT, text

COPY_BATCH = 16_384  # rows per CSV block


def with_fence(newest: pa.Table, names: list[str]) -> pa.Table:
    """The named columns (null where the rows have none of that name) and the columns of the fence."""
    nulls = pa.nulls(newest.num_rows, pa.string())
    arrays = [_exact(newest, name) if name in newest.column_names else nulls for name in names]
    fence = {
        "_source": newest["_source"], "_epoch": newest["_epoch"], "_commit_lsn": newest["_commit_lsn"],
        "_ord": newest["_ord"], "_deleted": pc.equal(newest["_op"], "d"), "_ledger_day": newest["_ledger_day"],
    }
    return pa.table([*arrays, *fence.values()], names=[*names, *fence])


def _exact(rows: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    """A column's values; those that its Arrow type cannot hold from the text that was kept of them."""
    if name + EXACT not in rows.column_names:
        return rows[name]
    return pc.coalesce(rows[name + EXACT].combine_chunks(), text(rows[name].combine_chunks()))


def copy_rows(conn: psycopg.Connection, target: sql.Composable, rows: pa.Table, *, first: bool = False) -> None:
    """COPY as CSV: Arrow quotes every text and leaves NULL bare, exactly as PostgreSQL reads it.

    `first`: the table is empty; truncated in the same transaction it needs no log and its rows are born frozen.
    """
    if not rows.num_rows:
        return
    if first:
        conn.execute(sql.SQL("truncate {}").format(target))
    for n, column in enumerate(rows.schema):
        if pa.types.is_binary(column.type):
            texts = [None if v is None else "\\x" + v.hex() for v in rows[column.name].to_pylist()]
            rows = rows.set_column(n, column.name, pa.array(texts, pa.string()))
    statement = sql.SQL("copy {} ({}) from stdin (format csv, freeze {})").format(
        target, sql.SQL(", ").join(map(sql.Identifier, rows.column_names)), sql.SQL("on" if first else "off"))
    options = pa_csv.WriteOptions(include_header=False, batch_size=COPY_BATCH)
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for start in range(0, rows.num_rows, COPY_BATCH):
            sink = pa.BufferOutputStream()
            pa_csv.write_csv(rows.slice(start, COPY_BATCH), sink, options)
            copy.write(sink.getvalue())
