"""What is checked, declared by layer."""

from __future__ import annotations

from asset_checks.judge import Check
from asset_checks.suites import (
    cdc,
    documents,
    features,
    fraud,
    ledger,
    marts,
    money,
    oltp,
    raw,
    reference,
    snapshots,
    staleness,
)


def every() -> list[Check]:
    """Every declared check: how stale each consumer is, then in the order of the layers."""
    rooms = (staleness, reference, oltp, ledger, cdc, raw, snapshots, money, documents, marts, features, fraud)
    return [check for room in rooms for check in room.CHECKS]
