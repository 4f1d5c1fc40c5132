"""Edges of the books that random histories found: each once, by hand."""

from __future__ import annotations

import datetime as dt

import pytest
from oltp_shop import Shop

from stripe_platform.oltp import ledger, payouts, write

NOW = dt.datetime.now(dt.UTC)


def rates(shop: Shop) -> None:
    shop.copy("insert into oltp.exchange_rates (day, from_currency, to_currency, rate) values"
              " ('2026-01-01', 'huf', 'eur', 0.0025), ('2026-01-01', 'jpy', 'eur', 0.0061),"
              " ('2026-01-01', 'kwd', 'eur', 2.95), ('2026-01-01', 'eur', 'eur', 1)")


def one(shop: Shop, query: str):
    return (shop.conn.execute(query).fetchone() or [None])[0]


def test_a_refund_in_a_currency_of_three_decimals_ends_with_0(shop: Shop):
    rates(shop)
    charge = shop.pay(1000, "eur", settlement_currency="kwd").charge_id
    for amount in (333, 333, 334):
        write.create_refund(shop.conn, charge_id=charge, amount=amount)
    assert one(shop, "select count(*) from oltp.balance_transactions where amount % 10 <> 0 or net % 10 <> 0") == 0
    assert one(shop, "select sum(amount) from oltp.balance_transactions") == 0


def test_money_that_comes_late_does_not_wait_for_a_release_that_is_over(shop: Shop):
    ledger.release(shop.conn, NOW)
    late = shop.pay(1000, created=NOW - dt.timedelta(days=5))
    assert one(shop, "select status from oltp.balance_transactions") == "available"
    account = ledger.account_name("merchant_available", "eur", shop.account)
    assert ledger.balance(shop.conn, account) == one(shop, "select net from oltp.balance_transactions")
    write.create_refund(shop.conn, charge_id=late.charge_id)
    shop.pay(1000)
    assert one(shop, "select count(*) from oltp.balance_transactions where status = 'pending'") == 1


def test_a_movement_that_arrives_late_is_booked_as_available(shop: Shop):
    ledger.release(shop.conn, NOW)
    shop.conn.execute(
        "insert into oltp.balance_transactions (id, account_id, type, reporting_category, amount, fee, net, currency,"
        " status, available_on, created) values ('txn_late', %s, 'charge', 'charge', 100, 0, 100, 'eur', 'available',"
        " %s, %s)", [shop.account, NOW - dt.timedelta(days=3), NOW - dt.timedelta(days=5)])
    assert ledger.book(shop.conn, ["txn_late"]) == 1
    assert ledger.balance(shop.conn, ledger.account_name("merchant_available", "eur", shop.account)) == 100


def test_a_payment_that_is_nothing_in_the_settlement_currency_is_booked_in_its_own(shop: Shop):
    rates(shop)
    payment = shop.pay(1, "huf", settlement_currency="jpy")
    assert one(shop, "select amount + fee from oltp.balance_transactions") == 0
    assert ledger.balance(shop.conn, "network_receivable:huf") == 1
    refund = write.create_refund(shop.conn, charge_id=payment.charge_id)
    write.set_refund_status(shop.conn, refund_id=refund.refund_id, status="failed", failure_reason="unknown")
    assert ledger.balance(shop.conn, "refund_clearing:huf") == 0
    assert one(shop, "select count(*) from oltp.balance_transactions") == 3


def test_a_payout_by_hand_that_is_nothing_in_the_banks_currency_is_refused(shop: Shop):
    rates(shop)
    shop.conn.execute("update oltp.fee_policies set days_to_available = 0")
    shop.pay(10_000)
    with pytest.raises(write.WriteError, match="pay out more") as refused:
        payouts.create_payout(shop.conn, account_id=shop.account, currency="eur", amount=1, payout_currency="kwd")
    assert refused.value.code == "amount_too_small"
    assert one(shop, "select count(*) from oltp.payouts") == 0
