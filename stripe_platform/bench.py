"""What every `stripe-platform bench` has in common: ours and a peer in alternating rounds, medians, ratios, bars."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Report:
    """Figures with all their measurements, ratios (above 1: ours is faster) and the bars they are held against."""

    name: str
    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    bars: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, figure: str, value: float, unit: str) -> None:
        """One more measurement of a figure."""
        self.values.setdefault(_key(figure), []).append(value)
        self.units[_key(figure)] = unit

    def median(self, figure: str) -> float:
        return statistics.median(self.values[_key(figure)])

    def ratio(self, name: str, value: float) -> float:
        """Keep a speed ratio and return it."""
        self.ratios[_key(name)] = round(value, 3)
        return value

    def bar(self, name: str, value: float, goal: float, *, at_most: bool = False) -> None:
        """Hold a value against its goal: at least, or at most."""
        met = value <= goal if at_most else value >= goal
        self.bars[_key(name)] = {"value": round(value, 3), "goal": goal, "met": met}

    def as_json(self) -> dict[str, Any]:
        """The object behind `--json`."""
        figures = {
            name: {"median": _number(statistics.median(values)), "min": _number(min(values)),
                   "max": _number(max(values)), "unit": self.units[name]}
            for name, values in self.values.items()
        }  # fmt: skip
        return {"bench": self.name, "machine": machine() | self.notes, "figures": figures, "ratios": self.ratios,
                "bars": self.bars}  # fmt: skip

    def rows(self) -> list[dict[str, object]]:
        """The figures as rows of a table."""
        return [{"figure": name, **{key: round(f[key], 3) for key in ("median", "min", "max")}, "unit": f["unit"]}
                for name, f in self.as_json()["figures"].items()]  # fmt: skip


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it was."""
    model = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "processor": model[0] if model else platform.processor(), "cores": os.cpu_count(),
        "memory_gb": round(memory[0] / 2**20) if memory else None, "system": platform.platform(terse=True),
        "load_1_minute": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _key(name: str) -> str:
    if "." in name:
        raise ValueError(f"a figure's name holds no dot: {name}")
    return name


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(value, 4)


def peak_mb() -> float:
    """Most memory that this process has held since its program began, in MB.

    Not `ru_maxrss`: that begins with what the parent held, so that every child of a large one took the same.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
