"""What every input has in common: it brings one business day into the OLTP and says what it brought."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
from psycopg import sql

from stripe_platform.keys import OLTP_TABLES, TABLES
from stripe_platform.oltp.calendar import SOURCE, close_days_over
from stripe_platform.oltp.ids import boundary_id
from stripe_platform.oltp.turns import Turn
from stripe_platform.settings import Settings

# Id prefix of the tables whose rows carry their day in their key.
PREFIXES = {
    "accounts": "acct", "terminals": "tmr", "customers": "cus", "payment_methods": "pm", "payment_intents": "pi",
    "charges": "ch", "charge_outcomes": "ch", "refunds": "re", "disputes": "dp", "early_fraud_warnings": "issfr",
    "fraud_assessments": "ch", "balance_transactions": "txn", "fee_details": "txn", "ledger_entries": "le",
    "ledger_postings": "le",
}  # fmt: skip


@dataclass(frozen=True)
class DayLoad:
    """One business day: rows by table, records put into quarantine, and whether the day stood already."""

    day: dt.date
    rows: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    skipped: bool = False
    observed_lsn: str | None = None

    @property
    def total(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class BusinessDays:
    """The calendar of a feed: `days` business days from `first`, then `tail` days that bring disputes only."""

    first: dt.date
    days: int
    tail: int

    @property
    def last(self) -> dt.date:
        return self.first + dt.timedelta(days=self.days - 1)

    @property
    def last_with_tail(self) -> dt.date:
        return self.last + dt.timedelta(days=self.tail)

    def __contains__(self, day: object) -> bool:
        return isinstance(day, dt.date) and self.first <= day <= self.last_with_tail

    def __iter__(self) -> Iterator[dt.date]:
        return (self.first + dt.timedelta(days=i) for i in range(self.days + self.tail))


class Feed(Protocol):
    """An input. `bring` is idempotent: a day that was brought before is counted, not written again."""

    name: str

    def calendar(self) -> BusinessDays | None:
        """The days this feed can bring; None when the world decides (production)."""
        ...

    def bring(self, day: dt.date, turn: Turn | None = None) -> DayLoad:
        """Bring one day in one transaction; days come in order, or with their `turn` side by side."""
        ...


class ObservedFeed:
    """Production: others write through the API. A day that is over is closed here, then counted."""

    name = "observed"

    def __init__(self, settings: Settings, before_close: Callable[[], object]) -> None:
        """`before_close` brings copies of other databases up to now: a day is closed when every source closed it."""
        self._dsn, self._first, self._before_close = settings.need("oltp_dsn"), settings.first_day, before_close

    def calendar(self) -> BusinessDays | None:
        return None

    def bring(self, day: dt.date, turn: Turn | None = None) -> DayLoad:  # noqa: ARG002 (it loads nothing)
        """Rows by table of `day`, closed with those before it that are over; `LookupError` while it still runs."""
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            self._before_close()
            close_days_over(conn, self._first, day)
            return observe(conn, day)


def observe(conn: psycopg.Connection, day: dt.date) -> DayLoad:
    """Count a closed day that others wrote; `LookupError` while it is open."""
    closed = conn.execute("select 1 from ops.day_ledger where source = %s and day = %s", [SOURCE, day]).fetchone()
    if closed is None:
        raise LookupError(f"day {day} of {SOURCE} is not closed yet: wait for its close, or pick an earlier day")
    lsn = conn.execute("select pg_current_wal_lsn()::text").fetchone()
    return DayLoad(day, count_day(conn, day), skipped=True, observed_lsn=lsn[0] if lsn else None)


def count_rows(conn: psycopg.Connection, names: Sequence[str]) -> dict[str, int]:
    """Rows by table, whatever their day."""
    counts = {}
    for name in names:
        row = conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier("oltp", name))).fetchone()
        counts[name] = int(row[0]) if row else 0
    return counts


def count_day(conn: psycopg.Connection, day: dt.date) -> dict[str, int]:
    """Rows by table whose id carries this UTC day (rates: whose day it is; currencies and countries have none)."""
    counts = {}
    for table in OLTP_TABLES:
        if not table.dated:
            continue
        column = sql.Identifier(TABLES[table.name].key[0])
        if table.name in PREFIXES:
            prefix = PREFIXES[table.name]
            bounds: list[str | dt.date] = [boundary_id(prefix, day), boundary_id(prefix, day + dt.timedelta(days=1))]
        elif table.name == "exchange_rates":
            bounds = [day, day + dt.timedelta(days=1)]
        else:
            counts[table.name] = 0
            continue
        query = sql.SQL("select count(*) from {} where {} >= %s and {} < %s")
        row = conn.execute(query.format(sql.Identifier("oltp", table.name), column, column), bounds).fetchone()
        counts[table.name] = int(row[0]) if row else 0
    return counts
