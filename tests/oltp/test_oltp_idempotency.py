"""Same key and parameters: the first answer, once. Other parameters: refused. Racing calls: one charge."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from oltp_shop import Shop

from stripe_platform.oltp import write
from stripe_platform.oltp.idempotency import forget_keys
from stripe_platform.oltp.write import Idempotency, WriteError

RACERS = 50


def count(shop: Shop, table: str) -> int:
    row = shop.conn.execute(f"select count(*) from oltp.{table}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


def keyed(shop: Shop, key: str = "one") -> Idempotency:
    return Idempotency(shop.ring, key)


def test_the_same_call_again_gives_the_first_answer_and_acts_once(shop: Shop):
    first = shop.pay(idempotency=keyed(shop))
    again = shop.pay(idempotency=keyed(shop))
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.payment_intent_id, again.charge_id, again.balance_transaction_id) == (
        first.payment_intent_id, first.charge_id, first.balance_transaction_id)
    assert [count(shop, t) for t in ("payment_intents", "charges", "balance_transactions", "ledger_entries")] == [1] * 4


def test_the_answer_is_that_of_then_whatever_became_of_the_object(shop: Shop):
    first = shop.pay(capture_method="manual", idempotency=keyed(shop))
    write.capture_intent(shop.conn, payment_intent_id=first.payment_intent_id)
    assert shop.pay(capture_method="manual", idempotency=keyed(shop)).status == "requires_capture"


def test_other_parameters_or_another_operation_are_refused(shop: Shop):
    payment = shop.pay(idempotency=keyed(shop))
    for call in (
        lambda: shop.pay(1001, idempotency=keyed(shop)),
        lambda: shop.pay(device_type="mobile", idempotency=keyed(shop)),
        lambda: write.create_refund(shop.conn, charge_id=payment.charge_id, idempotency=keyed(shop)),
    ):
        with pytest.raises(WriteError, match="use a new key") as refused:
            call()
        assert (refused.value.kind, refused.value.code) == ("idempotency_error", "idempotency_key_reused")
    assert (count(shop, "charges"), count(shop, "refunds")) == (1, 0)


def test_fifty_calls_at_once_make_one_charge(shop: Shop):
    start = threading.Barrier(RACERS)

    def pay(_: int) -> write.Payment:
        with psycopg.connect(shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            start.wait()
            return write.create_payment(
                conn, account_id=shop.account, customer_id=shop.customer, payment_method_id=shop.method, amount=1000,
                currency="eur", idempotency=keyed(shop))  # fmt: skip

    with ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(pay, range(RACERS)))
    assert sum(not answer.replayed for answer in answers) == 1
    assert len({answer.charge_id for answer in answers}) == 1
    assert [count(shop, t) for t in ("payment_intents", "charges", "balance_transactions", "ledger_entries")] == [1] * 4


@pytest.mark.parametrize("commits", [True, False])
def test_a_call_in_flight_is_waited_for(shop: Shop, commits: bool):
    second: list[write.Payment] = []
    with psycopg.connect(shop.settings.need("oltp_dsn")) as conn:
        conn.execute("select 1")  # a transaction of the caller's: the first call stays open
        first = write.create_payment(
            conn, account_id=shop.account, customer_id=shop.customer, payment_method_id=shop.method, amount=1000,
            currency="eur", idempotency=keyed(shop))  # fmt: skip
        racer = threading.Thread(target=lambda: second.append(shop.pay(idempotency=keyed(shop))))
        racer.start()
        time.sleep(0.3)
        assert not second, "the second call did not wait for the first"
        (conn.commit if commits else conn.rollback)()
        racer.join(30)
    assert second[0].replayed is commits
    assert (second[0].charge_id == first.charge_id) is commits
    assert count(shop, "charges") == 1


def test_a_decline_is_an_answer_and_is_repeated(shop: Shop):
    first = shop.pay(declined="insufficient_funds", idempotency=keyed(shop))
    again = shop.pay(declined="insufficient_funds", idempotency=keyed(shop))
    assert (again.charge_id, again.failure_code, again.replayed) == (first.charge_id, "insufficient_funds", True)
    error = again.error()
    assert error is not None
    assert (error.kind, error.code, error.decline_code) == ("card_error", "card_declined", "insufficient_funds")


def test_a_refusal_is_an_answer_even_when_it_would_be_allowed_by_now(shop: Shop):
    payment = shop.pay(1000)
    taken = write.create_refund(shop.conn, charge_id=payment.charge_id, status="pending")
    for _ in range(2):
        with pytest.raises(WriteError, match="exceeds what is left"):
            write.create_refund(shop.conn, charge_id=payment.charge_id, amount=10, idempotency=keyed(shop))
        if taken.status == "pending":
            write.set_refund_status(shop.conn, refund_id=taken.refund_id, status="failed", failure_reason="declined")
            taken = write.Refund(taken.refund_id, taken.charge_id, "failed")
    write.create_refund(shop.conn, charge_id=payment.charge_id, amount=10, idempotency=keyed(shop, "two"))


def test_what_failed_with_a_fault_left_no_key_and_may_be_repeated(shop: Shop):
    with pytest.raises(psycopg.errors.CheckViolation):
        shop.pay(risk_score=101, idempotency=keyed(shop))
    assert count(shop, "idempotency_keys") == 0
    assert not shop.pay(idempotency=keyed(shop)).replayed


def test_keys_of_two_merchants_do_not_meet(shop: Shop):
    with psycopg.connect(shop.settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        other = write.create_account(owner, name="Other", country="FR", currency="eur", mcc="5411")
    first = shop.pay(idempotency=keyed(shop))
    second = write.create_payment(
        shop.conn, account_id=other, customer_id=shop.customer, payment_method_id=shop.method, amount=1000,
        currency="eur", idempotency=keyed(shop))  # fmt: skip
    assert first.charge_id != second.charge_id


def test_a_key_lasts_a_day_then_it_may_be_used_again_or_goes(shop: Shop):
    first = shop.pay(idempotency=keyed(shop))
    shop.pay(idempotency=keyed(shop, "fresh"))
    span = shop.conn.execute("select distinct expires_at - created from oltp.idempotency_keys").fetchall()
    assert [s[0].total_seconds() for s in span] == [pytest.approx(86_400, abs=1)] * len(span)
    shop.conn.execute("update oltp.idempotency_keys set expires_at = clock_timestamp() where key = 'one'")
    assert shop.pay(idempotency=keyed(shop)).charge_id != first.charge_id
    shop.conn.execute("update oltp.idempotency_keys set expires_at = clock_timestamp() where key = 'one'")
    assert forget_keys(shop.conn) == 1
    assert count(shop, "idempotency_keys") == 1


def test_parameters_are_kept_as_a_keyed_digest_only(shop: Shop):
    shop.pay(idempotency=Idempotency(shop.ring, "one", request=b"POST /v1/charges amount=1000"))
    row = shop.conn.execute("select params_hash, answer from oltp.idempotency_keys").fetchone()
    assert row is not None
    assert len(row[0]) == 32
    assert row[0] != hashlib.sha256(b"POST /v1/charges amount=1000").digest()
    assert shop.customer not in row[1]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_1_to_255_bytes(shop: Shop, key: str):
    with pytest.raises(WriteError, match="1 to 255 bytes"):
        shop.pay(idempotency=keyed(shop, key))
