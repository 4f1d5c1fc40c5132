"""The figures against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stripe_platform.fraud.decisions import Thresholds, thresholds
from stripe_platform.fraud.metrics import card_precision, measure, recall_at_fpr


def rows(*charges: tuple[int, str, float, int]) -> tuple[pd.DataFrame, pd.Series, np.ndarray]:
    """(day, card, score, fraud) each."""
    table = pd.DataFrame(charges, columns=["day", "customer_token", "score", "label"])
    table["event_day"] = pd.Timestamp("2026-05-01") + pd.to_timedelta(table.day, "D")
    return table[["event_day", "customer_token"]], table.label, table.score.to_numpy()


def test_a_card_is_judged_by_its_highest_score_and_any_fraud_of_the_day():
    # b's fraud has a low score, but another charge of b leads: the card is found
    case = rows((0, "a", 0.5, 0), (0, "b", 0.9, 0), (0, "b", 0.1, 1), (0, "c", 0.6, 0))
    assert card_precision(*case, inspected=1) == 1.0


def test_a_card_found_on_one_day_makes_room_on_the_next():
    case = rows((0, "a", 0.9, 1), (1, "a", 0.9, 1), (1, "b", 0.5, 1), (1, "c", 0.4, 0))
    assert card_precision(*case, inspected=1) == 1.0
    unfound = rows((0, "a", 0.9, 0), (1, "a", 0.9, 0), (1, "b", 0.5, 1))
    assert card_precision(*unfound, inspected=1) == 0.0


def test_fewer_cards_than_can_be_inspected_still_count_against_the_hundred():
    assert card_precision(*rows((0, "a", 0.9, 1), (0, "b", 0.1, 0)), inspected=100) == pytest.approx(0.01)


def test_equal_scores_are_ordered_by_card_whatever_the_order_of_rows():
    case = [(0, "b", 0.5, 0), (0, "a", 0.5, 1), (0, "c", 0.5, 0)]
    assert card_precision(*rows(*case), inspected=1) == card_precision(*rows(*case[::-1]), inspected=1) == 1.0


def test_recall_at_a_false_positive_rate_counts_ties_as_flagged_together():
    labels = pd.Series([1, 1, 0, 1] + [0] * 999)
    scores = np.array([0.9, 0.8, 0.7, 0.7] + [0.1] * 999)
    assert recall_at_fpr(labels, scores, 0.001) == 1.0  # 1 of 1000 genuine ones
    assert recall_at_fpr(labels, scores, 0.0005) == pytest.approx(2 / 3)


def test_all_four_figures_of_a_perfect_ranking():
    found = measure(*rows((0, "a", 0.9, 1), (0, "b", 0.2, 0), (1, "c", 0.8, 1), (1, "d", 0.1, 0)))
    assert (found.roc_auc, found.average_precision, found.recall_at_fpr_0_1pct) == (1.0, 1.0, 1.0)
    assert found.card_precision_100 == pytest.approx(0.01)


def test_average_precision_of_a_known_ranking():
    # ranks of the frauds: 1 and 3 -> (1/1 + 2/3) / 2
    found = measure(*rows((0, "a", 0.9, 1), (0, "b", 0.8, 0), (0, "c", 0.7, 1), (0, "d", 0.6, 0)))
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.roc_auc == pytest.approx(3 / 4)


def test_limits_block_at_most_one_genuine_charge_in_a_thousand_and_flag_one_in_a_hundred():
    rng = np.random.default_rng(1)
    scores, labels = rng.random(20_000).round(3), (rng.random(20_000) < 0.01).astype(int)
    limits = thresholds(scores, labels)
    decided = limits.decide(scores)
    assert 0 < (decided[labels == 0] == "block").mean() <= 0.001
    assert 0 < (decided != "allow").mean() <= 0.01
    assert limits.review <= limits.block


def test_a_score_at_a_limit_is_decided_by_it():
    decided = Thresholds(review=0.2, block=0.6).decide(np.array([0.1, 0.2, 0.59, 0.6, 1.0]))
    assert decided.tolist() == ["allow", "review", "review", "block", "block"]
