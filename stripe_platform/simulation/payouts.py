"""Payouts: what a merchant earned since the last one, sent weekly or daily, two days on the way, sometimes sent back.

A payout is the sum of the movements before its day; what a failed one gives back is part of the next. Automatic ones
name those movements; by hand, merchants ask for the same sum (a name per movement would be a seventh more rows). The
state runs forward from the first day, so that a day made alone costs the days before it once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.simulation.merchants import Merchants
from stripe_platform.simulation.payments import stamps
from stripe_platform.simulation.traffic import DAY_US

ON_THE_WAY, FAILING = 2, 0.025  # days until the money arrives; share that comes back after that
_HOUR = 3_600_000_000
_CODES = np.array(["account_closed", "no_account", "invalid_account_number", "could_not_process"])


@dataclass(frozen=True)
class Batch:
    """The payouts made on one day: merchants, amounts, and the day's number on which each comes back (0: never)."""

    number: int
    ids: list[str]
    account: np.ndarray
    amount: np.ndarray
    fails: np.ndarray
    code: np.ndarray


class Payouts:
    """Batches by day number. `net` gives what a day's movements but payouts bring each merchant, `live` whether a
    day is simulated at all: nothing is paid out on another."""

    def __init__(
        self, merchants: Merchants, net: Callable[[dt.date], np.ndarray], live: Callable[[dt.date], bool]
    ) -> None:
        self.merchants, self._net, self._live = merchants, net, live
        self._options = merchants.world.options
        self._unpaid = np.zeros(merchants.count, np.int64)
        self._batches: list[Batch] = []
        self._lock = RLock()

    def batch(self, number: int) -> Batch:
        """The payouts made on day `number` (counted from the first day)."""
        with self._lock:
            while len(self._batches) <= number:
                self._advance(len(self._batches))
            return self._batches[number]

    def _advance(self, number: int) -> None:
        merchants, seed = self.merchants, self._options.seed
        day = self._options.first_day + dt.timedelta(days=number)
        due = (merchants.daily | (merchants.weekday == number % 7)) & (self._unpaid > 0)
        account = np.nonzero(due & (number > 0) & self._live(day))[0]
        rng = seeded(seed, "payouts", number)
        us = np.full(len(account), self._midnight(number) + 2 * _HOUR) + np.arange(len(account))
        ids = uuid7_ids("po", us, rng)
        fails = np.where(rng.random(len(account)) < FAILING, number + ON_THE_WAY + rng.integers(1, 4, len(account)), 0)
        code = _CODES[rng.integers(0, len(_CODES), len(account))]
        batch = Batch(number, ids, account, self._unpaid[account], fails, code)
        self._batches.append(batch)
        if not self._live(day):
            return
        self._unpaid[account] = 0
        self._unpaid += self._net(day)
        for earlier, row in self.coming_back(number):
            self._unpaid[earlier.account[row]] += earlier.amount[row]

    def rows(self, number: int) -> pa.Table:
        """New payouts of the day."""
        batch = self.batch(number)
        n, merchants = len(batch.ids), self.merchants
        if not n:
            return pa.table({})
        us = np.full(n, self._midnight(number) + 2 * _HOUR) + np.arange(n)
        take = pa.array(batch.account)
        return pa.table({
            "id": batch.ids, "account_id": merchants.world.account_ids.take(take),
            "bank_account_id": merchants.bank_ids.take(take), "amount": batch.amount,
            "currency": merchants.settlement[batch.account], "status": ["pending"] * n,
            "automatic": merchants.automatic[batch.account],
            "method": ["standard"] * n, "type": ["bank_account"] * n, "source_type": ["card"] * n,
            "reconciliation_status": np.where(merchants.automatic[batch.account], "completed", "not_applicable"),
            "arrival_date": stamps(np.full(n, self._midnight(number + ON_THE_WAY))),
            "balance_transaction_id": [f"txn_{name[3:]}" for name in batch.ids], "created": stamps(us),
        })  # fmt: skip

    def arriving(self, number: int) -> Batch | None:
        """The payouts that reach the banks on day `number`."""
        return self.batch(number - ON_THE_WAY) if number > ON_THE_WAY else None

    def coming_back(self, number: int) -> list[tuple[Batch, int]]:
        """Payouts, with their row, that come back on day `number`."""
        earlier = [self.batch(n) for n in range(max(0, number - ON_THE_WAY - 3), number - ON_THE_WAY)]
        return [(batch, int(row)) for batch in earlier for row in np.nonzero(batch.fails == number)[0]]

    def changes(self, number: int) -> list[dict[str, object]]:
        """Payouts that leave, arrive or come back on day `number`."""
        midnight = self._midnight(number)
        rows: list[dict[str, object]] = []
        if number > 1:
            rows += [{"id": name, "at": midnight + _HOUR, "status": "in_transit", "failure_code": None}
                     for name in self.batch(number - 1).ids]
        if (arrived := self.arriving(number)) is not None:
            rows += [{"id": name, "at": midnight + 6 * _HOUR, "status": "paid", "failure_code": None}
                     for name in arrived.ids]
        return rows + [
            {"id": batch.ids[row], "at": midnight + 9 * _HOUR, "status": "failed", "failure_code": str(batch.code[row])}
            for batch, row in self.coming_back(number)]

    def _midnight(self, number: int) -> int:
        return day_us(self._options.first_day) + number * DAY_US
