"""The declarations: the handbook's fifteen, and a name for them that follows their meaning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stripe_platform.features.declarations import FEATURES, Rolling, feature_set_hash


def test_there_are_the_handbooks_fifteen_features():
    assert len(FEATURES) == len({f.name for f in FEATURES}) == 15


def test_the_hash_follows_meaning_and_order_but_not_wording():
    worded = (replace(FEATURES[0], description="other words"), *FEATURES[1:])
    assert feature_set_hash(worded) == feature_set_hash()
    longer = tuple(replace(f, window_days=31) if isinstance(f, Rolling) and f.window_days == 30 else f
                   for f in FEATURES)
    assert len({feature_set_hash(), feature_set_hash(longer), feature_set_hash(FEATURES[::-1])}) == 3


def test_a_label_feature_without_delay_is_refused():
    with pytest.raises(ValueError, match="no label is known at once"):
        Rolling("leak", "terminal", "fraud_share", 7, "looks ahead")
