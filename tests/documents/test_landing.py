"""Landed records: the good ones are stored, the bad ones stand in quarantine without their values."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from stripe_platform.documents import landing
from stripe_platform.documents.schemas import LOADS, QUARANTINE, SESSION_RETENTION_DAYS

pytestmark = pytest.mark.servers
DAY = dt.date(2026, 6, 1)
CARD = "4242424242424242"
FEEDBACK = {"id": "fb_1", "customer": "payer_1", "merchant": "merchant_1", "charge": "ch_1", "rating": 5,
            "channel": "web", "text": "All good.", "created": "2026-06-01T10:00:00.000Z"}
SESSION = {
    "id": "ses_1", "customer": "payer_1", "merchant": None, "location": {"country": "FR"},
    "device": {"type": "mobile", "os": "iOS", "browser": "Safari"},
    "started_at": "2026-06-01T10:00:00.000Z", "ended_at": "2026-06-01T10:05:00.000Z",
    "events": [{"at": "2026-06-01T10:00:00.000Z", "type": "open", "page": "/"}],
}  # fmt: skip


@pytest.fixture
def landed(own_home: Path):
    def write(name: str, *records: object, day: dt.date = DAY) -> Path:
        file = own_home / "landing" / name / f"{day}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        file.write_bytes(b"".join(line + b"\n" for line in lines))
        return own_home / "landing"

    return write


def refusals(database) -> list[tuple[str, str]]:
    return [(row["record"], row["rule"]) for row in database[QUARANTINE].find({}, sort=[("_id", 1)])]


def test_a_feedback_becomes_a_document(database, landed):
    report = landing.load(database, landed("customer_feedback", FEEDBACK), "customer_feedback", [DAY])
    assert (report.inserted, report.quarantined, report.by_day) == (1, 0, {"2026-06-01": 1})
    assert database.customer_feedback.find_one() == {
        "_id": "fb_1", "day": "2026-06-01", "customer": "payer_1", "merchant": "merchant_1", "charge": "ch_1",
        "rating": 5, "channel": "web", "kind": "review", "language": None, "text": "All good.",
        "created": dt.datetime(2026, 6, 1, 10, tzinfo=dt.UTC)}


def test_a_session_expires_counted_from_its_load_not_from_its_day(database, landed):
    before = dt.datetime.now(dt.UTC)
    landing.load(database, landed("sessions", SESSION), "sessions", [DAY])
    expires = database.sessions.find_one()["expires_at"]
    assert abs(expires - before - dt.timedelta(days=SESSION_RETENTION_DAYS)) < dt.timedelta(minutes=1)
    (index,) = [i for i in database.sessions.list_indexes() if i["name"] == "expires"]
    assert index["expireAfterSeconds"] == 0


@pytest.mark.parametrize(("record", "rule"), [
    (b"not json", "json"), (b"[1]", "json"), (b"\xff\xfe", "utf8"), (b"[" * 100_000, "json"),
    (b'{"id": "' + b"x" * 1_100_000 + b'"}', "size"),
    (FEEDBACK | {"text": f"my card {CARD}"}, "card_number"),
    (FEEDBACK | {"text": "4242\u20094242\u200b 4242\n4242"}, "card_number"),
    (FEEDBACK | {"channel": CARD}, "card_number"), (FEEDBACK | {"id": CARD}, "card_number"),
    (FEEDBACK | {"pan": CARD}, "unexpected_field"), (FEEDBACK | {CARD: 1}, "unexpected_field"),
    *((FEEDBACK | {"rating": rating}, "schema") for rating in (6, "5", 4.5)),
    (FEEDBACK | {"rating": True}, "type"), (FEEDBACK | {"text": {"$gt": ""}}, "schema"),
    (FEEDBACK | {"text": "x" * 4_001}, "schema"), (FEEDBACK | {"text": "a\x00b"}, "text"),
    (FEEDBACK | {"text": "\ud800"}, "text"), (FEEDBACK | {"created": "yesterday"}, "type"),
    (FEEDBACK | {"created": "2026-06-02T00:00:00Z"}, "day"), (FEEDBACK | {"id": ""}, "id"),
    (FEEDBACK | {"id": 7}, "id"), (FEEDBACK | {"id": {"$ne": None}}, "id"), ({}, "type"),
])  # fmt: skip
def test_a_bad_feedback_stands_in_quarantine_and_the_good_ones_are_stored(database, landed, record, rule):
    report = landing.load(
        database, landed("customer_feedback", FEEDBACK | {"id": "fb_good"}, record), "customer_feedback", [DAY])
    assert (report.read, report.inserted, report.quarantined) == (2, 1, 1)
    assert refusals(database) == [("customer_feedback/2026-06-01.jsonl line 2", rule)]
    assert "4242" not in str(list(database[QUARANTINE].find()))


@pytest.mark.parametrize(("record", "rule"), [
    (SESSION | {"ended_at": "2026-06-01T09:00:00Z"}, "order"), (SESSION | {"device": "mobile"}, "type"),
    (SESSION | {"device": {"type": "mobile", "imei": "1"}}, "unexpected_field"), (SESSION | {"events": None}, "type"),
    (SESSION | {"events": [{"at": "2026-06-01T10:00:00Z", "type": "open", "page": f"/?c={CARD}"}]}, "card_number"),
    (SESSION | {"events": ["open"]}, "type"), (SESSION | {"location": {"country": "France"}}, "schema"),
])
def test_a_bad_session_stands_in_quarantine(database, landed, record, rule):
    report = landing.load(database, landed("sessions", record), "sessions", [DAY])
    assert (report.inserted, report.quarantined) == (0, 1)
    assert refusals(database) == [("sessions/2026-06-01.jsonl line 1", rule)]


def test_an_id_given_twice_is_stored_once(database, landed):
    other = dt.date(2026, 6, 2)
    folder = landed("customer_feedback", FEEDBACK, FEEDBACK)
    landed("customer_feedback", FEEDBACK | {"created": "2026-06-02T10:00:00Z"}, day=other)
    report = landing.load(database, folder, "customer_feedback", [DAY, other])
    assert (report.inserted, report.quarantined) == (1, 2)
    assert [rule for _, rule in refusals(database)] == ["unique_id", "unique_id"]


def test_a_repeated_load_reads_nothing_and_a_replaced_file_replaces_its_day(database, landed):
    folder = landed("customer_feedback", FEEDBACK, FEEDBACK | {"id": "fb_2"}, b"bad")
    landing.load(database, folder, "customer_feedback", [DAY])
    again = landing.load(database, folder, "customer_feedback", [DAY])
    assert (again.read, again.skipped_days) == (0, 1)
    landed("customer_feedback", FEEDBACK | {"id": "fb_3"})
    landing.load(database, folder, "customer_feedback", [DAY])
    assert [d["_id"] for d in database.customer_feedback.find()] == ["fb_3"]
    assert refusals(database) == []


def test_a_load_that_was_cut_short_is_done_again(database, landed):
    folder = landed("customer_feedback", FEEDBACK, FEEDBACK | {"id": "fb_2"})
    landing.load(database, folder, "customer_feedback", [DAY])
    database[LOADS].delete_many({})
    database.customer_feedback.delete_one({"_id": "fb_2"})
    landing.load(database, folder, "customer_feedback", [DAY])
    assert database.customer_feedback.count_documents({}) == 2


def test_a_day_without_a_file_is_an_empty_day_until_one_arrives(database, landed, own_home):
    report = landing.load(database, own_home / "landing", "sessions", [DAY])
    assert report.by_day == {"2026-06-01": 0}
    landing.load(database, landed("sessions", SESSION), "sessions", [DAY])
    assert database.sessions.count_documents({}) == 1
