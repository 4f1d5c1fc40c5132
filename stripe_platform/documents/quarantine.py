"""Documents that the server refuses: put aside beside the records that landing refuses, until a good state comes.

An entry is written before the position that passes its change, and closed after the document that heals it: whoever
dies in between does it again. It names the key, its place in the log and the rule, never a value.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stripe_platform.cdc import quarantined
from stripe_platform.cdc.pgoutput import lsn_text
from stripe_platform.documents.schemas import QUARANTINE
from stripe_platform.documents.writing import Document, DocumentRefusedError

if TYPE_CHECKING:
    from pymongo.database import Database

UNKNOWN_DAY = dt.date.min.isoformat()


@dataclass(frozen=True)
class Refused:
    """A document that is not as the log says. `fence`: identity of its newest change, `day`: its event day."""

    fence: str
    rule: str
    day: str = UNKNOWN_DAY


@dataclass
class Outcome:
    """What a load met: `good` with the fence of the state that stands now, and `refused`, by key."""

    good: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)

    def refuse(self, key: str, refused: Refused) -> None:
        """Put a key aside, up to its newest change."""
        before = self.refused.get(key)
        if before is None or before.fence < refused.fence:
            self.refused[key] = refused
        if len(self.refused) > quarantined.MOST:
            raise DocumentRefusedError(
                f"the document server refuses more than {quarantined.MOST:,} documents at once (last by"
                f" {refused.rule}): the loader and documents/schemas.py disagree, correct the one that is wrong")


def entries(db: Database[Document], collection: str) -> dict[str, str]:
    """Fence by key of what a collection has put aside."""
    return {row["key"]: row["fence"] for row in db[QUARANTINE].find(
        {"collection": collection, **quarantined.FED_BY_THE_LOG}, {"key": 1, "fence": 1})}


def settle(db: Database[Document], collection: str, source: str, known: Mapping[str, str], met: Outcome) -> None:
    """Write what a load put aside, and close what it healed. `known`: the entries before it."""
    from pymongo import DeleteOne, ReplaceOne

    now = dt.datetime.now(dt.UTC)
    changes: list[Any] = [
        ReplaceOne({"_id": f"{collection}:{key}"}, {
            "_id": f"{collection}:{key}", "collection": collection, "day": refused.day, "record": key,
            "rule": refused.rule, "reason": quarantined.REMEDY, "seen_at": now, "key": key, "source": source,
            "fence": refused.fence}, upsert=True)
        for key, refused in met.refused.items() if known.get(key, "") < refused.fence]
    changes += [DeleteOne({"_id": f"{collection}:{key}"}) for key, fence in known.items()
                if key not in met.refused and met.good.get(key, "") >= fence]
    if changes:
        db[QUARANTINE].bulk_write(changes, ordered=False)


def listing(db: Database[Document]) -> list[dict[str, Any]]:
    """Every entry, as `warehouse.release.listing` has them."""
    found = []
    for row in db[QUARANTINE].find(quarantined.FED_BY_THE_LOG).sort("_id", 1):
        epoch, lsn, order = row["fence"].rsplit(":", 2)
        found.append({
            "store": "documents", "table": row["collection"], "id": quarantined.shown(row["key"]),
            "key_hash": hashlib.sha256(row["key"].encode()).hexdigest(), "source": row["source"], "epoch": epoch,
            "commit_lsn": lsn_text(int(lsn, 16)), "ord": int(order, 16), "rule": row["rule"],
            "remedy": row["reason"]})
    return found
