"""Look-ups of reference rows, kept in the process until the copier says that their table changed.

Read from the copies in the payments database, so that what is found is what foreign keys see. The rule: an entry is
valid until a notification of the copier names its table; it is sent with the copies' commit, and taken in before
every look-up. Without the connection that would bring it, nothing kept is used.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from stripe_platform.oltp.copies import BY_TABLE
from stripe_platform.reference.copies import CHANNEL
from stripe_platform.settings import Settings

SIZE = 10_000
Row = dict[str, Any]


@dataclass
class LookupStats:
    """Counters since the start. `invalidations`: entries dropped because their table changed."""

    hits: int = 0
    misses: int = 0
    invalidations: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of look-ups answered from memory."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class Lookup:
    """A bounded cache over one connection of its own; threads share it. Close it, or use it as a context."""

    def __init__(self, settings: Settings, *, size: int = SIZE) -> None:
        self._dsn, self._size = settings.need("oltp_dsn"), size
        self._kept: OrderedDict[tuple[str, Hashable], Row | None] = OrderedDict()
        self._lock = threading.Lock()
        self._conn: psycopg.Connection[Row] | None = None
        self.stats = LookupStats()

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and forget everything."""
        with self._lock:
            self._forget()

    def currency(self, code: str) -> Row | None:
        """A currency with its exponents, None where there is none."""
        return self._find("currencies", (code,))

    def country(self, code: str) -> Row | None:
        """A country with its region and currency."""
        return self._find("countries", (code,))

    def merchant(self, account: str) -> Row | None:
        """A merchant's information."""
        return self._find("accounts", (account,))

    def product(self, product: str) -> Row | None:
        """A product of the catalogue."""
        return self._find("products", (product,))

    def rate(self, day: dt.date, from_currency: str, to_currency: str) -> Decimal | None:
        """Major units of `to_currency` for one of `from_currency` on a day."""
        row = self._find("exchange_rates", (day, from_currency, to_currency))
        return row["rate"] if row else None

    def _find(self, table: str, key: tuple[Hashable, ...]) -> Row | None:
        with self._lock:
            try:
                self._take_in()
                if (table, key) in self._kept:
                    self.stats.hits += 1
                    self._kept.move_to_end((table, key))
                    return self._kept[table, key]
                found = self._read(table, key)
            except psycopg.OperationalError:
                self._forget()
                found = self._read(table, key)  # a second refusal is the caller's
            self.stats.misses += 1
            self._kept[table, key] = found
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
            return found

    def _read(self, table: str, key: tuple[Hashable, ...]) -> Row | None:
        each = BY_TABLE[table]
        alive = sql.SQL(" and not deleted" if each.retires else "")
        query = sql.SQL("select {} from {} where {}").format(
            sql.SQL(", ").join(map(sql.Identifier, each.names)), sql.Identifier("oltp", table),
            sql.SQL(" and ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in each.key)) + alive
        return self._open().execute(query, list(key)).fetchone()

    def _open(self) -> psycopg.Connection[Row]:
        if self._conn is None:
            self._conn = psycopg.connect(self._dsn, autocommit=True, row_factory=dict_row,
                                         application_name="stripe_platform_lookup")
            self._conn.add_notify_handler(lambda notice: self._changed(notice.payload))
            self._conn.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
        return self._conn

    def _take_in(self) -> None:
        """Notifications that have come, without waiting for any; a lost connection raises."""
        if self._conn is None:
            self._kept.clear()
            return
        pgconn = self._conn.pgconn
        pgconn.consume_input()
        while notice := pgconn.notifies():
            self._changed(notice.extra.decode())

    def _changed(self, tables: str) -> None:
        named = set(tables.split(","))
        dropped = [entry for entry in self._kept if entry[0] in named]
        for entry in dropped:
            del self._kept[entry]
        self.stats.invalidations += len(dropped)

    def _forget(self) -> None:
        self._kept.clear()
        if self._conn is not None:
            self._conn.close()
            self._conn = None
