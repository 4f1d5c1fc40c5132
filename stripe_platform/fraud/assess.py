"""Batch scoring: charges of the model's test days, from features in the warehouse to assessments in the OLTP."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass

import psycopg

from resources.model_registry import StoredModel
from stripe_platform.fraud import dataset
from stripe_platform.fraud.model import assessed_days, score
from stripe_platform.oltp.assessments import Assessment, write_assessments


@dataclass(frozen=True)
class Assessed:
    """What one batch did; `written` is 0 and `closed` None when all its rows stood already."""

    model_version: str
    scored: int
    written: int
    closed: dt.date | None
    decisions: dict[str, int]


def assess(
    warehouse: psycopg.Connection, oltp: psycopg.Connection, model: StoredModel, ledger_day: dt.date
) -> Assessed:
    """Score all charges of the model's test days and write them in the transaction that closes `ledger_day`.

    The moment of assessment is the start of that day. Raises `ModelStoreError` for a model of another feature set,
    and `CalendarError` when there are rows to write and the day is already closed.
    """
    rows = dataset.read(warehouse, *assessed_days(model.signature))
    scores, decisions = score(model, rows)
    at = dt.datetime.combine(ledger_day, dt.time(), dt.UTC)
    decided = decisions.tolist()
    batch = [Assessment(charge, model.version, float(value), decision, at)
             for charge, value, decision in zip(rows.charge_id, scores, decided, strict=True)]
    done = write_assessments(oltp, batch, ledger_day)
    return Assessed(model.version, len(batch), done.rows, done.closed, dict(sorted(Counter(decided).items())))
