"""Which business days are closed. One owner at a time closes days, strictly in order, each exactly once.

A day is closed by its row in `ops.day_ledger`, written in the closing transaction: the row travels with the change
stream and cuts it into ledger days.
"""

from __future__ import annotations

import datetime as dt

import psycopg
from psycopg import sql

SOURCE = "oltp"
_WAIT = dt.timedelta(seconds=60)


class CalendarError(RuntimeError):
    """A day cannot be closed; the message names the day and the rule."""


def own_calendar(conn: psycopg.Connection, source: str = SOURCE) -> None:
    """Become the source's calendar owner until this transaction ends; waits for another owner, at most a minute.

    A loader that was killed keeps its server process for a moment; the wait bridges that.
    """
    milliseconds = str(int(_WAIT.total_seconds() * 1000))
    conn.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(milliseconds)))
    try:
        conn.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"calendar:{source}"])
    except psycopg.errors.LockNotAvailable as error:
        raise CalendarError(
            f"another loader owns the calendar of {source} and did not finish within a minute: wait for it, or stop it"
        ) from error
    conn.execute("set local lock_timeout = 0")


def last_closed_day(conn: psycopg.Connection, source: str = SOURCE) -> dt.date | None:
    """The newest closed day, or None before the first."""
    row = conn.execute("select max(day) from ops.day_ledger where source = %s", [source]).fetchone()
    return row[0] if row else None


def close_day(conn: psycopg.Connection, day: dt.date, source: str = SOURCE) -> None:
    """Close `day` inside the caller's transaction; `CalendarError` when it does not follow the last closed day."""
    own_calendar(conn, source)
    last = last_closed_day(conn, source)
    if last is not None and day <= last:
        raise CalendarError(
            f"day {day} of {source} cannot be closed after {last}: days close once, in order; start with a later day"
        )
    make_partitions_ahead(conn, day)
    conn.execute("insert into ops.day_ledger (source, day) values (%s, %s)", [source, day])


def make_partitions_ahead(conn: psycopg.Connection, day: dt.date) -> None:
    """Ahead of their month, and few: every look-up of a foreign key takes a lock on each partition."""
    conn.execute("select ops.make_partitions(%s, %s)", [day, day + dt.timedelta(days=7)])


def partitions_stand(conn: psycopg.Connection, day: dt.date) -> bool:
    """Whether the partitions that `make_partitions_ahead` would make stand; all families get theirs together."""
    months = {f"oltp.payment_intents_{each:%Y_%m}" for each in (day, day + dt.timedelta(days=7))}
    row = conn.execute("select bool_and(to_regclass(m) is not null) from unnest(%s::text[]) as m",
                       [sorted(months)]).fetchone()
    return bool(row and row[0])


def close_days_over(conn: psycopg.Connection, first: dt.date, day: dt.date, source: str = SOURCE) -> list[dt.date]:
    """Close, in order, the days up to `day` that are over by the server's clock; those closed now.

    `first` is the calendar's first day. After an outage several are due: what was committed meanwhile belongs to the
    first of them. Each has a transaction of its own, because a boundary ends a batch of changes.
    """
    closed: list[dt.date] = []
    while True:
        with conn.transaction():
            own_calendar(conn, source)
            last = last_closed_day(conn, source)
            due = first if last is None else last + dt.timedelta(days=1)
            today = conn.execute("select (clock_timestamp() at time zone 'UTC')::date").fetchone()
            if due > day or today is None or due >= today[0]:
                return closed
            close_day(conn, due, source)
        closed.append(due)
