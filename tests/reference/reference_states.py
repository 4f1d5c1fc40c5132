"""What stands on both sides, to be compared value by value."""

from __future__ import annotations

import psycopg
from psycopg import sql

from stripe_platform.oltp.copies import COPIES
from stripe_platform.settings import Settings


def state(settings: Settings) -> dict[str, tuple[list, list]]:
    """By copy: living rows of the source, and of the copy."""
    found = {}
    with psycopg.connect(settings.need("reference_dsn")) as there, psycopg.connect(settings.need("oltp_dsn")) as here:
        for each in COPIES:
            living = " where not deleted" if each.retires else ""
            found[each.table] = (_rows(there, "reference", each.origin, list(each.columns), living),
                                 _rows(here, "oltp", each.table, list(each.names), living))
    return found


def differing(settings: Settings) -> list[str]:
    """Copies that do not equal their source."""
    return [name for name, (source, copied) in state(settings).items() if source != copied]


def _rows(conn: psycopg.Connection, schema: str, table: str, columns: list[str], where: str) -> list:
    query = sql.SQL("select {} from {}{} order by 1, 2, 3").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(schema, table), sql.SQL(where))
    return conn.execute(query).fetchall()


def one(settings: Settings, query: str, dsn: str = "oltp_owner_dsn") -> tuple:
    """The first row of a query."""
    with psycopg.connect(settings.need(dsn)) as conn:
        row = conn.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return row
