"""Random concurrent histories of merchants' money, through the write API.

A history is a list of steps per client; a step is an operation and a number from which all its choices follow. The
clients of a history run side by side on connections of their own and share its charges, refunds, disputes and payouts.
"""

from __future__ import annotations

import datetime as dt
import math
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from stripe_platform.keyring import Keyring
from stripe_platform.money import exponent
from stripe_platform.oltp import ledger, payouts, transfers, write
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.reference import seed_reference

Step = tuple[str, int]
CLIENTS = 3
CURRENCIES = ("eur", "usd", "jpy", "kwd", "huf")
AT_ONCE = ("usd", "jpy", "huf")  # currencies whose money is available at once; the others wait two days
RATES = {"eur": "1", "usd": "0.92", "jpy": "0.0061", "kwd": "2.95", "huf": "0.0025"}
NEXT = {
    "refund": ("pending", "requires_action", "succeeded", "failed", "canceled"),
    "dispute": ("under_review", "won", "lost", "prevented", "needs_response", "warning_under_review", "warning_closed",
                "charge_refunded", "appeal_needs_response", "appeal_under_review"),
    "payout": ("in_transit", "paid", "failed", "canceled"),
    "topup": ("succeeded", "succeeded", "failed", "canceled", "reversed"),
}  # fmt: skip


@dataclass(frozen=True)
class Merchant:
    account: str
    customer: str
    method: str
    currency: str


@dataclass
class Shared:
    """What the clients of one history see of each other: ids, and the calls that all of them send under one key."""

    name: str
    charges: list[tuple[str, Merchant, str]] = field(default_factory=list)
    intents: list[tuple[str, Merchant, str]] = field(default_factory=list)
    refunds: list[str] = field(default_factory=list)
    disputes: list[str] = field(default_factory=list)
    payouts: list[str] = field(default_factory=list)
    transfers: list[str] = field(default_factory=list)
    fees: list[str] = field(default_factory=list)
    topups: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    done: int = 0
    refused: int = 0


@dataclass(frozen=True)
class World:
    """Merchants of one database."""

    dsn: str
    ring: Keyring
    merchants: tuple[Merchant, ...]


def make_world(conn: psycopg.Connection, owner: psycopg.Connection, dsn: str, ring: Keyring) -> World:
    """Reference rows, rates, and a merchant for each currency; what is a copy is written by the owner."""
    seed_reference(owner)
    conn.execute("update oltp.fee_policies set days_to_available = 0 where currency = any(%s)", [list(AT_ONCE)])
    for currency, rate in RATES.items():
        owner.execute("insert into oltp.exchange_rates (day, from_currency, to_currency, rate) values"
                      " ('2026-01-01', %s, 'eur', %s::numeric)", [currency, rate])
    merchants = []
    for currency in CURRENCIES:
        account = write.create_account(owner, name="Shop", country="FR", currency=currency, mcc="5411")
        customer = write.create_customer(conn, ring, name="Ada", email="a@mail.example", country="FR",
                                         currency=currency)
        method = write.create_payment_method(conn, customer_id=customer, brand="visa", last4="4242", exp_month=1,
                                             exp_year=2030, funding="credit", country="FR")
        merchants.append(Merchant(account, customer, method, currency))
    return World(dsn, ring, tuple(merchants))


class Client:
    """One connection that makes steps. What the rules refuse is an answer; any other error is a violation."""

    def __init__(self, world: World, conn: psycopg.Connection) -> None:
        self.world, self.conn = world, conn

    def make(self, steps: Iterable[Step], shared: Shared) -> None:
        for name, number in steps:
            try:
                OPERATIONS[name](self, random.Random(number), shared)  # noqa: S311 - replayable, not secret
                shared.done += 1
            except (write.WriteError, psycopg.errors.LockNotAvailable):
                shared.refused += 1
            except psycopg.Error as error:
                shared.violations.append(f"{shared.name}: {name} {number} ended in {type(error).__name__}: {error}")

    def key(self, name: str) -> Idempotency:
        return Idempotency(self.world.ring, name)


def _amount(dice: random.Random, currency: str, magnitude: float = 12) -> int:
    """From one unit up, small and large ones alike; `magnitude` bounds its natural logarithm."""
    unit = 10 if exponent(currency) == 3 else 1
    return max(1, int(math.exp(dice.uniform(0, magnitude)))) * unit


