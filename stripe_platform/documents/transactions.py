"""One document per charge, built from the change log of a ledger range.

Each document carries three fences, one per source table, so that a change is applied once however often, and in
whatever order, ranges are loaded. What was created in the range is inserted; what was only touched is updated.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stripe_platform import progress
from stripe_platform.cdc import daily as dailies
from stripe_platform.documents import change_log
from stripe_platform.documents.control import LoadReport, count_by_day, loaded, record
from stripe_platform.documents.writing import Document, batches, fenced, insert_new, pipelined, update_all

if TYPE_CHECKING:
    from pymongo import UpdateOne
    from pymongo.database import Database

    from resources.lake import Lake

NAME = "transactions"
DAYS_AT_ONCE = 14  # bounds memory: the newest state of this many days' charges is in DuckDB at a time
SOURCES = ("charges", "charge_outcomes", "disputes")
MUTABLE = ("amount", "amount_captured", "amount_refunded", "status", "failure_code")


class UnknownChargeError(RuntimeError):
    """An outcome or dispute names a charge that no loaded day created."""


def load(db: Database[Document], lake: Lake, days: Sequence[dt.date]) -> LoadReport:
    """Bring the changes of these ledger days into `transactions`; days already recorded cost one look-up."""
    report = LoadReport()
    digests = {day: _digest(lake, day) for day in days}
    done = loaded(db, NAME, digests)
    report.skipped_days = len(done)
    todo = sorted(set(days) - done)
    with progress.stage("documents/transactions", len(todo)) as advance:
        for start in range(0, len(todo), DAYS_AT_ONCE):
            chunk = todo[start:start + DAYS_AT_ONCE]
            with change_log.opened(lake, chunk) as log:
                _apply_charges(db, log, report)
                _apply_late_parts(db, log, report)
            record(db, NAME, {day: digests[day] for day in chunk})
            advance(len(chunk))
    report.by_day = count_by_day(db, NAME, sorted(days))
    return report


def take(db: Database[Document], log: change_log.ChangeLog) -> LoadReport:
    """Bring a log's charges, outcomes and disputes into `transactions`; what is there already stays as it is."""
    report = LoadReport()
    _apply_charges(db, log, report)
    _apply_late_parts(db, log, report)
    return report


def standing_days(db: Database[Document], lake: Lake, days: Sequence[dt.date]) -> set[dt.date]:
    """Days of these whose compacted changes are loaded as they are now."""
    compacted = [day for day in days if all(dailies.read(lake, table, day) for table in SOURCES)]
    return loaded(db, NAME, {day: _digest(lake, day) for day in compacted})


def _digest(lake: Lake, day: dt.date) -> str:
    """Identity of the day's changes; `NotContiguousError` names the table that was not compacted."""
    content = hashlib.sha256()
    for table in SOURCES:
        found = dailies.read(lake, table, day)
        if found is None:
            raise dailies.NotContiguousError(
                f"cdc/{table} of {day} is missing: materialize cdc/{table} for {day} first")
        content.update(found.digest.encode())
    return content.hexdigest()


def _apply_charges(db: Database[Document], log: change_log.ChangeLog, report: LoadReport) -> None:
    collection = db[NAME]

    def write(batch: list[tuple[bool, Document]]) -> tuple[int, int]:
        fresh = [document for created_here, document in batch if created_here]
        older = [document for created_here, document in batch if not created_here]
        present = insert_new(collection, fresh)
        updated, missing = _touch(db, [*older, *present])
        return len(fresh) - len(present) + missing, updated

    for inserted, updated in pipelined(write, batches(log.charges())):
        report.inserted += inserted
        report.updated += updated
        report.read += inserted + updated


def _touch(db: Database[Document], documents: Sequence[Document]) -> tuple[int, int]:
    """Fenced updates of documents that stand, inserts of those that do not; returns (updated, inserted)."""
    if not documents:
        return 0, 0
    updated = update_all(db[NAME], list(_updates(documents)))
    ids = [document["_id"] for document in documents]
    standing = {row["_id"] for row in db[NAME].find({"_id": {"$in": ids}}, {"_id": 1})}
    missing = [document for document in documents if document["_id"] not in standing]
    insert_new(db[NAME], missing)
    return updated, len(missing)


def _updates(documents: Sequence[Document]) -> Iterator[UpdateOne]:
    from pymongo import UpdateOne

    for new in documents:
        fence = new["fence"]
        stages = [fenced("charge", fence["charge"], {name: new[name] for name in MUTABLE})]
        stages += [fenced(part, fence[part], {part: new[part]}) for part in ("outcome", "dispute") if fence[part]]
        yield UpdateOne({"_id": new["_id"]}, stages)


def _apply_late_parts(db: Database[Document], log: change_log.ChangeLog, report: LoadReport) -> None:
    """Outcomes and disputes whose charge did not change in the range."""
    from pymongo import UpdateOne

    for batch in batches(log.late_parts()):
        done = update_all(db[NAME], [
            UpdateOne({"_id": key}, [fenced(part, version, {part: value} | ({"status": status} if status else {}))])
            for part, key, value, version, status in batch])
        report.read += done
        report.updated += done
        wanted = {key for _, key, _, _, _ in batch}
        standing = {row["_id"] for row in db[NAME].find({"_id": {"$in": list(wanted)}}, {"_id": 1})}
        if wanted - standing:
            raise UnknownChargeError(
                f"{len(wanted - standing)} outcomes or disputes of this range name charges without a document "
                f"(first: {min(wanted - standing)}): materialize documents/transactions for the earlier days first")
