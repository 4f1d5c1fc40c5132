"""State machines, captures, refunds and disputes as the merchant's balance sees them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from fractions import Fraction

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oltp_shop import Shop

from stripe_platform.oltp import ledger, write
from stripe_platform.oltp.write import WriteError

EARLIER = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@pytest.fixture
def owner(shop: Shop) -> Iterator[psycopg.Connection]:
    with psycopg.connect(shop.settings.need("oltp_owner_dsn"), autocommit=True) as conn:
        yield conn


def one(shop: Shop, query: str, *values: object):
    row = shop.conn.execute(query, list(values)).fetchone()  # type: ignore[arg-type]
    return row[0] if row else None


def books(shop: Shop) -> dict[str, int]:
    """Balances that are not zero, merchants' accounts by kind alone."""
    rows = shop.conn.execute("select a.id, ledger.balance(a.id) from oltp.ledger_accounts a").fetchall()
    return {name.removesuffix(f":{shop.account}"): amount for name, amount in rows if amount}


def test_every_status_moves_only_as_the_table_says_whoever_writes(shop: Shop, owner: psycopg.Connection):
    statuses = {"payment_intents": "payment_intent", "refunds": "refund", "disputes": "dispute", "charges": "charge"}
    payment = shop.pay(1000)
    refund = write.create_refund(shop.conn, charge_id=payment.charge_id, amount=1)
    dispute = write.create_dispute(shop.conn, charge_id=payment.charge_id, amount=1, currency="eur", reason="general")
    ids = {"payment_intents": payment.payment_intent_id, "refunds": refund.refund_id, "disputes": dispute.dispute_id,
           "charges": payment.charge_id}  # fmt: skip
    moves = set(owner.execute("select object_kind, from_status, to_status from ops.status_moves").fetchall())
    tried = 0
    for table, kind in statuses.items():
        text = one(shop, "select pg_get_constraintdef(oid) from pg_constraint where conname = %s and conparentid = 0",
                   f"{table}_status_check")
        known = text.split("'")[1::2]
        now = one(shop, f"select status from oltp.{table} where id = %s", ids[table])
        for wish in known:
            if wish == now:
                continue
            tried += 1
            with shop.conn.transaction(force_rollback=True):
                if (kind, now, wish) in moves:
                    shop.conn.execute(f"update oltp.{table} set status = %s where id = %s", [wish, ids[table]])
                else:
                    with pytest.raises(psycopg.errors.CheckViolation) as refused, shop.conn.transaction():
                        shop.conn.execute(f"update oltp.{table} set status = %s where id = %s", [wish, ids[table]])
                    assert refused.value.diag.constraint_name == "status_must_move"
    assert tried > 15


def test_an_object_that_stripe_owns_follows_stripe_in_any_order(shop: Shop, owner: psycopg.Connection):
    payment = shop.pay(1000)
    owner.execute("insert into ingest.objects (digest, kind, source, state, payload_ciphertext, as_of, rank, subject)"
                  " values (decode(repeat('00', 32), 'hex'), 'payment_intent', 'x', 'normalised', '', 0, '', 'x')")
    owner.execute("insert into ingest.versions (kind, object_id, as_of, rank, digest) values"
                  " ('payment_intent', %s, 0, '', decode(repeat('00', 32), 'hex'))", [payment.payment_intent_id])
    shop.conn.execute("update oltp.payment_intents set status = 'requires_action' where id = %s",
                      [payment.payment_intent_id])


def test_a_capture_takes_part_and_releases_the_rest(shop: Shop):
    held = shop.pay(1000, capture_method="manual")
    assert (held.status, books(shop)) == ("requires_capture", {"authorized_receivable:eur": 1000,
                                                               "merchant_authorized:eur": 1000})
    with pytest.raises(WriteError, match="exceeds what is left"):
        write.create_refund(shop.conn, charge_id=held.charge_id, amount=1)
    with pytest.raises(WriteError, match="capture less") as refused:
        write.capture_intent(shop.conn, payment_intent_id=held.payment_intent_id, amount=1001)
    assert refused.value.code == "amount_too_large"
    write.capture_intent(shop.conn, payment_intent_id=held.payment_intent_id, amount=600)
    assert books(shop) == {"network_receivable:eur": 600, "merchant_pending:eur": 566, "fee_revenue:eur": 34}
    assert one(shop, "select amount_received from oltp.payment_intents") == 600
    with pytest.raises(WriteError, match="cannot be captured") as refused:
        write.capture_intent(shop.conn, payment_intent_id=held.payment_intent_id)
    assert refused.value.code == "payment_intent_unexpected_state"
    assert {r[0] for r in shop.conn.execute("select phase from oltp.ledger_entries")} == {"pending", "post", "single"}


