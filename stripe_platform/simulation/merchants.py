"""What merchants have beside their terminals: the bank account they are paid on, a rhythm of payouts, a catalogue.

A share of the merchants outside the euro is paid in another currency than their payers pay in. All of it stands since
the first midnight: later days only name it.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.ids import seeded, tokens, uuid7_ids
from stripe_platform.oltp.reference import CURRENCIES, FEES
from stripe_platform.simulation.payments import smallest
from stripe_platform.simulation.world import World

EXCHANGED = 0.35  # of merchants outside the euro
DAILY, AUTOMATIC = 0.04, 0.35  # of merchants; the others ask for their money week by week, by hand
_BANKS = ("Bank of the Quay", "Harbour Savings", "First Meadow Bank", "Lantern Trust")
_PLANS = (4.99, 9.99, 14.99, 29.99, 49.99)
# Standard rates of the countries of the plane; percent, exclusive.
TAXES = {"FR": "20", "DE": "19", "ES": "21", "IT": "22", "NL": "21", "BE": "21", "GB": "20", "US": "0", "CH": "8.1",
         "SE": "25", "JP": "10", "KW": "0", "KR": "10"}  # fmt: skip
INTERVALS = ("week", "month")


class Merchants:
    """Row i of every array is merchant i of the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = len(world.cell_ids)
        rng = seeded(world.options.seed, "merchants")
        own = world.account_currency
        other = np.where(rng.random(self.count) < 0.7, "eur", "usd")
        exchanged = (rng.random(self.count) < EXCHANGED) & (own != "eur") & (own != other)
        if not exchanged.any() and (own != "eur").any():
            exchanged[np.nonzero(own != "eur")[0][0]], other[:] = True, "eur"
        self.settlement = np.where(exchanged, other, own)
        self.exchanged = self.settlement != own
        self.daily = rng.random(self.count) < DAILY
        self.weekday = rng.integers(0, 7, self.count)
        self.automatic = self.daily | (rng.random(self.count) < AUTOMATIC)
        fees = np.array([FEES[c] for c in self.settlement], dtype=np.int64)
        self.basis_points, self.fixed, self.dispute_fee = fees[:, 0], fees[:, 1], fees[:, 2]
        self.multiple = smallest(self.settlement)
        euro = rng.choice(_PLANS, self.count)
        base = np.array([float(CURRENCIES[c][3] or 1) for c in own])
        digits = np.array([1.0 if c in ("jpy", "krw") else 100.0 for c in own])
        unit = smallest(own)
        weekly = np.maximum(1, np.rint(euro / base * digits).astype(np.int64)) * unit
        self.unit_amount = np.stack([weekly, 4 * weekly], axis=1)  # by interval

    @cached_property
    def bank_ids(self) -> pa.Array:
        return self.world.ids("ba", self.count)

    @cached_property
    def product_ids(self) -> pa.Array:
        return self.world.ids("prod", self.count)

    @cached_property
    def price_ids(self) -> dict[str, pa.Array]:
        seed, us = self.world.options.seed, self.world.created_us(self.count)
        return {name: pa.array(uuid7_ids("price", us, seeded(seed, "ids", "price", name))) for name in INTERVALS}

    @cached_property
    def tax_ids(self) -> dict[str, str]:
        return dict(zip(TAXES, self.world.ids("txr", len(TAXES)).to_pylist(), strict=True))

    def rows(self) -> dict[str, pa.Table]:
        """Bank accounts, products, prices and tax rates."""
        world, n = self.world, self.count
        rng = seeded(world.options.seed, "merchant rows")
        created = world.created(n)
        prices = [
            pa.table({
                "id": self.price_ids[interval], "product_id": self.product_ids, "currency": world.account_currency,
                "type": ["recurring"] * n, "billing_scheme": ["per_unit"] * n, "unit_amount": self.unit_amount[:, i],
                "unit_amount_decimal": self.unit_amount[:, i], "recurring_interval": [interval] * n,
                "recurring_interval_count": [1] * n, "usage_type": ["licensed"] * n, "tax_behavior": ["exclusive"] * n,
                "created": created,
            })
            for i, interval in enumerate(INTERVALS)
        ]
        return {
            "bank_accounts": pa.table({
                "id": self.bank_ids, "account_id": world.account_ids, "kind": ["bank_account"] * n,
                "bank_name": rng.choice(_BANKS, n), "country": world.account_country, "currency": self.settlement,
                "last4": [f"{v:04d}" for v in rng.integers(0, 10_000, n)], "status": ["verified"] * n,
                "fingerprint": tokens("fpr", n, rng), "default_for_currency": ["true"] * n,
            }),
            "products": pa.table({
                "id": self.product_ids, "account_id": world.account_ids, "name": ["Membership"] * n,
                "category": ["subscription"] * n, "type": ["service"] * n, "tax_code": ["txcd_10103001"] * n,
                "created": created,
            }),
            "prices": pa.concat_tables(prices),
            "tax_rates": pa.table({
                "id": list(self.tax_ids.values()), "display_name": ["VAT"] * len(TAXES),
                "percentage": list(TAXES.values()), "effective_percentage": list(TAXES.values()),
                "inclusive": ["false"] * len(TAXES),
                "active": ["true"] * len(TAXES), "country": list(TAXES), "jurisdiction": list(TAXES),
                "tax_type": ["vat"] * len(TAXES), "created": world.created(len(TAXES)),
            }),
        }  # fmt: skip
