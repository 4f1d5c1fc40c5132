"""Which source of which day is fully in a collection: written after the data, so a killed load is done again."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Int64

from stripe_platform.documents.schemas import LOADS, STREAMS

if TYPE_CHECKING:
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]


@dataclass
class LoadReport:
    """What one load did. `by_day` counts documents standing in the collection per event day of the range."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    quarantined: int = 0
    skipped_days: int = 0
    by_day: dict[str, int] = field(default_factory=dict)


def loaded(db: Documents, collection: str, digests: dict[dt.date, str]) -> set[dt.date]:
    """Days whose recorded digest is the one given."""
    wanted = [day.isoformat() for day in digests]
    found = {row["day"]: row["digest"] for row in db[LOADS].find({"collection": collection, "day": {"$in": wanted}})}
    return {day for day, digest in digests.items() if found.get(day.isoformat()) == digest}


def record(
    db: Documents, collection: str, digests: dict[dt.date, str], rows: dict[dt.date, tuple[int, int]] | None = None
) -> None:
    """Say that these days are complete; `rows`: (stored, quarantined) by day where the source counts them."""
    from pymongo import ReplaceOne

    now = dt.datetime.now(dt.UTC)
    db[LOADS].bulk_write([
        ReplaceOne({"_id": f"{collection}:{day.isoformat()}"}, {
            "_id": f"{collection}:{day.isoformat()}", "collection": collection, "day": day.isoformat(),
            "digest": digest, "rows": Int64((rows or {}).get(day, (0, 0))[0]),
            "quarantined": Int64((rows or {}).get(day, (0, 0))[1]), "loaded_at": now,
        }, upsert=True)
        for day, digest in digests.items()])


def streamed(db: Documents, collection: str) -> tuple[int, int]:
    """(last batch that is whole in a collection, last one that may be there in part); zeros where none was streamed."""
    row = db[STREAMS].find_one({"_id": collection})
    return (int(row["done"]), int(row["applying"])) if row else (0, 0)


def streaming(db: Documents, collection: str, done: int, applying: int) -> None:
    """Say before batches are written which, and after them that they are there."""
    db[STREAMS].replace_one({"_id": collection}, {
        "_id": collection, "done": Int64(done), "applying": Int64(applying), "at": dt.datetime.now(dt.UTC),
    }, upsert=True)
