"""One document per charge, whatever the order, the repetition and the interruption of loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from bson import Int64
from document_files import day, noon

from stripe_platform.cdc.daily import NotContiguousError
from stripe_platform.documents import change_log, transactions, writing
from stripe_platform.documents.schemas import LOADS

pytestmark = pytest.mark.servers


def of(database, name: str) -> dict:
    return database.transactions.find_one({"_id": f"ch_{name}"})


def everything(database) -> list[dict]:
    return list(database.transactions.find({}, sort=[("_id", 1)]))


def test_a_charge_becomes_a_document_with_device_place_and_tokens(database, ledger):
    ledger.charge("a", 1)
    report = transactions.load(database, ledger.lake, ledger.write(1))
    assert (report.inserted, report.by_day) == (1, {"2026-06-01": 1})
    document = of(database, "a")
    assert document["fence"].pop("charge") < document["fence"].pop("outcome")
    assert document == {
        "_id": "ch_a", "day": "2026-06-01", "created": noon(1), "status": "succeeded", "amount": 1_000,
        "amount_captured": 1_000, "amount_refunded": 0, "currency": "eur", "customer": "payer_1",
        "merchant": "merchant_1", "payment_intent": "pi_1", "failure_code": None, "device": {"type": "mobile"},
        "location": {"ip_country": "FR", "terminal": "tmr_1", "country": "DE",
                     "point": {"type": "Point", "coordinates": [13.405, 52.52]}},
        "outcome": {"type": "authorized", "network_status": "approved_by_network", "reason": None,
                    "risk_level": "normal", "risk_score": 7},
        "dispute": None, "fence": {"dispute": ""},
    }


def test_the_status_says_the_latest_fate(database, ledger):
    ledger.charge("paid", 1)
    ledger.charge("failed", 1, status="failed", amount_captured=0, failure_code="card_declined")
    ledger.charge("pending", 1, status="pending", amount_captured=0)
    ledger.charge("half", 1, amount_refunded=500)
    ledger.charge("back", 1, amount_refunded=1_000)
    ledger.charge("fraud", 1, disputed=True)
    ledger.dispute("fraud", 1)
    ledger.charge("unhappy", 1, disputed=True)
    ledger.dispute("unhappy", 1, reason="product_not_received")
    transactions.load(database, ledger.lake, ledger.write(1))
    assert {d["_id"][3:]: d["status"] for d in everything(database)} == {
        "paid": "succeeded", "failed": "failed", "pending": "pending", "half": "succeeded", "back": "refunded",
        "fraud": "fraudulent", "unhappy": "disputed"}


def test_a_late_charge_belongs_to_the_day_it_was_made(database, ledger):
    ledger.charge("late", 3, created=1)
    report = transactions.load(database, ledger.lake, ledger.write(3))
    assert report.by_day == {"2026-06-01": 1, "2026-06-02": 0, "2026-06-03": 0}


def test_a_dispute_of_a_later_range_reaches_the_document(database, ledger):
    ledger.charge("a", 1)
    ledger.charge("b", 1)
    transactions.load(database, ledger.lake, ledger.write(1))
    ledger.charge("a", 2, created=1, op="u", disputed=True)
    ledger.dispute("a", 2)
    report = transactions.load(database, ledger.lake, ledger.write(2)[1:])
    assert (report.inserted, report.updated) == (0, 1)
    assert (of(database, "a")["status"], of(database, "b")["status"]) == ("fraudulent", "succeeded")
    assert of(database, "a")["dispute"]["reason"] == "fraudulent"


def test_a_refund_after_a_fraud_does_not_hide_the_fraud(database, ledger):
    ledger.charge("a", 1)
    ledger.charge("a", 2, created=1, op="u", disputed=True)
    ledger.dispute("a", 2)
    ledger.charge("a", 3, created=1, op="u", disputed=True, amount_refunded=1_000)
    days = ledger.write(3)
    for one in days:
        transactions.load(database, ledger.lake, [one])
    assert (of(database, "a")["status"], of(database, "a")["amount_refunded"]) == ("fraudulent", 1_000)


def test_a_dispute_that_overtakes_its_charge_is_neither_lost_nor_taken_back(database, ledger):
    ledger.charge("a", 1)
    ledger.dispute("a", 2)
    days = ledger.write(2)
    with pytest.raises(transactions.UnknownChargeError, match="first: ch_a"):
        transactions.load(database, ledger.lake, days[1:])
    assert database[LOADS].count_documents({}) == 0  # refused with its remedy: the day is still to be loaded
    for one in (days[:1], days[1:]):
        transactions.load(database, ledger.lake, one)
    disputed = everything(database)
    assert disputed[0]["status"] == "fraudulent"
    database[LOADS].delete_many({})
    transactions.load(database, ledger.lake, days[:1])  # the charge once more, from before its dispute
    assert everything(database) == disputed


@pytest.mark.parametrize("order", [("fraudulent", "product_not_received"), ("product_not_received", "fraudulent")])
def test_of_several_disputes_the_fraudulent_one_shows(database, ledger, order):
    ledger.charge("a", 1)
    for number, reason in enumerate(order, start=2):
        ledger.dispute("a", number, id=f"dp_{number}", reason=reason)
    for one in ledger.write(3):
        transactions.load(database, ledger.lake, [one])
    assert (of(database, "a")["dispute"]["reason"], of(database, "a")["status"]) == ("fraudulent", "fraudulent")


def test_days_one_by_one_backwards_and_at_once_end_alike(database, ledger):
    for name in "abcdef":
        ledger.charge(name, 1)
    for name in "abc":
        ledger.charge(name, 2, created=1, op="u", disputed=True)
        ledger.dispute(name, 2)
    ledger.charge("a", 3, created=1, op="u", disputed=True, amount_refunded=1_000)
    ledger.charge("g", 3)
    days = ledger.write(3)
    transactions.load(database, ledger.lake, days)
    at_once = everything(database)
    assert len(at_once) == 7
    for order in (days, days[::-1]):
        database.transactions.delete_many({})
        database[LOADS].delete_many({})
        for one in order:
            transactions.load(database, ledger.lake, [one])
        assert everything(database) == at_once


def test_large_days_are_loaded_one_after_the_other_and_end_alike(database, ledger, monkeypatch):
    for name in "abc":
        ledger.charge(name, 1)
        ledger.charge(name, 2, created=1, op="u", disputed=True)
    days = ledger.write(3)
    transactions.load(database, ledger.lake, days)
    at_once, opened, opening = everything(database), [], change_log.opened
    database.transactions.delete_many({})
    database[LOADS].delete_many({})
    monkeypatch.setattr(transactions, "CHANGES_AT_ONCE", 2)
    monkeypatch.setattr(change_log, "opened", lambda lake, chunk, **more: opened.append(chunk) or opening(
        lake, chunk, **more))
    transactions.load(database, ledger.lake, days)
    assert opened == [[day] for day in days]
    assert everything(database) == at_once


def test_a_repeated_load_writes_nothing(database, ledger):
    ledger.charge("a", 1)
    days = ledger.write(2)
    transactions.load(database, ledger.lake, days)
    again = transactions.load(database, ledger.lake, days)
    assert (again.inserted, again.updated, again.skipped_days) == (0, 0, 2)


def test_a_stale_load_changes_nothing_newer(database, ledger):
    ledger.charge("a", 1)
    ledger.charge("a", 2, created=1, op="u", amount_refunded=400)
    days = ledger.write(2)
    transactions.load(database, ledger.lake, days)
    newest = everything(database)
    database[LOADS].delete_many({})
    report = transactions.load(database, ledger.lake, days[:1])
    assert (report.inserted, report.updated) == (0, 0)
    assert everything(database) == newest


def test_a_new_life_of_the_slot_counts_as_newer_though_its_positions_start_again(database, ledger):
    ledger.charge("a", 1)
    transactions.load(database, ledger.lake, ledger.write(1))
    ledger.position = 0
    from document_files import CHARGE

    ledger.change("charges", 2, "u", CHARGE | {"id": "ch_a", "created": noon(1), "amount_refunded": 300},
                  epoch="000002-00000001")
    transactions.load(database, ledger.lake, ledger.write(2))
    assert of(database, "a")["amount_refunded"] == 300


def test_only_batches_the_day_lacks_are_inserted_after_a_kill(database, ledger, tmp_path, monkeypatch):
    for number in range(300):
        ledger.charge(f"{number:03}", 1)
    days = ledger.write(1)
    program = (
        "import sys, time; from pathlib import Path; import datetime as dt\n"
        "from resources.lake import LocalLake; from resources.mongo import MongoResource\n"
        "from stripe_platform.documents import transactions, writing\n"
        "writing.batches.__defaults__ = (50,)\n"
        "real = transactions.insert_new\n"
        "def slow(*a):\n    found = real(*a); print('batch', flush=True); time.sleep(.5); return found\n"
        "transactions.insert_new = slow\n"
        "with MongoResource().database() as db:\n"
        f"    transactions.load(db, LocalLake(Path({str(ledger.lake.root)!r})), [dt.date(2026, 6, 1)])\n")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(.2)
    assert 0 < database.transactions.count_documents({}) < 300
    assert database[LOADS].count_documents({}) == 0
    transactions.load(database, ledger.lake, days)
    assert database.transactions.count_documents({}) == 300
    assert database[LOADS].count_documents({}) == 1


def test_what_the_ledger_cannot_mean_is_refused_in_one_sentence(database, ledger):
    ledger.charge("a", 1, customer_id="cus_unknown")
    with pytest.raises(change_log.ChangeLogError, match="snapshots/customers lacks payers of this range"):
        transactions.load(database, ledger.lake, ledger.write(1))
    ledger.changes.clear()
    ledger.charge("a", 1)
    ledger.charge("a", 1, op="d")
    with pytest.raises(change_log.ChangeLogError, match="a ledger keeps its rows"):
        transactions.load(database, ledger.lake, ledger.write(1))
    assert everything(database) == []


def test_a_dispute_of_a_charge_that_no_loaded_day_made_is_refused(database, ledger):
    ledger.dispute("ghost", 1)
    with pytest.raises(transactions.UnknownChargeError, match="first: ch_ghost"):
        transactions.load(database, ledger.lake, ledger.write(1))


def test_a_day_that_was_not_compacted_is_named(database, ledger):
    ledger.write(1)
    with pytest.raises(NotContiguousError, match="cdc/charges of 2026-06-02 is missing"):
        transactions.load(database, ledger.lake, [day(1), day(2)])


def test_one_touched_document_among_many_costs_no_scan(database, ledger):
    """Beside `_id`, any other condition makes the embedded server scan: 100 ms for each document."""
    from pymongo import UpdateOne

    for number in range(3_000):
        ledger.charge(f"{number:04}", 1)
    transactions.load(database, ledger.lake, ledger.write(1))
    stages = [writing.fenced("charge", "z", {"amount_refunded": Int64(1)})]
    updates = [(f"ch_{number:04}", UpdateOne({"_id": f"ch_{number:04}"}, stages)) for number in range(500)]
    begun = time.monotonic()
    assert writing.update_all(database.transactions, updates) == (500, {})
    assert writing.update_all(database.transactions, updates) == (0, {})
    assert time.monotonic() - begun < 15
