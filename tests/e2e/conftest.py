"""One small platform, made by the command users type, shared by the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from platforms import SMALL, Platform, new_platform

__all__ = ["demo", "new_platform"]


@pytest.fixture(scope="session")
def demo(new_platform: Callable[[str], Platform]) -> tuple[Platform, dict]:
    """A platform after `stripe-platform demo`, and what the command reported."""
    platform = new_platform("demo")
    return platform, platform.json("demo", *SMALL)
