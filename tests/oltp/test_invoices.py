"""Invoices by hand, their moves, credit notes and a payer's balance; whatever is billed adds up."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

import psycopg
import pytest
from billing_desk import DAY, START, Desk, change, draft, everything_holds, item_of, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stripe_platform.oltp import billing, invoices
from stripe_platform.oltp.billing import Change, Item
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError


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
