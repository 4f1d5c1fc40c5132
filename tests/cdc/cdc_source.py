"""A small source of changes: rows the tests write into the real OLTP, and its states to compare with."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from stripe_platform import keys
from stripe_platform.oltp.schema import load_schema
from stripe_platform.settings import Settings

FIRST = dt.date(2026, 6, 1)
CREATED = "2026-06-01 12:00:00.123456+00"


@contextmanager
def owner(settings: Settings) -> Iterator[psycopg.Connection]:
    """The owner's connection, each statement its own transaction unless the test opens one."""
    with psycopg.connect(settings.need("oltp_owner_dsn"), autocommit=True,
                         options="-c timezone=UTC") as connection:
        yield connection


def reference(connection: psycopg.Connection) -> None:
    """Currencies and countries that other rows point to."""
    with connection.transaction():
        connection.execute("insert into oltp.currencies values ('eur', 'Euro', 2, 2), ('usd', 'US dollar', 2, 2)")
        connection.execute("insert into oltp.countries values ('FR', 'France', 'Europe', 'eur')")


def accounts(connection: psycopg.Connection, first: int, count: int, *, name: str = "shop") -> None:
    """`count` accounts in one COPY: many rows, one commit."""
    columns = "id, type, country, default_currency, business_type, mcc, name, token, created"
    with connection.cursor() as cursor, cursor.copy(f"copy oltp.accounts ({columns}) from stdin") as copy:
        for n in range(first, first + count):
            copy.write_row((account_id(n), "standard", "FR", "eur", "company", "5411", f"{name}{n}", f"t{n}", CREATED))


def account_id(n: int) -> str:
    return f"acct_{n:032x}"


def rate(connection: psycopg.Connection, day: dt.date, value: str) -> None:
    connection.execute(
        "insert into oltp.exchange_rates values (%s, 'usd', 'eur', %s)"
        " on conflict (day, from_currency, to_currency) do update set rate = excluded.rate", [day, value])


def close(connection: psycopg.Connection, day: dt.date) -> None:
    """The boundary of a ledger day."""
    connection.execute("insert into ops.day_ledger values ('oltp', %s)", [day])


def long_text(seed: str) -> str:
    """Text that PostgreSQL must store out of line: long, and of no use to compress."""
    return "".join(hashlib.sha256(f"{seed}{n}".encode()).hexdigest() for n in range(300))


def source_state(connection: psycopg.Connection, table: str) -> list[tuple]:
    """Rows of an OLTP table without its ciphertext, ordered by key."""
    return _rows(connection, "oltp", table, [], "")


def raw_state(connection: psycopg.Connection, table: str) -> list[tuple]:
    """Rows of a raw table that are not deleted, ordered by key."""
    return _rows(connection, "raw", table, [], " where not _deleted")


def raw_all(connection: psycopg.Connection, table: str) -> list[tuple]:
    """Every row of a raw table with its fence, tombstones too."""
    fence = ["_source", "_epoch", "_commit_lsn", "_ord", "_deleted", "_ledger_day"]
    return _rows(connection, "raw", table, fence, "")


def _rows(connection: psycopg.Connection, schema: str, table: str, more: list[str], where: str) -> list[tuple]:
    hidden = load_schema()[table].sensitive
    names = [c.name for c in load_schema()[table].columns if c.name not in hidden] + more
    order = [sql.SQL('{} collate "C"').format(sql.Identifier(k)) if load_schema()[table].column(k).type == "text"
             else sql.Identifier(k) for k in keys.TABLES[table].key]
    statement = sql.SQL("select {} from {}{} order by {}").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(schema, table), sql.SQL(where),
        sql.SQL(", ").join(order))
    return connection.execute(statement).fetchall()
