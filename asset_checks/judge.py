"""What a check is, and its three outcomes: passed, failed, not evaluated (which counts as a failure)."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import dagster as dg

from asset_checks import rules as rule_book
from asset_checks.rules import Rule
from asset_checks.stores import Stores
from stripe_platform.warehouse.certify import WHOLE as WHOLE

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["passed", "failed", "not_evaluated"]
Profile = Callable[[Stores, Sequence[dt.date]], "pd.DataFrame"]
Together = Callable[[Stores, Sequence[str]], "pd.DataFrame"]
PARTITION, ROWS = "partition", "rows_scanned"


@dataclass(frozen=True)
class Check:
    """A check: one asset, a profile of counts per partition, and rules over it.

    `floors` is the least work each partition must show, column -> minimum: below it the check could not evaluate.
    A day that may be empty by nature leaves `rows_scanned` out and names another witness (files, columns read).
    `together`: profiles many small tables at once, one row per table; such checks share a step.
    """

    asset: dg.AssetKey
    name: str
    description: str
    profile: Profile
    rules: tuple[Rule, ...]
    floors: Mapping[str, int] = field(default_factory=lambda: {ROWS: 1})
    blocking: bool = True
    partitioned: bool = True
    together: Together | None = None

    def __post_init__(self) -> None:
        label = f"{self.asset.to_user_string()}:{self.name}"
        if not self.rules:
            raise ValueError(f"check {label} has no rule")
        if not any(least > 0 for least in self.floors.values()):
            raise ValueError(f"check {label} passes on an empty store: give it a floor above 0")
        if len({rule.name for rule in self.rules}) != len(self.rules):
            raise ValueError(f"check {label} has two rules of one name")

    @property
    def columns(self) -> list[str]:
        """Counts the profile must give for every partition."""
        return list(dict.fromkeys([ROWS, *self.floors, *(c for rule in self.rules for c in rule.columns)]))


@dataclass(frozen=True)
class Verdict:
    """Outcome for one partition; `reasons` are names of rules or kinds of errors, never values."""

    partition: str
    outcome: Outcome
    rows_scanned: int
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def judge_together(checks: Sequence[Check], stores: Stores) -> list[Verdict]:
    """One verdict per check, in order, from one profile: all of them are of one kind, each of another table."""
    first, tables = checks[0], [check.asset.path[-1] for check in checks]
    together = first.together
    if together is None or any(check.together is not together for check in checks):
        raise ValueError(f"check {first.name} of {tables} is not judged together")
    found = judge(dataclasses.replace(first, profile=lambda s, _days: together(s, tables)), stores, tables)
    return [dataclasses.replace(verdict, partition=WHOLE) for verdict in found]


def judge(check: Check, stores: Stores, partitions: Sequence[str]) -> list[Verdict]:
    """One verdict per partition, in the order given; for an asset without days give `[WHOLE]`."""
    days = [dt.date.fromisoformat(key) for key in partitions] if check.partitioned else []
    try:
        frame = check.profile(stores, days)
    except Exception as error:  # any failure to look is the third outcome; its text may hold values
        return [Verdict(key, "not_evaluated", 0, (f"profile raised {_kind(error)}",)) for key in partitions]
    missing = [column for column in [PARTITION, *check.columns] if column not in frame.columns]
    if missing:
        reason = f"profile lacks {', '.join(missing)}"
        return [Verdict(key, "not_evaluated", 0, (reason,)) for key in partitions]
    frame = frame.assign(**{PARTITION: frame[PARTITION].map(str)})
    found = {key: _before_judging(check, frame[frame[PARTITION] == key], key) for key in partitions}
    open_keys = [key for key, verdict in found.items() if verdict is None]
    if open_keys:
        judged = frame[frame[PARTITION].isin(open_keys)]
        all_hold = rule_book.all_hold(judged, check.rules, critical=check.blocking)
        for key in open_keys:
            rows = judged[judged[PARTITION] == key]
            # The range is judged in one call; days one by one only to name those that broke it.
            alone = dict.fromkeys((rule.name for rule in check.rules), True) if all_hold else rule_book.verdicts(
                rows, check.rules, critical=check.blocking)
            found[key] = _verdict(key, int(rows[ROWS].iloc[0]), alone)
    return [verdict for verdict in found.values() if verdict is not None]


def _before_judging(check: Check, rows: pd.DataFrame, key: str) -> Verdict | None:
    """The third outcome where there is too little to judge; None where the rules may speak."""
    if len(rows) != 1:
        return Verdict(key, "not_evaluated", 0, (f"profile has {len(rows)} rows for this partition",))
    row = rows.iloc[0]
    empty = [column for column in check.columns if row[column] is None or row[column] != row[column]]
    if empty:
        return Verdict(key, "not_evaluated", 0, (f"profile is null in {', '.join(empty)}",))
    low = [column for column, least in check.floors.items() if row[column] < least]
    if low:
        reasons = tuple(f"{column} below its floor of {check.floors[column]}" for column in low)
        return Verdict(key, "not_evaluated", int(row[ROWS]), reasons)
    return None


def _verdict(key: str, rows: int, results: Mapping[str, bool | None]) -> Verdict:
    errored = tuple(f"{name} could not be evaluated" for name, held in results.items() if held is None)
    broken = tuple(name for name, held in results.items() if held is False)
    if broken:
        return Verdict(key, "failed", rows, broken + errored)
    return Verdict(key, "not_evaluated" if errored else "passed", rows, errored)


def _kind(error: Exception) -> str:
    state = getattr(error, "sqlstate", None) or getattr(error, "code", None)
    return f"{type(error).__name__}{f' {state}' if isinstance(state, str | int) else ''}"
