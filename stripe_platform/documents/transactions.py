"""One document per charge, built from the change log of a ledger range.

Each document carries three fences, one per source table, so that a change is applied once however often, and in
whatever order, ranges are loaded. What was created in the range is inserted; what was only touched is updated.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from stripe_platform import progress
from stripe_platform.cdc import daily as dailies
from stripe_platform.cdc.quarantined import in_documents
from stripe_platform.cdc.source import OLTP
from stripe_platform.documents import change_log, quarantine
from stripe_platform.documents.control import LoadReport, loaded, record, streamed
from stripe_platform.documents.quarantine import Outcome, Refused
from stripe_platform.documents.slices import counted
from stripe_platform.documents.writing import Document, batches, fenced, insert_new, pipelined, update_all

if TYPE_CHECKING:
    from pymongo import UpdateOne
    from pymongo.database import Database

    from resources.lake import Lake
    from stripe_platform.cdc.manifest import Chain

NAME = "transactions"
# Bound memory: what is loaded at once is in DuckDB, 1.4 KB a change. A larger day is loaded by itself.
DAYS_AT_ONCE, CHANGES_AT_ONCE = 14, 1_500_000
SOURCES = ("charges", "charge_outcomes", "disputes")
HELD = "held with its charge"
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
        for chunk in _at_once(lake, todo):
            known = quarantine.entries(db, NAME)
            with change_log.opened(lake, chunk, again=list(known)) as log:
                _apply(db, log, report, known, Outcome())
            record(db, NAME, {day: digests[day] for day in chunk})
            advance(len(chunk))
    report.by_day = counted(db, NAME, sorted(days))
    report.quarantined = in_documents(db, NAME)
    return report


def _at_once(lake: Lake, days: Sequence[dt.date]) -> Iterator[list[dt.date]]:
    chunk: list[dt.date] = []
    changes = 0
    for day in days:
        own = sum(daily.rows for table in SOURCES if (daily := dailies.read(lake, table, day)) is not None)
        if chunk and (len(chunk) == DAYS_AT_ONCE or changes + own > CHANGES_AT_ONCE):
            yield chunk
            chunk, changes = [], 0
        chunk.append(day)
        changes += own
    if chunk:
        yield chunk


def take(db: Database[Document], log: change_log.ChangeLog, known: Mapping[str, str],
         refused: Mapping[str, Refused]) -> LoadReport:
    """Bring a log's charges, outcomes and disputes into `transactions`; what is there already stays as it is.

    `known`: what was put aside before, by key. `refused`: charges that were left out of the log.
    """
    report = LoadReport()
    _apply(db, log, report, known, Outcome(refused=dict(refused)))
    return report


def _apply(db: Database[Document], log: change_log.ChangeLog, report: LoadReport, known: Mapping[str, str],
           met: Outcome) -> None:
    _apply_charges(db, log, report, met)
    _apply_late_parts(db, log, report, known, met)
    quarantine.settle(db, NAME, OLTP.name, known, met)


def standing_days(db: Database[Document], lake: Lake, days: Sequence[dt.date]) -> set[dt.date]:
    """Days of these whose compacted changes are loaded as they are now."""
    compacted = [day for day in days if all(dailies.read(lake, table, day) for table in SOURCES)]
    return loaded(db, NAME, {day: _digest(lake, day) for day in compacted})


def position(db: Database[Document], lake: Lake, chain: Chain) -> int:
    """The last batch that the documents hold whole: streamed, or loaded by days without a gap."""
    done, standing = streamed(db, NAME)[0], standing_days(db, lake, chain.closed)
    for batch, day in zip(chain.manifests, chain.days, strict=True):
        if batch.seq <= done:
            continue
        if day is None or day not in standing:
            break
        done = batch.seq
    return done


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


def _apply_charges(db: Database[Document], log: change_log.ChangeLog, report: LoadReport, met: Outcome) -> None:
    collection = db[NAME]

    def write(batch: list[tuple[bool, Document]]) -> tuple[int, int, list[tuple[Document, str | None]]]:
        fresh = [document for created_here, document in batch if created_here]
        older = [document for created_here, document in batch if not created_here]
        present, rules = insert_new(collection, fresh)
        # The validator speaks before the key does: what stands may be newer than the state it refuses.
        standing = _standing(db, list(rules))
        doubtful = [document for document in fresh if document["_id"] in standing]
        updated, missing, late = _touch(db, [*older, *present, *doubtful])
        rules = {key: rule for key, rule in rules.items() if key not in standing} | late
        inserted = len(fresh) - len(present) - len(doubtful) + missing - len(rules.keys() - late.keys())
        return inserted, updated, [(document, rules.get(document["_id"])) for _created, document in batch]

    for inserted, updated, documents in pipelined(write, batches(log.charges())):
        report.inserted += inserted
        report.updated += updated
        report.read += len(documents)
        for document, rule in documents:
            fence = max(document["fence"].values())
            if rule is None:
                met.good[document["_id"]] = fence
            else:
                met.refuse(document["_id"], Refused(fence, rule, document["day"] or quarantine.UNKNOWN_DAY))


def _touch(db: Database[Document], documents: Sequence[Document]) -> tuple[int, int, dict[str, str]]:
    """Fenced updates of documents that stand, inserts of those that do not; (updated, inserted, rule of refused)."""
    if not documents:
        return 0, 0, {}
    updated, refused = update_all(db[NAME], list(_updates(documents)))
    standing = _standing(db, [document["_id"] for document in documents])
    missing = [document for document in documents if document["_id"] not in standing]
    _present, rules = insert_new(db[NAME], missing)
    return updated, len(missing) - len(rules), refused | rules


def _standing(db: Database[Document], ids: list[str]) -> set[str]:
    return {row["_id"] for row in db[NAME].find({"_id": {"$in": ids}}, {"_id": 1})} if ids else set()


def _updates(documents: Sequence[Document]) -> Iterator[tuple[str, UpdateOne]]:
    from pymongo import UpdateOne

    for new in documents:
        fence = new["fence"]
        stages = [fenced("charge", fence["charge"], {name: new[name] for name in MUTABLE})]
        stages += [fenced(part, fence[part], {part: new[part]}) for part in ("outcome", "dispute") if fence[part]]
        yield new["_id"], UpdateOne({"_id": new["_id"]}, stages)


def _apply_late_parts(db: Database[Document], log: change_log.ChangeLog, report: LoadReport,
                      known: Mapping[str, str], met: Outcome) -> None:
    """Outcomes and disputes whose charge did not change in the range; those of a charge put aside are held with it."""
    from pymongo import UpdateOne

    for batch in batches(log.late_parts()):
        done, rules = update_all(db[NAME], [
            (key, UpdateOne({"_id": key}, [fenced(part, version, {part: value} | ({"status": status} if status else {}))
                                           ])) for part, key, value, version, status in batch])
        report.read += len(batch)
        report.updated += done
        standing = {row["_id"]: row["day"] for row in db[NAME].find(
            {"_id": {"$in": sorted({key for _, key, _, _, _ in batch})}}, {"day": 1})}
        lost = set()
        for _part, key, _value, version, _status in batch:
            before = met.refused.get(key)
            if key in rules:
                met.refuse(key, Refused(version, rules[key], standing.get(key, quarantine.UNKNOWN_DAY)))
            elif key in standing:
                met.good[key] = max(met.good.get(key, ""), version)
            elif before is not None:
                met.refuse(key, Refused(version, before.rule, before.day))
            elif key in known:
                met.refuse(key, Refused(version, HELD))
            else:
                lost.add(key)
        if lost:
            raise UnknownChargeError(
                f"{len(lost)} outcomes or disputes of this range name charges without a document "
                f"(first: {min(lost)}): materialize documents/transactions for the earlier days first")
