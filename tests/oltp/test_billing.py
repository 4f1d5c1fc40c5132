"""Billing: subscriptions, invoices, dunning, credit. Every total is a sum of lines, every period is billed once."""

from __future__ import annotations

import datetime as dt
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oltp_shop import Shop

from stripe_platform.oltp import billing, catalogue, invoices, ledger, write
from stripe_platform.oltp.billing import Change, Item
from stripe_platform.oltp.billing_run import BillingRun, run_billing
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError

START = dt.datetime(2024, 1, 31, 10, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Desk:
    """A shop with a product and a monthly price, and what a test asks of them."""

    shop: Shop
    product: str
    monthly: str

    @property
    def conn(self) -> psycopg.Connection:
        return self.shop.conn

    def price(self, amount: int = 1000, interval: catalogue.Interval = "month", **more: Any) -> str:
        return catalogue.create_price(self.conn, product_id=self.product, currency=more.pop("currency", "eur"),
                                      unit_amount=amount, interval=interval, created=START, **more)

    def subscribe(self, *items: Item, **more: Any) -> billing.Subscription:
        return billing.subscribe(
            self.conn, account_id=self.shop.account, customer_id=self.shop.customer,
            items=items or [Item(self.monthly)],
            **{"payment_method_id": self.shop.method, "created": START, **more})  # fmt: skip

    def coupon(self, duration: Any = "forever", **more: Any) -> str:
        return catalogue.create_coupon(self.conn, account_id=self.shop.account, duration=duration, **more)

    def tax(self, percentage: int | Decimal, inclusive: bool = False) -> str:
        return catalogue.create_tax_rate(self.conn, account_id=self.shop.account, display_name="VAT",
                                         percentage=percentage, inclusive=inclusive)

    def row(self, table: str, key: str | None, column: str = "id") -> dict[str, Any]:
        with self.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute(f"select * from oltp.{table} where {column} = %s", [key]).fetchone()
        assert row is not None
        return row

    def one(self, query: str, *values: Any) -> Any:
        row = self.conn.execute(query, values).fetchone()
        return row[0] if row else None


@pytest.fixture
def desk(shop: Shop) -> Desk:
    product = catalogue.create_product(shop.conn, account_id=shop.account, name="Plan", created=START)
    price = catalogue.create_price(shop.conn, product_id=product, currency="eur", unit_amount=1000, interval="month",
                                   created=START)
    return Desk(shop, product, price)


def test_a_subscription_bills_its_first_period_and_is_active(desk: Desk):
    done = desk.subscribe(Item(desk.monthly, 3))
    assert (done.status, done.invoice_status, done.failure_code) == ("active", "paid", None)
    invoice = desk.row("invoices", done.invoice_id)
    assert (invoice["total"], invoice["amount_due"], invoice["amount_paid"], invoice["amount_remaining"]) == (
        3000, 3000, 3000, 0)
    assert desk.row("charges", done.charge_id)["amount"] == 3000


def test_a_declined_subscription_is_incomplete(desk: Desk):
    done = desk.subscribe(declined="insufficient_funds")
    assert (done.status, done.invoice_status, done.failure_code) == ("incomplete", "open", "insufficient_funds")


def test_the_same_key_subscribes_once(desk: Desk):
    key = Idempotency(desk.shop.ring, "k1")
    first, again = (desk.subscribe(idempotency=key) for _ in range(2))
    assert (first.subscription_id, again.replayed) == (again.subscription_id, True)
    with pytest.raises(WriteError, match="other parameters"):
        desk.subscribe(Item(desk.monthly, 2), idempotency=key)
    assert desk.one("select count(*) from oltp.subscriptions") == 1


def test_a_canceled_subscription_ends_at_once_and_is_not_canceled_again(desk: Desk):
    done = desk.subscribe()
    gone = billing.cancel(desk.conn, subscription_id=done.subscription_id, created=START + DAY)
    assert gone.status == "canceled"
    with pytest.raises(WriteError, match="cannot be canceled"):
        billing.cancel(desk.conn, subscription_id=done.subscription_id)


def test_taxes_and_discounts_come_to_a_total(desk: Desk):
    coupon = desk.coupon("forever", percent_off=Decimal("33.3"))
    tax = desk.tax(20)
    done = desk.subscribe(Item(desk.price(999)), Item(desk.price(1001)), coupon_id=coupon, tax_rate_ids=[tax])
    invoice = desk.row("invoices", done.invoice_id)
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == (2000, 267, 1601)


def periods(desk: Desk, subscription: str) -> list[dt.datetime]:
    return [row[0] for row in desk.conn.execute(
        "select period_start from oltp.subscription_cycles where subscription_id = %s order by 1", [subscription])]


def invoices_of(desk: Desk, subscription: str, *columns: str) -> list[tuple[Any, ...]]:
    query = f"select {', '.join(columns)} from oltp.invoices where subscription_id = %s order by created, id"
    return desk.conn.execute(query, [subscription]).fetchall()


def run(desk: Desk, until: dt.datetime, decline: str | None = None) -> BillingRun:
    return run_billing(desk.conn, until, issuer=lambda _: decline)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{text}T10:00:00+00:00")


def everything_holds(desk: Desk) -> None:
    """Every invoice adds up, the ledger balances, nets are the merchant's balance, movements the payer's."""
    assert desk.one("""
        select count(*) from oltp.invoices i
        cross join lateral (select coalesce(sum(l.amount), 0) as lines from oltp.invoice_lines l
            where l.invoice_id = i.id) l
        cross join lateral (select coalesce(sum(d.amount), 0) as discounts from oltp.invoice_lines l
            join oltp.invoice_line_discounts d on d.invoice_line_id = l.id where l.invoice_id = i.id) d
        cross join lateral (select coalesce(sum(t.amount) filter (where not t.inclusive), 0) as taxes
            from oltp.invoice_taxes t where t.invoice_id = i.id) t
        cross join lateral (select coalesce(sum(c.amount_captured), 0) as charged from oltp.invoice_payments p
            join oltp.charges c on c.id = p.charge_id where p.invoice_id = i.id and p.status = 'paid') p
        where i.subtotal <> lines or i.total <> lines - discounts + taxes or i.amount_remaining < 0
        or i.amount_remaining <> i.amount_due - i.amount_paid or i.amount_paid <> charged""") == 0
    assert all(row.debit == row.credit for row in ledger.trial_balance(desk.conn))
    for currency in ("eur", "jpy", "kwd"):
        net = desk.one("select coalesce(sum(net), 0) from oltp.balance_transactions where currency = %s", currency)
        assert net == sum(ledger.balance(desk.conn, ledger.account_name(kind, currency, desk.shop.account))
                          for kind in ("merchant_available", "merchant_pending"))
    assert desk.one("select count(*) from oltp.customers c where balance <> coalesce((select sum(amount)"
                    " from oltp.customer_balance_transactions t where t.customer_id = c.id), 0)") == 0
    assert desk.one("select count(*) - count(distinct number) from oltp.invoices where number is not null") == 0


@pytest.mark.parametrize(("start", "interval", "count", "expected"), [
    ("2024-01-31", "month", 1, ["2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"]),
    ("2023-01-31", "month", 1, ["2023-02-28", "2023-03-31"]),
    ("2023-12-30", "month", 1, ["2024-01-30", "2024-02-29", "2024-03-30"]),
    ("2023-11-30", "month", 3, ["2024-02-29", "2024-05-30", "2024-08-30"]),
    ("2024-02-29", "year", 1, ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
    ("2024-02-26", "week", 1, ["2024-03-04", "2024-03-11"]),
    ("2024-02-28", "day", 1, ["2024-02-29", "2024-03-01"]),
])
def test_periods_end_by_the_anchor_month_ends_and_leap_years_included(desk: Desk, start, interval, count, expected):
    done = desk.subscribe(Item(desk.price(500, interval, interval_count=count)), created=at(start))
    run(desk, at(expected[-1]))
    assert periods(desk, done.subscription_id) == [at(start), *map(at, expected)]
    ends = [row[0] for row in desk.conn.execute("select period_end from oltp.subscription_cycles order by 1")]
    assert ends[:-1] == list(map(at, expected))
    everything_holds(desk)


def test_a_renewal_asked_twice_bills_once(desk: Desk):
    done = desk.subscribe()
    for _ in range(2):
        billing.renew(desk.conn, subscription_id=done.subscription_id, until=at("2024-02-29"))
    assert len(periods(desk, done.subscription_id)) == 2
    key = Idempotency(desk.shop.ring, "r")
    first, again = (billing.renew(desk.conn, subscription_id=done.subscription_id, until=at("2024-03-31"),
                                  idempotency=key) for _ in range(2))
    assert (first.invoice_id, again.replayed) == (again.invoice_id, True)
    assert run(desk, at("2024-03-31")).total == 0


def test_a_period_is_billed_once_by_key(desk: Desk):
    done = desk.subscribe()
    with pytest.raises(psycopg.errors.UniqueViolation):
        desk.conn.execute("insert into oltp.subscription_cycles values (%s, %s, %s)",
                          [done.subscription_id, START, START + DAY])


def test_twenty_workers_make_one_invoice_a_period(desk: Desk):
    subscriptions = [desk.subscribe().subscription_id for _ in range(6)]
    runs: list[BillingRun] = []

    def work() -> None:
        with psycopg.connect(desk.shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            runs.append(run_billing(conn, at("2024-05-31")))

    workers = [threading.Thread(target=work) for _ in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(runs) == 20  # none died of another's work
    run(desk, at("2024-05-31"))
    for subscription in subscriptions:
        assert len(periods(desk, subscription)) == len(invoices_of(desk, subscription, "id")) == 5
    assert sum(done.total for done in runs) <= 24
    assert not any(done.failed for done in runs)
    everything_holds(desk)


KILLED = """
import datetime as dt, os, signal, sys
import psycopg
from stripe_platform.oltp.billing_run import run_billing
asked = []
def issuer(attempt):
    asked.append(attempt)
    if len(asked) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    run_billing(conn, dt.datetime.fromisoformat(sys.argv[2]), issuer=issuer)
"""


def test_a_run_that_is_killed_leaves_nothing_half_done_and_the_next_goes_on(desk: Desk):
    subscriptions = [desk.subscribe().subscription_id for _ in range(3)]
    until = at("2024-04-30")
    dead = subprocess.run([sys.executable, "-c", KILLED, desk.shop.settings.need("oltp_dsn"), until.isoformat()],
                          capture_output=True, text=True, timeout=120)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert sum(len(periods(desk, subscription)) for subscription in subscriptions) == 6
    everything_holds(desk)
    run(desk, until)
    assert [len(periods(desk, subscription)) for subscription in subscriptions] == [4, 4, 4]
    assert desk.one("select count(*) from oltp.charges") == 12
    everything_holds(desk)


def test_one_subscription_that_cannot_be_billed_does_not_stop_the_others(desk: Desk):
    bad, good = desk.subscribe(), desk.subscribe(Item(desk.price(700)), created=START + dt.timedelta(minutes=1))
    both_due = at("2024-02-29") + dt.timedelta(minutes=1)
    with psycopg.connect(desk.shop.settings.need("oltp_owner_dsn")) as owner:
        owner.execute("update oltp.prices set billing_scheme = 'tiered', tiers_mode = 'volume', unit_amount = null,"
                      " unit_amount_decimal = null where id = %s", [desk.monthly])
        owner.execute("insert into oltp.price_tiers (price_id, position, flat_amount_decimal) values (%s, 0, 'NaN')",
                      [desk.monthly])
    with pytest.raises(psycopg.Error):
        run(desk, both_due)
    desk.conn.execute("update oltp.price_tiers set flat_amount_decimal = 1000, up_to = null")
    desk.conn.execute("update oltp.accounts set charges_enabled = false")
    done = run(desk, both_due)
    assert set(done.failed) == {bad.subscription_id, good.subscription_id}
    assert all("may not take payments" in reason for reason in done.failed.values())
    desk.conn.execute("update oltp.accounts set charges_enabled = true")
    assert run(desk, both_due).paid == 2


def test_a_trial_bills_nothing_until_it_ends(desk: Desk):
    done = desk.subscribe(trial_days=14)
    assert (done.status, done.charge_id, desk.row("invoices", done.invoice_id)["total"]) == ("trialing", None, 0)
    run(desk, START + 13 * DAY)
    assert len(periods(desk, done.subscription_id)) == 1
    run(desk, START + 14 * DAY)
    assert desk.row("subscriptions", done.subscription_id)["status"] == "active"
    assert [row[0] for row in invoices_of(desk, done.subscription_id, "total")] == [0, 1000]
    assert desk.row("subscriptions", done.subscription_id)["billing_cycle_anchor"] == START + 14 * DAY


@pytest.mark.parametrize(("ends_in", "status"), [("pause", "paused"), ("cancel", "canceled"),
                                                 ("create_invoice", "past_due")])
def test_a_trial_without_payment_method_ends_as_it_was_told(desk: Desk, ends_in, status):
    done = desk.subscribe(trial_days=7, payment_method_id=None, trial_without_method=ends_in)
    run(desk, START + 7 * DAY)
    assert desk.row("subscriptions", done.subscription_id)["status"] == status
    if status == "paused":
        assert run(desk, at("2025-01-01")).total == 0
        again = billing.resume(desk.conn, subscription_id=done.subscription_id, payment_method_id=desk.shop.method,
                               created=at("2024-06-30"))
        assert (again.status, again.invoice_status) == ("active", "paid")
        run(desk, at("2024-07-30"))
        assert periods(desk, done.subscription_id)[-2:] == [at("2024-06-30"), at("2024-07-30")]


@pytest.mark.parametrize(("quantity", "graduated", "volume"), [
    (0, 0, 0), (1, 600, 600), (10, 1500, 1500), (11, 1550, 550), (25, 2250, 1250), (26, 2251, 26)])
def test_tiers_are_added_up_or_chosen_by_volume_and_rounded_once(desk: Desk, quantity, graduated, volume):
    tiers = [catalogue.Tier(10, 100, 500), catalogue.Tier(25, 50), catalogue.Tier(None, Decimal("0.99"))]
    for mode, expected in (("graduated", graduated), ("volume", volume)):
        price = catalogue.create_price(desk.conn, product_id=desk.product, currency="eur", interval="month",
                                       tiers=tiers, tiers_mode=mode)  # type: ignore[arg-type]
        done = desk.subscribe(Item(price, quantity))
        assert desk.row("invoices", done.invoice_id)["total"] == expected, mode


def test_fractions_of_a_minor_unit_are_rounded_half_up_once_a_line(desk: Desk):
    price = catalogue.create_price(desk.conn, product_id=desk.product, currency="eur", interval="month",
                                   unit_amount_decimal=Decimal("0.25"))
    made = [desk.subscribe(Item(price, quantity)).invoice_id for quantity in (1, 2, 3, 6)]
    assert [desk.row("invoices", invoice)["total"] for invoice in made] == [0, 1, 1, 2]


def test_taxes_contained_in_prices_do_not_raise_the_total_and_exempt_payers_pay_none(desk: Desk):
    done = desk.subscribe(tax_rate_ids=[desk.tax(20, inclusive=True), desk.tax(10)])
    row = desk.row("invoices", done.invoice_id)
    assert (row["subtotal"], row["tax"], row["total"]) == (1000, 167 + 83, 1083)
    desk.conn.execute("update oltp.customers set tax_exempt = 'reverse' where id = %s", [desk.shop.customer])
    run(desk, at("2024-02-29"))
    assert invoices_of(desk, done.subscription_id, "tax", "total")[-1] == (0, 1000)


def test_three_decimal_currencies_end_with_zero(desk: Desk):
    done = desk.subscribe(Item(desk.price(1230, currency="kwd"), 3), coupon_id=desk.coupon(percent_off=Decimal("33.3")),
                          tax_rate_ids=[desk.tax(Decimal("7.7"))])
    row = desk.row("invoices", done.invoice_id)
    assert all(row[name] % 10 == 0 for name in ("subtotal", "tax", "total", "amount_due"))
    everything_holds(desk)


@pytest.mark.parametrize(("coupon", "totals"), [
    ({"duration": "once", "percent_off": 50}, [500, 1000, 1000, 1000]),
    ({"duration": "repeating", "duration_in_months": 2, "percent_off": 50}, [500, 500, 1000, 1000]),
    ({"duration": "forever", "percent_off": 50}, [500, 500, 500, 500]),
    ({"duration": "once", "amount_off": 5000, "currency": "eur"}, [0, 1000, 1000, 1000]),
])
def test_coupons_last_once_for_months_or_forever(desk: Desk, coupon, totals):
    done = desk.subscribe(coupon_id=desk.coupon(**coupon), created=at("2024-01-15"))
    run(desk, at("2024-04-15"))
    assert [row[0] for row in invoices_of(desk, done.subscription_id, "total")] == totals
    everything_holds(desk)


def test_racing_callers_never_redeem_a_coupon_beyond_its_limit(desk: Desk):
    coupon = desk.coupon(percent_off=10, max_redemptions=3)
    payers = [write.create_customer(desk.conn, desk.shop.ring, name=None, email=None, country="FR", currency="eur")
              for _ in range(8)]
    refused: list[str | None] = []

    def redeem(payer: str) -> None:
        with psycopg.connect(desk.shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            try:
                billing.subscribe(conn, account_id=desk.shop.account, customer_id=payer, items=[Item(desk.monthly)],
                                  collection_method="send_invoice", days_until_due=9, coupon_id=coupon)
            except WriteError as error:
                refused.append(error.code)

    racers = [threading.Thread(target=redeem, args=[payer]) for payer in payers]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert refused == ["coupon_expired"] * 5
    assert desk.row("coupons", coupon)["times_redeemed"] == 3


def test_a_payers_discount_counts_where_the_subscription_has_none_of_its_own(desk: Desk):
    catalogue.give_discount(desk.conn, coupon_id=desk.coupon(percent_off=10), customer_id=desk.shop.customer,
                            created=START)
    own = desk.subscribe(coupon_id=desk.coupon(percent_off=50))
    plain = desk.subscribe()
    assert [desk.row("invoices", done.invoice_id)["total"] for done in (own, plain)] == [500, 900]


def item_of(desk: Desk, done: billing.Subscription) -> str:
    return str(desk.one("select id from oltp.subscription_items where subscription_id = %s and not deleted order by id"
                        " limit 1", done.subscription_id))


def change(desk: Desk, done: billing.Subscription, when: dt.datetime, *changes: Change, **more: Any):
    return billing.update(desk.conn, subscription_id=done.subscription_id, created=when,
                          changes=changes or [Change(item_of(desk, done), quantity=2)], **more)


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


def draft(desk: Desk, amount: int = 1000, **more: Any) -> invoices.Invoice:
    invoices.add_item(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=amount,
                      currency="eur")
    return invoices.create(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, currency="eur",
                           **more)


def test_an_invoice_by_hand_is_drafted_finalised_and_paid(desk: Desk):
    made = draft(desk, 1000, tax_rate_ids=[desk.tax(20)])
    opened = invoices.finalize(desk.conn, invoice_id=made.invoice_id)
    assert (made.status, opened.status) == ("draft", "open")
    declined = invoices.pay(desk.conn, invoice_id=made.invoice_id, payment_method_id=desk.shop.method,
                            declined="do_not_honor")
    assert declined.failure_code == "do_not_honor"
    assert desk.row("customers", desk.shop.customer)["delinquent"]
    key = Idempotency(desk.shop.ring, "pay")
    paid, again = (invoices.pay(desk.conn, invoice_id=made.invoice_id, payment_method_id=desk.shop.method,
                                idempotency=key) for _ in range(2))
    assert (paid.status, paid.charge_id, again.replayed) == ("paid", again.charge_id, True)
    assert desk.row("charges", paid.charge_id)["amount"] == 1200
    everything_holds(desk)


def test_a_deleted_draft_lets_its_items_wait_again(desk: Desk):
    first = draft(desk)
    invoices.delete(desk.conn, invoice_id=first.invoice_id)
    again = invoices.create(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, currency="eur")
    assert desk.row("invoices", again.invoice_id)["total"] == 1000


ACTS = {"finalize": invoices.finalize, "pay": invoices.pay, "void": invoices.void,
        "mark_uncollectible": invoices.mark_uncollectible, "delete": invoices.delete}
ALLOWED = {"draft": {"finalize", "pay", "delete"}, "open": {"pay", "void", "mark_uncollectible"},
           "uncollectible": {"pay", "void"}, "paid": set(), "void": set()}


@pytest.mark.parametrize("status", ALLOWED)
def test_what_an_invoice_may_not_do_is_refused_and_changes_nothing(desk: Desk, status: str):
    desk.conn.execute("update oltp.customers set default_payment_method_id = %s", [desk.shop.method])
    ways = {"draft": (), "open": ("finalize",), "paid": ("pay",), "void": ("finalize", "void"),
            "uncollectible": ("finalize", "mark_uncollectible")}
    made = draft(desk)
    for act in ways[status]:
        ACTS[act](desk.conn, invoice_id=made.invoice_id)
    for name, act_ in ACTS.items():
        if name not in ALLOWED[status]:
            with pytest.raises(WriteError, match=f"is {status}: it cannot"):
                act_(desk.conn, invoice_id=made.invoice_id)
    assert desk.row("invoices", made.invoice_id)["status"] == status


@pytest.mark.parametrize(("kind", "table"), [("subscription", "subscriptions"), ("invoice", "invoices"),
                                             ("credit_note", "credit_notes")])
def test_no_illegal_move_of_a_status_is_written_whoever_writes(desk: Desk, kind: str, table: str):
    done = desk.subscribe()
    note = invoices.credit(desk.conn, invoice_id=str(done.invoice_id), amount=1, credit_amount=1)
    key = {"subscription": done.subscription_id, "invoice": done.invoice_id, "credit_note": note.credit_note_id}[kind]
    refused = 0

    def move(start: str, target: str) -> None:
        with owner.transaction():
            owner.execute(f"alter table oltp.{table} disable trigger user")
            owner.execute(f"update oltp.{table} set status = %s where id = %s", [start, key])
            owner.execute(f"alter table oltp.{table} enable trigger user")
            owner.execute(f"update oltp.{table} set status = %s where id = %s", [target, key])

    with psycopg.connect(desk.shop.settings.need("oltp_owner_dsn")) as owner:
        owner.execute("set constraints all deferred")
        legal = set(owner.execute("select from_status, to_status from ops.status_moves where object_kind = %s", [kind]))
        text = owner.execute(
            "select string_agg(pg_get_constraintdef(oid), '') from pg_constraint where conrelid = %s::regclass"
            " and contype = 'c' and pg_get_constraintdef(oid) like '%%status%%'", [f"oltp.{table}"]).fetchone()
        statuses = sorted(set(re.findall("'([a-z_]+)'::text", text[0]))) if text else []
        for start in statuses:
            for target in statuses:
                if start == target or (start, target) in legal:
                    continue
                with pytest.raises(psycopg.errors.CheckViolation, match="cannot become"):
                    move(start, target)
                refused += 1
        owner.rollback()
    assert refused >= (1 if kind == "credit_note" else 10)


def test_what_a_subscription_may_not_do_is_refused(desk: Desk):
    done = desk.subscribe()
    billing.cancel(desk.conn, subscription_id=done.subscription_id)
    for act in (billing.cancel, billing.pause, billing.resume, billing.update):
        with pytest.raises(WriteError, match="is canceled: it cannot"):
            act(desk.conn, subscription_id=done.subscription_id)  # type: ignore[operator]
        with pytest.raises(WriteError, match="does not exist"):
            act(desk.conn, subscription_id="sub_none")  # type: ignore[operator]


def test_what_stripe_bills_is_not_billed_here(desk: Desk):
    desk.conn.execute("insert into oltp.subscriptions (id, account_id, customer_id, status, created) values"
                      " ('sub_theirs', %s, %s, 'active', %s)", [desk.shop.account, desk.shop.customer, START])
    assert run(desk, at("2030-01-01")).total == 0
    with pytest.raises(WriteError, match="billed by Stripe"):
        billing.cancel(desk.conn, subscription_id="sub_theirs")


@pytest.mark.parametrize(("more", "problem"), [
    ({"payment_method_id": None}, "no payment method"),
    ({"payment_method_id": "pm_none"}, "payment method pm_none does not exist"),
    ({"customer_id": "cus_none"}, "customer cus_none does not exist"),
    ({"account_id": "acct_none"}, "account acct_none does not exist"),
    ({"items": []}, "one to twenty items"),
    ({"items": [Item("price_none")]}, "no active price"),
    ({"collection_method": "send_invoice"}, "days_until_due"),
    ({"trial_days": -1}, "trial ends later"),
    ({"coupon_id": "none"}, "coupon none does not exist"),
    ({"tax_rate_ids": ["txr_none"]}, "tax rate is unknown"),
    ({"dunning_policy": "none"}, "dunning policy none does not exist"),
    ({"cancel_at": START}, "cancel_at lies ahead"),
])
def test_a_subscription_that_cannot_be_is_refused_in_a_sentence_and_writes_nothing(desk: Desk, more, problem):
    wish = {"account_id": desk.shop.account, "customer_id": desk.shop.customer, "items": [Item(desk.monthly)],
            "payment_method_id": desk.shop.method, "created": START, **more}
    with pytest.raises(WriteError, match=problem):
        billing.subscribe(desk.conn, **wish)
    assert desk.one("select count(*) from oltp.subscriptions") == 0
    assert desk.one("select count(*) from oltp.invoices") == 0


def test_items_of_one_subscription_share_currency_and_interval_and_differ_in_price(desk: Desk):
    for other in (desk.price(1, "year"), desk.price(1, currency="usd"), desk.monthly):
        with pytest.raises(WriteError, match=r"share currency|same price"):
            desk.subscribe(Item(desk.monthly), Item(other))
    once = catalogue.create_price(desk.conn, product_id=desk.product, currency="eur", unit_amount=1)
    with pytest.raises(WriteError, match="recurring and licensed"):
        desk.subscribe(Item(once))


@pytest.mark.parametrize("more", [
    {}, {"unit_amount": 1, "unit_amount_decimal": Decimal(1)},
    {"unit_amount": 1, "interval_count": 0, "interval": "day"},
    {"unit_amount": 1, "interval": "year", "interval_count": 4}, {"tiers_mode": "volume"},
    {"unit_amount": 1, "tiers": [catalogue.Tier(None, 1)], "tiers_mode": "volume"},
    {"tiers": [catalogue.Tier(5, 1)], "tiers_mode": "volume"},
    {"tiers": [catalogue.Tier(None)], "tiers_mode": "volume"},
    {"tiers": [catalogue.Tier(5, 1), catalogue.Tier(5, 1), catalogue.Tier(None, 1)], "tiers_mode": "graduated"},
    {"unit_amount": 1, "currency": "zzz"}, {"unit_amount": 11, "currency": "kwd"},
    {"unit_amount": 1, "product_id": "prod_none"}, {"unit_amount_decimal": Decimal(-1)},
])
def test_a_price_that_is_none_is_refused(desk: Desk, more):
    with pytest.raises(WriteError):
        catalogue.create_price(desk.conn, **{"product_id": desk.product, "currency": "eur", **more})
    assert desk.one("select count(*) from oltp.prices") == 1


@pytest.mark.parametrize("more", [
    {}, {"percent_off": 0}, {"percent_off": 101}, {"percent_off": 5, "amount_off": 5, "currency": "eur"},
    {"amount_off": 5}, {"amount_off": 5, "currency": "kwd"}, {"duration": "repeating", "percent_off": 5},
    {"duration": "once", "duration_in_months": 3, "percent_off": 5},
])
def test_a_coupon_that_is_none_is_refused(desk: Desk, more):
    with pytest.raises(WriteError):
        desk.coupon(**more)


def test_the_catalogues_keys_act_once(desk: Desk):
    key = Idempotency(desk.shop.ring, "cat")
    made = {catalogue.create_product(desk.conn, account_id=desk.shop.account, name="X", idempotency=key)
            for _ in range(2)}
    assert len(made) == 1
    with pytest.raises(WriteError, match="other parameters"):
        catalogue.create_product(desk.conn, account_id=desk.shop.account, name="Y", idempotency=key)
    catalogue.set_price_active(desk.conn, price_id=desk.monthly, active=False)
    with pytest.raises(WriteError, match="no active price"):
        desk.subscribe()
    with pytest.raises(WriteError, match="does not exist"):
        catalogue.set_product_active(desk.conn, product_id="prod_none", active=False)
    catalogue.set_product_active(desk.conn, product_id=made.pop(), active=False)


def test_a_credit_note_lowers_what_is_due_and_can_be_taken_back(desk: Desk):
    made = invoices.finalize(desk.conn, invoice_id=draft(desk).invoice_id)
    note = invoices.credit(desk.conn, invoice_id=made.invoice_id, amount=300, reason="order_change")
    assert (note.type, desk.row("invoices", made.invoice_id)["amount_remaining"]) == ("pre_payment", 700)
    invoices.void_credit_note(desk.conn, credit_note_id=note.credit_note_id)
    assert desk.row("invoices", made.invoice_id)["amount_remaining"] == 1000
    with pytest.raises(WriteError, match="cannot be voided"):
        invoices.void_credit_note(desk.conn, credit_note_id=note.credit_note_id)
    with pytest.raises(WriteError, match="exceeds what is left"):
        invoices.credit(desk.conn, invoice_id=made.invoice_id, amount=1001)
    with pytest.raises(WriteError, match="is not paid"):
        invoices.credit(desk.conn, invoice_id=made.invoice_id, amount=100, refund_amount=100)
    invoices.credit(desk.conn, invoice_id=made.invoice_id, amount=1000)
    assert desk.row("invoices", made.invoice_id)["status"] == "paid"
    invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=-600,
                            currency="eur")
    partly = invoices.finalize(desk.conn, invoice_id=draft(desk).invoice_id)
    with pytest.raises(WriteError, match="exceeds what is left"):
        invoices.credit(desk.conn, invoice_id=partly.invoice_id, amount=401)
    everything_holds(desk)


def test_a_credit_note_on_a_paid_invoice_refunds_credits_or_says_it_was_paid_elsewhere(desk: Desk):
    done = desk.subscribe(tax_rate_ids=[desk.tax(20)])
    note = invoices.credit(desk.conn, invoice_id=str(done.invoice_id), amount=700, refund_amount=300, credit_amount=250,
                           out_of_band_amount=150)
    assert note.type == "post_payment"
    assert desk.row("refunds", note.refund_id)["amount"] == 300
    assert desk.row("customers", desk.shop.customer)["balance"] == -250
    assert desk.row("credit_notes", note.credit_note_id)["subtotal"] == 700 - 117
    with pytest.raises(WriteError, match="exceeds what is left"):
        invoices.credit(desk.conn, invoice_id=str(done.invoice_id), amount=501, credit_amount=501)
    with pytest.raises(WriteError, match="add up to the credit note"):
        invoices.credit(desk.conn, invoice_id=str(done.invoice_id), amount=500, credit_amount=400)
    with pytest.raises(WriteError, match="cannot be voided"):
        invoices.void_credit_note(desk.conn, credit_note_id=note.credit_note_id)
    last = invoices.credit(desk.conn, invoice_id=str(done.invoice_id), amount=500, credit_amount=500)
    assert desk.one("select sum(subtotal) from oltp.credit_notes") == 1000
    assert last.refund_id is None
    everything_holds(desk)


def test_lines_are_credited_up_to_what_they_billed_with_their_tax(desk: Desk):
    done = desk.subscribe(Item(desk.price(999)), Item(desk.price(1001)), tax_rate_ids=[desk.tax(Decimal("19.6"))])
    lines = [row[0] for row in desk.conn.execute("select id from oltp.invoice_lines order by id")]
    with psycopg.connect(desk.shop.settings.need("oltp_owner_dsn")) as owner:
        gross = {line: owner.execute("select payments._gross_of(%s)", [line]).fetchone()[0] for line in lines}  # type: ignore[index]
    assert sum(gross.values()) == desk.row("invoices", done.invoice_id)["total"]
    with pytest.raises(WriteError, match="beyond what it billed"):
        invoices.credit(desk.conn, invoice_id=str(done.invoice_id), lines={lines[0]: gross[lines[0]] + 1},
                        credit_amount=gross[lines[0]] + 1)
    invoices.credit(desk.conn, invoice_id=str(done.invoice_id), lines=gross, credit_amount=sum(gross.values()))
    with pytest.raises(WriteError, match=r"beyond what it billed|exceeds"):
        invoices.credit(desk.conn, invoice_id=str(done.invoice_id), lines={lines[0]: 1}, credit_amount=1)
    everything_holds(desk)


def test_credit_pays_invoices_and_a_void_gives_it_back(desk: Desk):
    invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=-1500,
                            currency="eur")
    first = invoices.finalize(desk.conn, invoice_id=draft(desk).invoice_id)
    second = invoices.finalize(desk.conn, invoice_id=draft(desk).invoice_id)
    assert (first.status, desk.row("invoices", second.invoice_id)["amount_due"]) == ("paid", 500)
    ends = desk.conn.execute("select amount, ending_balance from oltp.customer_balance_transactions order by created")
    assert ends.fetchall() == [(-1500, -1500), (1000, -500), (500, 0)]
    invoices.void(desk.conn, invoice_id=second.invoice_id)
    assert desk.row("customers", desk.shop.customer)["balance"] == -500
    with pytest.raises(WriteError, match="use that currency"):
        invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=1,
                                currency="usd")
    everything_holds(desk)


def test_what_a_payer_owes_is_added_to_the_next_invoice(desk: Desk):
    invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=300,
                            currency="eur")
    done = desk.subscribe()
    assert desk.row("charges", done.charge_id)["amount"] == 1300
    everything_holds(desk)


@pytest.mark.parametrize("statement", [
    "update oltp.invoices set total = total + 1", "update oltp.invoices set subtotal = subtotal - 1",
    "update oltp.invoices set amount_paid = amount_paid - 1, amount_remaining = amount_remaining + 1",
    "update oltp.invoices set amount_due = amount_due + 1, amount_remaining = amount_remaining + 1",
    "update oltp.invoice_lines set amount = amount + 1", "update oltp.invoice_payments set amount_paid = 1",
    "insert into oltp.invoice_lines (id, invoice_id, amount) select 'il_x', id, 5 from oltp.invoices",
    "update oltp.customers set balance = 1",
    "update oltp.customer_balance_transactions set amount = amount - 1",
])
def test_nothing_is_written_that_does_not_add_up(desk: Desk, statement: str):
    invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer, amount=1,
                            currency="eur")
    desk.subscribe()
    with pytest.raises(psycopg.errors.RaiseException, match=r"does not add up|not the sum"):
        desk.conn.execute(statement)
    everything_holds(desk)


