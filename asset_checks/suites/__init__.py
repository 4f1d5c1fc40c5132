"""What is checked, declared by layer."""

from __future__ import annotations

from asset_checks.judge import Check


def every() -> list[Check]:
    """Every declared check, in the order of the layers."""
    return []
