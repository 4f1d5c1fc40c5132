"""From score to decision: allow, review or block, by limits learnt beside the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCKED_GENUINE = 0.001  # share of genuine charges a block may hit
REVIEWED = 0.01  # share of all charges people can look at: about the handbook's 100 cards a day


@dataclass(frozen=True)
class Thresholds:
    """A charge is blocked from `block` on, reviewed from `review` on, otherwise allowed. review <= block."""

    review: float
    block: float

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """allow, review or block for each score."""
        return np.where(scores >= self.block, "block", np.where(scores >= self.review, "review", "allow"))


def thresholds(scores: np.ndarray, labels: np.ndarray) -> Thresholds:
    """Limits that would have blocked at most .1 % of the genuine and flagged at most 1 % of all these charges.

    Scores must come from models that did not see these charges. Each limit lies just above the highest score that
    may pass, so that charges tied with it pass too.
    """
    block = _limit(scores[labels == 0], BLOCKED_GENUINE)
    return Thresholds(review=min(_limit(scores, REVIEWED), block), block=block)


def _limit(scores: np.ndarray, share: float) -> float:
    """The lowest score that at most `share` of these reach."""
    ordered = np.sort(scores)[::-1]
    passing = ordered[int(len(ordered) * share)]
    return float(np.nextafter(passing, np.inf))
