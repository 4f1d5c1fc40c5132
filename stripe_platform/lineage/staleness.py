"""How stale each consumer of the log may be, in one place, and how stale it is by its own position.

`freshness` says which partitions are due; here the position that a consumer keeps is compared with the newest durable
batch (who follows) or the newest closed ledger day (who is brought by days). No clock is asked.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from stripe_platform.cdc.manifest import Chain


@dataclass(frozen=True)
class Bound:
    """What a consumer may lack. `seconds`: of commits, where it follows; `days`: closed ledger days."""

    seconds: int | None = None
    days: int | None = None


# A small tables' run brings the reference's documents where nobody follows: at most a day of its changes.
BOUNDS = {
    "raw": Bound(seconds=30, days=1),
    "documents": Bound(seconds=60, days=1),
    "copies": Bound(seconds=30),
    "reference_documents": Bound(seconds=86_400),
    "marts": Bound(days=1),
    "features": Bound(days=1),
}


@dataclass(frozen=True)
class Staleness:
    """What a consumer lacks: batches, seconds between the oldest commit and the newest in them, closed ledger days."""

    batches: int
    seconds: int
    days: int


def behind(chain: Chain, position: int) -> Staleness:
    """What is durable and not at a consumer that holds the batches up to `position`."""
    lacking = chain.manifests[position:]
    first = next((batch.first_commit for batch in lacking if batch.first_commit), None)
    last = next((batch.last_commit for batch in reversed(lacking) if batch.last_commit), None)
    seconds = (dt.datetime.fromisoformat(last) - dt.datetime.fromisoformat(first)).total_seconds() if (
        first and last) else 0
    return Staleness(len(lacking), int(seconds), sum(batch.closes is not None for batch in lacking))