def test_a_cancellation_releases_all_and_is_final(shop: Shop):
    held = shop.pay(1000, capture_method="manual")
    write.cancel_intent(shop.conn, payment_intent_id=held.payment_intent_id, reason="abandoned")
    assert books(shop) == {}
    assert one(shop, "select network_status from oltp.charge_outcomes") == "reversed_after_approval"
    for call in (write.capture_intent, write.cancel_intent, write.confirm_intent):
        with pytest.raises(WriteError, match="is canceled"):
            call(shop.conn, payment_intent_id=held.payment_intent_id)


def test_an_intent_goes_through_action_decline_and_success(shop: Shop):
    intent = write.create_intent(shop.conn, account_id=shop.account, customer_id=shop.customer, amount=1000,
                                 currency="eur").payment_intent_id  # fmt: skip
    with pytest.raises(WriteError, match="name one") as refused:
        write.confirm_intent(shop.conn, payment_intent_id=intent)
    assert (refused.value.code, refused.value.param) == ("parameter_missing", "payment_method")
    steps = [
        write.confirm_intent(shop.conn, payment_intent_id=intent, payment_method_id=shop.method, requires_action=True),
        write.confirm_intent(shop.conn, payment_intent_id=intent, declined="card_declined"),
        write.confirm_intent(shop.conn, payment_intent_id=intent),
    ]
    assert [s.status for s in steps] == ["requires_action", "requires_payment_method", "succeeded"]
    assert one(shop, "select array_agg(status order by created) from oltp.charges") == ["failed", "succeeded"]
    with pytest.raises(WriteError, match="is succeeded"):
        write.confirm_intent(shop.conn, payment_intent_id=intent)
    kept = one(shop, "select array_agg(to_status order by position) from oltp.status_history")
    assert kept == [s.status for s in steps]


def test_a_merchant_that_may_not_take_payments_takes_none(shop: Shop):
    shop.conn.execute("update oltp.accounts set charges_enabled = false")
    for account, code in ((shop.account, "account_invalid"), ("acct_9", "resource_missing")):
        with pytest.raises(WriteError, match=account) as refused:
            write.create_payment(shop.conn, account_id=account, customer_id=shop.customer,
                                 payment_method_id=shop.method, amount=1000, currency="eur")
        assert refused.value.code == code
    assert one(shop, "select count(*) from oltp.payment_intents") == 0


def test_a_failed_refund_gives_back_exactly_what_it_took(shop: Shop):
    payment = shop.pay(1000)
    before = books(shop)
    refund = write.create_refund(shop.conn, charge_id=payment.charge_id, amount=400, status="pending")
    assert one(shop, "select amount_refunded from oltp.charges") == 0
    with pytest.raises(WriteError, match="exceeds what is left"):  # what is under way is not there twice
        write.create_refund(shop.conn, charge_id=payment.charge_id, amount=601)
    write.set_refund_status(shop.conn, refund_id=refund.refund_id, status="succeeded")
    assert one(shop, "select amount_refunded from oltp.charges") == 400
    failed = write.set_refund_status(shop.conn, refund_id=refund.refund_id, status="failed", failure_reason="declined")
    assert one(shop, "select amount_refunded from oltp.charges") == 0
    assert books(shop) == before
    assert one(shop, "select failure_balance_transaction_id from oltp.refunds") == failed.balance_transaction_id
    with pytest.raises(WriteError, match="is failed"):
        write.set_refund_status(shop.conn, refund_id=refund.refund_id, status="succeeded")


FEE = 2000  # of a dispute in euro, as seeded


@pytest.mark.parametrize(("path", "taken"), [
    (["needs_response", "under_review", "won"], FEE), (["needs_response", "lost"], 1000 + FEE),
    (["needs_response", "prevented"], 0), (["prevented"], 0),
    (["warning_needs_response", "warning_under_review", "warning_closed"], 0),
    (["warning_needs_response", "needs_response", "won"], FEE),
    (["needs_response", "lost", "appeal_needs_response", "appeal_under_review", "won"], FEE),
    (["needs_response", "lost", "appeal_needs_response", "lost"], 1000 + FEE),
])  # fmt: skip
def test_a_dispute_takes_what_its_end_says(shop: Shop, path: list[str], taken: int):
    payment = shop.pay(1000)
    earned = books(shop)["merchant_pending:eur"]
    dispute = write.create_dispute(shop.conn, charge_id=payment.charge_id, amount=1000, currency="eur",
                                   reason="fraudulent", status=path[0])
    for status in path[1:]:
        write.set_dispute_status(shop.conn, dispute_id=dispute.dispute_id, status=status)
    after = books(shop)
    assert after.get("merchant_pending:eur", 0) == earned - taken
    assert "dispute_clearing:eur" not in after
    assert after.get("network_receivable:eur", 0) == (1000 if taken <= FEE else 0)


