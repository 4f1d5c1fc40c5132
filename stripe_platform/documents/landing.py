"""What other systems drop for us as JSON lines: sessions and customer feedback, one file per day.

A good record becomes a document; a bad one goes to quarantine with its place and the rule it broke, never its values.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stripe_platform import progress
from stripe_platform.cards import holds_card_number
from stripe_platform.documents.control import LoadReport, loaded, record
from stripe_platform.documents.schemas import QUARANTINE, SESSION_RETENTION_DAYS
from stripe_platform.documents.slices import counted
from stripe_platform.documents.writing import Document, batches, insert_new

if TYPE_CHECKING:
    from pymongo.database import Database

ABSENT = "no file"  # digest of a day for which nothing was landed
MAX_LINE = 1_000_000
DAYS_AT_ONCE = 14


class RefusedError(ValueError):
    """A record breaks a rule; `rule` is a short name, the text says what to mend and holds no value."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


@dataclass(frozen=True)
class Refusal:
    """Where a refused record stands, and why."""

    line: int
    rule: str
    reason: str


def load(db: Database[Document], folder: Path, name: str, days: Sequence[dt.date]) -> LoadReport:
    """Bring the landed files of these days into collection `name`; a file already loaded costs one look-up."""
    report = LoadReport()
    digests = {day: _digest(folder / name / f"{day.isoformat()}.jsonl") for day in days}
    done = loaded(db, name, digests)
    report.skipped_days = len(done)
    todo = sorted(set(days) - done)
    with progress.stage(f"documents/{name}", len(todo)) as advance:
        for start in range(0, len(todo), DAYS_AT_ONCE):
            chunk, rows = todo[start:start + DAYS_AT_ONCE], {}
            for day in chunk:
                rows[day] = _load_day(db, folder, name, day, report) if digests[day] != ABSENT else (0, 0)
                advance(1)
            # One wait for the disk for all of them; days that are not recorded are loaded again, to the same end.
            record(db, name, {day: digests[day] for day in chunk}, rows)
    report.by_day = counted(db, name, sorted(days))
    return report


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ABSENT


def _load_day(
    db: Database[Document], folder: Path, name: str, day: dt.date, report: LoadReport
) -> tuple[int, int]:
    """Replace the day by what its file holds; returns (documents, refused records)."""
    make, now = MAKERS[name], dt.datetime.now(dt.UTC)
    good: list[tuple[int, Document]] = []
    refused: list[Refusal] = []
    with (folder / name / f"{day.isoformat()}.jsonl").open("rb") as file:
        for number, line in enumerate(file, start=1):
            report.read += 1
            try:
                good.append((number, make(_parse(line), day, now)))
            except RefusedError as error:
                refused.append(Refusal(number, error.rule, str(error)))
    seen: dict[str, int] = {}
    for number, document in good:
        if document["_id"] in seen:
            refused.append(Refusal(number, "unique_id", f"its id stands in line {seen[document['_id']]} too: "
                                   "give every record its own"))
        seen.setdefault(document["_id"], number)
    unique = [document for number, document in good if seen[document["_id"]] == number]
    # A file that was replaced is the day's truth: what the former one brought goes before the new one comes.
    _clear(db, name, {"day": day.isoformat()})
    stored = 0
    for batch in batches(unique):
        present, invalid = insert_new(db[name], batch)
        refused += [Refusal(seen[name_of], "schema", "it breaks the collection's validator: "
                            "mend type, length or range as documents/schemas.py declares") for name_of in invalid]
        refused += [Refusal(seen[d["_id"]], "unique_id", "its id stands in another day already: "
                            "give every record its own") for d in present]
        stored += len(batch) - len(present) - len(invalid)
    _quarantine(db, name, day, refused, now)
    report.inserted += stored
    report.quarantined += len(refused)
    return stored, len(refused)


def _quarantine(db: Database[Document], name: str, day: dt.date, refused: Sequence[Refusal], now: dt.datetime) -> None:
    _clear(db, QUARANTINE, {"collection": name, "day": day.isoformat()})
    if refused:
        db[QUARANTINE].insert_many([
            {"_id": f"{name}:{day.isoformat()}:{refusal.line}", "collection": name, "day": day.isoformat(),
             "record": f"{name}/{day.isoformat()}.jsonl line {refusal.line}", "rule": refusal.rule,
             "reason": refusal.reason, "seen_at": now}
            for refusal in refused])


