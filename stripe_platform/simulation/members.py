"""Payers who subscribe: a pool of their own beside the payers of the terminals, known since the first midnight."""

from __future__ import annotations

import datetime as dt
from functools import cached_property

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.ids import day_us, seeded, tokens, uuid7_ids
from stripe_platform.oltp.reference import COUNTRIES
from stripe_platform.simulation import names
from stripe_platform.simulation.merchants import INTERVALS, Merchants
from stripe_platform.simulation.payments import smallest
from stripe_platform.simulation.traffic import DAY_US

LEAST, SHARE = 100, 0.06  # members, of payers
KNOWN, FRESH = 0.6, 1 / 90  # members from the start; of the rest, new ones a day


class Members:
    """Row i of every array is member i. Ids are plain texts: members are few and read one by one."""

    def __init__(self, merchants: Merchants) -> None:
        self.merchants, self.world = merchants, merchants.world
        self.count = max(LEAST, round(self.world.customers * SHARE))
        self.known = round(self.count * KNOWN)
        rng = seeded(self.world.options.seed, "members")
        self.account = rng.integers(0, merchants.count, self.count)
        self.interval = (rng.random(self.count) < 0.35).astype(np.int64)
        self.quantity = np.where(rng.random(self.count) < 0.9, 1, rng.integers(2, 4, self.count))
        self._time = rng.random(self.count)
        self.accounts: list[str] = self.world.account_ids.to_pylist()
        self.customers = self._ids("cus")
        self.methods = self._ids("pm")
        self._prices = {name: ids.to_pylist() for name, ids in merchants.price_ids.items()}
        self._smallest = smallest(self.world.account_currency)

    @cached_property
    def tokens(self) -> list[str]:
        return tokens("tok", self.count, seeded(self.world.options.seed, "member tokens"))

    @cached_property
    def index(self) -> dict[str, int]:
        """Merchants by id."""
        return {name: i for i, name in enumerate(self.accounts)}

    def start_us(self, member: int) -> int:
        """When a member subscribes: the known ones on the first day, the others one after the other."""
        fresh = member - self.known
        per_day = max(1.0, (self.count - self.known) * FRESH)
        number = 0 if fresh < 0 else 1 + int(fresh / per_day)
        return day_us(self.world.options.first_day) + number * DAY_US + int((0.05 + 0.85 * self._time[member]) * DAY_US)

    def currency(self, member: int) -> str:
        """Members pay in their merchant's currency."""
        return str(self.world.account_currency[self.account[member]])

    def smallest(self, member: int) -> int:
        """Smallest difference between amounts in the member's currency."""
        return int(self._smallest[self.account[member]])

    def unit_amount(self, member: int) -> int:
        """What a period costs before tax, for one."""
        return int(self.merchants.unit_amount[self.account[member], self.interval[member]])

    def price(self, member: int) -> str:
        """The merchant's price of the member's interval."""
        return str(self._prices[INTERVALS[self.interval[member]]][self.account[member]])

    def tax(self, country: str) -> str:
        """The tax rate of a merchant's country."""
        return self.merchants.tax_ids[country]

    def rows(self) -> dict[str, pa.Table]:
        """Members as payers with a card; names and e-mails are still clear."""
        world, n = self.world, self.count
        rng = seeded(world.options.seed, "member rows")
        people, mails = names.people(n, rng)
        country = world.account_country[self.account]
        created = world.created(n)
        first: dt.date = world.options.first_day
        return {
            "customers": pa.table({
                "id": self.customers, "country": country, "currency": [COUNTRIES[c][2] for c in country],
                "name": people, "email": [mail.replace("@", ".m@") for mail in mails], "token": self.tokens,
                "created": created,
            }),
            "payment_methods": pa.table({
                "id": self.methods, "customer_id": self.customers, "type": ["card"] * n,
                "card_brand": rng.choice(["visa", "mastercard", "amex"], n),
                "card_last4": [f"{v:04d}" for v in rng.integers(0, 10_000, n)],
                "card_exp_month": rng.integers(1, 13, n), "card_exp_year": first.year + rng.integers(1, 6, n),
                "card_funding": rng.choice(["credit", "debit"], n), "card_country": country,
                "card_fingerprint": tokens("fpr", n, rng), "created": created,
            }),
        }  # fmt: skip

    def _ids(self, prefix: str) -> list[str]:
        seed, us = self.world.options.seed, self.world.created_us(self.count)
        return uuid7_ids(prefix, us, seeded(seed, "member ids", prefix))
