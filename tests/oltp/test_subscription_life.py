"""A subscription's life: changes and what is prorated, dunning, cancellation, pauses. No remainder is lost."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from billing_desk import DAY, START, Desk, at, change, everything_holds, invoices_of, item_of, periods, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stripe_platform.oltp import billing, invoices
from stripe_platform.oltp.billing import Change, Item
from stripe_platform.oltp.write import WriteError


def test_a_change_gives_back_what_is_left_and_charges_what_is_left_half_up(desk: Desk):
    done = desk.subscribe(Item(desk.price(1001)), created=at("2024-04-01"))
    change(desk, done, at("2024-04-16"), Change(item_of(desk, done), quantity=2))
    amounts = [row[0] for row in desk.conn.execute("select amount from oltp.invoice_items order by id")]
    assert sorted(amounts) == [-501, 1001]
    run(desk, at("2024-05-01"))
    assert [row[0] for row in invoices_of(desk, done.subscription_id, "total")] == [1001, 2002 + 500]
    everything_holds(desk)


def test_a_change_and_its_undoing_at_one_instant_come_to_nothing(desk: Desk):
    done = desk.subscribe(Item(desk.price(997)))
    when = START + dt.timedelta(days=9, hours=7, seconds=13)
    change(desk, done, when, Change(item_of(desk, done), quantity=7))
    change(desk, done, when, Change(item_of(desk, done), quantity=1))
    assert desk.one("select sum(amount) from oltp.invoice_items") == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(price=st.integers(1, 99_999), seconds=st.lists(st.integers(0, 28 * 86_400), min_size=1, max_size=6),
       quantities=st.lists(st.integers(0, 9), min_size=6, max_size=6),
       percent=st.sampled_from([None, 10, Decimal("33.3")]))
def test_no_remainder_of_a_proration_is_lost(desk: Desk, price, seconds, quantities, percent):
    done = desk.subscribe(Item(desk.price(price)), coupon_id=percent and desk.coupon(percent_off=percent))
    billed = desk.row("invoices", done.invoice_id)["total"]
    begun = desk.one("select coalesce(sum(amount), 0) from oltp.invoice_items")
    for number, after in enumerate(sorted(seconds)):
        change(desk, done, START + dt.timedelta(seconds=after),
               Change(item_of(desk, done), quantity=quantities[number]))
    ended = START + dt.timedelta(seconds=max(seconds))
    item = desk.row("subscription_items", item_of(desk, done))
    moved = desk.one("select coalesce(sum(amount), 0) from oltp.invoice_items") - begun
    change(desk, done, ended, Change(item_of(desk, done), quantity=0))
    given_back = desk.one("select coalesce(sum(amount), 0) from oltp.invoice_items") - begun - moved
    # What stands for the rest of the period goes back whole; what was used is what was billed for it, and not negative.
    assert given_back == -item["billed_amount"] or ended > item["billed_from"]
    assert billed + moved + given_back >= 0
    spans = [START, *(START + dt.timedelta(seconds=s) for s in sorted(seconds))]
    whole = at("2024-02-29") - START
    reduced = 1 - Decimal(percent or 0) / 100
    exact = sum((Decimal(q) * price * reduced * Decimal((b - a).total_seconds()) / Decimal(whole.total_seconds())
                 for q, a, b in zip([1, *quantities], spans, spans[1:], strict=False)), Decimal(0))
    assert abs(billed + moved + given_back - exact) <= 3 * len(spans)


def test_a_new_item_and_a_dropped_one_are_prorated_and_billed_at_once_when_asked(desk: Desk):
    done = desk.subscribe(created=at("2024-04-01"))
    extra = desk.price(3000)
    changed = change(desk, done, at("2024-04-16"), Change(price_id=extra), proration="always_invoice")
    assert desk.row("invoices", changed.invoice_id)["total"] == 1500
    assert changed.invoice_status == "paid"
    item = desk.one("select id from oltp.subscription_items where price_id = %s", extra)
    dropped = change(desk, done, at("2024-04-24"), Change(item, deleted=True), proration="always_invoice")
    row = desk.row("invoices", dropped.invoice_id)
    assert (row["total"], row["amount_due"], row["status"]) == (-700, 0, "paid")
    assert desk.row("customers", desk.shop.customer)["balance"] == -700
    run(desk, at("2024-05-01"))
    assert invoices_of(desk, done.subscription_id, "total", "amount_due", "starting_balance")[-1] == (1000, 300, -700)
    assert desk.row("customers", desk.shop.customer)["balance"] == 0
    everything_holds(desk)


def test_a_new_interval_begins_a_new_period_and_bills_it_at_once(desk: Desk):
    done = desk.subscribe(created=at("2024-04-01"))
    changed = change(desk, done, at("2024-04-16"), Change(item_of(desk, done), price_id=desk.price(9000, "year")))
    assert desk.row("invoices", changed.invoice_id)["total"] == 9000 - 500
    run(desk, at("2025-04-16"))
    assert periods(desk, done.subscription_id)[-1] == at("2025-04-16")
    everything_holds(desk)


def test_changes_in_a_trial_cost_nothing_and_in_arrears_are_refused(desk: Desk):
    trial = desk.subscribe(trial_days=14)
    change(desk, trial, START + DAY, Change(item_of(desk, trial), quantity=5))
    assert desk.one("select count(*) from oltp.invoice_items") == 0
    owes = desk.subscribe()
    run(desk, at("2024-02-29"), "do_not_honor")
    with pytest.raises(WriteError, match="past_due: it cannot change its items"):
        change(desk, owes, at("2024-03-01"))


def test_a_change_behind_a_due_period_is_refused(desk: Desk):
    done = desk.subscribe()
    with pytest.raises(WriteError, match="run the billing"):
        change(desk, done, at("2024-03-05"))


def test_retries_follow_the_schedule_and_a_payment_recovers(desk: Desk):
    done = desk.subscribe()
    due = at("2024-02-29")
    run(desk, due, "insufficient_funds")
    assert desk.row("subscriptions", done.subscription_id)["status"] == "past_due"
    assert desk.row("customers", desk.shop.customer)["delinquent"]
    attempts = []
    for day in (1, 3, 5):
        assert desk.one("select next_payment_attempt from oltp.invoices where status = 'open'") == due + day * DAY
        attempts.append(run(desk, due + day * DAY, "insufficient_funds").declined)
    assert attempts == [1, 1, 1]
    assert run(desk, due + 7 * DAY).paid == 1
    row = desk.row("subscriptions", done.subscription_id)
    invoice = invoices_of(desk, done.subscription_id, "status", "attempt_count")[-1]
    assert (row["status"], invoice) == ("active", ("paid", 5))
    assert not desk.row("customers", desk.shop.customer)["delinquent"]
    assert desk.one("select count(*) from oltp.invoice_payments where invoice_id ="
                    " (select latest_invoice_id from oltp.subscriptions)") == 1
    assert desk.one("select count(distinct payment_intent_id) from oltp.charges") == 2
    everything_holds(desk)


@pytest.mark.parametrize(("policy", "status"), [("default", "canceled"), ("keep_unpaid", "unpaid"),
                                                ("patient", "past_due")])
def test_the_last_failed_retry_ends_as_the_policy_says(desk: Desk, policy, status):
    done = desk.subscribe(Item(desk.price(1000, "month", interval_count=3)), dunning_policy=policy)
    run(desk, at("2024-06-20"), "insufficient_funds")
    row = desk.row("subscriptions", done.subscription_id)
    assert row["status"] == status
    assert row["cancellation_reason"] == ("payment_failed" if status == "canceled" else None)
    assert desk.one("select count(*) from oltp.invoices where next_payment_attempt is not null") == 0
    made = len(invoices_of(desk, done.subscription_id, "id"))
    run(desk, at("2024-07-31"), "insufficient_funds")
    after = invoices_of(desk, done.subscription_id, "status")
    assert len(after) == made + (status != "canceled")
    if status == "unpaid":
        assert after[-1] == ("draft",)
        paid = invoices.pay(desk.conn, invoice_id=invoices_of(desk, done.subscription_id, "id")[1][0])
        assert paid.status == "paid"
        assert desk.row("subscriptions", done.subscription_id)["status"] == "active"
    everything_holds(desk)


def test_an_incomplete_subscription_is_paid_within_a_day_or_expires(desk: Desk):
    saved, lost = (desk.subscribe(declined="insufficient_funds") for _ in range(2))
    again = invoices.pay(desk.conn, invoice_id=str(saved.invoice_id), declined="do_not_honor",
                         created=START + dt.timedelta(hours=1))
    assert (again.status, again.failure_code) == ("open", "do_not_honor")
    invoices.pay(desk.conn, invoice_id=str(saved.invoice_id), created=START + dt.timedelta(hours=2))
    run(desk, START + dt.timedelta(hours=22))
    states = [desk.row("subscriptions", done.subscription_id)["status"] for done in (saved, lost)]
    assert states == ["active", "incomplete"]
    run(desk, START + dt.timedelta(hours=23))
    assert desk.row("subscriptions", lost.subscription_id)["status"] == "incomplete_expired"
    assert desk.row("invoices", lost.invoice_id)["status"] == "void"
    assert desk.row("payment_intents", lost.payment_intent_id)["status"] == "canceled"
    everything_holds(desk)


def test_a_cancellation_at_the_periods_end_waits_for_it_and_can_be_taken_back(desk: Desk):
    kept, gone = desk.subscribe(), desk.subscribe()
    for done in (kept, gone):
        waits = billing.cancel(desk.conn, subscription_id=done.subscription_id, at_period_end=True, created=START + DAY)
        assert (waits.status, waits.cancel_at_period_end) == ("active", True)
    billing.update(desk.conn, subscription_id=kept.subscription_id, keep=True, created=START + 2 * DAY)
    run(desk, at("2024-03-31"))
    row = desk.row("subscriptions", gone.subscription_id)
    assert (row["status"], row["ended_at"], row["canceled_at"]) == ("canceled", at("2024-02-29"), START + DAY)
    assert len(invoices_of(desk, gone.subscription_id, "id")) == 1
    assert len(invoices_of(desk, kept.subscription_id, "id")) == 3


def test_a_cancellation_with_proration_credits_what_is_left_to_the_payer(desk: Desk):
    done = desk.subscribe(created=at("2024-04-01"), tax_rate_ids=[desk.tax(20)])
    billing.cancel(desk.conn, subscription_id=done.subscription_id, prorate=True, created=at("2024-04-16"))
    assert desk.row("customers", desk.shop.customer)["balance"] == -600
    assert run(desk, at("2025-01-01")).total == 0
    everything_holds(desk)


@pytest.mark.parametrize(("behavior", "status"), [("keep_as_draft", "draft"), ("void", "void"),
                                                  ("mark_uncollectible", "uncollectible")])
def test_a_rest_of_the_collection_bills_without_collecting_and_ends(desk: Desk, behavior, status):
    done = desk.subscribe()
    billing.pause(desk.conn, subscription_id=done.subscription_id, behavior=behavior, resumes_at=at("2024-03-15"),
                  created=START + DAY)
    run(desk, at("2024-03-31"))
    assert [row[0] for row in invoices_of(desk, done.subscription_id, "status")] == ["paid", status, "paid"]
    assert desk.row("subscriptions", done.subscription_id)["status"] == "active"
    with pytest.raises(WriteError, match="cannot be resumed"):
        billing.resume(desk.conn, subscription_id=done.subscription_id)
    everything_holds(desk)


def test_a_sent_invoice_is_overdue_and_paid_elsewhere(desk: Desk):
    done = desk.subscribe(collection_method="send_invoice", days_until_due=14, payment_method_id=None)
    assert (done.status, done.invoice_status, done.charge_id) == ("active", "open", None)
    run(desk, START + 14 * DAY)
    assert desk.row("subscriptions", done.subscription_id)["status"] == "past_due"
    invoices.pay(desk.conn, invoice_id=str(done.invoice_id), out_of_band=True)
    assert desk.row("subscriptions", done.subscription_id)["status"] == "active"
    assert desk.one("select count(*) from oltp.charges") == 0