def _clear(db: Database[Document], name: str, which: Document) -> None:
    """Delete what stands; a look costs less than a delete that waits for the disk to write nothing."""
    if db[name].find_one(which, {"_id": 1}) is not None:
        db[name].delete_many(which)


def _parse(line: bytes) -> Document:
    if len(line) > MAX_LINE:
        raise RefusedError("size", f"the line is longer than {MAX_LINE:,} bytes: split the record")
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise RefusedError("utf8", "the line is not UTF-8: write it as UTF-8") from None
    except (ValueError, RecursionError):
        raise RefusedError("json", "the line is not JSON: write one object per line") from None
    if not isinstance(value, dict):
        raise RefusedError("json", "the line is not an object: write one object per line")
    return value


def _session(raw: Document, day: dt.date, now: dt.datetime) -> Document:
    _only(raw, {"id", "customer", "merchant", "device", "location", "referrer", "started_at", "ended_at", "events"})
    device, location = _object(raw, "device"), _object(raw, "location")
    _only(device, {"type", "os", "browser"})
    _only(location, {"country"})
    started, ended = _instant(raw, "started_at"), _instant(raw, "ended_at")
    _on(day, started, "started_at")
    if ended < started:
        raise RefusedError("order", "ended_at lies before started_at: swap or mend them")
    document = {
        "_id": raw.get("id"), "day": day.isoformat(), "customer": raw.get("customer"), "merchant": raw.get("merchant"),
        "device": {name: device.get(name) for name in ("type", "os", "browser")},
        "location": {"country": location.get("country")}, "referrer": raw.get("referrer"),
        "started_at": started, "ended_at": ended,
        "events": [_event(event) for event in _list(raw, "events")],
        # From the load, not from the visit: a past day loaded today must not be swept at once.
        "expires_at": now + dt.timedelta(days=SESSION_RETENTION_DAYS),
    }
    return _without_cards(document)


def _event(raw: object) -> Document:
    if not isinstance(raw, dict):
        raise RefusedError("type", "an event is not an object: give at, type and page")
    _only(raw, {"at", "type", "page", "item"})
    return {"at": _instant(raw, "at"), **{name: raw.get(name) for name in ("type", "page", "item")}}


def _feedback(raw: Document, day: dt.date, _now: dt.datetime) -> Document:
    _only(raw, {"id", "customer", "merchant", "charge", "rating", "channel", "kind", "language", "text", "created"})
    created = _instant(raw, "created")
    _on(day, created, "created")
    if isinstance(raw.get("rating"), bool):
        raise RefusedError("type", "rating is not a whole number from 1 to 5")
    document = {
        "_id": raw.get("id"), "day": day.isoformat(), "created": created,
        **{name: raw.get(name) for name in ("customer", "merchant", "charge", "rating", "channel", "language", "text")},
        "kind": raw.get("kind", "review"),
    }
    return _without_cards(document)


MAKERS: dict[str, Callable[[Document, dt.date, dt.datetime], Document]] = {
    "sessions": _session, "customer_feedback": _feedback,
}


def _without_cards(document: Document) -> Document:
    """Refuse a card number in any text of the record, and any text the store could not hold."""
    if not isinstance(document["_id"], str) or not document["_id"]:
        raise RefusedError("id", "the record has no id: give every record its own")
    for text in _texts(document):
        if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise RefusedError("text", "a text holds a NUL or half a character: write clean UTF-8")
        if holds_card_number(text):
            raise RefusedError("card_number", "a text holds a card number: card data has no place here, remove it")
    return document


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []


def _only(raw: Document, allowed: set[str]) -> None:
    if not set(raw) <= allowed:
        raise RefusedError("unexpected_field", "the record has a field that the collection does not declare: remove it")


def _object(raw: Document, name: str) -> Document:
    if not isinstance(raw.get(name), dict):
        raise RefusedError("type", f"{name} is not an object")
    return raw[name]


def _list(raw: Document, name: str) -> list[Any]:
    if not isinstance(raw.get(name), list):
        raise RefusedError("type", f"{name} is not a list")
    return raw[name]


def _instant(raw: Document, name: str) -> dt.datetime:
    """An ISO instant; without a zone it is UTC."""
    try:
        instant = dt.datetime.fromisoformat(raw[name])
    except (KeyError, TypeError, ValueError):
        raise RefusedError("type", f"{name} is missing or not an ISO instant") from None
    return instant.astimezone(dt.UTC) if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _on(day: dt.date, instant: dt.datetime, name: str) -> None:
    if instant.date() != day:
        raise RefusedError("day", f"{name} does not lie on the file's day: move the record to its own day's file")
