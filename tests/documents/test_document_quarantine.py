"""A document that the server refuses is put aside: others flow, a later good state heals it, nothing is quoted."""

from __future__ import annotations

import math

import pytest
from bson import Int64
from document_files import CHARGE, noon

from stripe_platform.cdc import quarantined
from stripe_platform.documents import quarantine, transactions, writing
from stripe_platform.documents.schemas import LOADS, QUARANTINE
from stripe_platform.settings import load_settings

pytestmark = pytest.mark.servers
CARD = "4242424242424242"


def ids(database) -> list[str]:
    return [row["_id"] for row in database.transactions.find({}, {"_id": 1}, sort=[("_id", 1)])]


def put_aside(database) -> list[tuple[str, str]]:
    return [(entry["id"], entry["rule"]) for entry in quarantine.listing(database)]


def test_a_poison_document_is_put_aside_while_others_flow(database, ledger, capfd):
    for name in "abc":
        ledger.charge(name, 1, currency=CARD if name == "b" else "eur")
    report = transactions.load(database, ledger.lake, ledger.write(1))
    assert (report.inserted, report.quarantined) == (2, 1)
    assert quarantined.by_store(load_settings())["documents"] == 1
    assert ids(database) == ["ch_a", "ch_c"]
    (entry,) = quarantine.listing(database)
    assert (entry["id"], entry["rule"], entry["source"], entry["epoch"]) == (
        "ch_b", "121 validator", "oltp", "000001-00000001")
    assert (entry["commit_lsn"], entry["ord"]) == ("0/3EC", 0)  # of its outcome, the newest change
    assert CARD not in "".join(capfd.readouterr()) + repr(list(database[QUARANTINE].find()))


def test_a_poison_change_is_put_aside_and_its_document_stays_as_it_was(database, ledger):
    for name in "abc":
        ledger.charge(name, 1)
    transactions.load(database, ledger.lake, ledger.write(1))
    for name in "abc":
        ledger.charge(name, 2, created=1, op="u", amount_refunded=-5 if name == "b" else 400)
    report = transactions.load(database, ledger.lake, ledger.write(2)[1:])
    assert (report.updated, report.quarantined) == (2, 1)
    assert {d["_id"]: d["amount_refunded"] for d in database.transactions.find()} == {
        "ch_a": 400, "ch_b": 0, "ch_c": 400}
    assert put_aside(database) == [("ch_b", "121 validator")]


def test_a_later_good_change_heals_with_all_that_was_held_meanwhile(database, ledger):
    ledger.charge("a", 1, amount_refunded=-5)
    ledger.charge("b", 1)
    ledger.dispute("a", 2)
    ledger.charge("a", 3, created=1, op="u", disputed=True)
    days = ledger.write(3)
    for count, day in enumerate(days):
        transactions.load(database, ledger.lake, [day])
        assert put_aside(database) == ([("ch_a", "121 validator")] if count < 2 else [])
    document = database.transactions.find_one({"_id": "ch_a"})
    assert (document["status"], document["outcome"]["type"]) == ("fraudulent", "authorized")
    healed = list(database.transactions.find(sort=[("_id", 1)]))
    database.transactions.delete_many({})
    database[LOADS].delete_many({})
    transactions.load(database, ledger.lake, days)
    assert (list(database.transactions.find(sort=[("_id", 1)])), put_aside(database)) == (healed, [])


def test_a_poison_that_comes_again_behind_its_remedy_is_no_longer_one(database, ledger):
    ledger.charge("a", 1, amount_refunded=-5)
    ledger.charge("a", 2, created=1, op="u", amount_refunded=5)
    days = ledger.write(2)
    transactions.load(database, ledger.lake, days)
    database[LOADS].delete_many({})
    transactions.load(database, ledger.lake, days[:1])
    assert put_aside(database) == []
    assert database.transactions.find_one({"_id": "ch_a"})["amount_refunded"] == 5


def test_a_stale_good_day_closes_no_entry_of_a_later_one(database, ledger):
    ledger.charge("a", 1)
    ledger.charge("a", 2, created=1, op="u", amount_refunded=-5)
    days = ledger.write(2)
    for day in days:
        transactions.load(database, ledger.lake, [day])
    database[LOADS].delete_many({})
    transactions.load(database, ledger.lake, days[:1])
    assert put_aside(database) == [("ch_a", "121 validator")]


