"""How the change log does, as a picture: lag, log kept, what is put aside, changes by day, how far tables are proven.

Every materialization of `cdc/batches` adds a sample to `cdc/health.json`; the picture shows the newest of them. A
sample lost to a kill or to two writers is a missing dot, so the file is replaced without waiting for the disk.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resources.lake import Lake
from stripe_platform import pictures
from stripe_platform.cdc.manifest import Chain, canonical
from stripe_platform.cdc.pgoutput import lsn_int
from stripe_platform.cdc.proof import verified

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEALTH = "cdc/health.json"
KEPT = 500  # samples: a week at one every twenty minutes
DOTS = 100  # that are drawn
NAMED = 12  # tables that are named, the least proven first
DAYS = 42  # ledger days that are drawn


@dataclass(frozen=True)
class Sample:
    """One look. Seconds and bytes behind the source, bytes of log it keeps for us, changes a second while reading;
    `kept_as_text`: values so far that no typed column holds. `raw_put_aside`, `documents_put_aside`: keys that a store
    refuses now, None where it did not answer or the sample is older than the count.
    """

    at: str
    seconds_behind: float
    unacknowledged_bytes: int
    kept_bytes: int
    changes_per_second: float
    kept_as_text: int
    raw_put_aside: int | None = None
    documents_put_aside: int | None = None


def samples(lake: Lake) -> list[Sample]:
    """The samples that are kept, oldest first; a torn file is none."""
    if lake.size(HEALTH) is None:
        return []
    try:
        return [Sample(**each) for each in json.loads(lake.read(HEALTH))]
    except (ValueError, TypeError):
        return []


def add(lake: Lake, sample: Sample) -> list[Sample]:
    """Keep one more sample; those that are kept now."""
    found = [*samples(lake), sample][-KEPT:]
    lake.put(HEALTH, canonical([dataclasses.asdict(each) for each in found]), durable=False)
    return found


def changes_by_day(chain: Chain, first_day: dt.date) -> dict[dt.date, int]:
    """Changes of the newest ledger days, the open one last."""
    found: dict[dt.date, int] = {}
    for manifest, day in zip(chain.manifests, chain.days, strict=True):
        day = day or chain.open_day(first_day)
        found[day] = found.get(day, 0) + manifest.changes
    return dict(list(found.items())[-DAYS:])


def unproven(lake: Lake, chain: Chain, tables: Sequence[str]) -> dict[str, int | None]:
    """By table the bytes of log behind its last proof, None where it differs or was never compared; worst first."""
    known, end = verified(lake), chain.manifests[-1].to_lsn if chain.manifests else 0
    behind = {table: _behind(known.get(table, {}), end) for table in tables}
    return dict(sorted(behind.items(), key=lambda item: (item[1] is not None, -(item[1] or 0), item[0])))


def _behind(facts: Mapping[str, Any], end: int) -> int | None:
    if "verified_through" not in facts or "differs_at" in facts:
        return None
    return max(0, end - lsn_int(facts["verified_through"]))


def picture(seen: Sequence[Sample], by_day: Mapping[dt.date, int], proofs: Mapping[str, int | None]) -> bytes:
    """PNG of five panels."""
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 5.6), dpi=72)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.08, top=0.94, wspace=0.2, hspace=0.36)
    grid = figure.add_gridspec(2, 6)
    lag, log, apart = (figure.add_subplot(grid[0, n:n + 2]) for n in (0, 2, 4))
    days, tables = figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 4:])
    seen = seen[::-max(1, len(seen) // DOTS)][::-1]
    times = [date2num(dt.datetime.fromisoformat(each.at)) for each in seen]
    _lines(lag, times, {"seconds behind": [s.seconds_behind for s in seen]}, "lag")
    _lines(log, times, {"not acknowledged": [s.unacknowledged_bytes / 2**20 for s in seen],
                        "kept by the server": [s.kept_bytes / 2**20 for s in seen]}, "log in MB")
    _lines(apart, times, {"kept as text": [s.kept_as_text for s in seen],
                          "raw": [_drawn(s.raw_put_aside) for s in seen],
                          "documents": [_drawn(s.documents_put_aside) for s in seen]},
           "put aside now by raw, by documents; values kept as text")
    rate = max((s.changes_per_second for s in seen), default=0.0)
    days.bar(range(len(by_day)), list(by_day.values()), color=pictures.ACCENT)
    shown = list(by_day)
    ticks = range(0, len(shown), max(1, len(shown) // 5))
    days.set_xticks(list(ticks), [shown[n].strftime("%m-%d") for n in ticks], fontsize=7)
    days.tick_params(labelsize=7)
    days.set_title(f"changes by ledger day (read at up to {rate:,.0f} a second)", fontsize=9)
    _proofs(tables, proofs)
    return pictures.drawn(figure)


def _drawn(count: int | None) -> float:
    """A gap where nothing was counted."""
    return math.nan if count is None else count


def _lines(axes: Axes, times: Sequence[float], lines: Mapping[str, Sequence[float]], title: str) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for (name, values), colour in zip(lines.items(), (pictures.ACCENT, pictures.ALARM, pictures.INK), strict=False):
        axes.plot(times, values, marker="o", markersize=3, linewidth=1, color=colour, label=name)
    axes.xaxis_date()
    axes.xaxis.set_major_locator(locator := AutoDateLocator(minticks=3, maxticks=8))  # no range between two units
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)


def _proofs(axes: Axes, proofs: Mapping[str, int | None]) -> None:
    """Bars of what lies behind the proof; a table that differs or was never compared has a full red one."""
    worst = list(proofs.items())[:NAMED]
    longest = max([behind or 0 for _, behind in worst] + [2**20]) / 2**20
    axes.barh([name for name, _ in worst], [longest if behind is None else behind / 2**20 for _, behind in worst],
              color=[pictures.ALARM if behind is None else pictures.CALM for _, behind in worst])
    axes.invert_yaxis()
    axes.set_xlim(0, longest)
    proven = sum(behind is not None for behind in proofs.values())
    axes.set_title(f"{proven} of {len(proofs)} tables proven equal; MB of log since", fontsize=9)
    axes.tick_params(labelsize=6)
