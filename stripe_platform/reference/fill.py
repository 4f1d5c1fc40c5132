"""First content of the reference: what a payments database of an earlier release held, else the seeds."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from stripe_platform.oltp import world
from stripe_platform.oltp.copies import COPIES, the_references
from stripe_platform.reference import write
from stripe_platform.settings import Settings

REGIONS = {
    "APAC": "Asia and the Pacific", "EMEA": "Europe, the Middle East and Africa",
    "LATAM": "Latin America and the Caribbean", "NA": "North America",
}
PUT: dict[str, Callable[[psycopg.Connection, list[write.Row]], int]] = {
    "currencies": write.put_currencies, "countries": write.put_countries, "exchange_rates": write.put_rates,
    "merchants": write.put_merchants, "products": write.put_products,
}
_SOURCE = "oltp"


def fill(conn: psycopg.Connection, settings: Settings) -> int:
    """Take over the rows of a payments database that was their only place: once, whole or not at all; rows taken.

    They come back through the change log with the values they have, so that nothing in the OLTP changes.
    """
    taken = 0
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtext('ops.filled'))")
        if conn.execute("select 1 from ops.filled where source = %s", [_SOURCE]).fetchone():
            return 0
        write.put_regions(conn, _regions())
        with psycopg.connect(settings.need("oltp_dsn"), options="-c timezone=UTC") as oltp:
            oltp.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for each in COPIES:
                columns = [sql.SQL("{} as {}").format(sql.Identifier(target), sql.Identifier(origin))
                           for origin, target in each.columns.items()]
                with oltp.cursor(f"fill_{each.table}", row_factory=dict_row) as cursor:
                    cursor.execute(sql.SQL("select {} from {} t{}").format(
                        sql.SQL(", ").join(columns), sql.Identifier("oltp", each.table), the_references(each.table)))
                    while rows := cursor.fetchmany(write.ROWS):
                        taken += PUT[each.origin](conn, list(rows))
        conn.execute("insert into ops.filled (source, rows) values (%s, %s)", [_SOURCE, taken])
    return taken


def seed(conn: psycopg.Connection) -> int:
    """Every currency and country of the world, where they are missing; rows added."""
    with conn.transaction():
        return (write.put_regions(conn, _regions(), keep=True)
                + write.put_currencies(conn, world.currencies(), keep=True)
                + write.put_countries(conn, world.countries(), keep=True))


def _regions() -> list[write.Row]:
    return [{"code": code, "name": name} for code, name in REGIONS.items()]
