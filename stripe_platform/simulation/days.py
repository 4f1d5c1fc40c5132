"""Rows of one simulated business day: charges with intent and outcome, refunds, disputes, warnings, rates.

What falls due on a day (refunds, disputes, warnings) is worked out from the charges of earlier days, which are made
again from the seed. Currency amounts follow from the euro amount at the day's rate, in the currency's minor units.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stripe_platform.money import exponent
from stripe_platform.oltp.bulk import DayRows
from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.oltp.reference import CURRENCIES, REPORTING
from stripe_platform.simulation.traffic import DAY_US, Charges, Traffic
from stripe_platform.simulation.world import Options, World

DECLINED, REFUNDED, REFUND_DAYS = 0.025, 0.015, 10
QUARRELS = 0.0006  # genuine charges disputed for other reasons than fraud
WARNED = 0.6  # frauds whose issuer warns before the dispute
_DECLINES = np.array(["card_declined", "insufficient_funds", "expired_card", "incorrect_cvc", "processing_error"])
_QUARREL_REASONS = np.array(["product_not_received", "product_unacceptable", "duplicate", "subscription_canceled"])
_FRAUD_TYPES = np.array(["made_with_stolen_card", "made_with_lost_card", "unauthorized_use_of_card",
                         "made_with_counterfeit_card"])  # fmt: skip
_DEVICES = {"pos": ("pos",), "web": ("desktop", "mobile", "tablet"), "mobile_app": ("mobile", "tablet")}
Columns = dict[str, object]


@dataclass(frozen=True)
class Made:
    """A day's charges as rows, and what will become of them (instants in Unix microseconds, 0 = never)."""

    charges: Charges
    ids: pa.Array
    intents: pa.Array
    created_us: np.ndarray
    minor: np.ndarray
    currency: np.ndarray
    declined: np.ndarray
    device: np.ndarray
    refund_us: np.ndarray
    refund_minor: np.ndarray
    dispute_us: np.ndarray
    warning_us: np.ndarray


