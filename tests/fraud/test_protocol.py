"""Who trains, who is assessed, and which labels are known when."""

from __future__ import annotations

import datetime as dt

import frames
import pandas as pd
import pytest

from stripe_platform.fraud.protocol import ProtocolError, Windows, assessed, training

MAY = dt.date(2026, 5, 1)
W = Windows.starting(MAY)


def charges(*made: tuple[str, int, str, float | None]) -> pd.DataFrame:
    """(id, day of May from 0, customer, days until known or None)."""
    table = pd.DataFrame(made, columns=["charge_id", "day", "customer_token", "lag"])
    table["event_day"] = pd.Timestamp(MAY) + pd.to_timedelta(table.day, "D")
    table["event_ts"] = table.event_day + pd.Timedelta(hours=12)
    table["known_ts"] = table.event_ts + pd.to_timedelta(table.lag, "D")
    return table


def test_seven_days_of_training_seven_of_delay_and_a_test_week():
    assert Windows(MAY, dt.date(2026, 5, 7), dt.date(2026, 5, 15), dt.date(2026, 5, 21)) == W
    assert Windows.ending(dt.date(2026, 5, 21)) == W


def test_a_label_trains_only_if_it_was_known_before_the_test_began():
    frame = charges(("in_time", 6, "a", 7.4), ("too_late", 6, "b", 7.5), ("genuine", 6, "c", None))
    rows, labels = training(frame, W)
    assert dict(zip(rows.charge_id, labels, strict=True)) == {"in_time": 1, "too_late": 0, "genuine": 0}


def test_a_card_known_as_compromised_leaves_the_test_from_the_day_after_it_is_known():
    fraud = ("fraud", 0, "a", 14.0)  # known on the first test day, at noon
    frame = charges(fraud, ("same_day", 14, "a", None), ("day_after", 15, "a", None), ("other", 15, "b", 1.0))
    rows, labels = assessed(frame, W)
    assert rows.charge_id.tolist() == ["same_day", "other"]
    assert labels.tolist() == [0, 1]


def test_frauds_before_the_training_do_not_exclude_a_card():
    frame = charges(("old", -1, "a", 1.0), ("kept", 14, "a", 1.0), ("other", 14, "b", None))
    assert assessed(frame, W)[0].charge_id.tolist() == ["kept", "other"]


@pytest.mark.parametrize(("made", "sentence"), [
    ([("x", 0, "a", None), ("y", 14, "b", 1.0)], "training days 2026-05-01 to 2026-05-07 hold no fraud known before"),
    ([("x", 0, "a", 1.0), ("y", 0, "b", None), ("z", 14, "c", None)],
     "test days 2026-05-15 to 2026-05-21 hold no fraud known today"),
    ([("x", 0, "a", 1.0), ("y", 0, "b", None)], "test days 2026-05-15 to 2026-05-21 hold no charge"),
])
def test_a_window_that_cannot_serve_is_one_sentence_with_a_remedy(made, sentence):
    frame = charges(*made)
    with pytest.raises(ProtocolError, match=sentence):
        _ = training(frame, W), assessed(frame, W)


def test_a_lag_of_seven_days_gives_the_handbooks_days_exactly():
    """Written the handbook's way: frauds of training days, then per test day those of the day eight days earlier."""
    frame = frames.invented(days=21, per_day=300)
    frame["known_ts"] = (frame.event_ts + pd.Timedelta(days=7)).where(frame.known_ts.notna())
    fraud = frame.known_ts.notna()
    start = pd.Timestamp(MAY)
    known = set(frame.customer_token[fraud & (frame.event_day < start + pd.Timedelta(days=7))])
    kept: list[str] = []
    for k in range(7):
        known |= set(frame.customer_token[fraud & (frame.event_day == start + pd.Timedelta(days=7 + k - 1))])
        day = frame[frame.event_day == start + pd.Timedelta(days=14 + k)]
        kept += day.charge_id[~day.customer_token.isin(known)].tolist()
    assert assessed(frame, W)[0].charge_id.tolist() == kept
    assert len(kept) < (frame.event_day >= start + pd.Timedelta(days=14)).sum()
