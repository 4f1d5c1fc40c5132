"""The fraud model: figures that can be true, and a stored model that is the one it says it is."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asset_checks.judge import ROWS, WHOLE, Check
from asset_checks.rules import none_of
from asset_checks.stores import Stores
from asset_checks.suites.counting import frame
from stripe_platform.features.declarations import feature_set_hash
from stripe_platform.keys import key

if TYPE_CHECKING:
    import pandas as pd

# On the handbook's data honest models end near .70 and one that sees tomorrow's labels near .80.
LEAKAGE_ALARM = 0.78
FRAUDS_FOR_THE_ALARM = 100  # on fewer frauds average precision swings too far to accuse anyone


def _model(stores: Stores, _days: Sequence[dt.date]) -> pd.DataFrame:
    signature = stores.models().load().signature
    metrics: Mapping[str, float] = signature["metrics"]
    rows, frauds = signature["rows"]["test"], signature["frauds"]["test"]
    precision, auc = metrics["average_precision"], metrics["roc_auc"]
    return frame({WHOLE: {
        ROWS: rows, "training_rows": signature["rows"]["training"], "test_frauds": frauds,
        "metrics_not_finite": sum(not math.isfinite(value) for value in metrics.values()),
        "metrics_outside": sum(not 0 <= value <= 1 for value in metrics.values()),
        "chance_or_worse": int(not (precision > frauds / rows and auc > 0.5)),
        "too_good_to_be_true": int(precision > LEAKAGE_ALARM and frauds >= FRAUDS_FOR_THE_ALARM),
        "other_feature_sets": int(signature["feature_set_hash"] != feature_set_hash()),
    }})


CHECKS = [
    Check(
        key("fraud", "model"), "figures_are_plausible",
        "Metrics are finite, better than chance, below the leakage alarm, of the declared feature set.",
        _model, none_of("metrics_not_finite", "metrics_outside", "chance_or_worse", "too_good_to_be_true",
                        "other_feature_sets"),
        {ROWS: 1, "training_rows": 1, "test_frauds": 1}, partitioned=False),
]
