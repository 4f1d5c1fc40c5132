"""Arguments for one dbt invocation, from a run's days: pure functions, tested without dbt."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence


def window_vars(days: Sequence[dt.date]) -> dict[str, str]:
    """`ledger_from`, `ledger_to` (ISO days, both included) of a run's days; raises `ValueError` for none or a gap."""
    if not days:
        raise ValueError("a dbt run over daily partitions needs at least one day")
    first, last = min(days), max(days)
    if len(set(days)) != (last - first).days + 1:
        raise ValueError(f"days {first} to {last} have a gap: dbt takes one window, run the parts one after the other")
    return {"ledger_from": first.isoformat(), "ledger_to": last.isoformat()}


def build_args(days: Sequence[dt.date] | None, *, full_refresh: bool = False) -> list[str]:
    """Arguments of `dbt build`. `days=None` is for models without partitions.

    A full refresh drops the window: with it, only the window's days would remain. Unit tests judge code, not data:
    they run in the test suite, not in every run.
    """
    args = ["build", "--no-write-json", "--exclude-resource-type", "unit_test"]
    if full_refresh:
        return [*args, "--full-refresh"]
    return args if days is None else [*args, "--vars", json.dumps(window_vars(days), sort_keys=True)]
