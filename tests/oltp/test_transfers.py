"""Transfers, application fees, top-ups and reserves: two sides that agree, and no money that is not there."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oltp_shop import Shop

from stripe_platform.oltp import ledger, transfers, write
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.write import WriteError

SOON = dt.timedelta(days=3)
STEPS = ("pay", "transfer", "reverse", "fee", "unfee", "hold", "release", "topup")


@dataclass(frozen=True)
class Pair:
    """A shop with available money, and a connected account."""

    shop: Shop
    other: str

    @property
    def conn(self) -> psycopg.Connection:
        return self.shop.conn

    def has(self, account: str, kind: str = "merchant_available") -> int:
        return ledger.balance(self.conn, ledger.account_name(kind, "eur", account))

    def one(self, query: str, *values: object):
        row = self.conn.execute(query, values).fetchone()
        return row[0] if row else None

    def transfer(self, amount: int, **more: object) -> transfers.Movement:
        return transfers.transfer(self.conn, account_id=self.shop.account, destination_id=self.other, amount=amount,
                                  currency="eur", **more)  # type: ignore[arg-type]

    def holds(self) -> None:
        """Debits equal credits, movements carry their entries, clearing between accounts is zero, nets are balances."""
        assert all(row.debit == row.credit for row in ledger.trial_balance(self.conn))
        assert ledger.balance(self.conn, "transfer_clearing:eur") == 0
        assert ledger.balance(self.conn, "application_fee_clearing:eur") == 0
        assert self.one("select count(*) from oltp.balance_transactions where ledger_entry_id is null") == 0
        assert self.one("select count(*) from oltp.balance_transactions b where b.fee <> coalesce((select sum(amount)"
                        " from oltp.fee_details d where d.balance_transaction_id = b.id), 0)") == 0
        for account in (self.shop.account, self.other):
            net = self.one("select coalesce(sum(net), 0) from oltp.balance_transactions where account_id = %s", account)
            assert net == self.has(account) + self.has(account, "merchant_pending")


@pytest.fixture
def pair(shop: Shop) -> Pair:
    shop.conn.execute("update oltp.fee_policies set days_to_available = 0")
    shop.pay(100_000)
    shop.conn.execute("update oltp.fee_policies set days_to_available = 2")
    with psycopg.connect(shop.settings.need("oltp_owner_dsn"), autocommit=True) as owner:
        other = write.create_account(owner, name="Seller", country="FR", currency="eur", mcc="5411")
    return Pair(shop, other)


def test_a_transfer_takes_here_what_it_gives_there(pair: Pair):
    had = pair.has(pair.shop.account)
    done = pair.transfer(4000)
    assert (pair.has(pair.shop.account), pair.has(pair.other)) == (had - 4000, 4000)
    query = "select account_id, amount from oltp.balance_transactions where source_id = %s order by 2"
    sides = pair.conn.execute(query, [done.id]).fetchall()
    assert sides == [(pair.shop.account, -4000), (pair.other, 4000)]
    pair.holds()


def test_a_transfer_beyond_the_available_balance_is_refused(pair: Pair):
    with pytest.raises(WriteError, match="does not cover") as refused:
        pair.transfer(pair.has(pair.shop.account) + 1)
    assert refused.value.code == "balance_insufficient"
    ledger.allow_negative(pair.conn, account_id=pair.shop.account, currency="eur")
    pair.transfer(pair.has(pair.shop.account) + 1)
    pair.holds()


@pytest.mark.parametrize("amount", [0, -1])
def test_a_transfer_of_nothing_is_refused(pair: Pair, amount: int):
    with pytest.raises(WriteError, match="above zero"):
        pair.transfer(amount)


def test_a_transfer_to_oneself_or_to_nobody_is_refused(pair: Pair):
    for destination in (pair.shop.account, "acct_none"):
        with pytest.raises(WriteError):
            transfers.transfer(pair.conn, account_id=pair.shop.account, destination_id=destination, amount=1,
                               currency="eur")
    assert pair.one("select count(*) from oltp.transfers") == 0


def test_a_transfer_of_a_charge_waits_with_its_money_and_never_exceeds_it(pair: Pair):
    charge = pair.shop.pay(1000).charge_id
    pair.transfer(900, source_charge_id=charge)
    assert (pair.has(pair.other), pair.has(pair.other, "merchant_pending")) == (0, 900)
    with pytest.raises(WriteError, match="exceed what it brought"):
        pair.transfer(101, source_charge_id=charge)
    ledger.release(pair.conn, dt.datetime.now(dt.UTC) + SOON)
    assert pair.has(pair.other) == 900
    with pytest.raises(WriteError, match="brought no money"):
        transfers.transfer(pair.conn, account_id=pair.other, destination_id=pair.shop.account, amount=1, currency="eur",
                           source_charge_id=charge)
    pair.holds()


def test_a_transfer_is_reversed_in_parts_and_never_beyond(pair: Pair):
    had = pair.has(pair.shop.account)
    done = pair.transfer(1000)
    transfers.reverse_transfer(pair.conn, transfer_id=done.id, amount=300)
    with pytest.raises(WriteError, match="within what is left"):
        transfers.reverse_transfer(pair.conn, transfer_id=done.id, amount=701)
    transfers.reverse_transfer(pair.conn, transfer_id=done.id)
    with pytest.raises(WriteError, match="reversed in full"):
        transfers.reverse_transfer(pair.conn, transfer_id=done.id)
    assert (pair.has(pair.shop.account), pair.has(pair.other)) == (had, 0)
    assert pair.one("select sum(amount) from oltp.transfer_reversals") == 1000
    pair.holds()


def test_a_reversal_needs_the_money_of_the_destination(pair: Pair):
    done = pair.transfer(1000)
    transfers.transfer(pair.conn, account_id=pair.other, destination_id=pair.shop.account, amount=600, currency="eur")
    with pytest.raises(WriteError, match="does not cover"):
        transfers.reverse_transfer(pair.conn, transfer_id=done.id)
    transfers.reverse_transfer(pair.conn, transfer_id=done.id, amount=400)
    pair.holds()


def test_racing_reversals_never_give_back_more_than_was_transferred(pair: Pair):
    done = pair.transfer(1000)
    refused: list[str | None] = []

    def reverse() -> None:
        with psycopg.connect(pair.shop.settings.need("oltp_dsn"), autocommit=True) as conn:
            try:
                transfers.reverse_transfer(conn, transfer_id=done.id, amount=300)
            except WriteError as error:
                refused.append(error.code)

    racers = [threading.Thread(target=reverse) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert refused == ["amount_too_large"] * 5
    assert pair.one("select sum(amount) from oltp.transfer_reversals") == 900
    assert pair.has(pair.other) == 100
    pair.holds()


def test_the_same_key_transfers_once(pair: Pair):
    key = Idempotency(pair.shop.ring, "t1")
    first, again = (pair.transfer(100, idempotency=key) for _ in range(2))
    assert (first.id, again.replayed) == (again.id, True)
    with pytest.raises(WriteError, match="other parameters"):
        pair.transfer(101, idempotency=key)
    assert pair.one("select count(*) from oltp.transfers") == 1


def test_an_application_fee_is_the_merchants_fee_and_the_platforms_earning(pair: Pair):
    charge = pair.shop.pay(1000).charge_id
    before = pair.has(pair.shop.account, "merchant_pending")
    fee = transfers.take_application_fee(pair.conn, charge_id=charge, account_id=pair.other, amount=120)
    assert pair.has(pair.shop.account, "merchant_pending") == before - 120
    assert pair.has(pair.other, "merchant_pending") == 120
    row = pair.conn.execute("select amount, fee, net from oltp.balance_transactions where id = %s",
                            [fee.other_balance_transaction_id]).fetchone()
    assert row == (0, 120, -120)
    assert pair.one("select type from oltp.fee_details where balance_transaction_id = %s",
                    fee.other_balance_transaction_id) == "application_fee"
    assert pair.one("select application_fee_amount from oltp.charge_details where charge_id = %s", charge) == 120
    pair.holds()
    with pytest.raises(WriteError, match="has its application fee"):
        transfers.take_application_fee(pair.conn, charge_id=charge, account_id=pair.other, amount=1)


def test_an_application_fee_lies_within_its_charge(pair: Pair):
    charge = pair.shop.pay(1000).charge_id
    for amount in (0, 1001):
        with pytest.raises(WriteError, match="within what it brought"):
            transfers.take_application_fee(pair.conn, charge_id=charge, account_id=pair.other, amount=amount)
    with pytest.raises(WriteError, match="another account"):
        transfers.take_application_fee(pair.conn, charge_id=charge, account_id=pair.shop.account, amount=1)
    declined = pair.shop.pay(1000, declined="do_not_honor").charge_id
    with pytest.raises(WriteError, match="does not exist"):
        transfers.take_application_fee(pair.conn, charge_id=declined, account_id=pair.other, amount=1)


def test_an_application_fee_is_given_back_in_parts_and_never_beyond(pair: Pair):
    charge = pair.shop.pay(1000).charge_id
    before = pair.has(pair.shop.account, "merchant_pending")
    fee = transfers.take_application_fee(pair.conn, charge_id=charge, account_id=pair.other, amount=120)
    transfers.refund_application_fee(pair.conn, application_fee_id=fee.id, amount=50)
    with pytest.raises(WriteError, match="within what is left"):
        transfers.refund_application_fee(pair.conn, application_fee_id=fee.id, amount=71)
    transfers.refund_application_fee(pair.conn, application_fee_id=fee.id)
    assert pair.has(pair.shop.account, "merchant_pending") == before
    assert pair.has(pair.other, "merchant_pending") == 0
    pair.holds()


def test_a_topup_brings_money_when_it_succeeds_and_takes_it_back_exactly(pair: Pair):
    had = pair.has(pair.other)
    done = transfers.create_topup(pair.conn, account_id=pair.other, amount=5000, currency="eur")
    assert pair.has(pair.other) == had
    transfers.set_topup_status(pair.conn, topup_id=done.topup_id, status="succeeded")
    assert pair.has(pair.other) == had + 5000
    moved = transfers.transfer(pair.conn, account_id=pair.other, destination_id=pair.shop.account, amount=1,
                               currency="eur")
    with pytest.raises(WriteError, match="does not cover"):
        transfers.set_topup_status(pair.conn, topup_id=done.topup_id, status="reversed")
    transfers.reverse_transfer(pair.conn, transfer_id=moved.id)
    transfers.set_topup_status(pair.conn, topup_id=done.topup_id, status="reversed")
    assert pair.has(pair.other) == had
    pair.holds()


def test_no_illegal_move_of_a_topup_is_made(pair: Pair):
    statuses = ("pending", "succeeded", "failed", "canceled", "reversed")
    with psycopg.connect(pair.shop.settings.need("oltp_owner_dsn")) as owner:
        legal = set(owner.execute("select from_status, to_status from ops.status_moves where object_kind = 'topup'"))
    ways = {"pending": [], "reversed": ["succeeded", "reversed"]}
    for start in statuses:
        for target in statuses:
            if (start, target) in legal:
                continue
            done = transfers.create_topup(pair.conn, account_id=pair.other, amount=10, currency="eur").topup_id
            for status in ways.get(start, [start]):
                transfers.set_topup_status(pair.conn, topup_id=done, status=status)  # type: ignore[arg-type]
            with pytest.raises(WriteError, match=f"is {start}: it cannot become {target}"):
                transfers.set_topup_status(pair.conn, topup_id=done, status=target)  # type: ignore[arg-type]


def test_a_reserve_holds_available_money_and_lets_it_go_in_parts(pair: Pair):
    had = pair.has(pair.shop.account)
    hold = transfers.hold_reserve(pair.conn, account_id=pair.shop.account, amount=1000, currency="eur")
    assert (pair.has(pair.shop.account), pair.has(pair.shop.account, "merchant_reserve")) == (had - 1000, 1000)
    transfers.release_reserve(pair.conn, reserve_hold_id=hold.id, amount=400)
    with pytest.raises(WriteError, match="within what is left"):
        transfers.release_reserve(pair.conn, reserve_hold_id=hold.id, amount=601)
    transfers.release_reserve(pair.conn, reserve_hold_id=hold.id)
    with pytest.raises(WriteError, match="released in full"):
        transfers.release_reserve(pair.conn, reserve_hold_id=hold.id)
    assert (pair.has(pair.shop.account), pair.has(pair.shop.account, "merchant_reserve")) == (had, 0)
    with pytest.raises(WriteError, match="does not cover"):
        transfers.hold_reserve(pair.conn, account_id=pair.shop.account, amount=had + 1, currency="eur")
    pair.holds()


def test_reserves_are_let_go_when_they_are_due_and_once(pair: Pair):
    now = dt.datetime.now(dt.UTC)
    for days in (1, 5):
        transfers.hold_reserve(pair.conn, account_id=pair.shop.account, amount=100, currency="eur",
                               release_after=now + dt.timedelta(days=days))
    assert transfers.release_due_reserves(pair.conn, now) == 0
    assert transfers.release_due_reserves(pair.conn, now + SOON) == 1
    assert transfers.release_due_reserves(pair.conn, now + SOON) == 0
    assert pair.has(pair.shop.account, "merchant_reserve") == 100


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 60_000)), max_size=12))
def test_whatever_moves_both_sides_agree_and_nets_are_balances(pair: Pair, steps: list[tuple[str, int]]):
    moved: dict[str, list[str]] = {"pay": [], "transfer": [], "fee": [], "hold": []}
    for step, amount in steps:
        try:
            match step:
                case "pay":
                    moved["pay"].append(pair.shop.pay(amount).charge_id)
                case "transfer":
                    moved["transfer"].append(pair.transfer(amount).id)
                case "reverse" if moved["transfer"]:
                    transfers.reverse_transfer(pair.conn, transfer_id=moved["transfer"][-1], amount=amount)
                case "fee" if moved["pay"]:
                    moved["fee"].append(transfers.take_application_fee(
                        pair.conn, charge_id=moved["pay"][-1], account_id=pair.other, amount=amount).id)
                case "unfee" if moved["fee"]:
                    transfers.refund_application_fee(pair.conn, application_fee_id=moved["fee"][-1], amount=amount)
                case "hold":
                    moved["hold"].append(transfers.hold_reserve(
                        pair.conn, account_id=pair.shop.account, amount=amount, currency="eur").id)
                case "release" if moved["hold"]:
                    transfers.release_reserve(pair.conn, reserve_hold_id=moved["hold"][-1], amount=amount)
                case "topup":
                    done = transfers.create_topup(pair.conn, account_id=pair.other, amount=amount, currency="eur")
                    transfers.set_topup_status(pair.conn, topup_id=done.topup_id, status="succeeded")
        except WriteError:
            continue
    pair.holds()
    assert min(pair.has(pair.shop.account), pair.has(pair.other)) >= 0
