"""A simulation of four weeks as tests look at it: every row and every change by table."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import Any

from stripe_platform.simulation.days import Days
from stripe_platform.simulation.world import Options

FIRST = dt.date(2026, 6, 1)
LIFE = Options(per_day=600, seed=4)


def calendar(options: Options) -> list[dt.date]:
    return [options.first_day + dt.timedelta(days=i) for i in range(options.days + options.dispute_lag_days)]


def make(options: Options = LIFE) -> Days:
    return Days(options, frozenset(calendar(options)[: options.days]))


class Life:
    """All days of a simulation: `rows` and `changes` by table, and the landed files' makers in `days`."""

    def __init__(self, options: Options = LIFE) -> None:
        self.days = make(options)
        self.rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.changes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for day in calendar(options):
            made = self.days.rows(day)
            for part in (made.tables, made.later):
                for name, rows in part.items():
                    self.rows[name] += rows.to_pylist()
            for name, rows in made.updates.items():
                self.changes[name] += rows.to_pylist()

    def statuses(self, table: str) -> set[str]:
        """Every status that rows of a table have or get."""
        return {row["status"] for row in self.rows[table] + self.changes[table] if row.get("status")}