class Days:
    """All days of a simulation. `business` says which days have charges; other days bring disputes only."""

    def __init__(self, options: Options, business: Collection[dt.date]) -> None:
        self.options = options
        self.world = World(options)
        self.traffic = Traffic(self.world)
        self.business = business
        self._currencies = self.world.account_currency[self.world.terminal_account]
        self._cache = lru_cache(maxsize=48)(self._made)
        self._making = Lock()

    def made(self, day: dt.date) -> Made:
        """The day's charges; made once, also when two threads ask."""
        with self._making:
            return self._cache(day)

    def rows(self, day: dt.date) -> DayRows:
        """Every row that comes into being on `day`."""
        tables = self.world.rows() if day == self.options.first_day else {}
        tables["exchange_rates"] = self._rates(day)
        if day in self.business:
            tables.update(self._charge_rows(self.made(day)))
            tables["refunds"] = self._refunds(day)
        tables["disputes"] = self._disputes(day)
        tables["early_fraud_warnings"] = self._warnings(day)
        return DayRows(tables)

    def rate(self, day: dt.date) -> dict[str, float]:
        """Euro for one major unit of each currency: the indicative rate and a slow random walk."""
        steps = max(0, self._number(day)) + 1
        rates = {}
        for currency, (_, _, _, base) in CURRENCIES.items():
            walk = seeded(self.options.seed, "rate", currency).normal(0, 0.003, steps).sum()
            rates[currency] = 1.0 if currency == REPORTING else round(float(base) * float(np.exp(walk)), 10)
        return rates

    def _made(self, day: dt.date) -> Made:
        charges = self.traffic.day(self._number(day))
        n = len(charges)
        rng = seeded(self.options.seed, "fate", day.isoformat())
        created = day_us(day) + charges.us
        currency = self._currencies[charges.terminal]
        minor = self._minor(charges.amount, currency, day)
        declined = rng.random(n) < DECLINED
        kind = self.world.terminal_type[charges.terminal]
        pick = rng.random(n)
        device = np.empty(n, dtype="<U7")
        for terminal_type, devices in _DEVICES.items():
            mine = kind == terminal_type
            device[mine] = np.array(devices)[(pick[mine] * len(devices)).astype(np.int64)]
        fraud = charges.scenario > 0
        refunded = (rng.random(n) < REFUNDED) & ~declined & ~fraud & (minor > 0)
        partly = np.where(rng.random(n) < 0.3, rng.uniform(0.1, 0.9, n), 1.0)
        unit = self._step(currency)
        refund_minor = np.maximum(unit, (minor * partly / unit).astype(np.int64) * unit)
        refund_us = created + (rng.uniform(1, REFUND_DAYS, n) * DAY_US).astype(np.int64)
        quarrel = (rng.random(n) < QUARRELS) & ~fraud & ~refunded
        lag = DAY_US + (rng.random(n) * (self.options.dispute_lag_days - 1) * DAY_US).astype(np.int64)
        warned = fraud & (rng.random(n) < WARNED)
        warning_us = created + DAY_US + ((lag - DAY_US) * rng.random(n)).astype(np.int64)
        ids = pa.array(uuid7_ids("ch", created, seeded(self.options.seed, "ch", day.isoformat())))
        intents = pa.array(uuid7_ids("pi", created, seeded(self.options.seed, "pi", day.isoformat())))
        return Made(
            charges, ids, intents, created, minor, currency, declined, device,
            np.where(refunded, refund_us, 0), refund_minor,
            np.where((fraud | quarrel) & ~declined, created + lag, 0), np.where(warned & ~declined, warning_us, 0),
        )  # fmt: skip

    def _minor(self, euro: np.ndarray, currency: np.ndarray, day: dt.date) -> np.ndarray:
        """Minor units of each charge's currency; three-decimal amounts end in 0, as the networks want them."""
        rates = self.rate(day)
        names, which = np.unique(currency, return_inverse=True)
        rate = np.array([rates[c] for c in names])[which]
        unit = np.array([10.0 ** -min(2, exponent(c)) for c in names])[which]
        return np.maximum(1, np.rint(euro / rate / unit).astype(np.int64)) * self._step(currency)

    @staticmethod
    def _step(currency: np.ndarray) -> np.ndarray:
        """Smallest difference between two amounts, in minor units."""
        names, which = np.unique(currency, return_inverse=True)
        return np.array([10 if exponent(c) == 3 else 1 for c in names])[which]

    def _charge_rows(self, made: Made) -> dict[str, pa.Table]:
        charges, world, n = made.charges, self.world, len(made.charges)
        account = world.account_ids.take(pa.array(world.terminal_account[charges.terminal]))
        customer, method = (ids.take(pa.array(charges.customer)) for ids in (world.customer_ids, world.method_ids))
        captured = np.where(made.declined, 0, made.minor)
        rng = seeded(self.options.seed, "outcome", str(made.created_us[0]) if n else "")
        score = np.minimum(99, (rng.beta(1.2, 8.0, n) * 100)).astype(np.int64)
        failure = _DECLINES[rng.integers(0, len(_DECLINES), n)]
        online = made.device != "pos"
        abroad = rng.random(n) < 0.02
        home = world.customer_country[charges.customer]
        ip = np.where(abroad, np.roll(home, 1), home)
        shared: Columns = {"account_id": account, "customer_id": customer, "payment_method_id": method,
                           "amount": made.minor, "currency": made.currency, "created": _stamps(made.created_us)}
        return {
            "payment_intents": pa.table({
                "id": made.intents, **shared, "amount_received": captured,
                "status": np.where(made.declined, "requires_payment_method", "succeeded"),
            }),
            "charges": pa.table({
                "id": made.ids, "payment_intent_id": made.intents, **shared,
                "terminal_id": world.terminal_ids.take(pa.array(charges.terminal)), "amount_captured": captured,
                "status": np.where(made.declined, "failed", "succeeded"),
                "failure_code": pa.array(failure, mask=~made.declined), "device_type": made.device,
                "ip_country": pa.array(ip, mask=~online),
            }),
            "charge_outcomes": pa.table({
                "charge_id": made.ids, "type": np.where(made.declined, "issuer_declined", "authorized"),
                "network_status": np.where(made.declined, "declined_by_network", "approved_by_network"),
                "reason": pa.array(failure, mask=~made.declined),
                "risk_level": np.select([score >= 75, score >= 65], ["highest", "elevated"], "normal"),
                "risk_score": score,
            }),
        }  # fmt: skip

    def _refunds(self, day: dt.date) -> pa.Table:
        parts = []
        for made, due in self._due(day, "refund_us", REFUND_DAYS):
            parts.append({"charge_id": made.ids.take(pa.array(due)), "amount": made.refund_minor[due],
                          "currency": made.currency[due], "created_us": made.refund_us[due]})  # fmt: skip
        return _with_ids("re", parts, self._rng("re", day),
                         lambda n, _rng: {"status": ["succeeded"] * n, "reason": ["requested_by_customer"] * n})

    def _disputes(self, day: dt.date) -> pa.Table:
        parts = []
        for made, due in self._due(day, "dispute_us", self.options.dispute_lag_days):
            fraud = made.charges.scenario[due] > 0
            other = self._rng("quarrel", day, int(made.created_us[0])).integers(0, len(_QUARREL_REASONS), len(due))
            parts.append({"charge_id": made.ids.take(pa.array(due)), "amount": made.minor[due],
                          "currency": made.currency[due], "created_us": made.dispute_us[due],
                          "reason": np.where(fraud, "fraudulent", _QUARREL_REASONS[other])})  # fmt: skip
        return _with_ids("dp", parts, self._rng("dp", day), lambda n, _rng: {"status": ["needs_response"] * n})

    def _warnings(self, day: dt.date) -> pa.Table:
        parts = []
        for made, due in self._due(day, "warning_us", self.options.dispute_lag_days):
            parts.append({"charge_id": made.ids.take(pa.array(due)), "created_us": made.warning_us[due]})
        return _with_ids("issfr", parts, self._rng("issfr", day), lambda n, rng: {
            "fraud_type": _FRAUD_TYPES[rng.integers(0, len(_FRAUD_TYPES), n)], "actionable": rng.random(n) < 0.8})

    def _due(self, day: dt.date, field: str, most: int) -> list[tuple[Made, np.ndarray]]:
        """Charges of the business days before `day` whose `field` falls on it."""
        start = day_us(day)
        found = []
        for back in range(most, 0, -1):
            earlier = day - dt.timedelta(days=back)
            if earlier in self.business:
                made = self.made(earlier)
                at = getattr(made, field)
                due = np.nonzero((at >= start) & (at < start + DAY_US))[0]
                if len(due):
                    found.append((made, due))
        return found

    def _rates(self, day: dt.date) -> pa.Table:
        rates = {c: r for c, r in self.rate(day).items() if c != REPORTING}
        return pa.table({
            "day": [day] * len(rates), "from_currency": list(rates), "to_currency": [REPORTING] * len(rates),
            "rate": [f"{r:.10f}" for r in rates.values()],
        })  # fmt: skip

    def _number(self, day: dt.date) -> int:
        return (day - self.options.first_day).days

    def _rng(self, what: str, day: dt.date, more: int = 0) -> np.random.Generator:
        return seeded(self.options.seed, what, day.isoformat(), more)


def _stamps(us: np.ndarray) -> pa.Array:
    return pa.array(us, pa.timestamp("us", "UTC"))


def _with_ids(
    prefix: str, parts: list[Columns], rng: np.random.Generator, more: Callable[[int, np.random.Generator], Columns]
) -> pa.Table:
    """Parts joined in time order with ids and further columns; an empty table when nothing is due."""
    if not parts:
        return pa.table({})
    table = pa.concat_tables([pa.table(part) for part in parts])
    table = table.take(pc.sort_indices(table, [("created_us", "ascending"), ("charge_id", "ascending")]))
    us = table["created_us"].to_numpy()
    columns = {name: table[name] for name in table.column_names if name != "created_us"}
    return pa.table({"id": uuid7_ids(prefix, us, rng), **columns, **more(len(us), rng), "created": _stamps(us)})
