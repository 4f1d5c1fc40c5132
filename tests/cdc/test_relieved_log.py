"""Loading days and the log they write: what waits for the capture stays a part of what the slot may keep."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path

import pytest

from resources.lake import LocalLake
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.capture import capture, writer_lock
from stripe_platform.cdc.metrics import slot_metrics
from stripe_platform.cdc.slot import ensure_slot
from stripe_platform.cdc.source import OLTP
from stripe_platform.feeds import FeedSpec, current_feed, relieve
from stripe_platform.oltp.assets import bring
from stripe_platform.settings import Settings, load_settings

DAYS = [dt.date(2026, 6, 1), dt.date(2026, 6, 2)]


@pytest.fixture
def loaded(both: Settings, lake: Path) -> Settings:
    settings = load_settings()
    FeedSpec.simulated(days=2, per_day=40, dispute_lag_days=1).remember(settings)
    return settings


def load(settings: Settings, days: list[dt.date], part: float) -> list[dt.date]:
    return [each.day for each in bring(current_feed(settings), days, partial(relieve, settings, part))]


def test_days_are_landed_as_they_close_where_their_log_would_fill_what_the_slot_may_keep(loaded: Settings):
    ensure_slot(loaded)
    lake = LocalLake(Path(loaded.lake))
    load(loaded, DAYS[:1], part=0.25)
    assert manifests.last(lake) is None  # a small day waits for the run's own capture
    load(loaded, DAYS[1:], part=0)
    assert manifests.last_closed(lake) == DAYS[1]
    assert slot_metrics(loaded, OLTP).unacknowledged_bytes < 1 << 20


def test_two_days_side_by_side_are_landed_once(loaded: Settings):
    ensure_slot(loaded)
    assert load(loaded, DAYS, part=0) == DAYS
    capture(loaded)
    assert manifests.last_closed(LocalLake(Path(loaded.lake))) == DAYS[1]


def test_a_day_is_loaded_also_while_another_capture_reads(loaded: Settings):
    ensure_slot(loaded)
    with writer_lock(loaded, 0):
        assert load(loaded, DAYS[:1], part=0) == DAYS[:1]
    assert manifests.last(LocalLake(Path(loaded.lake))) is None


def test_a_source_without_a_slot_is_loaded_and_none_is_made(loaded: Settings):
    load(loaded, DAYS[:1], part=0)
    assert slot_metrics(loaded, OLTP).wal_status == "missing"


def test_a_deployment_that_does_not_read_the_log_itself_loads_days(loaded: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("STRIPE_PLATFORM_CDC_DSN")
    assert load(load_settings(), DAYS[:1], part=0) == DAYS[:1]
