"""The nightly close of the books.

Run it for day D soon after D ended in UTC, before the payouts of D+1: reserves and pending money due by the end of D
become available within D, the networks settle what stood at midnight (dated D+1: they pay in the morning), then the
books of D are closed, its balances kept and its entries sealed. Each step is a transaction of its own and harmless when
repeated, so a close that was killed is simply run again. Days skipped are caught up with the next one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from stripe_platform.oltp import ledger, transfers
from stripe_platform.oltp.errors import WriteError


@dataclass(frozen=True)
class BooksClosed:
    """What a close did: reserves let go, movements released, accounts settled, balances kept, seals made."""

    day: dt.date
    reserves: int
    released: int
    settled: int
    balances: int
    seals: int
    open_from: dt.datetime


def close_books(conn: psycopg.Connection, day: dt.date) -> BooksClosed:
    """Close a UTC day that is over; one close at a time. `conn` is in autocommit mode.

    Raises `WriteError` (`books_close_behind`) for a day that is not over, and `psycopg.errors.LockNotAvailable` when a
    payment takes longer than five seconds: run it again.
    """
    ends = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) + dt.timedelta(days=1)
    if ends > dt.datetime.now(dt.UTC):
        raise WriteError(f"the books of {day} cannot be closed before the day is over: wait", code="books_close_behind")
    last = ends - dt.timedelta(microseconds=1)
    with _one_at_a_time(conn):
        reserves = transfers.release_due_reserves(conn, last)
        released = ledger.release(conn, last)
        settled = ledger.settle_network(conn, ends)
        opened = ledger.close(conn, ends)
        balances = ledger.keep_balances(conn, day)
        return BooksClosed(day, reserves, released, settled, balances, ledger.seal(conn), opened)


@contextmanager
def _one_at_a_time(conn: psycopg.Connection) -> Iterator[None]:
    conn.execute("select pg_advisory_lock(hashtextextended('books.close_books', 0))")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("select pg_advisory_unlock(hashtextextended('books.close_books', 0))")
