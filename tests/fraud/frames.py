"""Frames of charges with features, made in Python: the definition's numbers without a database."""

from __future__ import annotations

import functools

import facts
import numpy as np
import pandas as pd

from stripe_platform.features.declarations import ENTITY_COLUMNS, FEATURE_NAMES, FEATURES, Current

DAY_US = 86_400_000_000


def with_features(charges: pd.DataFrame, disputes: pd.DataFrame) -> pd.DataFrame:
    """As `dataset.read` gives it. Only for label lags that the delay covers: a fraud counts once it is old enough."""
    frame = charges.sort_values(["created", "charge_id"], ignore_index=True).rename(columns={"created": "event_ts"})
    frame["event_day"] = frame.event_ts.dt.normalize()
    frame["known_ts"] = frame.charge_id.map(disputes.groupby("charge_id").created.min())
    at = frame.event_ts.astype("datetime64[us]").astype("int64").to_numpy()
    amounts, frauds = frame.amount_eur.to_numpy(), frame.known_ts.notna().to_numpy().astype("int64")
    for f in FEATURES:
        if isinstance(f, Current):
            frame[f.name] = {"amount": frame.amount_eur / 100, "weekend": frame.event_ts.dt.weekday >= 5,
                             "night": frame.event_ts.dt.hour <= 6}[f.value].astype("float64")
            continue
        entity = pd.factorize(frame[ENTITY_COLUMNS[f.entity]])[0].astype("int64")
        order = np.lexsort((np.arange(len(at)), at, entity))
        place = entity[order] * (10_000 * DAY_US) + at[order] - at.min() + 100 * DAY_US
        low = np.searchsorted(place, place - f.reach_days * DAY_US, "right")
        high = np.searchsorted(place, place - f.delay_days * DAY_US, "right") if f.delay_days \
            else np.arange(len(at)) + 1
        number = high - low
        if f.aggregate == "count":
            values = number.astype("float64")
        else:
            summed = np.concatenate([[0], np.cumsum((amounts if f.aggregate == "mean_amount" else frauds)[order])])
            values = (summed[high] - summed[low]) / np.maximum(number, 1)
            values = values / 100 if f.aggregate == "mean_amount" else values
        back = np.empty(len(at))
        back[order] = values
        frame[f.name] = back
    return frame


@functools.cache
def handbook() -> pd.DataFrame:
    """The handbook's charges from 2018-06-11, 65 days, as the demo's source loads them."""
    return with_features(*facts.handbook("2018-06-11", "2018-08-14"))


def invented(days: int = 21, per_day: int = 60, seed: int = 7, frauds: bool = True) -> pd.DataFrame:
    """A small world: large amounts at one terminal are frauds, known three days later."""
    rng = np.random.default_rng(seed)
    number = days * per_day
    frame = pd.DataFrame({
        "charge_id": [f"ch_{i:06d}" for i in range(number)],
        "event_ts": pd.Timestamp("2026-05-01") + pd.to_timedelta(np.sort(rng.integers(0, days * 86_400, number)), "s"),
        "customer_token": [f"c{i}" for i in rng.integers(0, 400, number)],
    })
    frame["event_day"] = frame.event_ts.dt.normalize()
    for name in FEATURE_NAMES:
        frame[name] = rng.random(number)
    frame["known_ts"] = pd.NaT
    if frauds:
        fraud = (frame.amount > 0.9) & (frame.terminal_risk_7d > 0.4)
        frame.loc[fraud, "known_ts"] = frame.event_ts[fraud] + pd.Timedelta(days=3)
    frame["known_ts"] = pd.to_datetime(frame.known_ts)
    return frame