@pytest.mark.parametrize("step", ["settle", "record"])
def test_a_load_that_dies_at_any_step_ends_alike_when_it_is_repeated(database, ledger, monkeypatch, step):
    for name in "abc":
        ledger.charge(name, 1, amount_refunded=-5 if name == "b" else 0)
    days = ledger.write(1)

    def die(*_given, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quarantine if step == "settle" else transactions, step, die)
        with pytest.raises(KeyboardInterrupt):
            transactions.load(database, ledger.lake, days)
    for _ in range(2):
        transactions.load(database, ledger.lake, days)
        assert (ids(database), put_aside(database)) == (["ch_a", "ch_c"], [("ch_b", "121 validator")])


def test_a_document_over_16_mib_is_put_aside(database, ledger):
    database.command("collMod", "transactions", validator={})
    for name in "abc":
        ledger.charge(name, 1, failure_code="x" * (17 << 20) if name == "b" else None)
    transactions.load(database, ledger.lake, ledger.write(1))
    assert (ids(database), put_aside(database)) == (["ch_a", "ch_c"], [("ch_b", "10334 size")])


def test_what_the_wire_cannot_carry_is_named_and_the_rest_of_its_batch_is_written(database):
    database.command("collMod", "transactions", validator={})
    documents = [{"_id": "a"}, {"_id": "b", "n": 1 << 70}, {"_id": "c"}, {"_id": "d", "t": "\ud800"}]
    assert writing.insert_new(database.transactions, documents) == (
        [], {"b": "OverflowError", "d": "UnicodeEncodeError"})
    assert ids(database) == ["a", "c"]


def test_one_poison_update_among_many_is_found_in_some_dozen_statements(database, ledger, monkeypatch):
    from pymongo import UpdateOne

    count, sent, real = 3_000, [], writing._send
    for number in range(count):
        ledger.charge(f"{number:04}", 1)
    transactions.load(database, ledger.lake, ledger.write(1))
    monkeypatch.setattr(writing, "_send", lambda *a, **k: (sent.append(1), real(*a, **k))[1])
    updates = [(f"ch_{n:04}", UpdateOne({"_id": f"ch_{n:04}"}, [writing.fenced(
        "charge", "z", {"amount_refunded": Int64(-1 if n == 1_234 else 1)})])) for n in range(count)]
    assert writing.update_all(database.transactions, updates) == (count - 1, {"ch_1234": "121 validator"})
    assert len(sent) <= 2 * math.ceil(math.log2(count)) + 1


def test_a_rule_that_refuses_everything_stops_the_load_with_a_sentence(database, ledger, monkeypatch):
    monkeypatch.setattr(quarantined, "MOST", 20)
    for number in range(50):
        ledger.charge(f"{number:02}", 1, currency=CARD)
    with pytest.raises(writing.DocumentRefusedError, match="more than 20 documents at once") as caught:
        transactions.load(database, ledger.lake, ledger.write(1))
    assert CARD not in str(caught.value)
    assert database[LOADS].count_documents({}) == 0


def test_refusals_that_are_no_documents_fault_are_raised(database):
    """A server without a right, a lock or a disk must not empty a day into quarantine."""
    from pymongo.errors import BulkWriteError

    class Refusing:
        name, database = "transactions", None

        def insert_many(self, *_given, **_named):
            raise BulkWriteError({"writeErrors": [{"index": 0, "code": 13, "errmsg": "not authorized"}]})

    with pytest.raises(writing.DocumentRefusedError, match=r"codes \[13\]"):
        writing.insert_new(Refusing(), [{"_id": "a"}])


def test_a_new_key_needs_no_ledger_of_its_own_to_be_shown(database, ledger):
    """An event day that cannot be told stands as the first of all days."""
    ledger.change("charges", 1, "c", CHARGE | {"id": "ch_a", "created": None})
    ledger.charge("b", 1, created=1)
    transactions.load(database, ledger.lake, ledger.write(1))
    assert [row["day"] for row in database[QUARANTINE].find()] == [quarantine.UNKNOWN_DAY]
    assert database.transactions.find_one({"_id": "ch_b"})["created"] == noon(1)
