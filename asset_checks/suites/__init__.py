"""What is checked, declared by layer."""

from __future__ import annotations

from asset_checks.judge import Check
from asset_checks.suites import cdc, documents, features, fraud, ledger, marts, money, oltp, raw, reference, snapshots


def every() -> list[Check]:
    """Every declared check, in the order of the layers."""
    rooms = (reference, oltp, ledger, cdc, raw, snapshots, money, documents, marts, features, fraud)
    return [check for room in rooms for check in room.CHECKS]
