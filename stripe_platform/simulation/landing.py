"""Files that other systems would drop for us, one per kind and day. A file under its name is always complete.

* `sessions/<day>.jsonl`: clickstream of the shops' pages; `customer_feedback/<day>.jsonl`: reviews and survey answers.
  The document store takes these two in. They name payers and merchants by token only.
* `logs/<day>.jsonl`: access and error lines of the API front.
* `bank_statements/<day>.xml`: ISO 20022 camt.053.001.08, one statement per bank account of the platform.
* `dispute_evidence/<day>/`: receipts (PDF) and images (PNG) answered with, and `dispute_evidence/<day>.json` that
  names each with its SHA-256.

Feedback and logs hold planted leaks: see `disguises`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from threading import get_ident

from stripe_platform.simulation import clickstream, evidence, feedback, logs, statements
from stripe_platform.simulation.days import Days

OF_BUSINESS = {"sessions": clickstream.sessions, "customer_feedback": feedback.feedback, "logs": logs.lines}
_FILES = {**dict.fromkeys(OF_BUSINESS, ".jsonl"), "bank_statements": ".xml", "dispute_evidence": ".json"}


def land(days: Days, day: dt.date, folder: Path) -> dict[str, int]:
    """Write the day's files; records by kind. Repeating it writes the same bytes."""
    counts = {}
    if day in days.business:
        for kind, make in OF_BUSINESS.items():
            lines = [json.dumps(record, separators=(",", ":")) for record in make(days, day)]
            put(_file(folder, kind, day), "".join(line + "\n" for line in lines).encode())
            counts[kind] = len(lines)
    found = statements.statements(days, day)
    put(_file(folder, "bank_statements", day), statements.camt053(found, day))
    counts["bank_statements"] = sum(len(each.entries) for each in found)
    manifest = _file(folder, "dispute_evidence", day)
    files = evidence.files(days, day)
    for each in files:
        put(manifest.with_suffix("") / each.name, each.content)
    put(manifest, evidence.manifest(files, day))
    counts["dispute_evidence"] = len(files)
    return counts


def landed(day: dt.date, folder: Path, *, business: bool) -> bool:
    """Whether all files of the day stand; the manifest of the evidence is the last one written."""
    return all(_file(folder, kind, day).exists() for kind in _FILES if business or kind not in OF_BUSINESS)


def _file(folder: Path, kind: str, day: dt.date) -> Path:
    return folder / kind / f"{day}{_FILES[kind]}"


def put(file: Path, content: bytes) -> None:
    """Write a file that appears under its name when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{get_ident()}")
    with partial.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)

