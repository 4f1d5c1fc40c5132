"""From a frame of charges to a stored model with its figures, and from a stored model to scores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from resources.model_registry import ModelStoreError, StoredModel
from stripe_platform.features.declarations import FEATURE_NAMES, feature_set_hash
from stripe_platform.fraud import protocol, train
from stripe_platform.fraud.decisions import Thresholds
from stripe_platform.fraud.metrics import Metrics, measure
from stripe_platform.fraud.plot import picture
from stripe_platform.fraud.protocol import Windows


@dataclass(frozen=True)
class Trained:
    """A model and what was measured on the assessed week; `signature` is what the registry keeps."""

    text: str
    signature: dict[str, Any]
    metrics: Metrics
    png: bytes


def train_and_evaluate(frame: pd.DataFrame, windows: Windows) -> Trained:
    """Train on the training days, measure on the test days. `frame` as `dataset.read` gives it.

    Deterministic: the same rows give the same text and signature. Raises `ProtocolError` when a window has no fraud.
    """
    import lightgbm as lgb

    rows, labels = train.in_order(*protocol.training(frame, windows))
    tested, truth = protocol.assessed(frame, windows)
    text = train.fit(train.matrix(rows), labels.to_numpy()).model_to_string()
    limits = train.decision_thresholds(rows, labels)
    scores = predict(text, tested)
    metrics = measure(tested, truth, scores)
    signature: dict[str, Any] = {
        "features": list(FEATURE_NAMES),
        "feature_set_hash": feature_set_hash(),
        "params": {**train.PARAMS, "num_boost_round": train.ROUNDS},
        "lightgbm": lgb.__version__,
        "windows": {name: day.isoformat() for name, day in asdict(windows).items()},
        "data_digest": train.digest(rows, labels),
        "thresholds": asdict(limits),
        "metrics": asdict(metrics),
        "rows": {"training": len(rows), "test": len(tested)},
        "frauds": {"training": int(labels.sum()), "test": int(truth.sum())},
    }
    title = f"{windows.test_start} to {windows.test_end}"
    return Trained(text, signature, metrics, picture(truth, scores, limits, title))


def predict(text: str, rows: pd.DataFrame) -> np.ndarray:
    """Score in [0, 1] for each row."""
    import lightgbm as lgb

    return np.asarray(lgb.Booster(model_str=text).predict(train.matrix(rows)))


def score(model: StoredModel, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Scores and decisions of charges whose features are of the declared set.

    A model trained under another feature set is refused: its columns would mean something else.
    """
    trained_under = model.signature["feature_set_hash"]
    if trained_under != feature_set_hash():
        raise ModelStoreError(
            f"model {model.version} was trained with feature set {trained_under[:12]}, charges carry "
            f"{feature_set_hash()[:12]}: materialize fraud/model again")
    scores = predict(model.text, rows)
    return scores, Thresholds(**model.signature["thresholds"]).decide(scores)


def assessed_days(signature: Mapping[str, Any]) -> tuple[dt.date, dt.date]:
    """First and last day that a stored model was tested on: the days whose charges are scored in batch."""
    days = signature["windows"]
    return dt.date.fromisoformat(days["test_start"]), dt.date.fromisoformat(days["test_end"])
