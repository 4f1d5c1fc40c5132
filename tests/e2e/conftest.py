"""One small platform, made by the command users type, shared by the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from platforms import Platform, new_platform

__all__ = ["demo", "new_platform"]
SMALL = ("--per-day", "300")  # 28 days: enough frauds to train on, seconds instead of minutes


@pytest.fixture(scope="session")
def demo(new_platform: Callable[[str], Platform]) -> tuple[Platform, dict]:
    """A platform after `stripe-platform demo`, and what the command reported."""
    platform = new_platform("demo")
    return platform, platform.json("demo", *SMALL)
