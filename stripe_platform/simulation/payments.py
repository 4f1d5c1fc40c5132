"""Payments of one simulated day: charges with intent and outcome, attempts before them, intents that came to nothing.

Currency amounts follow from the euro amount at the day's rate, in the currency's minor units. What is added to the
charges that the fraud model is tuned on moves no feature: further attempts fail (features skip failed charges), partial
captures leave the amount, abandoned intents have no charge. None of it knows which charge is a fraud.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stripe_platform.money import exponent
from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.simulation.traffic import DAY_US, Charges
from stripe_platform.simulation.world import World

DECLINED, REFUNDED, REFUND_DAYS = 0.025, 0.015, 10
QUARRELS = 0.0006  # genuine charges disputed for other reasons than fraud
WARNED = 0.6  # frauds whose issuer warns before the dispute
RETRIED, MANUAL, PARTIAL, ABANDONED, CANCELED = 0.004, 0.02, 0.3, 0.004, 0.6
DECLINES = np.array(["card_declined", "insufficient_funds", "expired_card", "incorrect_cvc", "processing_error"])
_DEVICES = {"pos": ("pos",), "web": ("desktop", "mobile", "tablet"), "mobile_app": ("mobile", "tablet")}
_OPEN = np.array(["requires_payment_method", "requires_confirmation", "requires_action", "processing"])
Columns = dict[str, object]


@dataclass(frozen=True)
class Made:
    """A day's charges as rows, and what will become of them (instants in Unix microseconds, 0 = never)."""

    charges: Charges
    account: np.ndarray
    ids: pa.Array
    intents: pa.Array
    created_us: np.ndarray
    attempted_us: np.ndarray  # the intent's instant: before the charge where an attempt failed first
    minor: np.ndarray
    captured: np.ndarray
    currency: np.ndarray
    manual: np.ndarray
    declined: np.ndarray
    device: np.ndarray
    score: np.ndarray
    failure: np.ndarray
    ip: np.ndarray
    refund_us: np.ndarray
    refund_minor: np.ndarray
    dispute_us: np.ndarray
    warning_us: np.ndarray


def make(world: World, charges: Charges, day: dt.date, rates: dict[str, float]) -> Made:
    """Rows of the day's charges. The first two streams are older than the rest: their order of draws is kept."""
    options, n, iso = world.options, len(charges), day.isoformat()
    rng = seeded(options.seed, "fate", iso)
    created = day_us(day) + charges.us
    account = world.terminal_account[charges.terminal]
    currency = world.account_currency[account]
    minor = _minor(charges.amount, currency, rates)
    declined = rng.random(n) < DECLINED
    device = _devices(world.terminal_type[charges.terminal], rng.random(n))
    fraud = charges.scenario > 0
    refunded = (rng.random(n) < REFUNDED) & ~declined & ~fraud & (minor > 0)
    partly = np.where(rng.random(n) < 0.3, rng.uniform(0.1, 0.9, n), 1.0)
    unit = smallest(currency)
    refund_us = created + (rng.uniform(1, REFUND_DAYS, n) * DAY_US).astype(np.int64)
    quarrel = (rng.random(n) < QUARRELS) & ~fraud & ~refunded
    lag = DAY_US + (rng.random(n) * (options.dispute_lag_days - 1) * DAY_US).astype(np.int64)
    warned = fraud & (rng.random(n) < WARNED)
    warning_us = created + DAY_US + ((lag - DAY_US) * rng.random(n)).astype(np.int64)
    ids = pa.array(uuid7_ids("ch", created, seeded(options.seed, "ch", iso)))
    rng = seeded(options.seed, "outcome", str(created[0]) if n else "")
    score = np.minimum(99, (rng.beta(1.2, 8.0, n) * 100)).astype(np.int64)
    failure = DECLINES[rng.integers(0, len(DECLINES), n)]
    home = world.customer_country[charges.customer]
    ip = np.where(rng.random(n) < 0.02, np.roll(home, 1), home)

    rng = seeded(options.seed, "attempts", iso)
    gap = rng.integers(20_000_000, 600_000_000, n)
    retried = (rng.random(n) < RETRIED) & ~declined & (charges.us > gap)
    attempted = np.where(retried, created - gap, created)
    manual = (rng.random(n) < MANUAL) & (device != "pos")
    part = np.where(manual & (rng.random(n) < PARTIAL), rng.uniform(0.4, 0.95, n), 1.0)
    captured = np.where(declined, 0, np.maximum(unit, (minor * part / unit).astype(np.int64) * unit))
    captured = np.where((part == 1.0) & ~declined, minor, captured)
    refund_minor = np.minimum(captured, np.maximum(unit, (minor * partly / unit).astype(np.int64) * unit))
    return Made(
        charges, account, ids, pa.array(uuid7_ids("pi", attempted, seeded(options.seed, "pi", iso))), created,
        attempted, minor, captured, currency, manual, declined, device, score, failure, ip,
        np.where(refunded, refund_us, 0), refund_minor, np.where((fraud | quarrel) & ~declined, created + lag, 0),
        np.where(warned & ~declined, warning_us, 0),
    )  # fmt: skip