def test_the_fee_of_a_won_dispute_comes_back_where_the_policy_says_so(shop: Shop):
    shop.conn.execute("update oltp.fee_policies set returned_when_won = true where kind = 'dispute'")
    payment = shop.pay(1000)
    before = books(shop)
    dispute = write.create_dispute(shop.conn, charge_id=payment.charge_id, amount=1000, currency="eur",
                                   reason="general")
    write.set_dispute_status(shop.conn, dispute_id=dispute.dispute_id, status="won")
    assert books(shop) == before


def test_disputes_of_one_charge_never_question_more_than_was_captured(shop: Shop):
    charge = shop.pay(1000).charge_id

    def question(amount: int, status: str = "needs_response") -> str:
        return write.create_dispute(shop.conn, charge_id=charge, amount=amount, currency="eur", reason="general",
                                    status=status).dispute_id

    first, inquiry = question(600), question(300, "warning_needs_response")
    with pytest.raises(WriteError, match="leave 100 of its captured amount") as refused:
        question(101)
    assert refused.value.code == "amount_too_large"
    question(100)
    write.set_dispute_status(shop.conn, dispute_id=inquiry, status="warning_closed")
    write.set_dispute_status(shop.conn, dispute_id=first, status="lost")
    question(300)  # a closed inquiry questions nothing, a lost dispute keeps what it took
    with pytest.raises(WriteError, match="leave 0 of"):
        question(1)


def test_a_disputed_charge_is_not_refunded_meanwhile(shop: Shop):
    payment = shop.pay(1000)
    dispute = write.create_dispute(shop.conn, charge_id=payment.charge_id, amount=1000, currency="eur",
                                   reason="general")
    with pytest.raises(WriteError, match="answer the dispute") as refused:
        write.create_refund(shop.conn, charge_id=payment.charge_id, amount=1)
    assert refused.value.code == "charge_disputed"
    write.set_dispute_status(shop.conn, dispute_id=dispute.dispute_id, status="won")
    write.create_refund(shop.conn, charge_id=payment.charge_id, amount=1)


def test_an_exchanged_payment_meets_in_clearing_and_a_trade_clears_it(shop: Shop):
    shop.copy("insert into oltp.exchange_rates (day, from_currency, to_currency, rate) values"
              " ('2026-01-01', 'usd', 'eur', 0.92335)")
    payments = [shop.pay(amount, "usd", settlement_currency="eur") for amount in (1000, 333, 77)]
    converted = [923, 307, 71]
    assert [one(shop, "select amount from oltp.balance_transactions where source_id = %s", p.charge_id)
            for p in payments] == converted
    for part in (33, 300):
        write.create_refund(shop.conn, charge_id=payments[1].charge_id, amount=part)
    assert one(shop, "select sum(amount) from oltp.balance_transactions") == 923 + 71
    with pytest.raises(WriteError, match="check the proceeds"):
        ledger.trade(shop.conn, sold="usd", bought="eur", proceeds=900)
    ledger.trade(shop.conn, sold="usd", bought="eur", proceeds=995)
    after = books(shop)
    assert after["rounding:eur"] == -1
    assert not [name for name in after if name.startswith("fx_clearing")]
    assert all(t.debit == t.credit for t in ledger.trial_balance(shop.conn))


def test_networks_settle_and_clearing_goes_back_to_zero(shop: Shop):
    payment = shop.pay(1000, created=EARLIER)
    write.create_refund(shop.conn, charge_id=payment.charge_id, amount=400, created=EARLIER)
    assert ledger.open_clearing(shop.conn, dt.timedelta(hours=1)) == {"network_receivable:eur": 1000,
                                                                    "refund_clearing:eur": 400}
    until = dt.datetime.now(dt.UTC)
    assert ledger.settle_network(shop.conn, until) == 2
    assert ledger.settle_network(shop.conn, until) == 0
    assert ledger.open_clearing(shop.conn, dt.timedelta(hours=1)) == {}
    assert books(shop)["cash:eur"] == 600


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(amount=st.integers(1, 2**50), basis_points=st.integers(0, 10_000), fixed=st.integers(0, 10**6),
       multiple=st.sampled_from([1, 10]))
def test_a_fee_is_rounded_half_up_once(
    owner: psycopg.Connection, amount: int, basis_points: int, fixed: int, multiple: int
):
    amount -= amount % multiple
    row = owner.execute("select payments._fee(%s::bigint, row(true, %s, %s, %s, 2, 'epoch', true)::payments.terms)",
                        [amount, basis_points, fixed, multiple]).fetchone()
    exact = Fraction(amount * basis_points, 10_000 * multiple)
    assert row == (int(exact + Fraction(1, 2)) * multiple + fixed,)

