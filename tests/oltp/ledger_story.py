"""Books in which every kind of movement happened at least once, the earlier days closed and sealed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
from ledger_histories import Client, World, settle

from stripe_platform.oltp import books, payouts, transfers, write


def tell(conn: psycopg.Connection, world: World) -> None:
    """One merchant's story in euros and dollars; what belongs to earlier days comes first and is closed."""
    shop = next(m for m in world.merchants if m.currency == "eur")
    other = next(m for m in world.merchants if m.currency == "usd")
    now = dt.datetime.now(dt.UTC)
    conn.execute("update oltp.fee_policies set days_to_available = 0 where currency = 'eur'")

    def pay(amount: int, **more: Any) -> write.Payment:
        return write.create_payment(
            conn, account_id=shop.account, customer_id=shop.customer, payment_method_id=shop.method, amount=amount,
            currency=str(more.pop("currency", "eur")), **more)

    for days in (4, 3, 3):
        pay(50_000, created=now - dt.timedelta(days=days))
    books.close_books(conn, now.date() - dt.timedelta(days=1))

    first, second, third = (pay(20_000).charge_id for _ in range(3))
    pay(70_000)
    pay(30_000, currency="usd", settlement_currency="eur")
    pay(900, idempotency=Client(world, conn).key("story"))
    for status in ("succeeded", "pending"):
        write.create_refund(conn, charge_id=first, amount=4000, status=status)
    failed = write.create_refund(conn, charge_id=second, amount=500).refund_id
    write.set_refund_status(conn, refund_id=failed, status="failed", failure_reason="unknown")
    for charge, status in ((second, "won"), (third, "lost")):
        dispute = write.open_dispute(conn, charge_id=charge, amount=6000, currency="eur", reason="fraudulent")
        write.set_dispute_status(conn, dispute_id=dispute, status="under_review")
        write.set_dispute_status(conn, dispute_id=dispute, status=status)
    taken, left, waiting = (pay(8000, capture_method="manual").payment_intent_id for _ in range(3))
    write.capture_intent(conn, payment_intent_id=taken, amount=5000)
    write.cancel_intent(conn, payment_intent_id=left)
    assert waiting

    undone = payouts.create_payout(conn, account_id=shop.account, currency="eur", amount=1000)
    payouts.set_payout_status(conn, payout_id=undone.payout_id, status="paid")
    payouts.set_payout_status(conn, payout_id=undone.payout_id, status="failed")
    paid = payouts.pay_out_available(conn, account_id=shop.account, currency="eur")
    assert paid is not None
    payouts.set_payout_status(conn, payout_id=paid.payout_id, status="paid")
    last = pay(60_000)
    sent = transfers.transfer(conn, account_id=shop.account, destination_id=other.account, amount=700, currency="eur")
    transfers.reverse_transfer(conn, transfer_id=sent.id, amount=200)
    transfers.take_application_fee(conn, charge_id=last.charge_id, account_id=other.account, amount=300)
    held = transfers.hold_reserve(conn, account_id=shop.account, amount=400, currency="eur")
    transfers.release_reserve(conn, reserve_hold_id=held.id, amount=100)
    settle(conn)
