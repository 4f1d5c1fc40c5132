"""Asset checks: one factory with Great Expectations behind it, and declared suites by layer.

A check counts in the store (never fetching rows), rules judge the counts, and every verdict is one of three:
passed, failed, not evaluated. Rooms never import this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

    from asset_checks.judge import Check


def declared() -> list[Check]:
    """Every check of the platform."""
    from asset_checks.suites import every

    return every()


def load_checks() -> list[dg.AssetChecksDefinition]:
    """Dagster definitions of every check."""
    from asset_checks.factory import build

    return build(declared())
