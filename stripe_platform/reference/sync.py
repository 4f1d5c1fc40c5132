"""`sync`: what stands in the reference reaches its copies: captured from the log, then applied. Idempotent, kill-safe.

Whoever writes to the reference and then needs the row as a foreign key calls it, and so does whoever closes an OLTP
day: the reference has no days of its own, its changes belong to the day in which their copies were committed. A day
is closed when every source closed it: the OLTP closes it after the copies reached what the reference held then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from resources.lake import Lake, open_lake
from stripe_platform.cdc.capture import CaptureBusyError, capture, writer_lock
from stripe_platform.cdc.slot import ensure_slot
from stripe_platform.reference.copies import copy
from stripe_platform.reference.database import REFERENCE, connect
from stripe_platform.reference.fill import fill, seed
from stripe_platform.settings import Settings

TICK_SECONDS = 10.0  # of a sensor's tick
PATIENCE = 60.0  # with another capture of the reference


@dataclass
class SyncReport:
    """Changes captured now and rows of the copies that changed, by table; `position`: how far the copies are."""

    captured: dict[str, int] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    position: str | None = None
    seconds: float = 0.0


def sync(settings: Settings, *, lake: Lake | None = None, wait_seconds: float = PATIENCE,
         budget_seconds: float | None = None) -> SyncReport:
    """Bring the copies to what the reference holds now. `lake`: the whole lake, where it is open already.

    Raises `CaptureBusyError` when another process captures for longer than `wait_seconds`, and `CopyError`.
    """
    begun = time.monotonic()
    own = REFERENCE.lake(settings, lake or open_lake(settings))
    captured = capture(settings, lake=own, source=REFERENCE, wait_seconds=wait_seconds, budget_seconds=budget_seconds)
    copied = copy(settings, own)
    return SyncReport(captured.rows, copied.rows, str(copied.position) if copied.position else None,
                      round(time.monotonic() - begun, 3))


def prepare(settings: Settings) -> SyncReport:
    """The reference ready for use: its slot, what an older payments database held, the seeds, and the copies."""
    with writer_lock(settings, PATIENCE, REFERENCE):
        ensure_slot(settings, source=REFERENCE)  # before the first commit: what precedes the slot is not captured
    with connect(settings) as conn:
        fill(conn, settings)
        seed(conn)
    return sync(settings)


def follow(settings: Settings) -> str:
    """For a sensor's tick: bring the copies up without waiting for others; what was done."""
    try:
        report = sync(settings, wait_seconds=0.0, budget_seconds=TICK_SECONDS)
    except CaptureBusyError:
        return "the reference is being copied"
    return f"copied {sum(report.copied.values())} reference rows"