def _pick(dice: random.Random, found: Sequence[Any]) -> Any:
    if not found:
        raise write.WriteError("nothing there yet", code="nothing_there")
    return found[dice.randrange(len(found))]


def _one_of(kind: str, client: Client, dice: random.Random, shared: Shared) -> Any:
    """An object of the history; where it has none yet, this step makes one first."""
    if not getattr(shared, kind):
        MAKERS[kind](client, dice, shared)
    return _pick(dice, getattr(shared, kind))


def _past(dice: random.Random) -> dt.datetime | None:
    """Now, mostly; else up to four days ago: money that is late, and may meet books that are closed."""
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=dice.uniform(0, 4)) if dice.random() < 0.3 else None


def _pay(client: Client, dice: random.Random, shared: Shared) -> None:
    seller = _pick(dice, client.world.merchants)
    currency = dice.choice((seller.currency, seller.currency, *CURRENCIES))
    manual = dice.random() < 0.25
    done = write.create_payment(
        client.conn, account_id=seller.account, customer_id=seller.customer, payment_method_id=seller.method,
        amount=_amount(dice, currency), currency=currency, settlement_currency=seller.currency,
        capture_method="manual" if manual else "automatic", created=_past(dice),
        declined="card_declined" if dice.random() < 0.1 else None)  # fmt: skip
    if done.status == "requires_capture":
        shared.intents.append((done.payment_intent_id, seller, currency))
    elif done.status == "succeeded":
        shared.charges.append((done.charge_id, seller, currency))


def _intend(client: Client, dice: random.Random, shared: Shared) -> None:
    seller = _pick(dice, client.world.merchants)
    done = write.create_intent(
        client.conn, account_id=seller.account, customer_id=seller.customer,
        payment_method_id=seller.method if dice.random() < 0.8 else None, amount=_amount(dice, seller.currency),
        currency=seller.currency, capture_method=dice.choice(("automatic", "manual")))  # fmt: skip
    shared.intents.append((done.payment_intent_id, seller, seller.currency))


def _confirm(client: Client, dice: random.Random, shared: Shared) -> None:
    intent, seller, currency = _one_of("intents", client, dice, shared)
    done = write.confirm_intent(
        client.conn, payment_intent_id=intent, payment_method_id=seller.method, requires_action=dice.random() < 0.2,
        declined="expired_card" if dice.random() < 0.2 else None, settlement_currency=seller.currency)  # fmt: skip
    if done.status == "succeeded":
        shared.charges.append((done.charge_id, seller, currency))


def _capture(client: Client, dice: random.Random, shared: Shared) -> None:
    intent, seller, currency = _one_of("intents", client, dice, shared)
    part = _amount(dice, currency) if dice.random() < 0.6 else None
    done = write.capture_intent(client.conn, payment_intent_id=intent, amount=part,
                                settlement_currency=seller.currency)
    shared.charges.append((done.charge_id, seller, currency))


def _cancel(client: Client, dice: random.Random, shared: Shared) -> None:
    write.cancel_intent(client.conn, payment_intent_id=_one_of("intents", client, dice, shared)[0])


def _refund(client: Client, dice: random.Random, shared: Shared) -> None:
    charge, _, currency = _one_of("charges", client, dice, shared)
    done = write.create_refund(
        client.conn, charge_id=charge, amount=_amount(dice, currency, 8) if dice.random() < 0.7 else None,
        currency=currency, status=dice.choice(("succeeded", "succeeded", "pending", "requires_action")))  # fmt: skip
    shared.refunds.append(done.refund_id)


def _dispute(client: Client, dice: random.Random, shared: Shared) -> None:
    charge, _, currency = _one_of("charges", client, dice, shared)
    done = write.create_dispute(
        client.conn, charge_id=charge, amount=_amount(dice, currency, 8), currency=currency, reason="fraudulent",
        status=dice.choice(("needs_response", "needs_response", "warning_needs_response", "prevented")))  # fmt: skip
    shared.disputes.append(done.dispute_id)


