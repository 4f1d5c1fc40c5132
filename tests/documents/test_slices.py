"""Reading in slices: every document once, a bounded number at a time, and the sums of a single reading."""

from __future__ import annotations

import datetime as dt

import pytest
from bson import Int64
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from stripe_platform.documents import slices
from stripe_platform.documents.slices import counted, grouped, in_slices

FIRST = dt.date(2026, 6, 1)
DAYS = [FIRST + dt.timedelta(days=n) for n in range(3)]
MIDNIGHT = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def holds(condition: dict, document: dict) -> bool:
    """What the two fields of a slice's condition say of a document."""
    for name, wanted in condition.items():
        value = document[name]
        bounds = wanted if isinstance(wanted, dict) else {"$gte": wanted, "$lte": wanted}
        if not all({"$gte": value >= b, "$gt": value > b, "$lt": value < b, "$lte": value <= b}[op]
                   for op, b in bounds.items()):
            return False
    return True


def document(day: int, seconds: float) -> dict:
    return {"day": (FIRST + dt.timedelta(days=day)).isoformat(), "created": MIDNIGHT + dt.timedelta(
        days=day, seconds=seconds)}


@given(st.lists(st.builds(document, st.integers(-2, 4), st.floats(-90_000, 180_000)), max_size=60), st.booleans())
@trials(max_examples=60, deadline=None)
def test_every_document_of_the_days_is_read_once_wherever_it_was_created(documents, off):
    seen: list[int] = []

    def read(condition: dict) -> int:
        mine = [n for n, each in enumerate(documents) if holds(condition, each)]
        seen.extend(mine)
        return len(mine)

    in_slices("transactions", DAYS, read, off=off)
    days = {day.isoformat() for day in DAYS}
    assert sorted(seen) == [n for n, each in enumerate(documents) if off or each["day"] in days]


@pytest.mark.parametrize("per_hour", [1, 400, 60_000])
def test_a_slice_has_few_documents_however_many_a_day_has_and_a_small_day_needs_few_slices(per_hour):
    read_at_once: list[int] = []

    def read(condition: dict) -> int:
        bounds = condition.get("created", {})
        begin = dt.datetime.fromisoformat(condition["day"]).replace(tzinfo=dt.UTC)
        hours = (bounds.get("$lt", begin + slices.DAY) - bounds.get("$gte", begin)) / dt.timedelta(hours=1)
        read_at_once.append(round(hours * per_hour))
        return read_at_once[-1]

    in_slices("transactions", DAYS, read)
    assert abs(sum(read_at_once) - 3 * 24 * per_hour) <= len(read_at_once)
    assert max(read_at_once) <= 1.3 * slices.AT_ONCE
    assert len(read_at_once) <= 6 * len(DAYS) + 2 * sum(read_at_once) / slices.AT_ONCE


@pytest.mark.servers
@pytest.mark.parametrize("at_once", [7, 50_000])
def test_sums_and_counts_are_those_of_one_reading(database, monkeypatch, at_once):
    monkeypatch.setattr(slices, "AT_ONCE", at_once)
    made = [{"_id": f"{day}-{n}", "amount": Int64(n * 10 ** 12), "currency": "eur" if n % 3 else "usd",
             **document(day, n * 2000.0)} for day in range(-1, 5) for n in range(44)]
    database["loose"].insert_many(made)
    key = {"day": "$day", "currency": "$currency"}
    group = {"$group": {"_id": key, "n": {"$sum": 1}, "amount": {"$sum": "$amount"}}}
    for off, condition in ((False, {"day": {"$in": [day.isoformat() for day in DAYS]}}), (True, {})):
        whole = database["loose"].aggregate([{"$match": condition | {"_id": {"$ne": "1-5"}}}, group])
        found = grouped(database, "loose", DAYS, key, {"amount": "$amount"}, {"_id": {"$ne": "1-5"}}, off=off)
        assert sorted(found, key=repr) == sorted(whole, key=repr)
    assert counted(database, "loose", [*DAYS, dt.date(2026, 7, 1)]) == {day.isoformat(): 44 for day in DAYS} | {
        "2026-07-01": 0}
