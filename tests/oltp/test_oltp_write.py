"""The live write API: one function, one transaction, and no way to move more money than there is."""

from __future__ import annotations

import threading

import psycopg
import pytest
from oltp_shop import Shop

from stripe_platform.oltp import write
from stripe_platform.oltp.write import WriteError


def charge(shop: Shop, charge_id: str) -> dict:
    with shop.conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = cursor.execute("select * from oltp.charges where id = %s", [charge_id]).fetchone()
    assert row is not None
    return row


def test_a_payment_is_an_intent_a_charge_and_an_outcome_that_agree(shop: Shop):
    payment = shop.pay(1250, "kwd")
    row = charge(shop, payment.charge_id)
    assert (row["amount"], row["amount_captured"], row["currency"], row["status"]) == (1250, 1250, "kwd", "succeeded")
    outcome = shop.conn.execute(
        "select type from oltp.charge_outcomes where charge_id = %s", [payment.charge_id]).fetchone()
    assert outcome == ("authorized",)


def test_a_declined_payment_captures_nothing_and_says_why(shop: Shop):
    row = charge(shop, shop.pay(declined="insufficient_funds").charge_id)
    assert (row["status"], row["amount_captured"], row["failure_code"]) == ("failed", 0, "insufficient_funds")


def test_a_payment_that_fails_half_way_leaves_no_intent(shop: Shop):
    with pytest.raises(psycopg.errors.CheckViolation):
        shop.pay(risk_score=101)  # the outcome is the last of the three rows
    assert shop.conn.execute("select count(*) from oltp.payment_intents").fetchone() == (0,)


def test_a_refund_never_exceeds_the_captured_amount(shop: Shop):
    payment = shop.pay(1000)
    write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=600, currency="eur")
    with pytest.raises(WriteError, match="exceeds what is left"):
        write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=401, currency="eur")
    write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=400, currency="eur")
    assert charge(shop, payment.charge_id)["amount_refunded"] == 1000


def test_racing_refunds_never_give_back_more_than_was_captured(shop: Shop):
    payment = shop.pay(1000)
    refused: list[WriteError] = []

    def refund() -> None:
        with psycopg.connect(shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            try:
                write.refund_charge(conn, charge_id=payment.charge_id, amount=300, currency="eur")
            except WriteError as error:
                refused.append(error)

    racers = [threading.Thread(target=refund) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    given = shop.conn.execute("select sum(amount), count(*) from oltp.refunds").fetchone()
    assert given == (900, 3)
    assert len(refused) == 5
    assert charge(shop, payment.charge_id)["amount_refunded"] == 900


def test_a_refund_or_dispute_in_another_currency_is_refused(shop: Shop):
    payment = shop.pay(1000)
    with pytest.raises(WriteError, match="use the charge's currency"):
        write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=1, currency="usd")
    with pytest.raises(WriteError, match="use the charge's currency"):
        write.open_dispute(shop.conn, charge_id=payment.charge_id, amount=1, currency="usd", reason="fraudulent")
    assert not charge(shop, payment.charge_id)["disputed"]


def test_a_declined_charge_cannot_be_refunded(shop: Shop):
    payment = shop.pay(1000, declined="card_declined")
    with pytest.raises(WriteError, match="exceeds what is left"):
        write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=1, currency="eur")


def test_a_dispute_marks_its_charge_and_a_closed_one_does_not_move(shop: Shop):
    payment = shop.pay(1000)
    dispute = write.open_dispute(
        shop.conn, charge_id=payment.charge_id, amount=1000, currency="eur", reason="fraudulent")
    assert charge(shop, payment.charge_id)["disputed"]
    write.set_dispute_status(shop.conn, dispute_id=dispute, status="lost")
    with pytest.raises(WriteError, match="closed as lost"):
        write.set_dispute_status(shop.conn, dispute_id=dispute, status="won")


def test_what_names_no_charge_is_refused_in_one_sentence(shop: Shop):
    for call in (
        lambda: write.refund_charge(shop.conn, charge_id="ch_9", amount=1, currency="eur"),
        lambda: write.open_dispute(shop.conn, charge_id="ch_9", amount=1, currency="eur", reason="general"),
        lambda: write.record_early_fraud_warning(shop.conn, charge_id="ch_9", fraud_type="misc"),
    ):
        with pytest.raises(WriteError, match="ch_9: no such charge; check the id"):
            call()
    with pytest.raises(WriteError, match="dp_9 is unknown"):
        write.set_dispute_status(shop.conn, dispute_id="dp_9", status="won")


@pytest.mark.parametrize(
    ("amount", "currency"), [(-1, "eur"), (2**63, "eur"), (1001, "kwd"), (1.5, "eur"), (True, "eur")]
)
def test_an_amount_that_is_no_money_is_refused_before_sql(shop: Shop, amount: int, currency: str):
    with pytest.raises(WriteError):
        shop.pay(amount, currency)


def test_a_zero_amount_is_accepted_and_has_nothing_to_refund(shop: Shop):
    payment = shop.pay(0)
    with pytest.raises(WriteError, match="above zero"):
        write.refund_charge(shop.conn, charge_id=payment.charge_id, amount=0, currency="eur")


def test_an_early_fraud_warning_is_kept_and_leaves_the_charge_as_it_is(shop: Shop):
    payment = shop.pay()
    write.record_early_fraud_warning(shop.conn, charge_id=payment.charge_id, fraud_type="made_with_stolen_card")
    assert not charge(shop, payment.charge_id)["disputed"]