def _pay_out(client: Client, dice: random.Random, shared: Shared) -> None:
    seller = _pick(dice, client.world.merchants)
    abroad = dice.choice(CURRENCIES) if dice.random() < 0.2 else None
    if dice.random() < 0.6:
        done = payouts.pay_out_available(client.conn, account_id=seller.account, currency=seller.currency,
                                         payout_currency=abroad)
    else:
        done = payouts.create_payout(client.conn, account_id=seller.account, currency=seller.currency,
                                     amount=_amount(dice, seller.currency, 7) * 100, payout_currency=abroad)
    if done is not None:
        shared.payouts.append(done.payout_id)


def _transfer(client: Client, dice: random.Random, shared: Shared) -> None:
    giver, taker = dice.sample(client.world.merchants, 2)
    source, currency = None, giver.currency
    if dice.random() < 0.5:
        source, giver, _ = _one_of("charges", client, dice, shared)
        currency = giver.currency
    done = transfers.transfer(client.conn, account_id=giver.account, destination_id=taker.account,
                                     amount=_amount(dice, currency, 8), currency=currency, source_charge_id=source)
    shared.transfers.append(done.id)


def _reverse_transfer(client: Client, dice: random.Random, shared: Shared) -> None:
    transfers.reverse_transfer(client.conn, transfer_id=_one_of("transfers", client, dice, shared),
                               amount=None if dice.random() < 0.5 else 10 * dice.randint(1, 50))


def _application_fee(client: Client, dice: random.Random, shared: Shared) -> None:
    charge, seller, _ = _one_of("charges", client, dice, shared)
    platform = _pick(dice, [m for m in client.world.merchants if m is not seller])
    done = transfers.take_application_fee(client.conn, charge_id=charge, account_id=platform.account,
                                          amount=_amount(dice, seller.currency, 7))
    shared.fees.append(done.id)


def _refund_fee(client: Client, dice: random.Random, shared: Shared) -> None:
    transfers.refund_application_fee(client.conn, application_fee_id=_one_of("fees", client, dice, shared),
                                     amount=None if dice.random() < 0.5 else 10 * dice.randint(1, 50))


def _top_up(client: Client, dice: random.Random, shared: Shared) -> None:
    seller = _pick(dice, client.world.merchants)
    done = transfers.create_topup(client.conn, account_id=seller.account, currency=seller.currency,
                                  amount=_amount(dice, seller.currency))
    shared.topups.append(done.topup_id)


def _hold(client: Client, dice: random.Random, shared: Shared) -> None:
    seller = _pick(dice, client.world.merchants)
    done = transfers.hold_reserve(client.conn, account_id=seller.account, amount=_amount(dice, seller.currency, 7),
                                  currency=seller.currency)
    shared.holds.append(done.id)


def _let_go(client: Client, dice: random.Random, shared: Shared) -> None:
    transfers.release_reserve(client.conn, reserve_hold_id=_one_of("holds", client, dice, shared),
                              amount=None if dice.random() < 0.5 else 10 * dice.randint(1, 50))


def _move(kind: str, client: Client, dice: random.Random, shared: Shared) -> None:
    target: Any = dice.choice(NEXT[kind])
    if kind == "refund":
        write.set_refund_status(client.conn, refund_id=_one_of("refunds", client, dice, shared), status=target,
                                failure_reason="unknown" if target == "failed" else None)
    elif kind == "dispute":
        write.set_dispute_status(client.conn, dispute_id=_one_of("disputes", client, dice, shared), status=target)
    elif kind == "payout":
        payouts.set_payout_status(client.conn, payout_id=_one_of("payouts", client, dice, shared), status=target)
    else:
        transfers.set_topup_status(client.conn, topup_id=_one_of("topups", client, dice, shared), status=target)


def _repeat(client: Client, dice: random.Random, shared: Shared) -> None:
    """One of the calls that every client may send under the same key: all get the same answer, one payment is made."""
    name = f"{shared.name} {dice.randrange(2)}"
    parameters = random.Random(name)  # noqa: S311
    seller = _pick(parameters, client.world.merchants)
    amount = _amount(parameters, seller.currency)
    pay = partial(write.create_payment, client.conn, account_id=seller.account, customer_id=seller.customer,
                  payment_method_id=seller.method, currency=seller.currency, idempotency=client.key(name))
    if dice.random() < 0.3 and name in shared.answers:
        try:
            pay(amount=amount + 10)
        except write.WriteError as error:
            if error.code == "idempotency_key_reused":
                raise
        shared.violations.append(f"{shared.name}: key {name} took other parameters")
        return
    done = pay(amount=amount)
    if shared.answers.setdefault(name, done.payment_intent_id) != done.payment_intent_id:
        shared.violations.append(f"{shared.name}: key {name} made two payments")


