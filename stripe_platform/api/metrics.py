"""Counters of the front in Prometheus text. Several workers on one port add up through small files."""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
HELP = {
    "api_requests_total": ("counter", "Requests by method, route and status"),
    "api_request_seconds": ("histogram", "Time to answer by route"),
    "lookup_total": ("counter", "Reference look-ups by cache and result"),
    "lookup_hit_ratio": ("gauge", "Share of look-ups answered from the cache"),
    "webhook_deliveries_total": ("counter", "Attempts to deliver an event by result"),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters of this process; `folder` holds those of its siblings."""

    def __init__(self, folder: Path | None = None) -> None:
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._lock = threading.Lock()
        self._folder = folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount

    def set(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] = value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """One observation of a histogram."""
        key = tuple(sorted(labels.items()))
        bound = BUCKETS[place] if (place := bisect_left(BUCKETS, seconds)) < len(BUCKETS) else "+Inf"
        with self._lock:
            self._counts[f"{name}_bucket", (*key, ("le", str(bound)))] += 1
            self._counts[f"{name}_sum", key] += seconds
            self._counts[f"{name}_count", key] += 1

    def save(self) -> None:
        """Leave this process's counters where its siblings find them."""
        if self._folder is None:
            return
        with self._lock:
            rows = [[name, list(labels), value] for (name, labels), value in self._counts.items()]
        path = self._folder / f"{os.getpid()}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(rows))
        temporary.replace(path)

    def text(self) -> str:
        """Everything counted by this process and its siblings."""
        self.save()
        total: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        for rows in self._all():
            for name, labels, value in rows:
                total[name, tuple((str(k), str(v)) for k, v in labels)] += value
        for (family, series), value in list(total.items()):
            if family == "lookup_total" and ("result", "hit") in series:
                cache = tuple(pair for pair in series if pair[0] != "result")
                missed = total.get((family, tuple(sorted((*cache, ("result", "miss"))))), 0)
                total["lookup_hit_ratio", cache] = value / (value + missed) if value + missed else 0
        return _exposition(total)

    def _all(self) -> list[list[tuple[str, list[tuple[str, str]], float]]]:
        if self._folder is None:
            with self._lock:
                return [[(name, list(pairs), value) for (name, pairs), value in self._counts.items()]]
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("*.json"))]


def _exposition(total: dict[tuple[str, Labels], float]) -> str:
    lines: list[str] = []
    for family, (kind, meaning) in HELP.items():
        lines += [f"# HELP {family} {meaning}", f"# TYPE {family} {kind}"]
        if kind != "histogram":
            lines += [_line(name, labels, value) for (name, labels), value in sorted(total.items()) if name == family]
            continue
        series: defaultdict[Labels, dict[str, float]] = defaultdict(dict)
        for (name, labels), value in total.items():
            if name == f"{family}_bucket":
                rest = tuple(pair for pair in labels if pair[0] != "le")
                series[rest][dict(labels)["le"]] = value
        for route, found in sorted(series.items()):
            running = 0.0
            for bound in [*map(str, BUCKETS), "+Inf"]:
                running += found.get(bound, 0)
                lines.append(_line(f"{family}_bucket", (*route, ("le", bound)), running))
            for part in ("sum", "count"):
                lines.append(_line(f"{family}_{part}", route, total[f"{family}_{part}", route]))
    return "\n".join(lines) + "\n"


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{k}="{v}"' for k, v in labels)
    return f"{name}{{{inner}}} {value:.10g}"