def rows(world: World, made: Made, day: dt.date) -> dict[str, pa.Table]:
    """Intents, charges and outcomes of the day, with the attempts that failed before a charge came through."""
    account = world.account_ids.take(pa.array(made.account))
    customer, method = (ids.take(pa.array(made.charges.customer)) for ids in (world.customer_ids, world.method_ids))
    terminal = world.terminal_ids.take(pa.array(made.charges.terminal))
    online = made.device != "pos"
    intents = pa.table({
        "id": made.intents, "account_id": account, "customer_id": customer, "payment_method_id": method,
        "amount": made.minor, "currency": made.currency, "created": stamps(made.attempted_us),
        "amount_received": made.captured, "status": np.where(made.declined, "requires_payment_method", "succeeded"),
        "capture_method": np.where(made.manual, "manual", "automatic"),
    })
    charges = pa.table({
        "id": made.ids, "payment_intent_id": made.intents, "account_id": account, "customer_id": customer,
        "payment_method_id": method, "amount": made.minor, "currency": made.currency,
        "created": stamps(made.created_us), "terminal_id": terminal, "amount_captured": made.captured,
        "status": np.where(made.declined, "failed", "succeeded"),
        "failure_code": pa.array(made.failure, mask=~made.declined), "device_type": made.device,
        "ip_country": pa.array(made.ip, mask=~online),
    })
    outcomes = outcome_rows(made.ids, made.declined, made.failure, made.score)
    first = pa.array(np.nonzero(made.attempted_us < made.created_us)[0])
    if len(first):
        rng = seeded(world.options.seed, "failed attempts", day.isoformat())
        us = made.attempted_us[first.to_numpy()]
        ids, failed = pa.array(uuid7_ids("ch", us, rng)), np.ones(len(us), bool)
        why = DECLINES[rng.integers(0, len(DECLINES), len(us))]
        again = charges.take(first)
        for name, values in {
            "id": ids, "created": stamps(us), "status": pa.array(["failed"] * len(us)), "failure_code": pa.array(why),
            "amount_captured": pa.array(np.zeros(len(us), np.int64)),
        }.items():
            again = again.set_column(again.column_names.index(name), name, values)
        charges = pa.concat_tables([charges, again.cast(charges.schema)])
        outcomes = pa.concat_tables([outcomes, outcome_rows(ids, failed, why, made.score[first.to_numpy()])])
    abandoned = _abandoned(world, made, day)
    return {"payment_intents": pa.concat_tables([intents, abandoned]), "charges": charges, "charge_outcomes": outcomes}


def outcome_rows(ids: pa.Array, declined: np.ndarray, failure: np.ndarray, score: np.ndarray) -> pa.Table:
    """What network and risk engine say of charges."""
    return pa.table({
        "charge_id": ids, "type": np.where(declined, "issuer_declined", "authorized"),
        "network_status": np.where(declined, "declined_by_network", "approved_by_network"),
        "reason": pa.array(failure, mask=~declined),
        "risk_level": np.select([score >= 75, score >= 65], ["highest", "elevated"], "normal"), "risk_score": score,
    })


def abandoned_ids(world: World, made: Made, day: dt.date) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Intents that nobody finished: ids, instants, rows whose shop and payer they share, and when they are canceled."""
    n = len(made.charges)
    rng = seeded(world.options.seed, "abandoned", day.isoformat())
    count = round(n * ABANDONED)
    picked = np.sort(rng.choice(n, count, replace=False)) if count else np.empty(0, np.int64)
    us = day_us(day) + rng.integers(0, DAY_US, count)
    after = np.where(rng.random(count) < CANCELED, us + rng.integers(DAY_US // 2, DAY_US, count), 0)
    return uuid7_ids("pi", us, rng), us, picked, after


def _abandoned(world: World, made: Made, day: dt.date) -> pa.Table:
    ids, us, picked, _ = abandoned_ids(world, made, day)
    take = pa.array(made.charges.customer[picked])
    rng = seeded(world.options.seed, "abandoned states", day.isoformat())
    return pa.table({
        "id": pa.array(ids, pa.string()), "account_id": world.account_ids.take(pa.array(made.account[picked])),
        "customer_id": world.customer_ids.take(take), "payment_method_id": world.method_ids.take(take),
        "amount": made.minor[picked], "currency": made.currency[picked], "created": stamps(us),
        "amount_received": np.zeros(len(us), np.int64), "status": _OPEN[rng.integers(0, len(_OPEN), len(us))],
        "capture_method": np.full(len(us), "automatic"),
    })


def stamps(us: np.ndarray) -> pa.Array:
    """Unix microseconds as instants."""
    return pa.array(us, pa.timestamp("us", "UTC"))


def smallest(currency: np.ndarray) -> np.ndarray:
    """Smallest difference between two amounts, in minor units: three-decimal ones end in 0, as the networks want."""
    names, which = np.unique(currency, return_inverse=True)
    return np.array([10 if exponent(c) == 3 else 1 for c in names], dtype=np.int64)[which]


def _minor(euro: np.ndarray, currency: np.ndarray, rates: dict[str, float]) -> np.ndarray:
    names, which = np.unique(currency, return_inverse=True)
    rate = np.array([rates[c] for c in names])[which]
    unit = np.array([10.0 ** -min(2, exponent(c)) for c in names])[which]
    return np.maximum(1, np.rint(euro / rate / unit).astype(np.int64)) * smallest(currency)


def _devices(kind: np.ndarray, pick: np.ndarray) -> np.ndarray:
    device = np.empty(len(kind), dtype="<U7")
    for terminal_type, devices in _DEVICES.items():
        mine = kind == terminal_type
        device[mine] = np.array(devices)[(pick[mine] * len(devices)).astype(np.int64)]
    return device
