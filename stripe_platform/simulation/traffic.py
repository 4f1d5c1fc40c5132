"""Simulated charges of one day, and who of them is a fraud: hidden causes first, what they do to the charges after.

Each day is a function of the seed and its number: nothing is read back, so a run that was killed goes on with the
same bytes. Day numbers count from the first day; negative ones exist, so that compromises are in full swing on day 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stripe_platform.oltp.ids import seeded
from stripe_platform.simulation.world import World

DAY_US = 86_400_000_000
THIEF_SHARE, THIEF_FLOOR = 0.00055, 220.0  # scenario 1: stolen numbers used for amounts above a limit
TERMINALS_A_DAY, TERMINAL_DAYS = 2 / 10_000, 28  # scenario 2: terminals that copy cards
CARDS_A_DAY, CARD_DAYS, CARD_FACTOR = 3 / 5_000, 14, 5.0  # scenario 3: cards whose holder's number leaked


@dataclass(frozen=True)
class Charges:
    """A day's charges in time order; amounts in euro, `us` since the day's midnight, `scenario` 0 where genuine."""

    customer: np.ndarray
    terminal: np.ndarray
    us: np.ndarray
    amount: np.ndarray
    scenario: np.ndarray

    def __len__(self) -> int:
        return len(self.customer)


class Traffic:
    """Days of a world by number."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._seed = world.options.seed
        self.base = lru_cache(maxsize=96)(self._base)
        self.day = lru_cache(maxsize=8)(self._day)
        self._leaked = lru_cache(maxsize=64)(self._leaked_of)

    def _base(self, number: int) -> Charges:
        """Genuine charges and scenario 1."""
        rng = seeded(self._seed, "base", number)
        world = self.world
        flat, start, count = world.usable
        customer = np.repeat(np.arange(world.customers), rng.poisson(world.rate))
        seconds = rng.normal(43_200, 20_000, len(customer))
        kept = (seconds > 0) & (seconds < 86_400) & (count[customer] > 0)
        customer, seconds = customer[kept], seconds[kept]
        order = np.argsort(seconds, kind="stable")
        customer, us = customer[order], (seconds[order] * 1_000_000).astype(np.int64)
        n = len(customer)
        mean = world.mean_amount[customer]
        amount = rng.normal(mean, mean / 2)
        again = (amount < 0) | (amount > THIEF_FLOOR)
        amount = np.where(again, rng.uniform(0, 1, n) * np.minimum(2 * mean, THIEF_FLOOR), amount)
        thief = rng.random(n) < THIEF_SHARE
        amount = np.where(thief, THIEF_FLOOR + 0.01 + rng.exponential(25, n), amount)
        terminal = flat[start[customer] + (rng.random(n) * count[customer]).astype(np.int64)]
        return Charges(customer, terminal, us, amount, thief.astype(np.int8))

    def _day(self, number: int) -> Charges:
        """The day as it happens: all three scenarios laid over the base, the later one winning."""
        base = self.base(number)
        amount, scenario = base.amount.copy(), base.scenario.copy()
        world = self.world
        many = self._a_day(TERMINALS_A_DAY, world.terminals)
        copied = [
            seeded(self._seed, "terminals", first).choice(world.terminals, many)
            for first in range(number - TERMINAL_DAYS + 1, number + 1)
        ]
        scenario[np.isin(base.terminal, np.concatenate(copied))] = 2
        for first in range(number - CARD_DAYS + 1, number + 1):
            rows = self._leaked(first).get(number)
            if rows is not None:
                amount[rows] *= CARD_FACTOR
                scenario[rows] = 3
        return Charges(base.customer, base.terminal, base.us, amount, scenario)

    def _leaked_of(self, first: int) -> dict[int, np.ndarray]:
        """Scenario 3 of the cards that leak on day `first`: rows by day, a third of each card's charges."""
        rng = seeded(self._seed, "cards", first)
        world = self.world
        cards = rng.choice(world.customers, self._a_day(CARDS_A_DAY, world.customers), replace=False)
        hits: dict[int, list[np.ndarray]] = {}
        window = range(first, first + CARD_DAYS)
        for card in cards:
            mine = [(number, np.nonzero(self.base(number).customer == card)[0]) for number in window]
            days = np.concatenate([np.full(len(rows), number) for number, rows in mine])
            rows = np.concatenate([rows for _, rows in mine])
            picked = rng.choice(len(rows), len(rows) // 3, replace=False)
            for number in np.unique(days[picked]):
                hits.setdefault(int(number), []).append(rows[picked][days[picked] == number])
        return {number: np.concatenate(rows) for number, rows in hits.items()}

    @staticmethod
    def _a_day(share: float, size: int) -> int:
        return max(1, round(share * size))
