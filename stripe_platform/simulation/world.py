"""The simulated world that stays: merchants and their terminals, payers and their cards. A function of the seed alone.

Sizes and spreads follow the published generator (payers and terminals on a plane, a payer uses terminals nearer than
5); ours adds merchants, countries, currencies and devices. Density stays the same when the world is scaled.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from stripe_platform.oltp.ids import day_us, seeded, tokens, uuid7_ids
from stripe_platform.oltp.reference import COUNTRIES
from stripe_platform.simulation import names

GENERATOR = 2  # raise it when the same seed no longer gives the same bytes
REACH = 5.0
PER_CUSTOMER = 1.92  # charges per payer and day: mean rate 2, less the times that fall outside the day

# Share of the plane per country; zero-decimal (jpy, krw) and three-decimal (kwd) currencies are among them.
_BLOCKS = "FR FR FR FR FR DE DE DE ES ES IT IT NL BE GB GB GB US US US CH SE JP KW KR".split()
_CENTRES = {
    "FR": (46.6, 2.4), "DE": (51.1, 10.4), "ES": (40.2, -3.6), "IT": (42.8, 12.1), "NL": (52.2, 5.6),
    "BE": (50.6, 4.7), "GB": (52.5, -1.6), "US": (39.8, -98.6), "CH": (46.8, 8.2), "SE": (59.6, 15.0),
    "JP": (36.2, 138.3), "KW": (29.3, 47.5), "KR": (36.4, 127.9),
}  # fmt: skip
_MCC = "5411 5812 5732 5999 5651 5541 4121 7011 5942 5912 5311 5814".split()
_BRANDS = (("visa", 0.55), ("mastercard", 0.32), ("amex", 0.06), ("jcb", 0.02), ("unionpay", 0.02), ("discover", 0.03))
_FUNDING = (("debit", 0.52), ("credit", 0.42), ("prepaid", 0.06))
_TERMINALS = (("pos", 0.55), ("web", 0.30), ("mobile_app", 0.15))


@dataclass(frozen=True)
class Options:
    """What a simulation is a function of. `dispute_lag_days`: disputes and warnings come 1 to that many days later."""

    seed: int = 0
    first_day: dt.date = dt.date(2026, 6, 1)
    days: int = 28
    per_day: int = 9_000
    dispute_lag_days: int = 14

    def __post_init__(self) -> None:
        for name, least in (("days", 1), ("per_day", 20), ("dispute_lag_days", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"simulation: {name} must be at least {least}")

    def as_json(self) -> dict[str, int | str]:
        return {**asdict(self), "first_day": self.first_day.isoformat(), "generator": GENERATOR}


class World:
    """Merchants, terminals and payers as arrays; row i of every array is entity i."""

    def __init__(self, options: Options) -> None:
        self.options = options
        seed = options.seed
        self.customers = max(10, round(options.per_day / PER_CUSTOMER))
        self.terminals = 2 * self.customers
        side = 100.0 * (self.terminals / 10_000) ** 0.5
        rng = seeded(seed, "customers")
        self.customer_xy = rng.uniform(0, side, (self.customers, 2))
        self.mean_amount = rng.uniform(5, 100, self.customers)
        self.rate = rng.uniform(0, 4, self.customers)
        rng = seeded(seed, "terminals")
        self.terminal_xy = rng.uniform(0, side, (self.terminals, 2))
        self.terminal_type = _draw(rng, _TERMINALS, self.terminals)
        blocks = np.array(_BLOCKS)
        seeded(seed, "blocks").shuffle(blocks)
        cells = (self.terminal_xy // REACH).astype(np.int64)
        per_row = int(np.ceil(side / REACH))
        self.cell_ids, self.terminal_account = np.unique(cells[:, 0] * per_row + cells[:, 1], return_inverse=True)
        centres = np.stack([self.cell_ids // per_row, self.cell_ids % per_row], axis=1) * REACH + REACH / 2
        self.account_country = _country(blocks, centres, side)
        self.customer_country = _country(blocks, self.customer_xy, side)
        self.terminal_country = self.account_country[self.terminal_account]
        self.account_currency = np.array([COUNTRIES[c][2] for c in self.account_country])
        self._side = side

    @cached_property
    def usable(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Terminals each payer can use: (flat terminal indices, start per payer, count per payer)."""
        # Terminals by x: only a strip of them can be near a run of payers that are neighbours in x.
        by_x = np.argsort(self.terminal_xy[:, 0], kind="stable")
        xy, xs = self.terminal_xy[by_x], self.terminal_xy[by_x, 0]
        near: list[np.ndarray] = [np.empty(0, np.int64)] * self.customers
        for payer, (x, y) in enumerate(self.customer_xy):
            low, high = np.searchsorted(xs, (x - REACH, x + REACH))
            strip = xy[low:high]
            near[payer] = np.sort(by_x[low:high][(strip[:, 0] - x) ** 2 + (strip[:, 1] - y) ** 2 < REACH**2])
        count = np.array([len(rows) for rows in near])
        return np.concatenate(near), np.concatenate([[0], np.cumsum(count)[:-1]]), count

    @cached_property
    def account_ids(self) -> pa.Array:
        return self.ids("acct", len(self.cell_ids))

    @cached_property
    def terminal_ids(self) -> pa.Array:
        return self.ids("tmr", self.terminals)

    @cached_property
    def customer_ids(self) -> pa.Array:
        return self.ids("cus", self.customers)

    @cached_property
    def method_ids(self) -> pa.Array:
        return self.ids("pm", self.customers)

    @cached_property
    def account_tokens(self) -> list[str]:
        return tokens("tok", len(self.cell_ids), seeded(self.options.seed, "account tokens"))

    @cached_property
    def customer_tokens(self) -> list[str]:
        return tokens("tok", self.customers, seeded(self.options.seed, "customer tokens"))

    def rows(self) -> dict[str, pa.Table]:
        """Rows of the world's tables; all stand since the first midnight. Payers' names and e-mails are still clear."""
        rng = seeded(self.options.seed, "rows")
        accounts, customers = len(self.cell_ids), self.customers
        people, mails = names.people(customers, rng)
        centre = np.array([_CENTRES[c] for c in self.terminal_country])
        place = centre + (self.terminal_xy / self._side - 0.5) * 3
        return {
            "accounts": pa.table({
                "id": self.account_ids, "type": _draw(rng, (("standard", 0.7), ("express", 0.3)), accounts),
                "country": self.account_country, "default_currency": self.account_currency,
                "business_type": _draw(rng, (("company", 0.8), ("individual", 0.2)), accounts),
                "mcc": rng.choice(_MCC, accounts), "name": names.shops(accounts, rng), "token": self.account_tokens,
                "created": self.created(accounts),
            }),
            "terminals": pa.table({
                "id": self.terminal_ids, "account_id": self.account_ids.take(pa.array(self.terminal_account)),
                "label": [f"Till {i + 1}" for i in range(self.terminals)], "device_type": self.terminal_type,
                "country": self.terminal_country, "latitude": [f"{v:.5f}" for v in place[:, 0]],
                "longitude": [f"{v:.5f}" for v in place[:, 1]], "created": self.created(self.terminals),
            }),
            "customers": pa.table({
                "id": self.customer_ids, "country": self.customer_country,
                "currency": [COUNTRIES[c][2] for c in self.customer_country], "name": people, "email": mails,
                "token": self.customer_tokens, "created": self.created(customers),
            }),
            "payment_methods": pa.table({
                "id": self.method_ids, "customer_id": self.customer_ids, "type": ["card"] * customers,
                "card_brand": _draw(rng, _BRANDS, customers),
                "card_last4": [f"{v:04d}" for v in rng.integers(0, 10_000, customers)],
                "card_exp_month": rng.integers(1, 13, customers),
                "card_exp_year": self.options.first_day.year + rng.integers(1, 6, customers),
                "card_funding": _draw(rng, _FUNDING, customers), "card_country": self.customer_country,
                "card_fingerprint": tokens("fpr", customers, rng), "created": self.created(customers),
            }),
        }  # fmt: skip

    def created_us(self, n: int) -> np.ndarray:
        """Instants of what stands since the first midnight."""
        return day_us(self.options.first_day) + np.arange(n, dtype=np.int64)

    def created(self, n: int) -> pa.Array:
        """The same as timestamps."""
        return pa.array(self.created_us(n), pa.timestamp("us", "UTC"))

    def ids(self, prefix: str, n: int) -> pa.Array:
        """Ids of what stands since the first midnight."""
        return pa.array(uuid7_ids(prefix, self.created_us(n), seeded(self.options.seed, "ids", prefix)))


def _country(blocks: np.ndarray, xy: np.ndarray, side: float) -> np.ndarray:
    """Country of each point: the plane is cut into five by five blocks."""
    block = np.clip((xy / side * 5).astype(np.int64), 0, 4)
    return blocks[block[:, 0] * 5 + block[:, 1]]


def _draw(rng: np.random.Generator, shares: tuple[tuple[str, float], ...], n: int) -> np.ndarray:
    """`n` values drawn by their shares."""
    values = np.array([value for value, _ in shares])
    return values[rng.choice(len(shares), n, p=[share for _, share in shares])]
