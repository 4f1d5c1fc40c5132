"""Files that other systems would drop for us: clickstream sessions and customer feedback, one JSONL file per day.

They name payers and merchants by token only. A file appears under its name when it is complete.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable
from pathlib import Path
from threading import get_ident

import numpy as np

from stripe_platform.oltp.ids import day_us, seeded, uuid7_ids
from stripe_platform.simulation import names
from stripe_platform.simulation.days import Days

SESSION_SHARE, FEEDBACK_SHARE = 1 / 9.6, 1 / 96  # of the day's charges
_DEVICES = (("desktop", "Windows", "Edge"), ("desktop", "macOS", "Safari"), ("desktop", "Linux", "Firefox"),
            ("mobile", "Android", "Chrome"), ("mobile", "iOS", "Safari"), ("tablet", "iPadOS", "Safari"))  # fmt: skip
_PAGES = ("/", "/catalogue", "/product", "/cart", "/checkout", "/receipt")
_CHANNELS = ("app", "email", "web")


def land(days: Days, day: dt.date, folder: Path) -> dict[str, int]:
    """Write the day's two files; records by collection. Repeating it writes the same bytes."""
    return {
        "sessions": _write(folder / "sessions" / f"{day}.jsonl", _sessions(days, day)),
        "customer_feedback": _write(folder / "customer_feedback" / f"{day}.jsonl", _feedback(days, day)),
    }


def landed(day: dt.date, folder: Path) -> bool:
    """Whether both files of the day stand; a file under its name is always complete."""
    return all((folder / kind / f"{day}.jsonl").exists() for kind in ("sessions", "customer_feedback"))


def _sessions(days: Days, day: dt.date) -> Iterable[dict[str, object]]:
    world, made = days.world, days.made(day)
    rng = seeded(days.options.seed, "sessions", day.isoformat())
    n = round(len(made.ids) * SESSION_SHARE)
    started = day_us(day) + np.sort((rng.random(n) * 80_000_000_000).astype(np.int64))
    ids = uuid7_ids("ses", started, rng)
    payers, merchants = rng.integers(0, world.customers, n), rng.integers(0, len(world.cell_ids), n)
    devices, clicks, known = rng.integers(0, len(_DEVICES), n), rng.integers(1, 9, n), rng.random(n) < 0.8
    for i in range(n):
        kind, system, browser = _DEVICES[devices[i]]
        at = started[i] + np.cumsum(rng.integers(500_000, 90_000_000, clicks[i])) - 500_000
        events = [{"at": _iso(t), "type": "view" if step % 3 else "open", "page": _PAGES[min(step, 5)]}
                  for step, t in enumerate(at)]  # fmt: skip
        yield {
            "id": ids[i], "customer": world.customer_tokens[payers[i]] if known[i] else None,
            "merchant": world.account_tokens[merchants[i]],
            "device": {"type": kind, "os": system, "browser": browser},
            "location": {"country": str(world.customer_country[payers[i]])},
            "started_at": _iso(started[i]), "ended_at": events[-1]["at"], "events": events,
        }  # fmt: skip


def _feedback(days: Days, day: dt.date) -> Iterable[dict[str, object]]:
    world, made = days.world, days.made(day)
    rng = seeded(days.options.seed, "feedback", day.isoformat())
    n = min(len(made.ids), round(len(made.ids) * FEEDBACK_SHARE))
    rows = np.sort(rng.choice(len(made.ids), n, replace=False))
    latest = day_us(day) + 86_399_000_000
    created = np.minimum(made.created_us[rows] + rng.integers(60_000_000, 7_200_000_000, n), latest)
    ids = uuid7_ids("fb", created, rng)
    ratings = rng.choice(5, n, p=(0.08, 0.10, 0.17, 0.30, 0.35)) + 1
    picks, channels = rng.random(n), rng.integers(0, len(_CHANNELS), n)
    for i, row in enumerate(rows):
        account = world.terminal_account[made.charges.terminal[row]]
        yield {
            "id": ids[i], "customer": world.customer_tokens[made.charges.customer[row]],
            "merchant": world.account_tokens[account], "charge": made.ids[row].as_py(), "rating": int(ratings[i]),
            "channel": _CHANNELS[channels[i]], "text": names.text(int(ratings[i]), float(picks[i])),
            "created": _iso(created[i]),
        }  # fmt: skip


def _iso(us: int) -> str:
    seconds, micro = divmod(int(us), 1_000_000)
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds, milliseconds=micro // 1000)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(file: Path, records: Iterable[dict[str, object]]) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{get_ident()}")
    count = 0
    with partial.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
            count += 1
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
    return count
