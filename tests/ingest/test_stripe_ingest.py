"""Imports on a real database: whatever the order, the repetition and the cuts between batches, the rows are equal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random

import pytest
from ingest_snapshot import differences, snapshot
from stripe_objects import CARD, SECRET, T0, account, charge, customer, event, intent, method, movement, rows, take

from stripe_platform.ingest.stripe.kinds import ALL
from stripe_platform.oltp import ledger
from stripe_platform.oltp.world import COUNTRY_CODES, CURRENCY_CODES
from stripe_platform.vault import open_value

pytestmark = pytest.mark.servers


def test_every_relation_of_the_schema_is_declared_as_one(platform):
    """A foreign key that the importer does not queue would cost the object its row."""
    keys = rows(
        platform.conn,
        """
        select c.conrelid::regclass::text, a.attname, c.confrelid::regclass::text from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any(c.conkey)
        where c.contype = 'f' and c.connamespace = 'oltp'::regnamespace and c.conparentid = 0""",
    )
    tables = {(t.removeprefix("oltp."), column): parent.removeprefix("oltp.") for t, column, parent in keys}
    declared = {
        (kind.table, spec.column) for kind in ALL.values() for spec in kind.fields if spec.parent or spec.currency
    }
    for kind in ALL.values():
        for child in kind.children:
            declared |= {(child.table, spec.column) for spec in child.fields if spec.parent or spec.currency}
            declared |= {(child.table, child.key), (child.table, child.number)}
        declared |= {(kind.table, column) for column in kind.key_columns}
        for spec in kind.fields:
            if (kind.table, spec.column) in tables and spec.parent:
                assert spec.parent in tables[kind.table, spec.column] or kind.table in ("charges", "payment_intents")
    ours = {(t, c) for (t, c) in tables if t in {k.table for k in ALL.values()}}
    made_here = {
        ("charges", "terminal_id"),
        ("balance_transactions", "ledger_entry_id"),
        ("balance_transactions", "available_entry_id"),
    }
    filled = {(t, c) for (t, c) in ours if any(s.column == c for k in ALL.values() if k.table == t for s in k.fields)}
    assert filled - declared - made_here == set()


def test_the_world_is_seeded(platform):
    take(platform.conn, platform.ring, customer())
    assert {r[0] for r in rows(platform.conn, "select code from oltp.currencies")} >= CURRENCY_CODES
    assert {r[0] for r in rows(platform.conn, "select code from oltp.countries")} >= COUNTRY_CODES


def test_a_payment_in_any_order_stands_whole_with_its_relations_and_is_booked(another):
    whole = [account(), customer(), method(), intent(status="succeeded", amount_received=1000), charge(), movement()]
    for seed in range(4):
        shuffled = random.Random(seed).sample(whole, len(whole))  # noqa: S311 - no secret is drawn
        platform = another()
        report = take(platform.conn, platform.ring, *shuffled, account="acct_1").as_json()
        assert (report["received"], report["normalised"], report["lost"]) == (6, 6, 0)
        assert rows(
            platform.conn, "select payment_intent_id, account_id, customer_id, payment_method_id from oltp.charges"
        ) == [("pi_1", "acct_1", "cus_1", "pm_1")]
        assert rows(platform.conn, "select * from ingest.pending_references") == []
        assert rows(platform.conn, "select ledger_entry_id is not null from oltp.balance_transactions") == [(True,)]


def test_what_a_relation_waits_for_is_queued_and_set_when_it_comes(platform):
    take(platform.conn, platform.ring, charge())
    waiting = rows(platform.conn, "select column_name, parent_id, conflict from ingest.pending_references order by 1")
    assert waiting == [
        ("customer_id", "cus_1", False),
        ("payment_intent_id", "pi_1", False),
        ("payment_method_id", "pm_1", False),
    ]
    take(platform.conn, platform.ring, customer())
    take(platform.conn, platform.ring, method())
    assert rows(platform.conn, "select customer_id, payment_method_id, payment_intent_id from oltp.charges") == [
        ("cus_1", "pm_1", None)
    ]


def test_another_payers_card_leaves_the_charge_and_marks_the_conflict_until_it_is_gone(platform):
    take(
        platform.conn, platform.ring, customer(), customer("cus_2"), method(owner="cus_2"), charge(payment_intent=None)
    )
    assert rows(platform.conn, "select customer_id, payment_method_id from oltp.charges") == [("cus_1", None)]
    assert rows(platform.conn, "select column_name, conflict from ingest.pending_references") == [
        ("payment_method_id", True)
    ]
    take(platform.conn, platform.ring, event(method(), "payment_method.updated", at=T0 + 5))
    assert rows(platform.conn, "select customer_id, payment_method_id from oltp.charges") == [("cus_1", "pm_1")]
    take(platform.conn, platform.ring, event(method(owner="cus_2"), "payment_method.updated", at=T0 + 9))
    assert rows(platform.conn, "select customer_id, payment_method_id from oltp.charges") == [("cus_1", None)]
    assert rows(platform.conn, "select conflict from ingest.pending_references") == [(True,)]


def test_a_detached_card_keeps_its_last_owner_and_its_payments(platform):
    take(platform.conn, platform.ring, customer(), method(), charge(payment_intent=None))
    take(platform.conn, platform.ring, event(method(owner=None), "payment_method.detached", at=T0 + 5))
    assert rows(platform.conn, "select customer_id, detached from oltp.payment_methods") == [("cus_1", True)]
    assert rows(platform.conn, "select payment_method_id from oltp.charges") == [("pm_1",)]


def test_the_newest_state_shows_and_the_history_is_that_of_the_states(another):
    states = [
        ("requires_payment_method", T0),
        ("requires_action", T0 + 1),
        ("processing", T0 + 1),
        ("succeeded", T0 + 9),
    ]
    events = [
        event(intent(status=state, payment_method=None, customer=None), "payment_intent.updated", at=at, key=f"evt_{i}")
        for i, (state, at) in enumerate(states)
    ]
    for order in (events, events[::-1], [events[2], events[0], events[3], events[1]]):
        platform = another()
        for one in order:
            take(platform.conn, platform.ring, one)
        assert rows(platform.conn, "select status from oltp.payment_intents") == [("succeeded",)]
        history = rows(
            platform.conn, "select from_status, to_status, event_id from oltp.status_history order by position"
        )
        assert history == [
            ("requires_payment_method", "requires_action", "evt_1"),
            ("requires_action", "processing", "evt_2"),
            ("processing", "succeeded", "evt_3"),
        ]


def test_deleted_keeps_what_was_known_and_one_made_anew_lives(another):
    stub = {"id": "cus_1", "object": "customer", "deleted": True}
    for order in ([customer(), stub], [stub, customer()]):
        platform = another()
        for one in order:
            take(platform.conn, platform.ring, one)
        assert rows(platform.conn, "select deleted, currency, email_ciphertext is not null from oltp.customers") == [
            (True, "eur", True)
        ]
    coupon = {"id": "SPRING", "object": "coupon", "created": T0, "percent_off": 5, "duration": "once"}
    take(platform.conn, platform.ring, event(coupon, "coupon.deleted", at=T0 + 5, key="evt_2"))
    assert rows(platform.conn, "select deleted from oltp.coupons") == [(True,)]
    take(platform.conn, platform.ring, {**coupon, "created": T0 + 9})
    assert rows(platform.conn, "select deleted from oltp.coupons") == [(False,)]


def test_a_charge_finds_its_intent_again_when_an_older_state_names_the_intents_merchant(another):
    """The newest state shows and says no merchant; an older one does: it changes the row, though it does not show."""
    newest = event(intent(payment_method=None), "payment_intent.updated", at=T0 + 9, key="evt_2")
    older = event(intent(payment_method=None), "payment_intent.created", at=T0, key="evt_1", account="acct_1")
    paid = event(charge(payment_method=None), "charge.succeeded", at=T0, key="evt_3", account="acct_1")
    for order in ([newest, older, paid], [newest, paid, older], [paid, newest, older], [paid, older, newest]):
        platform = another()
        for one in ([account(), customer()], *([state] for state in order)):
            take(platform.conn, platform.ring, *one)
        assert rows(platform.conn, "select account_id, payment_intent_id from oltp.charges") == [("acct_1", "pi_1")]
        assert rows(platform.conn, "select row_key from ingest.pending_references where table_name = 'charges'") == []


@pytest.mark.parametrize(
    "later",
    [
        {"account": "acct_1"},
        {"amount": 2000, "net": 1941},
        {"reporting_category": "other_adjustment"},
        {"available_on": 4_000_000_000},
    ],
)
def test_the_books_follow_a_movement_that_a_later_state_changes(another, later):
    """What was booked is taken back and booked anew: an entry is not what happened to arrive first."""
    who = {"account": later["account"]} if "account" in later else {}
    change = {} if who else later
    first = event(movement(), "balance.available", at=T0, key="evt_1")
    second = event(movement(**change), "balance.available", at=T0 + 5, key="evt_2", **who)
    found = []
    for order in ([account()], [first], [second]), ([account()], [second], [first]), ([second, first], [account()]):
        platform = another()
        for one in order:
            take(platform.conn, platform.ring, *one)
        found.append(snapshot(platform.conn, platform.ring))
        assert rows(platform.conn, "select ledger_entry_id is not null from oltp.balance_transactions") == [(True,)]
    assert [differences(found[0], other) for other in found[1:]] == [[], []]


@pytest.mark.parametrize("later", [{"amount": 2000, "net": 1941}, {"available_on": T0 + 40 * 86400}])
def test_the_books_follow_a_released_movement_and_release_it_once(another, later):
    """What a later state changes is taken back out of the release too, which was one sum for many movements."""
    platform, until = another(), dt.datetime.fromtimestamp(T0 + 30 * 86400, dt.UTC)
    due = {"available_on": T0 + 2 * 86400}
    for one in (
        account(),
        event(movement(**due), "balance.available", at=T0, key="evt_1"),
        event(movement("txn_2", source="ch_2", **due), "balance.available", at=T0, key="evt_2"),
    ):
        take(platform.conn, platform.ring, one)
    assert ledger.release(platform.conn, until) == 2
    rebooked = movement(**(due | later))
    take(platform.conn, platform.ring, event(rebooked, "balance.available", at=T0 + 5, key="evt_3"))
    held, whole = rebooked["net"] if "available_on" in later else 0, movement()["net"] + rebooked["net"]
    stand = "select -coalesce(sum(amount), 0)::bigint from oltp.ledger_postings where ledger_account_id like %s"
    for pending in held, 0:
        assert rows(platform.conn, stand, "merchant\\_pending:%") == [(pending,)]
        assert rows(platform.conn, stand, "merchant\\_available:%") == [(whole - pending,)]
        ledger.release(platform.conn, until + dt.timedelta(days=60))


def test_a_foreseen_bill_is_never_among_the_bills_and_the_newest_look_at_it_shows(another):
    line = {"id": "il_1", "object": "line_item", "amount": 7, "currency": "eur", "invoice": None}
    lines = {"object": "list", "data": [line]}
    foreseen = {"object": "invoice", "currency": "eur", "customer": "cus_1", "lines": lines}
    looks = [
        {**foreseen, "created": T0, "total": 7},
        {**foreseen, "created": T0 + 5, "total": 8, "id": "upcoming_in_1"},
        event({**foreseen, "total": 9, "subscription": "sub_1"}, "invoice.upcoming"),
        customer(),
    ]
    for order in (looks, looks[::-1], [*looks, *looks]):
        platform = another()
        for one in order:
            assert take(platform.conn, platform.ring, one).as_json()["normalised"] == 1
        assert rows(platform.conn, "select id, customer_id, total from oltp.invoice_previews order by 1") == [
            ("upcoming:cus_1", "cus_1", 8),
            ("upcoming:sub_1", "cus_1", 9),
        ]
        assert rows(platform.conn, "select id from oltp.invoices union all select id from oltp.invoice_lines") == []


def test_a_deleted_discount_that_names_no_owner_is_a_tombstone(another):
    nothing, blank = {"deleted": True}, {"object": "discount", "deleted": True, "id": "", "coupon": {"id": ""}}
    said = {**blank, "coupon": {"id": "SPRING", "object": "coupon", "duration": "once"}, "start": T0}
    owned = {"object": "discount", "customer": "cus_1", "start": T0}
    found = [{"resources": {"deleted_discount": nothing}}, blank, said, owned]
    for order in (found, found[::-1], [*found, *found]):
        platform = another()
        for one in order:
            assert take(platform.conn, platform.ring, one).as_json()["normalised"] == 1
        assert rows(platform.conn, "select left(id, 14), coupon_id, start, deleted from oltp.discounts order by 1") == [
            ("discount:cus_1", None, dt.datetime.fromtimestamp(T0, dt.UTC), False),
            ("discount:gone", None, None, True),
            ("discount:gone:", "SPRING", dt.datetime.fromtimestamp(T0, dt.UTC), True),
        ]
    alive = {"object": "discount", "coupon": "SPRING", "start": T0}
    assert take(platform.conn, platform.ring, alive).as_json()["quarantined"] == 1


def test_a_capability_waits_for_its_account(platform):
    capability = {
        "id": "card_payments",
        "object": "capability",
        "account": "acct_1",
        "status": "active",
        "requested": True,
        "requested_at": T0,
    }
    report = take(platform.conn, platform.ring, capability).as_json()
    assert (report["normalised"], report["quarantined"], report["lost"]) == (0, 1, 0)
    assert "account has not arrived" in rows(platform.conn, "select reason from ingest.objects")[0][0]
    take(platform.conn, platform.ring, account())
    assert rows(platform.conn, "select account_id, name, status, requested from oltp.capabilities") == [
        ("acct_1", "card_payments", "active", True)
    ]
    assert rows(platform.conn, "select state from ingest.objects where kind = 'capability'") == [("normalised",)]


def test_a_delivery_twice_is_one_row_and_counted_as_what_it_is(platform):
    first = take(platform.conn, platform.ring, event(charge(), "charge.succeeded")).as_json()
    again = take(platform.conn, platform.ring, event(charge(), "charge.succeeded"), charge()).as_json()
    assert (first["duplicates"], again["duplicates"], again["normalised"]) == (0, 1, 2)
    assert rows(platform.conn, "select count(*) from ingest.objects") == [(3,)]
    assert rows(platform.conn, "select count(*) from oltp.charges") == [(1,)]


def test_one_id_for_several_types_is_several_events(platform):
    take(platform.conn, platform.ring, event(charge(), "charge.succeeded"), event(charge(), "charge.captured"))
    assert rows(platform.conn, "select id, type from oltp.events order by 2") == [
        ("evt_1", "charge.captured"),
        ("evt_1", "charge.succeeded"),
    ]


def test_nothing_is_lost_of_hostile_input(platform):
    changes: list[dict[str, object]] = [
        {"amount": "1000"},
        {"amount": -5},
        {"currency": 7},
        {"status": ["x"]},
        {"outcome": "x"},
        {"created": None},
        {"customer": {"id": ["a"]}},
        {"description": "\ud800" + "x" * 100_000},
        {"metadata": "a\x00b"},
        {"amount": 10**400},
        {"payment_method_details": [1]},
        {"id": None},
        {"refunds": {"object": "list", "data": [1, None, "x"]}},
    ]
    odd = [{**charge(f"ch_{i}"), **change} for i, change in enumerate(changes)]
    found = [
        *odd,
        {},
        {"object": 7},
        {"object": "x" * 500},
        {"object": CARD},
        7,
        None,
        "x",
        [],
        {"id": "a", "object": "event"},
        event({}, "charge.updated"),
        event(charge(), CARD),
        {"object": "list", "data": "x"},
    ]
    report = take(platform.conn, platform.ring, found).as_json()
    assert report["lost"] == 0
    assert report["received"] == len(found)
    assert report["normalised"] + report["quarantined"] + report["unmodelled"] == report["received"]
    assert rows(
        platform.conn, "select count(*) from ingest.objects where state = 'quarantined' and reason is null"
    ) == [(0,)]


def test_what_the_database_alone_refuses_costs_only_itself(platform, monkeypatch):
    monkeypatch.setitem(ALL, "refund", dataclasses.replace(ALL["refund"], rules=()))
    refunds = [
        {"id": f"re_{i}", "object": "refund", "amount": amount, "currency": "eur", "created": T0}
        for i, amount in enumerate([5, 0, 7])
    ]
    report = take(platform.conn, platform.ring, *refunds).as_json()
    assert (report["normalised"], report["quarantined"], report["lost"]) == (2, 1, 0)
    [(reason,)] = rows(platform.conn, "select reason from ingest.objects where state = 'quarantined'")
    assert reason.startswith("refund re_1: the database refuses its row (rule ")


def test_a_quarantined_object_is_judged_anew_when_it_comes_again(platform, monkeypatch):
    odd = charge(status="settled")
    assert take(platform.conn, platform.ring, odd).as_json()["quarantined"] == 1
    wider = dataclasses.replace(
        ALL["charge"], derive=lambda _obj, _context: {"status": "succeeded", "captured": 1000, "refunded": 0}
    )
    monkeypatch.setitem(ALL, "charge", wider)
    assert take(platform.conn, platform.ring, odd).as_json()["normalised"] == 1
    assert rows(platform.conn, "select state, reason from ingest.objects") == [("normalised", None)]


def test_personal_data_opens_with_the_payers_one_key(platform):
    take(platform.conn, platform.ring, customer(), charge(), charge("ch_2"))
    [(sealed,)] = rows(platform.conn, "select name_ciphertext from oltp.customers")
    assert (
        open_value(platform.conn, platform.ring, sealed, "oltp.customers", "name_ciphertext", "cus_1", "cus_1")
        == SECRET.encode()
    )
    assert rows(platform.conn, "select count(*) from vault.subject_keys where subject = 'cus_1'") == [(1,)]


def test_drift_says_which_versions_sent_it(platform):
    for version in ("2024-06-20", "2020-08-27"):
        take(
            platform.conn,
            platform.ring,
            event({**charge(), "fresh_field": 1}, "charge.updated", key=f"evt_{version}", api_version=version),
        )
    assert rows(
        platform.conn, "select path, first_version, last_version, seen from ingest.drift where path = 'fresh_field'"
    ) == [("fresh_field", "2020-08-27", "2024-06-20", 2)]
