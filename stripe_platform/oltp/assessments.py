"""Fraud scores come back to the OLTP through here, in bulk, and the day that carries them closes with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg

from stripe_platform.oltp.calendar import close_day, last_closed_day, own_calendar
from stripe_platform.oltp.ids import unix_us


@dataclass(frozen=True, slots=True)
class Assessment:
    """One score of one charge by one model version; `assessed_at` is business time."""

    charge_id: str
    model_version: str
    score: float
    decision: Literal["allow", "block", "review"]
    assessed_at: dt.datetime


@dataclass(frozen=True)
class AssessmentsWritten:
    """Rows written now (0 when all stood already) and the ledger day that was closed with them."""

    rows: int
    closed: dt.date | None


def write_assessments(
    conn: psycopg.Connection, rows: Sequence[Assessment], day: dt.date | None = None
) -> AssessmentsWritten:
    """Write scores in one transaction that closes a ledger day: `day`, by default the day after the last closed one.

    Repeating a call writes nothing and closes nothing. An unknown charge, a score outside [0, 1] or an instant
    without zone refuses the whole call.
    """
    for row in rows:
        unix_us(row.assessed_at)
    with conn.transaction():
        own_calendar(conn)
        conn.execute("set local plan_cache_mode = force_generic_plan")
        written = conn.execute(
            "insert into oltp.fraud_assessments (charge_id, model_version, score, decision, assessed_at)"
            " select * from unnest(%s::text[], %s::text[], %s::float8[], %s::text[], %s::timestamptz[])"
            " on conflict (charge_id, model_version) do nothing",
            [
                [row.charge_id for row in rows],
                [row.model_version for row in rows],
                [row.score for row in rows],
                [row.decision for row in rows],
                [row.assessed_at for row in rows],
            ],
        ).rowcount
        if not written:
            return AssessmentsWritten(0, None)
        if day is None:
            last = last_closed_day(conn)
            if last is None:
                raise LookupError("no day is closed yet, so no charge can be assessed: bring business days first")
            day = last + dt.timedelta(days=1)
        close_day(conn, day)
    return AssessmentsWritten(written, day)
