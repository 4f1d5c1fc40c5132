"""The four figures a fraud model is judged by. Scores: higher is more suspicious; labels: 0 or 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

INSPECTED_CARDS = 100  # cards a team can look into on one day


@dataclass(frozen=True)
class Metrics:
    """Of one assessed week; all lie between 0 and 1."""

    roc_auc: float
    average_precision: float
    card_precision_100: float
    recall_at_fpr_0_1pct: float


def measure(rows: pd.DataFrame, labels: pd.Series, scores: np.ndarray) -> Metrics:
    """All four; `rows` carry event_day and customer_token, aligned with labels and scores."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return Metrics(
        roc_auc=float(roc_auc_score(labels, scores)),
        average_precision=float(average_precision_score(labels, scores)),
        card_precision_100=card_precision(rows, labels, scores, INSPECTED_CARDS),
        recall_at_fpr_0_1pct=recall_at_fpr(labels, scores, 0.001),
    )


def card_precision(rows: pd.DataFrame, labels: pd.Series, scores: np.ndarray, inspected: int) -> float:
    """Mean over days of the share of truly compromised cards among the `inspected` most suspicious ones.

    A card's score is its highest of the day; a card found compromised leaves the days after it. Equal scores are
    ordered by customer_token, so that the figure does not hang on the order of rows.
    """
    table = pd.DataFrame({"day": rows.event_day.to_numpy(), "card": rows.customer_token.to_numpy(),
                          "score": scores, "label": labels.to_numpy()})
    cards = table.groupby(["day", "card"], as_index=False).agg(score=("score", "max"), label=("label", "max"))
    cards = cards.sort_values(["day", "score", "card"], ascending=[True, False, True], kind="stable")
    found: set[str] = set()
    shares = []
    for _, day in cards.groupby("day", sort=True):
        top = day[~day.card.isin(found)].head(inspected)
        hits = top.card[top.label == 1]
        found.update(hits)
        shares.append(len(hits) / inspected)
    return float(np.mean(shares))


def recall_at_fpr(labels: pd.Series, scores: np.ndarray, highest_fpr: float) -> float:
    """Greatest share of frauds caught by one threshold that flags at most this share of genuine charges."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(tpr[fpr <= highest_fpr].max())
