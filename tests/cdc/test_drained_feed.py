"""Loading days and the log they write: what waits for the capture stays a part of what the slot may keep."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from resources.lake import LocalLake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import capture, writer_lock
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.slot import ensure_slot
from stripe_platform.cdc.source import OLTP
from stripe_platform.feeds import DrainedFeed, FeedSpec, current_feed
from stripe_platform.oltp.assets import bring
from stripe_platform.settings import Settings, load_settings

DAYS = [dt.date(2026, 6, 1), dt.date(2026, 6, 2)]


@pytest.fixture
def shop(both: Settings, lake: Path) -> Settings:
    settings = load_settings()
    FeedSpec.simulated(days=2, per_day=40, dispute_lag_days=1).remember(settings)
    ensure_slot(settings)
    return settings


def test_days_are_landed_as_they_close_where_their_log_would_fill_what_the_slot_may_keep(shop: Settings):
    lake = LocalLake(Path(shop.lake))
    bring(DrainedFeed(current_feed(shop), shop), DAYS[:1])
    assert manifests.last(lake) is None  # a small day waits for the run's own capture
    bring(DrainedFeed(current_feed(shop), shop, part=0), DAYS[1:])
    assert manifests.last_closed(lake) == DAYS[1]
    assert slot_metrics(shop, OLTP).unacknowledged_bytes < 1 << 20


def test_two_days_side_by_side_are_landed_once(shop: Settings):
    loads = bring(DrainedFeed(current_feed(shop), shop, part=0), DAYS)
    assert [load.day for load in loads] == DAYS
    capture(shop)
    assert manifests.last_closed(LocalLake(Path(shop.lake))) == DAYS[1]


def test_a_day_is_loaded_also_while_another_capture_reads(shop: Settings):
    with writer_lock(shop, 0):
        bring(DrainedFeed(current_feed(shop), shop, part=0), DAYS[:1])
    assert manifests.last(LocalLake(Path(shop.lake))) is None


def test_a_source_without_a_slot_is_loaded_and_none_is_made(both: Settings, lake: Path):
    settings = load_settings()
    FeedSpec.simulated(days=1, per_day=40, dispute_lag_days=1).remember(settings)
    bring(DrainedFeed(current_feed(settings), settings, part=0), DAYS[:1])
    assert slot_metrics(settings, OLTP).wal_status == "missing"
