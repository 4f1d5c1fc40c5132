"""Which charges train the model, which are assessed, and what is known when: the Fraud Detection Handbook's protocol.

Training = days [s, s+7), then a delay of 7 days, then a test week. Frames here have one row per charge:
event_day (datetime64, midnight UTC), customer_token, known_ts (datetime64 UTC, when the charge was first disputed as
fraudulent; NaT = never), and the features.

The handbook gives every label seven days. Here each has its own moment, so the same rules are written with known_ts;
under a lag of exactly seven days they select the handbook's rows (its check counts are tested).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pandas as pd

DAYS = 21  # a week each to train, for labels to arrive, and to test


class ProtocolError(RuntimeError):
    """The data cannot serve the protocol; the message names what is missing and the remedy."""


@dataclass(frozen=True)
class Windows:
    """Training and test days, both ends included. A label may train only if it was known before `test_start`."""

    train_start: dt.date
    train_end: dt.date
    test_start: dt.date
    test_end: dt.date

    @classmethod
    def starting(cls, train_start: dt.date, train_days: int = 7, delay_days: int = 7, test_days: int = 7) -> Windows:
        """Training from `train_start`, the delay, then the test."""
        if train_days < 1 or delay_days < 0 or test_days < 1:
            raise ProtocolError("training and test need at least one day each, and the delay cannot be negative")
        test_start = train_start + dt.timedelta(days=train_days + delay_days)
        return cls(train_start, train_start + dt.timedelta(days=train_days - 1),
                   test_start, test_start + dt.timedelta(days=test_days - 1))

    @classmethod
    def ending(cls, test_end: dt.date, train_days: int = 7, delay_days: int = 7, test_days: int = 7) -> Windows:
        """The newest windows: the test ends on `test_end`."""
        return cls.starting(test_end - dt.timedelta(days=train_days + delay_days + test_days - 1),
                            train_days, delay_days, test_days)


def training(frame: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, pd.Series]:
    """Charges of the training days and their labels (0/1) as known before the test starts."""
    rows = _between(frame, windows.train_start, windows.train_end)
    labels = (rows.known_ts < pd.Timestamp(windows.test_start)).astype("int8")
    return rows, _with_frauds(labels, f"training days {windows.train_start} to {windows.train_end}",
                              f"known before {windows.test_start}")


def assessed(frame: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, pd.Series]:
    """Charges of the test days without those of cards already known as compromised, and their labels (0/1).

    A card is known on a day when a fraud on it, charged since the training start, was known before that day began.
    """
    rows = _between(frame, windows.test_start, windows.test_end)
    frauds = frame[(frame.event_day >= pd.Timestamp(windows.train_start)) & frame.known_ts.notna()]
    known_from = frauds.groupby("customer_token").known_ts.min()
    first_known = rows.customer_token.map(known_from)
    rows = rows[~(first_known < rows.event_day)]
    labels = rows.known_ts.notna().astype("int8")
    return rows, _with_frauds(labels, f"test days {windows.test_start} to {windows.test_end}", "known today")


def _between(frame: pd.DataFrame, first: dt.date, last: dt.date) -> pd.DataFrame:
    return frame[(frame.event_day >= pd.Timestamp(first)) & (frame.event_day <= pd.Timestamp(last))]


def _with_frauds(labels: pd.Series, days: str, known: str) -> pd.Series:
    if labels.empty:
        raise ProtocolError(f"the {days} hold no charge: materialize features/charge for these days first")
    if not labels.any():
        raise ProtocolError(f"the {days} hold no fraud {known}: bring more days or charges, or choose other windows")
    if labels.all():
        raise ProtocolError(f"the {days} hold frauds only: bring genuine charges, or choose other windows")
    return labels