def _keep(client: Client, dice: random.Random, shared: Shared) -> None:
    """What the platform does beside its merchants: releases, settlements, trades, and books that close."""
    now = dt.datetime.now(dt.UTC)
    what = dice.randrange(6)
    if what < 2:
        ledger.release(client.conn, now)
    elif what == 2:
        ledger.settle_network(client.conn, now)
    elif what == 3:
        ledger.close(client.conn, now - dt.timedelta(days=dice.uniform(1, 4)))
    else:
        sold, bought = dice.sample(CURRENCIES, 2)
        promised = ledger.balance(client.conn, f"fx_clearing:{bought}:{sold}")
        if promised:
            ledger.trade(client.conn, sold=sold, bought=bought, proceeds=promised + dice.choice((-1, 0, 0, 1)))


OPERATIONS: dict[str, Callable[[Client, random.Random, Shared], None]] = {
    "pay": _pay, "intend": _intend, "confirm": _confirm, "capture": _capture, "cancel": _cancel, "refund": _refund,
    "move_refund": partial(_move, "refund"), "dispute": _dispute, "move_dispute": partial(_move, "dispute"),
    "pay_out": _pay_out, "move_payout": partial(_move, "payout"), "transfer": _transfer,
    "reverse_transfer": _reverse_transfer, "application_fee": _application_fee, "refund_fee": _refund_fee,
    "top_up": _top_up, "move_topup": partial(_move, "topup"), "hold": _hold, "let_go": _let_go, "repeat": _repeat,
    "keep": _keep,
}  # fmt: skip
MAKERS = {"charges": _pay, "intents": _intend, "refunds": _refund, "disputes": _dispute, "payouts": _pay_out,
          "transfers": _transfer, "fees": _application_fee, "topups": _top_up, "holds": _hold}
WEIGHTS = {"pay": 6, "refund": 5, "move_refund": 4, "dispute": 4, "move_dispute": 6, "capture": 3, "pay_out": 3,
           "move_payout": 4, "repeat": 3, "keep": 1}  # fmt: skip


def steps_of(seed: str, length: int) -> list[Step]:
    """A client's part of a history, from its seed alone."""
    dice = random.Random(seed)  # noqa: S311
    weights = [WEIGHTS.get(name, 2) for name in OPERATIONS]
    return [(name, dice.getrandbits(40)) for name in dice.choices(list(OPERATIONS), weights, k=length)]


class Histories:
    """Runs histories on a database, their clients side by side."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.local = threading.local()
        self.opened: list[psycopg.Connection] = []
        self.pool = ThreadPoolExecutor(CLIENTS)

    def __enter__(self) -> Histories:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        for conn in self.opened:
            conn.close()

    def run(self, name: str, parts: Sequence[Sequence[Step]], first: Sequence[Step] = ()) -> Shared:
        """One history: `first` alone, then every part at once."""
        shared = Shared(name)
        self._make(list(first), shared)
        for made in [self.pool.submit(self._make, part, shared) for part in parts]:
            made.result()
        return shared

    def run_seed(self, seed: str, length: int = 4) -> Shared:
        """The history of a seed: a few payments, then three clients with `length` steps each."""
        first = [("pay", number) for _, number in steps_of(f"{seed} first", 2)]
        return self.run(seed, [steps_of(f"{seed} {client}", length) for client in range(CLIENTS)], first)

    def _make(self, steps: Sequence[Step], shared: Shared) -> None:
        if not hasattr(self.local, "client"):
            conn = psycopg.connect(self.world.dsn, autocommit=True)
            self.opened.append(conn)
            self.local.client = Client(self.world, conn)
        self.local.client.make(steps, shared)


def settle(conn: psycopg.Connection) -> None:
    """After the last client: what is due becomes available, the networks pay."""
    now = dt.datetime.now(dt.UTC)
    ledger.release(conn, now)
    ledger.settle_network(conn, now)