STEPS = ("subscribe", "trial", "run", "decline", "more", "less", "cancel", "credit", "adjust", "invoice", "pause")


@settings(max_examples=20, deadline=None, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 40)), min_size=3, max_size=12),
       percent=st.sampled_from([0, 20, Decimal("8.875")]), inclusive=st.booleans(), price=st.integers(1, 9999))
def test_whatever_is_billed_adds_up(desk: Desk, steps, percent, inclusive, price):
    now, made = START, []
    tax = [desk.tax(percent, inclusive)] if percent else []
    monthly = desk.price(price)
    for step, number in steps:
        now += dt.timedelta(days=number, hours=number)
        last = made[-1] if made else None
        try:
            match step:
                case "subscribe" | "trial":
                    made.append(desk.subscribe(
                        Item(monthly, number), created=now, tax_rate_ids=tax, trial_days=5 if step == "trial" else None,
                        coupon_id=desk.coupon("once", percent_off=15) if number % 3 == 0 else None))
                case "run" | "decline":
                    run(desk, now, "insufficient_funds" if step == "decline" else None)
                case ("more" | "less") if last:
                    change(desk, last, now, Change(item_of(desk, last), quantity=number if step == "more" else 0),
                           proration="always_invoice" if number % 2 else "create_prorations")
                case "cancel" if last:
                    billing.cancel(desk.conn, subscription_id=last.subscription_id, prorate=number % 2 == 0,
                                   created=now)
                case "credit" if last:
                    invoices.credit(desk.conn, invoice_id=str(last.invoice_id), amount=number, credit_amount=number,
                                    created=now)
                case "adjust":
                    invoices.adjust_balance(desk.conn, account_id=desk.shop.account, customer_id=desk.shop.customer,
                                            amount=number * 50 - 1000, currency="eur", created=now)
                case "invoice":
                    invoices.pay(desk.conn, invoice_id=draft(desk, number * 10 + 1).invoice_id,
                                 payment_method_id=desk.shop.method, created=now)
                case "pause" if last:
                    billing.pause(desk.conn, subscription_id=last.subscription_id, created=now,
                                  resumes_at=now + 45 * DAY)
        except WriteError:
            continue
    everything_holds(desk)
    assert desk.one("select count(*) from (select subscription_id, period_start from oltp.subscription_cycles"
                    " group by 1, 2 having count(*) > 1) t") == 0
