"""What each feature of a charge means: one declaration per feature, from which the offline SQL is generated.

A declaration holds everything an online update needs too: whose history it is (entity), which aggregate, over which
window, how long the newest charges are held back (delay). Nothing about how to compute it stands here.

Point in time, for a charge at time t:
* a window is (t - delay - window, t - delay]; without delay it ends with the charge itself, and of charges with the
  same timestamp those with the smaller id come first;
* a charge counts as fraud only from the moment a dispute with reason `fraudulent` was created: created <= t.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

LABEL_DELAY_DAYS = 7  # the handbook's: terminals are judged by charges old enough for their disputes to be in
SEMANTICS = 1  # raise it when the same declarations come to mean other numbers

Entity = Literal["customer", "terminal"]
ENTITY_COLUMNS: dict[Entity, str] = {"customer": "customer_token", "terminal": "terminal_id"}


@dataclass(frozen=True)
class Current:
    """A value of the charge itself: amount in major units of the reporting currency, or a calendar flag (0/1, UTC)."""

    name: str
    value: Literal["amount", "weekend", "night"]
    description: str


@dataclass(frozen=True)
class Rolling:
    """An aggregate over an entity's charges in a window of days; null where the charge has no such entity.

    `count`: charges; `mean_amount`: mean amount in major units of those whose day has an exchange rate, null without
    any; `fraud_share`: known frauds / charges, 0 when the window is empty. Failed charges moved no money and are not
    counted.
    """

    name: str
    entity: Entity
    aggregate: Literal["count", "mean_amount", "fraud_share"]
    window_days: int
    description: str
    delay_days: int = 0

    def __post_init__(self) -> None:
        if self.window_days <= 0 or self.delay_days < 0:
            raise ValueError(f"feature {self.name}: the window must be positive and the delay not negative")
        if self.aggregate == "fraud_share" and self.delay_days == 0:
            raise ValueError(f"feature {self.name}: a share of frauds needs a delay, no label is known at once")

    @property
    def reach_days(self) -> int:
        """Days of history before the charge that the window can touch."""
        return self.window_days + self.delay_days


Feature = Current | Rolling

WINDOWS = (1, 7, 30)
FEATURES: tuple[Feature, ...] = (
    Current("amount", "amount", "Amount in major units of the reporting currency at the day's rate, null without one"),
    Current("during_weekend", "weekend", "1 on Saturday and Sunday (UTC)"),
    Current("during_night", "night", "1 from 00:00 to 06:59 (UTC)"),
    *(Rolling(f"customer_nb_tx_{w}d", "customer", "count", w, f"Charges of the customer in {w} days, this one included")
      for w in WINDOWS),
    *(Rolling(f"customer_avg_amount_{w}d", "customer", "mean_amount", w,
              f"Mean amount of the customer's charges in {w} days, this one included") for w in WINDOWS),
    *(Rolling(f"terminal_nb_tx_{w}d", "terminal", "count", w,
              f"Charges at the terminal in the {w} days that ended {LABEL_DELAY_DAYS} days ago", LABEL_DELAY_DAYS)
      for w in WINDOWS),
    *(Rolling(f"terminal_risk_{w}d", "terminal", "fraud_share", w,
              f"Share of known frauds among the charges at the terminal in the {w} days that ended "
              f"{LABEL_DELAY_DAYS} days ago", LABEL_DELAY_DAYS) for w in WINDOWS),
)
FEATURE_NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)


def history_days(features: tuple[Feature, ...] = FEATURES) -> int:
    """Days of charges before the first wanted day that the features need."""
    return max((f.reach_days for f in features if isinstance(f, Rolling)), default=0)


def feature_set_hash(features: tuple[Feature, ...] = FEATURES) -> str:
    """Name of this set of definitions: a model trained under one hash is refused under another.

    Changes with order, names and meaning; not with descriptions.
    """
    meaning = [{k: v for k, v in {"kind": type(f).__name__, **asdict(f)}.items() if k != "description"}
               for f in features]
    text = json.dumps({"semantics": SEMANTICS, "features": meaning}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
