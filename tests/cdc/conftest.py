"""What the CDC tests share: a source with its slot and a lake."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.lake import LocalLake
from stripe_platform.cdc.capture import ensure_slot
from stripe_platform.settings import Settings, load_settings


@pytest.fixture
def source(oltp: Settings, lake, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A fresh OLTP with a slot made before its first row, and an empty lake."""
    monkeypatch.setenv("STRIPE_PLATFORM_FIRST_DAY", "2026-06-01")
    settings = load_settings()
    ensure_slot(settings)
    return settings


@pytest.fixture
def store(source: Settings) -> LocalLake:
    return LocalLake(Path(source.lake))
