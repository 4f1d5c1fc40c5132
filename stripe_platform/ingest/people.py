"""Merchants, terminals, payers and cards of a transaction file, which knows them by number only."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa

from stripe_platform.oltp.ids import day_us, seeded, tokens, uuid7_ids
from stripe_platform.oltp.reference import COUNTRIES

TERMINALS_PER_ACCOUNT = 25
_MCC = ("5411", "5812", "5732", "5999", "5651", "5541", "5912", "7011")
_BRANDS = ("visa", "mastercard")
# The file has no places: terminals are spread over a box of this many degrees around 46 N 2 E.
_NORTH, _EAST, _SPREAD = 46.0, 2.0, 4.0


class People:
    """Entities in sorted order of their numbers; ids and tokens are drawn from the source's digest."""

    def __init__(self, rows: pd.DataFrame, digest: str, first_day: dt.date, country: str, currency: str) -> None:
        self._digest, self._day, self._country, self._currency = digest, first_day, country, currency
        self._customers = pd.Index(np.sort(rows["customer"].unique()))
        self._terminals = pd.Index(np.sort(rows["terminal"].unique()))
        # Labels count in the order of first use: a number of the file could be anything, a card number too.
        self._labels = pd.Index(rows["terminal"].unique()).get_indexer(self._terminals) + 1
        self._account_of = np.arange(len(self._terminals)) // TERMINALS_PER_ACCOUNT
        self.account_ids = self._ids("acct", int(self._account_of[-1]) + 1)
        self.terminal_ids = self._ids("tmr", len(self._terminals))
        self.customer_ids = self._ids("cus", len(self._customers))
        self.method_ids = self._ids("pm", len(self._customers))

    def of(self, rows: pd.DataFrame) -> dict[str, pa.Array]:
        """Merchant, payer and card of each record."""
        account = self._account_of[self._terminals.get_indexer(pd.Index(rows["terminal"]))]
        customer = pa.array(self._customers.get_indexer(pd.Index(rows["customer"])))
        return {
            "account_id": self.account_ids.take(pa.array(account)),
            "customer_id": self.customer_ids.take(customer),
            "payment_method_id": self.method_ids.take(customer),
        }

    def terminals_of(self, rows: pd.DataFrame) -> pa.Array:
        return self.terminal_ids.take(pa.array(self._terminals.get_indexer(pd.Index(rows["terminal"]))))

    def rows(self) -> dict[str, pa.Table]:
        """Rows of the four tables; all stand since the first midnight."""
        rng = self._rng("rows")
        accounts, terminals, customers = len(self.account_ids), len(self._terminals), len(self._customers)
        home = COUNTRIES[self._country][2]
        return {
            "accounts": pa.table({
                "id": self.account_ids, "type": pa.repeat("standard", accounts), "country": self._all(accounts),
                "default_currency": pa.repeat(self._currency, accounts),
                "business_type": pa.repeat("company", accounts),
                "mcc": rng.choice(_MCC, accounts), "name": [f"Merchant {i + 1}" for i in range(accounts)],
                "token": tokens("tok", accounts, self._rng("account tokens")), "created": self._created(accounts),
            }),
            "terminals": pa.table({
                "id": self.terminal_ids, "account_id": self.account_ids.take(pa.array(self._account_of)),
                "label": [f"Terminal {number}" for number in self._labels],
                "device_type": pa.repeat("pos", terminals), "country": self._all(terminals),
                "latitude": [f"{v:.5f}" for v in _NORTH + rng.uniform(-_SPREAD, _SPREAD, terminals)],
                "longitude": [f"{v:.5f}" for v in _EAST + rng.uniform(-_SPREAD, _SPREAD, terminals)],
                "created": self._created(terminals),
            }),
            "customers": pa.table({
                "id": self.customer_ids, "country": self._all(customers), "currency": pa.repeat(home, customers),
                "token": tokens("tok", customers, self._rng("customer tokens")), "created": self._created(customers),
            }),
            "payment_methods": pa.table({
                "id": self.method_ids, "customer_id": self.customer_ids, "type": pa.repeat("card", customers),
                "card_brand": rng.choice(_BRANDS, customers),
                "card_last4": [f"{v:04d}" for v in rng.integers(0, 10_000, customers)],
                "card_exp_month": rng.integers(1, 13, customers),
                "card_exp_year": self._day.year + rng.integers(1, 6, customers),
                "card_funding": pa.repeat("unknown", customers), "card_country": self._all(customers),
                "card_fingerprint": tokens("fpr", customers, self._rng("cards")), "created": self._created(customers),
            }),
        }  # fmt: skip

    def _all(self, n: int) -> pa.Array:
        return pa.repeat(self._country, n)

    def _created(self, n: int) -> pa.Array:
        return pa.array(day_us(self._day) + np.arange(n, dtype=np.int64), pa.timestamp("us", "UTC"))

    def _ids(self, prefix: str, n: int) -> pa.Array:
        return pa.array(uuid7_ids(prefix, day_us(self._day) + np.arange(n, dtype=np.int64), self._rng("ids " + prefix)))

    def _rng(self, what: str) -> np.random.Generator:
        return seeded(self._digest, what)
