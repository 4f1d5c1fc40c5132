"""The picture beside the figures: precision-recall curve and score histogram, small enough for run metadata."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stripe_platform import pictures
from stripe_platform.fraud.decisions import Thresholds


def picture(labels: pd.Series, scores: np.ndarray, limits: Thresholds, title: str) -> bytes:
    """PNG of the assessed week: what precision each recall costs, and how scores of both kinds lie."""
    from matplotlib.figure import Figure
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    figure = Figure(figsize=(8.4, 3.2), dpi=80)
    figure.subplots_adjust(left=0.08, right=0.99, bottom=0.16, top=0.9, wspace=0.2)  # a solved layout takes seconds
    curve, histogram = figure.subplots(1, 2)
    curve.step(recall, precision, where="post", color=pictures.ACCENT)
    curve.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02),
              title=f"average precision {average_precision_score(labels, scores):.3f}")
    truth = labels.to_numpy()
    for kind, colour, name in ((0, pictures.CALM, "genuine"), (1, pictures.ALARM, "fraud")):
        histogram.hist(scores[truth == kind], np.linspace(0, 1, 41), log=True, alpha=0.65, color=colour, label=name)
    for limit, name, style in ((limits.review, "review", ":"), (limits.block, "block", "--")):
        histogram.axvline(limit, color=pictures.INK, linewidth=1, linestyle=style, label=name)
    histogram.set(xlabel="score", ylabel="charges", title=title)
    histogram.legend(fontsize=8)
    return pictures.drawn(figure)
