"""Reading a large collection a slice at a time, by day and instant of creation.

An aggregate of the embedded server holds every document that it matches: 4.6 million charges took 20 GB and the server
was killed. Of a slice it holds a few ten thousand, on a MongoDB the index (day, created) serves each.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

INSTANT = {"sessions": "started_at"}  # by collection, where it is not `created`
AT_ONCE = 50_000  # documents a slice should have
FIRST, OF_A_NEW_DAY, GROWTH = dt.timedelta(hours=1), dt.timedelta(hours=6), 4
LEAST, DAY = dt.timedelta(seconds=1), dt.timedelta(days=1)
Condition = dict[str, Any]


def in_slices(collection: str, days: Sequence[dt.date], read: Callable[[Condition], int], *,
              off: bool = False) -> None:
    """Call `read` with conditions that together match every document of these days, each one once.

    It returns how many it found, from which the next slice's length is taken. `off`: documents of earlier and later
    days too, which are taken to be few.
    """
    length, instant = FIRST, INSTANT.get(collection, "created")
    if off:
        read({"day": {"$lt": min(days).isoformat()}})
        read({"day": {"$gt": max(days).isoformat()}})
    for day in days:
        begin = dt.datetime.combine(day, dt.time(), dt.UTC)
        length, at, end = min(length, OF_A_NEW_DAY), begin, begin + DAY
        while at < end:
            until = min(at + length, end)
            # Open at both ends: what was created off its day is read with the day's first or last.
            bounds = ({"$gte": at} if at > begin else {}) | ({"$lt": until} if until < end else {})
            found = read({"day": day.isoformat()} | ({instant: bounds} if bounds else {}))
            fitting = (until - at) * (AT_ONCE / found) if found else length * GROWTH
            length, at = min(max(fitting, LEAST), length * GROWTH, DAY), until


def grouped(db: Documents, collection: str, days: Sequence[dt.date], key: Mapping[str, Any] | str | None,
            sums: Mapping[str, Any], match: Condition | None = None, *, off: bool = False) -> list[dict[str, Any]]:
    """`$group` by `key` with the `$sum`s of `sums` and a count `n`, over the documents of these days (`in_slices`)."""
    group = {"$group": {"_id": key, "n": {"$sum": 1}, **{name: {"$sum": each} for name, each in sums.items()}}}
    found: dict[Any, dict[str, Any]] = {}

    def read(condition: Condition) -> int:
        rows = list(db[collection].aggregate([{"$match": condition | (match or {})}, group]))
        for row in rows:
            name = tuple(row["_id"].items()) if isinstance(row["_id"], dict) else row["_id"]
            total = found.setdefault(name, {"_id": row["_id"], "n": 0} | dict.fromkeys(sums, 0))
            for each in ("n", *sums):
                total[each] += row[each]
        return sum(row["n"] for row in rows)

    in_slices(collection, days, read, off=off)
    return list(found.values())


def counted(db: Documents, collection: str, days: Sequence[dt.date]) -> dict[str, int]:
    """Documents of each day, 0 for a day without any."""
    found = {day.isoformat(): 0 for day in days}

    def read(condition: Condition) -> int:
        # The plain command answers from the index; an aggregation reads the documents on the embedded server.
        number = int(db.command("count", collection, query=condition)["n"])
        found[condition["day"]] += number
        return number

    in_slices(collection, days, read)
    return found
