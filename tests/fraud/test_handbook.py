"""The handbook's data by the handbook's protocol: its rows, its bar, and an alarm for figures too good to be true."""

from __future__ import annotations

import datetime as dt

import facts
import frames
import numpy as np
import pandas as pd
import pytest

from stripe_platform.fraud import train
from stripe_platform.fraud.metrics import measure
from stripe_platform.fraud.model import train_and_evaluate
from stripe_platform.fraud.protocol import Windows, assessed, training

pytestmark = pytest.mark.skipif(
    not facts.FDH.exists(), reason=f"the Fraud Detection Handbook's transactions are not at {facts.FDH}")

LEAKAGE_ALARM = 0.78  # a near-Bayes ceiling plus one standard deviation: better means that a feature looks ahead


def alarmed(average_precision: float) -> bool:
    return average_precision > LEAKAGE_ALARM


@pytest.fixture(scope="module")
def week():
    return train_and_evaluate(frames.handbook(), Windows.starting(dt.date(2018, 7, 25)))


@pytest.mark.parametrize(("start", "trained", "tested"), [
    (dt.date(2018, 7, 25), (67_240, 598), (58_264, 385)),
    (dt.date(2018, 7, 11), (66_928, 633), (58_505, 374)),
    (dt.date(2018, 7, 4), (66_954, 600), (57_931, 351)),
    (dt.date(2018, 6, 27), (67_574, 611), (57_800, 411)),
    (dt.date(2018, 6, 20), (66_864, 633), (57_182, 416)),
])
def test_rows_and_frauds_are_the_handbooks(start, trained, tested):
    for (_, labels), expected in zip(
        (training(frames.handbook(), Windows.starting(start)), assessed(frames.handbook(), Windows.starting(start))),
        (trained, tested), strict=True,
    ):
        assert (len(labels), int(labels.sum())) == expected


def test_the_newest_windows_of_the_data_are_the_handbooks_single_split():
    assert Windows.ending(frames.handbook().event_day.max().date()) == Windows.starting(dt.date(2018, 7, 25))


def test_the_model_reaches_the_published_quality(week):
    assert week.metrics.average_precision >= 0.64
    assert week.metrics.roc_auc >= 0.86
    assert 0.25 <= week.metrics.card_precision_100 <= 0.42  # more cards are not compromised on a day
    assert week.metrics.recall_at_fpr_0_1pct >= 0.55


def test_the_model_is_not_too_good_to_be_true(week):
    assert not alarmed(week.metrics.average_precision)


def test_the_alarm_rings_for_a_feature_that_looks_ahead():
    frame = frames.handbook()
    ahead = frame.customer_token.map(frame.known_ts.notna().groupby(frame.customer_token).sum())
    leaky = frame.assign(customer_nb_tx_30d=np.where(frame.known_ts.notna(), ahead, -1).astype(float))
    week = Windows.starting(dt.date(2018, 7, 25))
    (rows, labels), (tested, truth) = training(leaky, week), assessed(leaky, week)
    scores = train.fit(train.matrix(rows), labels.to_numpy()).predict(train.matrix(tested))
    assert alarmed(measure(tested, truth, scores).average_precision)


@pytest.mark.servers
def test_the_warehouse_computes_the_same_features_as_python(warehouse):
    """Twelve days of the real data: every row, every feature."""
    import psycopg

    from stripe_platform.features.build import build
    from stripe_platform.fraud import dataset

    first, last = "2018-06-11", "2018-06-22"
    charges, disputes = facts.handbook(first, last)
    with psycopg.connect(warehouse.need("warehouse_dsn"), autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        facts.write(connection, charges, disputes)
        build(connection, pd.Timestamp(first).date(), pd.Timestamp(last).date())
        stored = dataset.read(connection, *dataset.span(connection))
    expected = frames.with_features(charges, disputes)[list(stored.columns)]
    pd.testing.assert_frame_equal(stored, expected.astype(stored.dtypes.to_dict()), rtol=1e-12)
