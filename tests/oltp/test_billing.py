"""Billing: subscriptions and what they cost. Every total is a sum of lines, every period is billed once."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
from decimal import Decimal

import psycopg
import pytest
from billing_desk import DAY, START, Desk, at, everything_holds, invoices_of, periods, run

from stripe_platform.oltp import billing, catalogue, write
from stripe_platform.oltp.billing import Item
from stripe_platform.oltp.billing_run import BillingRun, run_billing
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError


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
